package cluster_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// A node that has just come has nothing to offer, and is not ready as long as another one has.
func TestReady_WaitsForTheOthers(t *testing.T) {
	var (
		mu   sync.Mutex
		hold chan struct{}
	)
	all := nodes(t, 3, func(i int, opts *cluster.Options) {
		if i == 0 {
			cluster.BeforeOffers(opts, func() {
				mu.Lock()
				held := hold
				mu.Unlock()
				if held != nil {
					<-held
				}
			})
		}
	})
	l := newLedger()
	l.fill(t, all[0], 200)
	mu.Lock()
	hold = make(chan struct{})
	mu.Unlock()
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // runs before the nodes are closed

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
