package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vbauerster/mpb/v8"
)

func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "store")
	fill(t, store, nasty)
	before := files(t, store)
	v := command(t, "", "doctor", "--json", "-d", store).exits(exitOK).json()
	names := []string{}
	for _, c := range v["checks"].([]any) {
		check := c.(map[string]any)
		require.Equal(t, true, check["ok"], check)
		require.NotEmpty(t, check["value"])
		names = append(names, check["name"].(string))
	}
	for _, name := range []string{"page size", "mapping, locking, flushing", "format version"} {
		require.Contains(t, names, name)
	}
	require.Equal(t, before, files(t, store), "it leaves nothing behind")
	require.Contains(t, command(t, "", "doctor", "-d", dir).exits(exitOK).out, "no store here")

	manifest := filepath.Join(store, "MANIFEST")
	b, err := os.ReadFile(manifest)
	require.NoError(t, err)
	b[8] = 9
	require.NoError(t, os.WriteFile(manifest, b, 0o600))
	require.Contains(t, command(t, "", "doctor", "-d", store).exits(exitFinding).out, "FAILED  format version")
	require.NoError(t, os.WriteFile(manifest, b[:5], 0o600))
	require.Contains(t, command(t, "", "doctor", "-d", store).exits(exitFinding).out, "MANIFEST is damaged")
}

func TestVersion(t *testing.T) {
	v := command(t, "", "version", "--json").exits(exitOK).json()
	require.EqualValues(t, formatVersion, v["format"])
	require.NotEmpty(t, v["version"])
	require.Contains(t, command(t, "", "version").exits(exitOK).out, "directory format  2")
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out := command(t, "", "completion", shell).exits(exitOK).out
		require.NotContains(t, out, "%!", shell)
		require.Contains(t, out, "segment-size", shell)
		require.Contains(t, out, "repair", shell)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("what the script does is tried with bash: ", err)
	}
	script := command(t, "", "completion", "bash").out
	t.Chdir(t.TempDir())
	require.NoError(t, os.Mkdir("mine own", 0o700))
	for line, want := range map[string]string{
		"warmtier ver": "verify version", "warmtier bench --compact": "--compact-every",
		"warmtier export --j": "--json", "warmtier get --seg": "", "warmtier help com": "compact completion",
		"warmtier load --format j": "jsonl", "warmtier load --format = c": "csv", "warmtier --log-f": "--log-format",
		"warmtier completion f": "fish", "warmtier get --dir mine": "mine own", "warmtier ls -d mine": "mine own",
	} {
		words := strings.Fields(line)
		out, err := exec.Command(bash, "-c", fmt.Sprintf("%s\nCOMP_WORDS=(%s) COMP_CWORD=%d; _warmtier; echo ${COMPREPLY[@]}",
			script, line, len(words)-1)).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, strings.TrimSpace(string(out)), line)
	}
}

// screen is a terminal that is not one.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestProgress_OnlyAfterASecond(t *testing.T) {
	for _, u := range []unit{unitMemories, unitBytes, unitTime, unitNothing} {
		synctest.Test(t, func(t *testing.T) {
			var s screen
			start := terminalProgress(&s, mpb.WithAutoRefresh())
			short := start("short", 10, u)
			short.add(10)
			time.Sleep(progressDelay - time.Millisecond) //nolint:forbidigo // the clock is synctest's
			short.end()
			require.Empty(t, s.String())

			long := start("long task", map[unit]int64{unitMemories: 10, unitTime: 1500}[u], u)
			time.Sleep(progressDelay + time.Second) //nolint:forbidigo // as above
			require.Contains(t, s.String(), "long task")
			long.add(25)            // more than the total
			time.Sleep(time.Second) //nolint:forbidigo // as above
			long.end()
		})
	}
}

// The last word on terminals: standard error is a pipe here, and the command takes over a second.
func TestProgress_NotIntoAPipe(t *testing.T) {
	r := command(t, "", "bench", "--duration", "1100ms", "--memories", "100").exits(exitOK)
	require.Empty(t, r.err)
}
