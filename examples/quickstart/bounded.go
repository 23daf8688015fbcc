package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/warmtier/warmtier"
)

// bounded is what became of memories in a store that has room for half of them.
type bounded struct {
	put   int
	stats warmtier.Stats
}

// putIntoHalf puts what store has into a store with half as many bytes, which drops what nobody reads, and every
// tenth of them with a time to live that soon ends. Then it asks for all of them, and compares what is found.
func putIntoHalf(ctx context.Context, store *warmtier.Store, p *progress) (b bounded, err error) {
	half, err := warmtier.Open("", &warmtier.Options{
		MaxBytes: max(store.Stats().LiveBytes/2, 1<<20),
		WhenFull: warmtier.Evict,
	})
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, half.Close()) }()
	for id, content := range store.All() {
		if err := ctx.Err(); err != nil {
			return b, err
		}
		if b.put%10 == 9 {
			err = half.PutTTL(id, content, time.Millisecond)
		} else {
			err = half.Put(id, content)
		}
		if err != nil {
			return b, fmt.Errorf("%s: %w", id, err)
		}
		b.put++
		p.add()
	}
	for id, content := range store.All() {
		got, err := half.Get(id)
		if err == nil && !bytes.Equal(got, content) {
			return b, fmt.Errorf("%s: has a wrong content in the smaller store", id)
		}
		if err != nil && !errors.Is(err, warmtier.ErrNotFound) {
			return b, err
		}
	}
	b.stats = half.Stats()
	return b, nil
}

func (b *bounded) describe(out io.Writer) error {
	_, err := fmt.Fprintf(out, `
a store of at most %s that evicts, given the %s memories: %s mapped,
%s evicted, %s expired and dropped, %.1f %% of them found
`, mib(b.stats.MaxBytes), thousands(int64(b.put)), mib(b.stats.MappedBytes),
		thousands(b.stats.Drops.Evicted), thousands(b.stats.Drops.Expired), 100*b.stats.HitRatio)
	return err
}
