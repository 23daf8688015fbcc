package warmtier

import (
	"errors"
	"iter"
	"slices"

	"github.com/warmtier/warmtier/internal/record"
)

// Len returns the number of memories, 0 for a closed store.
func (s *Store) Len() int {
	n := int64(0)
	for i := range s.shards {
		n += s.shards[i].memories.Load()
	}
	return int(n)
}

// iterationBatch is how many ids are copied in one hold of contentMu, about.
const iterationBatch = 128

// All iterates over the memories in no particular order. A memory that is there from the first step
// to the last is yielded exactly once, with its content at that step; one that comes or goes on the
// way may be yielded or not, but never twice. The content is valid until the next step, and must
// not be written to. The body of the loop runs with no lock held and may call the store. Contents come without
// versions, and of a batch that is applied meanwhile, some may be those of before: [Store.Checkpoint] has all of one
// moment.
//
// An iterator cannot report a damaged record: it is left out, logged, and counted in
// Stats.Reads.CorruptRecords; [Store.Verify] names each one. The iteration ends early when the
// store is closed. It costs one look-up per memory besides the walk.
func (s *Store) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		batch := idBatch{want: iterationBatch, copy: []byte{}} // empty content is not nil
		s.eachID(&batch, func(id string) bool { return s.step(id, &batch, yield) })
	}
}

// IDs iterates over the ids of all memories, as All does, and reads no content. The id of a memory that
// is there from the first step to the last is yielded exactly once, and no id twice; that of a memory that
// comes or goes on the way may be yielded or not. The body of the loop runs with no lock held and may
// call the store.
//
// What All says of damaged records is true of ids that cannot be read; a damaged content goes unnoticed. The
// iteration ends early when the store is closed. It costs a read of each record's header and id.
func (s *Store) IDs() iter.Seq[string] {
	return func(yield func(string) bool) {
		s.eachID(&idBatch{want: iterationBatch}, func(id string) bool {
			return s.lifetime.Err() == nil && yield(id)
		})
	}
}

// eachID calls fn with every id, batch after batch in b, until fn returns false. A closed store has none.
func (s *Store) eachID(b *idBatch, fn func(id string) (more bool)) {
	for i := range s.shards {
		for b.next = 0; b.next < tagCount; {
			if err := s.readIDs(&s.shards[i], b); err != nil {
				s.opts.Logger.Error("damaged records left out of an iteration", "error", err)
			}
			for _, id := range b.ids {
				if !fn(id) {
					return
				}
			}
		}
	}
}

// idBatch holds some ids of one shard: as many as wanted, or fewer that have maxLockedCopy bytes, or
// more that share a tag.
type idBatch struct {
	want  int    // at most iterationBatch
	next  uint32 // the first tag after those of ids
	ids   []string
	slots []slot // scratch space
	copy  []byte // of the content yielded, in a store that may fault
}

// readIDs replaces the ids of b by those from b.next on. It leaves out records whose id it cannot
// read, and returns an error for them.
func (s *Store) readIDs(sh *shard, b *idBatch) (err error) {
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	sh.mu.Lock()
	now := s.clock.now() // what has expired by then is absent at this moment
	var end uint32
	b.slots, end = sh.readRange(b.slots[:0], b.next, b.want)
	sh.mu.Unlock() // writers go on: contentMu keeps what the slots lead to
	slices.Sort(b.slots)
	b.ids, b.next = b.ids[:0], end
	for i, bytes := 0, 0; i < len(b.slots); i++ {
		if endsBatch(b.slots, i, bytes) || i >= b.want && b.slots[i].tag() != b.slots[i-1].tag() {
			b.next = b.slots[i].tag()
			break
		}
		var m match
		damage := s.follow(&m, b.slots[i].location())
		bytes += m.h.IDLen()
		if damage != nil {
			s.corruptRecords.Add(1)
			err = errors.Join(err, damage)
			continue
		}
		if deadline := m.deadline(); deadline == 0 || deadline > now {
			b.ids = append(b.ids, string(record.ID(m.rec, m.h)))
		}
	}
	return err
}

// readRange appends the slots of about n memories to dst: those with a tag in [from, to).
// REQUIRES: sh.mu held.
func (sh *shard) readRange(dst []slot, from uint32, n int) (slots []slot, to uint32) {
	to = sh.rangeEnd(from, n)
	return sh.current().appendRange(dst, from, to), to
}

// endsBatch reports whether a batch over slots, sorted and so in the order of their tags, ends before
// the one at i, because ids of so many bytes have been read in this hold of contentMu. The next batch begins with
// that slot's tag, so a batch does not end between two slots of one tag, which are seldom more than
// two.
func endsBatch(slots []slot, i, bytes int) bool {
	return bytes >= maxLockedCopy && slots[i].tag() != slots[i-1].tag()
}

// step yields one memory if it is still there. A store that may fault yields a copy, since a fault
// in the body of the loop could not be made an error.
func (s *Store) step(id string, b *idBatch, yield func(string, []byte) bool) (more bool) {
	var err error
	if !s.mayFault() {
		err = s.view(id, false, func(content []byte) error {
			more = yield(id, content)
			return nil
		})
	} else if b.copy, err = s.appendContent(b.copy[:0], new(match), id, false); err == nil {
		more = yield(id, b.copy[:len(b.copy):len(b.copy)])
	}
	switch {
	case err == nil:
		return more
	case errors.Is(err, ErrNotFound):
		return true // gone since its id was copied
	case errors.Is(err, ErrClosed):
		return false
	}
	s.opts.Logger.Error("damaged record left out of an iteration", "error", err)
	return true
}
