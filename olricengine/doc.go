// Package olricengine lets Olric, the distributed map, keep its entries in a warmtier store:
// outside the Go heap, with space that comes back while reads and writes go on, and in a directory
// if wanted.
//
// One [Engine] serves one Olric node, over one store:
//
//	store, err := warmtier.Open("", nil)
//	engine, err := olricengine.New(store, olricengine.Options{})
//	c.DMaps.Engine.Implementation = engine // c is Olric's config.Config
//
// Olric asks it for a fork per partition and distributed map. A fork is a prefix of ids, and an
// ordered set of the hash keys that it has; everything else about an entry is in the content of its
// memory.
//
// Programs that want a cluster rather than an engine use the package cluster below this one, which
// also decides what happens when nodes go and come back.
//
// # Last write wins
//
// An entry never takes the place of one with a later timestamp, whichever way it arrives: a delayed
// replica, a read repair that was overtaken, a fragment from a node that was away. Such a write is
// not an error: it has come too late. A write that begins on this node is always later than what
// the node has seen, of other nodes too, so that clocks that are apart by seconds change nothing.
// Where they are apart by more than a minute it can fail, with a [ClockError].
package olricengine
