package warmtierhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/warmtier/warmtier"
)

// The JSON of answers: names with their units, as in metrics. Durations are seconds, sizes bytes,
// ratios 0 to 1; the time of something that never happened is left out.

type wireStats struct {
	Time     time.Time `json:"time"`
	Memories int       `json:"memories"`

	TotalBytes         int64   `json:"total_bytes"`
	LiveBytes          int64   `json:"live_bytes"`
	DeadBytes          int64   `json:"dead_bytes"`
	FragmentationRatio float64 `json:"fragmentation_ratio"`
	MappedBytes        int64   `json:"mapped_bytes"` // live, dead, index, room, reserve and retired bytes
	RoomBytes          int64   `json:"room_bytes"`
	ReserveBytes       int64   `json:"reserve_bytes"`
	RetiredBytes       int64   `json:"retired_bytes"`
	SpareBytes         int64   `json:"spare_bytes"` // beyond what is mapped
	MaxBytes           int64   `json:"max_bytes"`   // bound of mapped and spare bytes; 0 for none
	UnreturnedBytes    int64   `json:"unreturned_bytes"`
	UnreturnedMappings int     `json:"unreturned_mappings"`
	IndexBytes         int64   `json:"index_bytes"`
	UnsyncedBytes      int64   `json:"unsynced_bytes"`

	Segments      wireSegmentCounts `json:"segments"`
	PinnedReaders int               `json:"pinned_readers"`
	Operations    wireOperations    `json:"operations"`
	Compactions   wireCompactions   `json:"compactions"`
	Maintenance   wireMaintenance   `json:"maintenance"`
	Sync          wireSync          `json:"sync"`
	Recovery      wireRecovery      `json:"recovery"`
}

type wireSegmentCounts struct {
	Active     int `json:"active"`
	Sealed     int `json:"sealed"`
	Compacting int `json:"compacting"`
	Retired    int `json:"retired"`
}

type wireOperations struct {
	Gets           int64         `json:"gets"`
	Misses         int64         `json:"misses"`
	GetErrors      int64         `json:"get_errors"`
	Puts           int64         `json:"puts"`
	PutErrors      int64         `json:"put_errors"`
	Deletes        int64         `json:"deletes"`
	DeleteMisses   int64         `json:"delete_misses"`
	DeleteErrors   int64         `json:"delete_errors"`
	CorruptRecords int64         `json:"corrupt_records"`
	ReadBytes      int64         `json:"read_bytes"`
	WrittenBytes   int64         `json:"written_bytes"`
	Get            wireHistogram `json:"get_duration"`
	Put            wireHistogram `json:"put_duration"`
	Delete         wireHistogram `json:"delete_duration"`
	Wait           wireHistogram `json:"write_wait_duration"` // all waits of writes for memory
}

// wireHistogram is a distribution of durations since Open.
type wireHistogram struct {
	Count int64   `json:"count"` // of durations measured, which for operations is a sample
	Sum   float64 `json:"sum_seconds"`
	P50   float64 `json:"p50_seconds"`
	P99   float64 `json:"p99_seconds"`
	P999  float64 `json:"p999_seconds"`
	Max   float64 `json:"max_seconds"` // off by less than 10 %, as the percentiles
}

type wireResults struct {
	OK      int64 `json:"ok"`
	Aborted int64 `json:"aborted"`
	Failed  int64 `json:"failed"`
}

type wireCompactions struct {
	InProgress     bool          `json:"in_progress"`
	Progress       *wireProgress `json:"progress,omitempty"`
	Manual         wireResults   `json:"manual"`
	Auto           wireResults   `json:"auto"`
	Startup        wireResults   `json:"startup"`
	Last           time.Time     `json:"last,omitzero"`
	LastSuccess    time.Time     `json:"last_success,omitzero"`
	LastDuration   float64       `json:"last_duration_seconds"`
	BytesReclaimed int64         `json:"bytes_reclaimed"`
	BytesCopied    int64         `json:"bytes_copied"`
	MaxSwapPause   float64       `json:"max_swap_pause_seconds"`
	Duration       wireHistogram `json:"duration"`
	Swap           wireHistogram `json:"swap_duration"`
}

type wireProgress struct {
	Stage         warmtier.CompactionStage `json:"stage"`
	Round         int                      `json:"round"`
	Victims       int                      `json:"victims"`
	VictimsDone   int                      `json:"victims_done"`
	BytesTotal    int64                    `json:"bytes_total"`
	BytesCopied   int64                    `json:"bytes_copied"`
	MemoriesMoved int64                    `json:"memories_moved"`
	Elapsed       float64                  `json:"elapsed_seconds"`
}

type wireMaintenance struct {
	Cycles               int64               `json:"cycles"`
	AutomaticCompactions int64               `json:"automatic_compactions"`
	LastSkipped          warmtier.SkipReason `json:"last_skipped,omitempty"`
	NextCycle            time.Time           `json:"next_cycle,omitzero"`
	Skips                wireSkips           `json:"skips"`
}

type wireSkips struct {
	Threshold int64 `json:"threshold"`
	Size      int64 `json:"size"`
	RateLimit int64 `json:"rate_limit"`
	Busy      int64 `json:"busy"`
	Memory    int64 `json:"memory"`
}

type wireSync struct {
	Syncs    int64         `json:"syncs"`
	Errors   int64         `json:"errors"`
	Duration wireHistogram `json:"duration"`
}

type wireRecovery struct {
	Duration       float64 `json:"duration_seconds"`
	Clean          bool    `json:"clean"`
	Records        int     `json:"records"`
	TruncatedBytes int64   `json:"truncated_bytes"`

	// What a repair gave up, without ids.
	RecordsLost      int  `json:"records_lost"`
	MemoriesLost     int  `json:"memories_lost"`
	AtMost           bool `json:"at_most"` // memories_lost is a bound
	MemoriesDeleted  int  `json:"memories_deleted"`
	SegmentsReplaced int  `json:"segments_replaced"`
}

func toWireStats(now time.Time, st warmtier.Stats) wireStats {
	segments, repair := st.SegmentDetails, st.Recovery.Repair
	return wireStats{
		Time: now, Memories: st.Memories,
		TotalBytes: st.TotalBytes, LiveBytes: st.LiveBytes, DeadBytes: st.DeadBytes,
		FragmentationRatio: st.FragmentationRatio, MappedBytes: st.MappedBytes,
		RoomBytes: segments.RoomBytes, ReserveBytes: segments.ReserveBytes, RetiredBytes: segments.RetiredBytes,
		SpareBytes: segments.SpareBytes, MaxBytes: st.MaxBytes,
		UnreturnedBytes: segments.UnreturnedBytes, UnreturnedMappings: segments.UnreturnedMappings,
		IndexBytes: st.IndexBytes, UnsyncedBytes: st.Sync.UnsyncedBytes,
		Segments: wireSegmentCounts{
			Active: segments.Active, Sealed: segments.Sealed, Compacting: segments.Compacting, Retired: segments.Retired,
		},
		PinnedReaders: segments.Pins,
		Operations: wireOperations{
			Gets: st.Gets, Misses: st.Misses, GetErrors: st.Reads.Errors, Puts: st.Puts, PutErrors: st.Writes.PutErrors,
			Deletes: st.Deletes, DeleteMisses: st.Writes.DeleteMisses, DeleteErrors: st.Writes.DeleteErrors,
			CorruptRecords: st.Reads.CorruptRecords, ReadBytes: st.Reads.Bytes, WrittenBytes: st.Writes.Bytes,
			Get: toWireHistogram(st.Reads.Duration), Put: toWireHistogram(st.Writes.PutDuration),
			Delete: toWireHistogram(st.Writes.DeleteDuration), Wait: toWireHistogram(st.Writes.WaitDuration),
		},
		Compactions: toWireCompactions(st),
		Maintenance: wireMaintenance{
			Cycles: st.Maintenance.Cycles, AutomaticCompactions: st.Maintenance.Compactions,
			LastSkipped: st.Maintenance.LastSkipped, NextCycle: st.Maintenance.NextCycle,
			Skips: wireSkips(st.Maintenance.Skips),
		},
		Sync: wireSync{Syncs: st.Sync.OK, Errors: st.Sync.Errors, Duration: toWireHistogram(st.Sync.Duration)},
		Recovery: wireRecovery{
			Duration: st.Recovery.Duration.Seconds(), Clean: st.Recovery.Clean,
			Records: st.Recovery.Records, TruncatedBytes: st.Recovery.TruncatedBytes,
			RecordsLost: repair.RecordsLost, MemoriesLost: repair.MemoriesLost, AtMost: repair.AtMost,
			MemoriesDeleted:  repair.MemoriesDeleted,
			SegmentsReplaced: repair.SegmentsReplaced,
		},
	}
}

func toWireCompactions(st warmtier.Stats) wireCompactions {
	details := st.CompactionDetails
	return wireCompactions{
		InProgress: st.CompactionInProgress, Progress: toWireProgress(st),
		Manual: wireResults(details.Manual), Auto: wireResults(details.Automatic), Startup: wireResults(details.Startup),
		Last: st.LastCompaction, LastSuccess: details.LastSuccess,
		LastDuration:   st.LastCompactionDuration.Seconds(),
		BytesReclaimed: st.BytesReclaimed, BytesCopied: details.BytesCopied,
		MaxSwapPause: st.MaxSwapPause.Seconds(),
		Duration:     toWireHistogram(details.Duration), Swap: toWireHistogram(details.SwapDuration),
	}
}

func toWireHistogram(h warmtier.Histogram) wireHistogram {
	return wireHistogram{
		Count: h.Count, Sum: h.Sum.Seconds(),
		P50: h.Quantile(0.5).Seconds(), P99: h.Quantile(0.99).Seconds(), P999: h.Quantile(0.999).Seconds(),
		Max: h.Quantile(1).Seconds(),
	}
}

// toWireProgress returns the progress of the compaction under way, nil when none runs, or when it has
// nothing to tell: before it has chosen its victims, and after it has ended but for its bookkeeping.
func toWireProgress(st warmtier.Stats) *wireProgress {
	if !st.CompactionInProgress || st.CompactionDetails.Progress.Stage == "" {
		return nil
	}
	p := st.CompactionDetails.Progress
	return &wireProgress{
		Stage: p.Stage, Round: p.Round, Victims: p.Victims, VictimsDone: p.VictimsDone,
		BytesTotal: p.BytesTotal, BytesCopied: p.BytesCopied, MemoriesMoved: p.MemoriesMoved,
		Elapsed: p.Elapsed.Seconds(),
	}
}

type wireSegments struct {
	Segments []wireSegment `json:"segments"`
	Count    int           `json:"count"`           // of all segments
	Next     *uint64       `json:"after,omitempty"` // for the next request, when segments are left
}

type wireSegment struct {
	Number      uint64                `json:"segment"`
	State       warmtier.SegmentState `json:"state"`
	MappedBytes int64                 `json:"mapped_bytes"`
	TotalBytes  int64                 `json:"total_bytes"`
	LiveBytes   int64                 `json:"live_bytes"`
	DeadBytes   int64                 `json:"dead_bytes"`
	Pins        int                   `json:"pins"`
	Age         float64               `json:"age_seconds"`
}

func toWireSegment(s warmtier.SegmentStats) wireSegment {
	return wireSegment{
		Number: s.ID, State: s.State, MappedBytes: s.MappedBytes, TotalBytes: s.TotalBytes,
		LiveBytes: s.LiveBytes, DeadBytes: s.DeadBytes, Pins: s.Pins, Age: s.Age.Seconds(),
	}
}

type wireCompaction struct {
	Duration            float64 `json:"duration_seconds"`
	Rounds              int     `json:"rounds"`
	SegmentsBefore      int     `json:"segments_before"`
	SegmentsAfter       int     `json:"segments_after"`
	BytesBefore         int64   `json:"bytes_before"`
	BytesAfter          int64   `json:"bytes_after"`
	BytesReclaimed      int64   `json:"bytes_reclaimed"`
	BytesUnreturned     int64   `json:"bytes_unreturned"`
	FileBytesReclaimed  int64   `json:"file_bytes_reclaimed"`
	BytesCopied         int64   `json:"bytes_copied"`
	FragmentationBefore float64 `json:"fragmentation_before"`
	FragmentationAfter  float64 `json:"fragmentation_after"`
	MemoriesMoved       int64   `json:"memories_moved"`
	MemoriesSuperseded  int64   `json:"memories_superseded"`
	MaxSwapPause        float64 `json:"max_swap_pause_seconds"`
	PeakOverheadBytes   int64   `json:"peak_overhead_bytes"`
}

func toWireCompaction(c warmtier.CompactionStats) *wireCompaction {
	return &wireCompaction{
		Duration: c.Duration.Seconds(), Rounds: c.Rounds,
		SegmentsBefore: c.SegmentsBefore, SegmentsAfter: c.SegmentsAfter,
		BytesBefore: c.BytesBefore, BytesAfter: c.BytesAfter,
		BytesReclaimed: c.BytesReclaimed, BytesUnreturned: c.BytesUnreturned,
		FileBytesReclaimed: c.FileBytesReclaimed, BytesCopied: c.BytesCopied,
		FragmentationBefore: c.FragmentationBefore, FragmentationAfter: c.FragmentationAfter,
		MemoriesMoved: c.MemoriesMoved, MemoriesSuperseded: c.MemoriesSuperseded,
		MaxSwapPause: c.MaxSwapPause.Seconds(), PeakOverheadBytes: c.PeakOverheadBytes,
	}
}

type wireReport struct {
	FragmentationRatio float64             `json:"fragmentation_ratio"`
	TotalBytes         int64               `json:"total_bytes"`
	Compacted          bool                `json:"compacted"`
	Skipped            warmtier.SkipReason `json:"skipped,omitempty"`
	Compaction         *wireCompaction     `json:"compaction,omitempty"`
	Duration           float64             `json:"duration_seconds"`
}

func toWireReport(r warmtier.MaintenanceReport) wireReport {
	out := wireReport{
		FragmentationRatio: r.FragmentationRatio, TotalBytes: r.TotalBytes,
		Compacted: r.Compacted, Skipped: r.Skipped, Duration: r.Duration.Seconds(),
	}
	if r.Skipped == "" {
		out.Compaction = toWireCompaction(r.Compaction)
	}
	return out
}

// wireError is the body of every answer that is an error.
type wireError struct {
	Code           string          `json:"code"`
	Error          string          `json:"error"`
	NeededBytes    *int64          `json:"needed_bytes,omitempty"`
	AvailableBytes *int64          `json:"available_bytes,omitempty"`
	Compaction     *wireCompaction `json:"compaction,omitempty"` // what was done before the error
}

// toWireError returns the status and the body for a compaction that ended with err. The texts of
// the store's errors have no ids in them.
func toWireError(done warmtier.CompactionStats, err error) (status int, e wireError) {
	e = wireError{Error: err.Error()}
	if errors.Is(err, warmtier.ErrCompactionFailed) {
		e.Compaction = toWireCompaction(done)
	}
	var short *warmtier.InsufficientMemoryError
	switch {
	case errors.As(err, &short):
		e.Code, e.NeededBytes, e.AvailableBytes = "insufficient_memory", &short.Needed, &short.Available
		return http.StatusInsufficientStorage, e
	case errors.Is(err, warmtier.ErrCompactionInProgress):
		e.Code = "compaction_in_progress"
		return http.StatusConflict, e
	case errors.Is(err, warmtier.ErrClosed), errors.Is(err, errClosed):
		e.Code = "closed"
		return http.StatusServiceUnavailable, e
	case errors.Is(err, warmtier.ErrReadOnly):
		e.Code = "read_only"
	default:
		e.Code = "failed"
	}
	return http.StatusInternalServerError, e
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // no type above causes one
		http.Error(w, "encoding failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // fails when the client is gone
}
