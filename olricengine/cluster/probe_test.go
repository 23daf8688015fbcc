package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/olric-data/olric"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// A probe that a node had no room for proves nothing, in whichever form Olric passes that on; any other failure says
// that writes do not reach the owner yet.
func TestIsFull(t *testing.T) {
	for want, errs := range map[bool][]error{
		true: {
			fmt.Errorf("put: %w", warmtier.ErrNoSpace),
			fmt.Errorf("put: %w", olric.ErrWriteQuorum),
			errors.New("ERR put: " + warmtier.ErrNoSpace.Error() + ": over MaxBytes"), // of another node, as text
			fmt.Errorf("put: %w", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}),
		},
		false: {
			olric.ErrClusterQuorum, olric.ErrOperationTimeout, errors.New("connection refused"), warmtier.ErrClosed,
			&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		},
	} {
		for _, err := range errs {
			require.Equal(t, want, cluster.IsFull(err), "%v", err)
		}
	}
}

// A node that has no room for a probe keeps no other from what that lacks, also from the nodes that it is a backup
// owner of; and since nobody knows whether writes reach it, it gets everything again until that is known.
func TestProbe_FullBackup(t *testing.T) {
	var full atomic.Pointer[string]
	all := nodes(t, 4, func(_ int, opts *cluster.Options) {
		opts.Partitions = 71 // so many that the node becomes a backup owner of some
		cluster.BeforeProbes(opts, func(name string) error {
			if no := full.Load(); no == nil || *no != name {
				return nil
			}
			return fmt.Errorf("ERR %w: over MaxBytes", warmtier.ErrNoSpace)
		})
	})
	l := newLedger()
	l.fill(t, all[1], 300)
	name := all[0].Address()
	full.Store(&name)
	require.NoError(t, all[3].Close())
	all = all[:3]
	offered := func() (n int64) {
		for _, node := range all {
			n += node.Progress().Offered
		}
		return n
	}
	require.Eventually(t, func() bool {
		lacking, err := cluster.Lacking(timeout(t), all[1], maps.Keys(l.want))
		return err == nil && len(lacking) == 0
	}, 20*time.Second, 10*time.Millisecond)
	inTrouble(t, name, all[1:]...)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, all[1].Ready(ctx), context.DeadlineExceeded)
	before := offered()
	require.Eventually(t, func() bool { return offered() > before+10 }, within, 10*time.Millisecond)

	full.Store(nil)
	ready(t, all...)
	l.hold(t, all...)
}

// The log has a trouble once, whatever its figures are.
func TestTrouble_LoggedOnce(t *testing.T) {
	space := func(n int) error { return fmt.Errorf("partition %d: %w: %d bytes used", n, warmtier.ErrNoSpace, n) }
	require.Equal(t, cluster.Like(space(1)), cluster.Like(space(222)))
	require.NotEqual(t, cluster.Like(space(1)), cluster.Like(warmtier.ErrNoSpace))
}
