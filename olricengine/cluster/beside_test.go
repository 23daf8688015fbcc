package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/olric-data/olric"
	"github.com/olric-data/olric/config"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// Beside the engine that Olric comes with, in one run: WARMTIER_OLRIC_BESIDE=1 go test -run
// TestBeside -v ./cluster prints the figures of docs/scale-out.md. Nothing is asserted about times.

// besideChild is the variable that makes the test binary one node with a million entries, of the
// engine that it names.
const besideChild = "WARMTIER_OLRIC_BESIDE_CHILD"

// engines are what is compared.
var engines = []string{"stock", "warmtier"}

// plain is an Olric node as Olric has it, with one of the engines.
type plain struct {
	*olric.Olric
	client *olric.EmbeddedClient
	dmap   olric.DMap
	gossip string
	ended  chan error
	store  *warmtier.Store // nil for Olric's own engine
}

// startPlain starts a node, and returns when it can be used.
func startPlain(t *testing.T, engine string, replicas int, peers ...*plain) *plain {
	t.Helper()
	c := config.New("local")
	c.BindAddr, c.BindPort = "127.0.0.1", freePort(t)
	c.MemberlistConfig.BindAddr, c.MemberlistConfig.BindPort = "127.0.0.1", freePort(t)
	c.MemberlistConfig.AdvertisePort = c.MemberlistConfig.BindPort
	c.PartitionCount, c.ReplicaCount, c.ReadRepair = 71, replicas, true
	c.LogOutput, c.Logger = io.Discard, nil
	c.LogLevel, c.LogVerbosity = config.LogLevelError, 1
	c.LeaveTimeout = time.Second
	c.TriggerBalancerInterval, c.RoutingTablePushInterval = time.Second, time.Second
	// Both engines get what gives memory back soonest.
	c.DMaps.TriggerCompactionInterval, c.DMaps.CheckEmptyFragmentsInterval = time.Second, time.Second
	c.DMaps.Engine.Config["maxIdleTableTimeout"] = time.Second
	p := &plain{}
	if engine == "warmtier" {
		store, err := warmtier.Open("", nil)
		require.NoError(t, err)
		p.store = store
		e, err := olricengine.New(store, olricengine.Options{})
		require.NoError(t, err)
		c.DMaps.Engine.Implementation = e
	}
	gossip := net.JoinHostPort("127.0.0.1", strconv.Itoa(c.MemberlistConfig.BindPort))
	p.gossip, p.ended = gossip, make(chan error, 1)
	for _, peer := range peers {
		c.Peers = append(c.Peers, peer.gossip)
	}
	require.NoError(t, c.Sanitize())
	db, err := olric.New(c)
	require.NoError(t, err)
	p.Olric, p.client = db, db.NewEmbeddedClient()
	go func() { p.ended <- db.Start() }()
	written(t, func() error {
		p.dmap, err = p.client.NewDMap("beside")
		return err
	})
	return p
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

func (p *plain) stop(t *testing.T) {
	t.Helper()
	_ = p.Shutdown(context.Background()) // nobody may be left to hear of it
	require.NoError(t, <-p.ended)
}

func TestBeside(t *testing.T) {
	if os.Getenv("WARMTIER_OLRIC_BESIDE") == "" {
		t.Skip("set WARMTIER_OLRIC_BESIDE to 1")
	}
	t.Run("throughput", besideThroughput)
	t.Run("million", func(t *testing.T) {
		for _, engine := range engines {
			command := exec.Command(os.Args[0], "-test.run", "^TestBesideChild$", "-test.v")
			command.Env = append(os.Environ(), besideChild+"="+engine)
			output, err := command.CombinedOutput()
			require.NoError(t, err, "%s", output)
			for line := range strings.Lines(string(output)) {
				if _, figures, ok := strings.Cut(line, "figures: "); ok {
					t.Logf("%-8s %s", engine, figures)
				}
			}
		}
	})
	t.Run("offers", offers)
	t.Run("reopened", reopened)
	t.Run("restart", func(t *testing.T) {
		t.Log("stock    " + plainRestart(t))
		t.Log("cluster  " + clusterRestart(t))
	})
}

// besideThroughput measures three nodes with two replicas, the engines in turn.
func besideThroughput(t *testing.T) {
	const (
		ids      = 20_000
		clients  = 4
		duration = 500 * time.Millisecond
		rounds   = 21
	)
	content := make([]byte, 512)
	nodes := make(map[string][]*plain)
	for _, engine := range engines {
		var all []*plain
		for range 3 {
			all = append(all, startPlain(t, engine, 2, all...))
		}
		nodes[engine] = all
	}
	<-time.After(3 * time.Second) // tables settle
	rate := func(all []*plain, call func(dmap olric.DMap, id string) error) float64 {
		var (
			done    [clients]int
			work    sync.WaitGroup
			began   = time.Now()
			failure error
		)
		for c := range clients {
			work.Go(func() {
				for ; time.Since(began) < duration; done[c]++ {
					if err := call(all[c%len(all)].dmap, strconv.Itoa(rand.IntN(ids))); err != nil {
						failure = err
						return
					}
				}
			})
		}
		work.Wait()
		require.NoError(t, failure)
		var n int
		for _, d := range done {
			n += d
		}
		return float64(n) / time.Since(began).Seconds()
	}
	put := func(dmap olric.DMap, id string) error { return dmap.Put(t.Context(), id, content) }
	get := func(dmap olric.DMap, id string) error {
		_, err := dmap.Get(t.Context(), id)
		return err
	}
	for _, engine := range engines {
		for i := range ids {
			require.NoError(t, put(nodes[engine][0].dmap, strconv.Itoa(i)))
		}
	}
	puts, gets := make(map[string][]float64), make(map[string][]float64)
	for range rounds {
		for _, engine := range engines {
			puts[engine] = append(puts[engine], rate(nodes[engine], put))
			gets[engine] = append(gets[engine], rate(nodes[engine], get))
		}
	}
	if directory := os.Getenv("WARMTIER_OLRIC_PROFILES"); directory != "" {
		for _, engine := range engines {
			profiled(t, filepath.Join(directory, engine+".get"), func() {
				for range 10 {
					rate(nodes[engine], get)
				}
			})
		}
	}
	for _, engine := range engines {
		slices.Sort(puts[engine])
		slices.Sort(gets[engine])
		t.Logf("%-8s Put %.0f/s (%.0f to %.0f), Get %.0f/s (%.0f to %.0f)", engine,
			puts[engine][rounds/2], puts[engine][0], puts[engine][rounds-1],
			gets[engine][rounds/2], gets[engine][0], gets[engine][rounds-1])
		for _, p := range nodes[engine] {
			p.stop(t)
		}
	}
}

// profiled writes the profile of the processor during a call to a file, and logs what was allocated.
func profiled(t *testing.T, file string, call func()) {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(t, pprof.StartCPUProfile(f))
	call()
	pprof.StopCPUProfile()
	runtime.ReadMemStats(&after)
	require.NoError(t, f.Close())
	t.Logf("%s: %d objects in %d MB allocated, %d collections", file, after.Mallocs-before.Mallocs,
		(after.TotalAlloc-before.TotalAlloc)>>20, after.NumGC-before.NumGC)
}

// TestBesideChild is one node with a million entries.
func TestBesideChild(t *testing.T) {
	engine := os.Getenv(besideChild)
	if engine == "" {
		t.Skip("TestBeside runs it")
	}
	const n = 1_000_000
	p := startPlain(t, engine, 1)
	t.Logf("figures: empty: %s", described(t, p))
	content := make([]byte, 1024)
	for i := range n {
		for j := range content {
			content[j] = byte(i + j)
		}
		require.NoError(t, p.dmap.Put(t.Context(), strconv.Itoa(i), content))
	}
	full := resident(t)
	t.Logf("figures: full: %s", described(t, p))
	for i := range n {
		if i%10 != 0 {
			_, err := p.dmap.Delete(t.Context(), strconv.Itoa(i))
			require.NoError(t, err)
		}
	}
	least := full
	for range 33 { // a store looks every 30 s
		<-time.After(time.Second)
		runtime.GC()
		least = min(least, resident(t))
	}
	t.Logf("figures: nine of ten deleted: %s; least %d MB resident", described(t, p), least>>20)
	p.stop(t)
}

// described describes this process after a garbage collection, and how long a full one takes. On a machine that has
// other work, however little, a median is what the scheduler makes of it.
func described(t *testing.T, p *plain) string {
	t.Helper()
	times := make([]time.Duration, 201)
	runtime.GC()
	for i := range times {
		began := time.Now()
		runtime.GC()
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	text := fmt.Sprintf("garbage collection %v (least %v, a tenth %v), resident %d MB, "+
		"Go heap %d objects, %d of %d MB in use",
		times[100].Round(time.Microsecond), times[0].Round(time.Microsecond), times[20].Round(time.Microsecond),
		resident(t)>>20, m.HeapObjects, m.HeapInuse>>20, (m.HeapSys-m.HeapReleased)>>20)
	if p.store != nil {
		s := p.store.Stats()
		text += fmt.Sprintf(", store %d MB mapped, %d MB of records, %d MB of them live, index %d MB",
			s.MappedBytes>>20, s.TotalBytes>>20, s.LiveBytes>>20, s.IndexBytes>>20)
	}
	return text
}

// resident returns the resident memory of this process, bytes.
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

// offers measures how long a cluster takes to be whole again, with 1 KiB contents.
func offers(t *testing.T) {
	const ids = 100_000
	all := nodes(t, 3, func(_ int, opts *cluster.Options) { opts.Store = warmtier.Options{} })
	content := make([]byte, 1024)
	var work sync.WaitGroup
	for c, node := range all {
		work.Go(func() {
			for i := c; i < ids; i += len(all) {
				written(t, func() error { return node.Put(t.Context(), strconv.Itoa(i), content) })
			}
		})
	}
	work.Wait()
	whole := func(what string, nodes ...*cluster.Cluster) {
		var before, sent int64
		for _, node := range nodes {
			before += node.Progress().OfferedBytes
		}
		began := time.Now()
		ready(t, nodes...)
		took := time.Since(began)
		for _, node := range nodes {
			sent += node.Progress().OfferedBytes
		}
		t.Logf("%s: %d MB offered, ready after %v", what, (sent-before)>>20, took.Round(10*time.Millisecond))
	}
	require.NoError(t, all[2].Close())
	whole("a node has gone", all[:2]...)
	all[2] = open(t, small(all[0], all[1]))
	whole("a node has come", all...)
}

// reopened measures how long a node with a directory takes from Open until it is ready, with 100,000 contents of 1 KiB
// in the 271 partitions of the default.
func reopened(t *testing.T) {
	const (
		ids      = 100_000
		restarts = 5
	)
	opts := cluster.Options{Replicas: 1, Directory: filepath.Join(t.TempDir(), "node")}
	node, err := cluster.Open(opts)
	require.NoError(t, err)
	ready(t, node)
	content := make([]byte, 1024)
	var work sync.WaitGroup
	for c := range 4 {
		work.Go(func() {
			for i := c; i < ids; i += 4 {
				written(t, func() error { return node.Put(t.Context(), strconv.Itoa(i), content) })
			}
		})
	}
	work.Wait()
	var took []time.Duration
	for range restarts {
		require.NoError(t, node.Close())
		began := time.Now()
		node, err = cluster.Open(opts)
		require.NoError(t, err)
		ready(t, node)
		took = append(took, time.Since(began).Round(10*time.Millisecond))
	}
	flushes := node.Stats().Store.Sync.OK
	require.NoError(t, node.Close())
	t.Logf("opened again with %d contents, ready after %v, with %d flushes", ids, took, flushes)
}

const (
	restartIDs     = 2000
	restartChanges = 100
)

// restartFaults describes what a rolling restart has done: want has "" for what must be absent.
func restartFaults(t *testing.T, want map[string]string, get func(id string) (string, error)) string {
	t.Helper()
	var lost, older, back int
	for id, content := range want {
		got, err := get(id)
		switch {
		case errors.Is(err, olric.ErrKeyNotFound) || errors.Is(err, warmtier.ErrNotFound):
			if content != "" {
				lost++
			}
		case err != nil:
			require.NoError(t, err)
		case content == "":
			back++
		case content != got:
			older++
		}
	}
	return fmt.Sprintf("%d lost, %d older, %d back of %d", lost, older, back, len(want))
}

// changes are what is written in the outage of a round: overwrites, and then deletions.
func changes(want map[string]string, round int, put func(id, content string), remove func(id string)) {
	for i := range restartChanges {
		id := strconv.Itoa(round*2*restartChanges + i)
		content := fmt.Sprint("of round ", round)
		put(id, content)
		want[id] = content
		id = strconv.Itoa(round*2*restartChanges + restartChanges + i)
		remove(id)
		want[id] = ""
	}
}

// plainRestart restarts three nodes of Olric with its own engine, ten seconds apart.
func plainRestart(t *testing.T) string {
	var all []*plain
	for range 3 {
		all = append(all, startPlain(t, "stock", 2, all...))
	}
	<-time.After(3 * time.Second)
	want := make(map[string]string)
	put := func(p *plain) func(id, content string) {
		return func(id, content string) {
			written(t, func() error { return p.dmap.Put(t.Context(), id, content) })
		}
	}
	for i := range restartIDs {
		want[strconv.Itoa(i)] = "first"
		put(all[0])(strconv.Itoa(i), "first")
	}
	for round := range all {
		all[round].stop(t)
		other := all[(round+1)%3]
		<-time.After(3 * time.Second)
		changes(want, round, put(other), func(id string) {
			written(t, func() error { _, err := other.dmap.Delete(t.Context(), id); return err })
		})
		all[round] = startPlain(t, "stock", 2, other, all[(round+2)%3])
		<-time.After(10 * time.Second)
	}
	faults := restartFaults(t, want, func(id string) (string, error) {
		got, err := all[0].dmap.Get(t.Context(), id)
		if err != nil {
			return "", err
		}
		return got.String()
	})
	for _, p := range all {
		p.stop(t)
	}
	return faults
}

// clusterRestart does the same with nodes of this package, in memory too.
func clusterRestart(t *testing.T) string {
	all := nodes(t, 3, nil)
	want := make(map[string]string)
	put := func(node *cluster.Cluster) func(id, content string) {
		return func(id, content string) {
			written(t, func() error { return node.Put(t.Context(), id, []byte(content)) })
		}
	}
	for i := range restartIDs {
		want[strconv.Itoa(i)] = "first"
		put(all[0])(strconv.Itoa(i), "first")
	}
	for round := range all {
		require.NoError(t, all[round].Close())
		other := all[(round+1)%3]
		changes(want, round, put(other), func(id string) {
			written(t, func() error { return other.Delete(t.Context(), id) })
		})
		all[round] = open(t, small(other, all[(round+2)%3]))
		ready(t, all...)
	}
	return restartFaults(t, want, func(id string) (string, error) {
		got, err := all[0].Get(t.Context(), id)
		return string(got), err
	})
}
