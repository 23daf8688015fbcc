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

// failedFlush returns the directory of a store with this many memories whose last flush failed, as
// the end of the store left it: the first hundred were durable before.
func failedFlush(t *testing.T, memories int) *shadow.FS {
	t.Helper()
	d := newShadow()
	s := oneLaneStore(t, d) // which segment a memory is in does not depend on the machine
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
	for _, f := range d.Files { // as the next attempts of others may do
		f.FailSync(0, len(f.Current))
	}
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	d.Fault = nil
	return d
}

// Goal: what the next Open finds after a failed flush is durable, although the kernel believes
// clean what it has not written.
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

// Goal: when the kernel also drops from its cache what it has not written, the next Open finds what
// was durable before, makes durable whatever else it finds, and calls the rest damage where
// anything shows that it is gone. Nothing does where all of it is dropped, unless there are new
// segments.
func TestRecover_FailedFlushAndEviction(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	corrupt, opened := 0, 0
	for n := range scaled(stride(t, 64, 200)) { // every case comes up in eight
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

// Goal: a failed sync of the directory is as final as that of a file: no later one acknowledges
// records in a file whose name a power loss may take. Method: the first sync of a call fails, in
// another run the second, and so on, and the disk is well again at once.
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

// failedSyncOfDirectory fails the nth sync of the directory in a call, and reports whether there is
// one.
func failedSyncOfDirectory(t *testing.T, call string, nth int) (failed bool) {
	d := newShadow()
	opts := shadowOptions()
	opts.SyncWrites = call == "put"
	s := shadowStore(t, d, opts)
	fill(t, s, 0, 100, 1000)
	fill(t, s, 0, 100, 1000) // gives a compaction something to do
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
		d.Fault = nil
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

// Goal: when the headers that Close syncs last are not written, what the next Open has verified
// does not pass for a tail that was never durable.
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
	require.NoError(t, s.mapper.unreturned.returnAll()) // nothing could be unmapped either
	s = shadowStore(t, d, shadowOptions())
	after := d.Crash(nothingKept)
	closeShadow(t, s, d)
	names := segmentNames(after)
	require.NotEmpty(t, names)
	damageAt(after, names[0], layout.HeaderSize+4)
	_, err = openShadow(after, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
}

// Goal: a failed flush is one error in the log, whatever call asked for it.
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
