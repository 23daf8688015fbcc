package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: where records of a file may end, and which digests count, when parts of the file cannot be believed. Method: the
questions that a scan asks, of a file made up for each.
*/

// smallFile returns a file of one page that nobody has written a record to, with these digests.
func smallFile(digests ...uint32) *foundSegment {
	f := &foundSegment{seg: newSegment(1, make([]byte, 4096), layout.KindLane, 1)}
	for n, digest := range digests {
		f.seg.putDigest(n, digest)
	}
	return f
}

// Goal: a kill leaves zeros at the end of the records, or a record that was not finished, and nothing after it.
func TestScan_MayEnd(t *testing.T) {
	killed := &recovery{cacheKept: true}
	require.True(t, killed.mayEndAt(smallFile(), layout.HeaderSize))
	require.True(t, killed.mayEndAt(smallFile(5000), layout.HeaderSize), "a record was begun")
	require.False(t, killed.mayEndAt(smallFile(5000, 6000), layout.HeaderSize), "and one after it")
	lost := smallFile()
	lost.lost.state = true
	require.False(t, killed.mayEndAt(lost, layout.HeaderSize), "nobody knows how far the file was written")
	durable := smallFile()
	durable.state.Synced = layout.HeaderSize + 8
	require.False(t, killed.mayEndAt(durable, layout.HeaderSize), "there was a record")
}

// Goal: what cannot be a digest says of no record that it was begun: where the file was cut short, so that its end is
// not that of the digests, and where a damaged one says that more follow than the file has room for.
func TestScan_NoDigest(t *testing.T) {
	f := smallFile(5000, 6000)
	f.lost.digests = true
	require.False(t, f.hasRecordAfter(layout.HeaderSize))
	require.False(t, smallFile(1024).hasRecordAfter(layout.HeaderSize))
}

// Goal: digests that are not there are compared with no record.
func TestScan_DigestsLost(t *testing.T) {
	for _, lost := range []bool{false, true} {
		f := smallFile(5000)
		f.state.Synced = 4096
		f.lost.digests = lost
		(&recovery{s: &Store{}}).checkDigest(f, layout.HeaderSize, 7000)
		require.Equal(t, !lost, f.damaged)
		require.Equal(t, !lost, f.wrongDigests)
		require.Empty(t, f.redigest)
	}
}

// Goal: a file that was made for one record has one, whatever lies behind it.
func TestScan_LargeHasOne(t *testing.T) {
	f := smallFile()
	require.False(t, f.ended(layout.HeaderSize+8))
	f.seg.large = true
	require.False(t, f.ended(layout.HeaderSize))
	require.True(t, f.ended(layout.HeaderSize+8))
}
