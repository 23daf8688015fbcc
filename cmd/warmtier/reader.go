package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

// memory is what a store has under an id.
type memory struct {
	id      string
	content []byte
	expires time.Time // zero: never
}

// reader gives the memories of a store: of one in a directory, or of one in a server.
type reader interface {
	// get returns a content, or an error that is warmtier.ErrNotFound.
	get(ctx context.Context, id string) ([]byte, error)
	// each calls fn for each memory whose id begins with prefix, in no order, until fn returns an error, which it
	// returns. The content is valid until fn returns.
	each(ctx context.Context, prefix string, fn func(m memory) error) error
	// sizes is each with the length of the content in its place.
	sizes(ctx context.Context, prefix string, fn func(id string, size int, expires time.Time) error) error
	// export writes all memories to w as Store.Export does, and returns how many.
	export(ctx context.Context, w io.Writer) (int, error)
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

// checkOutput returns an error for a file that is one of the store's that w names, or lies among them.
func (w whereFlag) checkOutput(name string) error {
	if w.URL != "" {
		return nil
	}
	return checkOutside(w.Dir, name)
}

// openStore reads a store that others may write to at the same time.
type openStore struct{ s *warmtier.Store }

func (o openStore) get(_ context.Context, id string) ([]byte, error) { return o.s.Get(id) }

func (o openStore) export(ctx context.Context, w io.Writer) (int, error) {
	st, err := o.s.Export(ctx, w)
	return int(st.Memories), err
}

func (o openStore) each(ctx context.Context, prefix string, fn func(m memory) error) error {
	return o.missing(func() error {
		for id := range o.s.IDs() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !strings.HasPrefix(id, prefix) {
				continue
			}
			m, err := o.memory(id)
			if errors.Is(err, warmtier.ErrNotFound) || errors.Is(err, warmtier.ErrCorrupt) {
				continue // gone since, or counted
			}
			if err == nil {
				err = fn(m)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// memory returns content and deadline of one version.
func (o openStore) memory(id string) (memory, error) {
	for {
		content, version, err := o.s.GetVersion(id)
		if err != nil {
			return memory{}, err
		}
		expires, err := o.s.Expiry(id)
		if err != nil && !errors.Is(err, warmtier.ErrNotFound) {
			return memory{}, err
		}
		if _, now, err := o.s.GetVersion(id); err != nil || now == version {
			return memory{id: id, content: content, expires: expires}, err
		}
	}
}

func (o openStore) sizes(
	ctx context.Context, prefix string, fn func(id string, size int, expires time.Time) error,
) error {
	return o.missing(func() error { return o.all(ctx, prefix, sizesOf(fn)) })
}

// sizesOf returns what calls fn for a memory.
func sizesOf(fn func(id string, size int, expires time.Time) error) func(memory) error {
	return func(m memory) error { return fn(m.id, len(m.content), m.expires) }
}

// all calls fn for each memory. Where others write, the deadline may be that of a later version.
func (o openStore) all(ctx context.Context, prefix string, fn func(m memory) error) error {
	for id, content := range o.s.All() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		expires, err := o.s.Expiry(id)
		if err != nil && !errors.Is(err, warmtier.ErrNotFound) {
			return err
		}
		if err := fn(memory{id: id, content: content, expires: expires}); err != nil {
			return err
		}
	}
	return nil
}

// missing returns the error of read, or one that says how many damaged memories read has left out.
func (o openStore) missing(read func() error) error {
	damaged := o.s.Stats().Reads.CorruptRecords
	if err := read(); err != nil {
		return err
	}
	if n := o.s.Stats().Reads.CorruptRecords - damaged; n > 0 { // an iteration leaves them out
		return finding("missing here: %s; see warmtier verify", counted(n, "damaged memory"))
	}
	return nil
}

// stillStore reads a store that nobody writes to, so that its memories can be counted.
type stillStore struct{ openStore }

func (o stillStore) each(ctx context.Context, prefix string, fn func(m memory) error) error {
	n := 0
	err := o.missing(func() error {
		return o.all(ctx, prefix, func(m memory) error {
			n++
			return fn(m)
		})
	})
	if err == nil && prefix == "" && n < o.present() {
		return finding("%d of %s could be read: see warmtier verify", n, counted(o.present(), "memory"))
	}
	return err
}

func (o stillStore) count(context.Context) (int, error) { return o.present(), nil }

// present returns how many memories have not expired.
func (o stillStore) present() (n int) {
	if o.s.Stats().ExpiredBytes == 0 {
		return o.s.Len()
	}
	for range o.s.IDs() {
		n++
	}
	return n
}

func (o stillStore) sizes(
	ctx context.Context, prefix string, fn func(id string, size int, expires time.Time) error,
) error {
	return o.each(ctx, prefix, sizesOf(fn))
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
