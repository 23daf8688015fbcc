//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"
)

// lockShared keeps stores that write out of dir, as a read-only store does: a repair copies the
// files of a store that cannot be opened.
func lockShared(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		_ = f.Close() // it was only read
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, whoHolds(dir)
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil // which ends the lock
}
