package warmtier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
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
	if s.disk != nil {
		s.keepSpares()
	}
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
	tight      bool      // no space: one victim at a time
	extra      int64     // bytes mapped by this compaction less those it unmapped
	staged     []moves   // of the current round, one for each worker; kept for the next
}

// victim is a segment on its way out.
type victim struct {
	seg     *segment
	live    []uint32 // offsets of live records not copied yet, in units of 8 bytes, ascending
	dead    int64    // bytes, when it was chosen
	benefit float64  // of compacting it, over the cost
}

// newVictim rates seg, where newest is the id of the newest segment. The rating is that of RAMCloud's
// cleaner ((1 - u) x age / u, where u is the live share: Rumble, Kejriwal, Ousterhout, "Log-structured
// Memory for DRAM-based Storage", FAST '14, section 3.5, after Rosenblum and Ousterhout, "The Design and
// Implementation of a Log-Structured File System", TOCS 10(1), 1992, section 3.5): what is young will
// have more dead bytes soon, so waiting pays; what has been left alone long will not change. Age is
// counted in segments made since, which is the clock of a log.
func newVictim(seg *segment, newest uint64) *victim {
	live := seg.live.Load() // read once: the rating must not change while victims are sorted
	v := &victim{seg: seg, dead: seg.recordBytes() - live, benefit: math.Inf(1)}
	if live > 0 {
		v.benefit = float64(v.dead) * float64(newest-seg.id+1) / float64(live)
	}
	return v
}

// share of it that was dead, ratio.
func (v *victim) share() float64 { return fragmentation(v.dead, v.seg.recordBytes()) }

// move is one staged change of the index.
type move struct {
	from, to slot
	size     uint32 // of the record, bytes
	shard    uint8
}

// moves are the staged changes of one worker.
type moves struct {
	list  []move
	start [shardCount + 1]int // after sort, those of shard i are list[start[i]:start[i+1]]
}

// sort brings the moves into the order of their shards, in place and in linear time (American flag
// sort: McIlroy, Bostic, McIlroy, "Engineering Radix Sort", Computing Systems 6(1), 1993, section
// 3.1). A list for each shard would take up to twice the memory.
func (m *moves) sort() {
	clear(m.start[:])
	for _, mv := range m.list {
		m.start[int(mv.shard)+1]++
	}
	for i := range shardCount {
		m.start[i+1] += m.start[i]
	}
	var next [shardCount]int // where the next move of each shard goes
	copy(next[:], m.start[:])
	for shard := range shardCount {
		for next[shard] < m.start[shard+1] {
			at := next[shard]
			if home := int(m.list[at].shard); home != shard {
				m.list[at], m.list[next[home]] = m.list[next[home]], m.list[at]
				next[home]++
				continue
			}
			next[shard]++
		}
	}
}

// of returns the moves of a shard. REQUIRES: sort was called.
func (m *moves) of(shard int) []move { return m.list[m.start[shard]:m.start[shard+1]] }

func (c *compaction) run(ctx context.Context) error {
	defer c.drainPool()
	var used int
	if c.pool, used = c.s.reserve.takeAll(2 * c.s.opts.Maintenance.Interval); c.threshold > 0 {
		c.keep = used
	}
	defer c.end()
	defer c.s.emptyLimbo()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.s.sealLanes(c.threshold / 2) // what worthwhile may choose
	if err := c.s.reach(pointCompactSealed); err != nil {
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
		if err := c.roundOrTight(ctx); err != nil {
			return err
		}
	}
}

// roundOrTight is round. When a directory store meets a full disk it goes on victim by victim: one of
// them, its tombstones included, fits into the space kept back, and gives back as much.
func (c *compaction) roundOrTight(ctx context.Context) error {
	if c.s.disk == nil {
		return c.round(ctx)
	}
	var held []*victim
	if c.tight {
		c.s.keepSpares()
		n := c.fitting()
		held, c.work = c.work[n:], c.work[:n:n]
	}
	work := c.work
	live := make([][]uint32, len(work))
	for i, v := range work {
		live[i] = v.live
	}
	err := c.round(ctx)
	markDamaged(work, err)
	if errors.Is(err, ErrNoSpace) && !c.tight { // undone: once more, with less
		c.tight = true
		for i, v := range work {
			v.live = live[i]
		}
		return nil
	}
	c.work = append(c.work, held...)
	return err
}

// markDamaged marks the victim that err, the end of a round, is about. Who read a damaged record has done
// that; a page that cannot be had ends a worker wherever it is.
func markDamaged(work []*victim, err error) {
	var damage *CorruptError
	if !errors.As(err, &damage) {
		return
	}
	for _, v := range work {
		if v.seg.name() == damage.File {
			v.seg.damaged.Store(true)
		}
	}
}

// fitting is how many victims at the front of c.work fit into one target together, at least one.
func (c *compaction) fitting() int {
	room := c.s.opts.SegmentSize - segmentHeaderSize
	for n, v := range c.work {
		room -= int(v.seg.live.Load()+v.seg.buried) + digestSize*(len(v.live)+len(v.seg.tombstones))
		if room < 0 && n > 0 {
			return n
		}
	}
	return len(c.work)
}

// chooseVictims lists the sealed segments with dead bytes, those worth it most first; and the ones sealed
// early, when there is something to merge them with.
func (c *compaction) chooseVictims() {
	var merge []*victim
	segs := c.s.segments.all()
	newest := c.s.segments.newestID() // after that: lanes make segments meanwhile, and no age is below 1
	for _, seg := range segs {
		if !seg.is(stateSealed) || (seg.live.Load() > 0 || len(seg.tombstones) > 0) && seg.damaged.Load() {
			continue
		}
		if v := newVictim(seg, newest); v.dead > 0 {
			c.victims = append(c.victims, v)
		} else if seg.early.Load() {
			merge = append(merge, v)
		}
	}
	slices.SortStableFunc(c.victims, func(a, b *victim) int { return cmp.Compare(b.benefit, a.benefit) })
	if c.threshold > 0 {
		c.victims = c.worthwhile(c.victims)
	}
	copying := slices.ContainsFunc(c.victims, func(v *victim) bool { return v.share() < 1 })
	// One segment sealed early is what every compaction leaves behind.
	if copying || len(merge) > 1 {
		c.victims = append(c.victims, merge...)
	}
	for _, v := range c.victims {
		c.progress.BytesTotal += v.seg.live.Load()
		v.seg.victim.Store(true)
	}
	c.progress.Victims = len(c.victims)
	c.notice(StageBuild, nil)
}

// worthwhile leaves those of victims, best first, that automatic maintenance compacts: each one that is
// itself as fragmented as the store may be, and further ones until the store is half as fragmented as it
// may be. What is nearly all live is left alone that way: copying nine tenths of a segment for one tenth
// would cost more than it gives, and in a while there will be more to give. It is done less, more often.
func (c *compaction) worthwhile(victims []*victim) (chosen []*victim) {
	st := c.s.sizes()
	dead, total := st.DeadBytes, st.TotalBytes
	for _, v := range victims {
		if v.share() >= c.threshold || fragmentation(dead, total) > c.threshold/2 {
			chosen = append(chosen, v)
			dead -= v.dead
			total -= v.dead
		}
	}
	return chosen
}

// compactionNotice is what Stats knows of a compaction under way.
type compactionNotice struct {
	progress CompactionProgress
	start    time.Time
	copied   *atomic.Int64 // in the round being built, beyond what progress says; may be nil
}

// notice lets Stats know how far the compaction is.
func (c *compaction) notice(stage CompactionStage, copied *atomic.Int64) {
	n := &compactionNotice{progress: c.progress, start: c.start, copied: copied}
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

// fillWork walks the index for further victims until the next round's targets can be filled: a
// target is left half empty only when no victim is left.
func (c *compaction) fillWork(ctx context.Context) error {
	for len(c.victims) > 0 && (c.unbounded() || c.liveWork() < int64(c.maxTargets)*c.segmentSize()) {
		n := c.groupSize()
		group := c.victims[:n]
		c.victims = c.victims[n:]
		if err := c.walk(ctx, group); err != nil {
			return err
		}
		c.work = append(c.work, group...)
		if err := c.s.reach(pointCompactWalked); err != nil {
			return err
		}
	}
	return nil
}

// groupSize is how many victims the next walk looks for. It goes over the whole index, so it looks
// ahead.
func (c *compaction) groupSize() int {
	if c.unbounded() {
		return len(c.victims)
	}
	ahead := walkAhead * int64(c.maxTargets) * c.segmentSize()
	for n, v := range c.victims {
		if ahead -= v.seg.live.Load(); ahead < 0 {
			return n + 1
		}
	}
	return len(c.victims)
}

func (c *compaction) unbounded() bool    { return c.maxTargets == math.MaxInt }
func (c *compaction) segmentSize() int64 { return int64(c.s.opts.SegmentSize) }

func (c *compaction) liveWork() (total int64) {
	for _, v := range c.work {
		total += v.seg.live.Load()
	}
	return total
}

// walk lists the live records of group. It need not see one moment: a record that is live when its
// shard is read may be superseded later, which the flip will find; none can become live.
func (c *compaction) walk(ctx context.Context, group []*victim) error {
	number := make([]int, len(*c.s.segments.entries.Load())) // segment index -> 1 + position in group
	for i, v := range group {
		number[v.seg.index] = i + 1
	}
	found := make([][][]uint32, c.s.opts.Compaction.Workers)
	for worker := range found {
		found[worker] = make([][]uint32, len(group))
		for i, v := range group {
			found[worker][i] = make([]uint32, 0, c.expectedLive(v.seg)/len(found))
		}
	}
	err := c.parallel(ctx, func(ctx context.Context, worker, shard int) error {
		c.walkShard(&c.s.shards[shard], number, found[worker])
		return context.Cause(ctx)
	})
	var sorter offsetSorter
	for i, v := range group {
		v.live = found[0][i]
		for _, lists := range found[1:] {
			v.live = append(v.live, lists[i]...)
		}
		sorter.sort(v.live)
	}
	return err
}

// expectedLive estimates how many live records seg has, from their average size in the store, with
// a tenth more.
func (c *compaction) expectedLive(seg *segment) int {
	return int(float64(seg.live.Load()) / c.recordSize * 1.1)
}

// offsetSorter sorts offsets of one segment by setting a bit for each (Bentley, "Programming Pearls",
// column 1), which takes a fifth of the time of a sort that compares.
type offsetSorter struct{ bits []uint64 }

func (o *offsetSorter) sort(offsets []uint32) {
	for _, u := range offsets {
		for int(u/64) >= len(o.bits) {
			o.bits = append(o.bits, make([]uint64, max(1024, len(o.bits)))...)
		}
		o.bits[u/64] |= 1 << (u % 64)
	}
	n := 0
	for i, word := range o.bits {
		for ; word != 0; word &= word - 1 {
			offsets[n] = uint32(i*64 + bits.TrailingZeros64(word))
			n++
		}
		o.bits[i] = 0
	}
}

// walkShard appends the offset of each slot of sh that lies in a victim to the list of that victim.
func (c *compaction) walkShard(sh *shard, number []int, found [][]uint32) {
	slots := make([]slot, 0, 2*walkBatch)
	var y yielder
	for from := uint32(0); from < tagCount; {
		sh.mu.Lock()
		to := sh.rangeEnd(from, walkBatch)
		slots = sh.current().appendRange(slots[:0], from, to)
		sh.mu.Unlock()
		for _, w := range slots {
			index := int(w.location() >> c.s.offsetBits)
			if index >= len(number) || number[index] == 0 {
				continue
			}
			list := &found[number[index]-1]
			*list = append(*list, uint32(w.location()&(1<<c.s.offsetBits-1)))
		}
		from = to
		y.yield()
	}
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
	c.notice(StageBuild, &r.bytes)
	if err := r.build(ctx); err != nil {
		return err
	}
	if err := r.carryTombstones(); err != nil {
		return err
	}
	if err := c.s.reach(pointCompactBuilt); err != nil {
		return err
	}
	c.report(StageBuild, r.bytes.Load())
	c.notice(StageCommit, &r.bytes)
	moved, superseded, err := r.commit(ctx)
	if err != nil {
		return err
	}
	if err := c.s.reach(pointCompactCommitted); err != nil {
		return err
	}
	c.report(StageCommit, r.bytes.Load())
	leaving, rest, err := c.sortOut()
	if err != nil {
		return err
	}
	if r.uncertain, err = c.s.commitTargets(leaving, r.targets); err != nil {
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
	c.notice(StageSwap, nil)
	c.s.opts.Logger.Debug("compaction round ended", "round", c.progress.Round, "copied_bytes", r.bytes.Load(),
		"memories_moved", moved, "memories_superseded", superseded, "segments_left", len(leaving))
	c.report(StageSwap, 0)
	return nil
}

// allowedTargets is how many targets the next round may fill. A bounded round uses recycled memory,
// or one fresh segment when there is none; an unbounded one takes what it needs.
func (c *compaction) allowedTargets() (int, error) {
	if c.s.disk != nil {
		return c.maxTargets, nil // files: the page cache gives way when memory is short
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
	return availableMemory()
}

// build copies live records until there are none left or the targets are full.
func (r *round) build(ctx context.Context) error {
	c := r.c
	c.stage()
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	for worker := range c.s.opts.Compaction.Workers {
		g.Go(func() error { return r.copyVictims(ctx, &c.staged[worker]) })
	}
	done := make(chan struct{})
	var err error
	go func() {
		err = g.Wait()
		close(done)
	}()
	defer func() { // OnProgress may panic: the workers must be gone before the round is undone
		cancel()
		<-done
	}()
	for {
		select {
		case <-r.tick:
			c.report(StageBuild, r.bytes.Load())
		case <-done:
			c.noteOverhead()
			return err
		}
	}
}

// stage makes room for the moves of a round.
func (c *compaction) stage() {
	if c.staged == nil {
		c.staged = make([]moves, c.s.opts.Compaction.Workers)
	}
	room := float64(c.maxTargets) * float64(c.segmentSize())
	expected := int(min(room, float64(c.liveWork())) / c.recordSize * 1.1)
	for w := range c.staged {
		c.staged[w].list = slices.Grow(c.staged[w].list[:0], expected/len(c.staged))
	}
}

// noteOverhead accounts for what is held at the end of a build, when it is most.
func (c *compaction) noteOverhead() {
	held := c.extra
	for w := range c.staged {
		held += int64(cap(c.staged[w].list)) * int64(unsafe.Sizeof(move{}))
	}
	for _, v := range c.work {
		held += int64(cap(v.live)) * 4
	}
	c.stats.PeakOverheadBytes = max(c.stats.PeakOverheadBytes, held)
}

// copyVictims is one worker.
func (r *round) copyVictims(ctx context.Context, staged *moves) (err error) {
	defer r.c.s.catchFault(armFaults(), &err)
	var ch chunk
	var y yielder
	for {
		if err := r.take(&ch); err != nil || len(ch.headers) == 0 {
			return err
		}
		if err := r.copyChunk(&ch, staged); err != nil {
			return err
		}
		r.bytes.Add(int64(ch.size))
		select {
		case r.tick <- struct{}{}:
		default:
		}
		y.yield()
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// chunk is a few live records that lie one behind the other in a victim, and their place in a target.
type chunk struct {
	v       *victim
	live    []uint32 // offsets in the victim, in units of 8 bytes
	headers []header
	size    int // bytes
	target  *segment
	offset  int // in target
	record  int // number in target of the first one
}

// prefetchHeads has the heads of the next n records of v fetched.
func (v *victim) prefetchHeads(n int) {
	for _, unit := range v.live[:min(n, len(v.live))] {
		if at := int(unit) * recordAlign; at < len(v.seg.mem) {
			prefetch(v.seg.mem[at : at+1])
		}
	}
}

// take makes ch the next records to be copied; without headers when there are none, or the targets
// are full. Workers share the victims one by one: if each had its own, as many victims would be copied
// in part and be given back later, and the targets filled meanwhile would be fresh memory.
func (r *round) take(ch *chunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch.headers = ch.headers[:0]
	for len(r.work) > 0 && len(r.work[0].live) == 0 {
		r.work = r.work[1:]
	}
	if r.full || len(r.work) == 0 {
		return nil
	}
	ch.v = r.work[0]
	if err := r.readHeaders(ch); err != nil {
		return err
	}
	n := len(ch.headers)
	if reserved, err := r.reserve(ch); err != nil || !reserved {
		ch.headers = ch.headers[:0]
		return err
	}
	ch.live, ch.v.live = ch.v.live[:n], ch.v.live[n:]
	ch.v.prefetchHeads(n + 1) // while these are copied
	return nil
}

// readHeaders fills ch with the headers of its victim's next records. REQUIRES: r.mu held.
func (r *round) readHeaders(ch *chunk) error {
	limit := min(copyChunk, r.c.s.opts.SegmentSize/largeShare)
	seg := ch.v.seg
	tail := int(seg.tail.Load())
	ch.size = 0
	for _, unit := range ch.v.live {
		if err := r.c.s.reach(pointCompactRecord); err != nil {
			return err
		}
		offset := int(unit) * recordAlign
		h, ok := decodeHeader(seg.mem[min(offset, tail):tail])
		if !ok {
			return ch.v.damaged(offset, "no valid header")
		}
		if ch.size > 0 && ch.size+h.size() > limit {
			break
		}
		ch.headers = append(ch.headers, h)
		ch.size += h.size()
	}
	return nil
}

func (v *victim) damaged(offset int, reason string) error {
	v.seg.damaged.Store(true)
	return &CorruptError{File: v.seg.name(), Offset: int64(offset), Reason: reason}
}

// reserve finds room for ch in a target; false when the round is full. A chunk never spans two
// targets, so each of them stays without gaps. REQUIRES: r.mu held.
func (r *round) reserve(ch *chunk) (bool, error) {
	target := r.last()
	if target == nil || target.room(len(ch.headers)) < ch.size {
		if target != nil {
			target.seal(false)
		}
		if r.full = len(r.targets) >= r.maxTargets; r.full {
			return false, nil
		}
		var err error
		if target, err = r.c.newTarget(ch.size); err != nil {
			return false, err
		}
		r.targets = append(r.targets, target)
	}
	ch.target, ch.offset, ch.record = target, int(target.tail.Load()), int(target.records.Load())
	for _, h := range ch.headers {
		target.contains(h.seq)
	}
	target.grew(len(ch.headers), ch.size)
	return true, nil
}

// last is the target being filled, nil when there is none.
func (r *round) last() *segment {
	if len(r.targets) == 0 {
		return nil
	}
	return r.targets[len(r.targets)-1]
}

// newTarget returns an empty segment that has its place in the table and is not there yet. It has
// room for size bytes, which may be more than SegmentSize (the victim may come from an Open with larger
// segments, or hold one large record): such a target is for one record.
func (c *compaction) newTarget(size int) (*segment, error) {
	if err := c.s.reach(pointCompactTarget); err != nil {
		return nil, err
	}
	target, err := c.emptySegment(max(c.s.opts.SegmentSize, segmentSizeFor(size)))
	if err != nil {
		return nil, err
	}
	if err := c.s.segments.assign(target, c.s.maxSegments()); err != nil {
		return nil, errors.Join(err, c.s.discardSegment(target))
	}
	target.seal(true)
	return target, nil
}

// emptySegment returns a segment in recycled memory, or a new one.
func (c *compaction) emptySegment(size int) (*segment, error) {
	if n := len(c.pool); n > 0 && size == c.s.opts.SegmentSize {
		mem := c.pool[n-1]
		c.pool = c.pool[:n-1]
		return newSegment(c.s.segments.newID(kindTarget), mem, kindTarget), nil
	}
	seg, err := c.s.createSegment(segmentSpec{
		kind: kindTarget, size: size, large: size > c.s.opts.SegmentSize, least: size,
	})
	if err == nil {
		c.extra += int64(size)
	}
	return seg, err
}

// copyChunk copies the records of ch, and then verifies the copies. All are copied first: a checksum
// behind each copy would wait for the lines just written, and that takes as long as the copying.
func (r *round) copyChunk(ch *chunk, staged *moves) error {
	seg, target := ch.v.seg, ch.target
	offset := ch.offset
	for i, h := range ch.headers {
		if next := i + 1; next < len(ch.headers) {
			from := int(ch.live[next]) * recordAlign
			prefetch(seg.mem[from : from+min(ch.headers[next].size(), prefetchLimit)])
		}
		from := int(ch.live[i]) * recordAlign
		copy(target.mem[offset:offset+h.size()], seg.mem[from:])
		offset += h.size()
	}
	offset = ch.offset
	for i, h := range ch.headers {
		if err := r.adoptCopy(ch, i, offset, staged); err != nil {
			return err
		}
		offset += h.size()
	}
	return nil
}

// adoptCopy verifies the copy of record i of ch, at offset in the target, makes it one of its place, and
// stages the change of the index.
func (r *round) adoptCopy(ch *chunk, i, offset int, staged *moves) error {
	s, seg, target, h := r.c.s, ch.v.seg, ch.target, ch.headers[i]
	from := int(ch.live[i]) * recordAlign
	rec := target.mem[offset : offset+h.size()]
	if h.kind != kindMemory || !intactRecord(rec, h, seg.seedAt(from)) {
		return ch.v.damaged(from, "checksum mismatch")
	}
	reseed(rec, h, target.seedAt(offset))
	if target.file != nil {
		target.putDigest(ch.record+i, recordID(rec, h))
	}
	number, tag := splitHash(s.hashBytes(recordID(rec, h)))
	staged.list = append(staged.list, move{
		from:  makeSlot(tag, s.locate(seg, from)),
		to:    makeSlot(tag, s.locate(target, offset)),
		size:  uint32(h.size()),
		shard: uint8(number),
	})
	return nil
}

// commit makes the copies visible.
func (r *round) commit(ctx context.Context) (moved, superseded int64, err error) {
	c := r.c
	for w := range c.staged {
		c.staged[w].sort()
	}
	r.publish()
	var m, sup atomic.Int64
	err = c.parallel(ctx, func(ctx context.Context, _, shard int) error {
		var y yielder
		for w := range c.staged {
			for batch := range slices.Chunk(c.staged[w].of(shard), flipBatch) {
				n, err := c.s.flip(&c.s.shards[shard], batch)
				m.Add(int64(n))
				sup.Add(int64(len(batch) - n))
				if err == nil {
					err = context.Cause(ctx)
				}
				if err != nil {
					return err
				}
				y.yield()
			}
		}
		return nil
	})
	return m.Load(), sup.Load(), err
}

// publish puts the targets into the table.
func (r *round) publish() {
	s := r.c.s
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	for _, target := range r.targets {
		s.segments.publish(target)
	}
	r.published = true
}

// flip exchanges the slots of batch that the index still has, and says how many.
func (s *Store) flip(sh *shard, batch []move) (flipped int, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	var tally liveTally
	defer tally.flush()
	for _, m := range batch {
		sh.prefetch(m.from.tag())
	}
	for _, m := range batch {
		if err := s.reach(pointCompactFlip); err != nil {
			return flipped, err
		}
		if pos, ok := sh.current().find(m.from); ok {
			sh.current().set(pos, m.to)
			s.moveLive(&tally, m)
			flipped++
		}
	}
	return flipped, nil
}

// liveTally sums up live bytes on their way from one segment to another; a batch seldom has more than
// a few such pairs, in runs.
type liveTally struct {
	from, to *segment
	bytes    int64
}

func (t *liveTally) flush() {
	if t.bytes > 0 {
		t.from.live.Add(-t.bytes)
		t.to.live.Add(t.bytes)
	}
	t.bytes = 0
}

// moveLive counts the bytes of m for its new segment. REQUIRES: the shard's lock held until t is
// flushed.
func (s *Store) moveLive(t *liveTally, m move) {
	from, _ := s.resolve(m.from.location())
	to, _ := s.resolve(m.to.location())
	if from != t.from || to != t.to {
		t.flush()
		t.from, t.to = from, to
	}
	t.bytes += int64(m.size)
}

// sortOut parts c.work into the victims that are empty and those the next round goes on with.
func (c *compaction) sortOut() (leaving []*segment, rest []*victim, err error) {
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
	_ = c.s.reach(pointCompactSwapped)
	for _, seg := range leaving {
		c.s.removeFile(seg)
	}
	if last := r.last(); last != nil {
		last.seal(int64(last.room(1)) > c.s.mergeableRoom())
		if last.file != nil {
			return
		}
		// A recycled target may have pages beyond its tail that no record will ever use.
		if err := discard(last.mem[roundUp(int(last.tail.Load()), pageSize):]); err != nil {
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
	tables := s.limbo.takeLocked()
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
	if seg.file == nil && len(seg.mem) == c.s.opts.SegmentSize && len(c.pool) < max(c.keep, c.maxTargets) {
		c.pool = append(c.pool, seg.mem)
		return
	}
	c.s.free(seg)
	c.extra -= int64(len(seg.mem))
}

// drainPool ends the use of the pool: what lanes will need stays, unless the compaction failed.
func (c *compaction) drainPool() {
	n := 0
	if c.complete {
		n = min(c.keep, len(c.pool))
	}
	c.s.reserve.keep(c.pool[:n])
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
			c.s.removeFile(target)
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
			c.s.removeFile(target)
		}
	}
}

// unflip is flip backwards.
func (s *Store) unflip(sh *shard, batch []move) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	var tally liveTally
	defer tally.flush()
	for _, m := range batch {
		if pos, ok := sh.current().find(m.to); ok {
			sh.current().set(pos, m.from)
			s.moveLive(&tally, move{from: m.to, to: m.from, size: m.size})
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
	assertUnlocked()
	fn(p)
}
