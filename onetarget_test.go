//go:build unix

package warmtier

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
Goal: what a compaction takes from the space kept back it gives back with the same round, whatever writers supersede
in the meantime: without that space neither a compaction nor a Put nor a Delete ever goes on. Method: victims of which
most is superseded between the walk that listed it and the round, or which are larger than a target.
*/

// quietBudget returns options for a directory of two MiB in which nothing runs by itself but sweeps.
func quietBudget() Options {
	opts := Options{MaxBytes: 2 * fullBytes, SegmentSize: minSegmentSize}
	opts.Maintenance.Disabled = true
	return opts
}

// sealFull seals the active segments as if they had no more room, and returns the last one.
func sealFull(s *Store) *segment {
	sealed := s.sealLanes(0)
	for _, l := range sealed {
		l.seg.sealedEarly.Store(false)
	}
	return sealed[len(sealed)-1].seg
}

// besideTombstones returns a store, of one lane, with two segments that the next compaction compacts in this
// order: whole, of which a 60th is dead, and buried, which is half tombstones, that whole needs, and live for a sixth.
func besideTombstones(t *testing.T) (s *Store, whole, buried *segment) {
	t.Helper()
	s = budgeted(t, "directory", quietBudget(), hooks{hash: oneLane})
	fill(t, s, 0, 60, 1000)
	whole = sealFull(s)
	const small = 500
	fill(t, s, 10_000, 10_000+small, 0)
	sealFull(s)
	deleteWhere(t, s, 10_000, 10_000+small, all)
	deleteWhere(t, s, 0, 1, all)
	fill(t, s, 20_000, 20_010, 1000)
	buried = sealFull(s)
	require.True(t, waitFor(func() bool { return s.segments.count() == 2 }), "the rest is dead")
	return s, whole, buried
}

// requireAble checks that the next compaction has its space.
func requireAble(t *testing.T, s *Store) {
	t.Helper()
	s.disk.keepSpares()
	s.disk.spares.mu.Lock()
	defer s.disk.spares.mu.Unlock()
	require.True(t, s.disk.keepsAllLocked(laneSpares))
}

func TestOneTarget_SupersededSinceTheWalk(t *testing.T) {
	s, whole, buried := besideTombstones(t)
	_, _ = fillUp(t, s, 30_000, 1000)
	s.hooks.at = doAt(pointCompactWalked, 1, func() { deleteWhere(t, s, 1, 56, all) })
	c, err := s.makeSpace()
	require.NoError(t, err)
	require.Positive(t, c.stats.BytesReclaimed)
	requireAble(t, s)
	for _, seg := range []*segment{whole, buried} {
		require.True(t, seg.is(stateRetired))
	}
	fill(t, s, 0, 20, 1000)
	requireContents(t, s, 0, 60, 1000, func(i int) bool { return i < 20 || i >= 56 })
}

// Goal: the victim of which a part is copied does not leave, for nothing is kept free for its tombstones. It could
// where its records were superseded while the walk looked for them, so that fewer were found than counted.
func TestOneTarget_PartStays(t *testing.T) {
	s, whole, buried := besideTombstones(t)
	_, _ = fillUp(t, s, 30_000, 1000)
	deleteWhere(t, s, 1, 30, all)
	s.sealLanes(0)
	c := s.newCompaction(triggerManual)
	c.lowSpace, c.recordSize = true, 1000
	c.chooseVictims()
	defer c.end()
	require.NoError(t, c.fillWork(t.Context()))
	c.work = slices.DeleteFunc(c.work, func(v *victim) bool { return v.seg != whole && v.seg != buried })
	require.Same(t, whole, c.work[0].seg)
	c.work[1].left = 43_000 // with what whole needs it is more than a target
	require.NoError(t, c.nextRound(t.Context()))
	require.True(t, whole.is(stateRetired))
	require.False(t, buried.is(stateRetired))
	require.Less(t, c.work[0].live.len(), 10, "some of it was copied")
	requireAble(t, s)
	require.NoError(t, c.nextRound(t.Context()))
	require.True(t, buried.is(stateRetired))
	requireAble(t, s)
}

// Goal: a segment that one target cannot take, from an Open with larger segments, costs nothing of what is kept back.
func TestOneTarget_LargerVictim(t *testing.T) {
	dir := fastDir(t)
	opts := quiet()
	opts.SegmentSize = 8 * minSegmentSize
	s, err := open(dir, opts, hooks{hash: oneLane, share: fullSegments})
	require.NoError(t, err)
	fill(t, s, 0, 800, 1000)
	require.NoError(t, s.Close())
	opts = new(quietBudget())
	s, err = open(dir, opts, hooks{hash: oneLane})
	require.NoError(t, err)
	_, _ = fillUp(t, s, 30_000, 1000)
	deleteWhere(t, s, 0, 100, all)
	for range 2 {
		_, err = s.Compact(t.Context())
		require.ErrorIs(t, err, ErrNoSpace)
		requireAble(t, s)
	}
	requireContents(t, s, 100, 800, 1000, all)
	deleteWhere(t, s, 100, 800, all)
	mustCompact(t, s)
	fill(t, s, 0, 600, 1000)
	require.NoError(t, s.Close())
}

// besideLargeOnes returns a full store of one lane and its oldest segments, of which half is dead, and which are a
// quarter of those that follow.
func besideLargeOnes(t *testing.T, medium string, n int) (s *Store, small []*segment) {
	t.Helper()
	opts := Options{MaxBytes: 4 * fullBytes, SegmentSize: 4 * minSegmentSize}
	opts.Maintenance.Disabled = true
	size := int64(minSegmentSize)
	s = budgeted(t, medium, opts, hooks{hash: oneLane, share: func(int64) int64 { return size }})
	for i := range n {
		fill(t, s, 60*i, 60*(i+1), 1000)
		small = append(small, sealFull(s))
		require.Len(t, small[i].mem, minSegmentSize)
	}
	size = 4 * minSegmentSize
	_, _ = fillUp(t, s, 60*n, 1000)
	sealFull(s)
	deleteWhere(t, s, 0, 60*n, odd)
	return s, small
}

// Goal: victims that are smaller than a target, from when segments were small, cost nothing of what is kept back.
func TestOneTarget_SmallerVictims(t *testing.T) {
	for _, n := range []int{1, 6} {
		t.Run(fmt.Sprintf("directory/%d", n), func(t *testing.T) {
			s, small := besideLargeOnes(t, "directory", n)
			s.sealLanes(0)
			c, err := s.makeSpace()
			require.NoError(t, err)
			require.Positive(t, c.stats.FileBytesReclaimed)
			requireAble(t, s)
			for _, seg := range small {
				require.True(t, seg.is(stateRetired))
			}
		})
		t.Run(fmt.Sprintf("memory/%d", n), func(t *testing.T) {
			s, small := besideLargeOnes(t, "memory", n)
			mustCompact(t, s)
			require.True(t, s.pool.hasSurvivor(s.opts.SegmentSize))
			require.Equal(t, n > 1, small[0].is(stateRetired), "alone it gives back less than it takes")
		})
	}
}
