package olricengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Olric's balancer moves what its table says, every second, whether the other owners have had it or not. It sends the
// copy of a node that was a backup owner to the new backup owner, and drops it: when the primary owner is new too, it
// has nothing then, and the backup owner, which had nothing to offer when it looked, believes that it has everything.
//
// So nodes agree on who owns a partition before they move any of it, and drop nothing that they owe:
//
//	O1  What a node imports was sent by one that sees the same owners of the partition, and gives it to all of them.
//	O2  What leaves a fork has been given to all owners that the node sees, and if it is one of them, stays with it in
//	    another fork. A write that may have missed them stays until OfferLate has passed it on.
//
// So each copy is with all owners of some view, and each of those offers it to the owners of the next one.

// ErrOtherOwners is returned by [Engine.Import] for entries from a node that sees other owners of their partition than
// this one: it keeps them, and tries again when both see the same.
var ErrOtherOwners = errors.New("olricengine: the nodes see different owners of a partition")

// Owners is who must have the entries of each partition, as this node sees it.
type Owners struct {
	// Numbers stand for the owners: two nodes that see the same have the same number. None is 0.
	Numbers []uint64
	// Keeps says whether this node is one of them.
	Keeps []bool
	// Given says whether all of them have had everything that this node holds.
	Given []bool
}

// SetOwners tells the engine who the owners are. It is called as soon as a node sees others, before it offers anything
// to them, and again when they have had it. owners must not be changed afterwards. Without a call the engine takes from
// everybody, and gives away whatever Olric asks for.
func (e *Engine) SetOwners(owners *Owners) { e.node.owners.Store(owners) }

// number returns what stands for the owners of a hash key, 0 when the engine does not know any.
func (o *Owners) number(hkey uint64) uint64 {
	if o == nil {
		return 0
	}
	return o.Numbers[o.partition(hkey)]
}

func (o *Owners) partition(hkey uint64) uint64 {
	if o == nil {
		return 0
	}
	return hkey % uint64(len(o.Numbers))
}

// agrees returns nil when the sender of entries, of one partition, sees the same owners of it as this node.
func (n *node) agrees(number uint64, entries []byte) error {
	if len(entries) < 8 {
		return nil // of no partition
	}
	if own := n.owners.Load().number(binary.BigEndian.Uint64(entries)); own != number {
		return fmt.Errorf("%w: the sender %x, this node %x", ErrOtherOwners, number, own)
	}
	return nil
}

// agree reports whether two views of a partition are the same: who owns it, and whether those have had what is here.
func (o *Owners) agree(other *Owners, partition uint64) bool {
	if o == nil || other == nil || o == other {
		return o == other
	}
	return o.Numbers[partition] == other.Numbers[partition] && o.Keeps[partition] == other.Keeps[partition] &&
		o.Given[partition] == other.Given[partition]
}

// leaving returns what reports whether an entry may leave the fork (O2).
func (e *Engine) leaving(owners *Owners) func(hkey uint64) bool {
	if owners == nil {
		return func(uint64) bool { return true }
	}
	others := make(map[uint64][]*Engine) // by partition
	return func(hkey uint64) bool {
		partition := owners.partition(hkey)
		if !owners.Given[partition] || e.node.isLate(place{e, hkey}) {
			return false
		}
		if !owners.Keeps[partition] {
			return true
		}
		forks, looked := others[partition]
		if !looked {
			forks = e.others(func(hkey uint64) bool { return owners.partition(hkey) == partition })
			others[partition] = forks
		}
		own, ok := e.stamp(hkey)
		return ok && slices.ContainsFunc(forks, func(fork *Engine) bool {
			other, ok := fork.stamp(hkey)
			return ok && other.timestamp >= own.timestamp
		})
	}
}

func (n *node) isLate(p place) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, late := n.late[p]
	return late
}

// others returns the other forks of the node that begin with a hash key for which is is true.
func (e *Engine) others(is func(hkey uint64) bool) []*Engine {
	var forks []*Engine
	for _, fork := range e.node.liveForks() {
		if fork == e {
			continue
		}
		if first := fork.from(0, 1); len(first) == 1 && is(first[0]) {
			forks = append(forks, fork)
		}
	}
	return forks
}

func (e *Engine) stamp(hkey uint64) (stamp, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.entries.Get(hkey)
}
