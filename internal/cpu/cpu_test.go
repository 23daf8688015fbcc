package cpu

import "testing"

// Goal: Prefetch takes whatever it is given: nothing, a part of a line, many lines, unaligned ones.
// Method: a call that read or wrote would fault on the address that is not mapped.
func TestPrefetch_AnyMemory(t *testing.T) {
	mem := make([]byte, 10*CacheLines)
	for from := range 70 {
		for _, n := range []int{0, 1, 63, 64, 65, 5 * CacheLines} {
			Prefetch(mem[from : from+n])
		}
	}
	Prefetch(nil)
	Prefetch(unmapped(t))
	for i, b := range mem {
		if b != 0 {
			t.Fatalf("byte %d was written", i)
		}
	}
}
