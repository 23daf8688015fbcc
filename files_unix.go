//go:build unix

package warmtier

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// openSafely refuses symbolic links, since who can plant one could have the store write elsewhere, and
// does not wait for the other end of a FIFO.
const openSafely = unix.O_NOFOLLOW | unix.O_NONBLOCK

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) ||
		errors.Is(err, unix.ENOMEM)
}

func syncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lockDirectory keeps other stores out of dir until unlockDirectory; several read-only
// stores may share it. flock conflicts between two stores of one process too, and ends with the
// process. The file is never removed: another opener would lock a new one of the same name.
func lockDirectory(path string, readOnly bool) (*os.File, error) {
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
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		err = fmt.Errorf("%w: %s, held by process %s", ErrLocked, path, strings.TrimSpace(string(holder[:n])))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unlockDirectory does not leave it to the closing of f: a child process that was made meanwhile may
// have a copy of the descriptor, which would keep the lock.
func unlockDirectory(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}
