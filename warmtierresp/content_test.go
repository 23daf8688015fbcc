package warmtierresp

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: a command that makes a content of the one before it loses no write that comes between, and keeps the deadline
// that is there when it stores. The interleaving: see content.go; fn is where the other write comes.
func TestChange_OtherWriteBetween(t *testing.T) {
	for name, between := range map[string]func(s *warmtier.Store) error{
		"Put":    func(s *warmtier.Store) error { return s.Put("a", []byte("other")) },
		"PutTTL": func(s *warmtier.Store) error { return s.PutTTL("a", []byte("other"), time.Hour) },
		"Delete": func(s *warmtier.Store) error { _, err := s.Delete("a"); return err },
	} {
		for _, ttl := range []time.Duration{0, 2 * time.Hour} {
			t.Run(fmt.Sprint(name, ttl), func(t *testing.T) {
				store := openStore(t, nil)
				s := New(store, Options{})
				c := newConn(s, nil, 1)
				require.NoError(t, s.put("a", []byte("first"), life{ttl: ttl}))
				var seen []string
				err := c.change("a", func(string, int) error { return nil }, func(h held) ([]byte, life, error) {
					seen = append(seen, string(h.content))
					if len(seen) == 1 {
						require.NoError(t, between(store))
					}
					return append(h.content, "+"...), life{until: h.until}, nil
				})
				require.NoError(t, err)
				want, until := "other+", time.Time{}
				if name == "Delete" {
					want = "+"
				}
				got, err := store.Get("a")
				require.NoError(t, err)
				require.Equal(t, want, string(got))
				require.Len(t, seen, 2)
				at, err := store.Expiry("a")
				require.NoError(t, err)
				if name == "PutTTL" {
					require.WithinDuration(t, time.Now().Add(time.Hour), at, time.Minute)
				} else {
					require.Equal(t, until, at)
				}
			})
		}
	}
}

// Goal: GETDEL returns what it has deleted, whoever writes between.
func TestTake_OtherWriteBetween(t *testing.T) {
	store := openStore(t, nil)
	c := newConn(New(store, Options{}), nil, 1)
	require.NoError(t, store.Put("a", []byte("first")))
	calls := 0
	h, err := c.take("a", func(held) {
		if calls++; calls == 1 {
			require.NoError(t, store.Put("a", []byte("second")))
		}
	})
	require.NoError(t, err)
	require.Equal(t, "second", string(h.content))
	require.Equal(t, 2, calls)
	require.False(t, store.Has("a"))
}

// Goal: a counter that many raise has their sum, and the deadline that it had.
func TestIncr_ManyClients(t *testing.T) {
	store := openStore(t, nil)
	s := serve(t, store, Options{})
	require.Equal(t, "OK", s.dial().line("SET n 0 EX 1000"))
	before, err := store.Expiry("n")
	require.NoError(t, err)
	var all sync.WaitGroup
	for range 8 {
		c := s.dial()
		all.Go(func() {
			for range 200 {
				if _, err := strconv.Atoi(c.line("INCR n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, `"1600"`, s.dial().line("GET n"))
	after, err := store.Expiry("n")
	require.NoError(t, err)
	require.Equal(t, before, after)
}

// Goal: of many that set what is not there one does, and of many that take what is there one gets it.
func TestSet_OneOfMany(t *testing.T) {
	s := serve(t, openStore(t, nil), Options{})
	for _, set := range []string{"SETNX a 1", "SET a 1 NX", "SET a 1 NX EX 100", "MSETNX a 1 b 2"} {
		var all sync.WaitGroup
		var mu sync.Mutex
		won, got := 0, 0
		for range 8 {
			c := s.dial()
			all.Go(func() {
				reply := c.line(set)
				mu.Lock()
				defer mu.Unlock()
				if reply == "OK" || reply == "1" {
					won++
				}
			})
		}
		all.Wait()
		require.Equal(t, 1, won, set)
		for range 8 {
			c := s.dial()
			all.Go(func() {
				reply := c.line("GETDEL a")
				mu.Lock()
				defer mu.Unlock()
				if reply == `"1"` {
					got++
				}
			})
		}
		all.Wait()
		require.Equal(t, 1, got)
		require.Contains(t, s.dial().line("DEL b"), "")
	}
}

// Goal: a scan has every key once, also one that matches.
func TestScan(t *testing.T) {
	c := serve(t, openStore(t, nil), Options{}).dial()
	for i := range 1000 {
		require.Equal(t, "OK", c.do("SET", fmt.Sprintf("%d:%d", i%10, i), "1"))
	}
	for _, match := range [][]string{
		nil, {"MATCH", "3:*"}, {"COUNT", "97"}, {"TYPE", "string", "MATCH", "*", "COUNT", "100000"},
	} {
		seen := map[string]int{}
		for cursor := "0"; ; {
			c.send(encode(append([]string{"SCAN", cursor}, match...)...))
			line, err := c.in.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "*2\r\n", line)
			cursor, err = strconv.Unquote(c.reply())
			require.NoError(t, err)
			line, err = c.in.ReadString('\n')
			require.NoError(t, err)
			for range c.number(line[1 : len(line)-2]) {
				seen[c.reply()]++
			}
			if cursor == "0" {
				break
			}
		}
		want := 1000
		if len(match) == 2 && match[0] == "MATCH" {
			want = 100
		}
		require.Len(t, seen, want)
		for id, n := range seen {
			require.Equal(t, 1, n, id)
		}
	}
	require.Equal(t, "-ERR invalid cursor", c.line("SCAN 12345"))
}

// scanOnce does one SCAN, and returns the cursor and the ids.
func (c *client) scanOnce(args ...string) (cursor string, ids []string) {
	c.t.Helper()
	c.send(encode(append([]string{"SCAN"}, args...)...))
	for i := range 2 {
		line, err := c.in.ReadString('\n')
		require.NoError(c.t, err)
		if i == 0 {
			require.Equal(c.t, "*2\r\n", line)
			cursor, err = strconv.Unquote(c.reply())
			require.NoError(c.t, err)
			continue
		}
		for range c.number(line[1 : len(line)-2]) {
			ids = append(ids, c.reply())
		}
	}
	return cursor, ids
}

// Goal: one SCAN is bounded in bytes of ids and in the work of its pattern, whatever number it asks for; the scan still
// has every key once.
func TestScan_Bounded(t *testing.T) {
	store := openStore(t, nil)
	pattern := strings.Repeat("*a", 100) + "b"
	const all = 100
	for i := range all {
		require.NoError(t, store.Put(strings.Repeat("a", 30_000)+fmt.Sprintf("%03d", i), nil))
	}
	s := serve(t, store, Options{})
	c := s.dial()
	for _, options := range [][]string{{"COUNT", "10000"}, {"COUNT", "10000", "MATCH", "*"}} {
		seen, calls := map[string]bool{}, 0
		for cursor := "0"; calls == 0 || cursor != "0"; calls++ {
			var ids []string
			cursor, ids = c.scanOnce(append([]string{cursor}, options...)...)
			require.LessOrEqual(t, len(ids), (scanBytes+scanStep*30_100)/30_000)
			for _, id := range ids {
				require.False(t, seen[id])
				seen[id] = true
			}
		}
		require.Len(t, seen, all)
		require.GreaterOrEqual(t, calls, 4)
	}
	one := newConn(s.Server, nil, 1)
	one.authorize()
	one.execute([][]byte{[]byte("SCAN"), []byte("0"), []byte("COUNT"), []byte("10000"), []byte("MATCH"), []byte(pattern)})
	require.NotContains(t, string(one.out), "$1\r\n0\r\n", "it has matched all of them in one call")
	require.Contains(t, c.do("SCAN", "0", "MATCH", strings.Repeat("*", maxPattern+1)), "-ERR pattern is too long")
}

// Goal: a SCAN that finds no room for a step tries a smaller one, and is an error when there is none for one id.
func TestScan_NoRoom(t *testing.T) {
	store := openStore(t, nil)
	for i := range 64 {
		require.NoError(t, store.Put(strings.Repeat("a", 60_000)+strconv.Itoa(i), nil))
	}
	cursor, ids := serve(t, store, Options{MaxBufferBytes: 100_000}).dial().scanOnce("0", "COUNT", "100")
	require.NotEqual(t, "0", cursor)
	require.NotEmpty(t, ids)
	require.Contains(t, serve(t, store, Options{MaxBufferBytes: 1000}).dial().line("SCAN 0"), "-OOM")
}
