package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain makes the test binary the child that the parent starts.
func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// What is compared must be the same work: each peer stores what it is given, keeps no slice of the
// caller's, returns it, and says when it has nothing.
func TestPeers_ReturnWhatWasStored(t *testing.T) {
	for name, k := range kinds {
		if name == "none" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c, err := newContents(dataset{N: 1000, Content: 300})
			require.NoError(t, err)
			p, err := k.open(c, t.TempDir())
			require.NoError(t, err)
			defer func() { require.NoError(t, p.close()) }()
			for version := range 2 {
				mine := make([]byte, 300)
				for i := range c.N {
					copy(mine, c.of(i+version))
					require.NoError(t, p.put(newID(i), mine))
				}
				clear(mine)
				if s, ok := p.(settler); ok {
					s.settle()
				}
				buf := make([]byte, 0, 300)
				for i := range c.N {
					content, found, err := p.get(buf, newID(i))
					require.NoError(t, err)
					require.True(t, found, i)
					require.Equal(t, c.of(i+version), content)
				}
			}
			_, found, err := p.get(nil, newID(c.N))
			require.NoError(t, err)
			require.False(t, found)
		})
	}
}

// Every child must make the same memories, whichever peer it holds.
func TestContents_AreTheSameInEveryProcess(t *testing.T) {
	d := dataset{N: 100_000, Content: 100}
	a, err := newContents(d)
	require.NoError(t, err)
	b, err := newContents(d)
	require.NoError(t, err)
	require.Equal(t, a.block, b.block)
	require.Equal(t, int64(100_000*(100+idLen)), a.bytes())
	for _, kind := range []string{"uniform", "zipf", "miss"} {
		x, err := newStream(a, kind)
		require.NoError(t, err)
		y, err := newStream(b, kind)
		require.NoError(t, err)
		require.Equal(t, x, y)
		require.Len(t, x.memory, 99_999) // of 100,000 one tenth would be written over and over
		for pos, i := range x.memory {
			want := int(i)
			if kind == "miss" {
				want += d.N
			}
			require.Equal(t, newID(want), x.id(pos))
		}
	}
}

// A hit benchmark in which a memory is missing must not return a figure, nor one of misses that
// finds something.
func TestRun_RefusesWrongAnswers(t *testing.T) {
	for _, w := range []workload{
		{IDs: "miss", Strict: true, Goroutines: 1, Turn: 1},
		{IDs: "uniform", Miss: true, Goroutines: 1, Turn: 1},
	} {
		c := &child{}
		_, err := c.do(request{Do: "open", Peer: "warmtier", Data: dataset{N: 1000, Content: 10}})
		require.NoError(t, err)
		_, err = c.do(request{Do: "run", Work: w})
		require.ErrorContains(t, err, "reading")
		require.NoError(t, c.close())
	}
}

// Turns of warmtier that overwrite pay for whole compaction cycles.
func TestRun_PaysForCompactions(t *testing.T) {
	c := &child{}
	_, err := c.do(request{Do: "open", Peer: "warmtier", Data: dataset{N: 2000, Content: 100}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.close()) }()
	r, err := c.do(request{Do: "run", Work: workload{IDs: "uniform", WriteEvery: 2, Goroutines: 2, Turn: 1}})
	require.NoError(t, err)
	require.GreaterOrEqual(t, r.Extra["compactions"], 1.0)
	require.Positive(t, r.Extra["moved-per-put"])
	require.Equal(t, 1.0, r.Hits)
}

// A run over time has a rate and the memory of each turn, and is no figure when a store that is no ring
// does not hold what was put.
func TestMinute_SamplesAndHoldsEverything(t *testing.T) {
	c := &child{}
	_, err := c.do(request{Do: "open", Peer: "warmtier-default", Data: dataset{N: 1000, Content: 100}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.close()) }()
	w := workload{Goroutines: 2, Samples: 3, Turn: time.Millisecond}
	r, err := c.do(request{Do: "minute", Work: w})
	require.NoError(t, err)
	require.Len(t, r.Samples, 3)
	require.Len(t, r.Series["resident-bytes"], 3)
	require.Equal(t, 1.0, r.Hits)

	whole := c.peer
	defer func() { c.peer = whole }()
	c.peer = forgetful{whole, newID(7)}
	_, err = c.do(request{Do: "minute", Work: w})
	require.ErrorContains(t, err, "holds 999 memories of 1000")
	c.kind.ring = fastcacheRoom
	r, err = c.do(request{Do: "minute", Work: w})
	require.NoError(t, err)
	require.Equal(t, 0.999, r.Hits)
	c.peer = nonePeer{}
	_, err = c.do(request{Do: "minute", Work: w})
	require.ErrorContains(t, err, "another content")
}

// forgetful has lost one memory.
type forgetful struct {
	peer
	lost string
}

func (p forgetful) get(dst []byte, id string) ([]byte, bool, error) {
	if id == p.lost {
		return nil, false, nil
	}
	return p.peer.get(dst, id)
}

// The whole command, children included, on stores that are next to nothing.
func TestCommand_WritesTablesAndCharts(t *testing.T) {
	dir := t.TempDir()
	document := filepath.Join(dir, "docs", "performance.md")
	require.NoError(t, os.MkdirAll(filepath.Dir(document), 0o755))
	require.NoError(t, os.WriteFile(document, []byte("# Mine\n\nabove\n\n"+beginMark+"old"+endMark+"\n\nbelow\n"), 0o644))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer func() {
		require.NoError(t, log.Close())
		if b, err := os.ReadFile(log.Name()); err == nil {
			t.Logf("%s", b)
		}
	}()
	var out bytes.Buffer
	args := []string{"-tiny", "-document", document, "-results", filepath.Join(dir, "results.json"), "-dir", dir,
		"-traces", makeTraces(t)}
	require.NoError(t, benchmarks(t.Context(), args, &out, log))
	rest := append(args, "-sustained", "-utilisation", "-only", "defaults,million-defaults,ycsb-f")
	require.NoError(t, benchmarks(t.Context(), rest, &out, log))

	b, err := os.ReadFile(document)
	require.NoError(t, err)
	text := string(b)
	require.True(t, strings.HasPrefix(text, "# Mine\n\nabove\n\n"+beginMark+"\n"))
	require.True(t, strings.HasSuffix(text, endMark+"\n\nbelow\n"))
	require.NotContains(t, text, "old"+endMark)
	require.NotContains(t, text, "failed")
	require.NotContains(t, text, "NaN")
	// No cache is as small as a twentieth of a trace that is next to nothing.
	run := slices.DeleteFunc(suites(tinyProfile, "x"), func(s suite) bool { return s.name == "hits" })
	for _, s := range run {
		require.Contains(t, text, "### "+s.title+"\n")
	}
	charts, err := filepath.Glob(filepath.Join(dir, "docs", "img", "*.svg"))
	require.NoError(t, err)
	for _, chart := range charts {
		require.Contains(t, text, "(img/"+filepath.Base(chart)+")")
	}
	require.Greater(t, len(charts), 10)
	for _, s := range run {
		require.Contains(t, out.String(), "\n"+s.title+"\n")
	}
	require.NotContains(t, out.String(), "|")
	require.NotContains(t, out.String(), ".svg")

	require.NoError(t, benchmarks(t.Context(), append(args, "-render"), &out, log))
	again, err := os.ReadFile(document)
	require.NoError(t, err)
	require.Equal(t, text, string(again))
	if processorTime() > 0 {
		require.NoError(t, benchmarks(t.Context(), append(args, "-render", "-cpu"), &out, log))
		used, err := os.ReadFile(document)
		require.NoError(t, err)
		require.Contains(t, string(used), processorTimeUnit)
	}
}

// Nothing is written that was not asked for, and what is not measured stays in a document.
func TestCommand_FilesOnlyWhenAsked(t *testing.T) {
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	log, err := os.Create(os.DevNull)
	require.NoError(t, err)
	defer log.Close() //nolint:errcheck // nothing is in it
	args := []string{"-tiny", "-only", "figure-memory", "-dir", t.TempDir()}
	require.NoError(t, benchmarks(t.Context(), args, &out, log))
	require.Contains(t, out.String(), "Resident memory\n")
	entries, err := os.ReadDir(".")
	require.NoError(t, err)
	require.Empty(t, entries)
	for _, flag := range []string{"-render", "-more"} {
		require.ErrorContains(t, benchmarks(t.Context(), []string{flag}, &out, log), flag+" needs the -results")
	}

	gc := "### A whole garbage collection\n\n| kept | as it is |\n| --- | --- |\n"
	document := "# Mine\n\n" + beginMark + "\n\n### Resident memory\n\nold\n\n" + gc + "\n" + endMark + "\n"
	require.NoError(t, os.WriteFile("mine.md", []byte(document), 0o600))
	require.NoError(t, benchmarks(t.Context(), append(args, "-document", "mine.md"), &out, log))
	b, err := os.ReadFile("mine.md")
	require.NoError(t, err)
	require.Contains(t, string(b), gc)
	require.NotContains(t, string(b), "\nold\n")
	require.Equal(t, 1, strings.Count(string(b), "### Resident memory\n"))
}

// makeTraces writes the three files in the formats that the suites read.
func makeTraces(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kvcache_sizes.json"),
		[]byte(`{"valSizeRange": [31, 500, 2000.0], "valSizeRangeProbability": [5, 3, 1]}`), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "kvcache_pop.json"),
		[]byte(`{"popularityBuckets": [1, 10, 1000], "popularityWeights": [50, 100, 100]}`), 0o644))
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "%d %d %d\n", i, i%100, 10+i%100)
	}
	writeGzip(t, filepath.Join(dir, "adapt_size.txt.gz"), lines.String())
	return dir
}

func TestTrace_NumbersObjectsAndKeepsOrder(t *testing.T) {
	requests, sizes, err := loadTrace(makeTraces(t), "adapt_size.txt.gz")
	require.NoError(t, err)
	require.Len(t, requests, 1000)
	require.Len(t, sizes, 100)
	require.Equal(t, uint32(5), requests[105])
	require.Equal(t, uint32(15), sizes[5])
}

func TestSelect_ByPrefix(t *testing.T) {
	all := suites(tinyProfile, "")
	names := func(only ...string) (list []string) {
		chosen, err := selectSuites(all, only)
		require.NoError(t, err)
		for _, s := range chosen {
			list = append(list, s.name)
		}
		return list
	}
	require.Equal(t, []string{"figure-get", "figure-cached", "figure-mixed", "figure-put", "figure-large",
		"figure-memory", "figure-gc"}, names("figures"))
	require.Equal(t, []string{"gc"}, names("gc"))
	require.NotContains(t, names(), "sustained")
	chosen, err := selectSuites(all, []string{"gc"})
	require.NoError(t, err)
	selectPeers(chosen, []string{"map", "none"})
	require.Equal(t, []string{"none", "map"}, chosen[0].cells[0].peers)
	require.Contains(t, caches, "fastcache")
	_, err = selectSuites(all, []string{"nothing"})
	require.Error(t, err)
}

func TestReplaceSection_AppendsWhereThereIsNone(t *testing.T) {
	one := replaceSection("# Mine\n", "first")
	require.Equal(t, "# Mine\n\n"+beginMark+"\n\nfirst\n\n"+endMark+"\n", one)
	require.Equal(t, strings.Replace(one, "first", "second", 1), replaceSection(one, "second"))
}

func TestMeasured_IsMedianAndRange(t *testing.T) {
	m := &measured{Values: []float64{30, 10, 2000}, Hits: []float64{1, 1, 0.5}}
	require.Equal(t, "30.0 (10.0–2,000)", m.String())
	m.Hits = []float64{0.9, 0.9, 1}
	require.Equal(t, "30.0 (10.0–2,000), 90.0 % hits", m.String())
	m.Err = "x"
	require.Equal(t, "failed", m.String())
}

func writeGzip(t *testing.T, name, text string) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	require.NoError(t, os.WriteFile(name, b.Bytes(), 0o644))
}
