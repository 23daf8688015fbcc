package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
	"go.etcd.io/bbolt"
)

/*
Peers that keep their memories in a directory. Each one stores a memory as its documentation says for
single ones, with its defaults; whether that is durable before it returns is what dataset.Sync says.
*/

type bboltPeer struct{ *bbolt.DB }

var bboltBucket = []byte("memories")

func openBbolt(c *contents, dir string) (peer, error) {
	db, err := bbolt.Open(filepath.Join(dir, "bbolt"), 0o600, &bbolt.Options{
		NoSync:         !c.Sync,
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bboltBucket)
		return err
	})
	return bboltPeer{db}, err
}

func (p bboltPeer) get(dst []byte, id string) (content []byte, found bool, err error) {
	err = p.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bboltBucket).Get(view(id)); v != nil {
			content, found = append(dst[:0], v...), true
		}
		return nil
	})
	return content, found, err
}

func (p bboltPeer) put(id string, content []byte) error {
	return p.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bboltBucket).Put(view(id), content) })
}

func (p bboltPeer) close() error { return p.Close() }

type badgerPeer struct{ *badger.DB }

func openBadger(c *contents, dir string) (peer, error) {
	o := badger.DefaultOptions(filepath.Join(dir, "badger")).WithSyncWrites(c.Sync).WithLogger(nil)
	db, err := badger.Open(o)
	return badgerPeer{db}, err
}

func (p badgerPeer) get(dst []byte, id string) (content []byte, found bool, err error) {
	err = p.View(func(tx *badger.Txn) error {
		it, err := tx.Get(view(id))
		if err == nil {
			found = true
			content, err = it.ValueCopy(dst[:0])
		}
		return err
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	return content, found, err
}

// put copies id and content: badger keeps both slices until the transaction is over, and the id
// longer.
func (p badgerPeer) put(id string, content []byte) error {
	return p.Update(func(tx *badger.Txn) error { return tx.Set([]byte(id), bytes.Clone(content)) })
}

func (p badgerPeer) close() error { return p.Close() }

type pebblePeer struct {
	*pebble.DB
	write *pebble.WriteOptions
}

func openPebble(c *contents, dir string) (peer, error) {
	db, err := pebble.Open(filepath.Join(dir, "pebble"), &pebble.Options{Logger: quietLogger{}})
	if err != nil {
		return nil, err
	}
	write := pebble.NoSync
	if c.Sync {
		write = pebble.Sync
	}
	return pebblePeer{db, write}, nil
}

func (p pebblePeer) get(dst []byte, id string) ([]byte, bool, error) {
	v, closer, err := p.Get(view(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	dst = append(dst[:0], v...)
	return dst, true, closer.Close()
}

func (p pebblePeer) put(id string, content []byte) error { return p.Set(view(id), content, p.write) }
func (p pebblePeer) close() error                        { return p.Close() }

// quietLogger keeps pebble's messages off the terminal, except for one that ends the process.
type quietLogger struct{}

func (quietLogger) Infof(string, ...any) {}

func (quietLogger) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "pebble: "+format+"\n", args...)
}

func (l quietLogger) Fatalf(format string, args ...any) {
	l.Errorf(format, args...)
	os.Exit(1)
}
