package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// listOf lists a directory.
func listOf(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// Goal: a store that was not there is there with everything, or not at all, in either format: when there is no room for
// it, and when its name was taken meanwhile.
func TestImport_NewStoreIsWholeOrNone(t *testing.T) {
	from, place := filepath.Join(t.TempDir(), "from"), t.TempDir()
	command(t, lines(2000, 2000), "load", "-d", from, "--format", "jsonl", "--content-field", "content", "-").exits(exitOK)
	for _, format := range []string{"binary", "jsonl"} {
		file := filepath.Join(t.TempDir(), "export")
		command(t, "", "export", "-d", from, "--format", format, "-o", file).exits(exitOK)
		dir := filepath.Join(place, "store")
		r := command(t, "", "import", "-d", dir+"/", "--max-bytes", "1MiB", file).exits(exitIO)
		require.Contains(t, r.err, "no space")
		require.Contains(t, r.err, "; nothing was imported")
		require.Empty(t, listOf(t, place))

		deeper := filepath.Join(place, format, "deeper")
		command(t, "", "import", "-d", deeper+"/", file).exits(exitOK)
		require.Len(t, contents(t, deeper), 2000)
		require.Equal(t, []string{"deeper"}, listOf(t, filepath.Dir(deeper)))
		require.NoError(t, os.RemoveAll(filepath.Join(place, format)))
	}
}

// Goal: a kill on the way leaves no store with a part of the export under the name that was asked for.
func TestImport_KilledIntoNewStore(t *testing.T) {
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	const memories = 10_000
	for i := range memories {
		require.NoError(t, s.Put(strconv.Itoa(i), make([]byte, 1000)))
	}
	var b bytes.Buffer
	_, err = s.Export(t.Context(), &b)
	require.NoError(t, errors.Join(err, s.Close()))
	place, file := t.TempDir(), filepath.Join(t.TempDir(), "export")
	require.NoError(t, os.WriteFile(file, b.Bytes(), 0o600))

	dir := filepath.Join(place, "store")
	cmd := exec.Command(program, "import", "-d", dir, file)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(listOf(t, place)) > 0 }, time.Minute, time.Millisecond)
	<-time.After(5 * time.Millisecond)
	_ = cmd.Process.Kill() // it may have ended
	killed := cmd.Wait() != nil
	if _, err := os.Stat(dir); err == nil {
		require.Len(t, contents(t, dir), memories)
		return // it was too late, or between the name and the end
	}
	require.True(t, killed)
	left := listOf(t, place)
	require.Len(t, left, 1)
	require.True(t, strings.HasPrefix(left[0], "store.import-"), left)
	command(t, "", "import", "-d", dir, file).exits(exitOK)
	require.Len(t, contents(t, dir), memories)
}

// Goal: JSON lines keep the moment exactly, also one that is centuries away; and of later ones than JSON has, which a
// program may have stored, the last moment that it has.
func TestExport_LinesOfFarDeadlines(t *testing.T) {
	dir, target := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "target")
	s, err := warmtier.Open(dir, &warmtier.Options{SegmentSize: 64 << 10})
	require.NoError(t, err)
	want := map[string]time.Time{
		"soon": time.Now().Add(time.Hour).Truncate(time.Millisecond), "far": time.Date(9000, 1, 2, 3, 4, 5, 6e6, time.UTC),
		"further": time.Date(20_000, 1, 1, 0, 0, 0, 0, time.UTC), "last": time.UnixMilli(1<<63 - 1),
	}
	var b warmtier.Batch
	for id, at := range want {
		b.PutUntil(id, []byte(id), at)
	}
	require.NoError(t, errors.Join(s.Apply(&b), s.PutTTL("long", make([]byte, 100_000), time.Hour), s.Close()))
	out := command(t, "", "export", "-d", dir, "--format", "jsonl").exits(exitOK).out
	require.Len(t, linesOf(command(t, "", "ls", "--json", "-d", dir).exits(exitOK).out), 5)
	command(t, out, "import", "-d", target, "--segment-size", "64KiB", "-").exits(exitOK)
	s, err = warmtier.Open(target, &warmtier.Options{ReadOnly: true})
	require.NoError(t, err)
	for id, at := range want {
		got, err := s.Expiry(id)
		require.NoError(t, err)
		if at.After(lastMoment) {
			at = lastMoment
		}
		require.True(t, at.Equal(got), "%s: %v, %v", id, at, got)
	}
	got, err := s.Expiry("long")
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Hour), got, 30*time.Minute)
	require.NoError(t, s.Close())
}
