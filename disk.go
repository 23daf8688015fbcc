package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	compaction  Everything is flushed, targets too, then a manifest takes the victims out and the targets in: one
	          rename. Before it the victims count, after it the targets; both hold the same bytes.
	          Then the slots' victims leave the table, and their files are removed.

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

	mappedMu sync.Mutex        // a leaf
	mapped   map[*segment]bool // for catchFault: every segment from its mapping to its unmapping

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

// createFile makes a segment file. REQUIRES: a directory store.
func (s *Store) createFile(id uint64, size int, kind segmentKind, lastResort bool) (*segment, error) {
	d := s.disk
	name := segmentFileName(id)
	spare := false
	file, err := d.fs.create(name, size)
	if errors.Is(err, ErrNoSpace) && lastResort {
		file, err = d.takeSpare(name, size)
		spare = err == nil
	}
	if err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", name, err)
	}
	_ = s.reach(pointSegmentCreated)
	h := fileHeader{kind: kind, large: size > s.opts.SegmentSize, id: id, capacity: uint64(size), store: d.store}
	if kind == kindTarget {
		h.bound = s.sequence.Load()
	}
	fileState{generation: 1, synced: segmentHeaderSize}.encode(file.bytes())
	h.encode(file.bytes())
	seg := newSegment(id, file.bytes(), kind)
	seg.spare = spare && kind == kindLane
	s.attach(seg, file)
	seg.generation = 1
	seg.synced.Store(segmentHeaderSize)
	return seg, nil
}

// attach makes seg the owner of file.
func (s *Store) attach(seg *segment, file mappedFile) {
	seg.file = file
	s.mapper.adopt(len(seg.mem))
	s.disk.mappedMu.Lock()
	defer s.disk.mappedMu.Unlock()
	s.disk.mapped[seg] = true
}

// detach unmaps the file of seg.
func (s *Store) detach(seg *segment) {
	s.disk.mappedMu.Lock()
	delete(s.disk.mapped, seg)
	s.disk.mappedMu.Unlock()
	s.mapper.forget(len(seg.mem))
	if err := seg.file.close(); err != nil {
		s.opts.Logger.Error("segment file could not be unmapped", "file", seg.name(), "error", err)
	}
}

// takeSpare makes the space kept back a segment file of size bytes.
func (d *disk) takeSpare(name string, size int) (mappedFile, error) {
	file, err := d.fs.open(spareName, true)
	if err == nil && len(file.bytes()) != size {
		err = errors.Join(fmt.Errorf("%d bytes", len(file.bytes())), file.close())
	}
	if err != nil {
		return nil, fmt.Errorf("%w, and what is kept back is of no use: %w", ErrNoSpace, err)
	}
	if err := d.fs.rename(spareName, name); err != nil {
		return nil, errors.Join(noSpace(err), file.close())
	}
	return file, nil
}

// keepSpare reserves space for the next time the disk is full, if it can and has none.
func (s *Store) keepSpare() {
	file, err := s.disk.fs.create(spareName, s.opts.SegmentSize)
	if err == nil {
		err = file.close()
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		s.opts.Logger.Warn("no space could be kept back for deletions and compactions", "error", err)
	}
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
		s.opts.Logger.Warn("segment file could not be removed", "file", seg.name(), "error", err)
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
	d.failure.CompareAndSwap(nil, &err)
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
		err := s.flushAll()
		d.mu.Lock()
		d.running = false
		d.changed.Broadcast()
		if err != nil {
			return d.fail(err)
		}
		d.ended = turn
	}
	return nil
}

// flushAll makes every segment durable up to its tail of now. REQUIRES: d.running set by the caller.
func (s *Store) flushAll() error {
	dirty := s.pinDirty()
	defer func() {
		for _, seg := range dirty {
			s.unpin(seg)
		}
	}()
	for _, seg := range dirty {
		// The state before the tail: a segment found sealed has its last record.
		sealed := seg.is(stateSealed)
		records, tail := seg.extent()
		if err := seg.file.sync(0, len(seg.mem)); err != nil {
			return fmt.Errorf("%s: %w", seg.name(), err)
		}
		_ = s.reach(pointFlushed)
		seg.generation++
		fileState{
			generation: seg.generation,
			synced:     uint64(tail),
			records:    uint32(records),
			sealed:     sealed,
		}.encode(seg.mem)
		seg.synced.Store(tail)
		seg.durable.Store(true)
		seg.sealedInFile.Store(sealed)
		seg.stateUnsynced.Store(true)
		_ = s.reach(pointStateWritten)
	}
	return s.listSegments()
}

// extent returns tail, and records before it, of one moment.
func (seg *segment) extent() (records, tail int64) {
	for {
		tail = seg.tail.Load()
		records = seg.records.Load()
		if seg.tail.Load() == tail {
			return records, tail
		}
	}
}

// pinDirty pins the committed segments that have grown or were sealed since they were flushed. Targets are flushed
// by the compaction that fills them.
func (s *Store) pinDirty() (dirty []*segment) {
	s.contentMu.RLock()
	defer s.contentMu.RUnlock()
	for _, seg := range s.segments.all() {
		if seg.committed.Load() && (seg.tail.Load() > seg.synced.Load() || seg.is(stateSealed) && !seg.sealedInFile.Load()) {
			seg.pin()
			dirty = append(dirty, seg)
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
	if err := d.fs.writeFile(manifestTempName, m.encode()); err != nil {
		return false, err
	}
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
		target.generation++
		tail := target.tail.Load()
		fileState{
			generation: target.generation,
			synced:     uint64(tail),
			records:    uint32(target.records.Load()),
			sealed:     true,
		}.encode(target.mem)
		if err := target.file.sync(0, len(target.mem)); err != nil {
			return false, d.fail(fmt.Errorf("%s: %w", target.name(), err))
		}
		target.synced.Store(tail)
		target.durable.Store(true)
		target.sealedInFile.Store(true)
	}
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if len(targets) > 0 {
		if err := d.fs.syncDir(); err != nil {
			return false, d.fail(err)
		}
	}
	if renamed, err := s.writeManifest(s.snapshotManifest(leaving, targets)); err != nil {
		if renamed {
			err = d.fail(err)
		}
		return renamed, err
	}
	for _, target := range targets {
		target.committed.Store(true)
	}
	return false, nil
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

// oldestDead returns the lowest sequence number that a dead record can have outside of leaving.
func (s *Store) oldestDead(leaving map[*segment]bool) uint64 {
	oldest := uint64(math.MaxUint64)
	for _, seg := range s.segments.all() {
		if !leaving[seg] && seg.is(stateSealed) && seg.deadBytes() > 0 {
			oldest = min(oldest, seg.minSeq)
		}
	}
	// Active segments may have dead records, and their minSeq belongs to a lane.
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active != nil {
			oldest = min(oldest, ln.active.minSeq)
		}
		ln.mu.Unlock()
	}
	return oldest
}

func (r *round) carryTombstone(v *victim, offset int, oldest uint64) error {
	rec := v.seg.mem[offset:int(v.seg.tail.Load())]
	h, ok := decodeHeader(rec)
	if !ok || !intactRecord(rec, h, v.seg.seed) {
		return v.damaged(offset, "damaged tombstone")
	}
	if h.seq < oldest {
		return nil
	}
	ch := chunk{v: v, headers: []header{h}, size: h.size()}
	if _, err := r.reserve(&ch); err != nil {
		return err
	}
	target := ch.target
	moved := target.mem[ch.offset : ch.offset+h.size()]
	copy(moved, rec)
	reseed(moved, h, target.seed)
	target.putDigest(ch.record, recordID(rec, h))
	target.tombstones = append(target.tombstones, uint32(ch.offset/recordAlign))
	return nil
}

// startSyncing starts the background Sync.
func (s *Store) startSyncing() {
	if s.disk == nil || s.opts.ReadOnly || s.opts.SyncInterval < 0 {
		return
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		ticker := time.NewTicker(s.opts.SyncInterval)
		defer ticker.Stop()
		for {
			select {
			case <-s.lifetime.Done():
				return
			case <-ticker.C:
			}
			if err := s.flush(); err != nil {
				s.opts.Logger.Error("sync failed, the store takes no more writes", "error", err)
				return
			}
		}
	}()
}

// finishDisk makes everything durable and seals every segment, so that the next Open finds no tail
// to look for. REQUIRES: no background work left.
func (s *Store) finishDisk() error {
	if s.disk == nil || s.opts.ReadOnly {
		return nil
	}
	s.sealLanes()
	_ = s.reach(pointCloseSealed)
	if err := s.flush(); err != nil {
		return err
	}
	_ = s.reach(pointCloseFlushed)
	if err := s.flushStates(); err != nil {
		return err
	}
	s.writeHint()
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
	return s.disk.lock.Close()
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
