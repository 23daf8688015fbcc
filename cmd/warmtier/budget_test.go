package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lines returns n memories of 1,000 bytes as JSON lines, with so many different ids.
func lines(n, ids int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"memory %d","content":%q}`+"\n", i%ids, strings.Repeat("x", 1000))
	}
	return b.String()
}

// Goal: a store keeps to --max-bytes, replaces memories within it as often as wanted, refuses more of them
// than it has room for, and shows the budget and the waits, in a directory and from a server.
func TestMaxBytes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	bounded := []string{"-d", dir, "--max-bytes", "4MiB"}
	load := append([]string{"load", "--format", "jsonl", "-"}, bounded...)
	command(t, lines(20_000, 1000), load...).exits(exitOK) // 20 MB
	r := command(t, lines(5000, 5000), load...).exits(exitIO)
	require.Contains(t, r.err, "no space: over MaxBytes")
	require.Contains(t, r.err, "of MaxBytes 4194304")

	v := command(t, "", "stats", "--json", "-d", dir).exits(exitOK).json()
	require.EqualValues(t, 0, v["max_bytes"], "which is not written into the directory")
	require.Contains(t, command(t, "", "stats", "-d", dir).exits(exitOK).out, "budget           none\n")

	s := serve(t, dir, "--max-bytes", "4MiB")
	v = command(t, "", "stats", "--json", "--url", s.url).exits(exitOK).json()
	require.EqualValues(t, 4<<20, v["max_bytes"])
	require.LessOrEqual(t, v["mapped_bytes"].(float64)+v["spare_bytes"].(float64), float64(4<<20))
	sum := 0.0
	for _, part := range []string{"live", "dead", "index", "room", "reserve", "retired"} {
		sum += v[part+"_bytes"].(float64)
	}
	require.Equal(t, v["mapped_bytes"], sum)
	out := command(t, "", "stats", "--url", s.url).exits(exitOK).out
	require.Regexp(t, `budget           4096.0 KiB, \d+\.\d % used; .* in spare files\n`, out)
	require.Contains(t, out, "writes waited    never\n")
	s.end()

	r = command(t, "", "put", "-d", dir, "--max-bytes", "100KiB", "a").exits(exitUsage)
	require.Contains(t, r.err, "at least 1048576")
	command(t, "", "serve", "-d", dir, "--max-bytes", "nonsense").exits(exitUsage)
}

// Goal: a store whose first memories were few has segments that grow when more are loaded, and one that was loaded
// with large ones takes a small budget.
func TestLoad_SegmentsGrow(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2") // with more processors there are more lanes, and less lies in a segment
	dir := filepath.Join(t.TempDir(), "store")
	largest := func() (size int64) {
		files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
		require.NoError(t, err)
		for _, file := range files {
			info, err := os.Stat(file)
			require.NoError(t, err)
			size = max(size, info.Size())
		}
		return size
	}
	command(t, "one", "put", "-d", dir, "first").exits(exitOK)
	require.EqualValues(t, 64<<10, largest())
	command(t, lines(3000, 1000), "load", "--format", "jsonl", "-d", dir, "-").exits(exitOK)
	require.Greater(t, largest(), int64(64<<10))
	command(t, lines(100, 100), "load", "--format", "jsonl", "-d", dir, "--max-bytes", "8MiB", "-").exits(exitOK)
	command(t, "", "verify", "-d", dir).exits(exitOK)
}

// Goal: the benchmark says how long writes waited.
func TestBench_MaxBytes(t *testing.T) {
	v := command(t, "", "bench", "--json", "--max-bytes", "2MiB", "--memories", "2000", "--duration", "200ms").
		exits(exitOK).json()
	require.LessOrEqual(t, v["mapped_bytes"].(float64), float64(2<<20))
	require.Contains(t, v, "write_waits")
	require.Contains(t, v, "write_wait_seconds")
}
