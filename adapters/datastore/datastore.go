// Package datastore makes a warmtier store a datastore of ipfs/go-datastore, with batches, times to live, checks,
// garbage collection and disk usage.
//
//	d := datastore.New(store)
//	err := d.Put(ctx, ds.NewKey("/blocks/a"), block)
//
// A memory's id is the key as text. A store is closed with its datastore.
package datastore

import (
	"context"
	"errors"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/warmtier/warmtier"
)

// Datastore is a warmtier store by the interfaces of go-datastore. It is safe for concurrent use; what it returns is
// the caller's. Contexts bound Query, Check and CollectGarbage; other calls wait for nothing and ignore theirs.
//
// A key that is absent is ds.ErrNotFound; other errors are those of the store, for errors.Is.
type Datastore struct{ store *warmtier.Store }

var (
	_ ds.Batching            = (*Datastore)(nil)
	_ ds.TTLDatastore        = (*Datastore)(nil)
	_ ds.CheckedDatastore    = (*Datastore)(nil)
	_ ds.GCDatastore         = (*Datastore)(nil)
	_ ds.PersistentDatastore = (*Datastore)(nil)
)

// New returns a Datastore that keeps its values in store.
func New(store *warmtier.Store) *Datastore { return &Datastore{store} }

func absent(err error) error {
	if errors.Is(err, warmtier.ErrNotFound) {
		return ds.ErrNotFound
	}
	return err
}

// Get returns the value of key.
func (d *Datastore) Get(_ context.Context, key ds.Key) ([]byte, error) {
	value, err := d.store.Get(key.String())
	return value, absent(err)
}

// Has reports whether key has a value.
func (d *Datastore) Has(ctx context.Context, key ds.Key) (bool, error) {
	_, err := d.GetSize(ctx, key)
	if errors.Is(err, ds.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// GetSize returns the size of the value of key in bytes, or -1 with an error. It costs a read of the value.
func (d *Datastore) GetSize(_ context.Context, key ds.Key) (int, error) {
	size, err := d.size(key.String())
	return size, absent(err)
}

func (d *Datastore) size(id string) (int, error) {
	size := -1
	err := d.store.View(id, func(content []byte) error {
		size = len(content)
		return nil
	})
	return size, err
}

// Put stores value under key, without a time to live.
func (d *Datastore) Put(_ context.Context, key ds.Key, value []byte) error {
	return d.store.Put(key.String(), value)
}

// PutWithTTL stores value under key for the time ttl.
func (d *Datastore) PutWithTTL(_ context.Context, key ds.Key, value []byte, ttl time.Duration) error {
	return d.store.PutTTL(key.String(), value, ttl)
}

// SetTTL gives the value of key a time to live that begins now, in place of one that it has. It copies the value.
// A value that PutWithTTL takes and that is longer than a segment of the store (SegmentSize) is ErrBatchTooLarge, and
// keeps what it has.
func (d *Datastore) SetTTL(_ context.Context, key ds.Key, ttl time.Duration) error {
	for id := key.String(); ; {
		value, version, err := d.store.GetVersion(id)
		if err != nil {
			return absent(err)
		}
		var b warmtier.Batch
		b.Check(id, version)
		b.PutTTL(id, value, ttl)
		if err = d.store.Apply(&b); !errors.Is(err, warmtier.ErrChanged) {
			return err
		}
	}
}

// GetExpiration returns when the value of key expires; the zero time means never.
func (d *Datastore) GetExpiration(_ context.Context, key ds.Key) (time.Time, error) {
	at, err := d.store.Expiry(key.String())
	return at, absent(err)
}

// Delete deletes the value of key. That there is none is no error.
func (d *Datastore) Delete(_ context.Context, key ds.Key) error {
	_, err := d.store.Delete(key.String())
	return err
}

// Sync makes durable what was written before, under any prefix.
func (d *Datastore) Sync(context.Context, ds.Key) error { return d.store.Sync() }

// Close closes the store.
func (d *Datastore) Close() error { return d.store.Close() }

// Check reads everything that is stored and compares it with its checksums, and the index with what it points to.
func (d *Datastore) Check(ctx context.Context) error {
	_, err := d.store.Verify(ctx)
	return err
}

// CollectGarbage gives back the space of all dead bytes. One that runs already is no error.
func (d *Datastore) CollectGarbage(ctx context.Context) error {
	_, err := d.store.Compact(ctx)
	if errors.Is(err, warmtier.ErrCompactionInProgress) {
		return nil
	}
	return err
}

// DiskUsage returns the bytes of segments, and of files that keep space back: what a store in a directory takes there,
// and one in memory beside its index.
func (d *Datastore) DiskUsage(context.Context) (uint64, error) {
	stats := d.store.Stats()
	return uint64(stats.MappedBytes - stats.IndexBytes + stats.SegmentDetails.SpareBytes), nil
}

// Batch returns a batch of writes. Commit makes as many of them at once as the store can, 1,024 and a segment at most,
// in no particular order; if it returns an error, some may have been made.
func (d *Datastore) Batch(context.Context) (ds.Batch, error) {
	return &batch{store: d.store, last: make(map[string]int)}, nil
}

type batch struct {
	store  *warmtier.Store
	writes []write
	last   map[string]int // the write of an id: a later one replaces it
}

type write struct {
	id    string
	value []byte
	put   bool
}

func (b *batch) Put(_ context.Context, key ds.Key, value []byte) error {
	b.add(write{key.String(), value, true})
	return nil
}

func (b *batch) Delete(_ context.Context, key ds.Key) error {
	b.add(write{id: key.String()})
	return nil
}

func (b *batch) add(w write) {
	if i, ok := b.last[w.id]; ok {
		b.writes[i] = w
		return
	}
	b.last[w.id] = len(b.writes)
	b.writes = append(b.writes, w)
}

func (b *batch) Commit(context.Context) error { return apply(b.store, b.writes) }

// apply makes writes of different ids in as few steps as fit.
func apply(store *warmtier.Store, writes []write) error {
	var b warmtier.Batch
	if len(writes) <= warmtier.MaxBatchLen {
		for _, w := range writes {
			if w.put {
				b.Put(w.id, w.value)
			} else {
				b.Delete(w.id)
			}
		}
		err := store.Apply(&b)
		if !errors.Is(err, warmtier.ErrBatchTooLarge) {
			return err
		}
		if len(writes) == 1 { // larger than a segment: it gets one of its own, which a batch does not
			return store.Put(writes[0].id, writes[0].value)
		}
	}
	half := len(writes) / 2
	if err := apply(store, writes[:half]); err != nil {
		return err
	}
	return apply(store, writes[half:])
}
