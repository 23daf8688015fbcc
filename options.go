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

// Limits of what a store takes.
const (
	MaxIDLen      = record.MaxIDLen      // bytes: 65,535
	MaxContentLen = record.MaxContentLen // bytes: 1 GiB
)

const (
	minSegmentSize     = 64 << 10 // bytes
	defaultSegmentSize = 32 << 20 // bytes
	maxSegmentSize     = 1 << 30  // bytes
	maxWorkers         = 1024

	// defaultOverheadSegments is MaxOverhead's default in segments.
	defaultOverheadSegments = 4
)

// Options configure a store. The zero value, and nil, mean the defaults. [Open] copies what it is
// given and never writes to it.
type Options struct {
	// SegmentSize is the size of one segment in bytes: 0 means 32 MiB; it is rounded up to whole
	// pages and to at least 64 KiB; at most 1 GiB.
	SegmentSize int
	// SyncInterval is how often a directory store syncs in the background: 0 means 1s, negative
	// means only [Store.Sync] and [Store.Close] do.
	SyncInterval time.Duration
	// SyncWrites makes Put and Delete of a directory store durable before they return.
	SyncWrites bool
	// ReadOnly makes every call that writes return [ErrReadOnly].
	ReadOnly bool
	// Repair makes Open of a damaged directory salvage what is intact instead of failing with
	// [ErrCorrupt]. Memories that are not known to be the newest version of their id are dropped;
	// the log says how many. Damaged segment files stay in the directory, with the suffix .damaged.
	// Where nothing says which memories are lost, Open still fails with [ErrCorrupt].
	Repair bool
	// Compaction configures both [Store.Compact] and automatic compactions.
	Compaction CompactionOptions
	// Maintenance configures the background cycle and [Store.Maintain].
	Maintenance MaintenanceOptions
	// Logger receives what operators want to know; nil is silent. Errors: a failed flush, a failed
	// compaction, damage. Warnings: what recovery had to cut, a fragmented store, memory or disk space
	// that is short. Info: open, close, compactions. Debug: sealed segments, rounds, and what each
	// maintenance cycle decided and why. It never sees ids or contents. It is called with no lock held
	// and may call the store, Close excepted.
	Logger *slog.Logger
}

// CompactionOptions bound what a compaction may use.
type CompactionOptions struct {
	// Workers is the number of goroutines that copy and flip: 0 means half of GOMAXPROCS, at
	// least 1; at most 1024.
	Workers int
	// MaxOverhead bounds the bytes of target segments that one round may fill, and so the extra
	// memory a compaction holds: 0 means four segments, at least one segment is always used,
	// negative means no bound and one single round.
	MaxOverhead int64
	// MaxMemoryFraction is the share (0 to 1) of the memory available to the process, its control
	// groups included, that a compaction may take: 0 means 0.5.
	MaxMemoryFraction float64
	// OnProgress, when not nil, is called during a compaction from the goroutine that runs it, with
	// no lock held. It may call the store, Close excepted: Close waits for the compaction.
	OnProgress func(CompactionProgress)
}

// MaintenanceOptions configure the background cycle, which compacts when all three hold: the
// fragmentation ratio is at least FragmentationThreshold, TotalBytes at least MinBytes, and the
// last automatic compaction at least MinPeriod ago. It gives back what is worth the copying: see
// docs/design.md, section 7; [Store.Compact] gives back everything.
type MaintenanceOptions struct {
	Disabled               bool          // no background cycle; Maintain still works
	Interval               time.Duration // between cycles; 0 means 30s
	FragmentationThreshold float64       // ratio, 0 to 1; 0 means 0.5
	MinBytes               int64         // 0 means 100,000,000: smaller stores are left alone
	MinPeriod              time.Duration // between automatic compactions; 0 means 5m
}

// withDefaults returns a copy of o in which zero values are replaced and sizes rounded. REQUIRES: o
// passed validate.
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
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate lists every field that is out of range, in one error that is ErrInvalidOptions.
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
	check(m.MinBytes >= 0, "Maintenance.MinBytes", m.MinBytes, "0 or more")
	check(m.MinPeriod >= 0, "Maintenance.MinPeriod", m.MinPeriod, "0 or more")
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrInvalidOptions, errors.Join(faults...))
	}
	return nil
}
