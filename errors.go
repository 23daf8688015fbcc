package warmtier

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of Open.
var (
	// ErrInvalidOptions is returned by [Open] when a field of [Options] is out of its range; the
	// message names every such field with its value.
	ErrInvalidOptions = errors.New("warmtier: invalid options")
	// ErrVersion is returned by [Open] when a file has a format version this package cannot read.
	ErrVersion = errors.New("warmtier: unknown format version")
	// ErrCopied is returned by [Open] for a copy of a directory that a store had open, or for one that has such
	// copies of files in it: they may be of different moments. The message says which. See
	// Options.AfterPowerLoss.
	ErrCopied = errors.New("warmtier: directory is a copy of a store that was in use")
	// ErrLocked is returned by [Open] when another store holds the directory. The message has the id of a
	// process that does, where the system lists them. [OpenWait] waits for it.
	ErrLocked = errors.New("warmtier: directory is locked by another store")
)

// Errors of calls on an open store.
var (
	// ErrNotFound is returned when no memory has the id.
	ErrNotFound = errors.New("warmtier: memory not found")
	// ErrChanged is returned by [Store.PutIf] and [Store.Apply] when an id has another version than was asked
	// for. The message has both.
	ErrChanged = errors.New("warmtier: version changed")
	// ErrClosed is returned by every call on a store after [Store.Close] has begun.
	ErrClosed = errors.New("warmtier: store is closed")
	// ErrInvalidID is returned for an id that is empty or longer than [MaxIDLen].
	ErrInvalidID = errors.New("warmtier: invalid id")
	// ErrInvalidCursor is returned by [Store.Scan] for a cursor that is not of this store, or that was made
	// before an Open which had to read the records.
	ErrInvalidCursor = errors.New("warmtier: invalid cursor")
	// ErrInvalidTTL is returned by [Store.PutTTL] for a time to live that is not positive.
	ErrInvalidTTL = errors.New("warmtier: invalid time to live")
	// ErrContentTooLarge is returned for a content longer than [MaxContentLen].
	ErrContentTooLarge = errors.New("warmtier: content too large")
	// ErrBatchTooLarge is returned by [Store.Apply] for more than [MaxBatchLen] writes or checks, and for writes
	// that do not fit into one segment. The message has the limit.
	ErrBatchTooLarge = errors.New("warmtier: batch too large")
	// ErrReadOnly is returned by calls that write to a store opened with Options.ReadOnly.
	ErrReadOnly = errors.New("warmtier: store is read-only")
	// ErrNoSpace is returned when there is no memory or file space for another segment, or none for
	// a larger index: the system has none, it would be over Options.MaxBytes (the message has the budget,
	// what is used, live and dead, in bytes), or the process has about as many memory mappings as the
	// system lets it have (on Linux vm.max_map_count, less a tenth for the program). It wraps the cause.
	ErrNoSpace = errors.New("warmtier: no space")
	// ErrSyncFailed is returned once a flush has failed that may have lost data, and by every write from
	// then on. A lack of descriptors, memory or rights for a moment is an error of one call, and not this one.
	ErrSyncFailed = errors.New("warmtier: sync failed, store takes no more writes")
	// ErrCorrupt is returned when stored bytes fail their checksum or their bounds. errors.As finds
	// the [*CorruptError] with the place.
	ErrCorrupt = errors.New("warmtier: corrupt record")
)

// Errors of compaction and maintenance.
var (
	// ErrCompactionInProgress is returned by [Store.Compact] while another compaction runs.
	ErrCompactionInProgress = errors.New("warmtier: compaction in progress")
	// ErrCompactionFailed is returned by [Store.Compact] when a compaction ended early, cancelled or
	// failed. It wraps the cause. Finished rounds stay, the last one is undone.
	ErrCompactionFailed = errors.New("warmtier: compaction failed")
	// ErrInsufficientMemory is returned by [Store.Compact] when the memory that it may take is too small for
	// the live bytes of any one segment. errors.As finds the [*InsufficientMemoryError] with the figures.
	ErrInsufficientMemory = errors.New("warmtier: insufficient memory")
)

// inner is an error inside another one of this package. Its text begins without the package's name, which the
// outer one has.
type inner struct{ error }

func (e inner) Error() string { return strings.TrimPrefix(e.error.Error(), "warmtier: ") }

func (e inner) Unwrap() error { return e.error }

// CorruptError says where damage was met. errors.Is(err, ErrCorrupt) holds for it.
type CorruptError struct {
	File   string // path of the file, "." for the directory; "segment N" in a memory store
	Offset int64  // of the record in the segment, bytes
	ID     string // of the memory, "" when the damage leaves it unknown
	Reason string // what was wrong
}

// Error names the file, the offset and the reason, and leaves the id out: ids are user data and do
// not belong in logs.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %s at offset %d: %s", ErrCorrupt, e.File, e.Offset, e.Reason)
}

// Is reports whether target is [ErrCorrupt].
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// InsufficientMemoryError says how much memory a compaction needed and how much it may take.
// errors.Is(err, ErrInsufficientMemory) holds for it.
type InsufficientMemoryError struct {
	Needed    int64 // bytes: live in the segment with the fewest, beyond what the store has kept back
	Available int64 // bytes: available to the process times MaxMemoryFraction
}

// Error gives both figures.
func (e *InsufficientMemoryError) Error() string {
	return fmt.Sprintf("%v: compaction needs %d bytes, may take %d",
		ErrInsufficientMemory, e.Needed, e.Available)
}

// Is reports whether target is [ErrInsufficientMemory].
func (e *InsufficientMemoryError) Is(target error) bool { return target == ErrInsufficientMemory }

func contentTooLarge(n int) error {
	return fmt.Errorf("%w: %d bytes, limit %d", ErrContentTooLarge, n, MaxContentLen)
}
