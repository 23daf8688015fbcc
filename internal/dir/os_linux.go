//go:build linux

package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserveSpace gives f size bytes of file space. fallocate is interrupted often, by the signals the
// runtime preempts goroutines with; where a file system does not know it, zeros are written.
func reserveSpace(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return writeZeros(f, size)
		}
		return err
	}
}
