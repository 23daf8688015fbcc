//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/sip"
)

// Goal: there is room for a tombstone with the longest id, even in the smallest segments.
func TestDirectory_DeleteLongestID(t *testing.T) {
	for _, n := range []int{40_000, 65_000, 65_148, 65_300, 65_380, 65_400, 65_500, MaxIDLen} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			dir := fastDir(t)
			s := openDir(t, dir, quietly())
			id := strings.Repeat("i", n)
			require.NoError(t, s.Put(id, []byte("content")))
			require.NoError(t, s.Put("other", []byte("stays")))
			var existed bool
			var err error
			require.NotPanics(t, func() { existed, err = s.Delete(id) })
			require.NoError(t, err)
			require.True(t, existed)
			want := map[string][]byte{"other": []byte("stays")}
			for range 3 {
				requireSame(t, s, want)
				closeIntact(t, s)
				s = openDir(t, dir, quietly())
				requireSame(t, s, want)
				mustCompact(t, s)
			}
			closeIntact(t, s)
		})
	}
}

// Goal: a tombstone in a segment of its own is no victim before the memory has left the index:
// until then there is no dead record for which a compaction would keep it.
func TestDirectory_LongTombstoneIsSealedLast(t *testing.T) {
	id := strings.Repeat("i", MaxIDLen)
	var s *Store
	deleting := false
	s, err := open(fastDir(t), quietly(), hooks{at: func(p point) error {
		if p != pointDeleteAppended {
			return nil
		}
		deleting = true
		entries := *s.segments.entries.Load() // all is not for callers with locks held
		for i := range entries {
			seg := entries[i].Load()
			require.False(t, seg != nil && seg.tombstones.len() > 0 && seg.is(stateSealed), "entry %d may be a victim", i)
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, s.Put(id, []byte("content")))
	existed, err := s.Delete(id)
	require.NoError(t, err)
	require.True(t, existed && deleting)
	mustCompact(t, s)
	require.Zero(t, s.tombstones())
	closeIntact(t, s)
}

// Goal: a deleted memory stays deleted, and in the end no tombstone is left. Method: sequences of
// five steps, each a deletion, a second Put, a compaction or a reopening.
func TestDirectory_TombstonesInEveryOrder(t *testing.T) {
	t.Parallel()
	const steps, kinds = 5, 4
	sequences := 1
	for range steps {
		sequences *= kinds
	}
	step := stride(t, 11, 1)
	if raceEnabled || testing.Short() {
		step = 97
	}
	for sequence := 0; sequence < sequences; sequence += step {
		dir := fastDir(t)
		s := openDir(t, dir, quietly())
		want := map[string][]byte{}
		put := func(i, version int) {
			want[idOf(i)] = contentOf(i, version, 50)
			require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
		}
		for i := range 30 {
			put(i, 0)
		}
		var log []string
		reopen := func() {
			requireIntact(t, s)
			require.NoError(t, s.Close())
			s = openDir(t, dir, quietly())
		}
		rest := sequence
		for step := range steps {
			switch rest % kinds {
			case 0:
				log = append(log, "delete")
				for i := step; i < 30; i += 2 {
					delete(want, idOf(i))
					_, err := s.Delete(idOf(i))
					require.NoError(t, err)
				}
			case 1:
				log = append(log, "put")
				for i := 0; i < 30; i += 3 {
					put(i, step+1)
				}
			case 2:
				log = append(log, "compact")
				mustCompact(t, s)
			case 3:
				log = append(log, "reopen")
				reopen()
			}
			rest /= kinds
			if got := contentsOf(t, s); !maps.EqualFunc(got, want, bytes.Equal) {
				require.Failf(t, "wrong content", "after %v", log)
			}
		}
		reopen()
		requireSame(t, s, want)
		mustCompact(t, s)
		mustCompact(t, s)
		st := s.Stats()
		require.Zero(t, st.DeadBytes, "tombstones that never go, after %v", log)
		requireSame(t, s, want)
		reopen()
		requireSame(t, s, want)
		require.Zero(t, s.Stats().DeadBytes)
		require.NoError(t, s.Close())
		require.NoError(t, os.RemoveAll(dir))
	}
}

// tombstones returns the number of tombstones in the segments of the table.
func (s *Store) tombstones() (n int) {
	for _, seg := range s.segments.all() {
		n += seg.tombstones.len()
	}
	return n
}

// Goal: a deleted memory stays deleted although the segment of its tombstone is compacted away
// while the dead record lies in a segment that stays; when that segment goes, the tombstone does
// too. Method: the older segment is kept out of a compaction by a mark of damage.
func TestDirectory_TombstoneOutlivesOlderRecord(t *testing.T) {
	const gone, n = 0, 400
	dir := fastDir(t)
	opts := quietly()
	opts.Compaction.MaxOverhead = 1
	h := hooks{hash: oneLane}
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	fill(t, s, 0, n, 200)
	older := segmentOf(t, s, idOf(gone))
	require.True(t, older.is(stateSealed))
	deleteWhere(t, s, 0, n, func(i int) bool { return i == gone || i == n-1 })
	keep := func(i int) bool { return i != gone && i != n-1 }
	check := func() {
		t.Helper()
		requireContents(t, s, 0, n, 200, keep)
		require.NoError(t, s.Sync())
		copied := fastDir(t)
		copyDir(t, dir, copied)
		killed, err := open(copied, opts, h)
		require.NoError(t, err)
		requireContents(t, killed, 0, n, 200, keep)
		closeIntact(t, killed)
	}
	check()
	require.Equal(t, 2, s.tombstones())
	older.damaged.Store(true)
	mustCompact(t, s)
	require.True(t, older.is(stateSealed), "the older segment was not kept out of the compaction")
	require.Positive(t, s.tombstones(), "a tombstone is needed and gone")
	check()

	older.damaged.Store(false)
	mustCompact(t, s)
	require.True(t, older.is(stateRetired))
	mustCompact(t, s)
	check()
	require.Zero(t, s.tombstones(), "tombstones that nothing needs are left")
	require.Zero(t, s.Stats().DeadBytes)
	closeIntact(t, s)
}

// Goal: a tombstone is kept for a dead record in a segment that is active when the compaction looks
// for such records in the lanes, and sealed when it looks in the other segments.
//
// Method: the dead record is in a segment in which a lane has resumed, so it is older than the
// tombstone in the victim. An automatic compaction leaves the lane alone; the lane rolls between
// the two looks.
func TestDirectory_TombstoneOutlivesRecordOfLaneThatRolls(t *testing.T) {
	const gone, n = 0, 100
	dir := fastDir(t)
	opts := quietly()
	opts.Maintenance.FragmentationThreshold = 0.6
	s, err := open(dir, opts, hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, n, 200)
	s.sealLanes(0)
	deleteWhere(t, s, 0, n, func(i int) bool { return i == gone })
	for s.lanes[0].active.room(1) > minSegmentSize/largeShare/2 {
		fill(t, s, n, n+1, 200)
	}
	victim := segmentOf(t, s, idOf(n)).id
	closeIntact(t, s)

	paused := pauseAt(pointCompactDead)
	s, err = open(dir, opts, hooks{hash: oneLane, at: paused.hook})
	require.NoError(t, err)
	next := n + 1
	put := func() *segment {
		fill(t, s, next, next+1, 200)
		next++
		return segmentOf(t, s, idOf(next-1))
	}
	wentOn := put()
	require.Same(t, segmentOf(t, s, idOf(1)), wentOn, "the lane has a new segment")
	compacted := make(chan error, 1)
	go func() {
		_, err := s.compact(context.Background(), triggerAuto)
		compacted <- err
	}()
	<-paused.reached
	require.True(t, wentOn.is(stateActive))
	for put() == wentOn {
	}
	require.True(t, wentOn.is(stateSealed))
	close(paused.proceed)
	require.NoError(t, <-compacted)
	for _, seg := range s.segments.all() {
		require.NotEqual(t, victim, seg.id, "no victim left")
	}
	require.Equal(t, 1, s.tombstones(), "the tombstone is needed and gone")

	copied := fastDir(t)
	copyDir(t, dir, copied)
	killed, err := open(copied, opts, hooks{hash: oneLane})
	require.NoError(t, err)
	requireContents(t, killed, 0, next, 200, func(i int) bool { return i != gone })
	closeIntact(t, killed)
	closeIntact(t, s)
}

// Goal: tombstones of several rounds, and of segments that stay, go in the end: they do not keep
// each other. Method: several hashes, since which tombstones meet in a round depends on the hash.
func TestDirectory_TombstonesVanish(t *testing.T) {
	for seed := range budget(t, 6, 40) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			tombstonesVanish(t, func(id string) uint64 {
				return sip.Hash(sip.Key{K0: uint64(seed), K1: 1}, id)
			})
		})
	}
}

func tombstonesVanish(t *testing.T, hash func(id string) uint64) {
	dir := fastDir(t)
	opts := quietly()
	opts.Compaction.MaxOverhead = minSegmentSize
	reopen := func() *Store {
		s, err := open(dir, opts, hooks{hash: hash})
		require.NoError(t, err)
		return s
	}
	s := reopen()
	const n = 4000
	for range 3 {
		fill(t, s, 0, n, 200)
		deleteWhere(t, s, 0, n, odd)
		mustCompact(t, s)
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
		require.NoError(t, s.Close())
		s = reopen()
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
	}
	for range 3 {
		mustCompact(t, s)
	}
	require.Zero(t, s.Stats().DeadBytes)
	requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
	closeIntact(t, s)
}
