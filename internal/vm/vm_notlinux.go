//go:build unix && !linux && !race

package vm

// adviseHuge does nothing: only Linux takes this advice.
func adviseHuge([]byte) {}

// discardsToZero says that memory keeps its bytes, or may keep them.
const discardsToZero = false

// populate does nothing: only Linux knows how.
func populate([]byte) (ok bool) { return false }

// prepareEnds does nothing: only Linux knows how.
func prepareEnds([]byte) {}
