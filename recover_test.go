package warmtier

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each directory that Open makes survives a power loss: its name is synced before there is anything in it.
func TestDirectory_MakesDirectoriesDurably(t *testing.T) {
	base := t.TempDir()
	a := filepath.Join(base, "a")
	b, c := filepath.Join(a, "b"), filepath.Join(a, "b", "c")
	var synced []string
	require.NoError(t, prepareDirectory(c, false, func(dir string) error {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		below, err := os.ReadDir(filepath.Join(dir, entries[0].Name()))
		require.NoError(t, err)
		require.Empty(t, below)
		synced = append(synced, dir)
		return nil
	}))
	require.Equal(t, []string{base, a, b}, synced)
	require.NoError(t, prepareDirectory(c, false, func(string) error {
		require.Fail(t, "nothing was made")
		return nil
	}))
	require.ErrorIs(t, prepareDirectory(filepath.Join(base, "d"), true, syncDirectory), os.ErrNotExist)
}

// A relative path names the directory that it named when the store was opened.
func TestDirectory_RelativePath(t *testing.T) {
	base, elsewhere := t.TempDir(), t.TempDir()
	t.Chdir(base)
	s := openDir(t, "store", quietly())
	fill(t, s, 0, 100, 1000)
	require.NoError(t, os.Chdir(elsewhere))
	fill(t, s, 100, 300, 1000) // new segments
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	require.Empty(t, entries)
	s = openDir(t, filepath.Join(base, "store"), quietly())
	requireContents(t, s, 0, 300, 1000, all)
	closeIntact(t, s)
}
