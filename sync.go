package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

// extent is what a segment holds at one moment.
type extent struct {
	tail, records int64
	maxSeq        uint64
}

// extent is that of now. REQUIRES: nobody appends.
func (seg *segment) extent() extent {
	return extent{tail: seg.tail.Load(), records: seg.records.Load(), maxSeq: seg.maxSeq}
}

// writeState writes to the header of seg that e is durable. It becomes durable itself with the next
// sync of the header.
func (seg *segment) writeState(e extent, sealed bool) {
	seg.generation++
	layout.State{
		Generation: seg.generation,
		Records:    uint32(e.records),
		Synced:     uint64(e.tail),
		MaxSeq:     e.maxSeq,
		Sealed:     sealed,
	}.Encode(seg.mem)
}

// makeDurable ends a Put or Delete with SyncWrites.
func (s *Store) makeDurable() error {
	if s.disk == nil || !s.opts.SyncWrites {
		return nil
	}
	return s.flush()
}

// Sync makes everything acknowledged before it survive a power loss. In a memory store there is
// nothing to do. Concurrent calls share one flush.
//
// Errors: [ErrClosed]; [ErrSyncFailed], after which the store takes no more writes.
func (s *Store) Sync() error {
	_, done, err := s.begin(context.Background())
	if err != nil {
		return err
	}
	defer done()
	if s.disk == nil || s.opts.ReadOnly {
		return nil
	}
	return s.flush()
}

// flush returns when a flush that began after the call has ended. REQUIRES: no lock held.
func (s *Store) flush() error {
	d := s.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	for wanted := d.begun + 1; d.ended < wanted; {
		if err := s.failedSync(); err != nil {
			return err
		}
		if d.running {
			d.changed.Wait()
			continue
		}
		d.running = true
		d.begun++
		turn := d.begun
		d.mu.Unlock()
		err := s.measuredFlush()
		d.mu.Lock()
		d.running = false
		d.changed.Broadcast()
		if errors.Is(err, ErrNoSpace) {
			return err // of the manifest: nothing was lost, and the next flush tries again
		}
		if err != nil {
			return s.fail(err)
		}
		d.ended = turn
	}
	return nil
}

func (s *Store) measuredFlush() error {
	start := time.Now()
	err := s.flushAll()
	s.meters.syncDurations.observe(time.Since(start))
	if err != nil {
		s.meters.syncErrors.Add(1)
		return err
	}
	s.meters.syncs.Add(1)
	return nil
}

// flushAll makes every segment durable up to its tail of now. REQUIRES: d.running set by the caller.
func (s *Store) flushAll() error {
	dirty := s.pinDirty()
	defer func() {
		for _, d := range dirty {
			s.unpin(d.seg)
		}
	}()
	for _, d := range dirty {
		if err := s.flushSegment(d); err != nil {
			return fmt.Errorf("%s: %w", d.seg.name(), err)
		}
	}
	return s.listSegments()
}

// flushSegment makes one segment durable, and says so in its header.
func (s *Store) flushSegment(d dirtySegment) (err error) {
	defer s.catchFault(armFaults(), &err)
	seg := d.seg
	if err := seg.syncRecords(d.extent); err != nil {
		return err
	}
	_ = s.hooks.fire(pointFlushed)
	seg.writeState(d.extent, d.sealed)
	seg.synced.Store(d.tail)
	seg.durable.Store(true)
	seg.sealedInFile.Store(d.sealed)
	seg.stateUnsynced.Store(true)
	_ = s.hooks.fire(pointStateWritten)
	return nil
}

// syncRecords makes header, records and digests durable, and leaves alone what a lane may be writing
// to meanwhile.
func (seg *segment) syncRecords(e extent) error {
	if err := seg.syncFile(0, int(e.tail)); err != nil || e.records == 0 {
		return err
	}
	return seg.syncFile(layout.DigestAt(len(seg.mem), int(e.records)-1), len(seg.mem))
}

// syncFile makes the bytes from from to to of the segment's file durable.
func (seg *segment) syncFile(from, to int) error {
	err := seg.file.Sync(from, to)
	var short *vm.CutShortError
	if errors.As(err, &short) {
		return &CorruptError{File: seg.name(), Offset: short.Size, Reason: short.Error()}
	}
	return err
}

// dirtySegment is a pinned segment with something to be flushed.
type dirtySegment struct {
	seg *segment
	extent
	sealed bool
}

// pinDirty pins the committed segments that have grown or were sealed since they were flushed. Targets
// are flushed by the compaction that fills them.
func (s *Store) pinDirty() (dirty []dirtySegment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	taken := map[*segment]bool{}
	pin := func(seg *segment, sealed bool) {
		taken[seg] = true
		e := seg.extent()
		if e.tail > seg.synced.Load() || sealed && !seg.sealedInFile.Load() {
			seg.pin()
			dirty = append(dirty, dirtySegment{seg: seg, extent: e, sealed: sealed})
		}
	}
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil {
			pin(ln.active, false)
		}
		ln.mu.Unlock()
	}
	// What is sealed does not change, unless a lane goes on in it: not under the table's lock. Neither
	// sealed nor active is a large one whose Put has not returned yet.
	s.segments.mu.Lock()
	defer s.segments.mu.Unlock()
	for _, seg := range s.segments.all() {
		if seg.committed.Load() && seg.is(stateSealed) && !taken[seg] {
			pin(seg, true)
		}
	}
	return dirty
}

// syncQuietly is Sync for the background: what fails is logged. more is false when it failed for good.
func (s *Store) syncQuietly() (more bool) {
	err := s.flush()
	if errors.Is(err, ErrSyncFailed) {
		return false // logged where it failed
	}
	if err != nil { // no space for a manifest: the next one tries again
		s.opts.Logger.Warn("sync failed, nothing was lost", "error", err)
	}
	return true
}

// finishDisk makes everything durable and seals every segment, so that the next Open finds no tail
// to look for. REQUIRES: no background work left, and no more writes.
func (s *Store) finishDisk() error {
	if s.disk == nil || s.opts.ReadOnly {
		return nil
	}
	s.sealLanes(0)
	_ = s.hooks.fire(pointCloseSealed)
	if err := s.flush(); err != nil {
		return err
	}
	_ = s.hooks.fire(pointCloseFlushed)
	if err := s.flushStates(); err != nil {
		return err
	}
	s.writeHint()
	_ = s.hooks.fire(pointCloseHinted)
	return nil
}

// flushStates makes the headers durable that flushAll wrote after the data.
func (s *Store) flushStates() error {
	for _, seg := range s.segments.all() {
		if !seg.stateUnsynced.Load() {
			continue
		}
		if err := seg.syncFile(0, layout.HeaderSize); err != nil {
			return s.fail(fmt.Errorf("%s: %w", seg.name(), err))
		}
	}
	return nil
}

// putDigest remembers the id of record n.
func (seg *segment) putDigest(n int, id []byte) {
	at := layout.DigestAt(len(seg.mem), n)
	binary.LittleEndian.PutUint32(seg.mem[at:at+layout.DigestSize], layout.Digest(id))
}

func (seg *segment) digestOf(n int) uint32 {
	return binary.LittleEndian.Uint32(seg.mem[layout.DigestAt(len(seg.mem), n):])
}
