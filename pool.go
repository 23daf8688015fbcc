package warmtier

import (
	"math"
	"sync"
	"time"

	"github.com/warmtier/warmtier/internal/vm"
)

// segmentPool holds memory of segments that left a memory store: one that is kept back for
// compactions, and some for lanes.
//
// Kept back is the survivor: the target that a compaction takes when there is no other memory. A
// target takes the live records of any segment, so with a survivor at hand a compaction can always
// give back something, however little memory is left. A lane gets a segment only if the survivor is
// there, or a compaction has it: what compactions give back fills it up first. Its first presentBytes are
// touched when it is made, so that so much is kept back of the machine's memory too, and not of addresses
// alone. Like the segments of lanes, it is small at first (growth.go).
//
// The rest is for lanes. A fresh page costs a Put as much as copying 1 KiB to it, and a program that
// overwrites as fast as segments are given back would pay for one with every record. It is bounded by
// the live bytes (poolLimit), and a maintenance cycle gives back what was not used for an Interval.
type segmentPool struct {
	mu       sync.Mutex   // a leaf
	survivor []byte       // nil when there is none
	present  int          // bytes of the survivor whose pages are there
	size     int          // of the survivor when it was last there, bytes: no lane has a larger segment
	lent     bool         // to a compaction, which gives it back when it ends
	closed   bool         // by Close: nothing is kept any more
	kept     []keptMemory // the oldest first
	begun    int          // segments that lanes began since counted
	counted  time.Time
}

// keptMemory is the memory of one segment, not zeroed.
type keptMemory struct {
	mem   []byte
	since time.Time
}

// countBegun counts a segment that a lane begins, whether or not its memory is from the pool.
func (p *segmentPool) countBegun() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
}

// hasSurvivor reports whether memory is kept back, or lent to a compaction, that takes segments of size
// bytes.
func (p *segmentPool) hasSurvivor(size int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed || size <= p.size && (p.survivor != nil || p.lent)
}

// keptSize returns how large a segment the survivor takes, bytes.
func (p *segmentPool) keptSize() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// hasKept reports whether memory is kept for lanes.
func (p *segmentPool) hasKept() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept) > 0
}

// take takes out the memory kept last for lanes, nil when that has less than size bytes or there is none.
func (p *segmentPool) take(size int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.kept)
	if n == 0 || len(p.kept[n-1].mem) < size {
		return nil
	}
	mem := p.kept[n-1].mem
	p.kept = p.kept[:n-1]
	return mem
}

// lend takes out the survivor for a compaction, and after it what is kept for lanes if kept is true, and starts
// counting begun segments from 0. present is how many bytes of the first have their pages; all others have all
// of them. begun is how many were counted, 0 if the count began longer ago than lately.
func (p *segmentPool) lend(lately time.Duration, kept bool) (mems [][]byte, present, begun int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent = true
	if time.Since(p.counted) <= lately {
		begun = p.begun
	}
	present = math.MaxInt
	if p.survivor != nil {
		mems, present = append(mems, p.survivor), p.present
	}
	if kept {
		mems = append(mems, p.takeKeptLocked()...)
	}
	p.survivor, p.begun, p.counted = nil, 0, time.Now()
	return mems, present, begun
}

// giveBack ends what lend began: one of mems becomes the survivor, unless there is one, and up to keep
// of them are for lanes. It returns the others.
func (p *segmentPool) giveBack(mems [][]byte, present, keep int) (rest [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent = false
	if p.closed {
		return mems
	}
	if p.survivor == nil && len(mems) > 0 {
		p.survivor, p.present = mems[0], present
		mems = mems[1:]
	}
	for len(mems) > 0 && len(p.kept) < keep {
		p.kept = append(p.kept, keptMemory{mems[0], time.Now()})
		mems = mems[1:]
	}
	return mems
}

// offer keeps mem, whose pages were touched and which is as large as the survivor, if that is missing or no
// more than limit bytes are kept for lanes then.
func (p *segmentPool) offer(mem []byte, limit int64) (kept bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || len(mem) != p.size:
		return false
	case p.survivor == nil: // lent or not: what pins kept from a compaction is not lost to it
		p.survivor, p.present = mem, len(mem)
	case p.keptLocked()+int64(len(mem)) <= limit:
		p.kept = append(p.kept, keptMemory{mem, time.Now()})
	default:
		return false
	}
	return true
}

// keepBack makes mem, of which presentBytes were touched, the survivor if that is missing or smaller. It
// returns what is not kept: the other one, or nil. A compaction may have a smaller one, and keeps it.
func (p *segmentPool) keepBack(mem []byte) (rest []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(mem) < p.size || len(mem) == p.size && (p.survivor != nil || p.lent) {
		return mem
	}
	rest = p.survivor
	p.survivor, p.present, p.size = mem, min(len(mem), presentBytes), len(mem)
	return rest
}

// takeAll takes out what is kept for lanes.
func (p *segmentPool) takeAll() (mems [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeKeptLocked()
}

// takeKeptLocked is takeAll. REQUIRES: mu held.
func (p *segmentPool) takeKeptLocked() (mems [][]byte) {
	for _, k := range p.kept {
		mems = append(mems, k.mem)
	}
	p.kept = nil
	return mems
}

// close takes out everything, for good.
func (p *segmentPool) close() (mems [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	mems = p.takeKeptLocked()
	if p.survivor != nil {
		mems = append(mems, p.survivor)
	}
	p.survivor = nil
	return mems
}

// takeUnused takes out what was kept for lanes before then. It starts counting begun segments from 0
// if the count began before then, too.
func (p *segmentPool) takeUnused(then time.Time) (mems [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counted.Before(then) {
		p.begun, p.counted = 0, time.Now()
	}
	for len(p.kept) > 0 && p.kept[0].since.Before(then) {
		mems = append(mems, p.kept[0].mem)
		p.kept = p.kept[1:]
	}
	return mems
}

// held returns how much the pool holds, bytes.
func (p *segmentPool) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keptLocked() + int64(len(p.survivor))
}

// bytes returns how much is kept for lanes.
func (p *segmentPool) bytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keptLocked()
}

// keptLocked is bytes. REQUIRES: mu held.
func (p *segmentPool) keptLocked() (total int64) {
	for _, k := range p.kept {
		total += int64(len(k.mem))
	}
	return total
}

// keepSurvivor maps the survivor if it is missing, or too small for a segment of size bytes. The error is
// ErrNoSpace.
func (s *Store) keepSurvivor(size int) error {
	for !s.pool.hasSurvivor(size) {
		mem, err := s.acquire(max(size, s.pool.keptSize()))
		if err != nil {
			return err
		}
		vm.Touch(mem[:min(len(mem), presentBytes)])
		if rest := s.pool.keepBack(mem); rest != nil { // or another lane had a larger one kept
			s.release(rest)
		}
	}
	return nil
}

// presentBytes is how much of the survivor is always in memory.
const presentBytes = 1 << 20

// leastKept is for how many segments the pool may hold memory for lanes in any case.
const leastKept = 2

// poolLimit returns how many bytes may be kept for lanes: half of what is live. A store without
// maintenance keeps none, since nothing would give it back.
func (s *Store) poolLimit() int64 {
	if s.opts.Maintenance.Disabled {
		return 0
	}
	return max(int64(leastKept*s.pool.keptSize()), s.maintenance.liveBytes.Load()/2)
}

// recycle keeps the memory of seg, which nobody can reach, or gives it back to the operating system.
func (s *Store) recycle(seg *segment) {
	if s.medium.recycles() && s.pool.offer(seg.mem, s.poolLimit()) {
		return
	}
	s.medium.free(seg)
}

// acquire maps size zeroed bytes for a segment. When that fails it gives back what the pool keeps for
// lanes, and tries once more. The error is ErrNoSpace.
func (s *Store) acquire(size int) ([]byte, error) {
	mem, err := s.mapper.acquire(size)
	if err == nil || !s.releasePool() {
		return mem, err
	}
	return s.mapper.acquire(size)
}

// releasePool unmaps what the pool keeps for lanes, and reports whether that was anything.
func (s *Store) releasePool() bool {
	mems := s.pool.takeAll()
	s.releaseAll(mems)
	return len(mems) > 0
}

// shareWithLanes gives lanes all that one more target does not need, if their writers wait for memory, or would
// soon.
func (c *compaction) shareWithLanes() {
	if c.s.room.waiting.Load() == 0 && !c.evicts() {
		return
	}
	for n := len(c.pool); n > 1 && c.s.pool.offer(c.pool[n-1], math.MaxInt64); n-- {
		c.pool = c.pool[:n-1]
	}
}

// drainPool empties the pool at the end of a compaction: one segment is the survivor, lanes get what is
// kept for them, unless the compaction failed, and the operating system gets the rest. A compaction that
// gives back everything leaves a survivor with few pages, unless it has its room in a budget.
func (c *compaction) drainPool() {
	n := 0
	if c.complete {
		n = c.keep
	}
	if len(c.pool) > 0 && n == 0 && c.s.opts.MaxBytes == 0 &&
		vm.Discard(c.pool[0][min(presentBytes, len(c.pool[0])):]) == nil {
		c.present = min(c.present, presentBytes)
	}
	c.s.releaseAll(c.s.pool.giveBack(c.pool, c.present, n))
	c.pool = nil
}
