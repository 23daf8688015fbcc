//go:build unix

package warmtier

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

/*
Goal: a store with MaxBytes is never over it, whoever writes, and refuses no Put as long as enough of it is dead.
Method: writers that overwrite as fast as they can, beside one who looks at what is mapped and kept back.
*/

// budgetUnderLoad is MaxBytes of these tests: 128 MiB when long tests are asked for.
func budgetUnderLoad(t *testing.T) (maxBytes int64, puts int, until time.Duration) {
	t.Helper()
	if d, ok := askedDuration(t); ok {
		return 128 << 20, 1 << 30, d
	}
	return 8 << 20, sized(t, 3_000), time.Hour
}

func TestMaxBytes_NeverOverNeverRefused(t *testing.T) {
	t.Parallel()
	for _, medium := range []string{"memory", "directory"} {
		t.Run(medium, func(t *testing.T) {
			const size, writers = 1000, 6
			dir := ""
			if medium == "directory" {
				dir = fastDir(t)
			}
			maxBytes, puts, until := budgetUnderLoad(t)
			s, err := Open(dir, &Options{MaxBytes: maxBytes})
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			n := int(maxBytes * 7 / 10 / bytesOf(1, size))
			fill(t, s, 0, n, size)
			begun := time.Now()
			var most atomic.Int64
			done := watchMapped(s, func(int64) {
				st := s.Stats()
				most.Store(max(most.Load(), st.MappedBytes+st.SegmentDetails.SpareBytes))
			})
			defer done()
			version := make([]atomic.Int64, n)
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 1))
					for i := 0; i < puts && time.Since(begun) < until; i++ {
						m := r.IntN(n/writers)*writers + w // each has its own
						v := int(version[m].Load()) + 1
						if err := s.Put(idOf(m), contentOf(m, v, size)); err != nil {
							t.Error(i, err)
							return
						}
						version[m].Store(int64(v))
					}
				})
			}
			all.Wait()
			done()
			require.LessOrEqual(t, most.Load(), maxBytes)
			st := s.Stats()
			t.Logf("%d of %d bytes at most; %d puts, %d compactions, %d failed, %d waits of %v at most, %d segments of %d",
				most.Load(), maxBytes, st.Puts, st.Compactions, st.CompactionFailures, st.Writes.WaitDuration.Count,
				st.Writes.WaitDuration.Quantile(1), st.Segments, s.opts.SegmentSize)
			for m := range n {
				got, err := s.Get(idOf(m))
				require.NoError(t, err)
				require.Equal(t, contentOf(m, int(version[m].Load()), size), got)
			}
			require.Equal(t, n, s.Len())
		})
	}
}

// Goal: the budget is there to the last byte, and not one more.
func TestMaxBytes_ClaimedToTheLast(t *testing.T) {
	m := mapper{limit: 100}
	require.NoError(t, m.claim(60))
	require.ErrorIs(t, m.claim(41), errOverBudget)
	require.NoError(t, m.claim(40))
	require.ErrorIs(t, m.claim(1), errOverBudget)
	require.Equal(t, int64(100), m.bytes.Load())
}

// Goal: options that cannot work are refused, with the least that would do.
func TestMaxBytes_TooSmall(t *testing.T) {
	for _, c := range []struct {
		maxBytes    int64
		segmentSize int
		least       int64
	}{
		{1, 0, 16 * minSegmentSize},
		{16*minSegmentSize - 1, 0, 16 * minSegmentSize},
		{64 << 20, 32 << 20, 512 << 20},
		{100_000, 100_000, 16 * 102_400},
	} {
		_, err := Open("", &Options{MaxBytes: c.maxBytes, SegmentSize: c.segmentSize})
		require.ErrorIs(t, err, ErrInvalidOptions)
		require.ErrorContains(t, err, fmt.Sprintf("MaxBytes is %d, want at least %d", c.maxBytes, c.least))
		for _, dir := range []string{"", fastDir(t)} { // and that is true
			s, err := Open(dir, &Options{MaxBytes: c.least, SegmentSize: c.segmentSize})
			require.NoError(t, err)
			fill(t, s, 0, 1000, 100)
			requireContents(t, s, 0, 1000, 100, all)
			require.NoError(t, s.Close())
		}
	}
}
