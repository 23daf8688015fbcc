//go:build unix

package dir

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// marker is the file of a directory that is complete.
const marker = "MARKER"

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
