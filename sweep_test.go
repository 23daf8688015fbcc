//go:build unix

package warmtier

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
Goal: a segment in which nothing is live leaves at once, without a compaction, and none leaves that somebody still
needs. Method: one lane, whose segments are filled and emptied one by one; hooks stop a round where a segment looks
dead and is not.
*/

// emptiedStore returns a store of one lane, and the numbers of the memories in its first sealed segment.
func emptiedStore(t *testing.T, dir string, at func(point) error) (s *Store, first []int, n int) {
	t.Helper()
	opts := bounded(1)
	opts.SyncInterval = -1
	s, err := open(dir, opts, hooks{hash: oneLane, at: at})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for n = 0; len(s.segments.all()) < 4; n++ {
		require.NoError(t, s.Put(idOf(n), contentOf(n, 0, 1000)))
	}
	seg := segmentOf(t, s, idOf(0))
	for i := range n {
		if segmentOf(t, s, idOf(i)) == seg {
			first = append(first, i)
		}
	}
	return s, first, n
}

func TestSweep_DeadSegmentLeavesAtOnce(t *testing.T) {
	for _, how := range []string{"deleted", "overwritten"} {
		for _, medium := range []string{"memory", "directory"} {
			t.Run(how+"/"+medium, func(t *testing.T) {
				dir := ""
				if medium == "directory" {
					dir = fastDir(t)
				}
				s, first, n := emptiedStore(t, dir, nil)
				seg := segmentOf(t, s, idOf(first[0]))
				for _, i := range first {
					require.False(t, seg.is(stateRetired))
					if how == "deleted" {
						deleteWhere(t, s, i, i+1, all)
					} else {
						require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 1000)))
					}
				}
				if medium == "directory" {
					require.True(t, waitFor(func() bool { return seg.is(stateRetired) }))
				}
				require.True(t, seg.is(stateRetired))
				require.Zero(t, s.Stats().Compactions)
				gone := func(i int) bool { return how == "deleted" && i <= first[len(first)-1] }
				requireContents(t, s, 0, n, 1000, func(i int) bool { return !gone(i) })
				if medium == "directory" {
					require.NoError(t, s.Close())
					s, err := open(dir, quietly(), hooks{hash: oneLane})
					require.NoError(t, err)
					requireContents(t, s, 0, n, 1000, func(i int) bool { return !gone(i) })
					closeIntact(t, s)
				}
			})
		}
	}
}

// Goal: a sweep leaves alone the targets of a round that are published and have nothing live yet, and victims to
// which an undo gives their live bytes back. Method: others delete, and so sweep, at each point of the round.
func TestSweep_NotWhatARoundNeeds(t *testing.T) {
	for _, medium := range []string{"memory", "directory"} {
		for _, p := range []point{pointCompactBuilt, pointCompactFlip, pointCompactCommitted} {
			for _, fails := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/fails=%v", medium, p, fails), func(t *testing.T) {
					dir := ""
					if medium == "directory" {
						dir = fastDir(t)
					}
					var at atomic.Pointer[func(point) error]
					s, first, n := emptiedStore(t, dir, func(q point) error {
						if f := at.Load(); f != nil {
							return (*f)(q)
						}
						return nil
					})
					deleteWhere(t, s, 0, n, odd)
					var once sync.Once
					f := func(q point) (err error) {
						if q != p {
							return nil
						}
						once.Do(func() {
							elsewhere(func() { s.noteAllDead(); s.sweepCounted() })
							if fails {
								err = errInjected
							}
						})
						return err
					}
					at.Store(&f)
					_, err := s.Compact(t.Context())
					at.Store(nil)
					if fails {
						require.ErrorIs(t, err, errInjected)
					} else {
						require.NoError(t, err)
					}
					require.NotEmpty(t, first)
					requireContents(t, s, 0, n, 1000, func(i int) bool { return !odd(i) })
					requireIntact(t, s)
				})
			}
		}
	}
}

// Goal: a segment with a tombstone that is still needed stays, as long as an older record of the id is in another.
func TestSweep_NotANeededTombstone(t *testing.T) {
	dir := fastDir(t)
	s, first, n := emptiedStore(t, dir, nil)
	deleteWhere(t, s, first[0], first[0]+1, all)
	tombstones := s.lanes[0].active
	for s.lanes[0].active == tombstones { // it is sealed, with live memories
		require.NoError(t, s.Put(idOf(n), contentOf(n, 0, 1000)))
		n++
	}
	for i := range n {
		if i != first[0] && segmentOf(t, s, idOf(i)) == tombstones {
			deleteWhere(t, s, i, i+1, all)
		}
	}
	require.Zero(t, tombstones.live.Load())
	s.noteAllDead()
	s.sweepCounted()
	require.False(t, tombstones.is(stateRetired))
	require.Equal(t, unclaimed, tombstones.claimedBy())
	copied := t.TempDir()
	require.NoError(t, s.Sync())
	copyDir(t, dir, copied)
	again := openDir(t, copied, quietly())
	require.False(t, again.Has(idOf(first[0])), "deleted")
	closeIntact(t, again)
}

// Goal: what a write notes as dead while somebody sweeps leaves as well, and the one who sweeps does not
// go on for ever: a sweep looks again when it has ended, a write hands over to a goroutine. Method: the
// second segment dies while the first one is being swept.
func TestSweep_NotedDuringAnother(t *testing.T) {
	for name, first := range map[string]func(t *testing.T, s *Store){
		"by a write": func(t *testing.T, s *Store) { deleteWhere(t, s, 0, 1, all) },
		"by a call that sweeps": func(t *testing.T, s *Store) {
			s.dead.on = false
			deleteWhere(t, s, 0, 1, all)
			s.dead.on = true
			require.Positive(t, s.sweepCounted())
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			fill(t, s, 0, 2, 2*minSegmentSize) // each in a segment of its own
			s.hooks.at = doAt(pointSweepClaimed, 1, func() { deleteWhere(t, s, 1, 2, all) })
			first(t, s)
			require.True(t, waitFor(func() bool { return s.Stats().Segments == 0 }))
			passThrough(&s.dead.running)
			s.hooks.at = nil
		})
	}
}
