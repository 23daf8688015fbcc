//go:build !unix

package warmtier

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const openSafely = 0

// isNoSpace knows ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.Errno(39)) || errors.Is(err, syscall.Errno(112))
}

// syncDirectory does nothing: directories cannot be synced here, and their changes are journaled.
func syncDirectory(string) error { return nil }

// lockDirectory keeps other stores out of dir as long as the file is open: without a portable flock,
// a directory store needs Unix here.
func lockDirectory(path string, _ bool) (*os.File, error) {
	return nil, fmt.Errorf("warmtier: lock %s: directory stores on this system: %w", path, errors.ErrUnsupported)
}

func unlockDirectory(f *os.File) error { return f.Close() }
