//go:build unix

package warmtier

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: as TestCompact_NoLargeAllocation, of whatever else a store does: large or small, it takes no more than
// pieceBytes in one piece, but for contents that its callers ask for.
func TestStore_NoLargeAllocation(t *testing.T) {
	root := fastDir(t)
	opts := quietly()
	n := sized(t, 110_000)
	var s *Store
	requireInPieces(t, "", func() {
		s = openDir(t, filepath.Join(root, "store"), opts)
		for i := range n {
			if err := s.Put(idOf(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		var b Batch
		for i := range MaxBatchLen {
			b.Put(idOf(i), nil)
		}
		require.NoError(t, s.Apply(&b))
		require.NoError(t, s.Sync())
		s.Stats()
		s.Segments()
		for range s.IDs() {
			continue
		}
		require.NoError(t, s.Checkpoint(t.Context(), filepath.Join(root, "copy")))
		file, err := os.Create(filepath.Join(root, "export"))
		require.NoError(t, err)
		_, err = s.Export(t.Context(), file)
		require.NoError(t, err)
		_, err = file.Seek(0, io.SeekStart)
		require.NoError(t, err)
		copied := openDir(t, filepath.Join(root, "imported"), opts)
		_, err = copied.Import(t.Context(), file)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		require.NoError(t, copied.Close())
		report, err := s.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, report.Findings)
		require.NoError(t, s.Close()) // writes the hint
		s = openDir(t, filepath.Join(root, "store"), opts)
	})
	require.Equal(t, n, s.Len())
	require.NoError(t, s.Close())
}
