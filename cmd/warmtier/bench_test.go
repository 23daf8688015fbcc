package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"
)

func TestBench(t *testing.T) {
	operations := map[string][]string{
		"a": {"read", "update"}, "b": {"read", "update"}, "c": {"read"}, "d": {"read", "insert"},
		"e": {"insert", "scan"}, "f": {"read", "modify"}, "churn": {"read", "update", "delete"},
	}
	for workload, want := range operations {
		var v map[string]any
		longer(100*time.Millisecond, func(d time.Duration) (enough bool) {
			v = command(t, "", "bench", "--json", "--workload", workload, "--memories", "2000", "--duration", d.String(),
				"--size", "10-1KiB", "--segment-size", "256KiB").exits(exitOK).json()
			return len(v["latencies"].([]any)) == len(want)
		})
		got := []string{}
		var count float64
		for _, l := range v["latencies"].([]any) {
			line := l.(map[string]any)
			got = append(got, line["operation"].(string))
			count += line["count"].(float64)
			require.LessOrEqual(t, line["p50_seconds"], line["p999_seconds"])
			require.LessOrEqual(t, line["p999_seconds"], line["max_seconds"])
		}
		require.Equal(t, want, got, workload)
		require.Equal(t, v["operations"], count)
		require.Positive(t, v["operations_per_second"])
		require.Equal(t, map[string]string{"d": "latest"}[workload] == "latest", v["distribution"] == "latest")
		if workload != "churn" {
			require.Zero(t, v["not_found"], workload)
		}
	}
}

// longer calls measure with d, and then with four times as long each time, until that is enough or six
// seconds are not: a busy machine may have no time at all for a short measurement.
func longer(d time.Duration, measure func(d time.Duration) (enough bool)) {
	for ; !measure(d) && d < 6*time.Second; d *= 4 {
	}
}

func TestBench_Options(t *testing.T) {
	var dir, hdr string
	var r result
	longer(200*time.Millisecond, func(d time.Duration) (enough bool) {
		dir, hdr = filepath.Join(t.TempDir(), "new"), filepath.Join(t.TempDir(), "out.hgrm")
		r = command(t, "", "bench", "--in", dir, "--segment-size", "64KiB", "--memories", "100", "--duration", d.String(),
			"--rate", "500", "--goroutines", "2", "--distribution", "uniform", "--compact-every", "1ms",
			"--workload", "churn", "--hdr", hdr).exits(exitOK)
		return !strings.Contains(r.out, "\n0 ")
	})
	require.Contains(t, r.out, "500 were wanted")
	require.Contains(t, r.out, "uniform ids")
	require.NotContains(t, r.out, "\n0 compactions")
	require.FileExists(t, filepath.Join(dir, "MANIFEST"))
	b, err := os.ReadFile(hdr)
	require.NoError(t, err)
	require.Contains(t, string(b), "Percentile")
	require.Contains(t, string(b), "#[Max")
	// A rate is a number of operations, however fast the machine is: 500 a second were due.
	var v map[string]any
	longer(200*time.Millisecond, func(d time.Duration) (enough bool) {
		v = command(t, "", "bench", "--json", "--rate", "500", "--duration", d.String(), "--memories", "100").
			exits(exitOK).json()
		require.LessOrEqual(t, v["operations"], 500*d.Seconds()+2)
		return v["operations"].(float64) > 0
	})
	require.Positive(t, v["operations"])
	command(t, "", "bench", "--in", dir, "--duration", "1ms").exits(exitUsage)
}

// Values near the ends of their types are refused at once, or mean what they say.
func TestBench_EndsOfTypes(t *testing.T) {
	for _, flags := range []string{
		"--memories 9223372036854775807", "--memories -9223372036854775808", "--goroutines 9223372036854775807",
		"--size 1TiB", "--size 0-1099511627776", "--rate NaN", "--rate -Inf", "--duration -2562047h47m16s",
		"--compact-every -1ns",
	} {
		command(t, "", append([]string{"bench"}, strings.Fields(flags)...)...).exits(exitUsage)
	}
	for _, rate := range []string{"5e-324", "1e-300"} { // the first operation is due at once, the next one never
		v := command(t, "", "bench", "--json", "--rate", rate, "--duration", "50ms", "--memories", "10",
			"--goroutines", "1").exits(exitOK).json()
		require.EqualValues(t, 1, v["operations"], rate)
	}
}

// A stall of a second, in a loop that does an operation a millisecond, is a thousand late operations.
func TestCorrected(t *testing.T) {
	raw := newHistogram()
	require.NoError(t, raw.RecordValues(int64(time.Millisecond), 9000))
	require.NoError(t, raw.RecordValue(int64(time.Second)))
	h := corrected(raw, int64(time.Millisecond))
	require.EqualValues(t, 10_000, h.TotalCount())
	require.InEpsilon(t, int64(900*time.Millisecond), h.ValueAtQuantile(99), 0.01)
	require.Less(t, raw.ValueAtQuantile(99), int64(2*time.Millisecond), "what it would have said")
	require.Equal(t, raw.TotalCount(), corrected(raw, 0).TotalCount())

	reference := newHistogram() // the library's own correction
	for range 9000 {
		require.NoError(t, reference.RecordCorrectedValue(int64(time.Millisecond), int64(time.Millisecond)))
	}
	require.NoError(t, reference.RecordCorrectedValue(int64(time.Second), int64(time.Millisecond)))
	for _, q := range []float64{50, 90, 95, 99, 99.9} {
		require.InEpsilon(t, reference.ValueAtQuantile(q), h.ValueAtQuantile(q), 0.01)
	}
	require.IsType(t, &hdrhistogram.Histogram{}, h)
}

func TestWorkload(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, shares := range workloads {
		sum := 0
		for _, share := range shares {
			sum += share
		}
		require.Equal(t, 100, sum, name)
	}
	const n, draws = 1000, 100_000
	for _, dist := range []string{"zipf", "uniform", "latest"} {
		w := newWorkload("a", dist, n)
		counts := map[int64]int{}
		for range draws {
			id := w.choose(rng)
			require.True(t, id >= 0 && id < n)
			counts[id]++
		}
		most := 0
		for _, count := range counts {
			most = max(most, count)
		}
		if dist == "uniform" {
			require.Less(t, most, 2*draws/n)
			continue
		}
		// The first of 1000 ranks has 1 / (1 + 2^-0.99 + ... + 1000^-0.99), which is 1/7.73.
		require.InEpsilon(t, draws/7.73, most, 0.05, dist)
		if dist == "latest" {
			require.Equal(t, most, counts[n-1])
		}
	}
	sizes := sizeRange{least: 10, most: 1000}
	for range 1000 {
		size := sizes.choose(rng)
		require.True(t, size >= 10 && size <= 1000, size)
	}
	require.Zero(t, sizeRange{}.choose(rng))
	require.Equal(t, 1, sizeOf(t, "1"))
	require.Equal(t, 64<<10, sizeOf(t, "64KiB"))
	require.Equal(t, 1_500_000, sizeOf(t, "1.5MB"))
	for _, text := range []string{"", "-1", "KiB", "1e300", "1 TB", "NaN"} {
		require.Error(t, new(byteSize).UnmarshalText([]byte(text)), text)
	}
}

func sizeOf(t *testing.T, text string) int {
	var size byteSize
	require.NoError(t, size.UnmarshalText([]byte(text)))
	return int(size)
}

func TestShow(t *testing.T) {
	require.Equal(t, "1,234,567", showCount(1234567))
	require.Equal(t, "-123", showCount(-123))
	require.Equal(t, "-1,234", showCount(-1234))
	require.Equal(t, "10.0 MiB", showBytes(10<<20))
	require.Equal(t, "999 B", showBytes(999))
	require.True(t, strings.HasSuffix(showDuration(1500*time.Microsecond), "1.5 ms"))
}
