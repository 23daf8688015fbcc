package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// suite is a set of measurements that are taken together and shown as one section.
type suite struct {
	name  string
	title string
	note  string
	cells []cell
	extra bool // only run when selected
	// section is that of the document; "" is name. Suites of one section fill columns of the same tables.
	section string
}

// cell is one column of one table: a workload over a dataset, for several peers.
type cell struct {
	table   string
	column  string
	unit    string
	do      string // run, minute, replay, open, gc, limit, ycsb; series: runs that are shown one after the other
	peers   []string
	data    dataset
	work    workload
	samples int // of a series
}

func (s suite) key() string {
	if s.section != "" {
		return s.section
	}
	return s.name
}

func (c cell) request() string {
	if c.do == "series" {
		return "run"
	}
	return c.do
}

// suites returns all suites for a profile. Without a folder of traces, suites that need it are left
// out.
func suites(p profile, traces string) []suite {
	all := []suite{
		figureGet(p, "figure-get", 1_000_000), figureGet(p, "figure-cached", 10_000),
		figureWrite(p, "figure-mixed", "one write in ten", mixed10),
		figureWrite(p, "figure-put", "Put", put), figureLarge(p),
		figureMemory(p), figureGC(p),
		limitSuite(p), contentSuite(p), countSuite(p), goroutineSuite(p), directorySuite(p),
		memorySuite(p), gcSuite(p), defaultsSuite(p), millionDefaultsSuite(p), sustainedSuite(p), utilisationSuite(p),
	}
	all = append(all, ycsbSuites(p)...)
	if traces != "" {
		all = append(all, productionSuite(p, traces), traceSuite(p, traces), hitSuite(traces))
	}
	for i := range all {
		for j := range all[i].cells {
			if c := &all[i].cells[j]; c.work.Turn == 0 {
				c.work.Turn = p.turn
			}
		}
	}
	return all
}

// selectSuites returns the suites whose name begins with one of names; without names, the ordinary
// ones.
func selectSuites(all []suite, names []string) ([]suite, error) {
	var chosen []suite
	if len(names) == 0 {
		for _, s := range all {
			if !s.extra {
				chosen = append(chosen, s)
			}
		}
		return chosen, nil
	}
	for _, name := range names {
		found := false
		for _, s := range all {
			if !strings.HasPrefix(s.name, strings.TrimSuffix(name, "s")) {
				continue
			}
			found = true
			if !slices.ContainsFunc(chosen, func(c suite) bool { return c.name == s.name }) {
				chosen = append(chosen, s)
			}
		}
		if !found {
			return nil, fmt.Errorf("no suite begins with %q", name)
		}
	}
	return chosen, nil
}

// selectPeers leaves out the others.
func selectPeers(chosen []suite, names []string) {
	for _, s := range chosen {
		for i, c := range s.cells {
			s.cells[i].peers = slices.DeleteFunc(slices.Clone(c.peers), func(name string) bool {
				return !slices.Contains(names, name)
			})
		}
	}
}

// sized returns a dataset no larger than the profile allows.
func (p profile) sized(n, content int) dataset {
	return dataset{N: max(1000, min(n, p.maxN, p.maxBytes/content)), Content: content}
}

// readOnly returns d for cells that write nothing.
func readOnly(d dataset) dataset {
	d.ReadOnly = true
	return d
}

// calls returns a cell of single calls.
func calls(table, column string, peers []string, d dataset, w workload) cell {
	w.Goroutines = max(w.Goroutines, 1)
	w.Strict = w.WriteEvery == 0 && !w.Miss && d.Content > 0
	if slices.Contains(peers, "none") {
		w.Strict = false
	}
	return cell{table: table, column: column, unit: "ns/call", do: "run", peers: peers, data: d, work: w}
}

var (
	hit     = workload{IDs: "uniform"}
	hitZipf = workload{IDs: "zipf"}
	miss    = workload{IDs: "miss", Miss: true}
	put     = workload{IDs: "uniform", WriteEvery: 1}
	mixed10 = workload{IDs: "uniform", WriteEvery: 10}
	mixed50 = workload{IDs: "uniform", WriteEvery: 2}
)

func (w workload) by(goroutines int) workload {
	w.Goroutines = goroutines
	return w
}

func goroutines(n int) string {
	if n == 1 {
		return "1 goroutine"
	}
	return strconv.Itoa(n) + " goroutines"
}

func limitSuite(p profile) suite {
	s := suite{name: "limits", title: "The machine itself"}
	size := 512 << 20 // bytes, far beyond the caches
	if p.name == "tiny" {
		size = p.maxBytes
	}
	limit := func(name, which string) {
		s.cells = append(s.cells, cell{table: "Limits", column: name, unit: "ns", do: "limit",
			peers: []string{"none"}, work: workload{IDs: which, Limit: size}, data: dataset{N: 1, Content: 1}})
	}
	limit("memcpy, per KiB", "memcpy")
	limit("dependent random miss", "miss")
	limit("CRC-32C of 256 B", "crc 256 B")
	limit("of 1 KiB", "crc 1 KiB")
	limit("of 16 KiB", "crc 16 KiB")
	loop := calls("Limits", "the measuring loop, per call", []string{"none"}, dataset{N: 1000, Content: 1}, hit)
	loop.unit = "ns"
	s.cells = append(s.cells, loop)
	return s
}

func contentSuite(p profile) suite {
	s := suite{name: "contents", title: "By size of content", note: writeNote}
	for _, content := range []int{64, 256, 1 << 10, 16 << 10} {
		d := p.sized(1_000_000, content)
		peers := caches
		if content == 16<<10 {
			peers = append(slices.Clone(caches), "floor")
		}
		for _, t := range []struct {
			table string
			work  workload
		}{
			{"Get, uniform", hit}, {"Get, Zipf", hitZipf}, {"Get that finds nothing", miss},
			{"Put over old ones", put}, {"One write in ten", mixed10}, {"One write in two", mixed50},
		} {
			s.cells = append(s.cells, calls(t.table, d.String(), peers, d, t.work))
		}
	}
	return s
}

func countSuite(p profile) suite {
	s := suite{name: "counts", title: "By number of memories, 64 B each", note: writeNote}
	for i, n := range []int{10_000, 100_000, 1_000_000, 10_000_000} {
		if i > 0 && n > p.maxN {
			break
		}
		d := dataset{N: min(n, p.maxN), Content: 64}
		if n == 10_000_000 { // overwriting would need more memory than many machines have
			d.ReadOnly = true
			s.cells = append(s.cells, calls("Get, uniform", countName(d.N), caches, d, hit))
			break
		}
		s.cells = append(s.cells,
			calls("Get, uniform", countName(d.N), caches, d, hit),
			calls("Put over old ones", countName(d.N), caches, d, put))
	}
	return s
}

func goroutineSuite(p profile) suite {
	s := suite{name: "goroutines", title: "By number of goroutines, 256 B each",
		note: "Wall time over all calls: with enough processors it falls."}
	for i, n := range []int{10_000, 1_000_000} {
		d := p.sized(n, 256)
		if i > 0 && d.N <= 10_000 {
			break // not measured twice: its rings no longer hold everything
		}
		for _, w := range []struct {
			table string
			work  workload
		}{{"Get, ", hit}, {"One write in ten, ", mixed10}} {
			for _, g := range []int{1, 2, 4, 8, 16} {
				s.cells = append(s.cells, calls(w.table+d.String(), strconv.Itoa(g), caches, d, w.work.by(g)))
			}
		}
	}
	return s
}

func productionSuite(p profile, traces string) suite {
	s := suite{name: "production", title: "Sizes and popularity of a production cache", note: writeNote +
		" Contents have 31 B to 523 KB, 335 B on average; fastcache takes none over 64 KiB."}
	d := dataset{N: min(1_000_000, p.maxN, p.maxBytes/350), Sizes: "kvcache", Traces: traces}
	popular := func(w workload) workload { w.IDs = "popular"; return w }
	s.cells = append(s.cells,
		calls("Production cache", "Get", caches, d, popular(hit)),
		calls("Production cache", "one write in ten", caches, d, popular(mixed10)))
	return s
}

func traceSuite(_ profile, traces string) suite {
	d := dataset{N: 36_815, Sizes: "adapt_size.txt.gz", Traces: traces}
	return suite{name: "trace", title: "Trace of a content server", note: "66,987 requests to 36,815 " +
		"objects of up to 4.1 MB, asked of an empty store; what is missing is stored. Every object is " +
		"missing once, so 45 % hits is all there is; fastcache takes none over 64 KiB.",
		cells: []cell{{table: "Replay", column: "per request", unit: "ns", do: "replay",
			peers: caches, data: d, work: workload{IDs: "trace"}}}}
}

func directorySuite(p profile) suite {
	s := suite{name: "directories", title: "Stores in a directory", note: "Files are in the page cache. " +
		"Without a flush for each Put, all of them may lose the last moments with the power."}
	d := p.sized(min(200_000, p.maxN), 256)
	d.Directory = true
	s.cells = append(s.cells,
		calls("Get", "uniform, "+d.String(), directories, d, hit),
		calls("Get", "Zipf", directories, d, hitZipf),
		calls("Put over old ones", "not flushed", directories, d, put))
	d.N, d.Sync = min(2000, p.maxN/10), true
	s.cells = append(s.cells, calls("Put, durable", "durable", directories, d, put))
	return s
}

func memorySuite(p profile) suite {
	s := suite{name: "memory", title: "Resident memory by size of content", note: memoryNote}
	for _, content := range []int{64, 256, 1 << 10, 16 << 10} {
		d := readOnly(p.sized(1_000_000, content))
		s.cells = append(s.cells, cell{table: "Resident bytes per memory beyond id and content",
			column: d.String(), unit: "bytes", do: "open", peers: caches, data: d})
	}
	return s
}

func gcSuite(p profile) suite {
	s := suite{name: "gc", title: "A whole garbage collection by number of memories, 64 B each"}
	for i, n := range []int{1_000_000, 10_000_000} {
		if i > 0 && n > p.maxN {
			break
		}
		d := readOnly(dataset{N: min(n, p.maxN), Content: 64})
		s.cells = append(s.cells, cell{table: "runtime.GC", column: countName(d.N), unit: "µs", do: "gc",
			peers: append([]string{"none"}, caches...), data: d})
	}
	return s
}

// recordBytes returns what warmtier takes for a memory of the benchmarks: header, id, content,
// padding.
func recordBytes(content int) int { return (24 + idLen + content + 7) &^ 7 }

// defaultsSuite lets the store see to itself: nothing in the benchmark compacts, and no option is set.
func defaultsSuite(p profile) suite {
	samples := min(p.samples, 60)
	s := suite{name: "defaults", extra: true, title: "Overwriting with default options",
		note: fmt.Sprintf("Put of random memories of a full store, from two goroutines, for %d s; each Put is "+
			"timed by itself. Warmtier is opened with default options, and nothing compacts but what it does by "+
			"itself, in the time measured. One store runs after the other, so the machine's noise is between them "+
			"as well; the processor time of all threads of the process, over its Puts, is free of most of it. "+
			"Freecache overwrites in place. Fastcache is a ring, which drops what has not been overwritten "+
			"for long: with three times the live records as elsewhere, and with eight times, where it keeps nearly "+
			"everything. Resident memory is that of the whole process.", samples)}
	peers := []string{"warmtier-default", "fastcache", "fastcache-large", "freecache"}
	for _, d := range []dataset{p.sized(100_000, 1<<10), p.sized(400_000, 256)} {
		w := workload{IDs: "random", WriteEvery: 1, Goroutines: 2, Samples: samples, Turn: time.Second}
		if p.name == "tiny" {
			w.Turn = p.turn
		}
		s.cells = append(s.cells, cell{table: s.title, column: d.String(), unit: "Puts/s", do: "minute",
			peers: peers, data: d, work: w})
	}
	return s
}

// millionDefaultsSuite is defaultsSuite for more memories, with one goroutine and with two, and in batches.
func millionDefaultsSuite(p profile) suite {
	samples := min(p.samples, 20)
	s := suite{name: "million-defaults", extra: true, title: "Overwriting a million memories with default options",
		note: fmt.Sprintf("As above, for %d s each. Of batches, a Put in 64 waits for all 64.", samples)}
	d := p.sized(1_000_000, 256)
	for _, g := range []int{1, 2} {
		w := workload{IDs: "random", WriteEvery: 1, Goroutines: g, Samples: samples, Turn: time.Second}
		if p.name == "tiny" {
			w.Turn = p.turn
		}
		s.cells = append(s.cells, cell{table: s.title, column: d.String() + ", " + goroutines(g), unit: "Puts/s",
			do: "minute", peers: []string{"warmtier-default", "warmtier-defaults", "fastcache", "freecache"}, data: d,
			work: w})
	}
	return s
}

const sustainedContent = 256

func sustainedSuite(p profile) suite {
	const utilisation = 0.8
	budget := p.maxBytes
	s := suite{name: "sustained", extra: true, title: "Overwriting for minutes at 80 % of a memory budget",
		note: fmt.Sprintf("Live records fill 80 %% of %d MiB. Two goroutines, every second call a Put, and "+
			"the store's own background compaction. One sample a second.", budget>>20)}
	d := dataset{Content: sustainedContent, Background: true, N: int(utilisation*float64(budget)) /
		recordBytes(sustainedContent)}
	// The cycle begins at two thirds of the dead bytes that the budget has room for: a compaction
	// takes time, and writers do not wait for it.
	d.Threshold = (1 - utilisation) * 2 / 3
	for _, ids := range []string{"uniform", "zipf"} {
		w := workload{IDs: ids, WriteEvery: 2, Goroutines: 2, Turn: time.Second, Latency: true, Strict: true}
		if p.name == "tiny" {
			w.Turn = p.turn
		}
		s.cells = append(s.cells, cell{table: "Sustained", column: ids, unit: "ns/call", do: "series",
			peers: []string{"warmtier"}, data: d, work: w, samples: p.samples})
	}
	return s
}

func utilisationSuite(p profile) suite {
	s := suite{name: "utilisation", extra: true, title: "Throughput against utilisation", note: "One " +
		"goroutine overwrites, and compacts whenever live / total falls to the utilisation: what a fixed " +
		"memory budget costs."}
	budget := p.maxBytes / 2
	for _, ids := range []string{"uniform", "zipf"} {
		for _, u := range []int{50, 60, 70, 75, 80, 85, 90, 95} {
			d := dataset{Content: sustainedContent, N: budget * u / 100 / recordBytes(sustainedContent)}
			d.Threshold = 1 - float64(u)/100
			w := put
			w.IDs = ids
			s.cells = append(s.cells, calls("Put, "+ids, strconv.Itoa(u)+" %", []string{"warmtier"}, d, w))
		}
	}
	return s
}

func (d dataset) String() string {
	size := fmt.Sprintf("%d B", d.Content)
	if d.Content >= 1<<10 {
		size = fmt.Sprintf("%d KiB", d.Content>>10)
	}
	return countName(d.N) + " x " + size
}

// countName returns n with commas.
func countName(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
