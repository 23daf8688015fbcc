//go:build unix

package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

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
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// uninterrupted calls fn until no signal has interrupted it: the runtime preempts goroutines with signals.
func uninterrupted(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (d *OS) fd() int { return int(d.dir.Fd()) }

// openAt opens a file, which it makes where flag says so.
func (d *OS) openAt(name string, flag int) (*os.File, error) {
	var fd int
	err := uninterrupted(func() (err error) {
		fd, err = unix.Openat(d.fd(), name, flag|openSafely|unix.O_CLOEXEC, fileMode)
		return err
	})
	if err != nil {
		return nil, d.failed("open", name, err)
	}
	return os.NewFile(uintptr(fd), d.pathOf(name)), nil
}

// Rename is the method of [FS].
func (d *OS) Rename(from, to string) error {
	err := uninterrupted(func() error { return unix.Renameat(d.fd(), from, d.fd(), to) })
	if err != nil {
		return &os.LinkError{Op: "rename", Old: d.pathOf(from), New: d.pathOf(to), Err: err}
	}
	return nil
}

// Link is the method of [FS]. Between two file systems its error is EXDEV.
func (d *OS) Link(name string, to FS) error {
	other, ok := to.(*OS)
	if !ok {
		return d.failed("link", name, errors.ErrUnsupported)
	}
	err := uninterrupted(func() error { return unix.Linkat(d.fd(), name, other.fd(), name, 0) })
	if err != nil {
		return &os.LinkError{Op: "link", Old: d.pathOf(name), New: other.pathOf(name), Err: err}
	}
	return nil
}

// Remove is the method of [FS].
func (d *OS) Remove(name string) error {
	return d.failed("remove", name, uninterrupted(func() error { return unix.Unlinkat(d.fd(), name, 0) }))
}

func (d *OS) sizeOf(name string) (int64, error) {
	var st unix.Stat_t
	err := uninterrupted(func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st.Size, d.failed("stat", name, err)
}

// inodeOf identifies a file by the number of its inode.
func inodeOf(f *os.File) (Stat, error) {
	var st unix.Stat_t
	err := uninterrupted(func() error { return unix.Fstat(int(f.Fd()), &st) })
	return Stat{ID: idOfInode(uint64(st.Ino)), Links: uint64(st.Nlink)}, err //nolint:unconvert // shorter elsewhere
}

// idOfInode returns an id that is not a time of birth.
func idOfInode(number uint64) uint64 { return number << 1 }

func (d *OS) syncNames() error { return d.dir.Sync() }

// Present is the method of [FS]. A directory that was removed has no links, also where nothing else counts them.
func (d *OS) Present() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return d.failed("stat", "", err)
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%s was removed: %w", d.path, fs.ErrNotExist)
	}
	return nil
}

// Lock locks the directory until Close: against everybody, or with readOnly against those that are not
// read-only. flock conflicts between two openers in one process too, and ends with the process. Its error is a
// [*LockedError] when somebody else holds the lock.
//
// The lock is that of the directory itself: whatever happens to files and paths, the directory has one. The
// file of this name is made and locked as well, since network file systems keep the lock of a directory to one
// machine, and says which process writes. A reader does without the file where there is none, or none
// that it may open.
func (d *OS) Lock(name string, readOnly bool) (err error) {
	flags, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if readOnly {
		flags, how = os.O_RDONLY, unix.LOCK_SH
	}
	if err := d.flock(d.dir, how, name); err != nil {
		return err
	}
	f, err := d.openRegular(name, flags)
	if readOnly && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil
	}
	if err != nil {
		return err
	}
	d.lock = f
	err = d.flock(f, how, name)
	if err == nil && !readOnly {
		_, err = f.WriteAt(fmt.Appendf(nil, "%-19d\n", os.Getpid()), 0)
	}
	return err
}

// flock locks f, the directory or the file of this name in it.
func (d *OS) flock(f *os.File, how int, name string) error {
	err := uninterrupted(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return &LockedError{Path: d.path, Holder: lockHolder(f, d.writerNoted(name))}
	}
	return d.failed("lock", "", err)
}

// writerNoted returns what the lock file says of the last process that wrote.
func (d *OS) writerNoted(name string) string {
	f, err := d.openRegular(name, os.O_RDONLY)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // it was only read
	noted := make([]byte, 20)
	n, _ := f.ReadAt(noted, 0)
	return strings.TrimSpace(string(noted[:n]))
}

// unlock releases the locks. It does not leave the release to the closing: a child process made in
// between may have copies of the descriptors, which would keep the lock. The directory, which openers lock
// first, comes last: otherwise one could get it and find the file locked.
func (d *OS) unlock() (err error) {
	if d.lock != nil {
		err = errors.Join(unix.Flock(int(d.lock.Fd()), unix.LOCK_UN), d.lock.Close())
	}
	return errors.Join(err, unix.Flock(d.fd(), unix.LOCK_UN))
}
