package warmtier

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/vm"
)

// SkipReason says why a maintenance cycle did not compact.
type SkipReason string

// Reasons why a cycle did not compact.
const (
	SkipThreshold SkipReason = "threshold"  // FragmentationRatio is under FragmentationThreshold
	SkipSize      SkipReason = "size"       // TotalBytes is under MinBytes
	SkipRateLimit SkipReason = "rate_limit" // neither MinPeriod has passed nor enough has died since the last one began
	SkipBusy      SkipReason = "busy"       // another compaction runs
	SkipMemory    SkipReason = "memory"     // the memory that a compaction may take is too small for any victim
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

// recountEvery is how old a count of the process's mappings gets while a store maintains itself.
const recountEvery = 10 * time.Second

// maintenance is the state of maintenance cycles.
type maintenance struct {
	mu sync.Mutex // one cycle at a time; only ever tried, so it has no place in the lock order
	// startup makes the next cycle compact, whatever the rules say: Open found the store
	// fragmented.
	startup bool
	last    time.Time // when the last automatic compaction began; zero before the first
	died    int64     // bytes that had died by then: see died

	wake      chan struct{} // of the background; one wake waits
	looks     int64         // usualLooks, or evictLooks; constant
	written   atomic.Int64  // bytes of segments that lanes have sealed, and of large records
	nextLook  atomic.Int64  // the written at which the background looks whether a compaction is due
	liveBytes atomic.Int64  // at the last look
	// short says that a write found no space since the last automatic compaction began, and buried that
	// a Delete did, which needs space for its tombstone.
	short, buried atomic.Bool
}

// request wakes the background, which looks whether a compaction is due. Any lock may be held.
func (m *maintenance) request() {
	select {
	case m.wake <- struct{}{}:
	default: // it is about to look
	}
}

// lack notes that a write found no space, which waits while more than share is dead, and wakes the
// background.
func (m *maintenance) lack(share float64) {
	m.short.Store(true)
	if share == 0 {
		m.buried.Store(true)
	}
	m.request()
}

// noteWritten counts bytes of records in a segment that is full, and now and then wakes the background.
// Any lock may be held.
func (m *maintenance) noteWritten(bytes int64) {
	if m.written.Add(bytes) >= m.nextLook.Load() {
		m.request()
	}
}

// usualLooks is how often the background looks while as much is written as the store holds.
const usualLooks = 32

// noteSizes notes what a look has seen, and when the next one is due.
func (m *maintenance) noteSizes(st sizes) {
	m.liveBytes.Store(st.LiveBytes)
	m.nextLook.Store(m.written.Load() + st.TotalBytes/m.looks)
}

// died returns how many bytes have died or expired since Open, plus a constant: what was written and is not
// live.
func died(st sizes) int64 { return st.Writes.Bytes - st.LiveBytes + st.ExpiredBytes }

// maintain runs the background cycles until Close: by the clock, and when it is woken.
func (s *Store) maintain() {
	ticker := time.NewTicker(s.opts.Maintenance.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-s.lifetime.Done():
			return
		case <-ticker.C:
			s.history.expectCycle(time.Now().Add(s.opts.Maintenance.Interval))
			s.cycle()
		case <-s.maintenance.wake:
			s.look()
		}
	}
}

// cycle is Maintain for the background. A compaction logs its own error; after a failed flush none
// starts, and the error is logged here.
func (s *Store) cycle() {
	if _, err := s.Maintain(s.lifetime); errors.Is(err, ErrSyncFailed) {
		s.opts.Logger.Error("automatic compaction failed", "error", err)
	}
}

// look runs a cycle if a compaction is due, and tells the writers that have asked for one if it is not.
// Only the background calls it.
func (s *Store) look() {
	heard := s.room.heard()
	if s.maintenance.mu.TryLock() {
		st := s.sizes()
		reason := s.reasonToSkip(st, time.Now())
		s.maintenance.mu.Unlock()
		if reason != "" {
			s.answerIdle(heard, &st)
			return
		}
	}
	s.cycle()
}

// answerIdle tells the writers heard that no compaction is due in a store of these sizes. While one is under way, which
// a caller may have begun, nothing is said: writers are told when it ends, and ask again if they find no room then.
func (s *Store) answerIdle(heard uint64, st *sizes) {
	if s.compacting.Load() {
		return
	}
	s.room.answer(heard, s.keepsForLanes(), st.reclaimable())
}

// Maintain runs one maintenance cycle now, whether or not the background cycle is disabled: it
// compacts when the rules of [MaintenanceOptions] say so. The report says what it saw, what it did,
// and why if it did nothing, which is no error. It panics when ctx is nil.
//
// Errors: [ErrClosed], [ErrReadOnly], ctx's error with its cause, and those of [Store.Compact] when a
// compaction was started and failed. Memory too short for the live bytes of a single segment and another
// compaction under way are reasons to skip and no errors.
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
	if s.maintenance.mu.TryLock() {
		err = s.maintainLocked(ctx, st, &r)
	} else {
		r.Skipped = SkipBusy
	}
	r.Duration = time.Since(start)
	s.history.addCycle(r)
	s.logCycle(r)
	return r, err
}

// maintainLocked is one cycle, and completes its report. REQUIRES: maintenance.mu held, which it releases.
func (s *Store) maintainLocked(ctx context.Context, st sizes, r *MaintenanceReport) (err error) {
	m := &s.maintenance
	defer m.mu.Unlock() // OnProgress and a log handler may panic
	start := time.Now()
	heard := s.room.heard()
	trigger := triggerAuto
	if m.startup {
		trigger = triggerStartup
	}
	s.noteAllDead()
	s.sweepNoted()
	r.Skipped = s.reasonToSkip(st, start)
	if r.Skipped == "" {
		m.startup = false
		m.short.Store(false)
		m.buried.Store(false)
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
			m.last, m.died = start, died(st)
		}
		m.noteSizes(s.sizes())
	}
	if r.Skipped != SkipBusy && r.Compaction == (CompactionStats{}) { // one that ran has answered itself
		s.answerIdle(heard, &st)
	}
	for i := range s.shards {
		s.suit(&s.shards[i]) // writes that have stopped may have left a table half filled
	}
	s.releaseAll(s.pool.takeUnused(start.Add(-s.opts.Maintenance.Interval)))
	_ = s.mapper.unreturned.returnAll() // what is left is in Stats
	vm.Recount(recountEvery)
	return err
}

// reasonToSkip applies the rules: it returns why a cycle must not compact, empty if it must. REQUIRES:
// maintenance.mu held.
func (s *Store) reasonToSkip(st sizes, now time.Time) SkipReason {
	m, opts := &s.maintenance, s.opts.Maintenance
	m.noteSizes(st)
	switch {
	case m.startup || s.isPressed(st):
	case fragmentation(st.DeadBytes+expiredWeight*st.ExpiredBytes+st.unfilled, st.TotalBytes+st.unfilled) <
		opts.FragmentationThreshold:
		return SkipThreshold
	case st.TotalBytes+st.unfilled < opts.MinBytes:
		return SkipSize
	case !m.last.IsZero() && now.Sub(m.last) < opts.MinPeriod && !s.hasDied(st) && !hasExpired(st):
		return SkipRateLimit
	}
	return ""
}

// hasDied reports whether so much has died since the last automatic compaction began that the next one
// is paid for by what was written: it copies at most about a byte for each of these.
func (s *Store) hasDied(st sizes) bool {
	least := max(st.LiveBytes, s.opts.Maintenance.MinBytes, int64(s.opts.SegmentSize))
	return died(st)-s.maintenance.died >= least
}

// What has expired counts expiredWeight times: much of it can be given back uncopied, in segments of
// memories with one time to live, and a store of such memories is to stay small. From expiredShare of all
// records on, no compaction waits for MinPeriod: it is paid for by what has expired.
const (
	expiredWeight = 2
	expiredShare  = 0.25
)

// hasExpired reports whether so much has expired that a compaction is due, however long ago the last one
// was.
func hasExpired(st sizes) bool { return fragmentation(st.ExpiredBytes, st.TotalBytes) >= expiredShare }

// isPressed reports whether little room is left, and a compaction would give some back.
func (s *Store) isPressed(st sizes) bool {
	m := &s.maintenance
	share := st.reclaimableShare()
	return s.lacksRoom() || s.evicts() && s.room.isAsked() && !s.keepsForLanes() ||
		share >= waitShare && (s.nearlyFull() || m.short.Load() || s.room.isAsked()) ||
		st.reclaimable() > 0 && m.buried.Load()
}

// nearlyFull reports whether less than an eighth of MaxBytes is left.
func (s *Store) nearlyFull() bool {
	limit := s.mapper.limit
	return limit > 0 && s.mapper.bytes.Load()-s.pool.bytes() > limit-limit/8
}

// repeat calls fn at every interval until it returns false, on a goroutine that Close waits for.
func (s *Store) repeat(interval time.Duration, fn func() (more bool)) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for more := true; more; {
			select {
			case <-s.lifetime.Done():
				return
			case <-ticker.C:
				more = fn()
			}
		}
	}()
}
