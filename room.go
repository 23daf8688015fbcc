package warmtier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/lockrank"
)

/*
Room is what a store may still map. With Options.MaxBytes everything mapped counts, and for a
directory the files that keep space back: a segment or a table of the index that does not fit is not
made (mapper.claim), so the store is never over its budget, whoever asks. One segment is kept back for
compactions (segmentPool, spares), so one can always run.

A Put that needs room when there is none lets go of every lock first, the lane's rolling included: a
compaction seals lanes, and would wait for the Put that waits for it. Then it sweeps. If a compaction could
give back a tenth of the store it asks for one, waits until something has changed, and tries again. When none
is under way it gives up when there is less to give back, or when one that began after it had asked gave
nothing; and in any case when nothing changes for too long. It asks again only when it was answered.

No wake-up is lost: a writer takes the channel that the next change closes, then tries, then waits. What
changes after it took the channel closes it; what changed before, the try has seen.

A Delete in a directory needs room for its tombstone, and is refused only when there is nothing to give
back: where withRoom has none it runs a compaction for itself, or waits for the one under way
(withRoomForTombstone). Each round of such a compaction makes one target, of the space kept back, and fills it, so it
goes on as long as there are dead records beyond tombstones; what it leaves half empty lanes fill up.

In a store without MaxBytes, Puts wait as well when dead bytes grow faster than the compaction under way
gives them back: see overgrown.
*/

// errOverBudget is why something was not mapped: it would have been over MaxBytes.
var errOverBudget = fmt.Errorf("%w: over MaxBytes", ErrNoSpace)

// room is where writers wait for memory.
type room struct {
	waiting atomic.Int64 // how many writers wait, or are about to

	mu        sync.Mutex // a leaf
	change    chan struct{}
	asked     uint64 // how often a writer has asked for a compaction
	answered  uint64 // askers up to this one got a compaction that gave something back
	fruitless uint64 // of the others, those up to this one got none that did
	dead      int64  // bytes that were dead when that one began
}

// next returns the channel that the next change closes.
func (r *room) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.change == nil {
		r.change = make(chan struct{})
	}
	return r.change
}

// changed wakes all who wait: memory was given back, or nothing will be. Any lock may be held.
func (r *room) changed() {
	if r.waiting.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changedLocked()
}

// changedLocked is changed. REQUIRES: mu held.
func (r *room) changedLocked() {
	if r.change != nil {
		close(r.change)
		r.change = nil
	}
}

// ask counts a writer that asks for a compaction.
func (r *room) ask() (number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.asked
}

// heard returns how many writers have asked so far: those a compaction that begins now answers.
func (r *room) heard() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// answer ends what heard began: a compaction, or the look that decided against one. gave says that
// something was given back; dead is how many bytes were dead when it began.
func (r *room) answer(heard uint64, gave bool, dead int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if gave {
		r.answered = max(r.answered, heard)
	} else {
		r.fruitless, r.dead = max(r.fruitless, heard), dead
	}
	r.changedLocked()
}

// isAsked reports whether a writer has asked and was not answered.
func (r *room) isAsked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked > max(r.answered, r.fruitless)
}

// isFruitless reports whether the asker with this number was answered in vain, and no more is dead than
// was then. One that got memory which another writer took asks again: whatever was looked at since says
// nothing about it. So does one that comes to run long after the answer, when others have used up what
// there was and left dead bytes.
func (r *room) isFruitless(number uint64, dead int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return number > r.answered && number <= r.fruitless && dead <= r.dead
}

// isAnswered reports whether the asker with this number was answered. Until then it keeps its number: rounds wake
// it, and if it drew another one with each of them, every answer would be to the one before, and a compaction that
// gives nothing back would follow on another for good.
func (r *room) isAnswered(number uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return number <= max(r.answered, r.fruitless)
}

const (
	// waitShare is the share of dead bytes beyond which a Put waits for a compaction. A Delete waits while
	// anything is dead.
	waitShare = 0.1

	// A store is overgrown when it maps more than overgrownLive times its live bytes and
	// overgrownBytes beyond.
	overgrownLive  = 2.5
	overgrownBytes = 128 << 20

	// patience is how long a writer waits while nothing changes, and the compaction under way takes no step.
	// Rounds take milliseconds, steps microseconds. A compaction that shows nothing for longer may be waiting
	// for the very writer: OnProgress and the Logger may call Put on the goroutine of the compaction.
	//
	// It is counted in looks, not by the clock: a process that was stopped, or that gets a processor once a
	// second, has had few of them, and so has the compaction.
	patience      = 10 * time.Second
	patienceLooks = 100
)

// withRoom calls try until it gets the room that it needs. When it returns ErrNoSpace dead segments are
// swept; when that is errOverBudget and more than share of the store is dead, which a compaction may give
// back, withRoom waits. REQUIRES: no lock held, Close waits for the caller.
func (s *Store) withRoom(share float64, try func() error) error {
	err := try()
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	lockrank.AssertUnlocked()
	s.maintenance.lack(share)
	defer s.beginWait()()
	var asked uint64
	for {
		change := s.room.next()
		swept := s.sweepCounted()
		s.releaseReplaced()
		if err = try(); !errors.Is(err, ErrNoSpace) { // also when another sweep has just ended
			return err
		}
		if swept > 0 || s.releasePool() {
			continue
		}
		if !errors.Is(err, errOverBudget) {
			return err
		}
		if failed := s.failedSync(); failed != nil { // no compaction will run
			return failed
		}
		compacting := s.compacting.Load()
		st := s.sizes()
		dead := st.reclaimable()
		if compacting = compacting || s.compacting.Load(); compacting {
			dead = 0 // what its rounds have copied is there twice, and is no news for whom the last one found nothing
		}
		hopeless := !s.evicts() && (st.reclaimableShare() <= share || s.opts.Maintenance.Disabled)
		fruitless := asked > 0 && s.room.isFruitless(asked, dead)
		// A compaction under way, a caller's maybe, has memory for its targets, and may have copied most of what was dead:
		// all of that it has yet to give back.
		if (hopeless || fruitless) && !compacting {
			select {
			case <-change: // since the attempt
				continue
			default:
				return s.full(st)
			}
		}
		if !fruitless { // else nobody is asked again
			if asked == 0 || s.room.isAnswered(asked) {
				asked = s.room.ask()
			}
			if s.evicts() && s.opts.Maintenance.Disabled && !errors.Is(s.evictForWrite(), ErrCompactionInProgress) {
				continue
			}
			s.maintenance.lack(share) // a compaction may have begun since
		}
		if changed, err := s.awaitChange(change); err != nil {
			return err
		} else if !changed {
			return s.full(st)
		}
	}
}

// withRoomForTombstone is withRoom for a deletion. REQUIRES: as withRoom.
func (s *Store) withRoomForTombstone(try func() error) error {
	err := s.withRoom(0, try)
	if !errors.Is(err, ErrNoSpace) || !s.leavesTombstones() {
		return err
	}
	defer s.beginWait()()
	for damaged := 0; ; {
		change := s.room.next()
		if err = try(); !errors.Is(err, ErrNoSpace) {
			return err
		}
		c, failed := s.makeSpace()
		nothing := c.gave() <= 0 && c.stats.FileBytesReclaimed <= 0
		switch {
		case errors.Is(failed, ErrCompactionInProgress):
			// A round of it gives something back. OnProgress and the Logger may be what runs this Delete.
			if changed, closed := s.awaitChange(change); closed != nil {
				return closed
			} else if !changed {
				return err
			}
		case errors.Is(failed, ErrCorrupt) && !errors.Is(failed, ErrSyncFailed) && damaged < s.segments.count():
			damaged++ // the next one leaves that segment alone
		case nothing && failed != nil:
			return fmt.Errorf("%w; no space could be made: %w", err, failed)
		case nothing:
			return err
		}
	}
}

// makeSpace runs a compaction until there is space for deletions in all lanes, and returns it.
func (s *Store) makeSpace() (*compaction, error) {
	c := s.newCompaction(triggerAuto)
	c.policy, c.lowSpace = everything{}, true
	c.enough = func() bool {
		s.medium.keepSpares()
		return max(c.stats.FileBytesReclaimed, c.gaveUnfilled()) >= int64(len(s.lanes))*c.segmentSize() &&
			s.disk.keepsAll()
	}
	// Whoever calls Delete does not expect a panic of OnProgress.
	_, err := s.runCompaction(context.WithValue(context.Background(), ownGoroutine{}, true), c, triggerAuto)
	return c, err
}

// beginWait counts a writer that waits, or is about to, until end, and how long it did.
func (s *Store) beginWait() (end func()) {
	start := time.Now()
	s.room.waiting.Add(1)
	return func() {
		s.room.waiting.Add(-1)
		s.meters.waits.observe(time.Since(start))
	}
}

// urgency returns the level at which a compaction has to get on: 1 when memory is short.
func (s *Store) urgency() int32 {
	if s.room.waiting.Load() > 0 || s.nearlyFull() || s.overgrown() {
		return 1
	}
	return 0
}

// hurry makes the compaction under way urgent, until its next round.
func (s *Store) hurry() {
	if p := s.pacing.Load(); p != nil {
		p.urgent(1)
	}
}

// awaitChange waits for change, and reports false when there was none for patience.
func (s *Store) awaitChange(change <-chan struct{}) (changed bool, err error) {
	s.hurry()
	_ = s.hooks.fire(pointRoomWait)
	clock := time.NewTicker(cmp.Or(s.hooks.patience, patience) / patienceLooks)
	defer clock.Stop()
	look := clock.C // looks that come too late are left out
	if s.hooks.looks != nil {
		look = s.hooks.looks
	}
	for left, before := patienceLooks, s.stepped(); left > 0; left-- {
		select {
		case <-change:
			return true, nil
		case <-look:
		case <-s.lifetime.Done():
			return false, ErrClosed
		}
		if now := s.stepped(); now != before {
			left, before = patienceLooks+1, now
		}
	}
	return false, nil
}

// progressMark tells two moments of compactions apart, if one has done something in between.
type progressMark struct {
	of    *pace
	steps int64
}

// stepped returns how far the compaction under way has come.
func (s *Store) stepped() (m progressMark) {
	if m.of = s.pacing.Load(); m.of != nil {
		m.steps = m.of.steps.Load()
	}
	return m
}

// full returns the error of a call that found no room.
func (s *Store) full(st sizes) error {
	mapped, spares := s.medium.held()
	index := s.tables.bytes.Load()
	return fmt.Errorf("%w: %d bytes used of MaxBytes %d (segments %d, index %d, spares %d); "+
		"%d bytes of records are live, %d dead or expired",
		errOverBudget, mapped+spares, s.opts.MaxBytes, mapped-index, index, spares,
		st.LiveBytes-st.ExpiredBytes, st.DeadBytes+st.ExpiredBytes)
}

// overgrown reports whether the store maps so much more than is live that writers should wait for the
// compaction under way.
func (s *Store) overgrown() bool {
	return s.compacting.Load() && s.mapper.bytes.Load() >
		int64(overgrownLive*float64(s.maintenance.liveBytes.Load()))+overgrownBytes
}

// awaitCompaction waits while the store is overgrown: until a round of the compaction under way has given
// memory to lanes, or it ends. REQUIRES: as withRoom.
func (s *Store) awaitCompaction() {
	if s.pool.hasKept() || !s.overgrown() {
		return
	}
	lockrank.AssertUnlocked()
	defer s.beginWait()()
	for {
		change := s.room.next()
		if s.pool.hasKept() || !s.overgrown() {
			return
		}
		if changed, err := s.awaitChange(change); err != nil || !changed {
			return
		}
	}
}
