package warmtier

import (
	"context"
	"math"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// lostRecord is a damaged record that a repair goes on without.
type lostRecord struct {
	digest uint32 // of its id
	bound  uint64 // it has no higher sequence number
}

// scan reads the segments in parallel.
func (r *recovery) scan() error {
	expected := 0
	for _, f := range r.found {
		expected += int(f.state.Records)
	}
	r.perShard = expected / shardCount
	var next atomic.Int32
	g, ctx := errgroup.WithContext(context.Background())
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			var batches shardBatches
			for i := int(next.Add(1)) - 1; i < len(r.found); i = int(next.Add(1)) - 1 {
				if err := r.scanSegment(ctx, r.found[i], &batches); err != nil {
					return err
				}
			}
			for number := range batches {
				if err := r.putBatch(&batches, number); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// scanSegment reads the records of one segment into batches, and so into the index.
func (r *recovery) scanSegment(ctx context.Context, f *recovered, batches *shardBatches) error {
	seg := f.seg
	var tombstones []slotPlace
	torn := false
	for offset := layout.HeaderSize; !f.ended(offset); {
		if seg.records.Load()%1024 == 0 && ctx.Err() != nil {
			return nil // another segment has failed
		}
		rec := seg.mem[offset:f.end()]
		h, ok := record.Decode(rec)
		if !ok || !record.Intact(rec, h, seg.seedAt(offset)) {
			next, err := r.damage(f, offset)
			if err != nil {
				return err
			}
			if torn = next < 0; torn {
				break
			}
			seg.tail.Store(int64(next))
			offset = next
			continue
		}
		r.checkDigest(f, offset, record.ID(rec, h))
		seg.addRecords(1, h.Size())
		seg.noteSeq(h.Seq)
		place, err := r.add(batches, seg, offset, record.ID(rec, h), h)
		if err != nil {
			return err
		}
		if h.Kind == record.KindTombstone {
			seg.addTombstone(offset, h.Size())
			tombstones = append(tombstones, place)
		}
		offset += h.Size()
	}
	seg.seal(!seg.large && int64(seg.room(1)) > r.s.mergeableRoom())
	r.mu.Lock()
	defer r.mu.Unlock()
	known := seg.records.Load()
	cut := f.noDigests && (known < int64(f.state.Records) || !f.state.Sealed && !torn)
	if cut || f.rebuilt && known == 0 {
		r.loseUnidentified(&CorruptError{File: seg.name(), Offset: seg.tail.Load(), Reason: "no record can be read from here on"})
	}
	r.tombstones = append(r.tombstones, tombstones...)
	r.maxSeq = max(r.maxSeq, seg.maxSeq)
	r.records += int(seg.records.Load())
	return nil
}

// checkDigest holds the id of the next record against its digest. A power loss may have kept the one
// and not the other.
func (r *recovery) checkDigest(f *recovered, offset int, id []byte) {
	n := int(f.seg.records.Load())
	switch {
	case f.noDigests || f.seg.digestOf(n) == layout.Digest(id):
	case !f.state.Sealed && offset >= int(f.state.Synced) && !r.s.opts.ReadOnly:
		f.redigest = append(f.redigest, missingDigest{n: n, id: id})
	default:
		f.damaged = true
	}
}

// end is where records end at the latest.
func (f *recovered) end() int {
	switch {
	case f.state.Sealed:
		return min(int(f.state.Synced), len(f.seg.mem))
	case f.noDigests:
		return len(f.seg.mem)
	}
	return layout.DigestAt(len(f.seg.mem), int(f.seg.records.Load()))
}

func (f *recovered) ended(offset int) bool {
	if f.state.Sealed {
		return offset >= f.end()
	}
	return offset+record.HeaderSize > f.end()
}

// damage decides what it means that there is no record at offset: the end of the segment (next is
// negative), an error, or with Repair the offset to go on at.
func (r *recovery) damage(f *recovered, offset int) (next int, err error) {
	mem := f.seg.mem
	unsynced := !f.state.Sealed && !f.rebuilt && offset >= int(f.state.Synced)
	if unsynced && offset+record.HeaderSize <= len(mem) &&
		(!r.powered || layout.IsZero(mem[offset:offset+4]) && !f.goesOn(offset)) {
		if !layout.IsZero(mem[offset : offset+record.HeaderSize]) {
			r.mu.Lock()
			r.torn += int64(f.end() - offset)
			r.mu.Unlock()
		}
		return -1, nil
	}
	if !r.s.opts.Repair {
		return 0, &CorruptError{File: f.seg.name(), Offset: int64(offset), Reason: "damaged record"}
	}
	f.damaged = true
	return r.resync(f, offset), nil
}

// goesOn reports whether a record was written behind the one at offset: its digest came first.
func (f *recovered) goesOn(offset int) bool {
	at := layout.DigestAt(len(f.seg.mem), int(f.seg.records.Load())+1)
	return !f.noDigests && at >= offset+record.HeaderSize && !layout.IsZero(f.seg.mem[at:at+layout.DigestSize])
}

// resync finds the next record behind the damaged one at offset, and remembers what was lost. next is
// negative when nothing behind it is intact.
func (r *recovery) resync(f *recovered, offset int) (next int) {
	seg := f.seg
	first := int(seg.records.Load())
	rec := seg.mem[offset:f.end()]
	if h, ok := record.Decode(rec); ok && record.IntactPrefix(rec, h, seg.seedAt(offset)) { // only the content
		seg.records.Add(1)
		seg.noteSeq(h.Seq)
		// A copy with the same number is the same version, and may be intact.
		r.lose(lostRecord{digest: layout.Digest(record.ID(rec, h)), bound: h.Seq - 1})
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lostIDs = append(r.lostIDs, string(record.ID(rec, h)))
		return offset + h.Size()
	}
	number, lostTo, bound := -1, -1, f.state.MaxSeq
	for next = offset + record.Align; !f.ended(next); next += record.Align {
		rec := seg.mem[next:f.end()]
		h, ok := record.Decode(rec)
		if !ok || !record.Intact(rec, h, seg.seedAt(next)) {
			continue
		}
		if !f.noDigests {
			number, lostTo = f.numberOf(first+1, next)
		}
		if seg.kind == layout.KindLane {
			bound = h.Seq - 1
		}
		break
	}
	if f.noDigests {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.loseUnidentified(&CorruptError{File: seg.name(), Offset: int64(offset), Reason: "damaged record in a file cut short"})
		if f.ended(next) {
			return -1
		}
		return next
	}
	if number < 0 { // nothing intact behind it
		next = -1
		number = seg.lastNumber(first, f.state)
		lostTo = number
		if !f.state.Sealed {
			bound = math.MaxUint64 // beyond what the state knows
		}
	}
	for n := first; n < lostTo; n++ { // too many do no harm: bound is below what they may be
		r.lose(lostRecord{digest: seg.digestOf(n), bound: bound})
	}
	seg.records.Store(int64(number))
	return next
}

func (r *recovery) lose(l lostRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, l)
}

// scanBatch is how many records of one shard a scan collects before it takes the shard's locks: its
// table is in the processor's cache for all but the first of them.
const scanBatch = 64

// scanned is a record on its way into the index.
type scanned struct {
	w    slot
	seg  *segment
	seq  uint64
	size uint32 // 0 for a tombstone: it makes nothing live
}

// shardBatches are the records that one goroutine has collected.
type shardBatches [shardCount][]scanned

// add collects the record at offset, and says where its slot will be if it is the newest of its id.
func (r *recovery) add(b *shardBatches, seg *segment, offset int, id []byte, h record.Header) (slotPlace, error) {
	s := r.s
	number, tag := splitHash(s.hashBytes(id))
	sc := scanned{w: makeSlot(tag, s.locate(seg, offset)), seg: seg, seq: h.Seq}
	if h.Kind == record.KindMemory {
		sc.size = uint32(h.Size())
	}
	b[number] = append(b[number], sc)
	place := slotPlace{sh: &s.shards[number], w: sc.w}
	if len(b[number]) < scanBatch {
		return place, nil
	}
	return place, r.putBatch(b, number)
}

// putBatch puts what b has for a shard into the index.
func (r *recovery) putBatch(b *shardBatches, number int) error {
	s, sh := r.s, &r.s.shards[number]
	batch := b[number]
	b[number] = batch[:0]
	if len(batch) == 0 {
		return nil
	}
	sh.lane.mu.Lock() // the order of locks, and of prepare, is that of a Put
	defer sh.lane.mu.Unlock()
	if err := s.prepare(sh, max(r.perShard, int(sh.memories.Load())+len(batch))); err != nil {
		return err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, sc := range batch {
		s.putScanned(sh, sc)
	}
	return nil
}

// putScanned puts a record into the index, unless a newer one of its id is there. Equal sequence
// numbers are copies: the one at the lower location stays, whichever came first, so that recovery
// always ends the same. REQUIRES: sh.mu held.
func (s *Store) putScanned(sh *shard, sc scanned) {
	pos, old := sh.current().first(sc.w.tag())
	for ; old != 0; pos, old = sh.current().following(pos, sc.w.tag()) {
		oldSeg, oldHeader, same := s.sameID(old, sc.w)
		if !same {
			continue
		}
		if oldHeader.Seq > sc.seq || oldHeader.Seq == sc.seq && old.location() < sc.w.location() {
			return
		}
		countDead(sh, oldSeg, oldHeader)
		break
	}
	if old == 0 {
		sh.memories.Add(1)
	}
	sh.current().set(pos, sc.w)
	sc.seg.live.Add(int64(sc.size))
	sh.liveBytes.Add(int64(sc.size))
}

// sameID compares the ids of two records, which are known to be intact, and returns segment and header
// of the first.
func (s *Store) sameID(a, b slot) (seg *segment, h record.Header, same bool) {
	seg, offset := s.resolve(a.location())
	other, at := s.resolve(b.location())
	h, _ = record.Decode(seg.mem[offset:])
	oh, _ := record.Decode(other.mem[at:])
	return seg, h, string(record.ID(seg.mem[offset:], h)) == string(record.ID(other.mem[at:], oh))
}

// countDead takes the bytes of a memory's record off the live ones.
func countDead(sh *shard, seg *segment, h record.Header) {
	if h.Kind == record.KindMemory {
		seg.live.Add(-int64(h.Size()))
		sh.liveBytes.Add(-int64(h.Size()))
	}
}

// dropTombstones takes the slots of deleted memories out of the index.
func (r *recovery) dropTombstones() {
	for _, p := range r.tombstones {
		if pos, ok := p.sh.current().find(p.w); ok {
			p.sh.current().remove(pos)
			p.sh.memories.Add(-1)
		}
	}
}
