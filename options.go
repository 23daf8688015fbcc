package warmtier

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"time"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// Limits of what a store accepts.
const (
	MaxIDLen      = record.MaxIDLen      // bytes: 65,535
	MaxContentLen = record.MaxContentLen // bytes: 1 GiB
)

const (
	minSegmentSize     = 64 << 10 // bytes
	defaultSegmentSize = 32 << 20 // bytes
	maxSegmentSize     = 1 << 30  // bytes
	maxWorkers         = 1024

	longestInterval = math.MaxInt64 / 4 // 73 years; two of them are still a time.Duration

	// defaultOverheadSegments is the default of MaxOverhead, in segments.
	defaultOverheadSegments = 4
)

// Options configure a store. The zero value and nil mean the defaults. [Open] copies the options
// and never writes to them.
type Options struct {
	// SegmentSize is the size of one segment in bytes, at most 1 GiB; 0 means 32 MiB. It is rounded
	// up to whole pages and to at least 64 KiB.
	SegmentSize int
	// SyncInterval is how often a directory store syncs in the background; 0 means 1s, negative
	// means that only [Store.Sync] and [Store.Close] sync.
	SyncInterval time.Duration
	// SyncWrites makes Put and Delete of a directory store durable before they return.
	SyncWrites bool
	// ReadOnly makes every call that writes return [ErrReadOnly].
	ReadOnly bool
	// Repair makes Open of a damaged directory salvage what is intact instead of failing with
	// [ErrCorrupt]. Memories that are not known to be the newest version of their id are dropped;
	// Stats.Recovery says which and how many. Damaged segment files stay in the directory, with the
	// suffix .damaged. Where nothing says which memories are lost, Open still fails with
	// [ErrCorrupt].
	Repair bool
	// Compaction configures both [Store.Compact] and automatic compactions.
	Compaction CompactionOptions
	// Maintenance configures the background cycle and [Store.Maintain].
	Maintenance MaintenanceOptions
	// Logger receives what operators want to know; nil is silent. Errors: a failed flush, a failed
	// compaction, damage. Warnings: what recovery had to cut, a fragmented store, memory or disk
	// space that is short. Info: open, close, compactions. Debug: sealed segments, rounds, and what
	// each maintenance cycle decided and why. It never sees ids or contents. It is called with no
	// lock held and may call every method of the store except Close. A handler that panics, or ends
	// its goroutine, loses that line and nothing else; the next line that gets through is followed by
	// a warning with their number.
	Logger *slog.Logger
}

// CompactionOptions bound what a compaction may use.
type CompactionOptions struct {
	// Workers is the number of goroutines that copy and flip, at most 1024; 0 means half of
	// GOMAXPROCS, but at least 1.
	Workers int
	// MaxOverhead bounds the bytes of target segments that one round may fill, and so the extra
	// memory that a compaction holds. At least one segment is always used; 0 means four segments,
	// negative means no bound and one single round.
	MaxOverhead int64
	// MaxMemoryFraction is the share (0 to 1) that a compaction may take of the memory available to
	// the process, limits of its control groups included; 0 means 0.5.
	MaxMemoryFraction float64
	// OnProgress, when not nil, is called during a compaction from the goroutine that runs it, with
	// no lock held. It may call every method of the store except Close, which waits for the
	// compaction. A panic passes through to the caller of Compact or Maintain, and undoes the round.
	// In the background, where there is no caller, it is logged, and the compaction goes on without
	// OnProgress.
	OnProgress func(CompactionProgress)
}

// MaintenanceOptions configure the background cycle. A cycle compacts when all three hold: the
// fragmentation ratio is at least FragmentationThreshold, TotalBytes is at least MinBytes, and the
// last automatic compaction began at least MinPeriod ago. It gives back what is worth the copying:
// see docs/design.md, section 7; [Store.Compact] gives back everything.
type MaintenanceOptions struct {
	// Disabled turns the background cycle off; [Store.Maintain] still works.
	Disabled bool
	// Interval is the time between two cycles; 0 means 30s.
	Interval time.Duration
	// FragmentationThreshold is the ratio (0 to 1) from which on a cycle compacts; 0 means 0.5.
	FragmentationThreshold float64
	// MinBytes is the size from which on a cycle compacts; smaller stores are left alone. 0 means
	// 100,000,000, negative means that no store is too small.
	MinBytes int64
	// MinPeriod is the least time between the beginnings of two automatic compactions; 0 means 5m,
	// negative means that no cycle waits for the last compaction.
	MinPeriod time.Duration
}

// withDefaults returns a copy of o with zero values replaced by defaults, sizes rounded, and
// bounds of maintenance brought into their range. REQUIRES: o passed validate.
func (o Options) withDefaults() Options {
	if o.SegmentSize == 0 {
		o.SegmentSize = defaultSegmentSize
	}
	o.SegmentSize = vm.RoundUp(max(o.SegmentSize, minSegmentSize), vm.PageSize)
	setDefault(&o.SyncInterval, time.Second)
	setDefault(&o.Compaction.Workers, max(1, runtime.GOMAXPROCS(0)/2))
	setDefault(&o.Compaction.MaxOverhead, defaultOverheadSegments*int64(o.SegmentSize))
	setDefault(&o.Compaction.MaxMemoryFraction, 0.5)
	setDefault(&o.Maintenance.Interval, 30*time.Second)
	setDefault(&o.Maintenance.FragmentationThreshold, 0.5)
	setDefault(&o.Maintenance.MinBytes, 100_000_000)
	setDefault(&o.Maintenance.MinPeriod, 5*time.Minute)
	o.Maintenance.Interval = min(o.Maintenance.Interval, longestInterval)
	o.Maintenance.MinBytes = max(o.Maintenance.MinBytes, 0)
	o.Maintenance.MinPeriod = max(o.Maintenance.MinPeriod, 0)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	} else {
		o.Logger = slog.New(patientHandler{o.Logger.Handler(), &lostLines{}})
	}
	return o
}

// setDefault sets field to value where it is zero.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate returns nil, or ErrInvalidOptions with every field that is out of range.
func (o Options) validate() error {
	var faults []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			faults = append(faults, fmt.Errorf("%s is %v, want %s", field, value, want))
		}
	}
	ratio := func(v float64) bool { return !math.IsNaN(v) && v >= 0 && v <= 1 }
	check(o.SegmentSize >= 0 && o.SegmentSize <= maxSegmentSize,
		"SegmentSize", o.SegmentSize, "0 to 1 GiB")
	c := o.Compaction
	check(c.Workers >= 0 && c.Workers <= maxWorkers, "Compaction.Workers", c.Workers, "0 to 1024")
	check(ratio(c.MaxMemoryFraction),
		"Compaction.MaxMemoryFraction", c.MaxMemoryFraction, "0 to 1")
	m := o.Maintenance
	check(m.Interval >= 0, "Maintenance.Interval", m.Interval, "0 or more")
	check(ratio(m.FragmentationThreshold),
		"Maintenance.FragmentationThreshold", m.FragmentationThreshold, "0 to 1")
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalidOptions, errors.Join(faults...))
	}
	return nil
}
