package warmtier

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/biaslock"
)

// history collects what Stats says about past compactions and maintenance cycles.
type history struct {
	mu          sync.Mutex // a leaf: nothing is acquired under it
	compactions int64
	failures    int64
	results     [triggers]CompactionResults
	last        time.Time
	lastSuccess time.Time
	duration    time.Duration
	balance     int64 // bytes given back less those filled
	reclaimed   int64 // the highest balance so far; one cut off early may owe what the next gives back
	copied      int64
	maxPause    time.Duration
	cycles      int64
	automatic   int64
	lastSkipped SkipReason
	skips       SkipCounts
	nextCycle   time.Time
}

// trigger says what started a compaction.
type trigger int

const (
	triggerManual trigger = iota
	triggerAuto
	triggerStartup
	triggers
)

// String returns the trigger's name in logs and metrics.
func (t trigger) String() string { return [triggers]string{"manual", "auto", "startup"}[t] }

// addCompaction counts a compaction that ended with c and err.
func (h *history) addCompaction(trigger trigger, c CompactionStats, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.duration = time.Now(), c.Duration
	switch {
	case err == nil:
		h.compactions++
		h.lastSuccess = h.last
		h.results[trigger].OK++
	case isAborted(err):
		h.failures++
		h.results[trigger].Cancelled++
	default:
		h.failures++
		h.results[trigger].Failed++
	}
	h.balance += c.BytesReclaimed
	h.reclaimed = max(h.reclaimed, h.balance)
	h.copied += c.BytesCopied
	h.maxPause = max(h.maxPause, c.MaxSwapPause)
}

// addSweep counts bytes of records that a sweep gave back.
func (h *history) addSweep(reclaimed int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.balance += reclaimed
	h.reclaimed = max(h.reclaimed, h.balance)
}

// addPause counts a hold of the content buffer's write lock outside of compactions for
// MaxSwapPause.
func (h *history) addPause(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.maxPause = max(h.maxPause, d)
}

// addCycle counts a maintenance cycle.
func (h *history) addCycle(r MaintenanceReport) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cycles++
	h.lastSkipped = r.Skipped
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

// expectCycle notes when the next background cycle will run.
func (h *history) expectCycle(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextCycle = at
}

// addTo copies the history into st.
func (h *history) addTo(st *Stats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st.Compactions = h.compactions
	st.CompactionFailures = h.failures
	st.LastCompaction = h.last
	st.LastCompactionDuration = h.duration
	st.BytesReclaimed = h.reclaimed
	st.MaxSwapPause = h.maxPause
	details := &st.CompactionDetails
	details.Manual = h.results[triggerManual]
	details.Automatic = h.results[triggerAuto]
	details.Startup = h.results[triggerStartup]
	details.LastSuccess = h.lastSuccess
	details.BytesCopied = h.copied
	st.Maintenance = MaintenanceStats{
		Cycles: h.cycles, Compactions: h.automatic, LastSkipped: h.lastSkipped, Skips: h.skips, NextCycle: h.nextCycle,
	}
}

/*
Durations of operations come from a sample, because reading the clock twice takes as long as a Get.
A read is measured when the counter that it adds to anyway (biaslock.Hold.Counted) passes a multiple
of sampleEvery, so samples are spread evenly and a read pays for one comparison. A write draws a
random number, which costs nothing beside the rest of a write.
*/
const sampleEvery = 256

// meters collects what is rare and what is sampled: neither is worth a counter in each shard.
type meters struct {
	epoch time.Time // the moment that sampled starts are counted from

	getErrors, putErrors, putsChanged, deleteErrors atomic.Int64
	sampledBytes                                    atomic.Int64 // of the contents that sampled reads returned
	syncs, syncErrors                               atomic.Int64
	loadsOK, loadErrors                             atomic.Int64
	clears                                          atomic.Int64
	expired, evicted, evictedBytes, dropFailures    atomic.Int64

	gets, puts, deletes, loads, compactions, swaps, syncDurations, waits histogram
}

func (m *meters) init() {
	m.epoch = time.Now()
	for _, h := range []*histogram{&m.gets, &m.puts, &m.deletes, &m.loads, &m.syncDurations} {
		h.first = operationBound
	}
	m.compactions.first, m.waits.first = compactionBound, compactionBound // a wait is one for compactions
	m.swaps.first = swapBound
}

// sampleRead returns when the read under hold began, and 0 if it is not to be measured.
func (m *meters) sampleRead(hold *biaslock.Hold) time.Duration {
	if hold.Counted()%sampleEvery != 0 {
		return 0
	}
	return (m.now() - hold.Waited) | 1
}

// sampleWrite returns the time at which a write begins, and 0 if it is not to be measured.
func (m *meters) sampleWrite() time.Duration {
	if rand.Uint64()%sampleEvery != 0 {
		return 0
	}
	return m.now()
}

// now returns the time since epoch, never 0.
func (m *meters) now() time.Duration { return time.Since(m.epoch) | 1 }

// readEnded counts a sampled read of n bytes. REQUIRES: started is not 0.
func (m *meters) readEnded(started time.Duration, n int) {
	m.gets.observe(m.now() - started)
	m.sampledBytes.Add(int64(n))
}

// writeEnded counts a Put or Delete that ended with err; started is 0 when it is not in the sample.
func (m *meters) writeEnded(started time.Duration, err error, durations *histogram, failures *atomic.Int64) {
	switch {
	case err == nil:
		if started != 0 {
			durations.observe(m.now() - started)
		}
	case errors.Is(err, ErrInvalidID), errors.Is(err, ErrContentTooLarge), errors.Is(err, ErrBatchTooLarge),
		errors.Is(err, ErrInvalidTTL), errors.Is(err, ErrReadOnly), errors.Is(err, ErrClosed):
		// the caller's mistake, not the store's
	default:
		failures.Add(1)
	}
}

// loadEnded counts a load of GetOrLoad.
func (m *meters) loadEnded(d time.Duration, ok bool) {
	m.loads.observe(d)
	if ok {
		m.loadsOK.Add(1)
	} else {
		m.loadErrors.Add(1)
	}
}

// countDrop counts a memory that was dropped.
func (m *meters) countDrop(d *drop) {
	if d.fate == fateExpired {
		m.expired.Add(1)
	} else {
		m.evicted.Add(1)
		m.evictedBytes.Add(int64(d.size))
	}
}

// addTo copies the meters into st.
func (m *meters) addTo(st *Stats) {
	st.Reads.Errors = m.getErrors.Load()
	st.Reads.Bytes = m.sampledBytes.Load() * sampleEvery
	st.Reads.Duration = m.gets.snapshot()
	st.Writes.PutErrors = m.putErrors.Load()
	st.Writes.PutsChanged = m.putsChanged.Load()
	st.Writes.DeleteErrors = m.deleteErrors.Load()
	st.Writes.PutDuration = m.puts.snapshot()
	st.Writes.DeleteDuration = m.deletes.snapshot()
	st.Writes.WaitDuration = m.waits.snapshot()
	st.Clears = m.clears.Load()
	st.Loads = LoadStats{OK: m.loadsOK.Load(), Errors: m.loadErrors.Load(), Duration: m.loads.snapshot()}
	st.Drops = DropStats{
		Expired: m.expired.Load(), Failures: m.dropFailures.Load(),
		Evicted: m.evicted.Load(), EvictedBytes: m.evictedBytes.Load(),
	}
	st.CompactionDetails.Duration = m.compactions.snapshot()
	st.CompactionDetails.SwapDuration = m.swaps.snapshot()
	st.Sync.OK = m.syncs.Load()
	st.Sync.Errors = m.syncErrors.Load()
	st.Sync.Duration = m.syncDurations.snapshot()
}
