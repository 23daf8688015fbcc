package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

/*
The tests run the program as users do: built once, in directories of their own, judged by what it prints
and by its exit code.
*/

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "warmtier-cli")
	if err == nil {
		program = filepath.Join(dir, "warmtier")
		var out []byte
		if out, err = exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Unsetenv("WARMTIER_DIR")
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// result is what a command left.
type result struct {
	t        *testing.T
	out, err string
	code     int
}

func command(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		_, isExit := errors.AsType[*exec.ExitError](err)
		require.True(t, isExit, "%v", err)
	}
	return result{t: t, out: out.String(), err: errOut.String(), code: cmd.ProcessState.ExitCode()}
}

// exits checks the exit code, and that nothing but an error was said beside the output.
func (r result) exits(code int) result {
	r.t.Helper()
	require.Equal(r.t, code, r.code, "out: %s\nerr: %s", r.out, r.err)
	if code == exitOK {
		require.Empty(r.t, r.err)
	}
	return r
}

// json decodes the output, which is one document.
func (r result) json() (v map[string]any) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal([]byte(r.out), &v), "%s", r.out)
	return v
}

// nasty are ids and contents that must come through every command.
var nasty = map[string]string{
	"plain":                   "text\n",
	"ünï \"code\"":            "{\"json\": true}",
	"hex:not":                 "",
	"with space ":             "\x00\x01\xff",
	"line\nbreak\x1b[31m":     "\x1b[2J",
	"\xff\x00binary":          "ok",
	"../../etc/passwd":        "no file",
	strings.Repeat("x", 2000): strings.Repeat("long ", 1000),
}

// fill makes a store of small segments.
func fill(t *testing.T, dir string, memories map[string]string) {
	t.Helper()
	s, err := warmtier.Open(dir, &warmtier.Options{SegmentSize: 64 << 10,
		Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
	require.NoError(t, err)
	for id, content := range memories {
		require.NoError(t, s.Put(id, []byte(content)))
	}
	require.NoError(t, s.Close())
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	s, err := warmtier.Open(dir, &warmtier.Options{ReadOnly: true})
	require.NoError(t, err)
	memories := map[string]string{}
	for id, content := range s.All() {
		memories[id] = string(content)
	}
	require.NoError(t, s.Close())
	return memories
}

// files are all files below dir with their bytes.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		all[e.Name()] = string(b)
	}
	return all
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	for name, args := range map[string][]string{
		"no command":                  {},
		"unknown command":             {"eat"},
		"unknown flag":                {"ls", "-d", dir, "--sorted"},
		"no directory":                {"ls"},
		"no id":                       {"get", "-d", dir},
		"id with odd digits":          {"get", "-d", dir, "hex:abc"},
		"size without unit":           {"put", "-d", dir, "--segment-size", "big", "a"},
		"negative limit":              {"ls", "-d", dir, "--limit", "-1"},
		"other files":                 {"put", "-d", dir, "a"},
		"stdin of unknown format":     {"load", "-d", filepath.Join(dir, "new"), "-"},
		"format nobody knows":         {"export", "-d", dir, "--format", "xml"},
		"benchmark in a directory":    {"bench", "--in", dir},
		"benchmark of nothing":        {"bench", "--memories", "0"},
		"sizes the wrong way round":   {"bench", "--size", "2KiB-1KiB"},
		"shell nobody knows":          {"completion", "tcsh"},
		"doctor of a file":            {"doctor", "-d", filepath.Join(dir, "mine")},
		"empty id":                    {"put", "-d", filepath.Join(dir, "new"), ""},
		"segment larger than allowed": {"put", "-d", filepath.Join(dir, "new2"), "--segment-size", "2GiB", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			r := command(t, "", args...).exits(exitUsage)
			require.Empty(t, r.out)
			require.Contains(t, r.err, "warmtier: ")
			r = command(t, "", append([]string{"--json"}, args...)...).exits(exitUsage)
			var e struct {
				Error string
				Exit  int
			}
			require.NoError(t, json.Unmarshal([]byte(r.err), &e), r.err)
			require.Equal(t, exitUsage, e.Exit)
			require.NotEmpty(t, e.Error)
		})
	}
}

func TestIOErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nothing")
	for _, args := range [][]string{
		{"get", "a"}, {"rm", "a"}, {"ls"}, {"stats"}, {"verify"}, {"compact"}, {"export"}, {"doctor"},
		{"backup", dir + "2"},
		{"repair", "--to", dir + "2"}, {"import", dir + ".warm"}, {"load", dir + ".csv"}, {"serve"},
		{"put", "a", dir + ".txt"}, {"count"},
	} {
		command(t, "", append(args, "-d", dir)...).exits(exitIO)
		require.NoDirExists(t, dir, args)
	}
}

func TestHelp(t *testing.T) {
	out := command(t, "", "--help").exits(exitOK).out
	for _, name := range []string{"load", "get", "put", "rm", "ls", "export", "import", "stats", "verify", "compact",
		"backup", "repair", "bench", "doctor"} {
		require.Contains(t, out, "\n  "+name+" ")
		require.Contains(t, command(t, "", name, "--help").exits(exitOK).out, "Example", name)
	}
}

func TestLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": "b"})
	s, err := warmtier.Open(dir, nil)
	require.NoError(t, err)
	holder := fmt.Sprintf("held by process %d", os.Getpid())
	for _, args := range [][]string{
		{"get", "a"}, {"put", "a"}, {"rm", "a"}, {"ls"}, {"stats"}, {"verify"}, {"compact"}, {"export"},
		{"backup", dir + "2"}, {"repair", "--to", dir + "2"}, {"import", "-"}, {"load", "-", "--id", "a"}, {"count"},
	} {
		r := command(t, string(smallExport(t)), append(args, "-d", dir, "--wait", "0")...).exits(exitIO)
		require.Contains(t, r.err, holder, args)
		require.Empty(t, r.out)
	}
	for _, args := range [][]string{{"put", "a"}, {"repair", "--to", dir + "2"}} {
		r := command(t, "", append(args, "-d", dir, "--wait", "150ms")...).exits(exitIO)
		require.Contains(t, r.err, holder, args)
		require.NoDirExists(t, dir+"2")
	}
	for i, args := range [][]string{{"get", "a"}, {"repair", "--to", dir + "2"}} {
		if i > 0 {
			s, err = warmtier.Open(dir, nil)
			require.NoError(t, err)
		}
		closed := make(chan error)
		time.AfterFunc(100*time.Millisecond, func() { closed <- s.Close() })
		command(t, "", append(args, "-d", dir, "--wait", "1m")...).exits(exitOK)
		require.NoError(t, <-closed)
	}
	command(t, "", "get", "-d", dir, "a").exits(exitOK)
}

// A reader does not write its id into the lock file, where the last process that wrote is named.
func TestLocked_ByReader(t *testing.T) {
	if _, err := os.Stat("/proc/locks"); err != nil {
		t.Skip("the system does not list locks: ", err)
	}
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": strings.Repeat("x", 1<<20)}) // more than a pipe holds
	export := exec.Command(program, "export", "-d", dir, "--format", "jsonl")
	out, err := export.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, export.Start())
	_, err = out.Read(make([]byte, 1)) // it has the store open, and waits for a reader
	require.NoError(t, err)
	r := command(t, "", "put", "-d", dir, "b", "--wait", "0").exits(exitIO)
	require.Contains(t, r.err, fmt.Sprintf("held by process %d", export.Process.Pid))
	command(t, "", "get", "-d", dir, "a").exits(exitOK)
	require.NoError(t, export.Process.Kill())
	require.Error(t, export.Wait())
}
