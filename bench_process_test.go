package warmtier

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

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
