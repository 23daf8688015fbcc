package cluster

import (
	"context"
	"time"

	"github.com/warmtier/warmtier/olricengine"
)

// ExpireEvery makes a node remove what has expired more often than it would.
func ExpireEvery(opts *Options, interval time.Duration) { opts.expireInterval = interval }

// BeforeOffers makes a node call fn before it offers what it holds.
func BeforeOffers(opts *Options, fn func()) { opts.offering = fn }

// Patiently is what repeats the calls of a cluster.
var Patiently = patiently

// Probe looks whether a write of this node, to a partition that it is the primary owner of, reaches
// the backup owner, and with another node's name whether it reaches that.
func Probe(ctx context.Context, c *Cluster, other *Cluster) (tried, reached int, err error) {
	v, err := c.see(ctx)
	if err != nil {
		return 0, 0, err
	}
	for partition, owners := range v.owners {
		if owners[0].name != c.self {
			continue
		}
		for _, o := range owners[1:] {
			if err := c.probe(ctx, partition, o); err != nil {
				return tried, reached, err
			}
			tried++
			// What an earlier probe may have left there says nothing.
			old := &olricengine.Entry{}
			id := c.probeID(partition)
			old.SetKey(id)
			old.SetValue(marked(kindProbe, []byte("old")))
			o.name = other.self
			if err := c.wire.to(o.name).Do(ctx, "dm.putentry", c.opts.Name, id, old.Encode()).Err(); err != nil {
				return tried, reached, err
			}
			if c.probe(ctx, partition, o) == nil {
				reached++
			}
		}
	}
	return tried, reached, nil
}

// ConnectionsAfter returns how many nodes c has connections to, after it was told of one more.
func ConnectionsAfter(c *Cluster, name string) (int, error) {
	err := c.wire.ping(context.Background(), name)
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return len(c.wire.clients), err
}
