package warmtier

import (
	"errors"
	"sync"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

/*
GetMany reads many memories in about the time their cache misses take side by side instead of one
after the other. A look-up in a large store waits for memory three times: for the slot, for the
prefix of the record, for the rest of it. Each of these addresses is known only after the wait
before, but different ids do not depend on each other. So the steps of one read are taken for a
batch of ids at a time. Each step is a loop over the batch that uses what the step before has asked
for, and asks for what the next one needs:

	hash     all ids; ask for the home slot of each
	ask      for the first line of the record that the first slot with the tag leads to
	ask      for its other lines: the header says how many
	look up  each id as Get does, with everything in the cache; copy its content
	release  contentMu
	check    each copy and hand it out, in the order of the ids

(Interleaving look-ups to hide memory latency: Kocberber, Falsafi, Grot, "Asynchronous Memory Access
Chaining", VLDB 2015. The simplest of the forms compared there, "group prefetching", is enough for
chains of one length.) What is seen on the way is not believed: only the look-up decides, by the
rules of Get.

A batch is one hold of contentMu, so it is bounded three times: in ids, in their bytes, which the
look-ups read, and in the bytes it copies. Content over maxLockedCopy is not copied in a batch but
read by itself, when its turn comes.
*/

// batchIDs is how many ids a batch has: enough for the loads that a core keeps under way, and few
// enough that what was fetched is still in its cache when it is looked up.
const batchIDs = 64

// GetMany reads the memories of ids and calls fn for each of them, in their order, with its place
// in ids and what [Store.Get] would return. It takes less time than as many calls of Get, since it
// waits for many records at once; this pays from a handful of ids on, in a store larger than the
// processor's cache.
//
// content is valid inside fn only: it is a copy whose memory is used again for the ids that follow.
// fn may write to it, take its time, and call the store, Close included: it runs with no lock held.
// Each id is read on its own, at some moment between the beginning of GetMany and its fn: of the writes of an Apply
// beside it some may be seen and others not. Up to 64 ids are read before fn gets the first of them, so fn does not see
// what it has itself stored under the next ones. An id may be in ids more than once.
//
// The err that fn gets is that of its id: [ErrNotFound], [ErrInvalidID] or [ErrCorrupt]; content is
// nil then, and GetMany continues with the next id. GetMany returns [ErrClosed] when the store is
// closed before the last id was read; fn is not called for the ids left. A panic of fn passes
// through, and leaves nothing locked or pinned.
func (s *Store) GetMany(ids []string, fn func(i int, content []byte, err error)) error {
	b, _ := batches.Get().(*batch)
	width := batchIDs
	for from := 0; from < len(ids); {
		part := ids[from:min(len(ids), from+width)]
		if err := s.readBatch(b, part); err != nil {
			return err
		}
		closed := s.deliver(b, part, from, fn)
		if closed {
			return ErrClosed
		}
		from += b.n
		// When contents are so long that not all fit, no more should be fetched than is used.
		width = min(batchIDs, 2*b.n)
	}
	batches.Put(b)
	return nil
}

// batches are kept for the next call, but for the batch of a call that ended with a panic or error.
var batches = sync.Pool{New: func() any { return new(batch) }}

// batch is up to batchIDs ids being read.
type batch struct {
	n      int // how many ids were read
	places [batchIDs]place
	found  [batchIDs]found
	copies []byte // contents, back to back
}

// place is where an id may be.
type place struct {
	sh  *shard
	tag uint32
	rec []byte // from the record on that the first slot with the tag leads to; nil if there is none
}

// found is the outcome for one id.
type found struct {
	err    error
	long   bool // to be read by itself
	from   int  // where its content begins in copies
	h      record.Header
	seg    *segment
	offset int
}

// readBatch reads as many of ids as fit, at least one, and sets b.n to how many. Its only error is
// ErrClosed: then it has read none.
func (s *Store) readBatch(b *batch, ids []string) (err error) {
	for i, id := range ids {
		sh, tag := s.place(id)
		b.places[i] = place{sh: sh, tag: tag}
		sh.prefetch(tag)
	}
	if !s.mayFault() {
		var h readHold
		h.acquire(&s.contentMu)
		err = s.readHeld(b, ids, &h)
		h.release()
		return err
	}
	err, fault := s.readGuarded(b, ids)
	if fault != nil { // on the record of one of them: reading each by itself shows which
		b.n = len(ids)
		for i := range ids {
			b.found[i] = found{long: true}
		}
	}
	return err
}

// readGuarded is readHeld in a store that may fault.
func (s *Store) readGuarded(b *batch, ids []string) (err, fault error) {
	defer s.catchFault(armFaults(), &fault)
	var h readHold
	defer h.release()
	h.acquire(&s.contentMu)
	return s.readHeld(b, ids, &h), nil
}

// readHeld looks the ids up and copies their contents. REQUIRES: contentMu read-held, by h.
func (s *Store) readHeld(b *batch, ids []string, h *readHold) error {
	if s.closed {
		return ErrClosed
	}
	s.prefetchRecords(b, len(ids))
	b.n, b.copies = 0, b.copies[:0]
	var m match
	gets, misses := uint64(0), uint64(0)
	idBytes := 0
	for i, id := range ids {
		if idBytes >= maxLockedCopy {
			break
		}
		idBytes += len(id)
		f := &b.found[i]
		*f = found{from: len(b.copies)}
		if f.err = checkID(id); f.err != nil {
			b.n++
			continue
		}
		p := &b.places[i]
		exists, err := s.find(&m, p.sh, p.tag, id)
		if exists && m.h.Flags() != 0 {
			exists, err = s.findUnexpired(&m, p.sh, p.tag, id)
		}
		if exists && m.h.ContentLen() <= maxLockedCopy {
			if i > 0 && len(b.copies)+m.h.ContentLen() > maxLockedCopy {
				break
			}
			b.copies = append(b.copies, m.content()...)
			if s.marksReads {
				s.markRead(&m, p.sh, p.tag)
			}
			f.h, f.seg, f.offset = m.h, m.seg, m.offset
		}
		b.n++
		switch {
		case err != nil:
			f.err = err
			s.corruptRecords.Add(1)
			s.meters.getErrors.Add(1)
			continue
		case !exists:
			f.err = ErrNotFound
			misses++
			continue
		case m.h.ContentLen() > maxLockedCopy:
			f.long = true // counted when it is read
			continue
		}
		gets++
	}
	h.Gets = gets // not earlier: after a fault each id is read again
	h.Misses(misses)
	return nil
}

// prefetchRecords asks for the records of the first n ids. REQUIRES: contentMu read-held.
func (s *Store) prefetchRecords(b *batch, n int) {
	for i := range b.places[:n] {
		p := &b.places[i]
		p.rec = s.prefetchPrefix(p.sh, p.tag)
	}
	for i := range b.places[:n] {
		if h, ok := record.Decode(b.places[i].rec); ok {
			cpu.Prefetch(b.places[i].rec[:min(h.Size(), prefetchLimit)])
		}
	}
}

// deliver calls fn for each id that was read. closed is true when an id had to be read by itself
// and the store was closed by then; fn was not called for it, nor for those after it.
func (s *Store) deliver(b *batch, ids []string, from int, fn func(int, []byte, error)) (closed bool) {
	lockrank.AssertUnlocked()
	for i, id := range ids[:b.n] {
		f := &b.found[i]
		content, err := []byte(nil), f.err
		switch {
		case f.long:
			if content, err = s.Get(id); errors.Is(err, ErrClosed) {
				return true
			}
		case err == nil:
			end := f.from + f.h.ContentLen()
			content = b.copies[f.from:end:end]
			if !record.IntactContent(content, f.h) {
				s.countDamage()
				m := match{seg: f.seg, offset: f.offset}
				content, err = nil, m.corrupt(id, "checksum mismatch")
			}
		}
		fn(from+i, content, err)
	}
	return false
}
