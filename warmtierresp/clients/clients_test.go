// Package clients runs clients that people use against the server. It is a module of its own, since they are large.
package clients

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierresp"
)

// patience bounds what must happen soon.
const patience = 20 * time.Second

// serve starts a server of an empty store, and returns its address.
func serve(t *testing.T) (address string) {
	t.Helper()
	store, err := warmtier.Open("", nil)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := warmtierresp.New(store, warmtierresp.Options{Token: "secret"})
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-served, warmtierresp.ErrServerClosed)
		require.NoError(t, store.Close())
	})
	return listener.Addr().String()
}

// Goal: go-redis works as it does with Redis, with either protocol and with a token, pipelines and pool included.
func TestClients_GoRedis(t *testing.T) {
	for _, protocol := range []int{2, 3} {
		address := serve(t)
		ctx := t.Context()
		wrong := redis.NewClient(&redis.Options{Addr: address, Protocol: protocol})
		require.ErrorContains(t, wrong.Ping(ctx).Err(), "NOAUTH")
		require.NoError(t, wrong.Close())
		c := redis.NewClient(&redis.Options{Addr: address, Protocol: protocol, Password: "secret", ClientName: "test"})
		require.NoError(t, c.Ping(ctx).Err())
		require.ErrorIs(t, c.Get(ctx, "a").Err(), redis.Nil)
		require.NoError(t, c.Set(ctx, "a", "\x00\r\n", time.Hour).Err())
		require.Equal(t, "\x00\r\n", c.Get(ctx, "a").Val())
		require.InDelta(t, time.Hour, c.TTL(ctx, "a").Val(), float64(time.Minute))
		ok, err := c.SetNX(ctx, "a", "2", time.Minute).Result()
		require.NoError(t, err)
		require.False(t, ok)
		require.EqualValues(t, 5, c.IncrBy(ctx, "n", 5).Val())
		require.Equal(t, 5.5, c.IncrByFloat(ctx, "n", 0.5).Val())
		require.NoError(t, c.MSet(ctx, "b", "1", "c", "2").Err())
		require.Equal(t, []any{"1", nil, "2"}, c.MGet(ctx, "b", "none", "c").Val())
		require.True(t, c.ExpireNX(ctx, "b", time.Hour).Val())
		require.True(t, c.Persist(ctx, "b").Val())
		pipeline := c.Pipeline()
		for range 100 {
			pipeline.Incr(ctx, "p")
		}
		results, err := pipeline.Exec(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 100, results[99].(*redis.IntCmd).Val())
		found := map[string]bool{}
		ids := c.Scan(ctx, 0, "*", 2).Iterator()
		for ids.Next(ctx) {
			found[ids.Val()] = true
		}
		require.NoError(t, ids.Err())
		require.Len(t, found, 5)
		commands, err := c.Command(ctx).Result()
		require.NoError(t, err)
		require.Equal(t, int8(-3), commands["set"].Arity)
		require.ErrorContains(t, c.LPush(ctx, "l", "1").Err(), "ERR unknown command")
		require.EqualValues(t, 5, c.DBSize(ctx).Val())
		require.NoError(t, c.FlushDB(ctx).Err())
		require.EqualValues(t, 0, c.Exists(ctx, "a", "b").Val())
		require.NoError(t, c.Close())
	}
}

// Goal: rueidis works, which uses RESP3, one connection for all and pipelines on its own. Its cache on the client's
// side needs CLIENT TRACKING, and has to be off.
func TestClients_Rueidis(t *testing.T) {
	address := serve(t)
	ctx := t.Context()
	options := rueidis.ClientOption{InitAddress: []string{address}, Password: "secret", DisableCache: true}
	c, err := rueidis.NewClient(options)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Do(ctx, c.B().Set().Key("a").Value("1").Ex(time.Hour).Build()).Error())
	text, err := c.Do(ctx, c.B().Get().Key("a").Build()).ToString()
	require.NoError(t, err)
	require.Equal(t, "1", text)
	require.True(t, rueidis.IsRedisNil(c.Do(ctx, c.B().Get().Key("none").Build()).Error()))
	commands := make(rueidis.Commands, 0, 200)
	for range 200 {
		commands = append(commands, c.B().Incr().Key("n").Build())
	}
	results := c.DoMulti(ctx, commands...)
	n, err := results[199].AsInt64()
	require.NoError(t, err)
	require.EqualValues(t, 200, n)
	page, err := c.Do(ctx, c.B().Scan().Cursor(0).Count(100).Build()).AsScanEntry()
	require.NoError(t, err)
	require.Len(t, page.Elements, 2)
	require.Zero(t, page.Cursor)
	values, err := c.Do(ctx, c.B().Mget().Key("a", "none", "n").Build()).ToArray()
	require.NoError(t, err)
	require.True(t, values[1].IsNil())
	options.DisableCache = false
	_, err = rueidis.NewClient(options)
	require.Error(t, err)
}

// Goal: redis-cli works, with commands typed and piped.
func TestClients_RedisCLI(t *testing.T) {
	program, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip("there is no redis-cli here")
	}
	address := serve(t)
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	cli := func(input string, args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{"-h", host, "-p", port}, args...)...)
		cmd.Env = append(cmd.Environ(), "REDISCLI_AUTH=secret")
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if ended, ok := errors.AsType[*exec.ExitError](err); ok && ended.Exited() {
			err = nil // it fails where the server does
		}
		require.NoError(t, err)
		return string(out)
	}
	require.Equal(t, "OK\n", cli("", "SET", "a", "1"))
	require.Equal(t, "1\n", cli("", "-3", "GET", "a"))
	require.Equal(t, "OK\n2\n\nERR unknown command 'lpush', with args beginning with: 'l' '1' \n\n",
		cli("SET b \"x y\"\nINCR a\nGET none\nlpush l 1\n"))
	require.Equal(t, "2\n", cli("", "DBSIZE"))
	require.ElementsMatch(t, []string{"a", "b"}, strings.Fields(cli("", "--scan", "--pattern", "?")))
	require.Contains(t, cli("", "INFO", "server"), "redis_version:")
	piped := "*3\r\n$3\r\nSET\r\n$1\r\nc\r\n$1\r\n1\r\n*2\r\n$3\r\nGET\r\n$1\r\nd\r\n"
	require.Contains(t, cli(piped, "--pipe"), "errors: 0, replies: 2")
	require.Contains(t, cli("", "--bigkeys"), "Biggest string found")
}
