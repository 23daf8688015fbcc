package warmtier

import (
	"errors"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

/*
A large record has a segment of its own. The segment is made, and the body written into it, with no
lock held. The rest happens under the locks of any write: the header, the tail, the segment table,
the index. So a segment is in the table only with its record whole, and a write that fails before
that removes it without a trace. It is sealed when the index has changed, and not earlier: a
compaction would see a sealed segment without a live byte, or a tombstone without a dead record that
needs it, and remove it.
*/

// putLarge stores d in a segment of its own.
func (s *Store) putLarge(d *draft) error {
	if err := s.changed(d); err != nil {
		return err
	}
	return s.withOwnSegment(d, func(seg *segment) (published bool, err error) {
		err = s.putIn(seg, d)
		return err == nil, err
	})
}

// putIn makes the body in seg a record, and points the index to it.
func (s *Store) putIn(seg *segment, d *draft) (err error) {
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.holdForWrite())
	s.prefetchPrefix(d.shard, d.tag)
	_ = s.hooks.fire(pointPutFound)
	ln := d.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if err := s.admitLocked(d); err != nil {
		return err
	}
	var old match
	exists, err := s.probe(&old, d.shard, d.tag, d.id)
	if err == nil {
		err = d.checkLocked(&old, exists && !s.isExpired(&old))
	}
	if err != nil {
		return err
	}
	s.publishLocked(seg, d)
	s.pointTo(d, seg, layout.HeaderSize, &old, exists)
	if d.load == nil {
		s.loads.supersede(d.id)
	}
	seg.seal(false)
	s.maintenance.noteWritten(seg.recordBytes())
	return nil
}

// removeLarge deletes a memory whose tombstone needs a segment of its own.
func (s *Store) removeLarge(d *draft) (existed bool, err error) {
	err = s.withOwnSegment(d, func(seg *segment) (published bool, err error) {
		existed, published, err = s.removeIn(seg, d)
		return published, err
	})
	return existed, err
}

// removeIn makes the body in seg a tombstone, and takes the id out of the index.
func (s *Store) removeIn(seg *segment, d *draft) (existed, published bool, err error) {
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.holdForWrite())
	ln := d.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	var old match
	exists, err := s.probeToRemove(&old, d)
	if err != nil || !exists {
		return false, false, err
	}
	s.publishLocked(seg, d)
	seg.addTombstone(layout.HeaderSize, d.size)
	existed = s.removeLocked(d, &old)
	seg.seal(false)
	s.noteIfDead(seg) // it holds a tombstone alone
	return existed, true, nil
}

// withOwnSegment calls write with a segment that is in no table and has the body of d in it, and
// discards the segment unless write has published it. Close waits for it: the store stays open for
// write, and no file is removed that the next owner of the directory may have listed.
func (s *Store) withOwnSegment(d *draft, write func(*segment) (published bool, err error)) error {
	spec := segmentSpec{kind: layout.KindLane, size: segmentSizeFor(d.size), large: true}
	spec.written = s.isWritten(len(d.content))
	body := func(seg *segment) error {
		w := writing{seg: seg, offset: layout.HeaderSize, rec: seg.mem[layout.HeaderSize:]}
		return s.putBody(&w, d)
	}
	return s.withNewSegment(spec, d.kind == record.KindTombstone, body, write)
}

// withNewSegment is withOwnSegment for bodies that fill writes.
func (s *Store) withNewSegment(
	spec segmentSpec, tombstone bool, fill func(*segment) error, write func(*segment) (published bool, err error),
) error {
	lockrank.AssertUnlocked()
	done, err := s.enter()
	if err != nil {
		return err
	}
	defer done()
	try := func() error { return s.tryNewSegment(spec, fill, write) }
	if s.evicts() && !tombstone && !s.canHold(spec.size) {
		return s.full(s.sizes()) // before all others are dropped in vain
	}
	if tombstone {
		return s.withRoomForTombstone(try)
	}
	return s.withRoom(waitShare, try)
}

// tryNewSegment is withNewSegment without the wait for memory.
func (s *Store) tryNewSegment(
	spec segmentSpec, fill func(*segment) error, write func(*segment) (published bool, err error),
) error {
	seg, err := s.newFilledSegment(spec, fill)
	if err != nil {
		return err
	}
	// Before a number is drawn, which must have a record.
	if err := s.segments.assign(seg, s.maxSegments()-1); err != nil {
		return errors.Join(err, s.discardSegment(seg))
	}
	published, err := write(seg)
	if published {
		return err
	}
	s.segments.reuse([]*segment{seg})
	failed := s.discardSegment(seg)
	if err == nil { // there was nothing to delete
		s.warn("segment could not be given back", failed)
		return nil
	}
	return errors.Join(err, failed)
}

// newFilledSegment returns a segment, in no table, that holds what fill writes and no record.
func (s *Store) newFilledSegment(spec segmentSpec, fill func(*segment) error) (seg *segment, err error) {
	seg, err = s.createSegment(spec)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.discardSegment(seg))
			seg = nil
		}
	}()
	defer s.catchFault(armFaults(), &err)
	return seg, fill(seg)
}

// publishLocked makes the body in seg a record, and puts seg into the table. REQUIRES: the lock of
// d's lane held, contentMu read-held, seg has an index.
func (s *Store) publishLocked(seg *segment, d *draft) {
	w := writing{seg: seg, offset: layout.HeaderSize, rec: seg.mem[layout.HeaderSize : layout.HeaderSize+d.size]}
	s.finishLocked(&w, d)
	s.segments.publishNew(seg)
}
