//go:build unix

package warmtier

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: on a full disk a compaction does not spend the space kept back on segments whose blocks stay in a checkpoint.
// Once that is gone everything can be deleted and compacted.
func TestCheckpoint_OnFullDisk(t *testing.T) {
	d, to := newShadow(), newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, share: fullSegments})
	require.NoError(t, err)
	d.Budget = 6 << 20
	n := 0
	for ; err == nil; n++ {
		err = s.Put(idOf(n), contentOf(n, 0, 1000))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	full := len(segmentNames(d))
	_, err = s.disk.checkpoint(context.Background(), to)
	require.NoError(t, err)
	deleted := 0
	for err = nil; err == nil && deleted < n; deleted++ { // until the space for tombstones is gone
		_, err = s.Delete(idOf(deleted))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	for range 3 {
		st, err := s.Compact(context.Background())
		require.ErrorIs(t, err, ErrNoSpace)
		require.ErrorContains(t, err, "in no checkpoint")
		require.LessOrEqual(t, st.FileBytesReclaimed, int64(0))
	}
	for name := range to.Kill().Files {
		require.NoError(t, to.Remove(name))
	}
	for i := range n - 1 {
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
	}
	mustCompact(t, s)
	passThrough(&s.dead.running) // segments without a live record leave by themselves, before it or beside it
	require.Less(t, len(segmentNames(d)), full/4)
	require.NoError(t, s.Put("x", make([]byte, 1000)))
	closeShadow(t, s, d)
}
