package warmtier

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// resizeAtOnce moves the slots of sh, which counts none, to t.
func resizeAtOnce(sh *shard, t table) {
	sh.resizing = &resizing{next: t}
	sh.moveLocked(1)
}

// Goal: whatever is written while the slots of a shard move to another table, a few at a time, both tables end with
// the same slots, and the old one has all of them at every moment. Method: a model; slots with a tag in common, new,
// exchanged and removed ones, between the moves of small and large ranges.
func TestResize_WritesBetweenMoves(t *testing.T) {
	rnd := seeded(t)
	for range scaled(40) {
		sh := &shard{}
		sh.setTable(make(table, 700))
		model := map[slot]bool{}
		next := 0
		draw := func() slot {
			next++
			return makeSlot(rnd.Uint32N(tagCount)>>rnd.UintN(20), location(next))
		}
		write := func() {
			for range rnd.IntN(20) {
				add, old := len(model) < 450 && rnd.IntN(2) == 0, anyOf(rnd, model)
				switch {
				case add || old == 0:
					w := draw()
					pos, found := sh.current().first(w.tag())
					for found != 0 {
						pos, found = sh.current().following(pos, w.tag())
					}
					sh.setLocked(pos, w)
					sh.memories.Add(1)
					model[w] = true
				case rnd.IntN(2) == 0:
					pos, ok := sh.current().find(old)
					require.True(t, ok)
					w := makeSlot(old.tag(), draw().location())
					sh.setLocked(pos, w)
					delete(model, old)
					model[w] = true
				default:
					pos, ok := sh.current().find(old)
					require.True(t, ok)
					sh.removeLocked(pos)
					sh.memories.Add(-1)
					delete(model, old)
				}
			}
		}
		for range 30 {
			write()
		}
		sh.resizing = &resizing{next: make(table, 600+rnd.IntN(600))}
		for done := false; !done; {
			write()
			requireTable(t, sh.current(), model, tagCount)
			_, done = sh.moveLocked(1 + rnd.IntN(100))
		}
		require.Nil(t, sh.resizing)
		requireTable(t, sh.current(), model, tagCount)
		write()
		requireTable(t, sh.current(), model, tagCount)
	}
}

// anyOf returns one of the slots of model, 0 when there is none.
func anyOf(rnd *rand.Rand, model map[slot]bool) slot {
	all := make([]slot, 0, len(model))
	for w := range model {
		all = append(all, w)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all) // so that the seed decides
	return all[rnd.IntN(len(all))]
}

// Goal: no write moves all slots of a large shard: each hold of its locks moves about resizeBatch, and the store is
// whole in between, beside a compaction, and when it is closed or cleared on the way. Method: all memories in one
// shard, which grows and shrinks several times.
func TestHolds_TableInBatches(t *testing.T) {
	const n = 12 * resizeBatch
	opts := unbounded(1)
	spread := func(id string) uint64 { return uint64(numberOf(id)) * 0x9e3779b97f4a7c15 >> shardBits } // over tags
	s := openTest(t, opts, hooks{hash: spread})
	sh, _ := s.place(idOf(1))
	moved, most, partly := 0, 0, 0
	var upTo uint32
	s.hooks.at = func(p point) error {
		if p != pointTableMoved {
			return nil
		}
		from := upTo
		if upTo = tagCount; sh.resizing != nil {
			upTo = sh.resizing.upTo
			partly++
		}
		most = max(most, len(sh.current().appendRange(nil, from, upTo)))
		moved++
		upTo %= tagCount
		return nil
	}
	fill(t, s, 0, n, 10)
	require.Greater(t, partly, 10, "of %d", moved)
	require.LessOrEqual(t, most, resizeBatch*3/2)
	untilPartly := func(step func(i int)) {
		t.Helper()
		for i := range n {
			if sh.resizing != nil && sh.resizing.upTo > tagCount/4 {
				return
			}
			step(i)
		}
		require.Fail(t, "no table was being filled")
	}
	untilPartly(func(i int) { require.NoError(t, deletePresent(s, i)) })
	mustCompact(t, s) // moves the slots of both tables
	requireIntact(t, s)
	left := s.Len()
	for i := n - left; i < n; i += 2 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 10)))
	}
	requireContents(t, s, 0, n, 10, func(i int) bool { return i >= n-left })
	require.LessOrEqual(t, most, resizeBatch*3/2)

	fill(t, s, 0, n, 10)
	untilPartly(func(i int) { require.NoError(t, deletePresent(s, i)) })
	_, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.Nil(t, sh.resizing, "a cycle ends what writes have left")
	require.LessOrEqual(t, most, resizeBatch*3/2)
	s.hooks.at = nil
	fill(t, s, 0, n, 10)
	untilPartly(func(i int) { require.NoError(t, deletePresent(s, i)) })
	require.NoError(t, s.Clear())
	require.Nil(t, sh.resizing)
	fill(t, s, 0, n, 10)
	untilPartly(func(i int) { require.NoError(t, deletePresent(s, i)) })
	// openTest closes, and looks for what is left mapped.
}

// Goal: a table that shrinks and has to take many memories at once is filled, and replaced by a larger one, before
// they come: a slot would be looked for in it without an end.
func TestResize_TooSmallMeanwhile(t *testing.T) {
	const n = 8 * resizeBatch
	spread := func(id string) uint64 { return uint64(numberOf(id)) * 0x9e3779b97f4a7c15 >> shardBits }
	s := openTest(t, unbounded(1), hooks{hash: spread})
	fill(t, s, 0, n, 10)
	sh, _ := s.place(idOf(1))
	for i := 0; sh.resizing == nil || sh.resizing.next.slots() > n/2; i++ {
		require.NoError(t, deletePresent(s, i))
	}
	left := s.Len()
	next := sh.resizing.next.slots()
	require.Less(t, left, next)
	prepare := func() error {
		defer s.contentMu.RUnlock(s.contentMu.RLock())
		sh.lane.mu.Lock()
		defer sh.lane.mu.Unlock()
		return s.prepare(sh, next)
	}
	require.NoError(t, prepare())
	require.Nil(t, sh.resizing)
	require.LessOrEqual(t, next*8, sh.current().slots()*fullest)
	requireIntact(t, s)
}

// Goal: the memory of large tables is mapped with no lock held. Method: acquire does not map it; provide does, and
// gives back what is not needed any more.
func TestHolds_BlocksMappedUnlocked(t *testing.T) {
	const slots = 100_000
	var m mapper
	tables := tableMemory{mapper: &m}
	acquire := func() table {
		t.Helper()
		_, err := tables.acquire(slots, false)
		require.ErrorIs(t, err, errNoBlock)
		tables.provide()
		got, err := tables.acquire(slots, false)
		require.NoError(t, err)
		return got
	}
	tables.provide() // nobody wants any
	require.Zero(t, m.bytes.Load())
	first := acquire()
	before := m.bytes.Load()
	tables.wanted.Store(slots * slotSize) // of a writer that another one was faster than
	tables.provide()
	require.Equal(t, before, m.bytes.Load())
	large, err := tables.acquire(8*largestInBlock/slotSize, true)
	require.NoError(t, err)
	tables.wanted.Store(slots * slotSize)
	tables.provide()
	require.Greater(t, tables.bytes.Load(), int64(len(large)+len(first))*slotSize)
	for _, used := range []table{first, large} {
		tables.retire(used)
		require.NoError(t, tables.release(used))
	}
	unused := m.bytes.Load()
	require.Positive(t, unused, "the block that nobody has used")
	larger, err := tables.acquire(16*largestInBlock/slotSize, true)
	require.NoError(t, err)
	require.EqualValues(t, 16*largestInBlock, m.bytes.Load(), "it has gone")
	tables.retire(larger)
	require.NoError(t, tables.release(larger))
	tables.wanted.Store(8 * largestInBlock)
	tables.provide()
	tables.close()
	require.Zero(t, m.bytes.Load())
	require.Zero(t, tables.bytes.Load())
	tables.wanted.Store(slots * slotSize)
	tables.provide()
	require.Zero(t, m.bytes.Load(), "after Close")
}
