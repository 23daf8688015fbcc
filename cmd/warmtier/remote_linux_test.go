package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Goal: where the file of an export from a server cannot be written, the error names that file, and not the server.
func TestRemote_FileCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": strings.Repeat("more than is kept until the end ", 1<<15)})
	t.Setenv("WARMTIER_TOKEN", "secret")
	s := serve(t, dir)
	defer s.end()
	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	limited := before
	limited.Cur = 1 // byte of a file, of this process and those that it starts from here on
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limited))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before)) }()
	for _, format := range []string{"binary", "jsonl"} {
		to := filepath.Join(t.TempDir(), "copy")
		r := command(t, "", "export", "--url", s.url, "--format", format, "-o", to).exits(exitIO)
		require.Contains(t, r.err, "warmtier: write "+filepath.Dir(to))
		require.NotContains(t, r.err, s.url)
	}
}
