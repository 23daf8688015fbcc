//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
What the program writes for a user: a regular file is replaced as a whole or not at all, by whatever links it
is named; everything else is written to and stays what it is.
*/

// exported makes a store and returns its directory and what export writes of it, which is the same each time.
func exported(t *testing.T) (store, export string) {
	t.Helper()
	store = filepath.Join(t.TempDir(), "store")
	fill(t, store, map[string]string{"a": "content of a"})
	return store, command(t, "", "export", "--format", "jsonl", "-d", store).exits(exitOK).out
}

func mode(t *testing.T, name string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(name)
	require.NoError(t, err)
	return info.Mode()
}

func readBack(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(b)
}

func TestOutput_FailedLeavesWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	require.NoError(t, os.WriteFile(old, []byte("precious"), 0o600))
	for _, name := range []string{old, filepath.Join(dir, "new")} {
		err := writeOutput(t.Context(), name, func(w io.Writer) error {
			_, err := w.Write(make([]byte, 3<<20))
			return errors.Join(err, os.ErrDeadlineExceeded)
		})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.Equal(t, "precious", readBack(t, old))
	require.Len(t, listOf(t, dir), 1)
}

func TestOutput_RegularFileKeepsModeAndOwner(t *testing.T) {
	store, want := exported(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	command(t, "", "export", "--format", "jsonl", "-d", store, "-o", file).exits(exitOK)
	require.Equal(t, fs.FileMode(0o600), mode(t, file), "new")
	owner := os.Getuid()
	for _, perm := range []fs.FileMode{0o640, 0o666, 0o200} {
		require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("old", 1000)), 0o600))
		require.NoError(t, os.Chmod(file, perm))
		if os.Getuid() == 0 {
			owner = 4711
			require.NoError(t, os.Chown(file, owner, 4712))
		}
		before, err := os.Stat(file)
		require.NoError(t, err)
		command(t, "", "export", "--format", "jsonl", "-d", store, "-o", file).exits(exitOK)
		after, err := os.Stat(file)
		require.NoError(t, err)
		require.False(t, os.SameFile(before, after), "replaced as a whole")
		require.Equal(t, perm, after.Mode())
		require.EqualValues(t, owner, after.Sys().(*syscall.Stat_t).Uid)
		require.NoError(t, os.Chmod(file, 0o600))
		require.Equal(t, want, readBack(t, file))
	}
	command(t, "", "get", "-d", store, "a", "-o", file).exits(exitOK)
	require.Equal(t, "content of a", readBack(t, file))
	require.Len(t, listOf(t, dir), 1)
}

func TestOutput_WriteProtectedFileIsNotReplaced(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write to every file")
	}
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("protected"), 0o400))
	err := writeOutput(t.Context(), file, func(io.Writer) error { return nil })
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Equal(t, "protected", readBack(t, file))
}

func TestOutput_LinksAreFollowed(t *testing.T) {
	store, want := exported(t)
	type links map[string]string // by name, and what they say
	for _, c := range []struct {
		name, target string
		there        bool
		links        links
	}{
		{"to a file", "target", true, links{"link": "target"}},
		{"dangling", "target", false, links{"link": "target"}},
		{"into another directory", "other/target", true, links{"link": "other/target"}},
		{"dangling, into another directory", "other/target", false, links{"link": "other/target"}},
		{"to a link that is relative to its own directory", "target", true,
			links{"link": "other/next", "other/next": "../target"}},
		{"by way of a directory that is a link", "deep/target", true, links{"way": "deep/er", "link": "way/../target"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"other", "deep/er"} {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
			}
			target := filepath.Join(dir, c.target)
			if c.there {
				require.NoError(t, os.WriteFile(target, []byte("old"), 0o640))
			}
			for name, to := range c.links {
				require.NoError(t, os.Symlink(to, filepath.Join(dir, name)))
			}
			command(t, "", "export", "--format", "jsonl", "-d", store, "-o", filepath.Join(dir, "link")).exits(exitOK)
			for name := range c.links {
				require.Equal(t, fs.ModeSymlink, mode(t, filepath.Join(dir, name)).Type(), name)
			}
			require.True(t, mode(t, target).IsRegular())
			require.Equal(t, want, readBack(t, target))
			require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
				require.NotEqual(t, ".part", filepath.Ext(path))
				return nil
			}))
		})
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("link", link))
	_, err := resolveLinks(link)
	require.ErrorIs(t, err, syscall.ELOOP)
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink("nowhere/target", link))
	require.ErrorIs(t, writeOutput(t.Context(), link, nil), fs.ErrNotExist)
	for _, name := range []string{dir, filepath.Join(dir, "new") + "/"} {
		require.ErrorIs(t, writeOutput(t.Context(), name, nil), syscall.EISDIR)
	}
}

func TestOutput_FIFO(t *testing.T) {
	store, want := exported(t)
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	require.NoError(t, os.Symlink("fifo", link))
	for _, name := range []string{fifo, link} {
		got := make(chan string)
		go func() {
			b, _ := os.ReadFile(fifo)
			got <- string(b)
		}()
		command(t, "", "export", "--format", "jsonl", "-d", store, "-o", name).exits(exitOK)
		require.Equal(t, want, <-got)
		require.Equal(t, fs.ModeNamedPipe, mode(t, fifo).Type())
	}
	require.Len(t, listOf(t, dir), 2)
}

// Nobody reads from the FIFO, or nobody reads on: who interrupts the program is heard.
func TestOutput_InterruptedAtFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := writeOutput(ctx, fifo, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, "open "+fifo+": context canceled", errorText(aboutFile(fifo, err)))

	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	opened := make(chan *os.File, 1)
	go func() {
		f, _ := os.Open(fifo)
		opened <- f
	}()
	err = writeOutput(ctx, fifo, func(w io.Writer) error {
		cancel()
		_, err := w.Write(make([]byte, 4<<20)) // more than a pipe holds
		return err
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, (<-opened).Close())
}

func TestOutput_Device(t *testing.T) {
	store, _ := exported(t)
	dir := t.TempDir()
	null := filepath.Join(dir, "null")
	const nullDevice = 1<<8 | 3 // as Linux numbers them; the node is this test's own
	if err := syscall.Mknod(null, syscall.S_IFCHR|0o666, nullDevice); err != nil {
		t.Skip("mknod needs root: ", err)
	}
	if f, err := os.OpenFile(null, os.O_WRONLY, 0); err != nil {
		t.Skip("devices are not to be used here: ", err)
	} else {
		require.NoError(t, f.Close())
	}
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink("null", link))
	before := mode(t, null)
	require.Equal(t, fs.ModeDevice|fs.ModeCharDevice, before.Type())
	for _, name := range []string{null, link} {
		command(t, "", "export", "--format", "jsonl", "-d", store, "-o", name).exits(exitOK)
		command(t, "", "get", "-d", store, "a", "-o", name).exits(exitOK)
		require.Equal(t, before, mode(t, null))
	}
	require.Len(t, listOf(t, dir), 2)
}

// A link to /proc/self/fd is what /dev/stdout and /dev/fd/3 are.
func TestOutput_Descriptors(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd/1"); err != nil {
		t.Skip("no /proc/self/fd: ", err)
	}
	store, want := exported(t)
	dir := t.TempDir()
	stdout, third := filepath.Join(dir, "stdout"), filepath.Join(dir, "third")
	require.NoError(t, os.Symlink("/proc/self/fd/1", stdout))
	require.NoError(t, os.Symlink("/proc/self/fd/3", third))
	for _, name := range []string{stdout, "/proc/self/fd/1"} {
		export := command(t, "", "export", "--format", "jsonl", "-d", store, "-o", name).exits(exitOK)
		require.Equal(t, want, export.out, "and nothing else")
		require.Equal(t, "content of a", command(t, "", "get", "-d", store, "a", "-o", name).exits(exitOK).out)
	}

	// Standard output is a file, of which the export is one part.
	file := filepath.Join(dir, "file")
	out, err := os.Create(file)
	require.NoError(t, err)
	_, err = out.WriteString("first ")
	require.NoError(t, err)
	export := exec.Command(program, "export", "--format", "jsonl", "-d", store, "-o", stdout)
	export.Stdout = out
	require.NoError(t, export.Run())
	_, err = out.WriteString(" last")
	require.NoError(t, errors.Join(err, out.Close()))
	require.Equal(t, "first "+want+" last", readBack(t, file))

	// The file behind a descriptor may have no name any more.
	out, err = os.Create(file)
	require.NoError(t, err)
	_, err = out.WriteString(strings.Repeat("old", 1000))
	require.NoError(t, errors.Join(err, os.Remove(file)))
	export = exec.Command(program, "export", "--format", "jsonl", "-d", store, "-o", third)
	export.ExtraFiles = []*os.File{out}
	require.NoError(t, export.Run())
	_, err = out.Seek(0, io.SeekStart)
	require.NoError(t, err)
	got, err := io.ReadAll(out)
	require.NoError(t, errors.Join(err, out.Close()))
	require.Equal(t, want, string(got))
	require.Equal(t, []string{"stdout", "third"}, listOf(t, dir))
}
