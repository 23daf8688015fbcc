package warmtier

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// withoutHistograms checks that the histograms of st are empty, and leaves them out.
func withoutHistograms(t *testing.T, st Stats) Stats {
	t.Helper()
	v := reflect.ValueOf(&st).Elem()
	for i := range v.NumField() {
		h, ok := v.Field(i).Interface().(Histogram)
		if !ok {
			continue
		}
		require.Len(t, h.Bounds, histogramBounds)
		require.Len(t, h.Counts, histogramBounds+1)
		require.Zero(t, h.Count)
		require.Zero(t, h.Quantile(0.5))
		v.Field(i).SetZero()
	}
	return st
}

// Goal: operations are counted by result, and every 256th read and about as many writes are measured.
func TestStats_Operations(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0 }}) // one shard
	// Each counter of reads samples by itself, and the stack a call is made on chooses it: one for all.
	s.contentMu.biased.Init(0)
	const n = 10 * sampleEvery
	for range n {
		require.NoError(t, s.Put("a", []byte("0123456789")))
	}
	for range n {
		_, err := s.Get("a")
		require.NoError(t, err)
	}
	st := s.Stats()
	require.EqualValues(t, 10, st.GetDuration.Count)
	require.EqualValues(t, 10*10*sampleEvery, st.ReadBytes, "every content has 10 bytes: the estimate is exact")
	require.Equal(t, n*int64(record.Size(1, 10)), st.WrittenBytes)
	require.Positive(t, st.GetDuration.Sum)
	for range n {
		_, err := s.Get("b")
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, s.View("a", func([]byte) error { return nil }))
		existed, err := s.Delete("b")
		require.NoError(t, err)
		require.False(t, existed)
	}
	require.ErrorIs(t, s.Put("", nil), ErrInvalidID)
	st = s.Stats()
	require.EqualValues(t, 30, st.GetDuration.Count)
	require.EqualValues(t, n, st.DeleteMisses)
	require.EqualValues(t, n, st.Misses)
	require.Zero(t, st.PutErrors, "the caller's error")
	for s.Stats().PutDuration.Count == 0 || s.Stats().DeleteDuration.Count == 0 {
		require.NoError(t, s.Put("c", nil))
		_, err := s.Delete("c")
		require.NoError(t, err)
	}
}

// Goal: errors of the store count, by operation. Method: a damaged content, and a failing map.
func TestStats_OperationErrors(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("a", []byte("0123456789")))
	var m match
	hold, err := s.lookup(&m, "a", 0)
	require.NoError(t, err)
	s.contentMu.RUnlock(hold)
	content := record.Content(m.rec, m.h)
	content[0] ^= 1
	_, err = s.Get("a")
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, s.View("a", func([]byte) error { return nil }), ErrCorrupt)
	content[0] ^= 1
	m.rec[0] ^= 1
	_, err = s.Get("a")
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, s.Put("a", nil), ErrCorrupt)
	_, err = s.Delete("a")
	require.ErrorIs(t, err, ErrCorrupt)
	m.rec[0] ^= 1
	st := s.Stats()
	require.EqualValues(t, 2, st.Gets, "that found a memory, whatever became of its content")
	require.EqualValues(t, 3, st.GetErrors)
	require.EqualValues(t, 1, st.PutErrors)
	require.EqualValues(t, 1, st.DeleteErrors)
}

// Goal: segments are seen in every state, and their bytes add up to those of Stats. Method: a pinned
// record is compacted away, and the compaction is stopped with its victims chosen.
func TestSegments_States(t *testing.T) {
	p := pauseAt(pointCompactBuilt)
	s := openTest(t, quiet(), hooks{at: p.hook})
	fill(t, s, 0, 4000, 200) // each lane fills more than one
	deleteWhere(t, s, 0, 4000, odd)
	states := func() (st Stats, counts map[SegmentState]int) {
		st, counts = s.Stats(), map[SegmentState]int{}
		var total, live int64
		for _, seg := range s.Segments() {
			counts[seg.State]++
			require.Equal(t, seg.TotalBytes, seg.LiveBytes+seg.DeadBytes)
			require.Positive(t, seg.Age)
			require.EqualValues(t, minSegmentSize, seg.MappedBytes)
			if seg.State != SegmentRetired {
				total += seg.TotalBytes
				live += seg.LiveBytes
			} else {
				require.Positive(t, seg.Pins)
			}
		}
		require.Equal(t, st.TotalBytes, total)
		require.Equal(t, st.LiveBytes, live)
		require.Equal(t, SegmentCounts{
			Active: counts[SegmentActive], Sealed: counts[SegmentSealed],
			Compacting: counts[SegmentCompacting], Retired: counts[SegmentRetired],
		}, st.SegmentsByState)
		return st, counts
	}
	st, counts := states()
	require.Equal(t, len(s.lanes), counts[SegmentActive])
	require.Positive(t, counts[SegmentSealed])
	require.Zero(t, st.PinnedReaders)

	err := s.View(idOf(0), func([]byte) error {
		require.Equal(t, 1, s.Stats().PinnedReaders)
		ended := make(chan error)
		go func() {
			_, err := s.Compact(context.Background())
			ended <- err
		}()
		<-p.reached
		st, counts = states()
		require.Positive(t, counts[SegmentCompacting])
		require.Zero(t, counts[SegmentActive])
		require.Equal(t, StageBuild, st.CompactionProgress.Stage)
		require.Equal(t, 1, st.CompactionProgress.Round)
		require.Positive(t, st.CompactionProgress.BytesCopied)
		close(p.proceed)
		require.NoError(t, <-ended)
		st, counts = states()
		require.Equal(t, 1, counts[SegmentRetired])
		require.Equal(t, 1, st.PinnedReaders)
		require.Zero(t, counts[SegmentCompacting])
		return nil
	})
	require.NoError(t, err)
	written := st.WrittenBytes
	st, counts = states()
	require.Zero(t, counts[SegmentRetired])
	require.Zero(t, st.PinnedReaders)
	require.Equal(t, CompactionProgress{}, st.CompactionProgress)
	require.Equal(t, written, st.WrittenBytes, "copies are not written bytes, and what left still is")
	require.EqualValues(t, 4000*record.Size(len(idOf(0)), 200), written)
	require.NoError(t, s.Close())
	require.Equal(t, written, s.Stats().WrittenBytes)
	require.Empty(t, s.Segments())
}

// Goal: compactions count by trigger and result.
func TestStats_Compactions(t *testing.T) {
	boom := errors.New("boom")
	fail := false
	opts := quiet()
	opts.Maintenance.MinBytes = 1
	opts.Maintenance.FragmentationThreshold = 0.1
	s := openTest(t, opts, hooks{at: func(p point) error {
		if fail && p == pointCompactBuilt {
			return boom
		}
		return nil
	}})
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, odd)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Compact(cancelled)
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.Stats().LastCompactionSuccess)
	fail = true
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, boom)
	fail = false
	r, err := s.Maintain(context.Background())
	require.NoError(t, err)
	require.True(t, r.Compacted)
	_, err = s.Maintain(context.Background())
	require.NoError(t, err)
	st := s.Stats()
	require.Equal(t, CompactionResults{Aborted: 1, Failed: 1}, st.ManualCompactions)
	require.Equal(t, CompactionResults{OK: 1}, st.AutoCompactions)
	require.Equal(t, SkipCounts{Threshold: 1}, st.MaintenanceSkips)
	require.Equal(t, st.LastCompaction, st.LastCompactionSuccess)
	require.EqualValues(t, 3, st.CompactionDuration.Count)
	require.Equal(t, r.Compaction.BytesCopied, st.BytesCopied)
	require.EqualValues(t, 500*record.Size(len(idOf(0)), 200), st.BytesCopied)
	require.EqualValues(t, r.Compaction.Rounds, st.SwapDuration.Count)
	require.LessOrEqual(t, st.SwapDuration.Quantile(1), 2*st.MaxSwapPause)
}

// Goal: BytesReclaimed never goes back, though a compaction that was cut off may have filled more than it
// has given back.
//
// Method: the first round empties a short victim, and fills its target with most of a long one; the second
// round fails. The next compaction gives the long one back.
func TestStats_ReclaimedNeverGoesBack(t *testing.T) {
	passed := 0
	s := openTest(t, bounded(1), hooks{hash: oneLane, at: func(p point) error {
		if p == pointCompactBuilt {
			if passed++; passed == 2 {
				return errors.New("cut off")
			}
		}
		return nil
	}})
	fill(t, s, 0, 30, 200)
	s.sealLanes(0)
	fill(t, s, 30, 400, 200)
	deleteWhere(t, s, 0, 31, func(i int) bool { return i%30 == 0 })
	cut, err := s.Compact(context.Background())
	require.Error(t, err)
	require.Equal(t, 1, cut.Rounds)
	require.Negative(t, cut.BytesReclaimed)
	require.Zero(t, s.Stats().BytesReclaimed)
	rest := mustCompact(t, s)
	require.Equal(t, cut.BytesReclaimed+rest.BytesReclaimed, s.Stats().BytesReclaimed)
	require.Positive(t, s.Stats().BytesReclaimed)
}

// Goal: a directory store counts flushes, what is not flushed yet, and what Open found.
func TestStats_Directory(t *testing.T) {
	dir := t.TempDir()
	opts := quiet()
	opts.SyncInterval = -1
	s, err := Open(dir, opts)
	require.NoError(t, err)
	require.Zero(t, s.Stats().UnsyncedBytes)
	fill(t, s, 0, 100, 200)
	require.EqualValues(t, 100*record.Size(len(idOf(0)), 200), s.Stats().UnsyncedBytes)
	require.NoError(t, s.Sync())
	st := s.Stats()
	require.Zero(t, st.UnsyncedBytes)
	require.EqualValues(t, 1, st.Syncs)
	require.EqualValues(t, 1, st.SyncDuration.Count)
	require.Positive(t, st.Recovery.Duration)
	require.False(t, st.Recovery.Clean)
	require.NoError(t, s.Close())

	s, err = Open(dir, opts)
	require.NoError(t, err)
	st = s.Stats()
	require.Zero(t, st.WrittenBytes, "by this store")
	require.Zero(t, st.UnsyncedBytes)
	require.Equal(t, 100, st.Recovery.Records)
	require.True(t, st.Recovery.Clean)
	require.NoError(t, s.Close())
}

// Goal: Get, View and AppendContent count as gets, misses apart; puts and deletes count when they
// did something. Method: a handful of calls of each kind.
func TestStats_Counters(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 5, 100)
	fill(t, s, 0, 2, 100)
	for _, id := range []string{idOf(0), idOf(1), "absent"} {
		_, _ = s.Get(id)
		_, _ = s.AppendContent(nil, id)
		_ = s.View(id, func([]byte) error { return nil })
		s.Has(id)
	}
	deleteWhere(t, s, 0, 3, all)
	_, err := s.Delete("absent")
	require.NoError(t, err)

	st := s.Stats()
	size := int64(record.Size(len(idOf(0)), 100))
	require.EqualValues(t, 7, st.Puts)
	require.EqualValues(t, 9, st.Gets)
	require.EqualValues(t, 3, st.Misses)
	require.EqualValues(t, 3, st.Deletes)
	require.Equal(t, 2, st.Memories)
	require.Equal(t, 7*size, st.TotalBytes)
	require.Equal(t, 2*size, st.LiveBytes)
	require.Equal(t, 5*size, st.DeadBytes)
	require.InDelta(t, 5.0/7, st.FragmentationRatio, 1e-12)
	require.Equal(t, int64(st.Segments*minSegmentSize)+st.IndexBytes, st.MappedBytes)
	require.Zero(t, st.RetiredBytes)
	require.Zero(t, st.LastCompaction)

	stats := mustCompact(t, s)
	after := s.Stats()
	require.EqualValues(t, 1, after.Compactions)
	require.Zero(t, after.CompactionFailures)
	require.False(t, after.CompactionInProgress)
	require.False(t, after.LastCompaction.IsZero())
	require.Equal(t, stats.Duration, after.LastCompactionDuration)
	require.Equal(t, stats.MaxSwapPause, after.MaxSwapPause)
	require.Equal(t, 5*size, after.BytesReclaimed)
	require.Equal(t, 2*size, after.TotalBytes)
}
