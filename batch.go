package warmtier

import (
	"fmt"
	"time"

	"github.com/warmtier/warmtier/internal/record"
)

// Batch is a list of writes that [Store.Apply] makes all at once, or not at all, and of versions that it asks for
// before. The zero value is an empty one. It belongs to no store, and Apply leaves it as it is: it may be applied
// again, after an ErrChanged for example, and after Reset used for another list.
//
// Of several writes of one id the last one counts. A Batch is for one goroutine at a time.
type Batch struct {
	writes []batchWrite
	checks []batchCheck
	chunk  []byte // copies of contents; its end is free
	err    error  // of the first call that no store takes

	applied application // of the Apply under way; kept for the next one
}

// batchWrite is one Put or Delete.
type batchWrite struct {
	id      string
	content []byte // in a chunk
	sum     uint32 // checksum of content
	kind    byte
	ttl     time.Duration // 0 for none
	until   int64         // deadline, Unix time in ms; 0 for none, or for one that ttl gives
}

// batchCheck is one Check.
type batchCheck struct {
	id      string
	version Version
}

// Put adds a [Store.Put]. The batch keeps a copy of content, until Reset. What is wrong with id or content is an
// error of Apply.
func (b *Batch) Put(id string, content []byte) { b.put(id, content, 0, 0) }

// PutTTL adds a [Store.PutTTL], whose time begins with Apply, and is otherwise as Put. A ttl of 0 or less is an
// error of Apply.
func (b *Batch) PutTTL(id string, content []byte, ttl time.Duration) {
	if ttl <= 0 {
		b.fail("write", len(b.writes), invalidTTL(ttl))
	}
	b.put(id, content, ttl, 0)
}

// PutUntil adds a Put of a memory that expires at the moment at, by the store's clock, as [Store.Expiry] tells
// it; the zero time means never. So a memory can be replaced that keeps its deadline exactly, where a time to live
// that is computed again would move it each time. at is rounded down to whole ms; from Apply on a memory whose moment
// has passed is absent.
func (b *Batch) PutUntil(id string, content []byte, at time.Time) {
	until := int64(0)
	if !at.IsZero() {
		until = max(1, at.UnixMilli())
	}
	b.put(id, content, 0, until)
}

// Delete adds a [Store.Delete]. An id that has no memory is no error.
func (b *Batch) Delete(id string) {
	b.add(batchWrite{id: id, kind: record.KindTombstone, sum: record.Checksum(nil)})
}

// Check makes Apply do nothing and return [ErrChanged] unless the version of id is v; 0 asks for an id without a
// memory. It looks at what is there before the batch, also where the batch writes id.
func (b *Batch) Check(id string, v Version) {
	if err := checkID(id); err != nil {
		b.fail("check", len(b.checks), err)
	}
	b.checks = append(b.checks, batchCheck{id: id, version: v})
}

// Len returns how many writes there are.
func (b *Batch) Len() int { return len(b.writes) }

// Reset empties b, for another list. It keeps memory for as much again.
func (b *Batch) Reset() {
	clear(b.writes) // lets go of ids, and of chunks before the last
	clear(b.checks)
	b.writes, b.checks, b.chunk, b.err = b.writes[:0], b.checks[:0], b.chunk[:0], nil
}

func (b *Batch) put(id string, content []byte, ttl time.Duration, until int64) {
	if len(content) > MaxContentLen {
		b.fail("write", len(b.writes), contentTooLarge(len(content)))
		content = nil
	}
	content = b.keep(content)
	b.add(batchWrite{id: id, content: content, kind: record.KindMemory, sum: record.Checksum(content),
		ttl: ttl, until: until})
}

func (b *Batch) add(w batchWrite) {
	if err := checkID(w.id); err != nil {
		b.fail("write", len(b.writes), err)
	}
	b.writes = append(b.writes, w)
}

// fail makes err, of the n-th write or check, what Apply returns, unless there is an error already.
func (b *Batch) fail(what string, n int, err error) {
	if b.err == nil {
		b.err = fmt.Errorf("warmtier: %s %d of the batch: %w", what, n, inner{err})
	}
}

// keep returns a copy of content.
func (b *Batch) keep(content []byte) []byte {
	const leastChunk, mostChunk = 4 << 10, pieceBytes // bytes
	if cap(b.chunk)-len(b.chunk) < len(content) {
		b.chunk = make([]byte, 0, max(leastChunk, min(2*cap(b.chunk), mostChunk), len(content)))
	}
	from := len(b.chunk)
	b.chunk = append(b.chunk, content...)
	return b.chunk[from:len(b.chunk):len(b.chunk)]
}
