package warmtier

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/biaslock"
)

// Stats is a snapshot of a store. Sizes are bytes. Each figure is exact, where it does not say that it
// comes from a sample; figures read while others write are of slightly different moments. Counters
// begin with Open.
type Stats struct {
	Memories           int
	Segments           int     // active and sealed
	TotalBytes         int64   // of all records: live and dead
	LiveBytes          int64   // of the records the index points to
	DeadBytes          int64   // of the others
	FragmentationRatio float64 // DeadBytes / TotalBytes, 0 when empty
	MappedBytes        int64   // all memory outside the Go heap: segments, retired ones, reserve, index
	RetiredBytes       int64   // of it, in segments that only a View or an iteration keeps mapped
	ReserveBytes       int64   // of it, kept by automatic compactions for the next segments
	IndexBytes         int64   // of it, in the index, old tables that wait for their readers included

	Puts           int64 // that succeeded, those of GetOrLoad included
	Gets           int64 // calls of Get, AppendContent, View and GetOrLoad, and ids read by GetMany
	Misses         int64 // of them, those that found nothing
	Deletes        int64 // that removed something
	CorruptRecords int64 // met by reads; the same record counts each time

	// Operations: calls that failed for a reason of the caller's (ErrInvalidID, ErrContentTooLarge,
	// ErrReadOnly, ErrClosed) are not counted.
	GetErrors      int64 // reads that met damage, also of All; those of damaged contents are Gets too
	PutErrors      int64
	DeleteErrors   int64
	DeleteMisses   int64     // that found nothing to remove
	ReadBytes      int64     // of contents read: an estimate, from one read in 256
	WrittenBytes   int64     // of records written by Put and Delete since Open
	GetDuration    Histogram // of one Get, AppendContent or View in 256; callbacks not included
	PutDuration    Histogram // of one in 256
	DeleteDuration Histogram // of one in 256
	Loads          int64     // of GetOrLoad, that succeeded
	LoadErrors     int64     // of GetOrLoad, that failed
	LoadDuration   Histogram // of all of them

	SegmentsByState SegmentCounts
	PinnedReaders   int // pins on segments: by View, All, Verify, reads of long contents, and Sync

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

	ManualCompactions     CompactionResults  // by calls of Compact
	AutoCompactions       CompactionResults  // by maintenance cycles
	StartupCompactions    CompactionResults  // by the first cycle, when Open found the store fragmented
	CompactionProgress    CompactionProgress // of the one under way; zero when there is none
	LastCompactionSuccess time.Time          // when the last one without error ended; zero: none did
	BytesCopied           int64              // by all compactions
	CompactionDuration    Histogram          // of all, failed ones included
	SwapDuration          Histogram          // of all holds of the content buffer's write lock
	MaintenanceSkips      SkipCounts
	NextMaintenanceCycle  time.Time // of the background cycle; zero when there is none

	// Stores in a directory; zero in others.
	Syncs         int64 // flushes that succeeded; concurrent calls share one
	SyncErrors    int64
	SyncDuration  Histogram
	UnsyncedBytes int64 // of records that a power loss might take
	Recovery      RecoveryStats
}

// SegmentState is what a segment is being used for.
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
	TotalBytes  int64 // of its records: live and dead
	LiveBytes   int64
	DeadBytes   int64
	Pins        int           // that keep it mapped, beside the store itself
	Age         time.Duration // since it was made, or found by Open
}

// SegmentCounts is how many segments are in each state.
type SegmentCounts struct {
	Active, Sealed, Compacting, Retired int
}

// CompactionResults is how compactions ended.
type CompactionResults struct {
	OK      int64
	Aborted int64 // cancelled by the caller or by Close
	Failed  int64
}

// SkipCounts is how often maintenance cycles did nothing, by [SkipReason].
type SkipCounts struct {
	Threshold, Size, RateLimit, Busy, Memory int64
}

// RecoveryStats says what Open found in a directory.
type RecoveryStats struct {
	Duration       time.Duration
	Clean          bool  // the index was there from a clean Close, and no record was read
	Records        int   // in the segments
	TruncatedBytes int64 // of tails that were not finished
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
	BytesCopied         int64 // of live records, in finished rounds
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
	results     [triggers]CompactionResults
	last        time.Time
	lastSuccess time.Time
	duration    time.Duration
	balance     int64 // bytes given back less those filled
	reclaimed   int64 // the highest balance: one cut off may owe what the next one gives back
	copied      int64
	maxPause    time.Duration
	cycles      int64
	automatic   int64
	decision    SkipReason
	skips       SkipCounts
	nextCycle   time.Time
}

// trigger is what started a compaction.
type trigger int

const (
	triggerManual trigger = iota
	triggerAuto
	triggerStartup
	triggers
)

// String is the trigger's name in logs and metrics.
func (t trigger) String() string { return [triggers]string{"manual", "auto", "startup"}[t] }

func (h *history) addCompaction(by trigger, c CompactionStats, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.duration = time.Now(), c.Duration
	switch {
	case err == nil:
		h.compactions++
		h.lastSuccess = h.last
		h.results[by].OK++
	case isAborted(err):
		h.failures++
		h.results[by].Aborted++
	default:
		h.failures++
		h.results[by].Failed++
	}
	h.balance += c.BytesReclaimed
	h.reclaimed = max(h.reclaimed, h.balance)
	h.copied += c.BytesCopied
	h.maxPause = max(h.maxPause, c.MaxSwapPause)
}

// isAborted reports whether a compaction ended because somebody wanted it to.
func isAborted(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrClosed)
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
	h.decision = r.Skipped
	switch r.Skipped {
	case SkipThreshold:
		h.skips.Threshold++
	case SkipSize:
		h.skips.Size++
	case SkipRateLimit:
		h.skips.RateLimit++
	case SkipBusy:
		h.skips.Busy++
	case SkipMemory:
		h.skips.Memory++
	default:
		h.automatic++
	}
}

func (h *history) expectCycle(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextCycle = at
}

func (h *history) addTo(st *Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Compactions = h.compactions
	st.CompactionFailures = h.failures
	st.ManualCompactions = h.results[triggerManual]
	st.AutoCompactions = h.results[triggerAuto]
	st.StartupCompactions = h.results[triggerStartup]
	st.LastCompaction = h.last
	st.LastCompactionSuccess = h.lastSuccess
	st.LastCompactionDuration = h.duration
	st.BytesReclaimed = h.reclaimed
	st.BytesCopied = h.copied
	st.MaxSwapPause = h.maxPause
	st.MaintenanceCycles = h.cycles
	st.AutomaticCompactions = h.automatic
	st.LastMaintenanceDecision = h.decision
	st.MaintenanceSkips = h.skips
	st.NextMaintenanceCycle = h.nextCycle
}

/*
Durations of operations are those of a sample: reading the clock twice takes as long as a Get. A read is
measured when the counter it adds to anyway (readerSlot) passes a multiple of sampleEvery: so samples come
evenly, and what a read pays is a comparison. Writes draw a random number, which is nothing against what
a write does.
*/
const sampleEvery = 256

// meters are what is measured of operations, where a counter of each shard would cost more than it is
// worth: what is rare, and samples.
type meters struct {
	epoch time.Time // of sampled starts

	getErrors, putErrors, deleteErrors atomic.Int64
	sampledBytes                       atomic.Int64 // of contents read in sampled reads
	syncs, syncErrors                  atomic.Int64
	loadsOK, loadErrors                atomic.Int64

	gets, puts, deletes, loads, compactions, swaps, syncDurations histogram
}

func (m *meters) init() {
	m.epoch = time.Now()
	for _, h := range []*histogram{&m.gets, &m.puts, &m.deletes, &m.loads, &m.syncDurations} {
		h.first = operationBound
	}
	m.compactions.first = compactionBound
	m.swaps.first = swapBound
}

// sampleRead says when the read under hold began if it is to be measured, 0 for the others.
func (m *meters) sampleRead(hold *biaslock.Hold) time.Duration {
	if hold.Gets == 0 || hold.Counted()%sampleEvery != 0 {
		return 0
	}
	return (m.now() - hold.Waited) | 1
}

// sampleWrite says when a write began that is to be measured, 0 for the others.
func (m *meters) sampleWrite() time.Duration {
	if rand.Uint64()%sampleEvery != 0 {
		return 0
	}
	return m.now()
}

// now is never 0.
func (m *meters) now() time.Duration { return time.Since(m.epoch) | 1 }

// readEnded accounts for a sampled read of n bytes. REQUIRES: started is not 0.
func (m *meters) readEnded(started time.Duration, n int) {
	m.gets.observe(m.now() - started)
	m.sampledBytes.Add(int64(n))
}

// writeEnded accounts for the result of a Put or Delete.
func (m *meters) writeEnded(started time.Duration, err error, durations *histogram, failures *atomic.Int64) {
	switch {
	case err == nil:
		if started != 0 {
			durations.observe(m.now() - started)
		}
	case errors.Is(err, ErrInvalidID), errors.Is(err, ErrContentTooLarge), errors.Is(err, ErrReadOnly),
		errors.Is(err, ErrClosed): // the caller's
	default:
		failures.Add(1)
	}
}

// loadEnded accounts for a load.
func (m *meters) loadEnded(d time.Duration, ok bool) {
	m.loads.observe(d)
	if ok {
		m.loadsOK.Add(1)
	} else {
		m.loadErrors.Add(1)
	}
}

func (m *meters) addTo(st *Stats) {
	st.Loads = m.loadsOK.Load()
	st.LoadErrors = m.loadErrors.Load()
	st.LoadDuration = m.loads.snapshot()
	st.GetErrors = m.getErrors.Load()
	st.PutErrors = m.putErrors.Load()
	st.DeleteErrors = m.deleteErrors.Load()
	st.ReadBytes = m.sampledBytes.Load() * sampleEvery
	st.Syncs = m.syncs.Load()
	st.SyncErrors = m.syncErrors.Load()
	st.GetDuration = m.gets.snapshot()
	st.PutDuration = m.puts.snapshot()
	st.DeleteDuration = m.deletes.snapshot()
	st.CompactionDuration = m.compactions.snapshot()
	st.SwapDuration = m.swaps.snapshot()
	st.SyncDuration = m.syncDurations.snapshot()
}

// Stats returns the figures of the store. It reads a few words per shard and per segment, and stops
// nobody. Of a closed store only the counters are left.
func (s *Store) Stats() Stats {
	st := s.sizes()
	for i := range s.shards {
		sh := &s.shards[i]
		st.Puts += sh.puts.Load()
		st.Deletes += sh.deletes.Load()
		st.DeleteMisses += sh.deleteMisses.Load()
	}
	hits, misses := s.contentMu.biased.Counts()
	st.Gets, st.Misses = hits+misses, misses
	st.IndexBytes = s.tables.bytes.Load()
	st.MappedBytes = s.mapper.bytes.Load()
	st.RetiredBytes = s.retiredBytes.Load()
	st.ReserveBytes = int64(s.reserve.count()) * int64(s.opts.SegmentSize)
	st.CorruptRecords = s.corruptRecords.Load()
	st.CompactionInProgress = s.compacting.Load()
	st.CompactionProgress = s.progress()
	st.Recovery = s.recovered
	s.addSegments(&st)
	s.meters.addTo(&st)
	s.history.addTo(&st)
	return st
}

// sizes are the figures that compactions are decided by.
func (s *Store) sizes() (st Stats) {
	for i := range s.shards {
		sh := &s.shards[i]
		st.Memories += int(sh.memories.Load())
		st.LiveBytes += sh.liveBytes.Load()
	}
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
	return st
}

// addSegments adds what is counted by segment.
func (s *Store) addSegments(st *Stats) {
	hold := s.contentMu.RLock()
	st.WrittenBytes = s.writtenGone
	for _, seg := range s.segments.all() {
		st.WrittenBytes += seg.written()
		if s.disk != nil && !s.opts.ReadOnly && seg.committed.Load() {
			st.UnsyncedBytes += max(0, seg.tail.Load()-seg.synced.Load())
		}
		st.PinnedReaders += seg.pins()
		switch seg.publicState() {
		case SegmentActive:
			st.SegmentsByState.Active++
		case SegmentCompacting:
			st.SegmentsByState.Compacting++
		default:
			st.SegmentsByState.Sealed++
		}
	}
	s.contentMu.RUnlock(hold)
	for _, seg := range s.retired.all() {
		st.SegmentsByState.Retired++
		st.PinnedReaders += seg.pins()
	}
}

// Segments returns a snapshot of every segment, in the order of their ids, retired ones included as long
// as a reader keeps them mapped. It reads a few words per segment and stops nobody; the figures are of
// slightly different moments. Of a closed store only retired segments are left.
func (s *Store) Segments() []SegmentStats {
	hold := s.contentMu.RLock()
	segs := s.segments.all()
	list := make([]SegmentStats, 0, len(segs))
	for _, seg := range segs {
		list = append(list, seg.stats())
	}
	s.contentMu.RUnlock(hold)
	for _, seg := range s.retired.all() {
		list = append(list, seg.stats())
	}
	slices.SortFunc(list, func(a, b SegmentStats) int { return cmp.Compare(a.ID, b.ID) })
	// One that was retired between the two is there twice: as it was, and as it is.
	return slices.CompactFunc(list, func(a, b SegmentStats) bool { return a.ID == b.ID })
}

// fragmentation is dead / total, 0 when there is nothing.
func fragmentation(dead, total int64) float64 {
	if total == 0 {
		return 0
	}
	return float64(dead) / float64(total)
}
