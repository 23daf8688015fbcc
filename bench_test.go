package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

/*
What these benchmarks measure, and what keeps them honest. docs/performance.md has the commands and
the figures.

Ids are ready before the clock starts: an idList is one string, read front to back, so that neither
formatting nor a cache miss of the benchmark's own counts as the store's. Its order is shuffled, so
each call meets a random memory.

Whoever overwrites pays for the compactions that takes: they run inside the measured loop, each time
as many memories were overwritten as there are (fragmentation ratio 0.5, the default threshold of
maintenance).

Ratios are taken within one run: what they compare is measured by turns with it, in one process.

Stores are shared between the benchmarks that leave them as they were; those that look at the whole
process (resident set, garbage collector) drop the shared ones first.

-short makes every store small: it shows that the benchmarks run, and measures nothing.
*/

// benchSize is a store of n memories.
type benchSize struct {
	n       int
	content int // bytes of each
}

func (z benchSize) String() string {
	content := strconv.Itoa(z.content) + "B"
	if z.content%1024 == 0 {
		content = strconv.Itoa(z.content/1024) + "KiB"
	}
	return fmt.Sprintf("n=%s/content=%s", countName(z.n), content)
}

// countName writes n so that benchstat can sort it: 10k, 1M.
func countName(n int) string {
	switch {
	case n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "M"
	case n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

// inShort is full, or short under -short.
func inShort[T any](short, full T) T {
	if testing.Short() {
		return short
	}
	return full
}

// callSizes are the stores that single calls are measured on.
func callSizes() []benchSize {
	return inShort(
		[]benchSize{{1000, 256}, {10_000, 1024}},
		[]benchSize{{10_000, 256}, {1_000_000, 256}, {1_000_000, 1024}})
}

// benchIDLen is the length of every id of these benchmarks, bytes.
const benchIDLen = 15

// appendBenchID appends the id of memory i, which is idOf(i) without package fmt.
func appendBenchID(dst []byte, i int) []byte {
	dst = append(dst, "memory-00000000"...)
	for p := len(dst) - 1; i > 0; p, i = p-1, i/10 {
		dst[p] = byte('0' + i%10)
	}
	return dst
}

// benchID is for setup that must not leave a list of ids in the resident set.
func benchID(i int) string {
	var buf [benchIDLen]byte
	return string(appendBenchID(buf[:0], i))
}

// idList is ids back to back: no pointer per id, nothing for the garbage collector to trace.
type idList string

func (l idList) count() int      { return len(l) / benchIDLen }
func (l idList) at(i int) string { return string(l[i*benchIDLen : (i+1)*benchIDLen]) }

// uniformIDs lists the ids of n memories, each once, shuffled.
func uniformIDs(n int) idList {
	b := make([]byte, 0, n*benchIDLen)
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		b = appendBenchID(b, i)
	}
	return idList(b)
}

// zipfIDs draws n ids, some of them very often: the k-th most popular with weight 1/(k+1)^1.1.
func zipfIDs(n int) idList {
	r := rand.New(rand.NewPCG(1, 2))
	memory := r.Perm(n) // by popularity, so that popular ones do not lie side by side
	zipf := rand.NewZipf(r, 1.1, 1, uint64(n-1))
	b := make([]byte, 0, n*benchIDLen)
	for range n {
		b = appendBenchID(b, memory[zipf.Uint64()])
	}
	return idList(b)
}

// idStream reads an idList over and over.
type idStream struct {
	ids idList
	pos int
}

func (st *idStream) next() string {
	id := st.ids.at(st.pos)
	if st.pos++; st.pos == st.ids.count() {
		st.pos = 0
	}
	return id
}

// benchStore is a full store that benchmarks share.
type benchStore struct {
	*Store
	benchSize
	uniform idList
	zipf    idList
	content []byte
}

var sharedStores = map[benchSize]*benchStore{}

// sharedStore returns the store of size z. It has all its memories and no dead bytes, and whoever
// changes that puts it right again with tidy.
func sharedStore(b *testing.B, z benchSize) *benchStore {
	b.Helper()
	if f := sharedStores[z]; f != nil {
		return f
	}
	f := &benchStore{
		Store:     openBench(b, CompactionOptions{}),
		benchSize: z,
		uniform:   uniformIDs(z.n),
		zipf:      zipfIDs(z.n),
		content:   make([]byte, z.content),
	}
	for i := range z.n {
		putBench(b, f.Store, f.content, i)
	}
	sharedStores[z] = f
	return f
}

// dropSharedStores leaves the process as it was before them: benchmarks that weigh the whole
// process start with it.
func dropSharedStores(b *testing.B) {
	b.Helper()
	for z, f := range sharedStores {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		delete(sharedStores, z)
	}
	debug.FreeOSMemory() // before anything is measured: what earlier benchmarks left on the heap
}

func (f *benchStore) tidy(b *testing.B) {
	b.Helper()
	if _, err := f.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func openBench(b *testing.B, c CompactionOptions) *Store {
	b.Helper()
	s, err := Open("", &Options{Compaction: c, Maintenance: MaintenanceOptions{Disabled: true}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func closeBench(b *testing.B, s *Store) {
	b.Helper()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// putBench stores memory i; content is scratch space.
func putBench(b *testing.B, s *Store, content []byte, i int) {
	b.Helper()
	binary.LittleEndian.PutUint64(content, uint64(i))
	if err := s.Put(benchID(i), content); err != nil {
		b.Fatal(err)
	}
}

func deleteBench(b *testing.B, s *Store, i int) {
	b.Helper()
	if existed, err := s.Delete(benchID(i)); err != nil || !existed {
		b.Fatalf("delete of memory %d: %v, %v", i, existed, err)
	}
}

// Single calls.

// newCall returns a call to measure. Each goroutine has one of its own.
type newCall func(f *benchStore, ids *idStream) func() error

// benchCall measures a call with every store of callSizes, from one goroutine and from GOMAXPROCS.
func benchCall(b *testing.B, ids string, call newCall) {
	for _, z := range callSizes() {
		for _, mode := range []string{"serial", "parallel"} {
			b.Run(fmt.Sprintf("%v/ids=%s/mode=%s", z, ids, mode), func(b *testing.B) {
				f := sharedStore(b, z)
				list := f.uniform
				if ids == "zipf" {
					list = f.zipf
				}
				b.SetBytes(int64(z.content))
				b.ReportAllocs()
				if mode == "serial" {
					runSerial(b, call(f, &idStream{ids: list}))
				} else {
					runParallel(b, f, list, call)
				}
			})
		}
	}
}

func runSerial(b *testing.B, op func() error) {
	for b.Loop() {
		if err := op(); err != nil {
			b.Fatal(err)
		}
	}
}

func runParallel(b *testing.B, f *benchStore, list idList, call newCall) {
	var goroutines atomic.Int64
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		// A start of its own: else all would follow the same memories through the cache.
		start := int(goroutines.Add(1)) * (list.count() / 7) % list.count()
		op := call(f, &idStream{ids: list, pos: start})
		for pb.Next() {
			if err := op(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

var errWrongLength = errors.New("content of wrong length")

func (f *benchStore) checkLen(content []byte) error {
	if len(content) != len(f.content) {
		return errWrongLength
	}
	return nil
}

func newGet(f *benchStore, ids *idStream) func() error {
	return func() error {
		content, err := f.Get(ids.next())
		if err != nil {
			return err
		}
		return f.checkLen(content)
	}
}

func newAppendContent(f *benchStore, ids *idStream) func() error {
	var buf []byte
	return func() (err error) {
		buf, err = f.AppendContent(buf[:0], ids.next())
		if err != nil {
			return err
		}
		return f.checkLen(buf)
	}
}

func newView(f *benchStore, ids *idStream) func() error {
	return func() error { return f.View(ids.next(), f.checkLen) }
}

func BenchmarkGet(b *testing.B) {
	benchCall(b, "uniform", newGet)
	benchCall(b, "zipf", newGet)
}

func BenchmarkAppendContent(b *testing.B) { benchCall(b, "uniform", newAppendContent) }

// newGetMany is one id of a batch per call, so that its figures compare with those of one Get.
func newGetMany(f *benchStore, ids *idStream) func() error {
	list := make([]string, 0, batchIDs)
	var failed error
	check := func(_ int, content []byte, err error) {
		if err == nil {
			err = f.checkLen(content)
		}
		if err != nil {
			failed = err
		}
	}
	return func() error {
		if list = append(list, ids.next()); len(list) < batchIDs {
			return nil
		}
		err := f.GetMany(list, check)
		list = list[:0]
		if err != nil {
			return err
		}
		return failed
	}
}

func BenchmarkGetMany(b *testing.B) { benchCall(b, "uniform", newGetMany) }

func BenchmarkView(b *testing.B) { benchCall(b, "uniform", newView) }

// upkeep compacts a store each time as many memories were overwritten as it has.
type upkeep struct {
	f           *benchStore
	overwritten atomic.Int64
	before      Stats
}

// upkeepBatch is how many overwrites a goroutine counts for itself before it says so.
const upkeepBatch = 64

func (u *upkeep) add(n int64) error {
	memories := int64(u.f.n)
	now := u.overwritten.Add(n)
	if now/memories == (now-n)/memories {
		return nil
	}
	if _, err := u.f.Compact(context.Background()); !errors.Is(err, ErrCompactionInProgress) {
		return err
	}
	return nil
}

// report gives the compactions of a benchmark that made puts puts.
func (u *upkeep) report(b *testing.B) {
	st := u.f.Stats()
	compactions := st.Compactions - u.before.Compactions
	b.ReportMetric(float64(compactions), "compactions")
}

// writers measures calls of which one in writeEvery overwrites a memory, and the others get one.
func writers(b *testing.B, writeEvery int) {
	for _, z := range callSizes() {
		for _, mode := range []string{"serial", "parallel"} {
			b.Run(fmt.Sprintf("%v/ids=uniform/mode=%s", z, mode), func(b *testing.B) {
				f := sharedStore(b, z)
				defer f.tidy(b)
				u := &upkeep{f: f, before: f.Stats()}
				call := func(f *benchStore, ids *idStream) func() error { return newMixed(u, ids, writeEvery) }
				b.SetBytes(int64(z.content))
				if mode == "serial" {
					runSerial(b, call(f, &idStream{ids: f.uniform}))
				} else {
					runParallel(b, f, f.uniform, call)
				}
				b.StopTimer()
				u.report(b)
			})
		}
	}
}

func newMixed(u *upkeep, ids *idStream, writeEvery int) func() error {
	get := newAppendContent(u.f, ids)
	calls, writes := 0, int64(0)
	return func() error {
		if calls++; calls%writeEvery != 0 {
			return get()
		}
		if err := u.f.Put(ids.next(), u.f.content); err != nil {
			return err
		}
		if writes++; writes%upkeepBatch != 0 {
			return nil
		}
		return u.add(upkeepBatch)
	}
}

// BenchmarkMixed is nine AppendContents to one Put that overwrites, compactions included.
func BenchmarkMixed(b *testing.B) { writers(b, 10) }

// BenchmarkPut overwrites, compactions included (ids=uniform), or fills an empty store (ids=new).
func BenchmarkPut(b *testing.B) {
	writers(b, 1)
	for _, z := range callSizes() {
		for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
			b.Run(fmt.Sprintf("%v/ids=new/mode=%s", z, modeName(workers)), func(b *testing.B) {
				ids, content := uniformIDs(z.n), make([]byte, z.content)
				var s *Store
				b.SetBytes(int64(z.content))
				inPasses(b, z.n, workers, func() {
					if s != nil {
						closeBench(b, s)
					}
					s = openBench(b, CompactionOptions{})
				}, func(i int) error { return s.Put(ids.at(i), content) })
				closeBench(b, s)
			})
		}
	}
}

// BenchmarkDelete deletes the memories of a full store in random order. The space is not given back
// in the measured time: BenchmarkCompact measures that.
func BenchmarkDelete(b *testing.B) {
	for _, z := range callSizes() {
		for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
			b.Run(fmt.Sprintf("%v/ids=uniform/mode=%s", z, modeName(workers)), func(b *testing.B) {
				f := sharedStore(b, z)
				refill := func() {
					for i := 0; f.Len() < f.n; i++ {
						if err := f.Put(f.uniform.at(i), f.content); err != nil {
							b.Fatal(err)
						}
					}
					f.tidy(b)
				}
				inPasses(b, z.n, workers, refill, func(i int) error {
					_, err := f.Delete(f.uniform.at(i))
					return err
				})
				refill()
			})
		}
	}
}

func modeName(workers int) string {
	if workers == 1 {
		return "serial"
	}
	return "parallel"
}

// inPasses calls op b.N times, with 0 to n-1 in each pass, and before with the clock stopped before
// each: b.Loop and RunParallel have no place for that where a pass has several goroutines.
func inPasses(b *testing.B, n, workers int, before func(), op func(i int) error) {
	b.StopTimer()
	b.ResetTimer()
	for left := b.N; left > 0; left -= n {
		before()
		pass := min(n, left)
		var wg sync.WaitGroup
		b.StartTimer()
		for w := range workers {
			wg.Go(func() {
				for i := w * pass / workers; i < (w+1)*pass/workers; i++ {
					if err := op(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.StopTimer()
	}
}

// Compaction.

// halfDead is a store that can be brought back to the same state over and over: all memories once,
// a random half of them deleted, nothing else.
type halfDead struct {
	*Store
	benchSize
	pass    uint64
	content []byte
}

// dead says whether memory i is deleted in this pass: a coin for each pass and memory (splitmix64).
func (h *halfDead) dead(pass uint64, i int) bool {
	x := (pass<<40 + uint64(i)) * 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x>>63 == 1
}

func newHalfDead(b *testing.B, z benchSize, c CompactionOptions) *halfDead {
	b.Helper()
	return &halfDead{Store: openBench(b, c), benchSize: z, content: make([]byte, z.content)}
}

// prepare puts back what the pass before deleted, and deletes another half. REQUIRES: a compaction
// since the last time.
func (h *halfDead) prepare(b *testing.B) Stats {
	b.Helper()
	for i := range h.n {
		if h.pass == 0 || h.dead(h.pass, i) {
			putBench(b, h.Store, h.content, i)
		}
	}
	h.pass++
	for i := range h.n {
		if h.dead(h.pass, i) {
			deleteBench(b, h.Store, i)
		}
	}
	return h.Stats()
}

// liveIDs lists the ids of the memories that prepare left, in the order of list.
func (h *halfDead) liveIDs(list []int) idList {
	b := make([]byte, 0, h.n*benchIDLen)
	for _, i := range list {
		if !h.dead(h.pass, i) {
			b = appendBenchID(b, i)
		}
	}
	return idList(b)
}

// memcpyTime is how long one copy of size bytes takes a single goroutine, between two stretches of
// private mapped memory, mapped as segments are, all of it touched: the median of three.
func memcpyTime(b *testing.B, size int64) time.Duration {
	b.Helper()
	var m mapper
	var mem [2][]byte
	for i := range mem {
		var err error
		if mem[i], err = m.acquire(roundUp(int(size), pageSize)); err != nil {
			b.Fatal(err)
		}
		for p := 0; p < len(mem[i]); p += pageSize {
			mem[i][p] = byte(p)
		}
	}
	var times []time.Duration
	for range 3 {
		start := time.Now()
		copy(mem[1], mem[0][:size])
		times = append(times, time.Since(start))
	}
	for i := range mem {
		if err := m.release(mem[i]); err != nil {
			b.Fatal(err)
		}
	}
	return median(times)
}

// BenchmarkCompact compacts stores of which a random half is dead. Beside the time:
//
//	x-memcpy        the same by the time of one memcpy of the live bytes (memcpyTime, same run)
//	memcpy-ms       that time
//	swap-µs         longest hold of the write lock, the median of the compactions
//	swap-max-µs     the same, the worst of them
//	overhead-ratio  CompactionStats.PeakOverheadBytes / live bytes
//	peak-rss-ratio  peak resident set of the process while compacting / before
func BenchmarkCompact(b *testing.B) {
	for _, z := range inShort([]benchSize{{20_000, 1024}}, []benchSize{{1_000_000, 1024}, {10_000_000, 100}}) {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/dead=half/workers=%d", z, workers), func(b *testing.B) {
				dropSharedStores(b)
				h := newHalfDead(b, z, CompactionOptions{Workers: workers})
				var m metrics
				for b.Loop() {
					b.StopTimer()
					live := h.prepare(b).LiveBytes
					memcpy := memcpyTime(b, live)
					before := resetPeakResident()
					b.StartTimer()
					st, err := h.Compact(context.Background())
					b.StopTimer()
					if err != nil {
						b.Fatal(err)
					}
					m.add("x-memcpy", float64(st.Duration)/float64(memcpy))
					m.add("memcpy-ms", memcpy.Seconds()*1e3)
					m.add("swap-µs", st.MaxSwapPause.Seconds()*1e6)
					m.add("overhead-ratio", float64(st.PeakOverheadBytes)/float64(live))
					if before > 0 {
						m.add("peak-rss-ratio", float64(peakResident())/float64(before))
					}
					b.StartTimer()
				}
				m.report(b)
				b.ReportMetric(slices.Max(m["swap-µs"]), "swap-max-µs")
				closeBench(b, h.Store)
			})
		}
	}
}

// Latency.

// latencies counts how often a call took how many ns.
type latencies struct {
	short [1 << 16]uint32 // by ns
	long  []int64         // those that took longer, ns
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
	m.report(b)
	calls := 0
	p.lat.window(b, func() error { calls++; return nil }, func() bool { return calls > 1_000_000 })
	b.ReportMetric(p.lat.at(0.5), "timer-ns")
}

// The whole process.

// BenchmarkShrink deletes nine memories in ten and compacts; the time is that of the compaction.
//
//	rss-before-MB, rss-after-MB  resident set of the whole process, index and Go heap included
//	rss-over-live                after / Stats.LiveBytes
//	rss-over-content             after / bytes of the contents left
//	rss-freed-over-live          as rss-over-live, after debug.FreeOSMemory too
func BenchmarkShrink(b *testing.B) {
	z := inShort(benchSize{50_000, 100}, benchSize{5_000_000, 100})
	b.Run(fmt.Sprintf("%v/dead=90%%", z), func(b *testing.B) {
		var m metrics
		for b.Loop() {
			b.StopTimer()
			dropSharedStores(b)
			h := newHalfDead(b, z, CompactionOptions{})
			for i := range z.n {
				putBench(b, h.Store, h.content, i)
			}
			for i := range z.n {
				if i%10 != 0 {
					deleteBench(b, h.Store, i)
				}
			}
			before, ok := residentBytes()
			b.StartTimer()
			_, err := h.Compact(context.Background())
			b.StopTimer()
			if err != nil {
				b.Fatal(err)
			}
			if after, _ := residentBytes(); ok {
				live := float64(h.Stats().LiveBytes)
				m.add("rss-before-MB", float64(before)/1e6)
				m.add("rss-after-MB", float64(after)/1e6)
				m.add("rss-over-live", float64(after)/live)
				m.add("rss-over-content", float64(after)/float64(h.Len()*z.content))
				debug.FreeOSMemory()
				freed, _ := residentBytes()
				m.add("rss-freed-over-live", float64(freed)/live)
			}
			closeBench(b, h.Store)
			b.StartTimer()
		}
		m.report(b)
	})
}

// BenchmarkGC runs whole garbage collections in an empty process and in one that holds n memories,
// by turns.
//
//	empty-gc-µs, full-gc-µs  medians of one runtime.GC, over all turns
//	gc-x                     full / empty; of single turns it would be noise
//
// The time per op is that of filling a store, and means nothing.
func BenchmarkGC(b *testing.B) {
	z := inShort(benchSize{30_000, 100}, benchSize{10_000_000, 100})
	b.Run(z.String(), func(b *testing.B) {
		dropSharedStores(b)
		var empty, full []time.Duration
		content := make([]byte, z.content)
		for b.Loop() {
			empty = appendGCTimes(empty)
			s := openBench(b, CompactionOptions{})
			for i := range z.n {
				putBench(b, s, content, i)
			}
			full = appendGCTimes(full)
			closeBench(b, s)
		}
		b.ReportMetric(median(empty).Seconds()*1e6, "empty-gc-µs")
		b.ReportMetric(median(full).Seconds()*1e6, "full-gc-µs")
		b.ReportMetric(float64(median(full))/float64(median(empty)), "gc-x")
	})
}

// appendGCTimes appends the times of some collections, the first left out: it has garbage of others
// to sweep.
func appendGCTimes(times []time.Duration) []time.Duration {
	runtime.GC()
	for range 200 {
		start := time.Now()
		runtime.GC()
		times = append(times, time.Since(start))
	}
	return times
}

// BenchmarkIndex fills a store and deletes nine memories in ten.
//
//	index-B/memory         Stats.IndexBytes / Stats.Memories when it is full
//	index-max-B/memory     the most at any size above 100,000 (-short: 10,000) on the way up
//	index-shrunk-B/memory  after the deletes
//
// The time per op is that of all of it, and means nothing.
func BenchmarkIndex(b *testing.B) {
	z := inShort(benchSize{20_000, 16}, benchSize{2_000_000, 16})
	b.Run(z.String(), func(b *testing.B) {
		var m metrics
		content := make([]byte, z.content)
		for b.Loop() {
			s := openBench(b, CompactionOptions{})
			worst := 0.0
			for i := range z.n {
				putBench(b, s, content, i)
				if i >= inShort(10_000, 100_000) && i%1000 == 0 {
					worst = max(worst, s.indexPerMemory())
				}
			}
			m.add("index-B/memory", s.indexPerMemory())
			m.add("index-max-B/memory", worst)
			for i := range z.n {
				if i%10 != 0 {
					deleteBench(b, s, i)
				}
			}
			m.add("index-shrunk-B/memory", s.indexPerMemory())
			closeBench(b, s)
		}
		m.report(b)
	})
}

func (s *Store) indexPerMemory() float64 {
	st := s.Stats()
	return float64(st.IndexBytes) / float64(st.Memories)
}

// Helpers.

// metrics are what the iterations of a benchmark found, by unit; their medians are reported.
type metrics map[string][]float64

func (m *metrics) add(unit string, v float64) {
	if *m == nil {
		*m = metrics{}
	}
	(*m)[unit] = append((*m)[unit], v)
}

func (m *metrics) report(b *testing.B) {
	for unit, values := range *m {
		b.ReportMetric(median(values), unit)
	}
}

// median sorts values.
func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// resetPeakResident makes peakResident start again from the resident set, which it returns; 0 where
// the system cannot do that.
func resetPeakResident() int64 {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0
	}
	n, _ := residentBytes()
	return n
}

// peakResident is VmHWM of /proc/self/status: the kernel's own peak, with no sampling.
func peakResident() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb * 1024
		}
	}
	return 0
}
