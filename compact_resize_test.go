package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: resizing a table between stage, flip and undo changes nothing but positions.
//
// What would break: a flip that remembers where it saw a slot, and sets it there after the table
// was replaced.
//
// Method: all memories share one shard, which grows tenfold after the build, shrinks after the
// commit, and grows again before an undo.
func TestCompact_ShardResizedDuringRound(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", fails), func(t *testing.T) {
			const n, more, size = 500, 4000, 40
			s := openTest(t, unbounded(2), hooks{hash: placedBy(func(int) int { return 7 })})
			sh, _ := s.place(idOf(0))
			fill(t, s, 0, n, size)
			deleteWhere(t, s, 0, n, func(i int) bool { return !odd(i) })
			slots := func() int {
				sh.mu.Lock()
				defer sh.mu.Unlock()
				return sh.current().slots()
			}
			small := slots()
			var grown, shrunk int
			write := func(put bool) {
				for i := n; i < n+more; i++ {
					var err error
					if put {
						err = s.Put(idOf(i), contentOf(i, 0, size))
					} else {
						err = deletePresent(s, i)
					}
					if err != nil {
						t.Error(err)
					}
				}
			}
			s.hooks.at = both(
				doAt(pointCompactBuilt, 1, func() { write(true); grown = slots() }),
				doAt(pointCompactCommitted, 1, func() { write(false); shrunk = slots() }))
			if fails {
				s.hooks.at = both(s.hooks.at, failAt(pointCompactCommitted, 1, errInjected))
			}
			stats, err := s.Compact(context.Background())
			s.hooks.at = nil
			if fails {
				require.ErrorIs(t, err, errInjected)
			} else {
				require.NoError(t, err)
				require.EqualValues(t, n/2, stats.MemoriesMoved)
			}
			require.Greater(t, grown, 4*small)
			require.Less(t, shrunk, 2*small)
			requireContents(t, s, 0, n, size, odd)
			requireContents(t, s, n, n+more, size, none)
			require.Equal(t, n/2, s.Len())
			requireIntact(t, s)
		})
	}
}

// Goal: a shard may grow and shrink all the time while flips, and undone flips, run on it and
// readers look memories up.
//
// What would break: a resize that does not hold the shard's lock loses the slots that are flipped
// while it copies, and leads readers into a table that is gone.
//
// Method: all of it at once, left to the scheduler.
func TestCompact_ShardResizesWhileFlipping(t *testing.T) {
	const n, size = 600, 60
	more := 3000
	if raceEnabled {
		more = 1500
	}
	oversubscribe(t)
	s := openTest(t, bounded(2), hooks{hash: placedBy(func(i int) int { return i % 2 })})
	fill(t, s, 0, 2*n, size)
	var flips atomic.Int64
	s.hooks.at = func(p point) error {
		if p == pointCompactFlip {
			if f := flips.Add(1); f%7 == 0 {
				runtime.Gosched()
			} else if f%5000 == 0 {
				return errInjected
			}
		}
		return nil
	}
	c := newCrew(t)
	c.loop(func() error { // grows and shrinks
		for i := 2 * n; i < 2*n+more; i++ {
			if err := s.Put(idOf(i), contentOf(i, 0, 16)); err != nil {
				return err
			}
		}
		for i := 2 * n; i < 2*n+more; i++ {
			if err := deletePresent(s, i); err != nil {
				return err
			}
		}
		return nil
	})
	c.loop(func() error { // makes dead bytes everywhere
		for i := range n {
			if err := s.Put(idOf(i), contentOf(i, 0, size)); err != nil {
				return err
			}
		}
		return nil
	})
	c.loop(func() error {
		if _, err := s.Compact(context.Background()); err != nil && !errors.Is(err, errInjected) {
			return err
		}
		return nil
	})
	next := 0
	c.loop(func() error {
		next = (next + 11) % (2 * n)
		content, err := s.Get(idOf(next))
		if err == nil && !bytes.Equal(content, contentOf(next, 0, size)) {
			err = fmt.Errorf("wrong bytes for memory %d", next)
		}
		return err
	})
	c.wait(testDuration(t))
	s.hooks.at = nil
	requireContents(t, s, 0, 2*n, size, all)
	requireIntact(t, s)
	t.Logf("%d flips", flips.Load())
}

// Goal: lanes roll, and the segment table grows, while slots are flipped and while flips are
// undone.
//
// What would break: a target published into a table that is replaced at the same time; an index of
// the table given to two segments; a segment that is sealed during the round and taken for a
// victim.
//
// Method: at flips in the middle of the commit, Puts into other shards fill twenty segments.
func TestCompact_LanesRollDuringCommit(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("workers=%d/fails=%v", workers, fails), func(t *testing.T) {
				const n, more, moreSize = 600, 700, 2000
				s := openTest(t, unbounded(workers), hooks{hash: placedBy(func(i int) int {
					if i < n {
						return i / 2 % 128
					}
					return 128 + i%128
				})})
				fill(t, s, 0, n, layoutSize)
				deleteWhere(t, s, 0, n, odd)
				before := settled(s).Segments
				rolled := 0
				filled := make(chan struct{}) // other workers reach the second flip before that
				s.hooks.at = both(
					doAt(pointCompactFlip, 100, func() {
						for i := n; i < n+more; i++ {
							if err := s.Put(idOf(i), contentOf(i, 0, moreSize)); err != nil {
								t.Error(err)
							}
						}
						rolled = len(s.segments.all()) - before
						close(filled)
					}),
					doAt(pointCompactFlip, 200, func() {
						<-filled
						for i := n; i < n+more; i++ {
							if err := deletePresent(s, i); err != nil {
								t.Error(err)
							}
						}
					}))
				if fails {
					s.hooks.at = both(s.hooks.at, failAt(pointCompactFlip, 250, errInjected))
				}
				_, err := s.Compact(context.Background())
				require.Equal(t, fails, err != nil, "%v", err)
				s.hooks.at = nil
				require.Greater(t, rolled, 20)
				requireContents(t, s, 0, n, layoutSize, func(i int) bool { return !odd(i) })
				requireContents(t, s, n, n+more, moreSize, none)
				requireIntact(t, s)
				_, err = s.Compact(context.Background())
				require.NoError(t, err)
				require.Zero(t, s.Stats().DeadBytes)
			})
		}
	}
}
