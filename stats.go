package warmtier

import (
	"sync"
	"time"
)

// Stats is a snapshot of a store. Sizes are bytes. Each figure is exact; figures read while others
// write are of slightly different moments.
type Stats struct {
	Memories           int
	Segments           int     // active and sealed
	TotalBytes         int64   // of all records: live and dead
	LiveBytes          int64   // of the records the index points to
	DeadBytes          int64   // of the others
	FragmentationRatio float64 // DeadBytes / TotalBytes, 0 when empty
	MappedBytes        int64   // all memory outside the Go heap: segments, retired ones, index
	RetiredBytes       int64   // of it, in segments that only a View or an iteration keeps mapped
	IndexBytes         int64   // of it, in the index, old tables that wait for their readers included

	Puts           int64 // that succeeded
	Gets           int64 // calls of Get, AppendContent and View, and ids read by GetMany
	Misses         int64 // of them, those that found nothing
	Deletes        int64 // that removed something
	CorruptRecords int64 // met by reads; the same record counts each time

	Compactions             int64 // that ran to the end
	CompactionFailures      int64 // that returned ErrCompactionFailed, cancelled ones included
	CompactionInProgress    bool
	LastCompaction          time.Time // when the last one ended, with or without error; zero: none did
	LastCompactionDuration  time.Duration
	BytesReclaimed          int64         // by all of them
	MaxSwapPause            time.Duration // longest hold of the content buffer's write lock
	MaintenanceCycles       int64         // run by the background cycle and by Maintain
	AutomaticCompactions    int64         // started by them
	LastMaintenanceDecision SkipReason    // of the last cycle; empty when it compacted or none ran
}

// CompactionStats says what one compaction did. Sizes are bytes, of records.
type CompactionStats struct {
	Duration            time.Duration
	Rounds              int
	SegmentsBefore      int
	SegmentsAfter       int
	BytesBefore         int64
	BytesAfter          int64
	BytesReclaimed      int64 // of the segments given back less those filled
	FragmentationBefore float64
	FragmentationAfter  float64
	MemoriesMoved       int64
	MemoriesSuperseded  int64         // overwritten or deleted while their round was building
	MaxSwapPause        time.Duration // longest hold of the content buffer's write lock
	PeakOverheadBytes   int64         // most memory held beyond that before: targets and staging
}

func (c *CompactionStats) before(st Stats) {
	c.SegmentsBefore, c.SegmentsAfter = st.Segments, st.Segments
	c.BytesBefore, c.BytesAfter = st.TotalBytes, st.TotalBytes
	c.FragmentationBefore, c.FragmentationAfter = st.FragmentationRatio, st.FragmentationRatio
}

func (c *CompactionStats) after(st Stats, d time.Duration) {
	c.Duration = d
	c.SegmentsAfter = st.Segments
	c.BytesAfter = st.TotalBytes
	c.FragmentationAfter = st.FragmentationRatio
}

// history is what Stats says of past compactions and maintenance cycles.
type history struct {
	mu          sync.Mutex // a leaf: nothing is acquired under it
	compactions int64
	failures    int64
	last        time.Time
	duration    time.Duration
	reclaimed   int64
	maxPause    time.Duration
	cycles      int64
	automatic   int64
	decision    SkipReason
}

func (h *history) addCompaction(c CompactionStats, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.compactions++
	} else {
		h.failures++
	}
	h.last, h.duration = time.Now(), c.Duration
	h.reclaimed += c.BytesReclaimed
	h.maxPause = max(h.maxPause, c.MaxSwapPause)
}

func (h *history) addPause(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.maxPause = max(h.maxPause, d)
}

func (h *history) addCycle(r MaintenanceReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cycles++
	if r.Skipped == "" {
		h.automatic++
	}
	h.decision = r.Skipped
}

// Stats returns the figures of the store. It reads a few words per shard and per segment, and stops
// nobody. Of a closed store only the counters are left.
func (s *Store) Stats() Stats {
	var st Stats
	for i := range s.shards {
		sh := &s.shards[i]
		st.Memories += int(sh.memories.Load())
		st.LiveBytes += sh.liveBytes.Load()
		st.Puts += sh.puts.Load()
		st.Deletes += sh.deletes.Load()
	}
	st.Gets, st.Misses = s.contentMu.gets()
	st.IndexBytes = s.tableBytes.Load() + s.limbo.bytes.Load()
	hold := s.contentMu.RLock()
	for _, seg := range s.segments.all() {
		st.Segments++
		st.TotalBytes += seg.recordBytes()
	}
	s.contentMu.RUnlock(hold)
	// A record counts in TotalBytes before it counts in LiveBytes, and writers may have come
	// between the two sums above.
	st.LiveBytes = min(st.LiveBytes, st.TotalBytes)
	st.DeadBytes = st.TotalBytes - st.LiveBytes
	st.FragmentationRatio = fragmentation(st.DeadBytes, st.TotalBytes)
	st.MappedBytes = s.mapper.bytes.Load()
	st.RetiredBytes = s.retiredBytes.Load()
	st.CorruptRecords = s.corruptRecords.Load()
	st.CompactionInProgress = s.compacting.Load()

	h := &s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Compactions = h.compactions
	st.CompactionFailures = h.failures
	st.LastCompaction = h.last
	st.LastCompactionDuration = h.duration
	st.BytesReclaimed = h.reclaimed
	st.MaxSwapPause = h.maxPause
	st.MaintenanceCycles = h.cycles
	st.AutomaticCompactions = h.automatic
	st.LastMaintenanceDecision = h.decision
	return st
}

// fragmentation is dead / total, 0 when there is nothing.
func fragmentation(dead, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(dead) / float64(total)
}
