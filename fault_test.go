//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: when a segment file is cut short under an open store, calls that need its pages return
// ErrCorrupt, others succeed, no lock stays held, and the process lives.
func TestDirectory_CutShortUnderOpenStore(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{
		"cut sealed to 0", "cut sealed to 64", "cut sealed to 4096", "cut sealed to 32768", "cut sealed to 61440",
		"cut active to 0", "cut active to 4096", "cut target to 0", "cut target to 4096",
		"cut large to 0", "cut large to 40960",
		"cut all to 0",
	} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(scenario, "cut large") && !tellsKills(t) {
				t.Skip("nothing was synced, and a power loss may have cut it")
			}
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// Goal: a file that loses its pages between its making and its first use fails the call, not the
// process.
func TestDirectory_CutShortWhenMade(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{
		"made cut: put", "made cut: large put", "made cut: delete", "made cut: compact", "made cut: sync",
	} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// Goal: when bytes that a callback or a loop is reading go away, the call fails, not the process.
func TestDirectory_CutShortInCallback(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{"cut in view", "cut in view of a retired segment", "cut in all"} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// Goal: a byte that another process changes in a file is noticed.
func TestDirectory_PageChangedBehindTheStore(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 500, 300)
	mustCompact(t, s)
	rng := seeded(t)
	for range 25 {
		i := rng.IntN(500)
		content := contentOf(i, 0, 300)
		name, at := findInFiles(t, dir, content)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		require.NoError(t, err)
		at += int64(rng.IntN(300))
		var b [1]byte
		_, err = f.ReadAt(b[:], at)
		require.NoError(t, err)
		flipped := [1]byte{b[0] ^ 1<<rng.IntN(8)}
		_, err = f.WriteAt(flipped[:], at)
		require.NoError(t, err)

		_, err = s.Get(idOf(i))
		require.ErrorIs(t, err, ErrCorrupt)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, name, filepath.Base(corrupt.File))
		require.Equal(t, idOf(i), corrupt.ID)
		require.ErrorIs(t, s.View(idOf(i), func([]byte) error { return nil }), ErrCorrupt)
		for id := range s.All() {
			require.NotEqual(t, idOf(i), id)
		}
		report, err := s.Verify(context.Background())
		require.ErrorIs(t, err, ErrCorrupt)
		require.Equal(t, 1, report.FindingCount, "%+v", report.Findings)
		require.Equal(t, idOf(i), report.Findings[0].ID)

		_, err = f.WriteAt(b[:], at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, content, got)
	}
	closeIntact(t, s)
}

// Goal: a segment with an unreadable page ends one compaction, and the next one does without it.
func TestDirectory_UnreadableSegmentIsLeftAlone(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	const n = 2000
	fill(t, s, 0, n, 300)
	deleteWhere(t, s, 0, n, odd)
	s.sealLanes(0)
	require.NoError(t, s.Sync())
	cut := segmentOf(t, s, idOf(0))
	require.NoError(t, os.Truncate(filepath.Join(dir, cut.name()), int64(vm.PageSize)))
	before := settled(s).DeadBytes

	_, err := s.Compact(context.Background())
	var damage *CorruptError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, cut.name(), damage.File)
	require.Equal(t, before, s.Stats().DeadBytes, "the round was not undone")
	mustCompact(t, s)
	require.Less(t, s.Stats().DeadBytes, before/2)
	require.True(t, cut.is(stateSealed))
	require.ErrorIs(t, s.Close(), ErrCorrupt)
}

// Goal: an unreadable page is an error of the ids it is needed for, and no id counts twice. Method:
// one of two segment files is cut under the open store, after the part that is loaded ahead, and a
// missing id comes before those in it.
func TestGetMany_Fault(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := t.TempDir()
	s, err := open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	require.NoError(t, s.Put("cut", make([]byte, 20_000)))
	s.sealLanes(0)
	require.NoError(t, s.Put("whole", []byte("content")))
	require.NoError(t, os.Truncate(filepath.Join(dir, segmentOf(t, s, "cut").name()), 4096)) // the prefix is intact
	before := s.Stats()
	list := getMany(t, s, []string{"whole", "missing", "cut", "whole"})
	after := s.Stats()
	require.NoError(t, list[0].err)
	require.ErrorIs(t, list[1].err, ErrNotFound)
	require.ErrorIs(t, list[2].err, ErrCorrupt)
	require.Equal(t, []byte("content"), list[3].content)
	require.EqualValues(t, 4, after.Gets-before.Gets, "once each")
	require.EqualValues(t, 1, after.Misses-before.Misses)
	requireUnpinned(t, s)
	require.Error(t, s.Close(), "what was not synced cannot be")
}

// childCut cuts one segment file of an open store, or all, and then calls everything.
func childCut(t *testing.T, dir, which string, size int64) {
	s := openDir(t, dir, quietly())
	const n = 1200
	fill(t, s, 0, n, 300)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 0 })
	keep := func(i int) bool { return i%3 != 0 }
	mustCompact(t, s)
	fill(t, s, n, 2*n, 300)
	large := contentOf(1, 1, 100_000)
	require.NoError(t, s.Put("large", large))
	if which != "large" {
		require.NoError(t, s.Sync())
	}
	var cut []*segment
	for _, seg := range s.segments.all() {
		is := map[string]bool{
			"all":    true,
			"large":  seg.large,
			"target": seg.kind == layout.KindTarget,
			"active": seg.is(stateActive),
			"sealed": seg.is(stateSealed) && seg.kind == layout.KindLane && !seg.large,
		}[which]
		if is && (which == "all" || len(cut) == 0) {
			cut = append(cut, seg)
			require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), size))
		}
	}
	require.NotEmpty(t, cut)
	tolerable := func(what string, err error) bool {
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt, what)
		}
		return err == nil
	}

	good, bad := 0, 0
	for i := range 2 * n {
		got, err := s.Get(idOf(i))
		switch {
		case i < n && !keep(i):
			if !errors.Is(err, ErrCorrupt) {
				require.ErrorIs(t, err, ErrNotFound)
			}
		case tolerable("get", err):
			require.Equal(t, contentOf(i, 0, 300), got)
			good++
		default:
			bad++
		}
		err = s.View(idOf(i), func([]byte) error { return nil })
		if keep(i) || i >= n {
			tolerable("view", err)
		}
		s.Has(idOf(i))
	}
	got, err := s.Get("large")
	if tolerable("get large", err) {
		require.Equal(t, large, got)
	}
	t.Logf("%d good, %d bad", good, bad)
	for id, content := range s.All() {
		require.NotEmpty(t, id)
		require.NotEmpty(t, content)
	}
	_, err = s.Verify(context.Background())
	require.ErrorIs(t, err, ErrCorrupt)
	for i := range 2 * n {
		content := contentOf(i, 1, 300)
		if i%100 == 0 {
			content = contentOf(i, 1, 2*writtenSize)
		}
		if tolerable("put", s.Put(idOf(i), content)) {
			got, err := s.Get(idOf(i))
			require.NoError(t, err)
			require.Equal(t, content, got)
		}
		if odd(i) {
			_, err := s.Delete(idOf(i))
			tolerable("delete", err)
		}
	}
	_ = s.Stats()
	_, err = s.Compact(context.Background())
	tolerable("compact", err)
	_, err = s.Compact(context.Background())
	tolerable("second compact", err)
	if err := s.Sync(); err != nil && !errors.Is(err, ErrCorrupt) {
		require.ErrorIs(t, err, ErrSyncFailed)
	}
	if err := s.Put("new", []byte("stored")); err != nil && which != "all" && which != "active" {
		require.ErrorIs(t, err, ErrSyncFailed)
	}
	_ = s.Close() // returns; what it returns depends on what was cut
	_, err = Open(dir, quietly())
	require.ErrorIs(t, err, ErrCorrupt)
	repair := quietly()
	repair.Repair = true
	s, err = Open(dir, repair)
	if err != nil { // nothing is known of a file that was not closed
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "nothing says of which memories")
		return
	}
	requireIntact(t, s)
	require.NoError(t, s.Close())
}

// cuttingFiles empties every file it makes, once armed.
type cuttingFiles struct {
	dir.FS
	dir   string
	armed bool
}

func (f *cuttingFiles) Create(name string, size int) (dir.File, error) {
	file, err := f.FS.Create(name, size)
	if err == nil && f.armed {
		err = os.Truncate(filepath.Join(f.dir, name), 0)
	}
	return file, err
}

func childMadeCut(t *testing.T, dir, call string) {
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 500, 300)
	deleteWhere(t, s, 0, 500, odd)
	files := &cuttingFiles{FS: s.disk.fs, dir: dir}
	s.disk.fs = files
	s.sealLanes(0) // the next record needs a new segment
	files.armed = true
	var err error
	switch call {
	case "put":
		err = s.Put("a", []byte("b"))
	case "large put":
		err = s.Put("a", make([]byte, 100_000))
	case "delete":
		_, err = s.Delete(idOf(0))
	case "compact":
		_, err = s.Compact(context.Background())
	case "sync":
		files.armed = false
		require.NoError(t, s.Put("a", []byte("b")))
		for _, seg := range s.segments.all() {
			if seg.is(stateActive) {
				require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 0))
			}
		}
		err = s.Sync()
		require.Error(t, err)
		_ = s.Close() // returns
		return
	}
	require.ErrorIs(t, err, ErrCorrupt)
	files.armed = false
	requireContents(t, s, 0, 500, 300, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Put("b", []byte("c")))
	mustCompact(t, s)
	requireIntact(t, s)
	require.NoError(t, s.Close())
	s = openDir(t, dir, quietly())
	requireContents(t, s, 0, 500, 300, func(i int) bool { return !odd(i) })
	closeIntact(t, s)
}

func childCutInView(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	content := contentOf(1, 1, 60_000)
	require.NoError(t, s.Put("a", content))
	require.NoError(t, s.Put("b", content))
	seg := s.segments.all()[0]
	id := "a"
	if !bytes.Contains(seg.mem, []byte("a\x01")) {
		id = "b"
	}
	reached := false
	err := s.View(id, func(content []byte) error {
		for _, seg := range s.segments.all() {
			require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 4096))
		}
		reached = true
		sum := byte(0)
		for _, c := range content {
			sum += c
		}
		return fmt.Errorf("read to the end: %d", sum)
	})
	require.True(t, reached)
	require.ErrorIs(t, err, ErrCorrupt)
	_ = s.Close() // returns
}

// childCutRetired has a callback fault on a segment of which it holds the last pin, so that the
// segment is unmapped on the way out.
func childCutRetired(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	require.NoError(t, s.Put("a", contentOf(1, 1, 100))) // dead bytes in the same segment
	require.NoError(t, s.Put("a", contentOf(1, 2, 50_000)))
	reached := false
	err := s.View("a", func(content []byte) error {
		segs := s.segments.all()
		var files []*os.File // the names are gone after the compaction
		for _, seg := range segs {
			f, err := os.OpenFile(filepath.Join(dir, seg.name()), os.O_RDWR, 0)
			require.NoError(t, err)
			files = append(files, f)
		}
		mustCompact(t, s)
		for i, seg := range segs {
			require.True(t, seg.is(stateRetired))
			require.NoError(t, files[i].Truncate(4096))
			require.NoError(t, files[i].Close())
		}
		reached = true
		sum := byte(0)
		for _, c := range content {
			sum += c
		}
		return fmt.Errorf("read to the end: %d", sum)
	})
	require.True(t, reached)
	require.ErrorIs(t, err, ErrCorrupt)
	got, err := s.Get("a") // from the target
	require.NoError(t, err)
	require.Equal(t, contentOf(1, 2, 50_000), got)
	closeIntact(t, s)
}

func childCutInAll(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	for i := range 10 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 30_000)))
	}
	steps, sum := 0, 0
	require.NotPanics(t, func() {
		for _, content := range s.All() {
			steps++
			for _, seg := range s.segments.all() {
				require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 4096))
			}
			for _, c := range content {
				sum += int(c)
			}
		}
	})
	t.Logf("%d steps, sum %d", steps, sum)
	require.Positive(t, steps)
	_ = s.Close() // returns
}
