//go:build !unix

package dir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const openSafely = 0

// IsNoSpace reports whether err means a full disk: it knows ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.Errno(39)) || errors.Is(err, syscall.Errno(112))
}

// SyncPath does nothing: directories cannot be synced here, and their changes are journaled.
func SyncPath(string) error { return nil }

// Lock returns [errors.ErrUnsupported]: without a portable flock a directory cannot be locked here.
func Lock(path string, _ bool) (*os.File, error) {
	return nil, fmt.Errorf("lock %s: directory stores on this system: %w", path, errors.ErrUnsupported)
}

// Unlock closes f.
func Unlock(f *os.File) error { return f.Close() }
