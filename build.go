package warmtier

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/memlimit"
	"github.com/warmtier/warmtier/internal/record"
)

// chunkSize is how many bytes a worker copies between two looks at its context: 10 to 20 us. It
// fits a processor's second cache twice, since a chunk is verified after all of it was copied.
const chunkSize = 64 << 10

// writtenTargets is how many targets of a round are written with system calls, which takes a descriptor for each. A
// round has as many as MaxOverhead allows, or as many as there are victims.
const writtenTargets = 64

// build copies live records of the victims until none is left or the targets are full.
func (r *round) build(ctx context.Context) error {
	r.c.stage()
	err := r.c.together(ctx, len(r.c.staged), r.copyVictims)
	r.c.noteOverhead()
	return err
}

// stage empties the lists of moves.
func (c *compaction) stage() {
	n := c.pace.count()
	c.staged = slices.Grow(c.staged[:0], n)[:n] // lists of fewer workers are kept for more
	for w := range c.staged {
		c.staged[w].reset()
	}
}

// noteOverhead accounts for the memory held at the end of a build, when it is most.
func (c *compaction) noteOverhead() {
	held := c.extra
	for w := range c.staged {
		held += c.staged[w].bytes()
	}
	for _, v := range c.work {
		held += v.live.bytes()
	}
	c.stats.PeakOverheadBytes = max(c.stats.PeakOverheadBytes, held)
}

// copyVictims is one worker: it copies chunk after chunk and stages the moves. Worker 0, which is
// the goroutine that runs the compaction, calls OnProgress once a turn.
func (r *round) copyVictims(ctx context.Context, worker int) error {
	c := r.c
	var ch chunk
	for {
		if err := r.copyNext(&ch, &c.staged[worker]); err != nil || ch.taken == 0 {
			return err
		}
		r.bytes.Add(int64(ch.size))
		if c.pace.yield(worker) && worker == 0 {
			c.report(StageBuild, r.bytes.Load())
		}
		if err := stopped(ctx); err != nil {
			return err
		}
		if r.clears != c.s.segments.clears.Load() {
			return errCleared
		}
	}
}

// copyNext makes ch the next chunk, copies it, and stages its drops; it takes nothing when none is left.
func (r *round) copyNext(ch *chunk, staged *moves) (err error) {
	defer r.c.s.catchFault(armFaults(), &err)
	if err := r.take(ch); err != nil || ch.taken == 0 {
		return err
	}
	if err := r.stageDrops(ch); err != nil {
		return err
	}
	return r.copyChunk(ch, staged)
}

// chunk is a few live records that follow each other in a victim. Those to be copied have a place in
// a target.
type chunk struct {
	v       *victim
	taken   int      // how many records it has
	live    []uint32 // offsets in the victim of those to be copied, in units of 8 bytes
	headers []record.Header
	size    int // bytes to be copied
	target  *segment
	offset  int    // in target
	record  int    // number in target of the first one
	buf     []byte // for copies on their way to a file

	drops      []drop // of the others
	dropped    int    // bytes of these
	tombstones int    // bytes that these may take in a target
}

// take makes ch the next records to copy or to drop; ch takes none when there are none, or when the
// targets are full. All workers share one victim until it has no more: if each had its own, as many
// victims as there are workers could be copied in part and empty only later, and the targets filled
// until then would be fresh memory.
func (r *round) take(ch *chunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch.taken = 0
	for len(r.work) > 0 && r.work[0].live.len() == 0 {
		r.work = r.work[1:]
	}
	if r.full || len(r.work) == 0 {
		return nil
	}
	ch.v = r.work[0]
	mayKeep := r.c.mayKeep
	defer func() {
		if ch.taken == 0 { // its records are decided about again
			r.c.mayKeep = mayKeep
		}
	}()
	if err := r.readHeaders(ch); err != nil {
		return err
	}
	n := len(ch.headers) + len(ch.drops)
	if r.partial && len(r.work) == 1 && n == ch.v.live.len() { // it would leave, and its tombstones have no room
		r.full = true
		return nil
	}
	if len(ch.headers) > 0 {
		if ok, err := r.allocate(ch); err != nil || !ok {
			return err
		}
	}
	ch.taken = n
	ch.v.live.skip(n)
	ch.v.left -= int64(ch.size + ch.dropped)
	if r.c.lowSpace {
		r.kept += ch.tombstones
	}
	ch.v.prefetchPrefixes(n + 1) // while these are copied
	return nil
}

// readHeaders reads the headers of the next records of ch's victim into ch, until they make a
// chunk. REQUIRES: r.mu held.
func (r *round) readHeaders(ch *chunk) error {
	limit := min(chunkSize, r.c.size/largeShare)
	seg := ch.v.seg
	tail := int(seg.tail.Load())
	ch.live, ch.headers, ch.drops = ch.live[:0], ch.headers[:0], ch.drops[:0]
	ch.size, ch.dropped, ch.tombstones = 0, 0, 0
	for unit := range ch.v.live.all() {
		if err := r.c.s.hooks.fire(pointCompactRecord); err != nil {
			return err
		}
		offset := int(unit) * record.Align
		rec := seg.mem[min(offset, tail):tail]
		h, ok := record.Decode(rec)
		if !ok {
			return ch.v.damaged(offset, "no valid header")
		}
		if read := ch.size + ch.dropped; read > 0 && read+h.Size() > limit {
			break
		}
		f := r.fateOf(rec, h)
		if f == fateCopied && r.c.evicts() && !r.c.keeps(ch.v, unit, h.Size()) {
			f = fateEvicted
		}
		if f != fateCopied {
			ch.drop(r.c.s, offset, h, f)
			ch.dropped += h.Size()
			continue
		}
		ch.live = append(ch.live, unit)
		ch.headers = append(ch.headers, h)
		ch.size += h.Size()
	}
	return nil
}

// allocate gives ch room in a target; false means that the round is full. A chunk never spans two
// targets, so no target has gaps. REQUIRES: r.mu held.
func (r *round) allocate(ch *chunk) (bool, error) {
	target := r.last()
	if target == nil || target.room(len(ch.headers))-r.kept < ch.size {
		if target != nil {
			target.seal(false)
		}
		if r.full = len(r.targets) >= r.maxTargets || r.leavesNoRoom(ch); r.full {
			return false, nil
		}
		var err error
		if target, err = r.c.newTarget(max(cmp.Or(r.size, r.c.size), segmentSizeFor(ch.size))); err != nil {
			return false, err
		}
		target.clears = r.clears
		if r.targets = append(r.targets, target); len(r.targets) > writtenTargets && target.file != nil {
			target.file.EndWrites()
		}
		if target.room(len(ch.headers)) < ch.size { // of a spare that is smaller than a segment
			return false, fmt.Errorf("%w: target of %d bytes, for %d of records", ErrNoSpace, len(target.mem), ch.size)
		}
	}
	ch.target, ch.offset, ch.record = target, int(target.tail.Load()), int(target.records.Load())
	for _, h := range ch.headers {
		target.noteSeq(h.Seq)
	}
	target.rank = max(target.rank, ch.v.seg.rank)
	target.addRecords(len(ch.headers), ch.size)
	return true, nil
}

// leavesNoRoom reports whether ch in a new target would take what is kept for tombstones there. That
// happens when those alone nearly fill one: without this a further target would have to be made for them,
// for which there may be no space.
func (r *round) leavesNoRoom(ch *chunk) bool {
	return r.kept > 0 && ch.size+layout.DigestSize*len(ch.headers) > r.room-r.kept
}

// last returns the target being filled, nil when there is none.
func (r *round) last() *segment {
	if len(r.targets) == 0 {
		return nil
	}
	return r.targets[len(r.targets)-1]
}

// mayRun returns nil when there is memory for a round over the segment that needs the least, or nothing
// to do.
func (c *compaction) mayRun() error {
	least := int64(math.MaxInt64)
	for _, seg := range c.s.segments.all() {
		live, expired := seg.live.Load(), c.s.expired(seg)
		dead := seg.deadBytes() + expired
		live -= expired
		candidate := seg.is(stateSealed) || fragmentation(dead, live+dead) >= c.policy.sealShare()
		if candidate && dead > 0 && !seg.damaged.Load() {
			least = min(least, live)
		}
	}
	if least == math.MaxInt64 {
		return nil
	}
	_, err := c.allowedBytes(least)
	return err
}

// allowedBytes returns how many live bytes the next round may move: what fits into recycled memory whose
// pages are there, what this compaction has given back to the system (segments too small for a target),
// and MaxMemoryFraction of the memory that is available. The error, when that is less than least, is
// ErrInsufficientMemory.
func (c *compaction) allowedBytes(least int64) (bytes int64, err error) {
	if !c.s.medium.recycles() {
		return math.MaxInt64, nil // files: the page cache gives way when memory is short
	}
	available, known := c.availableMemory()
	if !known {
		return math.MaxInt64, nil
	}
	present := max(0, -c.extra)
	if n := len(c.pool); n > 0 {
		present += int64(n-1)*c.segmentSize() + min(c.segmentSize(), int64(c.present))
	}
	usable := int64(float64(available) * c.s.opts.Compaction.MaxMemoryFraction)
	if present+usable < least {
		return 0, &InsufficientMemoryError{Needed: least - present, Available: max(0, usable)}
	}
	return present + usable, nil
}

// allowance is what a round may take on.
type allowance struct {
	victims int // at the front of c.work
	targets int // to be filled

	// Of a round over one target:
	size    int  // of the target, bytes; 0: as of any target
	room    int  // bytes for records and digests
	needed  int  // of these, by the victims that leave, at most
	kept    int  // of these, to be left free for tombstones of the victims that leave
	partial bool // the last victim does not leave: nothing is kept for its tombstones
}

// allow returns what the next round may take on. A bounded round uses recycled memory, or one fresh
// segment when there is none, and in a directory with a budget what that leaves; an unbounded one takes
// what it needs. When there was no space for a target it fills one, with as many victims as fit, and what
// fits of the next. When not even the first victim may be moved, the one with the fewest live bytes comes
// first.
func (c *compaction) allow() (allowance, error) {
	switch {
	case c.lowSpace && c.evicts():
		return c.sacrifice(), nil
	case c.lowSpace || !c.evicts() && c.hasSurvivorOnly():
		return c.fitOneTarget()
	}
	a := allowance{targets: c.maxTargets}
	if c.s.medium.recycles() && !c.unbounded() {
		a.targets = min(a.targets, max(1, len(c.pool)))
	} else if m := &c.s.mapper; m.limit > 0 {
		a.targets = int(min(int64(a.targets), max(1, (m.limit-m.bytes.Load())/c.segmentSize())))
	}
	live := make(map[*victim]int64, len(c.work)) // that may have to be copied
	for _, v := range c.work {
		live[v] = c.s.unexpired(v.seg)
	}
	least := slices.MinFunc(c.work, func(a, b *victim) int { return cmp.Compare(live[a], live[b]) })
	bytes, err := c.allowedBytes(live[least])
	if err != nil {
		return a, err
	}
	if bytes < live[c.work[0]] {
		c.work[0], c.work[slices.Index(c.work, least)] = least, c.work[0]
	}
	for a.victims < len(c.work) {
		if bytes -= live[c.work[a.victims]]; bytes < 0 && a.victims > 0 {
			break
		}
		a.victims++
	}
	return a, nil
}

// hasSurvivorOnly reports whether the next target of a memory store has to be the survivor, and no other memory may be
// mapped in its place.
func (c *compaction) hasSurvivorOnly() bool {
	m := &c.s.mapper
	return c.s.medium.recycles() && len(c.pool) == 1 && m.limit > 0 && m.limit-m.bytes.Load() < c.segmentSize()
}

// availableMemory is that of the store for one round. To ask anew each time would take half of the time of a
// compaction of small segments.
func (c *compaction) availableMemory() (bytes int64, known bool) {
	if c.s.hooks.available != nil || c.unbounded() {
		return c.s.availableMemory()
	}
	return c.s.recentMemory.Available(int64(c.maxTargets) * c.segmentSize())
}

// availableMemory returns how many bytes the process may take; known is false where nothing says
// so.
func (s *Store) availableMemory() (bytes int64, known bool) {
	if s.hooks.available != nil {
		return s.hooks.available()
	}
	return memlimit.Available()
}

// newTarget returns an empty segment of size bytes that has an index in the table and has not been published. That may
// be more than a target has (the victim may come from an Open with larger segments, or hold one large record): such a
// target is for one record.
func (c *compaction) newTarget(size int) (*segment, error) {
	if err := c.s.hooks.fire(pointCompactTarget); err != nil {
		return nil, err
	}
	target, err := c.emptySegment(size)
	if err != nil {
		return nil, err
	}
	if err := c.s.segments.assign(target, c.s.maxSegments()); err != nil {
		c.s.medium.remove(target)
		c.recycle(target)
		return nil, err
	}
	target.owner.Store(int32(ownerTarget)) // until the round has ended: it has nothing live before the flips
	target.seal(true)
	target.rank = 0 // until it has a source
	return target, nil
}

// emptySegment returns a segment in recycled memory, or a new one when there is none or it is too
// small.
func (c *compaction) emptySegment(size int) (*segment, error) {
	if n := len(c.pool); n > 0 && size == c.size {
		mem := c.pool[n-1]
		c.pool = c.pool[:n-1]
		if n == 1 {
			c.present = math.MaxInt // what comes to this place next was a victim
		}
		return newSegment(c.s.segments.newID(layout.KindTarget), mem, layout.KindTarget, 0), nil
	}
	least := math.MaxInt // the space kept back is for rounds that give back as much
	if c.lowSpace {
		least = leastTarget(size)
	}
	seg, err := c.s.createSegment(segmentSpec{
		kind: layout.KindTarget, size: size, large: size > c.s.opts.SegmentSize, written: true, least: least,
	})
	if err == nil {
		c.extra += int64(size)
	}
	return seg, err
}
