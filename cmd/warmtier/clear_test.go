package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: clear deletes everything when it is told so, and nothing otherwise.
func TestClear(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	require.Contains(t, command(t, "y\n", "clear", "-d", dir).exits(exitUsage).err, "--yes")
	require.Len(t, contents(t, dir), len(nasty))
	v := command(t, "", "clear", "-d", dir, "--yes", "--json").exits(exitOK).json()
	require.EqualValues(t, len(nasty), v["memories"])
	require.Empty(t, contents(t, dir))
	s := serve(t, dir)
	require.Contains(t, command(t, "", "clear", "--url", s.url, "--yes").exits(exitIO).err,
		"a server is cleared only if it has a token: start it with WARMTIER_TOKEN")
	s.end()
	require.Contains(t, command(t, "", "clear", "-yd", dir).exits(exitOK).out, "memories deleted")
}
