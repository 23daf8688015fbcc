package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/warmtier/warmtier"
)

// minute is a measurement over time: goroutines overwrite random memories without a pause, while
// another one samples how many, and the resident memory.
type minute struct {
	*child
	ids  string // of all memories, back to back
	stop atomic.Bool
}

// minuteWorker is one goroutine of a minute.
type minuteWorker struct {
	*minute
	random  *rand.Rand
	latency *hdrhistogram.Histogram
	err     error

	puts atomic.Int64 // written by this worker alone, now and then
	_    [120]byte    // keeps puts of two workers apart: sharing a cache line would be measured
}

// minute measures w.Samples turns in a row. Samples of the reply are Puts per second, and Hits is the
// share of memories that the store holds afterwards, all of them unless it is a ring.
func (c *child) minute(w workload) (reply, error) {
	m := &minute{child: c}
	ids := make([]byte, 0, c.contents.N*idLen)
	for i := range c.contents.N {
		ids = appendID(ids, i)
	}
	m.ids = string(ids)
	runtime.GC() // ids
	resetPeak()
	workers, before := make([]*minuteWorker, w.Goroutines), processorTime()
	var wg sync.WaitGroup
	for g := range workers {
		workers[g] = &minuteWorker{minute: m, random: rand.New(rand.NewPCG(1, uint64(g))),
			latency: hdrhistogram.New(1, int64(longestTurn), 3)}
		wg.Go(workers[g].loop)
	}
	r := m.sample(w, workers)
	m.stop.Store(true)
	wg.Wait()
	used, puts := processorTime()-before, int64(0)
	latency := hdrhistogram.New(1, int64(longestTurn), 3)
	for _, wk := range workers {
		if wk.err != nil {
			return reply{}, wk.err
		}
		latency.Merge(wk.latency)
		puts += wk.puts.Load()
	}
	r.Extra = map[string]float64{
		"p50-us":     float64(latency.ValueAtQuantile(50)) / 1e3,
		"p99.9-us":   float64(latency.ValueAtQuantile(99.9)) / 1e3,
		"max-us":     float64(latency.Max()) / 1e3,
		"room-bytes": float64(m.room()),
		"peak-bytes": max(peak(), r.Series["resident-bytes"][len(r.Samples)-1]),
	}
	if used > 0 {
		r.Extra[processorTimeUnit] = float64(used) / float64(puts)
	}
	if p, ok := c.peer.(interface{ Stats() warmtier.Stats }); ok {
		r.Extra["compactions"] = float64(p.Stats().Compactions)
	}
	var err error
	r.Hits, err = m.held()
	return r, err
}

// sample takes a sample at the end of each turn.
func (m *minute) sample(w workload, workers []*minuteWorker) reply {
	r := reply{Series: map[string][]float64{}}
	ticker := time.NewTicker(w.Turn)
	defer ticker.Stop()
	last, lastPuts := time.Now(), int64(0)
	for range w.Samples {
		<-ticker.C
		now, puts := time.Now(), int64(0)
		for _, wk := range workers {
			puts += wk.puts.Load()
		}
		r.Samples = append(r.Samples, float64(puts-lastPuts)/now.Sub(last).Seconds())
		r.Series["resident-bytes"] = append(r.Series["resident-bytes"], float64(resident(false)))
		last, lastPuts = now, puts
	}
	return r
}

func (wk *minuteWorker) loop() {
	put := putter(wk.peer)
	for puts := int64(0); !wk.stop.Load(); {
		for range 16 {
			i := wk.random.IntN(wk.contents.N)
			id, content := wk.ids[i*idLen:(i+1)*idLen], wk.contents.of(i)
			start := time.Now()
			err := put(id, content)
			_ = wk.latency.RecordValue(int64(time.Since(start))) // a longer one would end the run
			if err != nil {
				wk.err = fmt.Errorf("writing %q: %w", id, err)
				return
			}
		}
		puts += 16
		wk.puts.Store(puts)
	}
}

// held reads everything, and returns the share of memories that are there.
func (m *minute) held() (float64, error) {
	buf := make([]byte, 0, m.contents.largest())
	found := 0
	for i := range m.contents.N {
		id := m.ids[i*idLen : (i+1)*idLen]
		content, ok, err := m.peer.get(buf, id)
		if err != nil {
			return 0, fmt.Errorf("reading %q: %w", id, err)
		}
		if !ok {
			continue
		}
		if !bytes.Equal(content, m.contents.of(i)) {
			return 0, fmt.Errorf("reading %q: another content", id)
		}
		found++
	}
	if found < m.contents.N && m.kind.ring == nil {
		return 0, fmt.Errorf("holds %d memories of %d", found, m.contents.N)
	}
	return float64(found) / float64(m.contents.N), nil
}

// room returns how much memory the store was given, bytes; 0 where it takes what it needs.
func (m *minute) room() int64 {
	if m.kind.ring != nil {
		return m.kind.ring(m.contents)
	}
	if _, ok := m.peer.(freecachePeer); ok {
		return freecacheRoom(m.contents)
	}
	return 0
}

// resetPeak makes peak start again from the resident memory of this moment, where the system can.
func resetPeak() {
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // the peak is then that of filling, too
}

// peak returns the kernel's own peak of the resident memory, with no sampling; 0 where that is unknown.
func peak() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kb); n == 1 {
			return kb * 1024
		}
	}
	return 0
}
