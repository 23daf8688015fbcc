package warmtierhttp

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
)

const (
	lookEvery      = 200 * time.Millisecond // between two looks at the store: how fine progress is
	sampleEvery    = time.Second
	maxSamples     = 3600 // an hour
	maxCompactions = 200  // that are kept
	readSamples    = 10   // for one percentile of reads, of which one in 256 is measured
	otherSamples   = 60   // for one of writes, loads and flushes, of which there are fewer
)

// columns are the figures of a sample, in order.
var columns = []string{
	"time", // seconds since 1970
	"live_bytes", "dead_bytes", "fragmentation_ratio", "mapped_bytes", "memories",
	"gets_per_second", "puts_per_second", "deletes_per_second",
	// Of the last ten seconds; null when no read was measured.
	"get_p50_seconds", "get_p99_seconds", "get_p999_seconds",
	// Of the last minute.
	"put_p50_seconds", "put_p99_seconds", "put_p999_seconds",
	"load_p50_seconds", "load_p99_seconds", "load_p999_seconds",
	"sync_p50_seconds", "sync_p99_seconds", "sync_p999_seconds",
}

// row is one sample: a figure for each column, NaN for none. It is immutable.
type row []float64

// MarshalJSON writes NaN as null.
func (r row) MarshalJSON() ([]byte, error) {
	b := []byte{'['}
	for i, v := range r {
		if i > 0 {
			b = append(b, ',')
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendFloat(b, v, 'g', 12, 64)
		}
	}
	return append(b, ']'), nil
}

// pastCompaction is a compaction in the timeline, derived from the statistics before and after it.
type pastCompaction struct {
	End            time.Time `json:"end"`
	Trigger        string    `json:"trigger"` // manual, auto or startup
	Result         string    `json:"result"`  // ok, cancelled or failed
	Count          int64     `json:"count"`   // 1, or more when several ended between two looks
	Duration       float64   `json:"duration_seconds"`
	BytesReclaimed int64     `json:"bytes_reclaimed"`
	BytesCopied    int64     `json:"bytes_copied"`
	SwapPause      float64   `json:"swap_pause_seconds"` // the longest; off by less than 10 %
}

// recorder keeps what a page shows of the past. It is fed with statistics and asks the store for
// nothing, so it sees the compactions of maintenance cycles as well as those of clients.
type recorder struct {
	space func() warmtier.Space

	mu          sync.Mutex
	samples     []row // the last maxSamples, oldest first
	sampled     int   // samples taken so far
	compactions []pastCompaction
	compacted   int // compactions seen so far
	stats       warmtier.Stats
	left        warmtier.Space // at the last sample
	at          time.Time      // of stats; zero before the first
	changed     chan struct{}  // closed, and replaced, when there is news

	sampledStats warmtier.Stats // at the last sample
	sampledAt    time.Time
	reads        window
	puts         window
	loads        window
	syncs        window
	swaps        warmtier.Histogram // when the last compaction was seen to have ended
}

// newRecorder returns an empty recorder; space says at each sample what is left.
func newRecorder(space func() warmtier.Space) *recorder {
	return &recorder{space: space, changed: make(chan struct{})}
}

// window is a distribution of durations at the last samples, oldest first.
type window []warmtier.Histogram

// add adds the distribution at one more sample, and returns percentiles of what came since the oldest, NaN
// when nothing did.
func (w *window) add(h warmtier.Histogram, samples int) (p50, p99, p999 float64) {
	*w = keep(append(*w, h), samples+1)
	recent := h.Since((*w)[0])
	if recent.Count <= 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	return recent.Quantile(0.5).Seconds(), recent.Quantile(0.99).Seconds(), recent.Quantile(0.999).Seconds()
}

// observe records the statistics of one moment.
func (r *recorder) observe(now time.Time, st warmtier.Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.at.IsZero()
	news := st.CompactionInProgress || r.stats.CompactionInProgress
	if first {
		r.sampledStats, r.sampledAt, r.swaps = st, now.Add(-sampleEvery), st.CompactionDetails.SwapDuration
	} else if c, ok := r.ended(st); ok {
		r.compactions = keep(append(r.compactions, c), maxCompactions)
		r.compacted++
		news = true
	}
	r.stats, r.at = st, now
	// Half a look early rather than a whole one late.
	if first || now.Sub(r.sampledAt) >= sampleEvery-lookEvery/2 {
		r.samples = keep(append(r.samples, r.take(now, st)), maxSamples)
		r.left = r.space()
		r.sampled++
		news = true
	}
	if news {
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// keep shortens list to limit, from the front.
func keep[T any](list []T, limit int) []T {
	return slices.Delete(list, 0, max(0, len(list)-limit))
}

// take returns a sample of what changed since the last one.
func (r *recorder) take(now time.Time, st warmtier.Stats) row {
	before, seconds := r.sampledStats, now.Sub(r.sampledAt).Seconds()
	rate := func(now, before int64) float64 { return math.Round(float64(now-before)/seconds*10) / 10 }
	r.sampledStats, r.sampledAt = st, now
	sample := row{
		float64(now.UnixMilli()) / 1000,
		float64(st.LiveBytes), float64(st.DeadBytes), st.FragmentationRatio,
		float64(st.MappedBytes), float64(st.Memories),
		rate(st.Gets, before.Gets), rate(st.Puts, before.Puts), rate(st.Deletes, before.Deletes),
	}
	for _, w := range []struct {
		window    *window
		durations warmtier.Histogram
		samples   int
	}{
		{&r.reads, st.Reads.Duration, readSamples},
		{&r.puts, st.Writes.PutDuration, otherSamples},
		{&r.loads, st.Loads.Duration, otherSamples},
		{&r.syncs, st.Sync.Duration, otherSamples},
	} {
		p50, p99, p999 := w.window.add(w.durations, w.samples)
		sample = append(sample, p50, p99, p999)
	}
	return sample
}

// ended returns the compactions that ended since the last look, as one; ok is false when none did.
func (r *recorder) ended(st warmtier.Stats) (c pastCompaction, ok bool) {
	var triggers, results []string
	now, before := st.CompactionDetails, r.stats.CompactionDetails
	for _, t := range []struct {
		name        string
		now, before warmtier.CompactionResults
	}{
		{"manual", now.Manual, before.Manual},
		{"auto", now.Automatic, before.Automatic},
		{"startup", now.Startup, before.Startup},
	} {
		counts := []int64{t.now.OK - t.before.OK, t.now.Cancelled - t.before.Cancelled, t.now.Failed - t.before.Failed}
		for i, result := range []string{"ok", "cancelled", "failed"} {
			if counts[i] > 0 {
				c.Count += counts[i]
				triggers, results = append(triggers, t.name), append(results, result)
			}
		}
	}
	if c.Count == 0 {
		return c, false
	}
	c.End, c.Duration = st.LastCompaction, st.LastCompactionDuration.Seconds()
	c.Trigger = strings.Join(slices.Compact(triggers), "+")
	c.Result = strings.Join(slices.Compact(results), "+")
	c.BytesReclaimed = st.BytesReclaimed - r.stats.BytesReclaimed
	c.BytesCopied = now.BytesCopied - before.BytesCopied
	c.SwapPause = min(now.SwapDuration.Since(r.swaps).Quantile(1), st.MaxSwapPause).Seconds()
	r.swaps = now.SwapDuration
	return c, true
}

// news holds what a stream has not sent yet.
type news struct {
	first       bool
	samples     []row
	compactions []pastCompaction
	stats       warmtier.Stats
	left        warmtier.Space
	at          time.Time
	changed     <-chan struct{} // closed when there is more
}

// position says how far a stream has come.
type position struct {
	begun              bool
	sampled, compacted int
}

// since returns what came after p, and moves p.
func (r *recorder) since(p *position) news {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := news{
		first:       !p.begun,
		samples:     tail(r.samples, r.sampled-p.sampled),
		compactions: tail(r.compactions, r.compacted-p.compacted),
		stats:       r.stats, left: r.left, at: r.at, changed: r.changed,
	}
	*p = position{begun: true, sampled: r.sampled, compacted: r.compacted}
	return n
}

// tail returns a copy of the last n elements of list.
func tail[T any](list []T, n int) []T { return slices.Clone(list[max(0, len(list)-n):]) }
