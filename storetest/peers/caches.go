package peers

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
	"github.com/maypok86/otter/v2"

	"github.com/warmtier/warmtier/storetest"
)

// inMemory is what caches have in common: nothing to sync, and no error when they are closed.
type inMemory struct{}

func (inMemory) Sync() error  { return nil }
func (inMemory) Close() error { return nil }

type bigStore struct{ *bigcache.BigCache }

func openBig() storetest.Store {
	c := bigcache.DefaultConfig(10 * time.Minute)
	c.Verbose = false
	b, err := bigcache.New(context.Background(), c)
	if err != nil {
		panic(err) // of its defaults
	}
	return bigStore{b}
}

func (s bigStore) Sync() error                         { return nil }
func (s bigStore) Close() error                        { return s.BigCache.Close() }
func (s bigStore) Put(id string, content []byte) error { return s.Set(id, content) }

func (s bigStore) Get(id string) ([]byte, bool, error) {
	content, err := s.BigCache.Get(id)
	if errors.Is(err, bigcache.ErrEntryNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s bigStore) Delete(id string) error {
	if err := s.BigCache.Delete(id); !errors.Is(err, bigcache.ErrEntryNotFound) {
		return err
	}
	return nil
}

func (s bigStore) Scan(f func(string, []byte) bool) error {
	for it := s.Iterator(); it.SetNext(); {
		e, err := it.Value()
		if err != nil {
			return err
		}
		if !f(e.Key(), e.Value()) {
			break
		}
	}
	return nil
}

type freeStore struct {
	inMemory
	*freecache.Cache
}

func openFree() storetest.Store { return freeStore{Cache: freecache.NewCache(32 << 20)} }

func (s freeStore) Put(id string, content []byte) error { return s.Set([]byte(id), content, 0) }

func (s freeStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	return s.Set([]byte(id), content, int(ttl/time.Second))
}

func (s freeStore) Get(id string) ([]byte, bool, error) {
	content, err := s.Cache.Get([]byte(id))
	if errors.Is(err, freecache.ErrNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s freeStore) Delete(id string) error {
	s.Del([]byte(id))
	return nil
}

func (s freeStore) Scan(f func(string, []byte) bool) error {
	it := s.NewIterator()
	for e := it.Next(); e != nil; e = it.Next() {
		if !f(string(e.Key), e.Value) {
			break
		}
	}
	return nil
}

type fastStore struct {
	inMemory
	*fastcache.Cache
}

func openFast() storetest.Store { return fastStore{Cache: fastcache.New(32 << 20)} }

func (s fastStore) Put(id string, content []byte) error {
	s.Set([]byte(id), content)
	return nil
}

func (s fastStore) Get(id string) ([]byte, bool, error) {
	content, found := s.HasGet(nil, []byte(id))
	return content, found, nil
}

func (s fastStore) Delete(id string) error {
	s.Del([]byte(id))
	return nil
}

// otterStore copies: otter keeps what it is given.
type otterStore struct {
	inMemory
	*otter.Cache[string, []byte]
}

func openOtter() storetest.Store {
	return otterStore{Cache: otter.Must(&otter.Options[string, []byte]{
		MaximumSize:      100_000,
		ExpiryCalculator: otter.ExpiryWriting[string, []byte](24 * time.Hour),
	})}
}

func (s otterStore) Put(id string, content []byte) error {
	s.Set(id, bytes.Clone(content))
	return nil
}

func (s otterStore) Get(id string) ([]byte, bool, error) {
	content, found := s.GetIfPresent(id)
	return bytes.Clone(content), found, nil
}

func (s otterStore) Delete(id string) error {
	s.Invalidate(id)
	return nil
}

func (s otterStore) Scan(f func(string, []byte) bool) error {
	s.All()(f)
	return nil
}

func (s otterStore) Update(id string, f func([]byte, bool) []byte) error {
	s.Compute(id, func(old []byte, found bool) ([]byte, otter.ComputeOp) { return f(old, found), otter.WriteOp })
	return nil
}
