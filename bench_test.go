package warmtier

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
What these benchmarks measure, and what keeps them honest. docs/performance.md has the commands and
the figures.

Ids are ready before the clock starts: an idList is one string, read front to back, so that neither
formatting nor a cache miss of the benchmark's own counts as the store's. Its order is shuffled, so
each call meets a random memory.

A benchmark that overwrites pays for the compactions that takes: they run inside the measured loop,
each time as many memories were overwritten as there are (fragmentation ratio 0.5, the default
threshold of maintenance).

Ratios are taken within one run: what they compare is measured by turns with it, in one process.

Stores are shared between the benchmarks that leave them as they were; those that look at the whole
process (resident set, garbage collector) drop the shared ones first.

-short makes every store small: it shows that the benchmarks run, and measures nothing.
*/

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
		// Each goroutine starts elsewhere, or all would follow the same memories through the cache.
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

// newGetMany returns a call that gets one id of a batch, so that its figures compare with those of
// Get.
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

// report reports the compactions of a benchmark that made this many puts.
func (u *upkeep) report(b *testing.B) {
	st := u.f.Stats()
	compactions := st.Compactions - u.before.Compactions
	b.ReportMetric(float64(compactions), "compactions")
}

// writers measures calls one in writeEvery of which overwrites a memory, while the others get one.
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

// BenchmarkMixed makes nine calls of AppendContent to one Put that overwrites, compactions
// included.
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

// BenchmarkPutIf overwrites memories of a full store, compactions included, by turns with Put and with PutIf of the
// version that the caller knows.
//
//	put-ns, putif-ns  of one call, medians of the turns
//	putif-x-put       of these
func BenchmarkPutIf(b *testing.B) {
	for _, z := range callSizes() {
		b.Run(fmt.Sprintf("%v/ids=uniform", z), func(b *testing.B) {
			f := sharedStore(b, z)
			defer f.tidy(b)
			w := &versionedWriter{benchStore: f, upkeep: &upkeep{f: f}, versions: make([]Version, f.n)}
			for i := range f.n {
				_, v, err := f.GetVersion(f.uniform.at(i))
				if err != nil {
					b.Fatal(err)
				}
				w.versions[i] = v
			}
			calls, times := 2000, turns{} // a turn of 1 ms: what the machine does meanwhile meets both alike
			for turn := 0; b.Loop(); turn++ {
				for i := range 2 { // each is the first of its pair as often as the other
					conditional := (turn+i)%2 == 1
					times.take(map[bool]string{false: "put", true: "putif"}[conditional], func() {
						if err := w.write(calls, conditional); err != nil {
							b.Fatal(err)
						}
					})
					if err := w.learn(); err != nil {
						b.Fatal(err)
					}
				}
			}
			for what := range times {
				b.ReportMetric(float64(median(times[what]))/float64(calls), what+"-ns")
			}
			times.report(b, "putif", "put", "putif-x-put")
		})
	}
}

// versionedWriter overwrites memories in the order of uniform, and knows their versions.
type versionedWriter struct {
	*benchStore
	upkeep   *upkeep
	versions []Version
	from, to int // overwritten by the last turn, not counted modulo n
}

func (w *versionedWriter) write(calls int, conditional bool) error {
	w.from, w.to = w.to, w.to+calls
	for i := w.from; i < w.to; i++ {
		at := i % w.n
		v := w.versions[at]
		var err error
		if conditional {
			v, err = w.PutIf(w.uniform.at(at), w.content, v)
		} else {
			err = w.Put(w.uniform.at(at), w.content)
		}
		if err != nil {
			return err
		}
		w.versions[at] = v
	}
	return w.upkeep.add(int64(calls))
}

// learn reads the versions that the last turn made.
func (w *versionedWriter) learn() error {
	for i := w.from; i < w.to; i++ {
		_, v, err := w.GetVersion(w.uniform.at(i % w.n))
		if err != nil {
			return err
		}
		w.versions[i%w.n] = v
	}
	return nil
}

// BenchmarkDelete deletes the memories of a full store in random order. Giving the space back is
// not part of it: BenchmarkCompact measures that.
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

// halfDead is a store that can be brought back to the same state over and over: all memories put
// once, a random half deleted, nothing else.
type halfDead struct {
	*Store
	benchSize
	pass    uint64
	content []byte
}

// dead reports whether memory i is deleted in this pass: a coin for each pass and memory
// (splitmix64).
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

// copyTimes returns how long one copy of live bytes takes a single goroutine, between two stretches of memory mapped as
// segments are and touched before, and how long the least that a compaction does with its records, in pieces: each
// second record of the source on average, whose header is read, copied, and its copy checksummed, and a slot of a
// table changed at random. No record is looked for, no lock taken, and nothing staged. Medians of three.
func copyTimes(b *testing.B, z benchSize, live int64) (whole, pieces time.Duration) {
	b.Helper()
	var m mapper
	var mem [3][]byte
	size := record.Size(benchIDLen, z.content)
	for i, n := range []int{int(live) * 9 / 4, int(live) + size, z.n * 16} {
		var err error
		if mem[i], err = m.acquire(vm.RoundUp(n, 2<<20)); err != nil {
			b.Fatal(err)
		}
		for p := 0; p < len(mem[i]); p += vm.PageSize {
			mem[i][p] = byte(p)
		}
	}
	from, to, slots := mem[0], mem[1], mem[2]
	var times [2][]time.Duration
	for range 3 {
		start := time.Now()
		copy(to, from[:live])
		times[0] = append(times[0], time.Since(start))
		start = time.Now()
		coins, sum := uint64(1), byte(0)
		for at, dst := 0, 0; dst+size <= int(live) && at+size <= len(from); at += size {
			if coins = coins*6364136223846793005 + 1442695040888963407; coins>>63 == 0 {
				continue
			}
			sum += from[at]
			copy(to[dst:dst+size], from[at:])
			crc := record.Checksum(to[dst : dst+size])
			slots[coins>>20%uint64(len(slots)/8)*8] = sum + byte(crc)
			dst += size
		}
		times[1] = append(times[1], time.Since(start))
	}
	for i := range mem {
		if err := m.release(mem[i]); err != nil {
			b.Fatal(err)
		}
	}
	return median(times[0]), median(times[1])
}

// BenchmarkCompact compacts stores of which a random half is dead. Beside the time:
//
//	x-memcpy        the same by the time of one memcpy of the live bytes (copyTimes, same run)
//	memcpy-ms       that time
//	x-pieces        the same by the time of the least work on as many records (copyTimes)
//	pieces-ms       that time
//	swap-µs         longest hold of the write lock, the median of the compactions
//	swap-max-µs     the same, the worst of them
//	overhead-ratio  CompactionStats.PeakOverheadBytes / live bytes
//	peak-rss-ratio  peak resident set of the process while compacting / before
func BenchmarkCompact(b *testing.B) {
	for _, z := range inShort([]benchSize{{20_000, 1024}},
		[]benchSize{{1_000_000, 1024}, {1_000_000, 256}, {10_000_000, 100}}) {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("%v/dead=half/workers=%d", z, workers), func(b *testing.B) {
				dropSharedStores(b)
				h := newHalfDead(b, z, CompactionOptions{Workers: workers})
				var m metrics
				for b.Loop() {
					b.StopTimer()
					live := h.prepare(b).LiveBytes
					memcpy, pieces := copyTimes(b, z, live)
					before := resetPeakResident()
					b.StartTimer()
					st, err := h.Compact(context.Background())
					b.StopTimer()
					if err != nil {
						b.Fatal(err)
					}
					m.add("x-memcpy", float64(st.Duration)/float64(memcpy))
					m.add("memcpy-ms", memcpy.Seconds()*1e3)
					m.add("x-pieces", float64(st.Duration)/float64(pieces))
					m.add("pieces-ms", pieces.Seconds()*1e3)
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

// BenchmarkSmallSegments compacts stores of 64 KiB segments, half dead: what a moved memory costs must not grow with
// the number of segments.
func BenchmarkSmallSegments(b *testing.B) {
	for _, n := range inShort([]int{5000}, []int{250_000, 500_000, 1_000_000, 2_000_000}) {
		z := benchSize{n, 256}
		b.Run(fmt.Sprintf("%v/dead=half/segment=64KiB", z), func(b *testing.B) {
			dropSharedStores(b)
			s, err := Open("", &Options{SegmentSize: minSegmentSize, Maintenance: MaintenanceOptions{Disabled: true}})
			if err != nil {
				b.Fatal(err)
			}
			h := &halfDead{Store: s, benchSize: z, content: make([]byte, z.content)}
			var m metrics
			for b.Loop() {
				b.StopTimer()
				h.prepare(b)
				b.StartTimer()
				st, err := h.Compact(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				m.add("µs/moved", st.Duration.Seconds()*1e6/float64(st.MemoriesMoved))
			}
			m.report(b)
			closeBench(b, s)
		})
	}
}
