//go:build !unix

package storetest_test

import "os"

// lockFile excludes nobody: what needs it is not run there.
func lockFile(path string) (*os.File, error) { return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) }
