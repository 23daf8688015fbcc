package vm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

/*
Linux bounds how many mappings a process has (vm.max_map_count, 65,530 by default), whoever made
them. At the bound not only does the next mapping fail: the Go runtime, which maps memory to grow
its heap and to start threads, ends the process; and so does unmapping, where it would cut a mapping
in two, since the kernel merges neighbours of one kind. So a part of the bound is left to the
program, and Room says when the rest is used up.

To count what there is means to read /proc/self/maps, 5 to 30 ms when there are tens of thousands.
It is done seldom: between two counts, what this package has mapped since gives a bound from above.
A mapping of a file is one more, and one less when it goes. Anonymous memory may be merged, so
mapping it is one more at most, unmapping it cuts one in two at most, and it is never in more pieces
than it was mapped in. (It can be, where the kernel merges it with memory of the program. That is
left to the reserve, as is what the program maps between two counts.)
*/

// least of the bound that is left to the program, and its least share.
const (
	reservedMappings = 1024
	reservedShare    = 10
)

// LimitError is returned by [Room] when the process has, or may have, as many mappings as it should.
type LimitError struct {
	Mappings int // of the process: no more than these
	Limit    int // vm.max_map_count
	Reserved int // of it, for the program
}

// Error gives the figures.
func (e *LimitError) Error() string {
	return fmt.Sprintf("the process has %d memory mappings, and of vm.max_map_count, %d, %d are left to the program",
		e.Mappings, e.Limit, e.Reserved)
}

// mapped counts what this package has mapped in this process.
var mapped = counter{read: os.ReadFile, lines: mapLines}

// Room returns a [*LimitError] when the process should not have this many further mappings. It reserves
// nothing: callers that ask at the same time may all be told that there is room for one. more may be 0 or
// less, for a caller that may take from the reserve. Where the system has no such limit it returns nil.
func Room(more int) error { return mapped.room(more) }

// Recount counts the mappings of the process if that was not done for this long, so that [Room] knows what
// the program has mapped.
func Recount(age time.Duration) { mapped.recount(age) }

// counter is safe for concurrent use.
type counter struct {
	read  func(name string) ([]byte, error)
	lines func() (int, error) // mappings that the process has

	files   atomic.Int64 // mapped and not unmapped
	memory  atomic.Int64 // anonymous ones, the same
	changes atomic.Int64 // of anonymous ones: mapped and unmapped since the start

	last atomic.Pointer[census]
	mu   sync.Mutex // a leaf: one goroutine counts at a time
}

// census is what was found when the mappings were counted.
type census struct {
	mappings       int
	limit          int // 0: none
	files, changes int64
	at             time.Time
	cost           time.Duration
}

func (c *counter) file(n int64) { c.files.Add(n) }

// anonymous counts n more, or -n fewer, mappings of anonymous memory.
func (c *counter) anonymous(n int64) {
	c.memory.Add(n)
	c.changes.Add(1)
}

// bound returns how many mappings there are at most, by a census and what came after.
func (c *counter) bound(found *census) int {
	return found.mappings + int(c.files.Load()-found.files) + int(min(c.changes.Load()-found.changes, c.memory.Load()))
}

// reserved returns how many mappings are left to the program.
func (found *census) reserved() int {
	return min(max(reservedMappings, found.limit/reservedShare), found.limit/2)
}

func (c *counter) room(more int) error {
	found := c.last.Load()
	if found == nil {
		found = c.recount(0)
	}
	err := c.judge(found, more)
	if err == nil {
		return nil
	}
	// A bound from above may be far too high. To count is a twentieth of the time at most, so that callers
	// who ask again and again at a limit that is real do not slow down everybody.
	return c.judge(c.recount(20*found.cost), more)
}

// judge compares with the limit. A nil census knows of none.
func (c *counter) judge(found *census, more int) error {
	if found == nil || found.limit == 0 {
		return nil
	}
	n := c.bound(found)
	if n+more <= found.limit-found.reserved() {
		return nil
	}
	return &LimitError{Mappings: n, Limit: found.limit, Reserved: found.reserved()}
}

// recount returns a census that is no older than age if one can be made, and the last one otherwise.
func (c *counter) recount(age time.Duration) *census {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	found := c.last.Load()
	if found != nil && start.Sub(found.at) < age {
		return found
	}
	now := &census{at: start, files: c.files.Load(), changes: c.changes.Load()}
	if b, err := c.read("/proc/sys/vm/max_map_count"); err == nil {
		now.limit, _ = strconv.Atoi(string(bytes.TrimSpace(b)))
	}
	if now.limit > 0 {
		var err error
		if now.mappings, err = c.lines(); err != nil {
			return found
		}
	}
	now.cost = time.Since(start)
	c.last.Store(now)
	return now
}

// mapLines counts the lines of /proc/self/maps, each of which is a mapping.
func mapLines() (n int, err error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was only read
	buf := make([]byte, 64<<10)
	for {
		got, err := f.Read(buf)
		n += bytes.Count(buf[:got], []byte{'\n'})
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
}
