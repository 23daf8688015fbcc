//go:build unix

package warmtier

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// evictingKinds are stores of 2 MiB that evict.
func evictingKinds() []struct {
	name string
	opts *Options
	dir  bool
} {
	kinds := []struct {
		name string
		opts *Options
		dir  bool
	}{
		{"memory", &Options{}, false},
		{"memory, no maintenance", &Options{Maintenance: MaintenanceOptions{Disabled: true}}, false},
		{"directory", &Options{SyncInterval: -1}, true},
		{"directory, no maintenance", &Options{SyncInterval: -1, Maintenance: MaintenanceOptions{Disabled: true}}, true},
	}
	for i := range kinds {
		kinds[i].opts.MaxBytes, kinds[i].opts.WhenFull = 2<<20, Evict
	}
	return kinds
}

func openEvicting(t *testing.T, dir bool, opts *Options, h hooks) *Store {
	t.Helper()
	path := ""
	if dir {
		path = fastDir(t)
	}
	s, err := open(path, opts, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close()) // maintenance may be at work, so that nothing is verified before
		if dir {
			closeIntact(t, openDir(t, path, quietly()))
		}
	})
	return s
}

// byHand are options of a store of 2 MiB that evicts in the call that finds no room, so that a test knows
// when.
func byHand() *Options {
	return &Options{MaxBytes: 2 << 20, WhenFull: Evict, Maintenance: MaintenanceOptions{Disabled: true}}
}

// Goal: a store that evicts takes every Put, has what it has just stored, is never over its budget, and
// counts what it dropped. Method: four times as much as there is room for, a third of it overwritten.
func TestEvict_EveryPutIsTaken(t *testing.T) {
	t.Parallel()
	for _, kind := range evictingKinds() {
		t.Run(kind.name, func(t *testing.T) {
			const n, size = 8000, 1000
			s := openEvicting(t, kind.dir, kind.opts, hooks{})
			for i := range n {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
				if i%3 == 0 {
					require.NoError(t, s.Put(idOf(i), contentOf(i, 1, size)))
				}
				got, err := s.Get(idOf(i))
				require.NoError(t, err)
				require.Len(t, got, size)
				if i%64 == 0 {
					st := s.Stats()
					require.LessOrEqual(t, st.MappedBytes+st.SegmentDetails.SpareBytes, st.MaxBytes)
				}
			}
			st := s.Stats()
			quiet := kind.opts.Maintenance.Disabled // else an eviction may be under way
			if quiet {
				require.Equal(t, int64(n), st.Drops.Evicted+int64(st.Memories))
			}
			require.GreaterOrEqual(t, st.Drops.EvictedBytes, st.Drops.Evicted*size)
			require.Greater(t, st.LiveBytes, st.MaxBytes/4, "room that is not used")
			require.Equal(t, 1.0, st.HitRatio)
			found := 0
			for i := range n {
				version := 0
				if i%3 == 0 {
					version = 1
				}
				switch got, err := s.Get(idOf(i)); err {
				case nil:
					require.Equal(t, contentOf(i, version, size), got)
					found++
				default:
					require.ErrorIs(t, err, ErrNotFound)
				}
			}
			if quiet {
				require.Equal(t, st.Memories, found)
			}
			if quiet && !kind.dir {
				requireIntact(t, s)
			}
		})
	}
}

// Goal: what is read stays, whatever passes through. Method: a tenth of the room is read between any two
// passes of the hand, which drops all else.
func TestEvict_WhatIsReadStays(t *testing.T) {
	const hot, n, size = 150, 6000, 1000
	s := openTest(t, byHand(), hooks{hash: oneLane})
	for i := range n {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		if i%300 == hot {
			requireContents(t, s, 0, hot, size, all)
		}
	}
	requireContents(t, s, 0, hot, size, all)
	require.Less(t, s.Len(), n/3)
}

// Goal: the hand clears the bit of what it lets by, once.
func TestEvict_HandClearsTheBit(t *testing.T) {
	const n, size = 8000, 1000
	s := openTest(t, byHand(), hooks{hash: oneLane})
	fill(t, s, 0, 100, size)
	requireContents(t, s, 0, 100, size, all)
	before := segmentOf(t, s, idOf(0)).id
	require.NotZero(t, slotOfAny(s, idOf(0))&readBit)
	fill(t, s, 100, n, size)
	require.NotEqual(t, before, segmentOf(t, s, idOf(0)).id)
	for i := range 50 {
		require.NotZero(t, slotOfAny(s, idOf(i)))
		require.Zero(t, slotOfAny(s, idOf(i))&readBit)
	}
}

// Goal: an id that comes back after it was dropped counts as read; one that was never there does not.
func TestEvict_GhostRemembers(t *testing.T) {
	const n, size = 4000, 1000
	s := openTest(t, byHand(), hooks{})
	fill(t, s, 0, n, size)
	marked := 0
	for i := range n {
		if slotOfAny(s, idOf(i))&readBit != 0 { // the fingerprint of another id, once in 2^15
			marked++
		}
	}
	require.Less(t, marked, n/400)
	remembered := func(i int) bool {
		var d draft
		d.place(s, idOf(i))
		shardIndex, tag := splitHash(d.hash)
		p := s.ghosts.place(shardIndex, tag)
		return p != nil && *p == ghostMark(d.hash)
	}
	missing, ghosts, next := 0, 0, n
	for i := range n {
		if !s.Has(idOf(i)) {
			missing++
			if remembered(i) { // others have taken the place of the rest
				ghosts++
			}
		}
	}
	require.Greater(t, ghosts, missing/2)
	// again stores one that is remembered. An eviction for that very write may take its place: then it is the turn of
	// another one.
	again := func(put func(i int)) int {
		for i := n - 1; ; i-- {
			if s.Has(idOf(i)) || !remembered(i) {
				continue
			}
			before := s.Stats().Drops.Evicted
			put(i)
			if s.Stats().Drops.Evicted == before {
				return i
			}
		}
	}
	back := again(func(i int) { require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size))) })
	require.NotZero(t, slotOfAny(s, idOf(back))&readBit)

	in := again(func(i int) { // a batch, with one that is there and was read, and a new one
		require.NoError(t, s.Put(idOf(next), contentOf(next, 0, size)))
		require.Zero(t, slotOfAny(s, idOf(next))&readBit)
		_, err := s.Get(idOf(next))
		require.NoError(t, err)
		require.NotZero(t, slotOfAny(s, idOf(next))&readBit)
		var b Batch
		for _, i := range []int{i, next, next + 1} {
			b.Put(idOf(i), contentOf(i, 0, size))
		}
		require.NoError(t, s.Apply(&b))
		next += 2
	})
	require.NotZero(t, slotOfAny(s, idOf(in))&readBit)
	require.Zero(t, slotOfAny(s, idOf(next-2))&readBit, "overwritten")
	require.Zero(t, slotOfAny(s, idOf(next-1))&readBit, "new")
}

// Goal: a compaction evicts before a write finds no room, and no longer once there is room.
func TestEvict_BeforeRoomIsGone(t *testing.T) {
	s := openTest(t, byHand(), hooks{})
	i := 0
	for ; !s.lacksRoom(); i++ {
		require.Zero(t, s.Stats().Drops.Evicted)
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 1000)))
	}
	require.Zero(t, s.Stats().Drops.Evicted)
	r, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.True(t, r.Compacted)
	require.Positive(t, s.Stats().Drops.Evicted)
	require.False(t, s.lacksRoom())
	r, err = s.Maintain(t.Context())
	require.NoError(t, err)
	require.Equal(t, SkipThreshold, r.Skipped)
}

// Goal: of what nobody reads the small ones stay for longer, and not for good.
func TestEvict_SmallOnesStay(t *testing.T) {
	const n = 3000
	s := openTest(t, byHand(), hooks{hash: oneLane})
	size := func(i int) int { return []int{100, 1900}[i%2] }
	for i := range n {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size(i))))
	}
	there := [2]int{}
	for i := range n {
		if s.Has(idOf(i)) {
			there[i%2]++
		}
	}
	require.Greater(t, there[0], 3*there[1]/2)
	require.Less(t, there[0], n/2)
}

// Goal: a content that cannot fit, whatever is dropped, is refused at once, and nothing is dropped for it;
// one that fits is taken.
func TestEvict_TooLargeDropsNothing(t *testing.T) {
	const n, size = 1000, 1000
	s := openTest(t, byHand(), hooks{})
	fill(t, s, 0, n, size)
	require.ErrorIs(t, s.Put(idOf(n), make([]byte, 2<<20)), ErrNoSpace)
	requireContents(t, s, 0, n, size, all)
	require.Zero(t, s.Stats().Drops.Evicted)
	require.NoError(t, s.Put(idOf(n), make([]byte, 1<<20)))
	require.True(t, s.Has(idOf(n)))
}

// Goal: of contents with a segment each those that are read stay, without a copy.
func TestEvict_LargeReadStays(t *testing.T) {
	const n, size = 60, 100_000
	s := openTest(t, byHand(), hooks{})
	for i := range n {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		_, err := s.Get(idOf(0))
		require.NoError(t, err)
	}
	require.Zero(t, s.Stats().CompactionDetails.BytesCopied)
	require.Less(t, s.Len(), n/2)
}

// Goal: the hand clears the bit of a large record that it passes over.
func TestEvict_HandClearsTheBitOfLarge(t *testing.T) {
	const size = 100_000
	s := openTest(t, byHand(), hooks{hash: oneLane})
	n := 0
	for ; s.Stats().Drops.Evicted == 0; n++ { // which the last one drops, and finds all others read
		require.NoError(t, s.Put(idOf(n), contentOf(n, 0, size)))
		if s.Stats().Drops.Evicted == 0 {
			_, err := s.Get(idOf(n))
			require.NoError(t, err)
		}
	}
	require.Greater(t, s.Len(), 5)
	for i := range n {
		require.Zero(t, slotOfAny(s, idOf(i))&readBit, "memory %d of %d", i, n)
	}
}

// Goal: a Put is taken though every large record is read again as soon as the hand has cleared its bit.
func TestEvict_ReadersFasterThanHand(t *testing.T) {
	const n, size = 60, 100_000
	var s *Store
	h := hooks{at: func(p point) error {
		if p == pointCompactWalked && s != nil {
			for i := range n {
				_, _ = s.Get(idOf(i))
			}
		}
		return nil
	}}
	opened := openTest(t, byHand(), h)
	s = opened
	for i := range n {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		for j := range i {
			_, _ = s.Get(idOf(j))
		}
	}
}

// Goal: WhenFull Evict without MaxBytes is an error that says so.
func TestEvict_NeedsMaxBytes(t *testing.T) {
	_, err := Open("", &Options{WhenFull: Evict})
	require.ErrorIs(t, err, ErrInvalidOptions)
	require.ErrorContains(t, err, "MaxBytes is 0, want a bound, since WhenFull is Evict")
	_, err = Open("", &Options{WhenFull: Evict + 1})
	require.ErrorIs(t, err, ErrInvalidOptions)
}

// Goal: dead bytes go before memories do. Method: the store is overwritten many times over, and what lives
// has room.
func TestEvict_DeadBytesFirst(t *testing.T) {
	const n, size = 700, 1000
	s := openTest(t, byHand(), hooks{})
	r := rand.New(rand.NewPCG(1, 2))
	for range 10 * n {
		i := r.IntN(n)
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
	}
	require.Zero(t, s.Stats().Drops.Evicted)
}

// Goal: what was evicted does not come back as it was before, after any kill and after a Close. Method: a
// directory of older versions and of deleted memories, copied while memories are evicted.
func TestEvict_NothingOlderComesBack(t *testing.T) {
	t.Parallel()
	const n, size = 4000, 1000
	dir := fastDir(t)
	opts := byHand()
	opts.SyncInterval = -1
	var s *Store
	newest := make([]int, n) // version + 1, 0 when deleted or never there
	pending := -1            // memory that is being written or deleted
	requireNewest := func(s *Store) {
		t.Helper()
		for id, content := range s.All() {
			i := numberOf(id)
			if i == pending {
				continue
			}
			require.NotZero(t, newest[i], "memory %d is back", i)
			if want := contentOf(i, newest[i]-1, size); string(want) != string(content) {
				require.Failf(t, "another version", "memory %d", i)
			}
		}
	}
	commits := 0
	h := hooks{at: func(p point) error {
		if p == pointCompactDrop || p == pointManifestSynced || p == pointCompactSwapped {
			if commits++; commits%budget(t, 97, 11) == 0 {
				copied := fastDir(t)
				copyDir(t, dir, copied)
				killed, err := Open(copied, quietly())
				require.NoError(t, err)
				requireNewest(killed)
				closeIntact(t, killed)
			}
		}
		return nil
	}}
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(3, 4))
	for range 2 * n {
		pending = r.IntN(n)
		if r.IntN(8) == 0 {
			_, err := s.Delete(idOf(pending))
			require.NoError(t, err)
			newest[pending] = 0
		} else {
			require.NoError(t, s.Put(idOf(pending), contentOf(pending, newest[pending], size)))
			newest[pending]++
		}
		pending = -1
	}
	require.NotZero(t, s.Stats().Drops.Evicted)
	require.NotZero(t, commits)
	requireNewest(s)
	closeIntact(t, s)
	s = openDir(t, dir, quietly())
	requireNewest(s)
	closeIntact(t, s)
}

// Goal: readers, writers, deletions and evictions side by side: each content is whole and its id's, counts
// are exact in the end, and the store is never over its budget.
func TestEvict_Together(t *testing.T) {
	t.Parallel()
	for _, kind := range evictingKinds() {
		t.Run(kind.name, func(t *testing.T) {
			const n, size = 6000, 400
			s := openEvicting(t, kind.dir, kind.opts, hooks{})
			calls := sized(t, 2500)
			var all sync.WaitGroup
			for g := range 4 {
				all.Go(func() {
					r := rand.New(rand.NewPCG(uint64(g), 9))
					for range calls {
						i := min(r.IntN(n), r.IntN(n))
						got, err := s.Get(idOf(i))
						if errors.Is(err, ErrNotFound) {
							err = s.Put(idOf(i), contentOf(i, 0, size))
							got = contentOf(i, 0, size)
						}
						if err != nil || string(got) != string(contentOf(i, 0, size)) {
							t.Error(i, len(got), err)
							return
						}
						if r.IntN(50) == 0 {
							if _, err := s.Delete(idOf(i)); err != nil {
								t.Error(err)
							}
						}
						if st := s.Stats(); r.IntN(20) == 0 && st.MappedBytes+st.SegmentDetails.SpareBytes > st.MaxBytes {
							t.Error(st.MappedBytes, st.SegmentDetails.SpareBytes)
						}
					}
				})
			}
			all.Wait()
			if !kind.dir && kind.opts.Maintenance.Disabled { // nothing else runs
				requireIntact(t, s)
			}
		})
	}
}

// Goal: the bit never gets to another id's slot, and brings no slot back. The interleavings: a reader has
// loaded a slot, and before it sets the bit the slot is emptied, overwritten, flipped, moved, or another's.
func TestMarkRead_SlotChanged(t *testing.T) {
	old, other := makeSlot(5, 1), makeSlot(5, 2)
	for _, tt := range []struct {
		name   string
		change func(tab table, pos int)
		want   []slot
	}{
		{"as it was", func(table, int) {}, []slot{old | readBit, other}},
		{"removed", func(tab table, pos int) { tab.remove(pos) }, []slot{other, 0}},
		{"overwritten", func(tab table, pos int) { tab.set(pos, makeSlot(5, 3)) }, []slot{makeSlot(5, 3), other}},
		{"flipped", func(tab table, pos int) { tab.set(pos, makeSlot(5, 4)) }, []slot{makeSlot(5, 4), other}},
		{"read", func(tab table, pos int) { tab.markRead(pos, old) }, []slot{old | readBit, other}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := make(table, 8)
			tab.insert(old)
			tab.insert(other)
			pos, ok := tab.find(old)
			require.True(t, ok)
			tt.change(tab, pos)
			tab.markRead(pos, old)
			require.Equal(t, tt.want, []slot{tab.get(pos), tab.get(pos + 1)})
		})
	}
}

// Goal: a slot is found, flipped and verified whether it was read or not, and a flip keeps the bit.
func TestEvict_FlipsIgnoreTheBit(t *testing.T) {
	const n, size = 900, 1000
	s := openTest(t, byHand(), hooks{})
	fill(t, s, 0, n, size)
	requireContents(t, s, 0, n, size, all)
	deleteWhere(t, s, 0, n, odd)
	mustCompact(t, s)
	requireIntact(t, s)
	for i := 0; i < n; i += 2 {
		require.NotZero(t, slotOfAny(s, idOf(i))&readBit)
	}
	s2 := openTest(t, nil, hooks{})
	fill(t, s2, 0, n, size)
	requireContents(t, s2, 0, n, size, all)
	require.Zero(t, slotOfAny(s2, idOf(1))&readBit, "set in a store that does not evict")
}

// Goal: what an eviction has won for lanes is not won again for a writer that has not come to run since it
// asked. The interleaving: the writer asks in a round of the eviction, which ends, and keeps memory for lanes; the
// next look would take that for its own targets, and so on until the store is empty.
func TestEvict_NotAgainBeforeWriterRuns(t *testing.T) {
	s := openTest(t, byHand(), hooks{})
	for i := 0; !s.pool.hasKept() || s.Stats().Drops.Evicted == 0; i++ {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 1000)))
	}
	s.room.ask()
	require.False(t, s.isPressed(s.sizes()))
	s.releasePool()
	require.True(t, s.isPressed(s.sizes()))
}
