package warmtier

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/bits"
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
A segment is one mapped region that holds records back to back behind a header. Its life:

	active ──seal──▶ sealed ──swap──▶ retired ──last unpin──▶ memory unmapped or used again

Active: one lane appends to it. Sealed: immutable. Retired: out of the segment table, mapped as
long as someone holds a pin.

I4 (references): the table counts as one reference, every pin as another; whoever drops the last
one owns the memory. A pin is only taken with contentMu held, on a segment found in the table; the
swap takes segments out under contentMu's write lock. So no pin can come after the table's
reference is gone, and a segment is never touched after its memory was given away.
*/

const (
	// A record over 1/16 of a segment, and over 1 MiB, gets a segment of its own. So a segment that
	// was sealed because the next record did not fit is at least 15/16 full, and what is copied
	// into a shared segment with locks held takes no longer than 1/16 of one.
	largeShare   = 16
	minLargeSize = 1 << 20 // bytes

	// prefetchLimit is how many bytes of a record are asked for ahead: the processor itself sees that
	// more of the same will be needed.
	prefetchLimit = 1024
)

type segmentState int32

const (
	stateActive segmentState = iota
	stateSealed
	stateRetired
)

// segment is safe for concurrent use as far as each field says. What readers load and what others
// write lie on cache lines of their own, and the last ones apart from the next object on the heap.
type segment struct {
	id    uint64       // never used twice in a store
	mem   []byte       // the bytes below tail are immutable (I1)
	tail  atomic.Int64 // bytes in use, header included; grows under the lane's lock while active
	seed  uint32       // seedAt(0)
	index int          // in the segment table: part of the location of each record
	file  dir.File     // what mem is a mapping of; nil in a memory store
	kind  layout.SegmentKind
	large bool // made for the one record it holds, whatever its size
	spare bool // made from the space kept back: tombstones only

	_ [cpu.CacheLines]byte
	segmentShared
	_ [cpu.CacheLines]byte
}

type segmentShared struct {
	live        atomic.Int64 // bytes of records the index points to; changes under shard locks
	refs        atomic.Int64 // 1 for the table and 1 for each pin
	records     atomic.Int64 // before tail; changes with it
	state       atomic.Int32
	damaged     atomic.Bool // a compaction met damage here; written by compactions
	sealedEarly atomic.Bool // sealed although it had room: compactions merge such segments
	victim      atomic.Bool // of the compaction under way, which writes it
	made        time.Time   // or found by Open

	durable       atomic.Bool // the file, its header included, was synced once
	sealedInFile  atomic.Bool // the state in the header says so
	stateUnsynced atomic.Bool // the state in the header has changed since the last sync of it
	// What follows is used by directory stores. minSeq and tombstones are guarded by the lock of
	// the lane or round that appends; whoever finds the segment sealed may read them.
	minSeq         uint64       // the lowest sequence number in it
	maxSeq         uint64       // the highest
	tombstones     []uint32     // their offsets, in units of 8 bytes
	tombstoneBytes int64        // bytes of tombstones
	committed      atomic.Bool  // belongs into manifests: every lane's segment, and targets of finished rounds
	generation     uint32       // of the newest state in the file; written by one flush at a time
	synced         atomic.Int64 // bytes up to here are durable
}

func newSegment(id uint64, mem []byte, kind layout.SegmentKind) *segment {
	seg := &segment{id: id, mem: mem, kind: kind, seed: record.SegmentSeed(id)}
	seg.minSeq, seg.made = math.MaxUint64, time.Now()
	seg.tail.Store(layout.HeaderSize)
	seg.refs.Store(1)
	seg.committed.Store(kind == layout.KindLane)
	return seg
}

// seedAt returns the seed of the prefix checksum of a record at offset.
func (seg *segment) seedAt(offset int) uint32 { return record.SeedAt(seg.seed, offset) }

// room is the number of bytes left for n records; a file keeps some for their digests, and for one more:
// recovery looks there whether a record was begun behind the last one, and must find no bytes of that.
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

// grew accounts for n records, of size bytes together, written at the tail.
func (seg *segment) addRecords(n, size int) {
	seg.records.Add(int64(n))
	seg.tail.Add(int64(size))
}

// holdsTombstone accounts for a tombstone of size bytes at offset.
func (seg *segment) addTombstone(offset, size int) {
	seg.tombstones = append(seg.tombstones, uint32(offset/record.Align))
	seg.tombstoneBytes += int64(size)
}

// contains accounts for a record with this sequence number.
func (seg *segment) noteSeq(seq uint64) {
	seg.minSeq = min(seg.minSeq, seq)
	seg.maxSeq = max(seg.maxSeq, seq)
}

func (seg *segment) recordBytes() int64 { return seg.tail.Load() - layout.HeaderSize }

func (seg *segment) deadBytes() int64 { return seg.recordBytes() - seg.live.Load() }

func (seg *segment) is(st segmentState) bool {
	return segmentState(seg.state.Load()) == st
}

// written is how many bytes of it were written by Put and Delete.
func (seg *segment) written() int64 {
	if seg.kind != layout.KindLane {
		return 0 // copies
	}
	return seg.recordBytes()
}

func written(segs []*segment) (bytes int64) {
	for _, seg := range segs {
		bytes += seg.written()
	}
	return bytes
}

// pins is how many there are. The table's reference counts as one until the segment is retired.
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
	case seg.victim.Load():
		return SegmentCompacting
	case seg.is(stateActive):
		return SegmentActive
	}
	return SegmentSealed
}

func (seg *segment) stats() SegmentStats {
	total := seg.recordBytes()
	live := min(seg.live.Load(), total) // writers may have come between the two
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

// name is what errors call the segment.
func (seg *segment) name() string {
	if seg.file != nil {
		return layout.SegmentFileName(seg.id)
	}
	return fmt.Sprintf("segment %d", seg.id)
}

// seal makes seg immutable; early says that more records would have fitted. REQUIRES: the lock of
// the lane that appends to it, or nobody else knows seg yet.
func (seg *segment) seal(early bool) {
	seg.sealedEarly.Store(early)
	seg.state.Store(int32(stateSealed))
}

// pin keeps seg mapped. REQUIRES: contentMu held, seg found in the table.
func (seg *segment) pin() {
	lockrank.AssertHeld[contentRank]()
	seg.refs.Add(1)
}

// unpin drops a pin, and unmaps a retired segment with its last one.
func (s *Store) unpin(seg *segment) {
	if seg.refs.Add(-1) == 0 {
		s.retiredBytes.Add(-int64(len(seg.mem)))
		s.retired.remove(seg)
		s.free(seg)
	}
}

// retire drops the table's reference. last is true when no pin is left: the memory is the caller's
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

// retiredSegments are those that pins alone keep mapped, for Stats and Segments.
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

// free unmaps a segment nobody can reach.
func (s *Store) free(seg *segment) {
	if seg.file != nil {
		s.warn("segment file could not be unmapped", s.detach(seg))
		return
	}
	s.release(seg.mem)
}

// warn logs what no caller can do anything about, unless err is nil. Any lock may be held.
func (s *Store) warn(what string, err error) {
	if err != nil {
		s.logLater(slog.LevelWarn, what, "error", err)
	}
}

// segmentTable turns the segment part of a location into a segment. Entries come one by one, with
// contentMu read-held; they go under its write lock. A reader needs no more than contentMu.
type segmentTable struct {
	mu      lockrank.Mutex[tableRank] // guards what follows, not the loads of entries
	entries atomic.Pointer[[]atomic.Pointer[segment]]
	used    int   // entries[used:] were never used
	free    []int // entries that were, and are empty
	lastID  uint64
	pending map[uint64]bool // ids of segments that lanes have asked for and not published yet
	taken   map[uint64]bool // ids in names of unfinished files that Open has found; not changed afterwards
	// unfilled are segments of lanes that the last Close, or this Open, sealed with room left. A lane that
	// needs one goes on with one of these, until the first compaction.
	partial []*segment
}

// at returns the segment at index, nil when there is none.
func (t *segmentTable) at(index int) *segment {
	entries := *t.entries.Load()
	if index >= len(entries) {
		return nil
	}
	return entries[index].Load()
}

// all returns the segments of the table, in no particular order.
func (t *segmentTable) all() []*segment {
	entries := *t.entries.Load()
	list := make([]*segment, 0, len(entries))
	for i := range entries {
		if seg := entries[i].Load(); seg != nil {
			list = append(list, seg)
		}
	}
	return list
}

// count is how many segments the table has a place for that is taken.
func (t *segmentTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used - len(t.free)
}

// newID draws an id. One for a lane is pending until publish or abandon: a manifest written meanwhile
// must not take the file for a leftover.
func (t *segmentTable) newID(kind layout.SegmentKind) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.lastID++; t.taken[t.lastID]; {
		t.lastID++
	}
	if kind == layout.KindLane {
		t.pending[t.lastID] = true
	}
	return t.lastID
}

// newestID is the highest id drawn.
func (t *segmentTable) newestID() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastID
}

// abandon ends the pending state of a segment that will not be published.
func (t *segmentTable) abandon(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, id)
}

// assign gives seg an index, so that locations can name it.
func (t *segmentTable) assign(seg *segment, limit int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.free); n > 0 {
		seg.index = t.free[n-1]
		t.free = t.free[:n-1]
		return nil
	}
	if t.used == limit {
		return fmt.Errorf("%w: the store has %d segments, the most it can address", ErrNoSpace, limit)
	}
	seg.index = t.used
	t.used++
	return nil
}

// publish puts seg into the table; from here on locations can be followed to it. REQUIRES: contentMu
// read-held, seg has an index.
func (t *segmentTable) publish(seg *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := *t.entries.Load()
	if seg.index >= len(entries) {
		grown := make([]atomic.Pointer[segment], max(16, seg.index+1, 2*len(entries)))
		for i := range entries {
			grown[i].Store(entries[i].Load())
		}
		t.entries.Store(&grown)
		entries = grown
	}
	entries[seg.index].Store(seg)
	delete(t.pending, seg.id)
}

// removeLocked takes segs out of the table. REQUIRES: contentMu write-held. It does nothing else, so
// that the hold stays short; reuse makes the entries available afterwards.
func (t *segmentTable) removeLocked(segs []*segment) {
	entries := *t.entries.Load()
	for _, seg := range segs {
		entries[seg.index].Store(nil)
	}
}

// reuse lets other segments have the indexes of segs. REQUIRES: segs are not in the table.
func (t *segmentTable) reuse(segs []*segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seg := range segs {
		t.free = append(t.free, seg.index)
	}
}

// offsetBitsFor is the number of location bits for offsets in segments of this size; the others
// number segments. A large segment may be longer: its one record starts right behind the header.
func offsetBitsFor(segmentSize int) uint {
	return uint(bits.Len(uint(segmentSize/record.Align - 1)))
}

func (s *Store) locate(seg *segment, offset int) location {
	return location(seg.index)<<s.offsetBits | location(offset/record.Align)
}

func (s *Store) resolve(loc location) (seg *segment, offset int) {
	return s.segments.at(int(loc >> s.offsetBits)), int(loc&(1<<s.offsetBits-1)) * record.Align
}

// maxSegments is how many segments locations can tell apart.
func (s *Store) maxSegments() int { return 1 << min(locationBits-s.offsetBits, 30) }

// segmentSpec says what segment is wanted.
type segmentSpec struct {
	kind  layout.SegmentKind
	size  int  // bytes
	large bool // for one record
	least int  // on a full disk: the size of what is kept back that would do, bytes; 0 for none
}

// createSegment makes a segment that is in no table yet.
func (s *Store) createSegment(spec segmentSpec) (*segment, error) {
	id := s.segments.newID(spec.kind)
	seg, err := s.mapSegment(id, spec)
	if err != nil {
		s.segments.abandon(id)
		return nil, err
	}
	seg.large = spec.large
	_ = s.hooks.fire(pointSegmentMade)
	return seg, nil
}

func (s *Store) mapSegment(id uint64, spec segmentSpec) (*segment, error) {
	if s.disk != nil {
		return s.createFile(id, spec)
	}
	forLane := spec.size == s.opts.SegmentSize && spec.kind == layout.KindLane
	var mem []byte
	if forLane {
		mem = s.pool.take()
	}
	if mem == nil {
		var err error
		if mem, err = s.acquire(spec.size); err != nil {
			return nil, err
		}
	}
	if forLane {
		s.pool.countBegun()
	}
	return newSegment(id, mem, spec.kind), nil
}

// discardSegment gets rid of a segment that never was in the table. What goes wrong goes with the error
// that made it useless.
func (s *Store) discardSegment(seg *segment) error {
	s.segments.abandon(seg.id)
	if seg.file == nil {
		return s.mapper.release(seg.mem)
	}
	err := s.detach(seg)
	_ = s.hooks.fire(pointUnlink)
	return errors.Join(err, s.disk.fs.Remove(seg.name()))
}
