//go:build !race

package warmtier

const raceEnabled = false
