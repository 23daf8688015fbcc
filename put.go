package warmtier

import (
	"cmp"
	"errors"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/record"
)

// draft is a record about to be written, where the index keeps its id, and on what terms it is written. Nothing of it
// changes once made, but what its condition found.
//
// Hot paths fill one in where it is to stay, as &draft{…} does. With d := draft{…} it is made elsewhere and copied, 16
// bytes at a time out of stores of 8, which the processor cannot forward: a PutIf took 25 ns longer.
type draft struct {
	id        string
	content   []byte    // nil for a tombstone
	deadline  int64     // Unix time in ms, 0 for none
	load      *loadCall // that content comes from; nil for other writes
	condition condition

	kind  byte
	sum   uint32 // checksum of content
	size  int    // of the whole record, bytes
	shard *shard
	tag   uint32
	hash  uint64 // of id, when this is a memory
}

// Put stores content under id, in place of what was there. nil content is the same as empty
// content, and is stored. The store keeps neither the slice nor the string. The memory never expires,
// also if what it replaces would have.
//
// Now and then it maps a segment of up to SegmentSize bytes, or grows one shard of the index. When that is
// over Options.MaxBytes, or dead bytes grow faster than the compaction under way gives them back, it
// waits for the compaction first, some milliseconds as a rule; one that gets no further in 10 s is not waited
// for. Time in which the process was stopped, or got no processor, does not count.
//
// Errors: [ErrInvalidID], [ErrContentTooLarge], [ErrReadOnly], [ErrClosed], [ErrNoSpace],
// [ErrSyncFailed]; [ErrCorrupt] when the place of id in the index leads to a damaged record, since
// it is then unknown what would be replaced. Nothing has changed when an error is returned, with
// one exception: with SyncWrites the content may be stored and seen without being durable, because
// the flush failed ([ErrSyncFailed], or an error after which the next flush tries again: [ErrNoSpace]
// for a manifest, or what the system says when descriptors or rights lack).
func (s *Store) Put(id string, content []byte) error {
	return s.putMeasured(id, content, 0)
}

// putDurably is putMeasured without the measurement. d has what the caller wants; the rest follows from it.
func (s *Store) putDurably(d *draft) error {
	if err := s.checkWrite(d.id); err != nil {
		return err
	}
	if len(d.content) > MaxContentLen {
		return contentTooLarge(len(d.content))
	}
	done, err := s.enterSynced()
	if err != nil {
		return err
	}
	defer done()
	d.kind, d.size = record.KindMemory, record.Size(len(d.id), len(d.content))
	if d.deadline != 0 {
		d.size += record.DeadlineSize
	}
	d.place(s, d.id)
	d.shard.prefetch(d.tag)
	d.sum = record.Checksum(d.content)
	if d.size > s.largeSize() {
		err = s.putLarge(d)
	} else {
		err = s.putShared(d)
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

// enterSynced is enter for calls that end with a flush: Close waits for them, so that it does not
// take segments out of the table under a flush. Other calls pay nothing.
func (s *Store) enterSynced() (done func(), err error) {
	if !s.opts.SyncWrites || !s.medium.syncs() {
		return func() {}, nil
	}
	return s.enter()
}

// putShared stores d in a segment that it shares with other records, and makes one when there is no
// room.
func (s *Store) putShared(d *draft) error {
	for {
		ok, err := s.tryPut(d)
		if err != nil && errors.Is(err, ErrNoSpace) { // the index has to grow
			ok, err = s.tryPutWithRoom(d)
		}
		if ok || err != nil {
			return err
		}
		if err := s.makeRoom(d); err != nil {
			return err
		}
	}
}

// tryPutWithRoom is tryPut that waits for memory.
func (s *Store) tryPutWithRoom(d *draft) (ok bool, err error) {
	done, err := s.enter()
	if err != nil {
		return false, err
	}
	defer done()
	err = s.withRoom(waitShare, func() (err error) {
		ok, err = s.tryPut(d)
		if errors.Is(err, ErrNoSpace) && s.releasePool() { // a table cannot use memory kept for lanes
			ok, err = s.tryPut(d)
		}
		return err
	})
	return ok, err
}

// tryPut appends the record to the lane of its id and points the index to it; ok is false when the
// lane has no room. The order gives readers either the old record or the whole new one: bytes,
// tail, index.
//
// A Put waits for memory twice, for the slot and for the prefix of the old record, and other
// writers of the lane should not wait with it. So the slot is waited for before the lane is locked,
// and the prefix comes while the new record's body is written. What was seen before the lock may
// have changed, and is not believed.
func (s *Store) tryPut(d *draft) (ok bool, err error) {
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.barrier != nil {
		return false, s.refusal()
	}
	s.prefetchPrefix(d.shard, d.tag)
	_ = s.hooks.fire(pointPutFound)
	return s.putInLane(d)
}

// prefetchPrefix asks for the prefix of the record that the first slot with tag leads to, most
// likely that of the id looked for. It returns the segment from that record on, or nil when there
// is no such slot. REQUIRES: contentMu held.
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

// putInLane is the part of tryPut that holds the lane's lock. REQUIRES: contentMu read-held.
func (s *Store) putInLane(d *draft) (ok bool, err error) {
	ln := d.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if err := s.admitLocked(d); err != nil {
		return false, cmp.Or(s.changedLocked(d), err)
	}
	w, ok := ln.beginLocked(d)
	if !ok {
		return false, s.changedLocked(d)
	}
	defer w.clearUnfinished()
	if err := s.putBody(&w, d); err != nil {
		return false, err
	}
	var old match
	exists, err := s.probe(&old, d.shard, d.tag, d.id)
	if err == nil {
		err = d.checkLocked(&old, exists && !s.isExpired(&old))
	}
	if err != nil {
		return false, err
	}
	s.finishLocked(&w, d)
	s.pointTo(d, w.seg, w.offset, &old, exists)
	if d.load == nil {
		s.loads.supersede(d.id)
	}
	return true, nil
}

// admitLocked makes room for d in the index, and refuses the content of a load that was superseded.
// REQUIRES: the lane's lock held.
func (s *Store) admitLocked(d *draft) error {
	if err := s.prepare(d.shard, int(d.shard.memories.Load())+1); err != nil {
		if exists, failed := s.probe(new(match), d.shard, d.tag, d.id); failed != nil || !exists {
			return err
		} // what is there needs no further slot
	}
	if d.load != nil && s.isSuperseded(d.load) {
		return errSuperseded
	}
	return nil
}

// pointTo points the index to the record of d, which was written at offset in seg. old is what the
// look-up of the id found; if it exists, the record that its slot leads to is dead from here on. A
// compaction may have moved that record since the look-up, so its location is read again; its
// position cannot have changed (I3). Nothing can fail between the record and the index. REQUIRES:
// the lane's lock held, contentMu read-held.
func (s *Store) pointTo(d *draft, seg *segment, offset int, old *match, exists bool) {
	_ = s.hooks.fire(pointPutAppended)
	sh := d.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	delta := int64(d.size)
	if exists {
		oldSize := old.h.Size()
		superseded, _ := s.resolve(sh.current().get(old.pos).location())
		if old.h.Flags() != 0 {
			superseded.deadlines.remove(old.deadline(), oldSize)
		}
		if superseded.live.Add(-int64(oldSize)) == 0 {
			s.noteIfDead(superseded) // a sweep waits until this hold of contentMu has ended
		}
		delta -= int64(oldSize)
	} else {
		sh.memories.Add(1)
	}
	seg.live.Add(int64(d.size))
	sh.setLocked(old.pos, makeSlot(d.tag, s.locate(seg, offset))|s.recalled(d, exists))
	sh.liveBytes.Add(delta)
	sh.puts.Add(1)
}

// Delete removes the memory and reports whether it existed: one that has expired did not. With SyncWrites
// either answer is durable when it returns.
//
// Errors: [ErrInvalidID], [ErrReadOnly], [ErrClosed], [ErrNoSpace], [ErrSyncFailed] and
// [ErrCorrupt], as with [Store.Put].
func (s *Store) Delete(id string) (existed bool, err error) {
	started := s.meters.sampleWrite()
	existed, err = s.removeDurably(id)
	s.meters.writeEnded(started, err, &s.meters.deletes, &s.meters.deleteErrors)
	return existed, err
}

// removeDurably is Delete without its measurement.
func (s *Store) removeDurably(id string) (existed bool, err error) {
	if err := s.checkWrite(id); err != nil {
		return false, err
	}
	done, err := s.enterSynced()
	if err != nil {
		return false, err
	}
	defer done()
	d := &draft{}
	d.deletes(s, id)
	existed, err = s.remove(d)
	if err != nil {
		return existed, err
	}
	s.trimReplaced()
	s.sweepNoted()
	return existed, s.makeDurable()
}

// tombstoneOf returns the record of id's deletion.
func (s *Store) tombstoneOf(id string) (d draft) {
	d.deletes(s, id)
	return d
}

// deletes makes d, which is empty, the record of id's deletion.
func (d *draft) deletes(s *Store, id string) {
	d.id, d.kind, d.size, d.sum = id, record.KindTombstone, record.Size(len(id), 0), record.Checksum(nil)
	d.shard, d.tag = s.place(id)
}

// remove takes the id of d, a tombstone, out of the index, and makes room for the tombstone where
// needed.
func (s *Store) remove(d *draft) (existed bool, err error) {
	for {
		existed, ok, err := s.tryRemove(d)
		if ok || err != nil {
			return existed, err
		}
		if d.size > s.largestShared() {
			return s.removeLarge(d)
		}
		if err := s.makeRoom(d); err != nil {
			return false, err
		}
	}
}

// tryRemove appends the tombstone to the lane of its id, in a store that has any, and takes the id
// out of the index; ok is false when the lane has no room.
func (s *Store) tryRemove(d *draft) (existed, ok bool, err error) {
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.barrier != nil {
		return false, false, s.refusal()
	}
	ln := d.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	var old match
	exists, err := s.probeToRemove(&old, d)
	if err != nil || !exists {
		return false, err == nil, err
	}
	if s.leavesTombstones() && !s.appendTombstoneLocked(ln, d) {
		return false, false, nil
	}
	return s.removeLocked(d, &old), true, nil
}

// probeToRemove looks up the id that d deletes. A Delete that finds nothing supersedes a load as
// well. REQUIRES: the lane's lock held, contentMu read-held.
func (s *Store) probeToRemove(m *match, d *draft) (exists bool, err error) {
	exists, err = s.probe(m, d.shard, d.tag, d.id)
	if err == nil && !exists {
		d.shard.deleteMisses.Add(1)
		s.loads.supersede(d.id)
	}
	if err == nil && exists {
		err = d.checkLocked(m, true)
	}
	return exists, err
}

// appendTombstoneLocked appends d, a tombstone, to ln; ok is false when there is no room.
// REQUIRES: as beginLocked.
func (s *Store) appendTombstoneLocked(ln *lane, d *draft) (ok bool) {
	w, ok := ln.beginLocked(d)
	if !ok {
		return false
	}
	defer w.clearUnfinished()
	record.PutBody(w.rec, d.id, 0, nil)
	s.finishLocked(&w, d)
	w.seg.addTombstone(w.offset, d.size)
	return true
}

// removeLocked takes the memory at m, whose deletion is recorded, out of the index, and reports whether it
// existed for callers. REQUIRES: the lane's lock held, contentMu read-held.
func (s *Store) removeLocked(d *draft, m *match) (existed bool) {
	_ = s.hooks.fire(pointDeleteAppended)
	if existed = m.h.Flags() == 0 || !s.isExpired(m); existed {
		d.shard.deletes.Add(1)
	} else {
		d.shard.deleteMisses.Add(1)
	}
	s.removeSlot(d.shard, m)
	s.loads.supersede(d.id)
	// A table that cannot be made smaller stays as it is: nothing is wrong with it.
	_ = s.prepare(d.shard, int(d.shard.memories.Load()))
	return existed
}

// removeSlot empties the slot of m. REQUIRES: as pointTo.
func (s *Store) removeSlot(sh *shard, m *match) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	seg, _ := s.resolve(sh.current().get(m.pos).location())
	seg.deadlines.remove(m.deadline(), m.h.Size())
	s.takeOut(sh, m.pos, seg, int64(m.h.Size()))
}

// takeOut empties the slot of sh at pos, which leads to a record of size bytes in seg, and counts.
// REQUIRES: the locks of the lane and the shard held.
func (s *Store) takeOut(sh *shard, pos int, seg *segment, size int64) {
	sh.removeLocked(pos)
	if seg.live.Add(-size) == 0 {
		s.noteIfDead(seg)
	}
	sh.memories.Add(-1)
	sh.liveBytes.Add(-size)
}
