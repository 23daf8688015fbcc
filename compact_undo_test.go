package warmtier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// injectedFault is the error of injected faults; errors.As finds it through every wrapping.
type injectedFault struct{ where string }

func (e *injectedFault) Error() string { return "injected fault: " + e.where }

// fault is one way to make a compaction of faultStore fail.
type fault struct {
	p point
	n int64 // the n-th time the point is passed
}

func (f fault) String() string { return fmt.Sprintf("time %d at %q", f.n, string(f.p)) }

// faults returns one fault for each point that can fail, and more for flips at the beginning, in
// the middle and at the end of a commit.
func faults() (list []fault) {
	for _, p := range []point{
		pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactBuilt, pointCompactCommitted,
	} {
		list = append(list, fault{p, 1})
	}
	for _, n := range []int64{1, 2, 100, faultMemories / 2} {
		list = append(list, fault{pointCompactRecord, n}, fault{pointCompactFlip, n})
	}
	return append(list,
		fault{pointCompactTarget, 2}, fault{pointCompactFlip, faultMemories/2 - 1}, fault{pointCompactFlip, 333})
}

// Goal: whatever fails in a compaction, the round is undone: every memory is readable, every figure
// is as before the round, and the next compaction succeeds. Method: each injected fault, with one
// worker and with four, in a single round and in several.
func TestCompact_UndoneOnFault(t *testing.T) {
	parallel(t)
	for _, c := range compactionKinds() {
		for _, f := range faults() {
			t.Run(fmt.Sprintf("%s, %v", c.name, f), func(t *testing.T) {
				s := faultStore(t, c.opts)
				injected := &injectedFault{f.String()}
				before := settled(s)
				s.hooks.at = failAt(f.p, f.n, injected)
				stats, err := s.Compact(context.Background())
				requireFailed(t, s, before, stats, err)
				require.ErrorIs(t, err, injected)
				var as *injectedFault
				require.ErrorAs(t, err, &as)
				require.Same(t, injected, as)
				if c.opts.Compaction.MaxOverhead < 0 {
					require.Zero(t, stats.Rounds, "no round was finished")
				}
				requireContents(t, s, 0, faultMemories, 400, odd)
				requireIntact(t, s)
				requireUnpinned(t, s)

				s.hooks.at = nil
				stats = mustCompact(t, s)
				require.Zero(t, stats.FragmentationAfter)
				requireContents(t, s, 0, faultMemories, 400, odd)
			})
		}
	}
}

// requireFailed checks the error of a compaction beside which nobody wrote, and that Stats differ
// from those before it only by the rounds it finished.
func requireFailed(t *testing.T, s *Store, before Stats, stats CompactionStats, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrCompactionFailed)
	after := s.Stats()
	require.Equal(t, before.CompactionFailures+1, after.CompactionFailures)
	require.Equal(t, before.Compactions, after.Compactions)
	require.False(t, after.CompactionInProgress)
	require.Equal(t, before.Memories, after.Memories)
	require.Equal(t, before.LiveBytes, after.LiveBytes)
	require.Equal(t, before.TotalBytes-stats.BytesReclaimed, after.TotalBytes)
	require.Equal(t, after.TotalBytes, stats.BytesAfter)
	if stats.Rounds == 0 {
		require.Zero(t, stats.BytesReclaimed)
		require.Zero(t, stats.MemoriesMoved)
		requireSameState(t, before, after)
	}
}

// Goal: after several compactions that failed, each later than the one before, the next one ends as
// if nothing had failed. Method: fail at the n-th flip, n growing, until one succeeds.
func TestCompact_FaultAfterFault(t *testing.T) {
	opts := quiet()
	opts.Compaction.MaxOverhead = 1
	s := faultStore(t, opts)
	injected := &injectedFault{"flip"}
	for n := int64(1); ; n += 61 {
		before := settled(s)
		s.hooks.at = failAt(pointCompactFlip, n, injected)
		stats, err := s.Compact(context.Background())
		if err == nil {
			break
		}
		require.ErrorIs(t, err, injected)
		requireFailed(t, s, before, stats, err)
		requireContents(t, s, 0, faultMemories, 400, odd)
		requireIntact(t, s)
		require.Less(t, n, int64(faultMemories))
	}
	require.Zero(t, s.Stats().DeadBytes)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: no room for a target undoes the round, with ErrNoSpace as the cause. Method: no segment
// number is left, so that the error is the store's own and not an injected one.
func TestCompact_UndoneOnNoSpace(t *testing.T) {
	s := faultStore(t, quiet())
	used := s.segments.used
	s.segments.used = s.maxSegments()
	before := settled(s)
	stats, err := s.Compact(context.Background())
	require.ErrorIs(t, err, ErrNoSpace)
	requireFailed(t, s, before, stats, err)
	requireContents(t, s, 0, faultMemories, 400, odd)
	s.segments.used = used
	mustCompact(t, s)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: a damaged live record fails the compaction with an error that says where it is; the round
// is undone, and reads go on reporting the damage. Later compactions leave its segment alone, give
// others back, and give this one back once nothing in it is live. Method: flip a byte in each part
// of a record in a sealed segment.
func TestCompact_UndoneOnCorruptRecord(t *testing.T) {
	parallel(t)
	for _, c := range compactionKinds() {
		for _, damage := range []struct {
			name string
			at   int // byte of the record
			flip byte
		}{
			{"kind", atKind, 0xff},
			{"kind, to a tombstone", atKind, 0x03},
			{"id length", atIDLen, 0x01},
			{"content length out of bounds", atContentLen + 2, 0xff},
			{"content length in bounds", atContentLen, 0x01},
			{"content checksum", atContentSum, 0x01},
			{"sequence number", atSeq + 1, 0x01},
			{"id", record.HeaderSize, 0xff},
			{"content", record.HeaderSize + 100, 0x01},
		} {
			t.Run(fmt.Sprintf("%s, %s", c.name, damage.name), func(t *testing.T) {
				s := faultStore(t, c.opts)
				victim := 501
				seg, offset := locationOf(t, s, idOf(victim))
				rec := recordOf(t, s, idOf(victim))
				before := settled(s)
				rec[damage.at] ^= damage.flip
				stats, err := s.Compact(context.Background())
				requireFailed(t, s, before, stats, err)
				require.ErrorIs(t, err, ErrCorrupt)
				var corrupt *CorruptError
				require.ErrorAs(t, err, &corrupt)
				require.Equal(t, seg.name(), corrupt.File)
				require.EqualValues(t, offset, corrupt.Offset)
				require.NotEmpty(t, corrupt.Reason)
				require.NotContains(t, err.Error(), idOf(victim), "ids do not belong in messages")
				_, err = s.Get(idOf(victim))
				require.ErrorIs(t, err, ErrCorrupt)
				requireContents(t, s, 0, victim, 400, odd)
				requireContents(t, s, victim+1, faultMemories, 400, odd)

				mustCompact(t, s)
				require.Same(t, seg, s.segments.at(seg.index), "the damaged segment stays")
				require.Equal(t, seg.deadBytes(), s.Stats().DeadBytes, "the others are compacted")
				rec[damage.at] ^= damage.flip
				requireContents(t, s, 0, faultMemories, 400, odd)
				requireIntact(t, s)

				deleteWhere(t, s, 0, faultMemories, odd)
				mustCompact(t, s)
				require.Nil(t, s.segments.at(seg.index), "the damaged segment goes when nothing in it lives")
				require.Zero(t, s.Stats().TotalBytes)
			})
		}
	}
}

// Goal: a compaction cancelled at any point ends early with the cause, and its current round is
// undone. Method: cancel while each point is passed, for the first and for a later time.
func TestCompact_CancelledAtEachPoint(t *testing.T) {
	parallel(t)
	for _, c := range compactionKinds() {
		for _, p := range []point{
			pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
			pointCompactBuilt, pointCompactFlip, pointCompactCommitted, pointCompactSwapped,
		} {
			for _, n := range []int64{1, 3} {
				t.Run(fmt.Sprintf("%s, %v", c.name, fault{p, n}), func(t *testing.T) {
					s := faultStore(t, c.opts)
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					cause := &injectedFault{"cancelled"}
					var passed atomic.Int64
					var cancelled, builtAfter atomic.Bool
					s.hooks.at = func(q point) error {
						if q == pointCompactBuilt && cancelled.Load() {
							builtAfter.Store(true)
						}
						if q == p && passed.Add(1) == n {
							cancel(cause)
							cancelled.Store(true)
						}
						return nil
					}
					before := settled(s)
					stats, err := s.Compact(ctx)
					if slices.Contains([]point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord}, p) {
						require.False(t, builtAfter.Load(), "the round was built to its end")
					}
					// A round that was committed is finished, and may have been the last.
					if err == nil {
						require.True(t, !cancelled.Load() || p == pointCompactCommitted || p == pointCompactSwapped)
						require.Zero(t, stats.FragmentationAfter)
					} else {
						require.ErrorIs(t, err, cause)
						requireFailed(t, s, before, stats, err)
					}
					requireContents(t, s, 0, faultMemories, 400, odd)
					requireIntact(t, s)
					requireUnpinned(t, s)
					s.hooks.at = nil
					mustCompact(t, s)
					require.Zero(t, s.Stats().DeadBytes)
					requireContents(t, s, 0, faultMemories, 400, odd)
				})
			}
		}
	}
}

// Goal: a round that fails at any of its flips, with writers running, takes back exactly the slots
// that are still its own.
//
// What would break: an undo that misses the batch in which the flip failed, or the flips of the
// other workers; one that takes back a slot that a writer has replaced.
//
// Method: a small round fails at its k-th flip, for every k; before each flip the writers get the
// processor. Each store is small, so that there are thousands of rounds.
func TestUndo_AtEveryFlipWithWriters(t *testing.T) {
	const n, size = 32, 100
	last := n
	if testing.Short() {
		last = 6
	}
	for _, workers := range []int{1, 4} {
		for k := 1; k <= last; k++ {
			t.Run(fmt.Sprintf("workers=%d/flip=%d", workers, k), func(t *testing.T) {
				s := openTest(t, unbounded(workers), hooks{})
				l := newLedger(n, func(int, int64) int { return size })
				for range 2 { // version 1 is dead, version 2 live
					for i := range n {
						require.NoError(t, l.write(s, i))
					}
				}
				fail := failAt(pointCompactFlip, int64(k), errInjected)
				s.hooks.at = func(p point) error {
					if p == pointCompactFlip {
						runtime.Gosched()
					}
					return fail(p)
				}
				c := newCrew(t)
				var writes atomic.Int64
				for w := range 2 {
					r := rand.New(rand.NewPCG(uint64(k), uint64(w)))
					c.loop(func() error {
						writes.Add(1)
						return errors.Join(l.write(s, r.IntN(n/2)*2+w), l.get(s, r.IntN(n)))
					})
				}
				require.True(t, waitFor(func() bool { return writes.Load() > 2 }))
				_, err := s.Compact(context.Background())
				c.wait(0)
				if err != nil { // fewer than k were left to be flipped
					require.ErrorIs(t, err, errInjected)
				}
				l.requireFinal(t, s)
				s.hooks.at = nil
				_, err = s.Compact(context.Background())
				require.NoError(t, err)
				require.Zero(t, s.Stats().DeadBytes)
				l.requireFinal(t, s)
			})
		}
	}
}

// Goal: undo looks at every slot it takes back: a memory that was written after its flip keeps what
// was written.
//
// Method: as in the test above, but without chance: the round fails at its k-th flip, for every k,
// and right before that most memories in other shards are overwritten or deleted, flipped or not.
func TestUndo_AtEveryFlipAfterWrites(t *testing.T) {
	const n, size = 24, 100
	for k := 1; k <= n; k++ {
		t.Run(fmt.Sprintf("flip=%d", k), func(t *testing.T) {
			// Each shard has one memory: at the k-th flip of one worker, shard k-1 is locked.
			s := openTest(t, unbounded(1), hooks{hash: placedBy(func(i int) int { return i })})
			l := newLedger(n, func(int, int64) int { return size })
			for range 2 {
				for i := range n {
					require.NoError(t, l.write(s, i))
				}
			}
			s.hooks.at = both(doAt(pointCompactFlip, int64(k), func() {
				for i := range n {
					if i == k-1 || (i+k)%4 == 0 { // its shard is locked; one in four stays as it is
						continue
					}
					for range 1 + i%3 { // versions 3 to 5, 5 is a delete
						if err := errors.Join(l.write(s, i), l.get(s, i)); err != nil {
							t.Error(err)
						}
					}
				}
			}), failAt(pointCompactFlip, int64(k), errInjected))
			stats, err := s.Compact(context.Background())
			s.hooks.at = nil
			require.ErrorIs(t, err, errInjected)
			require.Zero(t, stats.Rounds)
			l.requireFinal(t, s)
			_, err = s.Compact(context.Background())
			require.NoError(t, err)
			require.Zero(t, s.Stats().DeadBytes)
			l.requireFinal(t, s)
		})
	}
}
