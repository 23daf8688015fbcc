package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

/*
What a directory store does beyond a memory store, so that what was acknowledged survives.

	kill      A record is in the page cache before Put returns, and the page cache outlives the
	          process. Its checksum is written last: what was not finished has none.
	power     Sync flushes segments, then the directory, then the manifest that lists new segments;
	          only then is what came before it durable. What was durable is written into the headers
	          of the segments (fileState), so that damage there is told from a torn tail.
	compaction  Everything is flushed, targets too, then a manifest takes the victims out and the
	          targets in: one rename. Before it the victims count, after it the targets; both hold
	          the same bytes. Then the victims leave the table, and their files are removed.

The first failed flush is final: the kernel may have dropped the pages it could not write and marked
them clean, and a later flush that succeeds would say nothing about them (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC '20).
*/

// disk is what a directory store has beyond a memory store.
type disk struct {
	fs    fileSystem
	lock  *os.File // holds the lock of the directory; nil where a read-only store could not take it
	store storeID
	boot  [16]byte
	key   sipKey

	failure atomic.Pointer[error] // the first failed flush; set once
	failed  func(error)           // is told of it, with locks held

	mappedMu sync.Mutex              // a leaf
	mapped   map[*byte]trackedMemory // for catchFault: what is mapped, by its first byte

	// spaceMu is held for reading by who makes a segment file, and for writing by who takes or makes
	// space kept back. Taken before segmentTable.mu, and with no other lock of Store held.
	spaceMu sync.RWMutex
	kept    []int // bytes kept back by each spare, 0 when it is missing; guarded by spaceMu

	manifestMu sync.Mutex      // one manifest written at a time; taken before every lock of Store
	listed     map[uint64]bool // what the newest manifest lists; guarded by manifestMu

	// Group commit: who wants to be durable waits for a flush that began after it came, and the
	// first to wait runs it for all.
	mu      sync.Mutex
	changed *sync.Cond // running ended
	running bool
	begun   uint64 // flushes
	ended   uint64
}

// createFile makes a segment file. It gets its name when it has its header: after a kill, one without a
// header is damaged, and not one that was never filled. REQUIRES: a directory store.
func (s *Store) createFile(id uint64, spec segmentSpec) (_ *segment, err error) {
	d := s.disk
	name := segmentFileName(id) + newSuffix
	file, spare, err := s.reserveFile(name, spec)
	if err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", name, err)
	}
	_ = s.reach(pointSegmentCreated)
	seg := newSegment(id, file.bytes(), spec.kind)
	seg.spare = spare && spec.kind == kindLane
	s.attach(seg, file)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.detach(seg), d.fs.remove(name))
		}
	}()
	if err := s.writeHeader(seg, spec.large); err != nil {
		return nil, err
	}
	if err := file.rename(seg.name()); err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", seg.name(), err)
	}
	return seg, nil
}

// writeHeader writes the header of a new segment file.
func (s *Store) writeHeader(seg *segment, large bool) (err error) {
	defer s.catchFault(armFaults(), &err)
	seg.writeState(seg.extent(), false)
	seg.synced.Store(segmentHeaderSize)
	fileHeader{
		kind: seg.kind, large: large, id: seg.id, capacity: uint64(len(seg.mem)), store: s.disk.store,
	}.encode(seg.mem)
	return nil
}

/*
Going on in a segment. Every Close seals the segments of lanes, half empty or not, and every Open after a
kill does: without more, a thousand times Open, Put and Close would leave a thousand files. So a lane that
needs a segment takes one that was sealed with room left before this Open, as long as no compaction may
have chosen it. Its state is written as not sealed first, both copies of it: if one that says sealed were
left, damage to the other one would end the segment before the new records. Everything beyond the end must
be zero: a record behind a new one would count. Open makes it so (see clearRemains); whoever else wrote
there has damaged the file.
*/

// setUnfilled replaces the segments that lanes may go on in.
func (t *segmentTable) setUnfilled(segs []*segment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unfilled = segs
}

// takeUnfilled returns a sealed segment with room for size bytes that can be gone on with, nil when there
// is none. REQUIRES: the rolling of the lane it is for held; no other lock.
func (s *Store) takeUnfilled(size int) *segment {
	t := &s.segments
	for {
		t.mu.Lock()
		n := len(t.unfilled)
		var seg *segment
		if n > 0 {
			seg, t.unfilled = t.unfilled[n-1], t.unfilled[:n-1]
		}
		t.mu.Unlock()
		if seg == nil || seg.room(1) >= size && s.unseal(seg) == nil {
			return seg
		}
	}
}

// unseal writes to the header of seg that records follow; an error when that cannot be.
func (s *Store) unseal(seg *segment) (err error) {
	defer s.catchFault(armFaults(), &err)
	if !isZero(seg.rest()) {
		return errors.New("something lies behind the last record")
	}
	seg.writeState(seg.extent(), false)
	seg.writeState(seg.extent(), false)
	return nil
}

// goOn makes seg, of takeUnfilled, the active segment of ln.
func (s *Store) goOn(ln *lane, seg *segment) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	s.segments.mu.Lock() // a flush looks at sealed segments under it
	seg.sealedInFile.Store(false)
	seg.early.Store(false)
	seg.state.Store(int32(stateActive))
	s.segments.mu.Unlock()
	s.activateLocked(ln, seg)
}

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
	fileState{
		generation: seg.generation,
		records:    uint32(e.records),
		synced:     uint64(e.tail),
		maxSeq:     e.maxSeq,
		sealed:     sealed,
	}.encode(seg.mem)
}

// attach makes seg the owner of file.
func (s *Store) attach(seg *segment, file mappedFile) {
	seg.file = file
	s.mapper.adopt(len(seg.mem))
	s.disk.track(seg.name(), seg.mem)
}

// detach unmaps the file of seg.
func (s *Store) detach(seg *segment) error {
	s.disk.untrack(seg.mem)
	s.mapper.forget(len(seg.mem))
	return seg.file.close()
}

/*
Space kept back, so that deletions and compactions go on when the disk is full: a file for the target
of a compaction, one for the tombstones of each lane, and one for a manifest. Whoever takes one
renames it. Nobody may take other space for a Put while one is missing: so what a compaction gives
back fills them up again before a writer that tries again and again can have it.
*/

// spares is how many files keep space back.
func (s *Store) spares() int { return 2 + len(s.lanes) }

// spareSize is the size of one of them when it is made, bytes.
func (s *Store) spareSize(i int) int {
	switch i {
	case targetSpare:
		return s.opts.SegmentSize
	case manifestSpare:
		return roundUp(manifestSize(2*s.segments.count()+2*manifestReserve), pageSize)
	}
	return max(minSegmentSize, s.opts.SegmentSize/largeShare)
}

// keepsEnough reports whether spare i need not be made. That for a manifest grows with the store.
// REQUIRES: d.spaceMu held.
func (s *Store) keepsEnough(i int) bool {
	kept := s.disk.kept[i]
	return kept > 0 && (i != manifestSpare || kept >= manifestSize(s.segments.count()+manifestReserve))
}

// manifestReserve is how many segments a manifest may list beyond those in the table when its space is
// kept back: tombstones and targets that come when the disk is full.
const manifestReserve = 64

// Numbers of spares; from laneSpares on they are for tombstones.
const (
	targetSpare   = 0
	manifestSpare = 1
	laneSpares    = 2
)

func spareFileName(i int) string { return fmt.Sprintf("%s.%d", spareName, i) }

// reserveFile makes a file for a segment. On a full disk one may be made of space kept back, but not for
// a Put: that gets none before everything is kept back.
func (s *Store) reserveFile(name string, spec segmentSpec) (file mappedFile, spare bool, err error) {
	d := s.disk
	if spec.least == 0 {
		return s.reserveForPut(name, spec.size)
	}
	d.spaceMu.RLock()
	file, err = d.fs.create(name, spec.size)
	d.spaceMu.RUnlock()
	if !errors.Is(err, ErrNoSpace) {
		return file, false, err
	}
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	file, failed := s.takeSpareLocked(name, spec)
	if file == nil {
		return nil, false, errors.Join(err, failed)
	}
	return file, true, nil
}

func (s *Store) reserveForPut(name string, size int) (file mappedFile, spare bool, err error) {
	d := s.disk
	d.spaceMu.RLock()
	complete := true
	for i := range d.kept {
		complete = complete && s.keepsEnough(i)
	}
	if complete {
		file, err = d.fs.create(name, size)
	}
	d.spaceMu.RUnlock()
	if complete {
		return file, false, err
	}
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	if err := s.refillLocked(); err != nil {
		return nil, false, fmt.Errorf("space for deletions and compactions comes first: %w", err)
	}
	file, err = d.fs.create(name, size)
	return file, false, err
}

// takeSpareLocked makes space kept back the file name, nil when none of it will do; then err says why,
// unless there just is none. REQUIRES: d.spaceMu held for writing.
func (s *Store) takeSpareLocked(name string, spec segmentSpec) (_ mappedFile, err error) {
	d := s.disk
	from, to := targetSpare, targetSpare+1
	if spec.kind == kindLane {
		from, to = laneSpares, s.spares()
	}
	for i := from; i < to; i++ {
		size := d.kept[i]
		if size < spec.least {
			continue
		}
		failed := d.fs.rename(spareFileName(i), name)
		if failed == nil || errors.Is(failed, fs.ErrNotExist) {
			d.kept[i] = 0
		}
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		file, failed := d.fs.open(name, true)
		if failed == nil && len(file.bytes()) == size {
			return file, nil
		}
		if failed == nil {
			failed = file.close()
		}
		err = errors.Join(err, failed, d.fs.remove(name))
	}
	return nil, err
}

// keepSpares keeps space back for the next time the disk is full, if it can and has none. REQUIRES: no
// lock held.
func (s *Store) keepSpares() {
	s.disk.spaceMu.Lock()
	err := s.refillLocked()
	s.disk.spaceMu.Unlock()
	s.warn("no space could be kept back for deletions and compactions", err)
}

// refillLocked makes the spares that are missing or too small. REQUIRES: d.spaceMu held for writing.
func (s *Store) refillLocked() (err error) {
	d := s.disk
	for i := range d.kept {
		if s.keepsEnough(i) {
			continue
		}
		size, before := s.spareSize(i), d.kept[i]
		if failed := s.dropSpareLocked(i); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		failed := s.makeSpareLocked(i, size)
		if failed != nil && before > 0 { // what there was is better than nothing
			failed = errors.Join(failed, s.makeSpareLocked(i, before))
		}
		err = errors.Join(err, failed)
	}
	return err
}

// dropSpareLocked gives free what spare i keeps back. REQUIRES: d.spaceMu held for writing.
func (s *Store) dropSpareLocked(i int) error {
	d := s.disk
	if d.kept[i] == 0 {
		return nil
	}
	if err := d.fs.remove(spareFileName(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.kept[i] = 0
	return nil
}

func (s *Store) makeSpareLocked(i, size int) error {
	file, err := s.disk.fs.create(spareFileName(i), size)
	if err == nil {
		err = file.close()
		s.disk.kept[i] = size
	}
	return err
}

// writeFromSpares is writeFile with space kept back.
func (s *Store) writeFromSpares(name string, data []byte) (err error) {
	d := s.disk
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	err = ErrNoSpace
	for _, i := range []int{manifestSpare, targetSpare} {
		if d.kept[i] == 0 {
			continue
		}
		if failed := s.dropSpareLocked(i); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if err = d.fs.writeFile(name, data); !errors.Is(err, ErrNoSpace) {
			break
		}
	}
	return err
}

// putDigest remembers the id of record n.
func (seg *segment) putDigest(n int, id []byte) {
	at := digestAt(len(seg.mem), n)
	binary.LittleEndian.PutUint32(seg.mem[at:at+digestSize], digest(id))
}

func (seg *segment) digestOf(n int) uint32 {
	return binary.LittleEndian.Uint32(seg.mem[digestAt(len(seg.mem), n):])
}

// removeFile removes the file of a segment that left the store. What stays behind after a failure is
// no part of the manifest, and removed by the next Open.
func (s *Store) removeFile(seg *segment) {
	if seg.file == nil {
		return
	}
	_ = s.reach(pointUnlink)
	if err := s.disk.fs.remove(seg.name()); err != nil {
		s.logLater(slog.LevelWarn, "segment file could not be removed", "file", seg.name(), "error", err)
	}
}

// failedSync returns the error of every write after a failed flush.
func (s *Store) failedSync() error {
	if s.disk == nil {
		return nil
	}
	if err := s.disk.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes err the store's failure, unless it has one, and returns that.
func (d *disk) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrSyncFailed, err)
	if d.failure.CompareAndSwap(nil, &err) {
		d.failed(err)
	}
	return *d.failure.Load()
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
			return d.fail(err)
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
	_ = s.reach(pointFlushed)
	seg.writeState(d.extent, d.sealed)
	seg.synced.Store(d.tail)
	seg.durable.Store(true)
	seg.sealedInFile.Store(d.sealed)
	seg.stateUnsynced.Store(true)
	_ = s.reach(pointStateWritten)
	return nil
}

// syncRecords makes header, records and digests durable, and leaves alone what a lane may be writing
// to meanwhile.
func (seg *segment) syncRecords(e extent) error {
	if err := seg.file.sync(0, int(e.tail)); err != nil || e.records == 0 {
		return err
	}
	return seg.file.sync(digestAt(len(seg.mem), int(e.records)-1), len(seg.mem))
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

// listSegments writes a manifest when a segment has come that the last one does not list.
func (s *Store) listSegments() error {
	d := s.disk
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	m := s.snapshotManifest(nil, nil)
	for _, id := range m.listed {
		if !d.listed[id] {
			// The names of the new files first: the manifest says that they exist.
			if err := d.fs.syncDir(); err != nil {
				return err
			}
			_, err := s.writeManifest(m)
			return err
		}
	}
	return nil
}

// snapshotManifest says which segments make up the store: the committed ones in the table, with
// those of joining and without those of leaving.
func (s *Store) snapshotManifest(leaving, joining []*segment) manifest {
	skip := map[*segment]bool{}
	for _, seg := range leaving {
		skip[seg] = true
	}
	t := &s.segments
	t.mu.Lock() // segments are published, and ids pending, under it
	defer t.mu.Unlock()
	m := manifest{store: s.disk.store, boot: s.disk.boot, next: t.lastID + 1}
	for id := range t.pending {
		m.pending = append(m.pending, id)
	}
	for _, seg := range t.all() {
		switch {
		case skip[seg] || !seg.committed.Load():
		case seg.durable.Load():
			m.listed = append(m.listed, seg.id)
		default: // a power loss may leave nothing of it, not even its header
			m.pending = append(m.pending, seg.id)
		}
	}
	for _, seg := range joining {
		m.listed = append(m.listed, seg.id)
	}
	return m
}

// writeManifest replaces the manifest. renamed says whether the new one may be in force: after an
// error behind the rename nobody knows. REQUIRES: d.manifestMu held.
func (s *Store) writeManifest(m manifest) (renamed bool, err error) {
	d := s.disk
	err = d.fs.writeFile(manifestTempName, m.encode())
	if errors.Is(err, ErrNoSpace) { // what is kept back has room for it, and it gives as much back
		err = s.writeFromSpares(manifestTempName, m.encode())
		defer func() {
			d.spaceMu.Lock()
			defer d.spaceMu.Unlock()
			_ = s.refillLocked() // whoever needs it most tries again, and says so
		}()
	}
	if err != nil {
		return false, err
	}
	_ = s.reach(pointManifestTemp)
	if err := d.fs.syncFile(manifestTempName); err != nil {
		return false, err
	}
	if err := s.reach(pointManifestWritten); err != nil {
		return false, err
	}
	if err := d.fs.rename(manifestTempName, manifestName); err != nil {
		return false, err
	}
	if err := s.reach(pointManifestRenamed); err != nil {
		return true, err
	}
	if err := d.fs.syncDir(); err != nil {
		return true, err
	}
	_ = s.reach(pointManifestSynced)
	d.listed = make(map[uint64]bool, len(m.listed))
	for _, id := range m.listed {
		d.listed[id] = true
	}
	return true, nil
}

// commitTargets makes a round durable: from here on its targets count, and leaving does not. After an
// error the round has to be undone. Where uncertain is true, nobody knows which manifest a power loss
// would leave: the store takes no more writes, and the files of both sides must stay.
func (s *Store) commitTargets(leaving, targets []*segment) (uncertain bool, err error) {
	d := s.disk
	if d == nil {
		return false, nil
	}
	// What superseded the records that go with leaving must be durable first: else a power loss could
	// leave neither version.
	if err := s.flush(); err != nil {
		return false, err
	}
	for _, target := range targets {
		if err := s.flushTarget(target); err != nil {
			return false, d.fail(fmt.Errorf("%s: %w", target.name(), err))
		}
	}
	_ = s.reach(pointTargetsFlushed)
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	// What the manifest lists first, the names of it second: other segments may come between.
	m := s.snapshotManifest(leaving, targets)
	if err := d.fs.syncDir(); err != nil {
		return false, d.fail(err)
	}
	if renamed, err := s.writeManifest(m); err != nil {
		if renamed {
			err = d.fail(err)
		}
		return renamed, err
	}
	for _, target := range targets {
		target.committed.Store(true)
	}
	// Still in the table, but no manifest may list them again.
	for _, seg := range leaving {
		seg.committed.Store(false)
	}
	return false, nil
}

// flushTarget makes a full target durable. Its state goes with the records: a target counts only once
// a manifest lists it.
func (s *Store) flushTarget(target *segment) (err error) {
	defer s.catchFault(armFaults(), &err)
	e := target.extent()
	target.writeState(e, true)
	if err := target.syncRecords(e); err != nil {
		return err
	}
	target.synced.Store(e.tail)
	target.durable.Store(true)
	target.sealedInFile.Store(true)
	return nil
}

// carryTombstones copies, at the end of a build, the tombstones of the victims about to leave that
// are needed on. A tombstone can go when no segment that stays can hold an older record of its id:
// such a record is dead, so it would be in a segment with dead bytes, and has a lower sequence
// number. Segments that stay are all but those whose live records have all been copied.
func (r *round) carryTombstones() (err error) {
	c := r.c
	if c.s.disk == nil {
		return nil
	}
	defer c.s.catchFault(armFaults(), &err)
	leaving := map[*segment]bool{}
	for _, v := range c.work {
		leaving[v.seg] = len(v.live) == 0
	}
	oldest := c.s.oldestDead(leaving)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full, r.maxTargets = false, math.MaxInt // a target more, rather than a victim that cannot leave
	for _, v := range c.work {
		if !leaving[v.seg] {
			continue
		}
		for _, unit := range v.seg.tombstones {
			if err := r.carryTombstone(v, int(unit)*recordAlign, oldest); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldestDead returns the lowest sequence number that a dead record, other than a tombstone, can have
// outside of leaving.
func (s *Store) oldestDead(leaving map[*segment]bool) uint64 {
	oldest := uint64(math.MaxUint64)
	// Active segments may have dead records, and their minSeq belongs to a lane. They come first: one that
	// is sealed meanwhile is found below, and one that is made meanwhile has nothing old. The other way
	// round, a segment that a lane went on in is seen by neither look when it is sealed between them.
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil {
			oldest = min(oldest, ln.active.minSeq)
		}
		ln.mu.Unlock()
	}
	_ = s.reach(pointCompactDead)
	for _, seg := range s.segments.all() {
		if !leaving[seg] && seg.is(stateSealed) && seg.deadBytes() > seg.buried {
			oldest = min(oldest, seg.minSeq)
		}
	}
	return oldest
}

func (r *round) carryTombstone(v *victim, offset int, oldest uint64) error {
	rec := v.seg.mem[offset:int(v.seg.tail.Load())]
	h, ok := decodeHeader(rec)
	if !ok || !intactRecord(rec, h, v.seg.seedAt(offset)) {
		return v.damaged(offset, "damaged tombstone")
	}
	if h.seq < oldest {
		return nil
	}
	ch := chunk{v: v, headers: []header{h}, size: h.size()}
	if _, err := r.reserve(&ch); err != nil { // true without an error: maxTargets has no bound now
		return err
	}
	target := ch.target
	moved := target.mem[ch.offset : ch.offset+h.size()]
	copy(moved, rec)
	reseed(moved, h, target.seedAt(ch.offset))
	target.putDigest(ch.record, recordID(rec, h))
	target.holdsTombstone(ch.offset, h.size())
	return nil
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
	_ = s.reach(pointCloseSealed)
	if err := s.flush(); err != nil {
		return err
	}
	_ = s.reach(pointCloseFlushed)
	if err := s.flushStates(); err != nil {
		return err
	}
	s.writeHint()
	_ = s.reach(pointCloseHinted)
	return nil
}

// flushStates makes the headers durable that flushAll wrote after the data.
func (s *Store) flushStates() error {
	for _, seg := range s.segments.all() {
		if !seg.stateUnsynced.Load() {
			continue
		}
		if err := seg.file.sync(0, segmentHeaderSize); err != nil {
			return s.disk.fail(fmt.Errorf("%s: %w", seg.name(), err))
		}
	}
	return nil
}

// closeDisk gives the directory free for others.
func (s *Store) closeDisk() error {
	if s.disk == nil || s.disk.lock == nil {
		return nil
	}
	return unlockDirectory(s.disk.lock)
}

// bootID is the kernel's name for the time since the machine started, zeros where there is none.
func (s *Store) bootID() (id [16]byte) {
	if s.hooks.boot != nil {
		return s.hooks.boot()
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
	if n, err := fmt.Sscanf(digits, "%x", &digits); n != 1 || err != nil {
		return id
	}
	copy(id[:], digits)
	return id
}
