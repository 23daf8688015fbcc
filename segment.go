package warmtier

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

/*
A segment is one mapped region that holds a header and then records back to back. Its life:

	active ──seal──▶ sealed ──swap, sweep──▶ retired ──last unpin──▶ memory unmapped or used again

One lane appends to an active segment. A sealed one is immutable, unless a lane claims it (I5, sweep.go)
to resume it. A retired one is out of the
segment table, and mapped as long as it is pinned.
*/

const (
	// A record over 1 MiB gets a segment of its own: a copy into a shared segment is made with locks
	// held. So a segment of 16 MiB or more that was sealed because the next record did not fit is at
	// least 15/16 full; one that is less full than that counts as sealed early.
	maxSharedSize = 1 << 20 // bytes
	largeShare    = 16

	// prefetchLimit is how many bytes of a record are asked for ahead. The processor notices by
	// itself that more of the same will be needed.
	prefetchLimit = 1024
)

type segmentState int32

const (
	stateActive segmentState = iota
	stateSealed
	stateRetired
)

// segment is safe for concurrent use as far as each field says. What readers load lies on other
// cache lines than what writers change, and that on others than the next object on the heap.
type segment struct {
	id    uint64       // never used twice in a store
	mem   []byte       // I1 (immutability): bytes below tail never change while a reader can reach them
	tail  atomic.Int64 // bytes in use, header included; grows under the lane's lock while active
	seed  uint32       // seedAt(0)
	index int          // in the segment table; part of the location of each record
	file  dir.File     // mem is its mapping; nil in a memory store
	kind  layout.SegmentKind
	// clears is how many Clears there had been when it was published, or of a target when its round began.
	// All that is in a segment of before the last one is gone (see clear.go).
	clears int64
	large  bool   // made for the one record it holds, whatever its size
	spare  bool   // made from the space kept back: tombstones only
	salt   uint64 // random in a file, 0 in memory; seed has it
	rank   uint64 // in the order of the hand of eviction; constant once the segment is published

	_ [cpu.CacheLines]byte
	segmentShared
	_ [cpu.CacheLines]byte
}

type segmentShared struct {
	live atomic.Int64 // bytes of records the index points to; changes under shard locks
	// I4 (references): the table counts as one reference, every pin as another; the holder that
	// drops the last one owns the memory.
	refs    atomic.Int64
	records atomic.Int64 // how many lie below tail; changes with it
	state   atomic.Int32
	copied  atomic.Int64 // bytes of a target when a lane resumed it; 0 for others
	// tombstoneBytes is how many of the dead bytes are tombstones. Who rates segments reads it while a lane may
	// resume one.
	tombstoneBytes atomic.Int64
	damaged        atomic.Bool  // a compaction met damage in it; written by compactions
	sealedEarly    atomic.Bool  // sealed although it had room: compactions merge such segments
	unresumed      atomic.Bool  // of these, its lane went on elsewhere before it could get it back
	owner          atomic.Int32 // an owner: who has claimed it (I5)
	made           time.Time    // when it was made, or found by Open
	deadlines      deadlines    // of the live records

	// The rest is used by directory stores. The lock of the lane or round that appends guards
	// sequence numbers and tombstones. They are read without it once the segment is sealed, and nobody can
	// resume it: a claim prevents that, and so does the table's leaving lock.
	minSeq     uint64  // the lowest sequence number in it
	maxSeq     uint64  // the highest
	tombstones offsets // of tombstones
	inFile     fileState
}

func newSegment(id uint64, mem []byte, kind layout.SegmentKind, salt uint64) *segment {
	seg := &segment{id: id, mem: mem, kind: kind, seed: record.SegmentSeed(id, salt), salt: salt}
	seg.minSeq, seg.made, seg.rank = math.MaxUint64, time.Now(), id
	seg.tail.Store(layout.HeaderSize)
	seg.refs.Store(1)
	return seg
}

// seedAt returns the seed of the prefix checksum of a record at offset.
func (seg *segment) seedAt(offset int) uint32 { return record.SeedAt(seg.seed, offset) }

// read returns the header of the record at offset, which begins rec, its digest, and whether it is as it was
// written; of a container all that it holds must be. Where there is no record the header has no kind.
func (seg *segment) read(offset int, rec []byte) (h record.Header, digest uint32, intact bool) {
	h, ok := record.Decode(rec)
	switch {
	case !ok:
		return record.Header{}, 0, false
	case h.Kind() != record.KindContainer:
		return h, layout.Digest(record.ID(rec, h)), record.Intact(rec, h, seg.seedAt(offset))
	case !record.IntactPrefix(rec, h, seg.seedAt(offset)):
		return h, 0, false
	}
	n, sum, ok := record.Contained(rec, h, func(behind int) uint32 { return seg.seedAt(offset + behind) })
	return h, uint32(n), ok && sum == h.ContentSum()
}

// room returns how many bytes are left for n records. A file keeps some for their digests, and for
// one more: there recovery looks for the digest of a record begun after the last one, and must find
// no bytes of that record.
func (seg *segment) room(n int) int {
	if seg.large && seg.records.Load() > 0 {
		return 0
	}
	end := len(seg.mem)
	if seg.file != nil {
		end = layout.DigestAt(end, int(seg.records.Load())+n)
	}
	return end - int(seg.tail.Load())
}

// rest returns what lies between the records of seg and their digests.
func (seg *segment) rest() []byte {
	return seg.mem[seg.tail.Load() : len(seg.mem)-layout.DigestSize*int(seg.records.Load())]
}

// isUnfilled reports whether seg was sealed with room left that no lane will fill, since its file is in a checkpoint
// too, or its lane went on without it, and whether a compaction could merge it.
func (seg *segment) isUnfilled() bool {
	return (seg.inFile.linked.Load() || seg.unresumed.Load()) && seg.isHalfEmpty()
}

// isHalfEmpty reports whether seg was sealed with room left, and a compaction could merge it.
func (seg *segment) isHalfEmpty() bool {
	return seg.is(stateSealed) && seg.sealedEarly.Load() && !seg.damaged.Load()
}

// addRecords accounts for n records, of size bytes together, written at the tail.
func (seg *segment) addRecords(n, size int) {
	seg.records.Add(int64(n))
	seg.tail.Add(int64(size))
}

// addTombstone accounts for a tombstone of size bytes at offset.
func (seg *segment) addTombstone(offset, size int) {
	seg.tombstones.add(uint32(offset / record.Align))
	seg.tombstoneBytes.Add(int64(size))
}

// noteSeq accounts for a record with this sequence number.
func (seg *segment) noteSeq(seq uint64) {
	seg.minSeq = min(seg.minSeq, seq)
	seg.maxSeq = max(seg.maxSeq, seq)
}

func (seg *segment) recordBytes() int64 { return seg.tail.Load() - layout.HeaderSize }

// fileBytes returns the size of the file of seg, 0 in a memory store.
func (seg *segment) fileBytes() int64 {
	if seg.file == nil {
		return 0
	}
	return int64(len(seg.mem))
}

// freedBytes returns what the disk gets back when the file of seg goes, bytes: nothing while it has another name, in a
// checkpoint, since its blocks are that one's then. 0 in a memory store.
func (s *Store) freedBytes(seg *segment) int64 {
	if seg.file != nil && seg.inFile.linked.Load() {
		if st, err := s.disk.fs.StatFile(seg.name()); err != nil || st.Links > 1 { // the checkpoint may be gone by now
			return 0
		}
	}
	return seg.fileBytes()
}

func (seg *segment) deadBytes() int64 { return seg.recordBytes() - seg.live.Load() }

func (seg *segment) is(st segmentState) bool {
	return segmentState(seg.state.Load()) == st
}

// written returns how many bytes of its records were written by Put and Delete.
func (seg *segment) written() int64 {
	copied := int64(0)
	if seg.kind != layout.KindLane { // a target, and what lanes have added since it was one
		if copied = seg.copied.Load(); copied == 0 {
			return 0
		}
	}
	return seg.recordBytes() - copied
}

func written(segs []*segment) (bytes int64) {
	for _, seg := range segs {
		bytes += seg.written()
	}
	return bytes
}

// pins returns how many pins there are. Until the segment is retired one more reference is the
// table's.
func (seg *segment) pins() int {
	pins := seg.refs.Load()
	if !seg.is(stateRetired) {
		pins--
	}
	return int(max(0, pins))
}

func (seg *segment) publicState() SegmentState {
	switch {
	case seg.is(stateRetired):
		return SegmentRetired
	case seg.claimedBy() == ownerVictim:
		return SegmentCompacting
	case seg.is(stateActive):
		return SegmentActive
	}
	return SegmentSealed
}

func (seg *segment) stats() SegmentStats {
	total := seg.recordBytes()
	live := min(seg.live.Load(), total) // writes may have come between the two loads
	return SegmentStats{
		ID:          seg.id,
		State:       seg.publicState(),
		MappedBytes: int64(len(seg.mem)),
		TotalBytes:  total,
		LiveBytes:   live,
		DeadBytes:   total - live,
		Pins:        seg.pins(),
		Age:         time.Since(seg.made),
	}
}

// name returns what errors call the segment.
func (seg *segment) name() string {
	if seg.file != nil {
		return layout.SegmentFileName(seg.id)
	}
	return fmt.Sprintf("segment %d", seg.id)
}

// seal makes seg immutable, but for a round whose target it is; early says that more records would have fitted.
// REQUIRES: the lock of the lane that appends to seg held, or nobody else knows seg yet.
func (seg *segment) seal(early bool) {
	if seg.file != nil && seg.claimedBy() != ownerTarget { // a target is sealed from the beginning
		seg.file.EndWrites() // first: any lane may resume what is sealed
	}
	seg.sealedEarly.Store(early)
	seg.state.Store(int32(stateSealed))
}

// pin keeps seg mapped. REQUIRES: contentMu held, seg found in the table, whose reference then
// lasts as long as the hold (I4).
func (seg *segment) pin() {
	lockrank.AssertHeld[contentRank]()
	seg.refs.Add(1)
}

// unpin drops a pin, and gives back the memory of a retired segment with the last one.
func (s *Store) unpin(seg *segment) {
	if seg.refs.Add(-1) == 0 {
		s.retiredBytes.Add(-int64(len(seg.mem)))
		s.retired.remove(seg)
		s.recycle(seg)
		s.room.changed()
	}
}

// retire drops the table's reference. last reports that no pin is left: the memory is the caller's
// then. REQUIRES: seg is out of the table.
func (s *Store) retire(seg *segment) (last bool) {
	seg.state.Store(int32(stateRetired))
	s.retiredBytes.Add(int64(len(seg.mem)))
	s.retired.add(seg) // before the last pin may go
	if seg.refs.Add(-1) > 0 {
		return false
	}
	s.retired.remove(seg)
	s.retiredBytes.Add(-int64(len(seg.mem)))
	return true
}

// retiredSegments are the segments that pins alone keep mapped, for Stats and Segments.
type retiredSegments struct {
	mu   sync.Mutex // a leaf
	segs map[*segment]bool
}

func (r *retiredSegments) add(seg *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.segs == nil {
		r.segs = map[*segment]bool{}
	}
	r.segs[seg] = true
}

func (r *retiredSegments) remove(seg *segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.segs, seg)
}

func (r *retiredSegments) all() []*segment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.segs))
}

// warn logs an error that no caller can do anything about, unless it is nil. Any lock may be held.
func (s *Store) warn(what string, err error) {
	if err != nil {
		s.logLater(slog.LevelWarn, what, "error", err)
	}
}

// putDigest writes the digest of record n to its place near the end of seg.
func (seg *segment) putDigest(n int, digest uint32) {
	at := layout.DigestAt(len(seg.mem), n)
	binary.LittleEndian.PutUint32(seg.mem[at:at+layout.DigestSize], digest)
}

// digestOf returns the digest of record n.
func (seg *segment) digestOf(n int) uint32 {
	return binary.LittleEndian.Uint32(seg.mem[layout.DigestAt(len(seg.mem), n):])
}
