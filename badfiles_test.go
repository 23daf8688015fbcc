//go:build unix

package warmtier

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: files that are not the store's stay as they are, whatever their names.
func TestDirectory_LeavesOtherFilesAlone(t *testing.T) {
	dir := fastDir(t)
	others := []string{"notes.txt", "1.seg", "000000000000000G.seg", "0000000000000001.seg.bak", "0000000000000000.seg",
		"00000000000000AB.seg", ".seg", "manifest", "LOCK.old", "0000000000000007.seg.damaged"}
	for _, name := range others {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o750))
	before := snapshot(t, dir)
	for round := range 3 {
		s := openDir(t, dir, quietly())
		require.Equal(t, min(round, 1)*250, s.Len())
		fill(t, s, 0, 500, 300)
		deleteWhere(t, s, 0, 500, odd)
		mustCompact(t, s)
		closeIntact(t, s)
		after := snapshot(t, dir)
		for name, what := range before {
			require.Equal(t, what, after[name], name)
		}
	}
}

// Goal: Open refuses a symbolic link, a directory or a pipe under the name of a file of the store.
// Anybody able to plant one could make the store write elsewhere, or wait for ever.
func TestDirectory_RefusesOddFiles(t *testing.T) {
	kinds := map[string]func(t *testing.T, path, elsewhere string){
		"symbolic link": func(t *testing.T, path, elsewhere string) {
			require.NoError(t, os.Symlink(elsewhere, path))
		},
		"dangling link": func(t *testing.T, path, elsewhere string) {
			require.NoError(t, os.Symlink(elsewhere+"-not", path))
		},
		"directory": func(t *testing.T, path, _ string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"pipe":      func(t *testing.T, path, _ string) { require.NoError(t, syscall.Mkfifo(path, 0o600)) },
	}
	// Open may move these out of the way.
	aside := []string{layout.ManifestTempName, spareFileName(targetSpare), layout.HintName}
	for kind, plant := range kinds {
		for _, name := range []string{
			layout.LockName, layout.ManifestName, "segment", "new segment", "unfinished segment", layout.ManifestTempName,
			spareFileName(targetSpare), layout.HintName,
		} {
			for _, readOnly := range []bool{false, true} {
				title := strings.ReplaceAll(fmt.Sprintf("%s/%s/readonly=%v", kind, name, readOnly), " ", "_")
				t.Run(title, func(t *testing.T) {
					t.Parallel()
					name := name // of this subtest: changed below
					dir := fastDir(t)
					s := openDir(t, dir, quietly())
					fill(t, s, 0, 100, 100)
					require.NoError(t, s.Close())
					m := readManifestOf(t, dir)
					mustOpen := false
					switch name {
					case "segment":
						name = layout.SegmentFileName(m.Listed[0].ID)
					case "new segment":
						name = layout.SegmentFileName(m.Next + 5)
					case "unfinished segment":
						name, mustOpen = layout.SegmentFileName(m.Next+5)+layout.NewSuffix, readOnly
					case layout.ManifestTempName, spareFileName(targetSpare), layout.HintName:
						mustOpen = readOnly
					}
					path := filepath.Join(dir, name)
					elsewhere := filepath.Join(fastDir(t), "elsewhere")
					if err := os.Rename(path, elsewhere); err != nil {
						require.NoError(t, os.WriteFile(elsewhere, []byte("elsewhere"), 0o600))
					}
					plant(t, path, elsewhere)
					target, err := os.ReadFile(elsewhere)
					require.NoError(t, err)
					before := snapshot(t, dir)

					opts := quietly()
					opts.ReadOnly = readOnly
					s, err = openInTime(t, dir, opts, path)
					switch {
					case err == nil:
						requireContents(t, s, 0, 100, 100, all)
						require.NoError(t, s.Close())
						require.True(t, mustOpen || slices.Contains(aside, name))
					case mustOpen:
						require.NoError(t, err)
					default:
						if !slices.Contains(aside, name) {
							require.Equal(t, before, snapshot(t, dir))
						}
					}
					after, err := os.ReadFile(elsewhere)
					require.NoError(t, err)
					require.Equal(t, target, after, "written through the link")
				})
			}
		}
	}
}

// openInTime opens a store, and fails the test when Open waits for somebody to open the pipe at
// path.
func openInTime(t *testing.T, dir string, opts *Options, path string) (*Store, error) {
	t.Helper()
	type result struct {
		s   *Store
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := Open(dir, opts)
		done <- result{s, err}
	}()
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.s, r.err
	case <-timer.C:
	}
	if w, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
		defer func() { _ = w.Close() }() // lets the opener go
	}
	require.Fail(t, "Open waits for a pipe", path)
	return nil, nil
}

func TestDirectory_NotADirectory(t *testing.T) {
	dir := fastDir(t)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for _, path := range []string{file, pipe, filepath.Join(file, "below")} {
		for _, readOnly := range []bool{false, true} {
			opts := quietly()
			opts.ReadOnly = readOnly
			_, err := openInTime(t, path, opts, pipe)
			require.Error(t, err)
		}
	}
	out, err := runDirectoryChild(t, "unwritable", dir, true)
	require.NoError(t, err, out)
}

// closedStore fills dir with a closed store of several segments, some of which are targets, and
// returns its contents.
func closedStore(t testing.TB, dir string, version int) map[string][]byte {
	t.Helper()
	opts := quietly()
	opts.Compaction.MaxOverhead = minSegmentSize
	s := openDir(t, dir, opts)
	want := map[string][]byte{}
	for i := range 600 {
		want[idOf(i)] = contentOf(i, version, 300)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	for i := 0; i < 600; i += 2 {
		delete(want, idOf(i))
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
	}
	mustCompact(t, s)
	for i := range 500 {
		want[idOf(i)] = contentOf(i, version+1, 300)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	require.NoError(t, s.Close())
	return want
}

// kindOf reads the kind of a segment file.
func kindOf(t testing.TB, dir, name string) layout.SegmentKind {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	h, err := layout.DecodeHeader(b)
	require.NoError(t, err)
	return h.Kind
}

func firstOfKind(t testing.TB, dir string, kind layout.SegmentKind) string {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		if kindOf(t, dir, name) == kind {
			return name
		}
	}
	require.Fail(t, "no segment of this kind")
	return ""
}

// Goal: a store whose segment files are missing, exchanged, doubled or another store's is not
// opened, and nothing in its directory is changed, least of all removed.
func TestDirectory_WrongSegmentFiles(t *testing.T) {
	move := func(t *testing.T, from, to string) { require.NoError(t, os.Rename(from, to)) }
	duplicate := func(t *testing.T, from, to string) {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, b, 0o600))
	}
	// An id below the next one that no file has belonged to a victim that is gone.
	gone := func(t *testing.T, dir string) string {
		m := readManifestOf(t, dir)
		for id := m.Next - 1; id > 0; id-- {
			if !slices.Contains(listedIDs(m), id) {
				return filepath.Join(dir, layout.SegmentFileName(id))
			}
		}
		require.Fail(t, "no free id")
		return ""
	}
	later := func(t *testing.T, dir string) string {
		return filepath.Join(dir, layout.SegmentFileName(readManifestOf(t, dir).Next+3))
	}
	for name, c := range map[string]struct {
		do       func(t *testing.T, dir, foreign string)
		harmless bool // may also be opened, with the right content
	}{
		"missing": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segmentFiles(t, dir)[0])))
		}},
		"all missing": {do: func(t *testing.T, dir, _ string) {
			for _, name := range segmentFiles(t, dir) {
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
			}
		}},
		"empty": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, segmentFiles(t, dir)[0]), 0))
		}},
		"exchanged": {do: func(t *testing.T, dir, _ string) {
			names := segmentFiles(t, dir)
			a, b := filepath.Join(dir, names[0]), filepath.Join(dir, names[1])
			move(t, a, a+".tmp")
			move(t, b, a)
			move(t, a+".tmp", b)
		}},
		"overwritten by another": {do: func(t *testing.T, dir, _ string) {
			names := segmentFiles(t, dir)
			duplicate(t, filepath.Join(dir, names[0]), filepath.Join(dir, names[1]))
		}},
		"lane's doubled under a later id": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, layout.KindLane)), later(t, dir))
		}},
		"target doubled under a later id": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, layout.KindTarget)), later(t, dir))
		}},
		"doubled under the id of a victim": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, layout.KindLane)), gone(t, dir))
		}},
		"another store's in place of one": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, layout.KindLane)),
				filepath.Join(dir, segmentFiles(t, dir)[0]))
		}},
		"another store's lane under a later id": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, layout.KindLane)), later(t, dir))
		}},
		"another store's target under a later id": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, layout.KindTarget)), later(t, dir))
		}},
		"another store's under the id of a victim": {harmless: true, do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, layout.KindLane)), gone(t, dir))
		}},
		"another store's manifest": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, layout.ManifestName), filepath.Join(dir, layout.ManifestName))
		}},
		"manifest missing": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Remove(filepath.Join(dir, layout.ManifestName)))
		}},
		"manifest empty": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, layout.ManifestName), 0))
		}},
	} {
		for _, hint := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/hint=%v", strings.ReplaceAll(name, " ", "_"), hint), func(t *testing.T) {
				t.Parallel()
				dir, foreign := fastDir(t), fastDir(t)
				want := closedStore(t, dir, 1)
				closedStore(t, foreign, 7)
				if !hint {
					require.NoError(t, os.Remove(filepath.Join(dir, layout.HintName)))
				}
				c.do(t, dir, foreign)
				before := snapshot(t, dir)
				for _, readOnly := range []bool{true, false} {
					opts := quietly()
					opts.ReadOnly = readOnly
					s, err := Open(dir, opts)
					if err == nil && c.harmless {
						requireSame(t, s, want)
						require.NoError(t, s.Close())
						continue
					}
					require.ErrorIs(t, err, ErrCorrupt)
					require.Equal(t, before, snapshot(t, dir))
				}
			})
		}
	}
}

// Goal: Open refuses a file of another format version, and changes nothing.
func TestDirectory_OtherFormatVersion(t *testing.T) {
	later := func(t *testing.T, path string, sum func(b []byte)) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		binary.LittleEndian.PutUint32(b[8:], layout.Version+1)
		sum(b)
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	laterSegment := func(t *testing.T, path string) {
		later(t, path, func(b []byte) { binary.LittleEndian.PutUint32(b[48:], record.Checksum(b[8:48])) })
	}
	for name, change := range map[string]func(t *testing.T, dir string){
		"manifest": func(t *testing.T, dir string) {
			later(t, filepath.Join(dir, layout.ManifestName), func(b []byte) {
				first := b[:len(b)/2]
				binary.LittleEndian.PutUint32(first[len(first)-4:], record.Checksum(first[:len(first)-4]))
				copy(b[len(first):], first)
			})
		},
		"manifest with another checksum": func(t *testing.T, dir string) {
			later(t, filepath.Join(dir, layout.ManifestName), func(b []byte) { copy(b[len(b)/2:], b[:len(b)/2]) })
		},
		"manifest of version 1": func(t *testing.T, dir string) {
			later(t, filepath.Join(dir, layout.ManifestName), func(b []byte) {
				binary.LittleEndian.PutUint32(b[8:], 1)
				copy(b[len(b)/2:], b[:len(b)/2])
			})
		},
		"segment": func(t *testing.T, dir string) {
			laterSegment(t, filepath.Join(dir, segmentFiles(t, dir)[1]))
		},
		"segment that is not listed": func(t *testing.T, dir string) {
			path := filepath.Join(dir, layout.SegmentFileName(readManifestOf(t, dir).Next+2))
			b, err := os.ReadFile(filepath.Join(dir, segmentFiles(t, dir)[0]))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, b, 0o600))
			laterSegment(t, path)
		},
	} {
		for _, rebooted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/rebooted=%v", strings.ReplaceAll(name, " ", "_"), rebooted), func(t *testing.T) {
				t.Parallel()
				dir := fastDir(t)
				closedStore(t, dir, 1)
				change(t, dir)
				before := snapshot(t, dir)
				var h hooks
				if rebooted {
					h.boot = func() [16]byte { return [16]byte{1} }
				}
				for _, opts := range []Options{{ReadOnly: true}, {}, {Repair: true}} {
					_, err := open(dir, &opts, h)
					require.ErrorIs(t, err, ErrVersion)
					require.Equal(t, before, snapshot(t, dir))
				}
			})
		}
	}
	t.Run("hint", func(t *testing.T) { // saves time, and nothing else
		dir := fastDir(t)
		want := closedStore(t, dir, 1)
		later(t, filepath.Join(dir, layout.HintName), func([]byte) {})
		s := openDir(t, dir, quietly())
		requireSame(t, s, want)
		closeIntact(t, s)
	})
}
