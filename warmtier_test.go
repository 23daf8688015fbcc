package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: a fresh store is empty in every figure, and every call works on it. Method: literals.
func TestOpen_FreshStore(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.Equal(t, Stats{Opened: s.opened}, withoutHistograms(t, s.Stats()),
		"every figure is zero, the fragmentation ratio too")
	require.Zero(t, s.Len())
	for id := range s.All() {
		require.Failf(t, "a memory in an empty store", "%q", id)
	}
	_, err := s.Get("absent")
	require.ErrorIs(t, err, ErrNotFound)
	require.False(t, s.Has("absent"))
	existed, err := s.Delete("absent")
	require.NoError(t, err)
	require.False(t, existed)
	require.NoError(t, s.Sync())

	stats := mustCompact(t, s)
	stats.Duration = 0
	require.Equal(t, CompactionStats{}, stats)
	require.EqualValues(t, 1, s.Stats().Compactions)
	report, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Zero(t, report.Records)
	require.Zero(t, report.Memories)
}

// Goal: a read-only store refuses every call that writes, and serves the others. Method: a table of
// calls.
func TestOpen_ReadOnly(t *testing.T) {
	opts := quiet()
	opts.ReadOnly = true
	s := openTest(t, opts, hooks{})
	for _, call := range storeCalls {
		err := call.do(s, "id")
		switch {
		case call.writes:
			require.ErrorIs(t, err, ErrReadOnly, call.name)
		case call.takesID:
			require.ErrorIs(t, err, ErrNotFound, call.name)
		default:
			require.NoError(t, err, call.name)
		}
	}
	require.Zero(t, s.Len())
}

// Goal: an id that is empty or too long is refused by every call that takes one, with the length in
// the message, and nothing changes. Method: a table of calls; the longest id that is allowed
// passes.
func TestStore_InvalidID(t *testing.T) {
	for _, id := range []string{"", strings.Repeat("x", MaxIDLen+1), strings.Repeat("x", 1<<20)} {
		t.Run(fmt.Sprintf("id of %d bytes", len(id)), func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			fill(t, s, 0, 10, 100)
			before := settled(s)
			for _, call := range storeCalls {
				if !call.takesID {
					continue
				}
				err := call.do(s, id)
				require.ErrorIs(t, err, ErrInvalidID, call.name)
				require.ErrorContains(t, err, fmt.Sprintf("%d bytes", len(id)), call.name)
			}
			require.False(t, s.Has(id))
			requireSameState(t, before, s.Stats())
			requireContents(t, s, 0, 10, 100, all)
		})
	}
	s := openTest(t, quiet(), hooks{})
	longest := strings.Repeat("x", MaxIDLen)
	require.NoError(t, s.Put(longest, []byte("content")))
	require.True(t, s.Has(longest))
}

// Goal: a cancelled context ends Compact, Maintain and Verify before they do anything, with its
// cause. Method: cancel first; nothing may have changed but the count of failures.
func TestStore_CancelledContext(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	deleteWhere(t, s, 0, 1000, odd)
	before := settled(s)
	cause := errors.New("the caller changed its mind")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)

	stats, err := s.Compact(ctx)
	require.ErrorIs(t, err, ErrCompactionFailed)
	require.ErrorIs(t, err, cause)
	require.Zero(t, stats.Rounds)
	require.Equal(t, before.TotalBytes, stats.BytesAfter)
	_, err = s.Maintain(ctx)
	require.ErrorIs(t, err, cause)
	_, err = s.Verify(ctx)
	require.ErrorIs(t, err, cause)

	after := s.Stats()
	require.EqualValues(t, 1, after.CompactionFailures)
	requireSameState(t, before, after)
	mustCompact(t, s)
	_, err = s.Verify(context.Background())
	require.NoError(t, err)
}

// Goal: ids whose hashes are all the same are still told apart by every call. Method: a constant
// hash, against a map.
func TestStore_CollidingIDs(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0x12345678_9abcdef0 }})
	n := 1000
	if raceEnabled || lockOrderChecked() {
		n = 300 // the cost grows with its square
	}
	model := map[string][]byte{}
	for i := range n {
		model[idOf(i)] = contentOf(i, 0, 100)
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	requireAll(t, s, model)
	for i := 0; i < n; i += 3 {
		model[idOf(i)] = contentOf(i, 1, 80)
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	for i := 1; i < n; i += 3 {
		existed, err := s.Delete(idOf(i))
		require.NoError(t, err)
		require.True(t, existed)
		delete(model, idOf(i))
		_, err = s.Get(idOf(i))
		require.ErrorIs(t, err, ErrNotFound)
	}
	requireAll(t, s, model)
	mustCompact(t, s)
	requireAll(t, s, model)
	for id, content := range model {
		got, err := s.Get(id)
		require.NoError(t, err)
		require.Equal(t, content, got)
	}
}

// storeCalls are the methods of Store that return an error.
var storeCalls = []struct {
	name    string
	takesID bool
	writes  bool
	do      func(s *Store, id string) error
}{
	{"Put", true, true, func(s *Store, id string) error { return s.Put(id, []byte("content")) }},
	{"Put of a large content", true, true, func(s *Store, id string) error { return s.Put(id, make([]byte, 100_000)) }},
	{"Get", true, false, func(s *Store, id string) error { _, err := s.Get(id); return err }},
	{"AppendContent", true, false, func(s *Store, id string) error { _, err := s.AppendContent(nil, id); return err }},
	{"View", true, false, func(s *Store, id string) error { return s.View(id, func([]byte) error { return nil }) }},
	{"Delete", true, true, func(s *Store, id string) error { _, err := s.Delete(id); return err }},
	{"Compact", false, true, func(s *Store, _ string) error { _, err := s.Compact(context.Background()); return err }},
	{"Maintain", false, true, func(s *Store, _ string) error { _, err := s.Maintain(context.Background()); return err }},
	{"Verify", false, false, func(s *Store, _ string) error { _, err := s.Verify(context.Background()); return err }},
	{"Sync", false, false, func(s *Store, _ string) error { return s.Sync() }},
}

// Goal: after Close every call returns ErrClosed, calls without an error find nothing, and Close
// itself may be called again. Method: a table of calls.
func TestClose_EveryCallAfterIt(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	for _, call := range storeCalls {
		require.ErrorIs(t, call.do(s, idOf(1)), ErrClosed, call.name)
	}
	require.False(t, s.Has(idOf(1)))
	require.Zero(t, s.Len())
	for range s.All() {
		require.Fail(t, "a memory of a closed store")
	}
	got, err := s.AppendContent([]byte("as it was"), idOf(1))
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, "as it was", string(got))
	st := s.Stats()
	require.EqualValues(t, 100, st.Puts, "counters stay")
	require.Zero(t, st.Memories)
	require.Zero(t, st.Segments)
	require.Zero(t, st.TotalBytes)
	require.Zero(t, st.LiveBytes)
	require.Zero(t, st.MappedBytes)
	require.Zero(t, st.IndexBytes)
	require.NoError(t, s.Close())
}

// Goal: Close at any point of a compaction ends it, waits for it, and leaves no mapping and no
// goroutine behind.
//
// What would break: segments unmapped under the workers; a compaction that continues with a table
// that is gone.
//
// Method: the compaction is held at the point until one of two Closes has cancelled it.
func TestClose_AtEveryPointOfCompaction(t *testing.T) {
	for _, workers := range []int{1, 4} {
		for _, p := range compactionPoints {
			t.Run(fmt.Sprintf("workers=%d/%s", workers, p), func(t *testing.T) {
				s, _ := fragmentedStore(t, bounded(workers))
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

// Goal: a callback of View may call Close while a compaction runs, and its content stays as it is.
//
// What would break: a Close that waits for Views waits for itself; one that does not wait for the
// compaction unmaps what it copies from; and one that unmaps a pinned segment faults in the View.
func TestClose_InsideViewDuringCompaction(t *testing.T) {
	for _, p := range compactionPoints {
		t.Run(string(p), func(t *testing.T) {
			s, _ := fragmentedStore(t, bounded(2))
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

// Goal: calls under way when the store is closed, by two goroutines at once, return right bytes or
// ErrClosed, and never fault.
//
// Method: many short lives of a store, each with every call running against Close.
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
	require.True(t, waitFor(func() bool { return done.Load() > 500 }))
	running.Go(func() { _ = s.Close() })
	require.NoError(t, s.Close())
	running.Wait()
	requireReleased(t, s, goroutines)
}
