package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/warmtier/warmtier"
)

// snapshot is the store at one moment.
type snapshot struct {
	warmtier.Stats
	resident string
}

// takeSnapshot first reduces the Go heap to what is in use: the resident memory should say what the
// store takes, not how much garbage parsing has left.
func takeSnapshot(store *warmtier.Store) snapshot {
	debug.FreeOSMemory()
	return snapshot{Stats: store.Stats(), resident: residentMemory()}
}

// residentMemory returns the resident set of this process, "unknown" where the system has no such
// file.
func residentMemory() string {
	statm, _ := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return "unknown"
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return "unknown"
	}
	return mib(pages * int64(os.Getpagesize()))
}

// report holds what the program prints at the end.
type report struct {
	dir                        string
	loaded, changed, compacted snapshot
	quiet, during              *readers                   // without, and with compactions running
	compactions                []warmtier.CompactionStats // at least one
	bounded                    bounded
}

// print writes the tables to out.
func (r *report) print(out io.Writer) error {
	if _, err := fmt.Fprintf(out, "The Go source below %s, one memory per declaration:\n\n", r.dir); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	line(w, "", "loaded", "before compaction", "after")
	figure := func(name string, of func(snapshot) string) {
		line(w, name, of(r.loaded), of(r.changed), of(r.compacted))
	}
	figure("memories", func(s snapshot) string { return thousands(int64(s.Memories)) })
	figure("total bytes", func(s snapshot) string { return mib(s.TotalBytes) })
	figure("live bytes", func(s snapshot) string { return mib(s.LiveBytes) })
	figure("dead bytes", func(s snapshot) string { return mib(s.DeadBytes) })
	figure("fragmentation", func(s snapshot) string { return fmt.Sprintf("%.1f %%", 100*s.FragmentationRatio) })
	figure("index", func(s snapshot) string { return mib(s.IndexBytes) })
	figure("resident memory, Go heap included", func(s snapshot) string { return s.resident })
	if err := w.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w)
	quiet, during := &r.quiet.latencies, &r.during.latencies
	line(w, "", "no compaction", "compacting")
	line(w, "reads compared", thousands(quiet.n), thousands(during.n))
	latency := func(name string, of func(*latencies) time.Duration) {
		line(w, "read latency "+name, short(of(quiet)), short(of(during)))
	}
	latency("p50", func(l *latencies) time.Duration { return l.percentile(0.50) })
	latency("p99", func(l *latencies) time.Duration { return l.percentile(0.99) })
	latency("p99.9", func(l *latencies) time.Duration { return l.percentile(0.999) })
	latency("max", func(l *latencies) time.Duration { return l.longest })
	if err := w.Flush(); err != nil {
		return err
	}
	if err := r.printCompactions(out); err != nil {
		return err
	}
	return r.bounded.describe(out)
}

// line writes one line of a table: its name to the left, its figures to the right.
func line(w io.Writer, name string, figures ...string) {
	fmt.Fprint(w, name)
	for _, figure := range figures {
		fmt.Fprintf(w, "\t%17s", figure)
	}
	fmt.Fprintln(w)
}

// printCompactions sums up the compactions. The first one found all that was dead by then, each
// later one what the writer had left since.
func (r *report) printCompactions(out io.Writer) error {
	first := r.compactions[0]
	var pause time.Duration
	var superseded int64
	for _, c := range r.compactions {
		pause = max(pause, c.MaxSwapPause)
		superseded += c.MemoriesSuperseded
	}
	_, err := fmt.Fprintf(out, `
first compaction: %s, %d rounds, %s memories moved, %s given back
all %d compactions: write lock held for at most %s, %s memories superseded on the way
wrong reads: %d
`,
		short(first.Duration), first.Rounds, thousands(first.MemoriesMoved),
		mib(first.BytesReclaimed), len(r.compactions), short(pause), thousands(superseded), r.quiet.wrong+r.during.wrong)
	return err
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// short returns d with one decimal.
func short(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
	}
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// thousands returns n, not negative, with a comma before every three digits.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// progress tells a human what is happening: on a terminal in one line that is redrawn, elsewhere in
// one line for each step.
type progress struct {
	w        io.Writer
	terminal bool

	mu          sync.Mutex
	step        string
	done, total int
	drawn       time.Time
}

func newProgress(f *os.File) *progress {
	info, err := f.Stat()
	return &progress{w: f, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// begin ends the step before and begins one of total parts.
func (p *progress) begin(step string, total int) {
	p.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.done, p.total = step, 0, total
	if !p.terminal {
		fmt.Fprintln(p.w, step)
	}
}

// add counts a part of the step as done, and draws them ten times a second.
func (p *progress) add() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	if p.terminal && time.Since(p.drawn) > 100*time.Millisecond {
		p.drawn = time.Now()
		p.draw()
	}
}

// end leaves the line of the step as it is.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.step != "" {
		p.draw()
		fmt.Fprintln(p.w)
	}
	p.step = ""
}

// draw replaces the line. REQUIRES: p.mu held.
func (p *progress) draw() {
	fmt.Fprintf(p.w, "\r\x1b[K%s: %d %%", p.step, 100*p.done/max(1, p.total))
}
