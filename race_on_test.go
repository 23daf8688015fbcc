//go:build race

package warmtier

const raceEnabled = true
