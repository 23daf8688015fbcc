package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/warmtier/warmtier/olricengine"
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
		c.pause(reconcileInterval)
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
	if err := c.probeAll(v); err != nil {
		return nil, err
	}
	c.engine.Mark(func(hkey uint64) bool {
		return v.owners[hkey%uint64(c.opts.Partitions)][0].name == c.self
	})
	if err := c.offer(c.ending, v); err != nil {
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
	return v, c.offerLate(v)
}

// offerLate gives owners what was written while they became owners.
func (c *Cluster) offerLate(v *view) error {
	return c.engine.OfferLate(uint64(c.opts.Partitions), func(chunk olricengine.Chunk) error {
		return c.give(c.ending, v, chunk, func(owner) bool { return true })
	})
}

// offeredAll reports whether all owners have had what this node holds.
func (c *Cluster) offeredAll(v *view) bool {
	for partition := range v.owners {
		if c.lacks(v, uint64(partition)) {
			return false
		}
	}
	return c.engine.Recovered() == 0
}

// lacks reports whether some owner has not had the partition from this node.
func (c *Cluster) lacks(v *view, partition uint64) bool {
	for _, o := range v.owners[partition] {
		if !c.offered[partition][o] {
			return true
		}
	}
	return false
}

// offer gives every owner what it has not had.
func (c *Cluster) offer(ctx context.Context, v *view) error {
	c.opts.offering()
	recovered := c.engine.Recovered() > 0
	err := c.engine.Offer(uint64(c.opts.Partitions),
		func(partition uint64) bool { return recovered || c.lacks(v, partition) },
		func(chunk olricengine.Chunk) error {
			return c.give(ctx, v, chunk, func(o owner) bool { return recovered || !c.offered[chunk.Partition][o] })
		})
	if err != nil {
		return err
	}
	if n, err := c.engine.Damaged(); n != 0 {
		c.opts.Logger.Error("cluster: entries that cannot be read are not offered",
			"node", c.self, "entries", n, "error", err)
	}
	for partition, owners := range v.owners {
		c.offered[partition] = make(map[owner]bool, len(owners))
		for _, o := range owners {
			c.offered[partition][o] = true
		}
	}
	return nil
}

// give has those owners of the chunk's partition merge it for which wants is true.
func (c *Cluster) give(ctx context.Context, v *view, chunk olricengine.Chunk, wants func(owner) bool) error {
	for _, o := range v.owners[chunk.Partition] {
		if !wants(o) {
			continue
		}
		if err := c.wire.move(ctx, o, c.opts.Name, chunk); err != nil {
			return err
		}
		c.mu.Lock()
		c.progress.OfferedBytes += int64(len(chunk.Payload))
		c.mu.Unlock()
	}
	c.mu.Lock()
	c.progress.Offered += int64(chunk.Entries)
	c.mu.Unlock()
	return nil
}

// handOver gives what this node holds to those who own it without this node.
func (c *Cluster) handOver(ctx context.Context, others []member) error {
	var failed error // as long as they still list this node, it cannot be reached
	for attempt := 0; ; attempt++ {
		asked := others[attempt%len(others)]
		v, err := c.wire.view(ctx, asked.name, c.opts)
		if err == nil {
			err = c.engine.Offer(uint64(c.opts.Partitions), func(uint64) bool { return true },
				func(chunk olricengine.Chunk) error {
					return c.give(ctx, v, chunk, func(owner) bool { return true })
				})
		}
		if err == nil {
			return nil
		}
		failed = err
		select {
		case <-ctx.Done():
			return errors.Join(failed, context.Cause(ctx))
		case <-time.After(reconcileInterval):
		}
	}
}
