package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// process is a child as the parent sees it.
type process struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	requests *json.Encoder
	replies  *json.Decoder
	dir      string
}

// start starts a child. Peers that need a folder get one of their own under scratch.
func start(ctx context.Context, scratch string) (*process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	cmd.Stderr = os.Stderr
	p := &process{cmd: cmd}
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if scratch != "" {
		if p.dir, err = os.MkdirTemp(scratch, "warmtier-benchmarks-"); err != nil {
			return nil, err
		}
	}
	p.requests, p.replies = json.NewEncoder(p.in), json.NewDecoder(out)
	return p, cmd.Start()
}

func (p *process) ask(q request) (reply, error) {
	var r reply
	q.Dir = p.dir
	if err := p.requests.Encode(q); err != nil {
		return r, fmt.Errorf("the process of %s has ended: %w", q.Peer, err)
	}
	if err := p.replies.Decode(&r); err != nil {
		return r, fmt.Errorf("the process of %s has ended: %w", q.Peer, err)
	}
	if r.Err != "" {
		return r, fmt.Errorf("%s: %s", q.Peer, r.Err)
	}
	return r, nil
}

// end lets the child close its store, and removes its folder.
func (p *process) end() {
	_ = p.in.Close() // a child that is gone
	_ = p.cmd.Wait() // has said so in its last reply, or on stderr
	if p.dir != "" {
		_ = os.RemoveAll(p.dir) // anything left is in the folder for temporary files
	}
}

// runner measures suites.
type runner struct {
	ctx      context.Context
	profile  profile
	scratch  string
	progress progress
}

// measure runs a suite: for each dataset all its peers are filled, each in a process of its own;
// then all cells over that dataset are measured by turns. Failures are kept in the cells, and
// joined.
func (r *runner) measure(s suite) suiteResult {
	result := newSuiteResult(s)
	r.progress.begin(s.name, r.steps(s))
	defer r.progress.end()
	var datasets []dataset
	for _, c := range s.cells {
		if !slices.Contains(datasets, c.data) {
			datasets = append(datasets, c.data)
		}
	}
	for _, d := range datasets {
		r.measureDataset(s, d, &result)
	}
	return result
}

func (r *runner) steps(s suite) int {
	n := 0
	for _, c := range s.cells {
		n += len(c.peers) * r.rounds(c)
	}
	return n
}

// rounds returns how often c is measured: once for a fill and for a series of samples.
func (r *runner) rounds(c cell) int {
	switch c.do {
	case "open", "minute":
		return 1
	case "series":
		return c.samples
	}
	return r.profile.rounds
}

func (r *runner) measureDataset(s suite, d dataset, result *suiteResult) {
	var cells []cell
	var names []string
	memory := false
	for _, c := range s.cells {
		if c.data != d {
			continue
		}
		cells = append(cells, c)
		memory = memory || c.do == "open"
		if c.do == "ycsb" {
			continue // each measurement opens a store of its own
		}
		for _, name := range c.peers {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	opened := map[string]*process{}
	defer func() {
		for _, p := range opened {
			p.end()
		}
	}()
	failed := map[string]error{}
	values := map[string]reply{}
	for _, name := range names {
		p, v, err := r.open(name, d, memory)
		if p != nil {
			opened[name] = p
		}
		if memory && p != nil { // it is measured alone, and memory may be short
			p.end()
			delete(opened, name)
		}
		failed[name], values[name] = err, v
	}
	for _, c := range cells {
		for round := range r.rounds(c) {
			for i := range c.peers { // each round begins with another peer
				name := c.peers[(i+round)%len(c.peers)]
				r.progress.step(fmt.Sprintf("%s, %s: %s", c.table, c.column, name))
				v, err := values[name], failed[name]
				if c.do == "ycsb" {
					v, err = r.alone(name, c)
				} else if err == nil && c.do != "open" {
					v, err = opened[name].ask(request{Do: c.request(), Peer: name, Work: c.work})
				}
				result.add(c, name, v, err)
			}
		}
	}
}

func (r *runner) open(name string, d dataset, memory bool) (*process, reply, error) {
	scratch := ""
	if d.Directory {
		scratch = r.scratch
	}
	if need := d.need(); need > availableMemory() {
		return nil, reply{}, fmt.Errorf("%s: left out, %d MiB of memory are not available", name, need>>20)
	}
	p, err := start(r.ctx, scratch)
	if err != nil {
		return nil, reply{}, err
	}
	r.progress.note(fmt.Sprintf("filling %s with %s memories", name, countName(d.N)))
	v, err := p.ask(request{Do: "open", Peer: name, Data: d, Memory: memory})
	return p, v, err
}

// alone measures in a process that has nothing else to do, and ends it.
func (r *runner) alone(name string, c cell) (reply, error) {
	p, err := start(r.ctx, r.scratch)
	if err != nil {
		return reply{}, err
	}
	defer p.end()
	return p.ask(request{Do: c.request(), Peer: name, Data: c.data, Work: c.work})
}

// need guesses how much memory a peer and its garbage take: a store that would make the machine
// swap, or the kernel end a process, is left out.
func (d dataset) need() int64 {
	content := d.Content
	if content == 0 {
		content = 350 // the mean of the production cache
	}
	return int64(d.N) * (3*int64(content+idLen) + 150)
}

// availableMemory returns MemAvailable, and no limit where that is unknown.
func availableMemory() int64 {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 1 << 62
	}
	for line := range strings.Lines(string(info)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 1 << 62
}

// median returns the median of values, and leaves their order alone.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// profile says how large everything is, and how long it takes.
type profile struct {
	name     string
	maxN     int           // memories
	maxBytes int           // of all contents of a store
	rounds   int           // the median is taken over them
	turn     time.Duration // the least of one measurement
	samples  int           // of a run over time, one a second
}

var (
	fullProfile  = profile{"full", 10_000_000, 512 << 20, 5, 250 * time.Millisecond, 180}
	quickProfile = profile{"quick", 200_000, 64 << 20, 3, 40 * time.Millisecond, 20}
	tinyProfile  = profile{"tiny", 2000, 1 << 20, 1, 2 * time.Millisecond, 2}
)
