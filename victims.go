package warmtier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

const (
	// walkAhead is how many rounds one walk of the index lists the live records for, at least, and how many the next
	// rounds choose their victims from. A listed record takes 4 bytes, and a move 24, so all of it stays within 48 bytes
	// per memory of a round.
	walkAhead = 5
	// mostWalks bounds how often a compaction reads the whole index: with small segments a few rounds are little of the
	// store, and walks took four fifths of the time at 2,000,000 memories. The list of a walk then takes 4 bytes for a
	// sixteenth of the memories.
	mostWalks = 16
)

// policy decides how much a compaction takes on. Its trigger decides which policy it has.
type policy interface {
	// sealShare returns the share of dead bytes at which an active segment is sealed, so that it can
	// be a victim.
	sealShare() float64
	// choose returns the victims to compact in a store of these sizes. victims are sorted, the best
	// first.
	choose(victims []*victim, sizes sizes) []*victim
	// keepForLanes returns for how many segments memory is kept for lanes, which have begun this
	// many lately.
	keepForLanes(begun int) int
}

// policy returns the policy of a compaction that t starts now. A caller of Compact, and a store that
// Open found fragmented, get everything; a maintenance cycle does what is worthwhile, and when little
// room is left, or too little for a writer that waits, what is needed.
func (s *Store) policy(t trigger) policy {
	switch {
	case t != triggerAuto:
		return everything{}
	case s.mustEvict():
		return evicting{}
	case s.nearlyFull(), s.mapper.limit > 0 && s.room.waiting.Load() > 0:
		return needed{bytes: s.opts.MaxBytes / 8, share: s.urgentSealShare()}
	}
	return worthwhile{
		threshold: s.opts.Maintenance.FragmentationThreshold,
		mostKept:  max(leastKept, int(s.maintenance.liveBytes.Load()/int64(s.medium.keptSize()))),
	}
}

// urgentSealShare returns the share of dead bytes at which an active segment is sealed when room is short: as much
// as a Put waits for. Where tombstones alone are half as much, any: one dead record in the segment of a lane that is
// hardly used may be older than all of them, and keeps them as long as it stays.
func (s *Store) urgentSealShare() float64 {
	var tombstones, total int64
	for _, seg := range s.segments.all() {
		tombstones += seg.tombstoneBytes.Load()
		total += seg.recordBytes()
	}
	if fragmentation(tombstones, total) >= waitShare/2 {
		return math.SmallestNonzeroFloat64
	}
	return waitShare
}

// everything gives back all there is to give back, and keeps none of it.
type everything struct{}

func (everything) sealShare() float64                          { return 0 }
func (everything) choose(victims []*victim, _ sizes) []*victim { return victims }
func (everything) keepForLanes(int) int                        { return 0 }

// worthwhile compacts each victim that is itself as fragmented as the store may be, and further
// ones until the store is half as fragmented as it may be. Segments that are nearly all live are
// left alone that way: copying nine tenths of one for the other tenth would cost more than it
// gives, and later there will be more to give. So less is done at a time, and more often.
type worthwhile struct {
	threshold float64
	mostKept  int // segments, for lanes
}

// sealShare returns half the threshold, the fragmentation that choose leaves a store with.
func (w worthwhile) sealShare() float64 { return w.threshold / 2 }

func (w worthwhile) choose(victims []*victim, sizes sizes) (chosen []*victim) {
	dead, total := sizes.DeadBytes+sizes.ExpiredBytes, sizes.TotalBytes
	for _, v := range victims {
		if v.share() >= w.threshold || fragmentation(dead, total) > w.threshold/2 {
			chosen = append(chosen, v)
			dead -= v.dead
			total -= v.dead
		}
	}
	return chosen
}

func (w worthwhile) keepForLanes(begun int) int { return min(begun, w.mostKept) }

// needed gives back about as many bytes as given, from the best victims, and keeps the memory: lanes
// need it at once. Tombstones do not count: they may have to be copied. Room that nobody will fill does: it is given
// back in any case.
type needed struct {
	bytes int64
	share float64 // sealShare
}

func (p needed) sealShare() float64 { return p.share }

func (p needed) choose(victims []*victim, sizes sizes) (chosen []*victim) {
	dead := sizes.unfilled
	for _, v := range victims {
		if dead >= p.bytes {
			break
		}
		chosen = append(chosen, v)
		dead += v.dead - v.seg.tombstoneBytes.Load()
	}
	return chosen
}

func (needed) keepForLanes(int) int { return math.MaxInt }

// victim is a segment on its way out.
type victim struct {
	seg     *segment
	live    offsets      // of live records not copied yet, ascending
	left    int64        // bytes of these, at most; those that were superseded since the walk are copied too
	read    offsets      // when it is evicted: those of them whose bit of reads the walk has seen
	drops   pieces[drop] // of live records that are not copied, but dropped when the victim leaves
	dead    int64        // bytes, when it was rated; tombstones are among them, and what had expired, about
	benefit float64      // of compacting it, over the cost
}

// newVictim rates seg; newest is the id of the newest segment. The rating is that of RAMCloud's
// cleaner, (1 - u) x age / u where u is the live share (Rumble, Kejriwal, Ousterhout,
// "Log-structured Memory for DRAM-based Storage", FAST '14, section 3.5, after Rosenblum and
// Ousterhout, "The Design and Implementation of a Log-Structured File System", TOCS 10(1), 1992,
// section 3.5): a young segment will have more dead bytes soon, so waiting pays; one that has been
// left alone for long will not change. Age is the number of segments made since, which is the clock
// of a log. Tombstones count as live, since a round may have to carry them: segments that hold little
// else come last, when the dead records that need them have left. What has expired counts as dead.
func (s *Store) newVictim(seg *segment, newest uint64) *victim {
	// Read once: the rating must not change while victims are sorted.
	live, tombstones := s.unexpired(seg), seg.tombstoneBytes.Load()
	v := &victim{seg: seg, dead: seg.recordBytes() - live, benefit: math.Inf(1)}
	if moved := live + tombstones; moved > 0 {
		v.benefit = float64(v.dead-tombstones) * float64(newest-seg.id+1) / float64(moved)
	}
	return v
}

// share returns the share of v that was dead when it was rated, 0 to 1.
func (v *victim) share() float64 { return fragmentation(v.dead, v.seg.recordBytes()) }

// damaged marks v, so that later compactions leave it alone, and returns the error that names the
// place.
func (v *victim) damaged(offset int, reason string) error {
	v.seg.damaged.Store(true)
	return &CorruptError{File: v.seg.name(), Offset: int64(offset), Reason: reason}
}

// prefetchPrefixes asks for the prefixes of the next n records of v.
func (v *victim) prefetchPrefixes(n int) {
	for unit := range v.live.all() {
		if n--; n < 0 {
			return
		}
		if at := int(unit) * record.Align; at < len(v.seg.mem) {
			cpu.Prefetch(v.seg.mem[at : at+1])
		}
	}
}

// markDamaged marks the victim that err, the error of a round, names. A worker that read a damaged
// record has marked its victim itself; one that touched a page the kernel could not supply had no
// chance to.
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

// claimVictims returns those of victims that could be claimed. A lane may have resumed one since it was
// looked at.
func (c *compaction) claimVictims(victims []*victim) []*victim {
	return slices.DeleteFunc(victims, func(v *victim) bool {
		if !v.seg.claimFor(ownerVictim) {
			return true
		}
		if v.seg.is(stateSealed) {
			return false
		}
		c.s.unclaim(v.seg)
		return true
	})
}

// fitOneTarget returns what a round over one target may take on, made of the space kept back: the victims, the best
// first, that fit together, which it moves to the front of c.work, and part of one more. The round gives back as
// much as it takes: where those victims are smaller than a target, the target is no larger than they need. Memory
// is kept back in one piece: there a victim as large as that comes first, and without one the round takes on
// nothing. The error, when no victim fits, is ErrNoSpace.
//
// It counts what is copied, which is more than what is live: a record that is superseded after the walk is copied
// too. If it did not, this could happen, and no compaction could ever run again:
//
//	compaction                                      writer
//	walk: most of victim A is live
//	                                                supersedes it
//	A, B and the tombstones of B fit: room for
//	these is kept free, and A does not fit into
//	the rest: no victim leaves, and the space
//	kept back is gone
func (c *compaction) fitOneTarget() (allowance, error) {
	size := min(c.size, c.s.medium.targetSize())
	c.remakes = c.canRemakeSpare()
	a, gives := c.fitInto(size, 0)
	if a.victims == 0 { // from an Open with larger segments, where no more space could be kept back, or in checkpoints
		return a, fmt.Errorf("%w: of no victim whose file is in no checkpoint, what is live fits into a target of %d bytes",
			ErrNoSpace, size)
	}
	if gives < size && c.s.medium.recycles() {
		if a, gives = c.fitInto(size, size); gives < size {
			return allowance{}, nil
		}
	}
	if gives < size {
		a.size = vm.RoundUp(layout.HeaderSize+a.needed+layout.DigestSize, vm.PageSize)
		a.room = a.size - layout.HeaderSize - layout.DigestSize
		return a, nil
	}
	if next := c.work[a.victims:]; len(next) > 0 {
		if live, _ := next[0].need(); live > 0 && c.getsBack(next[0]) > 0 {
			a.partial = true
			a.victims++
		}
	}
	return a, nil
}

// fitInto moves the victims to the front of c.work that fit together into a target of size bytes, the best first but
// one of at least first bytes before all others. gives says how large they are.
func (c *compaction) fitInto(size, first int) (a allowance, gives int) {
	a = allowance{targets: 1, room: size - layout.HeaderSize - layout.DigestSize} // it keeps room for one digest more
	for i, v := range c.work {
		live, tombstones := v.need()
		gets := c.getsBack(v)
		if gets == 0 || gets < first || a.needed+live+tombstones > a.room {
			continue
		}
		first = 0
		a.needed += live + tombstones
		a.kept += tombstones
		gives += gets
		copy(c.work[a.victims+1:i+1], c.work[a.victims:i])
		c.work[a.victims] = v
		a.victims++
	}
	return a, gives
}

// getsBack returns how much memory comes back with v, or how much space on the disk, bytes.
func (c *compaction) getsBack(v *victim) int {
	if v.seg.file == nil || c.remakes {
		return len(v.seg.mem)
	}
	return int(c.s.freedBytes(v.seg))
}

// canRemakeSpare reports whether a round may take the target's spare and get no disk space back, as with files that are
// in checkpoints too: MaxBytes alone keeps a new spare from being made, and what is mapped comes back with the victims.
// Others may take the space that the disk has left, so it has to be twice as much.
func (c *compaction) canRemakeSpare() bool {
	if c.s.disk == nil || c.s.mapper.limit == 0 {
		return false
	}
	left, known := c.s.disk.fs.Available()
	return known && left >= 2*c.segmentSize()
}

// need returns how many bytes of a target the rest of v takes, at most, and how many its tombstones.
func (v *victim) need() (live, tombstones int) {
	live, tombstones = int(v.left), int(v.seg.tombstoneBytes.Load())
	if v.seg.file != nil {
		live += layout.DigestSize * v.live.len()
		tombstones += layout.DigestSize * v.seg.tombstones.len()
	}
	return live, tombstones
}

// chooseVictims makes victims of the sealed segments with dead bytes that the policy chooses, the
// best first, and of those that were sealed early and have nothing dead, or that nobody will fill, if fewer
// segments are left of them.
func (c *compaction) chooseVictims() {
	if c.evicts() {
		c.takeHandful()
	} else {
		c.chooseDead()
	}
	c.claimed = append(c.claimed, c.victims...)
	for _, v := range c.victims {
		c.progress.BytesTotal += c.s.unexpired(v.seg)
	}
	c.progress.Victims = len(c.victims)
	c.publishProgress(StageBuild, nil)
}

// chooseDead is chooseVictims for compactions that do not evict.
func (c *compaction) chooseDead() {
	var merge []*victim
	segs := c.s.segments.all()
	newest := c.s.segments.newestID() // read after the table, to which lanes add: so no age is below 1
	for _, seg := range segs {
		if !seg.is(stateSealed) || (seg.live.Load() > 0 || seg.tombstoneBytes.Load() > 0) && seg.damaged.Load() {
			continue
		}
		if v := c.s.newVictim(seg, newest); v.dead > 0 {
			c.victims = append(c.victims, v)
		} else if seg.sealedEarly.Load() {
			merge = append(merge, v)
		}
	}
	slices.SortStableFunc(c.victims, func(a, b *victim) int { return cmp.Compare(b.benefit, a.benefit) })
	rated, sizes := c.victims, c.s.sizes()
	c.victims = c.policy.choose(rated, sizes)
	chosen := make(map[*victim]bool, len(c.victims))
	for _, v := range c.victims {
		chosen[v] = true
	}
	for _, v := range rated {
		if v.seg.isUnfilled() && !chosen[v] {
			merge = append(merge, v)
		}
	}
	if sizes.unfilled > 0 || c.leavesFewer(merge) {
		c.victims = append(c.victims, merge...)
	}
	c.victims = c.claimVictims(c.victims)
}

// leavesFewer reports whether fewer segments are left when those of merge, in which little is dead, are copied
// together with the victims. Targets are taken to become nine tenths full, which they always do: at more, a
// compaction that hoped for one segment fewer and got none would be followed by one that copies the same again.
func (c *compaction) leavesFewer(merge []*victim) bool {
	live := func(victims []*victim) (bytes int64) {
		for _, v := range victims {
			bytes += c.s.unexpired(v.seg)
		}
		return bytes
	}
	copied, size := live(c.victims), c.segmentSize()
	return targetsFor(copied+live(merge), size) < targetsFor(copied, size)+int64(len(merge))
}

// targetsFor returns how many targets of size bytes so much is counted to fill.
func targetsFor(bytes, size int64) int64 {
	full := max(1, size/10*9)
	return (bytes + full - 1) / full
}

// fillWork adds to c.work until the next round can fill its targets, and walks the index for further victims where it
// has to: a target is left half empty only when no victim is left.
func (c *compaction) fillWork(ctx context.Context) error {
	rounds := walkAhead * int64(c.maxTargets) * c.segmentSize()
	for c.hasMore() && (c.unbounded() || c.liveWork() < int64(c.maxTargets)*c.segmentSize()) {
		if len(c.walked) == 0 {
			c.walked, c.victims = c.split(c.victims, max(rounds, c.liveBytes/mostWalks))
			if err := c.walk(ctx, c.walked); err != nil {
				return err
			}
			if err := c.s.hooks.fire(pointCompactWalked); err != nil {
				return err
			}
		}
		var group []*victim
		group, c.walked = c.split(c.walked, rounds)
		if c.evicts() {
			group = c.passOver(group)
		}
		c.work = append(c.work, group...)
	}
	return nil
}

// hasMore reports whether c.work does not have all victims that are left.
func (c *compaction) hasMore() bool { return len(c.victims)+len(c.walked) > 0 }

// split parts victims behind the first ones whose live records have so many bytes. Of an unbounded round these are all.
func (c *compaction) split(victims []*victim, bytes int64) (group, rest []*victim) {
	if c.unbounded() {
		return victims, nil
	}
	for n, v := range victims {
		if bytes -= c.s.unexpired(v.seg); bytes < 0 {
			return victims[:n+1], victims[n+1:]
		}
	}
	return victims, nil
}

// unbounded reports whether one round takes everything.
func (c *compaction) unbounded() bool { return c.maxTargets == math.MaxInt }

func (c *compaction) segmentSize() int64 { return int64(c.size) }

// liveWork returns about how many bytes of c.work have to be copied.
func (c *compaction) liveWork() (total int64) {
	for _, v := range c.work {
		total += c.s.unexpired(v.seg)
	}
	return total
}
