//go:build race

package warmtier

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// tablesShareBlocks is false so that each table is overwritten when it is given back.
const tablesShareBlocks = false

// mapPrivate returns memory the race detector watches.
func mapPrivate(size int) ([]byte, error) { return make([]byte, size), nil }

// unmapPrivate overwrites what it takes back: on the heap, a use after it would otherwise go
// unnoticed. The detector also sees this write race with any reader that is left.
func unmapPrivate(mem []byte) error {
	for i := range mem {
		mem[i] = 0xdb
	}
	return nil
}

// discard gives the pages of mem back and leaves it mapped.
func discard([]byte) error { return nil }

// mapping is a file read onto the heap. Bytes reach the file with sync and close.
type mapping struct {
	f        *os.File
	mem      []byte
	writable bool
}

func mapFile(f *os.File, size int, writable bool) (mappedFile, error) {
	mem := make([]byte, size)
	if _, err := f.ReadAt(mem, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return &mapping{f: f, mem: mem, writable: writable}, nil
}

func (m *mapping) bytes() []byte { return m.mem }

// rewrite has nothing to do: sync writes what it is told, whatever was written before.
func (m *mapping) rewrite(int, int) {}

func (m *mapping) sync(from, to int) error {
	if _, err := m.f.WriteAt(m.mem[from:to], int64(from)); err != nil {
		return err
	}
	return m.f.Sync()
}

// rename is called once at most: f goes on under the name it was opened with.
func (m *mapping) rename(to string) error {
	return os.Rename(m.f.Name(), filepath.Join(filepath.Dir(m.f.Name()), to))
}

func (m *mapping) close() error {
	var err error
	if m.writable {
		_, err = m.f.WriteAt(m.mem, 0)
	}
	return errors.Join(err, m.f.Close())
}

// populate does nothing: the memory is on the heap.
func populate([]byte) (ok bool) { return false }
