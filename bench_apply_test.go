package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkApply overwrites memories of 256 bytes at random, in a store with default options, by turns one by one and
// in batches of 64.
//
//	puts-µs, batch-µs  of 64 writes, medians of the turns
//	puts-x-batch       of these
func BenchmarkApply(b *testing.B) {
	const memories, size, batch = 1_000_000, 256, 64
	for _, kind := range []struct {
		name      string
		directory bool
		sync      bool
		batches   int // of a turn
	}{{"memory", false, false, 1000}, {"directory", true, false, 1000}, {"SyncWrites", true, true, 10}} {
		b.Run(kind.name, func(b *testing.B) {
			dir, n, batches := "", sized(b, memories), inShort(1, kind.batches)
			if kind.directory {
				dir = b.TempDir()
			}
			s, err := Open(dir, nil)
			require.NoError(b, err)
			defer func() { require.NoError(b, s.Close()) }()
			ids := make([]string, n)
			for i := range ids {
				ids[i] = idOf(i)
				require.NoError(b, s.Put(ids[i], contentOf(i, 0, size)))
			}
			s.opts.SyncWrites = kind.sync
			content, times, x := contentOf(1, 1, size), turns{}, uint64(1)
			next := func() string {
				x = x*6364136223846793005 + 1442695040888963407
				return ids[x>>33%uint64(n)]
			}
			puts := func() {
				for range batches * batch {
					if err := s.Put(next(), content); err != nil {
						b.Fatal(err)
					}
				}
			}
			var writes Batch
			applies := func() {
				for range batches {
					writes.Reset()
					for range batch {
						writes.Put(next(), content)
					}
					if err := s.Apply(&writes); err != nil {
						b.Fatal(err)
					}
				}
			}
			for b.Loop() {
				times.take("puts", puts)
				times.take("batch", applies)
			}
			for what := range times {
				b.ReportMetric(median(times[what]).Seconds()*1e6/float64(batches), what+"-µs")
			}
			times.report(b, "puts", "batch", "puts-x-batch")
		})
	}
}
