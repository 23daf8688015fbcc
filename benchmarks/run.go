package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// workload is what one turn does.
type workload struct {
	IDs        string // order of ids, see newStream; for a limit: its name
	Limit      int    // bytes of memory that measuring a limit may take
	WriteEvery int    // one call in so many is a Put: 0 none, 1 all
	Operations int    // of go-ycsb's client
	Goroutines int
	Turn       time.Duration // at least; one that overwrites continues to the end of a compaction
	Samples    int           // of a minute, each of them a Turn long
	Latency    bool          // time each read
	Miss       bool          // no read may find anything
	Strict     bool          // each read must find something, of the right length
}

// processorTimeUnit is the unit of processor time per call, background work of the peer included.
const processorTimeUnit = "processor-ns/call"

// longestTurn bounds a turn that waits for the end of a compaction.
const longestTurn = 60 * time.Second

// maintainer is a peer whose compactions run where the harness says, in the measured loop.
type maintainer interface {
	maintain() (compacted bool, moved int64, err error)
}

// turn is one measurement: some workers, until they are told to stop.
type turn struct {
	*child
	workload
	stream  *stream
	cycles  maintainer // nil when there is nothing to compact in the loop
	due     atomic.Bool
	stop    atomic.Bool
	elapsed time.Duration
	used    time.Duration // processor time, of all threads
}

// worker is one goroutine of a turn. What it counts is its own: shared counters would be measured.
type worker struct {
	*turn
	pos        int
	toWrite    int // calls until the next Put
	toMaintain int // Puts until the next look at fragmentation
	buf        []byte
	put        func(id string, content []byte) error
	reads      int64
	writes     int64
	hits       int64
	moved      int64
	compacted  int64
	latency    *hdrhistogram.Histogram
	err        error
}

// run measures one turn. Value of the reply is wall time over calls, all goroutines together, ns.
func (c *child) run(w workload) (reply, error) {
	st, err := c.stream(w.IDs)
	if err != nil {
		return reply{}, err
	}
	if err := c.warmUp(w, st); err != nil {
		return reply{}, err
	}
	t := c.newTurn(w, st)
	workers, err := t.measure()
	if err != nil {
		return reply{}, err
	}
	return t.sum(workers), nil
}

func (c *child) newTurn(w workload, st *stream) *turn {
	t := &turn{child: c, workload: w, stream: st}
	if m, ok := c.peer.(maintainer); ok && w.WriteEvery > 0 && !c.contents.Background && !c.contents.Sync {
		t.cycles = m
	}
	return t
}

// warmUp fills the processor's caches again after the turns of others. Before the first overwriting
// turn it also brings the store into its steady state: a ring is full, warmtier has just compacted.
// Turns that overwrite end with a compaction, so the steady state lasts until the next one begins.
func (c *child) warmUp(w workload, st *stream) error {
	if w.WriteEvery == 0 {
		w.Turn /= 5
		_, err := c.newTurn(w, st).measure()
		return err
	}
	if c.settled || w.Latency {
		return nil
	}
	c.settled = true
	w.WriteEvery, w.Strict = 1, false
	if c.kind.ring != nil {
		record := c.contents.bytes() / int64(c.contents.N)
		for i := range int(c.kind.ring(c.contents) / record) {
			pos := i % len(st.memory)
			if err := c.peer.put(st.id(pos), c.contents.of(int(st.memory[pos]))); err != nil {
				return err
			}
		}
	}
	_, err := c.newTurn(w, st).measure()
	return err
}

func (t *turn) measure() ([]*worker, error) {
	workers := make([]*worker, t.Goroutines)
	for g := range workers {
		workers[g] = &worker{
			turn:       t,
			pos:        g * len(t.stream.memory) / t.Goroutines,
			toWrite:    t.WriteEvery,
			toMaintain: t.maintainEvery(),
			buf:        make([]byte, 0, t.contents.largest()),
			put:        putter(t.peer),
		}
		if t.Latency {
			workers[g].latency = hdrhistogram.New(1, int64(longestTurn), 3)
		}
	}
	timer := time.AfterFunc(t.Turn, func() {
		t.due.Store(true)
		if t.cycles == nil {
			t.stop.Store(true)
		}
	})
	defer timer.Stop()
	last := time.AfterFunc(longestTurn, func() { t.stop.Store(true) })
	defer last.Stop()
	var wg sync.WaitGroup
	start, used := time.Now(), processorTime()
	for _, wk := range workers {
		wg.Go(wk.loop)
	}
	wg.Wait()
	t.elapsed, t.used = time.Since(start), processorTime()-used
	for _, wk := range workers {
		if wk.err != nil {
			return nil, wk.err
		}
	}
	if t.cycles != nil && t.elapsed >= longestTurn {
		return nil, fmt.Errorf("no compaction ended within %v", longestTurn)
	}
	return workers, nil
}

// maintainEvery returns how many Puts of one worker lie between two looks at the fragmentation
// ratio: in that time all workers together make an eighth of the dead bytes that are allowed.
func (t *turn) maintainEvery() int {
	threshold := t.contents.Threshold
	if threshold == 0 {
		threshold = defaultThreshold
	}
	return max(64, int(float64(t.contents.N)*threshold/8)/t.Goroutines)
}

func (wk *worker) loop() {
	for {
		for range 16 {
			if wk.err = wk.step(); wk.err != nil {
				wk.stop.Store(true)
				return
			}
		}
		if wk.stop.Load() { // asked at the end, so that no turn is without a call
			return
		}
	}
}

func (wk *worker) step() error {
	i, id := int(wk.stream.memory[wk.pos]), wk.stream.id(wk.pos)
	if wk.pos++; wk.pos == len(wk.stream.memory) {
		wk.pos = 0
	}
	if wk.toWrite--; wk.toWrite == 0 {
		wk.toWrite = wk.WriteEvery
		return wk.write(i, id)
	}
	return wk.read(i, id)
}

func (wk *worker) read(i int, id string) error {
	var start time.Time
	if wk.latency != nil {
		start = time.Now()
	}
	content, found, err := wk.peer.get(wk.buf, id)
	if wk.latency != nil {
		_ = wk.latency.RecordValue(int64(time.Since(start))) // none is longer than the turn
	}
	wk.reads++
	switch {
	case err != nil:
		return fmt.Errorf("reading %q: %w", id, err)
	case found:
		wk.hits++
	}
	if wk.Strict && (!found || len(content) != wk.contents.size(i)) || wk.Miss && found {
		return fmt.Errorf("reading %q: found %v, %d bytes", id, found, len(content))
	}
	return nil
}

func (wk *worker) write(i int, id string) error {
	wk.writes++
	if err := wk.put(id, wk.contents.of(i)); err != nil {
		return fmt.Errorf("writing %q: %w", id, err)
	}
	if wk.cycles == nil {
		return nil
	}
	if wk.toMaintain--; wk.toMaintain > 0 {
		return nil
	}
	wk.toMaintain = wk.maintainEvery()
	compacted, moved, err := wk.cycles.maintain()
	wk.moved += moved
	if compacted {
		wk.compacted++
	}
	if wk.due.Load() && (compacted || wk.owesNothing()) {
		wk.stop.Store(true)
	}
	return err
}

// owesNothing reports whether so many memories were overwritten without a compaction that none is to be expected: of
// ids that are written in the same order over and over whole segments die, and leave by themselves. A store of a few
// segments compacts less often.
func (wk *worker) owesNothing() bool {
	return wk.compacted == 0 && wk.writes*int64(wk.Goroutines) >= max(100_000, 2*int64(wk.contents.N))
}

func (t *turn) sum(workers []*worker) reply {
	var all worker
	histogram := hdrhistogram.New(1, int64(longestTurn), 3)
	for _, wk := range workers {
		all.reads += wk.reads
		all.writes += wk.writes
		all.hits += wk.hits
		all.moved += wk.moved
		all.compacted += wk.compacted
		if wk.latency != nil {
			histogram.Merge(wk.latency)
		}
	}
	calls := float64(all.reads + all.writes)
	r := reply{Value: float64(t.elapsed) / calls, Hits: 1, Extra: map[string]float64{}}
	if t.used > 0 {
		r.Extra[processorTimeUnit] = float64(t.used) / calls
	}
	if all.reads > 0 {
		r.Hits = float64(all.hits) / float64(all.reads)
	}
	if t.cycles != nil {
		r.Extra["compactions"] = float64(all.compacted)
		r.Extra["moved-per-put"] = float64(all.moved) / float64(all.writes)
	}
	if t.Latency {
		r.Extra["p99.9-us"] = float64(histogram.ValueAtQuantile(99.9)) / 1e3
		r.Extra["max-us"] = float64(histogram.Max()) / 1e3
		r.Extra["resident-bytes"] = float64(resident(false))
		if p, ok := t.peer.(warmtierPeer); ok {
			st := p.Stats()
			r.Extra["fragmentation"] = st.FragmentationRatio
			r.Extra["total-bytes"] = float64(st.TotalBytes)
			r.Extra["live-bytes"] = float64(st.LiveBytes)
			r.Extra["compactions"] = float64(st.Compactions)
		}
	}
	return r
}

// replay asks an empty store for the memories of a trace, and stores those it misses. Value of the
// reply is wall time over requests, ns.
func (c *child) replay(w workload) (reply, error) {
	st, err := c.stream(w.IDs)
	if err != nil {
		return reply{}, err
	}
	if err := c.peer.close(); err != nil {
		return reply{}, err
	}
	if c.peer, err = c.kind.open(c.contents, c.dir); err != nil {
		return reply{}, err
	}
	buf := make([]byte, 0, c.contents.largest())
	hits := 0
	start := time.Now()
	for pos, i := range st.memory {
		id := st.id(pos)
		_, found, err := c.peer.get(buf, id)
		if err != nil {
			return reply{}, err
		}
		if found {
			hits++
		} else if err := c.peer.put(id, c.contents.of(int(i))); err != nil {
			return reply{}, err
		}
	}
	elapsed := time.Since(start)
	n := float64(len(st.memory))
	return reply{Value: float64(elapsed) / n, Hits: float64(hits) / n}, nil
}
