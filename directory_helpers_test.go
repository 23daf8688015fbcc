//go:build unix

package warmtier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

func openDir(t testing.TB, dir string, opts *Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	require.NoError(t, err)
	return s
}

// quietly returns quiet options without a background Sync.
func quietly() *Options {
	o := quiet()
	o.SyncInterval = -1
	return o
}

// closeIntact verifies s and closes it.
func closeIntact(t testing.TB, s *Store) {
	t.Helper()
	requireIntact(t, s)
	require.NoError(t, s.Close())
}

// requireSame checks that s holds exactly the memories of want.
func requireSame(t testing.TB, s *Store, want map[string][]byte) {
	t.Helper()
	got := contentsOf(t, s)
	for id, content := range want {
		if !bytes.Equal(got[id], content) || got[id] == nil {
			require.Failf(t, "wrong content", "%.40q: %s, want %s", id,
				describe(got[id], got[id] != nil), describe(content, true))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			require.Failf(t, "deleted memory", "%.40q: %s", id, describe(got[id], true))
		}
	}
}

// snapshot returns mode, and content or target, of each file in a directory, by name. The content
// of LOCK is left out: Open for writing leaves a process id in it.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	m := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		require.NoError(t, err)
		what := info.Mode().String()
		switch {
		case e.Name() == layout.LockName:
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			what += " " + target
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			what += fmt.Sprintf(" %d bytes %08x", len(b), record.Checksum(b))
		}
		m[e.Name()] = what
	}
	return m
}

// copyDir copies a directory, and makes the copy what a kill leaves: a directory with the files that the store
// wrote.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	copyFiles(t, from, to)
	adoptFiles(t, to)
}

// copyFiles copies the regular files of a directory, in the order of their names.
func copyFiles(t testing.TB, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the names were read
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), b, 0o600))
	}
}

// adoptFiles notes in the manifest of a directory that the files in it are those that the store wrote. A damaged
// manifest stays as it is.
func adoptFiles(t testing.TB, path string) {
	t.Helper()
	name := filepath.Join(path, layout.ManifestName)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	m, whole, err := layout.DecodeManifest(b)
	if !whole || err != nil {
		return
	}
	d, err := dir.At(path)
	require.NoError(t, err)
	st, err := d.Stat()
	require.NoError(t, err)
	m.Directory = st.ID
	st, err = d.StatFile(layout.ManifestName)
	require.NoError(t, err)
	m.File = st.ID
	for i := range m.Listed {
		if file, err := d.Open(layout.SegmentFileName(m.Listed[i].ID), false); err == nil {
			m.Listed[i].File = file.Stat().ID
			require.NoError(t, file.Close())
		}
	}
	require.NoError(t, d.Close())
	require.NoError(t, os.WriteFile(name, m.Encode(), 0o600))
}

// openSame opens a directory whose files a test has written as if they were those that the store wrote.
func openSame(path string, opts *Options) (*Store, error) {
	return open(path, opts, hooks{sameFiles: true})
}

// listedIDs returns the ids of the segments that m lists.
func listedIDs(m layout.Manifest) (ids []uint64) {
	for _, l := range m.Listed {
		ids = append(ids, l.ID)
	}
	return ids
}

// segmentFiles returns the names of the segment files in dir.
func segmentFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	for name := range snapshot(t, dir) {
		if _, ok := layout.ParseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func readManifestOf(t testing.TB, dir string) layout.Manifest {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, layout.ManifestName))
	require.NoError(t, err)
	m, _, err := layout.DecodeManifest(b)
	require.NoError(t, err)
	return m
}

// contentsOf returns every memory of s, read by All and by Get.
func contentsOf(t testing.TB, s *Store) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for id, content := range s.All() {
		if _, twice := m[id]; twice {
			require.Failf(t, "All yielded it twice", "%.40q", id)
		}
		m[id] = bytes.Clone(content)
	}
	require.Len(t, m, s.Len(), "memories that All yields")
	for id, content := range m {
		got, err := s.Get(id)
		require.NoError(t, err)
		if !bytes.Equal(content, got) {
			require.Failf(t, "Get and All differ", "%q", id)
		}
	}
	return m
}

func describe(content []byte, exists bool) string {
	if !exists {
		return "absent"
	}
	if len(content) < 16 {
		return fmt.Sprintf("%d bytes", len(content))
	}
	return fmt.Sprintf("version %d in %d bytes", binary.LittleEndian.Uint64(content[8:]), len(content))
}

// requireNoStrays checks that the directory of a closed store holds no file it should not.
func requireNoStrays(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, layout.ManifestName))
	require.NoError(t, err)
	m, _, err := layout.DecodeManifest(b)
	require.NoError(t, err)
	for _, e := range entries {
		id, isSegment := layout.ParseSegmentFileName(e.Name())
		switch {
		case e.Name() == layout.LockName, e.Name() == layout.ManifestName, e.Name() == layout.HintName,
			strings.HasPrefix(e.Name(), layout.SpareName):
		case isSegment && slices.Contains(listedIDs(m), id):
		default:
			require.Failf(t, "stray file", "%s; listed %v, pending %v", e.Name(), m.Listed, m.Pending)
		}
	}
	require.GreaterOrEqual(t, len(entries), len(m.Listed)+2)
}

// fastDir returns a new directory, in memory where the system has such: the page cache is what
// matters here.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "warmtier-test-*") //nolint:usetesting // not where TempDir is
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// envInt returns a number from the environment, or fallback when it is not set.
func envInt(t testing.TB, name string, fallback int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	require.NoError(t, err, name)
	return n
}

// tellsKills reports whether Open can tell a kill from a power loss here, whose traces it forgives (Store.bootID).
func tellsKills(t testing.TB) bool {
	t.Helper()
	d, err := dir.At(fastDir(t))
	require.NoError(t, err)
	st, err := d.Stat()
	require.NoError(t, err)
	require.NoError(t, d.Close())
	return st.Mount != 0
}

func skipKillsUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector segments are on the heap, and die with the process")
	}
}

func skipFaultsUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector segments are on the heap, which has no faults")
	}
}

// findInFiles returns the file and the offset where content is.
func findInFiles(t testing.TB, dir string, content []byte) (name string, at int64) {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		if at := bytes.Index(b, content); at >= 0 {
			return name, int64(at)
		}
	}
	require.Fail(t, "content is in no file")
	return "", 0
}
