package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/olric-data/olric"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// within bounds what a test waits for.
const within = 60 * time.Second

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

// small are options for nodes of a test.
func small(peers ...*cluster.Cluster) cluster.Options {
	opts := cluster.Options{Partitions: 23, Store: warmtier.Options{SegmentSize: 1 << 20}}
	cluster.ExpireEvery(&opts, 30*time.Millisecond)
	for _, peer := range peers {
		opts.Peers = append(opts.Peers, peer.GossipAddress())
	}
	if os.Getenv("WARMTIER_CLUSTER_LOG") != "" {
		opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return opts
}

func open(t *testing.T, opts cluster.Options) *cluster.Cluster {
	t.Helper()
	node, err := cluster.Open(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, node.Close()) })
	return node
}

// nodes returns n nodes of one cluster, which is ready.
func nodes(t *testing.T, n int, change func(i int, opts *cluster.Options)) []*cluster.Cluster {
	t.Helper()
	var all []*cluster.Cluster
	for i := range n {
		opts := small(all...)
		if change != nil {
			change(i, &opts)
		}
		all = append(all, open(t, opts))
	}
	ready(t, all...)
	return all
}

func ready(t *testing.T, nodes ...*cluster.Cluster) {
	t.Helper()
	for _, node := range nodes {
		require.NoError(t, node.Ready(timeout(t)))
	}
}

// written waits until a write is taken: for a moment after a node has gone others may still want it
// to have a copy.
func written(t *testing.T, write func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := write()
		if err == nil {
			return
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
		<-time.After(20 * time.Millisecond)
	}
}

func TestCluster_Calls(t *testing.T) {
	all := nodes(t, 3, nil)
	ctx := timeout(t)
	_, err := all[0].Get(ctx, "a")
	require.ErrorIs(t, err, warmtier.ErrNotFound)
	awkward := []string{"content", "", "\x00wt\xff\x01", "\x00wt\xff\x01d", "\x00wt\xff\x01s{}"}
	for i, content := range awkward {
		id := fmt.Sprint("id ", i)
		require.NoError(t, all[i%3].Put(ctx, id, []byte(content)))
		for _, node := range all {
			got, err := node.Get(ctx, id)
			require.NoError(t, err)
			require.Equal(t, content, string(got))
		}
	}
	require.NoError(t, all[1].Delete(ctx, "id 1"))
	require.NoError(t, all[1].Delete(ctx, "never there"))
	require.NoError(t, all[2].PutTTL(ctx, "short", []byte("x"), 50*time.Millisecond))
	<-time.After(60 * time.Millisecond)
	for _, node := range all {
		for _, id := range []string{"id 1", "never there", "short"} {
			_, err = node.Get(ctx, id)
			require.ErrorIs(t, err, warmtier.ErrNotFound)
		}
		ids := make(map[string]int)
		for id, err := range node.Scan(ctx) {
			require.NoError(t, err)
			ids[id]++
		}
		require.Equal(t, map[string]int{"id 0": 1, "id 2": 1, "id 3": 1, "id 4": 1}, ids)
		for id, err := range node.Scan(ctx) {
			require.NoError(t, err)
			require.NotEmpty(t, id)
			break
		}
		stats := node.Stats()
		require.True(t, stats.Joined && stats.Settled)
		require.Len(t, stats.Members, 3)
		require.Contains(t, stats.Members, node.Address())
	}
}

func TestCluster_Refuses(t *testing.T) {
	_, err := cluster.Open(cluster.Options{
		Address: "localhost", WriteQuorum: 3, DeletionsKept: time.Nanosecond,
		Store: warmtier.Options{WhenFull: warmtier.Evict},
	})
	require.ErrorIs(t, err, cluster.ErrInvalidOptions)
	for _, what := range []string{"Address", "WriteQuorum 3 of 2", "DeletionsKept 1ns", "WhenFull"} {
		require.ErrorContains(t, err, what)
	}
	opts := small()
	opts.Replicas = 1
	node := open(t, opts)
	ready(t, node)
	ctx := timeout(t)
	for _, id := range []string{"", string(make([]byte, 256)), "\x00warmtier:x"} {
		require.ErrorIs(t, node.Put(ctx, id, nil), warmtier.ErrInvalidID)
		_, err := node.Get(ctx, id)
		require.ErrorIs(t, err, warmtier.ErrInvalidID)
		require.ErrorIs(t, node.Delete(ctx, id), warmtier.ErrInvalidID)
	}
	require.NoError(t, node.Put(ctx, string(make([]byte, 255)), nil))
	require.ErrorIs(t, node.PutTTL(ctx, "a", nil, 0), warmtier.ErrInvalidTTL)

	taken := small()
	taken.Address = node.Address()
	_, err = cluster.Open(taken)
	require.ErrorContains(t, err, "address already in use")

	require.NoError(t, node.Close())
	require.NoError(t, node.Close())
	require.ErrorIs(t, node.Put(ctx, "a", nil), cluster.ErrClosed)
	_, err = node.Get(ctx, "a")
	require.ErrorIs(t, err, cluster.ErrClosed)
	require.ErrorIs(t, node.Ready(ctx), cluster.ErrClosed)
}

func TestCluster_TooFewMembers(t *testing.T) {
	node := open(t, small())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := node.Ready(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, node.Put(ctx, "a", nil), context.DeadlineExceeded)
	require.Eventually(t, func() bool { return node.Stats().Progress.Trouble != nil }, within, time.Millisecond)

	all := append([]*cluster.Cluster{node}, open(t, small(node)))
	ready(t, all...)
	require.NoError(t, node.Put(timeout(t), "a", nil))
}

func TestCluster_LargeContent(t *testing.T) {
	all := nodes(t, 2, nil)
	large := make([]byte, 16<<20)
	copy(large[len(large)-3:], "end")
	ctx := timeout(t)
	require.NoError(t, all[0].Put(ctx, "large", large))
	for _, node := range all {
		got, err := node.Get(ctx, "large")
		require.NoError(t, err)
		require.Len(t, got, len(large))
		require.Equal(t, "end", string(got[len(got)-3:]))
	}
}

// A node without room refuses what is new, keeps what it has, and the others go on.
func TestCluster_BudgetReached(t *testing.T) {
	all := nodes(t, 3, func(i int, opts *cluster.Options) {
		opts.Partitions = 71 // so many that the full node is the backup owner of some
		if i == 0 {
			opts.Store = warmtier.Options{MaxBytes: 4 << 20}
		}
	})
	ctx := timeout(t)
	content := make([]byte, 20_000)
	acknowledged, reasons := 0, 0
	for i := range 600 {
		err := all[0].Put(ctx, strconv.Itoa(i), content)
		if err != nil {
			require.ErrorContains(t, err, "no space: over MaxBytes: ")
			if errors.Is(err, olric.ErrWriteQuorum) {
				require.ErrorIs(t, err, warmtier.ErrNoSpace)
				require.ErrorContains(t, err, all[0].Address())
				reasons++
			}
			continue
		}
		acknowledged++
		got, err := all[1].Get(ctx, strconv.Itoa(i))
		require.NoError(t, err)
		require.Len(t, got, len(content))
	}
	require.Positive(t, reasons)
	require.Greater(t, acknowledged, 150, "a third of the partitions has no copy on the full node")
}

func TestCluster_AwayTooLong(t *testing.T) {
	opts := small()
	opts.Replicas, opts.DeletionsKept = 1, time.Second
	opts.Directory = filepath.Join(t.TempDir(), "node")
	node := open(t, opts)
	ready(t, node)
	require.NoError(t, node.Put(timeout(t), "a", []byte("kept")))
	require.NoError(t, node.Close())

	<-time.After(1100 * time.Millisecond)
	_, err := cluster.Open(opts)
	var away *cluster.AwayError
	require.ErrorAs(t, err, &away)
	require.Equal(t, opts.Directory, away.Directory)

	opts.AwayTooLong = true
	node = open(t, opts)
	ready(t, node)
	got, err := node.Get(timeout(t), "a")
	require.NoError(t, err)
	require.Equal(t, "kept", string(got))
}
