//go:build linux && !race

package vm

import "golang.org/x/sys/unix"

// hugePageSize is where asking for huge pages begins to make sense.
const hugePageSize = 2 << 20 // bytes

// discardsToZero says that memory of Map is zero after Discard.
const discardsToZero = true

// adviseHuge asks for huge pages under mem. A first touch is a page fault, which costs a few us, and
// on virtual machines over 10: with pages of 2 MiB there are 512 times fewer. Where the kernel has
// none to give, everything works as before.
func adviseHuge(mem []byte) {
	if len(mem) >= hugePageSize {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	}
}

// populate makes the pages of mem present with one system call in place of a page fault each. ok is false
// where the kernel does not know how (before Linux 5.14), or cannot.
func populate(mem []byte) (ok bool) {
	return len(mem) == 0 || unix.Madvise(mem, unix.MADV_POPULATE_WRITE) == nil
}

// prepareEnds makes the first and the last page of mem present, and none beside them. A page that cannot be had is left
// to whoever touches it.
func prepareEnds(mem []byte) {
	if len(mem) < 2*PageSize || unix.Madvise(mem, unix.MADV_RANDOM) != nil {
		return
	}
	last := len(mem) - 1
	for _, end := range [][]byte{mem[:PageSize], mem[last-last%PageSize:]} {
		_ = unix.Madvise(end, unix.MADV_POPULATE_WRITE)
	}
	_ = unix.Madvise(mem, unix.MADV_NORMAL)
}
