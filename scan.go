package warmtier

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// scan makes the index from the records: each goroutine takes one segment after the other and
// verifies all of it. Tombstones are in the index until dropTombstones, so that they win over older
// records whichever is read first.
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
			for shardIndex := range batches {
				if err := r.putBatch(&batches, shardIndex); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// missingRecords returns how many records at least were acknowledged and are in no file. Sequence numbers are
// drawn one by one, and each of those above the manifest's is in a file that counts: no segment leaves without a
// later manifest. So after a kill all of them are there, up to the highest one that is, but for those of
// records that were not finished, which have left their digests.
func (r *recovery) missingRecords() int {
	if !r.cacheKept {
		return 0
	}
	drawn := int(r.maxSeq - r.manifest.MaxSeq) // negative after a Close, if a repair cannot read all
	return max(0, drawn-r.newer-r.unfinished)
}

// scanSegment reads the records of one segment into batches, and so into the index.
func (r *recovery) scanSegment(ctx context.Context, f *foundSegment, batches *shardBatches) error {
	seg := f.seg
	var tombstones []slotPlace
	torn, newer, contained := false, 0, 0 // contained: what begins before is in a container
	for offset := layout.HeaderSize; !f.ended(offset); {
		if seg.records.Load()%1024 == 0 && ctx.Err() != nil {
			return nil // another segment has failed
		}
		rec := seg.mem[offset:f.end()]
		h, digest, intact := seg.read(offset, rec)
		if !intact {
			if record.Unknown(rec, seg.seedAt(offset)) {
				return fmt.Errorf("%w: %s at offset %d: record of a kind or with flags that this version does not know",
					ErrVersion, seg.name(), offset)
			}
			if offset >= contained && r.mayEndAt(f, offset) {
				r.cutTail(f, offset)
				torn = true
				break
			}
			if r.salvage == nil {
				return &CorruptError{File: seg.name(), Offset: int64(offset), Reason: f.damage(offset)}
			}
			if h.Kind() == record.KindContainer {
				contained = offset + h.Size()
			}
			next, ok := r.salvage.resync(f, offset)
			if torn = !ok; torn {
				break
			}
			seg.tail.Store(int64(next))
			offset = next
			continue
		}
		r.checkDigest(f, offset, digest)
		seg.addRecords(1, h.Next())
		seg.noteSeq(h.Seq)
		if h.Seq > r.manifest.MaxSeq {
			newer++
		}
		if h.Kind() == record.KindContainer {
			contained = offset + h.Size()
			offset += h.Next()
			continue
		}
		place, err := r.add(batches, seg, offset, record.ID(rec, h), h)
		if err != nil {
			return err
		}
		if h.Kind() == record.KindTombstone {
			seg.addTombstone(offset, h.Size())
			tombstones = append(tombstones, place)
		}
		offset += h.Size()
	}
	seg.seal(seg.isMergeable())
	if r.salvage != nil {
		r.salvage.checkEnd(f, torn)
	} else if e := seg.extent(); e.tail < int64(f.listed.End) {
		return &CorruptError{File: seg.name(), Offset: e.tail, Reason: fmt.Sprintf("%d records end here, and the manifest "+
			"has %d up to %d: the file is older than the manifest", e.records, f.listed.Records, f.listed.End)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tombstones = append(r.tombstones, tombstones...)
	r.maxSeq = max(r.maxSeq, seg.maxSeq)
	r.records += int(seg.records.Load())
	r.newer += newer
	r.unfinished += f.unfinished()
	return nil
}

// damage says what is wrong at offset, where no record is.
func (f *foundSegment) damage(offset int) string {
	if offset < int(f.listed.End) && layout.IsZero(f.seg.mem[offset:offset+record.HeaderSize]) {
		return fmt.Sprintf("nothing here, and the manifest has %d records up to %d", f.listed.Records, f.listed.End)
	}
	return "damaged record"
}

// checkDigest compares the id of the next record with its digest. A power loss may have kept the
// record and not the digest: then the digest is written again. Otherwise the segment is damaged,
// though its records are not.
func (r *recovery) checkDigest(f *foundSegment, offset int, digest uint32) {
	n := int(f.seg.records.Load())
	switch {
	case f.lost.digests || f.seg.digestOf(n) == digest:
	case offset >= int(f.state.Synced):
		f.redigest = append(f.redigest, missingDigest{n: n, digest: digest})
	default:
		f.damaged, f.wrongDigests = true, true
	}
}

// end returns the offset at which records end at the latest.
func (f *foundSegment) end() int {
	switch {
	case f.state.Sealed:
		return min(int(f.state.Synced), len(f.seg.mem))
	case f.lost.digests:
		return len(f.seg.mem)
	}
	return layout.DigestAt(len(f.seg.mem), int(f.seg.records.Load()))
}

// ended reports whether no record can begin at offset.
func (f *foundSegment) ended(offset int) bool {
	if f.seg.large && offset > layout.HeaderSize {
		return true // it was made for one record
	}
	if f.state.Sealed {
		return offset >= f.end()
	}
	return offset+record.HeaderSize > f.end()
}

// mayEndAt reports whether the records of f may end at offset, where there is none, because the
// process was killed or the power went before one was finished. If not, something is damaged. REQUIRES: f has not
// ended at offset.
func (r *recovery) mayEndAt(f *foundSegment, offset int) bool {
	mem := f.seg.mem
	if f.lost.state || offset < f.floor() { // in a sealed one it always is
		return false
	}
	return !r.cacheKept || layout.IsZero(mem[offset:offset+4]) && !f.hasRecordAfter(offset)
}

// hasRecordAfter reports whether a record was begun after the one at offset: the digest of a record
// is written before it. The digests after that of a container are first those of the records in it.
func (f *foundSegment) hasRecordAfter(offset int) bool {
	n := int(f.seg.records.Load())
	at := layout.DigestAt(len(f.seg.mem), n+1+layout.Contained(f.seg.digestOf(n)))
	return !f.lost.digests && at >= offset+record.HeaderSize && !layout.IsZero(f.seg.mem[at:at+layout.DigestSize])
}

// unfinished returns how many records were begun after the last one of f, which was read: one, or a container and
// those in it.
func (f *foundSegment) unfinished() int {
	digest := f.seg.digestOf(int(f.seg.records.Load()))
	if digest == 0 {
		return 0
	}
	return 1 + layout.Contained(digest)
}

// cutTail counts what is cut off f from offset on, unless no record was begun there.
func (r *recovery) cutTail(f *foundSegment, offset int) {
	if layout.IsZero(f.seg.mem[offset : offset+record.HeaderSize]) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tornBytes += int64(f.end() - offset)
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

	deadline int64
}

// shardBatches are the records that one goroutine has collected, by shard.
type shardBatches [shardCount][]scanned

// add puts the record at offset into b, and returns where its slot will be if it is the newest of
// its id.
func (r *recovery) add(b *shardBatches, seg *segment, offset int, id []byte, h record.Header) (slotPlace, error) {
	s := r.s
	shardIndex, tag := splitHash(s.hashBytes(id))
	sc := scanned{w: makeSlot(tag, s.locate(seg, offset)), seg: seg, seq: h.Seq}
	if h.Kind() == record.KindMemory {
		sc.size = uint32(h.Size())
		sc.deadline = deadlineOf(seg.mem[offset:], h)
	}
	b[shardIndex] = append(b[shardIndex], sc)
	place := slotPlace{sh: &s.shards[shardIndex], w: sc.w}
	if len(b[shardIndex]) < scanBatch {
		return place, nil
	}
	return place, r.putBatch(b, shardIndex)
}

// putBatch puts the records that b has for a shard into the index.
func (r *recovery) putBatch(b *shardBatches, shardIndex int) error {
	s, sh := r.s, &r.s.shards[shardIndex]
	batch := b[shardIndex]
	b[shardIndex] = batch[:0]
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

// putScanned puts a record into the index, unless a newer one of its id is there. REQUIRES: sh.mu held.
func (s *Store) putScanned(sh *shard, sc scanned) {
	pos, old := sh.current().first(sc.w.tag())
	for ; old != 0; pos, old = sh.current().following(pos, sc.w.tag()) {
		oldSeg, oldHeader, same := s.sameID(old, sc.w)
		if !same {
			continue
		}
		if oldHeader.Seq > sc.seq || oldHeader.Seq == sc.seq && !sc.replaces(old, oldHeader) {
			return
		}
		_, at := s.resolve(old.location())
		countDead(sh, oldSeg, at, oldHeader)
		break
	}
	if old == 0 {
		sh.memories.Add(1)
	}
	sh.setLocked(pos, sc.w)
	if sc.deadline != 0 {
		sc.seg.deadlines.add(&s.clock, sc.deadline, int(sc.size))
	}
	sc.seg.live.Add(int64(sc.size))
	sh.liveBytes.Add(int64(sc.size))
}

// replaces reports whether sc counts rather than the record of the same sequence number at old. A
// tombstone does: the memory was dropped. Of two copies of one version the one at the lower location does,
// whichever came first, so that recovery always ends the same.
func (sc *scanned) replaces(old slot, oldHeader record.Header) bool {
	if tombstone := sc.size == 0; tombstone != (oldHeader.Kind() == record.KindTombstone) {
		return tombstone
	}
	return sc.w.location() < old.location()
}

// sameID reports whether two records, which are known to be intact, have one id. It returns the
// segment and the header of the first.
func (s *Store) sameID(a, b slot) (seg *segment, h record.Header, same bool) {
	seg, offset := s.resolve(a.location())
	other, at := s.resolve(b.location())
	h, _ = record.Decode(seg.mem[offset:])
	oh, _ := record.Decode(other.mem[at:])
	return seg, h, string(record.ID(seg.mem[offset:], h)) == string(record.ID(other.mem[at:], oh))
}

// countDead takes the bytes of the record at offset off the live ones. Those of a tombstone never were.
func countDead(sh *shard, seg *segment, offset int, h record.Header) {
	if h.Kind() == record.KindMemory {
		seg.deadlines.remove(deadlineOf(seg.mem[offset:], h), h.Size())
		seg.live.Add(-int64(h.Size()))
		sh.liveBytes.Add(-int64(h.Size()))
	}
}

// dropTombstones takes the slots of deleted memories out of the index.
func (r *recovery) dropTombstones() {
	for _, p := range r.tombstones {
		if pos, ok := p.sh.current().find(p.w); ok {
			p.sh.removeLocked(pos)
			p.sh.memories.Add(-1)
		}
	}
}
