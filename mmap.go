package warmtier

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/vm"
)

// mapper hands out page-aligned memory outside the Go heap, and counts it.
//
// Under the race detector, which sees nothing that is not on the Go heap, the memory is on the Go
// heap (mmap_heap.go): else "race clean" would say nothing about contents.
type mapper struct {
	bytes    atomic.Int64 // handed out and not given back
	mappings atomic.Int64
}

// acquire returns size zeroed bytes, private to the process; size is a multiple of the page size.
// The error is ErrNoSpace.
func (m *mapper) acquire(size int) ([]byte, error) {
	mem, err := vm.Map(size)
	if err != nil {
		return nil, fmt.Errorf("%w: cannot map %d bytes: %w", ErrNoSpace, size, err)
	}
	m.adopt(size)
	return mem, nil
}

// adopt counts size bytes that were mapped from a file, and forget takes them back.
func (m *mapper) adopt(size int) {
	m.bytes.Add(int64(size))
	m.mappings.Add(1)
}

func (m *mapper) forget(size int) {
	m.bytes.Add(int64(-size))
	m.mappings.Add(-1)
}

// release gives memory of acquire back to the operating system.
func (m *mapper) release(mem []byte) error {
	size := len(mem)
	if err := vm.Unmap(mem); err != nil {
		return fmt.Errorf("warmtier: cannot unmap %d bytes: %w", size, err)
	}
	m.forget(size)
	return nil
}

// acquire is that of the mapper; what the reserve holds is no reason to fail.
func (s *Store) acquire(size int) ([]byte, error) {
	mem, err := s.mapper.acquire(size)
	if err == nil {
		return mem, nil
	}
	unused, _ := s.pool.takeAll(0)
	if len(unused) == 0 {
		return nil, err
	}
	s.releaseAll(unused)
	return s.mapper.acquire(size)
}

// reserve is memory of compacted segments that a memory store keeps for its lanes: a fresh page costs a
// Put as much as copying 1 KiB to it, and whoever overwrites as fast as compactions give back would pay
// for it with every record. Only automatic compactions keep any, and no more than lanes have lately used;
// a maintenance cycle gives back what has not been used for an Interval.
type segmentPool struct {
	mu      sync.Mutex // a leaf
	mems    []pooled   // the oldest first
	used    int        // segments that lanes began
	counted time.Time  // since then
}

type pooled struct {
	mem   []byte // SegmentSize bytes, not zeroed
	since time.Time
}

// begun counts a segment of a lane.
func (r *segmentPool) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used++
}

// take returns memory for a segment of a lane, nil when there is none.
func (r *segmentPool) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.mems)
	if n == 0 {
		return nil
	}
	mem := r.mems[n-1].mem
	r.mems = r.mems[:n-1]
	return mem
}

// takeAll empties the reserve, and says how many segments lanes have begun: within the time that counts as
// lately, else none.
func (r *segmentPool) takeAll(lately time.Duration) (mems [][]byte, used int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.counted) > lately {
		r.used = 0
	}
	for _, m := range r.mems {
		mems = append(mems, m.mem)
	}
	used = r.used
	r.mems, r.used, r.counted = nil, 0, time.Now()
	return mems, used
}

// keep adds mems to the reserve.
func (r *segmentPool) keep(mems [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, mem := range mems {
		r.mems = append(r.mems, pooled{mem, time.Now()})
	}
}

// takeUnused takes out what was kept before then, and forgets what lanes have used when that goes back
// further.
func (r *segmentPool) takeUnused(then time.Time) (mems [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counted.Before(then) {
		r.used, r.counted = 0, time.Now()
	}
	for len(r.mems) > 0 && r.mems[0].since.Before(then) {
		mems = append(mems, r.mems[0].mem)
		r.mems = r.mems[1:]
	}
	return mems
}

// count is how many segments the reserve has memory for.
func (r *segmentPool) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mems)
}

func (s *Store) releaseAll(mems [][]byte) {
	for _, mem := range mems {
		s.release(mem)
	}
}

// release unmaps mem. No call can do anything about a failure, so it is logged.
func (s *Store) release(mem []byte) {
	if err := s.mapper.release(mem); err != nil {
		s.logLater(slog.LevelError, "memory could not be given back", "error", err)
	}
}
