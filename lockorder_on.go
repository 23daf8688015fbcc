//go:build warmtier_invariants

package warmtier

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
)

// held lists the ranks of the locks each goroutine holds. It costs a stack trace per lock, which is
// why it is a test-only build.
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

func acquiring[R rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	for _, h := range held.ranks[id] {
		if h >= r.rank() {
			panic(fmt.Sprintf("warmtier: lock order violated: rank %d taken while rank %d is held",
				r.rank(), h))
		}
	}
	held.ranks[id] = append(held.ranks[id], r.rank())
}

func released[R rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	i := slices.Index(held.ranks[id], r.rank())
	if i < 0 {
		panic(fmt.Sprintf("warmtier: rank %d unlocked by a goroutine that does not hold it", r.rank()))
	}
	held.ranks[id] = slices.Delete(held.ranks[id], i, i+1)
	if len(held.ranks[id]) == 0 {
		delete(held.ranks, id)
	}
}

// assertHeld panics when the calling goroutine holds no lock of rank R.
func assertHeld[R rank]() {
	var r R
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if !slices.Contains(held.ranks[id], r.rank()) {
		panic(fmt.Sprintf("warmtier: no lock of rank %d is held", r.rank()))
	}
}

// assertUnlocked panics when the calling goroutine holds a lock.
func assertUnlocked() {
	id := goroutineID()
	held.Lock()
	defer held.Unlock()
	if ranks := held.ranks[id]; len(ranks) > 0 {
		panic(fmt.Sprintf("warmtier: user code called with locks of ranks %v held", ranks))
	}
}

type rankedMutex[R rank] struct{ mu sync.Mutex }

func (m *rankedMutex[R]) Lock()   { acquiring[R](); m.mu.Lock() }
func (m *rankedMutex[R]) Unlock() { m.mu.Unlock(); released[R]() }
