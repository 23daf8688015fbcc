package warmtier

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"
)

// benchSize is the size of a store.
type benchSize struct {
	n       int
	content int // bytes of each
}

func (z benchSize) String() string {
	content := strconv.Itoa(z.content) + "B"
	if z.content%1024 == 0 {
		content = strconv.Itoa(z.content/1024) + "KiB"
	}
	return fmt.Sprintf("n=%s/content=%s", countName(z.n), content)
}

// countName writes n so that benchstat can sort it: 10k, 1M.
func countName(n int) string {
	switch {
	case n%1_000_000 == 0:
		return strconv.Itoa(n/1_000_000) + "M"
	case n%1000 == 0:
		return strconv.Itoa(n/1000) + "k"
	}
	return strconv.Itoa(n)
}

// inShort returns short under -short, and full otherwise.
func inShort[T any](short, full T) T {
	if testing.Short() {
		return short
	}
	return full
}

// callSizes returns the sizes of the stores that single calls are measured on.
func callSizes() []benchSize {
	return inShort(
		[]benchSize{{1000, 256}, {10_000, 1024}},
		[]benchSize{{10_000, 256}, {1_000_000, 256}, {1_000_000, 1024}})
}

// benchIDLen is the length of every id of these benchmarks, bytes.
const benchIDLen = 15

// appendBenchID appends the id of memory i, which is idOf(i) without package fmt.
func appendBenchID(dst []byte, i int) []byte {
	dst = append(dst, "memory-00000000"...)
	for p := len(dst) - 1; i > 0; p, i = p-1, i/10 {
		dst[p] = byte('0' + i%10)
	}
	return dst
}

// benchID is for setup that must not leave a list of ids in the resident set.
func benchID(i int) string {
	var buf [benchIDLen]byte
	return string(appendBenchID(buf[:0], i))
}

// idList holds ids back to back: no pointer per id, nothing for the garbage collector to trace.
type idList string

func (l idList) count() int      { return len(l) / benchIDLen }
func (l idList) at(i int) string { return string(l[i*benchIDLen : (i+1)*benchIDLen]) }

// uniformIDs lists the ids of n memories, each once, shuffled.
func uniformIDs(n int) idList {
	b := make([]byte, 0, n*benchIDLen)
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		b = appendBenchID(b, i)
	}
	return idList(b)
}

// zipfIDs draws n ids, a few very often: the k-th most popular with weight 1/(k+1)^1.1.
func zipfIDs(n int) idList {
	r := rand.New(rand.NewPCG(1, 2))
	memory := r.Perm(n) // by popularity, so that popular ones do not lie side by side
	zipf := rand.NewZipf(r, 1.1, 1, uint64(n-1))
	b := make([]byte, 0, n*benchIDLen)
	for range n {
		b = appendBenchID(b, memory[zipf.Uint64()])
	}
	return idList(b)
}

// idStream reads an idList over and over.
type idStream struct {
	ids idList
	pos int
}

func (st *idStream) next() string {
	id := st.ids.at(st.pos)
	if st.pos++; st.pos == st.ids.count() {
		st.pos = 0
	}
	return id
}

// benchStore is a full store that benchmarks share.
type benchStore struct {
	*Store
	benchSize
	uniform idList
	zipf    idList
	content []byte
}

var sharedStores = map[benchSize]*benchStore{}

// sharedStore returns the store of size z. It has all its memories and no dead bytes, and a
// benchmark that changes that puts it right again with tidy.
func sharedStore(b *testing.B, z benchSize) *benchStore {
	b.Helper()
	if f := sharedStores[z]; f != nil {
		return f
	}
	f := &benchStore{
		Store:     openBench(b, CompactionOptions{}),
		benchSize: z,
		uniform:   uniformIDs(z.n),
		zipf:      zipfIDs(z.n),
		content:   make([]byte, z.content),
	}
	for i := range z.n {
		putBench(b, f.Store, f.content, i)
	}
	sharedStores[z] = f
	return f
}

// dropSharedStores gives the shared stores back: a benchmark that weighs the whole process begins
// with it.
func dropSharedStores(b *testing.B) {
	b.Helper()
	for z, f := range sharedStores {
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
		delete(sharedStores, z)
	}
	debug.FreeOSMemory() // what earlier benchmarks left on the heap
}

func (f *benchStore) tidy(b *testing.B) {
	b.Helper()
	if _, err := f.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
}

func openBench(b *testing.B, c CompactionOptions) *Store {
	b.Helper()
	s, err := Open("", &Options{Compaction: c, Maintenance: MaintenanceOptions{Disabled: true}})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func closeBench(b *testing.B, s *Store) {
	b.Helper()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// putBench stores memory i; content is scratch space.
func putBench(b *testing.B, s *Store, content []byte, i int) {
	b.Helper()
	binary.LittleEndian.PutUint64(content, uint64(i))
	if err := s.Put(benchID(i), content); err != nil {
		b.Fatal(err)
	}
}

func deleteBench(b *testing.B, s *Store, i int) {
	b.Helper()
	if existed, err := s.Delete(benchID(i)); err != nil || !existed {
		b.Fatalf("delete of memory %d: %v, %v", i, existed, err)
	}
}

// metrics holds what the iterations of a benchmark found, by unit; the medians are reported.
type metrics map[string][]float64

func (m *metrics) add(unit string, v float64) {
	if *m == nil {
		*m = metrics{}
	}
	(*m)[unit] = append((*m)[unit], v)
}

func (m *metrics) report(b *testing.B) {
	for unit, values := range *m {
		b.ReportMetric(median(values), unit)
	}
}

// median returns the median of values, which it sorts.
func median[T ~int64 | ~float64](values []T) T {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// turns holds the times of things done by turns.
type turns map[string][]time.Duration

func (t turns) take(name string, fn func()) {
	start := time.Now()
	fn()
	t[name] = append(t[name], time.Since(start))
}

func (t turns) report(b *testing.B, what, than, unit string) {
	b.ReportMetric(float64(median(t[what]))/float64(median(t[than])), unit)
}
