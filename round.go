package warmtier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/vm"
)

// round is one all-or-nothing unit: build, commit, drop, swap.
type round struct {
	c   *compaction
	now int64 // when it began, Unix time in ms: what has expired by then is dropped
	allowance
	maxTargets int
	clears     int64 // Clears before it began: a later one makes all that it copies dead

	mu        sync.Mutex   // guards work, targets and full during the build
	work      []*victim    // c.work without those at its front that have been copied
	targets   []*segment   // the last one is being filled
	full      bool         // no target has room, and no further one may be mapped
	published bool         // the targets are in the table
	uncertain bool         // after a crash either side may count: no file may go
	bytes     atomic.Int64 // copied
}

// round runs one round, before which there had been so many Clears when c.work was looked at, and drops the
// finished victims from c.work. On an error, and on a panic of
// OnProgress before the swap, the store is as it was before the round.
func (c *compaction) round(ctx context.Context, allowed allowance, clears int64) error {
	r := &round{c: c, now: c.s.clock.now(), allowance: allowed, maxTargets: allowed.targets, clears: clears, work: c.work}
	finished := false
	defer func() {
		if !finished {
			r.undo()
		}
	}()
	c.progress.Round++
	c.publishProgress(StageBuild, &r.bytes)
	if err := r.build(ctx); err != nil {
		return err
	}
	if err := c.s.medium.carryTombstones(r); err != nil {
		return err
	}
	if err := c.s.hooks.fire(pointCompactBuilt); err != nil {
		return err
	}
	c.report(StageBuild, r.bytes.Load())
	c.publishProgress(StageCommit, &r.bytes)
	moved, superseded, err := r.commit(ctx)
	if err != nil {
		return err
	}
	if err := c.s.hooks.fire(pointCompactCommitted); err != nil {
		return err
	}
	c.report(StageCommit, r.bytes.Load())
	leaving, rest, err := c.splitFinished()
	if err != nil {
		return err
	}
	drops := c.leavingDrops()
	if r.uncertain, err = c.s.medium.commit(leaving, r.targets); err != nil {
		return err
	}
	finished = true
	c.apply(drops)
	r.finish(leaving, c.pinDropped(drops))
	c.s.shrinkTables(drops)
	c.work = rest
	r.tell(moved, superseded, len(leaving))
	return nil
}

// tell counts a finished round and reports it to all who want to know.
func (r *round) tell(moved, superseded int64, left int) {
	c, bytes := r.c, r.bytes.Load()
	c.stats.Rounds++
	c.stats.MemoriesMoved += moved
	c.stats.MemoriesSuperseded += superseded
	c.progress.BytesCopied += bytes
	c.progress.VictimsDone += left
	c.progress.MemoriesMoved += moved
	c.publishProgress(StageSwap, nil)
	c.s.opts.Logger.Debug("compaction round ended", "round", c.progress.Round, "copied_bytes", bytes,
		"memories_moved", moved, "memories_superseded", superseded, "segments_left", left)
	c.report(StageSwap, 0)
}

// splitFinished parts c.work into the segments that may leave and the victims that the next round
// continues with.
//
// I6 (empty victims): a victim leaves the table only with no live bytes but those of staged drops, and
// these cannot grow again: nothing is written to a sealed segment, and undo ends the compaction. The walk
// finds the live records; this check turns a mistake there into a compaction that fails instead of a
// memory that is lost.
func (c *compaction) splitFinished() (leaving []*segment, rest []*victim, err error) {
	for _, v := range c.work {
		live := c.s.segments.liveBytes(v.seg)
		switch {
		case v.live.len() > 0:
			rest = append(rest, v)
		case live <= v.dropBytes():
			leaving = append(leaving, v.seg)
		default:
			err = errors.Join(err, fmt.Errorf("warmtier: internal error: %s has %d live bytes the walk did not find",
				v.seg.name(), live))
		}
	}
	return leaving, rest, err
}

// finish takes leaving, the empty victims, out of the store, and tells of what was dropped with them. Nothing
// that goes wrong in it is an error of the round, which has been committed.
func (r *round) finish(leaving []*segment, dropped *teller) {
	c := r.c
	leaving = c.withoutLive(leaving)
	for _, seg := range leaving {
		c.stats.BytesReclaimed += seg.recordBytes()
		c.stats.FileBytesReclaimed += c.s.freedBytes(seg)
	}
	for _, target := range r.targets {
		c.stats.BytesReclaimed -= target.recordBytes()
		c.stats.FileBytesReclaimed -= target.fileBytes()
	}
	c.removeFromTable(leaving)
	_ = c.s.hooks.fire(pointCompactSwapped)
	dropped.tell()
	c.giveBack(leaving, true)
	c.keepSurvivor()
	if last := r.last(); last != nil {
		last.seal(last.isMergeable())
		if err := c.s.medium.trim(last); err != nil {
			c.s.opts.Logger.Warn("unused pages could not be given back", "error", err)
		}
	}
	for _, target := range r.targets {
		if target.file != nil {
			target.file.EndWrites()
		}
		c.s.unclaim(target)
	}
	c.shareWithLanes()
	c.s.room.changed()
}

// withoutLive leaves those of segs in the table that have live bytes in spite of I6. The next compaction
// moves what is live in them to a segment that counts.
func (c *compaction) withoutLive(segs []*segment) []*segment {
	return slices.DeleteFunc(segs, func(seg *segment) bool {
		live := c.s.segments.liveBytes(seg)
		if live != 0 {
			c.s.opts.Logger.Error("internal error: a victim was not empty, and stays", "segment", seg.name(), "live_bytes", live)
		}
		return live != 0
	})
}

// removeFromTable takes segs out of the table.
func (c *compaction) removeFromTable(segs []*segment) {
	c.pace.yield(0) // a fresh time slice: a goroutine preempted with the lock held would stop everybody
	c.stats.MaxSwapPause = max(c.stats.MaxSwapPause, c.s.removeFromTable(segs))
}

// giveBack removes the files of segs, which left the table, unless they are to stay, and takes their memory back
// unless a pin keeps it. In this order, as everywhere: what a budget has room for again is in no file.
func (c *compaction) giveBack(segs []*segment, files bool) {
	for _, seg := range segs {
		if files {
			c.s.medium.remove(seg)
		}
		if c.s.retire(seg) {
			c.recycle(seg)
		}
	}
}

// keepSurvivor maps a survivor where victims that were smaller than a target have given back as much, or memory is not
// short.
func (c *compaction) keepSurvivor() {
	if !c.s.medium.recycles() || c.s.mapper.limit == 0 || len(c.pool) > 0 {
		return
	}
	if _, err := c.allowedBytes(int64(c.size)); err != nil {
		return
	}
	if mem, err := c.s.mapper.acquireTarget(c.size); err == nil { // otherwise a pin has what victims leave
		c.present = min(len(mem), presentBytes)
		vm.Touch(mem[:c.present])
		c.pool = append(c.pool, mem)
		c.extra += int64(len(mem))
	}
}

// recycle keeps the memory of seg, which nobody can reach, for the next targets or for lanes, or
// gives it back to the operating system.
func (c *compaction) recycle(seg *segment) {
	if c.s.medium.recycles() && len(seg.mem) == c.size && len(c.pool) <= max(c.keep, c.maxTargets) {
		c.pool = append(c.pool, seg.mem)
		return
	}
	c.s.medium.free(seg)
	c.extra -= int64(len(seg.mem))
}

// undo takes back a round: every flip whose new slot is still there. Where it is not, the memory
// was superseded after the flip, and neither record is live. Nothing here allocates or can fail.
func (r *round) undo() {
	c := r.c
	if !r.published { // nobody has seen the targets
		c.s.segments.reuse(r.targets)
		for _, target := range r.targets {
			c.s.medium.remove(target)
			c.recycle(target)
		}
		return
	}
	c.unflipAll()
	c.removeFromTable(r.targets)
	c.giveBack(r.targets, !r.uncertain)
}
