//go:build unix

package warmtier

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

/*
Goal: a writer that waits for memory gets it when it is there, and ends in any case: when the store closes, when
there is nothing to be had, and when the compaction that it waits for waits for it. Method: hooks stop the one while
the other goes on.
*/

const neverInATest = time.Hour

// fullStore returns a store at its budget's limit of whose n memories, of 1000 bytes, every third was deleted. Its
// lanes have no room.
func fullStore(t *testing.T, opts Options, h hooks) (s *Store, n int) {
	t.Helper()
	opts.MaxBytes = 2 * fullBytes
	goroutines := runtime.NumGoroutine()
	s, err := open("", &opts, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		requireReleased(t, s, goroutines)
	})
	n, _ = fillUp(t, s, 0, 1000)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 0 })
	return s, n
}

// What would break: a writer that comes to run late takes an answer for one of now.
func TestRoom_AnswerOfThePast(t *testing.T) {
	var r room
	first := r.ask()
	require.False(t, r.isFruitless(first, 100))
	heard := r.heard()
	second := r.ask()
	r.answer(heard, false, 100)
	require.True(t, r.isFruitless(first, 100))
	require.False(t, r.isFruitless(second, 100), "it asked after that one had begun")
	require.False(t, r.isFruitless(first, 101), "more is dead")
	r.answer(r.heard(), true, 101)
	require.False(t, r.isFruitless(first, 100), "something was given back")
	require.False(t, r.isFruitless(second, 100))
	third := r.ask()
	r.answer(r.heard(), false, 50)
	require.True(t, r.isFruitless(third, 50))
}

// Goal: a writer that was answered in vain asks nobody again while a compaction is under way.
//
// What would break: what its rounds have copied is there twice until the victims leave, and counts as dead. A writer
// that one of them wakes would ask again, for another compaction that finds nothing, and so on. Method: more is dead
// than the answer says, and the compaction is one in name only, since none can begin.
func TestRoom_CopiesAreNoNews(t *testing.T) {
	var s *Store
	waits := 0
	s, n := fullStore(t, Options{}, hooks{patience: neverInATest, at: func(p point) error {
		if p != pointRoomWait || s == nil { // nobody waits while it is filled
			return nil
		}
		switch waits++; waits {
		case 1:
			s.compacting.Store(true)
			s.room.answer(s.room.heard(), false, 0)
		case 2:
			s.compacting.Store(false)
			st := s.sizes()
			s.room.answer(s.room.heard(), false, st.reclaimable())
		}
		return nil
	}})
	s.maintenance.mu.Lock()
	defer s.maintenance.mu.Unlock()
	deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 1 })
	asked := s.room.heard()
	require.ErrorIs(t, s.withRoom(waitShare, func() error { return errOverBudget }), ErrNoSpace)
	require.Equal(t, 2, waits)
	require.Equal(t, asked+1, s.room.heard(), "it asks once")
}

// Goal: Close ends the waits of writers, and waits for the writers.
func TestRoom_ClosedBesideWaiting(t *testing.T) {
	const writers = 5
	var waiting atomic.Int64
	built := pauseAt(pointCompactBuilt)
	s, n := fullStore(t, Options{}, hooks{patience: neverInATest, at: both(built.hook, func(p point) error {
		if p == pointRoomWait {
			waiting.Add(1)
		}
		return nil
	})})
	var all sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		all.Go(func() {
			for i := 0; errs[w] == nil; i++ {
				size := 1000
				if w == 0 {
					size = 2 * minSegmentSize
				}
				errs[w] = s.Put(idOf(n+w+writers*i), contentOf(0, 0, size))
			}
		})
	}
	<-built.reached
	require.True(t, waitFor(func() bool { return waiting.Load() >= writers }))
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	all.Wait()
	for _, err := range errs {
		require.ErrorIs(t, err, ErrClosed)
	}
	close(built.proceed)
	require.NoError(t, <-closed)
}

// Goal: what changes after a writer has tried, and before it waits, wakes it. Method: at that moment everything is
// deleted, by somebody whose sweep is the only change, and then its clock runs out. Compactions are held from the
// start: one that had ended before the writer comes would have left it room.
func TestRoom_NoWakeUpLost(t *testing.T) {
	var s *Store
	var n int
	var on atomic.Bool
	waited := 0
	looks := make(chan time.Time)
	built := pauseAt(pointCompactBuilt)
	s, n = fullStore(t, Options{Compaction: CompactionOptions{MaxOverhead: 1}}, hooks{looks: looks,
		at: func(p point) error {
			if p != pointRoomWait || !on.Load() {
				return built.hook(p)
			}
			if waited++; waited > 1 {
				return nil
			}
			<-built.reached // the compaction does nothing from here on
			elsewhere(func() {
				for i := range n {
					if _, err := s.Delete(idOf(i)); err != nil {
						t.Error(err)
					}
				}
			})
			go func() {
				for range patienceLooks { // one after the other, each a coin against the change
					select {
					case looks <- time.Time{}:
					case <-s.lifetime.Done():
					}
				}
			}()
			return nil
		}})
	proceed := sync.OnceFunc(func() { close(built.proceed) })
	defer proceed() // or Close would wait for the compaction after a failure
	on.Store(true)
	for i := range 3 * 60 { // more than lanes have room for
		require.NoError(t, s.Put(idOf(n+i), contentOf(n+i, 0, 1000)))
	}
	require.Positive(t, waited, "lanes had room for all of it, so nothing was tested")
	proceed()
	requireContents(t, s, n, n+3*60, 1000, all)
}

// putting is a log handler that stores memories.
type putting struct{ put func(message string) }

func (h putting) Enabled(context.Context, slog.Level) bool { return true }

func (h putting) Handle(_ context.Context, r slog.Record) error {
	h.put(r.Message)
	return nil
}
func (h putting) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h putting) WithGroup(string) slog.Handler      { return h }

// Goal: a Put that runs on the goroutine of the compaction it would wait for ends all the same.
func TestRoom_PutInsideCompaction(t *testing.T) {
	for _, from := range []string{"OnProgress", "Logger"} {
		t.Run(from, func(t *testing.T) {
			var s *Store
			var next atomic.Int64
			var on atomic.Bool
			var refused atomic.Int64
			put := func() {
				if !on.Load() {
					return
				}
				for range 100 { // more than a lane has room for
					i := int(next.Add(1))
					switch err := s.Put(idOf(i), contentOf(i, 0, 1000)); {
					case err == nil:
					case errors.Is(err, ErrNoSpace):
						refused.Add(1)
						return
					case errors.Is(err, ErrClosed): // maintenance compacts as well
						return
					default:
						t.Error(err)
					}
				}
			}
			opts := Options{}
			if from == "OnProgress" {
				opts.Compaction.OnProgress = func(CompactionProgress) { put() }
			} else {
				opts.Logger = slog.New(putting{func(message string) {
					if strings.HasPrefix(message, "compaction round") {
						put()
					}
				}})
			}
			opts.Compaction.MaxOverhead = 1
			full, n := fullStore(t, opts, hooks{patience: time.Millisecond})
			s = full
			next.Store(int64(n))
			on.Store(true)
			for range 5 {
				_, err := s.Compact(t.Context())
				if !errors.Is(err, ErrCompactionInProgress) {
					require.NoError(t, err)
				}
			}
			on.Store(false)
			require.NoError(t, s.Close())
			t.Logf("%d refused", refused.Load())
		})
	}
}

// Goal: a writer that needs more than one segment gets it as long as enough is dead, although the store is not
// nearly full.
func TestRoom_MoreThanWhatIsFree(t *testing.T) {
	s := budgeted(t, "memory", Options{MaxBytes: 4 * fullBytes}, hooks{hash: oneLane})
	const size = 1000
	n := int(3 * fullBytes / bytesOf(1, size))
	fill(t, s, 0, n, size)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%5 == 0 })
	free := s.opts.MaxBytes - s.Stats().MappedBytes
	require.False(t, s.nearlyFull())
	large := make([]byte, free+s.Stats().DeadBytes/2)
	require.NoError(t, s.Put("large", large))
	requireContents(t, s, 0, n, size, func(i int) bool { return i%5 != 0 })
}

// Goal: a writer that waits for memory is told of a failed flush at once: no compaction will run.
func TestRoom_FailedFlush(t *testing.T) {
	s := openTest(t, &Options{MaxBytes: 2 << 20}, hooks{patience: time.Hour})
	fill(t, s, 0, 10, 1000)
	deleteWhere(t, s, 0, 5, all)
	failure := s.fail(errors.New("injected fault"))
	err := s.withRoom(0, func() error { return errOverBudget })
	require.Equal(t, failure, err)
	require.ErrorIs(t, err, ErrSyncFailed)
}

// Goal: no Put is refused because a compaction that a caller runs, in a store of which hardly anything is dead, has
// taken the rest of the budget for its targets: most of that comes back.
//
// What would break: the Put finds no room and asks; maintenance looks and answers that there is nothing to do; the Put
// takes that for the last word.
//
// Method: the compaction stops with its targets made. The look that the Put has asked for is the test's.
func TestRoom_CallersCompaction(t *testing.T) {
	paused := pauseAt(pointCompactBuilt)
	waits := make(chan struct{}, 100)
	opts := Options{MaxBytes: fullBytes}
	opts.Maintenance.Disabled = true
	s := budgeted(t, "directory", opts, hooks{hash: oneLane, patience: neverInATest, at: func(p point) error {
		if p == pointRoomWait {
			waits <- struct{}{}
		}
		return paused.hook(p)
	}})
	const size = 1000
	n := 0
	for ; s.mapper.limit-s.mapper.bytes.Load() >= 5*minSegmentSize; n++ {
		require.NoError(t, s.Put(idOf(n), contentOf(n, 0, size)))
	}
	deleteWhere(t, s, 0, n, func(i int) bool { return i%30 == 0 })
	compacted := make(chan error, 1)
	go func() {
		_, err := s.Compact(t.Context())
		compacted <- err
	}()
	proceed := sync.OnceFunc(func() { close(paused.proceed) })
	t.Cleanup(proceed)
	<-paused.reached
	put := make(chan error, 1)
	more := n
	go func() {
		for ; more < n+fullBytes/4/size; more++ {
			if err := s.Put(idOf(more), contentOf(more, 0, size)); err != nil {
				put <- err
				return
			}
		}
		put <- nil
	}()
	<-waits
	s.look()
	require.True(t, s.room.isAsked(), "the compaction under way has the answer")
	s.room.answer(s.room.heard(), false, fullBytes) // from a look that ended before the compaction began
	select {
	case err := <-put:
		t.Fatal("the Put did not wait: ", err)
	case <-waits:
	}
	require.EqualValues(t, 1, s.room.heard(), "it asks once")
	proceed()
	require.NoError(t, <-compacted)
	require.NoError(t, <-put)
	requireContents(t, s, 0, more, size, func(i int) bool { return i >= n || i%30 != 0 })
}
