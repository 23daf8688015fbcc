package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
)

// ids is how many memories the client has.
const ids = 2_000

// process is one node.
type process struct {
	number    int
	directory string
	address   string // of Olric's protocol, from its first life
	gossip    string

	mu      sync.Mutex
	client  nodeapi.Client // its URL is "" while it is away
	command *exec.Cmd
}

// start starts the node, and returns when it answers.
func (p *process) start(ctx context.Context, others []*process) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	arguments := []string{"node", "-directory", p.directory, "-address", p.address, "-gossip", p.gossip}
	for _, other := range others {
		if other != p && other.gossip != "" {
			arguments = append(arguments, "-peer", other.gossip)
		}
	}
	command := exec.Command(program, arguments...)
	command.Stderr = os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	url, err := bufio.NewReader(output).ReadString('\n')
	if err != nil {
		return errors.Join(fmt.Errorf("node %d has said nothing: %w", p.number, err), command.Wait())
	}
	go io.Copy(io.Discard, output) //nolint:errcheck // it ends with the process
	client := nodeapi.Client{URL: strings.TrimSpace(url)}
	stats, err := client.Stats(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client, p.command = client, command
	p.address, p.gossip = stats.Address, stats.Gossip
	return err
}

// kill ends the process as a failure of its machine would.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command != nil {
		_ = p.command.Process.Kill() // it may have ended by itself
		_ = p.command.Wait()         // it was killed, so this is an error
	}
	p.client, p.command = nodeapi.Client{}, nil
}

func (p *process) reached() nodeapi.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client
}

// show is the whole program: nodes, and a client.
type show struct {
	nodes  []*process
	kills  int
	faults nodeapi.Faults

	mu   sync.Mutex
	said []string // what was printed, for the page
}

// say prints a line, and shows it on the page.
func (s *show) say(format string, arguments ...any) {
	line := fmt.Sprintf(format, arguments...)
	fmt.Println(line)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, time.Now().Format(time.TimeOnly)+" "+line)
	s.said = s.said[max(0, len(s.said)-maxSaid):]
}

// maxSaid is how many lines the page has.
const maxSaid = 30

// up returns the nodes that are not away.
func (s *show) up() []nodeapi.Client {
	var clients []nodeapi.Client
	for _, n := range s.nodes {
		if client := n.reached(); client.URL != "" {
			clients = append(clients, client)
		}
	}
	return clients
}

func (s *show) run(ctx context.Context, page string) error {
	defer func() {
		for _, n := range s.nodes {
			n.kill()
		}
	}()
	for _, n := range s.nodes {
		if err := n.start(ctx, s.nodes); err != nil {
			return err
		}
	}
	url, closePage, err := s.servePage(page)
	if err != nil {
		return err
	}
	defer closePage()
	fmt.Printf("three nodes are starting; this page shows them: %s\n", url)
	if s.kills > 0 {
		fmt.Printf("the program ends after it has killed a node %d times; with -kills 0, when it is interrupted\n", s.kills)
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.say("the nodes are ready; a client writes, overwrites and deletes %d memories", ids)
	ledger := nodeapi.NewLedger("example", ids)
	for round := 1; s.kills == 0 || round <= s.kills; round++ {
		if err := s.round(ctx, ledger); err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
	}
	s.say("in all: %d writes acknowledged, %d lost, %d older than they must be, %d back though deleted",
		ledger.Acknowledged, s.faults.Lost, s.faults.Older, s.faults.Back)
	if s.faults != (nodeapi.Faults{}) {
		return errors.New("the cluster is not as it must be")
	}
	return nil
}

// ready waits until all nodes say that one of them may go.
func (s *show) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, client := range s.up() {
		if err := client.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// round kills a node while the client writes, starts it again, and looks at everything.
func (s *show) round(ctx context.Context, ledger *nodeapi.Ledger) error {
	writing, stop := context.WithCancelCause(ctx)
	enough := errors.New("enough")
	var (
		client sync.WaitGroup
		failed error
	)
	before, refused := ledger.Acknowledged, ledger.Failures
	client.Go(func() {
		for failed == nil && writing.Err() == nil {
			// A write that has begun goes on until it is acknowledged.
			failed = ledger.Write(ctx, s.up)
		}
	})
	victim := s.nodes[rand.IntN(len(s.nodes))]
	pause(ctx, 2*time.Second)
	victim.kill()
	s.say("node %d is killed; the client goes on with the others", victim.number)
	pause(ctx, 6*time.Second)
	began := time.Now()
	err := victim.start(ctx, s.nodes)
	if err == nil {
		err = s.ready(ctx)
	}
	stop(enough)
	client.Wait()
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	s.say("node %d is back, and the cluster ready %v after its start: any node may go again", victim.number,
		time.Since(began).Round(100*time.Millisecond))
	for _, node := range s.up() {
		faults, err := ledger.Check(ctx, node)
		if err != nil {
			return err
		}
		s.faults.Lost += faults.Lost
		s.faults.Older += faults.Older
		s.faults.Back += faults.Back
	}
	s.say("%d writes acknowledged since, %d refused at first; read from each node, so far: %d lost, %d older, %d back",
		ledger.Acknowledged-before, ledger.Failures-refused, s.faults.Lost, s.faults.Older, s.faults.Back)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
