//go:build unix && !race

package vm

import (
	"errors"
	"os"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// OnHeap says that the memory of this build is on the Go heap.
const OnHeap = false

// Map returns size zeroed bytes, private to the process; size is a multiple of [PageSize].
//
// It asks for COPY together with ANON: ANON alone is shared memory, which the kernel charges as such
// and which madvise does not give back.
func Map(size int) ([]byte, error) {
	mem, err := mmap.MapRegion(nil, size, mmap.COPY, mmap.ANON, 0)
	if err != nil {
		return nil, err
	}
	mapped.anonymous(1)
	adviseHuge(mem)
	return mem, nil
}

// Unmap gives memory of [Map] back to the operating system. After an error it is still mapped, and Unmap
// may be called again: near the limit of mappings (see [Room]) the kernel refuses to cut one in two.
func Unmap(mem []byte) error {
	m := mmap.MMap(mem)
	if err := m.Unmap(); err != nil {
		return err
	}
	mapped.anonymous(-1)
	return nil
}

// Discard gives the pages of mem, whole pages, back and leaves it mapped and zeroed. (mmap-go offers no
// madvise.)
func Discard(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	return unix.Madvise(mem, unix.MADV_DONTNEED)
}

// Mapping is a file mapped into memory. It needs no descriptor: the mapping holds the file, and msync
// reports the errors of its pages.
type Mapping struct{ mem mmap.MMap }

// MapFile maps the first size bytes of f, and closes f when it succeeds. Where closing fails, which may
// mean that the file lacks what was written to it, nothing stays mapped.
func MapFile(f *os.File, size int, writable bool) (*Mapping, error) {
	prot := mmap.RDONLY
	if writable {
		prot = mmap.RDWR
	}
	mem, err := mmap.MapRegion(f, size, prot, 0, 0)
	if err != nil {
		return nil, err
	}
	mapped.file(1)
	m := &Mapping{mem: mem}
	if err := f.Close(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Bytes returns the bytes of the file. They are valid until Close.
func (m *Mapping) Bytes() []byte { return m.mem }

// PrepareEnds makes the first and the last page of a new file present, alone. The first touch of a page in a file
// has the kernel fill what its read-ahead says around it, up to megabytes of zeros, and who writes the rest with system
// calls has no use for them. It does what it can.
func (m *Mapping) PrepareEnds() { prepareEnds(m.mem) }

// Close unmaps the file. What was written and not synced stays in the operating system's cache. After an
// error the file is still mapped, with none of its pages in this process, and Close may be called again.
func (m *Mapping) Close() error {
	mem := m.mem
	if err := mem.Unmap(); err != nil {
		_ = Discard(m.mem) // it saves memory, as far as it can
		return err
	}
	mapped.file(-1)
	m.mem = nil
	return nil
}

// Rewrite makes the pages of bytes from to to dirty although the kernel may believe them clean, so that
// the next Sync leaves none of them out. It copies by way of a buffer, since the compiler would drop a
// store of what was loaded from the same place.
func (m *Mapping) Rewrite(from, to int) {
	var buf [512]byte
	for from < to {
		n := copy(buf[:], m.mem[from:to])
		from += copy(m.mem[from:to], buf[:n])
	}
}

// Sync makes the bytes below head and those from tail on durable. What lies between goes with them where
// both are asked for: one msync of all of it writes the dirty pages and waits for the disk once, two would wait
// twice (78 and 112 us for three pages, ext4). It takes whole pages, since msync takes nothing else and mmap-go
// flushes what it is given. After one that failed, a later one may leave out what the failed one should
// have written: see Rewrite. It says nothing of pages beyond the end of a file that was cut short, and on
// macOS it stops short of the cache of the device.
func (m *Mapping) Sync(head, tail int) error {
	from, to := 0, len(m.mem)
	if tail >= to {
		to = min(RoundUp(head, PageSize), to)
	} else if head <= 0 {
		from = tail - tail%PageSize
	}
	if from >= to {
		return nil
	}
	return m.mem[from:to].Flush()
}
