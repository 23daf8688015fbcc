package warmtier

import (
	"math"

	"github.com/warmtier/warmtier/internal/record"
)

// carryTombstones copies, at the end of a build, the tombstones of the victims about to leave that
// are needed on. A tombstone can go when no segment that stays can hold an older record of its id:
// such a record is dead, so it would be in a segment with dead bytes, and has a lower sequence
// number. Segments that stay are all but those whose live records have all been copied.
func (r *round) carryTombstones() (err error) {
	c := r.c
	if c.s.disk == nil {
		return nil
	}
	defer c.s.catchFault(armFaults(), &err)
	leaving := map[*segment]bool{}
	for _, v := range c.work {
		leaving[v.seg] = len(v.live) == 0
	}
	oldest := c.s.oldestDead(leaving)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full, r.maxTargets = false, math.MaxInt // a target more, rather than a victim that cannot leave
	for _, v := range c.work {
		if !leaving[v.seg] {
			continue
		}
		for _, unit := range v.seg.tombstones {
			if err := r.carryTombstone(v, int(unit)*record.Align, oldest); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldestDead returns the lowest sequence number that a dead record, other than a tombstone, can have
// outside of leaving.
func (s *Store) oldestDead(leaving map[*segment]bool) uint64 {
	oldest := uint64(math.MaxUint64)
	// Active segments may have dead records, and their minSeq belongs to a lane. They come first: one that
	// is sealed meanwhile is found below, and one that is made meanwhile has nothing old. The other way
	// round, a segment that a lane went on in is seen by neither look when it is sealed between them.
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil {
			oldest = min(oldest, ln.active.minSeq)
		}
		ln.mu.Unlock()
	}
	_ = s.hooks.fire(pointCompactDead)
	for _, seg := range s.segments.all() {
		if !leaving[seg] && seg.is(stateSealed) && seg.deadBytes() > seg.tombstoneBytes {
			oldest = min(oldest, seg.minSeq)
		}
	}
	return oldest
}

func (r *round) carryTombstone(v *victim, offset int, oldest uint64) error {
	rec := v.seg.mem[offset:int(v.seg.tail.Load())]
	h, ok := record.Decode(rec)
	if !ok || !record.Intact(rec, h, v.seg.seedAt(offset)) {
		return v.damaged(offset, "damaged tombstone")
	}
	if h.Seq < oldest {
		return nil
	}
	ch := chunk{v: v, headers: []record.Header{h}, size: h.Size()}
	if _, err := r.allocate(&ch); err != nil { // true without an error: maxTargets has no bound now
		return err
	}
	target := ch.target
	moved := target.mem[ch.offset : ch.offset+h.Size()]
	copy(moved, rec)
	record.Reseed(moved, h, target.seedAt(ch.offset))
	target.putDigest(ch.record, record.ID(rec, h))
	target.addTombstone(ch.offset, h.Size())
	return nil
}
