// Quickstart shows what warmtier does, on real text.
//
// It stores the source of the machine's Go installation, one memory per top-level declaration.
// Then it rewrites a third of the memories and deletes another third, and does both once more while
// compactions run. All the while readers compare what they read with what must be there. What is left it
// puts into a store of half the size, which evicts. At the end it prints what all that took, and exits with 1 if a
// single read was wrong.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -dir path/to/other/go/source
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/warmtier/warmtier"
)

func main() {
	dir := flag.String("dir", "", "load the Go source below `path` instead of the Go installation's")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, *dir, os.Stdout, newProgress(os.Stderr))
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nquickstart: interrupted")
		os.Exit(130) // the code that shells use for an interrupt
	default:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run is the whole program: load, change, change while compacting, compare, evict, report.
func run(ctx context.Context, dir string, out io.Writer, p *progress) (err error) {
	if dir == "" {
		if dir, err = goSource(ctx); err != nil {
			return err
		}
	}
	store, err := warmtier.Open("", &warmtier.Options{
		// The default is 32 MiB. This store is small, and with small segments it has many.
		SegmentSize: 4 << 20,
		// Programs leave this on, and space comes back by itself. Here compaction has to begin when
		// the table says so.
		Maintenance: warmtier.MaintenanceOptions{Disabled: true},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	r := report{dir: dir}
	memories, err := load(ctx, store, dir, p)
	if err != nil {
		return err
	}
	r.loaded = takeSnapshot(store)

	p.begin("rewriting a third and deleting a third", len(memories))
	r.quiet = startReaders(ctx, store, memories)
	err = change(ctx, store, memories, p)
	r.quiet.stop()
	if err != nil {
		return err
	}
	r.changed = takeSnapshot(store)

	p.begin("the same once more, while compactions run", len(memories))
	r.during = startReaders(ctx, store, memories)
	r.compactions, err = changeAndCompact(ctx, store, memories, p)
	r.during.stop()
	if err != nil {
		return err
	}
	r.compacted = takeSnapshot(store)

	p.begin("comparing every memory with what it must be", store.Len())
	if err := compareAll(ctx, store, memories, p); err != nil {
		return err
	}
	p.begin("putting them into a store of half the size, which evicts", store.Len())
	if r.bounded, err = putIntoHalf(ctx, store, p); err != nil {
		return err
	}
	p.end()
	if err := r.print(out); err != nil {
		return err
	}
	return errors.Join(r.quiet.verdict(), r.during.verdict())
}

// goSource returns the directory with the source of the Go installation.
func goSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("asking the go command for GOROOT (or give a -dir): %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src"), nil
}

// change goes through the memories once: of every three it keeps one as it is, rewrites one, and
// deletes one.
func change(ctx context.Context, store *warmtier.Store, memories []*memory, p *progress) error {
	var buf []byte
	for i, m := range memories {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i%yieldEvery == 0 {
			runtime.Gosched()
		}
		var err error
		switch i % 3 {
		case 1:
			buf, err = rewrite(store, m, m.id, buf)
		case 2:
			buf, err = remove(store, m, memories[i-2].id, buf)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", m.id, err)
		}
		p.add()
	}
	return nil
}

// rewrite puts a line in front of the content of from and stores both under m. buf is working
// memory, returned for the next call.
func rewrite(store *warmtier.Store, m *memory, from string, buf []byte) ([]byte, error) {
	buf = fmt.Appendf(buf[:0], "// Version %d.\n", m.done.Load()+1)
	buf, err := store.AppendContent(buf, from)
	if err != nil {
		return buf, err
	}
	return buf, m.becomes(digestOf(buf), func() error { return store.Put(m.id, buf) })
}

// remove deletes m, and if it is gone already stores a copy of another memory under its id first.
func remove(store *warmtier.Store, m *memory, other string, buf []byte) (_ []byte, err error) {
	if !store.Has(m.id) {
		if buf, err = rewrite(store, m, other, buf); err != nil {
			return buf, err
		}
	}
	return buf, m.becomes(absent, func() error {
		existed, err := store.Delete(m.id)
		if err == nil && !existed {
			err = errors.New("was gone before it was deleted")
		}
		return err
	})
}

// changeAndCompact runs compactions one after another until the changes are made, and then one
// more. It returns what each compaction did.
func changeAndCompact(
	ctx context.Context, store *warmtier.Store, memories []*memory, p *progress,
) (done []warmtier.CompactionStats, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var changeErr error
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		changeErr = change(ctx, store, memories, p)
	}()
	defer func() { // the writer must be gone before the store is closed
		cancel()
		<-changed
		err = errors.Join(err, changeErr)
	}()
	for finished := false; !finished; {
		select {
		case <-changed:
			finished = true
		default:
		}
		stats, err := store.Compact(ctx)
		if err != nil {
			return done, err
		}
		done = append(done, stats)
	}
	return done, nil
}

// compareAll compares every memory of the store with what it must be, and checks the store's own
// invariants.
func compareAll(ctx context.Context, store *warmtier.Store, memories []*memory, p *progress) error {
	left := make(map[string]*memory, len(memories))
	for _, m := range memories {
		if m.last() != absent {
			left[m.id] = m
		}
	}
	for id, content := range store.All() {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := left[id]
		if m == nil {
			return fmt.Errorf("%s: is there twice, or should not be there", id)
		}
		if m.last() != digestOf(content) {
			return fmt.Errorf("%s: has a wrong content", id)
		}
		delete(left, id)
		p.add()
	}
	if len(left) > 0 {
		return fmt.Errorf("%d memories are missing", len(left))
	}
	_, err := store.Verify(ctx)
	return err
}
