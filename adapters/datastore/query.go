package datastore

import (
	"context"
	"errors"
	"iter"
	"strings"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/warmtier/warmtier"
)

// Query returns the entries that q asks for, as they are read: what is written before the last of them may or may not
// be seen, and what is there and untouched throughout is, once. The store has no order: a prefix costs a look at every
// id, and an order all entries in memory. A record whose id cannot be read is left out, which Check reports. Results
// must be closed, or read to their end.
func (d *Datastore) Query(ctx context.Context, q query.Query) (query.Results, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	prefix := ds.NewKey(q.Prefix).String()
	if prefix != "/" {
		prefix += "/"
	}
	next, stop := iter.Pull(d.store.IDs())
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
				id, ok := next()
				if !ok && d.closed() {
					return fail(warmtier.ErrClosed)
				}
				if !ok {
					break
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
		Close: func() error {
			stop()
			return nil
		},
	})
	rest := q
	rest.Prefix = "" // done
	return query.NaiveQueryApply(rest, results), nil
}

// closed reports whether the store is: its iterations end then as at their end.
func (d *Datastore) closed() bool {
	_, err := d.store.Expiry("/")
	return errors.Is(err, warmtier.ErrClosed)
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
