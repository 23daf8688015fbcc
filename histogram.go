package warmtier

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

/*
Durations are counted in fine ranges. Each factor of four is cut into 32 equal parts, from four
factors below the first bound on, so a percentile is off by less than 10 %. Monitoring systems want
few ranges: the ten bounds that Histogram shows grow by a factor of four, and their counts are exact
sums of fine ones.

Without fine ranges a percentile would be a guess between two bounds that are a factor of four
apart: docs/design.md, section 18, has what they cost, and how far off the guess was.
*/

const (
	histogramBounds = 10 // each is four times the one before
	fineBelow       = 4  // factors of four below the first bound
	fineParts       = 32 // of each factor of four

	// One range up to the lowest fine bound, the parts, and one range beyond the last bound.
	fineCounts = 1 + (fineBelow+histogramBounds-1)*fineParts + 1
)

// First bounds of the histograms in Stats.
const (
	operationBound  = time.Microsecond
	swapBound       = 100 * time.Nanosecond
	compactionBound = time.Millisecond
)

// Histogram is a distribution of durations. Bounds are inclusive upper bounds in ascending order:
// Counts[i] durations were at most Bounds[i] and above Bounds[i-1]. Counts has one element more
// than Bounds, for durations above every bound. The slices are the caller's.
type Histogram struct {
	Bounds []time.Duration
	Counts []int64
	Count  int64         // of all durations
	Sum    time.Duration // of all durations

	fine []int64 // the same durations in fine ranges; nil unless the histogram comes from Stats
}

// Quantile returns the duration that the share q (0 to 1) of all durations did not exceed, 0 when
// there are none. It is off by less than 10 %. A quantile beyond the last bound is not known any
// better, and is returned as that bound. A histogram that was decoded, from JSON for example, has
// only its few bounds, and its quantiles are off by up to the factor between two of them.
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

// Since returns the distribution of the time since earlier, an older snapshot of the same
// histogram. It returns all of h when earlier is the zero value.
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

// difference returns counts less the earlier ones.
func difference(counts, earlier []int64) []int64 {
	counts = slices.Clone(counts)
	for i := range min(len(counts), len(earlier)) {
		counts[i] -= earlier[i]
	}
	return counts
}

// histogram collects durations. The zero value is ready once first is set.
type histogram struct {
	first  time.Duration // the first bound
	sum    atomic.Int64  // nanoseconds
	counts [fineCounts]atomic.Int64
}

// observe adds d.
func (h *histogram) observe(d time.Duration) {
	h.counts[fineIndex(h.first, d)].Add(1)
	h.sum.Add(int64(d))
}

// fineIndex returns the fine range that d lies in. Powers of four times the first bound are exact
// as floating point numbers, so a duration equal to a bound is counted up to it and not beyond.
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

// fineUpper returns the upper bound of fine range i, in nanoseconds. REQUIRES: i is not the last
// range.
func fineUpper(first time.Duration, i int) float64 {
	if i == 0 {
		return lowestFine(first)
	}
	factor, part := (i-1)/fineParts, (i-1)%fineParts
	lower := math.Ldexp(lowestFine(first), 2*factor)
	return lower + float64(part+1)*3*lower/fineParts
}

// lowestFine returns the upper bound of fine range 0, in nanoseconds.
func lowestFine(first time.Duration) float64 { return math.Ldexp(float64(first), -2*fineBelow) }

// snapshot returns what was observed so far. A duration observed during the call may be in Sum and
// not in Count, or the other way round.
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
		// The first count sums every range up to the first bound, each further one the ranges of
		// one factor.
		out.Counts[max(0, (i-1)/fineParts-fineBelow+1)] += n
	}
	return out
}
