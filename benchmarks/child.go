package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

/*
Each peer lives in a child process of its own, so that its garbage, its resident memory and its
collections are its own. The parent sends requests to one child at a time, and the others wait for
input: turns of all peers follow each other in one run.
*/

// childVariable, set in the environment, makes the program a child.
const childVariable = "WARMTIER_BENCHMARKS_CHILD"

// request is one line from the parent.
type request struct {
	Do     string // open, run, minute, replay, gc, limit, ycsb
	Peer   string
	Data   dataset
	Dir    string // a folder for peers that need one; empty for memory stores
	Memory bool   // open: measure resident memory
	Work   workload
}

// reply is one line to the parent.
type reply struct {
	Err     string             `json:",omitempty"`
	Value   float64            // in the unit of the request
	Hits    float64            // share of the reads that found something
	Samples []float64          `json:",omitempty"` // single measurements, where Value sums up several
	Extra   map[string]float64 `json:",omitempty"`
	// Series has what is sampled beside each of Samples.
	Series map[string][]float64 `json:",omitempty"`
}

// child holds the store of one peer.
type child struct {
	contents *contents
	streams  map[string]*stream
	peer     peer
	kind     kind
	dir      string
	settled  bool // the store is in the steady state of overwriting
}

// serve answers requests until there are no more.
func serve(in io.Reader, out io.Writer) error {
	c := &child{}
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var q request
		if err := requests.Decode(&q); errors.Is(err, io.EOF) {
			return c.close()
		} else if err != nil {
			return err
		}
		r, err := c.do(q)
		if err != nil {
			r.Err = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
	}
}

func (c *child) do(q request) (reply, error) {
	switch q.Do {
	case "open":
		return c.open(q)
	case "run":
		return c.run(q.Work)
	case "minute":
		return c.minute(q.Work)
	case "replay":
		return c.replay(q.Work)
	case "hits":
		return c.hits()
	case "ycsb":
		return c.ycsb(q)
	case "gc":
		return collect(), nil
	case "limit":
		return reply{Value: limits[q.Work.IDs](q.Work.Limit), Hits: 1}, nil
	}
	return reply{}, fmt.Errorf("no such request: %q", q.Do)
}

func (c *child) close() error {
	if c.peer == nil {
		return nil
	}
	return c.peer.close()
}

// open makes the store and fills it. Value of the reply is the resident memory per memory beyond id
// and content.
func (c *child) open(q request) (r reply, err error) {
	var ok bool
	if c.kind, ok = kinds[q.Peer]; !ok {
		return r, fmt.Errorf("no such peer: %q", q.Peer)
	}
	c.streams, c.dir = map[string]*stream{}, q.Dir
	if c.contents, err = newContents(q.Data); err != nil {
		return r, err
	}
	before := resident(q.Memory)
	if c.peer, err = c.kind.open(c.contents, c.dir); err != nil {
		return r, err
	}
	for i := range c.contents.N {
		if q.Data.Empty {
			break
		}
		if err := c.peer.put(newID(i), c.contents.of(i)); err != nil {
			return r, fmt.Errorf("filling, memory %d: %w", i, err)
		}
	}
	if s, ok := c.peer.(settler); ok {
		s.settle()
	}
	after := resident(true) // for every peer: garbage of filling must not stay beside other children
	r.Value = float64(after-before-c.contents.bytes()) / float64(c.contents.N)
	runtime.KeepAlive(c.contents)
	return r, nil
}

func (c *child) stream(kind string) (*stream, error) {
	if st := c.streams[kind]; st != nil {
		return st, nil
	}
	st, err := newStream(c.contents, kind)
	c.streams[kind] = st
	return st, err
}

// resident returns the resident memory of the process, after garbage and free memory were given
// back.
func resident(exact bool) int64 {
	if exact {
		runtime.GC() // twice: the first one may end with garbage that finalizers held
		debug.FreeOSMemory()
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// collections is how many whole garbage collections make one turn.
const collections = 20

// collect times whole garbage collections, µs.
func collect() reply {
	runtime.GC() // sweeps what others have left
	var r reply
	for range collections {
		start := time.Now()
		runtime.GC()
		r.Samples = append(r.Samples, float64(time.Since(start).Nanoseconds())/1e3)
	}
	r.Value, r.Hits = median(r.Samples), 1
	return r
}
