package warmtierprom

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: the table of names in the README is true and whole: field, JSON and metric of each line have the same
// value, and every metric is in it. Method: every field of Stats has a value of its own; reflection finds the
// field, and the paths are looked up in what encoding/json and Metrics return.
func TestNames_Table(t *testing.T) {
	var st warmtier.Stats
	next := int64(1000)
	fill(reflect.ValueOf(&st).Elem(), &next)
	text, err := json.Marshal(st)
	require.NoError(t, err)
	var figures map[string]any
	require.NoError(t, json.Unmarshal(text, &figures))
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	left := map[string]bool{}
	for _, m := range st.Metrics() {
		for _, s := range m.Samples {
			left[m.Name+labels(s)] = true
		}
	}
	delete(left, "warmtier_build_info"+labels(st.Metrics()[0].Samples[0]))

	row := regexp.MustCompile(`(?m)^\| ([A-Za-z.]+) \| ([a-z_.]+) \| (.*) \|$`)
	for _, line := range row.FindAllStringSubmatch(string(readme), -1) {
		field, path, metric := line[1], line[2], line[3]
		want := number(t, reflect.ValueOf(st), strings.Split(field, "."))
		got := any(figures)
		for _, name := range strings.Split(path, ".") {
			got = got.(map[string]any)[name]
		}
		switch metric {
		case `the sum of warmtier_operations_total{op="get"}, hit and miss`:
			require.Equal(t, want, got, path)
			delete(left, `warmtier_operations_total{op="get",result="hit"}`)
			continue
		case `of warmtier_operations_total{op="get"}, hit over the sum of hit and miss`:
			require.Equal(t, want, got, path)
			continue
		case "warmtier_sync_failure: 1 when there is one":
			require.Nil(t, got, path)
			delete(left, "warmtier_sync_failure")
			continue
		}
		require.InDelta(t, want, figureOf(t, got), 1e-6, path)
		require.True(t, left[metric], "no such metric, or twice: %s", metric)
		delete(left, metric)
		require.InDelta(t, want, sample(st, metric), 1e-6, metric)
	}
	require.Empty(t, left, "not in the table")
}

// fill gives every figure in v a value that no other has.
func fill(v reflect.Value, next *int64) {
	*next += 1000 // more than the difference of hits and misses
	switch field := v.Addr().Interface().(type) {
	case *time.Time:
		*field = time.Unix(*next, 0)
		return
	case *warmtier.Histogram:
		*field = warmtier.Histogram{Count: 1, Sum: time.Duration(*next) * time.Millisecond}
		return
	}
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt() && v.Type() == reflect.TypeFor[time.Duration]():
		v.SetInt(*next * int64(time.Millisecond))
	case v.CanInt():
		v.SetInt(*next)
	case v.CanFloat():
		v.SetFloat(float64(*next))
	}
}

// labels returns the labels of s as the table writes them.
func labels(s warmtier.Sample) string {
	var list []string
	for _, l := range s.Labels {
		list = append(list, l.Name+`="`+l.Value+`"`)
	}
	if list == nil {
		return ""
	}
	return "{" + strings.Join(list, ",") + "}"
}

// number returns the field of v at path as a number: of a histogram the sum in seconds.
func number(t *testing.T, v reflect.Value, path []string) float64 {
	t.Helper()
	for _, name := range path {
		v = v.FieldByName(name)
		require.True(t, v.IsValid(), path)
	}
	switch v := v.Interface().(type) {
	case time.Duration:
		return v.Seconds()
	case time.Time:
		return float64(v.UnixNano()) / 1e9
	case warmtier.Histogram:
		return v.Sum.Seconds()
	case bool:
		return map[bool]float64{true: 1}[v]
	case error, nil:
		return 0
	}
	if v.CanInt() {
		return float64(v.Int())
	}
	return v.Float()
}

// figureOf returns a figure of JSON in the same form.
func figureOf(t *testing.T, figure any) float64 {
	t.Helper()
	switch v := figure.(type) {
	case map[string]any:
		return v["sum_seconds"].(float64)
	case string:
		at, err := time.Parse(time.RFC3339Nano, v)
		require.NoError(t, err)
		return float64(at.UnixNano()) / 1e9
	case bool:
		return map[bool]float64{true: 1}[v]
	}
	require.IsType(t, 0.0, figure)
	return figure.(float64)
}

// sample returns the value of a metric, with its labels as the table writes them.
func sample(st warmtier.Stats, metric string) float64 {
	for _, m := range st.Metrics() {
		for _, s := range m.Samples {
			if m.Name+labels(s) == metric {
				if s.Histogram != nil {
					return s.Histogram.Sum.Seconds()
				}
				return s.Value
			}
		}
	}
	return -1
}
