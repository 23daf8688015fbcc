package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stressConfigs returns the options that every test left to the scheduler is run with, by name.
func stressConfigs() map[string]*Options {
	configs := map[string]*Options{}
	for _, workers := range []int{1, 4} {
		for _, overhead := range []int64{1, -1} {
			name := fmt.Sprintf("workers=%d/overhead=%d", workers, overhead)
			configs[name] = compacting(workers, overhead)
		}
	}
	return configs
}

// Goal: ten goroutines that put, delete, get, view, iterate, verify and compact one set of memories
// see a linearizable store, all the time.
//
// What would break: anything. This test looks for the interleavings that nobody thought of.
//
// Method: every answer is checked against the ledger. Contents are of one to a few thousand bytes,
// and now and then larger than a segment; segments are small, so that compactions have many rounds.
func TestStress_Linearizable(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) { stressLinearizable(t, opts) })
	}
}

func stressLinearizable(t *testing.T, opts *Options) {
	const n, writers, static = 360, 3, 60
	if opts.Compaction.Workers > 1 {
		oversubscribe(t)
	}
	s := openTest(t, opts, hooks{})
	rng := seeded(t)
	most := 1500
	if raceEnabled {
		most = 500
	}
	l := newLedger(n, func(i int, version int64) int {
		if i%50 == 7 && version%8 == 3 {
			return minSegmentSize + 1000
		}
		return 16 + int(version*31+int64(i)*17)%most
	})
	for i := range static { // present and untouched throughout
		require.NoError(t, l.write(s, n-1-i))
	}
	c := newCrew(t)
	seed := func() *rand.Rand { return rand.New(rand.NewPCG(rng.Uint64(), 0)) }
	for w := range writers {
		r := seed()
		c.loop(func() error { return l.write(s, r.IntN((n-static)/writers)*writers+w) })
	}
	for _, read := range []func(*Store, int) error{l.get, l.get, l.get, l.view, l.has} {
		r := seed()
		c.loop(func() error { return read(s, r.IntN(n)) })
	}
	turn := 0
	c.loop(func() error { // long calls are rare, or little else would happen
		switch turn++; turn % 100 {
		case 0:
			return l.iterate(s)
		case 50:
			report, err := s.Verify(context.Background())
			if err != nil {
				err = fmt.Errorf("%w: %+v", err, report.Findings)
			}
			return err
		}
		return nil
	})
	var rounds atomic.Int64
	r := seed()
	c.loop(func() error {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if r.IntN(4) == 0 { // a fourth of the compactions is cancelled somewhere
			timer := time.AfterFunc(time.Duration(r.IntN(2000))*time.Microsecond, cancel)
			defer timer.Stop()
		}
		stats, err := s.Compact(ctx)
		rounds.Add(int64(stats.Rounds))
		if errors.Is(err, ErrCompactionFailed) && errors.Is(err, context.Canceled) {
			err = nil
		}
		return err
	})
	c.wait(testDuration(t))
	l.requireFinal(t, s)
	st := s.Stats()
	t.Logf("%d puts, %d deletes, %d gets, %d compactions (%d cancelled), %d rounds",
		st.Puts, st.Deletes, st.Gets, st.Compactions, st.CompactionFailures, rounds.Load())
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.Zero(t, s.Stats().DeadBytes)
	l.requireFinal(t, s)
}

// Goal: a reader never sees a counter go back.
//
// The interleaving: the compaction stages version 7, version 8 is written, and the flip makes 7
// current again; or undo does.
//
// Method: few hot counters, each raised by its own writer as fast as it can, each read by every
// reader in every way; compactions run without pause, and some fail in the middle of a commit.
func TestStress_CounterNeverGoesBack(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) {
			const n, size = 8, 100
			if opts.Compaction.Workers > 1 {
				oversubscribe(t)
			}
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, n, size)
			fill(t, s, n, 600, size)
			var flips atomic.Int64
			s.hooks.at = func(p point) error {
				if p == pointCompactFlip && flips.Add(1)%997 == 0 {
					return errInjected
				}
				return nil
			}
			c := newCrew(t)
			for w := range 2 {
				version := 0
				c.loop(func() error {
					version++
					for i := w; i < n; i += 2 {
						if err := s.Put(idOf(i), contentOf(i, version, size)); err != nil {
							return err
						}
					}
					// Live memories beside it move with every compaction.
					return s.Put(idOf(n+version%300), contentOf(n+version%300, 0, size))
				})
			}
			for range 2 {
				c.loop(countersReader(s, n, size))
			}
			c.loop(func() error {
				_, err := s.Compact(context.Background())
				if errors.Is(err, errInjected) {
					err = nil
				}
				return err
			})
			c.wait(testDuration(t) / 2)
			s.hooks.at = nil
			require.Equal(t, 600, s.Len())
			t.Logf("%d compactions, %d undone", s.Stats().Compactions, s.Stats().CompactionFailures)
		})
	}
}

// countersReader reads counters 0 to n-1 in every way, and remembers the last value of each.
func countersReader(s *Store, n, size int) func() error {
	last := make([]uint64, n)
	see := func(i int, content []byte, err error) error {
		if err != nil {
			return err
		}
		version := binary.LittleEndian.Uint64(content[8:])
		if version < last[i] {
			return fmt.Errorf("counter %d went back from %d to %d", i, last[i], version)
		}
		last[i] = version
		if !bytes.Equal(content, contentOf(i, int(version), size)) {
			return fmt.Errorf("counter %d: wrong bytes at %d", i, version)
		}
		return nil
	}
	turn := 0
	return func() error {
		turn++
		i := turn % n
		switch turn / n % 16 {
		case 0:
			for id, content := range s.All() {
				if i := numberOf(id); i < n {
					if err := see(i, content, nil); err != nil {
						return err
					}
				}
			}
			turn += n
			return nil
		case 1, 3, 5, 7, 9, 11, 13, 15:
			return s.View(idOf(i), func(content []byte) error { return see(i, content, nil) })
		}
		content, err := s.Get(idOf(i))
		return see(i, content, err)
	}
}

// Goal: a delete never uncovers an older version.
//
// The interleaving: versions 1 to 20 of a memory lie in as many segments. One version is staged,
// the memory is deleted, and a flip, or an undone flip, that does not compare makes the version
// live again.
//
// Method: the goroutine that writes a memory deletes it and reads it until several compactions have
// passed; every read must find nothing.
func TestStress_DeleteUncoversNothing(t *testing.T) {
	for name, opts := range stressConfigs() {
		t.Run(name, func(t *testing.T) {
			const n, size, versions = 4, 500, 20
			if opts.Compaction.Workers > 1 {
				oversubscribe(t)
			}
			s := openTest(t, opts, hooks{})
			fill(t, s, 2*n, 2*n+300, size)
			var flips, compactions atomic.Int64
			s.hooks.at = func(p point) error {
				if p == pointCompactFlip && flips.Add(1)%499 == 0 {
					return errInjected
				}
				return nil
			}
			c := newCrew(t)
			c.loop(func() error {
				_, err := s.Compact(context.Background())
				compactions.Add(1)
				if errors.Is(err, errInjected) {
					err = nil
				}
				return err
			})
			for i := range n {
				deleted := false
				c.loop(func() error {
					if err := writeVersions(s, i, versions, size); err != nil {
						return err
					}
					if err := deletePresent(s, i); err != nil {
						return err
					}
					deleted = true
					for until := compactions.Load() + 3; compactions.Load() < until && !c.stopped.Load(); {
						if err := expectVersion(s, i, -1); err != nil {
							return err
						}
						runtime.Gosched()
					}
					return nil
				})
				t.Cleanup(func() { require.True(t, deleted) })
			}
			c.wait(testDuration(t) / 2)
			for i := range n {
				require.NoError(t, expectVersion(s, i, -1))
			}
			requireContents(t, s, 2*n, 2*n+300, size, all)
			t.Logf("%d deletes, %d compactions, %d undone",
				s.Stats().Deletes, s.Stats().Compactions, s.Stats().CompactionFailures)
		})
	}
}

// writeVersions puts versions of memory i, with enough between for them to lie in many segments.
func writeVersions(s *Store, i, versions, size int) error {
	for v := range versions {
		if err := s.Put(idOf(i), contentOf(i, v, size)); err != nil {
			return err
		}
		for j := range 15 {
			other := 8 + (i*versions+v*15+j)%300
			if err := s.Put(idOf(other), contentOf(other, 0, size)); err != nil {
				return err
			}
		}
	}
	return nil
}
