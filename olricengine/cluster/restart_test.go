package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// ledger is what a cluster must have.
type ledger struct {
	want map[string]string // "" for what must be absent
}

func newLedger() *ledger { return &ledger{want: make(map[string]string)} }

// fill stores n memories.
func (l *ledger) fill(t *testing.T, node *cluster.Cluster, n int) {
	t.Helper()
	for i := range n {
		id, content := fmt.Sprint("id ", i), fmt.Sprint("first content of ", i)
		written(t, func() error { return node.Put(t.Context(), id, []byte(content)) })
		l.want[id] = content
	}
}

// change overwrites a fifth of n memories, deletes another, and gives a third one an end; round
// chooses which.
func (l *ledger) change(t *testing.T, node *cluster.Cluster, n, round int) {
	t.Helper()
	for i := range n {
		id := fmt.Sprint("id ", i)
		content := fmt.Sprint("content of round ", round, " of ", i)
		switch (i + round) % 5 {
		case 0:
			written(t, func() error { return node.Put(t.Context(), id, []byte(content)) })
			l.want[id] = content
		case 1:
			written(t, func() error { return node.Delete(t.Context(), id) })
			l.want[id] = ""
		case 2:
			written(t, func() error { return node.PutTTL(t.Context(), id, []byte(content), 20*time.Millisecond) })
			l.want[id] = ""
		}
	}
}

// check returns what is wrong, as a node sees it: how many are lost, older than they must be, and
// back.
func (l *ledger) check(ctx context.Context, node *cluster.Cluster) (lost, older, back int, err error) {
	for id, want := range l.want {
		got, err := node.Get(ctx, id)
		// While Olric takes note of a node that is there again it closes connections, also busy ones.
		retry := time.Now().Add(within)
		for err != nil && !errors.Is(err, warmtier.ErrNotFound) && time.Now().Before(retry) {
			<-time.After(20 * time.Millisecond)
			got, err = node.Get(ctx, id)
		}
		switch {
		case err != nil && err != warmtier.ErrNotFound: //nolint:errorlint // bare
			return lost, older, back, err
		case err != nil && want != "":
			lost++
		case err == nil && want == "":
			back++
		case err == nil && want != string(got):
			older++
		}
	}
	return lost, older, back, nil
}

func (l *ledger) hold(t *testing.T, nodes ...*cluster.Cluster) {
	t.Helper()
	for _, node := range nodes {
		lost, older, back, err := l.check(t.Context(), node)
		require.NoError(t, err)
		require.Zero(t, [3]int{lost, older, back}, "lost, older, back, as %s sees it", node.Address())
		var ids, want int
		for _, err := range node.Scan(t.Context()) {
			require.NoError(t, err)
			ids++
		}
		for _, content := range l.want {
			if content != "" {
				want++
			}
		}
		require.Equal(t, want, ids)
	}
}

// rollingRestart restarts each of some nodes, with writes in each outage, and more when the node
// is back.
func rollingRestart(t *testing.T, many int, directory string, end func(*cluster.Cluster) error) {
	const n = 300
	opts := make([]cluster.Options, many)
	all := nodes(t, many, func(i int, o *cluster.Options) {
		if directory != "" {
			o.Directory = filepath.Join(directory, strconv.Itoa(i))
		}
		opts[i] = *o
	})
	l := newLedger()
	l.fill(t, all[0], n)
	for i := range all {
		require.NoError(t, end(all[i]))
		l.change(t, all[(i+1)%many], n, i)

		opts[i].Address, opts[i].GossipAddress = all[i].Address(), all[i].GossipAddress()
		opts[i].Peers = nil
		for j := 1; j < many; j++ {
			opts[i].Peers = append(opts[i].Peers, all[(i+j)%many].GossipAddress())
		}
		all[i] = open(t, opts[i])
		ready(t, all[i])
		l.hold(t, all...)
		require.Zero(t, all[i].Stats().Progress.Recovered)
	}
	// What is over is removed by Olric at some time, and must not come back then either.
	ready(t, all...)
	l.hold(t, all...)
}

func TestRestart_InMemory(t *testing.T) { rollingRestart(t, 3, "", (*cluster.Cluster).Close) }

func TestRestart_Directories(t *testing.T) {
	rollingRestart(t, 3, t.TempDir(), (*cluster.Cluster).Close)
}

func TestRestart_FourNodes(t *testing.T) {
	rollingRestart(t, 4, t.TempDir(), (*cluster.Cluster).Close)
}

// The whole cluster stops, and starts again in another order.
func TestRestart_AllAtOnce(t *testing.T) {
	directory := t.TempDir()
	options := func(i int, o *cluster.Options) { o.Directory = filepath.Join(directory, strconv.Itoa(i)) }
	all := nodes(t, 3, options)
	l := newLedger()
	l.fill(t, all[0], 200)
	l.change(t, all[1], 200, 0)
	var work sync.WaitGroup
	for _, node := range all {
		work.Go(func() { _ = node.Close() })
	}
	work.Wait()
	l.hold(t, nodes(t, 3, func(i int, o *cluster.Options) { options(2-i, o) })...)
}

// A node does not say that it was there, and knows what was deleted, before what it has forgotten is durably forgotten.
func TestRestart_SaysWhatIsDurable(t *testing.T) {
	opts := small()
	opts.Replicas, opts.Directory = 1, filepath.Join(t.TempDir(), "node")
	opts.Store.SyncInterval = -1 // nothing syncs by itself
	node := open(t, opts)
	ready(t, node)
	store := node.Store()
	require.NoError(t, store.Put("of nobody", make([]byte, 10_000)))
	require.NoError(t, cluster.StayedUntil(node, time.Now()))
	require.Less(t, store.Stats().Sync.UnsyncedBytes, int64(1000), "that it was there, and no more")
}

// A cluster grows by one, and becomes smaller again, down to one replica on one node.
func TestLeave_HandsOver(t *testing.T) {
	single := func(_ int, o *cluster.Options) { o.Replicas = 1 }
	all := nodes(t, 3, single)
	l := newLedger()
	l.fill(t, all[0], 300)
	l.change(t, all[1], 300, 1)
	opts := small(all...)
	opts.Replicas = 1
	all = append(all, open(t, opts))
	ready(t, all...)
	l.hold(t, all...)
	for len(all) > 1 {
		require.NoError(t, all[0].Leave(timeout(t)))
		all = all[1:]
		ready(t, all...)
		l.hold(t, all...)
	}
}
