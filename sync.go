package warmtier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

// Sync makes everything acknowledged before it survive a power loss. In a memory store there is
// nothing to do. Concurrent calls share one flush.
//
// Errors: [ErrClosed]; [ErrSyncFailed], after which the store takes no more writes. After any other error,
// [ErrNoSpace] or one of the system that says what the process lacks (descriptors, rights), nothing is lost,
// and the next Sync makes up for it.
func (s *Store) Sync() error {
	_, done, err := s.begin(context.Background())
	if err != nil {
		return err
	}
	defer done()
	return s.medium.sync()
}

// makeDurable ends a call that writes, with SyncWrites: whatever the call has seen is durable then, the writes of
// others too. A call that wrote nothing may have seen them as well: who is told that there is nothing to delete
// would otherwise find it again after a power loss. REQUIRES: enterSynced.
func (s *Store) makeDurable() error {
	if !s.opts.SyncWrites {
		return nil
	}
	return s.medium.syncWrite()
}

// syncQuietly is Sync for the background: what fails is logged. more is false when it failed for
// good.
func (s *Store) syncQuietly() (more bool) {
	err := s.medium.sync()
	if errors.Is(err, ErrSyncFailed) {
		return false // logged where it failed
	}
	if err != nil { // the next one tries again
		s.opts.Logger.Warn("sync failed, nothing was lost", "error", err)
	}
	return true
}

// failedSync returns the first failed flush, which every write reports from then on; nil while
// there is none.
func (s *Store) failedSync() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes err the store's failure, unless it has one already, and returns the failure. Any lock
// may be held.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrSyncFailed, err)
	if s.failure.CompareAndSwap(nil, &err) {
		s.logLater(slog.LevelError, "sync failed, the store takes no more writes", "error", err)
	}
	return *s.failure.Load()
}

// failSync is fail, unless err says that nothing was lost: then the call that met it fails, and the next
// flush tries again.
func (s *Store) failSync(err error) error {
	if errors.Is(err, dir.ErrUnsynced) {
		return err
	}
	return s.fail(err)
}

// groupCommit lets one flush serve all who ask for one (docs/design.md, section 15, "A flush"): a
// caller waits for a flush that began after it came, and the first to wait runs that flush for the
// others.
type groupCommit struct {
	mu      sync.Mutex
	changed *sync.Cond // running ended
	running bool       // a flush is under way
	begun   uint64     // flushes
	ended   uint64     // the newest flush that ended well; flushes are counted from 1
	marks   bool       // the next flush brings the marks up to date: somebody who waits wants that

	durable atomic.Uint64 // sequence number up to which every record is durable
}

// marksEvery is how many flushes of a segment for writes bring the mark in its header up to date once.
const marksEvery = 16

func (d *disk) syncs() bool { return true }

func (d *disk) sync() error {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	d.group.marks = true
	return d.awaitFlushLocked()
}

func (d *disk) syncWrite() error {
	d.group.mu.Lock()
	defer d.group.mu.Unlock()
	return d.awaitFlushLocked()
}

// awaitFlushLocked returns when a flush that began after the call has ended. REQUIRES: d.group.mu held.
func (d *disk) awaitFlushLocked() error {
	g := &d.group
	for wanted := g.begun + 1; g.ended < wanted; {
		if err := d.s.failedSync(); err != nil {
			return err
		}
		if g.running {
			g.changed.Wait()
			continue
		}
		g.running = true
		g.begun++
		turn := g.begun
		marks := g.marks
		g.marks = false
		g.mu.Unlock()
		// Numbers are drawn under the lock of a lane, which the flush takes next.
		seq := d.s.sequence.Load()
		err := d.measuredFlush(marks)
		g.mu.Lock()
		g.running = false
		g.changed.Broadcast()
		if err != nil {
			return d.s.failSync(err)
		}
		g.ended = turn
		g.durable.Store(seq)
	}
	return nil
}

func (d *disk) holdFlushes() (done func()) {
	g := &d.group
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.running {
		g.changed.Wait()
	}
	g.running = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.running = false
		g.changed.Broadcast()
	}
}

func (d *disk) measuredFlush(marks bool) error {
	meters := &d.s.meters
	start := time.Now()
	err := d.flushAll(marks)
	meters.syncDurations.observe(time.Since(start))
	if err != nil {
		meters.syncErrors.Add(1)
		return err
	}
	meters.syncs.Add(1)
	return nil
}

// flushAll makes every segment durable up to its tail of now, and lists the new ones. marks says whether headers
// are to say so. In a directory that was removed each of these calls may succeed, and what they made durable goes
// with Close.
//
// A segment that a Clear has emptied holds nothing any more that must be durable, and its file may be removed while
// it is flushed. Whoever waits for the flush is told when the Clear itself is durable, which listSegments waits for.
//
// REQUIRES: group.running set by the caller.
func (d *disk) flushAll(marks bool) error {
	dirty := d.pinDirty(marks)
	defer func() {
		for _, dirty := range dirty {
			d.s.unpin(dirty.seg)
		}
	}()
	for _, dirty := range dirty {
		if d.s.segments.isCleared(dirty.seg) {
			continue
		}
		if err := d.flushSegment(dirty, marks); err != nil && !d.s.segments.isCleared(dirty.seg) {
			return fmt.Errorf("%s: %w", dirty.seg.name(), err)
		}
	}
	if err := d.listSegments(); err != nil {
		return err
	}
	return d.fs.Present()
}

// dirtySegment is a pinned segment with something to be flushed.
type dirtySegment struct {
	seg *segment
	extent
	sealed bool
}

// pinDirty pins the committed segments that have grown, or were sealed, since their last flush.
// Targets are flushed by the compaction that fills them. A large segment whose Put has not returned
// yet is neither sealed nor active.
//
// Lanes are asked before the table, so that every record acknowledged by now is in a segment that is
// active when its lane is asked, or sealed when the table is walked. The walk holds no lock; what
// looks dirty in it is looked at again where it can be pinned.
func (d *disk) pinDirty(marks bool) (dirty []dirtySegment) {
	dirty, active := d.pinActive(marks)
	_ = d.s.hooks.fire(pointFlushActive)
	var sealed []*segment
	for _, seg := range d.s.segments.all() {
		if !active[seg] && seg.isDirty() {
			sealed = append(sealed, seg)
		}
	}
	for batch := range slices.Chunk(sealed, flushBatch) {
		dirty = append(dirty, d.pinSealed(batch)...)
	}
	return dirty
}

// flushBatch is how many sealed segments are pinned in one hold of contentMu.
const flushBatch = 64

// pinActive pins those active segments that have something to be flushed, and returns all of them as
// well: what was found active is not looked at again when a lane has sealed it.
func (d *disk) pinActive(marks bool) (dirty []dirtySegment, active map[*segment]bool) {
	active = map[*segment]bool{}
	for i := range d.s.lanes {
		hold := d.s.contentMu.RLock()
		ln := &d.s.lanes[i]
		ln.mu.Lock()
		if seg := ln.active; seg != nil {
			active[seg] = true
			e, f := seg.extent(), &seg.inFile
			if e.tail > f.synced.Load() || marks && e.tail > f.marked.Load() {
				seg.pin()
				dirty = append(dirty, dirtySegment{seg: seg, extent: e})
			}
		}
		ln.mu.Unlock()
		d.s.contentMu.RUnlock(hold)
	}
	return dirty, active
}

// pinSealed pins those of segs that are in the table, sealed, and dirty. A sealed segment changes only
// when a lane resumes it, and no lane does with the table's lock held.
func (d *disk) pinSealed(segs []*segment) (dirty []dirtySegment) {
	t := &d.s.segments
	defer d.s.contentMu.RUnlock(d.s.contentMu.RLock())
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, seg := range segs {
		if t.at(seg.index) == seg && seg.isDirty() {
			seg.pin()
			dirty = append(dirty, dirtySegment{seg: seg, extent: seg.extent(), sealed: true})
		}
	}
	return dirty
}

// isDirty reports whether a flush has something to do in seg, which has no lane.
func (seg *segment) isDirty() bool {
	f := &seg.inFile
	return f.committed.Load() && !f.replaced && seg.is(stateSealed) &&
		(seg.tail.Load() > f.synced.Load() || !f.sealed.Load())
}

// flushSegment makes one segment durable, and then says so in its header. The header becomes
// durable with a later sync of it: it makes no promise, but tells damage from a torn tail.
//
// Without marks the records alone are synced. The header and the digests cost two more pages a flush, and a
// power loss takes none of what was promised without them: records are found by their checksums, digests are
// written again. What they add is for a file that was damaged as well. A new file gets them always,
// having no header on the disk yet, and a sealed one, which is flushed for the last time; any other, once in
// marksEvery flushes of its own. Were flushes counted together, one of them would have the marks of all lanes to
// write, though a single writer has changed but one since the last flush.
func (d *disk) flushSegment(dirty dirtySegment, marks bool) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	seg := dirty.seg
	f := &seg.inFile
	if !marks && !dirty.sealed && f.durable.Load() && f.unmarked < marksEvery-1 {
		if err := seg.syncFile(int(dirty.tail), len(seg.mem)); err != nil {
			return err
		}
		f.synced.Store(dirty.tail)
		f.syncedRecords.Store(dirty.records)
		f.unmarked++
		_ = d.s.hooks.fire(pointFlushed)
		return nil
	}
	if err := seg.syncRecords(dirty.extent); err != nil {
		return err
	}
	_ = d.s.hooks.fire(pointFlushed)
	seg.writeState(dirty.extent, dirty.sealed)
	f.flushed(dirty.extent, dirty.sealed)
	f.unmarked = 0
	f.stateUnsynced.Store(true)
	_ = d.s.hooks.fire(pointStateWritten)
	return nil
}

// unsynced counts committed segments only: a compaction has synced a target before it counts.
func (d *disk) unsynced(seg *segment) int64 {
	if !seg.inFile.committed.Load() {
		return 0
	}
	return max(0, seg.tail.Load()-seg.inFile.synced.Load())
}

// fileState is what is known of a segment's file: how much of it a power loss would leave, and what
// its header says of that. It is written by one goroutine at a time: at first by the one that makes
// or finds the segment; then by the flush under way, a target by the compaction that fills it; and
// by a lane that resumes the segment, in which no flush has anything to do at that moment.
type fileState struct {
	// committed says that manifests may list the segment. A segment of a lane has it from the
	// start. When a round is committed its targets get it and its victims lose it, with manifestMu
	// held, so that no manifest has half of a round. A flush that reads it a moment too late misses
	// nothing: the commit has synced the targets, and all that is live in the victims.
	committed atomic.Bool
	// durable says that a flush has synced the file, its header included. A manifest that does not
	// see it yet names the segment as pending, and the flush that has set it lists the segment.
	durable atomic.Bool
	// sealed says that the header says so. It is cleared with segmentTable.mu held, with which
	// flushes read it.
	sealed atomic.Bool
	// stateUnsynced says that a flush wrote to the header after it had synced it. Close reads it,
	// after the last flush.
	stateUnsynced atomic.Bool
	// linked says that the file has another name, in a checkpoint say: it is never written to again, in either
	// directory.
	linked   atomic.Bool
	replaced bool // by a repair, which takes the file out of the store: no flush writes to it; set by Open
	// generation is that of the newest state in the header; only writeState reads it.
	generation uint32
	unmarked   int          // flushes since one has written the mark
	marked     atomic.Int64 // the synced mark in the header, an offset
	// synced is how far records are durable, an offset. Flushes read what the flush before them
	// wrote; the statistics may count bytes that were synced a moment ago.
	synced atomic.Int64
	// syncedRecords is how many records lie below synced, or fewer.
	syncedRecords atomic.Int64
}

// made notes that the file has a header and no records.
func (f *fileState) made(kind layout.SegmentKind) {
	f.synced.Store(layout.HeaderSize)
	f.committed.Store(kind == layout.KindLane)
}

// found notes that recovery has found the file, with st in its header, and that a manifest may list
// it.
func (f *fileState) found(st layout.State) {
	f.committed.Store(true)
	f.generation = st.Generation
	f.marked.Store(int64(st.Synced))
	f.durable.Store(true)
}

// flushed notes that the records in e are durable, and that the header says e and sealed.
func (f *fileState) flushed(e extent, sealed bool) {
	f.synced.Store(e.tail)
	f.syncedRecords.Store(e.records)
	f.durable.Store(true)
	f.sealed.Store(sealed)
}

// extent is what a segment holds at one moment.
type extent struct {
	tail, records int64
	maxSeq        uint64
}

// extent returns what seg holds now. REQUIRES: nobody appends.
func (seg *segment) extent() extent {
	return extent{tail: seg.tail.Load(), records: seg.records.Load(), maxSeq: seg.maxSeq}
}

// writeState writes to the header of seg that e is durable, and whether the segment ends there. The
// state becomes durable itself with the next sync of the header.
func (seg *segment) writeState(e extent, sealed bool) {
	seg.inFile.generation++
	seg.inFile.marked.Store(e.tail)
	layout.State{
		Generation: seg.inFile.generation, Salt: seg.salt, Sealed: sealed,
		Records: uint32(e.records), Synced: uint64(e.tail), MaxSeq: e.maxSeq,
	}.Encode(seg.mem)
}

// syncRecords makes header, records and digests durable, in one flush. A lane may be writing between them.
func (seg *segment) syncRecords(e extent) error {
	digests := len(seg.mem)
	if e.records > 0 {
		digests = layout.DigestAt(digests, int(e.records)-1)
	}
	return seg.syncFile(int(e.tail), digests)
}

func (seg *segment) syncHeader() error { return seg.syncFile(layout.HeaderSize, len(seg.mem)) }

// syncFile makes the bytes of the segment's file below head and those from tail on durable.
func (seg *segment) syncFile(head, tail int) error {
	err := seg.file.Sync(head, tail)
	var short *dir.CutShortError
	if errors.As(err, &short) {
		return &CorruptError{File: seg.name(), Offset: short.Size, Reason: short.Error()}
	}
	return err
}
