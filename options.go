package warmtier

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"runtime"
	"time"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// Limits of what a store accepts.
const (
	MaxIDLen      = record.MaxIDLen      // bytes: 65,535
	MaxContentLen = record.MaxContentLen // bytes: 1 GiB
	MaxBatchLen   = record.MaxContained  // writes of a Batch, and checks: 1,024
)

const (
	minSegmentSize     = 64 << 10 // bytes
	defaultSegmentSize = 32 << 20 // bytes
	maxSegmentSize     = 1 << 30  // bytes
	maxWorkers         = 1024

	// With MaxBytes there are about boundedSegments segments, unless SegmentSize says otherwise, and at
	// least leastSegments: one lane's, the survivor, those of a round, and some that hold something.
	boundedSegments = 256
	leastSegments   = 16

	longestInterval = math.MaxInt64 / 4 // 73 years; two of them are still a time.Duration

	// defaultOverheadSegments is the default of MaxOverhead, in segments.
	defaultOverheadSegments = 4
)

// Options configure a store. The zero value and nil mean the defaults. [Open] copies the options
// and never writes to them.
type Options struct {
	// SegmentSize is the size that segments grow to in bytes, at most 1 GiB; 0 means 32 MiB, or with
	// MaxBytes 1/256 of that as a power of two, from 64 KiB to 32 MiB. It is rounded up to whole pages and
	// to at least 64 KiB. The first segments have 64 KiB, and later ones a share of what the store maps, or
	// has written within half a minute.
	SegmentSize int
	// MaxBytes bounds, in bytes, everything that the store maps (Stats.MappedBytes: segments whole,
	// pinned ones too, memory kept for the next ones, the index) and in a directory the files that keep
	// space back (SegmentDetails.SpareBytes); 0 means no bound. A write that needs memory beyond it waits
	// for a compaction as long as one runs, or could give back a tenth or more of the store; then WhenFull
	// decides. With Maintenance.Disabled it waits only for one that runs. Nothing is dropped that was not asked
	// for: a directory that holds more than MaxBytes is opened, and takes writes again when enough was deleted.
	// At least sixteen segments are needed, and there is at most one lane for sixteen.
	MaxBytes int64
	// WhenFull says what a write does that finds no room within MaxBytes.
	WhenFull WhenFull
	// SyncInterval is how often a directory store syncs in the background; 0 means 1s, negative
	// means that only [Store.Sync] and [Store.Close] sync.
	SyncInterval time.Duration
	// SyncWrites makes Put, Delete and GetOrLoad of a directory store return when what they have stored,
	// deleted or found is durable, also where another call stored or deleted it: a Delete that finds
	// nothing waits for the one that was before it. Calls at the same time share a flush. Calls that only
	// read (Get, AppendContent, View, Has, GetMany, All, Len, FS) wait for nothing, and may show what a
	// power loss would take.
	SyncWrites bool
	// ReadOnly makes every call that writes return [ErrReadOnly].
	ReadOnly bool
	// Repair makes Open of a damaged directory salvage what is intact instead of failing with
	// [ErrCorrupt]. Memories that are not known to be the newest version of their id are dropped;
	// Stats.Recovery says which and how many. Damaged segment files stay in the directory, with the
	// suffix .damaged. Where nothing says which memories are lost, Open falls back to what was synced if no
	// Sync had promised to keep any of them, and otherwise still fails with [ErrCorrupt].
	Repair bool
	// AfterPowerLoss makes Open treat a directory as after a power loss: what was synced is there, and of
	// what was not any part may be. It is for directories that only look as if the process had been
	// killed: a snapshot, or the disk of another machine, copied to where it is. All files must be
	// of one moment; a copy of files that a store was writing is not, and without this option it is
	// [ErrCopied]. A store that was closed needs no option, wherever its files were copied.
	AfterPowerLoss bool
	// OnDrop, when not nil, is told once of each memory that the store has dropped by itself: when its
	// bytes are given back, which for one that has expired may be long after its deadline, and not at all
	// if the process ends before. What is overwritten or deleted before then is not dropped. It runs on a
	// goroutine of its own, with no lock held; the compaction waits for it. It may call every method of
	// the store, Close included, which does not wait for it; a Put in it that needs the memory which
	// that compaction has yet to give back waits for 10 s, and is refused. A panic is logged, counted in
	// Stats.Drops.Failures, and costs that call alone.
	OnDrop func(Drop)
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

	urgentWorkers int // of a compaction that is urgent: Compaction.Workers, or GOMAXPROCS if that is 0
}

// WhenFull is what a write does that finds no room within Options.MaxBytes.
type WhenFull int

const (
	// Refuse makes the write return [ErrNoSpace], with nothing changed. Reads and Deletes go on.
	Refuse WhenFull = iota
	// Evict drops memories that were not read lately, when a 64th of MaxBytes is left: the store is a cache.
	// What a Put stored is there when it returns. It needs MaxBytes, and works with Maintenance.Disabled too: writes
	// evict by themselves then.
	Evict
)

// CompactionOptions bound what a compaction may use.
type CompactionOptions struct {
	// Workers is the number of goroutines that copy and flip, at most 1024; 0 means half of
	// GOMAXPROCS, but at least 1, and all of it while a write waits for memory, less than an eighth of
	// MaxBytes is left, or the store maps more than 5/2 of its live bytes and 128 MiB.
	Workers int
	// MaxOverhead bounds the bytes of target segments that one round may fill, and so the extra
	// memory that a compaction holds. At least one segment is always used, the one that is kept back;
	// 0 means four segments of SegmentSize, negative means no bound and one single round.
	MaxOverhead int64
	// MaxMemoryFraction is the share (0 to 1) that a compaction of a memory store may take, beyond
	// what the store has kept back, of the memory available to the process, limits of its control
	// groups included; 0 means 0.5. A round moves no more live bytes than fit into both.
	MaxMemoryFraction float64
	// OnProgress, when not nil, is called during a compaction from the goroutine that runs it, with
	// no lock held. It may call every method of the store except Close, which waits for the
	// compaction. That goroutine is also one of the workers, so a slow call slows the compaction.
	// A panic passes through to the caller of Compact or Maintain, and undoes the round.
	// In the background, where there is no caller, it is logged, and the compaction goes on without
	// OnProgress.
	OnProgress func(CompactionProgress)
}

// MaintenanceOptions configure automatic compactions. One is due when the fragmentation ratio is at
// least FragmentationThreshold, TotalBytes is at least MinBytes, and since the last one began either
// MinPeriod has passed or at least as many bytes have died as are live, and MinBytes. What has expired counts as
// dead, and for FragmentationThreshold twice; when it is a quarter of all, MinPeriod does not matter. As long as a
// tenth or more is dead, one is due as well when less than an eighth of Options.MaxBytes is left, or a
// write found no space. It gives back what is worth the copying: see docs/design.md, section 7; [Store.Compact] gives
// back everything. Segments in which nothing is live leave at once, whatever these options say.
type MaintenanceOptions struct {
	// Disabled turns automatic compactions off, those for MaxBytes too; [Store.Maintain] still works.
	Disabled bool
	// Interval is the time between two cycles; 0 means 30s. Writes start further ones: a cycle looks
	// whenever a thirty-second of the store was written. Memory that lanes did not use for an Interval
	// is given back.
	Interval time.Duration
	// FragmentationThreshold is the ratio (0 to 1) from which on a cycle compacts; 0 means 0.5. What has
	// expired counts twice.
	FragmentationThreshold float64
	// MinBytes is the size from which on a cycle compacts; smaller stores are left alone. 0 means
	// 100,000,000, negative means that no store is too small.
	MinBytes int64
	// MinPeriod is the least time between the beginnings of two automatic compactions of a store in
	// which little dies: as many bytes as are live, and MinBytes, end it early. 0 means 5m, negative means
	// that no cycle waits for the last compaction.
	MinPeriod time.Duration
}

// withDefaults returns a copy of o with zero values replaced by defaults, sizes rounded, and
// bounds of maintenance brought into their range. REQUIRES: o passed validate.
func (o Options) withDefaults() Options {
	o.SegmentSize = o.segmentSize()
	setDefault(&o.SyncInterval, time.Second)
	o.urgentWorkers = o.Compaction.Workers
	setDefault(&o.urgentWorkers, runtime.GOMAXPROCS(0))
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

// segmentSize returns the size that segments will have, bytes.
func (o Options) segmentSize() int {
	size := o.SegmentSize
	switch {
	case size == 0 && o.MaxBytes > 0:
		size = 1 << (bits.Len64(uint64(max(1, o.MaxBytes/boundedSegments))) - 1)
		size = min(size, defaultSegmentSize)
	case size == 0:
		size = defaultSegmentSize
	}
	return vm.RoundUp(max(size, minSegmentSize), vm.PageSize)
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
	check(o.MaxBytes >= 0, "MaxBytes", o.MaxBytes, "0 or more")
	if least := leastSegments * int64(o.segmentSize()); o.MaxBytes > 0 && len(faults) == 0 {
		check(o.MaxBytes >= least, "MaxBytes", o.MaxBytes,
			fmt.Sprintf("at least %d, which is %d segments of %d bytes", least, leastSegments, o.segmentSize()))
	}
	check(o.WhenFull == Refuse || o.WhenFull == Evict, "WhenFull", int(o.WhenFull), "Refuse or Evict")
	check(o.WhenFull != Evict || o.MaxBytes > 0, "MaxBytes", o.MaxBytes, "a bound, since WhenFull is Evict")
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
