package warmtierhttp

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
)

// The JSON of answers: names with their units, as in the JSON of warmtier.Stats. Durations are seconds, sizes
// bytes, ratios 0 to 1; the time of something that never happened is left out.

// wireStats is the JSON of statistics: that of warmtier.Stats, behind what only the handler knows.
type wireStats struct {
	Name  string
	Time  time.Time
	Left  warmtier.Space
	stats warmtier.Stats
}

// MarshalJSON writes one object.
func (st wireStats) MarshalJSON() ([]byte, error) {
	own := struct {
		Time       time.Time `json:"time"`
		Name       string    `json:"name,omitempty"`
		Version    string    `json:"version"` // of the package warmtier
		MemoryLeft *int64    `json:"memory_left_bytes,omitempty"`
		DiskLeft   *int64    `json:"disk_left_bytes,omitempty"`
	}{Time: st.Time, Name: st.Name, Version: version()}
	if st.Left.Memory >= 0 {
		own.MemoryLeft = &st.Left.Memory
	}
	if st.Left.Disk >= 0 {
		own.DiskLeft = &st.Left.Disk
	}
	head, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	figures, err := json.Marshal(st.stats)
	if err != nil {
		return nil, err
	}
	return slices.Concat(head[:len(head)-1], []byte{','}, figures[1:]), nil
}

// version returns the version of the package warmtier, as its metrics have it.
var version = sync.OnceValue(func() string {
	for _, m := range (warmtier.Stats{}).Metrics() {
		for _, l := range m.Samples[0].Labels {
			if m.Name == "warmtier_build_info" && l.Name == "version" {
				return l.Value
			}
		}
	}
	return "unknown"
})

// progressOf returns the progress of the compaction under way, nil when none runs, or when it has
// nothing to tell: before it has chosen its victims, and after it has ended but for its bookkeeping.
func progressOf(st warmtier.Stats) *warmtier.CompactionProgress {
	if !st.CompactionInProgress || st.CompactionDetails.Progress.Stage == "" {
		return nil
	}
	return &st.CompactionDetails.Progress
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
