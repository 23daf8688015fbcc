//go:build race

package warmtier

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
