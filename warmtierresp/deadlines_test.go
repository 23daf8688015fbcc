package warmtierresp

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serveOne serves one end of a pipe, and returns the other, and what is closed when it has ended.
func serveOne(t *testing.T, s *Server) (theirs net.Conn, ended chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	require.NoError(t, theirs.SetDeadline(time.Now().Add(patience)))
	var c *conn
	require.True(t, s.enter(func() {
		c = newConn(s, ours, 1)
		s.conns[c] = true
	}))
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		c.serve()
	}()
	return theirs, ended
}

func waitFor(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		require.Fail(t, what)
	}
}

// Goal: a command that begins and does not come whole holds its connection, and its buffers, for a bounded time; a
// client between two commands may wait.
func TestServer_UnfinishedCommand(t *testing.T) {
	s := New(openStore(t, nil), Options{})
	s.commandTimeout = 100 * time.Millisecond
	_, idle := serveOne(t, s)
	for _, part := range []string{"*1048576\r\n", "*1\r\n$4\r\nPI", "GET"} {
		theirs, ended := serveOne(t, s)
		_, err := theirs.Write([]byte(part))
		require.NoError(t, err)
		waitFor(t, "the connection is held", ended)
	}
	select {
	case <-idle:
		require.Fail(t, "closed between commands")
	default:
	}
	require.NoError(t, s.Close())
	require.Zero(t, s.buffers.used.Load())
}

// Goal: the time for a command begins with it, also where its bytes come one by one, and is longer for one of which
// much has come.
func TestConn_ReadUntil(t *testing.T) {
	s := New(openStore(t, nil), Options{Token: "secret", IdleTimeout: time.Hour})
	c := newConn(s, nil, 1)
	now := time.Now()
	require.Equal(t, c.loginBy, c.readUntil(now))
	c.authorize()
	require.Equal(t, now.Add(time.Hour), c.readUntil(now))
	c.in.count = 1
	require.Equal(t, now.Add(commandTimeout), c.readUntil(now))
	c.in.came = 640 << 10
	require.Equal(t, now.Add(commandTimeout+10*time.Second), c.readUntil(now.Add(time.Second)))
	c.in.count, c.begunAt = 0, time.Time{}
	s.opts.IdleTimeout = 0
	require.Zero(t, c.readUntil(now))
}

// Goal: a deadline of a command that has ended ends nothing: it is taken back when it passes, and the read goes on.
func TestConn_DeadlineOfFinishedCommand(t *testing.T) {
	nc := &lateConn{}
	c := newConn(New(openStore(t, nil), Options{}), nc, 1)
	c.readBy = time.Now().Add(-time.Second)
	require.NoError(t, c.await())
	require.Equal(t, []time.Time{{}}, nc.deadlines)
	c.in.count, nc.reads = 1, 0 // of a command that is under way for too long
	c.begunAt = time.Now().Add(-2 * commandTimeout)
	require.ErrorIs(t, c.await(), os.ErrDeadlineExceeded)
}

// lateConn has passed its deadline when it is read first.
type lateConn struct {
	net.Conn
	reads     int
	deadlines []time.Time
}

func (c *lateConn) Read(b []byte) (int, error) {
	if c.reads++; c.reads == 1 {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(b, "a"), nil
}

func (c *lateConn) SetReadDeadline(at time.Time) error {
	c.deadlines = append(c.deadlines, at)
	return nil
}

// Goal: who does not show the token has a place for a bounded time, whatever is sent; who has shown it keeps it.
func TestServer_LoginDeadline(t *testing.T) {
	s := New(openStore(t, nil), Options{Token: "secret"})
	known, end := serveOne(t, s)
	s.loginTimeout = 100 * time.Millisecond
	_, silent := serveOne(t, s)
	talking, ended := serveOne(t, s)
	_, err := known.Write([]byte(encode("AUTH", "secret")))
	require.NoError(t, err)
	reply := make([]byte, 100)
	n, err := known.Read(reply)
	require.NoError(t, err)
	require.Equal(t, "+OK\r\n", string(reply[:n]))
	for err == nil {
		if _, err = talking.Write([]byte(encode("PING"))); err == nil {
			_, err = talking.Read(reply)
		}
	}
	waitFor(t, "a silent client keeps its place", silent)
	waitFor(t, "a talking client keeps its place", ended)
	_, err = known.Write([]byte(encode("PING")))
	require.NoError(t, err)
	n, err = known.Read(reply)
	require.NoError(t, err)
	require.Equal(t, "+PONG\r\n", string(reply[:n]))
	require.NoError(t, s.Close())
	<-end
}

// Goal: Close does not wait for ever for a client that takes its replies byte by byte.
func TestServer_CloseIsBounded(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("a", make([]byte, 100_000)))
	s := New(store, Options{WriteTimeout: time.Hour})
	theirs, ended := serveOne(t, s)
	_, err := theirs.Write([]byte(encode(append([]string{"MGET"}, strings.Fields(strings.Repeat("a ", 1000))...)...)))
	require.NoError(t, err)
	_, err = theirs.Read(make([]byte, 1)) // it writes, and would for an hour
	require.NoError(t, err)
	s.opts.WriteTimeout = 10 * time.Millisecond // as that of Close
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.Close()
	}()
	waitFor(t, "Close waits", closed)
	waitFor(t, "the connection goes on", ended)
}

// Goal: a command of many keys that Close has waited for long enough ends before the next key.
func TestDel_CutOff(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("a", nil))
	s := New(store, Options{})
	s.cut.Store(true)
	c := newConn(s, nil, 1)
	c.execute([][]byte{[]byte("DEL"), []byte("a")})
	require.True(t, c.quits)
	require.True(t, store.Has("a"))
}

// Goal: whoever guesses passwords fills no log.
func TestServer_WrongPasswordsLogged(t *testing.T) {
	var log bytes.Buffer
	s := New(openStore(t, nil), Options{Token: "secret", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.started = time.Now().Add(-time.Hour)
	for range 1000 {
		s.logWrongPassword(1)
	}
	first := strings.Count(log.String(), "\n")
	require.GreaterOrEqual(t, first, 1)
	require.Less(t, first, 1000)
	s.wrongAt.Store(1) // long ago
	s.logWrongPassword(1)
	require.Contains(t, log.String(), `"wrong passwords"=1001`)
}
