package warmtier

import (
	"fmt"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// copyChunk copies the records of ch, then verifies the copies. All are copied first: a checksum
// right after each copy would wait for the lines just written, and that takes as long as the
// copying.
func (r *round) copyChunk(ch *chunk, staged *moves) error {
	if len(ch.headers) == 0 {
		return nil
	}
	seg := ch.v.seg
	copies, written := r.placeOfCopies(ch)
	offset := 0
	for i, h := range ch.headers {
		if next := i + 1; next < len(ch.headers) {
			from := int(ch.live[next]) * record.Align
			cpu.Prefetch(seg.mem[from : from+min(ch.headers[next].Size(), prefetchLimit)])
		}
		from := int(ch.live[i]) * record.Align
		copy(copies[offset:offset+h.Size()], seg.mem[from:])
		offset += h.Size()
	}
	offset = 0
	for i, h := range ch.headers {
		if err := r.adoptCopy(ch, i, ch.offset+offset, copies[offset:offset+h.Size()], staged); err != nil {
			return err
		}
		offset += h.Size()
	}
	if !written {
		return nil
	}
	if err := ch.target.writeAt(ch.offset, copies, nil); err != nil {
		return err
	}
	return ch.target.beginSync(ch.offset, ch.offset+ch.size)
}

// syncPart is how many bytes of a target are filled before the system is asked to write them.
const syncPart = 1 << 20

// beginSync has the system begin to write what lies before to, when the copies from from on have filled another part
// of a target. Otherwise the disk would be idle during a build, and the build of the next round wait for it. Another
// worker may not have written all of that part yet: the flush of the target makes up for it.
func (seg *segment) beginSync(from, to int) error {
	end := to - to%syncPart
	if from >= end {
		return nil
	}
	if err := seg.file.BeginSync(end-syncPart, end); err != nil {
		return fmt.Errorf("warmtier: cannot write %s: %w", seg.name(), noSpace(err))
	}
	return nil
}

// placeOfCopies returns where the records of ch are copied to: their place in the target, or memory of ch that is
// written to it when they are verified. A record that is larger than a chunk is stored: it would need as much memory.
func (r *round) placeOfCopies(ch *chunk) (copies []byte, written bool) {
	if file := ch.target.file; file == nil || !file.Writes() || ch.size > chunkSize {
		return ch.target.mem[ch.offset : ch.offset+ch.size], false
	}
	if ch.buf == nil {
		ch.buf = make([]byte, chunkSize)
	}
	return ch.buf[:ch.size], true
}

// adoptCopy verifies rec, the copy of record i of ch for offset in the target, gives it the checksum of
// its new place, and stages the move of its slot.
func (r *round) adoptCopy(ch *chunk, i, offset int, rec []byte, staged *moves) error {
	s, seg, target, h := r.c.s, ch.v.seg, ch.target, ch.headers[i]
	from := int(ch.live[i]) * record.Align
	if h.Kind() != record.KindMemory || !record.Intact(rec, h, seg.seedAt(from)) {
		return ch.v.damaged(from, "checksum mismatch")
	}
	record.Reseed(rec, h, target.seedAt(offset))
	if h.Flags() != 0 {
		target.deadlines.add(&s.clock, record.Deadline(rec, h), h.Size())
	}
	if target.file != nil {
		target.putDigest(ch.record+i, layout.Digest(record.ID(rec, h)))
	}
	shardIndex, tag := splitHash(s.hashBytes(record.ID(rec, h)))
	staged.add(move{
		from:  makeSlot(tag, s.locate(seg, from)),
		to:    makeSlot(tag, s.locate(target, offset)),
		size:  uint32(h.Size()),
		shard: uint8(shardIndex),
	})
	return nil
}
