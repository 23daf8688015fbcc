package warmtier

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

/*
A directory store sees its directory through fileSystem, so that tests can stand in a model that
loses what was not synced. Everything that makes bytes durable is a call of this interface: nothing
else in the package syncs, renames or removes.
*/

// fileSystem is one directory.
type fileSystem interface {
	// names lists the files of the directory.
	names() ([]string, error)
	// create makes a file of size bytes whose space is reserved, and maps it. Without space it
	// returns ErrNoSpace and leaves nothing behind.
	create(name string, size int) (mappedFile, error)
	// open maps an existing file; writable says whether the mapping may be written to.
	open(name string, writable bool) (mappedFile, error)
	readFile(name string) ([]byte, error)
	// writeFile writes a new or emptied file, without a sync; syncFile does that.
	writeFile(name string, data []byte) error
	syncFile(name string) error
	rename(from, to string) error
	remove(name string) error
	// syncDir makes creations, renames and removals durable.
	syncDir() error
}

// mappedFile is a file mapped as a whole.
type mappedFile interface {
	bytes() []byte
	// sync makes the bytes from from to to durable. After one that failed, here or in a process
	// before, it may leave out what the failed one should have written.
	sync(from, to int) error
	// rewrite writes the bytes from from to to anew, as they are: the next sync leaves none out.
	rewrite(from, to int)
	// rename gives the file another name in its directory, in place of a file of that name.
	rename(to string) error
	// close unmaps. Bytes that were not synced stay in the operating system's cache.
	close() error
}

const (
	directoryMode = 0o700
	fileMode      = 0o600
)

// osFileSystem is a real directory.
type osFileSystem struct {
	dir string
}

func (d *osFileSystem) path(name string) string { return filepath.Join(d.dir, name) }

func (d *osFileSystem) names() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d *osFileSystem) create(name string, size int) (_ mappedFile, err error) {
	f, err := os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL|openSafely, fileMode)
	if err != nil {
		return nil, noSpace(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(noSpace(err), f.Close(), os.Remove(d.path(name)))
		}
	}()
	// Space first, mapping second: a store to a page without a block is a SIGBUS on a full disk.
	if err := reserveSpace(f, int64(size)); err != nil {
		return nil, fmt.Errorf("cannot reserve %d bytes for %s: %w", size, name, err)
	}
	return mapFile(f, size, true)
}

// openRegular opens what is a file and nothing else.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|openSafely, fileMode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file: %s", path, info.Mode())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// noSpace makes a full disk, or a limit that amounts to one, ErrNoSpace.
func noSpace(err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

func (d *osFileSystem) open(name string, writable bool) (mappedFile, error) {
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
	}
	f, err := openRegular(d.path(name), flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if size := info.Size(); size == 0 || int64(int(size)) != size {
		// Nothing that could be mapped; the caller finds no header.
		return emptyFile{}, f.Close()
	}
	m, err := mapFile(f, int(info.Size()), writable)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return m, nil
}

// maxManifestSize bounds what is read into memory as a whole.
const maxManifestSize = 1 << 30 // bytes

// emptyFile stands for a file that is too short, or too long, to be one of ours.
type emptyFile struct{}

func (emptyFile) bytes() []byte       { return nil }
func (emptyFile) sync(int, int) error { return nil }
func (emptyFile) rewrite(int, int)    {}
func (emptyFile) rename(string) error { return nil }
func (emptyFile) close() error        { return nil }

func (d *osFileSystem) readFile(name string) ([]byte, error) {
	f, err := openRegular(d.path(name), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(f, maxManifestSize))
}

func (d *osFileSystem) writeFile(name string, data []byte) error {
	f, err := openRegular(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return noSpace(err)
	}
	_, err = f.Write(data)
	return noSpace(errors.Join(err, f.Close()))
}

func (d *osFileSystem) syncFile(name string) error {
	f, err := openRegular(d.path(name), os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *osFileSystem) rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d *osFileSystem) remove(name string) error     { return os.Remove(d.path(name)) }
func (d *osFileSystem) syncDir() error               { return syncDirectory(d.dir) }

// prepareDirectory makes dir, an absolute path, when it is missing, and refuses what is no directory. sync
// makes the names in a directory durable. As long as dir has no store, an Open that was killed may have made
// it and not synced its name.
func prepareDirectory(dir string, readOnly bool, sync func(dir string) error) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && !readOnly {
		return makeDirectory(dir, sync)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", dir)
	}
	if _, err := os.Lstat(filepath.Join(dir, manifestName)); readOnly || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return syncAbove(dir, sync)
}

// makeDirectory makes dir, an absolute path, and what is missing above it. Every new name must survive, or
// the store is gone with it: it is synced before there is anything below it. The first directory that is
// there already may be the last one that an Open made before it was killed.
func makeDirectory(dir string, sync func(dir string) error) error {
	err := os.Mkdir(dir, directoryMode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(filepath.Dir(dir), sync); err != nil {
			return err
		}
		err = os.Mkdir(dir, directoryMode)
	} else if err == nil {
		err = syncAbove(filepath.Dir(dir), sync)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process may be faster
		return err
	}
	return sync(filepath.Dir(dir))
}

// syncAbove makes the name of dir, which was there already, durable. Where the directory above cannot be
// opened or synced, it is taken for made by somebody else: the roots of file systems are like that.
func syncAbove(dir string, sync func(dir string) error) error {
	err := sync(filepath.Dir(dir))
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
