//go:build !linux

package warmtier

import "os"

func reserveSpace(f *os.File, size int64) error { return writeZeros(f, size) }
