// Package cluster keeps memories on several nodes: partitioned, replicated, eventually consistent,
// the last write wins.
//
// A program opens one [Cluster] per node. Partitions, replicas, membership and the protocol are
// those of Olric v0.7.4; contents are in a warmtier store per node, in memory or in a directory.
//
//	c, err := cluster.Open(cluster.Options{Peers: []string{"10.0.0.1:3322"}, Address: "10.0.0.2:3320", ...})
//	err = c.Ready(ctx)
//	err = c.Put(ctx, "user:42", []byte("likes tea"))
//
// # What it promises
//
// With two replicas, the default, a write that returned nil is on two nodes. When nodes go and come
// one at a time, each after Ready of the others has returned nil, nothing acknowledged is lost, no
// older content comes back, and nothing that was deleted or has expired does, as long as no node
// was away for longer than Options.DeletionsKept. This holds when a node is killed, in memory or in
// a directory, and when it leaves.
//
// It is no database: there are no transactions and no conditional writes; two programs that write
// one id at the same time both succeed, and one of the contents stays; a read may see the older of
// two contents while nodes come and go; and after the network was cut in two, what the smaller part
// took in is merged by time. MinMembers stops that part.
//
// Clocks of nodes must be within a minute of each other.
//
// # What of Olric is not reachable, and why
//
// All references are to version 0.7.4 of github.com/olric-data/olric.
//
//   - Delete (internal/dmap/delete.go, deleteOnCluster) removes every copy and leaves no trace: a
//     node that was away comes back with its own, and the entry is there again. [Cluster.Delete]
//     writes a marker, which is replicated, merged by time and expires like a content. The engine
//     refuses Olric's own command, DM.DEL.
//   - Delete of several keys (deleteKeys, same file) returns after the first other node that it
//     asks: keys of further nodes stay, and the result is 0 and no error.
//   - Expire (internal/dmap/expire.go) sends the replicas an entry without its value (put.go,
//     syncPutOnCluster encodes the new entry before the engine has merged it), and through a node
//     that does not own the key it is a Put of nothing (writePutCommand leaves OnlyUpdateTTL out).
//   - Expired keys (internal/dmap/eviction.go, scanFragmentForEviction) are deleted like others, on
//     all nodes; and on a node that has owned the partition before, deleteFromPreviousOwners asks
//     the node itself, which holds the lock already. Here every node removes by itself what has
//     expired, and keeps its timestamp.
//   - Scan (cluster_iterator.go, next) logs an error of a node, and ends as if there were no more
//     keys.
//   - Lock, Incr, GetPut and their like (lock.go, atomic.go) hold on one node only, and forget it
//     when the partition moves.
//   - Destroy (destroy.go) does not take the lock of the fragment that it wipes, and leaves no trace either. The
//     engine refuses it for a fragment that has entries.
//   - Import in Olric's own engine (internal/kvstore/transport.go) stops at the first entry that
//     fails, and reports none: the sender drops the table. This engine reports it.
//   - A node that has no table of owners yet keeps a call of another node waiting for ten seconds
//     (internal/cluster/routingtable/routingtable.go, CheckBootstrap). Writes, reads and the
//     balancer spend those under the lock of a fragment, which the coordinator needs before it sends
//     that table: a node that is there again just when it is missed could stay without one for
//     minutes. Here it answers at once, and [Cluster.Put], Get and Delete try again for a second.
//   - After a node has gone, nothing of Olric makes new replicas before a key is read. Here every
//     node offers what it holds to the new owners; see docs/scale-out.md.
//
// What no facade can take away: Olric reads what members say of themselves while memberlist may
// write it (internal/discovery/discovery.go, GetMembers), which the race detector reports when a
// node comes back. What is written has the same length, and nearly always the same bytes.
//
// Olric's port is open to any Redis client that reaches it: DM.GET of the map in Options.Name reads
// contents. Writes of others than this package are at their own risk, and those to another map are
// refused: it would not come back with a directory.
//
// The client of Redis' protocol that Olric and this package use, github.com/redis/go-redis/v9, writes to standard error
// when a node does not answer, unless the program gives it another log with its SetLogger. What matters of that is in
// Options.Logger.
//
// Olric knows ids by a 64-bit hash (XXH64) of map and id, without a secret. Two ids with one hash
// are one memory to it: the later write stays, and is what both ids have. By chance two ids have
// one hash in one of 18 * 10^18 cases; whoever chooses ids can make such a pair, so do not let
// those whom you do not trust, or hash ids with a key of your own.
package cluster
