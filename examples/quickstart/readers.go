package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
)

// readers read random memories until they are stopped, check each content, and take its time.
type readers struct {
	store    *warmtier.Store
	memories []*memory
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu         sync.Mutex // guards what follows while readers run
	latencies  latencies
	wrong      int
	firstWrong error
}

func startReaders(ctx context.Context, store *warmtier.Store, memories []*memory) *readers {
	r := &readers{store: store, memories: memories}
	ctx, r.cancel = context.WithCancel(ctx)
	for range max(1, runtime.GOMAXPROCS(0)/2) { // the other half is for writing and compacting
		r.running.Go(func() { r.read(ctx) })
	}
	return r
}

// stop ends the reading; what the readers saw can be looked at after it.
func (r *readers) stop() {
	r.cancel()
	r.running.Wait()
}

// yieldEvery is after how many calls readers and the writer offer their processor to others. One
// that never did would be stopped in the middle of a call every 10 ms, and take the wait for
// latency.
const yieldEvery = 64

// read is one reader.
func (r *readers) read(ctx context.Context) {
	var buf []byte
	var taken latencies
	for n := 0; ctx.Err() == nil; n++ {
		if n%yieldEvery == 0 {
			runtime.Gosched()
		}
		m := r.memories[rand.IntN(len(r.memories))]
		oldest := m.done.Load()
		start := time.Now()
		content, err := r.store.AppendContent(buf[:0], m.id)
		taken.add(time.Since(start))
		r.check(m, oldest, m.begun.Load(), content, err)
		buf = content
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latencies.merge(&taken)
}

// check compares the result of a read with the versions it may have seen.
func (r *readers) check(m *memory, oldest, newest uint32, content []byte, err error) {
	saw := absent
	if err == nil {
		saw = digestOf(content)
	}
	if (err == nil || errors.Is(err, warmtier.ErrNotFound)) && m.had(saw, oldest, newest) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong++
	if r.firstWrong != nil {
		return
	}
	if err == nil {
		err = fmt.Errorf("wrong content of %d bytes", len(content))
	}
	r.firstWrong = fmt.Errorf("%s is none of its versions %d to %d: %w", m.id, oldest, newest, err)
}

// verdict returns an error when any read was wrong. The readers must have been stopped.
func (r *readers) verdict() error {
	if r.wrong > 0 {
		return fmt.Errorf("%d wrong reads, the first: %w", r.wrong, r.firstWrong)
	}
	return nil
}

// latencies counts durations in classes: 32 for each power of two, so a percentile is off by 3 % at most.
type latencies struct {
	counts  [64 * 32]int64
	n       int64
	longest time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.counts[class(d)]++
	l.n++
	l.longest = max(l.longest, d)
}

func (l *latencies) merge(other *latencies) {
	for i, n := range other.counts {
		l.counts[i] += n
	}
	l.n += other.n
	l.longest = max(l.longest, other.longest)
}

// class returns d itself below 64 ns, above it the power of two followed by the next five bits.
func class(d time.Duration) int {
	ns := uint64(max(0, d))
	shift := max(0, bits.Len64(ns)-6)
	return shift*32 + int(ns>>shift)
}

// percentile returns the lower end of the class that holds the p-th (0 to 1) of all durations.
func (l *latencies) percentile(p float64) time.Duration {
	rank := int64(p * float64(l.n))
	for i, n := range l.counts {
		if rank < n {
			shift := max(0, i/32-1)
			return time.Duration(i-shift*32) << shift
		}
		rank -= n
	}
	return l.longest
}
