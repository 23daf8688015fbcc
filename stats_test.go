package warmtier

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/internal/record"
)

// withoutHistograms checks that the histograms of st are empty, and returns st without them.
func withoutHistograms(t *testing.T, st Stats) Stats {
	t.Helper()
	found := 0
	var empty func(v reflect.Value)
	empty = func(v reflect.Value) {
		h, ok := v.Interface().(Histogram)
		switch {
		case ok:
			found++
			require.Len(t, h.Bounds, histogramBounds)
			require.Len(t, h.Counts, histogramBounds+1)
			require.Zero(t, h.Count)
			require.Zero(t, h.Quantile(0.5))
			v.SetZero()
		case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
			for i := range v.NumField() {
				empty(v.Field(i))
			}
		}
	}
	empty(reflect.ValueOf(&st).Elem())
	require.Equal(t, 8, found)
	return st
}

// Goal: operations are counted by result, and every 256th read and about as many writes are
// measured.
func TestStats_Operations(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0 }}) // one shard
	// Counters of reads sample each for itself, and the stack of a call chooses one: make it one
	// for all.
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
	require.EqualValues(t, 10, st.Reads.Duration.Count)
	require.EqualValues(t, 10*10*sampleEvery, st.Reads.Bytes, "every content has 10 bytes: the estimate is exact")
	require.Equal(t, n*int64(record.Size(1, 10)), st.Writes.Bytes)
	require.Positive(t, st.Reads.Duration.Sum)
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
	require.EqualValues(t, 30, st.Reads.Duration.Count)
	require.EqualValues(t, n, st.Writes.DeleteMisses)
	require.EqualValues(t, n, st.Misses)
	require.Zero(t, st.Writes.PutErrors, "the caller's error")
	for s.Stats().Writes.PutDuration.Count == 0 || s.Stats().Writes.DeleteDuration.Count == 0 {
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
	var h readHold
	require.NoError(t, s.lookup(&h, &m, "a", false))
	h.release()
	content := record.Content(m.rec, m.h)
	content[0] ^= 1
	_, err := s.Get("a")
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
	require.EqualValues(t, 3, st.Reads.Errors)
	require.EqualValues(t, 1, st.Writes.PutErrors)
	require.EqualValues(t, 1, st.Writes.DeleteErrors)
}

// Goal: segments show in every state, and their bytes add up to those of Stats. Method: a pinned
// record is compacted away, and the next compaction stopped with its victims chosen.
func TestSegments_States(t *testing.T) {
	p := pauseAt(pointCompactBuilt)
	s := openTest(t, quiet(), hooks{at: p.hook})
	fill(t, s, 0, 4000, 200) // each lane fills more than one segment
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
		d := st.SegmentDetails
		require.Equal(t, [...]int{
			counts[SegmentActive], counts[SegmentSealed], counts[SegmentCompacting], counts[SegmentRetired],
		}, [...]int{d.Active, d.Sealed, d.Compacting, d.Retired})
		return st, counts
	}
	st, counts := states()
	require.Equal(t, len(s.lanes), counts[SegmentActive])
	require.Positive(t, counts[SegmentSealed])
	require.Zero(t, st.SegmentDetails.Pins)

	err := s.View(idOf(0), func([]byte) error {
		require.Equal(t, 1, s.Stats().SegmentDetails.Pins)
		ended := make(chan error)
		go func() {
			_, err := s.Compact(context.Background())
			ended <- err
		}()
		<-p.reached
		st, counts = states()
		require.Positive(t, counts[SegmentCompacting])
		require.Zero(t, counts[SegmentActive])
		require.Equal(t, StageBuild, st.CompactionDetails.Progress.Stage)
		require.Equal(t, 1, st.CompactionDetails.Progress.Round)
		require.Positive(t, st.CompactionDetails.Progress.BytesCopied)
		close(p.proceed)
		require.NoError(t, <-ended)
		st, counts = states()
		require.Equal(t, 1, counts[SegmentRetired])
		require.Equal(t, 1, st.SegmentDetails.Pins)
		require.Zero(t, counts[SegmentCompacting])
		return nil
	})
	require.NoError(t, err)
	written := st.Writes.Bytes
	st, counts = states()
	require.Zero(t, counts[SegmentRetired])
	require.Zero(t, st.SegmentDetails.Pins)
	require.Equal(t, CompactionProgress{}, st.CompactionDetails.Progress)
	require.Equal(t, written, st.Writes.Bytes, "copies are not written bytes, and what left still is")
	require.EqualValues(t, 4000*record.Size(len(idOf(0)), 200), written)
	require.NoError(t, s.Close())
	require.Equal(t, written, s.Stats().Writes.Bytes)
	require.Empty(t, s.Segments())
}

// Goal: stages have the names that servers and pages show.
func TestStats_StageNames(t *testing.T) {
	require.Equal(t, []CompactionStage{"build", "commit", "swap"}, []CompactionStage{StageBuild, StageCommit, StageSwap})
}

// Goal: compactions count by trigger and result.
func TestStats_Compactions(t *testing.T) {
	boom := errors.New("boom")
	fail := false
	opts := quiet()
	opts.Maintenance.MinBytes = 1
	opts.Maintenance.FragmentationThreshold = 0.1
	s := openTest(t, opts, hooks{hash: oneLane, at: func(p point) error { // or one may end in a segment of one live record
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
	require.Zero(t, s.Stats().CompactionDetails.LastSuccess)
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
	require.Equal(t, CompactionResults{Cancelled: 1, Failed: 1}, st.CompactionDetails.Manual)
	require.Equal(t, CompactionResults{OK: 1}, st.CompactionDetails.Automatic)
	require.Equal(t, SkipCounts{Threshold: 1}, st.Maintenance.Skips)
	require.Equal(t, st.LastCompaction, st.CompactionDetails.LastSuccess)
	require.EqualValues(t, 3, st.CompactionDetails.Duration.Count)
	require.Equal(t, r.Compaction.BytesCopied, st.CompactionDetails.BytesCopied)
	require.EqualValues(t, 500*record.Size(len(idOf(0)), 200), st.CompactionDetails.BytesCopied)
	require.EqualValues(t, r.Compaction.Rounds, st.CompactionDetails.SwapDuration.Count)
	require.LessOrEqual(t, st.CompactionDetails.SwapDuration.Quantile(1), 2*st.MaxSwapPause)
}

// Goal: BytesReclaimed never decreases, although a compaction that was cut off may have filled more
// than it gave back.
//
// Method: the first round empties a short victim, and fills its target with most of a long one; the
// second round fails. The next compaction gives the long victim back.
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

// Goal: a directory store counts flushes, bytes not flushed yet, and what Open found.
func TestStats_Directory(t *testing.T) {
	dir := t.TempDir()
	opts := quiet()
	opts.SyncInterval = -1
	s, err := Open(dir, opts)
	require.NoError(t, err)
	require.Zero(t, s.Stats().Sync.UnsyncedBytes)
	fill(t, s, 0, 100, 200)
	require.EqualValues(t, 100*record.Size(len(idOf(0)), 200), s.Stats().Sync.UnsyncedBytes)
	require.NoError(t, s.Sync())
	st := s.Stats()
	require.Zero(t, st.Sync.UnsyncedBytes)
	require.EqualValues(t, 1, st.Sync.OK)
	require.EqualValues(t, 1, st.Sync.Duration.Count)
	require.Positive(t, st.Recovery.Duration)
	require.False(t, st.Recovery.Clean)
	require.NoError(t, s.Close())

	s, err = Open(dir, opts)
	require.NoError(t, err)
	st = s.Stats()
	require.Zero(t, st.Writes.Bytes, "by this store")
	require.Zero(t, st.Sync.UnsyncedBytes)
	require.Equal(t, 100, st.Recovery.Records)
	require.True(t, st.Recovery.Clean)
	require.NoError(t, s.Close())
}

// Goal: Get, View and AppendContent count as gets, and misses apart; puts and deletes count when
// they did something. Method: a handful of calls of each kind.
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
	require.Equal(t, int64((st.Segments+1)*minSegmentSize)+st.IndexBytes, st.MappedBytes, "one is kept back")
	require.EqualValues(t, minSegmentSize, st.SegmentDetails.ReserveBytes)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
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
