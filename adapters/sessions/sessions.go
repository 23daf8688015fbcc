// Package sessions makes a warmtier store what web frameworks keep sessions, cached answers and rate limits in: the
// Storage of Fiber (its versions 2 and 3) and the Store of alexedwards/scs. One type is both, and imports neither.
//
//	storage := sessions.New(store)
//	app.Use(session.New(session.Config{Storage: storage})) // Fiber
//	manager.Store = storage                                // scs
package sessions

import (
	"context"
	"errors"
	"time"

	"github.com/warmtier/warmtier"
)

// Storage keeps values by key, with a time to live or without. It takes a store for itself: Reset, Close and All are
// about everything in it. It is safe for concurrent use, and what it returns is the caller's.
//
// Errors are those of the store, and mean that the value is not known: no key that is absent, expired, or longer
// than the store takes is one.
type Storage struct{ store *warmtier.Store }

// New returns a Storage that keeps its values in store.
func New(store *warmtier.Store) *Storage { return &Storage{store} }

// Get returns the value of key: nil when there is none, or it has expired.
func (s *Storage) Get(key string) ([]byte, error) {
	value, _, err := s.Find(key)
	return value, err
}

// Set stores val under key for the time exp; 0 means for good, and a negative one deletes. As Fiber asks, an empty
// key or value is ignored, and what was there stays.
func (s *Storage) Set(key string, val []byte, exp time.Duration) error {
	switch {
	case key == "" || len(val) == 0:
		return nil
	case exp == 0:
		return s.store.Put(key, val)
	}
	return s.put(key, val, exp)
}

// put stores a value whose time may be over already.
func (s *Storage) put(key string, val []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return s.Delete(key)
	}
	return s.store.PutTTL(key, val, ttl)
}

// Delete deletes the value of key. That there is none is no error.
func (s *Storage) Delete(key string) error {
	if _, err := s.store.Delete(key); !errors.Is(err, warmtier.ErrInvalidID) {
		return err
	}
	return nil // nothing was ever stored under it
}

// Reset deletes everything in the store.
func (s *Storage) Reset() error { return s.store.Clear() }

// Close closes the store.
func (s *Storage) Close() error { return s.store.Close() }

// Find returns the value of a session token, and whether there is one.
func (s *Storage) Find(token string) (value []byte, found bool, err error) {
	value, err = s.store.Get(token)
	if errors.Is(err, warmtier.ErrNotFound) || errors.Is(err, warmtier.ErrInvalidID) {
		return nil, false, nil
	}
	return value, err == nil, err
}

// Commit stores value under a session token until expiry.
func (s *Storage) Commit(token string, value []byte, expiry time.Time) error {
	return s.put(token, value, time.Until(expiry))
}

// All returns every token with its value. It takes memory for all of them. It is all of them or an error: ErrClosed of
// a store that is closed, or closes on the way, ErrCorrupt where a token or a value is damaged.
func (s *Storage) All() (map[string][]byte, error) {
	all := make(map[string][]byte)
	for cursor := warmtier.Cursor(0); ; {
		tokens, next, err := s.store.Scan(cursor, 0)
		if err != nil {
			return nil, err
		}
		for _, token := range tokens {
			value, found, err := s.Find(token)
			if err != nil {
				return nil, err
			}
			if found {
				all[token] = value
			}
		}
		if cursor = next; cursor == 0 {
			return all, nil
		}
	}
}

// GetWithContext is Get, unless ctx is done.
func (s *Storage) GetWithContext(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.Get(key)
}

// SetWithContext is Set, unless ctx is done.
func (s *Storage) SetWithContext(ctx context.Context, key string, val []byte, exp time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Set(key, val, exp)
}

// DeleteWithContext is Delete, unless ctx is done.
func (s *Storage) DeleteWithContext(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Delete(key)
}

// ResetWithContext is Reset, unless ctx is done.
func (s *Storage) ResetWithContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Reset()
}
