package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// server is a running "warmtier serve".
type server struct {
	t   *testing.T
	cmd *exec.Cmd
	url string

	resp string // address for Redis clients
}

func serve(t *testing.T, dir string, args ...string) *server {
	t.Helper()
	cmd := exec.Command(program, slices.Concat([]string{"serve", "--json", "-d", dir, "--listen", "127.0.0.1:0"}, args)...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // after end, it is gone already
	var answer struct{ URL, Dir, Resp string }
	require.NoError(t, json.NewDecoder(out).Decode(&answer))
	require.Equal(t, dir, answer.Dir)
	return &server{t: t, cmd: cmd, url: answer.URL, resp: answer.Resp}
}

// end stops it as a service manager does.
func (s *server) end() {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(s.t, s.cmd.Wait())
}

func (s *server) get(path, host string) (status int, body string) {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	require.NoError(s.t, err)
	r.Host = host
	answer, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	require.NoError(s.t, err)
	return answer.StatusCode, string(b)
}

// names are those of all fields, nested ones included.
func names(v map[string]any) (all []string) {
	for name, field := range v {
		all = append(all, name)
		if nested, ok := field.(map[string]any); ok {
			for _, inner := range names(nested) {
				all = append(all, name+"."+inner)
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	command(t, "", "rm", "-d", dir, strings.Repeat("x", 2000)).exits(exitOK)
	local := command(t, "", "stats", "--json", "-d", dir).exits(exitOK).json()
	localSegments := command(t, "", "stats", "--segments", "--json", "-d", dir).exits(exitOK).json()

	s := serve(t, dir)
	status, page := s.get("", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, strings.ToLower(page), "<!doctype html>")
	_, metrics := s.get("metrics", "")
	require.Contains(t, metrics, fmt.Sprintf("\nwarmtier_memories %d\n", len(nasty)-1))
	status, _ = s.get("", "rebound.example")
	require.Equal(t, http.StatusForbidden, status)

	require.Contains(t, command(t, "", "put", "-d", dir, "a", "--wait", "0").exits(exitIO).err,
		fmt.Sprintf("held by process %d", s.cmd.Process.Pid))
	remote := command(t, "", "stats", "--json", "--url", s.url).exits(exitOK).json()
	require.Equal(t, local["live_bytes"], remote["live_bytes"])
	require.Subset(t, append(names(remote), "maintenance.last_skipped", "maintenance.next_cycle"), names(local))
	segments := command(t, "", "stats", "--segments", "--json", "--url", s.url).exits(exitOK).json()
	require.Len(t, segments["segments"], len(localSegments["segments"].([]any)))
	require.Contains(t, command(t, "", "stats", "--url", s.url).exits(exitOK).out, "memories         7\n")

	v := command(t, "", "compact", "--json", "--url", s.url).exits(exitOK).json()
	require.Positive(t, v["bytes_reclaimed"])
	require.Equal(t, 0.0, v["fragmentation_after"])
	require.Contains(t, command(t, "", "compact", "--url", s.url).exits(exitOK).out, "longest swap pause")

	// A client that listens to events does not keep it from ending.
	events, err := http.Get(s.url + "api/v1/events")
	require.NoError(t, err)
	defer events.Body.Close()
	_, err = bufio.NewReader(events.Body).ReadByte()
	require.NoError(t, err)
	s.end()
	after := command(t, "", "stats", "--json", "-d", dir).exits(exitOK).json()
	require.Equal(t, true, after["recovery"].(map[string]any)["clean"])
	require.Equal(t, names(v), names(command(t, "", "compact", "--json", "-d", dir).exits(exitOK).json()))
	command(t, "", "stats", "--url", s.url).exits(exitIO)
}

func TestServe_Token(t *testing.T) {
	t.Setenv("WARMTIER_TOKEN", "secret")
	s := serve(t, filepath.Join(t.TempDir(), "new"), "--create", "--segment-size", "64KiB")
	command(t, "", "compact", "--url", s.url).exits(exitOK)
	require.NoError(t, os.Unsetenv("WARMTIER_TOKEN"))
	r := command(t, "", "compact", "--url", s.url).exits(exitIO)
	require.Contains(t, r.err, "needs the server's token: set WARMTIER_TOKEN, or give --token")
	r = command(t, "", "compact", "--url", s.url, "--token", "wrong").exits(exitIO)
	require.Contains(t, r.err, "another token than the one of WARMTIER_TOKEN or --token")
	command(t, "", "compact", "--url", s.url+"/", "--token", "secret").exits(exitOK)
	command(t, "", "stats", "--url", s.url).exits(exitOK)

	dir := filepath.Join(t.TempDir(), "other")
	address := strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/")
	command(t, "", "serve", "-d", dir, "--create", "--listen", address).exits(exitIO)
	command(t, "", "serve", "-d", dir, "--create", "--listen", "127.0.0.1:0", "--resp", address).exits(exitIO)
	require.NoDirExists(t, dir)
	for _, listen := range []string{":0", "0.0.0.0:0", "192.0.2.1:80", "example.com:80", "nonsense", ""} {
		command(t, "", "serve", "-d", dir, "--listen", listen).exits(exitUsage)
	}
	s.end()
}

// Goal: Redis clients reach the store with the token as their password, and only loopback addresses need none; they
// keep nothing from ending.
func TestServe_RedisClients(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	for _, listen := range []string{":0", "0.0.0.0:0", "192.0.2.1:80", "example.com:80", "nonsense"} {
		command(t, "", "serve", "-d", dir, "--create", "--resp", listen).exits(exitUsage)
	}
	ask := func(s *server, commands, replies string) net.Conn {
		nc, err := net.Dial("tcp", s.resp)
		require.NoError(t, err)
		_, err = io.WriteString(nc, commands)
		require.NoError(t, err)
		got := make([]byte, len(replies))
		_, err = io.ReadFull(nc, got)
		require.NoError(t, err)
		require.Equal(t, replies, string(got))
		return nc
	}
	s := serve(t, dir, "--create", "--resp", "127.0.0.1:0", "--resp-clients", "1")
	first := ask(s, "SET a 1\r\n", "+OK\r\n")
	require.NoError(t, ask(s, "", "-ERR max number of clients reached\r\n").Close())
	s.end()
	_, err := first.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "1", command(t, "", "get", "-d", dir, "a").exits(exitOK).out)

	t.Setenv("WARMTIER_TOKEN", "secret")
	s = serve(t, dir, "--resp", "127.0.0.1:0", "--resp-idle", "100ms")
	nc := ask(s, "GET a\r\nAUTH secret\r\nGET a\r\n", "-NOAUTH Authentication required.\r\n+OK\r\n$1\r\n1\r\n")
	_, err = nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	s.end()
}

func TestRemote_NoServer(t *testing.T) {
	for _, args := range [][]string{{"--url", "ftp://localhost"}, {"--url", "localhost:1"}, {"--url", "://"}, {}} {
		command(t, "", append([]string{"stats"}, args...)...).exits(exitUsage)
		command(t, "", append([]string{"compact"}, args...)...).exits(exitUsage)
	}
}
