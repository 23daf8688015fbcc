package warmtier

import (
	"encoding/json"
	"time"
)

/*
The JSON of Stats is what expvar shows, what warmtierhttp and the command line answer with, and what metrics
are named after. Its names are those of the fields in snake case, with units: durations are seconds, sizes
bytes, ratios 0 to 1. The metric of a figure has the same words behind "warmtier_", with the unit last and
"_total" for a counter; figures that differ only in a kind (a state, a result) are one metric with a label.
The README of warmtierprom has the list, and a test that compares it with both.
*/

// MarshalJSON returns st as a JSON object: names in snake case with their units, durations in seconds, histograms
// as count, sum and percentiles. The time of something that never happened is left out. It cannot be
// decoded into a Stats again.
func (st Stats) MarshalJSON() ([]byte, error) { return json.Marshal(jsonStatsOf(&st)) }

type jsonStats struct {
	Directory string    `json:"directory,omitempty"`
	Opened    time.Time `json:"opened"`
	Closed    bool      `json:"closed"`
	Memories  int       `json:"memories"`

	TotalBytes         int64   `json:"total_bytes"`
	LiveBytes          int64   `json:"live_bytes"`
	DeadBytes          int64   `json:"dead_bytes"`
	ExpiredBytes       int64   `json:"expired_bytes"` // of the live ones
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

	Segments      jsonSegments    `json:"segments"`
	PinnedReaders int             `json:"pinned_readers"`
	Operations    jsonOperations  `json:"operations"`
	Compactions   jsonCompactions `json:"compactions"`
	Maintenance   jsonMaintenance `json:"maintenance"`
	Sync          jsonSync        `json:"sync"`
	Recovery      jsonRecovery    `json:"recovery"`
}

type jsonSegments struct {
	Active     int `json:"active"`
	Sealed     int `json:"sealed"`
	Compacting int `json:"compacting"`
	Retired    int `json:"retired"`
}

type jsonOperations struct {
	Gets           int64         `json:"gets"`
	Misses         int64         `json:"misses"`
	HitRatio       float64       `json:"hit_ratio"`
	GetErrors      int64         `json:"get_errors"`
	Puts           int64         `json:"puts"`
	PutErrors      int64         `json:"put_errors"`
	PutsChanged    int64         `json:"puts_changed"`
	Deletes        int64         `json:"deletes"`
	DeleteMisses   int64         `json:"delete_misses"`
	DeleteErrors   int64         `json:"delete_errors"`
	Clears         int64         `json:"clears"`
	CorruptRecords int64         `json:"corrupt_records"`
	ReadBytes      int64         `json:"read_bytes"`
	WrittenBytes   int64         `json:"written_bytes"`
	Get            jsonHistogram `json:"get_duration"`
	Put            jsonHistogram `json:"put_duration"`
	Delete         jsonHistogram `json:"delete_duration"`
	Expired        int64         `json:"expired"`
	Evicted        int64         `json:"evicted"`
	EvictedBytes   int64         `json:"evicted_bytes"`
	DropFailures   int64         `json:"drop_failures"`
	Loads          int64         `json:"loads"`
	LoadErrors     int64         `json:"load_errors"`
	Load           jsonHistogram `json:"load_duration"`       // all loads
	Wait           jsonHistogram `json:"write_wait_duration"` // all waits of writes for memory
}

// jsonHistogram is a distribution of durations since Open.
type jsonHistogram struct {
	Count int64   `json:"count"` // of durations measured, which for operations is a sample
	Sum   float64 `json:"sum_seconds"`
	P50   float64 `json:"p50_seconds"`
	P99   float64 `json:"p99_seconds"`
	P999  float64 `json:"p999_seconds"`
	Max   float64 `json:"max_seconds"` // off by less than 10 %, as the percentiles
}

type jsonResults struct {
	OK        int64 `json:"ok"`
	Cancelled int64 `json:"cancelled"`
	Failed    int64 `json:"failed"`
}

type jsonCompactions struct {
	InProgress     bool                `json:"in_progress"`
	Progress       *CompactionProgress `json:"progress,omitempty"`
	Manual         jsonResults         `json:"manual"`
	Auto           jsonResults         `json:"auto"`
	Startup        jsonResults         `json:"startup"`
	Last           time.Time           `json:"last,omitzero"`
	LastSuccess    time.Time           `json:"last_success,omitzero"`
	LastDuration   float64             `json:"last_duration_seconds"`
	BytesReclaimed int64               `json:"reclaimed_bytes"`
	BytesCopied    int64               `json:"copied_bytes"`
	MaxSwapPause   float64             `json:"max_swap_pause_seconds"`
	Duration       jsonHistogram       `json:"duration"`
	Swap           jsonHistogram       `json:"swap_duration"`
}

type jsonProgress struct {
	Stage         CompactionStage `json:"stage"`
	Round         int             `json:"round"`
	Victims       int             `json:"victims"`
	VictimsDone   int             `json:"victims_done"`
	BytesTotal    int64           `json:"bytes_total"`
	BytesCopied   int64           `json:"bytes_copied"`
	MemoriesMoved int64           `json:"memories_moved"`
	Elapsed       float64         `json:"elapsed_seconds"`
}

type jsonMaintenance struct {
	Cycles               int64      `json:"cycles"`
	AutomaticCompactions int64      `json:"automatic_compactions"`
	LastSkipped          SkipReason `json:"last_skipped,omitempty"`
	NextCycle            time.Time  `json:"next_cycle,omitzero"`
	Skips                jsonSkips  `json:"skips"`
}

type jsonSkips struct {
	Threshold int64 `json:"threshold"`
	Size      int64 `json:"size"`
	RateLimit int64 `json:"rate_limit"`
	Busy      int64 `json:"busy"`
	Memory    int64 `json:"memory"`
}

type jsonSync struct {
	Syncs    int64         `json:"syncs"`
	Errors   int64         `json:"errors"`
	Failure  string        `json:"failure,omitempty"` // why the store takes no more writes
	Duration jsonHistogram `json:"duration"`
}

type jsonRecovery struct {
	Duration       float64 `json:"duration_seconds"`
	Clean          bool    `json:"clean"`
	Records        int     `json:"records"`
	TruncatedBytes int64   `json:"truncated_bytes"`

	// What a repair gave up, without ids.
	RecordsLost      int  `json:"records_lost"`
	MemoriesLost     int  `json:"memories_lost"`
	AtMost           bool `json:"at_most"` // memories_lost is a bound
	Unsynced         int  `json:"unsynced"`
	MemoriesDeleted  int  `json:"memories_deleted"`
	SegmentsReplaced int  `json:"segments_replaced"`
}

func jsonStatsOf(st *Stats) jsonStats {
	segments, repair := st.SegmentDetails, st.Recovery.Repair
	return jsonStats{
		Directory: st.Directory, Opened: st.Opened, Closed: st.Closed, Memories: st.Memories,
		TotalBytes: st.TotalBytes, LiveBytes: st.LiveBytes, DeadBytes: st.DeadBytes, ExpiredBytes: st.ExpiredBytes,
		FragmentationRatio: st.FragmentationRatio, MappedBytes: st.MappedBytes,
		RoomBytes: segments.RoomBytes, ReserveBytes: segments.ReserveBytes, RetiredBytes: segments.RetiredBytes,
		SpareBytes: segments.SpareBytes, MaxBytes: st.MaxBytes,
		UnreturnedBytes: segments.UnreturnedBytes, UnreturnedMappings: segments.UnreturnedMappings,
		IndexBytes: st.IndexBytes, UnsyncedBytes: st.Sync.UnsyncedBytes,
		Segments: jsonSegments{
			Active: segments.Active, Sealed: segments.Sealed, Compacting: segments.Compacting, Retired: segments.Retired,
		},
		PinnedReaders: segments.Pins,
		Operations: jsonOperations{
			Gets: st.Gets, Misses: st.Misses, HitRatio: st.HitRatio, GetErrors: st.Reads.Errors,
			Puts: st.Puts, PutErrors: st.Writes.PutErrors, PutsChanged: st.Writes.PutsChanged,
			Deletes: st.Deletes, DeleteMisses: st.Writes.DeleteMisses, DeleteErrors: st.Writes.DeleteErrors,
			CorruptRecords: st.Reads.CorruptRecords, ReadBytes: st.Reads.Bytes, WrittenBytes: st.Writes.Bytes,
			Get: jsonHistogramOf(st.Reads.Duration), Put: jsonHistogramOf(st.Writes.PutDuration),
			Clears: st.Clears, Delete: jsonHistogramOf(st.Writes.DeleteDuration), Wait: jsonHistogramOf(st.Writes.WaitDuration),
			Expired: st.Drops.Expired, Evicted: st.Drops.Evicted, EvictedBytes: st.Drops.EvictedBytes,
			DropFailures: st.Drops.Failures,
			Loads:        st.Loads.OK, LoadErrors: st.Loads.Errors, Load: jsonHistogramOf(st.Loads.Duration),
		},
		Compactions: jsonCompactionsOf(st),
		Maintenance: jsonMaintenance{
			Cycles: st.Maintenance.Cycles, AutomaticCompactions: st.Maintenance.Compactions,
			LastSkipped: st.Maintenance.LastSkipped, NextCycle: st.Maintenance.NextCycle,
			Skips: jsonSkips(st.Maintenance.Skips),
		},
		Sync: jsonSyncOf(&st.Sync),
		Recovery: jsonRecovery{
			Duration: st.Recovery.Duration.Seconds(), Clean: st.Recovery.Clean,
			Records: st.Recovery.Records, TruncatedBytes: st.Recovery.TruncatedBytes,
			RecordsLost: repair.RecordsLost, MemoriesLost: repair.MemoriesLost, AtMost: repair.AtMost,
			Unsynced: repair.Unsynced, MemoriesDeleted: repair.MemoriesDeleted,
			SegmentsReplaced: repair.SegmentsReplaced,
		},
	}
}

func jsonSyncOf(st *SyncStats) jsonSync {
	out := jsonSync{Syncs: st.OK, Errors: st.Errors, Duration: jsonHistogramOf(st.Duration)}
	if st.Failure != nil {
		out.Failure = st.Failure.Error()
	}
	return out
}

func jsonCompactionsOf(st *Stats) jsonCompactions {
	details := st.CompactionDetails
	return jsonCompactions{
		InProgress: st.CompactionInProgress, Progress: jsonProgressOf(st),
		Manual: jsonResults(details.Manual), Auto: jsonResults(details.Automatic), Startup: jsonResults(details.Startup),
		Last: st.LastCompaction, LastSuccess: details.LastSuccess,
		LastDuration:   st.LastCompactionDuration.Seconds(),
		BytesReclaimed: st.BytesReclaimed, BytesCopied: details.BytesCopied,
		MaxSwapPause: st.MaxSwapPause.Seconds(),
		Duration:     jsonHistogramOf(details.Duration), Swap: jsonHistogramOf(details.SwapDuration),
	}
}

func jsonHistogramOf(h Histogram) jsonHistogram {
	return jsonHistogram{
		Count: h.Count, Sum: h.Sum.Seconds(),
		P50: h.Quantile(0.5).Seconds(), P99: h.Quantile(0.99).Seconds(), P999: h.Quantile(0.999).Seconds(),
		Max: h.Quantile(1).Seconds(),
	}
}

// jsonProgressOf returns the progress of the compaction under way, nil when none runs, or when it has
// nothing to tell: before it has chosen its victims, and after it has ended but for its bookkeeping.
func jsonProgressOf(st *Stats) *CompactionProgress {
	if !st.CompactionInProgress || st.CompactionDetails.Progress.Stage == "" {
		return nil
	}
	return &st.CompactionDetails.Progress
}

// MarshalJSON returns p as a JSON object, with names and units as in the JSON of [Stats].
func (p CompactionProgress) MarshalJSON() ([]byte, error) {
	return json.Marshal(jsonProgress{
		Stage: p.Stage, Round: p.Round, Victims: p.Victims, VictimsDone: p.VictimsDone,
		BytesTotal: p.BytesTotal, BytesCopied: p.BytesCopied, MemoriesMoved: p.MemoriesMoved,
		Elapsed: p.Elapsed.Seconds(),
	})
}
