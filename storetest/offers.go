package storetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

var small = sizes{8, 1024}

// expiredStaysAway waits for deadlines, and looks for what has passed them in every way that the store offers.
func expiredStaysAway(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	const count = 40
	x := e.st.(Expirer)
	id := func(kind string, i int) string { return fmt.Sprintf("%s/%03d", kind, i) }
	var errs error
	for i := range count {
		errs = errors.Join(errs,
			e.st.Put(id("over", i), content("old", 1, small)), // a version without a deadline, which must not come back
			x.PutTTL(id("over", i), content("over", 1, small), e.TTL),
			x.PutTTL(id("gone", i), content("gone", 1, small), e.TTL),
			x.PutTTL(id("long", i), content("long", 1, small), time.Hour),
			x.PutTTL(id("kept", i), content("kept", 1, small), e.TTL),
			e.st.Put(id("kept", i), content("kept", 2, small))) // without a deadline, as the last write says
	}
	if errs != nil {
		return errs
	}
	look := func(when string) error {
		for i := range count {
			for _, kind := range []string{"over", "gone", "long", "kept"} {
				_, found, err := e.st.Get(id(kind, i))
				expired := kind == "over" || kind == "gone"
				switch {
				case err != nil:
					return err
				case found && expired:
					return fmt.Errorf("%s: %q has expired and is there", when, id(kind, i))
				case !found && !expired && !e.Evicts:
					return fmt.Errorf("%s: %q is lost, it has not expired", when, id(kind, i))
				}
			}
		}
		sc, ok := e.st.(Scanner)
		if !ok {
			return nil
		}
		var bad error
		err := sc.Scan(func(id string, _ []byte) bool {
			if id[:4] == "over" || id[:4] == "gone" {
				bad = fmt.Errorf("%s: a scan yields %q, which has expired", when, id)
			}
			return bad == nil
		})
		return errors.Join(err, bad)
	}
	// A clock may count in whole units of the shortest time to live.
	<-time.After(2*e.TTL + 20*time.Millisecond)
	if err := look("after the deadline"); err != nil {
		return err
	}
	if c, ok := e.st.(Compacter); ok {
		if err := errors.Join(c.Compact(), look("after a compaction")); err != nil {
			return err
		}
	}
	if e.Keeps == Nothing {
		return nil
	}
	if err := e.reopen(); err != nil {
		return err
	}
	return look("in the store opened again")
}

// updatesAreNotLost counts up in several goroutines.
func updatesAreNotLost(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	u := e.st.(Updater)
	var counted [4]atomic.Uint64
	id := func(i int) string { return fmt.Sprintf("counter/%d", i) }
	count := func(stop <-chan struct{}) error {
		for n := 0; n < 100 || !done(stop); n++ {
			err := u.Update(id(n%len(counted)), func(old []byte, found bool) []byte {
				var sum uint64
				if found && len(old) == 8 {
					sum = binary.BigEndian.Uint64(old)
				}
				return binary.BigEndian.AppendUint64(nil, sum+1)
			})
			if err != nil {
				return fmt.Errorf("update: %w", err)
			}
			counted[n%len(counted)].Add(1)
		}
		return nil
	}
	workers := []func(<-chan struct{}) error{count, count, count}
	if c, ok := e.st.(Compacter); ok {
		workers = append(workers, compactor(c))
	}
	if err := e.together(workers...); err != nil {
		return err
	}
	for i := range counted {
		got, found, err := e.st.Get(id(i))
		if err != nil || !found && e.Evicts {
			return err
		}
		if want := counted[i].Load(); !found || len(got) != 8 || binary.BigEndian.Uint64(got) != want {
			return fmt.Errorf("%d updates of %s returned nil, and it counts %x", want, id(i), got)
		}
	}
	return nil
}

// batches are groups of ids that are written together, each as one id of a ledger.
type batches struct {
	*ledger
	width int
}

func (b batches) writes(group int, version uint64) []Write {
	writes := make([]Write, b.width)
	for j := range writes {
		id := fmt.Sprintf("%s/%d", b.ids[group], j)
		writes[j] = Write{ID: id, Delete: isDeletion(version)}
		if !isDeletion(version) {
			writes[j].Content = content(id, version, small)
		}
	}
	return writes
}

func (b batches) write(st Store, group int) error {
	version := b.next(group)
	if err := st.(Batcher).Batch(b.writes(group, version)); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	b.of[group].acked.Store(version)
	return nil
}

// check reads all groups: each must be of one version. REQUIRES: nobody writes.
func (b batches) check(st Store) error {
	whole := &ledger{sizes: small}
	for group, name := range b.ids {
		of := &b.of[group]
		var first uint64
		for j := range b.width {
			id := fmt.Sprintf("%s/%d", name, j)
			whole.ids, whole.of = []string{id}, make([]entry, 1)
			whole.of[0].acked.Store(of.acked.Load())
			whole.of[0].started.Store(of.started.Load())
			whole.of[0].from.Store(of.from.Load())
			version, err := whole.read(st, 0)
			if err != nil {
				return err
			}
			if j == 0 {
				first = version
			}
			if version != first {
				return fmt.Errorf("half a batch: %s/0 has version %d and %q version %d (0 is none)", name, first, id, version)
			}
		}
		b.settle(group, first)
	}
	return nil
}

// batchesAreWhole has two goroutines write the same ids by batches, and looks whose were the last.
func batchesAreWhole(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	const width, rounds = 16, 50
	for round := range rounds {
		write := func(who byte) func(<-chan struct{}) error {
			return func(<-chan struct{}) error {
				writes := make([]Write, width)
				for j := range writes {
					at := j
					if who == 'b' {
						at = width - 1 - j // in the opposite order
					}
					writes[j] = Write{ID: fmt.Sprintf("batch/%d", at), Content: []byte{who, byte(round)}}
				}
				return e.st.(Batcher).Batch(writes)
			}
		}
		if err := e.together(write('a'), write('b'), write('c')); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		var first string
		for j := range width {
			got, found, err := e.st.Get(fmt.Sprintf("batch/%d", j))
			if err != nil || !found && e.Evicts {
				return err
			}
			if j == 0 {
				first = string(got)
			}
			if !found || string(got) != first || len(got) != 2 || got[1] != byte(round) {
				return fmt.Errorf("batches at the same time are mixed: batch/0 has %q and batch/%d %q, in round %d", first,
					j, got, round)
			}
		}
	}
	return nil
}
