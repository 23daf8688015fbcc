package warmtier

import (
	"fmt"
	"os"
	"sync/atomic"
)

var pageSize = os.Getpagesize()

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
	mem, err := mapPrivate(size)
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
	if err := unmapPrivate(mem); err != nil {
		return fmt.Errorf("warmtier: cannot unmap %d bytes: %w", size, err)
	}
	m.forget(size)
	return nil
}

// touch makes the pages of mem, which is zeroed, present.
func touch(mem []byte) {
	if populate(mem) {
		return
	}
	for i := 0; i < len(mem); i += pageSize {
		mem[i] = 0
	}
}
