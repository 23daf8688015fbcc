package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
)

/*
What the program says, and what it takes when it is called for the first time.
*/

func TestMessages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "warmtier: my store")
	fill(t, dir, map[string]string{"a": ""})
	missing := filepath.Join(t.TempDir(), "warmtier: missing")
	empty := t.TempDir()
	for _, c := range []struct {
		code    int
		message string
		args    []string
	}{
		{exitFinding, "warmtier: b: memory not found", []string{"get", "-d", dir, "warmtier: b"}},
		{exitFinding, "warmtier: memory not found: memory not found",
			[]string{"get", "-d", dir, "warmtier: memory not found"}},
		{exitIO, "open " + missing + ": no such file or directory", []string{"get", "-d", missing, "a"}},
		{exitIO, "open " + missing + ": no such file or directory", []string{"load", "-d", dir + "2", missing}},
		{exitIO, "open " + missing + ": no such file or directory", []string{"import", "-d", dir + "2", missing}},
		{exitIO, "open " + missing + ": no such file or directory", []string{"put", "-d", dir + "2", "a", missing}},
		{exitIO, "open " + missing + ": no such file or directory; --create makes one", []string{"serve", "-d", missing}},
		{exitIO, empty + ": there is no store here", []string{"get", "-d", empty, "a"}},
		{exitIO, empty + ": there is no store here", []string{"verify", "-d", empty}},
		{exitIO, empty + ": there is no store here; --create makes one", []string{"serve", "-d", empty}},
		{exitUsage, "unknown command eat", []string{"eat"}},
		{exitUsage, "unknown command eat", []string{"eat", "--help"}},
		{exitUsage, "unknown command eat", []string{"help", "eat"}},
		{exitUsage, "no command", []string{}},
		{exitUsage, "--dir is the last word: its value is missing", []string{"ls", "-d"}},
		{exitUsage, "put: --dir is missing: say which directory", []string{"put", "--dir=", "a"}},
		{exitUsage, "load: --dir is missing: say which directory", []string{"load", "-d", "", os.DevNull}},
		{exitUsage, "--url is empty: want a value", []string{"stats", "-d", dir, "--url", ""}},
		{exitUsage, "--to is empty: want a value", []string{"repair", "-d", dir, "--to="}},
		{exitUsage, "-o is empty: want a value", []string{"export", "-d", dir, "-o", ""}},
		{exitUsage, "--in is empty: want a value", []string{"bench", "--in="}},
		{exitUsage, "--token is empty: want a value", []string{"serve", "-d", dir, "--token", ""}},
		{exitUsage, "the name of the file is empty", []string{"put", "-d", dir, "a", ""}},
		{exitUsage, "the name of the file is empty", []string{"import", "-d", dir + "2", ""}},
		{exitUsage, "the name of the file is empty", []string{"load", "-d", dir + "2", ""}},
		{exitUsage, "--dir and --url are two stores", []string{"ls", "-d", dir, "--url", "http://localhost"}},
		{exitUsage, "an id has 1 to 65535 bytes, this one has 0", []string{"put", "-d", dir, ""}},
		{exitUsage, "an id has 1 to 65535 bytes, this one has 0", []string{"get", "-d", dir, "a", "hex:"}},
		{exitUsage, `"hex:0": want an even number`, []string{"rm", "-d", dir, "hex:0"}},
		{exitUsage, "--dir is there twice", []string{"ls", "-d", dir, "--dir", dir + "2"}},
		{exitUsage, "--url is there twice", []string{"count", "--url", "http://a", "--url", "http://b"}},
		{exitUsage, "--prefix is there twice", []string{"rm", "-d", dir, "--prefix", "a", "--prefix", "b"}},
		{exitUsage, "an empty --prefix would delete every memory, which is for warmtier clear",
			[]string{"rm", "-d", dir, "--prefix", ""}},
		{exitUsage, "put needs <id>; warmtier help put has examples", []string{"put", "-d", dir}},
		{exitUsage, "completion needs <shell>; ", []string{"completion"}},
		{exitUsage, "repair needs --to=DIR; ", []string{"repair", "-d", dir}},
		{exitUsage, "put is for a directory, and has no --url", []string{"put", "--url", "http://a", "b"}},
		{exitUsage, "unknown flag --url", []string{"version", "--url", "http://a"}},
		{exitUsage, `--limit: "x": want a whole number`, []string{"ls", "-d", dir, "--limit", "x"}},
		{exitUsage, `--ttl: "5": want a time, as in 90s or 12h`, []string{"put", "-d", dir, "a", "--ttl", "5"}},
		{exitUsage, "--max-bytes is 12, want at least ", []string{"put", "-d", dir, "a", os.DevNull, "--max-bytes", "12"}},
		{exitUsage, "--segment-size is 2147483648, want ", []string{"bench", "--segment-size", "2GiB"}},
		{exitUsage, `--listen "": want an address with its port`, []string{"serve", "-d", dir, "--listen", ""}},
		{exitUsage, `--listen "localhost": want an address with its port`,
			[]string{"serve", "-d", dir, "--listen", "localhost"}},
		{exitUsage, `--resp "127.0.0.1:70000": want an address with its port`,
			[]string{"serve", "-d", dir, "--resp", "127.0.0.1:70000"}},
		{exitUsage, "--id is for a single memory on standard input",
			[]string{"load", "-d", dir + "2", os.DevNull, "--id", "a"}},
		{exitUsage, "--id is for a single memory on standard input",
			[]string{"load", "-d", dir + "2", "-", "--format", "csv", "--id", "a"}},
		{exitUsage, "- is there twice", []string{"load", "-d", dir + "2", "-", "-", "--id", "a"}},
		{exitUsage, "each file below " + empty + " is a memory",
			[]string{"load", "-d", dir + "2", empty, "--format", "jsonl"}},
		{exitUsage, "--delimiter is for CSV", []string{"load", "-d", dir + "2", empty, "--delimiter", ";"}},
		{exitUsage, "--id-field and --content-field are for JSON lines and CSV",
			[]string{"load", "-d", dir + "2", os.DevNull, "--content-field", "a"}},
	} {
		r := command(t, "", c.args...).exits(c.code)
		require.True(t, strings.HasPrefix(r.err, "warmtier: "+c.message) ||
			strings.HasSuffix(strings.SplitN(r.err, "\n", 2)[0], c.message), r.err)
		require.Empty(t, r.out)
	}
	require.NoDirExists(t, dir+"2")
	require.NoDirExists(t, missing)
}

func TestErrorText(t *testing.T) {
	inner := fmt.Errorf("%w: 3 bytes", warmtier.ErrInvalidID)
	for _, c := range []struct {
		want string
		err  error
	}{
		{"invalid id: 3 bytes", inner},
		{"line 3: invalid id: 3 bytes", about("line 3", inner)},
		{"warmtier: x: line 3: invalid id: 3 bytes", about("warmtier: x", about("line 3", inner))},
		{"a: invalid id: 3 bytes; 1 memory was stored before", done(about("a", inner), 1, "stored")},
		{"a: invalid id: 3 bytes", done(about("a", inner), 0, "stored")},
		{"invalid id: 3 bytes; b: invalid id: 3 bytes", errors.Join(inner, inner, about("b", inner))},
	} {
		require.Equal(t, c.want, strings.TrimPrefix(errorText(c.err), "no prefix"))
		require.ErrorIs(t, c.err, warmtier.ErrInvalidID)
	}
	require.NoError(t, about("a", nil))
	require.NoError(t, done(nil, 2, "stored"))
}

func TestHelp_Ways(t *testing.T) {
	require.Equal(t, command(t, "", "--help").out, command(t, "", "help").exits(exitOK).out)
	require.Equal(t, command(t, "", "get", "--help").out, command(t, "", "help", "get").exits(exitOK).out)
	require.Regexp(t, `^warmtier \S+\n$`, command(t, "", "--version").exits(exitOK).out)
	require.Regexp(t, `^warmtier \S+\n$`, command(t, "", "ls", "--version").exits(exitOK).out)
}

// WARMTIER_DIR may be set beside --url; with -q what was done is not told, what was asked for is.
func TestWhereAndQuiet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": "content"})
	s := serve(t, dir)
	t.Setenv("WARMTIER_DIR", "/no/such")
	require.Equal(t, "1\n", command(t, "", "count", "--url", s.url).exits(exitOK).out)
	t.Setenv("WARMTIER_DIR", "") // not a store in memory, of which nothing would be left
	require.Contains(t, command(t, "", "put", "a").exits(exitUsage).err, "put: --dir is missing")
	command(t, "", "doctor").exits(exitOK)
	require.NoError(t, os.Unsetenv("WARMTIER_DIR"))
	s.end()
	file := filepath.Join(t.TempDir(), "export")
	for _, args := range [][]string{{"export", "-d", dir, "-o", file}, {"compact", "-d", dir},
		{"import", "-d", dir, file}, {"load", "-d", dir, file}, {"rm", "-d", dir, "--prefix", "/"},
		{"verify", "-d", dir}, {"doctor", "-d", dir}, {"repair", "-d", dir, "--to", file + ".repaired"}} {
		require.Empty(t, command(t, "", append(args, "-q")...).exits(exitOK).out, args)
	}
	for _, args := range [][]string{{"get", "a"}, {"ls"}, {"count"}, {"stats"}} {
		require.NotEmpty(t, command(t, "", append(args, "-d", dir, "-q")...).exits(exitOK).out, args)
	}

	// What is not as it must be is told all the same, and nothing else.
	missing := filepath.Join(dir, "missing")
	r := command(t, "", "load", "-d", dir, "-q", "-k", file, missing).exits(exitFinding)
	require.Equal(t, missing+": no such file or directory\n", r.out)
	r = command(t, "", "load", "-d", dir, "-k", missing, missing+"2").exits(exitFinding)
	none := "no such file or directory"
	require.Equal(t, fmt.Sprintf("warmtier: nothing to load: %s: %s; %[1]s2: %[2]s\n", missing, none), r.err)
	fill(t, dir, map[string]string{"b": "content to be damaged"})
	damage(t, dir, "content to be damaged")
	r = command(t, "", "verify", "-d", dir, "-q").exits(exitFinding)
	require.Regexp(t, `^ *\S+\.seg at \d+, id b: \S.*\n$`, r.out)
	r = command(t, "", "repair", "-d", dir, "-q", "--to", dir+"3").exits(exitFinding)
	require.Equal(t, "lost  b\n", r.out)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("damaged"), 0o600))
	r = command(t, "", "doctor", "-d", dir, "-q").exits(exitFinding)
	require.Equal(t, "FAILED  format version  MANIFEST is damaged: see warmtier verify\n", r.out)
}

// Writers side by side wait for each other without being told to.
func TestWait_ParallelWriters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	const writers = 20
	var all sync.WaitGroup
	failed := make(chan string, writers)
	for i := range writers {
		all.Go(func() {
			put := exec.Command(program, "put", "-d", dir, "--segment-size", "64KiB", "--wait", "1m",
				strconv.Itoa(i), os.DevNull)
			if out, err := put.CombinedOutput(); err != nil {
				failed <- fmt.Sprint(err, string(out))
			}
		})
	}
	all.Wait()
	close(failed)
	require.Empty(t, failed)
	require.Len(t, contents(t, dir), writers)
	help := command(t, "", "put", "--help").out
	require.Contains(t, help, "(5s)")
}

// What is left out is named, and with --keep-going what cannot be read does not end the load.
func TestLoad_LeftOut(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root may read every file: a missing one stands for an unreadable one")
	}
	from := t.TempDir()
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.WriteFile(filepath.Join(from, name), []byte(name), 0o600))
	}
	require.NoError(t, os.Symlink("a", filepath.Join(from, "li\nnk")))
	large := filepath.Join(from, "large")
	require.NoError(t, os.WriteFile(large, nil, 0o600))
	require.NoError(t, os.Truncate(large, warmtier.MaxContentLen+1))
	missing := filepath.Join(from, "missing")
	load := func(args ...string) result {
		dir := filepath.Join(t.TempDir(), "store")
		r := command(t, "", append([]string{"load", "-d", dir, "--segment-size", "64KiB"}, args...)...)
		if r.code == exitFinding && r.out != "" {
			require.Equal(t, map[string]string{"a": "a", "b": "b"}, contents(t, dir))
		}
		return r
	}
	require.Contains(t, load(from).exits(exitFinding).err, large+": content too large")
	load(missing, from).exits(exitIO)
	r := load(missing, from, "-k").exits(exitFinding)
	require.Equal(t, "warmtier: 2 files could not be loaded\n", r.err)
	for _, line := range []string{"files left out    3\n", missing + ": no such file", large + ": content too large",
		`nk": a symbolic link`} {
		require.Contains(t, r.out, line)
	}
	var v struct {
		Skipped, Unreadable int
		LeftOut             []leftOut `json:"left_out"`
	}
	require.NoError(t, json.Unmarshal([]byte(load(missing, from, "-k", "--json").exits(exitFinding).out), &v))
	require.Equal(t, []int{3, 2, 3}, []int{v.Skipped, v.Unreadable, len(v.LeftOut)})
	load(missing, "-k").exits(exitFinding)
}
