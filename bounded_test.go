//go:build unix

package warmtier

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: a store is a small multiple of what lives in it, whatever is stored and however little memory is
left. Method: loads that once made it grow without end; what is mapped is looked at on the way, and not at the
end alone.
*/

// bytesOf returns the bytes of the records of n memories with contents of size bytes.
func bytesOf(n, size int) int64 { return int64(n) * int64(record.Size(len(idOf(0)), size)) }

// littleMemory returns options under which a compaction may take next to nothing from the system.
func littleMemory(segmentSize int) *Options {
	return &Options{
		SegmentSize: segmentSize,
		Compaction:  CompactionOptions{MaxMemoryFraction: 1e-9},
		Maintenance: MaintenanceOptions{Disabled: true, FragmentationThreshold: 0.3, MinBytes: -1, MinPeriod: -1},
	}
}

// watchMapped calls look with the bytes that s maps every millisecond until done is called.
func watchMapped(s *Store, look func(mapped int64)) (done func()) {
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for {
			look(s.mapper.bytes.Load())
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		close(stop)
		watcher.Wait()
	})
}

// mostMapped returns the most that s has mapped at a look, from now until most is called.
func mostMapped(s *Store) (most func() int64) {
	var peak int64
	done := watchMapped(s, func(mapped int64) { peak = max(peak, mapped) })
	return func() int64 {
		done()
		return peak
	}
}

// What would break: a compaction that asks the system for whole segments, though what it has to move would
// fit into what it keeps back.
func TestBounded_LittleMemoryLeft(t *testing.T) {
	n := sized(t, 40_000)
	for name, drop := range map[string]func(i int) bool{
		"the last ones are kept": func(i int) bool { return i < n-100 },
		"one here and there is":  func(i int) bool { return i%(n/100) != 0 },
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, littleMemory(16*minSegmentSize), hooks{})
			fill(t, s, 0, n, 1000)
			deleteWhere(t, s, 0, n, drop)
			mustCompact(t, s)
			st := s.Stats()
			few := int64(len(s.lanes) + 3)
			require.LessOrEqual(t, st.MappedBytes-st.IndexBytes, few*int64(s.opts.SegmentSize))
			requireContents(t, s, 0, n, 1000, func(i int) bool { return !drop(i) })
		})
	}
}

// What would break: cycles that seal lanes, or make segments, before it is known that a compaction can run.
func TestBounded_RefusedCyclesChangeNothing(t *testing.T) {
	s := openTest(t, littleMemory(64*minSegmentSize), hooks{hash: oneLane, share: fullSegments})
	const n = 15_200
	fill(t, s, 0, n, 1000)
	deleteWhere(t, s, 0, n, odd)
	for _, seg := range s.segments.all() {
		require.Greater(t, seg.live.Load(), int64(presentBytes), "more is to be moved than is kept back")
	}
	before := settled(s)
	refused := 0
	for cycle := range 120 {
		for i := range 30 {
			require.NoError(t, s.Put(idOf(n+i%10), contentOf(n+i%10, 0, 100)))
		}
		active := activeSegments(s)
		r, err := s.Maintain(t.Context())
		require.NoError(t, err)
		if r.Skipped == SkipMemory {
			refused++
		}
		require.Equal(t, active, activeSegments(s), "cycle %d sealed a lane", cycle)
	}
	require.Equal(t, 120, refused)
	st := settled(s)
	require.Equal(t, before.Segments, st.Segments, "there was room for what was stored")
	require.Equal(t, before.MappedBytes, st.MappedBytes)
	requireContents(t, s, 0, n, 1000, func(i int) bool { return !odd(i) })
}

// activeSegments returns the ids of the active segments of lanes, 0 for none.
func activeSegments(s *Store) (ids []uint64) {
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		if ln.active == nil {
			ids = append(ids, 0)
		} else {
			ids = append(ids, ln.active.id)
		}
		ln.mu.Unlock()
	}
	return ids
}

// roomsLeft returns how many bytes of records each lane takes before it needs another segment.
func roomsLeft(s *Store) (rooms []int) {
	for i := range s.lanes {
		ln := &s.lanes[i]
		ln.mu.Lock()
		room := 0
		if ln.active != nil {
			room = ln.active.room(1)
		}
		ln.mu.Unlock()
		rooms = append(rooms, room)
	}
	return rooms
}

// What would break: lanes that stay without their active segment when a compaction fails.
func TestBounded_FailedCompactionGivesLanesBack(t *testing.T) {
	for _, medium := range []string{"memory", "directory"} {
		for _, p := range compactionPoints[:len(compactionPoints)-1] {
			t.Run(fmt.Sprintf("%s/%s", medium, p), func(t *testing.T) {
				dir := ""
				if medium == "directory" {
					dir = fastDir(t)
				}
				opts := unbounded(2)
				opts.SyncInterval = -1
				var fail atomic.Pointer[func(point) error]
				s, err := open(dir, opts, hooks{at: func(p point) error {
					if f := fail.Load(); f != nil {
						return (*f)(p)
					}
					return nil
				}})
				require.NoError(t, err)
				fill(t, s, 0, 1000, 300)
				deleteWhere(t, s, 0, 1000, odd)
				rooms := roomsLeft(s)
				ids := activeSegments(s)
				f := failAt(p, 1, errInjected)
				fail.Store(&f)
				_, err = s.Compact(t.Context())
				fail.Store(nil)
				require.ErrorIs(t, err, errInjected)
				require.Equal(t, rooms, roomsLeft(s))
				require.Equal(t, ids, activeSegments(s))
				requireContents(t, s, 0, 1000, 300, func(i int) bool { return !odd(i) })

				// And what is written there lives on.
				fill(t, s, 1000, 1200, 300)
				mustCompact(t, s)
				requireContents(t, s, 1000, 1200, 300, all)
				closeIntact(t, s)
				if dir == "" {
					return
				}
				s = openDir(t, dir, quietly())
				requireContents(t, s, 0, 1000, 300, func(i int) bool { return !odd(i) })
				requireContents(t, s, 1000, 1200, 300, all)
				closeIntact(t, s)
			})
		}
	}
}

// What would break: segments that are wholly dead and wait for a clock.
func TestBounded_OneIDOverwritten(t *testing.T) {
	parallel(t)
	t.Run("large", func(t *testing.T) {
		s := openTest(t, nil, hooks{})
		size := 16 << 20
		if _, ok := askedDuration(t); ok {
			size = 100 << 20
		}
		content := make([]byte, size)
		require.NoError(t, s.Put("x", content))
		most := mostMapped(s)
		for range 20 {
			require.NoError(t, s.Put("x", content))
			require.LessOrEqual(t, s.Stats().MappedBytes, int64(size+defaultSegmentSize+4<<20))
		}
		require.LessOrEqual(t, most(), int64(2*size+defaultSegmentSize+4<<20))
	})
	for name, opts := range map[string]*Options{"small": nil, "small, small segments": {SegmentSize: minSegmentSize}} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, opts, hooks{})
			content := make([]byte, 10_000)
			n := sized(t, 30_000)
			if d, ok := askedDuration(t); ok {
				n = int(d.Seconds() * 30_000)
			}
			most := mostMapped(s)
			for range n {
				require.NoError(t, s.Put("x", content))
			}
			// The active one, the one sealed last, the survivor, and what is kept for the lane.
			require.LessOrEqual(t, most(), int64((3+leastKept)*s.opts.SegmentSize+4<<20))
		})
	}
}

// What would break: growth that is bounded by a clock.
func TestBounded_DefaultOptions(t *testing.T) {
	const memories, size = 100_000, 1000
	n := sized(t, memories)
	s := openTest(t, nil, hooks{})
	fill(t, s, 0, n, size)
	duration, long := askedDuration(t)
	begun := time.Now()
	var stopped atomic.Bool
	bound := 3*bytesOf(n, size) + 200_000_000
	var over atomic.Int64
	done := watchMapped(s, func(mapped int64) {
		if mapped > bound {
			over.Store(mapped)
		}
		if long && time.Since(begun) > duration {
			stopped.Store(true)
		}
	})
	defer done()
	var writers sync.WaitGroup
	for g := range 8 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			var buf []byte
			for i := 0; !stopped.Load() && (long || i < n*3/5); i++ {
				id := r.IntN(n)
				if long && r.IntN(10) > 0 {
					buf, _ = s.AppendContent(buf[:0], idOf(id))
				} else if err := s.Put(idOf(id), contentOf(id, 0, size)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	done()
	require.Zero(t, over.Load(), "of %d", bound)
	requireContents(t, s, 0, n, size, all)
	st := s.Stats()
	t.Logf("%d compactions, %d MiB mapped, %d waits", st.Compactions, st.MappedBytes>>20, st.Writes.WaitDuration.Count)
}
