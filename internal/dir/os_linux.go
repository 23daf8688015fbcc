//go:build linux

package dir

import (
	"errors"
	"fmt"
	"os"
	"strings"

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

// lockHolder returns the id of a process that holds a flock of f, "" when the kernel does not say. writer, the
// number in the lock file, says nothing by itself: readers write none, and a writer that ended left its
// own. It decides where the kernel's number of the device is not that of Stat, as on btrfs.
func lockHolder(f *os.File, writer string) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	// 1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF; a line with "->" is a process that waits.
	inode := fmt.Sprintf(":%d", st.Ino)
	file := fmt.Sprintf("%02x:%02x%s", unix.Major(st.Dev), unix.Minor(st.Dev), inode)
	for line := range strings.Lines(string(locks)) {
		field := strings.Fields(line)
		if len(field) < 6 || field[1] != "FLOCK" {
			continue
		}
		pid, locked := field[4], field[5]
		if (locked == file || strings.HasSuffix(locked, inode) && pid == writer) && processExists(pid) {
			return pid
		}
	}
	return ""
}

// processExists reports false for ids of other containers, which are 0 here, and for processes that
// have left their lock to a child.
func processExists(pid string) bool {
	_, err := os.Stat("/proc/" + pid)
	return err == nil
}

// syncDevice has nothing to add: msync waits for the device's cache too.
func (d *OS) syncDevice(string) error { return nil }
