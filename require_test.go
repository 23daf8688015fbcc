package warmtier

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// requireIntact checks, by Verify, a store that nobody writes to.
func requireIntact(t testing.TB, s *Store) {
	t.Helper()
	report, err := s.Verify(context.Background())
	require.NoError(t, err, "findings: %+v", report.Findings)
	require.True(t, report.Quiescent)
	require.Equal(t, s.Len(), report.Memories)
}

// requireReleased checks that a closed store holds no mapping, and that the process is down to this
// number of goroutines. Goroutines that have been told to end may need a moment to be gone.
func requireReleased(t testing.TB, s *Store, goroutines int) {
	t.Helper()
	require.Zero(t, s.mapper.bytes.Load(), "bytes mapped after Close")
	require.Zero(t, s.mapper.mappings.Load(), "mappings after Close")
	require.Zero(t, s.mapper.unreturned.mappings.Load(), "unreturned mappings after Close")
	waitFor(func() bool { return runtime.NumGoroutine() <= goroutines })
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines after Close")
}

// requireContents checks the memories from up to, not including, to: version 0 is there if keep
// says so, and nothing otherwise.
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

// requireModel checks contents, absence and the exact figures of Stats.
func requireModel(t *testing.T, s *Store, model map[int]int) {
	t.Helper()
	var live int64
	for i := range layoutCount + 2 {
		version, present := model[i]
		got, err := s.Get(idOf(i))
		if !present {
			require.ErrorIs(t, err, ErrNotFound, "memory %d", i)
			continue
		}
		require.NoError(t, err, "memory %d", i)
		require.Equal(t, contentOf(i, version, layoutSize), got, "memory %d, version %d", i, version)
		live += int64(record.Size(len(idOf(i)), layoutSize))
	}
	st := s.Stats()
	require.Equal(t, len(model), st.Memories)
	require.Equal(t, live, st.LiveBytes)
	require.Zero(t, st.Reads.CorruptRecords)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	requireIntact(t, s)
}

// requireAll checks that All yields the memories of model, each once, and nothing else.
func requireAll(t testing.TB, s *Store, model map[string][]byte) {
	t.Helper()
	require.Equal(t, len(model), s.Len())
	seen := make(map[string]bool, len(model))
	for id, got := range s.All() {
		content, present := model[id]
		if seen[id] || !present || !bytes.Equal(content, got) {
			require.Failf(t, "All is wrong", "%q: seen before %v, present %v", id, seen[id], present)
		}
		seen[id] = true
	}
	require.Len(t, seen, len(model))
}

func requireSameState(t *testing.T, before, after Stats) {
	t.Helper()
	state := func(st Stats) Stats {
		return Stats{
			Memories: st.Memories, Segments: st.Segments, TotalBytes: st.TotalBytes, LiveBytes: st.LiveBytes,
			DeadBytes: st.DeadBytes, FragmentationRatio: st.FragmentationRatio, MappedBytes: st.MappedBytes,
			IndexBytes: st.IndexBytes, Puts: st.Puts, Deletes: st.Deletes, BytesReclaimed: st.BytesReclaimed,
			SegmentDetails: SegmentDetails{RetiredBytes: st.SegmentDetails.RetiredBytes},
		}
	}
	require.Equal(t, state(before), state(after))
}

// passThrough waits until nobody holds l.
func passThrough(l sync.Locker) {
	l.Lock()
	defer l.Unlock()
}

// requireUnpinned checks that no pin and no lock is left.
func requireUnpinned(t *testing.T, s *Store) {
	t.Helper()
	s.dead.running.Lock() // a sweep under way flushes, and pins what it flushes
	defer s.dead.running.Unlock()
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	passThrough(&s.contentMu)
	for _, seg := range s.segments.all() {
		require.EqualValues(t, 1, seg.refs.Load(), "references to %s", seg.name())
	}
}
