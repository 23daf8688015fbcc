package warmtier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// maxFindings is how many findings a report lists; the others are counted.
const maxFindings = 1000

// Finding is one place where a store is not as it must be.
type Finding struct {
	File    string // as in CorruptError; "index" when the index itself is wrong, "." for the directory
	Offset  int64  // of the record, bytes
	ID      string // of the memory, "" when unknown
	Problem string
}

// VerifyReport is the result of [Store.Verify].
type VerifyReport struct {
	Segments  int
	Records   int   // read in segments, dead ones included
	Memories  int   // found by way of the index
	BytesRead int64 // of records
	// Findings lists what is wrong, at most 1000 of the FindingCount there are.
	Findings     []Finding
	FindingCount int
	// Quiescent is true when no write and no compaction ran during the call. Only then are counts
	// and bytes compared with the index; records and slots are checked one by one in any case.
	Quiescent bool
	Duration  time.Duration
}

// Verify reads every record of every segment, and every slot of the index, and checks each
// invariant: records lie back to back within bounds and match their checksums; each slot leads to a
// live record whose id belongs in that slot; no id has two slots; counts, live and dead bytes agree
// with the index. In a directory it checks as well what the next Open needs: the directory at the path that
// it was opened by, the manifest, name, header and state of each durable segment, and the hint.
//
// It runs beside reads, writes and compactions, and holds locks for a batch at a
// time. It costs about as much as reading all content once, and two look-ups per record.
// It panics when ctx is nil.
//
// Errors: [ErrCorrupt] when there is a finding (the report lists them), [ErrClosed], ctx's error with
// its cause.
func (s *Store) Verify(ctx context.Context) (VerifyReport, error) {
	checkContext(ctx)
	start := time.Now()
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return VerifyReport{}, err
	}
	defer done()
	v := &verifier{s: s, live: map[uint64]int64{}}
	before := s.changes()
	err = v.checkDirectory()
	if err == nil {
		err = v.checkSegments(ctx)
	}
	if err == nil {
		err = v.checkIndex(ctx)
	}
	totals := v.checkTotals()
	if before == s.changes() && !s.compacting.Load() && err == nil {
		v.report.Quiescent = true
		for _, f := range totals {
			v.found(f)
		}
	}
	v.report.Duration = time.Since(start)
	if err == nil && v.report.FindingCount > 0 {
		f := v.report.Findings[0]
		err = &CorruptError{File: f.File, Offset: f.Offset, ID: f.ID, Reason: f.Problem}
	}
	return v.report, s.whyStopped(ctx, err)
}

// changes returns a number that grows before and after every change of the index and of the byte
// counts, and with every compaction that ends. So everything read between two equal results belongs
// to one moment.
func (s *Store) changes() (n int64) {
	for i := range s.shards {
		n += s.shards[i].version.Load()
	}
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	return n + s.history.compactions + s.history.failures
}

// verifier is one call of Verify.
type verifier struct {
	s         *Store
	report    VerifyReport
	reachable int              // records that the index points to, counted while reading segments
	live      map[uint64]int64 // their bytes, by segment id
}

func (v *verifier) found(f Finding) {
	v.report.FindingCount++
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, f)
	}
}

// checkSegments reads the segments one by one, each under a pin.
func (v *verifier) checkSegments(ctx context.Context) error {
	for index := 0; ; index++ {
		hold := v.s.contentMu.RLock()
		entries := len(*v.s.segments.entries.Load())
		seg := v.s.segments.at(index)
		if seg != nil {
			seg.pin()
		}
		v.s.contentMu.RUnlock(hold)
		if index >= entries {
			return nil
		}
		if seg == nil {
			continue
		}
		err := v.checkFile(ctx, seg)
		if err == nil {
			err = v.checkSegment(ctx, seg)
		}
		v.s.unpin(seg)
		if err != nil {
			return err
		}
	}
}

// checkSegment reads the records of one segment, one after the other.
func (v *verifier) checkSegment(ctx context.Context, seg *segment) (err error) {
	defer v.s.catchFault(armFaults(), &err)
	v.report.Segments++
	tail := int(seg.tail.Load())
	for offset, n := layout.HeaderSize, 0; offset < tail; n++ {
		if n%1024 == 0 {
			if err := stopped(ctx); err != nil {
				return err
			}
		}
		rec := seg.mem[offset:tail]
		h, digest, intact := seg.read(offset, rec)
		if h.Kind() == 0 {
			// Where the next record begins is unknown. Those that the index points to are checked
			// by checkIndex.
			v.found(Finding{File: seg.name(), Offset: int64(offset), Problem: "no valid header"})
			return nil
		}
		id := string(record.ID(rec, h))
		whose := intact || h.Kind() != record.KindContainer // the digest of a container says what it holds
		if !intact {
			v.found(Finding{File: seg.name(), Offset: int64(offset), ID: id, Problem: "checksum mismatch"})
		}
		if seg.file != nil && !v.s.opts.ReadOnly && whose && seg.digestOf(n) != digest {
			v.found(Finding{File: seg.name(), Offset: int64(offset), ID: id, Problem: "digest mismatch"})
		}
		if h.Kind() == record.KindMemory && v.s.pointsTo(id, v.s.locate(seg, offset)) {
			v.reachable++
			v.live[seg.id] += int64(h.Size())
		}
		v.report.Records++
		v.report.BytesRead += int64(h.Next())
		offset += h.Next()
	}
	return nil
}

// pointsTo reports whether the index has the record at loc for id.
func (s *Store) pointsTo(id string, loc location) bool {
	sh, tag := s.place(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, ok := sh.current().find(makeSlot(tag, loc))
	return ok
}

// checkIndex follows every slot.
func (v *verifier) checkIndex(ctx context.Context) error {
	var slots []slot
	for i := range v.s.shards {
		for from := uint32(0); from < tagCount; {
			if err := stopped(ctx); err != nil {
				return err
			}
			slots, from = v.checkSlots(i, from, slots)
		}
	}
	return nil
}

// checkSlots checks the slots of a few tags, from the given one on, and returns the tag to continue
// with. The ids are hashed with no lock held.
func (v *verifier) checkSlots(shardIndex int, from uint32, slots []slot) (_ []slot, to uint32) {
	slots, ids, to := v.readSlots(&v.s.shards[shardIndex], from, slots)
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		place := Finding{File: id.seg.name(), Offset: int64(id.offset), ID: id.id}
		if n, tag := splitHash(v.s.hash(id.id)); n != shardIndex || tag != id.slot.tag() {
			place.Problem = fmt.Sprintf("its slot is in shard %d with tag %#x, not %d with %#x",
				shardIndex, id.slot.tag(), n, tag)
			v.found(place)
		}
		if seen[id.id] {
			place.Problem = "its id has two slots"
			v.found(place)
		}
		seen[id.id] = true
		if id.lost {
			place.Problem = "its slot cannot be reached from its home"
			v.found(place)
		}
	}
	return slots, to
}

// slotID is what Verify reads of a slot with locks held.
type slotID struct {
	slot   slot
	lost   bool // cannot be reached from its home
	id     string
	seg    *segment
	offset int
}

// readSlots reads the slots of a few tags from from on, of sh, and the ids that they lead to, in
// batches as those of All. slots is used again.
func (v *verifier) readSlots(sh *shard, from uint32, slots []slot) (_ []slot, ids []slotID, to uint32) {
	var fault error
	defer func() {
		if fault != nil {
			v.found(Finding{File: "index", Problem: fault.Error()})
		}
	}()
	defer v.s.catchFault(armFaults(), &fault)
	defer v.s.contentMu.RUnlock(v.s.contentMu.RLock())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slots, to = sh.readRange(slots[:0], from, iterationBatch)
	slices.Sort(slots)
	bytes := 0
	for i, w := range slots {
		if endsBatch(slots, i, bytes) {
			return slots, ids, w.tag()
		}
		v.report.Memories++
		var m match
		err := v.s.follow(&m, w.location())
		bytes += m.h.IDLen()
		if err != nil {
			v.found(Finding{File: "index", Offset: int64(w.location()), Problem: err.Error()})
			continue
		}
		pos, ok := sh.current().find(w)
		ids = append(ids, slotID{
			slot: w, lost: !ok || !sh.current().get(pos).same(w),
			id: string(record.ID(m.rec, m.h)), seg: m.seg, offset: m.offset,
		})
	}
	return slots, ids, to
}

// checkTotals compares the counters with what was read. Its findings mean something only when
// nothing changed in the meantime.
func (v *verifier) checkTotals() (findings []Finding) {
	s := v.s
	check := func(file string, counted, found int64, what string) {
		if counted != found {
			findings = append(findings, Finding{File: file,
				Problem: fmt.Sprintf("%s: %d counted, %d found", what, counted, found)})
		}
	}
	check("index", int64(s.Len()), int64(v.report.Memories), "memories")
	check("index", int64(v.report.Memories), int64(v.reachable), "slots that lead to the start of a record")
	var live int64
	for _, seg := range s.segments.all() {
		check(seg.name(), s.segments.liveBytes(seg), v.live[seg.id], "live bytes")
		live += v.live[seg.id]
	}
	check("index", s.Stats().LiveBytes, live, "live bytes of all shards")
	return findings
}
