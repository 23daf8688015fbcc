//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what the commands print into README.md")

/*
The README shows commands with what they print: blocks whose first line begins with "$ ". They are run, one after the
other, in one directory. What a block marked "console" shows must be what they print, up to numbers, their units, and
the width of columns; what the others show depends on the machine. "go test -run Transcripts . -args -update" writes
all of them anew.
*/

// numbers are what differs from run to run.
var numbers = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "0"},
	{regexp.MustCompile(`[0-9]+([.,][0-9]+)*(e[-+]?[0-9]+)?`), "0"},
	{regexp.MustCompile(`\b0 (B|KiB|MiB|GiB)\b`), "0 B"},
	{regexp.MustCompile(`\b0 (s|ms|µs)`), "0 s"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

// shape returns text without what differs from run to run.
func shape(text string) string {
	for _, n := range numbers {
		text = n.pattern.ReplaceAllString(text, n.by)
	}
	// Ids go to lanes by a random hash: how many segments they fill differs.
	var lines []string
	for line := range strings.Lines(text) {
		if len(lines) == 0 || line != lines[len(lines)-1] {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// transcriber runs commands in a directory, with the port of the README replaced by one that is free.
type transcriber struct {
	t    *testing.T
	dir  string
	port string
}

const (
	shownDir  = "/srv"
	shownPort = "7077"
)

// run returns what a command prints, as the README shows it. One in the background goes on, and has printed as many
// lines as it is expected to.
func (r *transcriber) run(line, expected string) string {
	line = strings.ReplaceAll(line, shownPort, r.port)
	background, isBackground := strings.CutSuffix(line, " &")
	cmd := exec.Command("bash", "-c", "exec 2>&1; "+line)
	if isBackground {
		cmd = exec.Command("bash", "-c", "exec env "+background)
	}
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	if isBackground {
		pipe, err := cmd.StdoutPipe()
		require.NoError(r.t, err)
		require.NoError(r.t, cmd.Start())
		r.t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		lines := bufio.NewScanner(pipe)
		for range strings.Count(expected, "\n") {
			require.True(r.t, lines.Scan(), line)
			out.WriteString(lines.Text() + "\n")
		}
	} else {
		cmd.Stdout = &out
		err := cmd.Run()
		if _, isExit := errors.AsType[*exec.ExitError](err); isExit {
			out.WriteString("[exit code " + strconv.Itoa(cmd.ProcessState.ExitCode()) + "]\n")
		} else {
			require.NoError(r.t, err)
		}
	}
	text := strings.ReplaceAll(out.String(), r.dir, shownDir)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return strings.ReplaceAll(text, r.port, shownPort)
}

// block returns what a block shows when its commands are run.
func (r *transcriber) block(shown string) string {
	var out strings.Builder
	for i, part := range strings.Split("\n"+shown, "\n$ ")[1:] {
		line, expected, _ := strings.Cut(part, "\n")
		if i > 0 && strings.Contains(shown, "\n\n$ "+line+"\n") { // an empty line above it
			out.WriteString("\n")
		}
		out.WriteString("$ " + line + "\n" + r.run(line, strings.TrimRight(expected, "\n")+"\n"))
	}
	return out.String()
}

func TestTranscripts(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("the commands are for bash: ", err)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, errors.Join(err, listener.Close()))
	r := &transcriber{t: t, dir: t.TempDir(), port: port}

	blocks := regexp.MustCompile("(?ms)^```(console|text)\n(\\$ .*?)^```$")
	checked := 0
	written := blocks.ReplaceAllStringFunc(string(readme), func(block string) string {
		parts := blocks.FindStringSubmatch(block)
		if parts[1] == "text" && !*update {
			return block
		}
		got := r.block(parts[2])
		if !*update {
			checked++
			require.Equal(t, shape(parts[2]), shape(got), "go test -run Transcripts . -args -update")
		}
		return "```" + parts[1] + "\n" + got + "```"
	})
	if *update {
		require.NoError(t, os.WriteFile("README.md", []byte(written), 0o644))
		return
	}
	require.Greater(t, checked, 5)
}
