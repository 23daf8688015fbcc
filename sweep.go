package warmtier

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/record"
)

/*
A sweep takes segments out of the store in which nothing is live any more. It copies nothing, so it
needs neither a target nor a walk of the index nor a compaction, and no threshold or period applies
to it: what is dead costs nothing.

Who notices. A segment is dead when it is sealed, nobody has claimed it, and its live bytes are 0.
Each of the three may come last, and whoever brings it about looks at the other two afterwards
(noteIfDead): the write that supersedes the last live record, the lane that seals, the holder of a
claim who gives it up. All are atomic, so of any two who are at it at the same moment at least one
sees what the other did.

When. A memory store sweeps at the end of the Put or Delete that noticed; a directory must flush and
write a manifest first, and does it on a goroutine of its own. Compactions, maintenance cycles, Close
and a lane that cannot get a segment sweep as well.

I5 (who retires): a segment leaves the table through the one who has claimed it, or with Close, which
waits for all of them. Without claims a sweep would take a target that was published and whose slots
are not flipped yet, or a victim of a round that is about to be undone, which gives it its live bytes
back. While a claim for a sweep is held the live bytes cannot grow again: only flips add to those of a
sealed segment, and they do it to segments that a compaction has claimed.
*/

// owner says who may take a segment out of the table, or write to it again.
type owner int32

const (
	unclaimed   owner = iota
	ownerVictim       // the compaction under way, which has chosen it
	ownerTarget       // the round under way, which fills it
	ownerSweep        // a sweep
	ownerLane         // a lane, which is about to resume it
)

// claimFor claims seg, and reports false if somebody else has.
func (seg *segment) claimFor(o owner) bool {
	return seg.owner.CompareAndSwap(int32(unclaimed), int32(o))
}

func (seg *segment) claimedBy() owner { return owner(seg.owner.Load()) }

// unclaim gives up the claim on seg, which stays in the table.
func (s *Store) unclaim(seg *segment) {
	seg.owner.Store(int32(unclaimed))
	s.noteIfDead(seg)
}

// isDead reports whether seg is sealed and has nothing live.
func (seg *segment) isDead() bool { return seg.live.Load() == 0 && seg.is(stateSealed) }

// deadSegments are those that the next sweep looks at.
type deadSegments struct {
	on      bool       // set at the end of Open, which decides by itself what stays
	running sync.Mutex // held while a sweep runs; acquired before all others, by nobody who holds one
	mu      sync.Mutex // a leaf
	segs    []*segment
	waiting atomic.Int64 // len(segs); written with mu held
}

// noteIfDead notes seg for the next sweep if it is dead and unclaimed. Any lock may be held.
func (s *Store) noteIfDead(seg *segment) {
	if !seg.isDead() || seg.claimedBy() != unclaimed {
		return
	}
	l := &s.dead
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segs = append(l.segs, seg)
	l.waiting.Store(int64(len(l.segs)))
}

// noteAllDead notes every dead segment: a sweep that failed, or that met a tombstone which was still
// needed, has forgotten those that it could not take.
func (s *Store) noteAllDead() {
	for _, seg := range s.segments.all() {
		s.noteIfDead(seg)
	}
}

// claimAll takes out what was noted, and claims what is still dead.
func (l *deadSegments) claimAll(s *Store) (claimed []*segment) {
	l.mu.Lock()
	segs := l.segs
	l.segs = nil
	l.waiting.Store(0)
	l.mu.Unlock()
	for _, seg := range segs {
		switch {
		case !seg.claimFor(ownerSweep): // its holder looks again
		case seg.isDead():
			claimed = append(claimed, seg)
		default:
			s.unclaim(seg)
		}
	}
	return claimed
}

// sweepNoted ends a write: it sweeps if a dead segment was noted. What is noted while somebody sweeps is
// for the one who does, who looks again when he has let go of running: on a goroutine, since a write
// must not sweep for as long as others note. REQUIRES: no lock held.
func (s *Store) sweepNoted() {
	l := &s.dead
	if l.waiting.Load() == 0 || !l.on || !l.running.TryLock() {
		return
	}
	done, err := s.enter()
	if err != nil { // Close takes out everything
		l.running.Unlock()
		return
	}
	sweep := func() (again bool) {
		_ = s.countSweep(s.sweepRunning())
		l.running.Unlock()
		return l.waiting.Load() > 0 && l.running.TryLock()
	}
	if !s.medium.syncs() && !sweep() {
		done()
		return
	}
	go func() {
		defer done()
		for again := true; again; {
			again = sweep()
		}
	}()
}

// sweepCounted sweeps, counts what that gave back, and returns it. REQUIRES: as sweep.
func (s *Store) sweepCounted() (reclaimed int64) { return s.countSweep(s.sweep()) }

// countSweep counts what a sweep gave back outside of a compaction, and logs its error.
func (s *Store) countSweep(gone swept, err error) int64 {
	s.warn("dead segments could not be given back", err)
	s.history.addSweep(gone.records)
	return gone.records
}

// swept is what a sweep gave back.
type swept struct {
	records, files int64         // bytes of records, and of files
	longest        time.Duration // hold of contentMu
}

// sweep takes the dead segments that were noted out of the store, once a sweep under way has ended. After
// an error the store is as it was: they stay until a later sweep or round. REQUIRES: no lock held, Close
// waits for the caller.
func (s *Store) sweep() (gone swept, err error) {
	defer s.sweepNoted() // what was noted since, by a write that saw this sweep
	s.dead.running.Lock()
	defer s.dead.running.Unlock()
	return s.sweepRunning()
}

// sweepRunning is sweep. REQUIRES: also dead.running held.
func (s *Store) sweepRunning() (gone swept, err error) {
	segs := s.dead.claimAll(s)
	if len(segs) == 0 {
		return gone, nil
	}
	_ = s.hooks.fire(pointSweepClaimed)
	leaving, err := s.medium.dropDead(segs)
	left := make(map[*segment]bool, len(leaving))
	for _, seg := range leaving {
		left[seg] = true
		gone.records += seg.recordBytes()
		gone.files += s.freedBytes(seg)
	}
	for _, seg := range segs {
		if !left[seg] {
			seg.owner.Store(int32(unclaimed)) // not noted again, or a sweep would not end
		}
	}
	gone.longest = s.removeFromTable(leaving)
	for _, seg := range leaving {
		s.medium.remove(seg)
		if s.retire(seg) {
			s.recycle(seg)
		}
	}
	s.room.changed()
	return gone, err
}

// dropDead makes it durable that segs are gone, whose live bytes are 0: those at least whose
// tombstones nobody needs any more.
func (d *disk) dropDead(segs []*segment) (leaving []*segment, err error) {
	defer d.s.catchFault(armFaults(), &err)
	if err := d.s.failedSync(); err != nil {
		return nil, err
	}
	leaving, listed, err := d.splitCleared(segs)
	if err != nil {
		return nil, err
	}
	listed = d.withoutNeeded(listed)
	if len(listed) == 0 {
		return leaving, nil
	}
	if _, err := d.commit(listed, nil); err != nil {
		return leaving, err
	}
	return append(leaving, listed...), nil
}

// splitCleared parts segs into those that a Clear has taken out of the manifest and the others. A Clear that has
// marked them holds manifestMu until its manifest is durable: before that no file may go.
func (d *disk) splitCleared(segs []*segment) (cleared, others []*segment, err error) {
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	for _, seg := range segs {
		if seg.inFile.committed.Load() {
			others = append(others, seg)
		} else {
			cleared = append(cleared, seg)
		}
	}
	return cleared, others, d.s.failedSync()
}

// withoutNeeded returns those of segs whose tombstones may all go with them. A segment that has to stay
// may hold older dead records, for which tombstones in others have to stay as well: so it is looked
// again until none is left out.
func (d *disk) withoutNeeded(segs []*segment) []*segment {
	for {
		leaving := make(map[*segment]bool, len(segs))
		for _, seg := range segs {
			leaving[seg] = true
		}
		oldest := d.s.oldestDead(leaving)
		var free []*segment
		for _, seg := range segs {
			if seg.tombstonesOlder(oldest) {
				free = append(free, seg)
			}
		}
		if len(free) == len(segs) {
			return segs
		}
		segs = free
	}
}

// tombstonesOlder reports whether every tombstone in seg is older than seq. One that is damaged counts
// as younger. REQUIRES: seg is sealed.
func (seg *segment) tombstonesOlder(seq uint64) bool {
	if seg.tombstones.len() == 0 || seg.maxSeq < seq {
		return true
	}
	for unit := range seg.tombstones.all() {
		offset := int(unit) * record.Align
		rec := seg.mem[offset:int(seg.tail.Load())]
		h, ok := record.Decode(rec)
		if !ok || !record.Intact(rec, h, seg.seedAt(offset)) || h.Seq >= seq {
			return false
		}
	}
	return true
}
