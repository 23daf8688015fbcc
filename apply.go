package warmtier

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
Apply makes the writes of a batch as one. It holds the locks of all lanes that have one of its ids, from its look-ups
to its last slot: so of all who write each sees all of it or none. Readers hold no such lock, and may see some of it
before the rest, each write whole.

In a directory its records lie in one container (internal/record), in the segment of one of the lanes, and recovery
takes all of a container or nothing. It is written in this order, and whatever ends the process in between leaves no
container:

	bodies      ids, deadlines, contents, of each record at its place
	digests     first that of the container, which says how many records are in it: it was begun, and the
	            digests after it belong to it and to no record begun after it
	numbers     one for the container and one for each record, in one step
	headers     of the records
	header      of the container, its checksum last: from here on the batch is in force
	tail        beyond all of it, in one step: a flush makes all of it durable, or none

From the draw of the numbers on nothing can fail; so the checks, the look-ups and the tables of the index come
before. A position that a look-up found holds until the batch itself inserts or removes (I3): in each shard it
overwrites first, then removes what it has noted the slots of, then inserts at the first free slot.

Without files there is no recovery, and no container: the records lie back to back as any others.

A batch over 1 MiB is copied, as a large record is, into a segment of its own with no lock held.
docs/design.md, section 15, has the interleavings.
*/

// Apply makes all writes of b at once, if all its checks hold. All or none: for every other call that writes,
// for whatever ends the process, and after a power loss. Calls that read may see some of the writes before the others,
// and from the return of Apply on all of them. It costs less than as many Puts, and with SyncWrites one flush.
// b without writes checks alone: the versions asked for were there together at one moment.
//
// Errors: [ErrChanged] when a check does not hold, as that of [Store.PutIf] also where there would be no room, and
// durable with SyncWrites;
// [ErrBatchTooLarge] for more than [MaxBatchLen] writes or checks, or more bytes than a segment of
// Options.SegmentSize holds; [ErrInvalidTTL]; those of [Store.Put] otherwise: ErrNoSpace also for a batch that only
// deletes. Nothing has changed when it returns one, with the exception that Put has.
func (s *Store) Apply(b *Batch) error {
	err := s.applyDurably(b)
	if errors.Is(err, ErrChanged) {
		s.meters.putsChanged.Add(1)
		return err
	}
	s.meters.writeEnded(0, err, &s.meters.puts, &s.meters.putErrors)
	return err
}

// applyDurably is Apply without the counters.
func (s *Store) applyDurably(b *Batch) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	if n := max(len(b.writes), len(b.checks)); n > MaxBatchLen {
		return fmt.Errorf("%w: %d writes and %d checks, limit %d each", ErrBatchTooLarge, len(b.writes), len(b.checks),
			MaxBatchLen)
	}
	if b.err != nil {
		return b.err
	}
	done, err := s.enterSynced()
	if err != nil {
		return err
	}
	defer done()
	a := &b.applied
	defer a.release()
	if err := a.plan(s, b); err != nil {
		return err
	}
	if a.size > s.largeSize() {
		err = s.applyApart(a)
	} else {
		err = s.applyShared(a)
	}
	if err != nil {
		if errors.Is(err, ErrChanged) {
			err = cmp.Or(s.makeDurable(), err)
		}
		return err
	}
	s.trimReplaced()
	s.sweepNoted()
	return s.makeDurable()
}

// applyShared makes the writes of a in a segment that they share with other records.
func (s *Store) applyShared(a *application) error {
	for {
		ok, err := s.tryApply(a)
		if errors.Is(err, ErrNoSpace) { // the index has to grow
			ok, err = s.tryApplyWithRoom(a)
		}
		if ok || err != nil {
			return err
		}
		if err := s.makeRoom(&a.need); err != nil {
			return err
		}
	}
}

// tryApplyWithRoom is tryApply that waits for memory.
func (s *Store) tryApplyWithRoom(a *application) (ok bool, err error) {
	done, err := s.enter()
	if err != nil {
		return false, err
	}
	defer done()
	err = s.withRoom(waitShare, func() (err error) {
		ok, err = s.tryApply(a)
		if errors.Is(err, ErrNoSpace) && s.releasePool() { // as with tryPutWithRoom
			ok, err = s.tryApply(a)
		}
		return err
	})
	return ok, err
}

// tryApply makes the writes of a; ok is false when the lane that is to have the records has no room.
func (s *Store) tryApply(a *application) (ok bool, err error) {
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.barrier != nil {
		return false, s.refusal()
	}
	s.prefetchPrefixes(a)
	defer s.lockLanes(a)()
	if err := s.admitBatch(a); err != nil {
		return false, err
	}
	c := container{}
	if ln := a.need.shard.lane; a.size > 0 {
		if !ln.hasRoomLocked(&a.need) {
			return false, nil
		}
		c = container{seg: ln.active, offset: int(ln.active.tail.Load())}
		defer c.clearUnfinished()
		c.place(a, s.leavesTombstones(), false)
		c.putBodies(a)
		s.finishContainer(&c, a)
	}
	s.index(&c, a)
	return true, nil
}

// applyApart makes the writes of a in a segment of their own.
func (s *Store) applyApart(a *application) error {
	if err := s.changedBatch(a); err != nil {
		return err
	}
	size := segmentSizeFor(a.need.size)
	spec := segmentSpec{kind: layout.KindLane, size: size, needed: size}
	var c container
	fill := func(seg *segment) error {
		c = container{seg: seg, offset: layout.HeaderSize}
		c.place(a, s.leavesTombstones(), true)
		c.putBodies(a)
		return nil
	}
	return s.withNewSegment(spec, false, fill, func(*segment) (published bool, err error) {
		err = s.applyIn(&c, a)
		return err == nil, err
	})
}

// changedBatch is admitChecks for a batch that is about to get a segment of its own, as changed is for a record: one
// that is refused in any case waits for no room, evicts nothing, and its error is not that room lacks.
func (s *Store) changedBatch(a *application) (err error) {
	if len(a.checks) == 0 {
		return nil
	}
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.barrier != nil { // the write itself waits, or says why not
		return nil
	}
	defer s.lockLanes(a)()
	return s.admitChecks(a)
}

// applyIn makes the bodies in c records, and points the index to them.
func (s *Store) applyIn(c *container, a *application) (err error) {
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.holdForWrite())
	s.prefetchPrefixes(a)
	defer s.lockLanes(a)()
	if err := s.admitBatch(a); err != nil {
		return err
	}
	s.finishContainer(c, a)
	s.segments.publishNew(c.seg)
	s.index(c, a)
	c.seg.seal(c.seg.isMergeable())
	s.noteIfDead(c.seg) // it may hold tombstones alone
	s.maintenance.noteWritten(c.seg.recordBytes())
	return nil
}

// prefetchPrefixes asks for the prefixes of the records that the ids of a lead to. REQUIRES: contentMu held.
func (s *Store) prefetchPrefixes(a *application) {
	for i := range a.writes {
		s.prefetchPrefix(a.writes[i].shard, a.writes[i].tag)
	}
	for i := range a.checks {
		s.prefetchPrefix(a.checks[i].shard, a.checks[i].tag)
	}
	_ = s.hooks.fire(pointPutFound)
}

// lockLanes locks the lanes of a, in the order of their numbers, until unlock. Whoever holds the lock of a lane waits
// for no other one's but so: two batches that share lanes wait in no circle. REQUIRES: contentMu read-held.
func (s *Store) lockLanes(a *application) (unlock func()) {
	for i := range s.lanes {
		if a.lanes[i] {
			s.lanes[i].mu.LockNth(i)
			_ = s.hooks.fire(pointApplyLocked)
		}
	}
	return func() {
		for i := range s.lanes {
			if a.lanes[i] {
				s.lanes[i].mu.Unlock()
			}
		}
	}
}
