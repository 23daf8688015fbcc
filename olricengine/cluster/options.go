package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/olric-data/olric/config"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// Options configure a node. Name, Replicas and Partitions must be the same on all nodes.
type Options struct {
	// Address is where Olric listens: an IP address, which other nodes must reach too, and a port;
	// "" means 127.0.0.1:0. Port 0 means a free one, which [Cluster.Address] then has. Nothing
	// listens anywhere else, and nothing asks for a password: keep it in a network of your own.
	Address string
	// GossipAddress is where membership is told, over TCP and UDP; "" means the IP address of
	// Address, and a free port.
	GossipAddress string
	// Peers are the GossipAddresses of other nodes, of which one that answers is enough. Without
	// any, or when none answers for ten seconds, the node begins a cluster of its own.
	Peers []string

	// Name is that of Olric's distributed map; "" means "warmtier".
	Name string
	// Partitions is how many parts ids are distributed over; 0 means 271. It bounds the nodes: have
	// at least twenty for each.
	Partitions int
	// Replicas is on how many nodes a memory is; 0 means 2.
	Replicas int
	// WriteQuorum is on how many of them a write must be before it returns nil; 0 means on all.
	// With less, a write that returned nil may be lost with one node.
	WriteQuorum int
	// ReadQuorum is how many of them a read must have an answer from; 0 means 1.
	ReadQuorum int
	// MinMembers is how many nodes a cluster must have to take reads and writes; 0 means as many as
	// Replicas. With more than half of all nodes, of two parts of a network only one works.
	MinMembers int

	// DeletionsKept is how long what was deleted, or has expired, cannot come back with a node that
	// was away; 0 means 24h. At least a second, at most 100 years.
	DeletionsKept time.Duration
	// AwayTooLong opens a directory whose node was away for longer than DeletionsKept, which
	// otherwise is an [AwayError]: what was deleted in the meantime may come back. It is for a
	// cluster that was down as a whole.
	AwayTooLong bool

	// Directory is where the node's store is; "" means memory.
	Directory string
	// Store configures it. MaxBytes is the node's memory budget: a write beyond it fails. WhenFull
	// must be Refuse, since a replica that forgets by itself is none.
	Store warmtier.Options

	// Logger gets what happens, of Olric too; nil means nothing.
	Logger *slog.Logger

	expireInterval time.Duration      // for tests; 0 means 10s
	now            func() time.Time   // for tests: whether what was recovered may still be offered
	offering       func()             // for tests: called before a node offers what it holds
	probing        func(string) error // for tests: called before a probe of a node, which fails with its error
	given          func()             // for tests: called when all owners have taken a chunk, before this node forgets it
}

const (
	defaultName       = "warmtier"
	defaultPartitions = 271
	defaultReplicas   = 2
	defaultKept       = 24 * time.Hour
	defaultExpire     = 10 * time.Second
	loopback          = "127.0.0.1:0"

	// How often Olric looks whether fragments must move, and the coordinator sends its table at the least (see
	// pushInterval): its own 15 s and a minute would be how long a node that joins waits.
	balanceInterval = time.Second
	tableInterval   = 5 * time.Second

	// callTimeout bounds an answer of another node. Olric's own 3 s are little for a content of
	// some MiB on a busy machine; the connections to a node that is missed are closed sooner.
	callTimeout = 10 * time.Second

	// poolTimeout is how long a call waits while all connections to a node are in use, at most PoolSize of Olric's. While
	// tables differ, two nodes may take each other for the primary owner of a partition, and a call for it goes to and
	// fro (dmap.(*DMap).put and Get pass it on) until it has used up the connections of both. The coordinator needs one
	// of them to send the table that ends this. So the last call in such a circle gives up, and with it all, long before
	// those that wait for it do, and nobody repeats his part of it (see maxRetries).
	poolTimeout = 2 * time.Second

	// maxRetries is go-redis' number for none. Olric makes its default out of it, three, so it is set after olric.New.
	maxRetries = -1

	// What one node tells another about members is sent to gossipNodes others every gossipInterval, and to gossipNodes in
	// all, times the digits of how many there are: to everybody at once in a cluster of nine. For loopback memberlist's
	// own is two in all. A coordinator that hears that the one before has gone sends its table within milliseconds, and a
	// node that has not heard it by then refuses (see pushInterval). And one that never heard of a node that is there
	// again learned of it after 15 s, or 30 s.
	gossipNodes    = 8
	gossipInterval = 25 * time.Millisecond

	minPushInterval = 500 * time.Millisecond

	// bootstrapTimeout is how long a node that has no table yet keeps a call of another one waiting.
	// Olric's own 10 s are spent under the lock of a fragment, by writes to a node that was killed
	// and is there again before it was missed, and by the balancer, which moves one fragment after
	// the other. The coordinator asks for the length of every fragment, under the same locks, before
	// it sends the table that all of them wait for: minutes. It is [Cluster.patiently] that waits,
	// with no lock.
	bootstrapTimeout = 10 * time.Millisecond

	// leaveTimeout bounds how long a node that goes waits until another one has heard of it.
	leaveTimeout = time.Second
)

// pushInterval returns how often the coordinator sends its table when nothing has changed. A node that has refused one,
// since it had yet to hear that the coordinator before has gone (routingtable.(*RoutingTable).verifyRoutingTable), goes
// on with the table of before, and writes to the node that has gone, until then. For each partition a table takes two
// calls, one after the other, 0.2 ms: at most a twentieth of the time; beyond 1,250 partitions it is more.
func (o Options) pushInterval() time.Duration {
	return min(max(time.Duration(o.Partitions)*4*time.Millisecond, minPushInterval), tableInterval)
}

func (o Options) withDefaults() Options {
	o.Address = orDefault(o.Address, loopback)
	o.Name = orDefault(o.Name, defaultName)
	o.Partitions = orDefault(o.Partitions, defaultPartitions)
	o.Replicas = orDefault(o.Replicas, defaultReplicas)
	o.WriteQuorum = orDefault(o.WriteQuorum, o.Replicas)
	o.ReadQuorum = orDefault(o.ReadQuorum, 1)
	o.MinMembers = orDefault(o.MinMembers, o.Replicas)
	o.DeletionsKept = orDefault(o.DeletionsKept, defaultKept)
	o.expireInterval = orDefault(o.expireInterval, defaultExpire)
	if o.now == nil {
		o.now = time.Now
	}
	if o.offering == nil {
		o.offering = func() {}
	}
	if o.probing == nil {
		o.probing = func(string) error { return nil }
	}
	if o.given == nil {
		o.given = func() {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Store.Logger == nil {
		o.Store.Logger = o.Logger
	}
	if host, _, err := net.SplitHostPort(o.Address); err == nil && o.GossipAddress == "" {
		o.GossipAddress = net.JoinHostPort(host, "0")
	}
	return o
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// ErrInvalidOptions is returned by Open, with everything that is wrong.
var ErrInvalidOptions = errors.New("cluster: invalid options")

func (o Options) validate() error {
	var wrong []error
	check := func(ok bool, format string, arguments ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, arguments...))
		}
	}
	host, _, _ := net.SplitHostPort(o.Address) // looked at below
	check(!net.ParseIP(host).IsUnspecified(), "Address %q is none that other nodes could reach", o.Address)
	for name, address := range map[string]string{"Address": o.Address, "GossipAddress": o.GossipAddress} {
		host, _, err := net.SplitHostPort(address)
		check(err == nil && net.ParseIP(host) != nil, "%s %q is not an IP address and a port", name, address)
	}
	check(o.Partitions >= 1, "Partitions %d", o.Partitions)
	check(o.Replicas >= 1, "Replicas %d", o.Replicas)
	check(o.WriteQuorum >= 1 && o.WriteQuorum <= o.Replicas, "WriteQuorum %d of %d Replicas", o.WriteQuorum, o.Replicas)
	check(o.ReadQuorum >= 1 && o.ReadQuorum <= o.Replicas, "ReadQuorum %d of %d Replicas", o.ReadQuorum, o.Replicas)
	check(o.MinMembers >= 1, "MinMembers %d", o.MinMembers)
	check(o.DeletionsKept >= time.Second, "DeletionsKept %v is less than a second", o.DeletionsKept)
	check(o.DeletionsKept <= maxTTL, "DeletionsKept %v is more than 100 years", o.DeletionsKept)
	check(o.Store.WhenFull == warmtier.Refuse, "Store.WhenFull must be Refuse")
	check(!o.Store.ReadOnly, "Store.ReadOnly")
	if len(wrong) == 0 {
		return nil
	}
	slices.SortFunc(wrong, func(a, b error) int {
		if a.Error() < b.Error() {
			return -1
		}
		return 1
	})
	return fmt.Errorf("%w: %w", ErrInvalidOptions, errors.Join(wrong...))
}

// listening replaces port 0 by a port that is free now.
func listening(address string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(digits); err != nil || port != 0 {
		return host, port, err
	}
	// Olric takes no socket, only a number. Membership needs the number for TCP and UDP. It is none
	// that the system gives to connections: one of those could have it when a node that was killed
	// comes back, since others tried to reach it all the time.
	for range 100 {
		port = firstPort + rand.IntN(ports)
		address := net.JoinHostPort(host, strconv.Itoa(port))
		tcp, err := net.Listen("tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", 0, err
		}
		udp, err := net.ListenPacket("udp", address)
		_ = tcp.Close() // nothing was sent
		if err == nil {
			return host, port, udp.Close()
		}
	}
	return "", 0, fmt.Errorf("cluster: no port of %s is free for TCP and UDP", host)
}

// Ports that "a free one" is chosen from: those for connections begin at 32,768 on Linux, and
// higher elsewhere.
const (
	firstPort = 10_000
	ports     = 32_768 - firstPort
)

// olric returns Olric's configuration.
func (o Options) olric(engine *olricengine.Engine) (*config.Config, error) {
	network := "lan"
	host, port, err := listening(o.Address)
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host).IsLoopback() {
		network = "local"
	}
	gossipHost, gossipPort, err := listening(o.GossipAddress)
	if err != nil {
		return nil, err
	}
	var gossip *memberlist.Config
	if gossip, err = config.NewMemberlistConfig(network); err != nil {
		return nil, err
	}
	gossip.BindAddr, gossip.BindPort, gossip.AdvertisePort = gossipHost, gossipPort, gossipPort
	gossip.GossipNodes, gossip.RetransmitMult, gossip.GossipInterval = gossipNodes, gossipNodes, gossipInterval

	c := config.New(network)
	c.BindAddr, c.BindPort = host, port
	c.MemberlistConfig = gossip
	c.Peers = slices.Clone(o.Peers)
	c.PartitionCount = uint64(o.Partitions)
	c.ReplicaCount, c.WriteQuorum, c.ReadQuorum = o.Replicas, o.WriteQuorum, o.ReadQuorum
	c.MemberCountQuorum = int32(o.MinMembers)
	c.ReadRepair = true
	c.ReplicationMode = config.SyncReplicationMode
	c.TriggerBalancerInterval, c.RoutingTablePushInterval = balanceInterval, o.pushInterval()
	c.LeaveTimeout, c.BootstrapTimeout = leaveTimeout, bootstrapTimeout
	c.Client.ReadTimeout, c.Client.WriteTimeout, c.Client.PoolTimeout = callTimeout, callTimeout, poolTimeout
	c.LogLevel, c.LogVerbosity = config.LogLevelWarn, 2 // for Olric, Info is above Warn and Error, and hides them
	c.Logger = slog.NewLogLogger(o.Logger.Handler(), slog.LevelInfo)
	c.DMaps.Engine.Implementation = engine
	c.DMaps.Engine.Name = engine.Name()
	return c, nil
}
