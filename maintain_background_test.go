package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// panicking is a log handler that panics.
type panicking struct{ slog.Handler }

func (panicking) Enabled(context.Context, slog.Level) bool  { return true }
func (panicking) Handle(context.Context, slog.Record) error { panic("from the handler") }

// Goal: Maintain works without a background cycle, and there is none when it is disabled or the
// store is read-only. Method: look for its goroutine in the stacks, since other tests may have left
// some.
func TestMaintain_Disabled(t *testing.T) {
	background := func() int {
		stacks := make([]byte, 1<<20)
		return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*Store).repeat"))
	}
	require.Zero(t, background())
	s := openTest(t, maintained(), hooks{})
	require.Zero(t, background())
	fragment(t, s, 600)
	require.True(t, maintain(t, s).Compacted)

	opts := maintained()
	opts.ReadOnly, opts.Maintenance.Disabled = true, false
	s = openTest(t, opts, hooks{})
	require.Zero(t, background())
	_, err := s.Maintain(context.Background())
	require.ErrorIs(t, err, ErrReadOnly)
	require.Zero(t, s.Stats().Maintenance.Cycles)
}

// Goal: the background cycle runs every Interval, compacts by the rules, logs what it did without
// ids, and ends with Close. Method: the clock of a bubble.
func TestMaintain_BackgroundCycle(t *testing.T) {
	for _, c := range []struct {
		name             string
		option, interval time.Duration
	}{{"default", 0, 30 * time.Second}, {"one minute", time.Minute, time.Minute}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, log := logTo()
				opts := maintained()
				opts.Logger = logger
				opts.Maintenance.Disabled = false
				opts.Maintenance.Interval = c.option
				s := openTest(t, opts, hooks{})
				fragment(t, s, 0)

				afterwards(c.interval - 1)
				require.Zero(t, s.Stats().Maintenance.Cycles)
				afterwards(1)
				require.EqualValues(t, 1, s.Stats().Maintenance.Cycles)
				require.Equal(t, SkipThreshold, s.Stats().Maintenance.LastSkipped)
				require.Contains(t, log.String(), "level=DEBUG")

				deleteWhere(t, s, 0, 600, all)
				require.Zero(t, s.Stats().Compactions)
				afterwards(c.interval)
				st := s.Stats()
				require.EqualValues(t, 2, st.Maintenance.Cycles)
				require.EqualValues(t, 1, st.Maintenance.Compactions)
				require.EqualValues(t, 1, st.Compactions)
				require.Zero(t, st.DeadBytes)
				require.Contains(t, log.String(), "level=INFO")
				require.Contains(t, log.String(), fmt.Sprintf("reclaimed_bytes=%d", 600*recordBytes))
				require.NotContains(t, log.String(), "memory-")
				requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= 600 })

				require.NoError(t, s.Close())
				afterwards(100 * c.interval)
				require.EqualValues(t, 2, s.Stats().Maintenance.Cycles, "cycles after Close")
			})
		})
	}
}

// Goal: an automatic compaction that fails is logged and counted, and the cycle goes on. Method: an
// injected fault in the first one.
func TestMaintain_BackgroundFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := logTo()
		opts := maintained()
		opts.Logger = logger
		opts.Maintenance.Disabled = false
		opts.Maintenance.Interval = time.Second
		s := openTest(t, opts, hooks{at: failAt(pointCompactBuilt, 1, errors.New("injected fault"))})
		fill(t, s, 0, 1000, 100)
		synctest.Wait() // nothing is due when writes wake the background
		deleteWhere(t, s, 0, 600, all)
		before := settled(s)
		afterwards(time.Second)
		st := s.Stats()
		require.EqualValues(t, 1, st.Maintenance.Compactions)
		require.EqualValues(t, 1, st.CompactionFailures)
		require.Zero(t, st.Compactions)
		requireSameState(t, before, st)
		require.Contains(t, log.String(), "level=ERROR")
		require.Contains(t, log.String(), "injected fault")

		afterwards(time.Second)
		st = s.Stats()
		require.EqualValues(t, 2, st.Maintenance.Compactions)
		require.EqualValues(t, 1, st.CompactionFailures)
		require.EqualValues(t, 1, st.Compactions)
		require.Zero(t, st.DeadBytes)
		requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= 600 })
		require.NoError(t, s.Close())
	})
}

// Goal: when memory is short the cycle warns and tries again. Method: nothing is available at
// first.
func TestMaintain_BackgroundMemoryShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := logTo()
		opts := maintained()
		opts.Logger = logger
		opts.Maintenance.Disabled = false
		opts.Maintenance.Interval = time.Second
		asked := 0
		s := openTest(t, opts, hooks{available: func() (int64, bool) {
			asked++
			return int64(asked-1) << 40, true
		}})
		fill(t, s, 0, 1000, 100)
		synctest.Wait() // nothing is due when writes wake the background
		dropSurvivor(s)
		deleteWhere(t, s, 0, 600, all)
		afterwards(time.Second)
		require.Equal(t, SkipMemory, s.Stats().Maintenance.LastSkipped)
		require.Contains(t, log.String(), "level=WARN")
		afterwards(time.Second)
		require.Zero(t, s.Stats().DeadBytes)
		require.NoError(t, s.Close())
	})
}

// Goal: Close ends an automatic compaction under way, without an error in the log: nothing failed.
// Method: hold the compaction at a point while Close begins.
func TestMaintain_CloseEndsCompaction(t *testing.T) {
	hold := pauseAt(pointCompactWalked)
	logger, log := logTo()
	opts := maintained()
	opts.Logger = logger
	opts.Maintenance.Disabled = false
	opts.Maintenance.Interval = time.Millisecond
	s := openTest(t, opts, hooks{at: hold.hook})
	fragment(t, s, 1000)
	fill(t, s, 0, 300, 100)
	<-hold.reached
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	<-s.lifetime.Done()
	close(hold.proceed)
	require.NoError(t, <-closed)
	require.NotContains(t, log.String(), "level=ERROR")
}

// Goal: Close ends a compaction that the background cycle started, and the cycle with it.
func TestMaintain_ClosedDuringAutomaticCompaction(t *testing.T) {
	paused := pauseAt(pointCompactRecord)
	opts := bounded(2)
	opts.Maintenance = MaintenanceOptions{
		Interval: time.Millisecond, FragmentationThreshold: 0.2, MinBytes: 1, MinPeriod: 1,
	}
	s := openTest(t, opts, hooks{at: paused.hook})
	fill(t, s, 0, 1000, layoutSize)
	fill(t, s, 0, 900, layoutSize)
	<-paused.reached
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.lifetime.Done()
	close(paused.proceed)
	require.NoError(t, <-closed)
	require.False(t, s.Stats().CompactionInProgress)
}

// Goal: Maintain, Compact and the background cycle can run into each other: one compacts, the
// others report that it does, and the store comes to no harm.
//
// What would break: two compactions at once; a cycle that outlives Close.
//
// Method: the cycle has an interval of a millisecond and compacts whenever there is something to
// gain; two goroutines call Maintain and Compact in a loop, others write and read.
func TestMaintain_AgainstCompact(t *testing.T) {
	opts := bounded(2)
	opts.Maintenance = MaintenanceOptions{
		Interval:               time.Millisecond,
		FragmentationThreshold: 0.2,
		MinBytes:               1,
		MinPeriod:              1, // ns
	}
	s := openTest(t, opts, hooks{})
	const n = 200
	l := newLedger(n, func(i int, version int64) int { return 16 + (i*int(version))%700 })
	c := newCrew(t)
	for w := range 2 {
		r := rand.New(rand.NewPCG(1, uint64(w)))
		c.loop(func() error { return l.write(s, r.IntN(n/2)*2+w) })
	}
	r := rand.New(rand.NewPCG(2, 2))
	c.loop(func() error { return errors.Join(l.get(s, r.IntN(n)), l.view(s, r.IntN(n))) })
	c.loop(func() error {
		report, err := s.Maintain(context.Background())
		if err == nil && report.Compacted == (report.Skipped != "") {
			err = fmt.Errorf("compacted %v, skipped %q", report.Compacted, report.Skipped)
		}
		return err
	})
	c.loop(func() error {
		_, err := s.Compact(context.Background())
		if errors.Is(err, ErrCompactionInProgress) {
			err = nil
		}
		return err
	})
	c.wait(testDuration(t))

	require.True(t, waitFor(func() bool { // nothing may be dead any more
		for i := range n {
			if err := l.write(s, i); err != nil {
				t.Error(err)
			}
		}
		return s.Stats().Maintenance.Compactions > 0
	}))
	require.Zero(t, s.Stats().CompactionFailures)
	report, err := s.Verify(context.Background())
	require.NoError(t, err, "findings: %+v", report.Findings)
	for i := range n {
		require.NoError(t, l.get(s, i))
	}
	t.Logf("%+v", s.Stats())
	require.NoError(t, s.Close()) // the cycle must be gone before the hooks are touched again
}
