package warmtier

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/memlimit"
)

/*
Compaction copies the live records of victims into targets and gives the victims back, while reads
and writes go on. The shape is that of log-structured memory's cleaner (Rumble, Kejriwal, Ousterhout:
"Log-structured Memory for DRAM-based Storage", FAST '14, section 4); what differs is that a round is
all or nothing, and that readers hold a lock for a moment instead of an epoch.

	seal    every lane goes on in a new segment: victims are immutable from here on, and what is
	        written meanwhile lands elsewhere. (Automatic maintenance leaves lanes alone whose
	        segments are not worth it: they are no victims.)
	walk    the index is read once for the victims ahead: it knows which records are live, so dead
	        ones are never touched.
	round   build   workers verify live records, copy them to targets, and stage for each one
	                (old slot, new slot). Nothing of it is visible.
	        commit  targets enter the table; each staged slot goes from old to new if the index still
	                says old. If not, the memory was superseded and its copy is dead on arrival.
	        swap    victims nothing points to leave the table, under contentMu's write lock.
	        Rounds go on until no victim is left. An error in build or commit undoes the round.

Why no reader sees a wrong byte. During commit old and new location are both in the table, and the
records there hold the same bytes: which one a reader follows cannot be observed. A reader holds
contentMu from reading the location until it has copied or pinned, so the swap waits for whoever
read an old location, and whoever reads one later finds only locations that stay. Both shortcuts are
wrong: slots first, segments after, lets a reader follow a new location into a table without its
target; segments first lets it follow an old location into a table without its victim.

Why no write is lost. Writes go to active segments, which are never victims. A slot is exchanged
under its shard's lock, comparing the whole slot: a Put or Delete before that makes the comparison
fail, one after it works on the new slot. The location compared cannot have been used for another
record meanwhile, since its segment has been in the table all along.

I5 (who retires): only the goroutine that set Store.compacting takes segments out of the table, Close
aside, which waits for it. So compaction reads victims and targets with no lock and no pin.
I6 (empty victims): a victim leaves the table only with live = 0, and live cannot grow again: nothing
is written to a sealed segment, and undo ends the compaction. The walk is what finds live records;
this check is what makes an error there a failed compaction instead of a lost memory.

A round ends when its targets are full, not when a victim is: a victim that was copied in part stays
in the table with fewer live bytes and is gone on with in the next round. So every target but the
last is full, and no round has to be planned to fit.

Recycling: the memory of victims without pins becomes the next round's targets, and a bounded round
maps a new segment only when there is none to recycle. The first round therefore has one target, unless there
is a reserve, and is small, the following grow up to MaxOverhead, and the compaction as a whole maps one
segment more than the store had. Fresh pages would cost more than the copying (a first touch is a page fault).
*/

const (
	// copyChunk is how many bytes a worker copies between two looks at its context: 10 to 20 us. It
	// fits a processor's second cache twice, since a chunk is verified after all of it was copied.
	copyChunk = 64 << 10

	// walkBatch slots are read, and flipBatch slots exchanged, in one hold of a shard's lock: a
	// few us each.
	walkBatch = 1024
	flipBatch = 128

	// walkAhead is how many rounds one walk of the index lists the live records for. Each of them is
	// 4 bytes held beside the 24 of a move, so that a round stays within 48 bytes per memory.
	walkAhead = 5

	// turn is how long a worker keeps its processor from others.
	turn = 100 * time.Microsecond
)

// yielder offers a processor to others once a turn. Offering it after each chunk or batch would cost a
// tenth of a compaction: a goroutine that yields may go on on another processor, with cold caches.
type yielder struct{ last time.Time }

func (y *yielder) yield() {
	if now := time.Now(); now.Sub(y.last) >= turn {
		runtime.Gosched()
		y.last = time.Now()
	}
}

// CompactionStage is a phase of a compaction's round.
type CompactionStage string

// Stages of a round, in their order.
const (
	StageBuild  CompactionStage = "build"  // copying live records
	StageCommit CompactionStage = "commit" // pointing the index to the copies
	StageSwap   CompactionStage = "swap"   // giving victims back
)

// CompactionProgress says how far a compaction is.
type CompactionProgress struct {
	Stage         CompactionStage // the stage under way, or just ended
	Round         int             // 1 for the first
	Victims       int             // segments to be compacted
	VictimsDone   int             // of them, given back
	BytesTotal    int64           // live bytes to be copied
	BytesCopied   int64           // of them, copied
	MemoriesMoved int64
	Elapsed       time.Duration
}

// Compact gives back the space of all dead bytes, as far as its bounds allow: see
// [CompactionOptions]. Reads and writes go on meanwhile; the longest anybody waits for it is one
// batch of index slots, or MaxSwapPause. Segments without dead bytes stay, unless they were sealed
// half empty and can be merged.
//
// It copies every live record of the segments it compacts and holds, beyond them, one segment (with
// a negative MaxOverhead: all live bytes again) and about 28 bytes per memory of a round.
//
// When ctx is cancelled it stops within milliseconds: finished rounds stay, the current one is
// undone. The statistics returned with an error are those of what was done.
//
// Errors: [ErrCompactionInProgress]; [ErrClosed]; [ErrReadOnly]; [ErrSyncFailed];
// [ErrCompactionFailed], which wraps ctx's error, [ErrInsufficientMemory], [ErrNoSpace], [ErrClosed]
// when Close cancelled it, or [ErrCorrupt] when a live record is damaged. The damaged segment is left
// alone from then on, so that the next compaction can give back the others.
func (s *Store) Compact(ctx context.Context) (CompactionStats, error) {
	return s.compact(ctx, triggerManual)
}

func (s *Store) compact(ctx context.Context, by trigger) (CompactionStats, error) {
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
	defer s.compacting.Store(false)

	c := &compaction{s: s, start: time.Now(), maxTargets: math.MaxInt}
	if by == triggerAuto {
		c.threshold = s.opts.Maintenance.FragmentationThreshold
	}
	if bound := s.opts.Compaction.MaxOverhead; bound > 0 {
		c.maxTargets = int(max(1, bound/c.segmentSize()))
	}
	st := s.sizes()
	c.recordSize = float64(max(1, st.LiveBytes)) / float64(max(1, st.Memories))
	c.stats.before(st)
	s.logCompactionStart(by, st)
	err = c.run(ctx)
	s.medium.keepSpares()
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrCompactionFailed, err)
	}
	c.stats.BytesCopied = c.progress.BytesCopied
	c.stats.after(s.sizes(), time.Since(c.start))
	s.meters.compactions.observe(c.stats.Duration)
	s.history.addCompaction(by, c.stats, err)
	s.logCompactionEnd(by, c.stats, err)
	return c.stats, err
}

// compaction is one call of Compact.
type compaction struct {
	s          *Store
	start      time.Time
	stats      CompactionStats
	progress   CompactionProgress
	maxTargets int       // of one round
	recordSize float64   // of a live record on average, bytes
	threshold  float64   // compact what is worth it (see worthwhile); 0: everything
	victims    []*victim // not looked at yet
	work       []*victim // walked, not empty yet
	pool       [][]byte  // memory of victims, to be used again
	keep       int       // segments of it that are for lanes afterwards
	complete   bool      // ended without an error, or a panic of OnProgress
	lowSpace   bool      // no space: one victim at a time
	extra      int64     // bytes mapped by this compaction less those it unmapped
	staged     []moves   // of the current round, one for each worker; kept for the next
}

func (c *compaction) run(ctx context.Context) error {
	defer c.drainPool()
	var used int
	if c.pool, used = c.s.pool.takeAll(2 * c.s.opts.Maintenance.Interval); c.threshold > 0 {
		c.keep = used
	}
	defer c.end()
	defer c.s.releaseReplaced()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.s.sealLanes(c.threshold / 2) // what worthwhile may choose
	if err := c.s.hooks.fire(pointCompactSealed); err != nil {
		return err
	}
	c.chooseVictims()
	for {
		if err := c.fillWork(ctx); err != nil {
			return err
		}
		if len(c.work) == 0 {
			c.complete = true
			return nil
		}
		if err := c.roundOrLowSpace(ctx); err != nil {
			return err
		}
	}
}

// roundOrTight is round. When a directory store meets a full disk it goes on victim by victim: one of
// them, its tombstones included, fits into the space kept back, and gives back as much.
func (c *compaction) roundOrLowSpace(ctx context.Context) error {
	if !c.s.medium.keepsSpace() {
		return c.round(ctx)
	}
	var held []*victim
	if c.lowSpace {
		c.s.medium.keepSpares()
		n := c.fitOneTarget()
		held, c.work = c.work[n:], c.work[:n:n]
	}
	work := c.work
	live := make([][]uint32, len(work))
	for i, v := range work {
		live[i] = v.live
	}
	err := c.round(ctx)
	markDamaged(work, err)
	if errors.Is(err, ErrNoSpace) && !c.lowSpace { // undone: once more, with less
		c.lowSpace = true
		for i, v := range work {
			v.live = live[i]
		}
		return nil
	}
	c.work = append(c.work, held...)
	return err
}

// compactionNotice is what Stats knows of a compaction under way.
type liveProgress struct {
	progress CompactionProgress
	start    time.Time
	copied   *atomic.Int64 // in the round being built, beyond what progress says; may be nil
}

// notice lets Stats know how far the compaction is.
func (c *compaction) publishProgress(stage CompactionStage, copied *atomic.Int64) {
	n := &liveProgress{progress: c.progress, start: c.start, copied: copied}
	n.progress.Stage = stage
	c.s.current.Store(n)
}

// end takes back what others see of a compaction under way.
func (c *compaction) end() {
	for _, seg := range c.s.segments.all() {
		seg.victim.Store(false)
	}
	c.s.current.Store(nil)
}

// progress is that of the compaction under way.
func (s *Store) progress() CompactionProgress {
	n := s.current.Load()
	if n == nil {
		return CompactionProgress{}
	}
	p := n.progress
	p.Elapsed = time.Since(n.start)
	if n.copied != nil {
		p.BytesCopied += n.copied.Load()
	}
	return p
}

// parallel calls fn for every shard, on as many goroutines as there are workers, until one fails.
func (c *compaction) parallel(ctx context.Context, fn func(ctx context.Context, worker, shard int) error) error {
	var next atomic.Int32
	g, ctx := errgroup.WithContext(ctx)
	for worker := range c.s.opts.Compaction.Workers {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < shardCount; i = next.Add(1) - 1 {
				if err := fn(ctx, worker, int(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// round is one all-or-nothing unit: build, commit, swap.
type round struct {
	c          *compaction
	maxTargets int

	mu        sync.Mutex // guards what follows
	work      []*victim  // those with records left to copy are at the front
	targets   []*segment // the last one is being filled
	full      bool       // no target has room, and no further one may be mapped
	published bool
	uncertain bool          // after a crash either side may count: no file may go
	bytes     atomic.Int64  // copied
	tick      chan struct{} // something was copied; nil when nobody wants to know
}

// round runs one round and drops the finished victims from c.work. On an error, and on a panic of
// OnProgress, the store is as it was before.
func (c *compaction) round(ctx context.Context) error {
	allowed, err := c.allowedTargets()
	if err != nil {
		return err
	}
	r := &round{c: c, maxTargets: allowed, work: c.work}
	if c.s.opts.Compaction.OnProgress != nil {
		r.tick = make(chan struct{}, 1)
	}
	finished := false
	defer func() {
		if !finished {
			r.undo()
		}
	}()
	for _, v := range c.work {
		if v.seg.live.Load() == 0 {
			v.live = nil // superseded since the walk
		}
	}
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
	if r.uncertain, err = c.s.medium.commit(leaving, r.targets); err != nil {
		return err
	}
	finished = true
	r.finish(leaving)
	c.work = rest
	c.stats.Rounds++
	c.stats.MemoriesMoved += moved
	c.stats.MemoriesSuperseded += superseded
	c.progress.BytesCopied += r.bytes.Load()
	c.progress.VictimsDone += len(leaving)
	c.progress.MemoriesMoved += moved
	c.publishProgress(StageSwap, nil)
	c.s.opts.Logger.Debug("compaction round ended", "round", c.progress.Round, "copied_bytes", r.bytes.Load(),
		"memories_moved", moved, "memories_superseded", superseded, "segments_left", len(leaving))
	c.report(StageSwap, 0)
	return nil
}

// allowedTargets is how many targets the next round may fill. A bounded round uses recycled memory,
// or one fresh segment when there is none; an unbounded one takes what it needs.
func (c *compaction) allowedTargets() (int, error) {
	if !c.s.medium.recycles() {
		return c.maxTargets, nil
	}
	recycled := len(c.pool)
	n := min(c.maxTargets, max(1, recycled))
	need := n
	if c.unbounded() {
		n = math.MaxInt
		// What the live bytes take when every tail wastes as much as it may.
		need = int(c.liveWork()/(c.segmentSize()-c.segmentSize()/largeShare)) + 1
	}
	available, known := c.s.availableMemory()
	if need <= recycled || !known || c.liveWork() == 0 {
		return n, nil
	}
	usable := int64(float64(available) * c.s.opts.Compaction.MaxMemoryFraction)
	fits := usable / c.segmentSize()
	switch {
	case fits >= int64(need-recycled):
		return n, nil
	case fits == 0 && recycled == 0:
		return 0, &InsufficientMemoryError{Needed: c.segmentSize(), Available: usable}
	}
	return recycled + int(fits), nil
}

func (s *Store) availableMemory() (int64, bool) {
	if s.hooks.available != nil {
		return s.hooks.available()
	}
	return memlimit.Available()
}

// sortOut parts c.work into the victims that are empty and those the next round goes on with.
func (c *compaction) splitFinished() (leaving []*segment, rest []*victim, err error) {
	for _, v := range c.work {
		live := v.seg.live.Load()
		switch {
		case len(v.live) > 0:
			rest = append(rest, v)
		case live == 0:
			leaving = append(leaving, v.seg)
		default: // I6
			err = errors.Join(err, fmt.Errorf("warmtier: internal error: %s has %d live bytes the walk did not find",
				v.seg.name(), live))
		}
	}
	return leaving, rest, err
}

// finish takes the empty victims out of the store: the point of no return is behind.
func (r *round) finish(leaving []*segment) {
	c := r.c
	for _, seg := range leaving {
		c.stats.BytesReclaimed += seg.recordBytes()
	}
	for _, target := range r.targets {
		c.stats.BytesReclaimed -= target.recordBytes()
	}
	c.swap(leaving)
	_ = c.s.hooks.fire(pointCompactSwapped)
	for _, seg := range leaving {
		c.s.medium.remove(seg)
	}
	if last := r.last(); last != nil {
		last.seal(int64(last.room(1)) > c.s.mergeableRoom())
		if err := c.s.medium.trim(last); err != nil {
			c.s.opts.Logger.Warn("unused pages could not be given back", "error", err)
		}
	}
}

// swap takes segs out of the table and their memory back.
func (c *compaction) swap(segs []*segment) {
	if len(segs) == 0 {
		return
	}
	s := c.s
	gone := written(segs)
	runtime.Gosched() // a fresh time slice: being preempted inside would stop everybody
	s.contentMu.Lock()
	start := time.Now()
	s.segments.removeLocked(segs)
	s.writtenGone += gone
	tables := s.replaced.takeLocked()
	pause := time.Since(start)
	s.contentMu.Unlock()
	s.releaseTables(tables)
	c.stats.MaxSwapPause = max(c.stats.MaxSwapPause, pause)
	s.meters.swaps.observe(pause)

	s.segments.reuse(segs)
	for _, seg := range segs {
		if s.retire(seg) {
			c.recycle(seg)
		}
	}
}

// recycle keeps the memory of seg, which nobody can reach, for the next targets or for lanes, or unmaps it.
func (c *compaction) recycle(seg *segment) {
	if c.s.medium.recycles() && len(seg.mem) == c.s.opts.SegmentSize && len(c.pool) < max(c.keep, c.maxTargets) {
		c.pool = append(c.pool, seg.mem)
		return
	}
	c.s.medium.free(seg)
	c.extra -= int64(len(seg.mem))
}

// drainPool ends the use of the pool: what lanes will need stays, unless the compaction failed.
func (c *compaction) drainPool() {
	n := 0
	if c.complete {
		n = min(c.keep, len(c.pool))
	}
	c.s.pool.keep(c.pool[:n])
	c.s.releaseAll(c.pool[n:])
	c.pool = nil
}

// undo takes back a round: every flip whose new slot is still there. Where it is not, the memory was
// superseded after the flip, and neither record is live. Nothing here can fail.
func (r *round) undo() {
	c := r.c
	if !r.published { // nobody has seen the targets
		c.s.segments.reuse(r.targets)
		for _, target := range r.targets {
			c.recycle(target)
			c.s.medium.remove(target)
		}
		return
	}
	for w := range c.staged {
		for i := range c.s.shards {
			for batch := range slices.Chunk(c.staged[w].of(i), flipBatch) {
				c.s.unflip(&c.s.shards[i], batch)
			}
		}
	}
	c.swap(r.targets)
	for _, target := range r.targets {
		if !r.uncertain {
			c.s.medium.remove(target)
		}
	}
}

// report calls OnProgress. REQUIRES: no lock held.
func (c *compaction) report(stage CompactionStage, copied int64) {
	fn := c.s.opts.Compaction.OnProgress
	if fn == nil {
		return
	}
	p := c.progress
	p.Stage = stage
	p.BytesCopied += copied
	p.Elapsed = time.Since(c.start)
	lockrank.AssertUnlocked()
	fn(p)
}
