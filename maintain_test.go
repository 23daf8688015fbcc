package warmtier

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// maintained returns quiet options with every rule of maintenance but the threshold out of the way.
func maintained() *Options {
	opts := quiet()
	opts.Maintenance.MinBytes = 1
	opts.Maintenance.MinPeriod = 1
	return opts
}

// fragment stores memories 0 to 999 with records of one size, and makes n records dead.
func fragment(t *testing.T, s *Store, n int) {
	t.Helper()
	fill(t, s, 0, 1000, 100)
	deleteWhere(t, s, 0, n, all)
}

// recordBytes is the size of the records of fragment.
var recordBytes = int64(record.Size(len(idOf(0)), 100))

// afterwards waits for d on the clock of a synctest bubble, and then until every goroutine is
// blocked.
func afterwards(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func maintain(t *testing.T, s *Store) MaintenanceReport {
	t.Helper()
	r, err := s.Maintain(context.Background())
	require.NoError(t, err)
	return r
}

// Goal: the cycle compacts at the threshold and above it, and not below. Method: exact ratios,
// built of records of one size.
func TestMaintain_Threshold(t *testing.T) {
	for _, c := range []struct {
		threshold float64 // 0: the default of one half
		dead      int     // of 1000
		compacts  bool
	}{
		{0, 0, false}, {0, 499, false}, {0, 500, true}, {0, 501, true}, {0, 1000, true},
		{0.25, 249, false}, {0.25, 250, true}, {0.999, 998, false}, {0.999, 999, true}, {1, 999, false}, {1, 1000, true},
	} {
		t.Run(fmt.Sprintf("threshold %v, %d of 1000 dead", c.threshold, c.dead), func(t *testing.T) {
			opts := maintained()
			opts.Maintenance.FragmentationThreshold = c.threshold
			s := openTest(t, opts, hooks{})
			fragment(t, s, c.dead)
			r := maintain(t, s)
			require.Equal(t, float64(c.dead)/1000, r.FragmentationRatio)
			require.Equal(t, 1000*recordBytes, r.TotalBytes)
			require.Equal(t, c.compacts, r.Compacted)
			st := s.Stats()
			require.EqualValues(t, 1, st.Maintenance.Cycles)
			if c.compacts {
				require.Empty(t, r.Skipped)
				require.Empty(t, st.Maintenance.LastSkipped)
				require.EqualValues(t, 1, st.Maintenance.Compactions)
				require.EqualValues(t, 1, st.Compactions)
				require.LessOrEqual(t, st.FragmentationRatio, s.opts.Maintenance.FragmentationThreshold/2)
				require.Equal(t, r.TotalBytes-st.TotalBytes, r.Compaction.BytesReclaimed)
			} else {
				require.Equal(t, SkipThreshold, r.Skipped)
				require.Equal(t, SkipThreshold, st.Maintenance.LastSkipped)
				require.Zero(t, st.Maintenance.Compactions)
				require.Zero(t, st.Compactions)
				require.Equal(t, CompactionStats{}, r.Compaction)
			}
			requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= c.dead })
		})
	}
}

// Goal: automatic maintenance compacts the segments that are worth it, best first, and leaves the
// rest; Compact takes everything. Method: segments with known dead shares, sealed by hand, and a
// look at which are left.
func TestMaintain_ChoosesWhatIsWorthIt(t *testing.T) {
	for _, c := range []struct {
		name      string
		threshold float64
		dead      []int // of the 100 records of each segment, the oldest first
		stay      []int // segments that are left alone
	}{
		{"as fragmented as the store may be: all of them go", 0.5, []int{50, 60, 70, 80}, []int{}},
		{"nearly live ones stay once the store is half as fragmented", 0.4, []int{10, 10, 90, 90, 10}, []int{0, 1, 4}},
		{"of equals the older one goes", 0.2, []int{30, 19, 19, 12}, []int{2, 3}},
		{"an old one goes before a young one with more dead bytes", 0.2, []int{15, 8, 8, 19, 90}, []int{1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := maintained()
			opts.Maintenance.FragmentationThreshold = c.threshold
			seed := maphash.MakeSeed() // all ids in one shard, and so in one lane
			s := openTest(t, opts, hooks{hash: func(id string) uint64 { return maphash.String(seed, id) >> 8 }})
			var ids []uint64
			live := map[int]bool{}
			for k := range c.dead {
				fill(t, s, 100*k, 100*(k+1), 100)
				s.sealLanes(0)
				ids = append(ids, s.segments.newestID())
			}
			for k, n := range c.dead {
				deleteWhere(t, s, 100*k, 100*k+n, all)
				for i := 100*k + n; i < 100*(k+1); i++ {
					live[i] = true
				}
			}
			require.True(t, maintain(t, s).Compacted)
			left := []int{}
			for _, seg := range s.Segments() {
				if k := slices.Index(ids, seg.ID); k >= 0 {
					left = append(left, k)
				}
			}
			require.Equal(t, c.stay, left)
			mustCompact(t, s)
			require.Zero(t, s.Stats().DeadBytes)
			requireContents(t, s, 0, 100*len(c.dead), 100, func(i int) bool { return live[i] })
		})
	}
}

// Goal: an automatic compaction keeps memory for lanes, no more than they have lately used, and for
// no longer than they need it; memory that anything else gives back goes to the system.
func TestMaintain_Reserve(t *testing.T) {
	overwritten := func(t *testing.T) *Store { // returns a fresh store in which most records are dead
		s := openTest(t, maintained(), hooks{})
		for version := range 3 {
			for i := range 1000 {
				if version == 0 || i%20 != 0 { // a segment without a live record would leave at once
					require.NoError(t, s.Put(idOf(i), contentOf(i, version, 100)))
				}
			}
		}
		return s
	}
	kept := func(s *Store) int { // beside the survivor
		return int(s.Stats().SegmentDetails.ReserveBytes)/s.opts.SegmentSize - 1
	}

	t.Run("used again", func(t *testing.T) {
		s := overwritten(t)
		before := s.Stats()
		require.True(t, maintain(t, s).Compacted)
		n := kept(s)
		require.GreaterOrEqual(t, n, 2)
		require.LessOrEqual(t, s.Stats().MappedBytes, before.MappedBytes+int64(s.opts.SegmentSize))
		mapped := s.Stats().MappedBytes
		for i := 0; kept(s) == n; i++ {
			require.NoError(t, s.Put(idOf(i%1000), contentOf(i, 9, 100)))
		}
		require.Less(t, kept(s), n)
		require.LessOrEqual(t, s.Stats().MappedBytes, mapped, "lanes went on in memory of the reserve")
		requireIntact(t, s)
	})
	t.Run("manual compaction", func(t *testing.T) {
		s := overwritten(t)
		require.True(t, maintain(t, s).Compacted)
		mustCompact(t, s)
		require.Zero(t, kept(s))
		require.LessOrEqual(t, s.Stats().MappedBytes, s.Stats().LiveBytes*2+s.Stats().IndexBytes+minSegmentSize)
	})
	t.Run("not used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := overwritten(t)
			require.True(t, maintain(t, s).Compacted)
			n := kept(s)
			afterwards(s.opts.Maintenance.Interval)
			maintain(t, s)
			require.Equal(t, n, kept(s), "not yet")
			afterwards(1)
			maintain(t, s)
			require.Zero(t, kept(s))
			require.NoError(t, s.Close())
		})
	})
	t.Run("written long ago, and no cycle since", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := overwritten(t)
			afterwards(2*s.opts.Maintenance.Interval + 1)
			require.True(t, maintain(t, s).Compacted)
			require.Zero(t, kept(s))
			require.NoError(t, s.Close())
		})
	})
	t.Run("log handler panics", func(t *testing.T) {
		s := overwritten(t)
		require.True(t, maintain(t, s).Compacted)
		n := kept(s)
		require.Positive(t, n)
		s.opts.Logger = slog.New(panicking{})
		require.Panics(t, func() { _, _ = s.Compact(t.Context()) })
		s.opts.Logger = slog.New(slog.DiscardHandler)
		require.Equal(t, n, kept(s))
	})
	t.Run("memory is short", func(t *testing.T) {
		if raceEnabled {
			t.Skip("the heap ends the process when it has not that much")
		}
		s := overwritten(t)
		require.True(t, maintain(t, s).Compacted)
		require.Positive(t, kept(s))
		_, err := s.acquire(math.MaxInt / vm.PageSize * vm.PageSize)
		require.ErrorIs(t, err, ErrNoSpace)
		require.Zero(t, kept(s))
	})
	t.Run("nothing written lately", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := openTest(t, maintained(), hooks{})
			fill(t, s, 0, 1000, 100)
			afterwards(s.opts.Maintenance.Interval + 1)
			require.Equal(t, SkipThreshold, maintain(t, s).Skipped)
			deleteWhere(t, s, 0, 900, all)
			require.True(t, maintain(t, s).Compacted)
			require.Zero(t, kept(s), "deleting needs no memory")

			fill(t, s, 1000, 10_000, 100)
			afterwards(s.opts.Maintenance.Interval + 1)
			require.Equal(t, SkipThreshold, maintain(t, s).Skipped)
			deleteWhere(t, s, 1000, 10_000, func(i int) bool { return i%20 != 0 }) // no segment is dead
			fill(t, s, 0, 1000, 100)
			begun := s.pool.begun
			require.Positive(t, begun)
			require.True(t, maintain(t, s).Compacted)
			most := max(leastKept, int(s.Stats().LiveBytes)/s.opts.SegmentSize)
			require.Equal(t, min(begun, most), kept(s), "of some twenty")
			require.NoError(t, s.Close())
		})
	})
}

// Goal: a store under MinBytes is left alone, one of exactly MinBytes is not; the default is
// 100,000,000. Method: MinBytes around the bytes of the store.
func TestMaintain_MinBytes(t *testing.T) {
	for _, c := range []struct {
		name     string
		minBytes int64
		skipped  SkipReason
	}{
		{"one byte more than there are", 1000*recordBytes + 1, SkipSize},
		{"as many as there are", 1000 * recordBytes, ""},
		{"default", 0, SkipSize},
		{"none", -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := maintained()
			opts.Maintenance.MinBytes = c.minBytes
			s := openTest(t, opts, hooks{})
			fragment(t, s, 600)
			r := maintain(t, s)
			require.Equal(t, c.skipped, r.Skipped)
			require.Equal(t, c.skipped == "", r.Compacted)
		})
	}
}

// Goal: MinPeriod lies between the beginnings of two automatic compactions; skipped cycles and
// calls of Compact do not count. Method: the clock of a bubble, one nanosecond before and at the
// period.
func TestMaintain_MinPeriod(t *testing.T) {
	for _, c := range []struct {
		name           string
		option, period time.Duration
	}{{"default", 0, 5 * time.Minute}, {"one hour", time.Hour, time.Hour}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := maintained()
				opts.Maintenance.MinPeriod = c.option
				opts.Maintenance.FragmentationThreshold = 0.3 // so that less has died than lives
				s := openTest(t, opts, hooks{})
				fragment(t, s, 0)
				require.Equal(t, SkipThreshold, maintain(t, s).Skipped)
				deleteWhere(t, s, 0, 600, all)
				require.True(t, maintain(t, s).Compacted, "the first one waits for nothing")

				fill(t, s, 0, 600, 100)
				mustCompact(t, s)
				deleteWhere(t, s, 0, 350, all)
				afterwards(c.period - 1)
				require.Equal(t, SkipRateLimit, maintain(t, s).Skipped)
				require.Equal(t, SkipRateLimit, s.Stats().Maintenance.LastSkipped)
				afterwards(1)
				require.True(t, maintain(t, s).Compacted)
				require.EqualValues(t, 2, s.Stats().Maintenance.Compactions)
			})
		})
	}
}

// Goal: MinPeriod does not hold back a compaction once as many bytes have died as are live, and
// MinBytes, since the last one began. Method: one byte less, and as many, of either.
func TestMaintain_MuchHasDied(t *testing.T) {
	for _, c := range []struct {
		name     string
		deleted  int   // of a thousand live memories; the segments of one lane hold more
		minBytes int64 // in records
		skipped  SkipReason
	}{
		{"less than lives", 499, 0, SkipRateLimit},
		{"as much as lives", 500, 0, ""},
		{"less than MinBytes", 600, 601, SkipRateLimit},
		{"MinBytes", 600, 600, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := maintained()
			opts.Maintenance.MinPeriod = time.Hour
			opts.Maintenance.FragmentationThreshold = 0.01
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, 1100, 100)
			deleteWhere(t, s, 0, 100, all)
			require.True(t, maintain(t, s).Compacted, "the first one waits for nothing")
			s.opts.Maintenance.MinBytes = c.minBytes * recordBytes
			s.opts.SegmentSize = int(recordBytes) // below which nothing is due
			deleteWhere(t, s, 100, 100+c.deleted, all)
			require.Equal(t, c.skipped, s.reasonToSkip(s.sizes(), time.Now()))
		})
	}
}

// Goal: a cycle beside a compaction, or beside another cycle, is skipped without an error. Method:
// hold one at a point while the other runs.
func TestMaintain_Busy(t *testing.T) {
	for _, c := range []struct {
		name  string
		first func(s *Store) error
	}{
		{"Compact runs", func(s *Store) error { _, err := s.Compact(context.Background()); return err }},
		{"Maintain runs", func(s *Store) error { _, err := s.Maintain(context.Background()); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			hold := pauseAt(pointCompactSealed)
			s := openTest(t, maintained(), hooks{at: hold.hook})
			fragment(t, s, 600)
			first := make(chan error)
			go func() { first <- c.first(s) }()
			<-hold.reached
			r := maintain(t, s)
			require.Equal(t, SkipBusy, r.Skipped)
			require.False(t, r.Compacted)
			close(hold.proceed)
			require.NoError(t, <-first)
			require.EqualValues(t, 1, s.Stats().Compactions)
			require.Zero(t, s.Stats().CompactionFailures)

			fragment(t, s, 600)
			require.True(t, maintain(t, s).Compacted, "being busy does not count as a compaction")
		})
	}
}

// Goal: memory too short for one segment is a reason to skip and no error, changes nothing, and the
// next cycle tries again. Method: a hook says what is available.
func TestMaintain_MemoryShort(t *testing.T) {
	available := int64(0)
	opts := maintained()
	opts.Maintenance.MinPeriod = time.Hour
	s := openTest(t, opts, hooks{available: func() (int64, bool) { return available, true }})
	fragment(t, s, 600)
	dropSurvivor(s)
	before := settled(s)
	r := maintain(t, s)
	require.Equal(t, SkipMemory, r.Skipped)
	require.False(t, r.Compacted)
	require.Equal(t, SkipMemory, s.Stats().Maintenance.LastSkipped)
	require.Zero(t, s.Stats().Maintenance.Compactions)
	requireSameState(t, before, s.Stats())
	available = 1 << 40
	require.True(t, maintain(t, s).Compacted)
	requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= 600 })
}

// Goal: Maintain returns the error of its compaction, with the report; the rate limit holds after a
// failed compaction too. Method: an injected fault.
func TestMaintain_CompactionFails(t *testing.T) {
	injected := errors.New("injected fault")
	opts := maintained()
	opts.Maintenance.MinPeriod = time.Hour
	s := openTest(t, opts, hooks{at: failAt(pointCompactFlip, 3, injected)})
	fragment(t, s, 600)
	before := settled(s)
	r, err := s.Maintain(context.Background())
	require.ErrorIs(t, err, ErrCompactionFailed)
	require.ErrorIs(t, err, injected)
	require.False(t, r.Compacted)
	require.Empty(t, r.Skipped)
	require.Equal(t, 0.6, r.FragmentationRatio)
	require.Equal(t, 0.6, r.Compaction.FragmentationAfter)
	requireSameState(t, before, s.Stats())
	require.EqualValues(t, 1, s.Stats().CompactionFailures)
	require.Equal(t, SkipRateLimit, maintain(t, s).Skipped)
}

// Goal: with a negative MinPeriod one automatic compaction may follow the other at once, and with a
// negative MinBytes an empty store is not too small. Method: a bubble, whose clock stands still.
func TestMaintain_NegativeBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := quiet()
		opts.Maintenance.MinBytes, opts.Maintenance.MinPeriod = -1, -1
		s := openTest(t, opts, hooks{})
		require.Equal(t, SkipThreshold, maintain(t, s).Skipped, "an empty store is not fragmented")
		for range 3 {
			fragment(t, s, 1000)
			require.True(t, maintain(t, s).Compacted)
		}
		require.EqualValues(t, 3, s.Stats().Maintenance.Compactions)
	})
}
