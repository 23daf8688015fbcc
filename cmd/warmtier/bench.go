package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/warmtier/warmtier"
)

type benchCmd struct {
	Workload     string        `enum:"a,b,c,d,e,f,churn" default:"a" help:"${enum}: those of YCSB, or half updates and a quarter deletions."`
	Distribution string        `enum:"auto,zipf,uniform,latest" default:"auto" help:"Of ids: ${enum}. auto is zipf, and latest for d."`
	Memories     int64         `default:"100000" placeholder:"N" help:"Loaded before (${default})."`
	Size         sizeRange     `default:"256" placeholder:"BYTES" help:"Of contents (${default}), or a range as in 100-10KiB."`
	Duration     time.Duration `default:"10s" help:"Of the measurement (${default})."`
	Rate         float64       `placeholder:"N" help:"Operations a second, begun on schedule; default: as fast as it goes."`
	Goroutines   int           `placeholder:"N" help:"Default: one for each processor."`
	CompactEvery time.Duration `placeholder:"INTERVAL" help:"Compact all the time, with this pause; default: as maintenance decides."`
	In           string        `type:"path" placeholder:"DIR" help:"New directory for the store; default: memory."`
	SegmentSize  byteSize      `placeholder:"BYTES" help:"Size that segments grow to; default: 32MiB, less with --max-bytes."`
	MaxBytes     byteSize      `placeholder:"BYTES" help:"Bound of the store, as in 512MiB; writes wait for compactions. Default: none."`
	Seed         uint64        `default:"1" help:"Same seed, same operations (${default})."`
	Hdr          string        `type:"path" placeholder:"FILE" help:"Write the corrected percentiles of all operations, as HdrHistogram's plotter reads them."`
}

func (benchCmd) Help() string {
	return `Examples:
  warmtier bench --workload churn --compact-every 1s
  warmtier bench --workload b --memories 1000000 --rate 200000 --duration 30s --hdr b.hgrm
  warmtier bench --in /mnt/disk/bench --size 100-10KiB
  warmtier bench --workload a --max-bytes 64MiB --duration 1m
Latencies are those that were measured. With --rate they count from the moment at which the operation was due;
without, the last column and --hdr also count the operations that one which took longer than usual has held up
(corrected for coordinated omission).`
}

// Bounds of what a run is asked for: beyond them it would not begin within minutes, or not at all.
const (
	maxBenchMemories   = 1_000_000_000
	maxBenchGoroutines = 100_000
)

// bench is one run of the benchmark.
type bench struct {
	c        *benchCmd
	s        *warmtier.Store
	w        *workload
	content  []byte // contents are parts of it
	deadline time.Time

	notFound    atomic.Int64
	compactions int
	compaction  time.Duration // of all compactions
}

// lane is one goroutine of a run.
type lane struct {
	b       *bench
	rng     *rand.Rand
	hist    [operations]*hdrhistogram.Histogram // nanoseconds
	buf     []byte
	ops     int64
	behind  time.Duration // the most that an operation began late, with a rate
	started time.Time
}

func (c *benchCmd) Run(a *app) error {
	if c.Goroutines == 0 {
		c.Goroutines = runtime.GOMAXPROCS(0)
	}
	if c.Memories < 1 || c.Goroutines < 1 || c.Duration <= 0 || !(c.Rate >= 0) || c.CompactEvery < 0 { // NaN is not
		return usage("--memories, --goroutines and --duration must be more than 0, --rate and --compact-every no less")
	}
	if c.Memories > maxBenchMemories || c.Goroutines > maxBenchGoroutines || c.Size.most > warmtier.MaxContentLen {
		return usage("at most %d --memories, %d --goroutines and %d bytes of --size",
			maxBenchMemories, maxBenchGoroutines, warmtier.MaxContentLen)
	}
	if c.In != "" {
		if entries, err := os.ReadDir(c.In); err == nil && len(entries) > 0 {
			return usage("%s is not empty: a benchmark needs a new directory", c.In)
		}
	}
	s, err := warmtier.Open(c.In, &warmtier.Options{
		SegmentSize: int(c.SegmentSize), MaxBytes: int64(c.MaxBytes), Logger: a.log,
		Maintenance: warmtier.MaintenanceOptions{Disabled: c.CompactEvery > 0}})
	if err != nil {
		return flagError(err)
	}
	b := &bench{c: c, s: s, w: newWorkload(c.Workload, c.Distribution, c.Memories),
		content: make([]byte, max(c.Size.most, 1))}
	return errors.Join(b.run(a), s.Close())
}

func (b *bench) run(a *app) error {
	fill := rand.NewChaCha8([32]byte(binary.LittleEndian.AppendUint64(make([]byte, 24), b.c.Seed)))
	_, _ = fill.Read(b.content) // never fails
	if err := b.load(a); err != nil {
		return err
	}
	bar := a.progress("measuring", b.c.Duration.Milliseconds(), unitTime)
	defer bar.end()
	ctx, stop := context.WithCancel(a.ctx)
	compacted := make(chan error, 1)
	go func() { compacted <- b.compactLoop(ctx) }()

	start := time.Now()
	b.deadline = start.Add(b.c.Duration)
	lanes := make([]*lane, b.c.Goroutines)
	failed := make(chan error, len(lanes))
	for i := range lanes {
		lanes[i] = &lane{b: b, started: start, rng: rand.New(rand.NewPCG(b.c.Seed, uint64(i)))}
		for op := range lanes[i].hist {
			lanes[i].hist[op] = newHistogram()
		}
		go func() { failed <- lanes[i].run(a.ctx, i) }()
	}
	var err error
	for range lanes {
		err = errors.Join(err, <-failed)
	}
	took := time.Since(start)
	stop()
	if err = errors.Join(err, <-compacted); err != nil {
		return err
	}
	return b.report(a, lanes, took)
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Hour), 3)
}

func (b *bench) load(a *app) error {
	bar := a.progress("loading", b.c.Memories, unitMemories)
	defer bar.end()
	rng := rand.New(rand.NewPCG(b.c.Seed, 1<<32))
	var id []byte
	for i := range b.c.Memories {
		id = appendBenchID(id[:0], i)
		if err := errors.Join(a.ctx.Err(), b.s.Put(string(id), b.newContent(rng))); err != nil {
			return err
		}
		bar.add(1)
	}
	return nil
}

func appendBenchID(b []byte, n int64) []byte { return fmt.Appendf(b, "user%012d", n) }

// newContent returns a part of content, which was filled with random bytes once: that takes longer
// than a Put.
func (b *bench) newContent(rng *rand.Rand) []byte { return b.content[:b.c.Size.choose(rng)] }

// compactLoop runs one compaction after another until ctx ends.
func (b *bench) compactLoop(ctx context.Context) error {
	for b.c.CompactEvery > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(b.c.CompactEvery):
		}
		st, err := b.s.Compact(ctx)
		switch {
		case err == nil:
			b.compactions++
			b.compaction += st.Duration
		case ctx.Err() == nil: // it was not cut short
			return err
		}
	}
	return nil
}

// run works until the deadline. With a rate, the time at which operation n of this lane is due was
// fixed beforehand, however long earlier operations take.
func (l *lane) run(ctx context.Context, number int) error {
	interval := time.Duration(0)
	due := l.started
	if l.b.c.Rate > 0 {
		lanes := float64(l.b.c.Goroutines)
		// A rate so low that the next operation would be due in years is one that is never due.
		interval = time.Duration(min(lanes/l.b.c.Rate*float64(time.Second), 1<<62))
		due = due.Add(time.Duration(float64(interval) * float64(number) / lanes))
	}
	for now := time.Now(); now.Before(l.b.deadline); {
		if interval > 0 {
			if !due.Before(l.b.deadline) {
				return nil
			}
			if err := waitUntil(ctx, due); err != nil {
				return err
			}
			now = due
		} else if l.ops%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		op := l.b.w.operation(l.rng)
		if err := l.do(op); err != nil {
			return err
		}
		end := time.Now()
		if err := l.hist[op].RecordValue(int64(end.Sub(now))); err != nil {
			return err
		}
		l.ops++
		if interval > 0 {
			due = due.Add(interval)
			l.behind = max(l.behind, end.Sub(due))
		}
		now = end
	}
	return nil
}

// spinBelow bounds how late a timer may be: the rest is waited for by looking at the clock.
const spinBelow = 200 * time.Microsecond

func waitUntil(ctx context.Context, due time.Time) error {
	if rest := time.Until(due); rest > spinBelow {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rest - spinBelow):
		}
	}
	for time.Now().Before(due) {
		runtime.Gosched()
	}
	return nil
}

func (l *lane) do(op operation) (err error) {
	b := l.b
	var idBytes [32]byte
	id := func() string { return string(appendBenchID(idBytes[:0], b.w.choose(l.rng))) }
	switch op {
	case opRead:
		l.buf, err = b.s.AppendContent(l.buf[:0], id())
	case opUpdate:
		err = b.s.Put(id(), b.newContent(l.rng))
	case opInsert:
		n := b.w.memories.Load()
		if err = b.s.Put(string(appendBenchID(idBytes[:0], n)), b.newContent(l.rng)); err == nil {
			b.w.memories.CompareAndSwap(n, n+1)
		}
	case opDelete:
		_, err = b.s.Delete(id())
	case opScan:
		n := 0
		for range b.s.All() {
			if n++; n == scanLength {
				break
			}
		}
	case opModify:
		chosen := id()
		if l.buf, err = b.s.AppendContent(l.buf[:0], chosen); err == nil {
			err = b.s.Put(chosen, l.buf)
		}
	}
	if errors.Is(err, warmtier.ErrNotFound) { // deleted before: an answer like any other
		b.notFound.Add(1)
		return nil
	}
	return err
}

// corrected adds what a closed loop has not seen: while one operation took long, others would have
// come at the usual interval, and would have waited for it. With a rate there is nothing to add.
func corrected(h *hdrhistogram.Histogram, interval int64) *hdrhistogram.Histogram {
	out := newHistogram()
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		_ = out.RecordValues(bar.To, bar.Count) // it came out of a histogram of this size
		if interval > 0 {
			for missed := bar.To - interval; missed >= interval; missed -= interval {
				_ = out.RecordValues(missed, bar.Count)
			}
		}
	}
	return out
}

// latencies is one line of the report.
type latencies struct {
	Operation string  `json:"operation"`
	Count     int64   `json:"count"`
	P50       float64 `json:"p50_seconds"`
	P90       float64 `json:"p90_seconds"`
	P99       float64 `json:"p99_seconds"`
	P999      float64 `json:"p999_seconds"`
	P9999     float64 `json:"p9999_seconds"`
	Max       float64 `json:"max_seconds"`
	Corrected float64 `json:"p999_corrected_seconds"`
}

func newLatencies(name string, raw, corrected *hdrhistogram.Histogram) latencies {
	at := func(q float64) float64 { return float64(raw.ValueAtQuantile(q)) / 1e9 }
	return latencies{Operation: name, Count: raw.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9),
		P9999: at(99.99), Max: float64(raw.Max()) / 1e9, Corrected: float64(corrected.ValueAtQuantile(99.9)) / 1e9}
}

func (b *bench) report(a *app, lanes []*lane, took time.Duration) error {
	var ops int64
	var behind time.Duration
	for _, l := range lanes {
		ops += l.ops
		behind = max(behind, l.behind)
	}
	interval := int64(0)
	if b.c.Rate == 0 {
		interval = max(1, int64(took)*int64(len(lanes))/max(1, ops))
	}
	table := [][]string{{"operation", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max", "p99.9 corrected"}}
	list := []latencies{}
	all := newHistogram()
	for op := range operations {
		raw := newHistogram()
		for _, l := range lanes {
			raw.Merge(l.hist[op])
		}
		if raw.TotalCount() == 0 {
			continue
		}
		h := corrected(raw, interval)
		all.Merge(h)
		line := newLatencies(operationNames[op], raw, h)
		list = append(list, line)
		row := []string{line.Operation, showCount(line.Count)}
		for _, seconds := range []float64{line.P50, line.P90, line.P99, line.P999, line.P9999, line.Max, line.Corrected} {
			row = append(row, showDuration(time.Duration(seconds*1e9)))
		}
		table = append(table, row)
	}
	if b.c.Hdr != "" {
		err := writeOutput(a.ctx, b.c.Hdr, func(w io.Writer) error { return writePercentiles(w, all) })
		if err != nil {
			return err
		}
	}
	return b.print(a, ops, took, behind, list, table)
}

// writePercentiles writes the percentiles of h in microseconds.
func writePercentiles(w io.Writer, h *hdrhistogram.Histogram) error {
	buffered := bufio.NewWriter(w)
	if _, err := h.PercentilesPrint(buffered, 5, 1e3); err != nil {
		return err
	}
	return buffered.Flush()
}

func (b *bench) print(a *app, ops int64, took, behind time.Duration, list []latencies, table [][]string) error {
	st := b.s.Stats()
	throughput := float64(ops) / took.Seconds()
	if a.json {
		return writeJSON(a.out, map[string]any{
			"workload": b.c.Workload, "distribution": b.w.dist, "memories": b.w.memories.Load(),
			"goroutines": b.c.Goroutines, "rate": b.c.Rate, "seconds": took.Seconds(), "operations": ops,
			"operations_per_second": throughput, "not_found": b.notFound.Load(), "latencies": list,
			"behind_seconds": behind.Seconds(), "compactions": st.Compactions,
			"compaction_seconds": b.compaction.Seconds(), "max_swap_pause_seconds": st.MaxSwapPause.Seconds(),
			"fragmentation_ratio": st.FragmentationRatio, "mapped_bytes": st.MappedBytes,
			"write_waits": st.Writes.WaitDuration.Count, "write_wait_seconds": st.Writes.WaitDuration.Sum.Seconds(),
		})
	}
	fmt.Fprintf(a.out, "workload %s, %s ids, %s of %s, %s, %s\n\n",
		b.c.Workload, b.w.dist, counted(b.w.memories.Load(), "memory"), b.c.Size, counted(b.c.Goroutines, "goroutine"),
		showDuration(took))
	if err := rows(a.out, table); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "\n%s operations a second", showCount(int64(throughput)))
	if b.c.Rate > 0 {
		fmt.Fprintf(a.out, ", %s were wanted; begun up to %s late", showCount(int64(b.c.Rate)), showDuration(max(0, behind)))
	}
	_, err := fmt.Fprintf(a.out, "\n%s, write lock held for at most %s; fragmentation %s at the end\n",
		counted(st.Compactions, "compaction"), showDuration(st.MaxSwapPause), showShare(st.FragmentationRatio))
	if w := st.Writes.WaitDuration; err == nil && w.Count > 0 {
		_, err = fmt.Fprintf(a.out, "%s waited for memory, 99 %% up to %s, the longest %s\n",
			counted(w.Count, "write"), showDuration(w.Quantile(0.99)), showDuration(w.Quantile(1)))
	}
	return err
}
