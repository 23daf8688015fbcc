package warmtier

import (
	"math"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Resynchronization: how a repair reads on after a damaged record. Records lie back to back, so
without its length the next one has to be searched for, at every place where one may begin. A record
is valid in one place only, so whatever is valid there is one. The digests say whose records were
lost in between, and sequence numbers bound how new those were: in a segment of a lane they are
below that of the next record.
*/

// lostRecord is a damaged record that a repair goes on without.
type lostRecord struct {
	digest uint32 // of its id
	bound  uint64 // its sequence number is not above this
}

func (v *salvage) lose(l lostRecord) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = append(v.lost, l)
}

// resync notes what is lost with the damaged record at offset, and returns where to read on; ok is
// false when nothing after it is intact.
func (v *salvage) resync(f *foundSegment, offset int) (next int, ok bool) {
	f.damaged = true
	seg := f.seg
	rec := seg.mem[offset:f.end()]
	if h, ok := record.Decode(rec); ok && record.IntactPrefix(rec, h, seg.seedAt(offset)) {
		if h.Kind() == record.KindContainer { // something in it is damaged
			seg.records.Add(1)
			seg.noteSeq(h.Seq)
			return offset + h.Next(), true
		}
		v.missAt(f, offset, h.Size(), 1)
		v.loseContent(seg, rec, h)
		return offset + h.Size(), true
	}
	next = f.nextIntact(offset)
	if f.lost.digests {
		v.missAt(f, offset, f.lostUntil(next)-offset, 0)
		v.loseIn(f, offset, "damaged record in a file cut short")
		return next, !f.ended(next)
	}
	first := int(seg.records.Load())
	if f.ended(next) {
		v.loseRest(f, first, offset)
		return 0, false
	}
	lowest, highest := f.numberOf(first+1, next)
	bound := f.state.MaxSeq
	switch {
	case seg.kind != layout.KindLane && !f.state.Sealed:
		bound = math.MaxUint64 // a lane resumed a target: its records are newer than the state
	case seg.kind == layout.KindLane:
		h, _ := record.Decode(seg.mem[next:f.end()])
		bound = h.Seq - 1
	}
	v.loseNumbers(f, first, highest, bound)
	v.missAt(f, offset, next-offset, lowest-first)
	seg.records.Store(int64(lowest))
	return next, true
}

// loseContent notes the loss of a record whose prefix is intact. A copy of it has the same sequence
// number, and may be intact.
func (v *salvage) loseContent(seg *segment, rec []byte, h record.Header) {
	seg.records.Add(1)
	seg.noteSeq(h.Seq)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost = append(v.lost, lostRecord{digest: layout.Digest(record.ID(rec, h)), bound: h.Seq - 1})
	v.lostIDs = append(v.lostIDs, string(record.ID(rec, h)))
}

// loseRest notes the loss of every record of f from number first on, at offset.
func (v *salvage) loseRest(f *foundSegment, first, offset int) {
	bound := f.state.MaxSeq
	if !f.state.Sealed {
		bound = math.MaxUint64 // the state does not know the last ones
	}
	number := f.seg.lastNumber(first, f.state)
	v.loseNumbers(f, first, number, bound)
	v.missAt(f, offset, f.lostUntil(f.end())-offset, number-first)
	f.seg.records.Store(int64(number))
}

// lostUntil returns where lost records end at the latest, before the offset next: where f has ended, there are zeros
// before that, but for what was in a part of the file that is not there.
func (f *foundSegment) lostUntil(next int) int {
	if !f.ended(next) {
		return next
	}
	if f.lost.digests {
		return max(next, f.capacity)
	}
	end := f.end()
	for end > layout.HeaderSize && f.seg.mem[end-1] == 0 {
		end--
	}
	return end
}

// loseNumbers notes the loss of records from to to, the last one excluded. Too many do no harm,
// since bound is below the sequence numbers of those that may not be lost.
func (v *salvage) loseNumbers(f *foundSegment, from, to int, bound uint64) {
	for n := from; n < to; n++ {
		digest := f.seg.digestOf(n)
		if layout.Contained(digest) > 0 {
			continue // a container: nobody's record
		}
		if digest == 0 { // no record has that
			f.wrongDigests = true
		}
		v.lose(lostRecord{digest: digest, bound: bound})
	}
}

// nextIntact returns the offset of the first intact record after offset, or one at which f has
// ended.
func (f *foundSegment) nextIntact(offset int) int {
	for offset += record.Align; !f.ended(offset); offset += record.Align {
		rec := f.seg.mem[offset:f.end()]
		if _, _, intact := f.seg.read(offset, rec); intact {
			break
		}
	}
	return offset
}

// numberOf returns the lowest and the highest number, at least from, that the intact record at
// offset can have: the digests from that number on are those of this record and of all that follow
// it, up to the next damage. The two differ where the same ids were written again and again; not at
// the end of the records, where the last digests are.
func (f *foundSegment) numberOf(from, offset int) (lowest, highest int) {
	seg := f.seg
	var digests []uint32
	for !f.ended(offset) {
		rec := seg.mem[offset:f.end()]
		h, digest, intact := seg.read(offset, rec)
		if !intact {
			break
		}
		digests = append(digests, digest)
		offset += h.Next()
	}
	lowest = -1
	for n := from; n+len(digests) <= seg.maxRecords() && seg.digestOf(n) != 0; n++ {
		same := 0
		for same < len(digests) && seg.digestOf(n+same) == digests[same] {
			same++
		}
		if same == len(digests) {
			highest = n
			if lowest < 0 {
				lowest = n
			}
		}
	}
	switch {
	case lowest < 0: // digests are damaged too
		return from, from
	case f.ended(offset) || layout.IsZero(seg.mem[offset:offset+4]):
		return highest, highest
	}
	return lowest, highest
}

// lastNumber returns how many records seg has, when none can be read from number first on.
func (seg *segment) lastNumber(first int, st layout.State) int {
	n := max(first, int(st.Records))
	for !st.Sealed && n < seg.maxRecords() && seg.digestOf(n) != 0 {
		n++
	}
	return n
}

// maxRecords returns how many records fit into seg at most.
func (seg *segment) maxRecords() int { return maxRecords(len(seg.mem)) }

// maxRecords returns how many records fit into a segment of size bytes at most.
func maxRecords(size int) int {
	return (size - layout.HeaderSize) / (record.HeaderSize + layout.DigestSize) // as if all were containers
}
