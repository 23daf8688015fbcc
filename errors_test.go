//go:build unix

package warmtier

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: an error that has another one of the package inside names the package once, the directory it is about,
// and still is both. Method: one of each kind.
func TestErrors_NameThePackageOnce(t *testing.T) {
	once := func(t *testing.T, err error, is ...error) {
		t.Helper()
		for _, target := range is {
			require.ErrorIs(t, err, target)
		}
		require.True(t, strings.HasPrefix(err.Error(), "warmtier: "), err)
		require.Equal(t, 1, strings.Count(err.Error(), "warmtier: "), err)
	}
	t.Run("memory", func(t *testing.T) {
		s := openTest(t, quiet(), hooks{available: func() (int64, bool) { return 0, true }})
		fill(t, s, 0, 600, 100)
		deleteWhere(t, s, 0, 600, odd)
		dropSurvivor(s)
		_, err := s.Compact(t.Context())
		once(t, err, ErrCompactionFailed, ErrInsufficientMemory)
	})
	t.Run("directory", func(t *testing.T) {
		dir := fastDir(t)
		_, err := Open(dir, &Options{ReadOnly: true})
		once(t, err, fs.ErrNotExist)
		require.ErrorContains(t, err, dir)

		s := openDir(t, dir, quiet())
		_, err = Open(dir, nil)
		once(t, err, ErrLocked)
		require.ErrorContains(t, err, dir)
		require.NoError(t, s.Close())

		manifest := filepath.Join(dir, layout.ManifestName)
		require.NoError(t, os.Truncate(manifest, 5))
		_, err = Open(dir, nil)
		once(t, err, ErrCorrupt)
		require.ErrorContains(t, err, dir)
	})
}
