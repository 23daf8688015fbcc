package warmtier

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// dropping returns hooks that make compactions drop the memories that drop names.
func dropping(drop func(i int) bool, at func(point) error) hooks {
	return hooks{at: at, fate: func(id string) fate {
		if drop(numberOf(id)) {
			return fateEvicted
		}
		return fateCopied
	}}
}

// Goal: what a round drops is gone, all else is as it was, and every count is right.
func TestDrop_MemoriesLeave(t *testing.T) {
	const n, size = 1200, 200
	for _, kind := range compactionKinds() {
		t.Run(kind.name, func(t *testing.T) {
			s := openTest(t, kind.opts, dropping(func(i int) bool { return i%3 == 0 }, nil))
			fill(t, s, 0, n, size)
			deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 1 })
			mustCompact(t, s)
			requireContents(t, s, 0, n, size, func(i int) bool { return i%3 == 2 })
			require.Equal(t, n/3, s.Len())
			st := s.Stats()
			require.Zero(t, st.DeadBytes)
			require.Equal(t, int64(n/3), st.Deletes)
			require.Less(t, st.Segments, n*size/minSegmentSize)
			fill(t, s, 0, n, size)
			requireContents(t, s, 0, n, size, all)
		})
	}
}

// Goal: victims of which everything is dropped leave without a target.
func TestDrop_NothingCopied(t *testing.T) {
	s := openTest(t, bounded(1), dropping(all, failAt(pointCompactTarget, 1, errInjected)))
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, func(i int) bool { return i%50 == 0 })
	st := mustCompact(t, s)
	require.Zero(t, st.BytesCopied)
	require.Zero(t, s.Len())
	require.Zero(t, s.Stats().TotalBytes)
}

// Goal: a memory that is written or deleted before its drop is not dropped, and counts stay right.
//
// The interleaving: the drop is staged, the slot changes, the drop is applied. One that did not compare would
// take out what was just stored.
func TestDrop_SupersededIsNotDropped(t *testing.T) {
	for _, p := range []point{pointCompactBuilt, pointCompactCommitted, pointCompactDrop} {
		t.Run(string(p), func(t *testing.T) {
			const n, size = 600, 200
			var s *Store
			h := dropping(all, doAt(p, 1, func() {
				for i := 0; i < n; i += 3 {
					require.NoError(t, s.Put(idOf(i), contentOf(i, 1, 300)))
				}
				deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 1 })
			}))
			s = openTest(t, unbounded(2), h)
			fill(t, s, 0, n, size)
			deleteWhere(t, s, n-1, n, all)
			mustCompact(t, s)
			require.Equal(t, n/3, s.Len())
			for i := range n {
				got, err := s.Get(idOf(i))
				if i%3 == 0 {
					require.NoError(t, err)
					require.Equal(t, contentOf(i, 1, 300), got)
				} else {
					require.ErrorIs(t, err, ErrNotFound)
				}
			}
		})
	}
}

// Goal: a round that fails at any point drops nothing, and the next one does.
func TestDrop_UndoneRound(t *testing.T) {
	const n, size = 600, 200
	for _, p := range []point{
		pointCompactTarget, pointCompactRecord, pointCompactBuilt, pointCompactFlip, pointCompactCommitted,
	} {
		t.Run(string(p), func(t *testing.T) {
			s := openTest(t, unbounded(1), dropping(odd, failAt(p, 1, errInjected)))
			fill(t, s, 0, n, size)
			deleteWhere(t, s, 0, 2, all)
			_, err := s.Compact(t.Context())
			require.ErrorIs(t, err, errInjected)
			requireContents(t, s, 2, n, size, all)
			requireIntact(t, s)
			mustCompact(t, s)
			requireContents(t, s, 2, n, size, func(i int) bool { return !odd(i) })
		})
	}
}

// Goal: a reader beside a drop finds every other memory, though drops move slots. Method: the only shard's
// memories are read while each second one is dropped.
func TestDrop_ReadersBeside(t *testing.T) {
	const n = 3000
	h := dropping(odd, nil)
	h.hash = oneLane
	s := openTest(t, unbounded(1), h)
	fill(t, s, 0, n, 32)
	for i := range n / 10 { // every segment becomes a victim
		fill(t, s, 10*i, 10*i+1, 32)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Compact(t.Context())
		done <- err
	}()
	for more := true; more; {
		select {
		case err := <-done:
			require.NoError(t, err)
			more = false
		default:
		}
		for i := 0; i < n; i += 200 {
			require.True(t, s.Has(idOf(i)), "memory %d", i)
		}
	}
	requireContents(t, s, 0, n, 32, func(i int) bool { return !odd(i) })
}

// Goal: a drop waits for a write of its lane, which remembers a position of the shard (I3).
//
// The interleaving: a Put has looked its id up, a drop moves slots back, the Put sets the slot at the position. All
// ids are one run of slots, of which the first one is dropped.
func TestDrop_WaitsForWriteOfItsLane(t *testing.T) {
	const n, size, written = 600, 200, 300
	var s *Store
	var swapped, applying atomic.Bool
	put := make(chan error, 1)
	reached := make(chan struct{})
	h := dropping(func(i int) bool { return i < 100 }, func(p point) error {
		switch {
		case p == pointCompactDrop:
			applying.Store(true)
			go func() { put <- s.Put(idOf(written), contentOf(written, 1, size)) }()
			<-reached
		case p == pointPutAppended && applying.Load():
			close(reached)
			stays(func() bool { return !swapped.Load() })
		case p == pointCompactSwapped:
			swapped.Store(true)
		}
		return nil
	})
	h.hash = func(id string) uint64 { return uint64(numberOf(id)) << (64 - shardBits - tagBits) }
	s = openTest(t, unbounded(1), h)
	fill(t, s, 0, n, size)
	deleteWhere(t, s, n-1, n, all)
	fill(t, s, 1, 2, size)
	mustCompact(t, s)
	require.NoError(t, <-put)
	got, err := s.Get(idOf(written))
	require.NoError(t, err)
	require.Equal(t, contentOf(written, 1, size), got)
	for i := range n {
		require.Equal(t, i >= 100 && i != n-1, s.Has(idOf(i)), "memory %d", i)
	}
	require.Equal(t, n-101, s.Len())
}
