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

// held lists the ranks of the locks that each goroutine holds. Finding out which goroutine runs costs a
// stack trace per lock, which is why this is a test-only build.
var held = struct {
	sync.Mutex
	ranks map[uint64][]int
}{ranks: map[uint64][]int{}}

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
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	for _, h := range held.ranks[id] {
		if h >= r.Rank() {
			panic(fmt.Sprintf("warmtier: lock order violated: rank %d taken while rank %d is held",
				r.Rank(), h))
		}
	}
	held.ranks[id] = append(held.ranks[id], r.Rank())
}

// Released is the counterpart of [Acquiring]; it panics when the goroutine holds no lock of rank R.
func Released[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	i := slices.Index(held.ranks[id], r.Rank())
	if i < 0 {
		panic(fmt.Sprintf("warmtier: rank %d unlocked by a goroutine that does not hold it", r.Rank()))
	}
	held.ranks[id] = slices.Delete(held.ranks[id], i, i+1)
	if len(held.ranks[id]) == 0 {
		delete(held.ranks, id)
	}
}

// AssertHeld panics when the calling goroutine holds no lock of rank R.
func AssertHeld[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if !slices.Contains(held.ranks[id], r.Rank()) {
		panic(fmt.Sprintf("warmtier: no lock of rank %d is held", r.Rank()))
	}
}

// AssertBelow panics when the calling goroutine holds a lock of rank R or of a higher one.
func AssertBelow[R Rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	for _, rank := range held.ranks[id] {
		if rank >= r.Rank() {
			panic(fmt.Sprintf("warmtier: work without a bound begun with a lock of rank %d held", rank))
		}
	}
}

// AssertUnlocked panics when the calling goroutine holds any lock that has a rank.
func AssertUnlocked() {
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if ranks := held.ranks[id]; len(ranks) > 0 {
		panic(fmt.Sprintf("warmtier: user code called with locks of ranks %v held", ranks))
	}
}

// Mutex is a mutual exclusion lock of rank R.
type Mutex[R Rank] struct{ mu sync.Mutex }

// Lock panics, before it can block, when it would be acquired against the order.
func (m *Mutex[R]) Lock() { Acquiring[R](); m.mu.Lock() }

// Unlock panics when the calling goroutine does not hold a lock of rank R.
func (m *Mutex[R]) Unlock() { m.mu.Unlock(); Released[R]() }
