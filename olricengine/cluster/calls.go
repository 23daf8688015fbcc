package cluster

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/olric-data/olric"
	"github.com/warmtier/warmtier"
)

// maxIDSize is the longest id that Olric takes, bytes.
const maxIDSize = 255

// checkID returns the error for an id that cannot be used.
func checkID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: it is empty", warmtier.ErrInvalidID)
	case len(id) > maxIDSize:
		return fmt.Errorf("%w: it has %d bytes, of at most %d", warmtier.ErrInvalidID, len(id), maxIDSize)
	case strings.HasPrefix(id, reserved):
		return fmt.Errorf("%w: %q is how ids of nodes begin", warmtier.ErrInvalidID, reserved)
	}
	return nil
}

// Put stores a memory, on Options.WriteQuorum nodes before it returns nil. An id has 1 to 255
// bytes. Put may be called again after an error: the content may then be there, on some nodes or on
// all, or not. For some seconds after a node was killed, writes whose partition it had a copy of
// fail. After a Close or Leave few do, if any: nodes may have different tables for some milliseconds, seldom for a
// second (five, with more than 1,250 partitions), and a write that they pass to and fro fails after 2 s, as any does
// that waits so long for a connection. The error is redis.ErrPoolTimeout of go-redis then, or has its text.
//
// Errors: warmtier.ErrInvalidID; olric.ErrWriteQuorum, olric.ErrClusterQuorum and others of Olric
// and the network; that of ctx, which is looked at before the write and not within. When this node
// refuses a write, because its memory budget or its disk is used up, the error is that of its store
// too, warmtier.ErrNoSpace for example; of another node Olric passes on the text, or only that
// there is no quorum, and that node's Stats and log say why.
func (c *Cluster) Put(ctx context.Context, id string, content []byte) error {
	return c.put(ctx, id, encodeContent(content))
}

// maxTTL is the longest time to live: Olric adds it to the nanoseconds since 1970, and what is
// beyond 64 bits would be long over.
const maxTTL = 100 * 365 * 24 * time.Hour

// PutTTL stores a memory that is absent once ttl is over, to the millisecond, and is otherwise as
// Put. More than 100 years are taken for 100 years. Errors: also warmtier.ErrInvalidTTL.
func (c *Cluster) PutTTL(ctx context.Context, id string, content []byte, ttl time.Duration) error {
	if ttl < time.Millisecond {
		return fmt.Errorf("%w: %v, less than a millisecond", warmtier.ErrInvalidTTL, ttl)
	}
	return c.put(ctx, id, encodeContent(content), olric.PX(min(ttl, maxTTL)))
}

// Delete makes an id absent; one that has no memory is no error. It is a write of a marker, which
// takes the place of the content on every node, and is kept for Options.DeletionsKept. Errors:
// those of Put.
func (c *Cluster) Delete(ctx context.Context, id string) error {
	return c.put(ctx, id, marked(kindDeleted, nil), olric.PX(c.opts.DeletionsKept))
}

func (c *Cluster) put(ctx context.Context, id string, value []byte, options ...olric.PutOption) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := c.usable(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	err := patiently(ctx, func() error { return c.dmap.Put(ctx, id, value, options...) })
	return c.explain(err, began)
}

const (
	// joiningTime is how long a call goes on while a node that has part in it has no table yet. One
	// that joins has it within milliseconds; one that was killed and is there again when the
	// coordinator has noticed.
	joiningTime  = time.Second
	joiningPause = 20 * time.Millisecond
)

// patiently repeats a call that failed since a node has no table yet (see bootstrapTimeout), for joiningTime and
// until ctx ends.
func patiently(ctx context.Context, call func() error) error {
	patience := time.Now().Add(joiningTime)
	for {
		err := call()
		if !errors.Is(err, olric.ErrOperationTimeout) || time.Now().After(patience) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(joiningPause):
		}
	}
}

// explain adds to an error of Olric what this node knows of its cause.
func (c *Cluster) explain(err error, began time.Time) error {
	if err == nil {
		return nil
	}
	if when, failure := c.engine.Failure(); failure != nil && !when.Before(began) {
		return fmt.Errorf("cluster: %w; this node, %s, refused the write: %w", err, c.self, failure)
	}
	return fmt.Errorf("cluster: %w", err)
}

// Get returns the content of a memory, the caller's: the latest that the owner of its partition and
// the replicas have. Errors: warmtier.ErrNotFound, warmtier.ErrInvalidID; [ErrFormat];
// olric.ErrReadQuorum, olric.ErrClusterQuorum and others of Olric and the network; that of ctx.
func (c *Cluster) Get(ctx context.Context, id string) ([]byte, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	value, err := c.get(ctx, id)
	if err != nil {
		return nil, err
	}
	content, err := decodeContent(value)
	if errors.Is(err, errDeleted) {
		return nil, warmtier.ErrNotFound
	}
	return content, err
}

func (c *Cluster) get(ctx context.Context, id string) ([]byte, error) {
	if err := c.usable(ctx); err != nil {
		return nil, err
	}
	var answer *olric.GetResponse
	err := patiently(ctx, func() (err error) {
		answer, err = c.dmap.Get(ctx, id)
		return err
	})
	if errors.Is(err, olric.ErrKeyNotFound) {
		return nil, warmtier.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return answer.Byte()
}

// scanCount is how many ids one answer has at most.
const scanCount = 500

// Scan iterates over the ids of all nodes, partition by partition, in no order that means anything:
// those that the owner of each partition has, which is all of them when the cluster is Ready. Ids that
// are there throughout come once if the cluster stays as it is; those that are written, deleted or
// expire meanwhile may come or not. The first error, of a node that does not answer for example, ends
// it, and comes with an empty id.
func (c *Cluster) Scan(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := c.usable(ctx); err != nil {
			yield("", err)
			return
		}
		v, err := c.see(ctx)
		if err != nil {
			yield("", err)
			return
		}
		visible := func(id string) bool { return strings.HasPrefix(id, reserved) || yield(id, nil) }
		for partition, owners := range v.owners {
			// Not those who have had it: what was deleted since may still be there, until it has
			// moved.
			err := c.wire.scan(ctx, owners[0].name, c.opts.Name, partition, visible)
			if errors.Is(err, errStopped) {
				return
			}
			if err != nil {
				yield("", fmt.Errorf("cluster: scan of partition %d on %s: %w", partition, owners[0].name, err))
				return
			}
		}
	}
}
