package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

func TestStats(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	v := command(t, "", "stats", "--json", "-d", dir).exits(exitOK).json()
	require.EqualValues(t, len(nasty), v["memories"])
	require.Equal(t, v["total_bytes"], v["live_bytes"])
	require.Equal(t, 0.0, v["fragmentation_ratio"])
	require.Equal(t, true, v["recovery"].(map[string]any)["clean"], "the segment size was found")
	require.Contains(t, command(t, "", "stats", "-d", dir).exits(exitOK).out, "memories         8\n")

	segments := command(t, "", "stats", "--segments", "--json", "-d", dir).exits(exitOK).json()["segments"].([]any)
	require.NotEmpty(t, segments)
	var total float64
	for _, seg := range segments {
		require.Equal(t, "sealed", seg.(map[string]any)["state"])
		total += seg.(map[string]any)["total_bytes"].(float64)
	}
	require.Equal(t, v["total_bytes"], total)
	require.Contains(t, command(t, "", "stats", "--segments", "-d", dir).exits(exitOK).out, "sealed")
}

func TestStats_Watch(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	cmd := exec.Command(program, "stats", "-d", dir, "--json", "--watch", "1ms")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	d := json.NewDecoder(out)
	for range 3 {
		var v map[string]any
		require.NoError(t, d.Decode(&v))
		require.EqualValues(t, len(nasty), v["memories"])
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = d.Decode(new(any)) // the line it may be in
	require.NoError(t, cmd.Wait(), "interrupted is how it ends")
}

func TestVerifyAndCompact(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	command(t, "", "rm", "-d", dir, strings.Repeat("x", 2000)).exits(exitOK)
	before := command(t, "", "stats", "--json", "-d", dir).json()
	v := command(t, "", "compact", "--json", "-d", dir).exits(exitOK).json()
	require.Positive(t, v["bytes_reclaimed"])
	require.Equal(t, before["fragmentation_ratio"], v["fragmentation_before"])
	require.Equal(t, 0.0, v["fragmentation_after"])
	require.Contains(t, v, "duration_seconds")
	require.Contains(t, command(t, "", "compact", "-d", dir).exits(exitOK).out, "longest swap pause")
	v = command(t, "", "verify", "--json", "-d", dir).exits(exitOK).json()
	require.EqualValues(t, len(nasty)-1, v["memories"])
	require.Equal(t, []any{}, v["findings"])
	require.Contains(t, command(t, "", "verify", "-d", dir).exits(exitOK).out, "findings    0")
}

// damage flips a bit of content where it lies in a segment file.
func damage(t *testing.T, dir, content string) {
	t.Helper()
	hits := 0
	for name, bytes := range files(t, dir) {
		if at := strings.Index(bytes, content); at >= 0 && strings.HasSuffix(name, ".seg") {
			b := []byte(bytes)
			b[at] ^= 1
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
			hits++
		}
	}
	require.Equal(t, 1, hits)
}

func TestDamaged(t *testing.T) {
	dir, elsewhere := filepath.Join(t.TempDir(), "store"), t.TempDir()
	lost := "\xff\x00binary"
	fill(t, dir, nasty)
	fill(t, dir, map[string]string{lost: "content to be damaged"})
	damage(t, dir, "content to be damaged")
	before := files(t, dir)

	for _, clean := range []bool{true, false} { // with the hint it can be opened, without it cannot
		if !clean {
			require.NoError(t, os.Remove(filepath.Join(dir, "HINT")))
			delete(before, "HINT")
		}
		r := command(t, "", "verify", "--json", "-d", dir).exits(exitFinding)
		f := r.json()["findings"].([]any)[0].(map[string]any)
		require.Contains(t, f["file"], ".seg")
		require.Positive(t, f["offset"])
		require.NotEmpty(t, f["problem"])
		if clean {
			require.Equal(t, "/wBiaW5hcnk=", f["id_base64"])
		}
		require.Contains(t, command(t, "", "verify", "-d", dir).exits(exitFinding).out, ".seg at ")
		command(t, "", "get", "-d", dir, showID(lost)).exits(exitFinding)
		command(t, "", "ls", "-d", dir).exits(exitFinding)
		out := filepath.Join(elsewhere, "export")
		command(t, "", "export", "-d", dir, "-o", out).exits(exitFinding)
		require.NoFileExists(t, out)
		if clean {
			stream := command(t, "", "export", "-d", dir).exits(exitFinding).out
			command(t, stream, "import", "-d", filepath.Join(elsewhere, "imported"), "-").exits(exitFinding)
			require.Equal(t, nasty["plain"], command(t, "", "get", "-d", dir, "plain").exits(exitOK).out)
		}
		require.Equal(t, before, files(t, dir))
	}
}

func TestRepair(t *testing.T) {
	dir, elsewhere := filepath.Join(t.TempDir(), "store"), t.TempDir()
	lost := "\xff\x00binary"
	fill(t, dir, nasty)
	fill(t, dir, map[string]string{lost: "content to be damaged"})
	damage(t, dir, "content to be damaged")
	before := files(t, dir)
	for _, to := range []string{dir, elsewhere} {
		require.Contains(t, command(t, "", "repair", "-d", dir, "--to", to).exits(exitUsage).err, "new directory")
	}
	command(t, "", "repair", "-d", dir).exits(exitUsage)

	target := filepath.Join(elsewhere, "salvaged")
	r := command(t, "", "repair", "--json", "--log-level", "error", "-d", dir, "--to", target).exits(exitFinding)
	require.Equal(t, map[string]any{"to": target, "memories_saved": float64(len(nasty) - 1), "records_lost": 1.0,
		"memories_lost": 1.0, "at_most": false,
		"unsynced": 0.0, "memories_deleted": 1.0, "segments_replaced": 1.0, "verify_findings": 0.0,
		"bytes_saved": r.json()["bytes_saved"],
		"lost":        []any{map[string]any{"id_base64": "/wBiaW5hcnk="}}}, r.json())
	saved := contents(t, target)
	require.Len(t, saved, len(nasty)-1)
	for id, content := range saved {
		require.Equal(t, nasty[id], content)
	}
	r = command(t, "", "repair", "-d", dir, "--to", target+"2").exits(exitFinding)
	require.Contains(t, r.out, showID(lost))
	require.Equal(t, before, files(t, dir), "never in place")
	command(t, "", "verify", "-d", target).exits(exitOK)

	// Nothing to repair is no finding, and what cannot be repaired leaves nothing behind.
	command(t, "", "repair", "-d", target, "--to", target+"3").exits(exitOK)
	require.NoError(t, os.Remove(filepath.Join(dir, "MANIFEST")))
	require.NoError(t, os.Remove(filepath.Join(dir, "HINT")))
	r = command(t, "", "repair", "-d", dir, "--to", target+"4").exits(exitFinding)
	require.Contains(t, r.err, "nothing was salvaged")
	require.NoDirExists(t, target+"4")
}

func TestFigures(t *testing.T) {
	v := figures(warmtier.Stats{Memories: 3, Recovery: warmtier.RecoveryStats{Duration: 1500e6}})
	require.Equal(t, 3, v["memories"])
	require.Equal(t, 1.5, v["recovery"].(map[string]any)["duration_seconds"])
	require.NotContains(t, v, "last_compaction", "a time that there is none of")
	require.Equal(t, "id", snakeCase("ID"))
	require.Equal(t, "peak_overhead_bytes", snakeCase("PeakOverheadBytes"))
}
