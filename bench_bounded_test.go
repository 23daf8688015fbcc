package warmtier

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// boundedLoad is what a store has to stand while its memory is looked at.
type boundedLoad struct {
	name      string
	directory bool
	benchSize
	goroutines int
	writeEvery int   // one call in so many is a Put, the others get
	maxBytes   int64 // Options.MaxBytes; everything else is a default
	// bound returns what a look may see at most, with so many bytes live.
	bound func(live int64) int64
}

func boundedLoads() []boundedLoad {
	small := inShort(benchSize{5000, 1000}, benchSize{100_000, 1000})
	budget := inShort[int64](16<<20, 128<<20)
	full := benchSize{n: int(budget*7/10) / 1040, content: 1000} // a record takes 1040 bytes
	withinBudget := func(int64) int64 { return budget }
	return []boundedLoad{
		{name: "one-put-in-ten", benchSize: small, goroutines: 8, writeEvery: 10,
			bound: func(live int64) int64 { return 3*live + 200e6 }},
		{name: "one-id", benchSize: benchSize{1, 1000}, goroutines: 1, writeEvery: 1,
			bound: func(int64) int64 { return 400e6 }},
		{name: "budget/in=memory", benchSize: full, goroutines: 6, writeEvery: 1,
			maxBytes: budget, bound: withinBudget},
		{name: "budget/in=directory", directory: true, benchSize: full, goroutines: 6, writeEvery: 1,
			maxBytes: budget, bound: withinBudget},
	}
}

// BenchmarkBounded overwrites random memories of a fixed set for a minute, or for
// WARMTIER_TEST_DURATION, in a store with default options or with MaxBytes alone (70 % of it are
// live), and looks every millisecond at what the store maps, the files that keep space back included.
// Over all iterations:
//
//	mapped-max-MB      the most that a look saw
//	bound-MB           what it may see
//	over               looks that saw more
//	looks, look-gap-ms how many there were, and the longest time between two
//	refused            Puts that found no room
//	put-p50-µs …       single Puts
//	waits              Puts that waited for a compaction
//	rss-max-MB         the peak of the process's resident set
//
// The time per op is that of an iteration, and means nothing.
func BenchmarkBounded(b *testing.B) {
	for _, l := range boundedLoads() {
		b.Run(fmt.Sprintf("%s/%v/goroutines=%d", l.name, l.benchSize, l.goroutines), func(b *testing.B) {
			dropSharedStores(b)
			var f boundedFigures
			resetPeakResident()
			for b.Loop() {
				l.run(b, &f)
			}
			f.report(b)
		})
	}
}

// boundedFigures holds what all iterations found.
type boundedFigures struct {
	elapsed            time.Duration
	calls              int64
	puts               latencies
	refused            int64
	bound, mappedMax   int64
	looks, over        int64
	gap                time.Duration
	waits, compactions int64
}

func (f *boundedFigures) report(b *testing.B) {
	seconds := f.elapsed.Seconds()
	b.ReportMetric(float64(f.mappedMax)/1e6, "mapped-max-MB")
	b.ReportMetric(float64(f.bound)/1e6, "bound-MB")
	b.ReportMetric(float64(f.over), "over")
	b.ReportMetric(float64(f.looks), "looks")
	b.ReportMetric(f.gap.Seconds()*1e3, "look-gap-ms")
	b.ReportMetric(float64(f.refused), "refused")
	b.ReportMetric(float64(f.calls)/seconds, "calls/s")
	b.ReportMetric(float64(f.puts.calls)/seconds, "puts/s")
	b.ReportMetric(f.puts.at(0.5)/1e3, "put-p50-µs")
	b.ReportMetric(f.puts.at(0.999)/1e3, "put-p99.9-µs")
	b.ReportMetric(f.puts.at(1)/1e6, "put-max-ms")
	b.ReportMetric(float64(f.waits), "waits")
	b.ReportMetric(float64(f.compactions), "compactions")
	if peak := peakResident(); peak > 0 {
		b.ReportMetric(float64(peak)/1e6, "rss-max-MB")
	}
}

// run adds one iteration to f.
func (l boundedLoad) run(b *testing.B, f *boundedFigures) {
	b.Helper()
	dir := ""
	if l.directory {
		dir = b.TempDir()
	}
	s, err := Open(dir, &Options{MaxBytes: l.maxBytes})
	if err != nil {
		b.Fatal(err)
	}
	defer closeBench(b, s)
	content := make([]byte, l.content)
	for i := range l.n {
		putBench(b, s, content, i)
	}
	f.bound = l.bound(s.Stats().LiveBytes) // ids and sizes stay as they are, so it does, too

	workers := make([]boundedWorker, l.goroutines)
	ids := uniformIDs(l.n)
	var stop atomic.Bool
	var wg sync.WaitGroup
	looks := &boundedLooks{s: s, bound: f.bound, start: time.Now()}
	for g := range workers {
		w := &workers[g]
		*w = boundedWorker{boundedLoad: l, s: s, looks: looks, ids: ids, content: slices.Clone(content),
			random: rand.New(rand.NewPCG(uint64(g), 1))}
		wg.Go(func() { w.loop(b, &stop) })
	}
	looks.wait(b)
	stop.Store(true)
	wg.Wait()
	f.elapsed += time.Since(looks.start)
	f.looks += looks.count
	f.over += looks.over
	f.gap = max(f.gap, looks.gap)
	f.mappedMax = max(f.mappedMax, looks.mappedMax)
	st := s.Stats()
	f.waits += st.Writes.WaitDuration.Count
	f.compactions += st.Compactions
	for g := range workers {
		f.calls += workers[g].calls
		f.refused += workers[g].refused
		f.puts.merge(&workers[g].puts)
	}
}

// boundedLooks looks at what a store holds, a millisecond apart. The goroutines of the load take the
// looks, one after another, and a ticker where all of them wait: one more goroutine beside busy ones would
// get a processor every 10 ms at best.
type boundedLooks struct {
	s     *Store
	bound int64
	start time.Time
	next  atomic.Int64 // when the next look is due, since start

	mu                     sync.Mutex // of one look
	last, gap              time.Duration
	count, over, mappedMax int64
}

const lookInterval = time.Millisecond

// at looks when that is due at now.
func (k *boundedLooks) at(now time.Time) {
	since := now.Sub(k.start)
	if due := k.next.Load(); int64(since) < due || !k.next.CompareAndSwap(due, int64(since+lookInterval)) {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	mapped, spares := k.s.medium.held()
	held := mapped + spares
	k.mappedMax = max(k.mappedMax, held)
	if held > k.bound {
		k.over++
	}
	k.count++
	k.gap = max(k.gap, since-k.last)
	k.last = max(k.last, since)
}

// wait looks, too, until the load has lasted for as long as it is to last.
func (k *boundedLooks) wait(b *testing.B) {
	b.Helper()
	wanted, asked := askedDuration(b)
	if !asked {
		wanted = inShort(200*time.Millisecond, time.Minute)
	}
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for now := k.start; now.Sub(k.start) < wanted; now = time.Now() {
		k.at(now)
		<-ticker.C
	}
}

// boundedWorker is one goroutine of a load. What it counts is its own.
type boundedWorker struct {
	boundedLoad
	s       *Store
	looks   *boundedLooks
	ids     idList
	content []byte
	random  *rand.Rand
	calls   int64
	refused int64
	puts    latencies
}

func (w *boundedWorker) loop(b *testing.B, stop *atomic.Bool) {
	var buf []byte
	for !stop.Load() {
		id := w.ids.at(w.random.IntN(w.n))
		w.calls++
		if w.calls%int64(w.writeEvery) != 0 {
			var err error
			if buf, err = w.s.AppendContent(buf[:0], id); err != nil {
				b.Error(err)
				return
			}
			continue
		}
		start := time.Now()
		err := w.s.Put(id, w.content)
		end := time.Now()
		w.puts.add(end.Sub(start))
		w.looks.at(end)
		switch {
		case errors.Is(err, ErrNoSpace):
			w.refused++
		case err != nil:
			b.Error(err)
			return
		}
	}
}

// merge adds the calls of other.
func (l *latencies) merge(other *latencies) {
	for ns, n := range other.short {
		l.short[ns] += n
	}
	l.long = append(l.long, other.long...)
	l.calls += other.calls
}
