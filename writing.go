package warmtier

import (
	"cmp"
	"fmt"
	"iter"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Records are written to a file in one of two ways: with stores into its mapping, or with system calls (pwrite) that put
them into the same pages of the page cache. The first touch of a page by a store costs a fault, in which the kernel
fills the page with zeros that are overwritten at once, and after each flush one more; a system call costs as
much as one or two faults, however many pages it writes. So contents of writtenSize and more, and what a compaction
copies, are written with system calls, in files of which dir.File says that they take them. docs/design.md, section 15,
"Two ways into the page cache", says why the two may be mixed.

A header is always stored: behind a call it costs a fault, as much as a call of its own, and nothing can be left of it
but what a store leaves. So is a digest. It lies near the end of the file: in a file that somebody else has cut short
the store is a fault, where a system call would make the file longer again and hide that.
*/

// writing is a record being written at the tail of a segment. It is no part of the segment before
// it is finished: readers look below the tail only.
type writing struct {
	seg    *segment
	offset int    // where the record goes: seg's tail
	rec    []byte // its place there
	prefix []byte // a copy of header, id and deadline, when system calls write the record; else nil
}

// beginLocked finds d a place in the active segment of ln; ok is false when there is none. The
// caller defers clearUnfinished, writes the body, and then calls finishLocked. REQUIRES: ln.mu
// held, contentMu read-held.
func (ln *lane) beginLocked(d *draft) (w writing, ok bool) {
	if !ln.hasRoomLocked(d) {
		return writing{}, false
	}
	seg := ln.active
	tail := int(seg.tail.Load())
	return writing{seg: seg, offset: tail, rec: seg.mem[tail : tail+d.size]}, true
}

// clearUnfinished clears, in a file, a record that an error or a fault kept from being finished:
// its body would lie where the header of a later record goes, and recovery would take it for one
// that was begun.
//
// It goes page by page, and leaves alone those that nothing was written to: there may be no space for them, and a store
// would be a fault. What a call has written a call clears: on a file system that copies on writing, and is full, a
// store to it may be a fault too.
func (w *writing) clearUnfinished() {
	if w.seg.file == nil || w.seg.tail.Load() != int64(w.offset) {
		return
	}
	var zeros []byte
	for at, part := range usedPages(w.rec, w.offset) {
		if w.prefix != nil && zeros == nil {
			zeros = make([]byte, vm.PageSize)
		}
		if w.prefix == nil || w.seg.file.WriteAt(w.offset+at, zeros[:len(part)], nil) != nil {
			clear(part)
		}
	}
}

// finishLocked writes the header, which makes the body in w a record, and moves the tail.
// REQUIRES: as beginLocked.
//
// A number that was drawn has a record, or Open would miss it (missingRecords). So the digest comes before the
// draw: it may fault, and it shows after a kill that a record was begun.
func (s *Store) finishLocked(w *writing, d *draft) {
	_ = s.hooks.fire(pointPutBody)
	seg := w.seg
	h := record.NewHeader(d.kind, len(d.id), len(d.content), d.sum)
	prefix := w.rec
	if w.prefix != nil {
		prefix = w.prefix
	}
	if seg.file != nil {
		w.touchHeader()
		seg.putDigest(int(seg.records.Load()), layout.Digest(record.ID(prefix, h)))
	}
	if d.deadline != 0 {
		h = h.WithDeadline()
		seg.deadlines.add(&s.clock, d.deadline, d.size)
	}
	h.Seq = s.sequence.Add(1)
	_ = s.hooks.fire(pointPutDrawn)
	seg.noteSeq(h.Seq)
	if d.condition.asked {
		d.condition.found = Version(h.Seq)
	}
	record.PutHeader(prefix, h, seg.seedAt(w.offset))
	if w.prefix != nil {
		const sum = 4 // bytes of the checksum, which comes last
		copy(w.rec[sum:], prefix[sum:record.HeaderSize])
		copy(w.rec, prefix[:sum])
	}
	seg.addRecords(1, d.size)
	next := w.offset + d.size
	cpu.Prefetch(seg.mem[next:min(next+min(d.size, prefetchLimit), len(seg.mem))])
}

// writtenSize is from how many bytes of content on a record is written with system calls. Measured: see
// docs/performance.md, "Figures of the second round".
const writtenSize = 8 << 10

// isWritten reports whether a record with so many bytes of content is written with system calls, where these may be.
func (s *Store) isWritten(content int) bool { return content >= cmp.Or(s.hooks.written, writtenSize) }

// writeAt writes first, and then behind it, at offset of seg. REQUIRES: its file takes writes.
func (seg *segment) writeAt(offset int, first, then []byte) error {
	if err := seg.file.WriteAt(offset, first, then); err != nil {
		return fmt.Errorf("warmtier: cannot write to %s: %w", seg.name(), noSpace(err))
	}
	return nil
}

// putBody writes the body of d to its place. REQUIRES: as beginLocked, or nobody else knows the segment yet.
func (s *Store) putBody(w *writing, d *draft) error {
	if file := w.seg.file; file == nil || !file.Writes() || !s.isWritten(len(d.content)) {
		record.PutBody(w.rec, d.id, d.deadline, d.content)
		return nil
	}
	prefix := make([]byte, record.Size(len(d.id), 0)+record.DeadlineSize)
	record.PutBody(prefix, d.id, d.deadline, nil)
	n := record.HeaderSize + len(d.id)
	if d.deadline != 0 {
		n += record.DeadlineSize
	}
	w.prefix = prefix[:n]
	// The padding is left as it is: what lies beyond the tail is zero.
	return w.seg.writeAt(w.offset+record.HeaderSize, w.prefix[record.HeaderSize:], d.content)
}

// touchHeader makes the pages writable that the header goes to. They may be others than those of the body, and that one
// may have come by a call: what cannot be had is a fault before a number is drawn.
func (w *writing) touchHeader() {
	w.rec[0], w.rec[record.HeaderSize-1] = 0, 0
}

// usedPages yields the parts of mem, which lies at offset in a segment, that are not all zero, page by page, each with
// its place in mem.
func usedPages(mem []byte, offset int) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for at := 0; at < len(mem); {
			n := min(vm.PageSize-(offset+at)%vm.PageSize, len(mem)-at)
			if part := mem[at : at+n]; !layout.IsZero(part) && !yield(at, part) {
				return
			}
			at += n
		}
	}
}
