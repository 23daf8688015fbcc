package warmtier

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/cpu"
)

// oneTag is a hash that gives all ids the same shard and tag: their slots lie side by side in the
// order of their first Puts, and a look-up passes the slots before its own.
func oneTag(string) uint64 { return 7<<(64-shardBits) | 12345<<(64-shardBits-tagBits) }

// Goal: an id that is there all the time is found although removals move its slot to where the
// reader has already been: a miss counts only when no removal came between.
//
// The interleaving: slots A, B, X lie side by side. The reader has passed B; A is deleted, so B and
// X move back, and the reader finds nothing after B. It looks again and passes B, which comes first
// by then; B is deleted, X moves to its place, and the reader finds nothing again.
func TestFind_RemovalMovesSlotPastReader(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneTag})
	fill(t, s, 0, 3, 50)
	remove := func(i int) func() {
		return func() {
			if err := deletePresent(s, i); err != nil {
				t.Error(err)
			}
		}
	}
	// Passings: A, B of the first probe; B of the second.
	s.hooks.at = both(doAt(pointFindOther, 2, remove(0)), doAt(pointFindOther, 3, remove(1)))
	got, err := s.Get(idOf(2))
	s.hooks.at = nil
	require.NoError(t, err)
	require.Equal(t, contentOf(2, 0, 50), got)
	require.Equal(t, 1, s.Len())
	require.Zero(t, s.Stats().Misses)
}

// Goal: a reader that meets a removal at every attempt ends with the shard's lock, and is right.
//
// Method: each time the reader has passed the last slot before its own, the first slot is removed,
// until the reader has no attempt left.
func TestFind_RemovalAtEveryAttempt(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneTag})
	const others = missAttempts + 3
	fill(t, s, 0, others+1, 50)
	passed, removed := 0, 0
	s.hooks.at = func(p point) error {
		if p != pointFindOther || removed > missAttempts {
			return nil
		}
		if passed++; passed < others-removed {
			return nil
		}
		next := removed
		passed, removed = 0, missAttempts+1 // the Delete itself passes others
		elsewhere(func() {
			if err := deletePresent(s, next); err != nil {
				t.Error(err)
			}
		})
		removed = next + 1
		return nil
	}
	got, err := s.Get(idOf(others))
	s.hooks.at = nil
	require.NoError(t, err)
	require.Equal(t, contentOf(others, 0, 50), got)
	require.Equal(t, missAttempts+1, removed, "attempts that a removal came between")
}

// Goal: at no moment of a removal is a slot that stays in neither of its two places. Method: the
// stores of a removal are replayed one by one, and all slots looked for after each.
func TestTable_RemovalKeepsEverySlotFindable(t *testing.T) {
	rnd := seeded(t)
	for range 2000 {
		tab := make(table, 16)
		var present []slot
		for i := range 11 {
			w := makeSlot(rnd.Uint32N(tagCount), location(i+1))
			tab.insert(w)
			present = append(present, w)
		}
		gone := present[rnd.IntN(len(present))]
		pos, _ := tab.find(gone)
		after := append(table(nil), tab...)
		after.remove(pos)
		// Every store of a removal goes to the hole, which moves forward.
		for hole := pos; tab[hole] != after[hole] || after[hole] != 0; hole = tab.next(hole) {
			tab[hole] = after[hole]
			for _, w := range present {
				require.True(t, w == gone || contains(tab, w), "slot %#x in neither place", w)
			}
			if after[hole] == 0 {
				break
			}
		}
		require.Equal(t, after, tab)
	}
}

func contains(t table, w slot) bool {
	for _, v := range t {
		if v == w {
			return true
		}
	}
	return false
}

// oneLaneOrTag spreads the tags where a table has to be filled.
func oneLaneOrTag(name string) func(string) uint64 {
	if name == "table replaced" {
		return oneLane
	}
	return oneTag
}

// Goal: a table that was replaced stays mapped for readers that are in it (I7), and its memory is
// given back afterwards, even when no compaction runs.
//
// The interleaving: a reader has loaded a table and the first slot. Puts replace the table, several
// times. The reader loads the next slot.
func TestFind_TableReplacedUnderReader(t *testing.T) {
	// All ids share a tag, except those that make the table grow.
	s := openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		if id < idOf(10) {
			return oneTag(id)
		}
		return 7<<(64-shardBits) | oneLane(id)>>shardBits
	}})
	fill(t, s, 0, 3, 50)
	sh, _ := s.place(idOf(0))
	s.hooks.at = doAt(pointFindOther, 1, func() {
		before := sh.table.Load()
		for i, replaced := 10, 0; replaced < 3; i++ {
			if err := s.Put(idOf(i), nil); err != nil {
				t.Error(err)
			}
			if now := sh.table.Load(); now != before {
				before = now
				replaced++
			}
		}
		if s.replaced.bytes.Load() == 0 {
			t.Error("no table waits, though a reader is in one")
		}
	})
	got, err := s.Get(idOf(2))
	s.hooks.at = nil
	require.NoError(t, err)
	require.Equal(t, contentOf(2, 0, 50), got)
	s.releaseReplaced()
	st := s.Stats()
	require.Equal(t, s.mappedForTables(), st.IndexBytes)
	require.Equal(t, s.mappedForTables()+int64(s.activeBytes()), st.MappedBytes)
}

// Goal: writes alone keep the memory of replaced tables within its bound, and a write that gives
// some back waits for readers.
//
// Method: a store grows and shrinks; then a reader stays inside while replaced tables are trimmed.
func TestReplaced_Bounded(t *testing.T) {
	parallel(t)
	s := openTest(t, quiet(), hooks{})
	bound := func() int64 { return max(leastReplaced, s.tableBytes.Load()/16) }
	const n = 120_000
	for i := range n {
		require.NoError(t, s.Put(idOf(i), nil))
		require.LessOrEqual(t, s.replaced.bytes.Load(), bound())
	}
	require.Positive(t, s.Stats().MaxSwapPause, "trimming holds the lock too")
	for i := range n {
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
		require.LessOrEqual(t, s.replaced.bytes.Load(), bound())
	}
	mem, err := s.mapper.acquire(2 * leastReplaced)
	require.NoError(t, err)
	hold := s.contentMu.RLock()
	s.replaced.add(tableOf(mem))
	trimmed := make(chan struct{})
	go func() {
		s.trimReplaced()
		close(trimmed)
	}()
	require.True(t, waitFor(func() bool { return someoneIn((*Store).trimReplaced) }))
	require.True(t, stays(func() bool { return s.replaced.bytes.Load() > 0 }), "given back under a reader")
	s.contentMu.RUnlock(hold)
	<-trimmed
	require.Zero(t, s.replaced.bytes.Load())
}

// Goal: fields that readers load share no cache line with fields that writers and compactions
// write.
func TestLayout_ReadersApartFromWriters(t *testing.T) {
	apart := func(what string, lastRead, firstWritten uintptr) {
		t.Helper()
		require.GreaterOrEqual(t, firstWritten, lastRead+cpu.CacheLines/2, "%s: %d, %d", what, lastRead, firstWritten)
	}
	var seg segment
	read := max(unsafe.Offsetof(seg.mem), unsafe.Offsetof(seg.tail), unsafe.Offsetof(seg.seed), unsafe.Offsetof(seg.index))
	apart("segment", read, min(unsafe.Offsetof(seg.live), unsafe.Offsetof(seg.refs), unsafe.Offsetof(seg.records)))
	last := unsafe.Offsetof(seg.inFile) + unsafe.Offsetof(seg.inFile.synced)
	apart("segment and what follows it", last, unsafe.Sizeof(seg))
	var sh shard
	apart("shard", unsafe.Offsetof(sh.table), unsafe.Offsetof(sh.mu))
	var s Store
	apart("store, front", unsafe.Offsetof(s.lanes), unsafe.Offsetof(s.shards)+unsafe.Offsetof(sh.mu))
	apart("store, back", unsafe.Offsetof(s.tableBytes), unsafe.Offsetof(s.sequence))
}
