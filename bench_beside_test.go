package warmtier

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkBeside compacts a store of which a random half is dead, by turns alone and beside
// goroutines that do nothing but read from it. The figures are medians over the pairs:
//
//	alone-ms, beside-ms  how long the compaction took
//	beside-x             beside / alone, of two compactions side by side
//	worst-x              the same, the worst pair
//	cpu-x                processor time of the process beside / GOMAXPROCS / that of the one alone:
//	                     beside-x of a machine with no other work, where readers leave no
//	                     processor idle (Linux)
//
// The time per op is that of a pair and of refilling the store, and means nothing.
func BenchmarkBeside(b *testing.B) {
	z := inShort(benchSize{20_000, 256}, benchSize{500_000, 256})
	for _, readers := range []int{1, 4, 8, 16} {
		b.Run(fmt.Sprintf("%v/dead=half/readers=%d", z, readers), func(b *testing.B) {
			dropSharedStores(b)
			benchBeside(b, z, readers)
		})
	}
}

func benchBeside(b *testing.B, z benchSize, readers int) {
	h := newHalfDead(b, z, CompactionOptions{})
	defer closeBench(b, h.Store)
	list := rand.New(rand.NewPCG(1, 1)).Perm(z.n)
	f := &benchStore{Store: h.Store, benchSize: z, content: h.content}
	compact := func(besides int) (ms, cpu float64) {
		h.prepare(b)
		defer readBeside(b, f, h.liveIDs(list), besides)()
		before := processorTime()
		st, err := h.Compact(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		return st.Duration.Seconds() * 1e3, float64(processorTime() - before)
	}
	var m metrics
	worst := 0.0
	compact(0) // the first one maps fresh memory
	for b.Loop() {
		alone, aloneCPU := compact(0)
		beside, besideCPU := compact(readers)
		m.add("alone-ms", alone)
		m.add("beside-ms", beside)
		m.add("beside-x", beside/alone)
		worst = max(worst, beside/alone)
		if aloneCPU > 0 {
			m.add("cpu-x", besideCPU/aloneCPU/float64(runtime.GOMAXPROCS(0)))
		}
	}
	m.report(b)
	b.ReportMetric(worst, "worst-x")
}

// processorTime returns how long the threads of this process have run, 0 where the system does not
// say so in ns.
func processorTime() (total time.Duration) {
	threads, _ := filepath.Glob("/proc/self/task/*/schedstat")
	for _, name := range threads {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // a thread that has ended
		}
		var ns int64
		if n, _ := fmt.Sscan(string(stat), &ns); n == 1 {
			total += time.Duration(ns)
		}
	}
	return total
}

// readBeside starts goroutines that read random memories of list over and over, and returns when
// all of them do. stop ends them.
func readBeside(b *testing.B, f *benchStore, list idList, readers int) (stop func()) {
	b.Helper()
	var started, ended sync.WaitGroup
	var done atomic.Bool
	started.Add(readers)
	for r := range readers {
		ended.Go(func() {
			op := newAppendContent(f, &idStream{ids: list, pos: r * (list.count() / 17)})
			started.Done()
			for !done.Load() {
				if err := op(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	started.Wait()
	return func() {
		done.Store(true)
		ended.Wait()
	}
}
