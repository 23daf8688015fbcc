package warmtier

import (
	"errors"
	"unsafe"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// lane is one appender. Writers of its shards append one at a time.
type lane struct {
	laneState
	_ [cpu.CacheLines - unsafe.Sizeof(laneState{})%cpu.CacheLines]byte // as with shards
}

type laneState struct {
	rolling lockrank.Mutex[rollRank] // held while the next active segment is made
	mu      lockrank.Mutex[laneRank]
	// active is nil when there is none. It is read with mu held, and set with rolling held as well, but by a
	// Clear, which holds contentMu for writing.
	active *segment
	// next was made ahead for the lane's next roll, by a checkpoint, and is in no table; nil as a rule. Guarded by
	// rolling.
	next *segment
}

// largeSize returns the size of the largest memory's record that shares a segment. Larger ones have
// a segment of their own, see large.go.
func (s *Store) largeSize() int { return min(s.largestShared(), maxSharedSize) }

// largestShared returns the size of the largest record that fits a segment of SegmentSize. A
// tombstone shares a segment if it fits: one that does not has an id nearly as long as the smallest
// segment.
func (s *Store) largestShared() int {
	return s.opts.SegmentSize - layout.HeaderSize - 2*layout.DigestSize
}

// makeRoom gives the lane of d a segment with room for d. Making one takes milliseconds, so it is
// done with no lock held: a swap that had to wait for it would stop every reader that comes after
// it. Close waits for it, since a file that is not in the table yet may have to be removed again,
// and by then the directory could have another owner. REQUIRES: no lock held.
func (s *Store) makeRoom(d *draft) error {
	lockrank.AssertUnlocked()
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	s.contentMu.RUnlock(s.holdForWrite())
	if d.size == 0 { // a batch of checks alone, which had only to wait for a Clear
		return nil
	}
	if d.kind != record.KindTombstone {
		s.awaitCompaction()
	}
	roll := func() error { return s.roll(d.shard.lane, d) }
	if d.kind == record.KindTombstone {
		err = s.withRoomForTombstone(roll)
	} else {
		err = s.withRoom(waitShare, roll)
	}
	if s.nearlyFull() {
		s.maintenance.request()
	}
	return err
}

// hasRoomLocked reports whether the active segment of ln takes d. REQUIRES: ln.mu held.
func (ln *lane) hasRoomLocked(d *draft) bool {
	seg := ln.active
	return seg != nil && seg.room(1) >= d.size && (d.kind == record.KindTombstone || !seg.spare)
}

// roll gives ln an active segment with room for d, unless another writer has done so in the
// meantime.
func (s *Store) roll(ln *lane, d *draft) error {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
	ln.mu.Lock()
	enough := ln.hasRoomLocked(d)
	ln.mu.Unlock()
	if enough {
		return nil
	}
	if seg := ln.next; seg != nil && seg.room(1) >= d.size {
		ln.next = nil
		return s.enlist(ln, seg)
	}
	if seg := s.takePartial(d.size); seg != nil {
		s.resume(ln, seg)
		return nil
	}
	spec := segmentSpec{kind: layout.KindLane, size: s.nextSize(d.size), needed: segmentSizeFor(d.size)}
	spec.written = s.isWritten(len(d.content))
	seg, err := s.createSegment(spec)
	if kept := s.medium.keptSize(); errors.Is(err, ErrNoSpace) && spec.needed <= kept && kept < spec.size {
		spec.size = kept
		seg, err = s.createSegment(spec)
	}
	if errors.Is(err, ErrNoSpace) {
		// Beyond a budget a compaction gives back more than the last few bytes of full segments.
		if seg := s.takeHalfEmpty(d, s.leavesTombstones() || errors.Is(err, errOverBudget)); seg != nil {
			s.resume(ln, seg)
			return nil
		}
		if d.kind == record.KindTombstone {
			spec.least = spec.needed
			seg, err = s.createSegment(spec)
		}
	}
	if err != nil {
		return err
	}
	return s.enlist(ln, seg)
}

// enlist makes seg, which is in no table, the active segment of ln, or gets rid of it. REQUIRES: ln.rolling held.
func (s *Store) enlist(ln *lane, seg *segment) error {
	if err := s.segments.assign(seg, s.maxSegments()-1); err != nil { // one number is a compaction's
		return errors.Join(err, s.discardSegment(seg))
	}
	s.install(ln, seg)
	return nil
}

// rollAhead makes the next segment of each lane whose active one has a record, where there is room for it, and returns
// their ids. REQUIRES: no lock held that comes after lane.rolling.
func (s *Store) rollAhead() (ids []uint64) {
	for i := range s.lanes {
		if id := s.lanes[i].rollAhead(s); id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// rollAhead is Store.rollAhead for one lane; id is 0 where nothing was made. What a bounded store has left near its
// limit stays for a lane that needs it at once; and where making one fails, so it will for the write that needs it,
// which returns why.
func (ln *lane) rollAhead(s *Store) (id uint64) {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
	ln.mu.Lock()
	used := ln.active != nil && ln.active.recordBytes() > 0
	ln.mu.Unlock()
	if !used || ln.next != nil || s.nearlyFull() {
		return 0
	}
	seg, err := s.createSegment(segmentSpec{kind: layout.KindLane, size: s.nextSize(0)})
	if err != nil {
		return 0
	}
	ln.next = seg
	return seg.id
}

// areLast reports whether ids are the last ones below next, and nobody has written to their segments: all are pending.
func areLast(ids []uint64, next uint64, pending map[uint64]bool) bool {
	if len(ids) == 0 || ids[0]+uint64(len(ids)) != next {
		return false
	}
	for _, id := range ids {
		if !pending[id] {
			return false
		}
	}
	return true
}

// endAhead gives each lane that has no active segment the one that was made ahead, and gets rid of the others.
func (s *Store) endAhead() {
	for i := range s.lanes {
		s.warn("segment made ahead could not be used", s.lanes[i].endAhead(s))
	}
}

// endAhead is Store.endAhead for one lane.
func (ln *lane) endAhead(s *Store) error {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
	seg := ln.next
	if seg == nil {
		return nil
	}
	ln.next = nil
	ln.mu.Lock()
	idle := ln.active == nil
	ln.mu.Unlock()
	if !idle {
		return s.discardSegment(seg)
	}
	return s.enlist(ln, seg)
}

// install publishes seg and makes it the active segment of ln. REQUIRES: ln.rolling held, so that
// nobody else gives the lane a segment.
func (s *Store) install(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.publishNew(seg)
	s.activateLocked(ln, seg)
}

// activateLocked seals the active segment of ln and makes seg the next one. REQUIRES: ln.mu held,
// contentMu read-held, seg in the table.
func (s *Store) activateLocked(ln *lane, seg *segment) {
	_ = s.hooks.fire(pointLaneRolled)
	if ln.active != nil {
		s.sealActiveLocked(ln, ln.active.isMergeable())
	}
	ln.active = seg
}

// sealActiveLocked seals the active segment of ln. early says that more records would have fitted.
// REQUIRES: ln.mu held.
func (s *Store) sealActiveLocked(ln *lane, early bool) {
	seg := ln.active
	ln.active = nil
	seg.seal(early)
	s.noteIfDead(seg)
	s.maintenance.noteWritten(seg.recordBytes())
	s.logSealed(seg)
}

// isMergeable reports whether seg has so much room that it counts as sealed early when it is sealed.
func (seg *segment) isMergeable() bool { return !seg.large && seg.room(1) > len(seg.mem)/largeShare }

// segmentSizeFor returns the size of a segment for one record of size bytes alone.
func segmentSizeFor(size int) int {
	return vm.RoundUp(layout.HeaderSize+size+2*layout.DigestSize, vm.PageSize)
}

// sealedLane is a lane and the segment that was sealed before its time.
type sealedLane struct {
	ln  *lane
	seg *segment
}

// sealLanes seals the active segments that hold a record and of which at least a share of threshold
// (0: any) is dead, and returns them. Lanes get a new segment with their next record, or resume one that
// nobody has claimed. In a closed store segments without a record are sealed too, since none may stay active.
func (s *Store) sealLanes(threshold float64) (sealed []sealedLane) {
	for i := range s.lanes {
		ln := &s.lanes[i]
		if seg := s.sealLane(ln, threshold); seg != nil {
			sealed = append(sealed, sealedLane{ln, seg})
		}
	}
	return sealed
}

// unsealLanes gives lanes that have no active segment the one back that was sealed, unless it is no
// longer in the table: a compaction that failed leaves lanes as able to write as they were. Where that
// does not work the lane makes a segment with its next record, if it has not done so, and the other one counts as
// unfilled: without that each failure beside a Put would leave a segment a lane.
//
// No flush runs in the meantime. One that had found the segment sealed would write so into its header after the
// lane has gone on, and a recovery would end the segment before the new records.
func (s *Store) unsealLanes(sealed []sealedLane) {
	if len(sealed) == 0 {
		return
	}
	defer s.medium.holdFlushes()()
	for _, l := range sealed {
		l.ln.rolling.Lock()
		l.ln.mu.Lock()
		idle := l.ln.active == nil
		l.ln.mu.Unlock()
		if idle && !s.segments.linking.Load() && s.claimSealed(l.seg) {
			s.resume(l.ln, l.seg)
		} else {
			s.segments.noteUnresumed(l.seg)
		}
		l.ln.rolling.Unlock()
	}
}

// noteUnresumed notes that the lane of seg went on without it, so that compactions count its room. It may have been
// resumed meanwhile by a lane that got no memory.
func (t *segmentTable) noteUnresumed(seg *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if seg.is(stateSealed) {
		seg.unresumed.Store(true)
	}
}

// sealLane seals the active segment of ln if sealLanes says so, and returns it if it was sealed.
func (s *Store) sealLane(ln *lane, threshold float64) *segment {
	ln.rolling.Lock() // a lane that is about to resume a segment does so before it is sealed
	defer ln.rolling.Unlock()
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	seg := ln.active
	if seg == nil || seg.recordBytes() == 0 && !s.closed ||
		fragmentation(seg.deadBytes()+s.expired(seg), seg.recordBytes()) < threshold {
		return nil
	}
	s.sealActiveLocked(ln, true)
	return seg
}

/*
Resuming a segment. Every Close seals the segments of lanes, half empty or not, and every Open after
a kill does: without more, a thousand times Open, Put and Close would leave a thousand files. So a
lane that needs a segment resumes one that was sealed with room left before this Open, unless a
compaction has chosen it. First its state is written as not sealed, to both copies: if one that
says sealed were left, damage to the other one would end the segment before the new records.
Everything beyond the last record must be zero, as Open has made it (see clearRemains), since a
record left there would count after a new one. If it is not, the file was damaged by another
program.
*/

// setPartial replaces the segments that lanes may resume.
func (t *segmentTable) setPartial(segs []*segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partial = segs
}

// takePartial returns a sealed segment that has room for size bytes and can be resumed, or nil when
// there is none. REQUIRES: the lane's rolling held, and no other lock.
func (s *Store) takePartial(size int) *segment {
	t := &s.segments
	for !t.linking.Load() {
		t.mu.Lock()
		n := len(t.partial)
		var seg *segment
		if n > 0 {
			seg, t.partial = t.partial[n-1], t.partial[:n-1]
		}
		t.mu.Unlock()
		if seg == nil || seg.room(1) >= size && s.claimSealed(seg) {
			return seg
		}
	}
	return nil
}

// takeHalfEmpty returns the sealed segment that has the most room, and room for d, or nil when there is none:
// a lane resumes it where it gets no memory or no file. Otherwise a compaction that merges what is left of several
// lanes at the limit would leave them with nothing to write to, though there is room. early says that only
// segments sealed early will do. In a directory a target is as good as a segment of a lane: it counts because a
// manifest lists it, and what the lane adds is found as the tail of any segment is.
// REQUIRES: the lane's rolling held, and no other lock.
func (s *Store) takeHalfEmpty(d *draft, early bool) *segment {
	for !s.segments.linking.Load() {
		var best *segment
		for _, seg := range s.segments.all() {
			if seg.claimedBy() == unclaimed && s.canResume(seg, d, early) && (best == nil || seg.room(1) > best.room(1)) {
				best = seg
			}
		}
		if best == nil {
			return nil
		}
		if !best.claimFor(ownerLane) {
			continue // somebody else has it, or had
		}
		if s.canResume(best, d, early) {
			if s.medium.unseal(best) == nil {
				return best
			}
			best.sealedEarly.Store(false) // not looked at again
		}
		s.unclaim(best)
	}
	return nil
}

// canResume reports whether seg is sealed, has room for d, and in a directory all of it is durable: a
// flush that still had something to do in it would write that the segment ends where new records follow. It
// stays so while seg is claimed.
func (s *Store) canResume(seg *segment, d *draft, early bool) bool {
	f := &seg.inFile
	return seg.is(stateSealed) && (!early || seg.sealedEarly.Load()) && !seg.large && !seg.damaged.Load() &&
		seg.room(1) >= d.size && (d.kind == record.KindTombstone || !seg.spare) && !s.segments.isCleared(seg) &&
		(!s.leavesTombstones() || f.committed.Load() && f.sealed.Load()) && // sealed: with the flush of its end
		!f.linked.Load()
}

// claimSealed claims seg for a lane that resumes it, if nobody else has claimed it and its file allows
// that.
func (s *Store) claimSealed(seg *segment) bool {
	if !seg.claimFor(ownerLane) { // a victim is lost with what is written to it
		return false
	}
	if seg.is(stateSealed) && s.medium.unseal(seg) == nil {
		return true
	}
	s.unclaim(seg)
	return false
}

// unseal writes to the header of seg that more records follow, unless the header never said that it was sealed. It
// fails for a file with another name, when something lies where the records would go, and in a directory that was
// removed: a lane that gets a new file is told so by the system. REQUIRES: no flush has anything to do in seg.
func (d *disk) unseal(seg *segment) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	if seg.inFile.linked.Load() {
		return errors.New("the file has another name")
	}
	if !layout.IsZero(seg.rest()) {
		return errors.New("something lies behind the last record")
	}
	if err := d.fs.Present(); err != nil {
		return err
	}
	if seg.inFile.sealed.Load() { // and all of it is durable
		seg.writeState(seg.extent(), false)
		seg.writeState(seg.extent(), false)
	}
	return nil
}

// resume makes seg, which was claimed for ln, the active segment of ln: not while somebody looks for dead
// records (oldestDead), and not when it was cleared in the meantime: then the lane is left without.
// REQUIRES: ln.rolling held.
func (s *Store) resume(ln *lane, seg *segment) {
	s.segments.leaving.Lock()
	defer s.segments.leaving.Unlock()
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.segments.isCleared(seg) {
		s.unclaim(seg)
		return
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.mu.Lock() // a flush looks at sealed segments under it
	seg.copied.CompareAndSwap(0, seg.recordBytes())
	seg.inFile.sealed.Store(false)
	seg.sealedEarly.Store(false)
	seg.unresumed.Store(false)
	seg.state.Store(int32(stateActive))
	s.segments.mu.Unlock()
	seg.owner.Store(int32(unclaimed))
	s.activateLocked(ln, seg)
}
