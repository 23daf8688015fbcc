//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
Goal: a store that is full of live memories refuses what it has no room for, with the figures, and is as it was;
reads and deletions go on, and make room again. Method: each kind of write meets the limit of a small
budget.
*/

const fullBytes = 16 * minSegmentSize

// budgeted returns a store with this budget, and its medium as a name: "memory" or "directory".
func budgeted(t *testing.T, medium string, opts Options, h hooks) *Store {
	t.Helper()
	opts.SyncInterval = -1
	dir := ""
	if medium == "directory" {
		dir = fastDir(t)
	}
	s, err := open(dir, &opts, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		if !s.isClosed() {
			require.NoError(t, s.Close())
		}
		require.Zero(t, s.mapper.bytes.Load())
	})
	return s
}

// fillUp stores memories of size bytes until one is refused, and returns how many there are.
func fillUp(t *testing.T, s *Store, from, size int) (n int, refused error) {
	t.Helper()
	for n = from; refused == nil; n++ {
		refused = s.Put(idOf(n), contentOf(n, 0, size))
	}
	require.ErrorIs(t, refused, ErrNoSpace)
	return n - 1, refused
}

// requireTold checks that err says what a refused write has to say.
func requireTold(t *testing.T, s *Store, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrNoSpace)
	st := s.Stats()
	require.ErrorContains(t, err, fmt.Sprintf("MaxBytes %d", s.opts.MaxBytes))
	require.ErrorContains(t, err, fmt.Sprintf("%d bytes of records are live, %d dead", st.LiveBytes, st.DeadBytes))
}

func TestMaxBytes_Full(t *testing.T) {
	for _, medium := range []string{"memory", "directory"} {
		for _, size := range []int{100, 1000, 20_000} {
			t.Run(fmt.Sprintf("%s/%d", medium, size), func(t *testing.T) {
				s := budgeted(t, medium, Options{MaxBytes: fullBytes}, hooks{})
				n, err := fillUp(t, s, 0, size)
				require.Greater(t, bytesOf(n, size), int64(fullBytes/2))
				requireTold(t, s, err)
				before := settled(s)
				for _, write := range map[string]func() error{
					"put":       func() error { return s.Put(idOf(n), contentOf(n, 0, size)) },
					"large put": func() error { return s.Put(idOf(n), make([]byte, 2*minSegmentSize)) },
					"overwrite with a large one": func() error {
						return s.Put(idOf(0), make([]byte, 2*minSegmentSize))
					},
					"load": func() error {
						_, err := s.GetOrLoad(t.Context(), idOf(n), func(context.Context) ([]byte, error) {
							return make([]byte, 2*minSegmentSize), nil
						})
						return err
					},
				} {
					requireTold(t, s, write())
					after := settled(s)
					require.LessOrEqual(t, after.MappedBytes+after.SegmentDetails.SpareBytes, int64(fullBytes))
					require.Equal(t, before.TotalBytes, after.TotalBytes)
					require.Equal(t, before.LiveBytes, after.LiveBytes)
					require.Equal(t, before.Memories, after.Memories)
				}
				requireContents(t, s, 0, n+1, size, func(i int) bool { return i < n })

				// Deletions go on, and make room.
				deleteWhere(t, s, 0, n, odd)
				fill(t, s, n, n+n/4, size)
				requireContents(t, s, 0, n, size, func(i int) bool { return !odd(i) })
				requireContents(t, s, n, n+n/4, size, all)
				deleteWhere(t, s, 0, n+n/4, func(i int) bool { return !odd(i) || i >= n })
				require.Zero(t, s.Len()-countKept(n/4, func(i int) bool { return !odd(i+n) || i+n >= n }))
				fill(t, s, 0, n*2/3, size)
				requireContents(t, s, 0, n*2/3, size, all)
				require.LessOrEqual(t, s.Stats().MappedBytes+s.Stats().SegmentDetails.SpareBytes, int64(fullBytes))
			})
		}
	}
}

// Goal: at its budget a directory takes every deletion, though a tombstone is as large as what it deletes,
// with maintenance and without, and shrinks.
func TestMaxBytes_DeletionsOfEmpty(t *testing.T) {
	for _, disabled := range []bool{false, true} {
		for _, percent := range []int{10, 50, 100} {
			t.Run(fmt.Sprintf("disabled=%v/%d", disabled, percent), func(t *testing.T) {
				opts := Options{MaxBytes: fullBytes}
				opts.Maintenance.Disabled = disabled
				s := budgeted(t, "directory", opts, hooks{})
				n, _ := fillUp(t, s, 0, 0)
				deleteWhere(t, s, 0, n, func(i int) bool { return i%100 < percent })
				requireContents(t, s, 0, n, 0, func(i int) bool { return i%100 >= percent })
				_, err := s.Compact(t.Context())
				for errors.Is(err, ErrCompactionInProgress) { // maintenance has begun one
					_, err = s.Compact(t.Context())
				}
				require.NoError(t, err)
				if percent > 10 { // which gives back less than a segment: see "What fits" in docs/design.md
					fill(t, s, 0, n*percent/100/4, 0)
				}
				require.LessOrEqual(t, s.Stats().MappedBytes+s.Stats().SegmentDetails.SpareBytes, int64(fullBytes))
			})
		}
	}
}

// Goal: large memories, each with a segment of its own, fill the budget too, and leave it when they are deleted or
// overwritten.
func TestMaxBytes_FullOfLarge(t *testing.T) {
	for _, medium := range []string{"memory", "directory"} {
		t.Run(medium, func(t *testing.T) {
			const size = 100_000
			s := budgeted(t, medium, Options{MaxBytes: fullBytes}, hooks{})
			n, err := fillUp(t, s, 0, size)
			requireTold(t, s, err)
			require.Greater(t, n, 5)
			requireContents(t, s, 0, n, size, all)
			requireTold(t, s, s.Put(idOf(n), contentOf(n, 0, size)))
			n-- // in a directory tombstones take a segment
			deleteWhere(t, s, n, n+1, all)
			for range 3 {
				requireContents(t, s, 0, n, size, all)
				deleteWhere(t, s, 0, n, odd)
				for i := 1; i < n; i += 2 {
					require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
				}
			}
		})
	}
}

// Goal: tables of the index fill the budget as segments do, to its end, and Puts go on when memories were deleted.
// Method: all memories in one shard, whose table is larger than a segment.
func TestMaxBytes_FullWhenIndexGrows(t *testing.T) {
	t.Parallel()
	for _, medium := range []string{"memory", "directory"} {
		t.Run(medium, func(t *testing.T) {
			s := budgeted(t, medium, Options{MaxBytes: 2 * fullBytes}, hooks{hash: oneLane})
			n := 0
			var err error
			for ; err == nil; n++ {
				err = s.Put(idOf(n), nil)
			}
			n--
			requireTold(t, s, err)
			require.Greater(t, s.Stats().LiveBytes, s.opts.MaxBytes/3)
			before := settled(s)
			requireTold(t, s, s.Put(idOf(n), nil))
			require.Equal(t, before.TotalBytes, settled(s).TotalBytes)
			deleteWhere(t, s, 0, n, odd)
			for i := 0; i < n; i += 2 {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 20)))
			}
			requireContents(t, s, 0, n, 20, func(i int) bool { return !odd(i) })
		})
	}
}

// Goal: the index grows into the room of segments that were sealed half empty, as compactions at the limit leave them.
// Lanes fill such segments up, so it is the index that is refused: of a store that is half live, with nothing dead.
//
// Method: one record in each segment; then as many memories without a content as there is room for.
func TestMaxBytes_FullOfHalfEmpty(t *testing.T) {
	for _, medium := range []string{"memory", "directory"} {
		t.Run(medium, func(t *testing.T) {
			s := budgeted(t, medium, Options{MaxBytes: 2 * fullBytes}, hooks{hash: oneLane})
			n := 0
			for ; s.mapper.limit-s.mapper.bytes.Load() >= minSegmentSize; n++ {
				require.NoError(t, s.Put(idOf(n), contentOf(n, 0, 0)))
				s.sealLanes(0)
			}
			require.NoError(t, s.Sync())
			segments := s.Stats().Segments
			n, err := fillUp(t, s, n, 0)
			requireTold(t, s, err)
			require.Greater(t, s.Stats().LiveBytes, s.opts.MaxBytes*6/10, "in %d segments at first", segments)
			requireContents(t, s, 0, n, 0, all)
		})
	}
}

// Goal: a Put is not refused because its shard's table cannot be exchanged for a smaller or a larger one, while there
// is room for it in the one that is there. Method: no block of the index has room for another table.
func TestMaxBytes_TableStays(t *testing.T) {
	s := budgeted(t, "memory", Options{MaxBytes: 1 << 30}, hooks{hash: placedBy(func(int) int { return 3 })})
	fill(t, s, 0, 600, 0)
	s.tables.mu.Lock()
	last := s.tables.last()
	last.used = len(last.mem)
	s.tables.mu.Unlock()
	s.mapper.limit = s.mapper.bytes.Load()
	slots := s.shards[3].current().slots()
	deleteWhere(t, s, 0, 600, func(i int) bool { return i >= 100 })
	require.Equal(t, slots, s.shards[3].current().slots(), "it could not shrink")
	fill(t, s, 100, slots*fullest/8, 0)
	requireContents(t, s, 0, slots*fullest/8, 0, all)
	require.Equal(t, slots, s.shards[3].current().slots(), "it could not grow")
	require.ErrorIs(t, s.Put(idOf(slots), nil), ErrNoSpace)
}

// Goal: an overwrite is taken where only the index has no room, since it needs no further slot.
func TestMaxBytes_OverwriteWithFullTable(t *testing.T) {
	s := budgeted(t, "memory", Options{MaxBytes: 1 << 30, SegmentSize: 8 << 20},
		hooks{hash: oneLane, share: fullSegments})
	fill(t, s, 0, 100, 0)
	s.mapper.limit = s.mapper.bytes.Load()
	n, err := fillUp(t, s, 100, 0)
	requireTold(t, s, err)
	require.Greater(t, segmentOf(t, s, idOf(0)).room(1), 1000, "it is the index that is full")
	require.NoError(t, s.Put(idOf(0), []byte("newer")))
	got, err := s.Get(idOf(0))
	require.NoError(t, err)
	require.Equal(t, "newer", string(got))
	require.Equal(t, n, s.Len())
}

// countKept counts the memories below n that drop leaves.
func countKept(n int, drop func(i int) bool) (kept int) {
	for i := range n {
		if !drop(i) {
			kept++
		}
	}
	return kept
}
