package warmtier

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

// mapper maps memory outside the Go heap for segments and tables, counts what is mapped, and gives
// failures the errors of this package. It is safe for concurrent use.
//
// Under the race detector the memory is on the Go heap (see internal/vm): the detector sees nothing
// that is not, and "race clean" would otherwise say nothing about contents.
type mapper struct {
	limit      int64        // of bytes; 0: none. Set by Open
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
// error is ErrNoSpace, as that of claim.
func (m *mapper) acquire(size int) ([]byte, error) { return m.acquireFor(1, size) }

// acquireTarget is acquire for a target, which may be one mapping too many.
func (m *mapper) acquireTarget(size int) ([]byte, error) { return m.acquireFor(1-targetSlack, size) }

// acquireFor is acquire while the process has room for so many mappings.
func (m *mapper) acquireFor(room, size int) ([]byte, error) {
	if err := m.claim(size); err != nil {
		return nil, err
	}
	if mem := m.unreturned.take(size); mem != nil {
		return mem, nil
	}
	err := vm.Room(room)
	var mem []byte
	if err == nil {
		mem, err = vm.Map(size)
	}
	if err != nil {
		m.forget(size)
		return nil, fmt.Errorf("%w: cannot map %d bytes: %w", ErrNoSpace, size, err)
	}
	m.unreturned.returnSome()
	return mem, nil
}

// claim counts size bytes that are about to be mapped, unless they are over the limit: then it returns
// errOverBudget.
func (m *mapper) claim(size int) error {
	for {
		now := m.bytes.Load()
		if m.limit > 0 && now+int64(size) > m.limit {
			return errOverBudget
		}
		if m.bytes.CompareAndSwap(now, now+int64(size)) { // never over the limit, not even for a moment
			m.mappings.Add(1)
			return nil
		}
	}
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

// adopt counts size bytes that somebody else has mapped, whatever the limit; forget takes back what
// claim or adopt counted.
func (m *mapper) adopt(size int) {
	m.bytes.Add(int64(size))
	m.mappings.Add(1)
}

func (m *mapper) forget(size int) {
	m.bytes.Add(int64(-size))
	m.mappings.Add(-1)
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
