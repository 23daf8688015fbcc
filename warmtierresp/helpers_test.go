package warmtierresp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// patience bounds what must happen soon; nothing here takes as long unless it fails.
const patience = 20 * time.Second

// openStore returns a store in memory that is checked at the end.
func openStore(t testing.TB, opts *warmtier.Options) *warmtier.Store {
	t.Helper()
	store, err := warmtier.Open("", opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		report, err := store.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, report.Findings)
		require.NoError(t, store.Close())
	})
	return store
}

// running is a server that listens on loopback.
type running struct {
	*Server
	t       testing.TB
	address string
	served  chan error
}

func serve(t testing.TB, store *warmtier.Store, opts Options) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &running{Server: New(store, opts), t: t, address: listener.Addr().String(), served: make(chan error, 1)}
	go func() { s.served <- s.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-s.served, ErrServerClosed)
		require.Zero(t, s.clients())
		require.Zero(t, s.buffers.used.Load())
	})
	return s
}

// client speaks RESP without any library.
type client struct {
	t  testing.TB
	nc net.Conn
	in *bufio.Reader
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	t.Cleanup(func() { _ = nc.Close() })
	return &client{t: t, nc: nc, in: bufio.NewReader(nc)}
}

func (s *running) dial() *client { return dial(s.t, s.address) }

func (c *client) send(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.nc, text)
	require.NoError(c.t, err)
}

// do sends a command, and returns the reply as reply does.
func (c *client) do(args ...string) string {
	c.t.Helper()
	c.send(encode(args...))
	return c.reply()
}

// line does a command of words without spaces.
func (c *client) line(words string) string {
	c.t.Helper()
	return c.do(strings.Fields(words)...)
}

func encode(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

// reply reads the next reply, as text: OK, -ERR ..., 1, "content", nil, [1 "a"], {"a" 1}.
func (c *client) reply() string {
	c.t.Helper()
	line, err := c.in.ReadString('\n')
	require.NoError(c.t, err)
	line = strings.TrimSuffix(line, "\r\n")
	rest := line[1:]
	switch line[0] {
	case '+', ':':
		return rest
	case '-':
		return line
	case '_':
		return "nil3"
	case '$':
		n := c.number(rest)
		if n < 0 {
			return "nil"
		}
		b := make([]byte, n+2)
		_, err := io.ReadFull(c.in, b)
		require.NoError(c.t, err)
		require.Equal(c.t, "\r\n", string(b[n:]))
		return strconv.Quote(string(b[:n]))
	case '*':
		return "[" + c.replies(c.number(rest)) + "]"
	case '%':
		return "{" + c.replies(2*c.number(rest)) + "}"
	default:
		require.Failf(c.t, "no reply", "%q", line)
		return ""
	}
}

func (c *client) replies(n int) string {
	c.t.Helper()
	all := make([]string, 0, max(0, n))
	for range n {
		all = append(all, c.reply())
	}
	return strings.Join(all, " ")
}

func (c *client) number(s string) int {
	c.t.Helper()
	n, err := strconv.Atoi(s)
	require.NoError(c.t, err)
	return n
}

// closed waits until the server has closed the connection, and returns what came before.
func (c *client) closed() string {
	c.t.Helper()
	rest, err := io.ReadAll(c.in)
	if err != nil { // what was sent and not read makes the end of it a reset
		require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
	}
	return string(rest)
}

// redisServer starts a Redis server without files, for comparison.
func redisServer(t *testing.T) (address string) {
	t.Helper()
	program := redisProgram(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = listener.Addr().String()
	require.NoError(t, listener.Close())
	_, port, _ := net.SplitHostPort(address)
	cmd := redisCommand(program, "--port", port, "--save", "", "--appendonly", "no", "--daemonize", "no",
		"--bind", "127.0.0.1", "--dir", t.TempDir())
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return address
		}
	}
	require.FailNow(t, "redis-server did not start")
	return ""
}

// redisProgram returns the program that is a Redis server. In Debian's redis-tools it has another name, and does what
// the name says that it is called by.
func redisProgram(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"redis-server", "redis-check-rdb"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	t.Skip("there is no redis-server here")
	return ""
}

func redisCommand(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Args[0] = "redis-server"
	return cmd
}
