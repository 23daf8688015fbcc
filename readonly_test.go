//go:build unix

package warmtier

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

func TestDirectory_ReadOnly(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			if killed {
				skipKillsUnderRace(t)
			}
			dir := fastDir(t)
			s := openDir(t, dir, quietly())
			want := map[string][]byte{}
			for i := range 400 {
				want[idOf(i)] = contentOf(i, 0, 300)
				require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
			}
			if killed {
				copied := fastDir(t)
				copyDir(t, dir, copied)
				require.NoError(t, s.Close())
				dir = copied
			} else {
				require.NoError(t, s.Close())
			}
			before := snapshot(t, dir)
			lock, err := os.ReadFile(filepath.Join(dir, layout.LockName))
			require.NoError(t, err)
			s = openDir(t, dir, &Options{ReadOnly: true})
			requireSame(t, s, want)
			requireReadOnly(t, s)
			requireIntact(t, s)
			require.NoError(t, s.Close())
			require.Equal(t, before, snapshot(t, dir))
			after, err := os.ReadFile(filepath.Join(dir, layout.LockName))
			require.NoError(t, err)
			require.Equal(t, lock, after)
		})
	}
}

// requireReadOnly tries everything that writes.
func requireReadOnly(t testing.TB, s *Store) {
	t.Helper()
	require.ErrorIs(t, s.Put(idOf(0), []byte("x")), ErrReadOnly)
	require.ErrorIs(t, s.Put("new", make([]byte, 2<<20)), ErrReadOnly)
	_, err := s.Delete(idOf(1))
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = s.Maintain(context.Background())
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, s.Sync())
}

// Goal: a user who may read the directory, but not write to it, can open it read-only.
func TestDirectory_ReadOnlyWithoutPermission(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	for name := range snapshot(t, dir) {
		require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o444))
	}
	require.NoError(t, os.Chmod(dir, 0o555))
	before := snapshot(t, dir)
	out, err := runDirectoryChild(t, "read without permission", dir, true)
	require.NoError(t, err, out)
	require.Equal(t, before, snapshot(t, dir))

	// It works without a lock file too: a writer would have made one.
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Remove(filepath.Join(dir, layout.LockName)))
	require.NoError(t, os.Chmod(dir, 0o555))
	out, err = runDirectoryChild(t, "read without permission", dir, true)
	require.NoError(t, err, out)
	require.NoError(t, os.Chmod(dir, 0o755))
}

func TestDirectory_ReadOnlyNeedsAStore(t *testing.T) {
	dir := fastDir(t)
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		_, err := Open(path, &Options{ReadOnly: true})
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.Empty(t, snapshot(t, dir))
}
