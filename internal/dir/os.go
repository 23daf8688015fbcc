package dir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/warmtier/warmtier/internal/vm"
)

// Modes of what is made here.
const (
	Mode     = 0o700
	fileMode = 0o600
)

// OS is a directory of the operating system. Every call is relative to its descriptor: it stays the same
// directory when it is moved, and when another one takes its path.
type OS struct {
	dir  *os.File
	path string // it was opened by; for messages
	// coherent says that what a write to a file here brings is in every mapping of the file, and the other way round.
	coherent bool
	kept     atomic.Int32 // descriptors for WriteAt
	lock     *os.File     // nil unless locked, and where a reader could not open it
}

// maxKept is how many descriptors for WriteAt are kept at once. What is written beyond it is stored: the process has
// use for its descriptors, and any number of callers may be writing files of their own.
const maxKept = 128

// At returns the directory at path, which is to be closed.
func At(path string) (*OS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &OS{dir: f, path: path, coherent: isCoherent(f)}, nil
}

// pathOf returns what a file of the directory is called in messages.
func (d *OS) pathOf(name string) string { return filepath.Join(d.path, name) }

func (d *OS) failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: d.pathOf(name), Err: err}
}

// Names is the method of [FS].
func (d *OS) Names() ([]string, error) {
	f, err := d.openAt(".", os.O_RDONLY) // d.dir would go on where the last one ended
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}

// Create is the method of [FS].
func (d *OS) Create(name string, size int) (_ File, err error) {
	f, err := d.openAt(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), d.Remove(name))
		}
	}()
	st, err := statOf(f)
	if err != nil {
		return nil, err
	}
	// Space first, mapping second: a store to a page without a block is a SIGBUS on a full disk.
	if err := reserveSpace(f, int64(size)); err != nil {
		return nil, fmt.Errorf("cannot reserve %d bytes for %s: %w", size, name, err)
	}
	out := d.keep(f) // the mapping does without f
	m, err := vm.MapFile(f, size, true)
	if err != nil {
		d.letGo(out)
		return nil, err // without m: a nil pointer would not be a nil File
	}
	return &mappedFile{m, d, name, st, out, out != noDescriptor || vm.OnHeap}, nil
}

// keep returns another descriptor of f, for WriteAt, or noDescriptor.
func (d *OS) keep(f *os.File) int {
	if !d.coherent {
		return noDescriptor
	}
	if d.kept.Add(1) <= maxKept {
		if out := duplicate(f); out != noDescriptor {
			return out
		}
	}
	d.kept.Add(-1)
	return noDescriptor
}

// letGo closes what keep has returned.
func (d *OS) letGo(out int) {
	if out != noDescriptor {
		closeDescriptor(out)
		d.kept.Add(-1)
	}
}

// openRegular opens a regular file, and refuses everything else.
func (d *OS) openRegular(name string, flag int) (*os.File, error) {
	f, err := d.openAt(name, flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %s", d.pathOf(name), info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Open is the method of [FS]. It refuses what is no regular file.
func (d *OS) Open(name string, writable bool) (File, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := d.openRegular(name, flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	st, err := statOf(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if size := info.Size(); size == 0 || int64(int(size)) != size {
		// Nothing that could be mapped; the caller finds no header.
		return Empty{}, f.Close()
	}
	m, err := vm.MapFile(f, int(info.Size()), writable)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &mappedFile{m, d, name, st, noDescriptor, false}, nil
}

// mappedFile is a mapped file and its name.
type mappedFile struct {
	*vm.Mapping
	d    *OS
	name string
	st   Stat

	out    int // the descriptor for WriteAt, noDescriptor when there is none
	writes bool
}

// noDescriptor is no descriptor.
const noDescriptor = -1

// PrepareEnds is the method of [File].
func (m *mappedFile) PrepareEnds() {
	if m.out != noDescriptor {
		m.Mapping.PrepareEnds()
	}
}

// Writes is the method of [File].
func (m *mappedFile) Writes() bool { return m.writes }

// WriteAt is the method of [File].
func (m *mappedFile) WriteAt(offset int, first, then []byte) error {
	for !vm.OnHeap {
		n, err := writeAt(m.out, offset, first, then)
		if errors.Is(err, syscall.EFBIG) {
			break // a limit of the process for system calls, and not for stores
		}
		if err == nil && n == 0 && len(first)+len(then) > 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return m.d.failed("write", m.name, err)
		}
		offset += n
		if n >= len(first) {
			n -= len(first)
			first, then = then, nil
		}
		if first = first[n:]; len(first)+len(then) == 0 {
			return nil
		}
	}
	copy(m.Bytes()[offset+copy(m.Bytes()[offset:], first):], then)
	return nil
}

// BeginSync is the method of [File].
func (m *mappedFile) BeginSync(from, to int) error {
	return m.d.failed("write", m.name, beginSync(m.out, from, to))
}

// EndWrites is the method of [File].
func (m *mappedFile) EndWrites() {
	m.d.letGo(m.out)
	m.out, m.writes = noDescriptor, false
}

// Close is the method of [File].
func (m *mappedFile) Close() error {
	m.EndWrites()
	return m.Mapping.Close()
}

// Stat is the method of [File].
func (m *mappedFile) Stat() Stat { return m.st }

// Rename is the method of [File].
func (m *mappedFile) Rename(to string) error {
	err := m.d.Rename(m.name, to)
	if err == nil {
		m.name = to
	}
	return err
}

// Sync is the method of [File].
func (m *mappedFile) Sync(head, tail int) error {
	if err := m.Mapping.Sync(head, tail); err != nil {
		return err
	}
	// msync of pages beyond the end of the file succeeds, and writes nothing.
	size, err := m.d.sizeOf(m.name)
	if IsLack(err) {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	if err != nil {
		return err
	}
	if mapped := len(m.Bytes()); size < int64(mapped) {
		return &CutShortError{Size: size, Mapped: mapped}
	}
	return m.d.syncDevice(m.name)
}

// maxRead bounds what is read into memory as a whole.
const maxRead = 1 << 30 // bytes

// ReadFile is the method of [FS].
func (d *OS) ReadFile(name string) ([]byte, error) {
	f, err := d.openRegular(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// WriteFile is the method of [FS].
func (d *OS) WriteFile(name string, data []byte) error {
	f, err := d.openRegular(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// StatFile is the method of [FS].
func (d *OS) StatFile(name string) (Stat, error) {
	f, err := d.openRegular(name, os.O_RDONLY)
	if err != nil {
		return Stat{}, err
	}
	defer func() { _ = f.Close() }() // it was only looked at
	st, err := statOf(f)
	return st, d.failed("stat", name, err)
}

// SyncFile is the method of [FS].
func (d *OS) SyncFile(name string) error {
	f, err := d.openRegular(name, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// Sync is the method of [FS].
func (d *OS) Sync() error { return d.failed("sync", "", d.syncNames()) }

// SyncName is the method of [FS].
func (d *OS) SyncName() error {
	return uncommon(func() error {
		f, err := d.openAt("..", os.O_RDONLY)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	}())
}

// Stat is the method of [FS].
func (d *OS) Stat() (Stat, error) {
	st, err := statOf(d.dir)
	return st, d.failed("stat", "", err)
}

// AtPath is the method of [FS]. Where nobody can tell, as for a process that may not look any more, nothing is said.
func (d *OS) AtPath() error {
	there, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s, by which it was opened, leads nowhere: the directory was moved", d.path)
	}
	here, failed := d.dir.Stat()
	if err == nil && failed == nil && !os.SameFile(here, there) {
		return fmt.Errorf("%s, by which it was opened, leads to another directory", d.path)
	}
	return nil
}

// Close releases the lock and the directory.
func (d *OS) Close() error { return errors.Join(d.unlock(), d.dir.Close()) }

// Prepare makes dir, an absolute path, when it is missing, and refuses what is no directory. sync makes
// the names in a directory durable. As long as dir lacks the file marker, which is written when the
// directory is complete, a process that was killed may have made it and not synced its name.
func Prepare(dir, marker string, readOnly bool, sync func(dir string) error) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && !readOnly {
		_, err = Make(dir, sync)
		return err
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", dir)
	}
	if _, err := os.Lstat(filepath.Join(dir, marker)); readOnly || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return syncAbove(dir, sync)
}

// Make makes dir, an absolute path, and what is missing above it. Every new name must survive, or
// everything below goes with it: it is synced before there is anything below it. The first directory that
// is there already may be the last one that a process made before it was killed. made are the paths of those that
// this call has made, the lowest first, after an error too.
func Make(dir string, sync func(dir string) error) (made []string, err error) {
	err = os.Mkdir(dir, Mode)
	first := err == nil
	if errors.Is(err, fs.ErrNotExist) {
		if made, err = Make(filepath.Dir(dir), sync); err != nil {
			return made, err
		}
		err = os.Mkdir(dir, Mode)
	}
	if err == nil {
		made = append([]string{dir}, made...)
	}
	if first {
		err = syncAbove(filepath.Dir(dir), sync)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may be faster
		return made, err
	}
	return made, sync(filepath.Dir(dir))
}

// syncAbove makes the name of dir, which was there already, durable. A directory above that cannot be
// opened or synced is taken to be made by somebody else: the roots of file systems are like that.
func syncAbove(dir string, sync func(dir string) error) error {
	return uncommon(sync(filepath.Dir(dir)))
}

// uncommon returns err, that of syncing a directory above the store's, unless it is one of those that say that
// this may not be done.
func uncommon(err error) error {
	for _, other := range []error{fs.ErrPermission, errors.ErrUnsupported, syscall.EINVAL, syscall.EROFS} {
		if errors.Is(err, other) {
			return nil
		}
	}
	return err
}

// writeZeros is how a file gets its space where nothing else gives it.
func writeZeros(f *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}
