// Package peers runs storetest on other stores, each with the options that its documentation recommends, or its
// defaults. README.md beside it has what came of it.
package peers

import (
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/storetest"
	"github.com/warmtier/warmtier/storetest/peers/self"
)

// Peer is a store with the options that it is run with.
type Peer struct {
	Name    string
	Module  string // whose version counts
	Options string // in words, where they are not the defaults
	storetest.Config
}

// Peers returns the stores, those with a directory first.
func Peers() []Peer {
	const seed = 1 // damages are the same in every run
	directory := func(open func(string) (storetest.Store, error)) storetest.Config {
		return storetest.Config{
			Open: open, Keeps: storetest.Acknowledged, Isolate: true, DiskBytes: 16 << 20,
			Duration: 500 * time.Millisecond, Seed: seed,
		}
	}
	seconds := func(c storetest.Config) storetest.Config {
		c.TTL = time.Second // the unit of its deadlines
		return c
	}
	cache := func(open func() storetest.Store) storetest.Config {
		return storetest.Config{
			Open:   func(string) (storetest.Store, error) { return open(), nil },
			Evicts: true, Isolate: true, MaxContentLen: 4096, TTL: time.Second,
			Duration: 500 * time.Millisecond, Seed: seed,
		}
	}
	warm := func(dir string) (storetest.Store, error) { return self.Open(dir, warmtier.Options{}) }
	return []Peer{
		{"warmtier", "github.com/warmtier/warmtier", "", directory(warm)},
		{"bbolt", "go.etcd.io/bbolt", "", directory(openBbolt)},
		{"badger", "github.com/dgraph-io/badger/v4", "OnTableAndBlockRead", seconds(directory(openBadger))},
		{"pebble", "github.com/cockroachdb/pebble/v2", "pebble.Sync, DataCorruption set", directory(openPebble)},
		{"goleveldb", "github.com/syndtr/goleveldb", "Sync", directory(openLevelDB)},
		{"pogreb", "github.com/akrylysov/pogreb", "", directory(openPogreb)},
		{"rosedb", "github.com/rosedblabs/rosedb/v2", "", directory(openRose)},
		{"nutsdb", "github.com/nutsdb/nutsdb", "SegmentSize 1 MB", seconds(directory(openNuts))},
		{"buntdb", "github.com/tidwall/buntdb", "", directory(openBunt)},
		{"bitcask", "git.mills.io/prologic/bitcask", "WithSync", directory(openBitcask)},
		{"bigcache", "github.com/allegro/bigcache/v3", "", cache(openBig)},
		{"freecache", "github.com/coocood/freecache", "", cache(openFree)},
		{"fastcache", "github.com/VictoriaMetrics/fastcache", "", cache(openFast)},
		{"otter", "github.com/maypok86/otter/v2", "MaximumSize", cache(openOtter)},
	}
}
