//go:build !unix

package dir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// IsNoSpace reports whether err means a full disk: it knows ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.Errno(39)) || errors.Is(err, syscall.Errno(112))
}

// SyncPath does nothing: directories cannot be synced here, and their changes are journaled.
func SyncPath(string) error { return nil }

// Lock returns [errors.ErrUnsupported]: without a portable flock a directory cannot be locked here.
func (d *OS) Lock(string, bool) error {
	return fmt.Errorf("lock %s: directory stores on this system: %w", d.path, errors.ErrUnsupported)
}

func (d *OS) unlock() error { return nil }

// Present returns [errors.ErrUnsupported].
func (d *OS) Present() error { return errors.ErrUnsupported }

// Rename returns [errors.ErrUnsupported].
func (d *OS) Rename(string, string) error { return errors.ErrUnsupported }

// Link returns [errors.ErrUnsupported].
func (d *OS) Link(string, FS) error { return errors.ErrUnsupported }

// Remove returns [errors.ErrUnsupported].
func (d *OS) Remove(string) error { return errors.ErrUnsupported }

func (d *OS) openAt(string, int) (*os.File, error) { return nil, errors.ErrUnsupported }

func (d *OS) sizeOf(string) (int64, error) { return 0, errors.ErrUnsupported }

func inodeOf(*os.File) (Stat, error) { return Stat{}, nil }

func (d *OS) syncNames() error { return errors.ErrUnsupported }
