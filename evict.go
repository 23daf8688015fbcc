package warmtier

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Eviction makes room in a store with WhenFull Evict: it drops memories that nobody has read. It is SIEVE
(Zhang, Yang, Yue, Vigfusson, Rashmi: "SIEVE is Simpler than LRU", NSDI '24) on segments, which are
merged as in Segcache (Yang, Yue, Vinayak: "Segcache", NSDI '21):

	bit     A read sets a bit in the slot that it followed (index.go).
	hand    When little room is left, or a write has found none, the hand takes the next sealed segments in
	        the order of their ranks, and begins again with the oldest after the newest. Rounds copy what
	        was read, with its bit cleared, and nearly all that is small, up to handKeeps of what is live
	        in them, and drop all else.
	rank    A segment's rank is its id: the order in which lanes began them. A target has that of its
	        newest source, so what the hand has let by stays where it was in the order.
	ghost   A table of fingerprints of ids that were dropped. One that comes back gets its bit at once:
	        it was asked for twice, if further apart than the store is large.

Dead bytes come first: while a tenth of the store is dead, a compaction gives these back instead.

A Put is never refused while anything can be dropped, and what it stored is there when it returns: no
memory is refused admission. The bytes that become free are those of the group less those of the targets,
so at least 1 - handKeeps of it, and a writer that finds them taken by others asks again.
*/

const (
	// The hand takes 1/handShare of the sealed segments at a time, and at least handLeast. Fewer would mean
	// more walks of the index for what comes free, more would leave more room empty.
	handShare = 16
	handLeast = 4

	// A compaction evicts when less than 1/aheadShare of MaxBytes is left, so that writes find room while it
	// runs. A look for that is due with each 1/evictLooks of the store that was written.
	aheadShare = 64
	evictLooks = 256

	// handKeeps is the share of what is live in them that stays at most.
	handKeeps = 0.75

	// smallShare is the share of an average record below which one is small. Small ones stay though nobody has read
	// them, all but one in smallGone each time that the hand comes by: what few bytes they take costs fewer
	// hits than they give, and what nobody ever reads is gone in the end.
	smallShare = 2.0 / 3
	smallGone  = 10
)

// evicting is the policy of a compaction that evicts.
type evicting struct{ needed }

// sealShare is beyond 1: active segments stay with their lanes, and the hand never takes them.
func (evicting) sealShare() float64 { return 2 }

// eviction is what a store keeps for it.
type eviction struct {
	hand   uint64      // rank of the last segment evicted; used by the compaction under way
	barren atomic.Bool // the last compaction gave nearly nothing back: the next one may have to evict
	ghosts ghosts
}

// evicts reports whether the store drops memories when it is full.
func (s *Store) evicts() bool { return s.opts.WhenFull == Evict }

// evicts reports whether c drops what was not read.
func (c *compaction) evicts() bool {
	_, ok := c.policy.(evicting)
	return ok
}

// lacksRoom reports whether so little room is left in a store that evicts that it is time to.
func (s *Store) lacksRoom() bool {
	if !s.evicts() {
		return false
	}
	mapped, spares := s.medium.held()
	return s.opts.MaxBytes-mapped-spares+s.pool.bytes() < s.opts.MaxBytes/aheadShare
}

// mustEvict reports whether a compaction that begins now should evict: a write waits for room, or soon will, and
// dead bytes alone would not give enough back.
//
// A write that waits may have got room already, and has not come to run since. What would break, if a compaction that
// gave room answered only who asked before it began:
//
//	writer                            compaction, maintenance
//	                                  begins
//	finds no room, asks, waits
//	                                  gives half of the store back, ends
//	                                  looks: a question is open, a writer waits, and little is dead: evicts
//	finds the room: for nothing
func (s *Store) mustEvict() bool {
	return s.evicts() && (s.room.waiting.Load() > 0 || s.lacksRoom()) &&
		(s.barren.Load() || s.shareToGiveBack() < waitShare)
}

// keepsForLanes reports whether an eviction has given lanes memory that they have not taken yet. A writer that
// asked in its rounds may not have come to run since. Another eviction would take that memory for its targets, the
// writer would find none, and ask again: on a busy machine until the store is empty.
func (s *Store) keepsForLanes() bool { return s.evicts() && s.pool.hasKept() }

// shareToGiveBack returns the share of the store that a compaction gives back without dropping anything.
func (s *Store) shareToGiveBack() float64 {
	st := s.sizes()
	return st.reclaimableShare()
}

// noteBarren notes whether a compaction that drops nothing gave so little back that the next one has to evict.
func (c *compaction) noteBarren() {
	c.s.barren.Store(!c.evicts() && c.gave() < c.segmentSize())
}

// evictForWrite runs a compaction that makes room, for a write in a store without maintenance.
func (s *Store) evictForWrite() error {
	// Whoever calls Put does not expect a panic of OnProgress.
	ctx := context.WithValue(context.Background(), ownGoroutine{}, true)
	_, err := s.runCompaction(ctx, s.newCompaction(triggerAuto), triggerAuto)
	return err
}

// canHold reports whether a segment of size bytes fits when everything that can be dropped is.
func (s *Store) canHold(size int) bool {
	fixed := int64(1+len(s.lanes))*int64(s.opts.SegmentSize) + s.ghosts.bytes.Load() // the survivor, active ones
	return int64(size) <= s.opts.MaxBytes-fixed
}

// takeHandful makes victims of the next segments under the hand, and moves the hand on.
func (c *compaction) takeHandful() {
	s := c.s
	segs := slices.DeleteFunc(s.segments.all(), func(seg *segment) bool {
		return !seg.is(stateSealed) || seg.damaged.Load()
	})
	slices.SortFunc(segs, func(a, b *segment) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.id, b.id)) })
	if next := slices.IndexFunc(segs, func(seg *segment) bool { return seg.rank > s.hand }); next > 0 {
		segs = append(segs[next:], segs[:next]...)
	}
	newest := s.segments.newestID()
	n := max(handLeast, len(segs)/handShare)
	for _, seg := range segs {
		if len(c.victims) > 0 && (len(c.victims) == n || seg.rank < s.hand) {
			break // not across the end: a target would take the oldest to the newest
		}
		v := s.newVictim(seg, newest)
		if len(c.claimVictims([]*victim{v})) > 0 {
			c.victims = append(c.victims, v)
			s.hand = seg.rank
		}
	}
}

// takeMore is takeHandful for a hand that has passed over all that it took, and reports whether it took
// anything now.
func (c *compaction) takeMore() bool {
	if c.passed == 0 {
		return false
	}
	c.chooseVictims()
	return len(c.victims) > 0
}

// passOver returns those of group, which was walked, that the hand stops at: it passes over a large record
// that was read, and clears its bit, since it can stay where it is. When it has passed over as many as
// there are, readers set bits faster than it clears them, and it stops at each.
func (c *compaction) passOver(group []*victim) (rest []*victim) {
	live := int64(0)
	for _, v := range group {
		if v.seg.large && v.read.len() > 0 && c.passed < c.s.segments.count() && c.clearBit(v) {
			c.passed++
			c.claimed = slices.DeleteFunc(c.claimed, func(other *victim) bool { return other == v })
			c.s.unclaim(v.seg) // it may come to its turn again
			continue
		}
		rest = append(rest, v)
		live += c.s.segments.liveBytes(v.seg)
	}
	c.mayKeep = int64(handKeeps * float64(live))
	return rest
}

// clearBit clears the bit of the only record of v, and reports whether it could be read.
func (c *compaction) clearBit(v *victim) (ok bool) {
	var fault error
	defer c.s.catchFault(armFaults(), &fault)
	offset := int(v.read.first()) * record.Align
	rec := v.seg.mem[offset:int(v.seg.tail.Load())]
	h, ok := record.Decode(rec)
	if !ok || !record.IntactPrefix(rec, h, v.seg.seedAt(offset)) {
		return false // a round finds out
	}
	shardIndex, tag := splitHash(c.s.hashBytes(record.ID(rec, h)))
	sh, w := &c.s.shards[shardIndex], makeSlot(tag, c.s.locate(v.seg, offset))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if pos, ok := sh.current().find(w); ok {
		sh.setLocked(pos, w)
	}
	return true
}

// sacrifice returns what a round may take on for which there is no space but what is kept back: the victim
// of which the least was read, and all of it is dropped. Its tombstones take less than it does, so it leaves, and
// there is space for the next round to copy what was read in the others.
func (c *compaction) sacrifice() allowance {
	slices.SortStableFunc(c.work, func(a, b *victim) int { return cmp.Compare(a.read.len(), b.read.len()) })
	c.sacrificed, c.mayKeep = true, 0
	return allowance{victims: 1, targets: 1}
}

// keeps decides about the live record at unit of v, whose size is given: it stays if it was read, or is
// small, and there is room for it in what may stay of the group. A large record is not copied: see passOver.
// REQUIRES: the round's mu held.
func (c *compaction) keeps(v *victim, unit uint32, size int) bool {
	if v.seg.large || int64(size) > c.mayKeep {
		return false
	}
	if !v.read.contains(unit) && !c.isSmall(size) {
		return false
	}
	c.mayKeep -= int64(size)
	return true
}

// isSmall reports whether a record of size bytes stays because it is small.
func (c *compaction) isSmall(size int) bool {
	return float64(size) < smallShare*c.recordSize && rand.IntN(smallGone) > 0
}

// ghosts remember ids that were evicted: in a direct-mapped table, 16 bits of the hash of each. Every shard
// has an equal part of it, which its lock guards.
type ghosts struct {
	table atomic.Pointer[[]uint16] // nil before the first eviction
	mem   []byte                   // of the table; used by the compaction under way, and Close
	bytes atomic.Int64             // len(mem)
}

// ghostMark returns what a ghost remembers of an id with hash h. It is never 0.
func ghostMark(h uint64) uint16 { return uint16(h*0x9e3779b97f4a7c15>>48) | 1 }

// place returns where the mark of an id with tag goes, nil when there is no table. REQUIRES: the lock of
// the shard held.
func (g *ghosts) place(shardIndex int, tag uint32) *uint16 {
	t := g.table.Load()
	if t == nil {
		return nil
	}
	n := len(*t) / shardCount
	return &(*t)[shardIndex*n+int(uint64(tag)*uint64(n)>>tagBits)]
}

// note remembers an id that was dropped. REQUIRES: as place.
func (g *ghosts) note(shardIndex int, tag uint32, mark uint16) {
	if p := g.place(shardIndex, tag); p != nil {
		*p = mark
	}
}

// recall returns the bit of reads if the id of d was dropped lately, which it forgets, and otherwise 0.
// REQUIRES: as place.
func (g *ghosts) recall(d *draft) slot {
	shardIndex, tag := splitHash(d.hash)
	p := g.place(shardIndex, tag)
	if p == nil || *p != ghostMark(d.hash) {
		return 0
	}
	*p = 0
	return readBit
}

// recalled returns the bit of reads that the slot of d gets if its id does not exist, and was dropped lately.
// REQUIRES: the lock of its shard held.
func (s *Store) recalled(d *draft, exists bool) slot {
	if !s.marksReads || exists {
		return 0
	}
	return s.ghosts.recall(d)
}

// place finds out where the index keeps id.
func (d *draft) place(s *Store, id string) {
	d.hash = s.hash(id)
	shardIndex, tag := splitHash(d.hash)
	d.shard, d.tag = &s.shards[shardIndex], tag
}

// fitGhosts gives the ghosts a table of two bytes a memory, if they have none or one of another size by far,
// and forgets what was in it. Where there is no room for it they get a smaller one. REQUIRES: a compaction
// of the caller's under way, no lock held.
func (s *Store) fitGhosts() {
	g := &s.ghosts
	want := vm.RoundUp(2*max(1, s.Len()), vm.PageSize)
	if have := len(g.mem); have >= want/2 && have <= 4*want {
		return
	}
	for size := want; size > len(g.mem)/2 && size >= vm.PageSize; size = vm.RoundUp(size/2, vm.PageSize) {
		mem, err := s.acquire(size)
		if err == nil {
			s.replaceGhosts(mem)
			return
		}
		if size == vm.PageSize {
			return
		}
	}
}

// replaceGhosts gives the ghosts mem, which is zero, for a table, nil for none.
func (s *Store) replaceGhosts(mem []byte) {
	g, old := &s.ghosts, s.ghosts.mem
	var t *[]uint16
	if len(mem) > 0 {
		marks := unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/2)
		t = &marks
	}
	g.table.Store(t)
	for i := range s.shards { // whoever has loaded the old table is done with it within a hold
		s.shards[i].passThrough()
	}
	g.mem = mem
	g.bytes.Store(int64(len(mem)))
	if len(old) > 0 {
		s.release(old)
	}
}

// markRead sets the bit of reads in the slot at pos, if that is still w.
func (t table) markRead(pos int, w slot) {
	atomic.CompareAndSwapUint64((*uint64)(&t[pos]), uint64(w), uint64(w|readBit))
}
