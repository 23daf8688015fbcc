//go:build !warmtier_invariants

package warmtier

import "sync"

// rankedMutex is the plain mutex of package sync; under the build tag warmtier_invariants every lock
// checks its rank instead (lockorder_on.go).
type rankedMutex[R rank] struct{ sync.Mutex }

// acquiring and released are what contentLock tells the check.
func acquiring[R rank]() {}
func released[R rank]()  {}

// assertHeld panics under warmtier_invariants when the calling goroutine holds no lock of rank R.
func assertHeld[R rank]() {}

// assertUnlocked panics under warmtier_invariants when the calling goroutine holds a lock.
func assertUnlocked() {}
