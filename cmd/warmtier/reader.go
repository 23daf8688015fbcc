package main

import (
	"context"
	"errors"
	"strings"

	"github.com/warmtier/warmtier"
)

// reader gives the memories of a store: of one in a directory, or of one in a server.
type reader interface {
	// get returns a content, or an error that is warmtier.ErrNotFound.
	get(ctx context.Context, id string) ([]byte, error)
	// each calls fn for each memory whose id begins with prefix, in no order, until fn returns an error, which it
	// returns. The content is valid until fn returns.
	each(ctx context.Context, prefix string, fn func(id string, content []byte) error) error
	// sizes is each with the length of the content in its place.
	sizes(ctx context.Context, prefix string, fn func(id string, size int) error) error
	// count returns how many memories there are.
	count(ctx context.Context) (int, error)
}

// read calls fn with the memories of the store that w names.
func (w whereFlag) read(a *app, fn func(reader) error) error {
	if w.URL != "" {
		return fn(w.client())
	}
	return a.with(w.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) error {
		return fn(stillStore{openStore{s}})
	})
}

// openStore reads a store that others may write to at the same time.
type openStore struct{ s *warmtier.Store }

func (o openStore) get(_ context.Context, id string) ([]byte, error) { return o.s.Get(id) }

func (o openStore) count(context.Context) (int, error) { return o.s.Len(), nil } //nolint:unparam // a reader's

func (o openStore) each(ctx context.Context, prefix string, fn func(id string, content []byte) error) error {
	damaged := o.s.Stats().Reads.CorruptRecords
	for id, content := range o.s.All() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		if err := fn(id, content); err != nil {
			return err
		}
	}
	if n := o.s.Stats().Reads.CorruptRecords - damaged; n > 0 { // an iteration leaves them out
		return finding("missing here: %s; see warmtier verify", counted(n, "damaged memory"))
	}
	return nil
}

func (o openStore) sizes(ctx context.Context, prefix string, fn func(id string, size int) error) error {
	return o.each(ctx, prefix, func(id string, content []byte) error { return fn(id, len(content)) })
}

// stillStore reads a store that nobody writes to, so that its memories can be counted.
type stillStore struct{ openStore }

func (o stillStore) each(ctx context.Context, prefix string, fn func(id string, content []byte) error) error {
	n := 0
	err := o.openStore.each(ctx, prefix, func(id string, content []byte) error {
		n++
		return fn(id, content)
	})
	if err == nil && prefix == "" && n != o.s.Len() {
		return finding("%d of %s could be read: see warmtier verify", n, counted(o.s.Len(), "memory"))
	}
	return err
}

func (o stillStore) sizes(ctx context.Context, prefix string, fn func(id string, size int) error) error {
	return o.each(ctx, prefix, func(id string, content []byte) error { return fn(id, len(content)) })
}

// errEnough ends an iteration.
var errEnough = errors.New("enough")

// chosen are the memories that a command is about: those of its ids, or all whose id begins with a prefix.
type chosen struct {
	IDs    []memoryID `arg:"" optional:"" name:"id" help:"Ids of memories; hex:... for bytes that cannot be typed."`
	Prefix *id        `placeholder:"ID" help:"All memories whose id begins with this."`
}

// check returns an error unless there are ids, or a prefix.
func (c chosen) check() error {
	if (len(c.IDs) == 0) == (c.Prefix == nil) {
		return usage("want ids or --prefix, and not both")
	}
	return nil
}

// absent returns an error that names the ids that were not there, nil when there are none.
func absent(ids []string) error {
	var all []error
	for _, id := range ids {
		all = append(all, about(showID(id), warmtier.ErrNotFound))
	}
	return errors.Join(all...)
}
