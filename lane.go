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
	active  *segment // nil when there is none; set with rolling and mu held, read with mu held
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
	return s.roll(d.shard.lane, d)
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

// install publishes seg and makes it the active segment of ln. REQUIRES: ln.rolling held, so that
// nobody else gives the lane a segment.
func (s *Store) install(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.publish(seg)
	s.activateLocked(ln, seg)
}

// activateLocked seals the active segment of ln and makes seg the next one. REQUIRES: ln.mu held,
// contentMu read-held, seg in the table.
func (s *Store) activateLocked(ln *lane, seg *segment) {
	_ = s.hooks.fire(pointLaneRolled)
	if ln.active != nil {
		ln.active.seal(int64(ln.active.room(1)) > s.mergeableRoom())
		s.logSealed(ln.active)
	}
	ln.active = seg
}

// mergeableRoom returns the room above which a sealed segment counts as sealed early.
func (s *Store) mergeableRoom() int64 { return int64(s.opts.SegmentSize / largeShare) }

// segmentSizeFor returns the size of a segment for one record of size bytes alone.
func segmentSizeFor(size int) int {
	return vm.RoundUp(layout.HeaderSize+size+2*layout.DigestSize, vm.PageSize)
}

// sealLanes seals the active segments that hold a record and of which at least a share of threshold
// (0: any) is dead. Lanes get a new segment with their next record, and from here on none resumes
// one that was sealed. In a closed store segments without a record are sealed too, since none may
// stay active.
func (s *Store) sealLanes(threshold float64) {
	s.segments.setPartial(nil)
	for i := range s.lanes {
		s.sealLane(&s.lanes[i], threshold)
	}
}

func (s *Store) sealLane(ln *lane, threshold float64) {
	ln.rolling.Lock() // a lane that is about to resume a segment does so before it is sealed
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
Resuming a segment. Every Close seals the segments of lanes, half empty or not, and every Open after
a kill does: without more, a thousand times Open, Put and Close would leave a thousand files. So a
lane that needs a segment resumes one that was sealed with room left before this Open, as long as no
compaction may have chosen it. First its state is written as not sealed, to both copies: if one that
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

// unseal writes to the header of seg that more records follow. It fails when its file does not
// allow that.
func (s *Store) unseal(seg *segment) (err error) {
	defer s.catchFault(armFaults(), &err)
	if !layout.IsZero(seg.rest()) {
		return errors.New("something lies behind the last record")
	}
	seg.writeState(seg.extent(), false)
	seg.writeState(seg.extent(), false)
	return nil
}

// resume makes seg, which takePartial returned, the active segment of ln. REQUIRES: ln.rolling
// held.
func (s *Store) resume(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.mu.Lock() // a flush looks at sealed segments under it
	seg.inFile.sealed.Store(false)
	seg.sealedEarly.Store(false)
	seg.state.Store(int32(stateActive))
	s.segments.mu.Unlock()
	s.activateLocked(ln, seg)
}
