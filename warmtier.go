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
// gives them back while reads and writes go on. Nothing is evicted unless [Options].WhenFull says so;
// what was stored with [Store.PutTTL] expires. Every byte that a call returns was verified against its
// checksum.
//
// # Concurrency
//
// Every method is safe for concurrent use. A [Store.Put] or [Store.Delete] that returned nil is
// seen by every call that starts later; concurrent calls on one id are linearizable, with a
// compaction running or not, and those on all ids with a [Store.Clear]. Of a [Batch] every call that writes
// sees all or nothing, and so does [Store.Apply] with its checks; one that reads an id while Apply runs may see its new
// content before another id's. [Store.All] yields each memory
// that was there and untouched throughout exactly once, [Store.IDs] and [Store.Scan] its id.
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
// second by default. With Options.SyncWrites each Put, Delete, Apply and GetOrLoad returns when what it has
// stored, deleted or found is durable. Once a flush has failed the store takes no more writes,
// because nothing would tell which of them are on the disk. A directory that was removed is noticed
// by the next flush, and by a Put that needs another segment.
//
// Damage to files is an error, of [Open] or of the call that meets it; with Options.Repair, Open
// keeps what is intact. A store never returns an older version or a deleted memory in place of a
// lost one. The directory of a store that was closed may be copied, moved and put back freely; a copy of
// one that was in use is [ErrCopied].
//
// # Memory
//
// A memory takes its id and content, at most 31 bytes of record around them (35 in a directory),
// and 10 to 24 bytes of index in a store of 100,000 memories or more. Dead bytes come on top until
// their segment has nothing live, when it leaves at once, or a compaction gives them back. One runs
// by itself when half of at least 100 MB is dead, the sooner the more dies; [MaintenanceOptions]
// change that, and [Store.Compact] gives back everything at once. One segment, as
// large as the largest, is kept back for compactions.
//
// Options.MaxBytes bounds all of it. A Put that needs more waits for a compaction as long as a tenth
// or more of the store is dead, and then returns [ErrNoSpace]; nothing is dropped, unless WhenFull is
// [Evict]: then the store is a cache, and drops what was not read lately. Without MaxBytes
// Puts wait as well while a compaction runs and more than 5/2 of the live bytes and 128 MiB is mapped.
//
// Mapped memory is not part of the Go heap: GOMEMLIMIT does not count it. [Store.Stats] says how
// much there is, what for, and how long writes have waited.
//
// # Errors
//
// Every condition that a program may want to tell apart is an exported error for [errors.Is].
// Nothing has changed when Put or Delete returns one, with the exception that their comments name.
// [ErrNoSpace], of a budget too, and [ErrInsufficientMemory] pass when there is room again. [ErrCorrupt], with the
// place in a [*CorruptError], is damage to stored bytes: other memories stay readable, and
// [Store.Verify] lists what is damaged. [ErrSyncFailed] stays until the store is closed.
package warmtier

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/biaslock"
	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/memlimit"
	"github.com/warmtier/warmtier/internal/vm"
)

// Ranks of the locks, in the order that Store states.
type (
	rollRank    struct{}
	leaveRank   struct{}
	contentRank struct{}
	laneRank    struct{}
	shardRank   struct{}
	tableRank   struct{}
)

func (rollRank) Rank() int    { return 0 }
func (leaveRank) Rank() int   { return 1 }
func (contentRank) Rank() int { return 2 }
func (laneRank) Rank() int    { return 3 }
func (shardRank) Rank() int   { return 4 }
func (tableRank) Rank() int   { return 5 }

// contentLock is a biased lock with the rank of contentMu.
type contentLock struct{ biased biaslock.Lock }

func (l *contentLock) RLock() biaslock.Hold {
	lockrank.Acquiring[contentRank]()
	return l.biased.RLock()
}

func (l *contentLock) RUnlock(h biaslock.Hold) {
	l.biased.RUnlock(h)
	lockrank.Released[contentRank]()
}

func (l *contentLock) Lock() {
	lockrank.Acquiring[contentRank]()
	l.biased.Lock()
}

func (l *contentLock) Unlock() {
	l.biased.Unlock()
	lockrank.Released[contentRank]()
}

// maxLanes bounds the memory that active segments take.
const maxLanes = 8

// Store is a set of memories. Create one with [Open], release it with [Store.Close].
//
// Every method is safe for concurrent use. A Put or Delete that returned nil is seen by every call
// that starts later; concurrent calls on one id are linearizable, with a compaction running or not.
type Store struct {
	// What every call reads comes first, and is written seldom.
	opts       Options
	hooks      hooks
	hashSeed   maphash.Seed
	marksReads bool // reads set the bit in their slot; constant, and here rather than in opts for the cache line
	medium     medium
	disk       *disk                 // the medium of a directory store, for hot paths and recovery; else nil
	failure    atomic.Pointer[error] // the first failed flush; set once

	// Lock order: lane.rolling < segmentTable.leaving < contentMu < lane.mu < shard.mu <
	// segmentTable.mu; "a < b" means a must be acquired before b if both are held. No goroutine holds
	// two locks of one kind, or one lock twice, not even for reading, but for Apply and Checkpoint, which lock
	// lanes in the order of their numbers. No user code runs with any of them held. Locks that call themselves
	// leaves stand outside of the order: nothing is acquired under them. So do maintenance.mu, which is only ever tried,
	// clearing and dead.running, which come before all others in that order, the locks of disk, which say what
	// they come before, and round.mu, which is a compaction's own and comes before segmentTable.mu.
	//
	// A directory store has three more. disk.manifestMu comes before all of these and is held while a
	// manifest is written. spares.mu comes after it, after lane.rolling and round.mu, and before
	// segmentTable.mu; no other lock is held with it. groupCommit.mu is let go while a flush runs.
	//
	// contentMu is the lock of the content buffer. Read-held: the segments in the table stay there,
	// so every location in the index can be followed, and tables of the index that were replaced
	// stay mapped. It is held for one look-up, one record, or one batch. Write-held: segments leave
	// the table, removalBatch of them in a hold. Pointer changes only. So nothing is done with it held
	// that grows with the store, or with what a caller asks for.
	contentMu  contentLock
	segments   segmentTable
	offsetBits uint // of a location
	closed     bool // guarded by contentMu
	// barrier keeps writes out while it is not nil: until it is closed, or for good when the store is. Guarded
	// by contentMu.
	barrier chan struct{}
	clock   clock

	// lane.mu makes one writer at a time of all who write to the lane's shards, and guards the
	// lane's active segment. One record or batch is written under it. A segment is made under lane.rolling,
	// which guards the one made ahead: only writers that need that segment wait.
	lanes []lane

	// shard.mu guards one part of the index. Slots are written under it, and read where a reader cannot
	// do without (see index.go); nothing is allocated, mapped or written to a segment under it.
	_        [cpu.CacheLines]byte
	shards   [shardCount]shard
	replaced replacedTables
	tables   tableMemory
	// tableBytes is the size of all tables in use, bytes.
	tableBytes atomic.Int64
	_          [cpu.CacheLines]byte

	sequence       atomic.Uint64 // the last sequence number drawn
	mapper         mapper
	pool           segmentPool
	recentMemory   memlimit.Recent // what a compaction asks before each round
	growth         growth
	dead           deadSegments
	clearing       sync.Mutex // held by a Clear until what it has taken out is given back
	room           room
	retiredBytes   atomic.Int64 // mapped for pins alone
	corruptRecords atomic.Int64 // met by reads, compactions and All
	compacting     atomic.Bool
	pacing         atomic.Pointer[pace] // of the compaction under way
	history        history
	meters         meters
	retired        retiredSegments
	loads          loads
	eviction
	silent    bool // no Logger; set by Open
	logQueue  logQueue
	current   atomic.Pointer[liveProgress] // of the compaction under way
	recovered RecoveryStats                // written by Open
	directory string                       // as Open was given it; written by Open, as opened
	opened    time.Time

	// Background work: lifetime ends when Close begins, and running counts what Close waits for.
	lifetime    context.Context
	endLife     context.CancelCauseFunc
	lifeMu      sync.Mutex    // a leaf; guards the step from open to closing, and running's Add against it
	ending      bool          // Close was called
	closing     bool          // and has waited for imports
	importing   chan struct{} // has the token of the import that stores, or takes back what it has stored
	running     sync.WaitGroup
	closeDone   chan struct{}
	maintenance maintenance
}

// Open returns a store. dir "" keeps it in anonymous memory, gone with Close; nil opts mean the
// defaults.
//
// Any other dir is that of a store in files: it is made when it is missing, with mode 0700, and locked
// against other stores, of this process too, until Close. The store is that of the directory, not of the
// path: it goes on in a directory that is moved, and once it is removed, Sync and Close return errors.
// Open reads every record, in parallel, unless the last Close was clean, and removes what a crash left
// unfinished. A read-only Open changes nothing, needs no write permission, and shares the directory with
// other read-only ones. Disk space of the largest segment, and a sixteenth of it (at least 64 KiB) for each lane,
// is kept back for deletions and compactions on a full disk; in memory one segment is, from the first Put on.
//
// Errors: [ErrInvalidOptions], for a MaxBytes that is too small with the least that would do;
// [ErrNoSpace], also when the process has too many memory mappings; for a directory also [ErrLocked],
// [ErrCorrupt] (see Options.Repair), [ErrCopied] (see Options.AfterPowerLoss), [ErrVersion], an error that
// is [errors.ErrUnsupported] where there is no flock, and those of the file system. No file but LOCK has
// changed when it is ErrLocked, ErrCopied, ErrVersion, or ErrCorrupt without Repair.
func Open(dir string, opts *Options) (*Store, error) {
	return open(dir, opts, hooks{})
}

// OpenWait opens like [Open], and waits for a directory that others hold until they let go of it or ctx is
// done. It tries again after 1 ms, and less and less often, at last ten times a second; who waits longest need
// not be the next. ctx bounds the wait alone: once the directory is locked, OpenWait reads it to the end.
//
// Errors: those of [Open]; when ctx is done, [ErrLocked] together with the error of ctx and its cause. When
// ctx is done before the call, its error alone, and nothing was tried.
func OpenWait(ctx context.Context, dir string, opts *Options) (*Store, error) {
	checkContext(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("warmtier: open %s: %w", dir, &stopError{err: ctx.Err(), cause: context.Cause(ctx)})
	}
	const longest = 100 * time.Millisecond
	for pause := time.Millisecond; ; pause = min(2*pause, longest) {
		s, err := open(dir, opts, hooks{})
		if !errors.Is(err, ErrLocked) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; waited: %w", err, &stopError{err: ctx.Err(), cause: context.Cause(ctx)})
		case <-time.After(pause):
		}
	}
}

func open(dir string, opts *Options, h hooks) (*Store, error) {
	s, err := newStore(opts, h)
	if err != nil {
		return nil, err
	}
	vm.Recount(time.Second)
	if err := roomFor(1); err != nil {
		return nil, fmt.Errorf("warmtier: open: %w", err)
	}
	if dir == "" {
		s.openMemory()
	} else if err := s.openDirectory(dir); err != nil {
		s.waitForLog()
		return nil, err
	}
	s.directory, s.opened = dir, time.Now()
	s.logOpened()
	s.startBackground()
	return s, nil
}

// newStore returns an empty store in memory, with nothing running in the background. openDirectory makes
// it one in a directory.
func newStore(opts *Options, h hooks) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	if err := opts.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		opts:       opts.withDefaults(),
		silent:     opts.Logger == nil,
		marksReads: opts.WhenFull == Evict,
		hooks:      h,
		hashSeed:   maphash.MakeSeed(),
		closeDone:  make(chan struct{}),
		importing:  make(chan struct{}, 1),
	}
	s.clock.init(h.now)
	s.contentMu.biased.Init(runtime.GOMAXPROCS(0))
	s.tables.mapper = &s.mapper
	s.mapper.limit = s.opts.MaxBytes
	s.maintenance.wake, s.maintenance.looks = make(chan struct{}, 1), usualLooks
	if s.evicts() {
		s.maintenance.looks = evictLooks
	}
	s.mapper.unreturned.fail = h.unmap
	s.offsetBits = offsetBitsFor(s.opts.SegmentSize)
	s.segments.entries.Store(new([]atomic.Pointer[segment]))
	s.makeLanes(runtime.GOMAXPROCS(0))
	s.meters.init()
	s.lifetime, s.endLife = context.WithCancelCause(context.WithValue(context.Background(), ownGoroutine{}, true))
	s.pool.counted, s.pool.size = time.Now(), minSegmentSize
	s.segments.pending, s.segments.taken = map[uint64]bool{}, map[uint64]bool{}
	return s, nil
}

// makeLanes gives the store n lanes, at most maxLanes, and with MaxBytes at most one for sixteen
// segments, since each has an active one. REQUIRES: nobody has written yet.
func (s *Store) makeLanes(n int) {
	if limit := s.opts.MaxBytes; limit > 0 {
		n = int(min(int64(n), max(1, limit/int64(s.opts.SegmentSize)/leastSegments)))
	}
	s.lanes = make([]lane, min(maxLanes, n))
	for i := range s.shards {
		s.shards[i].lane = &s.lanes[s.laneOf(i)]
	}
}

// laneOf returns the number of the lane of a shard.
func (s *Store) laneOf(shardIndex int) int { return shardIndex % len(s.lanes) }

// startBackground starts what runs by itself until Close.
func (s *Store) startBackground() {
	if s.opts.ReadOnly {
		return
	}
	s.dead.on = true
	s.noteAllDead() // what Open has found
	s.sweepNoted()
	if !s.opts.Maintenance.Disabled {
		s.history.expectCycle(time.Now().Add(s.opts.Maintenance.Interval))
		s.maintenance.died = died(s.sizes())
		s.maintenance.request() // a program that lives for seconds does not leave all of it to the next
		s.running.Go(s.maintain)
	}
	if s.medium.syncs() && s.opts.SyncInterval >= 0 {
		s.repeat(s.opts.SyncInterval, s.syncQuietly)
	}
}

// Close ends the background work, cancels a running compaction and waits for it, and unmaps the
// store. It waits for calls that are making a segment or, with SyncWrites, flush. It does not wait for
// callbacks of [Store.View] and loops over [Store.All]: what they hold stays mapped until they return.
// Further calls, also concurrent ones, wait for the first and return nil. It must not be called from
// CompactionOptions.OnProgress.
//
// Errors: those of the last flush and of the file system, and one that says how much the system did not
// unmap, if anything: that takes addresses until the process ends, and no memory.
func (s *Store) Close() error {
	s.lifeMu.Lock()
	first := !s.ending
	s.ending = true
	s.lifeMu.Unlock()
	if !first {
		<-s.closeDone
		return nil
	}
	defer close(s.closeDone)
	s.endLife(ErrClosed)
	s.importing <- struct{}{} // one that has to take back what it has stored still writes
	s.lifeMu.Lock()
	s.closing = true
	s.lifeMu.Unlock()
	<-s.importing
	s.running.Wait()
	s.contentMu.Lock()
	s.closed, s.barrier = true, make(chan struct{}) // nothing is acknowledged after the last flush
	s.contentMu.Unlock()
	err := s.medium.finish()

	// The index goes before the segments: a loop over All reads it whether the store is closed or
	// not, and would find slots that lead to no segment.
	s.contentMu.Lock()
	replaced := s.replaced.takeLocked()
	tables := make([]table, 0, 2*shardCount)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		tables = sh.takeTablesLocked(tables)
		sh.memories.Store(0)
		sh.liveBytes.Store(0)
		sh.mu.Unlock()
	}
	s.tableBytes.Store(0)
	s.contentMu.Unlock()
	s.releaseTables(replaced)
	s.discardTables(tables)
	s.tables.close()
	s.replaceGhosts(nil)
	segs := s.segments.all()
	s.removeFromTable(segs)
	s.releaseAll(s.pool.close())
	for _, seg := range segs {
		if s.retire(seg) {
			s.medium.free(seg)
		}
	}
	err = errors.Join(err, s.mapper.unreturned.returnAll(), s.medium.close())
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
