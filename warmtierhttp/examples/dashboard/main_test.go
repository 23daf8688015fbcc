package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: the command loads what is below a directory, serves the page, and ends when it is told to.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	for n := range 20 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", strconv.Itoa(n)), []byte("content"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxFile+1), 0o600))
	ctx, end := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, dir, "127.0.0.1:0", "", false, in, io.Discard) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "20 files are memories")
	url := regexp.MustCompile(`http://[0-9.:]+/`).FindString(line)
	for _, target := range []string{"", "api/v1/stats"} {
		answer, err := http.Get(url + target)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.NoError(t, answer.Body.Close())
	}
	end()
	require.NoError(t, <-ended)
}

// Goal: a directory that is not there is an error, and so is an address that is taken.
func TestRun_Errors(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	require.ErrorIs(t, run(t.Context(), none, "127.0.0.1:0", "", true, io.Discard, io.Discard), os.ErrNotExist)
	require.Error(t, run(t.Context(), t.TempDir(), "127.0.0.1:-1", "", true, io.Discard, io.Discard))
}
