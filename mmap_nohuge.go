//go:build unix && !linux && !race

package warmtier

// adviseHuge does nothing: only Linux takes this advice.
func adviseHuge([]byte) {}
