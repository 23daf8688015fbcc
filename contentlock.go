package warmtier

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

/*
contentLock is a read-write lock whose readers write to no cache line that another core writes to, as
far as a hash can see to that. It is BRAVO (Dice and Kogan, "BRAVO: Biased Locking for Reader-Writer
Locks", USENIX ATC '19, section 3; xsync's RBMutex is another one): an array of counters beside an
ordinary RWMutex. Writers are rare here, one for each swap, and may be slow; readers are everything.

	reader   adds 1 to a counter; if the lock is biased towards readers, it is in. Else it takes the 1
	         back, and takes the RWMutex for reading.
	writer   takes the RWMutex, clears the bias, waits until every counter has been 0, and is in. It
	         gives the bias back before it lets go of the RWMutex.

What differs from the paper: the counters belong to one lock instead of to the process, there are
several holders to a counter, and the bias comes back with every unlock instead of after a multiple
of what the writer had to wait, since writers here come in rounds of compaction and not in crowds.

L1 (exclusion): no reader is in while a writer is. A reader adds to its counter, then loads the bias; a
writer clears the bias, then loads the counters. Go's atomics are sequentially consistent, so of the
two loads at least one sees the other side's write. The interleaving that would break it: a reader that
loads the bias first and counts itself after, with a writer's whole Lock in between.
L2 (who has backed out): a reader that is not in has taken its 1 back, or will without waiting for
anything: a writer waits for it some nanoseconds longer, and never in a circle.
L3 (order): readers that come while a writer waits find no bias, and queue behind it at the RWMutex,
which serves them before the next writer.
L4 (the hold is the counter's): RUnlock takes the 1 from the counter that RLock named, whatever stack the
goroutine is on by then. So the choice of a counter may be any, and may change from call to call: two
goroutines that share one are as safe as two that do not, only slower.

Which counter: the hash of the address of a variable on the goroutine's stack. Stacks of goroutines do
not overlap, it is a register and a multiplication away, and it needs no name for the processor, which
Go does not give out. The multiplier spreads neighbouring stacks (Knuth, TAOCP vol. 3, section 6.4, on
Fibonacci hashing). A stack that is moved makes for another counter from the next call on.

A counter is the lower 24 bits of a word; the upper 40 count the reads that were made under it, so that
one addition at the end of a read both gives the lock back and counts. 2^24 holders of one counter would
be as many goroutines, preempted in the middle of a read.
*/

const (
	holderBits = 24
	oneHolder  = 1
	oneGet     = 1 << holderBits

	// foldGets is how many reads a word counts before they are moved to the slot's total.
	foldGets = 1 << 32

	// A writer looks at all slots, each a cache miss at worst, so they are few; fewer than
	// minReaderSlots would make two goroutines meet in one too often: here it is one time in 64.
	minReaderSlots  = 64
	maxReaderSlots  = 256
	slotsPerProcess = 4 // for each processor

	stackShift = 11 // the smallest stack of a goroutine has 2 KiB
)

// readerSlot is a counter of its own cache lines. Who adds to it is whoever hashes to it.
type readerSlot struct {
	readerSlotState
	_ [cacheLines - unsafe.Sizeof(readerSlotState{})%cacheLines]byte
}

type readerSlotState struct {
	word   atomic.Uint64 // gets << holderBits | holders
	total  atomic.Uint64 // gets moved out of word
	misses atomic.Uint64 // that found nothing: gets have found something
}

func (sl *readerSlot) holders() uint64 { return sl.word.Load() & (oneGet - 1) }

// gets is exact: while a fold is under way the word still has what the total has already, and is
// read again.
func (sl *readerSlot) gets() uint64 {
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
func (sl *readerSlot) count(n, delta uint64) {
	counted := sl.word.Add(n<<holderBits+delta) >> holderBits
	if counted >= foldGets && counted-n < foldGets { // who gets it over the limit folds
		sl.total.Add(foldGets)
		sl.word.Add(^uint64(foldGets<<holderBits - 1))
	}
}

// contentLock is the lock of the content buffer. newContentLock makes one.
type contentLock struct {
	slots  []readerSlot // a power of two of them
	shift  uint         // of a 64-bit hash, to number a slot
	biased atomic.Bool  // written with under held for writing
	under  sync.RWMutex
}

// readHold is what RLock gives to RUnlock. gets is set by calls that count as reads.
type readHold struct {
	slot   *readerSlot
	under  bool // the RWMutex is held instead of the slot
	gets   uint64
	nth    uint64        // gets that the slot had counted, to choose samples by
	waited time.Duration // for a writer
}

// init makes the lock one for as many processors.
func (l *contentLock) init(processors int) {
	n := max(minReaderSlots, min(maxReaderSlots, slotsPerProcess*processors))
	numberBits := bits.Len(uint(n - 1))
	l.slots = make([]readerSlot, 1<<numberBits)
	l.shift = uint(64 - numberBits)
	l.biased.Store(true)
}

// slot chooses a counter. The address is a number here and never a pointer again, so it does not
// matter that the stack may move; and it makes nothing escape.
func (l *contentLock) slot() *readerSlot {
	var here byte
	h := uint64(uintptr(unsafe.Pointer(&here))>>stackShift) * 0x9e3779b97f4a7c15
	return &l.slots[h>>l.shift&uint64(len(l.slots)-1)]
}

// RLock keeps writers out until RUnlock, which is given what it returns. It must not be called by a
// goroutine that holds the lock.
func (l *contentLock) RLock() readHold {
	acquiring[contentRank]()
	sl := l.slot()
	nth := sl.word.Add(oneHolder) >> holderBits
	if l.biased.Load() {
		return readHold{slot: sl, nth: nth}
	}
	return l.queue(sl, nth)
}

// queue is RLock while a writer waits or is in.
func (l *contentLock) queue(sl *readerSlot, nth uint64) readHold {
	sl.word.Add(^uint64(0))
	start := time.Now()
	l.under.RLock()
	return readHold{slot: sl, under: true, nth: nth, waited: time.Since(start)}
}

func (l *contentLock) RUnlock(h readHold) {
	if h.under {
		if h.gets > 0 {
			h.slot.count(h.gets, 0)
		}
		l.under.RUnlock()
	} else {
		h.slot.count(h.gets, ^uint64(0))
	}
	released[contentRank]()
}

// Lock returns when no reader is in; those that come meanwhile wait for Unlock.
func (l *contentLock) Lock() {
	acquiring[contentRank]()
	l.under.Lock()
	l.biased.Store(false)
	for i := range l.slots {
		for n := 0; l.slots[i].holders() != 0; n++ {
			waitForReader(n)
		}
	}
}

func (l *contentLock) Unlock() {
	l.biased.Store(true)
	l.under.Unlock()
	released[contentRank]()
}

// waitForReader is the n-th wait for one slot. Most reads end within 100 ns; one that was preempted gets
// the processor; one that waits for something else (a page from a disk, the garbage collector) must
// not cost a core meanwhile.
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

// counts sums up what readers have counted: gets that found something, and those that did not. Neither
// ever goes back.
func (l *contentLock) counts() (hits, misses int64) {
	for i := range l.slots {
		hits += int64(l.slots[i].gets())
		misses += int64(l.slots[i].misses.Load())
	}
	return hits, misses
}

// miss makes the gets of a hold misses.
func (h *readHold) miss() {
	if h.gets > 0 {
		h.slot.misses.Add(h.gets)
		h.gets = 0
	}
}
