//go:build unix && !race

package warmtier

import (
	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

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
