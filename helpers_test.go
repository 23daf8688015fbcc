package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// quiet are options without a background cycle and with small segments, so that a few hundred
// memories fill several.
func quiet() *Options {
	return &Options{SegmentSize: minSegmentSize, Maintenance: MaintenanceOptions{Disabled: true}}
}

// openTest opens a memory store; at the end of the test it must verify, and leave neither mapping
// nor goroutine behind.
func openTest(t testing.TB, opts *Options, h hooks) *Store {
	t.Helper()
	goroutines := runtime.NumGoroutine()
	s, err := open("", opts, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.hooks.at = nil
		if !s.isClosed() {
			requireIntact(t, s)
		}
		require.NoError(t, s.Close())
		requireReleased(t, s, goroutines)
	})
	return s
}

func (s *Store) isClosed() bool {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	return s.closed
}

// requireIntact runs Verify on a store nobody writes to.
func requireIntact(t testing.TB, s *Store) {
	t.Helper()
	report, err := s.Verify(context.Background())
	require.NoError(t, err, "findings: %+v", report.Findings)
	require.True(t, report.Quiescent)
	require.Equal(t, s.Len(), report.Memories)
}

// requireReleased checks that a closed store holds no mapping, and that the process is down to the
// goroutines it had. Goroutines that have been told to end may need a moment to be gone.
func requireReleased(t testing.TB, s *Store, goroutines int) {
	t.Helper()
	require.Zero(t, s.mapper.bytes.Load(), "bytes mapped after Close")
	require.Zero(t, s.mapper.mappings.Load(), "mappings after Close")
	for range 1_000_000 {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		runtime.Gosched()
	}
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines after Close")
}

// scaled is n, or less under the race detector, where everything takes about ten times as long.
func scaled(n int) int {
	if raceEnabled {
		return max(1, n/20)
	}
	return n
}

// seeded returns a source of random numbers and logs its seed; WARMTIER_TEST_SEED replays a run.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("WARMTIER_TEST_SEED"); v != "" {
		var err error
		seed, err = strconv.ParseUint(v, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("WARMTIER_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func idOf(i int) string { return fmt.Sprintf("memory-%08d", i) }

// contentOf is a content of size bytes (at least 16) that says whose it is and which version:
// wrong bytes never equal it.
func contentOf(i int, version, size int) []byte {
	b := make([]byte, max(16, size))
	binary.LittleEndian.PutUint64(b, uint64(i))
	binary.LittleEndian.PutUint64(b[8:], uint64(version))
	for j := 16; j < len(b); j++ {
		b[j] = byte(i*7 + version*13 + j)
	}
	return b
}

// fill stores memories from to to-1, version 0.
func fill(t testing.TB, s *Store, from, to, size int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
	}
}

// requireContents checks memories from to to-1: present with version 0 if keep says so, else absent.
func requireContents(t testing.TB, s *Store, from, to, size int, keep func(i int) bool) {
	t.Helper()
	for i := from; i < to; i++ {
		got, err := s.Get(idOf(i))
		if !keep(i) {
			require.ErrorIs(t, err, ErrNotFound, "memory %d", i)
			continue
		}
		require.NoError(t, err, "memory %d", i)
		if !bytes.Equal(got, contentOf(i, 0, size)) {
			require.Failf(t, "wrong bytes", "memory %d", i)
		}
	}
}

func all(int) bool   { return true }
func odd(i int) bool { return i%2 == 1 }
func none(int) bool  { return false }

// deleteWhere deletes memories from to to-1 for which drop says so.
func deleteWhere(t testing.TB, s *Store, from, to int, drop func(i int) bool) {
	t.Helper()
	for i := from; i < to; i++ {
		if drop(i) {
			existed, err := s.Delete(idOf(i))
			require.NoError(t, err)
			require.True(t, existed, "memory %d", i)
		}
	}
}

// failAt is a hook that fails the n-th time (from 1) a point is passed.
func failAt(p point, n int64, err error) func(point) error {
	var passed atomic.Int64
	return func(q point) error {
		if q == p && passed.Add(1) == n {
			return err
		}
		return nil
	}
}

// pause is a hook that stops whoever first passes a point, until it is let go.
type pause struct {
	at      point
	reached chan struct{} // closed when somebody waits at the point
	proceed chan struct{} // close it to let them go
	once    atomic.Bool
}

func pauseAt(p point) *pause {
	return &pause{at: p, reached: make(chan struct{}), proceed: make(chan struct{})}
}

func (p *pause) hook(q point) error {
	if q == p.at && p.once.CompareAndSwap(false, true) {
		close(p.reached)
		<-p.proceed
	}
	return nil
}

// residentBytes is the resident set of the process, from /proc/self/statm; ok is false where there
// is none.
func residentBytes() (n int64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(pageSize), err == nil
}
