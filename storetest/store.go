// Package storetest runs the scenarios in which key-value stores lose data on a store: writes lost in a compaction,
// wrong bytes beside one, deleted memories that come back, views that change, full disks, kills, damaged files.
//
// A store is a [Store] of five methods. What else it can do it says by further methods: see [Compacter], [Viewer],
// [Scanner], [Expirer], [Updater] and [Batcher]. [Config] says how it is opened and what it promises, and a test calls
// [Run]:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Config{Open: open, Keeps: storetest.Acknowledged})
//	}
//
// Every scenario is a subtest. A scenario that needs what the store does not have, or does not promise, is skipped
// and says so. Nothing is judged by time but a hang, of a minute and more: a slow store passes.
package storetest

import (
	"errors"
	"time"
)

// Store is what a store under test must have. Every method must be safe for concurrent use.
type Store interface {
	// Put stores content under id. When it returns nil, the write is acknowledged: every later Get sees it, or
	// what replaced it. The suite may change the slice afterwards.
	Put(id string, content []byte) error
	// Get returns the content of id, in a slice that is the caller's. found is false, with a nil error, when there
	// is none.
	Get(id string) (content []byte, found bool, err error)
	// Delete deletes the memory of id. That there is none is no error.
	Delete(id string) error
	// Sync returns when what was acknowledged before is kept as Config.Keeps says. Stores that have nothing to do
	// for that return nil.
	Sync() error
	// Close ends the store. What was acknowledged before is there when the directory is opened again, unless
	// Config.Keeps is Nothing.
	Close() error
}

// Compacter is a [Store] that gives back the space of dead bytes.
type Compacter interface {
	// Compact returns when everything that had something to give back at its beginning has been compacted, or
	// nil at once when a compaction is under way.
	Compact() error
}

// Viewer is a [Store] that hands out bytes without copying them.
type Viewer interface {
	// View calls f with the content of id, which must stay as it is until f returns.
	View(id string, f func(content []byte)) (found bool, err error)
}

// Scanner is a [Store] that iterates over its memories.
type Scanner interface {
	// Scan calls f once for each memory, until f returns false. What is written during the call may or may not be
	// seen; what is there and untouched throughout must be, once. content need not be valid after f.
	Scan(f func(id string, content []byte) bool) error
}

// Expirer is a [Store] whose memories can have a time to live.
type Expirer interface {
	// PutTTL is a Put of a memory that is absent from ttl on. Config.TTL is the shortest that is used.
	PutTTL(id string, content []byte, ttl time.Duration) error
}

// Updater is a [Store] that can replace a content without losing what another call stores at the same time, by a
// conditional write or a transaction.
type Updater interface {
	// Update stores what f returns for the content of id, as one step for all calls of Update. It may call f
	// several times. A nil error is an acknowledged write.
	Update(id string, f func(content []byte, found bool) []byte) error
}

// Batcher is a [Store] that makes several writes, or none of them.
type Batcher interface {
	// Batch makes all writes, each of another id, or none.
	Batch(writes []Write) error
}

// Write is one write of a batch: a Put, or a Delete.
type Write struct {
	ID      string
	Content []byte
	Delete  bool
}

// Keeps says what a store promises to have when its process was killed. All but Nothing are kept by Close.
type Keeps int

// What a store keeps.
const (
	Nothing      Keeps = iota // it is in memory: scenarios with a directory are skipped
	Synced                    // what was acknowledged before a Sync that returned nil
	Acknowledged              // everything that was acknowledged
)

// Config describes a store under test.
type Config struct {
	// Open opens the store in dir, an existing directory that is empty the first time. It is called again after
	// Close, after a kill, and with damaged files; then it may return an error, and must not end the process.
	Open func(dir string) (Store, error)
	// Keeps is what the store promises of its directory.
	Keeps Keeps
	// Evicts is set for a cache, which may drop any memory at any time. It must not return an old one.
	Evicts bool
	// MaxIDLen and MaxContentLen bound what the suite stores, in bytes; 0 means 512 and 65,536. The least are 64
	// and 1,024.
	MaxIDLen, MaxContentLen int
	// TTL is a time to live that the store can tell from none, 0 means 100ms. Scenarios wait for it.
	TTL time.Duration
	// DiskBytes is the size of the file system that is filled, 0 means 32 MiB. The store must fit when it is empty.
	DiskBytes int64
	// Duration is how long a scenario goes on that could do so for ever: 0 means 200ms, with -short
	// 50ms, or what the environment variable STORETEST_DURATION says.
	Duration time.Duration
	// Seed makes a run draw what another drew, as far as goroutines allow; 0 draws one. Failures tell it.
	Seed uint64
	// Isolate runs each scenario in a process of its own, for stores that may end it.
	Isolate bool
	// Skip maps names of scenarios that are not run to the reason, for example what the store documents.
	Skip map[string]string
}

func (c Config) withDefaults() (Config, error) {
	if c.Open == nil {
		return c, errors.New("storetest: Config.Open is nil")
	}
	if c.MaxIDLen == 0 {
		c.MaxIDLen = 512
	}
	if c.MaxContentLen == 0 {
		c.MaxContentLen = 64 << 10
	}
	if c.MaxIDLen < 64 || c.MaxContentLen < 1024 {
		return c, errors.New("storetest: Config.MaxIDLen is under 64, or MaxContentLen under 1024")
	}
	if c.TTL == 0 {
		c.TTL = 100 * time.Millisecond
	}
	if c.DiskBytes == 0 {
		c.DiskBytes = 32 << 20
	}
	return c, nil
}
