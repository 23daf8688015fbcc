//go:build unix

package warmtier

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireKilled checks that the directory, as a kill would leave it now, has the memories that want names.
func requireKilledHas(t *testing.T, dir string, n, size int, h hooks, want func(i int) bool) {
	t.Helper()
	copied := fastDir(t)
	copyDir(t, dir, copied)
	killed, err := open(copied, quietly(), hooks{hash: h.hash})
	require.NoError(t, err)
	requireContents(t, killed, 0, n, size, want)
	closeIntact(t, killed)
}

// Goal: what was dropped is gone after a kill and after a Close.
func TestDrop_GoneAfterReopening(t *testing.T) {
	const n, size = 900, 200
	dir := fastDir(t)
	h := dropping(func(i int) bool { return i%3 == 0 }, nil)
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	for range 2 { // with older versions of all of them
		fill(t, s, 0, n, size)
	}
	deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 1 })
	mustCompact(t, s)
	want := func(i int) bool { return i%3 == 2 }
	requireContents(t, s, 0, n, size, want)
	requireKilledHas(t, dir, n, size, h, want)
	closeIntact(t, s)
	s = openDir(t, dir, quietly())
	requireContents(t, s, 0, n, size, want)
	closeIntact(t, s)
}

// Goal: a memory that a Delete has not found, because a round has dropped it, does not come back.
//
// The interleaving: a round drops, Delete finds nothing and writes no tombstone, the process is killed before the
// manifest without the victim is in force.
func TestDrop_DeletedBeforeManifest(t *testing.T) {
	if raceEnabled {
		t.Skip("heap segments reach their files with Sync and Close only")
	}
	const gone, n, size = 7, 400, 200
	dir := fastDir(t)
	var s *Store
	killed := false
	var late latePoints
	h := dropping(func(i int) bool { return i == gone }, late.hook)
	h.hash = oneLane // in one segment with what makes it a victim
	at := doAt(pointManifestTemp, 1, func() {
		_, err := s.Delete(idOf(gone))
		require.NoError(t, err)
		requireKilledHas(t, dir, n, size, h, func(i int) bool { return i != gone && i != 0 })
		killed = true
	})
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	fill(t, s, 0, n, size)
	deleteWhere(t, s, 0, 1, all)
	require.NoError(t, s.Sync())
	s.sealLanes(0)
	require.NoError(t, s.Sync()) // so that the commit of the round writes the next manifest
	late.set(at)
	mustCompact(t, s)
	require.True(t, killed)
	closeIntact(t, s)
}

// Goal: no older version comes back in place of a dropped memory, as long as a record of one is in a segment that
// stays; when that segment goes, the tombstone does too. Method: the older segment is kept out of a compaction by
// a mark of damage.
func TestDrop_TombstoneOutlivesOlderRecord(t *testing.T) {
	const gone, n, size = 0, 400, 200
	dir := fastDir(t)
	h := dropping(func(i int) bool { return i == gone }, nil)
	h.hash = oneLane
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	require.NoError(t, s.Put(idOf(gone), contentOf(gone, 1, size)))
	fill(t, s, 1, n, size)
	older := segmentOf(t, s, idOf(1))
	require.True(t, older.is(stateSealed))
	fill(t, s, gone, gone+1, size)
	deleteWhere(t, s, n-1, n, all)
	want := func(i int) bool { return i != gone && i != n-1 }
	older.damaged.Store(true)
	mustCompact(t, s)
	require.True(t, older.is(stateSealed), "the older segment was not kept out of the compaction")
	requireContents(t, s, 0, n, size, want)
	require.Equal(t, 2, s.tombstones())
	requireKilledHas(t, dir, n, size, h, want)

	older.damaged.Store(false)
	mustCompact(t, s)
	mustCompact(t, s)
	require.Zero(t, s.tombstones(), "tombstones that nothing needs are left")
	requireContents(t, s, 0, n, size, want)
	requireKilledHas(t, dir, n, size, h, want)
	closeIntact(t, s)
}

// Goal: a copy of a dropped memory, with the same sequence number, does not come back.
//
// The interleaving: a compaction is cut off when it has copied a part of a victim; the next one drops the copy
// and leaves the victim alone.
func TestDrop_CopyOfSameNumberStays(t *testing.T) {
	const n, size = 1000, 200
	gone, dir := -1, fastDir(t)
	var late latePoints
	h := dropping(func(i int) bool { return i == gone }, late.hook)
	h.hash = oneLane
	opts := quietly()
	opts.Compaction.MaxOverhead, opts.Compaction.Workers = 1, 1
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	fill(t, s, 0, n, size)
	deleted := map[int]bool{}
	remove := func(i int) {
		deleted[i] = true
		deleteWhere(t, s, i, i+1, all)
	}
	for i := 0; i < n; i += 10 {
		remove(i)
	}
	before := make([]*segment, n)
	for i := range n {
		if !deleted[i] {
			before[i] = segmentOf(t, s, idOf(i))
		}
	}
	late.set(failAt(pointCompactBuilt, 2, errInjected))
	_, err = s.Compact(t.Context())
	require.ErrorIs(t, err, errInjected)
	var target *segment
	for i := range n { // one that was copied, of a victim that is still there
		if seg := before[i]; seg != nil && seg.is(stateSealed) && segmentOf(t, s, idOf(i)) != seg {
			gone, target = i, segmentOf(t, s, idOf(i))
		}
	}
	require.NotEqual(t, -1, gone, "no victim was copied in part")
	before[gone].damaged.Store(true) // so that it stays
	for i := range n {
		if !deleted[i] && i != gone && segmentOf(t, s, idOf(i)) == target {
			remove(i) // so that the target is a victim
			break
		}
	}
	mustCompact(t, s)
	require.True(t, target.is(stateRetired) && before[gone].is(stateSealed))
	want := func(i int) bool { return i != gone && !deleted[i] }
	requireContents(t, s, 0, n, size, want)
	requireKilledHas(t, dir, n, size, h, want)
	closeIntact(t, s)
}

// Goal: whenever the process is killed, what a reader no longer finds is gone, and all else is there. Method: small
// rounds, so that victims with drops stay for a round; a kill at each point of the first rounds.
func TestDrop_KilledAtEveryPoint(t *testing.T) {
	const n, size = 1200, 200
	dir := fastDir(t)
	drop := func(i int) bool { return i%2 == 0 }
	var points atomic.Int64
	var late latePoints
	opts := quietly()
	opts.Compaction.MaxOverhead, opts.Compaction.Workers = 1, 1
	h := dropping(drop, late.hook)
	h.hash = oneLane
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	for range 2 {
		fill(t, s, 0, n, size)
	}
	deleteWhere(t, s, 0, n, func(i int) bool { return i%9 == 0 })
	kill := func() {
		absent := map[int]bool{}
		for i := range n {
			absent[i] = !s.Has(idOf(i))
		}
		copied := fastDir(t)
		copyDir(t, dir, copied)
		killed, err := open(copied, quietly(), hooks{})
		require.NoError(t, err)
		for i := range n {
			there := killed.Has(idOf(i))
			require.False(t, absent[i] && there, "memory %d is back", i)
			require.False(t, !absent[i] && !there && !drop(i), "memory %d is lost", i)
		}
		requireContents(t, killed, 0, n, size, func(i int) bool { return killed.Has(idOf(i)) })
		closeIntact(t, killed)
	}
	at := map[point]bool{pointTargetsFlushed: true, pointCompactDrop: true, pointCompactSwapped: true}
	late.set(func(p point) error {
		if at[p] {
			points.Add(1)
			elsewhere(kill)
		}
		return nil
	})
	mustCompact(t, s)
	late.set(nil)
	require.GreaterOrEqual(t, points.Load(), int64(2*len(at)), "two rounds at least")
	kill()
	closeIntact(t, s)
}
