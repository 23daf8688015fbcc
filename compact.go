package warmtier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

/*
Compaction copies the live records of victims into targets and gives the victims back, while reads
and writes go on. The shape is that of the cleaner of log-structured memory (Rumble, Kejriwal,
Ousterhout: "Log-structured Memory for DRAM-based Storage", FAST '14, section 4). What differs: a
round is all or nothing, and readers hold a lock for a moment where theirs are in an epoch.

	seal    every lane continues in a new segment with its next record. From here on victims are
	        immutable, and what is written lands elsewhere. (Automatic maintenance leaves the active
	        segments alone that are not worth it: they are no victims.)
	walk    the index is read for the victims ahead (victims.go), a few times at most. It knows which records are
	        live, so dead ones are never touched.
	round   build   workers copy live records to targets, verify the copies, and stage a move for
	                each: old slot, new slot (build.go). Nothing of it is visible.
	        commit  the targets enter the table, then each slot that is still the old one becomes the
	                new one (flip.go). Where it is not, the memory was superseded, and its copy is
	                dead on arrival.
	        drop    memories that were staged for it, of the victims that leave, go out of the index
	                (drops.go).
	        swap    victims that no slot names leave the table, with contentMu held for writing.
	        Rounds follow until no victim is left. An error before the swap undoes the round.

Targets in, slots over, victims out: in this order every slot leads to a segment in the table at
every moment. docs/design.md shows in section 8 why no reader sees a wrong byte, in section 9 why
the two obvious orders are wrong, in section 10 why no write is lost, and in section 11 why undo is
exact.

A round ends when its targets are full, not when a victim is empty: a victim that was copied in part
stays in the table with fewer live bytes, and the next round continues with it. So every target but
the last is full, and no round has to be planned to fit.

Recycling: the memory of victims without pins becomes the next round's targets, and a bounded round
maps a new segment only when there is none to recycle. So the first round is small, the survivor
unless the segment pool held more, the following ones grow up to MaxOverhead, and the compaction as
a whole maps nothing beyond what the store had kept back. Fresh pages would cost more than the
copying (a first touch is a page fault).
*/

// Compact gives back the space of all dead bytes, as far as its bounds allow: see
// [CompactionOptions]. Reads and writes go on, and wait for it no longer than one batch of index
// slots, or MaxSwapPause, takes. Segments without dead bytes stay, unless they were sealed half
// empty and can be merged.
//
// It copies every live record of the segments it compacts and holds, beyond them, the segment that is
// kept back for it, in a directory up to MaxOverhead (with a negative MaxOverhead: all live bytes again),
// and about 28 bytes per memory of a round. Segments in which nothing is live leave first, whatever
// becomes of the rest.
//
// When ctx is cancelled it stops within milliseconds: finished rounds stay, and the current one is
// undone. The statistics returned with an error say what was done until then. A panic of OnProgress
// passes through, and undoes the current round. Compact panics when ctx is nil.
//
// Errors: [ErrCompactionInProgress]; [ErrClosed]; [ErrReadOnly]; [ErrSyncFailed];
// [ErrCompactionFailed], which wraps ctx's error and its cause, [ErrInsufficientMemory],
// [ErrNoSpace], [ErrClosed] when Close cancelled it, or [ErrCorrupt] when a live record is damaged. The damaged
// segment is left alone from then on, so that the next compaction can give back the others.
func (s *Store) Compact(ctx context.Context) (CompactionStats, error) {
	checkContext(ctx)
	return s.compact(ctx, triggerManual)
}

// compact is Compact with any trigger.
func (s *Store) compact(ctx context.Context, trigger trigger) (CompactionStats, error) {
	return s.runCompaction(ctx, s.newCompaction(trigger), trigger)
}

// runCompaction is compact for c, a new compaction.
func (s *Store) runCompaction(ctx context.Context, c *compaction, trigger trigger) (_ CompactionStats, err error) {
	if s.opts.ReadOnly {
		return CompactionStats{}, ErrReadOnly
	}
	if err := s.failedSync(); err != nil {
		return CompactionStats{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return CompactionStats{}, err
	}
	defer done()
	if !s.compacting.CompareAndSwap(false, true) {
		return CompactionStats{}, ErrCompactionInProgress
	}
	st := s.sizes()
	s.maintenance.noteSizes(st)
	heard := s.room.heard()
	s.pacing.Store(c.pace)
	defer func() {
		s.pacing.Store(nil)
		s.compacting.Store(false)
		c.noteBarren()
		// One that only gave dead bytes back is not the last word of a store that evicts.
		gave := c.gave() > 0 || isAborted(err) || s.evicts() && !c.evicts()
		if s.evicts() && c.gave() >= c.segmentSize() { // who asked meanwhile is to look first: see mustEvict
			heard = s.room.heard()
		}
		s.room.answer(heard, gave, st.reclaimable())
	}()
	c.own = onOwnGoroutine(ctx)
	c.liveBytes = st.LiveBytes
	c.recordSize = float64(max(1, st.LiveBytes)) / float64(max(1, st.Memories))
	c.stats.before(st.Stats)
	c.unfilled = st.unfilled + st.halfEmpty
	unreturned := s.mapper.unreturned.bytes.Load()
	s.logCompactionStart(trigger, st.Stats)
	err = c.run(ctx)
	if c.evicts() {
		s.fitGhosts()
	}
	if failed := c.sweep(); err == nil { // what died while the compaction had claimed it
		err = failed
	}
	s.medium.keepSpares()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCompactionFailed, inner{s.whyStopped(ctx, err)})
	}
	_ = s.mapper.unreturned.returnAll() // what is left is told here, and in Stats
	c.stats.subtractUnreturned(s.mapper.unreturned.bytes.Load() - unreturned)
	c.stats.BytesCopied = c.progress.BytesCopied
	c.stats.after(s.sizes().Stats, time.Since(c.start))
	s.meters.compactions.observe(c.stats.Duration)
	s.history.addCompaction(trigger, c.stats, err)
	s.logCompactionEnd(trigger, c.stats, err)
	return c.stats, err
}

// compaction is one call of Compact, or one that maintenance started.
//
// It has claimed its victims and targets (I5, sweep.go), so nobody else takes them out of the table, and
// it reads them with no lock and no pin.
type compaction struct {
	s          *Store
	policy     policy
	start      time.Time
	stats      CompactionStats
	progress   CompactionProgress
	size       int          // of a target, unless one record is larger, bytes
	maxTargets int          // of one round
	recordSize float64      // of a live record on average, bytes
	liveBytes  int64        // of the store, when it began
	claimed    []*victim    // all that it has chosen
	victims    []*victim    // chosen, not walked yet
	walked     []*victim    // walked, and not in work yet
	work       []*victim    // that the next rounds choose from, with records left to copy
	sealed     []sealedLane // lanes whose active segment it sealed
	pool       [][]byte     // the survivor, and memory of victims, to be used again; the last ones first
	present    int          // bytes of pool[0] whose pages are there
	enough     func() bool  // ends it after a round; nil: when no victim is left
	keep       int          // segments of the pool that lanes get when the compaction ends
	complete   bool         // ended without an error, or a panic of OnProgress
	lowSpace   bool         // there was no space for a target: rounds of one target from then on
	extra      int64        // bytes mapped by this compaction less those it unmapped
	unfilled   int64        // of sizes, and halfEmpty, when it began
	remakes    bool         // the disk has space for another spare of the target's: set by fitOneTarget
	staged     []moves      // of the current round, one for each worker; kept for the next
	pace       *pace
	mayKeep    int64 // bytes that may still be copied, of the group that it evicts
	passed     int   // segments that the hand has passed over
	sacrificed bool  // the round under way drops all of its only victim
	own        bool  // on a goroutine of the store's, where OnProgress is called apart
	muted      bool  // OnProgress did not return there: it is called no more
}

func (s *Store) newCompaction(trigger trigger) *compaction {
	c := &compaction{s: s, policy: s.policy(trigger), start: time.Now(), maxTargets: math.MaxInt}
	c.size = s.medium.keptSize()
	c.pace = newPace(s.opts.Compaction.Workers, s.opts.urgentWorkers)
	if bound := s.opts.Compaction.MaxOverhead; bound > 0 {
		c.maxTargets = int(min(max(1, bound/c.segmentSize()), int64(s.maxSegments())))
	}
	return c
}

// gave returns how many bytes c has given back: of records, or of room in segments sealed before they were full.
func (c *compaction) gave() int64 { return max(c.stats.BytesReclaimed, c.gaveUnfilled()) }

// gaveUnfilled returns how much memory c has given back if there was room in segments sealed before they were full;
// what is copied from there is no less than it was, so records do not say it.
func (c *compaction) gaveUnfilled() int64 {
	if c.unfilled == 0 {
		return 0
	}
	return -c.extra
}

// run sweeps, seals, chooses, and runs rounds until no victim is left. Nothing is sealed before it is
// known that there is memory for a round, and lanes get back what was sealed when the compaction fails:
// they are then as able to write as they were.
func (c *compaction) run(ctx context.Context) error {
	if err := stopped(ctx); err != nil {
		return err
	}
	c.s.noteAllDead()
	if err := c.sweep(); err != nil {
		return err
	}
	defer c.s.releaseReplaced()
	defer c.drainPool()
	var begun int
	c.pool, c.present, begun = c.s.pool.lend(2*c.s.opts.Maintenance.Interval, !c.evicts())
	c.keep = c.policy.keepForLanes(begun)
	defer c.end()
	if err := c.mayRun(); err != nil {
		return err
	}
	c.sealed = c.s.sealLanes(c.policy.sealShare())
	if err := c.s.hooks.fire(pointCompactSealed); err != nil {
		return err
	}
	c.chooseVictims()
	for {
		if err := c.fillWork(ctx); err != nil {
			return err
		}
		if len(c.work) == 0 {
			if c.evicts() && c.stats.Rounds == 0 && c.takeMore() {
				continue
			}
			c.complete = true
			return nil
		}
		if err := c.nextRound(ctx); errors.Is(err, errCleared) {
			c.complete = true // all that it had chosen is dead
			return nil
		} else if err != nil {
			return err
		}
		if c.enough != nil && c.enough() {
			return nil // victims stay, and lanes get back what was sealed
		}
	}
}

// sweep gives back the dead segments.
func (c *compaction) sweep() error {
	gone, err := c.s.sweep()
	c.stats.BytesReclaimed += gone.records
	c.stats.FileBytesReclaimed += gone.files
	c.stats.MaxSwapPause = max(c.stats.MaxSwapPause, gone.longest)
	return err
}

// nextRound runs a round over the victims at the front of c.work for which there is memory. When a
// target cannot be made the round is undone, c.work is as it was, and the rounds that follow fill one
// target each: one of the victims, its tombstones included, always fits into the space kept back, which no
// other round may take, and gives back as much. What else fits of the next victim is copied too: if each
// target took one victim alone, all would become room in segments that are half empty, and nothing be given back.
func (c *compaction) nextRound(ctx context.Context) error {
	if c.lowSpace {
		c.s.medium.keepSpares()
	}
	c.pace.urgent(c.s.urgency())
	clears := c.s.segments.clears.Load() // before the look: the round is told of a later one
	for _, v := range c.work {
		if c.s.segments.liveBytes(v.seg) == 0 {
			v.live, v.left = offsets{}, 0 // superseded since the walk
		}
	}
	mayKeep := c.mayKeep
	allowed, err := c.allow()
	if err != nil {
		return err
	}
	n := allowed.victims
	if n == 0 { // they stay until more of them is dead, or more of them are there
		c.work, c.walked, c.victims = nil, nil, nil
		return nil
	}
	held := c.work[n:]
	c.work = c.work[:n:n]
	before := make([]victim, n)
	for i, v := range c.work {
		before[i] = *v
	}
	err = c.round(ctx, allowed, clears)
	if errors.Is(err, ErrNoSpace) && !c.lowSpace {
		c.lowSpace, c.mayKeep, err = true, mayKeep, nil
		for i, v := range c.work { // as before: a round that fails drops no victim
			*v = before[i]
		}
	}
	if c.sacrificed {
		c.lowSpace, c.sacrificed, c.mayKeep = false, false, mayKeep // there is space for a target now
	}
	markDamaged(c.work, err)
	c.work = append(c.work, held...)
	return err
}

// end gives up the claims on victims that stay, and takes back what Stats and Segments show of a
// compaction under way.
func (c *compaction) end() {
	for _, v := range c.claimed {
		if !v.seg.is(stateRetired) {
			c.s.unclaim(v.seg)
		}
	}
	if !c.complete {
		c.s.unsealLanes(c.sealed)
	}
	c.s.current.Store(nil)
}
