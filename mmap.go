package warmtier

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

// mapper maps memory outside the Go heap for segments and tables, counts what is mapped, and gives
// failures the errors of this package. It is safe for concurrent use.
//
// Under the race detector the memory is on the Go heap (see internal/vm): the detector sees nothing
// that is not, and "race clean" would otherwise say nothing about contents.
type mapper struct {
	bytes      atomic.Int64 // mapped, and not released
	mappings   atomic.Int64
	unreturned unreturned // released, and still mapped
}

// targetSlack is how many mappings of the reserve (see vm.Room) the targets of all stores may take, and
// files that are mapped for a moment: a compaction needs the first before it can give back more. It is
// more than one since lanes that look at the same time may all find room for the last.
const targetSlack = 16

// roomFor returns an error, ErrNoSpace, when the process should not have more further mappings.
func roomFor(more int) error {
	if err := vm.Room(more); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return nil
}

// acquire maps size zeroed bytes, private to the process; size is a multiple of the page size. The
// error is ErrNoSpace.
func (m *mapper) acquire(size int) ([]byte, error) { return m.acquireFor(1, size) }

// acquireTarget is acquire for a target, which may be one mapping too many.
func (m *mapper) acquireTarget(size int) ([]byte, error) { return m.acquireFor(1-targetSlack, size) }

// acquireFor is acquire while the process has room for so many mappings.
func (m *mapper) acquireFor(room, size int) ([]byte, error) {
	mem := m.unreturned.take(size)
	if mem != nil {
		m.adopt(size)
		return mem, nil
	}
	err := vm.Room(room)
	if err == nil {
		mem, err = vm.Map(size)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: cannot map %d bytes: %w", ErrNoSpace, size, err)
	}
	m.adopt(size)
	m.unreturned.returnSome()
	return mem, nil
}

// release unmaps memory of acquire. What cannot be unmapped is kept: see unreturned, also for the error.
func (m *mapper) release(mem []byte) error {
	err := m.unreturned.giveBack(mapping{mem: mem})
	m.forget(len(mem))
	return err
}

// closeFile unmaps a file that nobody uses, as release does memory. It leaves the figures alone.
func (m *mapper) closeFile(file dir.File) error {
	return m.unreturned.giveBack(mapping{mem: file.Bytes(), file: file})
}

// adopt counts size bytes that somebody else has mapped, from a file; forget takes them back.
func (m *mapper) adopt(size int) {
	m.bytes.Add(int64(size))
	m.mappings.Add(1)
}

func (m *mapper) forget(size int) {
	m.bytes.Add(int64(-size))
	m.mappings.Add(-1)
}

// segmentPool holds memory of compacted segments that a memory store keeps for its lanes. A fresh
// page costs a Put as much as copying 1 KiB to it, and a program that overwrites as fast as
// compactions give back would pay for one with every record. Only automatic compactions keep
// memory, for no more segments than lanes have begun lately; a maintenance cycle gives back what
// was not used for an Interval.
type segmentPool struct {
	mu      sync.Mutex   // a leaf
	kept    []keptMemory // the oldest first
	begun   int          // segments that lanes began since counted
	counted time.Time
}

// keptMemory is the memory of one segment, of SegmentSize bytes and not zeroed.
type keptMemory struct {
	mem   []byte
	since time.Time
}

// countBegun counts a segment that a lane begins, whether or not its memory is from the pool.
func (p *segmentPool) countBegun() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
}

// take takes out the memory kept last, nil when there is none.
func (p *segmentPool) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.kept)
	if n == 0 {
		return nil
	}
	mem := p.kept[n-1].mem
	p.kept = p.kept[:n-1]
	return mem
}

// takeAll takes out everything, and starts counting begun segments from 0. It returns how many were
// counted, 0 if the count began longer ago than lately.
func (p *segmentPool) takeAll(lately time.Duration) (mems [][]byte, begun int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.counted) <= lately {
		begun = p.begun
	}
	for _, k := range p.kept {
		mems = append(mems, k.mem)
	}
	p.kept, p.begun, p.counted = nil, 0, time.Now()
	return mems, begun
}

// takeUnused takes out what was kept before then. It starts counting begun segments from 0 if the
// count began before then, too.
func (p *segmentPool) takeUnused(then time.Time) (mems [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counted.Before(then) {
		p.begun, p.counted = 0, time.Now()
	}
	for len(p.kept) > 0 && p.kept[0].since.Before(then) {
		mems = append(mems, p.kept[0].mem)
		p.kept = p.kept[1:]
	}
	return mems
}

// keep adds mems.
func (p *segmentPool) keep(mems [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, mem := range mems {
		p.kept = append(p.kept, keptMemory{mem, time.Now()})
	}
}

// count returns how many segments the pool holds memory for.
func (p *segmentPool) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept)
}

// acquire maps size zeroed bytes for a segment. When that fails it gives back what the pool holds,
// and tries once more. The error is ErrNoSpace.
func (s *Store) acquire(size int) ([]byte, error) {
	mem, err := s.mapper.acquire(size)
	if err == nil {
		return mem, nil
	}
	if !s.releasePool() {
		return nil, err
	}
	return s.mapper.acquire(size)
}

// releasePool unmaps what the pool holds, and reports whether that was anything.
func (s *Store) releasePool() bool {
	mems, _ := s.pool.takeAll(0)
	s.releaseAll(mems)
	return len(mems) > 0
}

// releaseAll unmaps each of mems.
func (s *Store) releaseAll(mems [][]byte) {
	for _, mem := range mems {
		s.release(mem)
	}
}

// release unmaps mem. A failure is logged, since no caller could do anything about it.
func (s *Store) release(mem []byte) {
	if err := s.mapper.release(mem); err != nil {
		s.logLater(slog.LevelError, "memory could not be given back", "error", err)
	}
}
