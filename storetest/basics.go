package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// readsBack stores ids and contents of awkward sizes, and replaces and deletes them.
func readsBack(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	ids := []string{"a", "A", " ", "a/b", "../a", "a%2Fb", "\x00", "a\x00", "a\x00b", "\xff\xfe", "ä", "😀",
		strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("y", e.MaxIDLen)}
	sizes := []int{0, 1, 7, 63, 64, 255, 256, 1000, 4095, 4096, 4097, e.MaxContentLen / 2, e.MaxContentLen}
	want := make(map[string][]byte)
	expect := func(when string) error {
		for _, id := range ids {
			got, found, err := e.st.Get(id)
			content, there := want[id]
			switch {
			case err != nil:
				return fmt.Errorf("%s: get %q: %w", when, brief(id), err)
			case found && !there:
				return fmt.Errorf("%s: %q is there, with %d bytes", when, brief(id), len(got))
			case there && !found && !e.Evicts:
				return fmt.Errorf("%s: %q is absent, %d bytes were stored", when, brief(id), len(content))
			case found && !bytes.Equal(got, content):
				return fmt.Errorf("%s: %q has %d bytes that are not the %d that were stored", when, brief(id),
					len(got), len(content))
			}
		}
		return nil
	}
	errs := expect("in an empty store")
	for round, size := range sizes {
		for i, id := range ids {
			if (round+i)%4 == 3 {
				delete(want, id)
				if err := e.st.Delete(id); err != nil {
					return fmt.Errorf("delete %q: %w", brief(id), err)
				}
				continue
			}
			b := bytes.Repeat([]byte{byte(round + i)}, size)
			if err := e.st.Put(id, b); err != nil {
				return fmt.Errorf("put %q with %d bytes: %w", brief(id), size, err)
			}
			want[id] = b
		}
		errs = errors.Join(errs, expect(fmt.Sprintf("with contents of %d bytes", size)))
	}
	return errs
}

func brief(id string) string {
	if len(id) > 64 {
		return fmt.Sprintf("%.10s... of %d bytes", id, len(id))
	}
	return id
}

// slicesAreCallers changes the slices that were given to the store, and those that it returned.
func slicesAreCallers(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	const id = "slice"
	for _, size := range []int{8, 100, 1000, e.MaxContentLen} {
		given, want := bytes.Repeat([]byte("g"), size), bytes.Repeat([]byte("g"), size)
		if err := e.st.Put(id, given); err != nil {
			return err
		}
		clear(given)
		first, found, err := e.st.Get(id)
		if err != nil || !found && e.Evicts {
			return err
		}
		if !found || !bytes.Equal(first, want) {
			return fmt.Errorf("the caller changed the slice of a Put of %d bytes that had returned, and with it the store",
				size)
		}
		clear(first)
		second, found, err := e.st.Get(id)
		if err != nil {
			return err
		}
		if found && !bytes.Equal(second, want) {
			return fmt.Errorf("the caller changed the slice that Get returned, of %d bytes, and with it the store", size)
		}
		err = errors.Join(e.st.Put(id, bytes.Repeat([]byte("n"), size)), e.st.Delete(id), e.st.Put("other", given))
		if c, ok := e.st.(Compacter); ok && err == nil {
			err = c.Compact()
		}
		if err != nil {
			return err
		}
		if found && !bytes.Equal(second, want) {
			return fmt.Errorf("a slice of %d bytes that Get had returned changed when its id was replaced and deleted", size)
		}
	}
	return nil
}

// readsAreNeverOld has some goroutines write, each its own ids, and others read them all.
func readsAreNeverOld(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(12) // few: they meet
	err := e.together(
		l.writer(e.st, e.Seed, 0, 3, 200), l.writer(e.st, e.Seed, 1, 3, 200), l.writer(e.st, e.Seed, 2, 3, 200),
		l.reader(e.st, e.Seed), l.reader(e.st, e.Seed+1))
	if err != nil {
		return err
	}
	return l.check(e.st)
}

// viewsStay looks at the bytes of a view before and after their id was replaced, deleted and compacted.
func viewsStay(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(32)
	if err := l.fill(e.st, 1); err != nil {
		return err
	}
	v := e.st.(Viewer)
	for i, id := range l.ids {
		acked := l.of[i].acked.Load()
		var seen error
		_, err := v.View(id, func(got []byte) {
			if _, seen = l.judge(i, acked, got, true); seen != nil {
				return
			}
			// Stores whose views exclude writes are left alone: the writes wait until the view has returned.
			writing := make(chan error, 1)
			go func() { writing <- guarded(func() error { return e.bury(l, i) }) }()
			select {
			case seen = <-writing:
			case <-e.patience():
				defer func() { seen = errors.Join(seen, <-writing) }()
			}
			if _, err := versionOf(id, got, l.sizes); err != nil {
				seen = errors.Join(seen, fmt.Errorf("the view of %q changed in the hands of its reader: %w", id, err))
			}
		})
		if err = errors.Join(err, seen); err != nil {
			return err
		}
	}
	return l.check(e.st)
}

// bury replaces and deletes id i, writes more than it had, and compacts.
func (e *env) bury(l *ledger, i int) error {
	for range 4 {
		if err := l.write(e.st, i); err != nil {
			return err
		}
	}
	for j := range l.ids {
		if j != i && j%4 == i%4 {
			if err := l.write(e.st, j); err != nil {
				return err
			}
		}
	}
	if c, ok := e.st.(Compacter); ok {
		return c.Compact()
	}
	return nil
}

// scanSeesEachOnce iterates while others write and compact.
func scanSeesEachOnce(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	untouched, l := 200, e.newLedger(300)
	if err := l.fill(e.st, 3); err != nil {
		return err
	}
	at := make(map[string]int)
	for i, id := range l.ids {
		at[id] = i
	}
	writers := &ledger{ids: l.ids[untouched:], sizes: l.sizes, lossy: l.lossy, of: l.of[untouched:]}
	scan := func() error {
		times := make(map[string]int)
		acked := make([]uint64, len(l.ids))
		for i := range acked {
			acked[i] = l.of[i].acked.Load()
		}
		var bad error
		err := e.st.(Scanner).Scan(func(id string, got []byte) bool {
			times[id]++
			if i, ok := at[id]; !ok {
				bad = fmt.Errorf("a scan yields %q, which was never stored", id)
			} else if _, bad = l.judge(i, acked[i], got, true); bad != nil {
				bad = fmt.Errorf("a scan yields what it must not: %w", bad)
			} else if times[id] == 2 {
				bad = fmt.Errorf("a scan yields %q twice", id)
			}
			return bad == nil
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
		for i, id := range l.ids[:untouched] {
			if times[id] == 0 && !isDeletion(l.of[i].acked.Load()) && !e.Evicts {
				return fmt.Errorf("a scan does not yield %q, which was there throughout", id)
			}
		}
		return nil
	}
	var scans atomic.Int64
	workers := []func(<-chan struct{}) error{
		writers.writer(e.st, e.Seed, 0, 2, 200), writers.writer(e.st, e.Seed, 1, 2, 200),
		func(stop <-chan struct{}) error {
			for !done(stop) || scans.Load() < 3 {
				if err := scan(); err != nil {
					return err
				}
				scans.Add(1)
			}
			return nil
		},
	}
	if c, ok := e.st.(Compacter); ok {
		workers = append(workers, compactor(c))
	}
	return e.together(workers...)
}
