// Package lockrank checks, in test builds, that locks are taken in order: every lock has a rank, and a
// goroutine that holds one acquires only locks of higher ranks. Locks of one rank have an order among
// themselves where they are acquired by LockNth: that of the numbers they are given there. Which lock has
// which rank is the business of its user.
//
// The check is built with the tag warmtier_invariants. Without it a [Mutex] is a plain [sync.Mutex],
// and everything else here compiles to nothing.
package lockrank

// Rank orders the kinds of locks. A kind is an empty struct type, so that a [Mutex] carries its rank
// in its type and pays nothing for it.
type Rank interface{ Rank() int }
