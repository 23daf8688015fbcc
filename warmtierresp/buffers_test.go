package warmtierresp

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: an allowance is never beyond its limit, and a large request that fails takes nothing from small ones beside it.
func TestAllowance_LargeFailsAlone(t *testing.T) {
	a := allowance{limit: 1000}
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if a.take(1001) {
					t.Error("beyond the limit")
				}
			}
		}
	})
	for range 200_000 {
		require.True(t, a.take(1))
		a.giveBack(1)
	}
	close(stop)
	all.Wait()
	require.True(t, a.take(1000))
	require.False(t, a.take(1))
}

// Goal: a number of arguments that a client announces takes nothing of what all share before they come.
func TestReader_CountIsCharged(t *testing.T) {
	buffers := &allowance{limit: 1 << 20}
	r := newReader(io.MultiReader(strings.NewReader("*1048576\r\n"),
		strings.NewReader(strings.Repeat("$0\r\n\r\n", 3*keptArgs))), buffers, testLimits)
	_, err := r.command()
	require.ErrorIs(t, err, errIncomplete)
	require.NoError(t, r.fill())
	_, err = r.command()
	require.ErrorIs(t, err, errIncomplete)
	require.Zero(t, r.argsHeld)
	for r.tail-r.head < 6*3*keptArgs {
		require.NoError(t, r.fill())
		_, err = r.command()
		require.ErrorIs(t, err, errIncomplete)
	}
	require.Equal(t, 3*keptArgs*argumentCost, r.argsHeld, "doubled twice")
	require.LessOrEqual(t, cap(r.spans), 5*keptArgs)
	r.release()
	require.Zero(t, buffers.used.Load())
}

// Goal: what commands reply and work with is within MaxBufferBytes, whichever command it is; one that finds no room
// changes nothing.
func TestServer_RepliesWithinBuffers(t *testing.T) {
	store := openStore(t, nil)
	large := make([]byte, 2<<20)
	require.NoError(t, store.PutTTL("large", large, time.Hour))
	until, err := store.Expiry("large")
	require.NoError(t, err)
	replying := []string{"SET large x NX GET", "SET large x GET", "SET large x XX GET EX 10", "GETSET large x",
		"GETDEL large", "GETEX large PERSIST"}
	for limit, commands := range map[int64][]string{
		1 << 20: append(replying, "PERSIST large", "EXPIRE large 10", "APPEND large x", "GET large", "ECHO *", "PING *"),
		3 << 20: replying, // room for a copy, and none for a reply with it
	} {
		s := New(store, Options{MaxBufferBytes: limit})
		c := newConn(s, nil, 1)
		c.authorize()
		for _, words := range commands {
			args := bytes.Fields([]byte(words))
			if string(args[1]) == "*" {
				args[1] = large
			}
			c.execute(args)
			require.Contains(t, string(c.out), "-OOM", words)
			require.Less(t, len(c.out), 1000, words)
			c.out = c.out[:0]
			s.buffers.giveBack(c.outHeld) // as flush does
			c.outHeld = 0
			length, err := s.length("large")
			require.NoError(t, err)
			require.Equal(t, len(large), length, words)
			now, err := store.Expiry("large")
			require.NoError(t, err)
			require.Equal(t, until, now, words)
			require.Zero(t, s.buffers.used.Load(), words)
		}
	}
}

// Goal: a command that needs no content copies none: it succeeds where there is no room for one.
func TestServer_NoCopyWithoutNeed(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("large", make([]byte, 2<<20)))
	c := serve(t, store, Options{MaxBufferBytes: 1}).dial()
	for _, step := range [][2]string{
		{"SET large x NX", "nil"}, {"SETNX large x", "0"}, {"PERSIST large", "0"}, {"EXPIRE large 10 XX", "0"},
		{"INCR large", "-ERR value is not an integer or out of range"},
		{"INCRBYFLOAT large 1", "-ERR value is not a valid float"},
		{"GETEX large PERSIST", "-OOM"}, {"STRLEN large", "2097152"}, {"SET none x XX", "nil"},
		{"SET large y XX KEEPTTL", "OK"},
		{"GETSET large z", `"y"`}, {"EXPIRE large -1", "1"}, {"EXISTS large", "0"},
	} {
		require.Contains(t, c.line(step[0]), step[1], step[0])
	}
}

// Goal: a deadline that has passed deletes also in a store that is full, and a content that is not needed is not read.
func TestServer_ExpireInFullStore(t *testing.T) {
	store := openStore(t, &warmtier.Options{MaxBytes: 4 << 20, Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
	c := serve(t, store, Options{}).dial()
	full := false
	for size := 100_000; size > 0; size /= 10 {
		for i := range 100 {
			if reply := c.do("SET", fmt.Sprintf("%d-%d", size, i), strings.Repeat("x", size)); reply != "OK" {
				full = true
				break
			}
		}
	}
	require.True(t, full)
	require.Equal(t, "1", c.line("EXPIRE 100000-0 -1"))
	require.Equal(t, "0", c.line("EXISTS 100000-0"))
}

// Goal: a command of many keys ends with its client, whose replies are not gathered for nobody.
func TestMget_EndsWithItsClient(t *testing.T) {
	store := openStore(t, nil)
	require.NoError(t, store.Put("a", make([]byte, 10_000)))
	s := New(store, Options{MaxBufferBytes: 1 << 20})
	for _, words := range []string{"MGET" + strings.Repeat(" a", 1000), "COMMAND INFO" + strings.Repeat(" get", 10_000)} {
		ours, theirs := net.Pipe()
		require.NoError(t, theirs.Close())
		c := newConn(s, ours, 1)
		var args [][]byte
		for _, word := range strings.Fields(words) {
			args = append(args, []byte(word))
		}
		before := store.Stats().Gets
		c.execute(args)
		require.True(t, c.quits)
		require.Less(t, store.Stats().Gets-before, int64(10))
		require.Empty(t, c.out)
		require.Zero(t, s.buffers.used.Load())
	}
}

// Goal: a long reply is written in pieces, each with its own deadline.
func TestConn_WritesInPieces(t *testing.T) {
	nc := &piecesConn{}
	c := newConn(New(openStore(t, nil), Options{WriteTimeout: time.Nanosecond}), nc, 1)
	c.out = make([]byte, 3*writePiece+1)
	require.NoError(t, c.flush())
	require.Equal(t, []int{writePiece, writePiece, writePiece, 1}, nc.pieces)
	require.Equal(t, 4, nc.deadlines)
}

type piecesConn struct {
	net.Conn
	pieces    []int
	deadlines int
}

func (c *piecesConn) Write(b []byte) (int, error) {
	c.pieces = append(c.pieces, len(b))
	return len(b), nil
}

func (c *piecesConn) SetWriteDeadline(time.Time) error {
	c.deadlines++
	return nil
}
