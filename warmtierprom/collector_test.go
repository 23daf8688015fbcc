package warmtierprom

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// usedStore is a store in a directory in which everything has happened once.
func usedStore(t *testing.T) *warmtier.Store {
	t.Helper()
	s, err := warmtier.Open(t.TempDir(), &warmtier.Options{
		SegmentSize:  64 << 10,
		SyncInterval: -1,
		Maintenance:  warmtier.MaintenanceOptions{Disabled: true},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for range 20 {
		for id := range 256 {
			require.NoError(t, s.Put(string(rune('a'+id)), make([]byte, 100)))
			_, err := s.Get(string(rune('a' + id)))
			require.NoError(t, err)
		}
	}
	_, err = s.Get("absent")
	require.ErrorIs(t, err, warmtier.ErrNotFound)
	_, err = s.Delete("a")
	require.NoError(t, err)
	_, err = s.Delete("absent")
	require.NoError(t, err)
	require.NoError(t, s.Sync())
	_, err = s.Maintain(context.Background())
	require.NoError(t, err)
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	return s
}

// lines are the lines of a text, in alphabetical order.
func lines(text string) []string {
	list := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(list)
	return list
}

// Goal: the collector and the text of the root package have the same families with the same values, and
// the linter has nothing to say. Method: client_golang's own text of the collector has the same lines.
func TestCollector_AgreesWithText(t *testing.T) {
	s := usedStore(t)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(NewCollector(s)))
	gathered, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, gathered, 42)
	var collected, written bytes.Buffer
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&collected, family)
		require.NoError(t, err)
	}
	require.NoError(t, s.Stats().WritePrometheus(&written))
	require.Equal(t, lines(collected.String()), lines(written.String()))
	for _, line := range []string{
		`warmtier_operations_total{op="get",result="hit"} 5120`,
		`warmtier_operations_total{op="get",result="miss"} 1`,
		`warmtier_compactions_total{result="ok",trigger="manual"} 1`,
		`warmtier_maintenance_skips_total{reason="size"} 1`,
		`warmtier_memories 255`,
	} {
		require.Contains(t, lines(written.String()), line)
	}

	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	problems, err = promlint.New(&written).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Goal: several stores fit into one registry by name, and only then have a label for it.
func TestCollector_SeveralStores(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"users", "sessions"} {
		s, err := warmtier.Open("", nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		require.NoError(t, s.Put(name, nil))
		require.NoError(t, registry.Register(NewNamedCollector(s, name)))
		require.Error(t, registry.Register(NewNamedCollector(s, name)), "the same name twice")
	}
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP warmtier_memories Memories in the store.
# TYPE warmtier_memories gauge
warmtier_memories{store="sessions"} 1
warmtier_memories{store="users"} 1
`), "warmtier_memories"))
}

// Goal: any labels tell stores in one registry apart, given by the registerer.
func TestCollector_LabelsOfRegisterer(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, tenant := range []string{"a", "b"} {
		s, err := warmtier.Open("", nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		require.NoError(t, s.Put(tenant, nil))
		labelled := prometheus.WrapRegistererWith(prometheus.Labels{"tenant": tenant}, registry)
		require.NoError(t, labelled.Register(NewCollector(s)))
		require.Error(t, labelled.Register(NewCollector(s)), "the same labels twice")
	}
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP warmtier_memories Memories in the store.
# TYPE warmtier_memories gauge
warmtier_memories{tenant="a"} 1
warmtier_memories{tenant="b"} 1
`), "warmtier_memories"))
}

// Goal: Prometheus' own parser reads the page of several stores, whatever their names are, and what it
// reads are the lines of collectors with these names in one registry.
func TestPage_ParserReadsSeveralStores(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	stats := map[string]warmtier.Stats{}
	for _, name := range []string{"users", "", `quoted "back\slash"`, "two\nlines", "ünïcode"} {
		s := usedStore(t)
		require.NoError(t, s.Put(name+"more", nil))
		require.NoError(t, registry.Register(NewNamedCollector(s, name)))
		stats[name] = s.Stats()
	}
	var page bytes.Buffer
	require.NoError(t, warmtier.WritePrometheus(&page, stats))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(page.Bytes()))
	require.NoError(t, err)
	require.Len(t, families, len((warmtier.Stats{}).Metrics()))
	names := map[string]bool{}
	for _, m := range families["warmtier_memories"].GetMetric() {
		require.Len(t, m.GetLabel(), 1)
		names[m.GetLabel()[0].GetValue()] = true
	}
	for name := range stats {
		require.True(t, names[name], name)
	}
	require.Len(t, names, len(stats))

	gathered, err := registry.Gather()
	require.NoError(t, err)
	var collected bytes.Buffer
	for _, family := range gathered {
		_, err := expfmt.MetricFamilyToText(&collected, family)
		require.NoError(t, err)
	}
	require.Equal(t, lines(collected.String()), lines(page.String()))
	problems, err := promlint.New(&page).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Goal: a name that is no text is refused by the page and by the collector alike.
func TestPage_NameIsNoText(t *testing.T) {
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	var page bytes.Buffer
	require.ErrorContains(t, warmtier.WritePrometheus(&page, map[string]warmtier.Stats{"a": {}, "\xff": {}}), `"\xff"`)
	require.Zero(t, page.Len())
	require.Error(t, prometheus.NewRegistry().Register(NewNamedCollector(s, "\xff")))
}

// Goal: a closed store can still be scraped: its counters stay.
func TestCollector_ClosedStore(t *testing.T) {
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	require.NoError(t, s.Put("a", nil))
	require.NoError(t, s.Close())
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(NewCollector(s)))
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP warmtier_memories Memories in the store.
# TYPE warmtier_memories gauge
warmtier_memories 0
`), "warmtier_memories"))
}
