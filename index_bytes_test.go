package warmtier

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireIndexBytes checks the promise: at most 24 bytes per memory from 100,000 memories on, and in
// a smaller store not much more.
func requireIndexBytes(t *testing.T, indexBytes int64, memories int) {
	limit := 24 * int64(memories)
	if memories < 100_000 {
		limit += 4 * smallBlock
	}
	if indexBytes > limit { // in place of a call of require with every memory
		require.Failf(t, "too large an index", "%d bytes for %d memories, %.1f each",
			indexBytes, memories, float64(indexBytes)/float64(memories))
	}
}

// Goal: the index costs no more than 24 bytes per memory, while it grows and after mass deletes, and
// the tables get smaller again. Method: read IndexBytes at many sizes; it is all that is mapped for
// tables.
func TestIndex_BytesPerMemory(t *testing.T) {
	parallel(t)
	const least = 100_000
	most := sized(t, 4*least)
	opts := quiet()
	opts.SegmentSize = 4 << 20
	s := openTest(t, opts, hooks{})
	check := func(n int) {
		t.Helper()
		st := s.Stats()
		require.Equal(t, n, st.Memories)
		requireIndexBytes(t, st.IndexBytes, n)
		require.Equal(t, s.mappedForTables(), st.IndexBytes, "tables of %d memories", n)
	}
	for n := 1; n <= most; n++ {
		require.NoError(t, s.Put(idOf(n), nil))
		if n%(most/40) == 0 {
			check(n)
		}
	}
	peak := s.Stats().IndexBytes
	for n := most; n > 0; n-- {
		_, err := s.Delete(idOf(n))
		require.NoError(t, err)
		if (n-1)%(most/40) == 0 {
			check(n - 1)
		}
		if n-1 == least {
			require.LessOrEqual(t, s.tableBytes.Load(), peak/2, "tables after mass deletes")
		}
	}
	require.LessOrEqual(t, s.replaced.bytes.Load(), int64(leastReplaced))
	require.EqualValues(t, shardCount*tableAlign, s.tableBytes.Load(), "the smallest tables")
	mustCompact(t, s)
	require.Equal(t, s.mappedForTables()+int64(s.activeBytes()), s.Stats().MappedBytes)
	require.LessOrEqual(t, s.mappedForTables(), int64(3*smallBlock), "blocks of an empty store")
}

// Goal: the same while the number of memories swings by a third, whose tables are replaced again and
// again, in no order. Method: read IndexBytes after every Put and Delete.
func TestIndex_BytesPerMemory_Swinging(t *testing.T) {
	parallel(t)
	lo, hi := 0, 0
	least := sized(t, 100_000)
	opts := quiet()
	opts.SegmentSize = 4 << 20
	s := openTest(t, opts, hooks{})
	for range stride(t, 2, 5) {
		for ; hi-lo < least*136/100; hi++ {
			require.NoError(t, s.Put(idOf(hi), nil))
			requireIndexBytes(t, s.tables.bytes.Load(), hi+1-lo)
		}
		for ; hi-lo > least; lo++ {
			require.NoError(t, deletePresent(s, lo))
			requireIndexBytes(t, s.tables.bytes.Load(), hi-lo-1)
		}
		require.Equal(t, s.tables.bytes.Load(), s.Stats().IndexBytes)
	}
}

// weightless is a store whose memories are counted, and have neither a record nor a slot: what is
// left is the memory of tables, at several times the speed. Memory i is in the shard that a hash of i
// names; those from first to next are there.
type weightless struct {
	t           *testing.T
	s           *Store
	first, next uint64
}

func newWeightless(t *testing.T) *weightless {
	w := &weightless{t: t, s: openTest(t, quiet(), hooks{})}
	t.Cleanup(func() { // before the store is verified
		for i := range w.s.shards {
			w.s.shards[i].memories.Store(0)
		}
	})
	w.s.hooks.at = func(p point) error {
		if p == pointTableMoving {
			w.look()
		}
		return nil
	}
	return w
}

func (w *weightless) look() { requireIndexBytes(w.t, w.s.tables.bytes.Load(), int(w.next-w.first)) }

// change adds delta memories to the shard of i, as Put and Delete do.
func (w *weightless) change(i uint64, delta int64) {
	const mix = 0xd6e8feb86659fd93 // a finalizer with full avalanche (rrmxmx)
	h := (i ^ i>>32) * mix
	h = (h ^ h>>32) * mix
	shardIndex, _ := splitHash(h ^ h>>32)
	sh := &w.s.shards[shardIndex]
	sh.lane.mu.Lock()
	n := sh.memories.Add(delta)
	err := w.s.prepare(sh, int(n))
	sh.lane.mu.Unlock()
	if err != nil {
		require.NoError(w.t, err)
	}
	w.look()
	w.s.trimReplaced()
	w.look()
}

// to adds memories, or deletes the oldest or the newest ones, until there are n.
func (w *weightless) to(n int, oldest bool) {
	for ; w.next-w.first < uint64(n); w.next++ {
		w.change(w.next, 1)
	}
	for w.next-w.first > uint64(n) {
		i := w.next - 1
		if oldest {
			i = w.first
			w.first++
		} else {
			w.next--
		}
		w.change(i, -1)
	}
}

// Goal: at every moment, whatever the number of memories does, the index stays within its bytes.
// Method: growth, mass deletes, swings of many widths, and random walks, with a look after every
// memory, before and after old tables are given back, and while a block is emptied.
func TestIndex_BytesPerMemory_AnyPattern(t *testing.T) {
	parallel(t)
	const least = 100_000
	run := func(name string, pattern func(t *testing.T, w *weightless)) {
		t.Run(name, func(t *testing.T) { pattern(t, newWeightless(t)) })
	}
	run("growth and decline", func(t *testing.T, w *weightless) {
		w.to(sized(t, stride(t, 6, 15)*least), true)
		w.to(0, true)
		w.to(sized(t, 2*least), true)
		w.to(0, false)
	})
	for _, high := range []int{105, 120, 136, 150, 165, 180, 210, 250} {
		run(fmt.Sprintf("swings from 100 to %d", high), func(t *testing.T, w *weightless) {
			for range stride(t, 2, 4) {
				w.to(sized(t, high*least/100), true)
				w.to(sized(t, least), true)
			}
		})
	}
	walk := func(from, to float64, steps int) func(*testing.T, *weightless) {
		return func(t *testing.T, w *weightless) {
			rng := seeded(t)
			for range stride(t, steps/3, steps) {
				w.to(sized(t, int(from*math.Pow(to/from, rng.Float64()))), rng.IntN(2) == 0)
			}
		}
	}
	run("walk of small stores", walk(100, 30_000, 60))
	run("walk around the least", walk(least*8/10, least*3, 30))
	run("walk of large stores", walk(least, 15*least, 12))
}
