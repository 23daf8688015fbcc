//go:build unix

package warmtier

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

// filesIn returns the size of all files in dir, bytes. Their space is reserved.
func filesIn(t testing.TB, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		total += info.Size()
	}
	return total
}

// Goal: with the default options, 1, 10 and 10,000 memories take at most 1 MiB beyond their contents in memory,
// and 2 MB in a directory, on two and on eight processors.
func TestGrowth_SmallStores(t *testing.T) {
	const size = 200
	for _, processors := range []int{2, 8} {
		for _, n := range []int{1, 10, 10_000} {
			contents := int64(n * (len(idOf(0)) + size))
			t.Run(fmt.Sprintf("%d memories, %d processors", n, processors), func(t *testing.T) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(processors)) // not parallel: see oversubscribe
				s := openTest(t, nil, hooks{})
				fill(t, s, 0, n, size)
				st := s.Stats()
				require.LessOrEqual(t, st.MappedBytes, contents+1<<20)
				requireAddsUp(t, &st)

				dir := fastDir(t)
				var err error
				small := func(when string) {
					require.NoError(t, err)
					require.LessOrEqual(t, filesIn(t, dir), contents+2_000_000, when)
				}
				s, err = Open(dir, nil)
				small("opened")
				fill(t, s, 0, n, size)
				err = s.Sync()
				small("filled")
				err = s.Close()
				small("closed")
				s, err = Open(dir, nil)
				small("opened again")
				require.NoError(t, s.Close())
			})
		}
	}
}

// requireAddsUp checks that the parts of what is mapped add up.
func requireAddsUp(t testing.TB, st *Stats) {
	t.Helper()
	d := st.SegmentDetails
	require.Equal(t, st.MappedBytes, st.TotalBytes+d.RoomBytes+d.ReserveBytes+d.RetiredBytes+st.IndexBytes)
}

// requireKeptBack checks that what is kept back for compactions takes any segment that lanes share, and what there
// is for the tombstones of each lane is a share of that. It returns the largest.
func requireKeptBack(t testing.TB, s *Store) (largest int) {
	t.Helper()
	for _, seg := range s.segments.all() {
		if !seg.large {
			largest = max(largest, len(seg.mem))
		}
	}
	require.LessOrEqual(t, largest, s.medium.keptSize())
	if s.disk == nil {
		require.Len(t, s.pool.survivor, s.medium.keptSize())
		return largest
	}
	for i, kept := range s.disk.spares.kept {
		if i != manifestSpare {
			require.GreaterOrEqual(t, kept, s.disk.spareSize(i, largest), "spare %d", i)
		}
	}
	return largest
}

// Goal: segments grow from 64 KiB to SegmentSize, in powers of two, a few of each size; what is kept back is never
// smaller than one of them.
func TestGrowth_Sizes(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize, opts.SyncInterval = 2<<20, -1
			s := openTest(t, opts, hooks{share: growingSegments})
			dir := fastDir(t)
			if kind == "directory" {
				var err error
				s, err = open(dir, opts, hooks{share: growingSegments})
				require.NoError(t, err)
			}
			n := 12_000
			for i := 0; i < n; i += 100 {
				fill(t, s, i, i+100, 1000)
				requireKeptBack(t, s)
			}
			sizes := map[int]int{}
			for _, seg := range s.segments.all() {
				sizes[len(seg.mem)]++
			}
			for size := minSegmentSize; size < opts.SegmentSize; size *= 2 {
				require.Positive(t, sizes[size], "%v", sizes)
				require.LessOrEqual(t, sizes[size], 4+2*len(s.lanes), "%v", sizes)
				delete(sizes, size)
			}
			require.Len(t, sizes, 1)
			require.Positive(t, sizes[opts.SegmentSize])

			deleteWhere(t, s, 0, n, odd)
			mustCompact(t, s)
			requireContents(t, s, 0, n, 1000, func(i int) bool { return !odd(i) })
			bound := int(s.Stats().LiveBytes)/(opts.SegmentSize/10*9) + 1 + len(s.lanes)
			require.LessOrEqual(t, s.Stats().Segments, bound, "they were merged")
			requireKeptBack(t, s)
			if kind == "directory" {
				closeIntact(t, s)
				s = openDir(t, dir, opts)
				require.Equal(t, opts.SegmentSize, requireKeptBack(t, s))
				closeIntact(t, s)
			}
		})
	}
}

// Goal: a record that no small segment takes gets one that it fits, with what is kept back for it, and lies in it with
// others when the store has grown.
func TestGrowth_LongRecords(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize, opts.SyncInterval = 4<<20, -1
			h := hooks{hash: oneLane}
			s := openTest(t, opts, h)
			if kind == "directory" {
				var err error
				s, err = open(fastDir(t), opts, h)
				require.NoError(t, err)
				defer closeIntact(t, s)
			}
			for i, size := range []int{10, minSegmentSize, 10, s.largeSize() - 100, 300_000, 10, s.largeSize() + 1} {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
				seg := segmentOf(t, s, idOf(i))
				require.Equal(t, size > s.largeSize(), seg.large, "%d bytes", size)
				if size > minSegmentSize-100 {
					require.Less(t, len(seg.mem)-size, minSegmentSize, "%d bytes", size)
				}
				requireKeptBack(t, s)
			}
			deleteWhere(t, s, 0, 7, odd)
			mustCompact(t, s)
			for i, size := range []int{10, minSegmentSize, 10, 0, 300_000, 0, s.largeSize() + 1} {
				if !odd(i) {
					got, err := s.Get(idOf(i))
					require.NoError(t, err)
					require.Equal(t, contentOf(i, 0, size), got)
				}
			}
			id := string(make([]byte, MaxIDLen))
			require.NoError(t, s.Put(id, nil))
			existed, err := s.Delete(id)
			require.True(t, existed)
			require.NoError(t, err)
			requireKeptBack(t, s)
		})
	}
}

// Goal: at a limit a compaction gives something back also where segments have grown. What would break: a survivor
// of the size of the first segments, in which no later one fits.
func TestGrowth_CompactsAtTheLimit(t *testing.T) {
	opts := littleMemory(8 * minSegmentSize)
	s := openTest(t, opts, hooks{hash: oneLane, share: growingSegments,
		available: func() (int64, bool) { return 0, true }})
	n := 6000
	fill(t, s, 0, n, 500)
	s.mapper.limit = s.mapper.bytes.Load()
	deleteWhere(t, s, 0, n, func(i int) bool { return i%10 == 0 })
	require.Positive(t, mustCompact(t, s).BytesReclaimed)
	require.Zero(t, s.Stats().DeadBytes)
	requireContents(t, s, 0, n, 500, func(i int) bool { return i%10 != 0 })
}

// Goal: a lane whose segments grow while a compaction has what is kept back keeps as much back beside.
func TestGrowth_BesideCompaction(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize, opts.SyncInterval = 8*minSegmentSize, -1
			var s *Store
			const n, more = 300, 3000
			h := hooks{hash: oneLane, share: growingSegments}
			h.at = doAt(pointCompactSealed, 1, func() {
				before := s.medium.keptSize()
				fill(t, s, n, more, 500)
				require.Greater(t, s.medium.keptSize(), before)
			})
			s = openTest(t, opts, h)
			if kind == "directory" {
				var err error
				s, err = open(fastDir(t), opts, h)
				require.NoError(t, err)
				defer closeIntact(t, s)
			}
			fill(t, s, 0, n, 500)
			deleteWhere(t, s, 0, n, odd)
			mustCompact(t, s)
			require.GreaterOrEqual(t, requireKeptBack(t, s), 4*minSegmentSize)
			keep := func(i int) bool { return i >= n || !odd(i) }
			requireContents(t, s, 0, more, 500, keep)
			deleteWhere(t, s, n, more, odd)
			mustCompact(t, s)
			requireContents(t, s, 0, more, 500, func(i int) bool { return !odd(i) })
		})
	}
}

// Goal: on a disk without space for larger segments, and for what is kept back with them, lanes go on with segments
// as they were, and nothing of what is kept back was given up for it.
func TestGrowth_FullDisk(t *testing.T) {
	const segmentSize = 32 * minSegmentSize
	d := newShadow()
	opts := shadowOptions()
	opts.SegmentSize = segmentSize
	share := int64(minSegmentSize)
	s, err := openShadow(d, opts, hooks{hash: oneLane, share: func(int64) int64 { return share }})
	require.NoError(t, err)
	fill(t, s, 0, 100, 1000)
	kept := s.disk.spares.kept
	before := append([]int{}, kept...)
	require.Equal(t, minSegmentSize, before[targetSpare])

	share, d.Budget = segmentSize, d.Used+3*minSegmentSize
	dropped := false
	d.Fault = func(_ shadow.Kind, _ string) error {
		dropped = dropped || !s.disk.keepsAllLocked(len(kept))
		return nil
	}
	n, err := fillUp(t, s, 100, 1000)
	require.ErrorIs(t, err, ErrNoSpace)
	require.Greater(t, n, 200, "two more segments, as before")
	require.Equal(t, before, kept)
	require.False(t, dropped)
	d.Fault = nil
	names, failed := d.Names()
	require.NoError(t, failed)
	require.Subset(t, names, []string{spareFileName(targetSpare), spareFileName(laneSpares)})
	require.NotContains(t, names, spareFileName(growingSpare))
	deleteWhere(t, s, 0, n, odd)
	require.Positive(t, mustCompact(t, s).FileBytesReclaimed)

	d.Budget = 0
	fill(t, s, n, n+200, 1000)
	require.Equal(t, segmentSize, requireKeptBack(t, s))
	requireContents(t, s, 0, n, 1000, func(i int) bool { return !odd(i) })
	closeShadow(t, s, d)
}

// Goal: what was written in the last half minute counts for the size of segments, and not for longer than a minute.
func TestGrowth_Lately(t *testing.T) {
	var g growth
	start := time.Now()
	for _, c := range []struct {
		after           time.Duration
		written, lately int64
	}{
		{0, 0, 0},
		{time.Second, 1000, 1000},
		{29 * time.Second, 5000, 5000},
		{30 * time.Second, 6000, 6000}, // a window ends
		{31 * time.Second, 6100, 6000},
		{59 * time.Second, 13_000, 7000},
		{61 * time.Second, 13_100, 7100}, // another one
		{89 * time.Second, 13_200, 7100},
		{3 * time.Minute, 13_300, 0}, // nobody has looked for long
		{3*time.Minute + time.Second, 13_400, 100},
	} {
		require.Equal(t, c.lately, g.lately(c.written, start.Add(c.after)), "after %s", c.after)
	}
}

// largestSegment returns the size of the largest segment of s.
func largestSegment(s *Store) (size int) {
	for _, seg := range s.segments.all() {
		size = max(size, len(seg.mem))
	}
	return size
}

// forgetWritten makes what was written so far too old to count.
func (g *growth) forgetWritten() { g.since = g.since.Add(-2 * growthWindow) }

// Goal: a memory store of some MiB has segments for huge pages, also when nothing was written lately.
func TestGrowth_HugePages(t *testing.T) {
	opts := quiet()
	opts.SegmentSize = 0
	s := openTest(t, opts, hooks{})
	fill(t, s, 0, 5000, 1000)
	require.Equal(t, hugeSegment, largestSegment(s))
	_, err := s.Maintain(t.Context())
	require.NoError(t, err)
	s.growth.forgetWritten()
	require.Equal(t, hugeSegment, s.nextSize(1000))
	deleteWhere(t, s, 0, 2500, all)
	_, err = s.Maintain(t.Context())
	require.NoError(t, err)
	s.growth.forgetWritten()
	require.Less(t, s.nextSize(1000), hugeSegment)
}

// Goal: a store of ten memories that are overwritten all the time makes few segments, and when less is written small
// ones again.
func TestGrowth_SmallAndBusy(t *testing.T) {
	opts := quiet()
	opts.SegmentSize = 0
	s := openTest(t, opts, hooks{hash: oneLane})
	written, content := 0, make([]byte, 1000)
	for i := 0; written < 24<<20; i++ {
		require.NoError(t, s.Put(idOf(i%10), content))
		written += len(content)
	}
	require.GreaterOrEqual(t, largestSegment(s), hugeSegment)
	require.Less(t, s.segments.newestID(), uint64(written/minSegmentSize))

	s.growth.forgetWritten()
	mustCompact(t, s)
	for range 3 { // a segment of each lane, and the next ones
		s.sealLanes(0)
		for i := range 10 {
			require.NoError(t, s.Put(idOf(i), content))
		}
	}
	require.LessOrEqual(t, s.nextSize(1000), 2*minSegmentSize, "beside what is kept back")
}

// Goal: programs that store one memory and end leave few segments, and small ones.
func TestGrowth_Restarts(t *testing.T) {
	dir := fastDir(t)
	for i := range 20 {
		s, err := Open(dir, nil)
		require.NoError(t, err)
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 100)))
		require.NoError(t, s.Close())
	}
	s, err := Open(dir, &Options{ReadOnly: true})
	require.NoError(t, err)
	requireContents(t, s, 0, 20, 100, all)
	st := s.Stats()
	require.LessOrEqual(t, st.Segments, len(s.lanes))
	require.Equal(t, int64(st.Segments*minSegmentSize)+st.IndexBytes, st.MappedBytes)
	require.NoError(t, s.Close())
	require.LessOrEqual(t, len(segmentFiles(t, dir)), len(s.lanes))
	require.Equal(t, layout.SegmentFileName(1), segmentFiles(t, dir)[0])
}
