package warmtier

import (
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

// DropReason says why the store has dropped a memory.
type DropReason string

// Reasons why the store drops a memory.
const (
	Expired DropReason = "expired" // its time to live is over
	Evicted DropReason = "evicted" // to make room: see WhenFull
)

// Drop is a memory that the store has dropped by itself.
type Drop struct {
	ID      string
	Content []byte // valid inside OnDrop only; must not be written to
	Reason  DropReason
}

// reason returns why a memory with this fate was dropped.
func (f fate) reason() DropReason {
	if f == fateExpired {
		return Expired
	}
	return Evicted
}

// dropped is a memory that was dropped, of which OnDrop is to be told.
type dropped struct {
	seg    *segment // pinned
	offset int
	fate   fate
}

// pinDropped counts what has left the index by drops, and returns it if OnDrop wants to know, with the segments
// pinned: once, for as long as teller.run takes. REQUIRES: the victims are in the table.
func (c *compaction) pinDropped(drops *shardDrops) *teller {
	s := c.s
	t := &teller{s: s, done: make(chan struct{})}
	pinned := map[*segment]bool{}
	for shard := range drops.shards() {
		for d := range drops[shard].all() {
			if !d.done {
				continue
			}
			s.meters.countDrop(&d)
			if s.opts.OnDrop == nil {
				continue
			}
			seg, offset := s.resolve(d.slot.location())
			t.list.add(dropped{seg: seg, offset: offset, fate: d.fate})
			if !pinned[seg] {
				pinned[seg] = true
				hold := s.contentMu.RLock()
				seg.pin()
				s.contentMu.RUnlock(hold)
				t.pins = append(t.pins, seg)
			}
		}
	}
	return t
}

// teller tells OnDrop of what one round has dropped, each memory once.
type teller struct {
	s    *Store
	list pieces[dropped] // not told yet
	pins []*segment
	done chan struct{} // closed when all were told, and the pins dropped
}

// tell runs t and waits for it, but not longer than until Close begins: OnDrop may be what calls Close, which
// waits for the compaction. The pins keep what it is told of mapped until then.
func (t *teller) tell() {
	if t.list.len() == 0 {
		return
	}
	lockrank.AssertUnlocked()
	go t.run()
	select {
	case <-t.done:
	case <-t.s.lifetime.Done():
	}
}

// run calls OnDrop on a goroutine of its own, and on another one when it has ended that.
func (t *teller) run() {
	defer close(t.done)
	defer func() {
		for _, seg := range t.pins {
			t.s.unpin(seg)
		}
	}()
	for t.list.len() > 0 {
		end := apart(func() {
			for t.list.len() > 0 {
				d := t.list.first()
				t.list.skip(1) // before the call: nobody is told twice
				if err := t.s.tellDrop(&d); err != nil {
					t.s.meters.dropFailures.Add(1)
					t.s.opts.Logger.Error("OnDrop cannot be told of a memory that was dropped", "error", err)
				}
			}
		})
		if end != nil {
			t.s.meters.dropFailures.Add(1)
			t.s.opts.Logger.Error("OnDrop did not return", "error", end)
		}
	}
}

// tellDrop calls OnDrop with one memory.
func (s *Store) tellDrop(d *dropped) (err error) {
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
	}
	rec := d.seg.mem[d.offset:int(d.seg.tail.Load())]
	h, ok := record.Decode(rec)
	if !ok || !record.Intact(rec, h, d.seg.seedAt(d.offset)) {
		s.corruptRecords.Add(1)
		m := match{seg: d.seg, offset: d.offset}
		return m.corrupt("", "checksum mismatch")
	}
	s.opts.OnDrop(Drop{ID: string(record.ID(rec, h)), Content: record.Content(rec, h), Reason: d.fate.reason()})
	return nil
}
