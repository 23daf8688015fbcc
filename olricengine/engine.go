package olricengine

import (
	"encoding/binary"
	"errors"
	"log"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/warmtier/warmtier"
)

// Options configure the engine of a node.
type Options struct {
	// Remember is how long the engine keeps the timestamp of an entry after its time was over, so
	// that no older one comes back from a node that was away; 0 means not at all. With it Olric
	// removes nothing: it leaves no trace of what it deletes, and where a partition has moved, its
	// eviction waits for a lock that it holds itself. Its deletions are then refused with
	// [ErrRefused], and what has expired is removed by [Engine.Expire].
	Remember time.Duration
	// Deleted reports whether a value is the program's own marker of a deletion. Scan leaves such
	// entries out, and their timestamps are not remembered after they have expired. Nil means that
	// there are none.
	Deleted func(value []byte) bool
	// Map is the name of the only map of Olric that takes writes; those to others are refused with
	// [ErrRefused]. No entry says whose it is, so what [Engine.Offer] passes on would end up in one
	// map. "" means that all maps do.
	Map string

	removing func() error // for tests: called before an entry is removed from the store, which fails with its error
}

// Errors of an engine, besides those of Olric's package storage and of the store.
var (
	// ErrRefused is returned by an engine with Options.Remember for a deletion and for the destruction of a fork that
	// has entries, and by one with Options.Map for a write to another map.
	ErrRefused = errors.New("olricengine: refused")
	// ErrDestroyed is returned by a fork that Olric has destroyed. A write that waited meanwhile is
	// not stored.
	ErrDestroyed = errors.New("olricengine: this fork is destroyed")
	// ErrIncomplete is returned by [Engine.Offer] when it ended before it had passed everything on.
	ErrIncomplete = errors.New("olricengine: not everything was offered")
)

// node is what all forks of a node share.
type node struct {
	store *warmtier.Store
	opts  Options
	files bool      // the store is in a directory
	life  uint64    // of this node alone, and never 0
	began time.Time // last accesses are counted from here

	clock clock

	marked atomic.Pointer[mark]   // by the last Engine.Mark; never nil
	owners atomic.Pointer[Owners] // of the last Engine.SetOwners; nil before the first

	// mu guards what follows. It may be taken while the lock of a fork is held, and not the other
	// way round.
	mu        sync.Mutex
	next      uint64             // number of the next fork
	forks     map[uint64]*Engine // those that are not destroyed
	recovered []*Engine          // what earlier lives of the node left in the store
	destroyed []*Engine          // those that earlier lives have destroyed, and that could not be removed yet
	late      map[place]struct{} // see Engine.Mark; each once, however long nothing can be sent
	damaged   map[place]struct{} // entries that could not be read when they should have gone to another node
	failure   error              // of the last write that failed
	failed    time.Time
}

// place is where an entry is.
type place struct {
	fork *Engine
	hkey uint64
}

// Engine is a storage engine of Olric, and each of its forks. It is safe for concurrent use, which
// Olric does not ask for.
type Engine struct {
	node   *node
	number uint64 // makes the prefix of its ids; never used twice in a store

	// mu makes an entry and its stamp change together. It is held while the store writes.
	mu        sync.RWMutex
	entries   *entrySet
	writes    uint64 // how many there were
	bytes     int64  // of the contents
	soonest   int64  // nothing expires before, Unix milliseconds; 0 when nothing does
	destroyed bool
	left      []uint64 // hash keys of a destroyed fork that are still in the store
	noted     bool     // there is a note of its destruction in the store
}

// stamp is what a fork knows of an entry without looking into the store. It has no pointers.
type stamp struct {
	timestamp int64
	access    uint32 // of the last use, in units of accessUnit since the node began
	size      uint32 // of the content; the topmost bit is set for a tombstone
}

const (
	accessUnit   = 10 * time.Millisecond // 32 bits of them are 497 days
	tombstoneBit = 1 << 31
)

var _ storage.Engine = (*Engine)(nil)

// New returns the engine of a node over store, which must have no other user, and must be closed by
// the caller after Olric has shut down. What an earlier engine left in the store is read: its ids,
// not its contents. Olric does not see it; [Engine.Offer] passes it on. What is left of destroyed forks is removed, now
// or by [Engine.Expire].
func New(store *warmtier.Store, opts Options) (*Engine, error) {
	n := &node{store: store, opts: opts, began: time.Now(), life: rand.Uint64() | 1, forks: make(map[uint64]*Engine)}
	n.late, n.damaged = make(map[place]struct{}), make(map[place]struct{})
	n.marked.Store(&mark{primary: func(uint64) bool { return true }})
	n.files = store.Stats().Directory != ""
	n.findLeft()
	n.finishDestroyed()
	return n.fork(), nil
}

// findLeft reads which forks earlier lives of the node have left, and which of those are destroyed.
func (n *node) findLeft() {
	left := make(map[uint64]*Engine)
	fork := func(number uint64) *Engine {
		if left[number] == nil {
			left[number] = n.newFork(number)
			n.next = max(n.next, number+1)
		}
		return left[number]
	}
	for id := range n.store.IDs() {
		if number, hkey, ok := parseID(id); ok {
			fork(number).entries.Set(hkey, stamp{})
		} else if number, ok := parseNote(id); ok {
			fork(number).noted = true
		}
	}
	for _, fork := range left {
		if fork.noted {
			fork.hideLocked()
			n.destroyed = append(n.destroyed, fork)
		} else {
			n.recovered = append(n.recovered, fork)
		}
	}
}

// fork returns an empty fork with a number of its own.
func (n *node) fork() *Engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	fork := n.newFork(n.next)
	n.forks[fork.number] = fork
	n.next++
	return fork
}

func (n *node) newFork(number uint64) *Engine {
	return &Engine{node: n, number: number, entries: newEntrySet()}
}

const idSize = 16

// id returns the id of an entry: number of the fork, hash key.
func (e *Engine) id(hkey uint64) string {
	var id [idSize]byte
	binary.BigEndian.PutUint64(id[:], e.number)
	binary.BigEndian.PutUint64(id[8:], hkey)
	return string(id[:])
}

// parseID is the reverse of id. It reports false for an id that is not an entry's.
func parseID(id string) (number, hkey uint64, ok bool) {
	if len(id) != idSize {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64([]byte(id[:8])), binary.BigEndian.Uint64([]byte(id[8:])), true
}

// SetConfig does nothing: everything is said to [New].
func (e *Engine) SetConfig(*storage.Config) {}

// SetLogger does nothing: what happens is in errors, and in the log of the store.
func (e *Engine) SetLogger(*log.Logger) {} //nolint:forbidigo // the interface is Olric's

// Start does nothing.
func (e *Engine) Start() error { return nil }

// Name returns "warmtier".
func (e *Engine) Name() string { return "warmtier" }

// NewEntry returns an empty entry, for a write that begins here, or for what another node has sent.
func (e *Engine) NewEntry() storage.Entry { return &Entry{node: e.node, begun: e.node.marked.Load()} }

// Fork returns an empty engine over the same store. The configuration means nothing to it.
func (e *Engine) Fork(*storage.Config) (storage.Engine, error) { return e.node.fork(), nil }

// Compaction returns at once: the store compacts by itself, all forks together.
func (e *Engine) Compaction() (bool, error) { return true, nil }

// Close does nothing: Olric closes a fork before it destroys it, and the store is the caller's.
func (e *Engine) Close() error { return nil }

// Stats returns the figures of the fork. Tombstones count, so that Olric does not take a fork for
// empty that has only them. Garbage is the store's, and 0 here.
func (e *Engine) Stats() storage.Stats {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return storage.Stats{
		Allocated: int(e.bytes),
		Inuse:     int(e.bytes),
		Length:    e.entries.Len(),
		NumTables: 1,
	}
}

// Failure returns when a write of this node failed last, and its error; zero and nil when none did.
// Olric tells its callers only that too few nodes took a write.
func (e *Engine) Failure() (time.Time, error) {
	e.node.mu.Lock()
	defer e.node.mu.Unlock()
	return e.node.failed, e.node.failure
}
