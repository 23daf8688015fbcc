//go:build unix && !race

package warmtier

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

const tablesShareBlocks = true // see tableMemory

// mapPrivate asks for COPY together with ANON: ANON alone is shared memory, which the kernel charges
// as such and which madvise does not give back.
func mapPrivate(size int) ([]byte, error) {
	mem, err := mmap.MapRegion(nil, size, mmap.COPY, mmap.ANON, 0)
	if err != nil {
		return nil, err
	}
	adviseHuge(mem)
	return mem, nil
}

func unmapPrivate(mem []byte) error {
	m := mmap.MMap(mem)
	return m.Unmap()
}

// discard gives the pages of mem, whole pages, back and leaves it mapped; mmap-go has no advice.
func discard(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	return unix.Madvise(mem, unix.MADV_DONTNEED)
}

// mapping is a file mapped into memory. It needs no descriptor: the mapping holds the file, and
// msync reports the errors of its pages.
type mapping struct {
	mem  mmap.MMap
	path string
}

// mapFile maps the size bytes of f, and closes f when it succeeds.
func mapFile(f *os.File, size int, writable bool) (mappedFile, error) {
	prot := mmap.RDONLY
	if writable {
		prot = mmap.RDWR
	}
	mem, err := mmap.MapRegion(f, size, prot, 0, 0)
	if err != nil {
		return nil, err
	}
	return &mapping{mem: mem, path: f.Name()}, f.Close()
}

func (m *mapping) bytes() []byte { return m.mem }
func (m *mapping) close() error  { return m.mem.Unmap() }

// rewrite makes pages dirty that the kernel may believe clean. It copies by way of a buffer, since the
// compiler leaves out a store of what was loaded from the same place.
func (m *mapping) rewrite(from, to int) {
	var buf [512]byte
	for from < to {
		n := copy(buf[:], m.mem[from:to])
		from += copy(m.mem[from:to], buf[:n])
	}
}

func (m *mapping) rename(to string) error {
	path := filepath.Join(filepath.Dir(m.path), to)
	if err := os.Rename(m.path, path); err != nil {
		return err
	}
	m.path = path
	return nil
}

// sync flushes the pages that hold the bytes from from to to. msync wants whole pages, and mmap-go
// flushes what it is given.
func (m *mapping) sync(from, to int) error {
	from -= from % pageSize
	to = min(roundUp(to, pageSize), len(m.mem))
	if from >= to {
		return nil
	}
	if err := m.mem[from:to].Flush(); err != nil {
		return err
	}
	// msync of pages beyond the end of the file succeeds, and writes nothing.
	info, err := os.Stat(m.path)
	if err != nil {
		return err
	}
	if info.Size() < int64(len(m.mem)) {
		return &CorruptError{
			File: filepath.Base(m.path), Offset: info.Size(),
			Reason: fmt.Sprintf("file was cut short, it had %d bytes", len(m.mem)),
		}
	}
	return syncDevice(m.path)
}
