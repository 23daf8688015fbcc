package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: verify --url asks the server of a store that is open.
func TestVerify_Server(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	s := serve(t, dir)
	v := command(t, "", "verify", "--json", "--url", s.url).exits(exitOK).json()
	require.EqualValues(t, len(nasty), v["memories"])
	require.Contains(t, command(t, "", "verify", "--url", s.url).exits(exitOK).out, "findings    0")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("rubbish"), 0o600))
	r := command(t, "", "verify", "--url", s.url).exits(exitFinding)
	require.Contains(t, r.out, "MANIFEST at 0")
	s.end()
}

// Goal: repair says what is gone with a segment of a store that was closed cleanly, and fails.
func TestRepair_MissingSegment(t *testing.T) {
	dir, to := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "salvaged")
	fill(t, dir, nasty)
	for name := range files(t, dir) {
		if filepath.Ext(name) == ".seg" {
			require.NoError(t, os.Remove(filepath.Join(dir, name)))
		}
	}
	v := command(t, "", "repair", "--json", "-d", dir, "--to", to).exits(exitFinding).json()
	require.EqualValues(t, len(nasty), v["memories_lost"])
	require.EqualValues(t, len(nasty), v["records_lost"])
	require.Equal(t, false, v["at_most"])
}
