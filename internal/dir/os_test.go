//go:build unix

package dir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// marker is the file of a directory that is complete.
const marker = "MARKER"

const lockName = "LOCK"

func at(t *testing.T, path string) *OS {
	t.Helper()
	d, err := At(path)
	require.NoError(t, err)
	return d
}

// The lock is that of the directory, whatever happens to the file and to the path, and of the file.
func TestLock_IsOfTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.Mkdir(path, Mode))
	refused := func(path string, readOnly bool) {
		t.Helper()
		d := at(t, path)
		var held *LockedError
		require.ErrorAs(t, d.Lock(lockName, readOnly), &held)
		require.Equal(t, path, held.Path)
		require.NoError(t, d.Close())
	}
	for _, reader := range []bool{false, true} {
		d := at(t, path)
		require.NoError(t, d.Lock(lockName, reader))
		refused(path, false)
		require.NoError(t, os.Remove(filepath.Join(path, lockName)))
		refused(path, false)
		require.NoFileExists(t, filepath.Join(path, lockName))
		require.NoError(t, os.WriteFile(filepath.Join(path, lockName), nil, 0o600))
		refused(path, false)
		moved := path + " moved"
		require.NoError(t, os.Rename(path, moved))
		refused(moved, false)
		link := path + " link"
		require.NoError(t, os.Symlink(moved, link))
		refused(link, false)
		if !reader {
			refused(link, true)
		}
		require.NoError(t, os.Remove(link))
		require.NoError(t, d.Close())
		require.NoError(t, os.Rename(moved, path))
	}

	// Somebody who holds the file alone, by way of another machine.
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDONLY, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_SH))
	refused(path, false)
	require.NoError(t, f.Close())
}

// A process that is being forked, which holds a copy of every descriptor until it executes another program, does
// not hold the lock.
func TestLock_FreedWithCopiedDescriptors(t *testing.T) {
	path := t.TempDir()
	d := at(t, path)
	require.NoError(t, d.Lock(lockName, false))
	for _, f := range []*os.File{d.dir, d.lock} {
		copied, err := syscall.Dup(int(f.Fd()))
		require.NoError(t, err)
		defer func() { _ = syscall.Close(copied) }()
	}
	require.NoError(t, d.Close())
	d = at(t, path)
	require.NoError(t, d.Lock(lockName, false))
	require.NoError(t, d.Close())
}

// Every call reaches the directory that was opened, not what its path leads to.
func TestOS_FollowsTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.Mkdir(path, Mode))
	d := at(t, path)
	mapped, err := d.Create("before", vm.PageSize)
	require.NoError(t, err)
	moved := path + " moved"
	require.NoError(t, os.Rename(path, moved))
	require.NoError(t, os.Mkdir(path, Mode)) // somebody else's

	other, err := d.Create("other", vm.PageSize)
	require.NoError(t, err)
	require.NoError(t, other.Rename("renamed"))
	require.NoError(t, errors.Join(mapped.Sync(1, vm.PageSize), other.Sync(1, vm.PageSize), other.Close(), mapped.Close()))
	require.NoError(t, d.WriteFile("a", []byte("content")))
	require.NoError(t, d.SyncFile("a"))
	require.NoError(t, d.Rename("a", "b"))
	require.NoError(t, d.Remove("before"))
	require.NoError(t, d.Sync())
	b, err := d.ReadFile("b")
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
	f, err := d.Open("renamed", true)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	for range 2 {
		names, err := d.Names()
		require.NoError(t, err)
		require.Equal(t, []string{"b", "renamed"}, names)
	}
	require.NoError(t, d.Present())
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	require.Empty(t, entries)

	require.NoError(t, os.RemoveAll(moved))
	require.ErrorIs(t, d.Present(), fs.ErrNotExist)
	require.ErrorContains(t, d.Present(), path+" was removed")
	_, err = d.Create("late", vm.PageSize)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, d.Close())
}

// A file that was cut short is an error that says so, though the system's own flush reports none; a renamed
// one is still found.
func TestFile_CutShort(t *testing.T) {
	path := t.TempDir()
	d := at(t, path)
	defer func() { require.NoError(t, d.Close()) }()
	f, err := d.Create("a", 3*vm.PageSize)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	require.NoError(t, f.Rename("b"))
	require.NoError(t, f.Sync(1, 3*vm.PageSize))
	if vm.OnHeap {
		return // the mapping is a copy, and Sync makes the file long again
	}
	require.NoError(t, os.Truncate(filepath.Join(path, "b"), int64(vm.PageSize)))
	var short *CutShortError
	require.ErrorAs(t, f.Sync(vm.PageSize, 3*vm.PageSize), &short)
	require.Equal(t, CutShortError{Size: int64(vm.PageSize), Mapped: 3 * vm.PageSize}, *short)
	require.NoError(t, os.Remove(filepath.Join(path, "b")))
	require.ErrorIs(t, f.Sync(vm.PageSize, 3*vm.PageSize), fs.ErrNotExist)
}

// Each directory that Prepare makes survives a power loss: its name is synced before there is anything in it.
func TestPrepare_MakesDirectoriesDurably(t *testing.T) {
	base := t.TempDir()
	a := filepath.Join(base, "a")
	b, c := filepath.Join(a, "b"), filepath.Join(a, "b", "c")
	var synced []string
	require.NoError(t, Prepare(c, marker, false, func(dir string) error {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		if dir == filepath.Dir(base) { // base may be new as well
			return syscall.EINVAL
		}
		require.Len(t, entries, 1)
		below, err := os.ReadDir(filepath.Join(dir, entries[0].Name()))
		require.NoError(t, err)
		require.Empty(t, below)
		synced = append(synced, dir)
		return nil
	}))
	require.Equal(t, []string{base, a, b}, synced)

	// An Open that was killed may have got no further than making it.
	synced = nil
	again := func(dir string) error { synced = append(synced, dir); return nil }
	require.NoError(t, Prepare(c, marker, false, again))
	require.Equal(t, []string{b}, synced)
	failed := errors.New("cannot be synced")
	require.ErrorIs(t, Prepare(c, marker, false, func(string) error { return failed }), failed)
	for _, err := range []error{os.ErrPermission, syscall.EINVAL, syscall.ENOTSUP, syscall.EROFS} {
		require.NoError(t, Prepare(c, marker, false, func(string) error { return err }), "made by another")
	}
	require.NoError(t, Prepare(c, marker, true, func(string) error { return failed }), "reads only")
	require.NoError(t, os.WriteFile(filepath.Join(c, marker), nil, 0o600))
	require.NoError(t, Prepare(c, marker, false, func(string) error { return failed }), "a store is there")
	require.ErrorIs(t, Prepare(filepath.Join(base, "d"), marker, true, SyncPath), os.ErrNotExist)

	// It may have been killed between making a directory above and syncing its name.
	d := filepath.Join(base, "d")
	require.NoError(t, os.Mkdir(d, Mode))
	synced = nil
	require.NoError(t, Prepare(filepath.Join(d, "e", "f"), marker, false, again))
	require.Equal(t, []string{base, d, filepath.Join(d, "e")}, synced)
}
