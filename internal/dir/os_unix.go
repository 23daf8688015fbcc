//go:build unix

package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openSafely refuses symbolic links, since a planted one could have the store write elsewhere, and does
// not wait for the other end of a FIFO.
const openSafely = unix.O_NOFOLLOW | unix.O_NONBLOCK

// IsNoSpace reports whether err means a full disk, or a limit that amounts to one.
func IsNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) ||
		errors.Is(err, unix.ENOMEM)
}

// SyncPath makes the names in the directory at path durable.
func SyncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Lock locks the file at path, which it makes, until Unlock: against everybody, or with readOnly against
// those that are not read-only. flock conflicts between two openers in one process too, and ends with the
// process. The file is never removed: another opener would lock a new one of the same name.
//
// Its error is a [*LockedError] when somebody else holds the lock.
func Lock(path string, readOnly bool) (*os.File, error) {
	flags, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if readOnly {
		flags, how = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := openRegular(path, flags)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &LockedError{Path: path, Holder: lockHolder(f)}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Unlock releases the lock of f, and closes f. It does not leave the release to the closing: a child
// process made in between may have a copy of the descriptor, which would keep the lock.
func Unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}
