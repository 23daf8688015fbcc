package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/maypok86/otter/v2"
	"github.com/warmtier/warmtier"
)

// bounded are the caches that evict: each has room for Share percent of all ids and contents.
var bounded = []string{"warmtier-evict", "otter-bounded", "ristretto-bounded", "freecache-bounded",
	"bigcache-bounded"}

// errTooLarge is what put of a cache returns for a content that it takes in no case.
var errTooLarge = errors.New("too large for this cache")

// room returns the bytes that a cache that evicts may hold: more than everything, unless Share says
// how much.
func (c *contents) room() int64 {
	if c.Share == 0 {
		return max(16<<20, 4*c.bytes())
	}
	return c.bytes() * int64(c.Share) / 100
}

// hits asks an empty cache for the memories of a trace, and stores those it misses. Value of the reply
// is the share of requests that were hits, percent.
func (c *child) hits() (reply, error) {
	if err := c.peer.close(); err != nil {
		return reply{}, err
	}
	var err error
	if c.peer, err = c.kind.open(c.contents, c.dir); err != nil {
		return reply{}, err
	}
	buf, id := make([]byte, 0, c.contents.largest()), make([]byte, 0, idLen)
	hits, start := 0, time.Now()
	for _, i := range c.contents.trace {
		id = appendID(id[:0], int(i))
		_, found, err := c.peer.get(buf, string(id))
		if err != nil {
			return reply{}, err
		}
		if found {
			hits++
		} else if err := c.peer.put(string(id), c.contents.of(int(i))); err != nil && !errors.Is(err, errTooLarge) {
			return reply{}, err
		}
	}
	n := float64(len(c.contents.trace))
	return reply{Value: float64(hits) / n * 100, Hits: 1,
		Extra: map[string]float64{"ns/request": float64(time.Since(start)) / n}}, nil
}

func openWarmtierEvict(c *contents, dir string) (peer, error) {
	s, err := warmtier.Open(dir, &warmtier.Options{MaxBytes: c.room(), WhenFull: warmtier.Evict})
	return warmtierDefaultPeer{s}, err
}

// openOtterBounded counts ids and contents alone, which is less than otter takes. It evicts in the call
// that stores, so that no run depends on when its goroutines come to work.
func openOtterBounded(c *contents, _ string) (peer, error) {
	return newOtter(&otter.Options[string, []byte]{
		MaximumWeight: uint64(c.room()),
		Weigher:       func(id string, content []byte) uint32 { return uint32(len(id) + len(content)) },
		Executor:      func(fn func()) { fn() },
	})
}

// ristrettoBounded is a ristretto that waits after each Set, which it would otherwise drop when many
// come at once.
type ristrettoBounded struct{ ristrettoPeer }

func openRistrettoBounded(c *contents, _ string) (peer, error) {
	cache, err := ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters:        10 * int64(c.N),
		MaxCost:            c.room(),
		BufferItems:        64,
		IgnoreInternalCost: true,
	})
	return ristrettoBounded{ristrettoPeer{cache}}, err
}

func (p ristrettoBounded) put(id string, content []byte) error {
	if !p.Set(id, bytes.Clone(content), int64(len(id)+len(content))) {
		return fmt.Errorf("ristretto drops %q", id)
	}
	p.Wait()
	return nil
}

// freecacheBounded takes no content over 1/1024 of its room.
type freecacheBounded struct{ freecachePeer }

func openFreecacheBounded(c *contents, _ string) (peer, error) {
	return freecacheBounded{freecachePeer{freecache.NewCache(int(c.room()))}}, nil
}

func (p freecacheBounded) put(id string, content []byte) error {
	if err := p.freecachePeer.put(id, content); !errors.Is(err, freecache.ErrLargeEntry) {
		return err
	}
	return errTooLarge
}

// bigcacheBounded takes no content over the room of one of its shards.
type bigcacheBounded struct{ bigcachePeer }

func openBigcacheBounded(c *contents, _ string) (peer, error) {
	cache, err := bigcache.New(context.Background(), bigcache.Config{
		Shards:             16,
		LifeWindow:         24 * time.Hour,
		MaxEntriesInWindow: c.N,
		MaxEntrySize:       int(c.bytes()/int64(c.N)) + 20,
		HardMaxCacheSize:   max(1, int((c.room()+1<<19)>>20)), // whole MiB
	})
	return bigcacheBounded{bigcachePeer{cache}}, err
}

func (p bigcacheBounded) put(id string, content []byte) error {
	if p.bigcachePeer.put(id, content) != nil {
		return errTooLarge
	}
	return nil
}
