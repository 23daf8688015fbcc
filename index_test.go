package warmtier

import (
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// withTag returns the slots that a look-up of tag meets, in order.
func (t table) withTag(tag uint32) (list []slot) {
	for pos, w := t.first(tag); w != 0; pos, w = t.following(pos, tag) {
		list = append(list, w)
	}
	return list
}

// requireTable holds every way of reading tab against model, the slots it should have.
func requireTable(t *testing.T, tab table, model map[slot]bool, step uint32) {
	t.Helper()
	byTag := map[uint32]int{}
	for w := range model {
		byTag[w.tag()]++
		pos, ok := tab.find(w)
		require.True(t, ok, "slot %#x not found", w)
		require.Equal(t, w, tab.get(pos))
	}
	for tag, n := range byTag {
		require.Len(t, tab.withTag(tag), n, "slots met by a look-up of tag %#x", tag)
	}
	seen := map[slot]bool{}
	for from := uint32(0); from < tagCount; from += min(step, tagCount-from) {
		to := from + min(step, tagCount-from)
		for _, w := range tab.appendRange(nil, from, to) {
			require.True(t, w.tag() >= from && w.tag() < to, "tag %#x outside [%#x, %#x)", w.tag(), from, to)
			require.False(t, seen[w], "slot %#x in two ranges, or twice in one", w)
			seen[w] = true
		}
	}
	require.Len(t, seen, len(model), "slots in all ranges together")
	for w := range seen {
		require.True(t, model[w], "slot %#x was removed", w)
	}
}

// Goal: a table is a set of slots, whatever was inserted, removed and resized before. Method:
// random steps against a map, with few different tags, so that runs are long and wrap around the
// end.
func TestTable_MatchesModel(t *testing.T) {
	for _, c := range []struct {
		name string
		tags []uint32
	}{
		{"one tag", []uint32{7}},
		{"the last tag", []uint32{tagCount - 1}},
		{"first and last tag", []uint32{0, tagCount - 1}},
		{"three neighbours at the end", []uint32{tagCount - 3, tagCount - 2, tagCount - 1}},
		{"five tags apart", []uint32{0, 1 << 20, 1 << 22, 1 << 23, tagCount - 1}},
		{"any tag", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			rnd := seeded(t)
			sh := &shard{}
			sh.setTable(make(table, 32))
			model := map[slot]bool{}
			var present []slot
			for step := range scaled(20_000) {
				switch tab := sh.current(); {
				case rnd.IntN(500) == 0: // grow or shrink
					resizeAtOnce(sh, make(table, len(model)*5/4+1+rnd.IntN(64)))
				case rnd.IntN(2) == 0 && (len(model)+1)*5 <= tab.slots()*4: // prepare makes room otherwise
					tag := rnd.Uint32N(tagCount)
					if c.tags != nil {
						tag = c.tags[rnd.IntN(len(c.tags))]
					}
					w := makeSlot(tag, location(step+1))
					tab.insert(w)
					model[w] = true
					present = append(present, w)
				case len(present) > 0:
					i := rnd.IntN(len(present))
					w := present[i]
					present[i] = present[len(present)-1]
					present = present[:len(present)-1]
					pos, ok := tab.find(w)
					require.True(t, ok)
					tab.remove(pos)
					delete(model, w)
					_, ok = tab.find(w)
					require.False(t, ok, "found after its removal")
				}
				if step%199 == 0 {
					requireTable(t, sh.current(), model, tagCount/7+rnd.Uint32N(tagCount/3))
				}
			}
			requireTable(t, sh.current(), model, tagCount)
		})
	}
}

// Goal: a removal moves back exactly the slots that could otherwise no longer be found, across the
// end of the table too. Method: every way to place five slots of all homes into eight positions,
// and each of the five removed.
func TestTable_RemoveExhaustive(t *testing.T) {
	const slots, inserted = 8, 5
	var homes [inserted]int
	for n := range 1 << (3 * inserted) {
		model := make([]slot, inserted)
		tab := make(table, slots)
		for i := range homes {
			homes[i] = n >> (3 * i) & (slots - 1)
			model[i] = makeSlot(uint32(homes[i]*tagCount/slots), location(i+1))
			tab.insert(model[i])
		}
		gone := n % inserted
		pos, ok := tab.find(model[gone])
		require.True(t, ok)
		tab.remove(pos)
		if _, found := tab.find(model[gone]); found {
			require.Failf(t, "found after its removal", "homes %v, slot %d", homes, gone)
		}
		for i, w := range model {
			if _, found := tab.find(w); !found && i != gone {
				require.Failf(t, "lost by the removal of another", "homes %v, removed %d, lost %d", homes, gone, i)
			}
		}
	}
}

// Goal: ranges walked one after the other, as All and compactions do, give each slot once although
// the table is resized and slots come and go in between. Method: change the table after every
// range.
func TestTable_RangesSurviveChanges(t *testing.T) {
	rnd := seeded(t)
	sh := &shard{}
	sh.setTable(make(table, 512))
	stay := map[slot]int{}
	for i := range 300 {
		w := makeSlot(rnd.Uint32N(tagCount), location(i+1))
		sh.current().insert(w)
		stay[w] = 0
	}
	var passing []slot
	for from := uint32(0); from < tagCount; {
		to := from + min(tagCount/50, tagCount-from)
		for _, w := range sh.current().appendRange(nil, from, to) {
			if _, ok := stay[w]; ok {
				stay[w]++
			}
		}
		from = to
		for _, w := range passing {
			pos, ok := sh.current().find(w)
			require.True(t, ok)
			sh.current().remove(pos)
		}
		passing = passing[:0]
		for i := range 20 {
			w := makeSlot(rnd.Uint32N(tagCount), location(1000+i))
			if _, ok := sh.current().find(w); !ok {
				sh.current().insert(w)
				passing = append(passing, w)
			}
		}
		resizeAtOnce(sh, make(table, 400+rnd.IntN(300)))
	}
	for w, times := range stay {
		require.Equal(t, 1, times, "slot %#x", w)
	}
}

// Goal: look-ups in a table that was never made find nothing.
func TestTable_Empty(t *testing.T) {
	var tab table
	_, w := tab.first(3)
	require.Zero(t, w)
	_, ok := tab.find(makeSlot(3, 1))
	require.False(t, ok)
	require.Empty(t, tab.appendRange(nil, 0, tagCount))
}

// Goal: tag and location, segment and offset go into 64 bits and come out again. Method: the limits
// of each part, for the smallest and the largest segments.
func TestIndex_LocationsPacked(t *testing.T) {
	for _, size := range []int{minSegmentSize, minSegmentSize + 4096, defaultSegmentSize, maxSegmentSize} {
		t.Run(fmt.Sprintf("segments of %d bytes", size), func(t *testing.T) {
			s := &Store{offsetBits: offsetBitsFor(size)}
			for _, index := range []int{0, 1, s.maxSegments() - 1} {
				for _, offset := range []int{layout.HeaderSize, size - 24} {
					loc := s.locate(&segment{index: index}, offset)
					w := makeSlot(tagCount-1, loc)
					require.EqualValues(t, tagCount-1, w.tag())
					require.Equal(t, loc, w.location())
					require.NotZero(t, makeSlot(0, loc), "the slot looks empty")
					require.Equal(t, index, int(loc>>s.offsetBits))
					require.Equal(t, offset, int(loc&(1<<s.offsetBits-1))*record.Align)
				}
			}
		})
	}
}

// Goal: shard and tag are the upper bits of the hash, and independent of each other.
func TestIndex_HashSplit(t *testing.T) {
	for _, c := range []struct {
		hash   uint64
		number int
		tag    uint32
	}{
		{0, 0, 0},
		{1<<33 - 1, 0, 0},
		{1 << 33, 0, 1},
		{1 << 56, 1, 0},
		{1<<64 - 1, shardCount - 1, tagCount - 1},
		{0xab123456_00000000, 0xab, 0x123456 >> 1},
	} {
		number, tag := splitHash(c.hash)
		require.Equal(t, c.number, number, "hash %#x", c.hash)
		require.Equal(t, c.tag, tag, "hash %#x", c.hash)
	}
}

// Goal: ids given as string and as bytes hash alike, and no two stores hash alike: nobody can
// choose ids that crowd one shard.
func TestIndex_HashSeededPerStore(t *testing.T) {
	a, b := openTest(t, quiet(), hooks{}), openTest(t, quiet(), hooks{})
	same := 0
	for i := range 100 {
		id := idOf(i)
		require.Equal(t, a.hash(id), a.hashBytes([]byte(id)))
		if a.hash(id) == b.hash(id) {
			same++
		}
	}
	require.Zero(t, same)
}

// Goal: ranges of a shard's tags cover all tags, in about the size asked for. Method: walk shards
// of several sizes.
func TestShard_RangesCoverAllTags(t *testing.T) {
	for _, n := range []int64{0, 1, 127, 128, 1000, 100_000, 1 << 30} {
		sh := &shard{}
		sh.memories.Store(n)
		steps := int64(0)
		for from := uint32(0); from < tagCount && steps <= 1000; steps++ {
			to := sh.rangeEnd(from, iterationBatch)
			require.Greater(t, to, from)
			require.LessOrEqual(t, to, uint32(tagCount))
			from = to
		}
		require.LessOrEqual(t, min(steps, 1000), n/iterationBatch+2, "batches for %d memories", n)
	}
}

// Goal: a table is resized when it would be over 4/5 or under 1/2 full, to about 3/5, and never
// just because a memory comes and goes. Method: every number of memories up and down again.
func TestShard_TableSize(t *testing.T) {
	sh := &shard{}
	page := vm.PageSize / slotSize
	line := tableAlign / slotSize
	resized := func(n int) bool {
		slots := sh.wanted(n)
		if slots == sh.current().slots() {
			return false
		}
		require.Zero(t, slots%line, "slots of whole cache lines")
		sh.setTable(make(table, slots))
		return true
	}
	resizes := 0
	for n := 1; n <= 20*page; n++ {
		if resized(n) {
			resizes++
			require.False(t, resized(n-1), "shrinks at %d, right after growing", n-1)
		}
		require.LessOrEqual(t, n*5, sh.current().slots()*4, "more than 4/5 full at %d", n)
	}
	require.LessOrEqual(t, resizes, 35)
	for n := 20 * page; n >= 0; n-- {
		if resized(n) {
			require.False(t, resized(n+1), "grows at %d, right after shrinking", n+1)
		}
		require.LessOrEqual(t, n*5, sh.current().slots()*4, "more than 4/5 full at %d", n)
		if n > page {
			// One line more than 5/3 of n, or not yet under 1/2.
			require.LessOrEqual(t, sh.current().slots(), n*2+line, "hardly full at %d", n)
		}
	}
	require.Equal(t, line, sh.current().slots())
}

// activeBytes returns the bytes of the active segments of all lanes, and of the survivor.
func (s *Store) activeBytes() (n int) {
	n = int(s.pool.held())
	for i := range s.lanes {
		s.lanes[i].mu.Lock()
		if seg := s.lanes[i].active; seg != nil {
			n += len(seg.mem)
		}
		s.lanes[i].mu.Unlock()
	}
	return n
}

// Goal: no two shards, and no two lanes, share a pair of cache lines.
func TestShard_Size(t *testing.T) {
	require.Zero(t, unsafe.Sizeof(shard{})%cpu.CacheLines)
	require.Zero(t, unsafe.Sizeof(lane{})%cpu.CacheLines)
}

// Goal: the seeded hash spreads ids that differ in little over all shards. Method: numbered ids;
// the bound is six standard deviations.
func TestIndex_IDsSpreadOverShards(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const perShard = 400
	var counts [shardCount]int
	for i := range shardCount * perShard {
		number, _ := splitHash(s.hash(idOf(i)))
		counts[number]++
	}
	require.GreaterOrEqual(t, slices.Min(counts[:]), perShard-6*20)
	require.LessOrEqual(t, slices.Max(counts[:]), perShard+6*20)
}
