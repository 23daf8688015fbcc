package storetest

import (
	"errors"
	"fmt"
	"time"
)

// compactor compacts until it is stopped.
func compactor(c Compacter) func(stop <-chan struct{}) error {
	return func(stop <-chan struct{}) error {
		for n := 0; n < 2 || !done(stop); n++ {
			if err := c.Compact(); err != nil {
				return fmt.Errorf("compact: %w", err)
			}
		}
		return nil
	}
}

// patience is how long the suite waits for what a store may hold up until something else has ended.
func (e *env) patience() <-chan time.Time { return time.After(min(e.Duration, 100*time.Millisecond)) }

// besideCompaction runs work while one compaction after the other runs, until work has returned and a compaction that
// began before it and one that began after it have ended.
func (e *env) besideCompaction(work func() error) error {
	stop := make(chan struct{})
	compacted := make(chan error, 1)
	began := make(chan struct{})
	go func() {
		compacted <- guarded(func() error {
			close(began)
			return compactor(e.st.(Compacter))(stop)
		})
	}()
	<-began
	err := guarded(work)
	close(stop)
	return errors.Join(err, <-compacted)
}

// compactionKeepsWrites writes while compactions run, and looks for each write when they have ended.
func compactionKeepsWrites(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(400)
	if err := l.fill(e.st, 3); err != nil { // the third version, not a deletion
		return err
	}
	for deadline := time.Now().Add(e.Duration); ; {
		err := e.besideCompaction(func() error {
			return e.together(l.writer(e.st, e.rng.Uint64(), 0, 2, 300), l.writer(e.st, e.rng.Uint64(), 1, 2, 300))
		})
		if err != nil {
			return err
		}
		if err := l.check(e.st); err != nil {
			return fmt.Errorf("after writes beside a compaction: %w", err)
		}
		if time.Now().After(deadline) {
			return nil
		}
	}
}

// compactionReadsRightBytes reads while compactions move what is read.
func compactionReadsRightBytes(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(400)
	if err := l.fill(e.st, 3); err != nil {
		return err
	}
	quiet := &ledger{ids: l.ids[:300], sizes: l.sizes, lossy: l.lossy, of: l.of[:300]}
	rest := &ledger{ids: l.ids[300:], sizes: l.sizes, lossy: l.lossy, of: l.of[300:]}
	return e.together(compactor(e.st.(Compacter)), quiet.reader(e.st, e.Seed), l.reader(e.st, e.Seed+1),
		rest.writer(e.st, e.Seed, 0, 1, 300))
}

// compactionKeepsDeletions deletes while compactions run, and looks for what was deleted when they have ended, and
// where the store keeps something after opening it again.
func compactionKeepsDeletions(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(400)
	for deadline := time.Now().Add(e.Duration); ; {
		for i := range l.ids {
			for isDeletion(l.of[i].acked.Load()) || isDeletion(l.of[i].acked.Load()+2) {
				if err := l.write(e.st, i); err != nil {
					return err
				}
			}
		}
		err := e.besideCompaction(func() error {
			for i := range l.ids {
				for !isDeletion(l.of[i].acked.Load()) && i%8 != 0 { // some stay: a compaction has something to copy
					if err := l.write(e.st, i); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err == nil {
			err = l.check(e.st)
		}
		if err == nil && e.Keeps != Nothing {
			if err = e.reopen(); err == nil {
				err = l.check(e.st)
			}
		}
		if err != nil {
			return fmt.Errorf("after deletions beside a compaction: %w", err)
		}
		if time.Now().After(deadline) {
			return nil
		}
	}
}
