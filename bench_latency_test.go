package warmtier

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// latencies counts how often a call took how many ns.
type latencies struct {
	short [1 << 16]uint32 // by ns
	long  []int64         // of calls that took longer, ns
	calls int
}

func (l *latencies) reset() {
	clear(l.short[:])
	l.long, l.calls = l.long[:0], 0
}

func (l *latencies) add(d time.Duration) {
	l.calls++
	if d < time.Duration(len(l.short)) {
		l.short[d]++
		return
	}
	l.long = append(l.long, int64(d))
}

// at returns the latency (ns) that a share q of the calls did not exceed.
func (l *latencies) at(q float64) float64 {
	rank := min(int(math.Ceil(q*float64(l.calls))), l.calls)
	for ns, n := range l.short {
		if rank -= int(n); rank <= 0 {
			return float64(ns)
		}
	}
	slices.Sort(l.long)
	return float64(l.long[rank-1])
}

var quantiles = []struct {
	name string
	q    float64
}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}}

// window times each call of op on its own until done, and at least a thousand times.
func (l *latencies) window(b *testing.B, op func() error, done func() bool) {
	b.Helper()
	l.reset()
	base := time.Now()
	for l.calls < 1000 || !done() {
		start := time.Since(base)
		err := op()
		l.add(time.Since(base) - start)
		if err != nil {
			b.Fatal(err)
		}
	}
}

// latencyPair is one store and one reader.
type latencyPair struct {
	h    *halfDead
	op   func() error
	lat  latencies
	busy time.Duration // how long the last compaction took
}

// with measures the reader while a compaction runs, and only then.
func (p *latencyPair) with(b *testing.B) map[string]float64 {
	b.Helper()
	var finished atomic.Bool
	failed := make(chan error, 1)
	go func() {
		st, err := p.h.Compact(context.Background())
		p.busy = st.Duration
		finished.Store(true)
		failed <- err
	}()
	p.lat.window(b, p.op, finished.Load)
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	return p.results()
}

// without measures the reader alone, for as long as a compaction takes.
func (p *latencyPair) without(b *testing.B) map[string]float64 {
	b.Helper()
	var finished atomic.Bool
	timer := time.AfterFunc(max(p.busy, time.Millisecond), func() { finished.Store(true) })
	defer timer.Stop()
	p.lat.window(b, p.op, finished.Load)
	return p.results()
}

func (p *latencyPair) results() map[string]float64 {
	r := map[string]float64{}
	for _, q := range quantiles {
		r[q.name] = p.lat.at(q.q)
	}
	return r
}

// BenchmarkLatency times single reads of one goroutine while a compaction runs and, by turns, while
// none does; refilling the store between them is not measured. The figures are medians of windows:
//
//	p50-ns …     while a compaction runs
//	off-p50-ns … without one
//	p50-x …      with / without, of two windows side by side
//	worst-ms …   the longest read of all windows with one, off-worst-ms of all without
//	timer-ns     what the timing alone adds to each figure (p50 of an empty call)
//
// The time per op is that of one pair of windows, and means nothing.
func BenchmarkLatency(b *testing.B) {
	z := inShort(benchSize{20_000, 1024}, benchSize{1_000_000, 1024})
	for _, call := range []string{"Get", "AppendContent", "View"} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/ids=uniform/call=%s/workers=%d", z, call, workers), func(b *testing.B) {
				dropSharedStores(b)
				benchLatency(b, z, call, workers)
			})
		}
	}
}

func benchLatency(b *testing.B, z benchSize, call string, workers int) {
	p := &latencyPair{h: newHalfDead(b, z, CompactionOptions{Workers: workers})}
	defer closeBench(b, p.h.Store)
	p.h.prepare(b)
	st, err := p.h.Compact(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	p.busy = st.Duration

	f := &benchStore{Store: p.h.Store, benchSize: z, content: p.h.content}
	ids := &idStream{}
	p.op = map[string]newCall{
		"Get": newGet, "AppendContent": newAppendContent, "View": newView,
	}[call](f, ids)
	list := rand.New(rand.NewPCG(1, 1)).Perm(z.n)
	var m metrics
	for pair := 0; b.Loop(); pair++ {
		var on, off map[string]float64
		p.h.prepare(b)
		*ids = idStream{ids: p.h.liveIDs(list)}
		if pair%2 == 0 { // by turns, so that neither always comes right after the refill
			off, on = p.without(b), p.with(b)
		} else {
			on, off = p.with(b), p.without(b)
		}
		for _, q := range quantiles {
			m.add(q.name+"-ns", on[q.name])
			m.add("off-"+q.name+"-ns", off[q.name])
			m.add(q.name+"-x", on[q.name]/off[q.name])
		}
	}
	b.ReportMetric(slices.Max(m["max-ns"])/1e6, "worst-ms")
	b.ReportMetric(slices.Max(m["off-max-ns"])/1e6, "off-worst-ms")
	m.report(b)
	calls := 0
	p.lat.window(b, func() error { calls++; return nil }, func() bool { return calls > 1_000_000 })
	b.ReportMetric(p.lat.at(0.5), "timer-ns")
}
