package warmtier

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
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
		h.observe(-1) // a clock was set back
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

// Goal: the fine ranges are worth their memory: without them quantiles are off by more than half.
//
// Method: log-normal durations, about as long as a Get, a Put and a slow write, and durations of Gets; each
// held against the exact quantile, with the fine ranges and without them.
func TestHistogram_FineRangesAreWorthIt(t *testing.T) {
	rnd := seeded(t)
	distributions := map[string]func() time.Duration{}
	for _, median := range []time.Duration{250, 2500, 40_000} {
		for _, sigma := range []float64{0.3, 1} {
			distributions[fmt.Sprintf("lognormal median=%v sigma=%v", median, sigma)] = func() time.Duration {
				return time.Duration(float64(median) * math.Exp(sigma*rnd.NormFloat64()))
			}
		}
	}
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10_000, 1024)
	content := make([]byte, 0, 1024)
	distributions["measured AppendContent"] = func() time.Duration {
		id := idOf(rnd.IntN(10_000))
		start := time.Now()
		_, err := s.AppendContent(content, id)
		took := time.Since(start)
		require.NoError(t, err)
		return took
	}
	var worst [2]float64 // with the fine ranges, without them
	for _, name := range slices.Sorted(maps.Keys(distributions)) {
		h := histogram{first: operationBound}
		all := make([]time.Duration, 100_000)
		for i := range all {
			all[i] = distributions[name]()
			h.observe(all[i])
		}
		slices.Sort(all)
		fine := h.snapshot()
		coarse := fine
		coarse.fine = nil
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999} {
			exact := float64(all[int(math.Ceil(q*float64(len(all))))-1])
			off := [2]float64{math.Abs(float64(fine.Quantile(q))/exact - 1), math.Abs(float64(coarse.Quantile(q))/exact - 1)}
			t.Logf("%s, quantile %v: exact %v, off by %.1f %%, without fine ranges by %.1f %%",
				name, q, time.Duration(exact), 100*off[0], 100*off[1])
			worst = [2]float64{max(worst[0], off[0]), max(worst[1], off[1])}
		}
	}
	require.Less(t, worst[0], 0.1)
	require.Greater(t, worst[1], 0.5)
	meters := reflect.TypeFor[meters]().Size()
	t.Logf("fine counts: %d bytes of a histogram, meters %d bytes", reflect.TypeFor[histogram]().Size(), meters)
}

// Goal: the difference of two snapshots counts only what came between, and a decoded histogram still has
// quantiles.
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
