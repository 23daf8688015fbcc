package warmtier

import (
	"fmt"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/record"
)

// put is a record to be written: a Put under way, or the tombstone of a Delete.
type put struct {
	id      string
	content []byte
	shard   *shard
	tag     uint32
	kind    byte
	size    int
	sum     uint32   // of content
	large   *segment // holds the body of a large record already, else nil
	load    *flight  // that content is from; nil for a Put
	written bool     // the record is in a segment of the table
}

// Put stores content under id, in place of what was there. nil content is the same as empty content,
// and is stored. The store keeps neither slice nor string.
//
// It may map a segment of SegmentSize bytes, and grows one shard of the index now and then.
//
// Errors: [ErrInvalidID], [ErrContentTooLarge], [ErrReadOnly], [ErrClosed], [ErrNoSpace], [ErrSyncFailed];
// [ErrCorrupt] when the place of id in the index leads to a damaged record, since what would be
// replaced is unknown then. Nothing changed when one is returned, with one exception: with SyncWrites the
// content may be stored and seen, and not be durable, since the flush failed ([ErrSyncFailed], or
// [ErrNoSpace] for a manifest, which the next flush tries again).
func (s *Store) Put(id string, content []byte) error {
	started := s.meters.sampleWrite()
	err := s.putDurably(id, content, nil)
	s.meters.writeEnded(started, err, &s.meters.puts, &s.meters.putErrors)
	return err
}

// putDurably is Put without its measurement. load, when not nil, is the flight that content is from.
func (s *Store) putDurably(id string, content []byte, load *flight) error {
	if err := s.checkWrite(id); err != nil {
		return err
	}
	if len(content) > MaxContentLen {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrContentTooLarge, len(content), MaxContentLen)
	}
	done, err := s.enterSynced()
	if err != nil {
		return err
	}
	defer done()
	p := put{id: id, content: content, kind: record.KindMemory, size: record.Size(len(id), len(content)), load: load}
	p.shard, p.tag = s.place(id)
	p.shard.prefetch(p.tag)
	p.sum = record.Checksum(content)
	if err := s.put(&p); err != nil {
		return err
	}
	s.trimReplaced()
	return s.makeDurable()
}

// enterSynced is enter for calls that end with a flush: Close waits for them, and then nobody flushes
// while it takes the segments out of the table. Others pay nothing.
func (s *Store) enterSynced() (done func(), err error) {
	if s.disk == nil || !s.opts.SyncWrites {
		return func() {}, nil
	}
	return s.enter()
}

// put is tryPut, with the segments it needs.
func (s *Store) put(p *put) error {
	if p.size <= s.largeSize() {
		if err := s.tryPut(p); err != errNoRoom { //nolint:errorlint // never wrapped: it is no error
			return err
		}
	}
	return s.putWithRoom(*p)
}

// putWithRoom has a p of its own, so that only a Put that comes here allocates one.
func (s *Store) putWithRoom(p put) error {
	return s.withRoom(&p, func() error { return s.tryPut(&p) })
}

// tryPut appends the record and points the index to it; errNoRoom when it lacks a segment. The order
// gives readers either the old record or the whole new one: bytes, tail, index.
//
// It waits for memory twice, for the slot and for the head of the old record, and other writers of the lane
// should not wait with it: the slot is waited for before the lane's lock, and the head comes while the new
// record's body is written. What was seen before the lock is not believed: it may have changed.
func (s *Store) tryPut(p *put) (err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.closed {
		return ErrClosed
	}
	s.prefetchPrefix(p.shard, p.tag)
	_ = s.hooks.fire(pointPutFound)
	return s.putInLane(p)
}

// prefetchHead has the head of the record fetched that is most likely that of an id with this tag, and
// returns the segment from there on; nil when there is none. REQUIRES: contentMu held.
func (s *Store) prefetchPrefix(sh *shard, tag uint32) []byte {
	_, w := sh.current().first(tag)
	if w == 0 {
		return nil
	}
	seg, offset := s.resolve(w.location())
	if seg == nil || offset+record.HeaderSize > len(seg.mem) {
		return nil
	}
	cpu.Prefetch(seg.mem[offset : offset+record.HeaderSize])
	return seg.mem[offset:]
}

// putInLane is tryPut behind the lock of the lane. REQUIRES: contentMu read-held.
func (s *Store) putInLane(p *put) error {
	sh, ln := p.shard, p.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if err := s.prepare(sh, int(sh.memories.Load())+1); err != nil {
		return err
	}
	if p.load != nil && s.loads.isSuperseded(p.load) {
		return errSuperseded
	}
	var old match
	exists := false
	seg, err := s.writeLocked(ln, p, func() (err error) {
		exists, err = s.probe(&old, sh, p.tag, p.id)
		return err
	})
	if err != nil {
		return err
	}
	_ = s.hooks.fire(pointPutAppended) // nothing can fail between the record and the index
	offset := int(seg.tail.Load()) - p.size
	s.pointTo(sh, old.pos, exists, old.h.Size(), makeSlot(p.tag, s.locate(seg, offset)), p.size)
	if p.load == nil {
		s.loads.supersede(p.id)
	}
	if p.large != nil {
		seg.seal(false) // not earlier: a compaction would take it for dead
	}
	return nil
}

// writeLocked writes the record of p at a tail: the body, then whatever lookUp reads meanwhile, then the rest,
// unless lookUp fails. REQUIRES: ln.mu held, contentMu read-held.
func (s *Store) writeLocked(ln *lane, p *put, lookUp func() error) (*segment, error) {
	seg, rec := ln.placeLocked(p)
	if seg == nil {
		return nil, errNoRoom
	}
	defer seg.clearUnfinished(seg.tail.Load(), rec, p)
	if p.large == nil {
		record.PutBody(rec, p.id, p.content)
	}
	if err := lookUp(); err != nil {
		return nil, err
	}
	return seg, s.appendLocked(seg, rec, p)
}

// placeLocked finds the place of p at a tail; nil when there is no room. REQUIRES: ln.mu held, contentMu
// read-held.
func (ln *lane) placeLocked(p *put) (seg *segment, rec []byte) {
	if seg = p.large; seg == nil {
		if !ln.hasRoomLocked(p) {
			return nil, nil
		}
		seg = ln.active
	}
	tail := int(seg.tail.Load())
	return seg, seg.mem[tail : tail+p.size]
}

// clearUnfinished ends the writing of p to rec, its place at this tail: of a record that was not finished, by an
// error or a fault, nothing stays in a file. Else its body would lie where the header of a later record goes,
// and recovery take it for one that was begun.
func (seg *segment) clearUnfinished(tail int64, rec []byte, p *put) {
	if seg.file != nil && p.large == nil && seg.tail.Load() == tail {
		clear(rec)
	}
}

// appendLocked makes the body that is in rec, its place in seg, a record. A large one is published when it is
// whole: what fails before that leaves no trace of it. REQUIRES: ln.mu held, contentMu read-held.
func (s *Store) appendLocked(seg *segment, rec []byte, p *put) error {
	_ = s.hooks.fire(pointPutBody)
	h := record.Header{
		ContentSum: p.sum,
		Kind:       p.kind,
		IDLen:      len(p.id),
		ContentLen: len(p.content),
		Seq:        s.sequence.Add(1),
	}
	tail := int(seg.tail.Load())
	seg.noteSeq(h.Seq)
	if seg.file != nil {
		seg.putDigest(int(seg.records.Load()), rec[record.HeaderSize:record.HeaderSize+h.IDLen])
	}
	record.PutHeader(rec, h, seg.seedAt(tail))
	seg.addRecords(1, p.size)
	if p.large != nil {
		if err := s.segments.assign(seg, s.maxSegments()); err != nil {
			return err
		}
		s.segments.publish(seg)
	}
	p.written = true
	if next := tail + p.size; p.large == nil {
		cpu.Prefetch(seg.mem[next:min(next+min(p.size, prefetchLimit), len(seg.mem))])
	}
	return nil
}

// pointTo sets the slot at pos to w, the location of a record of size bytes; exists says that pos
// held a slot for the same id, of a record of oldSize bytes. Between the look-up and this call a
// compaction may have moved that record, which is why its location is read again; its position
// cannot have changed (I3). REQUIRES: the lane's lock held, contentMu read-held.
func (s *Store) pointTo(sh *shard, pos int, exists bool, oldSize int, w slot, size int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	delta := int64(size)
	if exists {
		superseded, _ := s.resolve(sh.current().get(pos).location())
		superseded.live.Add(-int64(oldSize))
		delta -= int64(oldSize)
	} else {
		sh.memories.Add(1)
	}
	seg, _ := s.resolve(w.location())
	seg.live.Add(int64(size))
	sh.current().set(pos, w)
	sh.liveBytes.Add(delta)
	sh.puts.Add(1)
}

// Delete removes the memory and reports whether it existed.
//
// Errors: [ErrInvalidID], [ErrReadOnly], [ErrClosed], [ErrNoSpace], [ErrSyncFailed] and [ErrCorrupt], as
// with [Store.Put].
func (s *Store) Delete(id string) (existed bool, err error) {
	started := s.meters.sampleWrite()
	existed, err = s.removeDurably(id)
	s.meters.writeEnded(started, err, &s.meters.deletes, &s.meters.deleteErrors)
	return existed, err
}

func (s *Store) removeDurably(id string) (existed bool, err error) {
	if err := s.checkWrite(id); err != nil {
		return false, err
	}
	done, err := s.enterSynced()
	if err != nil {
		return false, err
	}
	defer done()
	existed, err = s.remove(id)
	if existed && err == nil {
		s.trimReplaced()
		err = s.makeDurable()
	}
	return existed, err
}

// tombstoneOf is the record of a deletion.
func (s *Store) tombstoneOf(id string) put {
	p := put{id: id, kind: record.KindTombstone, size: record.Size(len(id), 0), sum: record.Checksum(nil)}
	p.shard, p.tag = s.place(id)
	return p
}

// remove is tryRemove, with the segments it needs.
func (s *Store) remove(id string) (existed bool, err error) {
	p := s.tombstoneOf(id)
	existed, err = s.tryRemove(&p)
	if err != errNoRoom { //nolint:errorlint // never wrapped: it is no error
		return existed, err
	}
	return s.removeWithRoom(p)
}

func (s *Store) removeWithRoom(p put) (existed bool, err error) {
	err = s.withRoom(&p, func() (err error) {
		existed, err = s.tryRemove(&p)
		return err
	})
	return existed, err
}

// tryRemove is Delete up to the point where the deletion is visible; errNoRoom when it lacks a segment.
func (s *Store) tryRemove(p *put) (existed bool, err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.closed {
		return false, ErrClosed
	}
	sh, ln := p.shard, p.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()

	var m match
	exists, err := s.probe(&m, sh, p.tag, p.id)
	if err == nil && !exists {
		sh.deleteMisses.Add(1)
		s.loads.supersede(p.id)
	}
	if err != nil || !exists {
		return false, err
	}
	if err := s.appendTombstone(ln, p); err != nil {
		return false, err
	}
	_ = s.hooks.fire(pointDeleteAppended)
	s.removeSlot(sh, m.pos, m.h.Size())
	s.loads.supersede(p.id)
	if p.large != nil {
		p.large.seal(false) // not earlier: a compaction would find nothing dead that it is needed for
	}
	// A table that cannot be made smaller stays as it is: nothing is wrong with it.
	_ = s.prepare(sh, int(sh.memories.Load()))
	return true, nil
}

// appendTombstone records a deletion in a directory store, where the records of the memory may be
// found again. The caller seals a segment made for it. REQUIRES: as appendLocked.
func (s *Store) appendTombstone(ln *lane, p *put) error {
	if s.disk == nil {
		return nil
	}
	if p.size > s.largestShared() && p.large == nil {
		return errNoRoom
	}
	seg, err := s.writeLocked(ln, p, func() error { return nil }) // it was looked up before
	if err != nil {
		return err
	}
	seg.addTombstone(int(seg.tail.Load())-p.size, p.size)
	return nil
}

// removeSlot empties the slot at pos, of a record of size bytes. REQUIRES: as pointTo.
func (s *Store) removeSlot(sh *shard, pos, size int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	t := sh.current()
	seg, _ := s.resolve(t.get(pos).location())
	seg.live.Add(-int64(size))
	sh.shifts.Add(1) // odd: no miss is to be believed
	t.remove(pos)
	sh.shifts.Add(1)
	sh.memories.Add(-1)
	sh.liveBytes.Add(-int64(size))
	sh.deletes.Add(1)
}

func (s *Store) checkWrite(id string) error {
	if s.opts.ReadOnly {
		return ErrReadOnly
	}
	if err := s.failedSync(); err != nil {
		return err
	}
	return checkID(id)
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > MaxIDLen {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrInvalidID, len(id), MaxIDLen)
	}
	return nil
}
