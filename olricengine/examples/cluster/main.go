// Command cluster runs three nodes, each a process of its own, on loopback: go run
// ./examples/cluster
//
// A client writes, overwrites and deletes all the time. Every few seconds one node is killed, is
// away while the client goes on, and comes back; when it is ready, the client reads everything and
// counts what is lost, older than it must be, or back though it was deleted. A page shows all
// nodes, and has a link to the page of each one's store.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
	"github.com/warmtier/warmtier/warmtierhttp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) > 0 && arguments[0] == "node" {
		return serve(ctx, arguments[1:])
	}
	flags := flag.NewFlagSet("cluster", flag.ContinueOnError)
	kills := flags.Int("kills", 3, "how many times a node is killed; 0 means until interrupted")
	memory := flags.Bool("memory", false, "keep the nodes in memory, and not in directories")
	page := flags.String("page", "127.0.0.1:0", "address of the page")
	if err := flags.Parse(arguments); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	directory, err := os.MkdirTemp("", "warmtier-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	s := &show{kills: *kills}
	for i := range 3 {
		n := &process{number: i + 1}
		if !*memory {
			n.directory = filepath.Join(directory, fmt.Sprint("node", n.number))
		}
		s.nodes = append(s.nodes, n)
	}
	return s.run(ctx, *page)
}

// serve is one node, in a process of its own: it says where it is, and goes on until it is killed.
func serve(ctx context.Context, arguments []string) error {
	var opts cluster.Options
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	flags.StringVar(&opts.Directory, "directory", "", "where its store is; in memory without")
	flags.StringVar(&opts.Address, "address", "", "of Olric's protocol")
	flags.StringVar(&opts.GossipAddress, "gossip", "", "of the membership")
	flags.Func("peer", "gossip address of another node", func(peer string) error {
		opts.Peers = append(opts.Peers, peer)
		return nil
	})
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	opts.Partitions = 71
	opts.Store = warmtier.Options{MaxBytes: 256 << 20}
	// A warning is what is tried again, and here that one node is away. The client of Redis' protocol would print each
	// try, in every program with nodes, unless told not to.
	opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	nodeapi.SilenceRedis()
	node, err := cluster.Open(opts)
	if err != nil {
		return err
	}
	return errors.Join(answer(ctx, node), node.Close())
}

// answer serves the calls of the client, and the page of the node's store.
func answer(ctx context.Context, node *cluster.Cluster) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	store := warmtierhttp.New(node.Store(), warmtierhttp.Options{})
	ctx, end := context.WithCancel(ctx)
	defer end()
	mux := http.NewServeMux()
	mux.Handle("/", nodeapi.Handler(node, end))
	mux.Handle("/store/", http.StripPrefix("/store", store))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close() // whoever waits for an answer learns that the node is gone
	}()
	fmt.Printf("http://%s\n", listener.Addr()) // the parent reads this line
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(err, store.Close())
	}
	return store.Close()
}
