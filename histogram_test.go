package warmtier

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: coarse counts are exact, with inclusive bounds. Method: durations at and beside every bound.
func TestHistogram_Counts(t *testing.T) {
	for _, first := range []time.Duration{swapBound, operationBound, compactionBound} {
		h := histogram{first: first}
		bound := first
		for range histogramBounds {
			h.observe(bound - 1)
			h.observe(bound)
			h.observe(bound + 1)
			bound *= 4
		}
		h.observe(0)
		h.observe(-1) // a clock that was set
		h.observe(math.MaxInt64 / 2)
		st := h.snapshot()
		require.EqualValues(t, 3*histogramBounds+3, st.Count)
		require.Equal(t, []int64{4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2}, st.Counts, "first bound %v", first)
		require.Equal(t, first, st.Bounds[0])
		require.Equal(t, bound/4, st.Bounds[histogramBounds-1])
	}
}

// Goal: quantiles are off by less than 10 %. Method: 100,000 random durations over six decades, sorted.
func TestHistogram_Quantile(t *testing.T) {
	rnd := seeded(t)
	h := histogram{first: operationBound}
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(math.Exp(rnd.Float64()*math.Log(1e6)) * 50) // 50 ns to 50 ms
		all = append(all, d)
		h.observe(d)
	}
	slices.Sort(all)
	st := h.snapshot()
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
		require.InEpsilon(t, float64(exact), float64(st.Quantile(q)), 0.1, "quantile %v", q)
	}
}

// Goal: a difference has only what came between, and a decoded histogram still has quantiles.
func TestHistogram_Since(t *testing.T) {
	h := histogram{first: operationBound}
	for range 1000 {
		h.observe(200 * time.Millisecond)
	}
	before := h.snapshot()
	for range 10 {
		h.observe(20 * time.Microsecond)
	}
	h.observe(time.Hour)
	after := h.snapshot()
	between := after.Since(before)
	require.EqualValues(t, 11, between.Count)
	require.Equal(t, 200*time.Microsecond+time.Hour, between.Sum)
	require.InEpsilon(t, 20_000, float64(between.Quantile(0.5)), 0.1)
	require.Equal(t, after.Bounds[histogramBounds-1], between.Quantile(1), "beyond all bounds")
	require.Equal(t, after.Count, after.Since(Histogram{}).Count)
	require.InEpsilon(t, 2e8, float64(after.Since(Histogram{}).Quantile(0.5)), 0.1)

	encoded, err := json.Marshal(after)
	require.NoError(t, err)
	var decoded Histogram
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	got := decoded.Quantile(0.5)
	require.Greater(t, got, 65536*time.Microsecond)
	require.LessOrEqual(t, got, 262144*time.Microsecond)
}
