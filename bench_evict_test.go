//go:build unix

package warmtier

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkEvictGet reads random memories of 256 bytes in a store that evicts when it is full, which it
// is not, and in one that does not.
func BenchmarkEvictGet(b *testing.B) {
	n := inShort(5000, 500_000)
	for _, when := range []WhenFull{Refuse, Evict} {
		b.Run(fmt.Sprintf("evict=%v", when == Evict), func(b *testing.B) {
			dropSharedStores(b)
			s, err := Open("", &Options{MaxBytes: 512 << 20, WhenFull: when})
			if err != nil {
				b.Fatal(err)
			}
			defer closeBench(b, s)
			content := make([]byte, 256)
			for i := range n {
				putBench(b, s, content, i)
			}
			ids, random, buf := uniformIDs(n), rand.New(rand.NewPCG(1, 1)), []byte(nil)
			for b.Loop() {
				if buf, err = s.AppendContent(buf[:0], ids.at(random.IntN(n))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEvictPut stores new memories of 1000 bytes in a store of 256 MiB, or of WARMTIER_TEST_BYTES: while it
// fills, and from then on, when each takes the place of others, until it has stored four times as much as there
// is room for. Before each Put one of those stored lately is asked for, so that many are read before the hand
// comes. It looks every millisecond at what the store maps.
//
//	below-µs, at-µs          mean of a Put before the first eviction, and after it
//	below-p99.9-µs …         single Puts
//	get-p99.9-µs             single Gets after the first eviction
//	at/below                 the ratio of the means
//	over                     looks that saw more than MaxBytes
//
// The time per op is that of an iteration, and means nothing.
func BenchmarkEvictPut(b *testing.B) {
	budget := int64(envInt(b, "WARMTIER_TEST_BYTES", inShort(16<<20, 256<<20)))
	for b.Loop() {
		benchEvictPut(b, budget)
	}
}

func benchEvictPut(b *testing.B, budget int64) {
	b.Helper()
	dropSharedStores(b)
	s, err := Open("", &Options{MaxBytes: budget, WhenFull: Evict})
	if err != nil {
		b.Fatal(err)
	}
	defer closeBench(b, s)
	n := int(4 * budget / 1040)
	ids, random, content, buf := uniformIDs(n), rand.New(rand.NewPCG(1, 1)), make([]byte, 1000), []byte(nil)
	var puts [2]latencies
	var sums [2]time.Duration
	gets := &latencies{}
	looks := &boundedLooks{s: s, bound: budget, start: time.Now()}
	full := 0 // 1 from the first eviction on
	for i := range n {
		start := time.Now()
		buf, _ = s.AppendContent(buf[:0], ids.at(i-random.IntN(min(i, n/5)+1)))
		read := time.Now()
		if err := s.Put(ids.at(i), content); err != nil {
			b.Fatal(err)
		}
		end := time.Now()
		looks.at(end)
		puts[full].add(end.Sub(read))
		sums[full] += end.Sub(read)
		if full == 1 {
			gets.add(read.Sub(start))
		} else if i%64 == 0 && s.Stats().Drops.Evicted > 0 {
			full = 1
		}
	}
	below, at := float64(sums[0])/float64(puts[0].calls), float64(sums[1])/float64(puts[1].calls)
	b.ReportMetric(below/1e3, "below-µs")
	b.ReportMetric(at/1e3, "at-µs")
	b.ReportMetric(at/below, "at/below")
	b.ReportMetric(puts[0].at(0.5)/1e3, "below-p50-µs")
	b.ReportMetric(puts[1].at(0.5)/1e3, "at-p50-µs")
	b.ReportMetric(puts[0].at(0.999)/1e3, "below-p99.9-µs")
	b.ReportMetric(puts[1].at(0.999)/1e3, "at-p99.9-µs")
	b.ReportMetric(gets.at(0.999)/1e3, "get-p99.9-µs")
	b.ReportMetric(puts[1].at(1)/1e6, "at-max-ms")
	b.ReportMetric(float64(looks.over), "over")
	b.ReportMetric(float64(looks.count), "looks")
	b.ReportMetric(float64(looks.mappedMax)/1e6, "mapped-max-MB")
	st := s.Stats()
	b.ReportMetric(float64(st.CompactionDetails.BytesCopied)/float64(st.Writes.Bytes), "copied/written")
	b.ReportMetric(float64(st.Compactions), "compactions")
}
