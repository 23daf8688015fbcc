package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

/*
Compaction runs beside reads and writes, and these tests force the interleavings that could go
wrong: a hook stops the compaction at a named point and makes exactly one other thing happen there.
Every point of hooks.go is visited, with and without a failure of the round afterwards.
Interleavings that nobody thought of are left to the scheduler in stress_test.go.

A hook runs with the locks of its point held. What it makes happen therefore runs on a goroutine of
its own (elsewhere), as it would in a program; the checker of the lock order sees the difference.
*/

// operation is something done to one memory while a compaction stands still.
type operation struct {
	name       string
	supersedes bool
	appended   int64 // records
	run        func(s *Store, i int) error
	after      int // the version that is left, -1 for none
}

func putVersion(s *Store, i, version int) error {
	return s.Put(idOf(i), contentOf(i, version, layoutSize))
}

func deletePresent(s *Store, i int) error {
	existed, err := s.Delete(idOf(i))
	if err == nil && !existed {
		err = fmt.Errorf("memory %d did not exist", i)
	}
	return err
}

var operations = []operation{
	{name: "read", run: func(s *Store, i int) error { return expectVersion(s, i, 0) }},
	{name: "overwrite", supersedes: true, appended: 1, after: 1,
		run: func(s *Store, i int) error { return putVersion(s, i, 1) }},
	{name: "delete", supersedes: true, after: -1, run: deletePresent},
	{name: "overwrite and delete", supersedes: true, appended: 1, after: -1,
		run: func(s *Store, i int) error { return errors.Join(putVersion(s, i, 1), deletePresent(s, i)) }},
	{name: "delete and put", supersedes: true, appended: 1, after: 2,
		run: func(s *Store, i int) error { return errors.Join(deletePresent(s, i), putVersion(s, i, 2)) }},
	{name: "overwrite twice", supersedes: true, appended: 2, after: 2,
		run: func(s *Store, i int) error { return errors.Join(putVersion(s, i, 1), putVersion(s, i, 2)) }},
}

// expectVersion reads memory i in every way there is, and reports anything but this version; -1 is
// none.
func expectVersion(s *Store, i, version int) error {
	want := contentOf(i, version, layoutSize)
	check := func(how string, got []byte, err error) error {
		switch {
		case version < 0 && errors.Is(err, ErrNotFound):
			return nil
		case version < 0:
			return fmt.Errorf("%s of memory %d: %v, want ErrNotFound", how, i, err)
		case err != nil:
			return fmt.Errorf("%s of memory %d: %w", how, i, err)
		case !bytes.Equal(got, want):
			return fmt.Errorf("%s of memory %d: not the bytes of version %d", how, i, version)
		}
		return nil
	}
	got, err := s.Get(idOf(i))
	result := check("Get", got, err)
	err = s.View(idOf(i), func(content []byte) error {
		result = errors.Join(result, check("View", content, nil))
		return nil
	})
	if err != nil {
		result = errors.Join(result, check("View", nil, err))
	}
	if s.Has(idOf(i)) != (version >= 0) {
		result = errors.Join(result, fmt.Errorf("Has of memory %d is wrong", i))
	}
	return result
}

// moment is a place in a compaction: the n-th time a point is passed.
type moment struct {
	name    string
	at      point
	pass    int64
	order   int   // of moments in a round
	touches []int // memories an operation may touch there
	staged  int   // how many of those the flip finds superseded
	listed  bool  // live records have been listed
}

// possible reports whether the compaction can wait at m for the end of an operation. A flip holds
// the lock of one shard: with one worker it is known which; with more, only that the first flip is
// not in the last.
func (m moment) possible(workers int) bool {
	return workers == 1 || m.at != pointCompactFlip || m.pass == 1
}

var moments = []moment{
	{"sealed", pointCompactSealed, 1, 0, []int{firstMoved, lastMoved}, 0, false},
	{"walked", pointCompactWalked, 1, 1, []int{firstMoved, lastMoved}, 2, true},
	{"first target", pointCompactTarget, 1, 2, []int{firstMoved, lastMoved}, 2, true},
	{"first record", pointCompactRecord, 1, 3, []int{firstMoved, lastMoved}, 2, true},
	{"built", pointCompactBuilt, 1, 5, []int{firstMoved, lastMoved}, 2, true},
	{"first flip", pointCompactFlip, 1, 6, []int{lastMoved}, 1, true},
	{"flip in the middle", pointCompactFlip, 100, 7, []int{firstMoved, lastMoved}, 1, true},
	{"last flip", pointCompactFlip, layoutMoved, 9, []int{firstMoved}, 0, true},
	{"committed", pointCompactCommitted, 1, 10, []int{firstMoved, lastMoved}, 0, true},
	{"swapped", pointCompactSwapped, 1, 11, []int{firstMoved, lastMoved}, 0, true},
}

var failures = []moment{
	{name: "target", at: pointCompactTarget, pass: 2, order: 4},
	{name: "record", at: pointCompactRecord, pass: 150, order: 4},
	{name: "build", at: pointCompactBuilt, pass: 1, order: 5},
	{name: "flip", at: pointCompactFlip, pass: 150, order: 8},
	{name: "commit", at: pointCompactCommitted, pass: 1, order: 10},
}

// Goal: whatever is done to a memory, at any point of the round that moves it, the newest version
// wins, a delete uncovers nothing, and the counts are exact.
//
// What would break: a flip that does not compare brings back the version that was overwritten after
// it was staged; victims that leave before the flips are done leave locations that lead nowhere; a
// superseded copy that is counted as live keeps its bytes for ever.
//
// Method: one round, one operation at one moment of it, on a memory not flipped yet and on one
// flipped already; the result is read at once, and again at the end.
func TestCompact_OperationAtEveryPoint(t *testing.T) {
	parallel(t)
	var n counter
	for _, workers := range []int{1, 4} {
		for _, m := range moments {
			if !m.possible(workers) {
				continue
			}
			for _, op := range operations {
				if !n.sampled(1) {
					continue
				}
				t.Run(fmt.Sprintf("workers=%d/%s/%s", workers, m.name, op.name), func(t *testing.T) {
					compactWithOperation(t, workers, m, op, nil)
				})
			}
		}
	}
}

// counter counts combinations.
type counter int

// sampled reports whether the next combination is to be tried: one in every, and one in five where
// each lock costs a stack trace.
func (n *counter) sampled(every int) bool {
	if lockOrderChecked() {
		every = 5
	}
	*n++
	return int(*n)%every == 0
}

// Goal: when the round fails after the operation, undo brings back what was, and nothing that has
// been overwritten or deleted since. By default a fifth of the combinations is tried.
//
// What would break: an undo that does not compare takes a memory written after its flip back to the
// old version; an undo left out leaves the index pointing into targets that are gone.
func TestCompact_OperationThenUndo(t *testing.T) {
	parallel(t)
	var n counter
	for _, workers := range []int{1, 4} {
		for _, failure := range failures {
			for _, m := range moments {
				if m.order > failure.order || !m.possible(workers) {
					continue
				}
				for _, op := range operations {
					if !n.sampled(stride(t, 5, 1)) {
						continue
					}
					name := fmt.Sprintf("workers=%d/%s fails/%s/%s", workers, failure.name, m.name, op.name)
					t.Run(name, func(t *testing.T) { compactWithOperation(t, workers, m, op, &failure) })
				}
			}
		}
	}
}

func compactWithOperation(t *testing.T, workers int, m moment, op operation, failure *moment) {
	s, model := fragmentedStore(t, unbounded(workers))
	before := settled(s)
	var reached atomic.Bool
	s.hooks.at = doAt(m.at, m.pass, func() {
		reached.Store(true)
		for _, i := range m.touches {
			if err := errors.Join(op.run(s, i), expectVersion(s, i, op.after)); err != nil {
				t.Error(err)
			}
		}
	})
	if failure != nil {
		s.hooks.at = both(s.hooks.at, failAt(failure.at, failure.pass, errInjected))
	}
	stats, err := s.Compact(context.Background())
	s.hooks.at = nil
	require.True(t, reached.Load())
	for _, i := range m.touches {
		if model[i] = op.after; op.after < 0 {
			delete(model, i)
		}
	}
	requireModel(t, s, model)

	appended := int64(len(m.touches)) * op.appended * int64(record.Size(len(idOf(0)), layoutSize))
	require.Equal(t, before.TotalBytes+appended-stats.BytesReclaimed, s.Stats().TotalBytes)
	if failure != nil {
		require.ErrorIs(t, err, ErrCompactionFailed)
		require.ErrorIs(t, err, errInjected)
		require.Zero(t, stats.Rounds)
		require.Zero(t, stats.BytesReclaimed)
	} else {
		require.NoError(t, err)
		require.Equal(t, 1, stats.Rounds)
		requireMoved(t, stats, workers, m, op)
	}
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	require.Zero(t, s.Stats().DeadBytes)
	requireModel(t, s, model)
}

// requireMoved checks the statistics of a compaction of one round.
func requireMoved(t *testing.T, stats CompactionStats, workers int, m moment, op operation) {
	t.Helper()
	listed, superseded := layoutMoved, 0
	if op.supersedes {
		superseded = m.staged
	}
	if op.supersedes && !m.listed {
		listed -= len(m.touches)
	}
	require.EqualValues(t, listed, stats.MemoriesMoved+stats.MemoriesSuperseded)
	if workers == 1 || m.at != pointCompactFlip { // otherwise another worker may have flipped the memory
		require.EqualValues(t, superseded, stats.MemoriesSuperseded)
	}
}

// Goal: a Put that has written its record and not yet reached the index, while a compaction moves
// the older version, takes the live bytes of the older version from the segment it has been moved
// to.
//
// What would break: using the location found before the record was written takes the live bytes
// from the victim, which has none left, and leaves the copy in the target live for ever.
//
// Method: the Put starts after the seal, which would have to wait for it, is held between record
// and index, and is let go after the flips; in a second run, after a flip that is undone.
func TestCompact_MovesMemoryUnderPut(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", fails), func(t *testing.T) {
			s, model := fragmentedStore(t, unbounded(1))
			appended := pauseAt(pointPutAppended)
			put := make(chan error, 1)
			start := doAt(pointCompactSealed, 1, func() {
				go func() { put <- putVersion(s, lastMoved, 1) }()
				<-appended.reached
			})
			finish := doAt(pointCompactCommitted, 1, func() {
				close(appended.proceed)
				if err := <-put; err != nil {
					t.Error(err)
				}
			})
			s.hooks.at = both(both(start, appended.hook), finish)
			if fails {
				s.hooks.at = both(s.hooks.at, failAt(pointCompactCommitted, 1, errInjected))
			}
			stats, err := s.Compact(context.Background())
			s.hooks.at = nil
			model[lastMoved] = 1
			if fails {
				require.ErrorIs(t, err, errInjected)
			} else {
				require.NoError(t, err)
				require.EqualValues(t, layoutMoved, stats.MemoriesMoved) // it was moved, and then superseded
			}
			requireModel(t, s, model)
		})
	}
}

// Goal: the swap waits for a Put that is under way, and takes nothing from it.
//
// The interleaving: a content larger than a segment has a segment of its own, sealed from the
// start. Its Put has written the record and not yet reached the index; the segment is in the table,
// and its one record counts as dead. A compaction that lists victims at this moment lists the
// segment too, finds nothing live in it, and gives it back: once the Put has finished, its memory
// is gone.
//
// Method: the Put starts after the seal, and continues either when the round is committed, or when
// the swap waits for the lock that the Put holds.
func TestCompact_LargePutUnderWay(t *testing.T) {
	for _, when := range []string{"committed", "swapping"} {
		t.Run(when, func(t *testing.T) {
			s, model := fragmentedStore(t, unbounded(1))
			large := contentOf(layoutCount, 0, 2*minSegmentSize)
			appended := pauseAt(pointPutAppended)
			put := make(chan error, 1)
			start := doAt(pointCompactSealed, 1, func() {
				go func() { put <- s.Put(idOf(layoutCount), large) }()
				<-appended.reached
			})
			finish := doAt(pointCompactCommitted, 1, func() {
				if when == "committed" {
					close(appended.proceed)
					put <- <-put
					return
				}
				go func() {
					if !waitFor(func() bool { return someoneIn((*compaction).removeFromTable) }) {
						t.Error("the swap did not wait for the Put")
					}
					close(appended.proceed)
				}()
			})
			s.hooks.at = both(both(start, appended.hook), finish)
			_, err := s.Compact(context.Background())
			require.NoError(t, err)
			require.NoError(t, <-put)
			s.hooks.at = nil
			got, err := s.Get(idOf(layoutCount))
			require.NoError(t, err)
			require.True(t, bytes.Equal(large, got))
			require.Len(t, model, s.Len()-1)
			requireIntact(t, s)
		})
	}
}

// Goal: a live record that the walk does not list fails the compaction; it is never lost (I6).
//
// Method: a slot is taken out of the index while the walk passes and put back afterwards, which is
// what an error in the walk would look like.
func TestCompact_WalkMissesMemory(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			s, model := fragmentedStore(t, unbounded(workers))
			sh, tag := s.place(idOf(lastMoved))
			var hidden slot
			hide := doAt(pointCompactSealed, 1, func() {
				sh.mu.Lock()
				defer sh.mu.Unlock()
				var pos int
				pos, hidden = sh.current().first(tag)
				sh.current().remove(pos)
			})
			show := doAt(pointCompactWalked, 1, func() {
				sh.mu.Lock()
				defer sh.mu.Unlock()
				pos, _ := sh.current().first(tag)
				sh.current().set(pos, hidden)
			})
			s.hooks.at = both(hide, show)
			_, err := s.Compact(context.Background())
			require.ErrorIs(t, err, ErrCompactionFailed)
			require.ErrorContains(t, err, "internal error")
			s.hooks.at = nil
			requireModel(t, s, model)
			_, err = s.Compact(context.Background())
			require.NoError(t, err)
			requireModel(t, s, model)
		})
	}
}

// Goal: while one compaction runs, at whatever point, a second one is refused.
//
// What would break: two compactions that seal, list and retire the same segments.
func TestCompact_SecondIsRefusedAtEveryPoint(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				opts := bounded(workers)
				opts.Maintenance.MinBytes = 1
				opts.Maintenance.FragmentationThreshold = 0.01
				s, model := fragmentedStore(t, opts)
				var refused atomic.Bool
				s.hooks.at = doAt(p, 1, func() {
					refused.Store(true)
					stats, err := s.Compact(context.Background())
					if !errors.Is(err, ErrCompactionInProgress) || stats != (CompactionStats{}) {
						t.Errorf("a second Compact returned %+v, %v", stats, err)
					}
					if p == pointCompactFlip {
						return // Stats, and with it Maintain, reads every shard, and one is locked here
					}
					r, err := s.Maintain(context.Background())
					if err != nil || r.Skipped != SkipBusy {
						t.Errorf("Maintain returned %+v, %v", r, err)
					}
					if !s.Stats().CompactionInProgress {
						t.Error("Stats say that no compaction runs")
					}
				})
				_, err := s.Compact(context.Background())
				require.NoError(t, err)
				require.True(t, refused.Load())
				s.hooks.at = nil
				require.False(t, s.Stats().CompactionInProgress)
				require.EqualValues(t, 1, s.Stats().Compactions)
				require.Zero(t, s.Stats().DeadBytes)
				requireModel(t, s, model)
			})
		}
	}
}

// Goal: a compaction that is cancelled at any point stops, undoes the round it is in, keeps the
// rounds that are finished, and leaves a store that the next compaction compacts.
func TestCompact_CancelledAtEveryPoint(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				s, model := fragmentedStore(t, bounded(workers))
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				s.hooks.at = doAt(p, 1, cancel)
				before := settled(s)
				stats, err := s.Compact(ctx)
				s.hooks.at = nil
				require.ErrorIs(t, err, ErrCompactionFailed)
				require.ErrorIs(t, err, context.Canceled)
				finished := p == pointCompactCommitted || p == pointCompactSwapped
				require.Equal(t, finished, stats.Rounds == 1, "%d rounds", stats.Rounds)
				if !finished {
					require.Equal(t, before.TotalBytes, s.Stats().TotalBytes)
				}
				requireModel(t, s, model)
				_, err = s.Compact(context.Background())
				require.NoError(t, err)
				require.Zero(t, s.Stats().DeadBytes)
				requireModel(t, s, model)
			})
		}
	}
}

// derivedContext is a context that is never done, and reports when a context derived from it is
// done.
type derivedContext struct {
	context.Context
	never chan struct{}
	ended chan struct{}
	once  sync.Once
}

func newDerivedContext() *derivedContext {
	return &derivedContext{Context: context.Background(), never: make(chan struct{}), ended: make(chan struct{})}
}

func (c *derivedContext) Done() <-chan struct{} { return c.never }

// AfterFunc is called by package context for a derived context, and the stop it returns when that
// is done.
func (c *derivedContext) AfterFunc(func()) (stop func() bool) {
	return func() bool {
		c.once.Do(func() { close(c.ended) })
		return true
	}
}
