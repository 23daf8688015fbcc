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

// lane is one appender. The shards of a lane write one at a time.
type lane struct {
	laneState
	_ [cpu.CacheLines - unsafe.Sizeof(laneState{})%cpu.CacheLines]byte // as with shards
}

type laneState struct {
	rolling lockrank.Mutex[rollRank] // held by who makes the next active segment
	mu      lockrank.Mutex[laneRank]
	active  *segment // guarded by mu; set by who has rolling too, but for seals
}

// largeSize is the size of the largest record that shares a segment with others.
func (s *Store) largeSize() int {
	return min(s.largestShared(), max(s.opts.SegmentSize/largeShare, minLargeSize))
}

// largestShared is the size of the largest record that fits a segment of SegmentSize.
func (s *Store) largestShared() int {
	return s.opts.SegmentSize - layout.HeaderSize - 2*layout.DigestSize
}

// makeRoom gives the lane of d's id an active segment with room for d. Making one takes milliseconds, so it is
// done with no lock held: a swap that had to wait for it would stop every reader behind it. Close waits: the
// file belongs to this store until it is in the table, or removed. REQUIRES: no lock held.
func (s *Store) makeRoom(d *draft) error {
	lockrank.AssertUnlocked()
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	return s.roll(d.shard.lane, d)
}

// hasRoomLocked reports whether the active segment of ln takes d. REQUIRES: ln.mu held.
func (ln *lane) hasRoomLocked(d *draft) bool {
	seg := ln.active
	return seg != nil && seg.room(1) >= d.size && (d.kind == record.KindTombstone || !seg.spare)
}

// roll gives ln an active segment with room for p, unless somebody else has done that meanwhile.
func (s *Store) roll(ln *lane, d *draft) error {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
	ln.mu.Lock()
	enough := ln.hasRoomLocked(d)
	ln.mu.Unlock()
	if enough {
		return nil
	}
	if seg := s.takePartial(d.size); seg != nil {
		s.resume(ln, seg)
		return nil
	}
	spec := segmentSpec{kind: layout.KindLane, size: s.opts.SegmentSize}
	if d.kind == record.KindTombstone {
		spec.least = segmentSizeFor(d.size)
	}
	seg, err := s.createSegment(spec)
	if err != nil {
		return err
	}
	if err := s.segments.assign(seg, s.maxSegments()); err != nil {
		return errors.Join(err, s.discardSegment(seg))
	}
	s.install(ln, seg)
	return nil
}

// install makes seg the active segment of ln. It publishes with contentMu read-held: between swaps the
// table only grows. REQUIRES: ln.rolling held, so that the lane has got no other one meanwhile.
func (s *Store) install(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.publish(seg)
	s.activateLocked(ln, seg)
}

// activateLocked seals the active segment of ln and makes seg the next one. REQUIRES: ln.mu held, contentMu
// read-held, seg in the table.
func (s *Store) activateLocked(ln *lane, seg *segment) {
	_ = s.hooks.fire(pointLaneRolled)
	if ln.active != nil {
		ln.active.seal(int64(ln.active.room(1)) > s.mergeableRoom())
		s.logSealed(ln.active)
	}
	ln.active = seg
}

// mergeableRoom is the room from which on a sealed segment counts as sealed early.
func (s *Store) mergeableRoom() int64 { return int64(s.opts.SegmentSize / largeShare) }

// segmentSizeFor is the size of a segment for one record of size bytes alone.
func segmentSizeFor(size int) int {
	return vm.RoundUp(layout.HeaderSize+size+2*layout.DigestSize, vm.PageSize)
}

// sealLanes seals the active segments of which at least a share of threshold (0: any) is dead, and that
// hold a record; those without one too for a Close, behind which none may be active. Lanes get a new one
// with their next record: from here on none goes on in a segment that was sealed.
func (s *Store) sealLanes(threshold float64) {
	s.segments.setPartial(nil)
	for i := range s.lanes {
		s.sealLane(&s.lanes[i], threshold)
	}
}

func (s *Store) sealLane(ln *lane, threshold float64) {
	ln.rolling.Lock() // a lane that is about to go on in a segment does so before it is sealed
	defer ln.rolling.Unlock()
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if seg := ln.active; seg != nil && (seg.recordBytes() > 0 || s.closed) &&
		fragmentation(seg.deadBytes(), seg.recordBytes()) >= threshold {
		seg.seal(true)
		s.logSealed(seg)
		ln.active = nil
	}
}

/*
Going on in a segment. Every Close seals the segments of lanes, half empty or not, and every Open after a
kill does: without more, a thousand times Open, Put and Close would leave a thousand files. So a lane that
needs a segment takes one that was sealed with room left before this Open, as long as no compaction may
have chosen it. Its state is written as not sealed first, both copies of it: if one that says sealed were
left, damage to the other one would end the segment before the new records. Everything beyond the end must
be zero: a record behind a new one would count. Open makes it so (see clearRemains); whoever else wrote
there has damaged the file.
*/

// setUnfilled replaces the segments that lanes may go on in.
func (t *segmentTable) setPartial(segs []*segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partial = segs
}

// takeUnfilled returns a sealed segment with room for size bytes that can be gone on with, nil when there
// is none. REQUIRES: the rolling of the lane it is for held; no other lock.
func (s *Store) takePartial(size int) *segment {
	t := &s.segments
	for {
		t.mu.Lock()
		n := len(t.partial)
		var seg *segment
		if n > 0 {
			seg, t.partial = t.partial[n-1], t.partial[:n-1]
		}
		t.mu.Unlock()
		if seg == nil || seg.room(1) >= size && s.unseal(seg) == nil {
			return seg
		}
	}
}

// unseal writes to the header of seg that records follow; an error when that cannot be.
func (s *Store) unseal(seg *segment) (err error) {
	defer s.catchFault(armFaults(), &err)
	if !layout.IsZero(seg.rest()) {
		return errors.New("something lies behind the last record")
	}
	seg.writeState(seg.extent(), false)
	seg.writeState(seg.extent(), false)
	return nil
}

// goOn makes seg, of takeUnfilled, the active segment of ln.
func (s *Store) resume(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.mu.Lock() // a flush looks at sealed segments under it
	seg.sealedInFile.Store(false)
	seg.sealedEarly.Store(false)
	seg.state.Store(int32(stateActive))
	s.segments.mu.Unlock()
	s.activateLocked(ln, seg)
}
