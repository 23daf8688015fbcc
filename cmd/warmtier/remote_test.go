package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
)

// Goal: a server stores a binary export while it serves, all of it or nothing, for who brings the token.
func TestImport_Server(t *testing.T) {
	t.Setenv("WARMTIER_TOKEN", "secret")
	from, dir := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "store")
	fill(t, from, nasty)
	fill(t, dir, map[string]string{"plain": "newer", "mine": "stays"})
	file := filepath.Join(t.TempDir(), "data.warm")
	command(t, "", "export", "-q", "-d", from, "-o", file).exits(exitOK)
	stream, err := os.ReadFile(file)
	require.NoError(t, err)
	s := serve(t, dir)

	large := append(bytes.Clone(stream[:100]), make([]byte, 8<<20)...) // more than connections take in
	for name, input := range map[string][]byte{"cut": stream[:len(stream)-1], "damaged": large, "empty": nil} {
		r := command(t, string(input), "import", "--format", "binary", "--url", s.url, "-").exits(exitFinding)
		require.Contains(t, r.err, "corrupt record", name)
	}
	r := command(t, "", "import", "--url", s.url, "--token", "wrong", file).exits(exitIO)
	require.Contains(t, r.err, "another token")
	r = command(t, `{"id":"a","content":""}`, "import", "--url", s.url, "-").exits(exitUsage)
	require.Contains(t, r.err, "a server takes a binary export")
	command(t, "", "import", "--url", s.url, "--max-bytes", "4MiB", file).exits(exitUsage)
	command(t, "", "import", "--url", s.url, "-d", dir, file).exits(exitUsage)
	require.Equal(t, "2\n", command(t, "", "count", "--url", s.url).exits(exitOK).out)

	v := command(t, "", "import", "--json", "--url", s.url, file).exits(exitOK).json()
	require.Equal(t, map[string]any{"memories": float64(len(nasty) - 1), "existing": 1.0, "expired": 0.0}, v)
	table := command(t, string(stream), "import", "--url", s.url, "-").exits(exitOK).out
	require.Contains(t, table, "left alone  8 that were there")
	s.end()
	got := contents(t, dir)
	require.Equal(t, "newer", got["plain"])
	require.Equal(t, "stays", got["mine"])
	require.Len(t, got, len(nasty)+1)

	require.NoError(t, os.Unsetenv("WARMTIER_TOKEN"))
	s = serve(t, dir)
	r = command(t, "", "import", "--url", s.url, file).exits(exitIO)
	require.Contains(t, r.err, "only given by a server that has a token")
	s.end()
}

// Goal: a client that leaves before its import is done ends it, and nothing is stored.
//
// The interleaving: the server has all that was sent, and waits for another import.
func TestImport_ServerWithoutItsClient(t *testing.T) {
	open := func() *warmtier.Store {
		s, err := warmtier.Open("", &warmtier.Options{Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	from, to := open(), open()
	var empty, stream bytes.Buffer
	_, err := from.Export(t.Context(), &empty)
	require.NoError(t, err)
	require.NoError(t, from.Put("a", nil))
	_, err = from.Export(t.Context(), &stream)
	require.NoError(t, err)

	storing, goOn, other := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	again := &secondRead{ReadSeeker: bytes.NewReader(empty.Bytes()), then: func() { close(storing); <-goOn }}
	go func() {
		_, err := to.Import(context.Background(), again)
		other <- err
	}()
	<-storing

	ctx, cancel := context.WithCancel(t.Context())
	handler, left := &contentsHandler{store: to, token: "secret", next: http.NotFoundHandler()}, make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(left)
		r.Body = &endedBody{r.Body, cancel}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+importPath, &stream)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer secret")
	answer, err := server.Client().Do(r)
	if err == nil {
		_ = answer.Body.Close()
	}
	require.ErrorIs(t, err, context.Canceled)
	<-left
	close(goOn)
	require.NoError(t, <-other)
	require.Zero(t, to.Len())
}

// secondRead calls then when it is read for the second time.
type secondRead struct {
	io.ReadSeeker
	then func()
}

func (s *secondRead) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		s.then()
	}
	return s.ReadSeeker.Seek(offset, whence)
}

// endedBody calls then at its end.
type endedBody struct {
	io.ReadCloser
	then func()
}

func (e *endedBody) Read(b []byte) (int, error) {
	n, err := e.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) {
		e.then()
	}
	return n, err
}

// Goal: a server makes backups while it serves, where whoever started it has said, and nowhere else.
func TestBackup_Server(t *testing.T) {
	t.Setenv("WARMTIER_TOKEN", "secret")
	root := t.TempDir()
	dir, backups := filepath.Join(root, "store"), filepath.Join(root, "checkpoints")
	fill(t, dir, nasty)
	s := serve(t, dir, "--backups", backups)
	v := command(t, "", "backup", "--json", "--url", s.url, "monday").exits(exitOK).json()
	require.Equal(t, map[string]any{"to": filepath.Join(backups, "monday")}, v)
	require.Equal(t, nasty, contents(t, filepath.Join(backups, "monday")))
	r := command(t, "", "backup", "--url", s.url, "monday").exits(exitUsage)
	require.Contains(t, r.err, "the directory is not empty")
	for _, name := range []string{"", ".", "..", "../other", "a/b", "/tmp/x", ".hidden", "a/..", `a/`} {
		r := command(t, "", "backup", "--url", s.url, name).exits(exitUsage)
		require.Contains(t, r.err, "a name, and no path", name)
	}
	r = command(t, "", "backup", "--url", s.url, "--token", "wrong", "tuesday").exits(exitIO)
	require.Contains(t, r.err, "another token")
	status, _ := s.get(strings.TrimPrefix(backupPath, "/")+"?name=tuesday", "")
	require.Equal(t, http.StatusMethodNotAllowed, status)
	require.Equal(t, "backed up to  "+filepath.Join(backups, "tuesday")+"\n",
		command(t, "", "backup", "--url", s.url, "tuesday").exits(exitOK).out)
	s.end()
	entries, err := os.ReadDir(backups)
	require.NoError(t, err)
	require.Len(t, entries, 2)

	s = serve(t, dir)
	r = command(t, "", "backup", "--url", s.url, "wednesday").exits(exitIO)
	require.Contains(t, r.err, "start warmtier serve with --backups")
	r = command(t, "", "put", "-d", dir, "--wait", "0", "a").exits(exitIO)
	require.NotContains(t, r.err, "--url", "it has none")
	s.end()
}

// What is wrong is said in words of the user, of what answers.
func TestRemote_AnotherProtocol(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() //nolint:errcheck // of no consequence here
	says := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = io.WriteString(conn, <-says)
			_ = conn.Close()
		}
	}()
	for _, args := range [][]string{{"stats"}, {"ls"}, {"get", "a"}, {"count"}, {"export"}, {"verify"}, {"backup", "a"}} {
		says <- "-ERR unknown command 'GET'\r\n"
		r := command(t, "", append(args, "--url", "http://"+l.Addr().String())...).exits(exitIO)
		require.Contains(t, r.err, "no server of warmtier answers at http://"+l.Addr().String())
		require.NotContains(t, r.err, "malformed")
	}
}
