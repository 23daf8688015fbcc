package warmtier

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: memory really goes back to the operating system: the resident set of the process falls with
// a mass delete and a compaction. Method: read the resident set; under the race detector segments
// lie on the Go heap, which gives pages back when it likes, so the mapped bytes are held to the
// same bound.
func TestCompact_MemoryReturned(t *testing.T) {
	n := sized(t, 100_000)
	opts := quiet()
	opts.SegmentSize = 4 << 20
	s := openTest(t, opts, hooks{})
	debug.FreeOSMemory()
	empty, ok := residentBytes()
	fill(t, s, 0, n, 1000)
	debug.FreeOSMemory()
	full, _ := residentBytes()
	total := s.Stats().TotalBytes
	deleteWhere(t, s, 0, n, func(i int) bool { return i%10 != 0 })
	mustCompact(t, s)
	debug.FreeOSMemory()
	left, _ := residentBytes()

	st := s.Stats()
	require.InDelta(t, total/10, st.LiveBytes, 2000)
	slack := int64(len(s.lanes)+2) * int64(s.opts.SegmentSize)
	require.LessOrEqual(t, st.MappedBytes, st.LiveBytes+st.IndexBytes+slack)
	if ok && !raceEnabled {
		require.GreaterOrEqual(t, full-empty, total, "the resident set does not show the store")
		require.LessOrEqual(t, left-empty, st.LiveBytes+st.IndexBytes+slack, "resident beyond what was before")
		require.GreaterOrEqual(t, full-left, total*8/10, "given back")
	}
	requireContents(t, s, 0, n, 1000, func(i int) bool { return i%10 == 0 })
}

// Goal: a compaction takes no more memory than it may: its rounds move as many live bytes as there is
// memory for, and when not even the fewest of one victim fit it says what it needed and what there was.
// Nothing is sealed then, and with the survivor at hand it never happens. Method: a hook says what is
// available, in units of the fewest live bytes that a segment has.
func TestCompact_MemoryBound(t *testing.T) {
	for _, c := range []struct {
		name       string
		available  func(least int64) int64
		known      bool
		survivor   bool
		overhead   int64
		fraction   float64
		short      bool
		leastRound int
		mostRound  int
	}{
		{"unknown", func(int64) int64 { return 0 }, false, false, 0, 0, false, 1, 100},
		{"nothing", func(int64) int64 { return -1 }, true, false, 0, 0, true, 0, 0},
		{"nothing but the survivor", func(int64) int64 { return 0 }, true, true, 0, 0, false, 2, 100},
		{"one byte short of a victim", func(l int64) int64 { return 2*l - 2 }, true, false, 0, 0, true, 0, 0},
		{"exactly one victim", func(l int64) int64 { return 2 * l }, true, false, 0, 0, false, 2, 100},
		{"a quarter, one byte short", func(l int64) int64 { return 4*l - 4 }, true, false, 0, 0.25, true, 0, 0},
		{"a quarter is one victim", func(l int64) int64 { return 4 * l }, true, false, 0, 0.25, false, 2, 100},
		{"all of it is one victim", func(l int64) int64 { return l }, true, false, 0, 1, false, 2, 100},
		{"plenty", func(int64) int64 { return 1 << 40 }, true, false, 0, 0, false, 2, 100},
		{"plenty, no overhead bound", func(int64) int64 { return 1 << 40 }, true, false, -1, 0, false, 1, 1},
		{"unknown, no overhead bound", func(int64) int64 { return 0 }, false, false, -1, 0, false, 1, 1},
		{"one victim, no overhead bound", func(l int64) int64 { return 2 * l }, true, false, -1, 0, false, 2, 100},
		{"a byte short, no overhead bound", func(l int64) int64 { return 2*l - 2 }, true, false, -1, 0, true, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := quiet()
			opts.Compaction.MaxOverhead = c.overhead
			opts.Compaction.MaxMemoryFraction = c.fraction
			s := openTest(t, opts, hooks{})
			s.makeLanes(1) // no segment has dead records alone
			fill(t, s, 0, faultMemories, 400)
			deleteWhere(t, s, 0, faultMemories, func(i int) bool { return !odd(i) })
			if !c.survivor {
				dropSurvivor(s)
			}
			least := int64(minSegmentSize)
			for _, seg := range s.segments.all() {
				if seg.deadBytes() > 0 {
					least = min(least, seg.live.Load())
				}
			}
			available := c.available(least)
			s.hooks.available = func() (int64, bool) { return available, c.known }

			before := settled(s)
			stats, err := s.Compact(context.Background())
			require.GreaterOrEqual(t, stats.Rounds, c.leastRound)
			require.LessOrEqual(t, stats.Rounds, c.mostRound)
			if !c.short {
				require.NoError(t, err)
				require.Zero(t, stats.FragmentationAfter)
				requireContents(t, s, 0, faultMemories, 400, odd)
				return
			}
			requireFailed(t, s, before, stats, err)
			require.Equal(t, before.SegmentDetails.Active, s.Stats().SegmentDetails.Active, "a lane was sealed")
			require.ErrorIs(t, err, ErrInsufficientMemory)
			var short *InsufficientMemoryError
			require.ErrorAs(t, err, &short)
			require.Equal(t, least, short.Needed)
			require.Less(t, short.Available, least)
			requireContents(t, s, 0, faultMemories, 400, odd)
			requireIntact(t, s)

			deleteWhere(t, s, 0, faultMemories, odd)
			mustCompact(t, s) // nothing is left to copy, so nothing is needed
			require.Zero(t, s.Stats().TotalBytes)
			require.Zero(t, s.Stats().Segments)
		})
	}
}

// dropSurvivor leaves s without memory kept back, as pins may.
func dropSurvivor(s *Store) {
	mems, _, _ := s.pool.lend(0, true)
	s.releaseAll(mems)
}

// Goal: memory that runs out between two rounds does not stop a compaction that has recycled some.
// Method: nothing is available after the first round.
func TestCompact_MemoryGoneBetweenRounds(t *testing.T) {
	opts := quiet()
	opts.Compaction.Workers = 1
	s := faultStore(t, opts)
	asked := 0
	s.hooks.available = func() (int64, bool) {
		if asked++; asked == 1 {
			return 1 << 30, true
		}
		return 0, true
	}
	stats := mustCompact(t, s)
	require.Greater(t, stats.Rounds, 1)
	require.Zero(t, stats.FragmentationAfter)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: a compaction holds no more target memory than MaxOverhead at any moment, whatever the
// number of workers and the share of dead bytes, and 48 bytes per memory on top by its own account.
// Method: read the mapped bytes at every point, and count the targets of each round.
func TestCompact_OverheadBounded(t *testing.T) {
	deadShares := []int{2, 10, 50, 90}
	if raceEnabled || lockOrderChecked() {
		deadShares = []int{10}
	}
	for _, workers := range []int{1, 4} {
		for _, segments := range []int64{1, 2, 4} {
			for _, deadOf100 := range deadShares {
				t.Run(fmt.Sprintf("%d workers, %d segments, %d%% dead", workers, segments, deadOf100), func(t *testing.T) {
					opts := quiet()
					opts.Compaction.Workers = workers
					opts.Compaction.MaxOverhead = segments * minSegmentSize
					s := openTest(t, opts, hooks{})
					const n = 2500
					fill(t, s, 0, n, 400)
					deleteWhere(t, s, 0, n, func(i int) bool { return i%100 < deadOf100 })
					before := settled(s).MappedBytes
					var peak, targets, mostTargets atomic.Int64
					s.hooks.at = func(p point) error {
						switch p {
						case pointCompactTarget:
							targets.Add(1)
						case pointCompactSwapped:
							mostTargets.Store(max(mostTargets.Load(), targets.Swap(0)))
						}
						for mapped := s.mapper.bytes.Load(); ; {
							old := peak.Load()
							if mapped <= old || peak.CompareAndSwap(old, mapped) {
								return nil
							}
						}
					}
					stats := mustCompact(t, s)
					require.LessOrEqual(t, mostTargets.Load(), segments, "targets of one round")
					require.LessOrEqual(t, peak.Load()-before, segments*minSegmentSize, "mapped beyond what was before")
					require.LessOrEqual(t, stats.PeakOverheadBytes, segments*minSegmentSize+n*48)
					requireContents(t, s, 0, n, 400, func(i int) bool { return i%100 >= deadOf100 })
				})
			}
		}
	}
}

// Goal: no compaction takes more than pieceBytes from the Go heap in one piece. What would break: a list that grows
// with the memories of a segment. Method: the profile of its allocations, in a store with as many memories in a
// segment as make such a list larger, some of them expired.
func TestCompact_NoLargeAllocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := quiet()
		opts.SegmentSize, opts.Compaction.Workers = 8<<20, 1
		s := openTest(t, opts, hooks{hash: oneLane, share: fullSegments})
		n := sized(t, 110_000)
		for i := range n {
			if err := s.PutTTL(idOf(i), nil, time.Minute<<(i%2)); err != nil {
				t.Fatal(err)
			}
		}
		deleteWhere(t, s, 0, n, func(i int) bool { return i%8 == 7 })
		afterwards(90 * time.Second)
		requireInPieces(t, "(*Store).compact", func() { mustCompact(t, s) })
		require.InDelta(t, n*3/8, s.Len(), 2)
	})
}

// requireInPieces calls fn, and requires that no function of the store that is named, any by "", has allocated more
// than pieceBytes in one piece meanwhile.
func requireInPieces(t *testing.T, function string, fn func()) {
	t.Helper()
	before := allocations(t, function)
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 16 << 10 // what is larger than a piece is never left out
	fn()
	runtime.MemProfileRate = rate
	for made, objects := range allocations(t, function) {
		if objects > before[made] {
			require.LessOrEqual(t, made.size, int64(pieceBytes), "in one piece:\n%s", functions(made.stack[:]))
		}
	}
}

// allocation is a place, with those who called it, that has allocated objects of a size, in bytes.
type allocation struct {
	stack [32]uintptr
	size  int64
}

// allocations counts the objects that a function of the store, any by "", has allocated in this process until now.
// Hooks of other tests may be among them.
func allocations(t *testing.T, function string) map[allocation]int64 {
	runtime.GC() // the profile is of the collection before the last
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 100_000)
	found, ok := runtime.MemProfile(records, true)
	require.True(t, ok)
	objects := make(map[allocation]int64)
	for _, r := range records[:found] {
		if ofStore(r.Stack(), function) {
			objects[allocation{r.Stack0, r.AllocBytes / r.AllocObjects}] += r.AllocObjects
		}
	}
	return objects
}

// ofStore reports whether stack is one of that function of the store.
func ofStore(stack []uintptr, function string) bool {
	names := functions(stack)
	if function != "" {
		return strings.Contains(names, "warmtier."+function+"\n")
	}
	return strings.Contains(names, "warmtier.(*")
}

// functions are those of a stack, a line each, the innermost first.
func functions(stack []uintptr) string {
	var names strings.Builder
	frames := runtime.CallersFrames(stack)
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		names.WriteString(f.Function + "\n")
	}
	return names.String()
}

// Goal: putting one memory and compacting, over and over, leaves no trail of half empty segments.
// Method: a hundred times, held to the documented bound each time; in long tests 400 times.
func TestCompact_NoTrailOfSegments(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			n := stride(t, 100, 400)
			for i := range n {
				fill(t, s, i, i+1, 1000)
				mustCompact(t, s)
				st := s.Stats()
				bound := float64(st.LiveBytes)/(0.9*minSegmentSize) + float64(len(s.lanes)) + 1
				require.LessOrEqual(t, float64(st.Segments), bound, "after %d memories", i+1)
			}
			requireContents(t, s, 0, n, 1000, all)
		})
	}
}

// Goal: overwriting everything and compacting, 100 times, needs no more memory at the end than at
// the beginning. Method: segments and mapped bytes after each cycle, the resident set after the
// last.
func TestCompact_CyclesDoNotGrow(t *testing.T) {
	opts := quiet()
	opts.SegmentSize = 256 << 10
	s := openTest(t, opts, hooks{share: fullSegments})
	n := sized(t, 2000)
	var first Stats
	var firstResident int64
	for cycle := range 100 {
		for i := range n {
			require.NoError(t, s.Put(idOf(i), contentOf(i, cycle, 500)))
		}
		mustCompact(t, s)
		st := s.Stats()
		require.Zero(t, st.DeadBytes)
		if cycle == 9 {
			first = st
			debug.FreeOSMemory()
			firstResident, _ = residentBytes()
		}
		if cycle > 9 {
			require.LessOrEqual(t, st.Segments, first.Segments+1, "cycle %d", cycle)
			require.LessOrEqual(t, st.MappedBytes, first.MappedBytes+int64(s.opts.SegmentSize), "cycle %d", cycle)
			require.Equal(t, first.IndexBytes, st.IndexBytes)
			require.LessOrEqual(t, s.segments.used, 2*first.Segments+len(s.lanes)+2, "numbers are used again")
		}
	}
	debug.FreeOSMemory()
	if resident, ok := residentBytes(); ok && !raceEnabled {
		require.LessOrEqual(t, resident-firstResident, int64(4<<20), "growth of the resident set")
	}
	for i := range n {
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, contentOf(i, 99, 500), got)
	}
}

// Goal: however small the segments are, a compaction reads the whole index a few times. Once for each few rounds would
// be work that grows with the square of the memories. Method: count walks, in rounds of one segment.
func TestCompact_WalksAreFew(t *testing.T) {
	const n = 100_000
	opts := quiet()
	opts.SegmentSize, opts.Compaction.MaxOverhead = minSegmentSize, minSegmentSize
	walks := 0
	s := openTest(t, opts, hooks{at: func(p point) error {
		if p == pointCompactWalked {
			walks++
		}
		return nil
	}})
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n, odd)
	stats := mustCompact(t, s)
	require.Greater(t, stats.Rounds, walkAhead*mostWalks, "so there would be as many walks")
	require.LessOrEqual(t, walks, mostWalks+1)
	requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
}
