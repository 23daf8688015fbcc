//go:build warmtier_invariants

package lockrank

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

type (
	low  struct{}
	high struct{}
)

func (low) Rank() int  { return 1 }
func (high) Rank() int { return 2 }

// locker is a lock, by the way it is taken.
type locker struct {
	name         string
	rank         int
	lock, unlock func()
}

func lockers() []locker {
	var l, other Mutex[low]
	var h Mutex[high]
	return []locker{
		{"low", 1, l.Lock, l.Unlock},
		{"another low", 1, other.Lock, other.Unlock},
		{"low, no mutex", 1, Acquiring[low], Released[low]},
		{"high", 2, h.Lock, h.Unlock},
	}
}

// Goal: a lock taken against the order, or a second one of the same rank, panics before it can block; in
// order they pass. Method: every ordered pair of two fresh locks.
func TestMutex_Pairs(t *testing.T) {
	for i := range lockers() {
		for j := range lockers() {
			first, second := lockers()[i], lockers()[j]
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

// Goal: what is asserted of the locks held is true of the calling goroutine alone.
func TestAssertions_OfTheGoroutine(t *testing.T) {
	require.NotPanics(t, AssertUnlocked)
	require.Panics(t, AssertHeld[low])
	var m Mutex[low]
	require.NotPanics(t, AssertBelow[low])
	m.Lock()
	require.Panics(t, AssertUnlocked)
	require.Panics(t, AssertBelow[low])
	require.NotPanics(t, AssertBelow[high])
	require.NotPanics(t, AssertHeld[low])
	require.Panics(t, AssertHeld[high])
	elsewhere := make(chan any)
	go func() {
		defer func() { elsewhere <- recover() }()
		AssertUnlocked()
	}()
	require.Nil(t, <-elsewhere)
	m.Unlock()
	require.NotPanics(t, AssertUnlocked)
}

// Goal: several locks of one rank are held when they are taken in the order of their numbers, and in no other way.
func TestMutex_LockNth(t *testing.T) {
	for _, c := range []struct {
		first, second int // -1: by Lock
		ok            bool
	}{{0, 1, true}, {0, 7, true}, {1, 0, false}, {3, 3, false}, {-1, 0, false}, {0, -1, false}} {
		var locks [2]Mutex[low]
		take := func(i, n int) {
			if n < 0 {
				locks[i].Lock()
			} else {
				locks[i].LockNth(n)
			}
		}
		take(0, c.first)
		require.Panics(t, AssertUnlocked)
		if c.ok {
			require.NotPanics(t, func() { take(1, c.second) }, "%+v", c)
			locks[1].Unlock()
		} else {
			require.PanicsWithValue(t, "warmtier: lock order violated: rank 1 taken while rank 1 is held",
				func() { take(1, c.second) }, "%+v", c)
		}
		locks[0].Unlock()
		require.NotPanics(t, AssertUnlocked)
	}
	var l Mutex[low]
	require.True(t, l.TryLock())
	require.Panics(t, AssertUnlocked)
	require.False(t, l.TryLock())
	l.Unlock()
}
