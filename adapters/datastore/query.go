package datastore

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/warmtier/warmtier"
)

// Query returns the entries that q asks for, as they are read: what is written before the last of them may or may not
// be seen, and what is there and untouched throughout is, once. The store has no order: a prefix costs a look at every
// id, and an order all entries in memory. A record whose id cannot be read is left out, and the last result is
// ErrCorrupt then, which Check reports too.
func (d *Datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	prefix := ds.NewKey(q.Prefix).String()
	if prefix != "/" {
		prefix += "/"
	}
	ids := scan{store: d.store}
	failed := false
	fail := func(err error) (query.Result, bool) {
		failed = true // an error is the last result, for readers that do not stop at it
		return query.Result{Error: err}, true
	}
	results := query.ResultsFromIterator(q, query.Iterator{
		Next: func() (query.Result, bool) {
			for !failed {
				if err := ctx.Err(); err != nil {
					return fail(err)
				}
				id, err := ids.next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return fail(err)
				}
				if !strings.HasPrefix(id, prefix) || len(id) > 1 && id[len(id)-1] == '/' { // no key of a datastore
					continue
				}
				entry, err := d.entry(q, id)
				if errors.Is(err, warmtier.ErrNotFound) { // deleted since
					continue
				}
				if err != nil {
					return fail(err)
				}
				return query.Result{Entry: entry}, true
			}
			return query.Result{}, false
		},
	})
	rest := q
	rest.Prefix = "" // done
	return query.NaiveQueryApply(rest, results), nil
}

// scan yields the ids of a store.
type scan struct {
	store  *warmtier.Store
	ids    []string // that were read and not yielded yet
	cursor warmtier.Cursor
	begun  bool
	damage error // the first of ids that could not be read
}

// next returns an id, or, after the last one, that some were damaged, or else io.EOF.
func (s *scan) next() (id string, err error) {
	for len(s.ids) == 0 {
		if s.begun && s.cursor == 0 {
			return "", cmp.Or(s.damage, io.EOF)
		}
		s.ids, s.cursor, err = s.store.Scan(s.cursor, 0)
		if err != nil && !errors.Is(err, warmtier.ErrCorrupt) {
			return "", err
		}
		s.begun, s.damage = true, cmp.Or(s.damage, err)
	}
	id, s.ids = s.ids[0], s.ids[1:]
	return id, nil
}

// entry reads what q asks for of one id.
func (d *Datastore) entry(q query.Query, id string) (entry query.Entry, err error) {
	entry.Key = id
	if !q.KeysOnly {
		if entry.Value, err = d.store.Get(id); err != nil {
			return entry, err
		}
		entry.Size = len(entry.Value)
	} else if q.ReturnsSizes {
		if entry.Size, err = d.size(id); err != nil {
			return entry, err
		}
	}
	if q.ReturnExpirations {
		entry.Expiration, err = d.store.Expiry(id)
	}
	return entry, err
}
