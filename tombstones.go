package warmtier

import (
	"math"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
A tombstone says that an id was deleted, to the recovery that finds an older record of the id in
some file. A compaction drops a tombstone together with the victim it is in, once no segment that
stays can hold such a record. That record would be dead, so it would be in a segment with dead bytes
that are no tombstones, and its sequence number would be lower, or, for the tombstone of a memory that a
round has dropped, the same. Segments that stay are all but the victims whose live records have all been
copied or dropped. The rule keeps some tombstones that could go; they go with a later compaction.
*/

// leavesTombstones reports whether deletions are recorded, as they are in a directory: its next
// Open may find older records of the id.
func (s *Store) leavesTombstones() bool { return s.disk != nil }

func (d *disk) carryTombstones(r *round) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	leaving := map[*segment]bool{}
	for _, v := range r.c.work {
		leaving[v.seg] = v.live.len() == 0
	}
	oldest := d.s.oldestDead(leaving)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full, r.kept, r.maxTargets = false, 0, math.MaxInt // one target more, rather than a victim that cannot leave
	for _, v := range r.c.work {
		if !leaving[v.seg] || d.s.segments.isCleared(v.seg) {
			continue
		}
		for unit := range v.seg.tombstones.all() {
			if err := r.carryTombstone(v, int(unit)*record.Align, oldest); err != nil {
				return err
			}
		}
		for dropped := range v.drops.all() {
			if err := r.leaveTombstone(v, &dropped, oldest); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldestDead returns the lowest sequence number that a dead record, other than a tombstone, can
// have outside of leaving.
//
// Active segments count too: they may have dead records, and their minSeq is the lane's to change. A record
// that dies after the look needs no tombstone of those in leaving: it was the newest of its id.
// Lanes are asked before sealed segments: one that is sealed between the two looks is found by the
// second, and one made in between has nothing old.
//
// During both no segment leaves the table and no lane resumes one, for which both need the table's leaving
// lock. A segment that was resumed between the two looks would be seen by neither. And a sweep, which asks
// beside rounds, could pass the place of a target before that is published and the place of its victim
// after that has left, and so miss a record that was copied and then superseded.
func (s *Store) oldestDead(leaving map[*segment]bool) uint64 {
	s.segments.leaving.Lock()
	defer s.segments.leaving.Unlock()
	oldest := uint64(math.MaxUint64)
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if seg := ln.active; seg != nil && seg.deadBytes() > seg.tombstoneBytes.Load() {
			oldest = min(oldest, seg.minSeq)
		}
		ln.mu.Unlock()
	}
	_ = s.hooks.fire(pointCompactDead)
	for _, seg := range s.segments.all() {
		if !leaving[seg] && seg.is(stateSealed) && !s.segments.isCleared(seg) && seg.deadBytes() > seg.tombstoneBytes.Load() {
			oldest = min(oldest, seg.minSeq)
		}
	}
	return oldest
}

// carryTombstone copies the tombstone of v at offset to a target, unless it is older than every
// dead record that stays: oldest is the lowest of their sequence numbers. REQUIRES: r.mu held,
// r.maxTargets has no bound.
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
	if _, err := r.allocate(&ch); err != nil { // without an error there was room: maxTargets has no bound
		return err
	}
	target := ch.target
	moved := target.mem[ch.offset : ch.offset+h.Size()]
	copy(moved, rec)
	record.Reseed(moved, h, target.seedAt(ch.offset))
	target.putDigest(ch.record, layout.Digest(record.ID(rec, h)))
	target.addTombstone(ch.offset, h.Size())
	return nil
}

// leaveTombstone writes a tombstone of the sequence number of the memory that d drops to a target, unless that
// is older than every dead record that stays. REQUIRES: as carryTombstone.
func (r *round) leaveTombstone(v *victim, d *drop, oldest uint64) error {
	s := r.c.s
	_, offset := s.resolve(d.slot.location())
	rec := v.seg.mem[offset:int(v.seg.tail.Load())]
	dropped, ok := record.Decode(rec)
	if !ok || !record.IntactPrefix(rec, dropped, v.seg.seedAt(offset)) {
		return v.damaged(offset, "damaged header or id")
	}
	if dropped.Seq < oldest {
		return nil
	}
	h := record.NewHeader(record.KindTombstone, dropped.IDLen(), 0, record.Checksum(nil))
	h.Seq = dropped.Seq
	ch := chunk{v: v, headers: []record.Header{h}, size: h.Size()}
	if _, err := r.allocate(&ch); err != nil {
		return err
	}
	target := ch.target
	tombstone := target.mem[ch.offset : ch.offset+h.Size()]
	id := record.ID(rec, dropped)
	target.putDigest(ch.record, layout.Digest(id))
	record.PutBody(tombstone, string(id), 0, nil)
	record.PutHeader(tombstone, h, target.seedAt(ch.offset))
	target.addTombstone(ch.offset, h.Size())
	return nil
}
