//go:build race

package vm

import (
	"errors"
	"io"
	"os"
)

// OnHeap says that the memory of this build is on the Go heap.
const OnHeap = true

// Map returns size zeroed bytes that the race detector watches.
func Map(size int) ([]byte, error) { return make([]byte, size), nil }

// Unmap overwrites what it takes back: on the heap, a use after it would otherwise go unnoticed. The
// detector also sees this write race with any reader that is left.
func Unmap(mem []byte) error {
	for i := range mem {
		mem[i] = 0xdb
	}
	return nil
}

// Discard does nothing here.
func Discard([]byte) error { return nil }

// Mapping is a file read onto the heap. Bytes reach the file with Sync and Close.
type Mapping struct {
	f        *os.File
	mem      []byte
	writable bool
}

// MapFile reads the first size bytes of f.
func MapFile(f *os.File, size int, writable bool) (*Mapping, error) {
	mem := make([]byte, size)
	if _, err := f.ReadAt(mem, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &Mapping{f: f, mem: mem, writable: writable}, nil
}

// Bytes returns the bytes of the file.
func (m *Mapping) Bytes() []byte { return m.mem }

// PrepareEnds has nothing to do.
func (m *Mapping) PrepareEnds() {}

// Rewrite has nothing to do: Sync writes what it is told, whatever was written before.
func (m *Mapping) Rewrite(int, int) {}

// Sync writes the bytes below head and those from tail on to the file, and makes them durable. It leaves alone
// what lies between, where others may be writing.
func (m *Mapping) Sync(head, tail int) error {
	if _, err := m.f.WriteAt(m.mem[:head], 0); err != nil {
		return err
	}
	if _, err := m.f.WriteAt(m.mem[tail:], int64(tail)); err != nil {
		return err
	}
	return m.f.Sync()
}

// Close writes everything to the file, and closes it. After an error of the writing it may be called
// again.
func (m *Mapping) Close() error {
	if m.writable {
		if _, err := m.f.WriteAt(m.mem, 0); err != nil {
			return err
		}
	}
	return m.f.Close()
}

// discardsToZero says that memory keeps its bytes, or may keep them.
const discardsToZero = false

// populate does nothing: the memory is on the heap.
func populate([]byte) (ok bool) { return false }
