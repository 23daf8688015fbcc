package warmtier

import (
	"context"
	"errors"
	"sync"
	"time"
)

// SkipReason says why a maintenance cycle did not compact.
type SkipReason string

// Reasons why a cycle did not compact.
const (
	SkipThreshold SkipReason = "threshold"  // FragmentationRatio is under FragmentationThreshold
	SkipSize      SkipReason = "size"       // TotalBytes is under MinBytes
	SkipRateLimit SkipReason = "rate_limit" // the last automatic compaction began less than MinPeriod ago
	SkipBusy      SkipReason = "busy"       // another compaction runs
	SkipMemory    SkipReason = "memory"     // the memory that a compaction may take is too small for one segment
)

// MaintenanceReport says what one maintenance cycle saw and did.
type MaintenanceReport struct {
	FragmentationRatio float64         // when the cycle began
	TotalBytes         int64           // when the cycle began
	Compacted          bool            // a compaction ran to its end
	Skipped            SkipReason      // why no compaction was started; empty when one was
	Compaction         CompactionStats // what the compaction did, also when it failed
	Duration           time.Duration
}

// maintenance is the state of maintenance cycles.
type maintenance struct {
	mu sync.Mutex // one cycle at a time; only ever tried, so it has no place in the lock order
	// startup makes the next cycle compact, whatever the rules say: Open found the store
	// fragmented.
	startup bool
	last    time.Time // when the last automatic compaction began; zero before the first
}

// cycle is Maintain for the background. A compaction logs its own error; after a failed flush none
// starts, and the error is logged here.
func (s *Store) cycle() {
	if _, err := s.Maintain(s.lifetime); errors.Is(err, ErrSyncFailed) {
		s.opts.Logger.Error("automatic compaction failed", "error", err)
	}
}

// Maintain runs one maintenance cycle now, whether or not the background cycle is disabled: it
// compacts when the rules of [MaintenanceOptions] say so. The report says what it saw, what it did,
// and why if it did nothing, which is no error. It panics when ctx is nil.
//
// Errors: [ErrClosed], [ErrReadOnly], ctx's error with its cause, and those of [Store.Compact] when a compaction
// was started and failed. Memory too short for one segment and another compaction under way are
// reasons to skip and no errors.
func (s *Store) Maintain(ctx context.Context) (MaintenanceReport, error) {
	checkContext(ctx)
	if s.opts.ReadOnly {
		return MaintenanceReport{}, ErrReadOnly
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return MaintenanceReport{}, err
	}
	defer done()
	start := time.Now()
	st := s.sizes()
	r := MaintenanceReport{FragmentationRatio: st.FragmentationRatio, TotalBytes: st.TotalBytes}
	if err := stopped(ctx); err != nil {
		return r, s.whyStopped(ctx, err)
	}
	if !s.maintenance.mu.TryLock() {
		r.Skipped = SkipBusy
		s.history.addCycle(r)
		s.logCycle(r)
		return r, nil
	}
	defer s.maintenance.mu.Unlock()
	trigger := triggerAuto
	if s.maintenance.startup {
		trigger = triggerStartup
	}
	r.Skipped = s.reasonToSkip(st, start)
	if r.Skipped == "" {
		r.Compaction, err = s.compact(ctx, trigger)
		switch {
		case err == nil:
			r.Compacted = true
		case isAborted(err): // first: nobody else's error is looked for in the cause of a context
		case errors.Is(err, ErrCompactionInProgress):
			r.Skipped, err = SkipBusy, nil
		case errors.Is(err, ErrInsufficientMemory) && r.Compaction.Rounds == 0:
			r.Skipped, err = SkipMemory, nil
		}
		if r.Skipped == "" {
			s.maintenance.last = start
		}
	}
	s.releaseAll(s.pool.takeUnused(start.Add(-s.opts.Maintenance.Interval)))
	r.Duration = time.Since(start)
	s.history.addCycle(r)
	s.logCycle(r)
	return r, err
}

// reasonToSkip applies the rules: it returns why the cycle must not compact, empty if it must.
func (s *Store) reasonToSkip(st Stats, now time.Time) SkipReason {
	m := s.opts.Maintenance
	switch {
	case s.maintenance.startup:
		s.maintenance.startup = false
	case st.FragmentationRatio < m.FragmentationThreshold:
		return SkipThreshold
	case st.TotalBytes < m.MinBytes:
		return SkipSize
	case !s.maintenance.last.IsZero() && now.Sub(s.maintenance.last) < m.MinPeriod:
		return SkipRateLimit
	}
	return ""
}
