package warmtier

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/warmtier/warmtier/internal/biaslock"
	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Clear makes the store empty in one moment, the cut. With contentMu held for writing it seals every lane, takes the
tables of all shards, and counts the Clear: 8 lanes, 256 shards and a number, whatever the store holds. What
was published before has the number of Clears before, and is cleared (segmentTable.isCleared): nothing in it is
live, though its counter may say so for a moment. Everything that takes time follows with no lock held: counters
are set to 0, and a sweep takes the segments out as any dead ones: in a directory, where files take as long to
remove as they are large, after the call has returned.

All who write hold contentMu from their look-up to their slot, so each write is before the cut, and gone, or after
it, in a new table and a new segment. What was begun before the cut and ends after it:

	a round     Its targets have the number that the round began with. It copies records that are dead by
	            then: its flips find nothing, in a directory its commit is refused, since a manifest that lists
	            its targets would bring back what is in them, and it is undone. Its victims are cleared.
	a lane      that has claimed a segment to resume it finds it cleared, and lets it go.
	a load      It has the number it was made known with, and is superseded.
	a pin       keeps its segment mapped, as with any segment that leaves.

In a directory the durable step comes before the cut: a manifest that lists nothing. Segments of before are in no
list of it and below its next id, so they are leftovers. A kill after the rename finds it, so between the rename and
the cut nothing may be acknowledged that it would lose, and nobody may see the cut before:

	Clear                               Put                               the next Open, without the barrier
	renames the manifest
	                                    appends to its lane, returns nil
	(killed)                                                              the lane's segment counts no more: lost

	Clear                               Get                               the next Open, the cut first
	cuts                                finds nothing
	(killed)                                                              finds the memory

So writes wait at a barrier, from before the rename to the cut. They do so where they would make a segment, with no
lock held; reads go on. The manifest was written and synced before that, and is written again behind the
barrier if a lane got a segment in the meantime, which the first one would have counted. The
directory is synced after the cut, before Clear returns, with manifestMu held: until then a power loss
finds the old manifest, whose files are all there, or the new one; no flush or commit, and so no durable write, comes
between.
*/

// errCleared ends a round that has copied what was cleared since. It is nobody's error.
var errCleared = errors.New("warmtier: cleared")

// Clear removes all memories at once. Every call that starts after it has returned sees an empty store, and calls
// beside it see either all of it or nothing; what is stored by a call that starts afterwards stays. Contents that a
// View holds stay valid in it, an iteration ends with what it has yielded, and what a load of GetOrLoad under way
// brings is not stored.
//
// In a directory it is durable when it returns nil, with SyncWrites or without: a crash on the way leaves
// everything or nothing of what was there. It needs no space, not even on a full disk.
//
// No other call waits for longer than it takes to exchange the tables of the index, some ten microseconds, and in
// a directory writes wait for a rename as well, whatever the store holds. In memory Clear itself gives back what was
// mapped. In a directory it returns after two syncs; files are unmapped and removed in the background, for which the
// next Clear waits, Close, and a write that finds no space before. Segments that a View, or a compaction under
// way, still has follow when it ends. Clear may be called wherever the store may, OnProgress included.
//
// Errors: [ErrReadOnly]; [ErrClosed]; [ErrSyncFailed]; those of the file system. Nothing has changed when it returns
// one, with one exception: when the last step of making it durable has failed, which is ErrSyncFailed and
// ends all writing, the memories are gone, and a power loss may bring all of them back.
func (s *Store) Clear() error {
	if s.opts.ReadOnly {
		return ErrReadOnly
	}
	if err := s.failedSync(); err != nil {
		return err
	}
	done, err := s.enter()
	if err != nil {
		return err
	}
	s.clearing.Lock()
	if err := s.medium.clear(); err != nil {
		s.clearing.Unlock()
		done()
		return fmt.Errorf("warmtier: clear: %w", inner{err})
	}
	s.meters.clears.Add(1)
	s.noteCleared()
	s.maintenance.noteSizes(s.sizes()) // little is kept for lanes from here on
	if s.medium.syncs() {
		go s.giveBackCleared(done)
	} else {
		s.giveBackCleared(done)
	}
	s.opts.Logger.Info("store cleared")
	return nil
}

// giveBackCleared gives back what a Clear has taken out, and ends it. Were the next Clear not to wait for
// that, a program that fills the store and clears it could leave files faster than they are removed.
func (s *Store) giveBackCleared(done func()) {
	defer done()
	gone, err := s.sweep()
	s.releasePool()
	s.medium.keepSpares()
	s.clearing.Unlock() // a Logger may call the store
	_ = s.countSweep(gone, err)
}

// cut makes the store empty, and lets writes go on that were kept out.
func (s *Store) cut() {
	tables := make([]table, 0, 2*shardCount)
	s.contentMu.Lock()
	start := time.Now()
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil { // the lane gets another one with its next record
			s.sealActiveLocked(ln, false)
		}
		ln.mu.Unlock()
	}
	s.segments.setPartial(nil)
	s.segments.clears.Add(1)
	for i := range s.shards {
		tables = s.shards[i].emptyLocked(tables)
	}
	s.tableBytes.Store(0)
	replaced := s.replaced.takeLocked()
	s.letWritesInLocked()
	pause := time.Since(start)
	s.contentMu.Unlock()
	s.history.addPause(pause)
	_ = s.hooks.fire(pointCleared)
	s.discardTables(tables) // no reader is in them: each held contentMu
	s.releaseTables(replaced)
}

// endWrites has no more written to the active segments with system calls. Nobody is writing, and the cut, which seals
// them, would close their descriptors with all readers waiting. REQUIRES: writes are kept out.
func (s *Store) endWrites() {
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil {
			ln.active.file.EndWrites()
		}
		ln.mu.Unlock()
	}
}

// emptyLocked takes all memories out of sh, and appends its tables to tables. REQUIRES: contentMu write-held.
func (sh *shard) emptyLocked(tables []table) []table {
	sh.mu.Lock() // compactions flip and walk without contentMu
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	tables = sh.takeTablesLocked(tables)
	sh.memories.Store(0)
	sh.liveBytes.Store(0)
	return tables
}

// noteCleared makes the counters of cleared segments say what is true since the cut, and notes those that nobody has
// claimed for the next sweep. No counter of them changes any more: nothing leads to them.
func (s *Store) noteCleared() {
	for _, seg := range s.segments.all() {
		if s.segments.isCleared(seg) {
			seg.live.Store(0)
			s.noteIfDead(seg)
		}
	}
}

// isCleared reports whether a Clear has taken all that was in seg out of the store.
func (t *segmentTable) isCleared(seg *segment) bool { return seg.clears != t.clears.Load() }

// liveBytes returns the live bytes of seg, 0 when it is cleared.
func (t *segmentTable) liveBytes(seg *segment) int64 {
	if t.isCleared(seg) {
		return 0
	}
	return seg.live.Load()
}

// keepWritesOut makes all writes wait that have no slot yet. When it returns none is under way.
func (s *Store) keepWritesOut() {
	s.contentMu.Lock()
	defer s.contentMu.Unlock()
	s.barrier = make(chan struct{})
}

// letWritesIn ends what keepWritesOut began.
func (s *Store) letWritesIn() {
	s.contentMu.Lock()
	defer s.contentMu.Unlock()
	s.letWritesInLocked()
}

// letWritesInLocked is letWritesIn. REQUIRES: contentMu write-held.
func (s *Store) letWritesInLocked() {
	if s.barrier != nil {
		close(s.barrier)
		s.barrier = nil
	}
}

// refusal returns why a write may not go on that met the barrier: the store is closed, or nil when it has to
// wait. REQUIRES: contentMu held.
func (s *Store) refusal() error {
	if s.closed {
		return ErrClosed
	}
	return nil
}

// holdForWrite acquires contentMu for reading when no write is kept out. REQUIRES: no lock held, Close waits for the
// caller.
func (s *Store) holdForWrite() biaslock.Hold {
	for {
		hold := s.contentMu.RLock()
		barrier := s.barrier
		if barrier == nil {
			return hold
		}
		s.contentMu.RUnlock(hold)
		<-barrier
	}
}

func (m memory) clear() error {
	m.s.cut()
	return nil
}

// clear makes it durable that nothing of before counts, and cuts in between.
func (d *disk) clear() error {
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.s.failedSync(); err != nil {
		return err
	}
	if err := d.fs.Present(); err != nil {
		return err
	}
	m, pending := d.newManifest()
	m.MaxSeq += numbersAhead
	if _, err := d.prepareManifest(&m); err != nil {
		return err
	}
	_ = d.s.hooks.fire(pointClearPrepared)
	d.s.keepWritesOut()
	if err := d.renameEmpty(&m, pending); err != nil {
		d.s.letWritesIn()
		return err
	}
	d.s.endWrites()
	d.s.cut()
	for _, seg := range d.s.segments.all() {
		if d.s.segments.isCleared(seg) {
			seg.inFile.committed.Store(false) // no manifest may list it again
		}
	}
	err := d.settleManifest(m)
	if err == nil {
		err = d.fs.Present() // as a flush asks, last
	}
	if err != nil {
		return d.s.fail(err)
	}
	return nil
}

// renameEmpty puts m, which lists nothing, in force. pending are the ids that it was made with. REQUIRES:
// d.manifestMu held, writes kept out.
func (d *disk) renameEmpty(m *layout.Manifest, pending map[uint64]bool) error {
	_ = d.s.hooks.fire(pointClearBarred)
	next, still := d.s.segments.numbers()
	if next != m.Next || !maps.Equal(pending, still) || d.s.sequence.Load() > m.MaxSeq {
		*m, _ = d.newManifest() // what was published since may hold records
		if _, err := d.prepareManifest(m); err != nil {
			return err
		}
	}
	err := d.renameManifest(*m)
	switch {
	case err == nil: // nobody draws a number
		d.s.sequence.Store(m.MaxSeq)
	case !errors.Is(err, dir.ErrUnsynced): // nobody knows which manifest is in force
		err = d.s.fail(err)
	}
	return err
}

// numbersAhead is how far the sequence number in a manifest that is prepared is ahead. A record that leaves the store
// has a number that the manifest knows, or recovery would miss it, and writes go on until they are kept out: so from
// the rename on the store goes on above that number. (A versionGap would be used up by 2^24 Clears.)
const numbersAhead = 1 << 20
