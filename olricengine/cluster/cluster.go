package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/olric-data/olric"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// ErrClosed is returned by calls after Close or Leave.
var ErrClosed = errors.New("cluster: this node is closed")

// Cluster is a node of a cluster, and gives access to all of it. It is safe for concurrent use.
type Cluster struct {
	opts   Options
	self   string // name of the node, and address of Olric
	gossip string
	store  *warmtier.Store
	engine *olricengine.Engine
	olric  *olric.Olric
	client *olric.EmbeddedClient
	wire   *wire

	started chan error    // the result of Olric's Start, which runs until Shutdown
	joined  chan struct{} // closed when the node can be used; dmap is set before
	dmap    olric.DMap
	failed  chan struct{} // closed when Olric did not start; why is set before
	why     error

	// ending is cancelled by Close and Leave. background are the goroutines that it ends.
	ending     context.Context
	end        context.CancelFunc
	background sync.WaitGroup
	closed     sync.Once
	closeError error

	// hurry is cancelled by Close: a Leave under way gives up.
	hurry   context.Context
	hurryUp context.CancelFunc

	mu       sync.Mutex
	progress Progress
	latest   *view // the last one for which everything was done

	// last is when the node was there before Open, zero when never.
	last time.Time
	// offered and tooLate belong to the goroutine that reconciles, and then to Leave.
	offered offers
	// tooLate is set when what was recovered must not be offered any more, and stays, whatever the clock says later: the
	// owners have been given everything else, and look as if they had everything.
	tooLate error
	// announced is the signature of the view of which other nodes know that this one has nothing
	// more to offer.
	announced atomic.Uint64
}

// Open starts a node, and returns while it is still joining: [Cluster.Ready] waits until it can be
// relied on, and calls before that wait until it can be used. Errors: [ErrInvalidOptions];
// *[AwayError]; those of warmtier.Open; those of the network, for an address that is taken among
// others.
func Open(opts Options) (*Cluster, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	store, err := warmtier.Open(opts.Directory, &opts.Store)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(opts, store)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return c, nil
}

func newCluster(opts Options, store *warmtier.Store) (*Cluster, error) {
	last, err := lastThere(store, opts)
	if err == nil {
		err = opts.away(last, time.Now())
	}
	if err != nil {
		return nil, err
	}
	if opts.Directory != "" {
		if err := opts.makeAliveFile(); err != nil {
			opts.Logger.Warn("cluster: should the store be full, nobody will know that the node was there", "error", err)
		}
	}
	engine, err := olricengine.New(store, olricengine.Options{
		Remember: opts.DeletionsKept, Deleted: isMarker, Map: opts.Name,
	})
	if err != nil {
		return nil, err
	}
	configuration, err := opts.olric(engine)
	if err != nil {
		return nil, err
	}
	db, err := olric.New(configuration)
	if err != nil {
		return nil, err
	}
	configuration.Client.MaxRetries = maxRetries // nobody is called yet
	gossip := configuration.MemberlistConfig
	c := &Cluster{
		opts:    opts,
		last:    last,
		self:    net.JoinHostPort(configuration.BindAddr, strconv.Itoa(configuration.BindPort)),
		gossip:  net.JoinHostPort(gossip.BindAddr, strconv.Itoa(gossip.BindPort)),
		store:   store,
		engine:  engine,
		olric:   db,
		client:  db.NewEmbeddedClient(),
		wire:    newWire(),
		started: make(chan error, 1),
		joined:  make(chan struct{}),
		failed:  make(chan struct{}),
		offered: make(offers, opts.Partitions),
	}
	c.progress.Recovered = engine.Recovered()
	c.ending, c.end = context.WithCancel(context.Background())
	c.hurry, c.hurryUp = context.WithCancel(context.Background())
	go func() { c.started <- db.Start() }()
	if err := c.listen(); err != nil {
		c.end()
		c.wire.close()
		return nil, errors.Join(err, db.Shutdown(context.Background()))
	}
	c.background.Go(c.join)
	c.background.Go(c.keepAlive)
	c.background.Go(c.expire)
	return c, nil
}

// listen waits until Olric accepts connections, or has failed to.
func (c *Cluster) listen() error {
	for {
		connection, err := net.DialTimeout("tcp", c.self, time.Second)
		if err == nil {
			_ = connection.Close() // nothing was sent
		}
		select {
		case failed := <-c.started:
			return fmt.Errorf("cluster: %s: %w", c.self, orDefault(failed, ErrClosed))
		case <-time.After(10 * time.Millisecond):
		}
		if err == nil {
			return nil
		}
	}
}

// join waits until the node has a place in the cluster, and then keeps its copies where they
// belong.
func (c *Cluster) join() {
	for c.ending.Err() == nil {
		select {
		case err := <-c.started: // what Olric could not do it does not try again
			c.why = fmt.Errorf("cluster: %s did not start: %w", c.self, orDefault(err, ErrClosed))
			close(c.failed)
			c.note("joining", c.why)
			return
		default:
		}
		// Olric's own answer, from over the wire: it is one only when the node has joined, and
		// enough others have.
		if err := c.wire.ping(c.ending, c.self); err != nil {
			c.note("joining", err)
		} else if dmap, err := c.client.NewDMap(c.opts.Name); err != nil {
			c.note("joining", err)
		} else {
			c.dmap = dmap
			close(c.joined)
			c.reconcile()
			return
		}
		c.pause(reconcileInterval)
	}
}

// expireShare bounds the time that a node spends with removing what has expired, to a hundredth:
// that reads entries by the million, and nobody waits for it.
const expireShare = 100

// expire removes what has expired. Every node does so for itself.
func (c *Cluster) expire() {
	var took time.Duration
	for {
		c.pause(max(c.opts.expireInterval, expireShare*took))
		if c.ending.Err() != nil {
			return
		}
		began := time.Now()
		if _, err := c.engine.Expire(began); err != nil {
			c.opts.Logger.Warn("cluster: cannot remove what has expired", "node", c.self, "error", err)
		}
		took = time.Since(began)
	}
}

// pause waits, but not when the node ends.
func (c *Cluster) pause(d time.Duration) {
	select {
	case <-c.ending.Done():
	case <-time.After(d):
	}
}

// Address returns where the node listens for Olric's protocol, which is its name in the cluster.
func (c *Cluster) Address() string { return c.self }

// GossipAddress returns where membership is told: what other nodes have in Options.Peers.
func (c *Cluster) GossipAddress() string { return c.gossip }

// Store returns the node's store, for its figures: a page of warmtierhttp, a collector of
// warmtierprom. What is written there belongs to the cluster.
func (c *Cluster) Store() *warmtier.Store { return c.store }

// Close tells the other nodes that this one goes, and closes its store. What it holds is then on
// the other replicas alone; in a directory it comes back with the next Open. A Leave under way gives
// up. Further calls return what the first one did.
func (c *Cluster) Close() error {
	c.hurryUp()
	return c.shutdown(context.Background(), nil)
}

// Leave tells the other nodes that this one goes for good, gives those who own its partitions then
// everything it holds, and closes its store. It is for a cluster that becomes smaller, also for a
// single replica. A node that has no room, or does not answer, is tried again until it has taken
// everything, or ctx ends: without an end Leave waits as long as that takes, the log and
// [Cluster.Progress] say for what, and Close lets it give up. Errors: also that of ctx, with that of
// a node that did not take what it was given; the node is closed then, and its directory has
// everything that others have not taken.
func (c *Cluster) Leave(ctx context.Context) error { return c.shutdown(ctx, c.handOver) }

func (c *Cluster) shutdown(ctx context.Context, before func(context.Context, []member) error) error {
	c.closed.Do(func() {
		c.end()
		c.background.Wait()
		others := c.others(ctx)
		failed := []error{c.olric.Shutdown(ctx)}
		if before != nil && len(others) > 0 {
			failed = append(failed, before(ctx, others))
		}
		c.wire.close()
		if err := c.stayedUntil(time.Now()); errors.Is(err, warmtier.ErrNoSpace) {
			c.cannotStay(err) // a node whose store is full has lost nothing
		} else {
			failed = append(failed, err)
		}
		failed = append(failed, c.store.Close())
		c.closeError = errors.Join(failed...)
	})
	return c.closeError
}

// others returns the other members: those of now, or if Olric does not tell, of the last view.
func (c *Cluster) others(ctx context.Context) []member {
	members, err := c.wire.members(ctx, c.self)
	if err != nil {
		members = c.members()
	}
	return slices.DeleteFunc(slices.Clone(members), func(m member) bool { return m.name == c.self })
}

// usable waits until the node has joined.
func (c *Cluster) usable(ctx context.Context) error {
	select {
	case <-c.ending.Done():
		return ErrClosed
	default:
	}
	select {
	case <-c.joined:
		return nil
	case <-c.failed:
		return c.why
	case <-c.ending.Done():
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("cluster: %s is still joining: %w", c.self, context.Cause(ctx))
	}
}
