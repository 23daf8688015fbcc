package warmtier

import (
	"cmp"
	"slices"
	"time"
)

// Stats is a snapshot of a store. The figures that most readers want come first; groups with the
// details follow. Sizes are bytes, ratios 0 to 1. A figure is exact unless it says that it comes
// from a sample; figures read while others write belong to slightly different moments. Counters
// start at zero with Open.
type Stats struct {
	Memories           int
	Segments           int     // active and sealed
	TotalBytes         int64   // of all records, live and dead
	LiveBytes          int64   // of the records the index points to
	DeadBytes          int64   // of all other records
	ExpiredBytes       int64   // of LiveBytes, those of memories that have expired: an estimate
	FragmentationRatio float64 // DeadBytes / TotalBytes, 0 when empty
	MappedBytes        int64   // all memory outside the Go heap: segments, retired ones too, reserve, index
	MaxBytes           int64   // bound of MappedBytes and SegmentDetails.SpareBytes together; 0: none
	IndexBytes         int64   // part of MappedBytes, including old tables that wait for their readers

	Puts    int64 // that succeeded, those of GetOrLoad included
	Gets    int64 // calls of Get, AppendContent, View and GetOrLoad, and ids read by GetMany
	Misses  int64 // Gets that found no memory
	Deletes int64 // that removed a memory
	Clears  int64 // that succeeded

	HitRatio float64 // 1 - Misses / Gets, 0 before the first

	Compactions            int64 // that ran to the end
	CompactionFailures     int64 // that returned ErrCompactionFailed, cancelled ones included
	CompactionInProgress   bool
	LastCompaction         time.Time // when the last one ended, with or without error; zero before the first
	LastCompactionDuration time.Duration
	BytesReclaimed         int64         // by all compactions, and of segments that left with nothing live
	MaxSwapPause           time.Duration // longest hold of the content buffer's write lock

	Directory string    // as it was given to Open; empty for a store in memory
	Opened    time.Time // when Open returned
	Closed    bool      // Close was called

	Reads             ReadStats
	Writes            WriteStats
	Loads             LoadStats
	Drops             DropStats
	SegmentDetails    SegmentDetails
	CompactionDetails CompactionDetails
	Maintenance       MaintenanceStats
	Sync              SyncStats     // empty in a store without a directory
	Recovery          RecoveryStats // empty in a store without a directory
}

// ReadStats says more about Get, AppendContent, View, GetOrLoad, GetMany and All. Calls that failed
// for a reason of the caller's ([ErrInvalidID], [ErrClosed]) are not counted.
type ReadStats struct {
	Errors         int64     // reads that met damage; when only the content is damaged it is one of the Gets too
	CorruptRecords int64     // damaged records met; the same record counts each time
	Bytes          int64     // of contents read: an estimate, from one read in 256
	Duration       Histogram // of one Get, AppendContent or View in 256, without the time in callbacks
}

// WriteStats says more about Put and Delete. Calls that failed for a reason of the caller's
// ([ErrInvalidID], [ErrContentTooLarge], [ErrReadOnly], [ErrClosed]) are not counted.
type WriteStats struct {
	PutErrors      int64 // an Apply counts as one Put here and in PutsChanged
	PutsChanged    int64 // PutIfs refused with ErrChanged, those of Update that began again too
	DeleteErrors   int64
	DeleteMisses   int64     // Deletes that found nothing to remove
	Bytes          int64     // of the records that Put, Delete and Apply wrote
	PutDuration    Histogram // of one Put in 256
	DeleteDuration Histogram // of one Delete in 256
	WaitDuration   Histogram // of every wait for memory, those of writes that were refused too
}

// LoadStats says how the loads of GetOrLoad ended.
type LoadStats struct {
	OK       int64
	Errors   int64
	Duration Histogram // of every load
}

// DropStats counts memories that the store has dropped by itself.
type DropStats struct {
	Expired      int64 // whose bytes compactions gave back after their deadline
	Evicted      int64 // for want of room: see WhenFull
	EvictedBytes int64 // of their records
	Failures     int64 // calls of Options.OnDrop that did not return, or could not be made because of damage
}

// SegmentDetails says how many segments are in each [SegmentState], and what they hold beside those
// that Stats.Segments counts.
type SegmentDetails struct {
	Active, Sealed, Compacting, Retired int

	// MappedBytes is the sum of LiveBytes, DeadBytes, IndexBytes and these three. RoomBytes is what segments
	// have beside records: room in active ones and in those sealed half full, headers, and what a
	// compaction under way has taken.
	RoomBytes    int64
	ReserveBytes int64 // kept for compactions, and for the next segments of lanes
	RetiredBytes int64 // of retired segments, which a View or an iteration keeps mapped

	SpareBytes int64 // of the files of a directory that keep space back, beyond MappedBytes
	Pins       int   // held by View, All, Verify, reads of long contents, and Sync

	// Mappings that were given up, of segments or of the index, and that the system did not take back yet.
	// Linux refuses when the process has as many as vm.max_map_count. Their pages were given back, and so they
	// are not part of MappedBytes; a removed file keeps its disk space. They are used again for what
	// is mapped next, or tried again, by Close at the latest.
	UnreturnedBytes    int64
	UnreturnedMappings int
}

// CompactionDetails says more about all compactions since Open, and about the one under way.
type CompactionDetails struct {
	Manual    CompactionResults // calls of Compact
	Automatic CompactionResults // started by maintenance cycles
	Startup   CompactionResults // started by the first cycle, because Open found the store fragmented

	Progress     CompactionProgress // of the compaction under way; zero when there is none
	LastSuccess  time.Time          // when the last one without error ended; zero before the first
	BytesCopied  int64              // by all compactions
	Duration     Histogram          // of every compaction, failed ones included
	SwapDuration Histogram          // of every hold of the write lock while segments leave, up to 64
}

// CompactionResults counts compactions by how they ended.
type CompactionResults struct {
	OK        int64
	Cancelled int64 // by the caller or by Close
	Failed    int64
}

// MaintenanceStats says what maintenance cycles did, those of the background and those of
// [Store.Maintain].
type MaintenanceStats struct {
	Cycles      int64
	Compactions int64      // started by cycles
	LastSkipped SkipReason // why the last cycle did not compact; empty when it did, or before the first
	Skips       SkipCounts
	NextCycle   time.Time // of the background; zero when it is disabled
}

// SkipCounts counts the maintenance cycles that did not compact, by [SkipReason].
type SkipCounts struct {
	Threshold, Size, RateLimit, Busy, Memory int64
}

// SyncStats says what was flushed to the directory, and what was not.
type SyncStats struct {
	OK            int64 // flushes that succeeded; concurrent calls share one
	Errors        int64
	Duration      Histogram // of every flush
	UnsyncedBytes int64     // of records that a power loss might take
	Failure       error     // the [ErrSyncFailed] of every write from now on; nil while there is none
}

// RecoveryStats says what Open found in a directory, and what a repair had to give up.
type RecoveryStats struct {
	Duration       time.Duration
	Clean          bool  // the last Close left its index, and no record had to be read
	Records        int   // in the segments
	TruncatedBytes int64 // of unfinished tails, which were cut
	Repair         RepairReport
}

// SegmentState says what a segment is being used for.
type SegmentState string

// States of segments.
const (
	SegmentActive     SegmentState = "active"     // being appended to
	SegmentSealed     SegmentState = "sealed"     // immutable
	SegmentCompacting SegmentState = "compacting" // immutable, and chosen by the compaction under way
	SegmentRetired    SegmentState = "retired"    // replaced, and mapped for readers that hold it
)

// SegmentStats is a snapshot of one segment. Sizes are bytes.
type SegmentStats struct {
	ID          uint64
	State       SegmentState
	MappedBytes int64
	TotalBytes  int64 // of its records, live and dead
	LiveBytes   int64
	DeadBytes   int64
	Pins        int           // that keep it mapped, beside the store itself
	Age         time.Duration // since it was made, or found by Open
}

// CompactionStats says what one compaction did. Sizes are bytes of records.
type CompactionStats struct {
	Duration            time.Duration
	Rounds              int
	SegmentsBefore      int
	SegmentsAfter       int
	BytesBefore         int64
	BytesAfter          int64
	BytesReclaimed      int64 // in the segments given back, less those in the segments filled, less BytesUnreturned
	FileBytesReclaimed  int64 // of the files removed that no checkpoint has, less those made for what was moved
	BytesUnreturned     int64 // of mappings given up that the system did not take back yet: see SegmentDetails
	BytesCopied         int64 // of live records, in finished rounds
	FragmentationBefore float64
	FragmentationAfter  float64
	MemoriesMoved       int64
	MemoriesSuperseded  int64         // overwritten or deleted while their round was building
	MaxSwapPause        time.Duration // longest hold of the content buffer's write lock
	PeakOverheadBytes   int64         // most memory held in addition to that before: targets and staging
}

// before notes what the compaction starts from.
func (c *CompactionStats) before(st Stats) {
	c.SegmentsBefore, c.SegmentsAfter = st.Segments, st.Segments
	c.BytesBefore, c.BytesAfter = st.TotalBytes, st.TotalBytes
	c.FragmentationBefore, c.FragmentationAfter = st.FragmentationRatio, st.FragmentationRatio
}

// subtractUnreturned notes how many bytes more than before the compaction could not be given back.
func (c *CompactionStats) subtractUnreturned(n int64) {
	c.BytesUnreturned = max(0, n)
	c.BytesReclaimed -= min(c.BytesUnreturned, max(0, c.BytesReclaimed))
}

// after notes what the compaction left.
func (c *CompactionStats) after(st Stats, d time.Duration) {
	c.Duration = d
	c.SegmentsAfter = st.Segments
	c.BytesAfter = st.TotalBytes
	c.FragmentationAfter = st.FragmentationRatio
}

// Stats returns a snapshot of the store's figures. It reads a few words per shard and per segment
// and stops no other call. Of a closed store only the counters are left.
func (s *Store) Stats() Stats {
	st := s.sizes().Stats
	for i := range s.shards {
		sh := &s.shards[i]
		st.Puts += sh.puts.Load()
		st.Deletes += sh.deletes.Load()
		st.Writes.DeleteMisses += sh.deleteMisses.Load()
	}
	hits, misses := s.contentMu.biased.Counts()
	st.Gets, st.Misses = hits+misses, misses
	st.HitRatio = fragmentation(hits, hits+misses)
	st.IndexBytes = s.tables.bytes.Load() + s.ghosts.bytes.Load()
	st.MaxBytes = s.opts.MaxBytes
	s.addMapped(&st)
	st.Reads.CorruptRecords = s.corruptRecords.Load()
	st.CompactionInProgress = s.compacting.Load()
	st.Directory, st.Opened, st.Closed = s.directory, s.opened, s.lifetime.Err() != nil
	st.Sync.Failure = s.failedSync()
	st.CompactionDetails.Progress = s.progress()
	st.Recovery = s.recovered
	st.Recovery.Repair.Lost = slices.Clone(s.recovered.Repair.Lost)
	s.addSegments(&st)
	s.meters.addTo(&st)
	s.history.addTo(&st)
	return st
}

// addMapped adds what is mapped beside the index, and what for.
func (s *Store) addMapped(st *Stats) {
	details := &st.SegmentDetails
	st.MappedBytes, details.SpareBytes = s.medium.held()
	details.RetiredBytes = s.retiredBytes.Load()
	details.ReserveBytes = s.pool.held()
	others := st.TotalBytes + st.IndexBytes + details.RetiredBytes + details.ReserveBytes
	details.RoomBytes = max(0, st.MappedBytes-others) // the figures may be of slightly different moments
	details.UnreturnedBytes = s.mapper.unreturned.bytes.Load()
	details.UnreturnedMappings = int(s.mapper.unreturned.mappings.Load())
}

// sizes are the figures that decide about compactions: how much is live, dead and written, and in Stats nothing else.
type sizes struct {
	Stats
	// What compactions give back beyond records, bytes: room in segments that were sealed before they were full, and
	// that nobody will fill, or only lanes: the index cannot grow into it.
	unfilled, halfEmpty int64
}

// reclaimable returns how many bytes a compaction could give back, about.
func (z *sizes) reclaimable() int64 { return z.DeadBytes + z.ExpiredBytes + z.unfilled + z.halfEmpty }

// reclaimableShare returns the share of the store, with that room, that a compaction could give back.
func (z *sizes) reclaimableShare() float64 {
	return fragmentation(z.reclaimable(), z.TotalBytes+z.unfilled+z.halfEmpty)
}

// sizes returns how much there is, and how much of it a compaction could give back.
func (s *Store) sizes() (st sizes) {
	var unfilled, halfEmpty mergeable
	segs, gone := s.segments.snapshot()
	st.Segments, st.Writes.Bytes = len(segs), gone
	for _, seg := range segs {
		st.TotalBytes += seg.recordBytes()
		st.ExpiredBytes += s.expired(seg)
		st.Writes.Bytes += seg.written()
		switch {
		case seg.isUnfilled():
			unfilled.add(s, seg)
		case seg.isHalfEmpty():
			halfEmpty.add(s, seg)
		}
	}
	for i := range s.shards {
		sh := &s.shards[i]
		st.Memories += int(sh.memories.Load())
		st.LiveBytes += sh.liveBytes.Load()
	}
	// Writers may have run between the two sums. What they stored counts as live alone: a store that
	// is being filled must not look fragmented.
	st.LiveBytes = min(st.LiveBytes, st.TotalBytes)
	st.DeadBytes = st.TotalBytes - st.LiveBytes
	st.ExpiredBytes = min(st.ExpiredBytes, st.LiveBytes)
	st.FragmentationRatio = fragmentation(st.DeadBytes, st.TotalBytes)
	size := int64(s.medium.keptSize())
	st.unfilled, st.halfEmpty = unfilled.givesBack(size), halfEmpty.givesBack(size)
	return st
}

// mergeable sums up segments that were sealed before they were full: their room, and what a compaction would copy.
type mergeable struct{ room, kept int64 }

func (m *mergeable) add(s *Store, seg *segment) {
	m.room += int64(seg.room(1))
	m.kept += s.unexpired(seg) + seg.tombstoneBytes.Load()
}

// givesBack returns how many bytes come back, beside dead ones, when they are merged into targets of size bytes.
func (m *mergeable) givesBack(size int64) int64 {
	return max(0, m.room+m.kept-targetsFor(m.kept, size)*size)
}

// addSegments adds the figures that are kept per segment.
func (s *Store) addSegments(st *Stats) {
	details := &st.SegmentDetails
	segs, _ := s.segments.snapshot()
	for _, seg := range segs {
		st.Sync.UnsyncedBytes += s.medium.unsynced(seg)
		state := seg.publicState()
		if state != SegmentRetired {
			details.Pins += seg.pins()
		}
		switch state {
		case SegmentRetired: // a moment ago; if a reader holds it, it is counted below
		case SegmentActive:
			details.Active++
		case SegmentCompacting:
			details.Compacting++
		default:
			details.Sealed++
		}
	}
	for _, seg := range s.retired.all() {
		details.Retired++
		details.Pins += seg.pins()
	}
}

// Segments returns a snapshot of every segment in the order of their ids, retired ones included as
// long as a reader keeps them mapped. It reads a few words per segment and stops no other call; the
// figures belong to slightly different moments. Of a closed store only retired segments are left.
func (s *Store) Segments() []SegmentStats {
	segs, _ := s.segments.snapshot()
	list := make([]SegmentStats, 0, len(segs))
	for _, seg := range segs {
		list = append(list, seg.stats())
	}
	for _, seg := range s.retired.all() {
		list = append(list, seg.stats())
	}
	slices.SortFunc(list, func(a, b SegmentStats) int { return cmp.Compare(a.ID, b.ID) })
	// A segment that was retired between the two loops is in the list twice, as it was before and
	// as it is.
	return slices.CompactFunc(list, func(a, b SegmentStats) bool { return a.ID == b.ID })
}

// fragmentation returns dead / total, 0 when total is 0.
func fragmentation(dead, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(dead) / float64(total)
}
