package warmtier

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/warmtier/warmtier/internal/layout"
)

// MetricType says what the figures of a [Metric] mean.
type MetricType string

// Types of metrics, by their names in the Prometheus text format.
const (
	MetricGauge     MetricType = "gauge"
	MetricCounter   MetricType = "counter"
	MetricHistogram MetricType = "histogram"
)

// Metric is one family of figures in the form that monitoring systems share: seconds, bytes or
// ratios from 0 to 1, with the unit in its name. No label is an id.
type Metric struct {
	Name    string
	Help    string
	Type    MetricType
	Samples []Sample // all with the same label names
}

// Sample is one figure of a [Metric].
type Sample struct {
	Labels    []Label
	Value     float64
	Histogram *Histogram // in place of Value when the metric is a MetricHistogram
}

// Label tells the samples of a metric apart. The labels of one sample are in the order of their
// names.
type Label struct{ Name, Value string }

// Metrics returns st as metrics: always the same families with the same labels, in the same order.
// [Stats.WritePrometheus] and package warmtierprom expose them; other exporters can be built on
// them.
func (st Stats) Metrics() []Metric {
	var m families
	m.content(&st)
	m.operations(&st)
	m.compaction(&st)
	m.durability(&st)
	return m
}

// WritePrometheus writes st in the Prometheus text format, version 0.0.4, whose Content-Type is
// "text/plain; version=0.0.4; charset=utf-8". It is a page of its own: the figures of several stores
// are one page with the function [WritePrometheus]. It returns the errors of w.
func (st Stats) WritePrometheus(w io.Writer) error { return writePage(w, st.Metrics()) }

// WritePrometheus writes the statistics of several stores as one page, in the format of
// [Stats.WritePrometheus]. Every sample has the label store, with the name that its store has in
// stores. A name that is not valid UTF-8, which no reader of the page would take, is an error before
// anything is written; otherwise the errors are those of w.
func WritePrometheus(w io.Writer, stores map[string]Stats) error {
	var page []Metric
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		if !utf8.ValidString(name) {
			return fmt.Errorf("warmtier: the name of a store is not valid UTF-8: %q", name)
		}
		metrics := stores[name].Metrics() // the same ones, in the same order, for every store
		if page == nil {
			page = make([]Metric, len(metrics))
		}
		for i, m := range metrics {
			samples := page[i].Samples
			for _, s := range m.Samples {
				samples = append(samples, s.with(Label{Name: "store", Value: name}))
			}
			m.Samples = samples
			page[i] = m
		}
	}
	return writePage(w, page)
}

// with returns s with one more label, in its place.
func (s Sample) with(l Label) Sample {
	at := slices.IndexFunc(s.Labels, func(other Label) bool { return other.Name > l.Name })
	if at < 0 {
		at = len(s.Labels)
	}
	s.Labels = slices.Insert(slices.Clone(s.Labels), at, l)
	return s
}

// writePage writes metrics, each of which may be on a page once.
func writePage(w io.Writer, metrics []Metric) error {
	b := bufio.NewWriter(w)
	for _, m := range metrics {
		m.write(b)
	}
	return b.Flush()
}

// families collects metrics in the order in which they are added.
type families []Metric

func (m *families) add(kind MetricType, name, help string, samples ...Sample) {
	*m = append(*m, Metric{Name: name, Help: help, Type: kind, Samples: samples})
}

func (m *families) gauge(name, help string, v float64) {
	m.add(MetricGauge, name, help, Sample{Value: v})
}

func (m *families) counter(name, help string, v int64) {
	m.add(MetricCounter, name, help, Sample{Value: float64(v)})
}

func (m *families) histogram(name, help string, h Histogram) {
	m.add(MetricHistogram, name, help, Sample{Histogram: &h})
}

// labelled returns a sample with labels, which are names and values in turn.
func labelled(v float64, labels ...string) Sample {
	s := Sample{Value: v}
	for i := 0; i < len(labels); i += 2 {
		s.Labels = append(s.Labels, Label{Name: labels[i], Value: labels[i+1]})
	}
	return s
}

func (m *families) content(st *Stats) {
	m.add(MetricGauge, "warmtier_build_info", "Version of the package, and of the format of its files; always 1.",
		labelled(1, "format", strconv.Itoa(layout.Version), "version", moduleVersion()))
	m.gauge("warmtier_memories", "Memories in the store.", float64(st.Memories))
	m.gauge("warmtier_index_bytes", "Memory that the index takes.", float64(st.IndexBytes))
	m.gauge("warmtier_live_bytes", "Bytes of records that the index points to.", float64(st.LiveBytes))
	m.gauge("warmtier_dead_bytes", "Bytes of overwritten and deleted records.", float64(st.DeadBytes))
	m.gauge("warmtier_expired_bytes", "Live bytes of memories that have expired, an estimate.", float64(st.ExpiredBytes))
	m.gauge("warmtier_mapped_bytes", "Memory that segments and index take, retired ones and the reserve included.",
		float64(st.MappedBytes))
	m.gauge("warmtier_max_bytes", "Bound of what segments, index and spare files take together; 0 when there is none.",
		float64(st.MaxBytes))
	m.gauge("warmtier_fragmentation_ratio", "Dead bytes by live and dead bytes, 0 to 1.", st.FragmentationRatio)
	n := st.SegmentDetails
	m.add(MetricGauge, "warmtier_segments", "Segments by what they are being used for.",
		labelled(float64(n.Active), "state", string(SegmentActive)),
		labelled(float64(n.Sealed), "state", string(SegmentSealed)),
		labelled(float64(n.Compacting), "state", string(SegmentCompacting)),
		labelled(float64(n.Retired), "state", string(SegmentRetired)))
	m.gauge("warmtier_room_bytes", "Memory of segments that holds no record, what a compaction has taken included.",
		float64(n.RoomBytes))
	m.gauge("warmtier_retired_bytes", "Memory of segments that only readers keep mapped.", float64(n.RetiredBytes))
	m.gauge("warmtier_reserve_bytes", "Memory kept for compactions and for the next segments.",
		float64(n.ReserveBytes))
	m.gauge("warmtier_spare_bytes", "Files that keep space back, beyond what is mapped.", float64(n.SpareBytes))
	m.gauge("warmtier_unreturned_bytes", "Address space given up that the system did not take back yet.",
		float64(n.UnreturnedBytes))
	m.gauge("warmtier_unreturned_mappings", "Mappings given up that the system did not take back yet.",
		float64(n.UnreturnedMappings))
	m.gauge("warmtier_pinned_readers", "Pins that readers hold on segments.", float64(n.Pins))
}

func (m *families) operations(st *Stats) {
	op := func(n int64, op, result string) Sample { return labelled(float64(n), "op", op, "result", result) }
	m.add(MetricCounter, "warmtier_operations_total", "Operations by their result.",
		op(st.Gets-st.Misses, "get", "hit"),
		op(st.Misses, "get", "miss"),
		op(st.Reads.Errors, "get", "error"),
		op(st.Puts, "put", "ok"),
		op(st.Writes.PutErrors, "put", "error"),
		op(st.Writes.PutsChanged, "put", "changed"),
		op(st.Deletes, "delete", "ok"),
		op(st.Writes.DeleteMisses, "delete", "miss"),
		op(st.Writes.DeleteErrors, "delete", "error"),
		op(st.Clears, "clear", "ok"),
		op(st.Loads.OK, "load", "ok"),
		op(st.Loads.Errors, "load", "error"))
	m.add(MetricCounter, "warmtier_drops_total", "Memories that the store dropped by itself, by reason.",
		labelled(float64(st.Drops.Evicted), "reason", string(Evicted)),
		labelled(float64(st.Drops.Expired), "reason", string(Expired)))
	m.counter("warmtier_drop_failures_total", "Calls of OnDrop that did not return.", st.Drops.Failures)
	duration := func(op string, h Histogram) Sample {
		s := labelled(0, "op", op)
		s.Histogram = &h
		return s
	}
	m.add(MetricHistogram, "warmtier_operation_duration_seconds",
		"Durations of operations: of all loads, and of 1 in 256 others.",
		duration("get", st.Reads.Duration),
		duration("put", st.Writes.PutDuration),
		duration("delete", st.Writes.DeleteDuration),
		duration("load", st.Loads.Duration))
	m.histogram("warmtier_write_wait_duration_seconds", "Waits of writes for memory.", st.Writes.WaitDuration)
	m.counter("warmtier_read_bytes_total", "Bytes of contents read, estimated from a sample of 1 in 256.", st.Reads.Bytes)
	m.counter("warmtier_written_bytes_total", "Bytes of records written by puts and deletes.", st.Writes.Bytes)
	m.counter("warmtier_evicted_bytes_total", "Bytes of records dropped for want of room.", st.Drops.EvictedBytes)
	m.counter("warmtier_corrupt_records_total", "Damaged records met by reads.", st.Reads.CorruptRecords)
}

func (m *families) compaction(st *Stats) {
	details := &st.CompactionDetails
	var compactions []Sample
	for i, r := range [triggers]CompactionResults{
		triggerManual: details.Manual, triggerAuto: details.Automatic, triggerStartup: details.Startup,
	} {
		name := trigger(i).String()
		compactions = append(compactions,
			labelled(float64(r.OK), "result", "ok", "trigger", name),
			labelled(float64(r.Cancelled), "result", "cancelled", "trigger", name),
			labelled(float64(r.Failed), "result", "failed", "trigger", name))
	}
	m.add(MetricCounter, "warmtier_compactions_total", "Compactions by what started them and how they ended.",
		compactions...)
	m.histogram("warmtier_compaction_duration_seconds", "Durations of compactions.", details.Duration)
	m.histogram("warmtier_compaction_swap_duration_seconds", "Holds of the write lock while segments leave.",
		details.SwapDuration)
	m.counter("warmtier_compaction_reclaimed_bytes_total",
		"Bytes given back by compactions, and with segments in which nothing was live.", st.BytesReclaimed)
	m.counter("warmtier_compaction_copied_bytes_total", "Bytes of live records copied by compactions.",
		details.BytesCopied)
	running := 0.0
	if st.CompactionInProgress {
		running = 1
	}
	m.gauge("warmtier_compaction_in_progress", "1 while a compaction runs, else 0.", running)
	m.gauge("warmtier_compaction_last_success_timestamp_seconds", "When the last compaction ended well; 0 when none did.",
		timestamp(details.LastSuccess))
	skips := st.Maintenance.Skips
	skip := func(n int64, reason SkipReason) Sample { return labelled(float64(n), "reason", string(reason)) }
	m.add(MetricCounter, "warmtier_maintenance_skips_total", "Maintenance cycles that did not compact, by reason.",
		skip(skips.Threshold, SkipThreshold),
		skip(skips.Size, SkipSize),
		skip(skips.RateLimit, SkipRateLimit),
		skip(skips.Busy, SkipBusy),
		skip(skips.Memory, SkipMemory))
}

func (m *families) durability(st *Stats) {
	m.histogram("warmtier_sync_duration_seconds", "Durations of flushes.", st.Sync.Duration)
	m.counter("warmtier_sync_errors_total", "Flushes that failed.", st.Sync.Errors)
	ended := 0.0
	if st.Sync.Failure != nil {
		ended = 1
	}
	m.gauge("warmtier_sync_failure", "1 once a failed flush has ended writing, until the store is opened again, else 0.",
		ended)
	m.gauge("warmtier_unsynced_bytes", "Bytes of records that a power loss might take.", float64(st.Sync.UnsyncedBytes))
	m.gauge("warmtier_recovery_duration_seconds", "How long opening the directory took.", st.Recovery.Duration.Seconds())
	m.gauge("warmtier_recovery_records", "Records found when the directory was opened.", float64(st.Recovery.Records))
	m.gauge("warmtier_recovery_truncated_bytes", "Bytes of unfinished tails cut when the directory was opened.",
		float64(st.Recovery.TruncatedBytes))
	m.gauge("warmtier_recovery_records_lost", "Damaged and missing records when the directory was repaired.",
		float64(st.Recovery.Repair.RecordsLost))
}

// timestamp returns t in seconds since 1970, 0 for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// moduleVersion returns the version of this module that the build recorded in the program.
var moduleVersion = sync.OnceValue(func() string {
	const path = "github.com/warmtier/warmtier"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Path == path && info.Main.Version != "" {
		return info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == path {
			return dep.Version
		}
	}
	return "(devel)"
})

// write writes m in the text format. Errors stay in b until it is flushed.
func (m Metric) write(b *bufio.Writer) {
	line := func(parts ...string) {
		for _, p := range parts {
			_, _ = b.WriteString(p)
		}
		_ = b.WriteByte('\n')
	}
	line("# HELP ", m.Name, " ", helpEscaper.Replace(m.Help))
	line("# TYPE ", m.Name, " ", string(m.Type))
	for _, s := range m.Samples {
		if s.Histogram == nil {
			line(m.Name, labelText(s.Labels), " ", number(s.Value))
			continue
		}
		below := int64(0)
		for i, n := range s.Histogram.Counts {
			below += n
			le := math.Inf(1)
			if i < len(s.Histogram.Bounds) {
				le = s.Histogram.Bounds[i].Seconds()
			}
			line(m.Name, "_bucket", labelText(s.Labels, Label{"le", number(le)}), " ", strconv.FormatInt(below, 10))
		}
		line(m.Name, "_sum", labelText(s.Labels), " ", number(s.Histogram.Sum.Seconds()))
		line(m.Name, "_count", labelText(s.Labels), " ", strconv.FormatInt(s.Histogram.Count, 10))
	}
}

var (
	helpEscaper  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// number returns v as the text format spells it.
func number(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// labelText returns labels and further in braces, or "" when there are none.
func labelText(labels []Label, further ...Label) string {
	if len(labels)+len(further) == 0 {
		return ""
	}
	var b strings.Builder
	for i, l := range append(labels[:len(labels):len(labels)], further...) {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(l.Name + `="` + labelEscaper.Replace(l.Value) + `"`)
	}
	b.WriteByte('}')
	return b.String()
}
