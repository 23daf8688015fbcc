//go:build unix

package warmtier

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: with MaxBytes the files of a directory take no more than what is counted as used: bytes that the next
// segment may have are in no file any more.
//
// What would break: a victim's bytes are given back before its file is removed; a Put makes a segment of them, and
// until then the directory has both.
//
// Method: at every point of compactions that end well, that are undone at either stage, and that sweep, the sizes of
// all segments and spares are held against the figure. Nothing runs beside.
func TestMaxBytes_CountsFilesToTheirEnd(t *testing.T) {
	dir := fastDir(t)
	opts := quietly()
	opts.MaxBytes, opts.Compaction.Workers = 8<<20, 1
	looks := latePoints{}
	s, err := open(dir, opts, hooks{hash: oneLane, at: looks.hook})
	require.NoError(t, err)
	s.dead.on = false // what is dead waits for the compaction
	const n, size = 2000, 1000
	fill(t, s, 0, n, size)
	seen := map[point]int{}
	look := func(p point) error {
		if p == pointCompactRecord || p == pointCompactFlip { // too many
			return nil
		}
		mapped, spares := s.medium.held()
		counted := mapped + spares - s.tables.bytes.Load()
		if files := bytesOfSegments(t, dir); files > counted {
			t.Errorf("%s: %d bytes of files, %d of them counted", p, files, counted)
		}
		seen[p]++
		return nil
	}
	failed := errors.New("as told")
	for _, at := range []point{pointCompactBuilt, pointCompactCommitted, ""} {
		fill(t, s, 0, n/4, size) // some segments are dead
		for i := n / 4; i < n; i += 3 {
			require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		}
		looks.set(both(look, failAt(at, 1, failed)))
		_, err := s.Compact(context.Background())
		if at != "" {
			require.ErrorIs(t, err, failed)
		} else {
			require.NoError(t, err)
		}
		looks.set(func(point) error { return nil })
	}
	require.Greater(t, seen[pointUnlink], 10, "files removed")
	require.Positive(t, seen[pointCompactSwapped])
	closeIntact(t, s)
}

// bytesOfSegments returns the size of all files in dir that are segments, in the making or not, or spares.
func bytesOfSegments(t *testing.T, dir string) (total int64) {
	t.Helper()
	for _, pattern := range []string{"*" + filepath.Ext(layout.SegmentFileName(1)) + "*", layout.SpareName + "*"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		for _, name := range names {
			st, err := os.Stat(name)
			require.NoError(t, err)
			total += st.Size()
		}
	}
	return total
}
