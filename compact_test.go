package warmtier

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// Goal: a compaction changes no content, brings nothing deleted back and leaves no dead byte.
// Method: contents of all sizes, a third overwritten, a third deleted, against a map; all kinds of
// rounds.
func TestCompact_ContentPreserved(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			model := map[string][]byte{}
			for i := range 3000 {
				model[idOf(i)] = contentOf(i, 0, i*37%500)
				require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
			}
			for i := 0; i < 3000; i += 3 {
				model[idOf(i)] = contentOf(i, 1, i*53%700)
				require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
				_, err := s.Delete(idOf(i + 1))
				require.NoError(t, err)
				delete(model, idOf(i+1))
			}
			for _, size := range []int{30_000, 65_000, 70_000, 200_000} {
				id := fmt.Sprintf("content of %d bytes", size)
				require.NoError(t, s.Put(id, nil))
				model[id] = contentOf(size, 0, size)
				require.NoError(t, s.Put(id, model[id]))
			}
			before := settled(s)
			for range 2 {
				stats := mustCompact(t, s)
				after := s.Stats()
				require.Equal(t, before.LiveBytes, after.LiveBytes)
				require.Equal(t, after.LiveBytes, after.TotalBytes)
				require.Zero(t, stats.FragmentationAfter)
				require.Zero(t, stats.MemoriesSuperseded)
				requireAll(t, s, model)
				for id, content := range model {
					got, err := s.Get(id)
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, got), id)
				}
				requireIntact(t, s)
			}
		})
	}
}

// Goal: the statistics of a compaction say what happened. Method: a store in one lane, where
// everything can be worked out by hand.
func TestCompact_Statistics(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	const n = 5000
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n, func(i int) bool { return !odd(i) })
	before := settled(s)
	size := int64(record.Size(len(idOf(0)), 200))
	require.InDelta(t, 0.5, before.FragmentationRatio, 1e-12)

	stats := mustCompact(t, s)
	after := s.Stats()
	require.Equal(t, before.Segments, stats.SegmentsBefore)
	require.Equal(t, after.Segments, stats.SegmentsAfter)
	require.Equal(t, n*size, stats.BytesBefore)
	require.Equal(t, n/2*size, stats.BytesAfter)
	require.Equal(t, n/2*size, stats.BytesReclaimed)
	require.InDelta(t, 0.5, stats.FragmentationBefore, 1e-12)
	require.Zero(t, stats.FragmentationAfter)
	require.EqualValues(t, n/2, stats.MemoriesMoved)
	require.Zero(t, stats.MemoriesSuperseded)
	require.Positive(t, stats.Rounds)
	require.Positive(t, stats.Duration)
	require.Positive(t, stats.MaxSwapPause)
	require.LessOrEqual(t, stats.MaxSwapPause, stats.Duration)
	require.Positive(t, stats.PeakOverheadBytes)
	requireContents(t, s, 0, n, 200, odd)
}

// Goal: after a compaction the index points into segments made by it, and the old segments are out
// of the table and unmapped. Method: note where every record was, and compare.
func TestCompact_LocationsUpdated(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			const n = 2000
			for i := range n {
				fill(t, s, i, i+1, 200)
				fill(t, s, i, i+1, 200) // every segment has dead bytes
			}
			newest := s.segments.lastID
			old := s.segments.all()
			before := settled(s)
			mustCompact(t, s)
			for i := range n {
				seg, offset := locationOf(t, s, idOf(i))
				require.Greater(t, seg.id, newest, "memory %d is in an old segment", i)
				require.Same(t, seg, s.segments.at(seg.index))
				require.Equal(t, idOf(i), string(seg.mem[offset+record.HeaderSize:][:len(idOf(i))]))
			}
			table := s.segments.all()
			for _, seg := range old {
				require.NotContains(t, table, seg)
				require.True(t, seg.is(stateRetired))
				require.Zero(t, seg.live.Load())
				require.Zero(t, seg.refs.Load(), "unmapped, or in use again")
			}
			after := s.Stats()
			require.Less(t, after.MappedBytes-after.IndexBytes, (before.MappedBytes-before.IndexBytes)*7/10)
			require.Equal(t, int64((len(table)+1)*minSegmentSize)+after.IndexBytes, after.MappedBytes, "one is the survivor")
		})
	}
}

// Goal: a full segment without dead bytes stays where it is. Method: delete in one half of the
// segments only; the locations of the other half do not change.
func TestCompact_CleanSegmentsStay(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	const n = 2000
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n/2, odd)
	type place struct {
		seg    *segment
		offset int
	}
	where := map[int]place{}
	for i := n/2 + 300; i < n-300; i++ { // in segments without memories of the other half
		seg, offset := locationOf(t, s, idOf(i))
		where[i] = place{seg, offset}
	}
	stats := mustCompact(t, s)
	for i, old := range where {
		seg, offset := locationOf(t, s, idOf(i))
		now := place{seg, offset}
		require.Equal(t, old, now, "memory %d", i)
	}
	require.Less(t, stats.MemoriesMoved, int64(n/2+300))
	requireContents(t, s, 0, n, 200, func(i int) bool { return i >= n/2 || !odd(i) })
	stats = mustCompact(t, s)
	require.Zero(t, stats.MemoriesMoved, "a second compaction has nothing to do")
	require.Zero(t, stats.Rounds)
}

// Goal: segments that were sealed with room left, and in which nothing is dead, are merged only where fewer are
// left. Method: each compaction seals what was written since the one before it: 0.6 of a segment, the same again,
// and a little.
func TestCompact_MergesOnlyForFewerSegments(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	n := 0
	for _, step := range []struct{ memories, moved, segments int }{
		{90, 0, 1}, {90, 0, 2}, {2, 182, 2}, {0, 0, 2},
	} {
		fill(t, s, n, n+step.memories, 400)
		n += step.memories
		stats := mustCompact(t, s)
		require.Equal(t, int64(step.moved), stats.MemoriesMoved, "after %d memories", n)
		require.Equal(t, step.segments, s.Stats().Segments, "after %d memories", n)
	}
	requireContents(t, s, 0, n, 400, all)
	requireIntact(t, s)
}

// Goal: a write while a round builds wins over the round, and is counted. Method: overwrite
// and delete between build and commit.
func TestCompact_SupersededWhileBuilding(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := faultStore(t, c.opts)
			written := false
			s.hooks.at = func(p point) error {
				if p == pointCompactBuilt && !written {
					written = true
					overwriteAndDelete(t, s)
				}
				return nil
			}
			stats := mustCompact(t, s)
			require.LessOrEqual(t, stats.MemoriesSuperseded, int64(faultMemories/2/10*2))
			if stats.Rounds == 1 {
				require.EqualValues(t, faultMemories/2/10*2, stats.MemoriesSuperseded)
			}
			requireOverwrittenAndDeleted(t, s)
			requireIntact(t, s)
			mustCompact(t, s)
			require.Zero(t, s.Stats().DeadBytes)
			requireOverwrittenAndDeleted(t, s)
		})
	}
}

// Goal: of many versions of one id in one segment only the last survives, before and after a
// compaction. Method: overwrite a few ids hundreds of times.
func TestCompact_ManyVersionsInOneSegment(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	const versions = 700
	for version := range versions {
		require.NoError(t, s.Put("often", contentOf(0, version, 16)))
		if version%300 == 0 {
			require.NoError(t, s.Put("rarely", contentOf(1, version, 16)))
			require.NoError(t, s.Put("deleted in between", contentOf(2, version, 16)))
			_, err := s.Delete("deleted in between")
			require.NoError(t, err)
		}
	}
	require.Equal(t, 1, s.Stats().Segments)
	check := func() {
		requireAll(t, s, map[string][]byte{
			"often": contentOf(0, versions-1, 16), "rarely": contentOf(1, 600, 16),
		})
	}
	check()
	stats := mustCompact(t, s)
	require.EqualValues(t, 2, stats.MemoriesMoved)
	check()
	require.Equal(t, s.Stats().LiveBytes, s.Stats().TotalBytes)
}

// Goal: all of the above holds for many memories. Method: 100,000 memories, and in long tests a
// million; a fifth overwritten and a third deleted, everything read back.
func TestCompact_ManyMemories(t *testing.T) {
	parallel(t)
	sizes := []int{100_000}
	if _, long := askedDuration(t); long {
		sizes = append(sizes, 1_000_000)
	}
	for _, full := range sizes {
		t.Run(fmt.Sprintf("%d memories", full), func(t *testing.T) {
			n := sized(t, full)
			opts := quiet()
			opts.SegmentSize = 4 << 20
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, n, 32)
			for i := 0; i < n; i += 5 {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 32)))
			}
			deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 0 })
			keep := func(i int) bool { return i%3 != 0 }
			live := s.Len()
			require.Equal(t, n-(n+2)/3, live)
			stats := mustCompact(t, s)
			require.Zero(t, stats.FragmentationAfter)
			require.Equal(t, live, s.Len())
			requireContents(t, s, 0, n, 32, keep)
			st := s.Stats()
			if live >= 100_000 {
				require.LessOrEqual(t, float64(st.IndexBytes)/float64(live), 24.0)
			}
			bound := float64(st.LiveBytes)/(0.9*float64(s.medium.keptSize())) + float64(len(s.lanes)) + 1
			require.LessOrEqual(t, float64(st.Segments), bound)
		})
	}
}
