package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/olric-data/olric"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// heldOffers keeps back what nodes offer.
type heldOffers struct {
	mu   sync.Mutex
	gate chan struct{} // nil: open
}

// wait is for cluster.BeforeOffers.
func (h *heldOffers) wait() {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

// hold keeps back what is offered from now on, until release, and no longer than until the nodes are closed.
func (h *heldOffers) hold(t *testing.T) (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.gate = gate
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	return release
}

// A node that has just come has nothing to offer, and is not ready as long as another one has.
func TestReady_WaitsForTheOthers(t *testing.T) {
	var offers heldOffers
	all := nodes(t, 3, func(i int, opts *cluster.Options) {
		if i == 0 {
			cluster.BeforeOffers(opts, offers.wait)
		}
	})
	l := newLedger()
	l.fill(t, all[0], 200)
	release := offers.hold(t)

	require.NoError(t, all[2].Close())
	all[2] = open(t, small(all[0], all[1]))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := all[2].Ready(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	release()
	ready(t, all...)

	// From now on any node may go.
	require.NoError(t, all[0].Close())
	ready(t, all[1:]...)
	l.hold(t, all[1:]...)
}

// Others wait for its answer under locks that the coordinator needs before it sends it a table.
func TestBootstrap_NobodyWaitsForTheTable(t *testing.T) {
	members := func(n int) func(int, *cluster.Options) {
		return func(_ int, opts *cluster.Options) { opts.MinMembers = n }
	}
	coordinator := small()
	members(3)(0, &coordinator)
	first := open(t, coordinator) // it makes no table for less than three
	opts := small(first)
	members(2)(1, &opts)
	second := open(t, opts)

	client := redis.NewClient(&redis.Options{
		Addr: second.Address(), Protocol: 2, DisableIdentity: true, MaxRetries: -1, ReadTimeout: 5 * time.Second,
	})
	defer func() { require.NoError(t, client.Close()) }()
	noQuorum := errors.New("ERR failed to find enough peers to create quorum")
	err := noQuorum
	for err != nil && err.Error() == noQuorum.Error() {
		err = client.Do(timeout(t), "ping").Err()
	}
	require.ErrorContains(t, err, "OPERATIONTIMEOUT")

	opts = small(first, second)
	members(2)(2, &opts)
	ready(t, first, second, open(t, opts))
}

func TestPatiently(t *testing.T) {
	calls := 0
	fails := func(n int, with error) func() error {
		calls = 0
		return func() error {
			if calls++; calls <= n {
				return with
			}
			return nil
		}
	}
	timedOut := fmt.Errorf("put: %w", olric.ErrOperationTimeout)
	require.NoError(t, cluster.Patiently(t.Context(), fails(3, timedOut)))
	require.Equal(t, 4, calls)

	require.ErrorIs(t, cluster.Patiently(t.Context(), fails(1<<30, timedOut)), olric.ErrOperationTimeout)
	require.Greater(t, calls, 4, "the node may never have a table")

	require.ErrorIs(t, cluster.Patiently(t.Context(), fails(1, olric.ErrWriteQuorum)), olric.ErrWriteQuorum)
	require.Equal(t, 1, calls, "nothing else is repeated")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, cluster.Patiently(ended, fails(1<<30, timedOut)), olric.ErrOperationTimeout)
	require.Equal(t, 1, calls)
}

func TestProbe_TellsWhereWritesGo(t *testing.T) {
	all := nodes(t, 3, nil)
	var tried, reached int
	for i, node := range all {
		for _, other := range []*cluster.Cluster{all[(i+1)%3], all[(i+2)%3]} {
			n, r, err := cluster.Probe(timeout(t), node, other)
			require.NoError(t, err)
			tried += n
			reached += r
		}
	}
	require.Equal(t, 2*23, tried)
	require.GreaterOrEqual(t, reached, 23, "of the two other nodes one is the backup owner")
	require.Less(t, reached, tried, "and the other one need not have it")
}

// What Olric could not start it does not try again: nobody waits for it.
func TestReady_OlricDidNotStart(t *testing.T) {
	node := open(t, small()) // alone, so it goes on joining
	failed := errors.New("no table")
	waiting := make(chan error, 1)
	go func() { waiting <- node.Ready(timeout(t)) }()
	cluster.FailStart(node, failed)
	require.ErrorIs(t, <-waiting, failed)
	err := node.Put(timeout(t), "a", nil)
	require.ErrorIs(t, err, failed)
	require.ErrorContains(t, err, node.Address())
	require.ErrorIs(t, node.Progress().Trouble, failed)
}
