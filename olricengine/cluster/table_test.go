package cluster_test

import (
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/olric-data/olric/hasher"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// oneself is Olric's name for a life of a node, and how it packs that.
type oneself struct {
	Name      string
	NameHash  uint64
	ID        uint64
	Birthdate int64
}

// lifeOf returns the life of a node, as that tells it.
func lifeOf(t *testing.T, client *redis.Client, name string) oneself {
	t.Helper()
	members, err := client.Do(timeout(t), "cluster.members").Slice()
	require.NoError(t, err)
	for _, member := range members {
		fields := member.([]any)
		if fields[0] != name {
			continue
		}
		born := fields[1].(int64)
		hash := hasher.NewDefaultHasher()
		id := binary.BigEndian.AppendUint64(nil, uint64(born))
		id = append(id, make([]byte, len(name))...) // see MemberID in internal/discovery/member.go
		return oneself{name, hash.Sum64([]byte(name)), hash.Sum64(append(id, name...)), born}
	}
	require.Fail(t, "no member", "%s of %v", name, members)
	return oneself{}
}

// speaking returns a client that speaks Olric's protocol with a node.
func speaking(t *testing.T, node *cluster.Cluster) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: node.Address(), Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// sendTable gives a node a table in which every partition has the owners, as if the coordinator had sent it.
func sendTable(t *testing.T, client *redis.Client, coordinator uint64, primary, backup oneself) {
	t.Helper()
	type route struct{ Owners, Backups []oneself }
	table := make(map[uint64]*route)
	for partition := range uint64(23) {
		table[partition] = &route{[]oneself{primary}, []oneself{backup}}
	}
	packed, err := msgpack.Marshal(table)
	require.NoError(t, err)
	require.NoError(t, client.Do(timeout(t), "internal.node.updaterouting", packed, coordinator).Err())
}

// Two nodes that take each other for the owner of a partition pass a call for it to and fro, over all connections that
// they have to each other. The coordinator needs one of those for the table that ends it. So the call ends in time,
// since there is no connection left, and not when those who wait for it give up, and repeat it.
func TestTable_CallsInACircleEnd(t *testing.T) {
	all := nodes(t, 2, nil)
	var (
		clients [2]*redis.Client
		lives   [2]oneself
	)
	for i, node := range all {
		clients[i] = speaking(t, node)
		lives[i] = lifeOf(t, clients[i], node.Address())
	}
	for name, call := range map[string]func() error{
		"put": func() error { return all[0].Put(timeout(t), "id", []byte("content")) },
		"get": func() error {
			_, err := all[1].Get(timeout(t), "id")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, all[0].Put(timeout(t), "id", nil))
			var err error
			for err == nil { // the coordinator may send its own table in between
				for i, client := range clients {
					sendTable(t, client, lives[0].ID, lives[1-i], lives[i])
				}
				err = call()
			}
			require.ErrorContains(t, err, "connection pool timeout")
			ready(t, all...)
		})
	}
}

// Nobody repeats a call of another node, which would wait for it meanwhile, under a lock perhaps.
func TestTable_NothingIsRepeated(t *testing.T) {
	opts := small()
	opts.Replicas = 1
	node := open(t, opts)
	ready(t, node)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var calls atomic.Int64
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			_, _ = connection.Read(make([]byte, 4096))
			_ = connection.Close() // without an answer
		}
	})
	client := speaking(t, node)
	own := lifeOf(t, client, node.Address())
	name := listener.Addr().String()
	other := oneself{Name: name, NameHash: hasher.NewDefaultHasher().Sum64([]byte(name))}
	for err == nil { // the coordinator may send its own table in between
		sendTable(t, client, own.ID, other, other)
		calls.Store(0)
		err = node.Put(timeout(t), "id", nil)
	}
	require.ErrorContains(t, err, "EOF")
	require.EqualValues(t, 1, calls.Load())
	require.NoError(t, listener.Close())
	listening.Wait()
}

// A node that hears later than the others that the coordinator has gone refuses the table of the next one.
func TestGossip_ReachesEverybodyAtOnce(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "0.0.0.0:0"} { // memberlist's own are others for each
		gossip, err := cluster.Gossip(cluster.Options{Address: address})
		require.NoError(t, err)
		const others = 8
		require.GreaterOrEqual(t, gossip.GossipNodes, others)
		queue := memberlist.TransmitLimitedQueue{
			NumNodes: func() int { return 1 + others }, RetransmitMult: gossip.RetransmitMult,
		}
		queue.QueueBroadcast(message("gone"))
		for range others {
			require.Len(t, queue.GetBroadcasts(0, 100), 1)
		}
	}
}

// A table that was refused is sent again soon, but the coordinator does not ask for lengths all the time.
func TestPushInterval(t *testing.T) {
	for partitions, want := range map[int]time.Duration{
		23: 500 * time.Millisecond, 271: 1084 * time.Millisecond, 20_011: 5 * time.Second,
	} {
		require.Equal(t, want, cluster.PushInterval(cluster.Options{Partitions: partitions}))
	}
}

type message string

func (m message) Invalidates(memberlist.Broadcast) bool { return false }
func (m message) Message() []byte                       { return []byte(m) }
func (m message) Finished()                             {}

// text is a log that can be read while nodes write it.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *text) Write(line []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(line)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// The log of a node has what Olric could not do, too.
func TestLog_HasWhatFails(t *testing.T) {
	var log text
	opts := small()
	opts.Replicas, opts.Logger = 1, slog.New(slog.NewTextHandler(&log, nil))
	node := open(t, opts)
	ready(t, node)
	require.Error(t, speaking(t, node).Do(timeout(t), "internal.node.movefragment", "nonsense").Err())
	require.Contains(t, log.String(), "[ERROR] Failed to unmarshal DMap")
}
