//go:build !unix && !race

package warmtier

import (
	"errors"
	"os"

	"github.com/edsrzf/mmap-go"
)

const tablesShareBlocks = true // see tableMemory

// mapPrivate maps memory backed by the page file; without a name it is nobody else's.
func mapPrivate(size int) ([]byte, error) {
	return mmap.MapRegion(nil, size, mmap.RDWR, mmap.ANON, 0)
}

func unmapPrivate(mem []byte) error {
	m := mmap.MMap(mem)
	return m.Unmap()
}

// discard keeps the pages: there is no portable advice for it here.
func discard([]byte) error { return nil }

// mapFile is not needed: directory stores need flock, which only Unix has.
func mapFile(*os.File, int, bool) (mappedFile, error) { return nil, errors.ErrUnsupported }

// populate does nothing: only Linux knows how.
func populate([]byte) (ok bool) { return false }
