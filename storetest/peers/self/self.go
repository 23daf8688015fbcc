// Package self lets storetest run warmtier, as other packages beside it let it run other stores.
package self

import (
	"context"
	"errors"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/storetest"
)

// Open opens a store in a directory, or in memory if it is "". Nothing is compacted but by the suite.
func Open(dir string, opts warmtier.Options) (storetest.Store, error) {
	opts.Maintenance.Disabled = true
	s, err := warmtier.Open(dir, &opts)
	if err != nil {
		return nil, err
	}
	return store{s}, nil
}

type store struct{ *warmtier.Store }

func (s store) Get(id string) ([]byte, bool, error) {
	content, err := s.Store.Get(id)
	if errors.Is(err, warmtier.ErrNotFound) {
		return nil, false, nil
	}
	return content, err == nil, err
}

func (s store) Delete(id string) error {
	_, err := s.Store.Delete(id)
	return err
}

func (s store) Compact() error {
	_, err := s.Store.Compact(context.Background())
	if errors.Is(err, warmtier.ErrCompactionInProgress) {
		return nil
	}
	return err
}

func (s store) View(id string, f func([]byte)) (bool, error) {
	err := s.Store.View(id, func(content []byte) error {
		f(content)
		return nil
	})
	if errors.Is(err, warmtier.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s store) Scan(f func(string, []byte) bool) error {
	s.All()(f)
	return nil
}

func (s store) Update(id string, f func([]byte, bool) []byte) error {
	return s.Store.Update(id, func(content []byte, found bool) ([]byte, error) { return f(content, found), nil })
}

func (s store) Batch(writes []storetest.Write) error {
	var b warmtier.Batch
	for _, w := range writes {
		if w.Delete {
			b.Delete(w.ID)
		} else {
			b.Put(w.ID, w.Content)
		}
	}
	return s.Apply(&b)
}
