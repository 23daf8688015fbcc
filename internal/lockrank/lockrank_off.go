//go:build !warmtier_invariants

package lockrank

import "sync"

// Mutex is a mutual exclusion lock of rank R.
type Mutex[R Rank] struct{ sync.Mutex }

// LockNth acquires the n-th lock of its rank.
func (m *Mutex[R]) LockNth(int) { m.Lock() }

// Acquiring tells the check that the calling goroutine is about to acquire a lock of rank R that is no
// [Mutex], and Released that it has released it.
func Acquiring[R Rank]() {}

// Released is the counterpart of [Acquiring].
func Released[R Rank]() {}

// AssertHeld panics when the calling goroutine holds no lock of rank R.
func AssertHeld[R Rank]() {}

// AssertBelow panics when the calling goroutine holds a lock of rank R or of a higher one.
func AssertBelow[R Rank]() {}

// AssertUnlocked panics when the calling goroutine holds any lock that has a rank.
func AssertUnlocked() {}
