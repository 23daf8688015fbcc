package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/maypok86/otter/v2"
	"github.com/warmtier/warmtier"
)

// peer is a store under measurement. Every method is safe for concurrent use.
type peer interface {
	// get returns the content of id: copied to dst where the peer can do that, otherwise as the
	// peer hands it out.
	get(dst []byte, id string) (content []byte, found bool, err error)
	// put stores a content, whose bytes stay the caller's.
	put(id string, content []byte) error
	close() error
}

// batcher is a peer that stores what a goroutine puts some at a time; the last of them may never be stored.
type batcher interface {
	batched() (put func(id string, content []byte) error)
}

// putter returns how one goroutine puts.
func putter(p peer) func(id string, content []byte) error {
	if b, ok := p.(batcher); ok {
		return b.batched()
	}
	return p.put
}

// settler is a peer that stores later than put returns.
type settler interface{ settle() }

// kind says how a peer is made and shown.
type kind struct {
	label string
	open  func(c *contents, dir string) (peer, error)
	// ring is the room (bytes) of a peer that appends and drops the oldest; nil for others.
	ring func(c *contents) int64
}

// kinds has all peers, by the names used on the command line and in results.
var kinds = map[string]kind{
	"warmtier":          {"warmtier", openWarmtier, nil},
	"warmtier-get":      {"warmtier, Get allocates the copy", openWarmtierGet, nil},
	"warmtier-batch":    {"warmtier, batches of 64", openWarmtierBatch, nil},
	"warmtier-default":  {"warmtier, default options", openWarmtierDefault, nil},
	"warmtier-defaults": {"warmtier, default options, batches of 64", openWarmtierDefaultBatch, nil},
	"fastcache":         {"fastcache", openFastcache, fastcacheRoom},
	"fastcache-large":   {"fastcache, a large ring", openFastcacheLarge, fastcacheLargeRoom},
	"bigcache":          {"bigcache (allocates the copy)", openBigcache, bigcacheRoom},
	"freecache":         {"freecache", openFreecache, nil},
	"otter":             {"otter (hands out a pointer)", openOtter, nil},
	"otter-unbounded":   {"otter without a limit (pointer)", openOtterUnbounded, nil},
	"otter-copied":      {"otter, content copied", openOtterCopied, nil},
	"ristretto":         {"ristretto (pointer)", openRistretto, nil},
	"map":               {"map and RWMutex (pointer)", openMap, nil},
	"none":              {"the loop alone", openNone, nil},
	"floor":             {"a table and a log, and nothing else", openFloor, floorRoom},
	"warmtier-evict":    {"warmtier, evicting", openWarmtierEvict, nil},
	"otter-bounded":     {"otter", openOtterBounded, nil},
	"ristretto-bounded": {"ristretto", openRistrettoBounded, nil},
	"freecache-bounded": {"freecache", openFreecacheBounded, nil},
	"bigcache-bounded":  {"bigcache", openBigcacheBounded, nil},
	"bbolt":             {"bbolt", openBbolt, nil},
	"badger":            {"badger", openBadger, nil},
	"pebble":            {"pebble", openPebble, nil},
}

// caches are the peers of a memory store, the store itself first.
var caches = []string{"warmtier", "fastcache", "bigcache", "freecache", "otter", "ristretto", "map"}

var directories = []string{"warmtier", "bbolt", "badger", "pebble"}

// view returns an id as bytes without a copy, for peers whose ids are bytes; none of these writes
// to it.
func view(id string) []byte { return unsafe.Slice(unsafe.StringData(id), len(id)) }

// defaultThreshold is the threshold of warmtier's own background cycle.
const defaultThreshold = 0.5

// warmtierPeer compacts in the goroutine that writes, as the harness asks it to, so that the time it
// takes is in the measured loop and no second processor helps for free.
type warmtierPeer struct{ *warmtier.Store }

func openWarmtier(c *contents, dir string) (peer, error) {
	threshold := c.Threshold
	if threshold == 0 {
		threshold = defaultThreshold
	}
	s, err := warmtier.Open(dir, &warmtier.Options{
		SyncWrites: c.Sync,
		Maintenance: warmtier.MaintenanceOptions{
			Disabled:               !c.Background,
			Interval:               10 * time.Millisecond,
			FragmentationThreshold: threshold,
			MinBytes:               -1,
			MinPeriod:              -1,
		},
	})
	return warmtierPeer{s}, err
}

func (p warmtierPeer) get(dst []byte, id string) ([]byte, bool, error) {
	content, err := p.AppendContent(dst[:0], id)
	return warmtierResult(content, err)
}

func warmtierResult(content []byte, err error) ([]byte, bool, error) {
	if err == nil {
		return content, true, nil
	}
	if errors.Is(err, warmtier.ErrNotFound) {
		return nil, false, nil
	}
	return nil, false, err
}

func (p warmtierPeer) put(id string, content []byte) error { return p.Put(id, content) }
func (p warmtierPeer) close() error                        { return p.Close() }

// maintain compacts when the threshold is reached, and returns how many memories were moved.
func (p warmtierPeer) maintain() (compacted bool, moved int64, err error) {
	r, err := p.Maintain(context.Background())
	return r.Compacted, r.Compaction.MemoriesMoved, err
}

type warmtierGetPeer struct{ warmtierPeer }

func openWarmtierGet(c *contents, dir string) (peer, error) {
	p, err := openWarmtier(c, dir)
	if err != nil {
		return nil, err
	}
	return warmtierGetPeer{p.(warmtierPeer)}, nil
}

func (p warmtierGetPeer) get(_ []byte, id string) ([]byte, bool, error) {
	return warmtierResult(p.Get(id))
}

// openWarmtierDefault opens a store that compacts when it sees fit, beside the measured loop.
func openWarmtierDefault(_ *contents, dir string) (peer, error) {
	s, err := warmtier.Open(dir, nil)
	return warmtierDefaultPeer{s}, err
}

// warmtierDefaultPeer has no method maintain: the harness leaves compactions to the store.
type warmtierDefaultPeer struct{ *warmtier.Store }

func (p warmtierDefaultPeer) get(dst []byte, id string) ([]byte, bool, error) {
	content, err := p.AppendContent(dst[:0], id)
	return warmtierResult(content, err)
}

func (p warmtierDefaultPeer) put(id string, content []byte) error { return p.Put(id, content) }
func (p warmtierDefaultPeer) close() error                        { return p.Close() }

type warmtierBatchPeer struct{ warmtierPeer }

func openWarmtierBatch(c *contents, dir string) (peer, error) {
	p, err := openWarmtier(c, dir)
	if err != nil {
		return nil, err
	}
	return warmtierBatchPeer{p.(warmtierPeer)}, nil
}

func (p warmtierBatchPeer) batched() func(string, []byte) error { return inBatches(p.Store) }

type warmtierDefaultBatchPeer struct{ warmtierDefaultPeer }

func openWarmtierDefaultBatch(c *contents, dir string) (peer, error) {
	p, err := openWarmtierDefault(c, dir)
	if err != nil {
		return nil, err
	}
	return warmtierDefaultBatchPeer{p.(warmtierDefaultPeer)}, nil
}

func (p warmtierDefaultBatchPeer) batched() func(string, []byte) error { return inBatches(p.Store) }

// inBatches returns a function that stores what it is given 64 at a time.
func inBatches(s *warmtier.Store) func(id string, content []byte) error {
	const batchLen = 64
	var writes warmtier.Batch
	n := 0
	return func(id string, content []byte) error {
		writes.Put(id, content)
		if n++; n < batchLen {
			return nil
		}
		n = 0
		defer writes.Reset()
		return s.Apply(&writes)
	}
}

// ringFactor is the room of a ring over its live records: more than the factor of two that warmtier
// takes before it compacts. With random overwriting such a ring still holds 95 % of the memories.
const ringFactor = 3

func ringRoom(c *contents, header int64) int64 {
	live := c.bytes() + int64(c.N)*header
	if c.ReadOnly {
		return live * 3 / 2
	}
	return live * ringFactor
}

// unevenly returns the room that a cache of so many parts needs beyond the mean, since hashes do
// not spread memories evenly: it matters where a part holds few memories.
func unevenly(c *contents, parts int64) int64 {
	return parts * 16 * (c.bytes()/int64(c.N) + 24)
}

type fastcachePeer struct{ *fastcache.Cache }

// fastcacheRoom returns room for 512 parts of whole chunks of 64 KiB.
func fastcacheRoom(c *contents) int64 { return max(ringRoom(c, 4)+unevenly(c, 512), 512*64<<10) }

func openFastcache(c *contents, _ string) (peer, error) {
	return fastcachePeer{fastcache.New(int(fastcacheRoom(c)))}, nil
}

// fastcacheLargeRoom returns room for eight times the live records: of memories that are overwritten
// at random, such a ring has dropped 1 in 3,000.
func fastcacheLargeRoom(c *contents) int64 { return fastcacheRoom(c) * 8 / ringFactor }

func openFastcacheLarge(c *contents, _ string) (peer, error) {
	return fastcachePeer{fastcache.New(int(fastcacheLargeRoom(c)))}, nil
}

func (p fastcachePeer) get(dst []byte, id string) ([]byte, bool, error) {
	content, found := p.HasGet(dst[:0], view(id))
	return content, found, nil
}

func (p fastcachePeer) put(id string, content []byte) error {
	p.Set(view(id), content)
	return nil
}

func (p fastcachePeer) close() error {
	p.Reset()
	return nil
}

type bigcachePeer struct{ *bigcache.BigCache }

// bigcacheRoom returns room for 1024 parts, each with room for the largest content and as much
// again: a part that has held contents does not take one of its whole size.
func bigcacheRoom(c *contents) int64 {
	return max(ringRoom(c, 20)+unevenly(c, 1024), 2*1024*int64(c.largest()+1024)) + 1<<20
}

func openBigcache(c *contents, _ string) (peer, error) {
	mean := int(c.bytes()/int64(c.N)) + 20
	cache, err := bigcache.New(context.Background(), bigcache.Config{
		Shards:             1024,
		LifeWindow:         24 * time.Hour,
		MaxEntriesInWindow: c.N,
		MaxEntrySize:       mean,
		HardMaxCacheSize:   int(bigcacheRoom(c) >> 20),
	})
	return bigcachePeer{cache}, err
}

func (p bigcachePeer) get(_ []byte, id string) ([]byte, bool, error) {
	content, err := p.Get(id)
	if errors.Is(err, bigcache.ErrEntryNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (p bigcachePeer) put(id string, content []byte) error { return p.Set(id, content) }
func (p bigcachePeer) close() error                        { return p.Close() }

type freecachePeer struct{ *freecache.Cache }

// freecacheRoom returns twice the room of the live records, and enough for the largest content,
// which may take 1/1024 of the room. Contents are overwritten in place, so old versions need none.
func freecacheRoom(c *contents) int64 {
	room := 2*(c.bytes()+int64(c.N)*24) + unevenly(c, 256)
	return max(room, 1200*int64(c.largest()+idLen+24), 8<<20)
}

func openFreecache(c *contents, _ string) (peer, error) {
	return freecachePeer{freecache.NewCache(int(freecacheRoom(c)))}, nil
}

func (p freecachePeer) get(dst []byte, id string) ([]byte, bool, error) {
	content, err := p.GetWithBuf(view(id), dst[:cap(dst)])
	if errors.Is(err, freecache.ErrNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (p freecachePeer) put(id string, content []byte) error { return p.Set(view(id), content, 0) }
func (p freecachePeer) close() error                        { p.Clear(); return nil }

// otterPeer and the peers below it keep the slice they are given, so put gives them one of their
// own.
type otterPeer struct{ *otter.Cache[string, []byte] }

func openOtter(c *contents, _ string) (peer, error) {
	return newOtter(&otter.Options[string, []byte]{MaximumSize: 2 * c.N, InitialCapacity: c.N})
}

func openOtterUnbounded(c *contents, _ string) (peer, error) {
	return newOtter(&otter.Options[string, []byte]{InitialCapacity: c.N})
}

func newOtter(o *otter.Options[string, []byte]) (peer, error) {
	cache, err := otter.New(o)
	return otterPeer{cache}, err
}

func (p otterPeer) get(_ []byte, id string) ([]byte, bool, error) {
	content, found := p.GetIfPresent(id)
	return content, found, nil
}

func (p otterPeer) put(id string, content []byte) error {
	p.Set(id, bytes.Clone(content))
	return nil
}

func (p otterPeer) close() error { p.StopAllGoroutines(); return nil }
func (p otterPeer) settle()      { p.CleanUp() }

type otterCopiedPeer struct{ otterPeer }

func openOtterCopied(c *contents, dir string) (peer, error) {
	p, err := openOtter(c, dir)
	if err != nil {
		return nil, err
	}
	return otterCopiedPeer{p.(otterPeer)}, nil
}

func (p otterCopiedPeer) get(dst []byte, id string) ([]byte, bool, error) {
	content, found := p.GetIfPresent(id)
	return append(dst[:0], content...), found, nil
}

type ristrettoPeer struct {
	*ristretto.Cache[string, []byte]
}

func openRistretto(c *contents, _ string) (peer, error) {
	cache, err := ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters:        10 * int64(c.N),
		MaxCost:            2 * int64(c.N), // one for each memory
		BufferItems:        64,
		IgnoreInternalCost: true,
	})
	return ristrettoPeer{cache}, err
}

func (p ristrettoPeer) get(_ []byte, id string) ([]byte, bool, error) {
	content, found := p.Get(id)
	return content, found, nil
}

// put tries again, up to 1,000 times: ristretto drops new memories when they come too fast.
func (p ristrettoPeer) put(id string, content []byte) error {
	content = bytes.Clone(content)
	for range 1000 {
		if p.Set(id, content, 1) {
			return nil
		}
		p.Wait()
	}
	return fmt.Errorf("ristretto drops %q", id)
}

func (p ristrettoPeer) close() error { p.Close(); return nil }
func (p ristrettoPeer) settle()      { p.Wait() }

type mapPeer struct {
	mu       sync.RWMutex
	memories map[string][]byte
}

func openMap(c *contents, _ string) (peer, error) {
	return &mapPeer{memories: make(map[string][]byte, c.N)}, nil
}

func (p *mapPeer) get(_ []byte, id string) ([]byte, bool, error) {
	p.mu.RLock()
	content, found := p.memories[id]
	p.mu.RUnlock()
	return content, found, nil
}

func (p *mapPeer) put(id string, content []byte) error {
	content = bytes.Clone(content)
	p.mu.Lock()
	p.memories[id] = content
	p.mu.Unlock()
	return nil
}

func (p *mapPeer) close() error { return nil }

// nonePeer shows what the loop costs by itself, and what an empty process does.
type nonePeer struct{}

func openNone(*contents, string) (peer, error) { return nonePeer{}, nil }

func (nonePeer) get(dst []byte, _ string) ([]byte, bool, error) { return dst, true, nil }
func (nonePeer) put(string, []byte) error                       { return nil }
func (nonePeer) close() error                                   { return nil }
