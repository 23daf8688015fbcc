package warmtier

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

// segmentTable turns the segment part of a location into a segment. Segments enter it one by one,
// with contentMu read-held, and leave with contentMu write-held. A reader needs no lock but
// contentMu.
type segmentTable struct {
	// leaving is held around contentMu by whoever takes segments out, or resumes one, and by whoever must
	// see the table between two removals: nobody walks it with contentMu held.
	leaving lockrank.Mutex[leaveRank]
	gone    int64 // bytes that Put and Delete wrote to segments that left; guarded by leaving

	// clears counts the Clears. It changes with contentMu write-held.
	clears atomic.Int64

	// linking says that a checkpoint is under way: no lane resumes a segment, whose file may get another name. It
	// is read with a lane's rolling held.
	linking atomic.Bool

	mu      lockrank.Mutex[tableRank] // guards what follows but loads of entries
	entries atomic.Pointer[[]atomic.Pointer[segment]]
	used    int   // entries[used:] were never used
	free    []int // entries that were used, and are empty
	lastID  uint64
	pending map[uint64]bool // ids of segments for lanes that are being made, not published yet
	taken   map[uint64]bool // ids in names of unfinished files that Open has found; constant afterwards
	// partial are segments of lanes that the last Close, or this Open, sealed with room left. A
	// lane that needs a segment resumes one of these, unless somebody has claimed it or it has left.
	partial []*segment
}

// at returns the segment at index, or nil when there is none.
func (t *segmentTable) at(index int) *segment {
	entries := *t.entries.Load()
	if index >= len(entries) {
		return nil
	}
	return entries[index].Load()
}

// all returns the segments of the table, in no particular order. Those that enter or leave during the
// call may be among them. REQUIRES: none of contentMu and the locks after it held, since it takes as
// long as there are segments.
func (t *segmentTable) all() []*segment {
	lockrank.AssertBelow[contentRank]()
	entries := *t.entries.Load()
	list := make([]*segment, 0, len(entries))
	for i := range entries {
		if seg := entries[i].Load(); seg != nil {
			list = append(list, seg)
		}
	}
	return list
}

// snapshot returns the segments that were in the table together, and how many bytes Put and Delete
// had written to those that had left. REQUIRES: as all.
func (t *segmentTable) snapshot() (segs []*segment, gone int64) {
	t.leaving.Lock()
	defer t.leaving.Unlock()
	return t.all(), t.gone
}

// count returns how many entries of the table are taken.
func (t *segmentTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used - len(t.free)
}

// newID draws an id. One for a lane is pending until publish or abandon, so that a manifest written
// before then does not make the file a leftover.
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

// numbers returns the next id, and the ids of the segments that are pending.
func (t *segmentTable) numbers() (next uint64, pending map[uint64]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lastID + 1, maps.Clone(t.pending)
}

// newestID returns the highest id drawn.
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

// publishNew publishes a segment for which the writes of before a Clear, if there was one, came too early.
// REQUIRES: as publish.
func (t *segmentTable) publishNew(seg *segment) {
	seg.clears = t.clears.Load()
	t.publish(seg)
}

// publish puts seg into the table: from here on locations lead to it. REQUIRES: contentMu
// read-held, seg has an index.
func (t *segmentTable) publish(seg *segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	entries := *t.entries.Load()
	if seg.index >= len(entries) {
		grown := make([]atomic.Pointer[segment], max(16, seg.index+1, 2*len(entries)))
		copy(grown, entries) // not atomically: the locks keep out all who store
		t.entries.Store(&grown)
		entries = grown
	}
	entries[seg.index].Store(seg)
	delete(t.pending, seg.id)
}

// removalBatch is how many segments leave the table in one hold of contentMu.
const removalBatch = 64

// removeFromTable takes segs out of the table, removalBatch of them at a time, so that no hold of
// contentMu grows with their number, and gives back tables of the index that were replaced. It
// returns the longest hold. The caller retires segs. REQUIRES: none of leaving and the locks after it
// held, and no slot of the index names one of segs or ever will.
func (s *Store) removeFromTable(segs []*segment) (longest time.Duration) {
	for batch := range slices.Chunk(segs, removalBatch) {
		pause, tables := s.removeBatch(batch)
		s.releaseTables(tables)
		s.meters.swaps.observe(pause)
		s.history.addPause(pause)
		longest = max(longest, pause)
		s.segments.reuse(batch)
		_ = s.hooks.fire(pointSegmentsRemoved)
	}
	return longest
}

// removeBatch takes batch out of the table in one hold. It returns the time of that, and the tables of
// the index that nobody can reach any more.
func (s *Store) removeBatch(batch []*segment) (pause time.Duration, tables []table) {
	t := &s.segments
	bytes := written(batch)
	t.leaving.Lock()
	defer t.leaving.Unlock()
	s.contentMu.Lock()
	start := time.Now()
	t.removeLocked(batch)
	tables = s.replaced.takeLocked()
	pause = time.Since(start)
	s.contentMu.Unlock()
	t.gone += bytes
	return pause, tables
}

// removeLocked takes segs out of the table, and nothing else, so that the hold stays short; reuse
// makes the entries available afterwards. REQUIRES: contentMu write-held.
func (t *segmentTable) removeLocked(segs []*segment) {
	entries := *t.entries.Load()
	for _, seg := range segs {
		entries[seg.index].Store(nil)
	}
}

// reuse lets other segments have the indexes of segs. REQUIRES: segs are out of the table.
func (t *segmentTable) reuse(segs []*segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seg := range segs {
		t.free = append(t.free, seg.index)
	}
}

// offsetBitsFor returns how many bits of a location are the offset in segments of this size; the
// others number segments. A large segment may be longer, since its one record starts right after
// the header.
func offsetBitsFor(segmentSize int) uint {
	return uint(bits.Len(uint(segmentSize/record.Align - 1)))
}

// locate returns the location of offset in seg.
func (s *Store) locate(seg *segment, offset int) location {
	return location(seg.index)<<s.offsetBits | location(offset/record.Align)
}

// resolve returns the segment and the offset of loc; seg is nil when the table has no such segment.
func (s *Store) resolve(loc location) (seg *segment, offset int) {
	return s.segments.at(int(loc >> s.offsetBits)), int(loc&(1<<s.offsetBits-1)) * record.Align
}

// maxSegments returns how many segments locations can tell apart.
func (s *Store) maxSegments() int { return 1 << min(locationBits-s.offsetBits, 30) }
