//go:build unix

package warmtier

import (
	"context"
	"errors"
	"log/slog"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

// failedFlush returns the directory of a store whose last flush failed, as its end left it: of so many
// memories the first hundred were durable.
func failedFlush(t *testing.T, memories int) *shadow.FS {
	t.Helper()
	d := newShadow()
	s := oneLaneStore(t, d) // so that what is in which segment does not depend on the machine
	fill(t, s, 0, 100, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 100, memories, 1000)
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallSync {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Sync(), ErrSyncFailed)
	for _, f := range d.Files { // as the next tries of others may do
		f.FailSync(0, len(f.Current))
	}
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	d.Fault = nil
	return d
}

// After a failed flush the kernel believes clean what it has not written. What the next Open finds is
// durable all the same.
func TestRecover_FailedFlush(t *testing.T) {
	d := failedFlush(t, 200)
	s := shadowStore(t, d, shadowOptions())
	requireContents(t, s, 0, 200, 1000, all)
	require.NoError(t, s.Sync())
	after := d.Crash(nothingKept)
	closeShadow(t, s, d)
	s = shadowStore(t, after, shadowOptions())
	requireContents(t, s, 0, 200, 1000, all)
	closeShadow(t, s, after)
}

// The kernel may also drop it from its cache before the next Open. Then it is gone, and called damage where
// anything shows it; what was durable is there, and what Open does find is durable. Nothing shows it where all
// of it is dropped, unless there are new segments.
func TestRecover_FailedFlushAndEviction(t *testing.T) {
	rng := seeded(t)
	corrupt, opened := 0, 0
	for n := range scaled(200) { // at least ten, and every case comes up in eight
		chance := []float64{0, 0.01, 1, rng.Float64()}[n%4]
		memories := []int{200, 101}[n/4%2] // with two new segments and with none
		d := failedFlush(t, memories)
		d.Evict(func() bool { return rng.Float64() < chance })
		s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
		switch {
		case chance == 0:
			require.NoError(t, err)
			requireContents(t, s, 0, memories, 1000, all)
		case chance == 1 && memories == 101:
			require.NoError(t, err)
			require.Equal(t, 100, s.Len())
		case chance == 1:
			require.ErrorIs(t, err, ErrCorrupt)
		}
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			require.NoError(t, released(d, s))
			corrupt++
			continue
		}
		opened++
		found := contentsOf(t, s)
		requireContents(t, s, 0, 100, 1000, all)
		for i := 100; i < memories; i++ {
			if content, ok := found[idOf(i)]; ok {
				require.Equal(t, contentOf(i, 0, 1000), content)
			}
		}
		after := d.Crash(shadow.RandomLoss(rng))
		closeShadow(t, s, d)
		s = shadowStore(t, after, shadowOptions())
		require.Equal(t, found, contentsOf(t, s))
		closeShadow(t, s, after)
	}
	t.Logf("%d opened, %d called damaged", opened, corrupt)
}

// A sync of the directory that failed is final as that of a file is: no later one acknowledges records in
// a file whose name a power loss may take. Method: of the syncs in a call the first one fails, in another
// run the second, and so on, and the disk is well again at once.
func TestRecover_FailedSyncOfDirectory(t *testing.T) {
	for _, call := range []string{"sync", "compact", "put"} {
		t.Run(call, func(t *testing.T) {
			nth := 1
			for failedSyncOfDirectory(t, call, nth) {
				nth++
			}
			require.Greater(t, nth, 2, "names first, then the manifest")
		})
	}
}

// failedSyncOfDirectory reports whether the call syncs the directory so many times.
func failedSyncOfDirectory(t *testing.T, call string, nth int) (failed bool) {
	d := newShadow()
	opts := shadowOptions()
	opts.SyncWrites = call == "put"
	s := shadowStore(t, d, opts)
	fill(t, s, 0, 100, 1000)
	fill(t, s, 0, 100, 1000) // so that a compaction has something to do
	require.NoError(t, s.Sync())
	written, durable := 100, 100
	put := func() (err error) {
		for ; written < 200 && err == nil; written++ {
			err = s.Put(idOf(written), contentOf(written, 0, 1000))
			if err == nil && opts.SyncWrites {
				durable = written + 1
			}
		}
		return err
	}
	if call != "put" {
		require.NoError(t, put())
	}
	passed := 0
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallSyncDir {
			if passed++; passed == nth {
				return syscall.EIO
			}
		}
		return nil
	}
	err := map[string]func() error{
		"sync": s.Sync, "put": put, "compact": func() error { _, err := s.Compact(context.Background()); return err },
	}[call]()
	if passed < nth {
		require.NoError(t, err)
		closeShadow(t, s, d)
		return false
	}
	require.ErrorIs(t, err, syscall.EIO)
	for range 2 {
		require.ErrorIs(t, s.Sync(), ErrSyncFailed)
		require.ErrorIs(t, s.Put(idOf(0), nil), ErrSyncFailed)
	}
	lost, killed := d.Crash(nothingKept), d.Kill()
	require.ErrorIs(t, s.Close(), ErrSyncFailed)

	s = shadowStore(t, lost, opts)
	requireContents(t, s, 0, durable, 1000, all)
	closeShadow(t, s, lost)
	s = shadowStore(t, killed, opts)
	requireContents(t, s, 0, durable, 1000, all)
	found := contentsOf(t, s)
	lost = killed.Crash(nothingKept)
	closeShadow(t, s, killed)
	s = shadowStore(t, lost, opts)
	require.Equal(t, found, contentsOf(t, s))
	closeShadow(t, s, lost)
	return true
}

// The same with the headers that Close syncs last: what the next Open has verified must not pass for a tail
// that was never durable.
func TestRecover_FailedFlushOfStates(t *testing.T) {
	d := newShadow()
	failing := false
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
		failing = failing || p == pointCloseFlushed
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 20, 100)
	d.Fault = func(shadow.Kind, string) error {
		if failing {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	d.Fault = nil
	s = shadowStore(t, d, shadowOptions())
	after := d.Crash(nothingKept)
	closeShadow(t, s, d)
	names := segmentNames(after)
	require.NotEmpty(t, names)
	damageAt(after, names[0], layout.HeaderSize+4)
	_, err = openShadow(after, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
}

// Goal: a failed flush is one error in the log, whoever asked for it.
func TestLog_SyncFailed(t *testing.T) {
	log := &recorder{t: t}
	opts := quiet()
	opts.Logger = slog.New(log)
	s := openDir(t, t.TempDir(), opts)
	log.attach(s)
	log.take(s, slog.LevelInfo)
	require.Error(t, s.fail(errors.New("boom")))
	require.Error(t, s.fail(errors.New("boom again")))
	require.Equal(t, []string{"sync failed, the store takes no more writes"}, log.take(s, slog.LevelError))
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
}
