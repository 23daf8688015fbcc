package cluster_test

import (
	"math"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// No time to live is so long that it is over at once.
func TestPutTTL_LongerThanOlricCounts(t *testing.T) {
	opts := small()
	opts.Replicas = 1
	node := open(t, opts)
	ready(t, node)
	for _, ttl := range []time.Duration{250 * 365 * 24 * time.Hour, math.MaxInt64} {
		require.NoError(t, node.PutTTL(timeout(t), "id", []byte("content"), ttl))
		content, err := node.Get(timeout(t), "id")
		require.NoError(t, err, ttl)
		require.Equal(t, "content", string(content))
	}
}

// A node that all nodes would call by the same name is refused, and so are deletions that would be
// over at once.
func TestOpen_RefusesWhatNoNodeCouldUse(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0"} {
		_, err := cluster.Open(cluster.Options{Address: address})
		require.ErrorIs(t, err, cluster.ErrInvalidOptions)
		require.ErrorContains(t, err, address)
	}
	_, err := cluster.Open(cluster.Options{DeletionsKept: math.MaxInt64})
	require.ErrorIs(t, err, cluster.ErrInvalidOptions)
	require.ErrorContains(t, err, "DeletionsKept")
}

// An address that is taken is an error of Open, whoever listens there.
func TestOpen_AddressTaken(t *testing.T) {
	opts := small()
	opts.Replicas = 1
	first := open(t, opts)
	for _, change := range []func(*cluster.Options){
		func(o *cluster.Options) { o.Address = first.Address() },
		func(o *cluster.Options) { o.GossipAddress = first.GossipAddress() },
	} {
		opts := small()
		opts.Replicas = 1
		change(&opts)
		for range 5 {
			second, err := cluster.Open(opts)
			if err == nil {
				require.NoError(t, second.Close())
			}
			require.ErrorContains(t, err, "address already in use")
		}
	}
}

// A connection to a node that is away must not take the port that it comes back to.
func TestOpen_PortsThatNoConnectionGets(t *testing.T) {
	node := open(t, small())
	for _, address := range []string{node.Address(), node.GossipAddress()} {
		_, digits, err := net.SplitHostPort(address)
		require.NoError(t, err)
		port, err := strconv.Atoi(digits)
		require.NoError(t, err)
		require.Less(t, port, 32_768, "where Linux begins to choose ports for connections")
	}
}

// A call that is under way when the node is closed leaves no connection behind.
func TestClose_NoConnectionAfterwards(t *testing.T) {
	opts := small()
	opts.Replicas = 1
	other, node := open(t, opts), open(t, opts)
	require.NoError(t, node.Close())
	left, err := cluster.ConnectionsAfter(node, other.Address())
	require.ErrorIs(t, err, redis.ErrClosed)
	require.Zero(t, left)
}

// No entry says of which map it is, so what a client writes to another one is refused: offered to
// other nodes, or after a restart, it would be an id of this one that nobody can read or delete.
func TestScan_OtherMaps(t *testing.T) {
	opts := small()
	opts.Replicas = 1
	node := open(t, opts)
	ready(t, node)
	client := redis.NewClient(&redis.Options{Addr: node.Address(), Protocol: 2, DisableIdentity: true})
	defer func() { require.NoError(t, client.Close()) }()
	require.NoError(t, client.Do(timeout(t), "dm.put", "warmtier", "ours", "value").Err())
	for i := range 20 {
		err := client.Do(timeout(t), "dm.put", "other", strconv.Itoa(i), "value").Err()
		require.ErrorContains(t, err, `not of map "warmtier"`)
	}
	more := small(node)
	more.Replicas = 1
	second := open(t, more)
	ready(t, node, second)
	var ids []string
	for id, err := range node.Scan(timeout(t)) {
		require.NoError(t, err)
		ids = append(ids, id)
	}
	require.Equal(t, []string{"ours"}, ids)
}
