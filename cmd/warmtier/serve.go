package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
	"github.com/warmtier/warmtier/warmtierresp"
)

type serveCmd struct {
	newDirFlag
	Create bool     `help:"Make the store when there is none."`
	Listen string   `default:"127.0.0.1:7077" placeholder:"ADDRESS" help:"Address of the page (${default}); port 0 takes a free one."`
	Token  string   `env:"WARMTIER_TOKEN" placeholder:"TOKEN" help:"What requests that change anything must bring; others see a command line, so set the variable."`
	Host   []string `placeholder:"NAME" help:"Name by which browsers may ask, beside loopback ones."`

	Backups string `placeholder:"DIR" help:"Where backup --url makes its directories, for who brings the token; on the file system of the store."`

	Resp        string        `placeholder:"ADDRESS" help:"Serve Redis clients there too, as 127.0.0.1:6380."`
	RespClients int           `placeholder:"NUMBER" help:"Most Redis clients at once; default: 1000."`
	RespIdle    time.Duration `placeholder:"TIME" help:"Close Redis clients from which nothing comes for so long; default: never."`
}

func (serveCmd) Help() string {
	return `Examples:
  warmtier serve -d data
  warmtier serve -d data --max-bytes 512MiB
  WARMTIER_TOKEN=secret warmtier serve -d data --listen :7077 --host metrics.example
  WARMTIER_TOKEN=secret warmtier serve -d data --backups checkpoints
  warmtier serve -d data --resp 127.0.0.1:6380
  warmtier stats --url http://127.0.0.1:7077
The page is at /, metrics for Prometheus are at /metrics. Background maintenance runs as in every program.
With a token get, ls, count and export with --url read ids and contents, for who brings it, import stores, and backup
makes directories below --backups; without one nobody does. Anyone who reaches the address may compact, unless there is
a token; an address that is not a loopback one needs one. To Redis clients (--resp) the token is their password; without
one whoever reaches the address reads and changes everything.`
}

// Bounds for clients that are slow or gone. The handler exempts compactions and events, which take
// long, from those on reading and writing.
const (
	headerTimeout   = 5 * time.Second
	requestTimeout  = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeaderBytes  = 16 << 10
)

func (c *serveCmd) Run(a *app) error {
	err := c.checkAddress("listen", c.Listen)
	if c.Resp != "" {
		err = errors.Join(err, c.checkAddress("resp", c.Resp))
	}
	if err != nil {
		return err // before a store is opened, or made
	}
	how := changing
	if c.Create {
		how = creating
	}
	err = a.with(c.Dir, how, c.options(), func(s *warmtier.Store) (err error) {
		listener, err := net.Listen("tcp", c.Listen)
		if err != nil {
			return err
		}
		clients, err := c.serveClients(a, s)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		defer func() { err = errors.Join(err, clients.end()) }()
		steering := warmtierhttp.New(s, warmtierhttp.Options{Token: c.Token, Hosts: c.Host, Logger: a.log})
		handler := &contentsHandler{store: s, token: c.Token, backups: c.Backups, next: steering}
		server := &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
			WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes}
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()

		address := "http://" + listener.Addr().String() + "/"
		answer := map[string]any{"url": address, "dir": c.Dir}
		rows := [][]string{{"page", address}, {"metrics", address + "metrics"}}
		if clients != nil {
			answer["resp"] = clients.address
			rows = append(rows, []string{"redis clients", clients.address})
		}
		if err := a.result(answer, rows); err != nil {
			return errors.Join(err, steering.Close(), server.Close())
		}
		_ = a.out.Flush() // the process that started it may have gone, which is no reason to stop
		select {
		case err = <-served:
			return errors.Join(err, steering.Close())
		case err = <-clients.failed():
			return errors.Join(err, steering.Close(), server.Close())
		case <-a.ctx.Done():
		}
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		err = errors.Join(steering.Close(), server.Shutdown(ctx))
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.Join(server.Close(), about("clients did not leave", err))
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) && !c.Create {
		return fmt.Errorf("%w; --create makes one", err)
	}
	return err
}

// checkAddress returns an error unless the program may listen at an address, and can. An empty one is every address.
func (c *serveCmd) checkAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		return usage("--%s %q: want an address with its port, as in 127.0.0.1:7077", flag, address)
	}
	if c.Token == "" && !isLoopback(address) {
		return usage("--%s %s is no loopback address: set WARMTIER_TOKEN", flag, address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return listener.Close()
}

// respServer serves Redis clients; nil is none.
type respServer struct {
	server  *warmtierresp.Server
	address string
	served  chan error
}

// serveClients begins to serve Redis clients, if that was asked for.
func (c *serveCmd) serveClients(a *app, s *warmtier.Store) (*respServer, error) {
	if c.Resp == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", c.Resp)
	if err != nil {
		return nil, err
	}
	r := &respServer{address: listener.Addr().String(), served: make(chan error, 1)}
	r.server = warmtierresp.New(s, warmtierresp.Options{Token: c.Token, MaxClients: c.RespClients,
		IdleTimeout: c.RespIdle, Logger: a.log})
	go func() { r.served <- r.server.Serve(listener) }()
	return r, nil
}

// failed has the error that ends the server before its time; of no server never.
func (r *respServer) failed() <-chan error {
	if r == nil {
		return nil
	}
	return r.served
}

// end lets commands at work end.
func (r *respServer) end() error {
	if r == nil {
		return nil
	}
	return r.server.Close()
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
