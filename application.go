package warmtier

import (
	"fmt"
	"slices"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// application is a batch on its way into a store.
type application struct {
	writes []appliedWrite // one for each id, in the order of their shards
	checks []appliedCheck
	keys   []uint64       // hashes and places in the batch
	lanes  [maxLanes]bool // those of all ids
	need   draft          // stands for all the records: what a lane must have room for
	size   int            // of records and container, at most
}

// appliedWrite is one write, and what the look-up of its id found.
type appliedWrite struct {
	draft
	exists      bool // a slot has the id
	expired     bool
	pos         int // of the slot
	old         slot
	oldSize     int   // of the record there
	oldDeadline int64 // its
	offset      int   // of the new record in its segment; 0 for none
}

// appliedCheck is one check.
type appliedCheck struct {
	id      string
	shard   *shard
	tag     uint32
	version Version
}

// release lets go of what a batch kept for later must not keep alive.
func (a *application) release() {
	clear(a.writes)
	clear(a.checks)
	a.need = draft{}
}

// plan makes drafts of the writes of b, and asks for the slots of all ids.
func (a *application) plan(s *Store, b *Batch) error {
	*a = application{writes: a.writes[:0], checks: a.checks[:0], keys: a.keys[:0]}
	a.need = draft{kind: record.KindContainer, shard: &s.shards[0]}
	for i := range b.writes {
		hash := s.hash(b.writes[i].id)
		shardIndex, tag := splitHash(hash)
		s.shards[shardIndex].prefetch(tag)
		a.keys = append(a.keys, hash&^(1<<(64-shardBits-tagBits)-1)|uint64(i))
		if i == 0 {
			a.need.shard = &s.shards[shardIndex]
		}
	}
	for _, c := range b.checks {
		shardIndex, tag := splitHash(s.hash(c.id))
		s.shards[shardIndex].prefetch(tag)
		a.lanes[s.laneOf(shardIndex)] = true
		a.checks = append(a.checks, appliedCheck{id: c.id, shard: &s.shards[shardIndex], tag: tag, version: c.version})
	}
	slices.Sort(a.keys)
	for i, key := range a.keys {
		if w := &b.writes[uint32(key)]; !b.writesLater(w.id, key, a.keys[i+1:]) {
			shardIndex, tag := splitHash(key)
			a.lanes[s.laneOf(shardIndex)] = true
			a.addWrite(s, w, &s.shards[shardIndex], tag)
		}
	}
	if a.size > 0 && s.leavesTombstones() {
		a.size += record.HeaderSize
	}
	a.need.size = a.size + layout.DigestSize*len(a.writes)
	if a.need.size > s.largestShared() {
		return fmt.Errorf("%w: %d bytes of records, limit %d", ErrBatchTooLarge, a.need.size, s.largestShared())
	}
	return nil
}

// writesLater reports whether a later write of b is one of id, whose key is key. later are the keys after it.
func (b *Batch) writesLater(id string, key uint64, later []uint64) bool {
	for _, k := range later {
		if k>>32 != key>>32 {
			break
		}
		if b.writes[uint32(k)].id == id {
			return true
		}
	}
	return false
}

// addWrite adds the draft of w.
func (a *application) addWrite(s *Store, w *batchWrite, sh *shard, tag uint32) {
	a.writes = append(a.writes, appliedWrite{})
	d := &a.writes[len(a.writes)-1].draft
	d.id, d.content, d.kind, d.sum, d.shard, d.tag = w.id, w.content, w.kind, w.sum, sh, tag
	d.size = record.Size(len(w.id), len(w.content))
	if s.marksReads {
		d.hash = s.hash(w.id) // the whole of it: ghosts
	}
	d.deadline = w.until
	if w.ttl > 0 {
		d.deadline = s.clock.after(w.ttl)
	}
	if d.deadline != 0 {
		d.size = record.Size(len(w.id)+record.DeadlineSize, len(w.content))
	}
	if d.kind == record.KindMemory || s.leavesTombstones() {
		a.size += d.size
	}
}

// admitBatch returns an error unless all checks of a hold and the index takes its writes. REQUIRES: the locks of
// a's lanes held, contentMu read-held.
func (s *Store) admitBatch(a *application) error {
	if err := s.admitChecks(a); err != nil {
		return err
	}
	for group := range a.groups() {
		if err := s.lookUpGroup(group); err != nil {
			return err
		}
	}
	return nil
}

// admitChecks returns ErrChanged unless all checks of a hold. REQUIRES: as admitBatch.
func (s *Store) admitChecks(a *application) error {
	var m match
	for i, c := range a.checks {
		exists, err := s.probe(&m, c.shard, c.tag, c.id)
		if err != nil {
			return err
		}
		found := Version(0)
		if exists && !s.isExpired(&m) {
			found = Version(m.h.Seq)
		}
		if found != c.version {
			return fmt.Errorf("%w: check %d of the batch: it is %d, want %d", ErrChanged, i, found, c.version)
		}
	}
	return nil
}

// groups yields the writes of a shard by shard.
func (a *application) groups() func(yield func([]appliedWrite) bool) {
	return func(yield func([]appliedWrite) bool) {
		for rest := a.writes; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].shard == rest[0].shard {
				n++
			}
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// lookUpGroup looks up the ids of group, and gives their shard a table that takes them. REQUIRES: as admitBatch.
func (s *Store) lookUpGroup(group []appliedWrite) (err error) {
	sh := group[0].shard
	for {
		looked, absent := sh.table.Load(), 0
		for i := range group {
			w := &group[i]
			var m match
			if w.exists, err = s.probe(&m, sh, w.tag, w.id); err != nil {
				return err
			}
			w.pos = m.pos
			if w.exists {
				w.expired, w.oldDeadline, w.oldSize = s.isExpired(&m), m.deadline(), m.h.Size()
			} else if w.kind == record.KindMemory {
				absent++
			}
		}
		if absent == 0 {
			return nil
		}
		if err := s.prepare(sh, int(sh.memories.Load())+absent); err != nil {
			return err
		}
		if sh.table.Load() == looked { // else positions have changed
			return nil
		}
	}
}

// index points the index to the records of a in c, and takes out what a deletes. REQUIRES: as finishContainer.
func (s *Store) index(c *container, a *application) {
	for group := range a.groups() {
		s.indexGroup(c.seg, group)
		removed := false
		for i := range group {
			w := &group[i]
			s.loads.supersede(w.id)
			removed = removed || w.exists && w.kind == record.KindTombstone
		}
		if sh := group[0].shard; removed {
			_ = s.prepare(sh, int(sh.memories.Load())) // as removeLocked does
		}
		_ = s.hooks.fire(pointApplyIndexed)
	}
}

// indexGroup is index for the writes of one shard, whose records are in seg.
func (s *Store) indexGroup(seg *segment, group []appliedWrite) {
	sh := group[0].shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	t := sh.current()
	for i := range group {
		if w := &group[i]; w.exists {
			if w.old = t.get(w.pos); w.kind == record.KindMemory { // by now: a compaction may have moved it
				s.overwrite(sh, seg, w)
			}
		}
	}
	for i := range group {
		if w := &group[i]; w.kind == record.KindTombstone {
			s.removeIndexed(sh, t, w)
		}
	}
	for i := range group {
		if w := &group[i]; w.kind == record.KindMemory && !w.exists {
			sh.setLocked(t.free(w.tag), makeSlot(w.tag, s.locate(seg, w.offset))|s.recalled(&w.draft, false))
			sh.memories.Add(1)
			s.countNew(sh, seg, w)
		}
	}
}

// overwrite points the slot of w to its record in seg. REQUIRES: sh.mu held.
func (s *Store) overwrite(sh *shard, seg *segment, w *appliedWrite) {
	old, _ := s.resolve(w.old.location())
	if w.oldDeadline != 0 {
		old.deadlines.remove(w.oldDeadline, w.oldSize)
	}
	if old.live.Add(-int64(w.oldSize)) == 0 {
		s.noteIfDead(old)
	}
	sh.liveBytes.Add(-int64(w.oldSize))
	sh.setLocked(w.pos, makeSlot(w.tag, s.locate(seg, w.offset)))
	s.countNew(sh, seg, w)
}

// countNew counts the record of w, which is in seg. REQUIRES: sh.mu held.
func (s *Store) countNew(sh *shard, seg *segment, w *appliedWrite) {
	seg.live.Add(int64(w.size))
	sh.liveBytes.Add(int64(w.size))
	sh.puts.Add(1)
}

// removeIndexed takes the slot that w deletes out of t, wherever it is by now. REQUIRES: sh.mu held.
func (s *Store) removeIndexed(sh *shard, t table, w *appliedWrite) {
	if !w.exists || w.expired {
		sh.deleteMisses.Add(1)
	} else {
		sh.deletes.Add(1)
	}
	if !w.exists {
		return
	}
	seg, _ := s.resolve(w.old.location())
	seg.deadlines.remove(w.oldDeadline, w.oldSize)
	pos, _ := t.find(w.old)
	s.takeOut(sh, pos, seg, int64(w.oldSize))
}

// free returns the position where a new slot with tag goes.
func (t table) free(tag uint32) int {
	pos := t.home(tag)
	for t.get(pos) != 0 {
		pos = t.next(pos)
	}
	return pos
}
