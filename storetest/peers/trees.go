package peers

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
	"github.com/syndtr/goleveldb/leveldb/util"
	"go.etcd.io/bbolt"

	"github.com/warmtier/warmtier/storetest"
)

type bboltStore struct{ *bbolt.DB }

var bucketName = []byte("memories")

func openBbolt(dir string) (storetest.Store, error) {
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketName)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return bboltStore{db}, nil
}

func (s bboltStore) Put(id string, content []byte) error {
	return s.DB.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketName).Put([]byte(id), content) })
}

func (s bboltStore) Get(id string) (content []byte, found bool, err error) {
	found, err = s.View(id, func(b []byte) { content = bytes.Clone(b) })
	return content, found, err
}

func (s bboltStore) Delete(id string) error {
	return s.DB.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketName).Delete([]byte(id)) })
}

func (s bboltStore) View(id string, f func([]byte)) (found bool, err error) {
	err = s.DB.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketName).Get([]byte(id)); b != nil {
			found = true
			f(b)
		}
		return nil
	})
	return found, err
}

func (s bboltStore) Scan(f func(string, []byte) bool) error {
	return s.DB.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketName).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if !f(string(k), v) {
				break
			}
		}
		return nil
	})
}

func (s bboltStore) Update(id string, f func([]byte, bool) []byte) error {
	return s.DB.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketName)
		old := b.Get([]byte(id))
		return b.Put([]byte(id), f(old, old != nil))
	})
}

func (s bboltStore) Batch(writes []storetest.Write) error {
	return s.DB.Update(func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket(bucketName)
		for _, w := range writes {
			if w.Delete {
				err = errors.Join(err, b.Delete([]byte(w.ID)))
			} else {
				err = errors.Join(err, b.Put([]byte(w.ID), w.Content))
			}
		}
		return err
	})
}

type badgerStore struct{ *badger.DB }

func openBadger(dir string) (storetest.Store, error) {
	opts := badger.DefaultOptions(dir).WithLogger(nil).WithChecksumVerificationMode(options.OnTableAndBlockRead)
	db, err := badger.Open(opts)
	if err != nil {
		return nil, err
	}
	return badgerStore{db}, nil
}

func (s badgerStore) Put(id string, content []byte) error { return s.PutTTL(id, content, 0) }

// PutTTL copies: a transaction keeps the slices.
func (s badgerStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.retry(func(tx *badger.Txn) error {
		e := badger.NewEntry([]byte(id), bytes.Clone(content))
		if ttl > 0 {
			e = e.WithTTL(ttl)
		}
		return tx.SetEntry(e)
	})
}

// retry makes a transaction again when it met another, as the documentation asks.
func (s badgerStore) retry(f func(tx *badger.Txn) error) error {
	for {
		if err := s.DB.Update(f); !errors.Is(err, badger.ErrConflict) {
			return err
		}
	}
}

func (s badgerStore) Get(id string) (content []byte, found bool, err error) {
	found, err = s.View(id, func(b []byte) { content = bytes.Clone(b) })
	return content, found, err
}

func (s badgerStore) View(id string, f func([]byte)) (bool, error) {
	err := s.DB.View(func(tx *badger.Txn) error {
		it, err := tx.Get([]byte(id))
		if err != nil {
			return err
		}
		return it.Value(func(b []byte) error {
			f(b)
			return nil
		})
	})
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s badgerStore) Delete(id string) error {
	return s.retry(func(tx *badger.Txn) error { return tx.Delete([]byte(id)) })
}

func (s badgerStore) Compact() error { return s.Flatten(2) }

func (s badgerStore) Scan(f func(string, []byte) bool) error {
	return s.DB.View(func(tx *badger.Txn) error {
		it := tx.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			content, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if !f(string(it.Item().Key()), content) {
				break
			}
		}
		return nil
	})
}

func (s badgerStore) Update(id string, f func([]byte, bool) []byte) error {
	return s.retry(func(tx *badger.Txn) error {
		it, err := tx.Get([]byte(id))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return tx.Set([]byte(id), f(nil, false))
		}
		if err != nil {
			return err
		}
		old, err := it.ValueCopy(nil)
		if err != nil {
			return err
		}
		return tx.Set([]byte(id), f(old, true))
	})
}

func (s badgerStore) Batch(writes []storetest.Write) error {
	return s.retry(func(tx *badger.Txn) (err error) {
		for _, w := range writes {
			if w.Delete {
				err = errors.Join(err, tx.Delete([]byte(w.ID)))
			} else {
				err = errors.Join(err, tx.Set([]byte(w.ID), bytes.Clone(w.Content)))
			}
		}
		return err
	})
}

type pebbleStore struct{ *pebble.DB }

func openPebble(dir string) (storetest.Store, error) {
	db, err := pebble.Open(dir, &pebble.Options{
		Logger: silent{},
		// The default for damage is to end the process.
		EventListener: &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}},
	})
	if err != nil {
		return nil, err
	}
	return pebbleStore{db}, nil
}

// silent is a logger that ends the process where pebble's own would.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	pebble.DefaultLogger.Fatalf(format, args...)
}

func (s pebbleStore) Put(id string, content []byte) error {
	return s.Set([]byte(id), content, pebble.Sync)
}
func (s pebbleStore) Delete(id string) error { return s.DB.Delete([]byte(id), pebble.Sync) }
func (s pebbleStore) Sync() error            { return nil }

func (s pebbleStore) Get(id string) (content []byte, found bool, err error) {
	found, err = s.View(id, func(b []byte) { content = bytes.Clone(b) })
	return content, found, err
}

func (s pebbleStore) View(id string, f func([]byte)) (bool, error) {
	b, closer, err := s.DB.Get([]byte(id))
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f(b)
	return true, closer.Close()
}

func (s pebbleStore) Compact() error {
	return s.DB.Compact(context.Background(), []byte{0}, bytes.Repeat([]byte{0xff}, 16), false)
}

func (s pebbleStore) Scan(f func(string, []byte) bool) error {
	it, err := s.NewIter(nil)
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		content, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !f(string(it.Key()), content) {
			break
		}
	}
	return it.Close()
}

func (s pebbleStore) Batch(writes []storetest.Write) (err error) {
	b := s.NewBatch()
	for _, w := range writes {
		if w.Delete {
			err = errors.Join(err, b.Delete([]byte(w.ID), nil))
		} else {
			err = errors.Join(err, b.Set([]byte(w.ID), w.Content, nil))
		}
	}
	return errors.Join(err, b.Commit(pebble.Sync), b.Close())
}

type levelStore struct{ *leveldb.DB }

func openLevelDB(dir string) (storetest.Store, error) {
	db, err := leveldb.OpenFile(dir, nil)
	if err != nil {
		return nil, err
	}
	return levelStore{db}, nil
}

var levelSync = &opt.WriteOptions{Sync: true}

func (s levelStore) Put(id string, content []byte) error {
	return s.DB.Put([]byte(id), content, levelSync)
}
func (s levelStore) Delete(id string) error { return s.DB.Delete([]byte(id), levelSync) }
func (s levelStore) Sync() error            { return nil }
func (s levelStore) Compact() error         { return s.CompactRange(util.Range{}) }

func (s levelStore) Get(id string) ([]byte, bool, error) {
	content, err := s.DB.Get([]byte(id), nil)
	if errors.Is(err, leveldb.ErrNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s levelStore) Scan(f func(string, []byte) bool) error {
	it := s.NewIterator(nil, nil)
	defer it.Release()
	for it.Next() {
		if !f(string(it.Key()), it.Value()) {
			break
		}
	}
	return it.Error()
}

func (s levelStore) Batch(writes []storetest.Write) error {
	var b leveldb.Batch
	for _, w := range writes {
		if w.Delete {
			b.Delete([]byte(w.ID))
		} else {
			b.Put([]byte(w.ID), w.Content)
		}
	}
	return s.Write(&b, levelSync)
}
