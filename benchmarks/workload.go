package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
)

// dataset says which memories a store holds. A child process needs nothing else to make the same
// ids and contents as every other.
type dataset struct {
	N       int
	Content int    // bytes of each; 0: as Sizes says
	Sizes   string // "kvcache" or a file of traceReaders, from the folder Traces
	Traces  string

	Directory  bool    // peers get a folder
	Sync       bool    // directory stores: every Put is durable before it returns
	ReadOnly   bool    // nothing will be written: rings need no room for old versions
	Threshold  float64 // warmtier: fragmentation ratio at which it compacts; 0 means 0.5
	Background bool    // warmtier: by its own background cycle, not in the goroutine that writes
	Share      int     // caches that evict: percent of all ids and contents that they have room for
	Empty      bool    // peers are not filled
}

// contents makes the contents of a dataset's memories.
type contents struct {
	dataset
	sizes []uint32 // bytes, of each memory; nil when all have the same size
	trace []uint32 // the memories that the trace asks for, in its order
	block []byte
}

// window bounds where contents begin in the block. It is small, so that taking a content to write
// costs no cache miss of the benchmark's own.
const window = 64 << 10 // bytes

func newContents(d dataset) (*contents, error) {
	c := &contents{dataset: d}
	largest := d.Content
	switch d.Sizes {
	case "":
	case "kvcache":
		draw, err := loadSizes(d.Traces)
		if err != nil {
			return nil, err
		}
		r := rand.New(rand.NewPCG(1, 3))
		c.sizes = make([]uint32, d.N)
		for i := range c.sizes {
			c.sizes[i] = draw(r)
		}
	default:
		var err error
		if c.trace, c.sizes, err = loadTrace(d.Traces, d.Sizes); err != nil {
			return nil, err
		}
		c.N = len(c.sizes)
	}
	for _, n := range c.sizes {
		largest = max(largest, int(n))
	}
	c.block = make([]byte, window+largest)
	r := rand.New(rand.NewPCG(1, 4))
	for i := range c.block {
		c.block[i] = byte(r.Uint32())
	}
	return c, nil
}

func (c *contents) size(i int) int {
	if c.sizes != nil {
		return int(c.sizes[i])
	}
	return c.Content
}

func (c *contents) of(i int) []byte {
	from := i * 7919 % window
	return c.block[from : from+c.size(i)]
}

// bytes returns the size of all ids and contents, which no store can do without.
func (c *contents) bytes() int64 {
	total := int64(c.N) * (idLen + int64(c.Content))
	for _, n := range c.sizes {
		total += int64(n)
	}
	return total
}

// largest returns the size of the largest content.
func (c *contents) largest() int { return len(c.block) - window }

// idLen is the length of every id, bytes.
const idLen = 15

// appendID appends the id of memory i.
func appendID(dst []byte, i int) []byte {
	dst = append(dst, "memory-00000000"...)
	for p := len(dst) - 1; i > 0; p, i = p-1, i/10 {
		dst[p] = byte('0' + i%10)
	}
	return dst
}

// newID returns an id in memory of its own, so that a store that keeps the string keeps nothing
// else alive.
func newID(i int) string {
	var buf [idLen]byte
	return string(appendID(buf[:0], i))
}

// stream is an order in which memories are asked for. The ids lie back to back and are read from
// front to back: neither formatting nor a cache miss of the benchmark's own is counted as the
// store's.
type stream struct {
	memory []uint32
	ids    string
}

func (st *stream) id(pos int) string { return st.ids[pos*idLen : (pos+1)*idLen] }

const longestStream = 2_000_000 // calls, after which it begins again

// newStream returns a stream over the memories of c: uniform, zipf, popular (as the production
// cache is asked), trace, or miss: ids that no store holds.
func newStream(c *contents, kind string) (*stream, error) {
	r := rand.New(rand.NewPCG(1, 1))
	st := &stream{}
	first := 0
	switch kind {
	case "uniform", "miss":
		for _, i := range r.Perm(c.N)[:min(c.N, longestStream)] {
			st.memory = append(st.memory, uint32(i))
		}
		if kind == "miss" {
			first = c.N
		}
	case "zipf", "popular":
		draw, err := popularity(c, kind, r)
		if err != nil {
			return nil, err
		}
		memory := r.Perm(c.N) // so that popular memories do not lie side by side
		for range min(max(c.N, 100_000), longestStream) {
			st.memory = append(st.memory, uint32(memory[draw()]))
		}
	case "trace":
		st.memory = c.trace
	default:
		return nil, fmt.Errorf("no such order of ids: %q", kind)
	}
	// When every second or tenth call writes, another pass must write other memories.
	for n := len(st.memory); kind != "trace" && n > 1 && (n%2 == 0 || n%5 == 0); n-- {
		st.memory = st.memory[:n-1]
	}
	ids := make([]byte, 0, len(st.memory)*idLen)
	for _, i := range st.memory {
		ids = appendID(ids, first+int(i))
	}
	st.ids = string(ids)
	return st, nil
}

// popularity returns a function that draws the rank of a memory. With Zipf the k-th most popular
// has the weight 1/(k+1)^1.1.
func popularity(c *contents, kind string, r *rand.Rand) (func() int, error) {
	if kind == "zipf" {
		zipf := rand.NewZipf(r, 1.1, 1, uint64(c.N-1))
		return func() int { return int(zipf.Uint64()) }, nil
	}
	var pop struct {
		Buckets []float64 `json:"popularityBuckets"` // how many memories are in each
		Weights []float64 `json:"popularityWeights"` // how often any of its memories is asked for
	}
	if err := readJSON(filepath.Join(c.Traces, "kvcache_pop.json"), &pop); err != nil {
		return nil, err
	}
	if len(pop.Buckets) == 0 || len(pop.Buckets) != len(pop.Weights) {
		return nil, fmt.Errorf("popularity: %d buckets, %d weights", len(pop.Buckets), len(pop.Weights))
	}
	ends, weights := cumulative(pop.Buckets), cumulative(pop.Weights)
	scale := float64(c.N) / ends[len(ends)-1] // the production cache holds another number of memories
	return func() int {
		b := pick(weights, r)
		return min(int((ends[b]-r.Float64()*pop.Buckets[b])*scale), c.N-1)
	}, nil
}

// loadSizes returns a function that draws the size of a content of the production cache: the upper
// end of a range of sizes.
func loadSizes(dir string) (func(*rand.Rand) uint32, error) {
	var file struct {
		Sizes         []float64 `json:"valSizeRange"`
		Probabilities []float64 `json:"valSizeRangeProbability"`
	}
	if err := readJSON(filepath.Join(dir, "kvcache_sizes.json"), &file); err != nil {
		return nil, err
	}
	if len(file.Sizes) == 0 || len(file.Sizes) != len(file.Probabilities) {
		return nil, fmt.Errorf("sizes: %d ranges, %d weights", len(file.Sizes), len(file.Probabilities))
	}
	weights := cumulative(file.Probabilities)
	return func(r *rand.Rand) uint32 { return uint32(file.Sizes[pick(weights, r)]) }, nil
}

func readJSON(name string, into any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

func cumulative(weights []float64) []float64 {
	sums := make([]float64, len(weights))
	total := 0.0
	for i, w := range weights {
		total += w
		sums[i] = total
	}
	return sums
}

// pick draws an index by cumulative weights.
func pick(sums []float64, r *rand.Rand) int {
	return min(sort.SearchFloat64s(sums, r.Float64()*sums[len(sums)-1]), len(sums)-1)
}
