package warmtier

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: zero values and nil mean the documented defaults. Method: compare with the literals of the
// documentation.
func TestOptions_Defaults(t *testing.T) {
	s, err := Open("", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	require.Equal(t, 32<<20, s.opts.SegmentSize)
	require.Equal(t, time.Second, s.opts.SyncInterval)
	require.Equal(t, max(1, runtime.GOMAXPROCS(0)/2), s.opts.Compaction.Workers)
	require.EqualValues(t, 4*(32<<20), s.opts.Compaction.MaxOverhead)
	require.InDelta(t, 0.5, s.opts.Compaction.MaxMemoryFraction, 0)
	require.Equal(t, 30*time.Second, s.opts.Maintenance.Interval)
	require.InDelta(t, 0.5, s.opts.Maintenance.FragmentationThreshold, 0)
	require.EqualValues(t, 100_000_000, s.opts.Maintenance.MinBytes)
	require.Equal(t, 5*time.Minute, s.opts.Maintenance.MinPeriod)
	require.NotNil(t, s.opts.Logger)
}

// Goal: negative lower bounds of maintenance mean zero, and do not touch the caller's options.
// Method: open a store with both.
func TestOptions_NegativeBoundsMeanZero(t *testing.T) {
	opts := quiet()
	opts.Maintenance.MinBytes, opts.Maintenance.MinPeriod = -1, -time.Hour
	s := openTest(t, opts, hooks{})
	require.Zero(t, s.opts.Maintenance.MinBytes)
	require.Zero(t, s.opts.Maintenance.MinPeriod)
	require.EqualValues(t, -1, opts.Maintenance.MinBytes)
	require.Equal(t, -time.Hour, opts.Maintenance.MinPeriod)
}

// Goal: SegmentSize is rounded up to whole pages and at least 64 KiB, and the default of
// MaxOverhead follows it. Method: a table.
func TestOptions_SegmentSizeRounded(t *testing.T) {
	page := os.Getpagesize()
	for _, c := range []struct {
		name       string
		size, want int
	}{
		{"one byte", 1, 64 << 10},
		{"least size", 64 << 10, 64 << 10},
		{"one byte over the least size", 64<<10 + 1, 64<<10 + page},
		{"whole pages", 1 << 20, 1 << 20},
		{"one byte short of whole pages", 1<<20 - 1, 1 << 20},
		{"largest size", 1 << 30, 1 << 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize = c.size
			s := openTest(t, opts, hooks{})
			require.Equal(t, c.want, s.opts.SegmentSize)
			require.EqualValues(t, 4*c.want, s.opts.Compaction.MaxOverhead)
		})
	}
}

// Goal: every option out of its range is refused, by name and with its value, and a store is not
// opened. Method: one bad option at a time, then all of them at once.
func TestOptions_BadValuesNamed(t *testing.T) {
	faults := []struct {
		name string
		bad  func(o *Options)
		want string
	}{
		{"negative segment size", func(o *Options) { o.SegmentSize = -1 }, "SegmentSize is -1"},
		{"segment size over 1 GiB", func(o *Options) { o.SegmentSize = 1<<30 + 1 }, "SegmentSize is 1073741825"},
		{"negative workers", func(o *Options) { o.Compaction.Workers = -2 }, "Compaction.Workers is -2"},
		{"too many workers", func(o *Options) { o.Compaction.Workers = 1025 }, "Compaction.Workers is 1025"},
		{"negative fraction", func(o *Options) { o.Compaction.MaxMemoryFraction = -0.25 },
			"Compaction.MaxMemoryFraction is -0.25"},
		{"fraction over 1", func(o *Options) { o.Compaction.MaxMemoryFraction = 1.5 },
			"Compaction.MaxMemoryFraction is 1.5"},
		{"fraction that is no number", func(o *Options) { o.Compaction.MaxMemoryFraction = math.NaN() },
			"Compaction.MaxMemoryFraction is NaN"},
		{"negative interval", func(o *Options) { o.Maintenance.Interval = -time.Second },
			"Maintenance.Interval is -1s"},
		{"negative threshold", func(o *Options) { o.Maintenance.FragmentationThreshold = -1 },
			"Maintenance.FragmentationThreshold is -1"},
		{"threshold over 1", func(o *Options) { o.Maintenance.FragmentationThreshold = 1.01 },
			"Maintenance.FragmentationThreshold is 1.01"},
		{"threshold that is no number", func(o *Options) { o.Maintenance.FragmentationThreshold = math.NaN() },
			"Maintenance.FragmentationThreshold is NaN"},
		{"infinite threshold", func(o *Options) { o.Maintenance.FragmentationThreshold = math.Inf(1) },
			"Maintenance.FragmentationThreshold is +Inf"},
	}
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			var opts Options
			f.bad(&opts)
			s, err := Open("", &opts)
			require.Nil(t, s)
			require.ErrorIs(t, err, ErrInvalidOptions)
			require.ErrorContains(t, err, f.want)
		})
	}
	t.Run("all at once", func(t *testing.T) {
		opts := Options{
			SegmentSize: -1,
			Compaction:  CompactionOptions{Workers: -2, MaxMemoryFraction: 2},
			Maintenance: MaintenanceOptions{Interval: -1, FragmentationThreshold: 3},
		}
		_, err := Open("", &opts)
		require.ErrorIs(t, err, ErrInvalidOptions)
		for _, field := range []string{
			"SegmentSize", "Compaction.Workers", "Compaction.MaxMemoryFraction", "Maintenance.Interval",
			"Maintenance.FragmentationThreshold",
		} {
			require.ErrorContains(t, err, field+" is ")
		}
	})
}

// Goal: the limits themselves are in range, and so are values to which the documentation gives a
// meaning. Method: open a store with each.
func TestOptions_LimitsAccepted(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(o *Options)
	}{
		{"most workers", func(o *Options) { o.Compaction.Workers = 1024 }},
		{"whole memory", func(o *Options) { o.Compaction.MaxMemoryFraction = 1 }},
		{"no overhead bound", func(o *Options) { o.Compaction.MaxOverhead = -1 }},
		{"overhead of one byte", func(o *Options) { o.Compaction.MaxOverhead = 1 }},
		{"threshold 1", func(o *Options) { o.Maintenance.FragmentationThreshold = 1 }},
		{"sync only when asked", func(o *Options) { o.SyncInterval = -1 }},
		{"no store too small", func(o *Options) { o.Maintenance.MinBytes = math.MinInt64 }},
		{"no wait between compactions", func(o *Options) { o.Maintenance.MinPeriod = math.MinInt64 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := quiet()
			c.set(opts)
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, 600, 100)
			deleteWhere(t, s, 0, 600, odd)
			mustCompact(t, s)
			requireContents(t, s, 0, 600, 100, func(i int) bool { return !odd(i) })
		})
	}
}

// Goal: values near the ends of their types mean what they say: nothing overflows, and no loop has no
// end. Method: a store with each of them lives, in memory and in a directory: it writes, compacts by
// hand and by the rules in as few walks as with the largest values that are of any use, and closes.
func TestOptions_EndsOfTypes(t *testing.T) {
	t.Parallel()
	const most, least = math.MaxInt64, math.MinInt64
	for _, c := range []struct {
		name string
		set  func(o *Options)
		skip SkipReason // of a cycle in a store that is half dead
	}{
		{name: "largest overhead", set: func(o *Options) { o.Compaction.MaxOverhead = most }},
		{name: "overhead that times five is negative", set: func(o *Options) { o.Compaction.MaxOverhead = most / 3 }},
		{name: "least overhead", set: func(o *Options) { o.Compaction.MaxOverhead = least }},
		{name: "largest interval", set: func(o *Options) { o.Maintenance.Interval = most }},
		{name: "least interval", set: func(o *Options) { o.Maintenance.Interval = 1 }},
		{name: "largest period", set: func(o *Options) { o.Maintenance.MinPeriod = most }},
		{name: "least period", set: func(o *Options) { o.Maintenance.MinPeriod = least }},
		{name: "largest sync interval", set: func(o *Options) { o.SyncInterval = most }},
		{name: "least sync interval", set: func(o *Options) { o.SyncInterval = least }},
		{name: "shortest sync interval", set: func(o *Options) { o.SyncInterval = 1 }},
		{name: "largest size", set: func(o *Options) { o.Maintenance.MinBytes = most }, skip: SkipSize},
		{name: "least size", set: func(o *Options) { o.Maintenance.MinBytes = least }},
		{name: "least threshold", set: func(o *Options) {
			o.Maintenance.FragmentationThreshold = math.SmallestNonzeroFloat64
		}},
		{name: "largest threshold", set: func(o *Options) { o.Maintenance.FragmentationThreshold = 1 }, skip: SkipThreshold},
		{name: "negative zero", set: func(o *Options) {
			o.Maintenance.FragmentationThreshold = math.Copysign(0, -1)
			o.Compaction.MaxMemoryFraction = math.Copysign(0, -1)
		}},
	} {
		for _, kind := range []string{"memory", "directory"} {
			t.Run(c.name+", "+kind, func(t *testing.T) {
				dir := ""
				if kind == "directory" {
					dir = filepath.Join(t.TempDir(), "store")
				}
				opts := maintained()
				opts.SyncInterval = -1
				opts.Maintenance.Interval = time.Hour
				opts.Maintenance.Disabled = false
				c.set(opts)
				background := opts.Maintenance.Interval == 1
				var compactions, walks atomic.Int32
				s, err := open(dir, opts, hooks{at: func(p point) error {
					switch p {
					case pointCompactSealed:
						compactions.Add(1)
					case pointCompactWalked:
						walks.Add(1)
					}
					return nil
				}})
				if errors.Is(err, errors.ErrUnsupported) {
					t.Skip("no directories here")
				}
				require.NoError(t, err)
				fill(t, s, 0, 2000, 100)
				deleteWhere(t, s, 0, 2000, func(i int) bool { return i%3 > 0 })
				if !background {
					r := maintain(t, s)
					for r.Skipped == SkipBusy { // the background compacts, woken by the writes
						r = maintain(t, s)
					}
					if c.skip != "" || s.Stats().Compactions == 0 {
						require.Equal(t, c.skip, r.Skipped)
					}
					mustCompact(t, s)
					require.LessOrEqual(t, walks.Load(), compactions.Load(), "one for each compaction")
					st := s.Stats()
					require.Less(t, st.FragmentationRatio, 0.5)
					require.True(t, st.Maintenance.NextCycle.After(time.Now()))
				} else {
					require.True(t, waitFor(func() bool { return s.Stats().Compactions > 0 }))
				}
				require.NoError(t, s.Sync())
				requireContents(t, s, 0, 2000, 100, func(i int) bool { return i%3 == 0 })
				require.NoError(t, s.Close())
			})
		}
	}
}

// Goal: the smallest share of memory is no share, and no mistake. Method: with the figures of the
// system, and with the largest there can be.
func TestOptions_SmallestFraction(t *testing.T) {
	for _, available := range []int64{0, 1 << 40, math.MaxInt64} {
		opts := quiet()
		opts.Compaction.MaxMemoryFraction = math.SmallestNonzeroFloat64
		s := openTest(t, opts, hooks{available: func() (int64, bool) { return available, true }})
		fill(t, s, 0, 600, 100)
		deleteWhere(t, s, 0, 600, odd)
		if _, err := s.Compact(t.Context()); err != nil {
			require.ErrorIs(t, err, ErrInsufficientMemory)
		}
		requireContents(t, s, 0, 600, 100, func(i int) bool { return !odd(i) })
	}
}

// Goal: memory for lanes is kept by the count of segments they have begun lately, however long
// lately is. Method: the longest Interval, of which two are no longer a duration.
func TestOptions_LongestIntervalKeepsReserve(t *testing.T) {
	opts := maintained()
	opts.Maintenance.Interval = math.MaxInt64
	opts.Compaction.MaxOverhead = 1
	s := openTest(t, opts, hooks{})
	fill(t, s, 0, 6000, 100)
	deleteWhere(t, s, 0, 6000, all)
	require.True(t, maintain(t, s).Compacted)
	require.Positive(t, s.Stats().SegmentDetails.ReserveBytes)
}

// Goal: Open copies the options: it does not write to them, and later changes do not reach the
// store. Method: compare and change after Open.
func TestOptions_CopiedAtOpen(t *testing.T) {
	opts := &Options{SegmentSize: 100_000, Maintenance: MaintenanceOptions{Disabled: true}}
	s := openTest(t, opts, hooks{})
	require.Equal(t, &Options{SegmentSize: 100_000, Maintenance: MaintenanceOptions{Disabled: true}}, opts)
	opts.SegmentSize, opts.ReadOnly = 1<<20, true
	require.NoError(t, s.Put("id", nil))
	require.Equal(t, vm.RoundUp(100_000, vm.PageSize), s.opts.SegmentSize)
}
