package warmtier

import (
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// container is where the records of a batch go: a container in a directory, and in memory its records alone. It is no
// part of the segment before it is finished.
type container struct {
	seg     *segment
	offset  int // where it begins: seg's tail
	end     int
	records int // in it
	wrapped bool
}

// place gives each write of a that leaves a record its place. A deletion of what is not there leaves none, unless
// that is not known yet (all).
func (c *container) place(a *application, directory, all bool) {
	c.end, c.records, c.wrapped = c.offset, 0, directory
	if directory {
		c.end += record.HeaderSize
	}
	for i := range a.writes {
		w := &a.writes[i]
		w.offset = 0
		if w.kind == record.KindMemory || directory && (w.exists || all) {
			w.offset = c.end
			c.end += w.size
			c.records++
		}
	}
	if c.records == 0 {
		c.end = c.offset
	}
}

// putBodies writes the bodies of the records.
func (c *container) putBodies(a *application) {
	for i := range a.writes {
		if w := &a.writes[i]; w.offset > 0 {
			record.PutBody(c.seg.mem[w.offset:w.offset+w.size], w.id, w.deadline, w.content)
		}
	}
}

// clearUnfinished clears, in a file, a container that an error or a fault kept from being finished (see
// writing.clearUnfinished), and its digests: those after the first would show records that were begun after the next.
func (c *container) clearUnfinished() {
	if c.seg.file == nil || c.seg.tail.Load() != int64(c.offset) {
		return
	}
	for _, part := range usedPages(c.seg.mem[c.offset:c.end], c.offset) {
		clear(part)
	}
	if c.records > 0 {
		n, size := int(c.seg.records.Load()), len(c.seg.mem)
		clear(c.seg.mem[layout.DigestAt(size, n+c.records) : layout.DigestAt(size, n)+layout.DigestSize])
	}
}

// finishContainer makes the bodies in c records, and then a container, and moves the tail. REQUIRES: the locks of a's
// lanes held, contentMu read-held.
func (s *Store) finishContainer(c *container, a *application) {
	_ = s.hooks.fire(pointPutBody)
	seg := c.seg
	if c.records == 0 {
		return
	}
	drawn := c.records
	if c.wrapped {
		headers := c.seg.mem[c.offset:][:2*record.HeaderSize]
		headers[0], headers[len(headers)-1] = 0, 0 // as writing.touchHeader, with that of the first record
		c.putDigests(a)
		drawn++
	}
	_ = s.hooks.fire(pointApplyDigests)
	seq := s.sequence.Add(uint64(drawn)) - uint64(drawn) + 1
	first := seq
	seg.noteSeq(seq)
	if c.wrapped {
		seq++
	}
	for i := range a.writes {
		if w := &a.writes[i]; w.offset > 0 {
			w.putHeader(seg, seq)
			seg.noteSeq(seq)
			seq++
		}
	}
	if c.wrapped {
		rec := seg.mem[c.offset:c.end]
		records := rec[record.HeaderSize:]
		h := record.NewHeader(record.KindContainer, 0, len(records), record.ContainerSum(records))
		h.Seq = first
		_ = s.hooks.fire(pointApplyHeaders)
		record.PutHeader(rec, h, seg.seedAt(c.offset))
	}
	seg.addRecords(drawn, c.end-c.offset)
	for i := range a.writes {
		switch w := &a.writes[i]; {
		case w.offset == 0:
		case w.kind == record.KindTombstone:
			seg.addTombstone(w.offset, w.size)
		case w.deadline != 0:
			seg.deadlines.add(&s.clock, w.deadline, w.size)
		}
	}
	_ = s.hooks.fire(pointPutAppended)
}

// putDigests writes the digest of the container, and those of its records.
func (c *container) putDigests(a *application) {
	n := int(c.seg.records.Load())
	c.seg.putDigest(n, uint32(c.records))
	for i := range a.writes {
		if w := &a.writes[i]; w.offset > 0 {
			n++
			id := c.seg.mem[w.offset+record.HeaderSize:][:len(w.id)]
			c.seg.putDigest(n, layout.Digest(id))
		}
	}
}

// putHeader makes the body of w in seg a record.
func (w *appliedWrite) putHeader(seg *segment, seq uint64) {
	h := record.NewHeader(w.kind, len(w.id), len(w.content), w.sum)
	h.Seq = seq
	if w.deadline != 0 {
		h = h.WithDeadline()
	}
	record.PutHeader(seg.mem[w.offset:], h, seg.seedAt(w.offset))
}
