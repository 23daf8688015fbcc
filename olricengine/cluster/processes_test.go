package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
)

// Nodes as processes of their own, of which one at a time is killed, leaves, is stopped or joins,
// at any moment, while clients write: WARMTIER_CLUSTER_ROUNDS says how many times, in memory and in
// directories.

// childOptions is the variable that makes the test binary a node.
const childOptions = "WARMTIER_CLUSTER_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childOptions); text != "" {
		if err := child(text); err != nil {
			panic(err)
		}
		return
	}
	m.Run()
}

// child is one node. It ends when it has left, or is killed.
func child(text string) error {
	var set struct{ Directory, Address, GossipAddress, Peers, KilledAt string }
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return err
	}
	opts := small()
	opts.Directory, opts.Address, opts.GossipAddress = set.Directory, set.Address, set.GossipAddress
	opts.Peers = strings.Fields(set.Peers)
	killAt(&opts, set.KilledAt)
	node, err := cluster.Open(opts)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	server := &http.Server{Handler: nodeapi.Handler(node, end), ReadHeaderTimeout: time.Minute}
	answered := make(chan error, 1)
	go func() {
		<-ctx.Done()
		answered <- server.Shutdown(context.Background()) // the answer to the request to leave is under way
	}()
	fmt.Fprintf(os.Stdout, "http://%s\n", listener.Addr()) // the parent reads this line
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return errors.Join(<-answered, node.Close())
}

// process is a node as its parent sees it.
type process struct {
	nodeapi.Client
	command         *exec.Cmd
	directory       string
	address, gossip string
	killedAt        string // see killAt
}

// launch starts a node, or starts it again.
func launch(t *testing.T, p process, others []process) process {
	t.Helper()
	var peers []string
	for _, other := range others {
		peers = append(peers, other.gossip)
	}
	text, err := json.Marshal(map[string]string{
		"Directory": p.directory, "Address": p.address, "GossipAddress": p.gossip, "Peers": strings.Join(peers, " "),
		"KilledAt": p.killedAt,
	})
	require.NoError(t, err)
	p.command = exec.Command(os.Args[0])
	p.command.Env = append(os.Environ(), childOptions+"="+string(text))
	p.command.Stderr = os.Stderr
	output, err := p.command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.command.Start())
	command := p.command
	t.Cleanup(func() { _ = command.Process.Kill() })
	line, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err, "the node has said nothing")
	go io.Copy(io.Discard, output) //nolint:errcheck // it ends with the process
	p.Client = nodeapi.Client{URL: strings.TrimSpace(line)}
	if p.address != "" {
		return p
	}
	stats, err := p.Stats(t.Context())
	require.NoError(t, err)
	p.address, p.gossip = stats.Address, stats.Gossip
	return p
}

// fleet is the nodes that are there.
type fleet struct {
	mu        sync.Mutex
	nodes     []process
	directory string // "" for memory
	made      int
}

func (f *fleet) clients() []nodeapi.Client {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []nodeapi.Client
	for _, p := range f.nodes {
		all = append(all, p.Client)
	}
	return all
}

func (f *fleet) add(t *testing.T, p process) {
	t.Helper()
	f.mu.Lock()
	others := f.nodes
	f.mu.Unlock()
	if p.address == "" && f.directory != "" {
		p.directory = filepath.Join(f.directory, strconv.Itoa(f.made))
	}
	f.made++
	p = launch(t, p, others)
	f.mu.Lock()
	f.nodes = append(f.nodes[:len(f.nodes):len(f.nodes)], p)
	f.mu.Unlock()
}

// remove takes a node out of the list, so that clients do not ask it.
func (f *fleet) remove(i int) process {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.nodes[i]
	f.nodes = append(f.nodes[:i:i], f.nodes[i+1:]...)
	return p
}

func (f *fleet) ready(t *testing.T) {
	t.Helper()
	for _, node := range f.clients() {
		if err := node.Ready(timeout(t)); err != nil {
			for _, other := range f.clients() {
				stats, err := other.Stats(t.Context())
				t.Logf("%+v %v", stats, err)
			}
			require.NoError(t, err)
		}
	}
}

// disturb lets one node go or come, at any moment, and returns what it did. Afterwards there are
// three or four.
func (f *fleet) disturb(t *testing.T) string {
	t.Helper()
	pause := func(longest time.Duration) { <-time.After(rand.N(longest)) }
	pause(500 * time.Millisecond)
	n := len(f.clients())
	victim := rand.IntN(n)
	switch what := rand.IntN(4); {
	case what == 0 && n == 3:
		f.add(t, process{})
		return "joined"
	case what == 1 && n == 4:
		p := f.remove(victim)
		require.NoError(t, p.Leave(timeout(t)))
		require.NoError(t, p.command.Wait())
		return "left"
	case what == 2:
		f.mu.Lock()
		p := f.nodes[victim] // clients learn that it is gone by its not answering
		f.mu.Unlock()
		require.NoError(t, p.command.Process.Kill())
		_ = p.command.Wait() // it was killed
		f.remove(victim)
		f.add(t, p)
		return "killed, and there again at once"
	default:
		p := f.remove(victim)
		require.NoError(t, p.command.Process.Kill())
		_ = p.command.Wait() // it was killed
		pause(8 * time.Second)
		f.add(t, p)
		return "killed"
	}
}

func TestProcesses(t *testing.T) {
	rounds, _ := strconv.Atoi(os.Getenv("WARMTIER_CLUSTER_ROUNDS"))
	if rounds == 0 {
		t.Skip("set WARMTIER_CLUSTER_ROUNDS to how often a node shall go or come")
	}
	for _, medium := range []string{"memory", "directories"} {
		t.Run(medium, func(t *testing.T) {
			if medium == "directories" && raceEnabled {
				t.Skip("with the race detector the store keeps its memory on the heap, which a kill takes")
			}
			disturbed(t, medium, rounds)
		})
	}
}

func disturbed(t *testing.T, medium string, rounds int) {
	f := &fleet{}
	if medium == "directories" {
		f.directory = t.TempDir()
	}
	for range 3 {
		f.add(t, process{})
	}
	f.ready(t)
	ledgers := []*nodeapi.Ledger{nodeapi.NewLedger("a", 400), nodeapi.NewLedger("b", 400)}
	var faults nodeapi.Faults
	counts := make(map[string]int)
	for range rounds {
		ctx, stop := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for _, l := range ledgers {
			writers.Go(func() {
				for ctx.Err() == nil {
					if err := l.Write(t.Context(), f.clients); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		what := f.disturb(t)
		f.ready(t)
		stop()
		writers.Wait()
		counts[what]++
		for _, node := range f.clients() {
			for _, l := range ledgers {
				found, err := l.Check(t.Context(), node)
				require.NoError(t, err)
				if found != (nodeapi.Faults{}) {
					t.Errorf("after a node %s: %+v", what, found)
				}
				faults.Lost += found.Lost
				faults.Older += found.Older
				faults.Back += found.Back
			}
		}
	}
	t.Logf("%s: %v; %d writes acknowledged, %d tries refused; %d lost, %d older, %d back", medium, counts,
		ledgers[0].Acknowledged+ledgers[1].Acknowledged, ledgers[0].Failures+ledgers[1].Failures,
		faults.Lost, faults.Older, faults.Back)
}
