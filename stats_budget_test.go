//go:build unix

package warmtier

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireParts checks that the parts of what is mapped add up, and are within the budget.
func requireParts(t *testing.T, st Stats) {
	t.Helper()
	n := st.SegmentDetails
	require.Equal(t, st.MappedBytes,
		st.LiveBytes+st.DeadBytes+n.RoomBytes+n.ReserveBytes+n.RetiredBytes+st.IndexBytes)
	require.LessOrEqual(t, st.MappedBytes+n.SpareBytes, st.MaxBytes)
}

// Goal: Stats shows the budget and what it is used for, to the byte, in memory and in a directory; each
// part is what it says; and waits are counted, those of a refused write too. Method: a store that is
// filled until it refuses, with one segment pinned by a reader.
func TestStats_Budget(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			opts := quietly()
			opts.MaxBytes = 4 << 20
			dir := ""
			if kind == "directory" {
				dir = t.TempDir()
			}
			s := openDir(t, dir, opts)
			n := 0
			var err error
			for ; err == nil; n++ {
				requireParts(t, s.Stats())
				err = s.Put(idOf(n), make([]byte, 1000))
			}
			require.ErrorIs(t, err, ErrNoSpace)
			st := s.Stats()
			require.ErrorContains(t, err, fmt.Sprintf("%d bytes used of MaxBytes %d (segments %d, index %d, spares %d); "+
				"%d bytes of records are live, 0 dead", st.MappedBytes+st.SegmentDetails.SpareBytes, opts.MaxBytes,
				st.MappedBytes-st.IndexBytes, st.IndexBytes, st.SegmentDetails.SpareBytes, st.LiveBytes))
			requireParts(t, st)
			require.Equal(t, opts.MaxBytes, st.MaxBytes)
			require.Positive(t, st.LiveBytes)
			require.Zero(t, st.DeadBytes)
			require.Equal(t, kind == "directory", st.SegmentDetails.SpareBytes > 0)
			require.Equal(t, kind == "memory", st.SegmentDetails.ReserveBytes > 0)
			require.Equal(t, int64(st.Segments*minSegmentSize)-st.TotalBytes, st.SegmentDetails.RoomBytes)
			require.EqualValues(t, 1, st.Writes.WaitDuration.Count)
			require.Positive(t, st.Writes.WaitDuration.Sum)
			require.Greater(t, st.Writes.WaitDuration.Bounds[histogramBounds-1], patience, "a wait can be told from longer ones")
			require.EqualValues(t, 1, st.Writes.PutErrors)

			require.NoError(t, s.View(idOf(0), func([]byte) error { // its segment is retired
				deleteWhere(t, s, 0, n-1, func(i int) bool { return i%2 == 0 })
				mustCompact(t, s)
				st := s.Stats()
				requireParts(t, st)
				require.EqualValues(t, minSegmentSize, st.SegmentDetails.RetiredBytes)
				return nil
			}))
			closeIntact(t, s)
			require.Zero(t, s.Stats().SegmentDetails.RoomBytes)
		})
	}
}
