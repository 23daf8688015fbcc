//go:build unix

package warmtier

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
A store owns the directory that it opened, not the path: whatever happens to the path, there is one writer, it
goes on in the directory that it has, and it says so when there is none any more.
*/

func TestDirectory_SecondWriterWhereverThePathLeads(t *testing.T) {
	nothing := func(*testing.T, string) {}
	for _, c := range []struct {
		name   string
		before func(t *testing.T, path string) // path is made
		change func(t *testing.T, path string)
		second string // where another store is opened then, below the directory of path
		held   bool   // it is the same directory
		first  string // where the first store's directory is in the end
	}{
		{"LOCK removed", nothing, func(t *testing.T, path string) {
			require.NoError(t, os.Remove(filepath.Join(path, layout.LockName)))
		}, "data", true, "data"},
		{"LOCK removed and made again", nothing, func(t *testing.T, path string) {
			require.NoError(t, os.Remove(filepath.Join(path, layout.LockName)))
			require.NoError(t, os.WriteFile(filepath.Join(path, layout.LockName), nil, 0o600))
		}, "data", true, "data"},
		{"directory moved away, and opened there", nothing, func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+".old"))
		}, "data.old", true, "data.old"},
		{"directory moved away", nothing, func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+".old"))
		}, "data", false, "data.old"},
		{"directory moved away, and a copy put in its place", nothing, func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+".old"))
			require.NoError(t, os.Mkdir(path, 0o700))
			copyDir(t, path+".old", path)
		}, "data", false, "data.old"},
		{"link retargeted", func(t *testing.T, path string) {
			require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(path), "v1"), 0o700))
			require.NoError(t, os.Symlink("v1", path))
		}, func(t *testing.T, path string) {
			require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(path), "v2"), 0o700))
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink("v2", path))
		}, "data", false, "v1"},
		{"link retargeted to what it led to", func(t *testing.T, path string) {
			require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(path), "v1"), 0o700))
			require.NoError(t, os.Symlink("v1", path))
		}, func(t *testing.T, path string) {
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Symlink("./v1/.", path))
		}, "data", true, "v1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := fastDir(t)
			path := filepath.Join(base, "data")
			c.before(t, path)
			first := openDir(t, path, quietly())
			fill(t, first, 0, 200, 1000)
			require.NoError(t, first.Sync())
			c.change(t, path)

			second, err := Open(filepath.Join(base, c.second), quietly())
			if c.held {
				require.ErrorIs(t, err, ErrLocked)
			} else {
				require.NoError(t, err)
				fill(t, second, 1000, 1200, 1000)
				require.NoError(t, second.Sync())
				require.NoError(t, second.Close())
			}

			fill(t, first, 200, 600, 1000) // new segments too
			require.NoError(t, first.Sync())
			deleteWhere(t, first, 0, 600, odd)
			mustCompact(t, first) // files made, renamed and removed
			if path, err := filepath.EvalSymlinks(path); err != nil || path != filepath.Join(base, c.first) {
				report, err := first.Verify(t.Context())
				require.ErrorIs(t, err, ErrCorrupt)
				require.Len(t, report.Findings, 1, "that the path leads elsewhere")
				require.Equal(t, ".", report.Findings[0].File)
				require.Contains(t, report.Findings[0].Problem, "data, by which it was opened, leads ")
				require.NoError(t, first.Close())
			} else {
				closeIntact(t, first)
			}

			if !c.held {
				second = openDir(t, filepath.Join(base, c.second), quietly())
				for i := 1000; i < 1200; i++ {
					require.True(t, second.Has(idOf(i)), "what the second one has synced")
				}
				closeIntact(t, second)
			}
			first = openDir(t, filepath.Join(base, c.first), quietly())
			require.Equal(t, 300, first.Len())
			closeIntact(t, first)
		})
	}
}

// What is written to a directory that is no more goes with Close: no call may say that it is durable.
func TestDirectory_Removed(t *testing.T) {
	for name, call := range map[string]func(s *Store) error{
		"Sync of nothing": (*Store).Sync,
		"Sync of a memory": func(s *Store) error {
			require.NoError(t, s.Put("late", nil))
			return s.Sync()
		},
		"Compact": func(s *Store) error {
			_, err := s.Compact(t.Context())
			return err
		},
		"Close": (*Store).Close,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(fastDir(t), "data")
			first := openDir(t, path, quietly())
			fill(t, first, 0, 200, 1000)
			deleteWhere(t, first, 0, 200, odd)
			require.NoError(t, first.Sync())
			require.NoError(t, os.RemoveAll(path))

			second := openDir(t, path, quietly())
			fill(t, second, 0, 100, 1000)
			require.NoError(t, second.Close())

			err := call(first)
			require.ErrorIs(t, err, fs.ErrNotExist)
			if name == "Compact" { // which could not make a target
				err = first.Sync()
			}
			require.ErrorIs(t, err, ErrSyncFailed)
			if name != "Close" {
				require.ErrorIs(t, first.Put("x", nil), ErrSyncFailed)
				got, err := first.Get(idOf(0))
				require.NoError(t, err, "what there is can be read")
				require.Equal(t, contentOf(0, 0, 1000), got)
				require.ErrorIs(t, first.Close(), ErrSyncFailed)
			}
			second = openDir(t, path, quietly())
			require.Equal(t, 100, second.Len())
			closeIntact(t, second)
		})
	}
}

// The same where no call of the system says anything: a file whose name is gone can be synced.
func TestDirectory_RemovedSilently(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	opts.SyncWrites = true
	s := shadowStore(t, d, opts)
	require.NoError(t, s.Put("a", nil))
	require.NoError(t, s.Put("b", nil))
	d.RemoveAll()
	err := s.Put("c", nil)
	require.ErrorIs(t, err, ErrSyncFailed)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	require.Zero(t, d.Mappings)
}
