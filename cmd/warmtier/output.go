package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// writeOutput writes what write writes to the file of a user. A new file, or a regular one in its place,
// appears under its name when it is whole, durably; what is there keeps its mode, and its owner where
// the system allows that. Symbolic links are followed, to a name that need not exist. A device, a FIFO, or a file
// of /proc, as /dev/stderr and /dev/fd/3 are, is written to and stays what it is.
func writeOutput(ctx context.Context, name string, write func(io.Writer) error) error {
	target, err := resolveLinks(name)
	if err != nil {
		return err
	}
	f, err := openNamed(ctx, target, os.O_WRONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return replaceFile(target, nil, write)
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && !inProc(target) {
		return errors.Join(f.Close(), replaceFile(target, info, write))
	}
	if err == nil && info.Mode().IsRegular() {
		err = f.Truncate(0)
	}
	if err == nil {
		err = writeInto(ctx, f, write)
	}
	return errors.Join(err, f.Close())
}

// checkOutside returns an error for a file among those of the store at dir: it could be one of them, MANIFEST say.
func checkOutside(dir, name string) error {
	target, err := resolveLinks(name)
	if err != nil {
		return err
	}
	parent, err := os.Stat(filepath.Dir(target))
	if err != nil {
		return err
	}
	store, err := os.Stat(dir)
	if err == nil && os.SameFile(parent, store) {
		return usage("%s is among the files of the store: choose another directory", showName(name))
	}
	return nil // of a store that is not there others say so
}

// resolveLinks returns the name that name leads to by symbolic links. It stops at a link in /proc, which
// leads to a file and not to the name that it shows.
func resolveLinks(name string) (string, error) {
	const maxLinks = 40 // as the kernel's
	for range maxLinks {
		dir, base := filepath.Split(name) // Dir would drop a/.. where a is a link
		if base == "" {
			return "", &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
		}
		dir, err := filepath.EvalSymlinks(cmp.Or(dir, "."))
		if err != nil {
			return "", err
		}
		resolved := filepath.Join(dir, base)
		info, err := os.Lstat(resolved)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (info.Mode()&fs.ModeSymlink == 0 || inProc(resolved)) {
			return resolved, nil
		}
		if err != nil {
			return "", err
		}
		next, err := os.Readlink(resolved)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(next) {
			next = dir + string(filepath.Separator) + next
		}
		name = next
	}
	return "", &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
}

// isStdout reports whether name is what the standard output goes to.
func isStdout(name string) bool {
	named, err := os.Stat(name)
	if err != nil {
		return false
	}
	out, err := os.Stdout.Stat()
	return err == nil && os.SameFile(named, out)
}

func inProc(name string) bool { return strings.HasPrefix(name, "/proc/") }

// openNamed opens what is there. A FIFO waits for its other end, and the wait ends with ctx: the open file is
// then left to the end of the process.
func openNamed(ctx context.Context, name string, flag int) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.OpenFile(name, flag, 0)
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-ctx.Done():
		return nil, &fs.PathError{Op: "open", Path: name, Err: ctx.Err()}
	}
}

// writeInto writes to a file that stays what it is. The end of ctx ends waiting for a reader.
func writeInto(ctx context.Context, f *os.File, write func(io.Writer) error) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) }) // not all files have one
	defer stop()
	w := bufio.NewWriterSize(f, outputBuffer)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return unlessUnsupported(f.Sync())
}

const outputBuffer = 1 << 20 // bytes

// replaceFile makes a file that appears under its name only when write has succeeded, in place of old, a
// regular file, unless that is nil.
func replaceFile(name string, old fs.FileInfo, write func(io.Writer) error) error {
	dir, base := filepath.Split(name)
	f, err := os.CreateTemp(dir, base[:min(len(base), 200)]+".*.part") // of mode 0600
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, outputBuffer)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil && old != nil {
		err = f.Chmod(keepOwner(f, old))
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDirectory(dir)
}

// syncDirectory makes the names in a directory durable, where the system has a way to do it and allows it:
// one may write to a directory without being allowed to read it.
func syncDirectory(dir string) error {
	f, err := os.Open(filepath.Clean(dir))
	if err == nil {
		err = errors.Join(unlessUnsupported(f.Sync()), f.Close())
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// unlessUnsupported returns err unless it says that there is nothing here that could be synced.
func unlessUnsupported(err error) error {
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
