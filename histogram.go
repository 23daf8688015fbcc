package warmtier

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

/*
Durations are counted in ranges that grow by a factor of four, ten of them, as monitoring systems want
few; and, for percentiles, in finer ones: each factor of four is cut into 32 equal parts, four more
factors below the first bound included. So a percentile is off by less than 10 %, and the coarse counts
are exact sums of fine ones.
*/

const (
	histogramBounds = 10 // each four times the one before
	fineBelow       = 4  // factors of four below the first bound
	fineParts       = 32 // of each factor of four

	// One range up to the lowest fine bound, the parts, and one beyond the last bound.
	fineCounts = 1 + (fineBelow+histogramBounds-1)*fineParts + 1
)

// First bounds of the histograms in Stats.
const (
	operationBound  = time.Microsecond
	swapBound       = 100 * time.Nanosecond
	compactionBound = time.Millisecond
)

// Histogram is a distribution of durations. Bounds are upper bounds, inclusive and ascending: Counts[i]
// durations were at most Bounds[i] and above Bounds[i-1]; the last of Counts, one more than there are
// bounds, counts those above all of them. The slices are the caller's.
type Histogram struct {
	Bounds []time.Duration
	Counts []int64
	Count  int64         // of all
	Sum    time.Duration // of all

	fine []int64 // the same in finer ranges; nil in one that was not made by Stats
}

// Quantile returns the duration that the share q (0 to 1) of all did not exceed, 0 when there are none.
// It is off by less than 10 %. Beyond the last bound nothing is known: that is what it returns then. A
// histogram that was decoded (from JSON, say) has its few bounds only, and is off by up to their factor.
func (h Histogram) Quantile(q float64) time.Duration {
	if h.Count <= 0 || len(h.Bounds) == 0 {
		return 0
	}
	counts, upper := h.Counts, func(i int) float64 { return float64(h.Bounds[i]) }
	if h.fine != nil {
		counts, upper = h.fine, func(i int) float64 { return fineUpper(h.Bounds[0], i) }
	}
	rank := max(1, math.Ceil(min(max(q, 0), 1)*float64(h.Count))) // from 1
	below := int64(0)
	for i, n := range counts[:len(counts)-1] {
		if below += n; float64(below) < rank {
			continue
		}
		lower := 0.0
		if i > 0 {
			lower = upper(i - 1)
		}
		part := (rank - float64(below-n)) / float64(n)
		return time.Duration(math.Round(lower + part*(upper(i)-lower)))
	}
	return h.Bounds[len(h.Bounds)-1]
}

// Since returns what h has more than earlier, an older one of the same store: the distribution of the
// time between. All of h when earlier is the zero value.
func (h Histogram) Since(earlier Histogram) Histogram {
	h.Bounds = slices.Clone(h.Bounds)
	h.Counts = difference(h.Counts, earlier.Counts)
	h.Count -= earlier.Count
	h.Sum -= earlier.Sum
	if h.fine != nil && (earlier.fine != nil || earlier.Count == 0) {
		h.fine = difference(h.fine, earlier.fine)
	} else {
		h.fine = nil
	}
	return h
}

func difference(counts, earlier []int64) []int64 {
	counts = slices.Clone(counts)
	for i := range min(len(counts), len(earlier)) {
		counts[i] -= earlier[i]
	}
	return counts
}

// histogram collects durations. The zero value with a first bound is ready.
type histogram struct {
	first  time.Duration
	sum    atomic.Int64 // nanoseconds
	counts [fineCounts]atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	h.counts[fineIndex(h.first, d)].Add(1)
	h.sum.Add(int64(d))
}

// fineIndex is the range that d lies in. Powers of four times the first bound are exact as floating
// point numbers, so what equals a bound counts below it.
func fineIndex(first, d time.Duration) int {
	v, lower := float64(d), lowestFine(first)
	if v <= lower {
		return 0
	}
	for factor := range fineBelow + histogramBounds - 1 {
		if v <= 4*lower {
			part := int(math.Ceil((v-lower)/(3*lower/fineParts))) - 1
			return 1 + factor*fineParts + min(max(part, 0), fineParts-1)
		}
		lower *= 4
	}
	return fineCounts - 1
}

// fineUpper is the upper bound of range i, in nanoseconds. REQUIRES: i is not the last range.
func fineUpper(first time.Duration, i int) float64 {
	if i == 0 {
		return lowestFine(first)
	}
	factor, part := (i-1)/fineParts, (i-1)%fineParts
	lower := math.Ldexp(lowestFine(first), 2*factor)
	return lower + float64(part+1)*3*lower/fineParts
}

func lowestFine(first time.Duration) float64 { return math.Ldexp(float64(first), -2*fineBelow) }

// snapshot sums up the fine counts. Durations that are observed meanwhile may be in Sum and not in
// Count, or the other way round.
func (h *histogram) snapshot() Histogram {
	out := Histogram{
		Bounds: make([]time.Duration, histogramBounds),
		Counts: make([]int64, histogramBounds+1),
		Sum:    time.Duration(h.sum.Load()),
		fine:   make([]int64, fineCounts),
	}
	for i, bound := 0, h.first; i < histogramBounds; i, bound = i+1, 4*bound {
		out.Bounds[i] = bound
	}
	for i := range h.counts {
		n := h.counts[i].Load()
		out.fine[i] = n
		out.Count += n
		// Ranges up to the first bound are all in the first count, then one count for each factor.
		out.Counts[max(0, (i-1)/fineParts-fineBelow+1)] += n
	}
	return out
}
