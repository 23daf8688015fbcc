// Package biaslock is a read-write lock that favors its readers: they write to no cache line that
// another core writes to, as far as a hash can see to that, and count what they read on the way. It
// knows nothing of stores, and nothing of the order of locks.
package biaslock

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/warmtier/warmtier/internal/cpu"
)

/*
The lock is BRAVO (Dice and Kogan, "BRAVO: Biased Locking for Reader-Writer Locks", USENIX ATC '19,
section 3; xsync's RBMutex is another one): an array of counters beside an ordinary RWMutex. Its writers
are rare, one for each swap of a compaction, and may be slow; readers are everything.

	reader   adds 1 to a counter; if the lock is biased towards readers, it is in. Otherwise it takes
	         the 1 back, and takes the RWMutex for reading.
	writer   takes the RWMutex, clears the bias, waits until every counter has been 0, and is in. It
	         gives the bias back before it releases the RWMutex.

What differs from the paper: the counters belong to one lock instead of to the process, a counter has
several holders, and the bias comes back with every unlock instead of after a multiple of what the writer
had to wait, since writers here come in rounds of a compaction and not in crowds.

L1 (exclusion): no reader is in while a writer is. A reader adds to its counter, then loads the bias; a
writer clears the bias, then loads the counters. Go's atomics are sequentially consistent, so of the
two loads at least one sees the other side's write. The interleaving that would break it: a reader that
loads the bias first and counts itself afterwards, with a writer's whole Lock in between.
L2 (backing out): a reader that is not in has taken its 1 back, or will without waiting for anything: a
writer waits for it some nanoseconds longer, and never in a circle.
L3 (order): readers that come while a writer waits find no bias, and queue after it at the RWMutex,
which serves them before the next writer.
L4 (the hold names its counter): RUnlock takes the 1 from the counter that RLock named, whatever stack
the goroutine is on by then. So any choice of a counter will do, and it may change from call to call:
two goroutines that share one are as safe as two that do not, only slower.

Which counter: the hash of the address of a variable on the goroutine's stack. Stacks of goroutines do
not overlap, the address is a register and a multiplication away, and it needs no name for the processor,
which Go does not give out. The multiplier spreads neighboring stacks (Knuth, TAOCP vol. 3, section 6.4,
on Fibonacci hashing). A goroutine whose stack is moved takes another counter from its next call on.

A counter is the lower 24 bits of a word; the upper 40 count the reads made under it, so that a single
addition at the end of a read both releases the lock and counts. 2^24 holders of one counter would be as
many goroutines, preempted in the middle of a read.
*/

const (
	holderBits = 24
	oneHolder  = 1
	oneGet     = 1 << holderBits

	// foldGets is how many reads a word counts before they are moved to the slot's total.
	foldGets = 1 << 32

	// A writer looks at all slots, each a cache miss at worst, so they are few; with fewer than
	// minSlots two goroutines would meet in one too often: here they do one time in 64.
	minSlots        = 64
	maxSlots        = 256
	slotsPerProcess = 4 // for each processor

	stackShift = 11 // the smallest stack of a goroutine has 2 KiB
)

// slot is a counter on cache lines of its own. Every goroutine that hashes to it adds to it.
type slot struct {
	slotState
	_ [cpu.CacheLines - unsafe.Sizeof(slotState{})%cpu.CacheLines]byte
}

type slotState struct {
	word   atomic.Uint64 // gets << holderBits | holders
	total  atomic.Uint64 // gets moved out of word
	misses atomic.Uint64 // that found nothing: gets have found something
}

func (sl *slot) holders() uint64 { return sl.word.Load() & (oneGet - 1) }

// gets is exact: while a fold is under way the word still has what the total has already, so both are
// read again.
func (sl *slot) gets() uint64 {
	for {
		total := sl.total.Load()
		counted := sl.word.Load() >> holderBits
		if counted < foldGets && sl.total.Load() == total {
			return total + counted
		}
		runtime.Gosched()
	}
}

// count adds n gets, and delta holders, in one step.
func (sl *slot) count(n, delta uint64) {
	counted := sl.word.Add(n<<holderBits+delta) >> holderBits
	if counted >= foldGets && counted-n < foldGets { // the adder that crosses the limit folds
		sl.total.Add(foldGets)
		sl.word.Add(^uint64(foldGets<<holderBits - 1))
	}
}

// Lock is the lock. Init makes one.
type Lock struct {
	slots  []slot      // a power of two of them
	shift  uint        // of a 64-bit hash, to number a slot
	biased atomic.Bool // written with under held for writing
	under  sync.RWMutex
}

// Hold is what RLock hands to RUnlock. It has four words, since Go keeps no more in registers (see record.Header).
type Hold struct {
	Gets   uint64        // the reads that the hold counts as; set by its holder
	Waited time.Duration // for a writer; if it is not 0, the RWMutex is held instead of the slot

	slot *slot
	nth  uint64 // gets that the slot had counted
}

// Init makes the lock ready, for so many processors; 0 gives it a single counter. Nobody may hold it.
func (l *Lock) Init(processors int) {
	n := 1
	if processors > 0 {
		n = max(minSlots, min(maxSlots, slotsPerProcess*processors))
	}
	numberBits := bits.Len(uint(n - 1))
	l.slots = make([]slot, 1<<numberBits)
	l.shift = uint(64 - numberBits)
	l.biased.Store(true)
}

// choose returns a counter. The address is a number here and never a pointer again, so it does not
// matter that the stack may move; and nothing escapes.
func (l *Lock) choose() *slot {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>stackShift) * 0x9e3779b97f4a7c15
	return &l.slots[h>>l.shift&uint64(len(l.slots)-1)]
}

// RLock keeps writers out until RUnlock, which takes what it returns. It must not be called by a
// goroutine that holds the lock.
func (l *Lock) RLock() Hold {
	sl := l.choose()
	nth := sl.word.Add(oneHolder) >> holderBits
	if l.biased.Load() {
		return Hold{slot: sl, nth: nth}
	}
	return l.queue(sl, nth)
}

// queue is RLock while a writer waits or is in.
func (l *Lock) queue(sl *slot, nth uint64) Hold {
	sl.word.Add(^uint64(0))
	start := time.Now()
	l.under.RLock()
	return Hold{slot: sl, nth: nth, Waited: max(1, time.Since(start))}
}

// RUnlock ends a hold, and counts its gets.
func (l *Lock) RUnlock(h Hold) {
	if h.Waited != 0 {
		if h.Gets > 0 {
			h.slot.count(h.Gets, 0)
		}
		l.under.RUnlock()
	} else {
		h.slot.count(h.Gets, ^uint64(0))
	}
}

// Lock returns when no reader is in; those that come from here on wait for Unlock.
func (l *Lock) Lock() {
	l.under.Lock()
	l.biased.Store(false)
	for i := range l.slots {
		for n := 0; l.slots[i].holders() != 0; n++ {
			waitForReader(n)
		}
	}
}

// Unlock lets readers in again.
func (l *Lock) Unlock() {
	l.biased.Store(true)
	l.under.Unlock()
}

// waitForReader is the n-th wait for one slot. Most reads end within 100 ns; one that was preempted gets
// the processor; while one waits for something else (a page from a disk, the garbage collector), it must
// not cost a core.
func waitForReader(n int) {
	const spins, yields = 64, 64
	switch {
	case n < spins:
	case n < spins+yields:
		runtime.Gosched()
	default:
		us := min(time.Duration(n-spins-yields+1)*5, 100)
		time.Sleep(us * time.Microsecond) //nolint:forbidigo // nothing tells that a reader has left
	}
}

// Counts returns what readers have counted: gets that found something, and those that did not. Neither
// ever decreases.
func (l *Lock) Counts() (hits, misses int64) {
	for i := range l.slots {
		hits += int64(l.slots[i].gets())
		misses += int64(l.slots[i].misses.Load())
	}
	return hits, misses
}

// Misses counts n gets that found nothing, beside the gets of the hold.
func (h *Hold) Misses(n uint64) { h.slot.misses.Add(n) }

// Counted returns how many gets the counter of the hold had counted before it, misses included: one
// hold in N passes a multiple of N, which is how samples are chosen.
func (h *Hold) Counted() uint64 { return h.nth + h.slot.misses.Load() }
