package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// offers are which owners of each partition have had everything that this node holds of it, or were
// there when it was written.
type offers []map[owner]bool

// lacks reports whether some owner has not had the partition from this node.
func (had offers) lacks(v *view, partition uint64) bool {
	for _, o := range v.owners[partition] {
		if !had[partition][o] {
			return true
		}
	}
	return false
}

// forget forgets who has had a partition and is none of its owners any more: as an owner again it may lack it.
func (had offers) forget(v *view) {
	for partition, owners := range had {
		maps.DeleteFunc(owners, func(o owner, _ bool) bool { return !slices.Contains(v.owners[partition], o) })
	}
}

// enter tells the engine whose the partitions are, and which of them all owners have had. From then on it takes only
// what comes from nodes that see the same owners, and keeps what not all owners have had.
func (c *Cluster) enter(v *view, had offers) {
	owners := &olricengine.Owners{
		Numbers: make([]uint64, len(v.owners)),
		Keeps:   make([]bool, len(v.owners)),
		Given:   make([]bool, len(v.owners)),
	}
	for partition, all := range v.owners {
		owners.Numbers[partition] = number(all)
		owners.Keeps[partition] = slices.ContainsFunc(all, func(o owner) bool { return o.name == c.self })
		owners.Given[partition] = !had.lacks(v, uint64(partition))
	}
	c.engine.SetOwners(owners)
}

// offeredAll reports whether all owners have had what this node holds.
func (c *Cluster) offeredAll(v *view) bool {
	for partition := range v.owners {
		if c.offered.lacks(v, uint64(partition)) {
			return false
		}
	}
	return c.engine.Recovered() == 0
}

// A pass gives owners what they lack. One that does not take it, because its memory budget or its disk is used up, or
// because it is gone, keeps no other from what that one lacks; the next pass tries again.
type pass struct {
	c        *Cluster
	view     *view
	looked   time.Time          // when the view was looked at last
	changed  map[uint64]bool    // partitions that have other owners by now, whom the next pass is for
	unproven map[delivery]bool  // what owners must get again, since writes may not reach them
	failed   map[delivery]error // what they did not take
	gone     map[string]error   // by name: those that did not answer, and are not asked again in this pass
}

// delivery is what an owner must have of a partition.
type delivery struct {
	partition uint64
	owner     owner
}

func (c *Cluster) pass(v *view) *pass {
	return &pass{
		c: c, view: v, looked: time.Now(), changed: make(map[uint64]bool),
		failed: make(map[delivery]error), gone: make(map[string]error),
	}
}

// offer gives every owner what it has not had.
func (c *Cluster) offer(ctx context.Context, v *view, unproven map[delivery]bool) error {
	c.opts.offering()
	p := c.pass(v)
	p.unproven = unproven
	err := p.offer(ctx, c.offered)
	c.enter(v, c.offered)
	if err != nil {
		return err
	}
	if n, err := c.engine.Damaged(); n != 0 {
		c.opts.Logger.Error("cluster: entries that cannot be read are not offered",
			"node", c.self, "entries", n, "error", err)
	}
	return nil
}

// offer gives every owner what it has not had, and notes who has. What earlier lives of the node left is given like
// the rest: an owner that has had a partition has had that too, and it stays here until the others have.
func (p *pass) offer(ctx context.Context, had offers) error {
	var tooLate error
	err := p.c.engine.Offer(uint64(p.c.opts.Partitions),
		func(partition uint64, recovered bool) bool {
			if recovered {
				tooLate = p.c.mayOffer()
			}
			return ctx.Err() == nil && !p.changed[partition] &&
				(recovered && tooLate == nil || had.lacks(p.view, partition) && !recovered)
		},
		func(chunk olricengine.Chunk) error {
			p.look(ctx)
			return p.give(ctx, chunk, func(o owner) bool { return !had[chunk.Partition][o] })
		})
	if ctx.Err() != nil {
		return cmp.Or(err, context.Cause(ctx))
	}
	if errors.Is(err, olricengine.ErrIncomplete) {
		return err
	}
	for partition, owners := range p.view.owners {
		if p.changed[uint64(partition)] {
			continue
		}
		now := make(map[owner]bool, len(owners))
		for _, o := range owners {
			d := delivery{uint64(partition), o}
			now[o] = had[partition][o] || p.failed[d] == nil && !p.unproven[d]
		}
		had[partition] = now
	}
	if len(p.changed) > 0 {
		err = cmp.Or(err, fmt.Errorf("%w: %d partitions have other owners", errUnsettled, len(p.changed)))
	}
	return cmp.Or(err, tooLate)
}

// lookInterval is how long a pass goes on before it looks whether there are other owners, who would take nothing of it.
const lookInterval = time.Second

// look finds out which partitions have other owners than when the pass began. What is sent of them would be refused.
func (p *pass) look(ctx context.Context) {
	if time.Since(p.looked) < lookInterval || p.c.ending.Err() != nil { // a node that leaves sees nobody any more
		return
	}
	p.looked = time.Now()
	v, err := p.c.see(ctx)
	if err != nil || v.signature == p.view.signature {
		return
	}
	for partition, owners := range v.owners {
		if !slices.Equal(owners, p.view.owners[partition]) {
			p.changed[uint64(partition)] = true
		}
	}
}

// NoRoomError is Progress.Trouble, and why Ready waits, when a node that has come back with a directory cannot take
// over what that holds: its store has no room for a second copy of the next chunk, which is there before the first one
// goes. Nothing is lost, and reads have what other replicas hold. The node tries again, at least every 5 s. Close it,
// and open it with more room: a larger Store.MaxBytes, or a larger disk. It is warmtier.ErrNoSpace too.
type NoRoomError struct {
	Directory string
	Recovered int // entries that are still to be taken over
	Bytes     int // of the chunk, and about what is missing at the least
	Err       error
}

// Error gives the figures.
func (err *NoRoomError) Error() string {
	return fmt.Sprintf("cluster: the store of %s has no room to take over what it holds: %d entries wait, the next chunk "+
		"has %d bytes (see NoRoomError): %v", err.Directory, err.Recovered, err.Bytes, err.Err)
}

// Unwrap returns the error of the store.
func (err *NoRoomError) Unwrap() error { return err.Err }

// mayOffer returns an error when what was recovered has come too late to be offered.
func (c *Cluster) mayOffer() error {
	if c.tooLate == nil {
		c.tooLate = c.opts.away(c.last, c.opts.now())
	}
	return c.tooLate
}

// offerLate gives owners what was written while they became owners.
func (c *Cluster) offerLate(v *view) error {
	p := c.pass(v)
	return c.engine.OfferLate(uint64(c.opts.Partitions), func(chunk olricengine.Chunk) error {
		return p.give(c.ending, chunk, func(owner) bool { return true })
	})
}

// give has those owners of the chunk's partition merge it for which wants is true. It returns the error of the first
// one that did not.
func (p *pass) give(ctx context.Context, chunk olricengine.Chunk, wants func(owner) bool) error {
	var (
		failed error
		sent   int
	)
	for _, o := range p.view.owners[chunk.Partition] {
		if !wants(o) {
			continue
		}
		sent++
		d := delivery{chunk.Partition, o}
		err := p.gone[o.name]
		if before := p.failed[d]; errors.Is(before, errUnsettled) {
			err = before // it would refuse the next chunk as well
		}
		if err == nil {
			err = p.c.wire.move(ctx, o, p.c.opts.Name, chunk)
		}
		if err == nil {
			p.c.mu.Lock()
			p.c.progress.OfferedBytes += int64(len(chunk.Payload))
			p.c.mu.Unlock()
			continue
		}
		if chunk.Recovered && o.name == p.c.self && errors.Is(err, warmtier.ErrNoSpace) {
			err = &NoRoomError{p.c.opts.Directory, p.c.engine.Recovered(), len(chunk.Payload), err}
		}
		if answer := redis.Error(nil); !errors.As(err, &answer) {
			p.gone[o.name] = err
		}
		p.failed[d] = cmp.Or(p.failed[d], err)
		failed = cmp.Or(failed, err)
	}
	if failed == nil && sent > 0 {
		p.c.mu.Lock()
		p.c.progress.Offered += int64(chunk.Entries)
		p.c.mu.Unlock()
		p.c.opts.given()
	}
	return failed
}

// handOver gives what this node holds to those who own it without this node. It tries until they have taken all of it,
// ctx ends, or Close is called.
func (c *Cluster) handOver(ctx context.Context, others []member) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.hurry, func() { cancel(ErrClosed) })()
	had := make(offers, c.opts.Partitions)
	for attempt := 0; ; attempt++ {
		began := time.Now()
		asked := others[attempt%len(others)]
		// As long as they still list this node, it cannot be reached.
		v, failed := c.wire.view(ctx, asked.name, c.opts)
		if failed == nil {
			had.forget(v)
			c.enter(v, had)
			failed = c.pass(v).offer(ctx, had)
		}
		c.noteAlways("leaving", failed)
		if failed == nil {
			return nil
		}
		if away := (*AwayError)(nil); errors.As(failed, &away) { // forks were offered before, and nothing helps this
			return fmt.Errorf("cluster: not everything was handed over: %w", failed)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cluster: not everything was handed over: %w: %w", failed, context.Cause(ctx))
		case <-time.After(retryAfter(time.Since(began))):
		}
	}
}

// retryAfter returns how long to wait after an attempt that took so long and failed: an owner that has no room may
// have none for hours, and what it lacks is much.
func retryAfter(took time.Duration) time.Duration {
	return min(max(reconcileInterval, took), tableInterval)
}
