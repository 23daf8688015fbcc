package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/warmtier/warmtier"
)

// status is what a node announces.
type status struct {
	Born      int64  `json:"born"`
	Signature uint64 `json:"signature"` // of the view in which it has nothing more to offer
}

// announce tells all nodes that this one has nothing more to offer in the view.
func (c *Cluster) announce(ctx context.Context, v *view) error {
	said := status{Signature: v.signature}
	for _, m := range v.members {
		if m.name == c.self {
			said.Born = m.born
		}
	}
	text, err := json.Marshal(said)
	if err != nil {
		return err
	}
	began := time.Now()
	id := statusID + c.self
	if err := c.explain(c.dmap.Put(ctx, id, marked(kindStatus, text)), began); err != nil {
		return fmt.Errorf("announcing on %v that everything is offered: %w", v.ownersOf(id, c.opts), err)
	}
	return nil
}

// Ready waits until every node, this one included, has given the owners of all partitions what it
// holds: from then on one node may go without anything being lost. After a node has gone or come,
// Ready waits again; in a rolling restart it belongs between one node and the next. A node that was
// killed is a member for some seconds more, and Ready does not know better.
//
// Errors: that of ctx, with what was missing last, which is a *[NoRoomError] when this node's own store is full;
// *[AwayError]; [ErrClosed].
func (c *Cluster) Ready(ctx context.Context) error {
	if err := c.usable(ctx); err != nil {
		return err
	}
	for {
		trouble := c.Progress().Trouble
		if away := (*AwayError)(nil); errors.As(trouble, &away) {
			return fmt.Errorf("cluster: not ready: %w", trouble)
		}
		missing := c.missing(ctx)
		if missing == nil {
			return nil
		}
		select {
		case <-c.ending.Done():
			return ErrClosed
		case <-ctx.Done():
			err := fmt.Errorf("cluster: not ready: %w: %w", missing, context.Cause(ctx))
			if trouble != nil {
				err = fmt.Errorf("%w; this node, %s, is in trouble: %w", err, c.self, trouble)
			}
			return err
		case <-time.After(reconcileInterval / 2):
		}
	}
}

// missing returns why the cluster is not ready, or nil.
func (c *Cluster) missing(ctx context.Context) error {
	v, err := c.see(ctx)
	if err != nil {
		return err
	}
	if len(v.members) < c.opts.MinMembers {
		return fmt.Errorf("%d members of %d", len(v.members), c.opts.MinMembers)
	}
	for _, m := range v.members {
		value, err := c.get(ctx, statusID+m.name)
		if errors.Is(err, warmtier.ErrNotFound) {
			return fmt.Errorf("%s has not announced anything", m.name)
		}
		if err != nil {
			return err
		}
		var said status
		if len(value) <= len(mark) || json.Unmarshal(value[len(mark)+1:], &said) != nil {
			return fmt.Errorf("%w: what %s announces", ErrFormat, m.name)
		}
		if said.Born != m.born || said.Signature != v.signature {
			return fmt.Errorf("%s has yet to offer what it holds", m.name)
		}
	}
	return nil
}
