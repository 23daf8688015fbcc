package cluster_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// fullSince makes the store of a node that was last there at some time, and is full to the last byte.
func fullSince(t *testing.T, opts cluster.Options, last time.Time) {
	t.Helper()
	store, err := warmtier.Open(opts.Directory, &opts.Store)
	require.NoError(t, err)
	require.NoError(t, store.Put("alive", strconv.AppendInt(nil, last.UnixMilli(), 10)))
	for _, size := range []int{100_000, 1000, 0} {
		for i, refused := 0, 0; refused < 100; i++ { // every lane is full then
			if err := store.Put("filler "+strconv.Itoa(100_000+i)+strconv.Itoa(size), make([]byte, size)); err != nil {
				require.ErrorIs(t, err, warmtier.ErrNoSpace)
				refused++
			}
		}
	}
	require.NoError(t, store.Close())
}

func fullNode(t *testing.T) cluster.Options {
	t.Helper()
	opts := small()
	opts.Replicas, opts.Directory = 1, filepath.Join(t.TempDir(), "node")
	opts.Store = warmtier.Options{MaxBytes: 4 << 20, Maintenance: warmtier.MaintenanceOptions{Disabled: true}}
	return opts
}

// A node whose store has no room for the note that it is there was not away.
func TestAway_FullIsNotAway(t *testing.T) {
	opts := fullNode(t)
	long := time.Now().Add(-48 * time.Hour)
	fullSince(t, opts, long)
	_, err := cluster.Open(opts)
	var away *cluster.AwayError
	require.ErrorAs(t, err, &away)

	opts.AwayTooLong = true
	node, err := cluster.Open(opts)
	require.NoError(t, err)
	require.NoError(t, node.Close())
	opts.AwayTooLong = false
	node, err = cluster.Open(opts)
	require.NoError(t, err, "it was there a moment ago")
	noted, err := node.Store().Get("alive")
	require.NoError(t, err)
	require.Equal(t, strconv.FormatInt(long.UnixMilli(), 10), string(noted), "the store is as full as it was")
	require.NoError(t, cluster.StayedUntil(node, time.Now()))

	// Where a write needs less than all replicas the node may have missed deletions.
	require.NoError(t, node.Close())
	opts.Replicas, opts.WriteQuorum = 2, 1
	node, err = cluster.Open(opts)
	require.NoError(t, err)
	require.ErrorIs(t, cluster.StayedUntil(node, time.Now()), warmtier.ErrNoSpace)
	require.NoError(t, node.Close())
	opts.Replicas, opts.WriteQuorum = 1, 0

	// The file is for one note, and a broken one for none.
	file := filepath.Join(opts.Directory, "ALIVE")
	good, err := os.ReadFile(file)
	require.NoError(t, err)
	for at := range good {
		bad := append([]byte(nil), good...)
		bad[at] ^= 1
		require.NoError(t, os.WriteFile(file, bad, 0o600))
		_, err = cluster.Open(opts)
		require.ErrorAs(t, err, &away)
	}
	require.NoError(t, os.WriteFile(file, good, 0o600))
	store, err := warmtier.Open(opts.Directory, nil) // without a bound
	require.NoError(t, err)
	require.NoError(t, store.Put("alive", strconv.AppendInt(nil, long.UnixMilli()+1, 10)))
	require.NoError(t, store.Close())
	_, err = cluster.Open(opts)
	require.ErrorAs(t, err, &away, "this note has none yet")
}

// What a node recovered, and could not offer in time, may have been deleted where that is forgotten.
func TestAway_TooLateToOffer(t *testing.T) {
	opts := small()
	opts.Replicas, opts.Directory = 1, filepath.Join(t.TempDir(), "node")
	node, err := cluster.Open(opts)
	require.NoError(t, err)
	ready(t, node)
	require.NoError(t, node.Put(timeout(t), "id", nil))
	require.NoError(t, node.Close())

	var later, passes atomic.Int64
	later.Store(int64(25 * time.Hour))
	cluster.SetClock(&opts, func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	cluster.BeforeOffers(&opts, func() { passes.Add(1) })
	node, err = cluster.Open(opts)
	require.NoError(t, err)
	failed := node.Ready(timeout(t))
	var away *cluster.AwayError
	require.ErrorAs(t, failed, &away)
	require.Equal(t, opts.Directory, away.Directory)
	require.NoError(t, node.Put(timeout(t), "other", nil), "it goes on")

	// Owners have everything else, and look as if they had all: it stays too late, and is not forgotten.
	later.Store(0)
	now := passes.Load()
	require.Eventually(t, func() bool { return passes.Load() > now+1 }, within, time.Millisecond)
	require.ErrorAs(t, node.Progress().Trouble, &away)
	require.Equal(t, 2, node.Progress().Recovered, "the id, and what the node had announced")

	more := small(node)
	more.Replicas = 1
	other := open(t, more)
	require.Eventually(t, func() bool { return len(other.Stats().Members) == 2 }, within, time.Millisecond)
	left := node.Leave(timeout(t))
	require.ErrorAs(t, left, &away)
	require.NotErrorIs(t, left, context.DeadlineExceeded, "it waits for nothing")
	got, err := other.Get(timeout(t), "other")
	require.NoError(t, err)
	require.Empty(t, got)
}
