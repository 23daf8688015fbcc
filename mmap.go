package warmtier

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/vm"
)

// mapper maps memory outside the Go heap for segments and tables, counts what is mapped, and gives
// failures the errors of this package. It is safe for concurrent use.
//
// Under the race detector the memory is on the Go heap (see internal/vm): the detector sees nothing
// that is not, and "race clean" would otherwise say nothing about contents.
type mapper struct {
	limit    int64        // of bytes; 0: none. Set by Open
	bytes    atomic.Int64 // mapped and not unmapped
	mappings atomic.Int64
}

// acquire maps size zeroed bytes, private to the process; size is a multiple of the page size. The
// error is ErrNoSpace, as that of claim.
func (m *mapper) acquire(size int) ([]byte, error) {
	if err := m.claim(size); err != nil {
		return nil, err
	}
	mem, err := vm.Map(size)
	if err != nil {
		m.forget(size)
		return nil, fmt.Errorf("%w: cannot map %d bytes: %w", ErrNoSpace, size, err)
	}
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

// release unmaps memory of acquire.
func (m *mapper) release(mem []byte) error {
	size := len(mem)
	if err := vm.Unmap(mem); err != nil {
		return fmt.Errorf("warmtier: cannot unmap %d bytes: %w", size, err)
	}
	m.forget(size)
	return nil
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
