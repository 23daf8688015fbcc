// Package warmtier keeps millions of memories (id -> content, both bytes) inside a process but
// outside the Go heap: the warm tier between a small hot map and a slow cold store.
//
//	s, err := warmtier.Open("", nil)
//	...
//	err = s.Put("user:42", profile)
//	content, err := s.Get("user:42")
//
// Contents lie in memory-mapped segments and are found through an index that the garbage collector
// never looks at. Overwriting and deleting leave dead bytes in the segments; online compaction
// gives them back while reads and writes go on. Nothing is evicted. Every byte that a call returns
// was verified against its checksum.
//
// # Concurrency
//
// Every method is safe for concurrent use. A [Store.Put] or [Store.Delete] that returned nil is
// seen by every call that starts later; concurrent calls on one id are linearizable, with a
// compaction running or not. [Store.All] yields each memory that was there and untouched throughout
// exactly once.
//
// The store runs the caller's code ([Store.View], [Store.All], [Store.GetMany], the load of
// [Store.GetOrLoad], CompactionOptions.OnProgress, Options.Logger) with no lock held. It may call
// the store; only OnProgress and the Logger must not call [Store.Close]. The store keeps no slice
// of the caller's. The slice that View or All hands out is the store's own: it is valid until the
// callback returns or the loop takes its next step, and must not be written to.
//
// # Durability
//
// With "" in place of a directory a store is gone with its process. With a directory, everything
// that was acknowledged is there after the process was killed. After a power loss everything is
// there up to the last [Store.Sync], which runs in the background every Options.SyncInterval, one
// second by default. With Options.SyncWrites each Put and Delete is durable before it returns. Once
// a flush has failed the store takes no more writes, because nothing would tell which of them are
// on the disk.
//
// Damage to files is an error, of [Open] or of the call that meets it; with Options.Repair, Open
// keeps what is intact. A store never returns an older version or a deleted memory in place of a
// lost one.
//
// # Memory
//
// A memory takes its id and content, at most 31 bytes of record around them (35 in a directory),
// and 10 to 24 bytes of index in a store of 100,000 memories or more. Dead bytes come on top until
// a compaction gives them back. One runs by itself when half of at least 100 MB is dead;
// [MaintenanceOptions] change that, and [Store.Compact] gives back everything at once. A compaction
// needs about one segment more than the store has, 32 MiB by default.
//
// Mapped memory is not part of the Go heap: GOMEMLIMIT does not count it. [Store.Stats] says how
// much there is, and how much of it is dead.
//
// # Errors
//
// Every condition that a program may want to tell apart is an exported error for [errors.Is].
// Nothing has changed when Put or Delete returns one, with the exception that their comments name.
// [ErrNoSpace] and [ErrInsufficientMemory] pass when there is room again. [ErrCorrupt], with the
// place in a [*CorruptError], is damage to stored bytes: other memories stay readable, and
// [Store.Verify] lists what is damaged. [ErrSyncFailed] stays until the store is closed.
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
	rollRank    struct{}
	contentRank struct{}
	laneRank    struct{}
	shardRank   struct{}
	tableRank   struct{}
)

func (rollRank) rank() int    { return 0 }
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
	// What every call reads comes first, and is written seldom.
	opts     Options
	hooks    hooks
	hashSeed maphash.Seed
	disk     *disk // nil in a memory store

	// Lock order: lane.rolling < contentMu < lane.mu < shard.mu < segmentTable.mu; "a < b" means a
	// must be acquired before b if both are held. No goroutine holds two locks of one kind, or one lock
	// twice, not even for reading. No user code runs with any of them held.
	//
	// contentMu is the lock of the content buffer. Read-held: the segments in the table stay there,
	// so every location in the index can be followed, and tables of the index that were replaced
	// stay mapped. It is held for one look-up, one record, or one batch. Write-held: segments leave
	// the table. Pointer changes only, so the hold does not grow with the data.
	contentMu  contentLock
	segments   segmentTable
	offsetBits uint // of a location
	closed     bool // guarded by contentMu

	// lane.mu makes one writer at a time of all who write to the lane's shards, and guards the
	// lane's active segment. One record is written under it. A segment is made under lane.rolling,
	// for which only those wait that need it.
	lanes []lane

	// shard.mu guards one part of the index. Slots are written under it, and read by all who cannot
	// do without (see index.go); nothing is allocated, mapped or written to a segment.
	_      [cacheLines]byte
	shards [shardCount]shard
	limbo  limbo
	tables tableMemory
	// tableBytes is the size of all tables in use, bytes.
	tableBytes atomic.Int64
	_          [cacheLines]byte

	sequence       atomic.Uint64 // the last sequence number drawn
	mapper         mapper
	reserve        reserve
	retiredBytes   atomic.Int64 // mapped for pins alone
	corruptRecords atomic.Int64 // met by reads, compactions and All
	compacting     atomic.Bool
	history        history
	meters         meters
	retired        retiredSegments
	loads          loads
	silent         bool // no Logger; set by Open
	logQueue       logQueue
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
	if dir == "" {
		s.makeLanes(2 * runtime.GOMAXPROCS(0)) // they cost nothing but memory, and fewer writers meet in one
	} else if err := s.openDirectory(dir); err != nil {
		s.waitForLog()
		return nil, err
	}
	s.logOpened()
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
		silent:    opts.Logger == nil,
		hooks:     h,
		hashSeed:  maphash.MakeSeed(),
		closeDone: make(chan struct{}),
	}
	s.contentMu.init(runtime.GOMAXPROCS(0))
	s.tables.mapper = &s.mapper
	s.offsetBits = offsetBitsFor(s.opts.SegmentSize)
	s.segments.entries.Store(new([]atomic.Pointer[segment]))
	s.makeLanes(runtime.GOMAXPROCS(0))
	s.meters.init()
	s.lifetime, s.endLife = context.WithCancelCause(context.Background())
	s.reserve.counted = time.Now()
	s.segments.pending, s.segments.taken = map[uint64]bool{}, map[uint64]bool{}
	return s, nil
}

// makeLanes gives the store n lanes, at most maxLanes. REQUIRES: nobody has written yet.
func (s *Store) makeLanes(n int) {
	s.lanes = make([]lane, min(maxLanes, n))
	for i := range s.shards {
		s.shards[i].lane = &s.lanes[i%len(s.lanes)]
	}
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
// Errors: [ErrInvalidID], [ErrContentTooLarge], [ErrReadOnly], [ErrClosed], [ErrNoSpace], [ErrSyncFailed];
// [ErrCorrupt] when the place of id in the index leads to a damaged record, since what would be
// replaced is unknown then. Nothing changed when one is returned, with one exception: with SyncWrites the
// content may be stored and seen, and not be durable, since the flush failed ([ErrSyncFailed], or
// [ErrNoSpace] for a manifest, which the next flush tries again).
func (s *Store) Put(id string, content []byte) error {
	started := s.meters.sampleWrite()
	err := s.putDurably(id, content, nil)
	s.meters.writeEnded(started, err, &s.meters.puts, &s.meters.putErrors)
	return err
}

// putDurably is Put without its measurement. load, when not nil, is the flight that content is from.
func (s *Store) putDurably(id string, content []byte, load *flight) error {
	if err := s.checkWrite(id); err != nil {
		return err
	}
	if len(content) > MaxContentLen {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrContentTooLarge, len(content), MaxContentLen)
	}
	done, err := s.enterSynced()
	if err != nil {
		return err
	}
	defer done()
	p := put{id: id, content: content, kind: kindMemory, size: recordSize(len(id), len(content)), load: load}
	p.shard, p.tag = s.place(id)
	p.shard.prefetch(p.tag)
	p.sum = checksum(content)
	if err := s.put(&p); err != nil {
		return err
	}
	s.trimLimbo()
	return s.makeDurable()
}

// enterSynced is enter for calls that end with a flush: Close waits for them, and then nobody flushes
// while it takes the segments out of the table. Others pay nothing.
func (s *Store) enterSynced() (done func(), err error) {
	if s.disk == nil || !s.opts.SyncWrites {
		return func() {}, nil
	}
	return s.enter()
}

// largeSize is the size of the largest record that shares a segment with others.
func (s *Store) largeSize() int {
	return min(s.largestShared(), max(s.opts.SegmentSize/largeShare, minLargeSize))
}

// largestFor is the size of the largest record of a kind that shares a segment. A tombstone needs one of
// its own only when its id has nearly the size of the smallest segment.
func (s *Store) largestFor(kind byte) int {
	if kind == kindTombstone {
		return s.largestShared()
	}
	return s.largeSize()
}

// largestShared is the size of the largest record that fits a segment of SegmentSize.
func (s *Store) largestShared() int { return s.opts.SegmentSize - segmentHeaderSize - 2*digestSize }

// put is a record to be written: a Put under way, or the tombstone of a Delete.
type put struct {
	id      string
	content []byte
	shard   *shard
	tag     uint32
	kind    byte
	size    int
	sum     uint32   // of content
	large   *segment // holds the body of a large record already, else nil
	load    *flight  // that content is from; nil for a Put
	written bool     // the record is in a segment of the table
}

// put is tryPut, with the segments it needs.
func (s *Store) put(p *put) error {
	if p.size <= s.largeSize() {
		if err := s.tryPut(p); err != errNoRoom { //nolint:errorlint // never wrapped: it is no error
			return err
		}
	}
	return s.putWithRoom(*p)
}

// putWithRoom has a p of its own, so that only a Put that comes here allocates one.
func (s *Store) putWithRoom(p put) error {
	return s.withRoom(&p, func() error { return s.tryPut(&p) })
}

// tryPut appends the record and points the index to it; errNoRoom when it lacks a segment. The order
// gives readers either the old record or the whole new one: bytes, tail, index.
//
// It waits for memory twice, for the slot and for the head of the old record, and other writers of the lane
// should not wait with it: the slot is waited for before the lane's lock, and the head comes while the new
// record's body is written. What was seen before the lock is not believed: it may have changed.
func (s *Store) tryPut(p *put) (err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.closed {
		return ErrClosed
	}
	s.prefetchHead(p.shard, p.tag)
	_ = s.reach(pointPutFound)
	return s.putInLane(p)
}

// prefetchHead has the head of the record fetched that is most likely that of an id with this tag, and
// returns the segment from there on; nil when there is none. REQUIRES: contentMu held.
func (s *Store) prefetchHead(sh *shard, tag uint32) []byte {
	_, w := sh.current().first(tag)
	if w == 0 {
		return nil
	}
	seg, offset := s.resolve(w.location())
	if seg == nil || offset+recordHeaderSize > len(seg.mem) {
		return nil
	}
	prefetch(seg.mem[offset : offset+recordHeaderSize])
	return seg.mem[offset:]
}

// putInLane is tryPut behind the lock of the lane. REQUIRES: contentMu read-held.
func (s *Store) putInLane(p *put) error {
	sh, ln := p.shard, p.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if err := s.prepare(sh, int(sh.memories.Load())+1); err != nil {
		return err
	}
	if p.load != nil && s.loads.isSuperseded(p.load) {
		return errSuperseded
	}
	var old match
	exists := false
	seg, err := s.writeLocked(ln, p, func() (err error) {
		exists, err = s.probe(&old, sh, p.tag, p.id)
		return err
	})
	if err != nil {
		return err
	}
	_ = s.reach(pointPutAppended) // nothing can fail between the record and the index
	offset := int(seg.tail.Load()) - p.size
	s.pointTo(sh, old.pos, exists, old.h.size(), makeSlot(p.tag, s.locate(seg, offset)), p.size)
	if p.load == nil {
		s.loads.supersede(p.id)
	}
	if p.large != nil {
		seg.seal(false) // not earlier: a compaction would take it for dead
	}
	return nil
}

// placeLocked finds the place of p at a tail; nil when there is no room. REQUIRES: ln.mu held, contentMu
// read-held.
func (ln *lane) placeLocked(p *put) (seg *segment, rec []byte) {
	if seg = p.large; seg == nil {
		if !ln.hasRoomLocked(p) {
			return nil, nil
		}
		seg = ln.active
	}
	tail := int(seg.tail.Load())
	return seg, seg.mem[tail : tail+p.size]
}

// writeLocked writes the record of p at a tail: the body, then whatever lookUp reads meanwhile, then the rest,
// unless lookUp fails. REQUIRES: ln.mu held, contentMu read-held.
func (s *Store) writeLocked(ln *lane, p *put, lookUp func() error) (*segment, error) {
	seg, rec := ln.placeLocked(p)
	if seg == nil {
		return nil, errNoRoom
	}
	defer seg.clearUnfinished(seg.tail.Load(), rec, p)
	if p.large == nil {
		putBody(rec, p.id, p.content)
	}
	if err := lookUp(); err != nil {
		return nil, err
	}
	return seg, s.appendLocked(seg, rec, p)
}

// clearUnfinished ends the writing of p to rec, its place at this tail: of a record that was not finished, by an
// error or a fault, nothing stays in a file. Else its body would lie where the header of a later record goes,
// and recovery take it for one that was begun.
func (seg *segment) clearUnfinished(tail int64, rec []byte, p *put) {
	if seg.file != nil && p.large == nil && seg.tail.Load() == tail {
		clear(rec)
	}
}

// appendLocked makes the body that is in rec, its place in seg, a record. A large one is published when it is
// whole: what fails before that leaves no trace of it. REQUIRES: ln.mu held, contentMu read-held.
func (s *Store) appendLocked(seg *segment, rec []byte, p *put) error {
	_ = s.reach(pointPutBody)
	h := header{
		contentSum: p.sum,
		kind:       p.kind,
		idLen:      len(p.id),
		contentLen: len(p.content),
		seq:        s.sequence.Add(1),
	}
	tail := int(seg.tail.Load())
	seg.contains(h.seq)
	if seg.file != nil {
		seg.putDigest(int(seg.records.Load()), rec[recordHeaderSize:recordHeaderSize+h.idLen])
	}
	putHeader(rec, h, seg.seedAt(tail))
	seg.grew(1, p.size)
	if p.large != nil {
		if err := s.segments.assign(seg, s.maxSegments()); err != nil {
			return err
		}
		s.segments.publish(seg)
	}
	p.written = true
	if next := tail + p.size; p.large == nil {
		prefetch(seg.mem[next:min(next+min(p.size, prefetchLimit), len(seg.mem))])
	}
	return nil
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
		superseded, _ := s.resolve(sh.current().get(pos).location())
		superseded.live.Add(-int64(oldSize))
		delta -= int64(oldSize)
	} else {
		sh.memories.Add(1)
	}
	seg, _ := s.resolve(w.location())
	seg.live.Add(int64(size))
	sh.current().set(pos, w)
	sh.liveBytes.Add(delta)
	sh.puts.Add(1)
}

// Delete removes the memory and reports whether it existed.
//
// Errors: [ErrInvalidID], [ErrReadOnly], [ErrClosed], [ErrNoSpace], [ErrSyncFailed] and [ErrCorrupt], as
// with [Store.Put].
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
	done, err := s.enterSynced()
	if err != nil {
		return false, err
	}
	defer done()
	existed, err = s.remove(id)
	if existed && err == nil {
		s.trimLimbo()
		err = s.makeDurable()
	}
	return existed, err
}

// tombstoneOf is the record of a deletion.
func (s *Store) tombstoneOf(id string) put {
	p := put{id: id, kind: kindTombstone, size: recordSize(len(id), 0), sum: checksum(nil)}
	p.shard, p.tag = s.place(id)
	return p
}

// remove is tryRemove, with the segments it needs.
func (s *Store) remove(id string) (existed bool, err error) {
	p := s.tombstoneOf(id)
	existed, err = s.tryRemove(&p)
	if err != errNoRoom { //nolint:errorlint // never wrapped: it is no error
		return existed, err
	}
	return s.removeWithRoom(p)
}

func (s *Store) removeWithRoom(p put) (existed bool, err error) {
	err = s.withRoom(&p, func() (err error) {
		existed, err = s.tryRemove(&p)
		return err
	})
	return existed, err
}

// tryRemove is Delete up to the point where the deletion is visible; errNoRoom when it lacks a segment.
func (s *Store) tryRemove(p *put) (existed bool, err error) {
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.closed {
		return false, ErrClosed
	}
	sh, ln := p.shard, p.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()

	var m match
	exists, err := s.probe(&m, sh, p.tag, p.id)
	if err == nil && !exists {
		sh.deleteMisses.Add(1)
		s.loads.supersede(p.id)
	}
	if err != nil || !exists {
		return false, err
	}
	if err := s.appendTombstone(ln, p); err != nil {
		return false, err
	}
	_ = s.reach(pointDeleteAppended)
	s.removeSlot(sh, m.pos, m.h.size())
	s.loads.supersede(p.id)
	if p.large != nil {
		p.large.seal(false) // not earlier: a compaction would find nothing dead that it is needed for
	}
	// A table that cannot be made smaller stays as it is: nothing is wrong with it.
	_ = s.prepare(sh, int(sh.memories.Load()))
	return true, nil
}

// appendTombstone records a deletion in a directory store, where the records of the memory may be
// found again. The caller seals a segment made for it. REQUIRES: as appendLocked.
func (s *Store) appendTombstone(ln *lane, p *put) error {
	if s.disk == nil {
		return nil
	}
	if p.size > s.largestShared() && p.large == nil {
		return errNoRoom
	}
	seg, err := s.writeLocked(ln, p, func() error { return nil }) // it was looked up before
	if err != nil {
		return err
	}
	seg.holdsTombstone(int(seg.tail.Load())-p.size, p.size)
	return nil
}

// removeSlot empties the slot at pos, of a record of size bytes. REQUIRES: as pointTo.
func (s *Store) removeSlot(sh *shard, pos, size int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	t := sh.current()
	seg, _ := s.resolve(t.get(pos).location())
	seg.live.Add(-int64(size))
	sh.shifts.Add(1) // odd: no miss is to be believed
	t.remove(pos)
	sh.shifts.Add(1)
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

func (m *match) corrupt(id, reason string) error {
	return &CorruptError{File: m.seg.name(), Offset: int64(m.offset), ID: id, Reason: reason}
}

// content is that of the record, not verified.
func (m *match) content() []byte { return recordContent(m.rec, m.h) }

// follow reads header and id of the record at loc into m, and verifies them. REQUIRES: contentMu held.
func (s *Store) follow(m *match, loc location) error {
	seg, offset := s.resolve(loc)
	if seg == nil {
		return &CorruptError{File: "index", Offset: int64(loc), Reason: "no such segment"}
	}
	m.seg, m.offset = seg, offset
	tail := int(seg.tail.Load())
	if offset >= tail {
		return m.corrupt("", "record beyond the tail")
	}
	m.rec = seg.mem[offset:tail]
	var ok bool
	m.h, ok = decodeHeader(m.rec)
	if !ok || m.h.kind != kindMemory || !intactHead(m.rec, m.h, seg.seedAt(offset)) {
		return m.corrupt("", "damaged header or id")
	}
	return nil
}

// missAttempts is how many times a miss is looked at without the shard's lock.
const missAttempts = 4

// find looks id up. It takes no lock when the id is there; see index.go for what may be believed.
// REQUIRES: contentMu held, no lock of a shard held.
func (s *Store) find(m *match, sh *shard, tag uint32, id string) (exists bool, err error) {
	if exists, _ = s.probe(m, sh, tag, id); exists {
		return true, nil
	}
	for range missAttempts {
		before := sh.shifts.Load()
		exists, err = s.probe(m, sh, tag, id)
		if exists {
			return true, nil
		}
		if err == nil && before%2 == 0 && sh.shifts.Load() == before {
			return false, nil
		}
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.probe(m, sh, tag, id)
}

// probe looks id up once, and compares it with the ids of the records themselves. A damaged head among
// the records it meets is an error, since it may be id's. Only a hit is sure unless the lock of the
// shard, or of its lane, is held. REQUIRES: contentMu held.
func (s *Store) probe(m *match, sh *shard, tag uint32, id string) (exists bool, err error) {
	t := sh.current()
	if t == nil {
		return false, nil
	}
	pos, w := t.first(tag)
	for ; w != 0; pos, w = t.following(pos, tag) {
		if err := s.follow(m, w.location()); err != nil {
			return false, err
		}
		if string(recordID(m.rec, m.h)) == id {
			m.pos = pos
			return true, nil
		}
		_ = s.reach(pointFindOther)
	}
	m.pos = pos
	return false, nil
}

// lookup finds id and returns with contentMu read-held when err is nil, so that the match can be
// used or pinned. It counts as so many gets.
func (s *Store) lookup(m *match, id string, gets uint64) (hold readHold, err error) {
	sh, tag := s.place(id)
	hold = s.contentMu.RLock()
	hold.gets = gets
	if s.disk != nil {
		err = s.findGuarded(&hold, m, sh, tag, id)
	} else {
		err = s.findCounted(&hold, m, sh, tag, id)
	}
	if err != nil {
		s.contentMu.RUnlock(hold)
	}
	return hold, err
}

// findGuarded is findCounted where it may end with a fault.
func (s *Store) findGuarded(hold *readHold, m *match, sh *shard, tag uint32, id string) error {
	ended := false
	defer func() {
		if !ended {
			hold.gets = 0
			s.contentMu.RUnlock(*hold)
		}
	}()
	err := s.findCounted(hold, m, sh, tag, id)
	ended = true
	return err
}

// findCounted is find, and says with hold what the call counts as.
func (s *Store) findCounted(hold *readHold, m *match, sh *shard, tag uint32, id string) error {
	if s.closed {
		hold.gets = 0
		return ErrClosed
	}
	m.started = s.meters.sampleRead(hold)
	exists, err := s.find(m, sh, tag, id)
	switch {
	case err != nil:
		s.corruptRecords.Add(1)
		s.meters.getErrors.Add(int64(hold.gets))
		hold.gets = 0
		return err
	case !exists:
		hold.miss()
		if m.started != 0 {
			s.meters.readEnded(m.started, 0)
		}
		return ErrNotFound
	}
	return nil
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
func (s *Store) AppendContent(dst []byte, id string) ([]byte, error) {
	if err := checkID(id); err != nil {
		return dst, err
	}
	if s.disk != nil {
		return s.appendGuarded(dst, id, 1)
	}
	return s.appendContent(dst, id, 1)
}

// appendGuarded is appendContent where it may end with a fault.
func (s *Store) appendGuarded(dst []byte, id string, gets uint64) (content []byte, err error) {
	content = dst //nolint:wastedassign // what a fault returns
	defer s.catchFault(armFaults(), &err)
	return s.appendContent(dst, id, gets)
}

// appendContent copies first and then checks the copy, which nobody else can write to: contentMu is
// held for the copy only.
func (s *Store) appendContent(dst []byte, id string, gets uint64) ([]byte, error) {
	var m match
	hold, err := s.lookup(&m, id, gets)
	if err != nil {
		return dst, err
	}
	var out []byte
	switch {
	case m.h.contentLen > maxLockedCopy:
		if out, err = s.copyPinned(dst, &m, hold); err != nil {
			return dst, err
		}
	case s.disk != nil:
		out = s.copyGuarded(dst, &m, hold)
	default: // nothing here can panic, so the lock needs no defer
		out = appendTo(dst, m.content())
		s.contentMu.RUnlock(hold)
	}
	if !intactContent(out[len(dst):], m.h) {
		s.countDamage()
		return dst, m.corrupt(id, "checksum mismatch")
	}
	if m.started != 0 {
		s.meters.readEnded(m.started, m.h.contentLen)
	}
	return out, nil
}

// appendTo is append, with a result of the exact size when there is nothing to append to.
func appendTo(dst, content []byte) []byte {
	if dst == nil && len(content) > 0 {
		out := make([]byte, len(content))
		copy(out, content)
		return out
	}
	return append(dst, content...)
}

// copyGuarded copies where it may end with a fault. It takes over the hold of lookup.
func (s *Store) copyGuarded(dst []byte, m *match, hold readHold) []byte {
	defer s.contentMu.RUnlock(hold)
	return appendTo(dst, m.content())
}

// copyPinned copies what is too long for a hold of contentMu. It takes over that of lookup.
func (s *Store) copyPinned(dst []byte, m *match, hold readHold) (out []byte, err error) {
	m.seg.pin()
	s.contentMu.RUnlock(hold)
	defer s.unpin(m.seg)
	if s.disk != nil { // as in viewPinned
		defer s.catchFault(armFaults(), &err)
	}
	return appendTo(dst, m.content()), nil
}

// View calls fn with the content of id, without a copy, and returns what fn returns. The slice is
// valid inside fn only, and must not be written to. fn runs with no lock held: it may take its time
// and call the store, Close included. Until it returns, the segment stays mapped, though a
// compaction may have replaced it.
//
// Errors: as [Store.Get], and what fn returns. A panic of fn passes through.
func (s *Store) View(id string, fn func(content []byte) error) (err error) {
	if err := checkID(id); err != nil {
		return err
	}
	if s.disk != nil {
		defer s.catchFault(armFaults(), &err)
	}
	return s.view(id, 1, fn)
}

func (s *Store) view(id string, gets uint64, fn func(content []byte) error) error {
	var m match
	hold, err := s.lookup(&m, id, gets)
	if err != nil {
		return err
	}
	m.seg.pin()
	s.contentMu.RUnlock(hold)
	return s.viewPinned(id, &m, fn)
}

// viewPinned takes over the pin.
func (s *Store) viewPinned(id string, m *match, fn func(content []byte) error) (err error) {
	defer s.unpin(m.seg)
	if s.disk != nil { // before the last unpin: it unmaps what the fault is on
		defer s.catchFault(armFaults(), &err)
	}
	content := m.content()
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
	var m match
	hold, err := s.lookup(&m, id, 0)
	if err != nil {
		return false
	}
	s.contentMu.RUnlock(hold)
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
// Stats.Reads.CorruptRecords; [Store.Verify] names each one. The iteration ends early when the store is
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
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	end := sh.rangeEnd(b.next, iterationBatch)
	b.slots = sh.current().appendRange(b.slots[:0], b.next, end)
	b.ids, b.next = b.ids[:0], end
	var m match
	for _, w := range b.slots {
		if damage := s.follow(&m, w.location()); damage != nil {
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
		err = s.view(id, 0, func(content []byte) error {
			more = yield(id, content)
			return nil
		})
	} else if b.copy, err = s.appendGuarded(b.copy[:0], id, 0); err == nil {
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

// Close ends the background work, cancels a running compaction and waits for it, and unmaps the
// store. It waits for calls that are making a segment or, with SyncWrites, flush. It does not wait for
// callbacks of [Store.View] and loops over [Store.All]: what they hold stays mapped until they return.
// Later calls, and calls meanwhile, wait for the first and return nil. It must not be called from
// CompactionOptions.OnProgress.
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

	s.contentMu.Lock()
	tables := s.limbo.takeLocked()
	segs := s.segments.all()
	s.writtenGone += written(segs)
	s.segments.removeLocked(segs)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		tables = append(tables, sh.current())
		sh.setTable(nil)
		sh.memories.Store(0)
		sh.liveBytes.Store(0)
		sh.mu.Unlock()
	}
	s.tableBytes.Store(0)
	s.contentMu.Unlock()
	s.releaseTables(tables)
	unused, _ := s.reserve.takeAll(0)
	s.releaseAll(unused)
	for _, seg := range segs {
		if s.retire(seg) {
			s.free(seg)
		}
	}
	err = errors.Join(err, s.closeDisk())
	s.opts.Logger.Info("store closed")
	s.waitForLog()
	return err
}

// enter registers work that Close waits for, until done.
func (s *Store) enter() (done func(), err error) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.closing {
		return nil, ErrClosed
	}
	s.running.Add(1)
	return s.running.Done, nil
}

// begin is enter for work that ends early when ctx, the context it is given, is cancelled by the caller
// or by Close.
func (s *Store) begin(parent context.Context) (ctx context.Context, done func(), err error) {
	left, err := s.enter()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(s.lifetime, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		left()
	}, nil
}
