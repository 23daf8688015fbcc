package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/olric-data/olric"
	"github.com/olric-data/olric/hasher"
	"github.com/olric-data/olric/pkg/storage"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// A view is what the coordinator of the cluster has. This node writes by a table of its own, which
// the coordinator has sent it, or is about to. Olric tells that table to nobody:
// EmbeddedClient.Stats would, but reads the members without their lock (stats.go, stats), which
// ends the process when one joins at the same moment. So a write is made where a backup owner is
// new, and looked for there.

// probeKept is how long such a write stays.
const probeKept = time.Minute

// probeAll looks whether writes that begin on this node reach the owners in the view. Where a node has no room for a
// probe nobody knows: those deliveries are unproven, and refused is the first such error. Other errors are that writes
// do not reach the owners yet.
func (c *Cluster) probeAll(v *view) (unproven map[delivery]bool, refused, err error) {
	unproven = make(map[delivery]bool)
	full := make(map[string]bool) // what one probe has found is not asked again
	for partition, owners := range v.owners {
		if owners[0].name != c.self {
			continue
		}
		for _, o := range owners[1:] {
			if c.offered[partition][o] {
				continue
			}
			if !full[o.name] {
				err := c.opts.probing(o.name)
				if err == nil {
					err = c.probe(c.ending, partition, o)
				}
				if err == nil {
					continue
				}
				if !isFull(err) {
					return nil, nil, err
				}
				full[o.name] = true
				refused = cmp.Or(refused, fmt.Errorf("a write of partition %d, also for %s: %w", partition, o.name, err))
			}
			unproven[delivery{uint64(partition), o}] = true
		}
	}
	return unproven, refused, nil
}

// isFull reports whether a write may have failed since a node has no room. Of another node's refusal Olric passes on
// the text, or only that there is no quorum; and a store waits for a compaction, for longer than Olric waits for an
// answer, before it refuses.
func isFull(err error) bool {
	network := net.Error(nil)
	return errors.Is(known(err), warmtier.ErrNoSpace) || errors.Is(err, olric.ErrWriteQuorum) ||
		errors.As(err, &network) && network.Timeout()
}

// probe writes to the partition, and returns nil when the backup owner has it.
func (c *Cluster) probe(ctx context.Context, partition int, o owner) error {
	id := c.probeID(partition)
	value := marked(kindProbe, strconv.AppendInt(nil, time.Now().UnixNano(), 10))
	began := time.Now()
	if err := c.dmap.Put(ctx, id, value, olric.PX(probeKept)); err != nil {
		return c.explain(err, began)
	}
	encoded, err := c.wire.replica(ctx, o.name, c.opts.Name, id)
	if err != nil {
		return fmt.Errorf("%w: partition %d on %s: %w", errUnsettled, partition, o.name, err)
	}
	var entry storage.Entry = &olricengine.Entry{}
	entry.Decode(encoded)
	if string(entry.Value()) != string(value) {
		return fmt.Errorf("%w: a write of partition %d did not reach %s", errUnsettled, partition, o.name)
	}
	return nil
}

// probeID returns an id of the partition.
func (c *Cluster) probeID(partition int) string {
	hash := hasher.NewDefaultHasher()
	for i := 0; ; i++ {
		id := probeID + strconv.Itoa(i)
		if hash.Sum64([]byte(c.opts.Name+id))%uint64(c.opts.Partitions) == uint64(partition) {
			return id
		}
	}
}
