package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// budget is that of a node which a test makes full.
const budget = 8 << 20

// fillUp leaves no room in the node's store, also when the node gives some of what it has away, until stop, or empty,
// which makes room again.
func fillUp(t *testing.T, node *cluster.Cluster) (stop, empty func()) {
	t.Helper()
	var ids []string
	fill := func(refusals int) {
		for _, size := range []int{100_000, 1000, 0} {
			for refused := 0; refused < refusals; {
				id := fmt.Sprintf("filler %06d", len(ids)) // as long as no id of the engine
				err := node.Store().Put(id, make([]byte, size))
				if err == nil {
					ids = append(ids, id)
					continue
				}
				if refused++; !errors.Is(err, warmtier.ErrNoSpace) {
					t.Error(err)
				}
			}
		}
	}
	fill(100) // every lane is full then
	var refill sync.WaitGroup
	ctx, end := context.WithCancel(t.Context())
	refill.Go(func() {
		for ctx.Err() == nil {
			fill(1)
			<-time.After(time.Millisecond)
		}
	})
	stop = func() {
		end()
		refill.Wait()
	}
	t.Cleanup(stop)
	return stop, func() {
		stop()
		for _, id := range ids {
			_, err := node.Store().Delete(id)
			require.NoError(t, err)
		}
	}
}

// fillLarge stores n memories of 10 kB.
func (l *ledger) fillLarge(t *testing.T, node *cluster.Cluster, n int) {
	t.Helper()
	for i := range n {
		id, content := fmt.Sprint("id ", i), strings.Repeat(strconv.Itoa(i), 10_000/len(strconv.Itoa(i)))
		written(t, func() error { return node.Put(t.Context(), id, []byte(content)) })
		l.want[id] = content
	}
}

// inTrouble waits until one of the nodes says that it cannot go on since another one, or itself, has no room.
func inTrouble(t *testing.T, full string, nodes ...*cluster.Cluster) {
	t.Helper()
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(nodes, func(node *cluster.Cluster) bool {
			trouble := fmt.Sprint(node.Progress().Trouble)
			return strings.Contains(trouble, "no space") && strings.Contains(trouble, full)
		})
	}, within, 10*time.Millisecond)
}

// A node that has no room for what it should own keeps no other from what that lacks, and gets it when it has room.
func TestOffer_FullReceiver(t *testing.T) {
	all := nodes(t, 4, func(i int, opts *cluster.Options) {
		opts.Partitions = 71 // so many that each node becomes the owner of some that another one had
		if i == 0 {
			opts.Store = warmtier.Options{MaxBytes: budget}
		}
	})
	l := newLedger()
	l.fillLarge(t, all[1], 800)
	_, empty := fillUp(t, all[0])
	full := all[0].Address()
	require.NoError(t, all[3].Close())
	all = all[:3]
	inTrouble(t, full, all[1:]...) // those who have what it becomes the owner of
	// The others have everything that they should have, before the full node has room.
	require.Eventually(t, func() bool {
		lacking, err := cluster.Lacking(timeout(t), all[1], maps.Keys(l.want))
		delete(lacking, full)
		return err == nil && len(lacking) == 0
	}, within, 100*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, all[1].Ready(ctx), context.DeadlineExceeded)

	empty()
	ready(t, all...)
	l.hold(t, all...)
}

// What a node that leaves holds waits for the room of the only one that can take it, and Close ends that.
func TestLeave_FullReceiver(t *testing.T) {
	for _, end := range []string{"room", "close"} {
		t.Run(end, func(t *testing.T) {
			opts := small()
			opts.Replicas, opts.Store = 1, warmtier.Options{MaxBytes: budget}
			stays := open(t, opts)
			opts = small(stays)
			opts.Replicas, opts.Directory = 1, filepath.Join(t.TempDir(), "node")
			leaves, err := cluster.Open(opts)
			require.NoError(t, err)
			ready(t, stays, leaves)
			l := newLedger()
			l.fillLarge(t, leaves, 200)
			_, empty := fillUp(t, stays)
			left := make(chan error, 1)
			go func() { left <- leaves.Leave(context.Background()) }()
			inTrouble(t, stays.Address(), leaves)
			require.Equal(t, "leaving", leaves.Progress().Doing)
			if end == "room" {
				empty()
				require.NoError(t, <-left)
				ready(t, stays)
				l.hold(t, stays)
				return
			}
			closed := leaves.Close()
			require.ErrorIs(t, closed, cluster.ErrClosed)
			require.ErrorContains(t, closed, "no space")
			require.Equal(t, closed, <-left)
			empty()
			// It comes back, and has what nobody has taken.
			opts.Address, opts.GossipAddress = leaves.Address(), leaves.GossipAddress()
			leaves = open(t, opts)
			ready(t, stays, leaves)
			l.hold(t, stays, leaves)
		})
	}
}

// A node that comes back with a directory that is full needs more room than it has, says so, and loses nothing.
func TestOffer_FullDirectory(t *testing.T) {
	opts := small()
	opts.Replicas, opts.Partitions = 1, 1 // which is moved as a whole, 2 MB
	opts.Directory = filepath.Join(t.TempDir(), "node")
	opts.Store = warmtier.Options{MaxBytes: budget}
	node, err := cluster.Open(opts)
	require.NoError(t, err)
	ready(t, node)
	l := newLedger()
	l.fillLarge(t, node, 200)
	stop, _ := fillUp(t, node)
	stop()
	require.NoError(t, node.Close())

	node, err = cluster.Open(opts)
	require.NoError(t, err)
	inTrouble(t, "partition 0 to "+node.Address(), node)
	require.Equal(t, 201, node.Progress().Recovered, "with what the node has announced")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	failed := node.Ready(ctx)
	require.ErrorIs(t, failed, context.DeadlineExceeded)
	var room *cluster.NoRoomError
	require.ErrorAs(t, failed, &room)
	require.Equal(t, [3]any{opts.Directory, 201, true}, [3]any{room.Directory, room.Recovered, room.Bytes > 2_000_000})
	require.ErrorIs(t, failed, warmtier.ErrNoSpace)
	require.ErrorAs(t, node.Progress().Trouble, &room)
	require.NoError(t, node.Close())

	opts.Store.MaxBytes *= 2
	node = open(t, opts)
	ready(t, node)
	l.hold(t, node)
	require.Zero(t, node.Progress().Recovered)
}
