package peers

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"time"

	"git.mills.io/prologic/bitcask"
	"github.com/akrylysov/pogreb"
	"github.com/nutsdb/nutsdb"
	"github.com/rosedblabs/rosedb/v2"
	"github.com/tidwall/buntdb"

	"github.com/warmtier/warmtier/storetest"
)

type pogrebStore struct{ *pogreb.DB }

func openPogreb(dir string) (storetest.Store, error) {
	db, err := pogreb.Open(dir, nil)
	if err != nil {
		return nil, err
	}
	return pogrebStore{db}, nil
}

func (s pogrebStore) Put(id string, content []byte) error { return s.DB.Put([]byte(id), content) }
func (s pogrebStore) Delete(id string) error              { return s.DB.Delete([]byte(id)) }

func (s pogrebStore) Get(id string) ([]byte, bool, error) {
	content, err := s.DB.Get([]byte(id))
	return content, content != nil, err
}

func (s pogrebStore) Compact() error {
	_, err := s.DB.Compact()
	return err
}

func (s pogrebStore) Scan(f func(string, []byte) bool) error {
	for it := s.Items(); ; {
		id, content, err := it.Next()
		if errors.Is(err, pogreb.ErrIterationDone) {
			return nil
		}
		if err != nil {
			return err
		}
		if !f(string(id), content) {
			return nil
		}
	}
}

type roseStore struct{ *rosedb.DB }

func openRose(dir string) (storetest.Store, error) {
	opts := rosedb.DefaultOptions
	opts.DirPath = filepath.Join(dir, "db") // merges go beside it
	db, err := rosedb.Open(opts)
	if err != nil {
		return nil, err
	}
	return roseStore{db}, nil
}

func (s roseStore) Put(id string, content []byte) error { return s.DB.Put([]byte(id), content) }
func (s roseStore) Delete(id string) error              { return s.DB.Delete([]byte(id)) }

func (s roseStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.PutWithTTL([]byte(id), content, ttl)
}

func (s roseStore) Get(id string) ([]byte, bool, error) {
	content, err := s.DB.Get([]byte(id))
	if errors.Is(err, rosedb.ErrKeyNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s roseStore) Compact() error {
	err := s.Merge(true)
	if errors.Is(err, rosedb.ErrMergeRunning) {
		return nil
	}
	return err
}

func (s roseStore) Scan(f func(string, []byte) bool) error {
	s.Ascend(func(id, content []byte) (bool, error) { return f(string(id), content), nil })
	return nil
}

func (s roseStore) Batch(writes []storetest.Write) (err error) {
	b := s.NewBatch(rosedb.DefaultBatchOptions)
	for _, w := range writes {
		if w.Delete {
			err = errors.Join(err, b.Delete([]byte(w.ID)))
		} else {
			err = errors.Join(err, b.Put([]byte(w.ID), w.Content))
		}
	}
	if err != nil {
		return errors.Join(err, b.Rollback())
	}
	return b.Commit()
}

type nutsStore struct{ *nutsdb.DB }

const nutsBucket = "memories"

func openNuts(dir string) (storetest.Store, error) {
	opts := nutsdb.DefaultOptions
	opts.Dir, opts.SegmentSize = filepath.Join(dir, "db"), 1<<20 // merges need more than one
	_, before := os.Stat(opts.Dir)
	db, err := nutsdb.Open(opts)
	if err != nil {
		return nil, err
	}
	if before == nil { // a bucket that is missing is an error, of each call
		return nutsStore{db}, nil
	}
	err = db.Update(func(tx *nutsdb.Tx) error {
		if err := tx.NewKVBucket(nutsBucket); !errors.Is(err, nutsdb.ErrBucketAlreadyExist) {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return nutsStore{db}, nil
}

func (s nutsStore) Sync() error { return nil }

func (s nutsStore) Put(id string, content []byte) error { return s.PutTTL(id, content, 0) }

// PutTTL copies: the transaction keeps the slices, and the index keeps them after it.
func (s nutsStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.DB.Update(func(tx *nutsdb.Tx) error {
		return tx.Put(nutsBucket, []byte(id), bytes.Clone(content), uint32(ttl/time.Second))
	})
}

func nutsAbsent(err error) bool {
	return errors.Is(err, nutsdb.ErrKeyNotFound) || errors.Is(err, nutsdb.ErrNotFoundKey)
}

func (s nutsStore) Delete(id string) error {
	err := s.DB.Update(func(tx *nutsdb.Tx) error { return tx.Delete(nutsBucket, []byte(id)) })
	if nutsAbsent(err) {
		return nil
	}
	return err
}

func (s nutsStore) Get(id string) (content []byte, found bool, err error) {
	err = s.View(func(tx *nutsdb.Tx) error {
		b, err := tx.Get(nutsBucket, []byte(id))
		content = bytes.Clone(b)
		return err
	})
	if nutsAbsent(err) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s nutsStore) Compact() error {
	err := s.Merge()
	if errors.Is(err, nutsdb.ErrDontNeedMerge) || errors.Is(err, nutsdb.ErrIsMerging) {
		return nil
	}
	return err
}

func (s nutsStore) Scan(f func(string, []byte) bool) error {
	return s.View(func(tx *nutsdb.Tx) error {
		ids, contents, err := tx.GetAll(nutsBucket)
		for i := 0; err == nil && i < len(ids); i++ {
			if !f(string(ids[i]), contents[i]) {
				break
			}
		}
		return err
	})
}

func (s nutsStore) Update(id string, f func([]byte, bool) []byte) error {
	return s.DB.Update(func(tx *nutsdb.Tx) error {
		old, err := tx.Get(nutsBucket, []byte(id))
		if err != nil && !nutsAbsent(err) {
			return err
		}
		return tx.Put(nutsBucket, []byte(id), f(old, err == nil), 0)
	})
}

func (s nutsStore) Batch(writes []storetest.Write) error {
	return s.DB.Update(func(tx *nutsdb.Tx) error {
		for _, w := range writes {
			var err error
			if w.Delete {
				err = tx.Delete(nutsBucket, []byte(w.ID))
			} else {
				err = tx.Put(nutsBucket, []byte(w.ID), bytes.Clone(w.Content), 0)
			}
			if err != nil && !nutsAbsent(err) {
				return err
			}
		}
		return nil
	})
}

type buntStore struct{ *buntdb.DB }

func openBunt(dir string) (storetest.Store, error) {
	db, err := buntdb.Open(filepath.Join(dir, "db"))
	if err != nil {
		return nil, err
	}
	return buntStore{db}, nil
}

func (s buntStore) Sync() error { return nil }

func (s buntStore) Put(id string, content []byte) error { return s.put(id, content, nil) }

func (s buntStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.put(id, content, &buntdb.SetOptions{Expires: true, TTL: ttl})
}

func (s buntStore) put(id string, content []byte, opts *buntdb.SetOptions) error {
	return s.DB.Update(func(tx *buntdb.Tx) error {
		_, _, err := tx.Set(id, string(content), opts)
		return err
	})
}

func (s buntStore) Delete(id string) error {
	return s.DB.Update(func(tx *buntdb.Tx) error { return buntDelete(tx, id) })
}

func buntDelete(tx *buntdb.Tx, id string) error {
	if _, err := tx.Delete(id); !errors.Is(err, buntdb.ErrNotFound) {
		return err
	}
	return nil
}

func (s buntStore) Get(id string) (content []byte, found bool, err error) {
	err = s.View(func(tx *buntdb.Tx) error {
		text, err := tx.Get(id)
		content = []byte(text)
		return err
	})
	if errors.Is(err, buntdb.ErrNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s buntStore) Compact() error {
	if err := s.Shrink(); !errors.Is(err, buntdb.ErrShrinkInProcess) {
		return err
	}
	return nil
}

func (s buntStore) Scan(f func(string, []byte) bool) error {
	return s.View(func(tx *buntdb.Tx) error {
		return tx.Ascend("", func(id, content string) bool { return f(id, []byte(content)) })
	})
}

func (s buntStore) Update(id string, f func([]byte, bool) []byte) error {
	return s.DB.Update(func(tx *buntdb.Tx) error {
		old, err := tx.Get(id)
		if err != nil && !errors.Is(err, buntdb.ErrNotFound) {
			return err
		}
		_, _, err = tx.Set(id, string(f([]byte(old), err == nil)), nil)
		return err
	})
}

func (s buntStore) Batch(writes []storetest.Write) error {
	return s.DB.Update(func(tx *buntdb.Tx) error {
		for _, w := range writes {
			var err error
			if w.Delete {
				err = buntDelete(tx, w.ID)
			} else {
				_, _, err = tx.Set(w.ID, string(w.Content), nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type bitcaskStore struct{ *bitcask.Bitcask }

func openBitcask(dir string) (storetest.Store, error) {
	db, err := bitcask.Open(dir, bitcask.WithMaxKeySize(512), bitcask.WithSync(true))
	if err != nil {
		return nil, err
	}
	return bitcaskStore{db}, nil
}

func (s bitcaskStore) Put(id string, content []byte) error { return s.Bitcask.Put([]byte(id), content) }
func (s bitcaskStore) Delete(id string) error              { return s.Bitcask.Delete([]byte(id)) }

func (s bitcaskStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.PutWithTTL([]byte(id), content, ttl)
}

func (s bitcaskStore) Get(id string) ([]byte, bool, error) {
	content, err := s.Bitcask.Get([]byte(id))
	if errors.Is(err, bitcask.ErrKeyNotFound) || errors.Is(err, bitcask.ErrKeyExpired) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s bitcaskStore) Compact() error {
	if err := s.Merge(); !errors.Is(err, bitcask.ErrMergeInProgress) {
		return err
	}
	return nil
}
