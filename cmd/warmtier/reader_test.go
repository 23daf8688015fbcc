package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
)

/*
What get, ls, count and export read is the same, whether they read a directory or ask a server that has it open.
*/

// linesOf returns the lines of a text in order.
func linesOf(text string) []string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	slices.Sort(lines)
	return lines
}

func TestReader_DirectoryAndServer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	memories := map[string]string{"user:1": "one", "user:2": "two", "other": ""}
	for id, content := range nasty {
		memories[id] = content
	}
	fill(t, dir, memories)
	commands := [][]string{
		{"get", "user:1", "user:2"}, {"get", "--json", showID("\xff\x00binary"), showID("with space ")},
		{"get", "--json", "--prefix", "user:"}, {"get", "nobody"}, {"get", "user:1", "nobody", "hex:00", "user:2"},
		{"ls"}, {"ls", "--long"}, {"ls", "--json"}, {"ls", "--prefix", "user:"}, {"ls", "--prefix", "hex:ff00"},
		{"count"}, {"count", "--json"}, {"count", "--prefix", "user:"}, {"export", "--format", "jsonl"},
		{"export", "--format", "jsonl", "--prefix", "user:"}, {"export", "--prefix", "user:"},
	}
	var local []result
	for _, args := range commands {
		local = append(local, command(t, "", append(args, "-d", dir)...))
	}
	require.Equal(t, "onetwo", local[0].out)
	require.Equal(t, "onetwo", local[4].exits(exitFinding).out)
	require.Equal(t, "warmtier: nobody: memory not found; hex:00: memory not found\n", local[4].err)
	require.Equal(t, "11\n", local[10].out)
	require.Equal(t, "2\n", local[12].out)

	t.Setenv("WARMTIER_TOKEN", "secret")
	s := serve(t, dir)
	for i, args := range commands {
		remote := command(t, "", append(args, "--url", s.url)...)
		require.Equal(t, local[i].code, remote.code, args)
		require.Equal(t, local[i].err, remote.err, args)
		require.Equal(t, linesOf(local[i].out), linesOf(remote.out), args)
	}
	require.Len(t, linesOf(command(t, "", "ls", "--limit", "3", "--url", s.url).exits(exitOK).out), 3)
	file := filepath.Join(t.TempDir(), "out")
	command(t, "", "get", "--url", s.url, "user:1", "nobody", "-o", file).exits(exitFinding)
	require.NoFileExists(t, file, "what is not whole")
	v := command(t, "", "export", "--json", "--url", s.url, "-o", file).exits(exitOK).json()
	require.EqualValues(t, len(memories), v["memories"])
	copied := filepath.Join(t.TempDir(), "copy")
	command(t, "", "import", "-d", copied, "--segment-size", "64KiB", file).exits(exitOK)
	require.Equal(t, memories, contents(t, copied))
	s.end()
}

// Ids and contents are for who brings the token, and for nobody where there is none.
func TestReader_OnlyWithToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"secret id": "secret content"})
	answers := func(s *server, token string) (statuses []int) {
		for _, path := range []string{"api/v1/memory?id=secret+id", "api/v1/memories", "api/v1/export"} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
				r, err := http.NewRequest(method, s.url+path, nil)
				require.NoError(t, err)
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				answer, err := http.DefaultClient.Do(r)
				require.NoError(t, err)
				body, err := io.ReadAll(answer.Body)
				require.NoError(t, err)
				require.NoError(t, answer.Body.Close())
				require.Equal(t, answer.StatusCode == http.StatusOK, bytes.Contains(body, []byte("secret")), path)
				statuses = append(statuses, answer.StatusCode)
			}
		}
		slices.Sort(statuses)
		return slices.Compact(statuses)
	}
	s := serve(t, dir)
	require.Equal(t, []int{403, 405}, answers(s, ""))
	require.Equal(t, []int{403, 405}, answers(s, "any"))
	require.Contains(t, command(t, "", "ls", "--url", s.url).exits(exitIO).err, "start warmtier serve with WARMTIER_TOKEN")
	s.end()
	s = serve(t, dir, "--token", "right")
	require.Equal(t, []int{401, 405}, answers(s, ""))
	require.Equal(t, []int{401, 405}, answers(s, "wrong"))
	require.Equal(t, []int{200, 405}, answers(s, "right"))
	s.end()
}

// A program that serves the page serves no ids and contents.
func TestReader_NotAProgramsOwnServer(t *testing.T) {
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	steering := warmtierhttp.New(s, warmtierhttp.Options{Token: "t"})
	server := httptest.NewServer(steering)
	r := command(t, "", "ls", "--url", server.URL, "--token", "t").exits(exitIO)
	require.Contains(t, r.err, "this server does not give what was asked for")
	command(t, "", "count", "--url", server.URL).exits(exitOK)
	server.Close()
	require.NoError(t, steering.Close())
	require.NoError(t, s.Close())
}

// A list that the server could not end is no list, and the reason comes through.
func TestReader_ListCutShort(t *testing.T) {
	var ending atomic.Pointer[func(http.ResponseWriter)]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", errorTrailer)
		switch {
		case r.URL.Path == exportPath:
			_, _ = w.Write(smallExport(t)[:40])
		case r.URL.Query().Has("contents"):
			_, _ = io.WriteString(w, `{"id":"a","content":"1"}`+"\n")
		default:
			_, _ = io.WriteString(w, `{"id":"a","bytes":1}`+"\n")
		}
		(*ending.Load())(w)
	}))
	defer server.Close()
	c := whereFlag{URL: server.URL}.client()
	read := func() []error {
		_, err := c.export(t.Context(), io.Discard)
		return []error{err, c.sizes(t.Context(), "", func(string, int, time.Time) error { return nil }),
			c.each(t.Context(), "", func(memory) error { return nil })}
	}
	aborts := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	ending.Store(&aborts)
	for _, err := range read() {
		require.Error(t, err)
	}
	ends := func(w http.ResponseWriter) { w.Header().Set(errorTrailer, "the reason") }
	ending.Store(&ends)
	for _, err := range read() {
		require.ErrorContains(t, err, "the reason")
		require.Equal(t, exitFinding, exitCode(err))
	}
	silent := func(http.ResponseWriter) {} // as behind a proxy that leaves trailers out
	ending.Store(&silent)
	file := filepath.Join(t.TempDir(), "file")
	r := command(t, "", "export", "--url", server.URL, "-o", file).exits(exitFinding)
	require.Contains(t, r.err, "its end is missing")
	require.NoFileExists(t, file)
}

// What is damaged is missing from no list in silence.
func TestReader_Damaged(t *testing.T) {
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	require.NoError(t, s.Put("a", []byte("content")))
	require.NoError(t, s.Put("b", []byte("content")))
	require.NoError(t, s.View("a", func(content []byte) error { content[0]++; return nil }))
	err = openStore{s}.each(context.Background(), "", func(memory) error { return nil })
	require.Equal(t, exitFinding, exitCode(err))
	require.ErrorContains(t, err, "missing here: 1 damaged memory")
	for path, reason := range map[string]string{exportPath: "corrupt record",
		memoriesPath + "?contents=1": "1 damaged memory", memoriesPath: "1 damaged memory"} {
		answer := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer t")
		(&contentsHandler{store: s, token: "t"}).ServeHTTP(answer, r)
		require.Contains(t, answer.Result().Trailer.Get(errorTrailer), reason)
		require.Empty(t, answer.Result().Trailer.Get(memoriesTrailer))
	}
	require.NoError(t, s.Close())
}

func TestRm_Many(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": "", "b": "", "s:1": "", "s:2": "", "s:3": ""})
	require.Equal(t, "memories deleted  3\n", command(t, "", "rm", "-d", dir, "--prefix", "s:").exits(exitOK).out)
	require.Equal(t, map[string]string{"a": "", "b": ""}, contents(t, dir))
	var v struct{ Deleted int }
	again := command(t, "", "rm", "-d", dir, "--json", "--prefix", "s:").exits(exitOK)
	require.NoError(t, json.Unmarshal([]byte(again.out), &v))
	require.Zero(t, v.Deleted)
	for _, args := range [][]string{{}, {"a", "--prefix", "b"}, {"--prefix", ""}, {""}} {
		command(t, "", append([]string{"rm", "-d", dir}, args...)...).exits(exitUsage)
	}
	require.Empty(t, command(t, "", "rm", "-d", dir, "a", "b").exits(exitOK).out)
	require.Empty(t, contents(t, dir))
}
