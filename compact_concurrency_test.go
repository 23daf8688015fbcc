package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

/*
What may happen while a compaction runs. There are two kinds of tests here:

  - Forced: a hook stops the compaction at a named point and makes exactly one other thing happen
    there. Each point of hooks.go is visited, with and without a failure of the round afterwards.
  - Free: goroutines run against each other for a while (WARMTIER_TEST_DURATION, a Go duration) and
    every single answer is held against what a linearizable store may say: see ledger.

Hooks run with the locks of their point held, so what they make happen runs on a goroutine of its
own (elsewhere), as it would in a program; the lock-order checker sees the difference.
*/

var errInjected = errors.New("injected by the test")

// compactionPoints are all points of a compaction, in the order in which they are first reached.
var compactionPoints = []point{
	pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord, pointCompactBuilt,
	pointCompactFlip, pointCompactCommitted, pointCompactSwapped,
}

// testDuration is how long a free test runs.
func testDuration(t testing.TB) time.Duration {
	t.Helper()
	if v := os.Getenv("WARMTIER_TEST_DURATION"); v != "" {
		d, err := time.ParseDuration(v)
		require.NoError(t, err)
		return d
	}
	if testing.Short() {
		return 200 * time.Millisecond
	}
	return 1200 * time.Millisecond
}

// elsewhere runs fn on another goroutine and waits for it.
func elsewhere(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// doAt is a hook that runs fn elsewhere when p is passed for the n-th time (from 1).
func doAt(p point, n int64, fn func()) func(point) error {
	var passed atomic.Int64
	return func(q point) error {
		if q == p && passed.Add(1) == n {
			elsewhere(fn)
		}
		return nil
	}
}

// both is two hooks one after the other.
func both(a, b func(point) error) func(point) error {
	return func(p point) error {
		if err := a(p); err != nil {
			return err
		}
		return b(p)
	}
}

// bounded are quiet options with rounds of one segment, unbounded those with a single round.
func bounded(workers int) *Options   { return compacting(workers, 1) }
func unbounded(workers int) *Options { return compacting(workers, -1) }

func compacting(workers int, maxOverhead int64) *Options {
	opts := quiet()
	opts.Compaction.Workers = workers
	opts.Compaction.MaxOverhead = maxOverhead
	return opts
}

// numberOf is the i of idOf(i).
func numberOf(id string) int {
	i, err := strconv.Atoi(strings.TrimPrefix(id, "memory-"))
	if err != nil {
		return -1
	}
	return i
}

// placedBy is a hash that puts memory i into the shard that place names, and spreads the tags.
func placedBy(place func(i int) int) func(id string) uint64 {
	return func(id string) uint64 {
		i := numberOf(id)
		tag := uint64(uint32(i)*2654435761) >> (32 - tagBits)
		return uint64(place(i))<<(64-shardBits) | tag<<(64-shardBits-tagBits)
	}
}

// segmentOf is the segment that holds the memory, now.
func segmentOf(t *testing.T, s *Store, id string) *segment {
	t.Helper()
	seg, _ := locationOf(t, s, id)
	return seg
}

// waitFor yields until ok, at most this many times, and reports whether it came to that.
func waitFor(times int, ok func() bool) bool {
	for range times {
		if ok() {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// someoneIn reports whether a goroutine is inside this function and waits for a write lock.
func someoneIn(function string) bool {
	buf := make([]byte, 1<<20)
	for goroutine := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		if bytes.Contains(goroutine, []byte("(*contentLock).Lock")) && bytes.Contains(goroutine, []byte(function)) {
			return true
		}
	}
	return false
}

// ---- One other thing at every point ----

// In the layout of these tests the first memory is flipped first and the last one last, when there
// is one worker: they have the lowest and the highest shard to themselves.
const (
	firstMoved  = 0
	lastMoved   = 1
	layoutCount = 600
	layoutSize  = 200
	layoutMoved = layoutCount / 2 // those that are live: lastMoved, and every even one but the last
)

func layoutShard(i int) int {
	switch i {
	case firstMoved:
		return 0
	case lastMoved:
		return shardCount - 1
	}
	return 1 + i/2%30 // as many dead ones as live ones in each, and so in each lane
}

// layout returns a store with layoutMoved live memories among as many dead ones, and what it holds:
// versions by number.
func layout(t *testing.T, opts *Options) (s *Store, model map[int]int) {
	s = openTest(t, opts, hooks{hash: placedBy(layoutShard)})
	fill(t, s, 0, layoutCount, layoutSize)
	model = map[int]int{}
	for i := range layoutCount {
		if i == firstMoved || i == lastMoved || !odd(i) && i != layoutCount-2 {
			model[i] = 0
		}
	}
	deleteWhere(t, s, 0, layoutCount, func(i int) bool { _, live := model[i]; return !live })
	require.Len(t, model, layoutMoved)
	return s, model
}

// requireModel checks contents, absence and the exact figures of Stats.
func requireModel(t *testing.T, s *Store, model map[int]int) {
	t.Helper()
	var live int64
	for i := range layoutCount + 2 {
		version, present := model[i]
		got, err := s.Get(idOf(i))
		if !present {
			require.ErrorIs(t, err, ErrNotFound, "memory %d", i)
			continue
		}
		require.NoError(t, err, "memory %d", i)
		require.Equal(t, contentOf(i, version, layoutSize), got, "memory %d, version %d", i, version)
		live += int64(recordSize(len(idOf(i)), layoutSize))
	}
	st := s.Stats()
	require.Equal(t, len(model), st.Memories)
	require.Equal(t, live, st.LiveBytes)
	require.Zero(t, st.Reads.CorruptRecords)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	requireIntact(t, s)
}

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

// expectVersion reads memory i in every way there is; version -1 is none.
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
	staged  int   // of them, those whose operation is found by the flip as superseded
	listed  bool  // live records have been listed
}

// possible reports whether an operation may wait for its end at m. At a flip the lock of one shard is
// held: with one worker it is known which; with more, only that it is not the last one's at first.
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

// Goal: whatever is done to a memory at whatever point of the round that moves it, newest wins, a
// delete uncovers nothing, and the counts are exact.
//
// What would break: a flip that does not compare brings back the version that was overwritten after
// it was staged; victims that leave before the flips are done leave locations that lead nowhere; a
// superseded copy that is counted as live keeps its bytes for ever.
//
// Method: one round, one operation at one moment of it, on a memory not flipped yet and on one
// flipped already; the result is read at once, and again at the end.
func TestCompact_OperationAtEveryPoint(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, m := range moments {
			if !m.possible(workers) {
				continue
			}
			for _, op := range operations {
				t.Run(fmt.Sprintf("workers=%d/%s/%s", workers, m.name, op.name), func(t *testing.T) {
					compactWithOperation(t, workers, m, op, nil)
				})
			}
		}
	}
}

// Goal: the same when the round fails after the operation: undo brings back what was, and nothing
// of what was overwritten or deleted meanwhile.
//
// What would break: an undo that does not compare takes a memory written after its flip back to the
// old version; one that is left out leaves the index pointing into targets that are gone.
func TestCompact_OperationThenUndo(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, failure := range failures {
			for _, m := range moments {
				if m.order > failure.order || !m.possible(workers) {
					continue
				}
				for _, op := range operations {
					name := fmt.Sprintf("workers=%d/%s fails/%s/%s", workers, failure.name, m.name, op.name)
					t.Run(name, func(t *testing.T) { compactWithOperation(t, workers, m, op, &failure) })
				}
			}
		}
	}
}

func compactWithOperation(t *testing.T, workers int, m moment, op operation, failure *moment) {
	s, model := layout(t, unbounded(workers))
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

	appended := int64(len(m.touches)) * op.appended * int64(recordSize(len(idOf(0)), layoutSize))
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

// requireMoved checks what a compaction says of the memories of its one round.
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
	if workers == 1 || m.at != pointCompactFlip { // else other workers may flip the memory meanwhile
		require.EqualValues(t, superseded, stats.MemoriesSuperseded)
	}
}

// Goal: a Put that has written its record and not yet reached the index, while a compaction moves the
// older version, subtracts the older version where it is by then.
//
// What would break: using the location found before the record was written takes the live bytes from
// the victim, which has none left, and leaves the copy in the target live for ever.
//
// Method: started after the seal (a Put under way would hold up the seal), held at the point between
// record and index, let go after the flips, and for a second time after a flip that is undone.
func TestCompact_MovesMemoryUnderPut(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", fails), func(t *testing.T) {
			s, model := layout(t, unbounded(1))
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
				require.EqualValues(t, layoutMoved, stats.MemoriesMoved) // it was, and then was superseded
			}
			requireModel(t, s, model)
		})
	}
}

// Goal: the swap waits for a Put that is under way, and takes nothing from it.
//
// The interleaving: a content larger than a segment has a segment of its own, sealed from the start.
// Its Put has written the record and not yet reached the index; the segment is in the table, its one
// record counts as dead. A compaction that lists victims then takes it for one, finds nothing live in
// it, and gives it back: once the Put has finished its memory is gone.
//
// Method: the Put starts after the seal, and goes on either when the round is committed, or when the
// swap waits for the lock that the Put holds.
func TestCompact_LargePutUnderWay(t *testing.T) {
	for _, when := range []string{"committed", "swapping"} {
		t.Run(when, func(t *testing.T) {
			s, model := layout(t, unbounded(1))
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
					if !waitFor(10_000, func() bool { return someoneIn("(*compaction).swap") }) {
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

// Goal: a live record that the walk does not list fails the compaction; it is never dropped (I6).
//
// Method: a slot is taken out of the index while the walk goes by and put back afterwards, which is
// what an error in the walk would look like.
func TestCompact_WalkMissesMemory(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			s, model := layout(t, unbounded(workers))
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

// Goal: Verify finds nothing wrong in a store that is only being written to.
//
// The interleaving: after the segments have been read, a Put writes its record and has not reached
// the index when the totals are compared: nothing in the index has changed, yet the segments hold
// more bytes than were read.
//
// Method: the hash, which Verify computes for every slot, starts such a Put in another shard.
func TestVerify_PutUnderWay(t *testing.T) {
	appended := pauseAt(pointPutAppended)
	put := make(chan error, 1)
	place := placedBy(layoutShard)
	var s *Store
	var verifying atomic.Bool
	var hashes atomic.Int64
	s = openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		// The second hash of an id in a Verify is the one for its slot.
		if verifying.Load() && id == idOf(firstMoved) && hashes.Add(1) == 2 {
			elsewhere(func() {
				go func() { put <- putVersion(s, lastMoved, 1) }()
				<-appended.reached
			})
		}
		return place(id)
	}})
	fill(t, s, 0, 2, layoutSize)
	s.hooks.at = appended.hook
	verifying.Store(true)
	report, err := s.Verify(context.Background())
	verifying.Store(false)
	close(appended.proceed)
	require.NoError(t, <-put)
	require.EqualValues(t, 2, hashes.Load())
	require.NoError(t, err, "findings: %+v", report.Findings)
}

// ---- Compactions against each other, Close and cancellation ----

// Goal: while one compaction runs there is no second one, at any point of the first.
//
// What would break: two compactions that seal, list and retire the same segments.
func TestCompact_SecondIsRefusedAtEveryPoint(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				opts := bounded(workers)
				opts.Maintenance.MinBytes = 1
				opts.Maintenance.FragmentationThreshold = 0.01
				s, model := layout(t, opts)
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

// Goal: cancelled at any point, a compaction stops, undoes the round it is in, keeps the rounds that
// are finished, and leaves a store that the next one compacts.
func TestCompact_CancelledAtEveryPoint(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				s, model := layout(t, bounded(workers))
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

// derivedContext is a context that is never done, and tells when a context derived from it is.
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

// AfterFunc is what package context registers a derived context with, and stops when that is done.
func (c *derivedContext) AfterFunc(func()) (stop func() bool) {
	return func() bool {
		c.once.Do(func() { close(c.ended) })
		return true
	}
}

// Goal: Close at any point of a compaction ends it, waits for it, and leaves no mapping and no
// goroutine behind.
//
// What would break: segments unmapped under the workers; a compaction that goes on with a table that
// is gone.
//
// Method: the compaction stands at the point until Close has cancelled it, twice over.
func TestClose_AtEveryPointOfCompaction(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				s, _ := layout(t, bounded(workers))
				ctx := newDerivedContext()
				closed := make(chan error, 2)
				s.hooks.at = doAt(p, 1, func() {
					go func() { closed <- s.Close() }()
					go func() { closed <- s.Close() }()
					<-ctx.ended
				})
				_, err := s.Compact(ctx)
				require.ErrorIs(t, err, ErrCompactionFailed)
				require.ErrorIs(t, err, ErrClosed)
				require.NoError(t, <-closed)
				require.NoError(t, <-closed)
				_, err = s.Compact(context.Background())
				require.ErrorIs(t, err, ErrClosed)
				require.NotErrorIs(t, err, ErrCompactionFailed)
				require.ErrorIs(t, s.Put("id", nil), ErrClosed)
			})
		}
	}
}

// Goal: Close may be called by a View while a compaction runs; what the View holds stays as it is.
//
// What would break: a Close that waits for Views waits for itself; one that does not wait for the
// compaction unmaps what it copies from; and one that unmaps a pinned segment faults in the View.
func TestClose_InsideViewDuringCompaction(t *testing.T) {
	for _, p := range compactionPoints {
		t.Run(string(p), func(t *testing.T) {
			s, _ := layout(t, bounded(2))
			paused := pauseAt(p)
			s.hooks.at = paused.hook
			ctx := newDerivedContext()
			compacted := make(chan error, 1)
			before := contentOf(lastMoved, 0, layoutSize)
			inside := make(chan struct{})
			viewed := make(chan error, 1)
			go func() {
				viewed <- s.View(idOf(lastMoved), func(content []byte) error {
					close(inside)
					<-paused.reached
					go func() {
						<-ctx.ended
						close(paused.proceed)
					}()
					err := s.Close()
					if !bytes.Equal(before, content) {
						err = errors.Join(err, errors.New("the bytes viewed have changed"))
					}
					if _, getErr := s.Get(idOf(firstMoved)); !errors.Is(getErr, ErrClosed) {
						err = errors.Join(err, fmt.Errorf("Get after Close: %w", getErr))
					}
					return err
				})
			}()
			<-inside
			go func() {
				_, err := s.Compact(ctx)
				compacted <- err
			}()
			require.NoError(t, <-viewed)
			err := <-compacted
			require.ErrorIs(t, err, ErrCompactionFailed)
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}

// Goal: calls that are under way when the store is closed, twice at once, return right bytes or
// ErrClosed, and never fault.
//
// Method: many short lives of a store; everything runs against Close without order.
func TestClose_UnderLoad(t *testing.T) {
	for end, life := time.Now().Add(testDuration(t)), 0; life < 5 || time.Now().Before(end); life++ {
		closeUnderLoad(t)
		if t.Failed() {
			return
		}
	}
}

func closeUnderLoad(t *testing.T) {
	goroutines := runtime.NumGoroutine()
	opts := bounded(2)
	s, err := Open("", opts)
	require.NoError(t, err)
	const n, size = 400, 300
	fill(t, s, 0, n, size)
	var done atomic.Int64
	right := func(i int, content []byte, err error) error {
		done.Add(1)
		if err == nil && !bytes.Equal(content, contentOf(i, 0, size)) {
			return fmt.Errorf("wrong bytes for memory %d", i)
		}
		return err
	}
	calls := []func(i int) error{
		func(i int) error { content, err := s.Get(idOf(i)); return right(i, content, err) },
		func(i int) error {
			return s.View(idOf(i), func(content []byte) error { return right(i, content, nil) })
		},
		func(i int) error { done.Add(1); return s.Put(idOf(i), contentOf(i, 0, size)) },
		func(i int) error { _, err := s.Delete(idOf(n + i)); return err },
		func(i int) error { return s.Put(idOf(n+i), contentOf(n+i, 0, 2*minSegmentSize)) },
		func(int) error { _, err := s.Compact(context.Background()); return err },
		func(int) error { _, err := s.Verify(context.Background()); return err },
		func(int) (err error) {
			for id, content := range s.All() {
				if i := numberOf(id); i < n {
					err = errors.Join(err, right(i, content, nil))
				}
			}
			if s.isClosed() {
				return ErrClosed
			}
			return err
		},
	}
	var running sync.WaitGroup
	for worker, call := range calls {
		running.Go(func() {
			for i := worker; ; i = (i + 7) % n {
				err := call(i)
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("call %d: %v", worker, err)
					return
				}
			}
		})
	}
	waitFor(1_000_000, func() bool { return done.Load() > 500 })
	running.Go(func() { _ = s.Close() })
	require.NoError(t, s.Close())
	running.Wait()
	requireReleased(t, s, goroutines)
}

// ---- Progress callbacks ----

// Goal: a panic of OnProgress reaches whoever called Compact, with the round undone, nothing locked,
// nothing pinned, and the next compaction possible.
//
// Method: a first run counts the calls; then each of them panics in turn.
func TestCompact_ProgressPanics(t *testing.T) {
	for _, workers := range []int{1, 4} {
		var stages []CompactionStage
		compactReporting(t, workers, func(p CompactionProgress) { stages = append(stages, p.Stage) })
		require.Contains(t, stages, StageBuild)
		require.Contains(t, stages, StageCommit)
		require.Contains(t, stages, StageSwap)
		for n := range stages {
			t.Run(fmt.Sprintf("workers=%d/call=%d", workers, n), func(t *testing.T) {
				calls := 0
				var stage CompactionStage
				compactReporting(t, workers, func(p CompactionProgress) {
					stage = p.Stage
					if calls++; calls == n+1 {
						panic("from OnProgress")
					}
				})
				t.Logf("panicked at stage %q", stage)
			})
		}
	}
}

// compactReporting compacts a store of a few rounds with this OnProgress, which may panic once.
func compactReporting(t *testing.T, workers int, fn func(CompactionProgress)) {
	t.Helper()
	var silent bool
	opts := bounded(workers)
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		if !silent {
			fn(p)
		}
	}
	s, model := layout(t, opts)
	func() {
		defer func() {
			if r := recover(); r != nil {
				require.Equal(t, "from OnProgress", r)
			}
		}()
		_, err := s.Compact(context.Background())
		require.NoError(t, err)
	}()
	silent = true
	require.False(t, s.Stats().CompactionInProgress)
	for _, seg := range s.segments.all() {
		require.EqualValues(t, 1, seg.refs.Load())
	}
	requireModel(t, s, model)
	elsewhere(func() { // every lock can be had
		if err := errors.Join(putVersion(s, firstMoved, 0), putVersion(s, lastMoved, 0)); err != nil {
			t.Error(err)
		}
	})
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.Zero(t, s.Stats().DeadBytes)
	requireModel(t, s, model)
}

// Goal: OnProgress may use the store, as its documentation says.
func TestCompact_ProgressUsesStore(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			var s *Store
			calls := 0
			opts := bounded(workers)
			opts.Compaction.OnProgress = func(p CompactionProgress) {
				if s == nil {
					return
				}
				calls++
				require.NoError(t, putVersion(s, firstMoved, calls))
				require.NoError(t, expectVersion(s, firstMoved, calls))
				require.NoError(t, deletePresent(s, firstMoved))
				require.NoError(t, expectVersion(s, firstMoved, -1))
				require.NoError(t, putVersion(s, firstMoved, calls))
				_, err := s.Compact(context.Background())
				require.ErrorIs(t, err, ErrCompactionInProgress)
				require.True(t, s.Stats().CompactionInProgress)
				_, err = s.Verify(context.Background())
				require.NoError(t, err)
				require.Equal(t, layoutMoved, s.Len())
			}
			var model map[int]int
			s, model = layout(t, opts)
			_, err := s.Compact(context.Background())
			require.NoError(t, err)
			require.Positive(t, calls)
			model[firstMoved] = calls
			requireModel(t, s, model)
		})
	}
}

// ---- Growing index, rolling lanes ----

// Goal: a table that is resized between stage, flip and undo changes nothing but positions.
//
// What would break: a flip that remembers where it saw a slot, and sets it there after the table was
// replaced.
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

// Goal: the same without order: one shard grows and shrinks all the time while flips, and undone
// flips, run on it and readers look things up.
//
// What would break: a resize that does not hold the shard's lock loses the slots that are flipped
// while it copies, and leads readers into a table that is gone.
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

// Goal: lanes roll, and the segment table grows, while slots are flipped and while flips are undone.
//
// What would break: a target published into a table that is replaced at the same time; an index of
// the table given to two segments; a segment that is sealed meanwhile and taken for a victim.
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
				filled := make(chan struct{}) // other workers reach the second flip meanwhile
				s.hooks.at = both(
					doAt(pointCompactFlip, 100, func() {
						for i := n; i < n+more; i++ {
							if err := s.Put(idOf(i), contentOf(i, 0, moreSize)); err != nil {
								t.Error(err)
							}
						}
						hold := s.contentMu.RLock()
						rolled = len(s.segments.all()) - before
						s.contentMu.RUnlock(hold)
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

// ---- What readers hold ----

// Goal: what View and a step of All hand out stays as it is, byte for byte, until they are done,
// while the memory is overwritten and two compactions with recycling and refilling pass.
//
// What would break: a segment whose memory is used for targets, or unmapped, while it is pinned; a
// pin that is never dropped keeps it for ever.
//
// Method: the callback itself does all of it. The pinned segment must be retired, held by one pin,
// and its memory in no other segment; afterwards it must be gone.
func TestView_BytesStayDuringCompactions(t *testing.T) {
	view := func(s *Store, i int, fn func([]byte) error) error { return s.View(idOf(i), fn) }
	step := func(s *Store, i int, fn func([]byte) error) (err error) {
		for id, content := range s.All() {
			if id == idOf(i) {
				err = fn(content)
			}
		}
		return err
	}
	readers := map[string]func(*Store, int, func([]byte) error) error{"View": view, "All": step}
	for name, read := range readers {
		for _, size := range []int{layoutSize, 2 * minSegmentSize} {
			for _, opts := range []*Options{bounded(1), bounded(4), unbounded(2)} {
				c := opts.Compaction
				t.Run(fmt.Sprintf("%s/size=%d/workers=%d/overhead=%d", name, size, c.Workers, c.MaxOverhead),
					func(t *testing.T) { holdDuringCompactions(t, opts, size, read) })
			}
		}
	}
}

func holdDuringCompactions(t *testing.T, opts *Options, size int, read func(*Store, int, func([]byte) error) error) {
	s := openTest(t, opts, hooks{})
	const n = 600
	fill(t, s, 0, n/2, layoutSize)
	require.NoError(t, s.Put(idOf(n), contentOf(n, 0, size)))
	fill(t, s, n/2, n, layoutSize)
	want := contentOf(n, 0, size)
	var held *segment
	times := 0
	err := read(s, n, func(content []byte) error {
		held = segmentOf(t, s, idOf(n))
		require.EqualValues(t, 2, held.refs.Load())
		for round := 1; round <= 2; round++ {
			for i := range n {
				require.NoError(t, s.Put(idOf(i), contentOf(i, round, layoutSize)))
			}
			require.NoError(t, s.Put(idOf(n), contentOf(n, round, size)))
			_, err := s.Compact(context.Background())
			require.NoError(t, err)
			fill(t, s, n+1, 2*n, layoutSize) // refill
			deleteWhere(t, s, n+1, 2*n, all)

			require.True(t, bytes.Equal(want, content), "the bytes handed out have changed")
			require.True(t, held.is(stateRetired))
			require.EqualValues(t, 1, held.refs.Load())
			require.EqualValues(t, len(held.mem), s.Stats().SegmentDetails.RetiredBytes)
			for _, seg := range s.segments.all() {
				require.NotSame(t, &held.mem[0], &seg.mem[0])
			}
		}
		times++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, times)
	require.Zero(t, held.refs.Load())
	st := s.Stats()
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	var mapped int64
	for _, seg := range s.segments.all() {
		mapped += int64(len(seg.mem))
	}
	require.Equal(t, mapped+st.IndexBytes, st.MappedBytes)
}

// Goal: contents that Get and AppendContent copy under a pin, with no lock held, stay mapped until
// they are copied.
//
// The interleaving: the reader has its location and copies; the memory is overwritten and compacted
// away, and its segment's memory goes to a target or back to the system.
//
// Method: contents that take long to copy, in a segment of their own and in a shared one, read in a
// loop while every one of them is overwritten and compacted in a loop.
func TestGet_LargeContentDuringCompactions(t *testing.T) {
	opts := bounded(2)
	opts.SegmentSize = 1 << 20
	s := openTest(t, opts, hooks{})
	sizes := []int{100 << 10, 3 << 20}
	if raceEnabled {
		sizes[1] = 1100 << 10 // still larger than a segment
	}
	contents := make([][2][]byte, len(sizes))
	for i, size := range sizes {
		contents[i] = [2][]byte{contentOf(i, 0, size), contentOf(i, 1, size)}
		require.NoError(t, s.Put(idOf(i), contents[i][0]))
	}
	right := func(i int, content []byte, err error) error {
		if err == nil && !bytes.Equal(content, contents[i][0]) && !bytes.Equal(content, contents[i][1]) {
			err = fmt.Errorf("wrong bytes for memory %d", i)
		}
		return err
	}
	c := newCrew(t)
	for i := range sizes {
		buf := make([]byte, 0, sizes[i])
		c.loop(func() error {
			got, err := s.AppendContent(buf[:0], idOf(i))
			return right(i, got, err)
		})
		c.loop(func() error {
			got, err := s.Get(idOf(i))
			return right(i, got, err)
		})
	}
	version := 0
	c.loop(func() error {
		version++
		for i := range sizes {
			if err := s.Put(idOf(i), contents[i][version%2]); err != nil {
				return err
			}
		}
		_, err := s.Compact(context.Background())
		return err
	})
	c.wait(testDuration(t))
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	require.Zero(t, s.Stats().Reads.CorruptRecords)
	t.Logf("%d compactions", version)
}

// Goal: a pin is taken while the location is still good.
//
// The interleaving: a reader finds its record, lets go of contentMu and pins after that: in between
// the swap retires the segment, finds no pin, and gives the memory away; the late pin then drops to
// zero for a second time and the memory is given back twice.
//
// Method: hot memories are overwritten, and their segments swapped out, as fast as that goes: only the
// end of a compaction, without its build. They are read by more threads than there are processors.
func TestView_PinnedAgainstSwap(t *testing.T) {
	oversubscribe(t)
	s := openTest(t, unbounded(1), hooks{hash: placedBy(func(i int) int { return i })})
	const small, large = 0, 1
	sizes := []int{16, maxLockedCopy + 1}
	want := [][]byte{contentOf(small, 0, sizes[small]), contentOf(large, 0, sizes[large])}
	fill := func() error { return errors.Join(s.Put(idOf(small), want[small]), s.Put(idOf(large), want[large])) }
	require.NoError(t, fill())
	c := newCrew(t)
	for range 4 {
		c.loop(func() error {
			for range 100 {
				err := s.View(idOf(small), func(content []byte) error {
					if !bytes.Equal(content, want[small]) {
						return errors.New("wrong bytes in View")
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 4 {
		buf := make([]byte, 0, sizes[large])
		c.loop(func() error {
			got, err := s.AppendContent(buf[:0], idOf(large))
			if err == nil && !bytes.Equal(got, want[large]) {
				err = errors.New("wrong bytes in AppendContent")
			}
			return err
		})
	}
	swaps := 0
	swapper := &compaction{s: s, maxTargets: 1}
	c.loop(func() error {
		if err := fill(); err != nil {
			return err
		}
		s.sealLanes(0)
		var dead []*segment
		for _, seg := range s.segments.all() {
			if seg.is(stateSealed) && seg.live.Load() == 0 {
				dead = append(dead, seg)
			}
		}
		swapper.swap(dead)
		swapper.drainPool()
		swaps++
		return nil
	})
	c.wait(testDuration(t))
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	require.Zero(t, s.Stats().Reads.CorruptRecords)
	t.Logf("%d swaps, %d reads", swaps, s.Stats().Gets)
}

// ---- Free running ----

// crew is goroutines that loop until a test has seen enough or one of them fails.
type crew struct {
	t       testing.TB
	stopped atomic.Bool
	running sync.WaitGroup
	ended   chan struct{} // closed with the first failure
	once    sync.Once
}

func newCrew(t testing.TB) *crew { return &crew{t: t, ended: make(chan struct{})} }

// oversubscribe gives every goroutine of a test a thread, so that it is the operating system that
// interrupts them: anywhere, and for milliseconds, also between two instructions that the scheduler
// of Go would run in one go.
func oversubscribe(t testing.TB) {
	before := runtime.GOMAXPROCS(16)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// loop calls fn over and over on a goroutine of its own.
func (c *crew) loop(fn func() error) {
	c.running.Go(func() {
		for !c.stopped.Load() {
			if err := fn(); err != nil {
				c.t.Error(err)
				c.stopped.Store(true)
				c.once.Do(func() { close(c.ended) })
			}
			runtime.Gosched() // short turns for all: more interleavings, and more compactions
		}
	})
}

// wait lets the crew run for d, or until the first failure, and waits for the end of all.
func (c *crew) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ended:
	}
	c.stopped.Store(true)
	c.running.Wait()
}

// ledger is what is known of the versions of each memory. One goroutine writes a memory: version
// v is a delete when v is a multiple of 5, else a Put; version 0 is "never stored". A linearizable
// store may answer a read with any version from the highest that was acknowledged, or seen by
// somebody, before the read began, up to the highest that was started before it ended.
type ledger struct {
	started, acknowledged, seen []atomic.Int64
	sizeOf                      func(i int, version int64) int
}

func newLedger(n int, sizeOf func(i int, version int64) int) *ledger {
	return &ledger{
		started:      make([]atomic.Int64, n),
		acknowledged: make([]atomic.Int64, n),
		seen:         make([]atomic.Int64, n),
		sizeOf:       sizeOf,
	}
}

func isDelete(version int64) bool { return version%5 == 0 }

func (l *ledger) content(i int, version int64) []byte {
	return contentOf(i, int(version), l.sizeOf(i, version))
}

// write does the next version of memory i. Only one goroutine writes it.
func (l *ledger) write(s *Store, i int) error {
	v := l.started[i].Load() + 1
	l.started[i].Store(v)
	if isDelete(v) {
		if err := deletePresent(s, i); err != nil {
			return err
		}
	} else if err := s.Put(idOf(i), l.content(i, v)); err != nil {
		return fmt.Errorf("put of memory %d version %d: %w", i, v, err)
	}
	l.acknowledged[i].Store(v)
	return nil
}

// least is the lowest version a read of memory i that begins now may return.
func (l *ledger) least(i int) int64 { return max(l.acknowledged[i].Load(), l.seen[i].Load()) }

// check judges the answer to a read that began when least was asked.
func (l *ledger) check(how string, i int, least int64, content []byte, err error) error {
	most := l.started[i].Load()
	version := (least + 4) / 5 * 5 // what is not found was deleted: the first delete not before least
	if err == nil {
		if len(content) < 16 || int(binary.LittleEndian.Uint64(content)) != i {
			return fmt.Errorf("%s of memory %d: the content of another one", how, i)
		}
		version = int64(binary.LittleEndian.Uint64(content[8:]))
		if isDelete(version) || !bytes.Equal(content, l.content(i, version)) {
			return fmt.Errorf("%s of memory %d: not the bytes of version %d", how, i, version)
		}
	} else if !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s of memory %d: %w", how, i, err)
	}
	if version < least || version > most {
		return fmt.Errorf("%s of memory %d: version %d (%v), possible are %d to %d", how, i, version, err, least, most)
	}
	for old := l.seen[i].Load(); old < version; old = l.seen[i].Load() {
		l.seen[i].CompareAndSwap(old, version)
	}
	return nil
}

func (l *ledger) get(s *Store, i int) error {
	least := l.least(i)
	content, err := s.Get(idOf(i))
	return l.check("Get", i, least, content, err)
}

func (l *ledger) view(s *Store, i int) error {
	least := l.least(i)
	var result error
	err := s.View(idOf(i), func(content []byte) error {
		result = l.check("View", i, least, content, nil)
		runtime.Gosched()
		return errors.Join(result, l.check("View, again,", i, least, content, nil))
	})
	if result == nil && err != nil {
		result = l.check("View", i, least, nil, err)
	}
	return result
}

func (l *ledger) has(s *Store, i int) error {
	least := l.least(i)
	found := s.Has(idOf(i))
	most := l.started[i].Load()
	for v := least; v <= most; v++ {
		if isDelete(v) != found {
			return nil
		}
	}
	return fmt.Errorf("Has of memory %d is %v in versions %d to %d", i, found, least, most)
}

// iterate judges every step of All, and that nothing comes twice.
func (l *ledger) iterate(s *Store) error {
	n := len(l.started)
	least := make([]int64, n)
	untouched := make([]int64, n)
	for i := range n {
		least[i] = l.least(i)
		untouched[i] = l.acknowledged[i].Load()
	}
	came := make([]bool, n)
	for id, content := range s.All() {
		i := numberOf(id)
		if came[i] {
			return fmt.Errorf("All yielded memory %d twice", i)
		}
		came[i] = true
		if err := l.check("All", i, least[i], content, nil); err != nil {
			return err
		}
		runtime.Gosched()
		for j := range n { // the next step begins now
			least[j] = l.least(j)
		}
	}
	for i := range n {
		if !came[i] && !isDelete(untouched[i]) && l.started[i].Load() == untouched[i] {
			return fmt.Errorf("All left out memory %d, which nobody touched", i)
		}
	}
	return nil
}

// requireFinal checks a store that nobody writes to any more.
func (l *ledger) requireFinal(t *testing.T, s *Store) {
	t.Helper()
	memories, live := 0, int64(0)
	for i := range l.started {
		v := l.acknowledged[i].Load()
		require.Equal(t, v, l.started[i].Load())
		got, err := s.Get(idOf(i))
		if isDelete(v) {
			require.ErrorIs(t, err, ErrNotFound, "memory %d", i)
			continue
		}
		require.NoError(t, err, "memory %d", i)
		require.True(t, bytes.Equal(l.content(i, v), got), "memory %d, version %d", i, v)
		memories++
		live += int64(recordSize(len(idOf(i)), len(got)))
	}
	st := s.Stats()
	require.Equal(t, memories, st.Memories)
	require.Equal(t, live, st.LiveBytes)
	require.Zero(t, st.Reads.CorruptRecords)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	requireIntact(t, s)
}

// stressConfigs are the shapes of compaction every free test is run with.
func stressConfigs() map[string]*Options {
	configs := map[string]*Options{}
	for _, workers := range []int{1, 4} {
		for _, overhead := range []int64{1, -1} {
			name := fmt.Sprintf("workers=%d/overhead=%d", workers, overhead)
			configs[name] = compacting(workers, overhead)
		}
	}
	return configs
}

// Goal: ten goroutines that put, delete, get, view, iterate, verify and compact one set of memories
// see a linearizable store, all the time.
//
// What would break: anything. This is where the interleavings nobody thought of are looked for.
//
// Method: every answer is checked against the ledger. Contents are of one to a few thousand bytes,
// and now and then larger than a segment; segments are small, so that compactions have many rounds.
func TestStress_Linearizable(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) { stressLinearizable(t, opts) })
	}
}

func stressLinearizable(t *testing.T, opts *Options) {
	const n, writers, static = 360, 3, 60
	if opts.Compaction.Workers > 1 {
		oversubscribe(t)
	}
	s := openTest(t, opts, hooks{})
	rng := seeded(t)
	most := 1500
	if raceEnabled {
		most = 500
	}
	l := newLedger(n, func(i int, version int64) int {
		if i%50 == 7 && version%8 == 3 {
			return minSegmentSize + 1000
		}
		return 16 + int(version*31+int64(i)*17)%most
	})
	for i := range static { // present and untouched throughout
		require.NoError(t, l.write(s, n-1-i))
	}
	c := newCrew(t)
	seed := func() *rand.Rand { return rand.New(rand.NewPCG(rng.Uint64(), 0)) }
	for w := range writers {
		r := seed()
		c.loop(func() error { return l.write(s, r.IntN((n-static)/writers)*writers+w) })
	}
	for _, read := range []func(*Store, int) error{l.get, l.get, l.get, l.view, l.has} {
		r := seed()
		c.loop(func() error { return read(s, r.IntN(n)) })
	}
	turn := 0
	c.loop(func() error { // what takes long takes turns, or little else would happen
		switch turn++; turn % 100 {
		case 0:
			return l.iterate(s)
		case 50:
			report, err := s.Verify(context.Background())
			if err != nil {
				err = fmt.Errorf("%w: %+v", err, report.Findings)
			}
			return err
		}
		return nil
	})
	var rounds atomic.Int64
	r := seed()
	c.loop(func() error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if r.IntN(4) == 0 { // a fourth of them is cancelled somewhere
			timer := time.AfterFunc(time.Duration(r.IntN(2000))*time.Microsecond, cancel)
			defer timer.Stop()
		}
		stats, err := s.Compact(ctx)
		rounds.Add(int64(stats.Rounds))
		if errors.Is(err, ErrCompactionFailed) && errors.Is(err, context.Canceled) {
			err = nil
		}
		return err
	})
	c.wait(testDuration(t))
	l.requireFinal(t, s)
	st := s.Stats()
	t.Logf("%d puts, %d deletes, %d gets, %d compactions (%d cancelled), %d rounds",
		st.Puts, st.Deletes, st.Gets, st.Compactions, st.CompactionFailures, rounds.Load())
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.Zero(t, s.Stats().DeadBytes)
	l.requireFinal(t, s)
}

// Goal: a reader never sees a counter go back.
//
// The interleaving: the compaction stages version 7, version 8 is written, and the flip makes 7
// current again; or undo does.
//
// Method: few hot counters, each raised by its own writer as fast as it can, each read by every
// reader in every way; compactions run without pause, and some of them fail in the middle of a commit.
func TestStress_CounterNeverGoesBack(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) {
			const n, size = 8, 100
			if opts.Compaction.Workers > 1 {
				oversubscribe(t)
			}
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, n, size)
			fill(t, s, n, 600, size)
			var flips atomic.Int64
			s.hooks.at = func(p point) error {
				if p == pointCompactFlip && flips.Add(1)%997 == 0 {
					return errInjected
				}
				return nil
			}
			c := newCrew(t)
			for w := range 2 {
				version := 0
				c.loop(func() error {
					version++
					for i := w; i < n; i += 2 {
						if err := s.Put(idOf(i), contentOf(i, version, size)); err != nil {
							return err
						}
					}
					// Something live beside it that moves with every compaction.
					return s.Put(idOf(n+version%300), contentOf(n+version%300, 0, size))
				})
			}
			for range 2 {
				c.loop(countersReader(s, n, size))
			}
			c.loop(func() error {
				_, err := s.Compact(context.Background())
				if errors.Is(err, errInjected) {
					err = nil
				}
				return err
			})
			c.wait(testDuration(t) / 2)
			s.hooks.at = nil
			require.Equal(t, 600, s.Len())
			t.Logf("%d compactions, %d undone", s.Stats().Compactions, s.Stats().CompactionFailures)
		})
	}
}

// countersReader reads counters 0 to n-1 in every way, and remembers the last value of each.
func countersReader(s *Store, n, size int) func() error {
	last := make([]uint64, n)
	see := func(i int, content []byte, err error) error {
		if err != nil {
			return err
		}
		version := binary.LittleEndian.Uint64(content[8:])
		if version < last[i] {
			return fmt.Errorf("counter %d went back from %d to %d", i, last[i], version)
		}
		last[i] = version
		if !bytes.Equal(content, contentOf(i, int(version), size)) {
			return fmt.Errorf("counter %d: wrong bytes at %d", i, version)
		}
		return nil
	}
	turn := 0
	return func() error {
		turn++
		i := turn % n
		switch turn / n % 16 {
		case 0:
			for id, content := range s.All() {
				if i := numberOf(id); i < n {
					if err := see(i, content, nil); err != nil {
						return err
					}
				}
			}
			turn += n
			return nil
		case 1, 3, 5, 7, 9, 11, 13, 15:
			return s.View(idOf(i), func(content []byte) error { return see(i, content, nil) })
		}
		content, err := s.Get(idOf(i))
		return see(i, content, err)
	}
}

// Goal: a delete never uncovers an older version.
//
// The interleaving: versions 1 to 20 of a memory lie in as many segments. One of them is staged, the
// memory is deleted, and a flip, or an undone flip, that does not compare makes it live again.
//
// Method: the goroutine that writes a memory deletes it and reads it until several compactions have
// passed; every read must find nothing.
func TestStress_DeleteUncoversNothing(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) {
			const n, size, versions = 4, 500, 20
			if opts.Compaction.Workers > 1 {
				oversubscribe(t)
			}
			s := openTest(t, opts, hooks{})
			fill(t, s, 2*n, 2*n+300, size)
			var flips, compactions atomic.Int64
			s.hooks.at = func(p point) error {
				if p == pointCompactFlip && flips.Add(1)%499 == 0 {
					return errInjected
				}
				return nil
			}
			c := newCrew(t)
			c.loop(func() error {
				_, err := s.Compact(context.Background())
				compactions.Add(1)
				if errors.Is(err, errInjected) {
					err = nil
				}
				return err
			})
			for i := range n {
				deleted := false
				c.loop(func() error {
					if err := writeVersions(s, i, versions, size); err != nil {
						return err
					}
					if err := deletePresent(s, i); err != nil {
						return err
					}
					deleted = true
					for until := compactions.Load() + 3; compactions.Load() < until && !c.stopped.Load(); {
						if err := expectVersion(s, i, -1); err != nil {
							return err
						}
						runtime.Gosched()
					}
					return nil
				})
				t.Cleanup(func() { require.True(t, deleted) })
			}
			c.wait(testDuration(t) / 2)
			s.hooks.at = nil
			for i := range n {
				require.NoError(t, expectVersion(s, i, -1))
			}
			requireContents(t, s, 2*n, 2*n+300, size, all)
			t.Logf("%d deletes, %d compactions, %d undone",
				s.Stats().Deletes, s.Stats().Compactions, s.Stats().CompactionFailures)
		})
	}
}

// writeVersions puts versions of memory i, with enough between them to have them in many segments.
func writeVersions(s *Store, i, versions, size int) error {
	for v := range versions {
		if err := s.Put(idOf(i), contentOf(i, v, size)); err != nil {
			return err
		}
		for j := range 15 {
			other := 8 + (i*versions+v*15+j)%300
			if err := s.Put(idOf(other), contentOf(other, 0, size)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Goal: a round that fails at any of its flips, with writers running, takes back exactly what is
// still its own.
//
// What would break: an undo that misses the batch in which the flip failed, or the flips of the other
// workers; one that takes back a slot that a writer has replaced.
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
				waitFor(1_000_000, func() bool { return writes.Load() > 2 })
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
// Method: as above, without chance: the round fails at its k-th flip, for every k, and right before
// that most memories in other shards are overwritten or deleted, those flipped already included.
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
					if i == k-1 || (i+k)%4 == 0 { // locked; left alone
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

// ---- Maintenance ----

// Goal: Maintain, Compact and the background cycle can run into each other: one of them compacts, the
// others say so, and the store comes to no harm.
//
// What would break: two compactions at once; a cycle that outlives Close.
//
// Method: the cycle has an interval of a millisecond and compacts whenever there is something to
// gain; two goroutines call Maintain and Compact in a loop, others write and read.
func TestMaintain_AgainstCompact(t *testing.T) {
	opts := bounded(2)
	opts.Maintenance = MaintenanceOptions{
		Interval:               time.Millisecond,
		FragmentationThreshold: 0.2,
		MinBytes:               1,
		MinPeriod:              1, // ns
	}
	s := openTest(t, opts, hooks{})
	const n = 200
	l := newLedger(n, func(i int, version int64) int { return 16 + (i*int(version))%700 })
	c := newCrew(t)
	for w := range 2 {
		r := rand.New(rand.NewPCG(1, uint64(w)))
		c.loop(func() error { return l.write(s, r.IntN(n/2)*2+w) })
	}
	r := rand.New(rand.NewPCG(2, 2))
	c.loop(func() error { return errors.Join(l.get(s, r.IntN(n)), l.view(s, r.IntN(n))) })
	c.loop(func() error {
		report, err := s.Maintain(context.Background())
		if err == nil && report.Compacted == (report.Skipped != "") {
			err = fmt.Errorf("compacted %v, skipped %q", report.Compacted, report.Skipped)
		}
		return err
	})
	c.loop(func() error {
		_, err := s.Compact(context.Background())
		if errors.Is(err, ErrCompactionInProgress) {
			err = nil
		}
		return err
	})
	c.wait(testDuration(t))

	require.True(t, waitFor(1_000_000, func() bool { return s.Stats().Maintenance.Compactions > 0 }))
	require.Zero(t, s.Stats().CompactionFailures)
	report, err := s.Verify(context.Background())
	require.NoError(t, err, "findings: %+v", report.Findings)
	for i := range n {
		require.NoError(t, l.get(s, i))
	}
	t.Logf("%+v", s.Stats())
	require.NoError(t, s.Close()) // the cycle must be gone before the hooks are touched again
}

// Goal: Close ends a compaction that the background cycle started, and the cycle with it.
func TestMaintain_ClosedDuringAutomaticCompaction(t *testing.T) {
	paused := pauseAt(pointCompactRecord)
	opts := bounded(2)
	opts.Maintenance = MaintenanceOptions{
		Interval: time.Millisecond, FragmentationThreshold: 0.2, MinBytes: 1, MinPeriod: 1,
	}
	s := openTest(t, opts, hooks{at: paused.hook})
	fill(t, s, 0, 1000, layoutSize)
	fill(t, s, 0, 900, layoutSize)
	<-paused.reached
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.lifetime.Done()
	close(paused.proceed)
	require.NoError(t, <-closed)
	require.False(t, s.Stats().CompactionInProgress)
}

// ---- The race detector itself ----

// Goal: "race clean" says something about contents: under the race detector segments are on the Go
// heap, so a write to bytes that somebody reads is reported.
//
// Method: this test runs itself again, in a process in which two Views of one memory, at the same
// time, read and write its first byte. The detector must end that process with a report.
func TestRace_PlantedRaceIsReported(t *testing.T) {
	const plant = "WARMTIER_PLANT_RACE"
	if os.Getenv(plant) != "" {
		plantRace(t)
		return
	}
	if !raceEnabled {
		t.Skip("needs the race detector")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRace_PlantedRaceIsReported$", "-test.count=1")
	cmd.Env = append(os.Environ(), plant+"=1", "GORACE=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Positive(t, exit.ExitCode())
	require.Contains(t, string(out), "DATA RACE")
	require.Contains(t, string(out), "plantRace")
}

// plantRace writes to a content that another View reads. Both have their pins before either goes on,
// and nothing after that orders them.
func plantRace(t *testing.T) {
	s, err := Open("", quiet())
	require.NoError(t, err)
	fill(t, s, 0, 1, 100)
	var inside, done sync.WaitGroup
	inside.Add(2)
	var sum byte
	for _, access := range []func(content []byte){
		func(content []byte) { content[50]++ },
		func(content []byte) { sum += content[50] },
	} {
		done.Go(func() {
			err := s.View(idOf(0), func(content []byte) error {
				inside.Done()
				inside.Wait()
				access(content)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	t.Logf("read %d", sum)
	_ = s.Close()
}
