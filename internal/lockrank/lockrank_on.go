//go:build warmtier_invariants

package lockrank

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
)

// held lists the locks that each goroutine holds. Finding out which goroutine runs costs a stack trace
// per lock, which is why this is a test-only build.
var held = struct {
	sync.Mutex
	locks map[uint64][]lock
}{locks: map[uint64][]lock{}}

// lock is a rank, and the place among the locks of that rank; noPlace for one that stands alone.
type lock struct{ rank, nth int }

const noPlace = -1

// before reports whether l may be held when next is acquired.
func (l lock) before(next lock) bool {
	return l.rank < next.rank || l.rank == next.rank && l.nth != noPlace && l.nth < next.nth
}

// goroutineID reads the number in the first line of the stack, "goroutine N [running]:": the runtime
// offers no other way to tell goroutines apart.
func goroutineID() uint64 {
	var buf [64]byte
	line := buf[:runtime.Stack(buf[:], false)]
	fields := bytes.Fields(line)
	id, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("warmtier: no goroutine number in %q: %v", line, err))
	}
	return id
}

// Acquiring panics when the calling goroutine holds a lock of rank R or above.
func Acquiring[R Rank]() {
	var r R
	acquiring(lock{rank: r.Rank(), nth: noPlace})
}

func acquiring(next lock) {
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	for _, h := range held.locks[id] {
		if !h.before(next) {
			panic(fmt.Sprintf("warmtier: lock order violated: rank %d taken while rank %d is held",
				next.rank, h.rank))
		}
	}
	held.locks[id] = append(held.locks[id], next)
}

// last returns where in locks the newest one of this rank is, -1 for none.
func last(locks []lock, rank int) int {
	for i := len(locks) - 1; i >= 0; i-- {
		if locks[i].rank == rank {
			return i
		}
	}
	return -1
}

// Released is the counterpart of [Acquiring]; it panics when the goroutine holds no lock of rank R.
func Released[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	i := last(held.locks[id], r.Rank())
	if i < 0 {
		panic(fmt.Sprintf("warmtier: rank %d unlocked by a goroutine that does not hold it", r.Rank()))
	}
	held.locks[id] = slices.Delete(held.locks[id], i, i+1)
	if len(held.locks[id]) == 0 {
		delete(held.locks, id)
	}
}

// AssertHeld panics when the calling goroutine holds no lock of rank R.
func AssertHeld[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if last(held.locks[id], r.Rank()) < 0 {
		panic(fmt.Sprintf("warmtier: no lock of rank %d is held", r.Rank()))
	}
}

// AssertBelow panics when the calling goroutine holds a lock of rank R or of a higher one.
func AssertBelow[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	for _, h := range held.locks[id] {
		if h.rank >= r.Rank() {
			panic(fmt.Sprintf("warmtier: work without a bound begun with a lock of rank %d held", h.rank))
		}
	}
}

// AssertUnlocked panics when the calling goroutine holds any lock that has a rank.
func AssertUnlocked() {
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if locks := held.locks[id]; len(locks) > 0 {
		panic(fmt.Sprintf("warmtier: user code called with locks (rank, place) %v held", locks))
	}
}

// Mutex is a mutual exclusion lock of rank R.
type Mutex[R Rank] struct{ mu sync.Mutex }

// Lock panics, before it can block, when it would be acquired against the order.
func (m *Mutex[R]) Lock() { Acquiring[R](); m.mu.Lock() }

// LockNth acquires the n-th lock of its rank: it panics, before it can block, when the calling goroutine holds
// another one of that rank that is not of a lower number.
func (m *Mutex[R]) LockNth(n int) {
	var r R
	acquiring(lock{rank: r.Rank(), nth: n})
	m.mu.Lock()
}

// TryLock acquires the lock if nobody holds it, in whatever order.
func (m *Mutex[R]) TryLock() (ok bool) {
	if ok = m.mu.TryLock(); ok {
		Acquiring[R]()
	}
	return ok
}

// Unlock panics when the calling goroutine does not hold a lock of rank R.
func (m *Mutex[R]) Unlock() { m.mu.Unlock(); Released[R]() }
