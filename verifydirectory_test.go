//go:build unix

package warmtier

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: Verify of an open store finds what would keep the next Open from finding it. Method: break one file
// at a time beside the store.
func TestVerify_FindsWhatTheNextOpenNeeds(t *testing.T) {
	skipFaultsUnderRace(t)
	write := func(name string, at int64, b []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if name == "" {
				name = segmentFiles(t, dir)[0]
			}
			f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(b, at)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	for _, c := range []struct {
		name, file, problem string
		wreck               func(t *testing.T, dir string)
	}{
		{"manifest", layout.ManifestName, "no manifest", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ManifestName), []byte("rubbish"), 0o600))
		}},
		{"one copy of the manifest", layout.ManifestName, "one of its two copies", write(layout.ManifestName, 9, []byte{7})},
		{"no manifest", layout.ManifestName, "missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, layout.ManifestName)))
		}},
		{"older manifest", layout.ManifestName, "written last", func(t *testing.T, dir string) {
			m := readManifestOf(t, dir)
			m.Listed = m.Listed[1:]
			require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ManifestName), m.Encode(), 0o600))
		}},
		{"manifest with another segment", layout.ManifestName, "written last", func(t *testing.T, dir string) {
			m := readManifestOf(t, dir)
			m.Listed[0].ID += 100
			require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ManifestName), m.Encode(), 0o600))
		}},
		{"manifest of another store", layout.ManifestName, "of another store", func(t *testing.T, dir string) {
			m := readManifestOf(t, dir)
			m.Store[0] ^= 1
			require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ManifestName), m.Encode(), 0o600))
		}},
		{"salt", "", "its salt", func(t *testing.T, dir string) {
			changeHeader(t, dir, func(mem []byte) {
				h, err := layout.DecodeHeader(mem)
				require.NoError(t, err)
				h.Salt++
				h.Encode(mem)
			})
		}},
		{"state of another moment", "", "durable bytes", func(t *testing.T, dir string) {
			changeHeader(t, dir, func(mem []byte) {
				st, ok := layout.DecodeState(mem, minSegmentSize)
				require.True(t, ok)
				st.Generation++
				st.Synced = minSegmentSize
				st.Encode(mem)
			})
		}},
		{"header", "", "no header", write("", 0, make([]byte, layout.HeaderSize))},
		{"states", "", "no valid state", write("", layout.StateAt, make([]byte, 2*layout.StateSize))},
		{"segment removed", "", "missing", func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segmentFiles(t, dir)[0])))
		}},
		{"segment copied", "", "another file", func(t *testing.T, dir string) {
			path := filepath.Join(dir, segmentFiles(t, dir)[0])
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.Remove(path))
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}},
		{"segment replaced", "", "want segment", func(t *testing.T, dir string) {
			names := segmentFiles(t, dir)
			b, err := os.ReadFile(filepath.Join(dir, names[1]))
			require.NoError(t, err)
			require.NoError(t, os.Remove(filepath.Join(dir, names[0])))
			require.NoError(t, os.WriteFile(filepath.Join(dir, names[0]), b, 0o600))
		}},
		{"hint", layout.HintName, "open for writing", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, layout.HintName), nil, 0o600))
		}},
		{"directory", ".", "removed", func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(dir)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(fastDir(t), "store")
			s := openDir(t, dir, quietly())
			fill(t, s, 0, 200, 1000)
			require.NoError(t, s.Sync())
			fill(t, s, 200, 203, 1000) // not durable yet
			requireIntact(t, s)
			if c.file == "" {
				c.file = segmentFiles(t, dir)[0]
			}
			c.wreck(t, dir)
			report, err := s.Verify(context.Background())
			require.ErrorIs(t, err, ErrCorrupt)
			require.NotEmpty(t, report.Findings)
			require.Equal(t, c.file, report.Findings[0].File)
			require.Contains(t, report.Findings[0].Problem, c.problem)
			_ = s.Close()
		})
	}
}

// changeHeader changes the header of the first segment file.
func changeHeader(t *testing.T, dir string, change func(mem []byte)) {
	t.Helper()
	path := filepath.Join(dir, segmentFiles(t, dir)[0])
	mem, err := os.ReadFile(path)
	require.NoError(t, err)
	change(mem)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(mem[:layout.HeaderSize], 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// lookContext calls look each time somebody asks whether it has ended.
type lookContext struct {
	context.Context
	look func()
}

func (c lookContext) Err() error {
	c.look()
	return c.Context.Err()
}

// Goal: what is wrong with a file at one look only is no finding, since the two copies of a state change one after
// the other; nor is what is wrong with the file of a segment that has left the store.
func TestVerify_LooksAgain(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 10, 1000)
	require.NoError(t, s.Sync())
	seg := s.segments.all()[0]
	path := filepath.Join(dir, seg.name())
	look := func(until int) []Finding {
		looked := 0
		v := &verifier{s: s}
		require.NoError(t, v.checkFile(lookContext{context.Background(), func() {
			if looked++; looked == 1 {
				require.NoError(t, os.Rename(path, path+".away"))
			}
			if looked == until {
				require.NoError(t, os.Rename(path+".away", path))
			}
		}}, seg))
		return v.report.Findings
	}
	require.Empty(t, look(2))
	require.NotEmpty(t, look(looks+1))
	seg.inFile.committed.Store(false) // as a compaction does, before the file goes
	require.NoError(t, os.Rename(path+".away", path))
	require.Empty(t, look(looks+1))
	seg.inFile.committed.Store(true)
	require.NoError(t, os.Rename(path+".away", path))
	closeIntact(t, s)
}

// Goal: after a failure nobody knows which manifest is in force, so Verify does not call either one wrong.
func TestVerify_ManifestAfterFailure(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 1000)
	renamed := false
	d.Fault = func(kind shadow.Kind, _ string) error {
		renamed = renamed || kind == shadow.CallRename
		if renamed && kind == shadow.CallSyncDir {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Sync(), syscall.EIO)
	report, err := s.Verify(context.Background())
	require.NoError(t, err, "%v", report)
	_ = s.Close()
	require.NoError(t, released(d, s))
}

// Goal: Verify of a store that is only read says nothing of a hint that Open could not use.
func TestVerify_HintThatWasNotUsed(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 1000)
	require.NoError(t, s.Close())
	damageAt(d, layout.HintName, 20)
	opts := shadowOptions()
	opts.ReadOnly = true
	s = shadowStore(t, d, opts)
	require.False(t, s.Stats().Recovery.Clean)
	closeShadow(t, s, d)
}

// Goal: Verify of a store that is only read finds that the hint it was opened with is damaged since.
func TestVerify_FindsDamagedHint(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 200, 100)
	deleteWhere(t, s, 0, 10, odd)
	require.NoError(t, s.Close())
	opts := quietly()
	opts.ReadOnly = true
	s = openDir(t, dir, opts)
	requireIntact(t, s)
	path := filepath.Join(dir, layout.HintName)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, at := range []int{20, len(b) / 2, len(b) - 1} {
		b[at] ^= 1
		require.NoError(t, os.WriteFile(path, b, 0o600))
		b[at] ^= 1
		report, err := s.Verify(context.Background())
		require.ErrorIs(t, err, ErrCorrupt)
		require.Equal(t, layout.HintName, report.Findings[0].File)
	}
	require.NoError(t, s.Close())
}
