// Package vm maps memory and files: whole pages outside the Go heap, which the garbage collector
// never looks at. It knows nothing of stores, and counts nothing but the mappings of the process, for
// which the system has a limit.
//
// Under the race detector, which does not see mapped memory, everything is on the Go heap instead
// (vm_heap.go): otherwise "race clean" would say nothing about what lies in it.
package vm

import (
	"fmt"
	"os"
)

// PageSize is the size of a page of memory, bytes.
var PageSize = os.Getpagesize()

// RoundUp rounds n up to a multiple of unit, a power of two.
func RoundUp(n, unit int) int { return (n + unit - 1) &^ (unit - 1) }

// Touch makes the pages of mem, which is zeroed, present, so that nobody has to wait for them later.
func Touch(mem []byte) {
	if populate(mem) {
		return
	}
	for i := 0; i < len(mem); i += PageSize {
		mem[i] = 0
	}
}

// Zero makes mem, whole pages, zero. Where the system can do that by giving the pages back it does.
func Zero(mem []byte) {
	if !discardsToZero || Discard(mem) != nil {
		clear(mem)
	}
}

// CutShortError is returned by [Mapping.Sync] when the file has become shorter than its mapping: what
// was written beyond its end is lost.
type CutShortError struct {
	Size   int64 // of the file, bytes
	Mapped int   // bytes
}

// Error gives both sizes.
func (e *CutShortError) Error() string {
	return fmt.Sprintf("file was cut short to %d bytes, it had %d", e.Size, e.Mapped)
}
