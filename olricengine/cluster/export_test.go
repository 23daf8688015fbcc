package cluster

import (
	"context"
	"iter"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/olric-data/olric/hasher"
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

// BeforeProbes makes a node call fn before it looks whether writes reach another one, which fails with its error.
func BeforeProbes(opts *Options, fn func(name string) error) { opts.probing = fn }

// AfterChunks makes a node call fn when all owners have taken a chunk, before it forgets it.
func AfterChunks(opts *Options, fn func()) { opts.given = fn }

// Lacking returns how many of the ids each node lacks that must have them.
func Lacking(ctx context.Context, c *Cluster, ids iter.Seq[string]) (map[string]int, error) {
	v, err := c.see(ctx)
	if err != nil {
		return nil, err
	}
	lacking := make(map[string]int)
	for id := range ids {
		owners := v.owners[hasher.NewDefaultHasher().Sum64([]byte(c.opts.Name+id))%uint64(c.opts.Partitions)]
		if len(owners) != c.opts.Replicas {
			return nil, errUnsettled
		}
		for _, o := range owners {
			command := []any{"dm.getentry", c.opts.Name, id}
			if o.kind == backup {
				command = append(command, "RC")
			}
			if c.wire.to(o.name).Do(ctx, command...).Err() != nil {
				lacking[o.name]++
			}
		}
	}
	return lacking, nil
}

// FailStart lets a node find that Olric has ended with err.
func FailStart(c *Cluster, err error) { c.started <- err }

// StayedUntil writes down that a node was there.
func StayedUntil(c *Cluster, now time.Time) error { return c.stayedUntil(now) }

// SetClock makes a node take the time of now, when it looks whether what it recovered may still be offered.
func SetClock(opts *Options, now func() time.Time) { opts.now = now }

// IsFull reports whether a probe may have failed since a node has no room.
var IsFull = isFull

// PushInterval is how often the coordinator sends its table.
var PushInterval = Options.pushInterval

// Gossip returns how a node tells others about members.
func Gossip(opts Options) (*memberlist.Config, error) {
	configuration, err := opts.withDefaults().olric(nil)
	if err != nil {
		return nil, err
	}
	return configuration.MemberlistConfig, nil
}

// Like returns an error without figures.
var Like = like
