//go:build unix

package warmtier

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A checkpoint of 1 GB (100 MB with -short) beside a writer that overwrites memories of 1 KiB at random, some
// thousands a second, and a reader: how long it takes, and the longest that a call of theirs took, while one was made
// and without. WARMTIER_BENCH_DIR names the file system.
func BenchmarkCheckpoint(b *testing.B) {
	memories := 1_000_000
	if testing.Short() {
		memories = 100_000
	}
	root, err := os.MkdirTemp(os.Getenv("WARMTIER_BENCH_DIR"), "checkpoint-*") //nolint:usetesting // which file system
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(root)) })
	s := openDir(b, filepath.Join(root, "store"), nil)
	content := make([]byte, 1024)
	for i := range memories {
		require.NoError(b, s.Put(idOf(i), content))
	}
	require.NoError(b, s.Sync())
	var ended atomic.Bool
	var during atomic.Int64 // 1 while a checkpoint is made
	var longest [2]atomic.Int64
	load := func(call func(i int) error, pause time.Duration) <-chan error {
		done := make(chan error, 1)
		go func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for !ended.Load() {
				start, in := time.Now(), during.Load()
				if err := call(rng.IntN(memories)); err != nil {
					done <- err
					return
				}
				took := time.Since(start)
				if l := &longest[max(in, during.Load())]; int64(took) > l.Load() {
					l.Store(int64(took))
				}
				<-time.After(pause)
			}
			done <- nil
		}()
		return done
	}
	writes := load(func(i int) error { return s.Put(idOf(i), content) }, 50*time.Microsecond)
	reads := load(func(i int) error { _, err := s.Get(idOf(i)); return err }, 50*time.Microsecond)
	<-time.After(2 * time.Second)
	for b.Loop() {
		during.Store(1)
		require.NoError(b, s.Checkpoint(context.Background(), filepath.Join(root, "copy")))
		during.Store(0)
		b.StopTimer()
		require.NoError(b, os.RemoveAll(filepath.Join(root, "copy")))
		<-time.After(100 * time.Millisecond)
		b.StartTimer()
	}
	ended.Store(true)
	require.NoError(b, <-writes)
	require.NoError(b, <-reads)
	b.ReportMetric(float64(longest[1].Load())/1e6, "ms/longest-call")
	b.ReportMetric(float64(longest[0].Load())/1e6, "ms/longest-call-without")
	require.NoError(b, s.Close())
}
