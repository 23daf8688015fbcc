package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// fill stores version 0 of the memories from up to, not including, to.
func fill(t testing.TB, s *Store, from, to, size int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
	}
}

func all(int) bool   { return true }
func odd(i int) bool { return i%2 == 1 }
func none(int) bool  { return false }

// deleteWhere deletes those memories from up to, not including, to that drop names.
func deleteWhere(t testing.TB, s *Store, from, to int, drop func(i int) bool) {
	t.Helper()
	for i := from; i < to; i++ {
		if drop(i) {
			existed, err := s.Delete(idOf(i))
			require.NoError(t, err)
			require.True(t, existed, "memory %d", i)
		}
	}
}

// bounded returns quiet options with rounds of one segment.
func bounded(workers int) *Options { return compacting(workers, 1) }

// unbounded returns quiet options with one round for everything.
func unbounded(workers int) *Options { return compacting(workers, -1) }

// compactionKinds returns options for all kinds of rounds: small ones and one for everything, by
// one worker and by several. The detectors have something to see with several workers only.
func compactionKinds() []struct {
	name string
	opts *Options
} {
	kind := func(workers int, maxOverhead int64) *Options {
		opts := quiet()
		opts.Compaction.Workers, opts.Compaction.MaxOverhead = workers, maxOverhead
		return opts
	}
	kinds := []struct {
		name string
		opts *Options
	}{
		{"small rounds, four workers", kind(4, 2*minSegmentSize)},
		{"one round, four workers", kind(4, -1)},
		{"small rounds, one worker", kind(1, 1)},
		{"one round, one worker", kind(1, -1)},
		{"defaults", quiet()},
	}
	if raceEnabled || lockOrderChecked() {
		kinds = kinds[:2]
	}
	return kinds
}

// One worker flips firstMoved first and lastMoved last: they have the lowest and the highest shard
// to themselves.
const (
	firstMoved  = 0
	lastMoved   = 1
	layoutCount = 600
	layoutSize  = 200
	layoutMoved = layoutCount / 2 // live: lastMoved, and every even number but the last
)

func layoutShard(i int) int {
	switch i {
	case firstMoved:
		return 0
	case lastMoved:
		return shardCount - 1
	}
	return 1 + i/2%30 // as many dead memories as live ones in each shard, and so in each lane
}

// fragmentedStore returns a store with layoutMoved live memories among as many dead ones, and the
// version of each live memory by its number.
func fragmentedStore(t *testing.T, opts *Options) (s *Store, model map[int]int) {
	s = openTest(t, opts, hooks{hash: placedBy(layoutShard)})
	fill(t, s, 0, layoutCount, layoutSize)
	model = map[int]int{}
	for i := range layoutCount {
		if i == firstMoved || i == lastMoved || !odd(i) && i != layoutCount-2 {
			model[i] = 0
		}
	}
	deleteWhere(t, s, 0, layoutCount, func(i int) bool { _, live := model[i]; return !live })
	require.Len(t, model, layoutMoved)
	return s, model
}

const faultMemories = 1200

// faultStore returns a store of faultMemories memories of which the even ones were deleted, in
// segments enough for several rounds.
func faultStore(t *testing.T, opts *Options) *Store {
	s := openTest(t, opts, hooks{})
	fill(t, s, 0, faultMemories, 400)
	deleteWhere(t, s, 0, faultMemories, func(i int) bool { return !odd(i) })
	return s
}

// overwriteAndDelete changes a fifth of what lives in a faultStore: it overwrites one and deletes
// one of every ten odd memories.
func overwriteAndDelete(t *testing.T, s *Store) {
	for i := 1; i < faultMemories; i += 20 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 1, 300)))
		existed, err := s.Delete(idOf(i + 2))
		require.NoError(t, err)
		require.True(t, existed)
	}
}

// requireOverwrittenAndDeleted checks that a faultStore is as overwriteAndDelete left it.
func requireOverwrittenAndDeleted(t *testing.T, s *Store) {
	t.Helper()
	for i := 1; i < faultMemories; i += 20 {
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, contentOf(i, 1, 300), got)
		require.False(t, s.Has(idOf(i+2)))
		requireContents(t, s, i+4, i+20, 400, odd)
	}
	require.Equal(t, faultMemories/2-faultMemories/20, s.Len())
}
