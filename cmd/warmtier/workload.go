package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
)

// operation is one step of a workload.
type operation int

const (
	opRead operation = iota
	opUpdate
	opInsert
	opDelete
	opScan
	opModify // read, then update
	operations
)

var operationNames = [operations]string{"read", "update", "insert", "delete", "scan", "modify"}

// shares of each operation in percent: a to f as in YCSB (Cooper et al., "Benchmarking Cloud Serving
// Systems with YCSB", SoCC '10); churn leaves as many dead bytes as it can.
var workloads = map[string][operations]int{
	"a":     {opRead: 50, opUpdate: 50},
	"b":     {opRead: 95, opUpdate: 5},
	"c":     {opRead: 100},
	"d":     {opRead: 95, opInsert: 5},
	"e":     {opScan: 95, opInsert: 5},
	"f":     {opRead: 50, opModify: 50},
	"churn": {opRead: 25, opUpdate: 50, opDelete: 25},
}

// scanLength is how many memories a scan reads. The store has no order: it reads any of them.
const scanLength = 100

// workload chooses operations and ids. Each goroutine has a generator of its own.
type workload struct {
	shares   [operations]int
	dist     string
	zipf     *zipf
	memories atomic.Int64 // loaded and inserted
}

func newWorkload(name, dist string, memories int64) *workload {
	if dist == "auto" {
		dist = "zipf"
		if name == "d" {
			dist = "latest"
		}
	}
	w := &workload{shares: workloads[name], dist: dist}
	w.memories.Store(memories)
	if dist != "uniform" {
		w.zipf = newZipf(memories)
	}
	return w
}

func (w *workload) operation(rng *rand.Rand) operation {
	at := rng.IntN(100)
	for op, share := range w.shares {
		if at < share {
			return operation(op)
		}
		at -= share
	}
	return opRead
}

// choose returns the number of a memory.
func (w *workload) choose(rng *rand.Rand) int64 {
	n := w.memories.Load()
	switch w.dist {
	case "uniform":
		return rng.Int64N(n)
	case "latest":
		return n - 1 - w.zipf.rank(rng)
	}
	// Popular ids are spread over all ids: neighbours in rank were not stored side by side.
	return int64(uint64(w.zipf.rank(rng)) * 0x9e3779b97f4a7c15 % uint64(w.zipf.n))
}

// zipf draws ranks below n with a skew of 0.99, the one of YCSB, by the method of Gray et al.
// ("Quickly Generating Billion-Record Synthetic Databases", SIGMOD '94).
type zipf struct {
	n                       int64
	zetaN, eta, alpha, half float64
}

const zipfSkew = 0.99

func newZipf(n int64) *zipf {
	z := &zipf{n: n, alpha: 1 / (1 - zipfSkew), half: 1 + math.Pow(0.5, zipfSkew)}
	for i := int64(1); i <= n; i++ {
		z.zetaN += math.Pow(float64(i), -zipfSkew)
	}
	z.eta = (1 - math.Pow(2/float64(n), 1-zipfSkew)) / (1 - z.half/z.zetaN)
	return z
}

func (z *zipf) rank(rng *rand.Rand) int64 {
	u := rng.Float64()
	switch uz := u * z.zetaN; {
	case uz < 1:
		return 0
	case uz < z.half:
		return min(1, z.n-1)
	}
	return min(z.n-1, int64(float64(z.n)*math.Pow(z.eta*u-z.eta+1, z.alpha)))
}

// sizeRange gives the sizes of contents: one size, or a range in which each order of magnitude is
// as likely.
type sizeRange struct{ least, most byteSize }

// UnmarshalText makes sizeRange a flag.
func (s *sizeRange) UnmarshalText(text []byte) error {
	least, most, isRange := strings.Cut(string(text), "-")
	if !isRange {
		most = least
	}
	if err := s.least.UnmarshalText([]byte(least)); err != nil {
		return err
	}
	if err := s.most.UnmarshalText([]byte(most)); err != nil {
		return err
	}
	if s.least > s.most {
		return fmt.Errorf("%q: the first size is the larger one", text)
	}
	return nil
}

// String returns the size, or both ends of the range.
func (s sizeRange) String() string {
	if s.least == s.most {
		return showBytes(int64(s.least))
	}
	return showBytes(int64(s.least)) + " to " + showBytes(int64(s.most))
}

func (s sizeRange) choose(rng *rand.Rand) int {
	if s.least == s.most {
		return int(s.least)
	}
	low, high := math.Log(float64(s.least)+1), math.Log(float64(s.most)+1)
	return int(math.Exp(low+rng.Float64()*(high-low))) - 1
}
