package warmtier

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/vm"
)

// BenchmarkLongReads says what held the reads of BenchmarkLatency that took a millisecond or more: the reader has a
// thread of its own, whose times the kernel tells. Beside a compaction, beside none, and, as what the machine itself
// does to a reader, one that copies and checks as many bytes of plain memory beside a goroutine that does the same.
//
//	max-ms, max-worst-ms   the longest read of a window, median and worst
//	reads-over-1ms         of all windows
//	queued-ms …            of the worst: ready to run, while other threads had the processors;
//	ran-ms                 running, page faults and what the machine's host takes included;
//	slept-ms               waiting in the kernel, as for a lock of the library, the Go scheduler or the collector
//	stolen-ms              what the host took of all processors since the last such read, in steps of 10 ms
//
// WARMTIER_BENCH_TRACE names a directory for execution traces of the reads over 3 ms.
func BenchmarkLongReads(b *testing.B) {
	z := inShort(benchSize{20_000, 1024}, benchSize{1_000_000, 1024})
	for _, beside := range []string{"compaction", "nothing"} {
		b.Run("beside="+beside, func(b *testing.B) {
			dropSharedStores(b)
			p := &latencyPair{h: newHalfDead(b, z, CompactionOptions{Workers: 1})}
			defer closeBench(b, p.h.Store)
			list := rand.New(rand.NewPCG(1, 1)).Perm(z.n)
			var r longReads
			for b.Loop() {
				p.h.prepare(b)
				ids := &idStream{ids: p.h.liveIDs(list)}
				read := newAppendContent(&benchStore{Store: p.h.Store, benchSize: z, content: p.h.content}, ids)
				work := func() error { _, err := p.h.Compact(context.Background()); return err }
				if beside == "nothing" {
					work = func() error { <-time.After(300 * time.Millisecond); return nil }
				}
				r.window(b, read, work)
			}
			r.report(b)
		})
	}
	b.Run("beside=plain", func(b *testing.B) {
		dropSharedStores(b)
		mem, err := vm.Map(z.n * z.content)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = vm.Unmap(mem) }()
		for i := range mem {
			mem[i] = byte(i)
		}
		var r longReads
		for b.Loop() {
			r.window(b, newPlainRead(mem, z.content, 1), func() error {
				read := newPlainRead(mem, z.content, 2)
				for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
					for range 100 {
						_ = read()
					}
					runtime.Gosched() // as a compaction does
				}
				return nil
			})
		}
		r.report(b)
	})
}

// newPlainRead returns a read of size bytes somewhere in mem: a copy, and a checksum of it.
func newPlainRead(mem []byte, size int, seed uint64) func() error {
	buf, rng, sum := make([]byte, size), rand.New(rand.NewPCG(seed, 1)), uint32(0)
	table := crc32.MakeTable(crc32.Castagnoli)
	return func() error {
		at := rng.IntN(len(mem)/size) * size
		copy(buf, mem[at:])
		sum ^= crc32.Checksum(buf, table)
		return nil
	}
}

// threadTimes is what the kernel says of a thread.
type threadTimes struct {
	at          time.Time
	ran, queued time.Duration
}

// longRead is a read that took a millisecond or more.
type longRead struct{ took, ran, queued, slept, stolen time.Duration }

// longReads are those of some windows, and the longest read of each.
type longReads struct {
	list    []longRead
	longest []time.Duration
}

const (
	longReadLimit = time.Millisecond
	tracedLimit   = 3 * time.Millisecond
)

// window reads on a thread of its own while work runs.
func (r *longReads) window(b *testing.B, read func() error, work func() error) {
	b.Helper()
	recorder := startRecorder(b)
	if recorder != nil {
		defer recorder.Stop()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var finished atomic.Bool
	failed := make(chan error, 1)
	go func() {
		failed <- work()
		finished.Store(true)
	}()
	schedstat, err := os.Open("/proc/thread-self/schedstat")
	if err != nil {
		b.Skipf("the kernel does not tell how long threads wait: %v", err)
	}
	defer func() { _ = schedstat.Close() }()
	longest, last, stolen := time.Duration(0), timesOf(b, schedstat), stolenTime()
	for !finished.Load() {
		start := time.Now()
		if err := read(); err != nil {
			b.Fatal(err)
		}
		end := time.Now()
		took := end.Sub(start)
		longest = max(longest, took)
		if took >= longReadLimit {
			now, total := timesOf(b, schedstat), stolenTime()
			l := longRead{took: took, queued: min(took, now.queued-last.queued), stolen: total - stolen}
			stolen = total
			l.ran = min(took-l.queued, now.ran-last.ran)
			l.slept = took - l.queued - l.ran
			r.list, last = append(r.list, l), now
			if took >= tracedLimit && recorder != nil {
				writeTrace(b, recorder, took)
			}
		} else if end.Sub(last.at) > longReadLimit/10 {
			last = timesOf(b, schedstat)
		}
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	r.longest = append(r.longest, longest)
}

func timesOf(b *testing.B, schedstat *os.File) threadTimes {
	b.Helper()
	var buf [256]byte
	n, err := unix.Pread(int(schedstat.Fd()), buf[:], 0)
	if err != nil {
		b.Fatal(err)
	}
	var ran, queued, slices int64
	if _, err := fmt.Sscan(string(buf[:n]), &ran, &queued, &slices); err != nil {
		b.Fatal(err)
	}
	return threadTimes{at: time.Now(), ran: time.Duration(ran), queued: time.Duration(queued)}
}

// stolenTime returns what the host has taken of all processors.
func stolenTime() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	if fields := strings.Fields(line); len(fields) > 8 {
		ticks, _ := strconv.Atoi(fields[8])
		return time.Duration(ticks) * 10 * time.Millisecond
	}
	return 0
}

// startRecorder returns a recorder of the last moments of the process, nil where nobody asks for one.
func startRecorder(b *testing.B) *trace.FlightRecorder {
	b.Helper()
	if os.Getenv("WARMTIER_BENCH_TRACE") == "" {
		return nil
	}
	recorder := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: time.Second, MaxBytes: 64 << 20})
	if err := recorder.Start(); err != nil {
		b.Fatal(err)
	}
	return recorder
}

func writeTrace(b *testing.B, recorder *trace.FlightRecorder, took time.Duration) {
	b.Helper()
	name := fmt.Sprintf("%s-%dus.trace", strings.ReplaceAll(b.Name(), "/", "-"), took.Microseconds())
	file, err := os.Create(filepath.Join(os.Getenv("WARMTIER_BENCH_TRACE"), name))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := recorder.WriteTo(file); err != nil {
		b.Fatal(err)
	}
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
}

func (r *longReads) report(b *testing.B) {
	b.Helper()
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	b.ReportMetric(float64(len(r.list)), "reads-over-1ms")
	b.ReportMetric(ms(median(r.longest)), "max-ms")
	b.ReportMetric(ms(slices.Max(r.longest)), "max-worst-ms")
	for _, l := range r.list {
		b.Logf("%.2f ms: queued %.2f, ran %.2f, slept %.2f, stolen %.0f", ms(l.took), ms(l.queued), ms(l.ran), ms(l.slept),
			ms(l.stolen))
	}
	if len(r.list) > 0 {
		l := slices.MaxFunc(r.list, func(x, y longRead) int { return int(x.took - y.took) })
		b.ReportMetric(ms(l.queued), "queued-ms")
		b.ReportMetric(ms(l.ran), "ran-ms")
		b.ReportMetric(ms(l.slept), "slept-ms")
		b.ReportMetric(ms(l.stolen), "stolen-ms")
	}
	debug.FreeOSMemory()
}
