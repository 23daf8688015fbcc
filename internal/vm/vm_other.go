//go:build !unix && !race

package vm

import (
	"errors"
	"os"

	"github.com/edsrzf/mmap-go"
)

// OnHeap says that the memory of this build is on the Go heap.
const OnHeap = false

// Map returns size zeroed bytes backed by the page file; without a name they are nobody else's.
func Map(size int) ([]byte, error) {
	return mmap.MapRegion(nil, size, mmap.RDWR, mmap.ANON, 0)
}

// Unmap gives memory of [Map] back to the operating system. After an error it is still mapped, and Unmap
// may be called again.
func Unmap(mem []byte) error {
	m := mmap.MMap(mem)
	return m.Unmap()
}

// Discard keeps the pages: there is no portable way to give them back here.
func Discard([]byte) error { return nil }

// Mapping is never made here: files need flock beside it, which only Unix has.
type Mapping struct{}

// MapFile returns [errors.ErrUnsupported].
func MapFile(*os.File, int, bool) (*Mapping, error) { return nil, errors.ErrUnsupported }

// Bytes returns nothing.
func (*Mapping) Bytes() []byte { return nil }

// PrepareEnds does nothing.
func (*Mapping) PrepareEnds() {}

// Rewrite does nothing.
func (*Mapping) Rewrite(int, int) {}

// Sync returns [errors.ErrUnsupported].
func (*Mapping) Sync(int, int) error { return errors.ErrUnsupported }

// Close does nothing.
func (*Mapping) Close() error { return nil }

// discardsToZero says that memory keeps its bytes, or may keep them.
const discardsToZero = false

// populate does nothing: only Linux knows how.
func populate([]byte) (ok bool) { return false }
