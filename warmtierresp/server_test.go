package warmtierresp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: a client too many is told so and closed, and one that goes makes room; the others notice nothing.
func TestServer_MaxClients(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{MaxClients: 2})
	first, second := s.dial(), s.dial()
	require.Equal(t, "PONG", first.line("PING"))
	require.Equal(t, "PONG", second.line("PING"))
	for range 20 {
		require.Equal(t, "-ERR max number of clients reached\r\n", s.dial().closed())
	}
	require.Equal(t, "OK", second.line("QUIT"))
	require.Empty(t, second.closed())
	require.Eventually(t, func() bool { return s.clients() == 1 }, patience, time.Millisecond)
	require.Equal(t, "PONG", s.dial().line("PING"))
	require.Equal(t, "PONG", first.line("PING"))
	require.EqualValues(t, 20, s.refused.Load())
}

// Goal: ten thousand connections beyond the limit are refused, each with the line, and those within go on.
func TestServer_TenThousandRefused(t *testing.T) {
	if os.Getenv("WARMTIER_TEST_CLIENTS") == "" {
		t.Skip("WARMTIER_TEST_CLIENTS asks for it")
	}
	s := serve(t, openStore(t, nil), Options{MaxClients: 10})
	var inside []*client
	for range 10 {
		inside = append(inside, s.dial())
		require.Equal(t, "PONG", inside[len(inside)-1].line("PING"))
	}
	var all sync.WaitGroup
	problems := make(chan error, 10_000)
	for range 100 {
		all.Go(func() {
			for range 100 {
				nc, err := net.Dial("tcp", s.address)
				if err != nil {
					problems <- err
					continue
				}
				line, err := io.ReadAll(nc)
				if string(line) != "-ERR max number of clients reached\r\n" {
					problems <- fmt.Errorf("%q %w", line, err)
				}
				_ = nc.Close()
			}
		})
	}
	for range 1000 {
		for _, c := range inside {
			require.Equal(t, "PONG", c.line("PING"))
		}
	}
	all.Wait()
	close(problems)
	require.NoError(t, <-problems)
	require.EqualValues(t, 10_000, s.refused.Load())
}

// Goal: a client that does not read its replies holds up nobody else, takes bounded memory, and is closed.
func TestServer_SlowClient(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("a", make([]byte, 1<<20)))
	s := serve(t, store, Options{WriteTimeout: 200 * time.Millisecond, MaxBufferBytes: 4 << 20})
	slow, other := s.dial(), s.dial()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(slow.nc, strings.Repeat(encode("GET", "a"), 100_000)) // until it is closed
	}()
	for range 1000 {
		require.Equal(t, "PONG", other.line("PING"))
		require.LessOrEqual(t, s.buffers.used.Load(), int64(4<<20))
	}
	<-sent
	require.Eventually(t, func() bool { return s.clients() == 1 }, patience, time.Millisecond)
	require.Equal(t, "PONG", other.line("PING"))
	require.Zero(t, s.buffers.used.Load())
}

// Goal: replies that find no room are errors of their commands, and only theirs.
func TestServer_MaxBufferBytes(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("large", make([]byte, 2<<20)))
	c := serve(t, store, Options{MaxBufferBytes: 1 << 20}).dial()
	require.Contains(t, c.line("GET large"), "-OOM command not allowed when clients' buffers take more than 1048576 bytes")
	require.Contains(t, c.line("MGET large none"), "[-OOM")
	require.Contains(t, c.do("SET", "a", strings.Repeat("x", 2<<20)), "-OOM")
	require.Equal(t, "nil", c.line("GET a"))
	require.Equal(t, "OK", c.do("SET", "a", strings.Repeat("x", 1<<19)))
	require.Equal(t, "2097152", c.line("STRLEN large"))
}

// Goal: a command over MaxRequestBytes is an error of that command, and so is one that makes a longer content.
func TestServer_MaxRequestBytes(t *testing.T) {
	c := serve(t, openStore(t, nil), Options{MaxRequestBytes: 1000}).dial()
	require.Equal(t, "OK", c.do("SET", "a", strings.Repeat("x", 900)))
	require.Contains(t, c.do("SET", "b", strings.Repeat("x", 100_000)), "-ERR string exceeds maximum allowed size")
	require.Equal(t, "-ERR string exceeds maximum allowed size (1001 bytes, limit 1000)",
		c.do("APPEND", "a", strings.Repeat("x", 101)))
	require.Equal(t, "900", c.line("STRLEN a"))
	require.Equal(t, "0", c.line("EXISTS b"))
}

// Goal: a client from which nothing comes is closed; one that sends is not.
func TestServer_IdleTimeout(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{IdleTimeout: 100 * time.Millisecond})
	idle, half := s.dial(), s.dial()
	half.send("*1\r\n$4\r\nPI")
	require.Empty(t, idle.closed())
	require.Empty(t, half.closed())
	require.Equal(t, "PONG", s.dial().line("PING"))
}

// Goal: Close lets the command at work end and sends its reply; what comes after it is not executed; idle clients and
// ones that have sent half a command hold up nothing.
func TestServer_Close(t *testing.T) {
	store := openStore(t, nil)
	s := serve(t, store, Options{IdleTimeout: time.Hour})
	begun, end := make(chan struct{}), make(chan struct{})
	s.commands["block"] = &command{name: "block", arity: 1, run: func(c *conn, _ [][]byte) {
		close(begun)
		<-end
		c.ok()
	}}
	idle, half, busy := s.dial(), s.dial(), s.dial()
	require.Equal(t, "PONG", idle.line("PING"))
	half.send(encode("PING") + "*1\r\n$4\r\nPI")
	require.Equal(t, "PONG", half.reply())
	busy.send(encode("block") + encode("SET", "a", "1"))
	<-begun
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	require.Empty(t, idle.closed())
	require.Empty(t, half.closed())
	select {
	case err := <-closed:
		require.Fail(t, "closed with a command at work", "%v", err)
	default:
	}
	close(end)
	require.NoError(t, <-closed)
	require.Equal(t, "+OK\r\n", busy.closed())
	require.False(t, store.Has("a"))
	require.NoError(t, s.Close())
	_, err := net.Dial("tcp", s.address)
	require.Error(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(listener), ErrServerClosed)
	require.ErrorIs(t, listener.Close(), net.ErrClosed)
}

// Goal: a connection that begins to wait when Close has woken those that wait does not wait for its idle timeout.
// Method: the deadline that await sets is where Close comes.
func TestServer_CloseBeforeWait(t *testing.T) {
	s := New(openStore(t, nil), Options{IdleTimeout: time.Hour})
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	var c *conn
	nc := &hookedConn{Conn: ours}
	require.True(t, s.enter(func() {
		c = newConn(s, nc, 1)
		s.conns[c] = true
	}))
	nc.beforeDeadline = sync.OnceFunc(func() { // as Close does
		s.closing.Store(true)
		c.wake()
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.serve()
	}()
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(t, "it waits")
	}
	require.NoError(t, s.Close())
}

// hookedConn calls beforeDeadline before it sets a deadline to read that is to come.
type hookedConn struct {
	net.Conn
	beforeDeadline func()
}

func (c *hookedConn) SetReadDeadline(at time.Time) error {
	if at.After(time.Now()) {
		c.beforeDeadline()
	}
	return c.Conn.SetReadDeadline(at)
}

// Goal: a listener that fails for a moment is asked again; one that fails is an error of Serve.
func TestServer_AcceptFails(t *testing.T) {
	failing := &failingListener{errs: []error{temporary{}, temporary{}, errors.New("broken")}}
	err := New(openStore(t, nil), Options{}).Serve(failing)
	require.ErrorContains(t, err, "broken")
	require.Empty(t, failing.errs)
}

type failingListener struct{ errs []error }

func (l *failingListener) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}
func (l *failingListener) Close() error   { return nil }
func (l *failingListener) Addr() net.Addr { return &net.TCPAddr{} }

type temporary struct{}

func (temporary) Error() string   { return "no descriptor left" }
func (temporary) Temporary() bool { return true }

// Goal: a panic ends its connection, and nothing else.
func TestServer_Panic(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{})
	s.commands["panic"] = &command{name: "panic", arity: 1, run: func(*conn, [][]byte) { panic("a bug") }}
	c := s.dial()
	c.send(encode("panic"))
	require.Empty(t, c.closed())
	require.Equal(t, "PONG", s.dial().line("PING"))
}

// Goal: nothing is done for who has not shown the token, little is read from them, and the token opens everything.
func TestServer_Token(t *testing.T) {
	store := openStore(t, nil)
	s := serve(t, store, Options{Token: "secret"})
	for name := range s.commands {
		switch name {
		case "auth", "hello", "quit":
			continue
		}
		require.Equal(t, "-NOAUTH Authentication required.", s.dial().do(name, "a", "b"), name)
	}
	require.Contains(t, serve(t, store, Options{}).dial().line("AUTH x"),
		"-ERR AUTH <password> called without any password configured for the default user.")
	c := s.dial()
	require.Equal(t, "-NOAUTH Authentication required.", c.do("SET", "a", strings.Repeat("x", 1<<20)))
	require.Equal(t, "-NOAUTH Authentication required.", c.do(strings.Fields("MGET "+strings.Repeat("a ", 100))...))
	require.Equal(t, "-NOAUTH Authentication required.", c.line("NOSUCH"))
	require.Contains(t, c.line("HELLO 3"), "-NOAUTH HELLO must be called with the client already authenticated")
	for _, wrong := range []string{"AUTH wrong", "AUTH other secret", "AUTH default wrong", "HELLO 3 AUTH default wrong"} {
		require.Equal(t, "-WRONGPASS invalid username-password pair or user is disabled.", c.line(wrong))
	}
	require.Equal(t, "-NOAUTH Authentication required.", c.line("GET a"))
	for _, right := range []string{"AUTH secret", "AUTH default secret", "HELLO 2 AUTH default secret"} {
		c := s.dial()
		require.NotContains(t, c.line(right), "-")
		require.Equal(t, "OK", c.do("SET", "a", strings.Repeat("x", 1<<20)))
	}
	require.Equal(t, "OK", s.dial().line("QUIT"))
}

// Goal: a page in a browser cannot hide commands in a request.
func TestServer_HTTP(t *testing.T) {
	store := openStore(t, nil)
	for _, token := range []string{"", "secret"} {
		s := serve(t, store, Options{Token: token})
		for _, request := range []string{"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nSET a 1\r\n",
			"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a 1\r\n"} {
			c := s.dial()
			c.send(request)
			require.NotContains(t, c.closed(), "OK")
		}
	}
	require.False(t, store.Has("a"))
}

// Goal: a broken protocol is told and ends the connection; what came before it was done.
func TestServer_BrokenProtocol(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{})
	c := s.dial()
	c.send(encode("SET", "a", "1") + "*1\r\n$9223372036854775807\r\n" + encode("SET", "a", "2"))
	require.Equal(t, "+OK\r\n-ERR Protocol error: invalid bulk length\r\n", c.closed())
	require.Equal(t, `"1"`, s.dial().line("GET a"))
}

// Goal: what the store refuses is the error that a Redis client expects, and the connection goes on.
func TestServer_StoreErrors(t *testing.T) {
	full := openStore(t, &warmtier.Options{MaxBytes: 4 << 20, Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
	c := serve(t, full, Options{}).dial()
	reply := "OK"
	for i := 0; reply == "OK" && i < 100; i++ {
		reply = c.do("SET", strconv.Itoa(i), strings.Repeat("x", 100_000))
	}
	require.Contains(t, reply, "-OOM command not allowed when used memory > 'maxmemory': warmtier: no space")
	require.Equal(t, "1", c.line("DEL 0"))

	for _, id := range []string{"", strings.Repeat("k", warmtier.MaxIDLen+1)} {
		for _, args := range [][]string{{"GET", id}, {"SET", id, "1"}, {"SET", id, "1", "EX", "10", "NX"}, {"DEL", id},
			{"INCR", id}, {"TTL", id}, {"EXPIRE", id, "10"}, {"MSET", id, "1"}, {"GETDEL", id}, {"STRLEN", id}} {
			require.Equal(t, "-ERR invalid key: it must have 1 to 65535 bytes", c.do(args...))
		}
		require.Equal(t, "0", c.do("EXISTS", id))
	}
	longest := strings.Repeat("\x00\r\n\xff", warmtier.MaxIDLen/4)
	require.Equal(t, "OK", c.do("SET", longest, longest))
	require.Equal(t, fmt.Sprintf("[%q]", longest), c.do("MGET", longest))
	require.Contains(t, c.do(append([]string{"MSET"}, strings.Fields(strings.Repeat("a 1 ", 1025))...)...),
		"-ERR 1025 keys at once: mset stores at most 1024, all or none")

	require.NoError(t, full.Sync())
	for err, want := range map[error]string{
		warmtier.ErrReadOnly: "READONLY ", warmtier.ErrSyncFailed: "MISCONF ", warmtier.ErrClosed: "ERR ",
		warmtier.ErrContentTooLarge: "ERR string exceeds maximum allowed size", context.Canceled: "ERR ",
	} {
		require.True(t, strings.HasPrefix(failure(fmt.Errorf("wrapped: %w", err)), want), want)
	}
}

// Goal: with RESP3 nulls and maps are those of RESP3, and HELLO 2 takes it back.
func TestServer_RESP3(t *testing.T) {
	c := serve(t, openStore(t, nil), Options{}).dial()
	hello := `"server" "redis" "version" "7.0.15" "proto" %d "id" 1 "mode" "standalone" "role" "master" "modules" []`
	require.Equal(t, "["+fmt.Sprintf(hello, 2)+"]", c.line("HELLO"))
	require.Equal(t, "{"+fmt.Sprintf(hello, 3)+"}", c.line("HELLO 3 SETNAME worker"))
	require.Equal(t, `"worker"`, c.line("CLIENT GETNAME"))
	require.Equal(t, "nil3", c.line("GET none"))
	require.Equal(t, "[nil3 nil3]", c.line("MGET a b"))
	require.Equal(t, "{}", c.line("COMMAND DOCS"))
	require.Equal(t, "1", c.line("CLIENT ID"))
	require.Equal(t, "["+fmt.Sprintf(hello, 2)+"]", c.line("HELLO 2"))
	require.Equal(t, "nil", c.line("GET none"))
}

// Goal: INFO and COMMAND say what is so.
func TestServer_Info(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{MaxClients: 7})
	c := s.dial()
	require.Equal(t, "OK", c.line("SET a 1"))
	require.Equal(t, `"1"`, c.line("GET a"))
	require.Equal(t, "nil", c.line("GET b"))
	info := c.line("INFO")
	for _, want := range []string{"redis_version:7.0.15", "connected_clients:1", "maxclients:7", "keyspace_hits:1",
		"keyspace_misses:1", "total_commands_processed:4", "total_connections_received:1", "db0:keys=1,", "maxmemory:0"} {
		require.Contains(t, info, want+"", want)
	}
	require.NotContains(t, c.line("INFO stats"), "connected_clients")
	require.Contains(t, c.line("INFO Clients stats"), "keyspace_hits")
	require.Equal(t, strconv.Itoa(len(s.commands)), c.line("COMMAND COUNT"))
	require.Equal(t, `[["get" 2 [readonly fast] 1 1 1] nil]`, c.line("COMMAND INFO GET nosuch"))
	require.Contains(t, c.line("COMMAND"), `["mset" -3 [write denyoom] 1 -1 2]`)
	require.Contains(t, c.line("COMMAND LIST"), `"getdel"`)
}
