// Package warmtierresp serves a warmtier store to Redis clients, in any language: strings, counters, times to live,
// scans. The README has the commands, and where they differ from those of Redis.
//
//	server := warmtierresp.New(store, warmtierresp.Options{})
//	listener, err := net.Listen("tcp", "127.0.0.1:6380")
//	...
//	go server.Serve(listener)
//	defer server.Close()
//
// Whoever reaches the listener may read and change the store, unless Options.Token is set.
package warmtierresp

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier"
)

// Options configure a [Server]. The zero value means the defaults. Negative figures are those of 0.
type Options struct {
	// Token, when not empty, is the password that clients must give (AUTH, HELLO) before anything else, as
	// user "default".
	Token string
	// MaxClients bounds the connections; 0 means 1,000. One more is told "-ERR max number of clients reached",
	// and closed.
	MaxClients int
	// MaxRequestBytes bounds the arguments of one command, and what a command makes of a content (APPEND), in
	// bytes; 0 means 64 MiB, and 512 MiB is the most. A longer command is read past, in constant memory, and is an
	// error.
	MaxRequestBytes int
	// MaxBufferBytes bounds what commands and replies on their way take, of all connections together, beyond 64
	// KiB of each; 0 means 256 MiB. A command that finds no room is "-OOM", and changes
	// nothing.
	MaxBufferBytes int64
	// IdleTimeout closes a connection from which nothing has come for so long; 0 means never. Whatever it is, a command
	// that has begun must have come whole in 30s, and one more for each 64 KiB of it; and where there is a Token a
	// client has 10s to show it.
	IdleTimeout time.Duration
	// WriteTimeout closes a connection that has taken no 256 KiB of its replies for so long, or up to an eighth less; 0
	// means 10s. It bounds too how long Close waits for clients. Until
	// then a client that does not read its replies makes nobody wait but itself: no further command of it is
	// read.
	WriteTimeout time.Duration
	// Logger receives what operators want to know; nil is silent. It never sees keys, values or tokens.
	Logger *slog.Logger
}

// The defaults, and what is not for callers to set.
const (
	defaultClients      = 1000
	defaultRequestBytes = 64 << 20
	defaultBufferBytes  = 256 << 20
	defaultWriteTimeout = 10 * time.Second

	loginTimeout   = 10 * time.Second // to show the token
	commandTimeout = 30 * time.Second // for a command that has begun to come whole, and more for a long one
	refusalTimeout = time.Second      // of the line that a connection too many gets
	refusalsAtOnce = 64
	longestBackoff = time.Second // between two attempts to accept, when the system has no descriptor left
)

func (o Options) withDefaults() Options {
	o.MaxClients = cmp.Or(max(0, o.MaxClients), defaultClients)
	o.MaxRequestBytes = min(cmp.Or(max(0, o.MaxRequestBytes), defaultRequestBytes), maxBulk)
	o.MaxBufferBytes = cmp.Or(max(0, o.MaxBufferBytes), defaultBufferBytes)
	o.WriteTimeout = cmp.Or(max(0, o.WriteTimeout), defaultWriteTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// ErrServerClosed is returned by [Server.Serve] after [Server.Close].
var ErrServerClosed = errors.New("warmtierresp: server is closed")

// Server serves one store. It is safe for concurrent use.
type Server struct {
	store    *warmtier.Store
	opts     Options
	token    [sha256.Size]byte // digest, so that comparing takes the same time for any length
	commands map[string]*command
	started  time.Time
	buffers  allowance
	refusing chan struct{} // has one element for each refusal under way

	loginTimeout   time.Duration // as the constants, but in tests
	commandTimeout time.Duration

	accepted atomic.Int64 // connections, ever
	refused  atomic.Int64 // of them, for MaxClients
	executed atomic.Int64 // commands
	wrong    atomic.Int64 // passwords
	wrongAt  atomic.Int64 // when one was logged last, ns since started; 0: never
	closing  atomic.Bool
	cut      atomic.Bool   // Close has waited long enough: connections are closed, and commands end between two keys
	stop     chan struct{} // closed by Close

	mu        sync.Mutex
	listeners map[net.Listener]bool // guarded by mu
	conns     map[*conn]bool        // guarded by mu
	lastID    int64                 // guarded by mu
	running   sync.WaitGroup        // connections, refusals, Serve; mu held to add
}

// New returns a server for store, which listens nowhere by itself. Close it before the store.
func New(store *warmtier.Store, opts Options) *Server {
	s := &Server{
		store:    store,
		opts:     opts.withDefaults(),
		token:    sha256.Sum256([]byte(opts.Token)),
		commands: commandTable(),
		started:  time.Now(),
		refusing: make(chan struct{}, refusalsAtOnce),

		loginTimeout:   loginTimeout,
		commandTimeout: commandTimeout,

		stop:      make(chan struct{}),
		listeners: map[net.Listener]bool{},
		conns:     map[*conn]bool{},
	}
	s.buffers.limit = s.opts.MaxBufferBytes
	return s
}

// Serve accepts connections from listener, and serves them, until Close, or until listener fails. It closes listener.
// It may be called for several listeners, of any kind: with TLS for example, or a Unix socket.
//
// Errors: [ErrServerClosed] after Close; that of listener otherwise.
func (s *Server) Serve(listener net.Listener) error {
	defer func() { _ = listener.Close() }() // Close may have been first
	if !s.enter(func() { s.listeners[listener] = true }) {
		return ErrServerClosed
	}
	defer s.leave(func() { delete(s.listeners, listener) })
	backoff := time.Duration(0)
	for {
		nc, err := listener.Accept()
		switch {
		case s.closing.Load():
			if err == nil {
				_ = nc.Close()
			}
			return ErrServerClosed
		case err == nil:
			backoff = 0
			s.admit(nc)
		case !isTemporary(err):
			return fmt.Errorf("warmtierresp: accept: %w", err)
		default:
			backoff = min(max(2*backoff, 5*time.Millisecond), longestBackoff)
			s.opts.Logger.Warn("connection not accepted", "error", err, "wait", backoff)
			select {
			case <-s.stop:
			case <-time.After(backoff):
			}
		}
	}
}

// isTemporary reports whether the next Accept may succeed: the system lacks descriptors or memory, or a client was
// gone before it was accepted.
func isTemporary(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Temporary() bool
	}](err)
	return ok && e.Temporary()
}

// enter makes begin part of what Close waits for, unless Close has begun.
func (s *Server) enter(begin func()) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.running.Add(1)
	begin()
	return true
}

func (s *Server) leave(end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end()
	s.running.Done()
}

// admit serves nc, or refuses it.
func (s *Server) admit(nc net.Conn) {
	s.accepted.Add(1)
	var c *conn
	entered := s.enter(func() {
		if len(s.conns) < s.opts.MaxClients {
			s.lastID++
			c = newConn(s, nc, s.lastID)
			s.conns[c] = true
		}
	})
	switch {
	case !entered:
		_ = nc.Close()
	case c != nil:
		go c.serve()
	default:
		s.refused.Add(1)
		s.refusing <- struct{}{}
		go s.refuse(nc)
	}
}

// refuse says why nc is closed. A client that takes no line, in a handshake of TLS for example, holds up one of the
// refusals under way for a second.
func (s *Server) refuse(nc net.Conn) {
	defer s.leave(func() { <-s.refusing })
	_ = nc.SetDeadline(time.Now().Add(refusalTimeout))
	_, _ = nc.Write([]byte("-ERR max number of clients reached\r\n")) // it may be gone
	_ = nc.Close()
}

// Close stops listening, lets each command at work end, sends the replies to those that are done, and closes all
// connections. Commands that have come and not begun are not executed. It waits for what it lets end, for clients
// that take their replies no longer than Options.WriteTimeout in all: then connections are closed as they are, and
// commands of many keys end before the next one. It may be called several times.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closing.Swap(true) {
		close(s.stop)
	}
	var err error
	for listener := range s.listeners {
		if e := listener.Close(); !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()
	late := time.AfterFunc(s.opts.WriteTimeout, s.cutOff)
	defer late.Stop()
	s.running.Wait()
	return err
}

// cutOff closes the connections that Close still waits for.
func (s *Server) cutOff() {
	s.cut.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		s.opts.Logger.Warn("connection cut off: it has taken too long to close", "client", c.id)
		go func() { _ = c.nc.Close() }() // that of TLS may wait
	}
}

// clients returns how many connections there are.
func (s *Server) clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
