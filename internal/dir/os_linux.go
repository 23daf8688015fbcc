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

// statOf identifies an open file. A file that was copied, restored or unpacked has another time of birth than the
// one it was made from, which nothing can set; numbers of inodes are used again and not the same on every
// mount, and serve where there is no such time. A mount's number is believed where no other one ever has it
// (Linux 6.8), together with the device, which tells snapshots within a mount.
func statOf(f *os.File) (Stat, error) {
	const mask = unix.STATX_BTIME | unix.STATX_INO | unix.STATX_NLINK | unix.STATX_MNT_ID_UNIQUE
	var st unix.Statx_t
	err := uninterrupted(func() error { return unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, mask, &st) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // an old kernel, or a container that filters calls
		return inodeOf(f)
	}
	if err != nil {
		return Stat{}, err
	}
	s := Stat{ID: idOfInode(st.Ino), Links: uint64(st.Nlink)}
	if st.Mask&unix.STATX_BTIME != 0 && st.Btime.Sec > 0 {
		s.ID = (uint64(st.Btime.Sec)*1e9+uint64(st.Btime.Nsec))<<1 | 1
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		s.Mount = st.Mnt_id ^ uint64(st.Dev_major)<<52 ^ uint64(st.Dev_minor)<<32
	}
	return s, nil
}

// AvailableSpace returns how many bytes the file system of path still takes from this process; known is
// false where it does not say.
func AvailableSpace(path string) (bytes int64, known bool) {
	return availableSpace(func(st *unix.Statfs_t) error { return unix.Statfs(path, st) })
}

// Available is the method of [FS].
func (d *OS) Available() (bytes int64, known bool) {
	return availableSpace(func(st *unix.Statfs_t) error { return unix.Fstatfs(int(d.dir.Fd()), st) })
}

func availableSpace(statfs func(*unix.Statfs_t) error) (bytes int64, known bool) {
	var st unix.Statfs_t
	if uninterrupted(func() error { return statfs(&st) }) != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true //nolint:unconvert // of another type on 32-bit systems
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

// isCoherent reports whether writes to files of f, a directory, and mappings of the files show each other at once. They
// do where both are the same pages, which file systems of this machine have from the kernel; those of others (FUSE, 9p,
// NFS) may write past the pages that are mapped, and of those that are not here nobody has looked.
func isCoherent(f *os.File) bool {
	var st unix.Statfs_t
	if uninterrupted(func() error { return unix.Fstatfs(int(f.Fd()), &st) }) != nil {
		return false
	}
	switch uint32(st.Type) { //nolint:gosec // of another type on other machines; the numbers have 32 bits
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// duplicate returns another descriptor of f, or noDescriptor.
func duplicate(f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return noDescriptor
	}
	return fd
}

// closeDescriptor has no error: what was written is in the page cache, and flushes report what becomes of it.
func closeDescriptor(fd int) { _ = unix.Close(fd) }

// pwritev is replaced by tests.
var pwritev = unix.Pwritev

// writeAt writes first and then to fd, as much as one call does. A sandbox that filters calls may know those alone that
// package os makes: pwritev is not among them.
func writeAt(fd, offset int, first, then []byte) (n int, err error) {
	err = uninterrupted(func() error {
		if len(then) > 0 {
			n, err = pwritev(fd, [][]byte{first, then}, int64(offset))
		}
		if len(then) == 0 || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			n, err = unix.Pwrite(fd, first, int64(offset))
		}
		return err
	})
	return max(0, n), err
}

// beginSync has the kernel begin to write the pages of a range that are dirty, as it would by itself some time later.
// An error of the device stays with the file until an msync or fsync asks for it: sync_file_range would take it away
// only if it were told to wait. What it says itself is of the beginning, and where it is not allowed there is none.
func beginSync(fd, from, to int) error {
	err := uninterrupted(func() error {
		return unix.SyncFileRange(fd, int64(from), int64(to-from), unix.SYNC_FILE_RANGE_WRITE)
	})
	if errors.Is(err, unix.EIO) || IsNoSpace(err) {
		return err
	}
	return nil
}
