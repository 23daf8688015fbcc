// Package warmtier keeps millions of memories (id -> content bytes) inside a process but outside the
// Go heap: the warm tier between a small hot map and a slow cold store.
//
// Content lies in memory-mapped segments, found through an index the garbage collector never looks
// at. Overwriting and deleting leave dead bytes behind; online compaction gives them back while
// reads and writes go on. Nothing is evicted.
//
//	s, err := warmtier.Open("", nil)
//	...
//	err = s.Put("user:42", profile)
//	content, err := s.Get("user:42")
//
// With a directory instead of "", a store survives its process: what was acknowledged is there after a
// kill, and what was synced after a power loss.
//
// Every byte returned was verified against its checksum: damage is [ErrCorrupt], never a wrong byte.
package warmtier

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// rank orders the locks; see Store.
type rank interface{ rank() int }

type (
	contentRank struct{}
	laneRank    struct{}
	shardRank   struct{}
	tableRank   struct{}
)

func (contentRank) rank() int { return 1 }
func (laneRank) rank() int    { return 2 }
func (shardRank) rank() int   { return 3 }
func (tableRank) rank() int   { return 4 }

// maxLanes bounds the memory that active segments take.
const maxLanes = 8

// maxLockedCopy is the longest content (bytes) copied with contentMu read-held; longer ones are
// copied under a pin, so that a swap, and every reader that queues behind it, never waits for them.
const maxLockedCopy = 64 << 10

// Store is a set of memories. Create one with [Open], release it with [Store.Close].
//
// Every method is safe for concurrent use. A Put or Delete that returned nil is seen by every call
// that starts later; concurrent calls on one id are linearizable, with a compaction running or not.
type Store struct {
	opts     Options
	hooks    hooks
	hashSeed maphash.Seed
	mapper   mapper

	// Lock order: contentMu < lane.mu < shard.mu < segmentTable.mu; "a < b" means a must be
	// acquired before b if both are held. No goroutine holds two locks of one kind, or one lock
	// twice, not even for reading. No user code runs with any of them held.
	//
	// contentMu is the lock of the content buffer. Read-held: the segments in the table stay there,
	// so every location in the index can be followed. It is held for one look-up, one record, or
	// one batch. Write-held: segments leave the table. Pointer changes only, so the hold does not
	// grow with the data.
	contentMu  rankedRWMutex[contentRank]
	segments   segmentTable
	offsetBits uint // of a location
	closed     bool // guarded by contentMu

	// lane.mu makes one writer at a time of all who write to the lane's shards, and guards the
	// lane's active segment. A segment may be mapped under it, and one record written.
	lanes []lane

	// shard.mu guards one part of the index. Slots are read and written under it, and ids compared;
	// nothing is allocated, mapped or written to a segment.
	shards [shardCount]shard

	disk           *disk         // nil in a memory store
	sequence       atomic.Uint64 // the last sequence number drawn
	retiredBytes   atomic.Int64  // mapped for pins alone
	corruptRecords atomic.Int64  // met by reads, compactions and All
	compacting     atomic.Bool
	history        history
	meters         meters
	retired        retiredSegments
	writtenGone    int64                            // by Put and Delete, to segments that left; guarded by contentMu
	current        atomic.Pointer[compactionNotice] // of the compaction under way
	recovered      RecoveryStats                    // written by Open

	// Background work: lifetime ends when Close begins, and running counts what Close waits for.
	lifetime    context.Context
	endLife     context.CancelCauseFunc
	lifeMu      sync.Mutex // guards the step from open to closing, and running's Add against it
	closing     bool
	running     sync.WaitGroup
	closeDone   chan struct{}
	maintenance maintenance
}

// Open returns a store. dir "" keeps it in anonymous memory, gone with Close; nil opts mean the
// defaults.
//
// Any other dir is that of a store in files: it is made when it is missing, with mode 0700, and locked
// against other stores, of this process too, until Close. Open reads every record, in parallel, unless
// the last Close was clean, and removes what a crash left unfinished. A read-only Open changes nothing,
// needs no write permission, and shares the directory with other read-only ones. Disk space of one
// segment, and a sixteenth of one (at least 64 KiB) for each lane, is kept back for deletions and
// compactions on a full disk.
//
// Errors: [ErrInvalidOptions]; for a directory also [ErrLocked], [ErrCorrupt] (see Options.Repair),
// [ErrVersion], [ErrNoSpace], an error that is [errors.ErrUnsupported] where there is no flock, and
// those of the file system. No file but LOCK has changed when it is ErrLocked, ErrVersion, or ErrCorrupt
// without Repair.
func Open(dir string, opts *Options) (*Store, error) {
	return open(dir, opts, hooks{})
}

func open(dir string, opts *Options, h hooks) (*Store, error) {
	s, err := newStore(opts, h)
	if err != nil {
		return nil, err
	}
	if dir != "" {
		if err := s.openDirectory(dir); err != nil {
			return nil, err
		}
	}
	s.startBackground()
	return s, nil
}

// newStore returns an empty store, in memory as yet, without anything in the background.
func newStore(opts *Options, h hooks) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		opts:      opts.withDefaults(),
		hooks:     h,
		hashSeed:  maphash.MakeSeed(),
		lanes:     make([]lane, min(maxLanes, runtime.GOMAXPROCS(0))),
		closeDone: make(chan struct{}),
	}
	s.offsetBits = offsetBitsFor(s.opts.SegmentSize)
	s.segments.entries.Store(new([]atomic.Pointer[segment]))
	for i := range s.shards {
		s.shards[i].lane = &s.lanes[i%len(s.lanes)]
		s.shards[i].remainder = int64(i) % sampleEvery
	}
	s.meters.init()
	s.lifetime, s.endLife = context.WithCancelCause(context.Background())
	s.segments.pending = map[uint64]bool{}
	return s, nil
}

// startBackground starts what runs by itself until Close.
func (s *Store) startBackground() {
	if s.opts.ReadOnly {
		return
	}
	if !s.opts.Maintenance.Disabled {
		s.history.expectCycle(time.Now().Add(s.opts.Maintenance.Interval))
		s.repeat(s.opts.Maintenance.Interval, func() bool {
			s.history.expectCycle(time.Now().Add(s.opts.Maintenance.Interval))
			s.cycle()
			return true
		})
	}
	if s.disk != nil && s.opts.SyncInterval >= 0 {
		s.repeat(s.opts.SyncInterval, s.syncQuietly)
	}
}

// repeat calls fn at every interval until it returns false, on a goroutine that Close waits for.
func (s *Store) repeat(interval time.Duration, fn func() (more bool)) {
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for more := true; more; {
			select {
			case <-s.lifetime.Done():
				return
			case <-ticker.C:
				more = fn()
			}
		}
	}()
}

// Put stores content under id, in place of what was there. nil content is the same as empty content,
// and is stored. The store keeps neither slice nor string.
//
// It may map a segment of SegmentSize bytes, and grows one shard of the index now and then.
//
// Errors: [ErrInvalidID], [ErrContentTooLarge], [ErrReadOnly], [ErrClosed], [ErrNoSpace];
// [ErrCorrupt] when the place of id in the index leads to a damaged record, since what would be
// replaced is unknown then. Nothing changed when one is returned.
func (s *Store) Put(id string, content []byte) error {
	started := s.meters.sampleWrite()
	err := s.putDurably(id, content)
	s.meters.writeEnded(started, err, &s.meters.puts, &s.meters.putErrors)
	return err
}

func (s *Store) putDurably(id string, content []byte) error {
	if err := s.checkWrite(id); err != nil {
		return err
	}
	if len(content) > MaxContentLen {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrContentTooLarge, len(content), MaxContentLen)
	}
	size := recordSize(len(id), len(content))
	p := put{id: id, content: content, kind: kindMemory, size: size, sum: checksum(content)}
	if size > s.largeSize() {
		// Mapped and filled before any lock is taken: it may take a second.
		seg, err := s.newLargeSegment(p)
		if err != nil {
			return err
		}
		p.large = seg
	}
	if err := s.put(p); err != nil {
		if p.large != nil {
			s.discardSegment(p.large)
		}
		return err
	}
	return s.makeDurable()
}

// largeSize is the size of the largest record that shares a segment with others.
func (s *Store) largeSize() int {
	return min(s.largestShared(), max(s.opts.SegmentSize/largeShare, minLargeSize))
}

// largestShared is the size of the largest record that fits a segment of SegmentSize.
func (s *Store) largestShared() int { return s.opts.SegmentSize - segmentHeaderSize - digestSize }

// put is a record to be written: a Put under way, or the tombstone of a Delete.
type put struct {
	id      string
	content []byte
	kind    byte
	size    int
	sum     uint32   // of content
	large   *segment // holds the body of a large record already, else nil
}

// put appends the record and points the index to it. The order gives readers either the old record
// or the whole new one: bytes, tail, index.
func (s *Store) put(p put) (err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	sh, tag := s.place(p.id)
	s.contentMu.RLock()
	defer s.contentMu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	ln := sh.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()

	if err := s.prepare(sh, int(sh.memories.Load())+1); err != nil {
		return err
	}
	old, exists, err := s.find(sh, tag, p.id)
	if err != nil {
		return err
	}
	seg, err := s.appendLocked(ln, p)
	if err != nil {
		return err
	}
	_ = s.reach(pointPutAppended) // nothing can fail between the record and the index
	offset := int(seg.tail.Load()) - p.size
	s.pointTo(sh, old.pos, exists, old.h.size(), makeSlot(tag, s.locate(seg, offset)), p.size)
	if p.large != nil {
		seg.seal(false) // not earlier: a compaction would take it for dead
	}
	return nil
}

// appendLocked writes the record of p at a tail. A large one is published when it is whole: what fails
// before that leaves no trace of it. REQUIRES: ln.mu held, contentMu read-held.
func (s *Store) appendLocked(ln *lane, p put) (seg *segment, err error) {
	seg = p.large
	if seg == nil {
		if seg, err = s.reserveLocked(ln, p.size, p.kind == kindTombstone); err != nil {
			return nil, err
		}
	}
	tail := int(seg.tail.Load())
	rec := seg.mem[tail : tail+p.size]
	if p.large == nil {
		putBody(rec, p.id, p.content)
	}
	_ = s.reach(pointPutBody)
	h := header{
		contentSum: p.sum,
		kind:       p.kind,
		idLen:      len(p.id),
		contentLen: len(p.content),
		seq:        s.sequence.Add(1),
	}
	seg.contains(h.seq)
	if seg.file != nil {
		seg.putDigest(int(seg.records.Load()), rec[recordHeaderSize:recordHeaderSize+h.idLen])
	}
	putHeader(rec, h, seg.seedAt(tail))
	seg.grew(1, p.size)
	if p.large != nil {
		if err := s.segments.assign(seg, s.maxSegments()); err != nil {
			return nil, err
		}
		s.segments.publish(seg)
	}
	return seg, nil
}

// pointTo sets the slot at pos to w, the location of a record of size bytes; exists says that pos
// held a slot for the same id, of a record of oldSize bytes. Between the look-up and this call a
// compaction may have moved that record, which is why its location is read again; its position
// cannot have changed (I3). REQUIRES: the lane's lock held, contentMu read-held.
func (s *Store) pointTo(sh *shard, pos int, exists bool, oldSize int, w slot, size int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	delta := int64(size)
	if exists {
		superseded, _ := s.resolve(sh.table.get(pos).location())
		superseded.live.Add(-int64(oldSize))
		delta -= int64(oldSize)
	} else {
		sh.memories.Add(1)
	}
	seg, _ := s.resolve(w.location())
	seg.live.Add(int64(size))
	sh.table.set(pos, w)
	sh.liveBytes.Add(delta)
	sh.puts.Add(1)
}

// Delete removes the memory and reports whether it existed.
//
// Errors: [ErrInvalidID], [ErrReadOnly], [ErrClosed], and [ErrCorrupt] as with [Store.Put].
func (s *Store) Delete(id string) (existed bool, err error) {
	started := s.meters.sampleWrite()
	existed, err = s.removeDurably(id)
	s.meters.writeEnded(started, err, &s.meters.deletes, &s.meters.deleteErrors)
	return existed, err
}

func (s *Store) removeDurably(id string) (existed bool, err error) {
	if err := s.checkWrite(id); err != nil {
		return false, err
	}
	existed, err = s.remove(id)
	if existed && err == nil {
		err = s.makeDurable()
	}
	return existed, err
}

// remove is Delete up to the point where the deletion is visible.
func (s *Store) remove(id string) (existed bool, err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	sh, tag := s.place(id)
	s.contentMu.RLock()
	defer s.contentMu.RUnlock()
	if s.closed {
		return false, ErrClosed
	}
	ln := sh.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()

	m, exists, err := s.find(sh, tag, id)
	if err == nil && !exists {
		sh.deleteMisses.Add(1)
	}
	if err != nil || !exists {
		return false, err
	}
	if err := s.appendTombstone(ln, id); err != nil {
		return false, err
	}
	_ = s.reach(pointDeleteAppended)
	s.removeSlot(sh, m.pos, m.h.size())
	// A table that cannot be made smaller stays as it is: nothing is wrong with it.
	_ = s.prepare(sh, int(sh.memories.Load()))
	return true, nil
}

// appendTombstone records a deletion in a directory store, where the records of the memory may be
// found again. REQUIRES: as appendLocked.
func (s *Store) appendTombstone(ln *lane, id string) error {
	if s.disk == nil {
		return nil
	}
	p := put{id: id, kind: kindTombstone, size: recordSize(len(id), 0), sum: checksum(nil)}
	if p.size > s.largestShared() { // an id of nearly the size of the smallest segment
		seg, err := s.newLargeSegment(p)
		if err != nil {
			return err
		}
		p.large = seg
	}
	seg, err := s.appendLocked(ln, p)
	if err != nil {
		if p.large != nil {
			s.discardSegment(p.large)
		}
		return err
	}
	seg.holdsTombstone(int(seg.tail.Load())-p.size, p.size)
	if p.large != nil {
		seg.seal(false)
	}
	return nil
}

// removeSlot empties the slot at pos, of a record of size bytes. REQUIRES: as pointTo.
func (s *Store) removeSlot(sh *shard, pos, size int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	seg, _ := s.resolve(sh.table.get(pos).location())
	seg.live.Add(-int64(size))
	sh.table.remove(pos)
	sh.memories.Add(-1)
	sh.liveBytes.Add(-int64(size))
	sh.deletes.Add(1)
}

func (s *Store) checkWrite(id string) error {
	if s.opts.ReadOnly {
		return ErrReadOnly
	}
	if err := s.failedSync(); err != nil {
		return err
	}
	return checkID(id)
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > MaxIDLen {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrInvalidID, len(id), MaxIDLen)
	}
	return nil
}

// match is a record that the index points to.
type match struct {
	seg    *segment
	offset int    // of the record in seg
	rec    []byte // from the record's first byte to seg's tail
	h      header
	pos    int // of the slot; for an id that is absent, where its slot would go

	started time.Duration // of a read that is measured, see meters; else 0
}

func (m match) corrupt(id, reason string) error {
	return &CorruptError{File: m.seg.name(), Offset: int64(m.offset), ID: id, Reason: reason}
}

// follow reads header and id of the record at loc, and verifies them. REQUIRES: contentMu held.
func (s *Store) follow(loc location) (match, error) {
	seg, offset := s.resolve(loc)
	if seg == nil {
		return match{}, &CorruptError{File: "index", Offset: int64(loc), Reason: "no such segment"}
	}
	m := match{seg: seg, offset: offset}
	tail := int(seg.tail.Load())
	if offset >= tail {
		return m, m.corrupt("", "record beyond the tail")
	}
	m.rec = seg.mem[offset:tail]
	h, ok := decodeHeader(m.rec)
	if !ok || h.kind != kindMemory || !intactHead(m.rec, h, seg.seedAt(offset)) {
		return m, m.corrupt("", "damaged header or id")
	}
	m.h = h
	return m, nil
}

// find is findLocked under sh.mu.
func (s *Store) find(sh *shard, tag uint32, id string) (m match, exists bool, err error) {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return s.findLocked(sh, tag, id)
}

// findLocked looks id up, and compares it with the ids of the records themselves. A damaged head
// among the records it meets is an error, since it may be id's. REQUIRES: sh.mu held, contentMu held.
func (s *Store) findLocked(sh *shard, tag uint32, id string) (m match, exists bool, err error) {
	pos, w := sh.table.first(tag)
	for ; w != 0; pos, w = sh.table.following(pos, tag) {
		m, err = s.follow(w.location())
		if err != nil {
			return match{}, false, err
		}
		if string(recordID(m.rec, m.h)) == id {
			m.pos = pos
			return m, true, nil
		}
	}
	return match{pos: pos}, false, nil
}

// lookup finds id and returns with contentMu read-held when err is nil, so that the match can be
// used or pinned.
func (s *Store) lookup(id string, sh *shard, tag uint32) (match, error) {
	s.contentMu.RLock()
	held := false
	defer func() { // also when the look-up ends with a fault
		if !held {
			s.contentMu.RUnlock()
		}
	}()
	if s.closed {
		return match{}, ErrClosed
	}
	m, exists, err := s.find(sh, tag, id)
	if err == nil && !exists {
		err = ErrNotFound
	}
	if err != nil {
		s.countCorrupt(err)
		return m, err
	}
	held = true
	return m, nil
}

// read is lookup for the calls that count as a Get.
func (s *Store) read(id string) (match, error) {
	if err := checkID(id); err != nil {
		return match{}, err
	}
	sh, tag := s.place(id)
	started := s.meters.sampleRead(sh)
	m, err := s.lookup(id, sh, tag)
	switch {
	case err == nil:
		sh.gets.Add(1)
		m.started = started
	case errors.Is(err, ErrNotFound):
		sh.gets.Add(1)
		sh.misses.Add(1)
		if started != 0 {
			s.meters.readEnded(started, 0)
		}
	case errors.Is(err, ErrCorrupt):
		sh.gets.Add(1)
		s.meters.getErrors.Add(1)
	}
	return m, err
}

func (s *Store) countCorrupt(err error) {
	if errors.Is(err, ErrCorrupt) {
		s.corruptRecords.Add(1)
	}
}

// countDamage accounts for a content that cannot be returned.
func (s *Store) countDamage() {
	s.corruptRecords.Add(1)
	s.meters.getErrors.Add(1)
}

// Get returns a copy of the content of id; it is never nil when err is nil.
//
// Errors: [ErrNotFound], [ErrInvalidID], [ErrClosed], [ErrCorrupt].
func (s *Store) Get(id string) ([]byte, error) {
	content, err := s.AppendContent(nil, id)
	if content == nil && err == nil {
		content = []byte{}
	}
	return content, err
}

// AppendContent appends the content of id to dst and returns the longer slice, as append does. It
// does not allocate when dst has room. On an error it returns dst; bytes behind len(dst), up to its
// capacity, may have been written.
//
// Errors: as [Store.Get].
func (s *Store) AppendContent(dst []byte, id string) (content []byte, err error) {
	if s.disk != nil {
		content = dst //nolint:wastedassign // what a fault returns
		defer s.catchFault(armFaults(), &err)
	}
	m, err := s.read(id)
	if err != nil {
		return dst, err
	}
	return s.appendMatch(dst, id, m)
}

// appendMatch takes over the contentMu that lookup left read-held.
func (s *Store) appendMatch(dst []byte, id string, m match) (content []byte, err error) {
	if m.h.contentLen <= maxLockedCopy {
		defer s.contentMu.RUnlock()
		return s.appendVerified(dst, id, m)
	}
	m.seg.pin()
	s.contentMu.RUnlock()
	defer s.unpin(m.seg)
	if s.disk != nil { // as in viewPinned
		content = dst //nolint:wastedassign // what a fault returns
		defer s.catchFault(armFaults(), &err)
	}
	return s.appendVerified(dst, id, m)
}

// appendVerified copies first and then checks the copy, which nobody else can write to.
func (s *Store) appendVerified(dst []byte, id string, m match) ([]byte, error) {
	out := append(dst, recordContent(m.rec, m.h)...)
	if !intactContent(out[len(dst):], m.h) {
		s.countDamage()
		return dst, m.corrupt(id, "checksum mismatch")
	}
	if m.started != 0 {
		s.meters.readEnded(m.started, m.h.contentLen)
	}
	return out, nil
}

// View calls fn with the content of id, without a copy, and returns what fn returns. The slice is
// valid inside fn only, and must not be written to. fn runs with no lock held: it may take its time
// and call the store, Close included. Until it returns, the segment stays mapped, though a
// compaction may have replaced it.
//
// Errors: as [Store.Get], and what fn returns. A panic of fn passes through.
func (s *Store) View(id string, fn func(content []byte) error) (err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	m, err := s.read(id)
	if err != nil {
		return err
	}
	return s.viewPinned(id, m, fn)
}

// viewPinned takes over the contentMu that lookup left read-held.
func (s *Store) viewPinned(id string, m match, fn func(content []byte) error) (err error) {
	m.seg.pin()
	s.contentMu.RUnlock()
	defer s.unpin(m.seg)
	if s.disk != nil { // before the last unpin: it unmaps what the fault is on
		defer s.catchFault(armFaults(), &err)
	}
	content := recordContent(m.rec, m.h)
	if !intactContent(content, m.h) {
		s.countDamage()
		return m.corrupt(id, "checksum mismatch")
	}
	if m.started != 0 {
		s.meters.readEnded(m.started, m.h.contentLen)
	}
	if err := s.reach(pointViewPinned); err != nil {
		return err
	}
	assertUnlocked()
	return fn(content)
}

// Has reports whether id has a memory. It reads no content and verifies none; an invalid id, a
// closed store and a damaged record are false.
func (s *Store) Has(id string) (exists bool) {
	if s.disk != nil {
		var fault error // false then
		defer s.catchFault(armFaults(), &fault)
	}
	if checkID(id) != nil {
		return false
	}
	sh, tag := s.place(id)
	if _, err := s.lookup(id, sh, tag); err != nil {
		return false
	}
	s.contentMu.RUnlock()
	return true
}

// Len returns the number of memories, 0 for a closed store.
func (s *Store) Len() int {
	n := int64(0)
	for i := range s.shards {
		n += s.shards[i].memories.Load()
	}
	return int(n)
}

// iterationBatch is about how many ids All copies at once.
const iterationBatch = 128

// All iterates over the memories in no particular order. Each one that is there from the first step
// to the last is yielded exactly once, with its content at that step; one that comes or goes on the
// way may be yielded or not, never twice. The content is valid, and must not be written to, until
// the next step. The loop's body runs with no lock held and may call the store.
//
// A damaged record cannot be reported by an iterator: it is left out, logged, and counted in
// Stats.CorruptRecords; [Store.Verify] names each one. The iteration ends early when the store is
// closed. It costs one look-up per memory beside the walk.
func (s *Store) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		batch := idBatch{copy: []byte{}} // empty content is not nil
		for i := range s.shards {
			for batch.next = 0; batch.next < tagCount; {
				if err := s.readIDs(&s.shards[i], &batch); err != nil {
					s.opts.Logger.Error("damaged records left out of an iteration", "error", err)
				}
				for _, id := range batch.ids {
					if !s.step(id, &batch, yield) {
						return
					}
				}
			}
		}
	}
}

// idBatch is some ids of one shard.
type idBatch struct {
	next  uint32 // the tag to go on with
	ids   []string
	slots []slot // scratch space
	copy  []byte // of the content yielded, in a directory store
}

// readIDs replaces the ids of b by those from b.next on. Records it cannot read the id of are left
// out and make up the error.
func (s *Store) readIDs(sh *shard, b *idBatch) (err error) {
	defer s.catchFault(armFaults(), &err)
	s.contentMu.RLock()
	defer s.contentMu.RUnlock()
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	end := sh.rangeEnd(b.next, iterationBatch)
	b.slots = sh.table.appendRange(b.slots[:0], b.next, end)
	b.ids, b.next = b.ids[:0], end
	for _, w := range b.slots {
		m, damage := s.follow(w.location())
		if damage != nil {
			s.corruptRecords.Add(1)
			err = errors.Join(err, damage)
			continue
		}
		b.ids = append(b.ids, string(recordID(m.rec, m.h)))
	}
	return err
}

// step yields one memory, if it is still there; in a directory store a copy of it, since a fault in the
// loop's body could not be made an error.
func (s *Store) step(id string, b *idBatch, yield func(string, []byte) bool) (more bool) {
	var err error
	if s.disk == nil {
		err = s.viewQuietly(id, func(content []byte) error {
			more = yield(id, content)
			return nil
		})
	} else if b.copy, err = s.appendQuietly(b.copy[:0], id); err == nil {
		more = yield(id, b.copy[:len(b.copy):len(b.copy)])
	}
	switch {
	case err == nil:
		return more
	case errors.Is(err, ErrNotFound):
		return true // gone since its id was copied
	case errors.Is(err, ErrClosed):
		return false
	}
	s.opts.Logger.Error("damaged record left out of an iteration", "error", err)
	return true
}

// viewQuietly is View, in a memory store, without counting as one.
func (s *Store) viewQuietly(id string, fn func(content []byte) error) error {
	sh, tag := s.place(id)
	m, err := s.lookup(id, sh, tag)
	if err != nil {
		return err
	}
	return s.viewPinned(id, m, fn)
}

// appendQuietly is AppendContent without counting as a Get.
func (s *Store) appendQuietly(dst []byte, id string) (content []byte, err error) {
	defer s.catchFault(armFaults(), &err)
	content = dst //nolint:wastedassign // what a fault returns
	sh, tag := s.place(id)
	m, err := s.lookup(id, sh, tag)
	if err != nil {
		return dst, err
	}
	return s.appendMatch(dst, id, m)
}

// Close ends the background work, cancels a running compaction and waits for it, and unmaps the
// store. It does not wait for callbacks of [Store.View] and loops over [Store.All]: what they hold
// stays mapped until they return. Later calls, and calls meanwhile, wait for the first and return
// nil. It must not be called from CompactionOptions.OnProgress.
func (s *Store) Close() error {
	s.lifeMu.Lock()
	first := !s.closing
	s.closing = true
	s.lifeMu.Unlock()
	if !first {
		<-s.closeDone
		return nil
	}
	defer close(s.closeDone)
	s.endLife(ErrClosed)
	s.running.Wait()
	s.contentMu.Lock()
	s.closed = true // nothing is acknowledged behind the last flush
	s.contentMu.Unlock()
	err := s.finishDisk()

	var tables []table
	s.contentMu.Lock()
	segs := s.segments.all()
	s.writtenGone += written(segs)
	s.segments.removeLocked(segs)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		tables = append(tables, sh.table)
		sh.table = nil
		sh.memories.Store(0)
		sh.liveBytes.Store(0)
		sh.mu.Unlock()
	}
	s.contentMu.Unlock()
	for _, t := range tables {
		if len(t) > 0 {
			s.release(t)
		}
	}
	for _, seg := range segs {
		if s.retire(seg) {
			s.free(seg)
		}
	}
	return errors.Join(err, s.closeDisk())
}

// begin registers work that Close waits for. The work ends with done, and early when ctx, the
// context it is given, is cancelled by the caller or by Close.
func (s *Store) begin(parent context.Context) (ctx context.Context, done func(), err error) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.closing {
		return nil, nil, ErrClosed
	}
	s.running.Add(1)
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(s.lifetime, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.running.Done()
	}, nil
}
