package cluster

import (
	"errors"
	"slices"
	"time"
)

// Olric replicates what is written, and moves what a node should no longer have. What is missing is
// done here: when the owners of a partition have changed, every node that holds some of it offers
// that to the owners who are new, and a node that has come back with a directory offers what it had
// to all of them. The owner merges: timestamps decide, so offers may repeat, overlap and come late.
// A write that is on its way to the owners of before, while this happens, is offered afterwards
// (olricengine.Engine.Mark); whether writes go to the new ones is found out by writing (probe).
//
// When a node has nothing more to offer for a view, it announces the view's signature, as a memory
// of the cluster. The cluster is ready when all members of a view have announced it.

// reconcileInterval is how often a node looks whether members have changed, which it knows by
// itself.
const reconcileInterval = 200 * time.Millisecond

// reconcile keeps copies where they belong until the node ends. The coordinator is asked for its
// table all the time after something has changed, since it makes new ones then, and otherwise as
// often as it makes one anyway.
func (c *Cluster) reconcile() {
	var changed, looked, announced time.Time
	for c.ending.Err() == nil {
		began := time.Now()
		members, err := c.wire.members(c.ending, c.self)
		if err == nil && !slices.Equal(members, c.members()) {
			changed = time.Now()
		}
		if err == nil && (time.Since(changed) < 2*tableInterval || time.Since(looked) > tableInterval) {
			var v *view
			if v, err = c.follow(); err != nil || c.announced.Load() != v.signature {
				changed = time.Now()
			}
			// An announcement goes the way of all memories, and one may have gone with the nodes
			// that had it.
			if err == nil && (c.announced.Load() != v.signature || time.Since(announced) > tableInterval) {
				if err = c.announce(c.ending, v); err == nil {
					c.announced.Store(v.signature)
					announced = time.Now()
				}
			}
			looked = time.Now()
		} else if err == nil {
			err = c.offerLate(c.view())
		}
		c.note("reconciling", err)
		if err != nil {
			c.pause(retryAfter(time.Since(began)))
		} else {
			c.pause(reconcileInterval)
		}
	}
}

// follow offers what the owners of now do not have, and returns the view of them.
func (c *Cluster) follow() (*view, error) {
	v, err := c.see(c.ending)
	if err != nil {
		return nil, err
	}
	if before := c.view(); before != nil && before.signature == v.signature && c.offeredAll(v) {
		return v, c.offerLate(v)
	}
	c.offered.forget(v)
	c.enter(v, c.offered)
	unproven, refused, err := c.probeAll(v)
	if err != nil {
		return nil, err
	}
	c.engine.Mark(func(hkey uint64) bool {
		return v.owners[hkey%uint64(c.opts.Partitions)][0].name == c.self
	})
	// An owner that cannot take what it lacks keeps no other waiting, nor late writes.
	if err := errors.Join(refused, c.offer(c.ending, v, unproven), c.offerLate(v)); err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for _, m := range v.members {
		names[m.name] = true
	}
	c.wire.keep(names)
	c.mu.Lock()
	c.latest = v
	c.mu.Unlock()
	c.opts.Logger.Info("cluster: every owner has what this node holds",
		"node", c.self, "members", len(v.members), "entries", c.Progress().Offered)
	return v, nil
}
