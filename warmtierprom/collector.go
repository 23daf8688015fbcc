// Package warmtierprom exposes the figures of warmtier stores to Prometheus, as a collector for
// client_golang.
//
//	prometheus.MustRegister(warmtierprom.NewCollector(store))
//	http.Handle("GET /metrics", promhttp.Handler())
//
// Several stores share a registry by name, with [NewNamedCollector]; for other labels than store:
//
//	labels := prometheus.Labels{"tenant": "a"}
//	prometheus.WrapRegistererWith(labels, registry).MustRegister(warmtierprom.NewCollector(store))
//
// Figures are read at each scrape, from counters that the store has anyway: a collector adds
// nothing to Get and Put. [warmtier.Stats.Metrics] has the names.
package warmtierprom

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/warmtier/warmtier"
)

// NewCollector returns a collector of the figures of store, for a registry with one store.
func NewCollector(store *warmtier.Store) prometheus.Collector { return newCollector(store, nil) }

// NewNamedCollector returns a collector for a registry with several stores: every metric has the
// label store with this name, as on the page that [warmtier.WritePrometheus] writes. A name that is
// not valid UTF-8 makes the registration fail.
func NewNamedCollector(store *warmtier.Store, name string) prometheus.Collector {
	return newCollector(store, prometheus.Labels{"store": name})
}

// collector implements prometheus.Collector. It is immutable.
type collector struct {
	store *warmtier.Store
	descs map[string]*prometheus.Desc // by name of the family
}

func newCollector(store *warmtier.Store, constant prometheus.Labels) *collector {
	c := &collector{store: store, descs: map[string]*prometheus.Desc{}}
	for _, m := range (warmtier.Stats{}).Metrics() {
		var labels []string
		for _, l := range m.Samples[0].Labels {
			labels = append(labels, l.Name)
		}
		c.descs[m.Name] = prometheus.NewDesc(m.Name, m.Help, labels, constant)
	}
	return c
}

// Describe sends the description of every family.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect sends a snapshot of the store. Of a closed store only the counters are left.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.store.Stats().Metrics() {
		for _, s := range m.Samples {
			out <- constant(c.descs[m.Name], m.Type, s)
		}
	}
}

// constant returns a metric with the value of s.
func constant(d *prometheus.Desc, kind warmtier.MetricType, s warmtier.Sample) prometheus.Metric {
	values := make([]string, 0, len(s.Labels))
	for _, l := range s.Labels {
		values = append(values, l.Value)
	}
	var m prometheus.Metric
	var err error
	switch {
	case s.Histogram != nil:
		below, cumulative := uint64(0), make(map[float64]uint64, len(s.Histogram.Bounds))
		for i, bound := range s.Histogram.Bounds {
			below += uint64(s.Histogram.Counts[i])
			cumulative[bound.Seconds()] = below
		}
		m, err = prometheus.NewConstHistogram(d, uint64(s.Histogram.Count), s.Histogram.Sum.Seconds(), cumulative, values...)
	case kind == warmtier.MetricCounter:
		m, err = prometheus.NewConstMetric(d, prometheus.CounterValue, s.Value, values...)
	default:
		m, err = prometheus.NewConstMetric(d, prometheus.GaugeValue, s.Value, values...)
	}
	if err != nil { // the scrape reports it, and the program continues
		return prometheus.NewInvalidMetric(d, err)
	}
	return m
}
