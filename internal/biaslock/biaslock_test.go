package biaslock

import (
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/internal/cpu"
)

func newLock() *Lock {
	l := &Lock{}
	l.Init(runtime.GOMAXPROCS(0))
	return l
}

// colliding is a lock with one slot for all.
func colliding() *Lock {
	l := newLock()
	l.slots = l.slots[:1]
	return l
}

// requireFree checks that nobody is counted in.
func (l *Lock) requireFree(t *testing.T) {
	t.Helper()
	for i := range l.slots {
		require.Zero(t, l.slots[i].holders(), "holders of slot %d", i)
	}
	require.True(t, l.biased.Load())
}

// Goal: no reader is in while a writer is, and no two writers are (L1), whether readers have slots of
// their own or one for all. Method: writers change two variables, readers compare them; the race detector
// compares the accesses.
func TestLock_Excludes(t *testing.T) {
	for name, l := range map[string]*Lock{"slots": newLock(), "one slot": colliding()} {
		t.Run(name, func(t *testing.T) {
			var a, b int
			var wg sync.WaitGroup
			var torn atomic.Int64
			rounds := 20_000
			if testing.Short() {
				rounds /= 10
			}
			for range 6 {
				wg.Go(func() {
					for range rounds {
						hold := l.RLock()
						if a != b {
							torn.Add(1)
						}
						hold.Gets = 1
						l.RUnlock(hold)
					}
				})
			}
			for range 2 {
				wg.Go(func() {
					for range rounds / 20 {
						l.Lock()
						a++
						runtime.Gosched()
						b++
						l.Unlock()
					}
				})
			}
			wg.Wait()
			require.Zero(t, torn.Load())
			require.Equal(t, 2*(rounds/20), a)
			gets, _ := l.Counts()
			require.EqualValues(t, 6*rounds, gets)
			l.requireFree(t)
		})
	}
}

// lockElsewhere starts a writer and returns when it has taken the bias away; in says when it is in, and it
// leaves when leave is closed.
func lockElsewhere(l *Lock) (in *atomic.Bool, leave, left chan struct{}) {
	in, leave, left = new(atomic.Bool), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		l.Lock()
		in.Store(true)
		<-leave
		l.Unlock()
	}()
	for l.biased.Load() {
		runtime.Gosched()
	}
	return in, leave, left
}

// waitFor yields until ok holds, and reports whether it did within a minute.
func waitFor(ok func() bool) bool {
	for start := time.Now(); !ok(); runtime.Gosched() {
		if time.Since(start) > time.Minute {
			return false
		}
	}
	return true
}

// stays yields many times to everybody who could make ok false, and reports whether it held.
func stays(ok func() bool) bool {
	for range 2000 {
		if !ok() {
			return false
		}
		runtime.Gosched()
	}
	return true
}

// Goal: a writer waits for a reader in any slot, and for one that has counted itself and not yet looked at
// the bias: that one may still find it.
//
// Method: the count of such a reader, by hand, in every slot, one of several.
func TestLock_WriterWaitsForEverySlot(t *testing.T) {
	l := newLock()
	for i := range l.slots {
		l.slots[i].word.Add(2 * oneHolder)
		in, leave, left := lockElsewhere(l)
		require.True(t, stays(func() bool { return !in.Load() }), "a writer did not wait for slot %d", i)
		l.slots[i].word.Add(^uint64(0))
		require.True(t, stays(func() bool { return !in.Load() }), "a writer waited for one of two in slot %d", i)
		l.slots[i].word.Add(^uint64(0))
		close(leave)
		<-left
		l.requireFree(t)
	}
}

// Goal: readers that come while a writer waits queue behind it (L3): it is not held up by them.
//
// Method: a reader is in, a writer waits, more readers come; the first leaves.
func TestLock_ReadersQueueBehindWriter(t *testing.T) {
	l := newLock()
	first := l.RLock()
	writer, leave, left := lockElsewhere(l)
	var readers atomic.Int64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			hold := l.RLock()
			readers.Add(1)
			hold.Gets = 1
			l.RUnlock(hold)
		})
	}
	require.True(t, stays(func() bool { return readers.Load() == 0 && !writer.Load() }))
	l.RUnlock(first)
	require.True(t, waitFor(writer.Load))
	require.True(t, stays(func() bool { return readers.Load() == 0 }), "a reader came in beside the writer")
	close(leave)
	<-left
	wg.Wait()
	gets, _ := l.Counts()
	require.EqualValues(t, 3, gets, "gets of readers that had to queue")
	l.requireFree(t)
}

// growStack calls itself until the stack has been moved at least once.
//
//go:noinline
func growStack(depth int) byte {
	var frame [1024]byte
	if depth > 0 {
		frame[depth%len(frame)] = growStack(depth - 1)
	}
	return frame[0]
}

// Goal: RUnlock gives back what RLock took when the stack was moved in between (L4).
//
// Method: new goroutines, whose stacks are small, each grow theirs while they hold the lock; at least
// one must be hashed to another slot then, or the test would show nothing.
func TestLock_StackMovesWhileHeld(t *testing.T) {
	l := newLock()
	moved := 0
	for range 100 {
		done := make(chan bool)
		go func() {
			hold := l.RLock()
			growStack(1000)
			elsewhere := l.choose() != hold.slot
			l.RUnlock(hold)
			done <- elsewhere
		}()
		if <-done {
			moved++
		}
	}
	require.Positive(t, moved)
	l.requireFree(t)
}

// Goal: no get is lost or counted twice when a word is full, and holders are not touched by that.
//
// Method: words a few gets below the limit, with somebody in, and readers that get them over it.
func TestLock_CountsFold(t *testing.T) {
	l := colliding()
	sl := &l.slots[0]
	const before = foldGets - 100
	sl.word.Store(before << holderBits)
	inside := l.RLock()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				hold := l.RLock()
				hold.Gets = 3
				l.RUnlock(hold)
			}
		})
	}
	for last := uint64(0); last < before+4*3000; last = max(last, sl.gets()) {
		require.GreaterOrEqual(t, sl.gets(), last, "gets went back")
		runtime.Gosched()
	}
	wg.Wait()
	require.Equal(t, uint64(before+4*3000), sl.gets())
	require.Equal(t, uint64(foldGets), sl.total.Load())
	require.EqualValues(t, 1, sl.holders())
	l.RUnlock(inside)
	l.requireFree(t)
}

// Goal: two slots never share a cache line, nor a pair of lines that is fetched together.
func TestLock_SlotsApart(t *testing.T) {
	require.Zero(t, unsafe.Sizeof(slot{})%cpu.CacheLines)
}

// Goal: a hold stays in registers on its way from RLock to RUnlock. Go keeps a struct there that has at most four
// fields and four words.
func TestHold_FitsRegisters(t *testing.T) {
	require.LessOrEqual(t, reflect.TypeFor[Hold]().NumField(), 4)
	require.LessOrEqual(t, reflect.TypeFor[Hold]().Size(), 4*reflect.TypeFor[uint64]().Size())
}
