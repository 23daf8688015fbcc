// Package vm maps memory and files: whole pages outside the Go heap, which the garbage collector
// never looks at. It knows nothing of stores, and counts nothing but the mappings of the process, for
// which the system has a limit.
//
// Under the race detector, which does not see mapped memory, everything is on the Go heap instead
// (vm_heap.go): otherwise "race clean" would say nothing about what lies in it.
package vm

import (
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
