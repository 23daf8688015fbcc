//go:build warmtier_invariants

package warmtier

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/biaslock"
	"github.com/warmtier/warmtier/internal/lockrank"
)

// rankedLocker is a lock of one rank, taken in one of its ways.
type rankedLocker struct {
	name         string
	rank         int
	lock, unlock func()
}

func rankedLockers() []rankedLocker {
	var (
		content contentLock
		hold    biaslock.Hold
		ln      lockrank.Mutex[laneRank]
		sh      lockrank.Mutex[shardRank]
		table   lockrank.Mutex[tableRank]
		rolling lockrank.Mutex[rollRank]
		leaving lockrank.Mutex[leaveRank]
	)
	content.biased.Init(1)
	return []rankedLocker{
		{"content for writing", 2, content.Lock, content.Unlock},
		{"content for reading", 2, func() { hold = content.RLock() }, func() { content.RUnlock(hold) }},
		{"lane", 3, ln.Lock, ln.Unlock},
		{"shard", 4, sh.Lock, sh.Unlock},
		{"table", 5, table.Lock, table.Unlock},
		{"rolling", 0, rolling.Lock, rolling.Unlock},
		{"leaving", 1, leaving.Lock, leaving.Unlock},
	}
}

// Goal: a lock taken against the order, or a second one of the same kind, panics before it can
// block; in order they pass. Method: every ordered pair of two fresh locks.
func TestLockOrder_Pairs(t *testing.T) {
	for i := range rankedLockers() {
		for j := range rankedLockers() {
			first, second := rankedLockers()[i], rankedLockers()[j]
			t.Run(fmt.Sprintf("%s, then %s", first.name, second.name), func(t *testing.T) {
				first.lock()
				defer first.unlock()
				if first.rank < second.rank {
					require.NotPanics(t, second.lock)
					second.unlock()
					return
				}
				require.PanicsWithValue(t, fmt.Sprintf(
					"warmtier: lock order violated: rank %d taken while rank %d is held", second.rank, first.rank),
					second.lock)
			})
		}
	}
}

// Goal: all ranks can be held at once, in order, and again after the release; the locks of another
// goroutine do not count. Method: take all ranks but that of a lane's rolling with a lock held elsewhere.
func TestLockOrder_WholeOrderPasses(t *testing.T) {
	elsewhere := rankedLockers()[4]
	locked, release, released := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		elsewhere.lock()
		close(locked)
		<-release
		elsewhere.unlock()
	}()
	<-locked
	for range 2 {
		ls := rankedLockers()
		for _, i := range []int{6, 1, 2, 3, 4} {
			require.NotPanics(t, ls[i].lock)
		}
		for _, i := range []int{6, 1, 2, 3, 4} { // the order of release is free
			require.NotPanics(t, ls[i].unlock)
		}
	}
	close(release)
	<-released
}

// Goal: an unlock by a goroutine that does not hold the lock panics. Method: unlock elsewhere.
func TestLockOrder_UnlockByAnotherPanics(t *testing.T) {
	l := rankedLockers()[2]
	l.lock()
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		lockrank.Released[laneRank]()
	}()
	require.NotNil(t, <-done)
	l.unlock()
}

// Goal: AssertUnlocked, which stands before every call of user code, sees each kind of lock.
func TestLockOrder_AssertUnlocked(t *testing.T) {
	require.NotPanics(t, lockrank.AssertUnlocked)
	for _, l := range rankedLockers() {
		t.Run(l.name, func(t *testing.T) {
			l.lock()
			defer l.unlock()
			require.Panics(t, lockrank.AssertUnlocked)
		})
	}
}

// Goal: a walk of the segment table, which takes as long as there are segments, is refused while
// contentMu or a lock after it is held.
func TestLockOrder_NoWalkWithContentHeld(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	for _, l := range rankedLockers() {
		t.Run(l.name, func(t *testing.T) {
			l.lock()
			defer l.unlock()
			walk := func() { s.segments.all() }
			if l.rank >= (contentRank{}).Rank() {
				require.Panics(t, walk)
			} else {
				require.NotPanics(t, walk)
			}
		})
	}
}

// Goal: callbacks of View, All and OnProgress run with no lock held. Method: assert it in each,
// during a compaction as well as outside one, and again after each call.
func TestLockOrder_CallbacksHoldNoLock(t *testing.T) {
	called := map[string]int{}
	opts := quiet()
	opts.Compaction.Workers = 2
	opts.Compaction.OnProgress = func(CompactionProgress) {
		called["progress"]++
		lockrank.AssertUnlocked()
	}
	s := openTest(t, opts, hooks{})
	fill(t, s, 0, 1000, 100)
	deleteWhere(t, s, 0, 1000, odd)
	view := func() {
		require.NoError(t, s.View(idOf(0), func([]byte) error {
			called["view"]++
			lockrank.AssertUnlocked()
			return nil
		}))
		for range s.All() {
			called["all"]++
			lockrank.AssertUnlocked()
		}
		lockrank.AssertUnlocked()
	}
	view()
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	view()
	require.Equal(t, 2, called["view"])
	require.Equal(t, 1000, called["all"])
	require.GreaterOrEqual(t, called["progress"], 2)
}
