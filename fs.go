package warmtier

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"time"
)

// FS returns the memories as a read-only file system: one directory with a file for each memory, so that
// http.FileServerFS, fs.WalkDir and text/template can read them. It may be used while others write, and
// after Close, when its errors are [ErrClosed].
//
// The name of a file is url.PathEscape of the id, except that the ids "." and ".." are "%2E" and
// "%2E%2E": each id, whatever bytes it has, has one valid name, and no other name leads to it. In a URL
// the name is escaped once more: the id "a/b" is served at "/a%252Fb".
//
// Open copies the content, which counts as a Get: a file reads what was stored at that moment.
// Reading the directory holds and sorts all names, some 100 bytes for each memory. Files have mode
// 0444, no modification time and no version. Files that are opened one after the other may be of before and after a
// batch.
func (s *Store) FS() fs.FS { return fileSystemView{s} }

// fileSystemView implements fs.FS, fs.StatFS, fs.ReadFileFS and fs.ReadDirFS.
type fileSystemView struct{ s *Store }

const rootName = "."

// fileNameOf returns the name of the file with the memory of id.
func fileNameOf(id string) string {
	if id == "." || id == ".." {
		return strings.ReplaceAll(id, ".", "%2E")
	}
	return url.PathEscape(id)
}

// idOfFile returns the id of the memory in the file of this name.
func idOfFile(op, name string) (id string, err error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	id, err = url.PathUnescape(name)
	if err != nil || fileNameOf(id) != name {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return id, nil
}

// pathError returns err as an error of file systems.
func pathError(op, name string, err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalidID) {
		err = fs.ErrNotExist
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// Open opens a file, or "." for the directory.
func (v fileSystemView) Open(name string) (fs.File, error) {
	if name == rootName {
		return &directoryReader{view: v}, nil
	}
	content, err := v.read("open", name)
	if err != nil {
		return nil, err
	}
	return &fileReader{info: fileInfo{name: name, size: int64(len(content))}, content: bytes.NewReader(content)}, nil
}

// ReadFile returns the content of a file, a copy.
func (v fileSystemView) ReadFile(name string) ([]byte, error) { return v.read("readfile", name) }

func (v fileSystemView) read(op, name string) ([]byte, error) {
	id, err := idOfFile(op, name)
	if err != nil {
		return nil, err
	}
	content, err := v.s.Get(id)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	return content, nil
}

// Stat returns the size of a file.
func (v fileSystemView) Stat(name string) (fs.FileInfo, error) {
	if name == rootName {
		return fileInfo{name: rootName, directory: true}, nil
	}
	id, err := idOfFile("stat", name)
	if err != nil {
		return nil, err
	}
	info := fileInfo{name: name}
	err = v.s.View(id, func(content []byte) error {
		info.size = int64(len(content))
		return nil
	})
	if err != nil {
		return nil, pathError("stat", name, err)
	}
	return info, nil
}

// ReadDir returns all files, in the order of their names.
func (v fileSystemView) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != rootName {
		_, err := v.Stat(name)
		if err == nil {
			err = &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
		}
		return nil, err
	}
	var list []fs.DirEntry
	for id, content := range v.s.All() {
		list = append(list, fs.FileInfoToDirEntry(fileInfo{name: fileNameOf(id), size: int64(len(content))}))
	}
	if v.s.lifetime.Err() != nil { // it may have ended the iteration
		return nil, pathError("readdir", name, ErrClosed)
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// fileInfo describes a file, or the directory.
type fileInfo struct {
	name      string
	size      int64
	directory bool
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.directory }
func (i fileInfo) Sys() any           { return nil }
func (i fileInfo) Mode() fs.FileMode {
	if i.directory {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// fileReader is a file being read. Like files of other file systems it is for one goroutine.
type fileReader struct {
	info    fileInfo
	content *bytes.Reader // nil when closed
}

func (f *fileReader) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *fileReader) Read(b []byte) (int, error) {
	if f.content == nil {
		return 0, f.closed("read")
	}
	return f.content.Read(b)
}

// Seek implements io.Seeker, which HTTP needs for ranges.
func (f *fileReader) Seek(offset int64, whence int) (int64, error) {
	if f.content == nil {
		return 0, f.closed("seek")
	}
	return f.content.Seek(offset, whence)
}

// ReadAt implements io.ReaderAt.
func (f *fileReader) ReadAt(b []byte, offset int64) (int, error) {
	if f.content == nil {
		return 0, f.closed("read")
	}
	return f.content.ReadAt(b, offset)
}

func (f *fileReader) Close() error {
	if f.content == nil {
		return f.closed("close")
	}
	f.content = nil
	return nil
}

func (f *fileReader) closed(op string) error {
	return &fs.PathError{Op: op, Path: f.info.name, Err: fs.ErrClosed}
}

// directoryReader is the directory being read: a list, made by the first ReadDir.
type directoryReader struct {
	view   fileSystemView
	listed bool
	rest   []fs.DirEntry
}

func (d *directoryReader) Stat() (fs.FileInfo, error) { return d.view.Stat(rootName) }
func (d *directoryReader) Close() error               { return nil }

func (d *directoryReader) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: rootName, Err: errors.New("is a directory")}
}

// ReadDir implements fs.ReadDirFile.
func (d *directoryReader) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.listed {
		list, err := d.view.ReadDir(rootName)
		if err != nil {
			return nil, err
		}
		d.listed, d.rest = true, list
	}
	if n > 0 && len(d.rest) == 0 {
		return nil, io.EOF
	}
	if n <= 0 {
		n = len(d.rest)
	}
	n = min(n, len(d.rest))
	list := d.rest[:n:n]
	d.rest = d.rest[n:]
	return list, nil
}
