package warmtier

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: tables are empty at first, apart from each other, and given back, a block with its last table;
// a table too long for a block is mapped by itself.
// Method: tables of all sizes, filled, and released in random order.
func TestTableMemory(t *testing.T) {
	var m mapper
	tables := tableMemory{mapper: &m}
	rng := seeded(t)
	var held []table
	bytes := 0
	for i := range 3000 {
		slots := (1 + rng.IntN(300)) * tableAlign / slotSize
		switch i % 500 {
		case 0:
			slots = 2 * largestInBlock / slotSize
		case 1:
			slots = hugeFrom / slotSize
		}
		tb, err := tables.acquire(slots, true)
		require.NoError(t, err)
		require.Len(t, tb, slots)
		require.Zero(t, uintptr(unsafe.Pointer(&tb[0]))%tableAlign)
		for pos := range tb {
			if tb.get(pos) != 0 {
				require.Failf(t, "not empty", "table %d, slot %d", i, pos)
			}
			tb.set(pos, slot(i+1))
		}
		held = append(held, tb)
		bytes += slots * slotSize
	}
	require.GreaterOrEqual(t, m.bytes.Load(), int64(bytes))
	for i, tb := range held {
		for pos := range tb {
			if tb.get(pos) != slot(i+1) {
				require.Failf(t, "another table was written to", "table %d, slot %d", i, pos)
			}
		}
	}
	require.Less(t, m.bytes.Load(), int64(bytes+bytes/4), "blocks are full")
	require.True(t, slices.ContainsFunc(tables.blocks, func(b *tableBlock) bool { return len(b.mem) == largeBlock }))
	rng.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	for i, tb := range held {
		if i == len(held)-1 {
			require.Positive(t, m.bytes.Load())
		}
		tables.retire(tb)
		require.NoError(t, tables.release(tb))
	}
	require.Zero(t, m.bytes.Load())
	require.Zero(t, m.mappings.Load())
	require.Zero(t, tables.bytes.Load())
}

// mappedForTables returns the bytes mapped for tables of shards and for blocks.
func (s *Store) mappedForTables() (n int64) {
	for _, b := range s.tables.blocks {
		n += int64(len(b.mem))
	}
	for i := range s.shards {
		t := s.shards[i].current()
		if !slices.ContainsFunc(s.tables.blocks, func(b *tableBlock) bool { return b.holds(t) }) {
			n += int64(vm.RoundUp(len(t)*slotSize, vm.PageSize))
		}
	}
	return n
}
