//go:build unix

package warmtier

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: a directory whose files are not all of one moment is refused with words, or opened as one moment, and never
has silently less than it.

Method: files of a shadow are copied one by one while a store works on it, and files of two moments of a store
are mixed in every way; what opens must be what the store was at a clean Close, or the moment at hand.
*/

// closedMoments records what a store held at each clean Close.
type closedMoments struct {
	t      *testing.T
	closed []map[string][]byte
}

// close closes s, and notes what it holds.
func (m *closedMoments) close(s *Store) {
	m.t.Helper()
	m.closed = append(m.closed, contentsOf(m.t, s))
	require.NoError(m.t, s.Close())
}

// judge opens d, and checks that it is refused, or holds one of those moments or of these.
func (m *closedMoments) judge(d *shadow.FS, opts *Options, also ...map[string][]byte) (opened bool, err error) {
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	if err != nil {
		require.NoError(m.t, released(d, s))
		if errors.Is(err, ErrCopied) || errors.Is(err, ErrCorrupt) {
			return false, nil
		}
		return false, err
	}
	got := contentsOf(m.t, s)
	require.NoError(m.t, s.Close())
	for _, want := range slices.Concat(m.closed, also) {
		if maps.EqualFunc(got, want, slices.Equal) {
			return true, nil
		}
	}
	return true, fmt.Errorf("%d memories, and no moment had these", len(got))
}

// workload makes every kind of change to d: two clean ends, and a third one.
func (m *closedMoments) workload(d *shadow.FS) {
	work := func(s *Store, from int) {
		for i := from; i < from+60; i++ {
			require.NoError(m.t, s.Put(idOf(i), contentOf(i, from, 2000)))
		}
		require.NoError(m.t, s.Sync())
		deleteWhere(m.t, s, from, from+40, odd)
		mustCompact(m.t, s)
		require.NoError(m.t, s.Put(idOf(from+1), contentOf(from+1, from+1, 500)))
	}
	for from := range 3 {
		s := shadowStore(m.t, d, shadowOptions())
		work(s, 30*from)
		m.close(s)
	}
}

func TestCopies_FileByFileBesideAStore(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	opened, refused := 0, 0
	for range scaled(stride(t, 40, 120)) {
		d := newShadow()
		m := &closedMoments{t: t, closed: []map[string][]byte{{}}}
		var mu sync.Mutex // sweeps call beside the workload
		var copying *shadow.Copying
		calls, begin, pace := 0, rng.IntN(250), 1+rng.IntN(12)
		d.Before = func(shadow.Site) {
			mu.Lock()
			defer mu.Unlock()
			switch calls++; {
			case calls == begin:
				copying = d.StartCopy(func(names []string) {
					rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				})
			case copying != nil && calls%pace == 0:
				copying.Next()
			}
		}
		m.workload(d)
		d.Before = nil
		if copying == nil {
			continue
		}
		was, err := m.judge(copying.End(), shadowOptions())
		require.NoError(t, err, "begun at call %d, a file at every %d calls", begin, pace)
		if was {
			opened++
		} else {
			refused++
		}
	}
	t.Logf("%d opened, %d refused", opened, refused)
	require.Positive(t, refused)
}

// mixture returns two moments of one store: after its first Close, and later, closed or as a kill leaves it.
func mixture(t *testing.T, m *closedMoments, killed bool) (older, newer *shadow.FS, now map[string][]byte) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 2000)
	deleteWhere(t, s, 0, 50, odd)
	mustCompact(t, s)
	fill(t, s, 70, 75, 100) // to segments with room left
	m.close(s)
	older = d.Kill()
	s = shadowStore(t, d, shadowOptions())
	fill(t, s, 100, 103, 2000) // which are resumed
	deleteWhere(t, s, 50, 70, odd)
	fill(t, s, 103, 190, 2000) // to new ones
	require.NoError(t, s.Sync())
	if !killed {
		m.close(s)
		return older, d, nil
	}
	fill(t, s, 190, 200, 2000)
	now = contentsOf(t, s)
	newer = d.Kill()
	require.NoError(t, s.Close())
	return older, newer, now
}

func TestCopies_FilesOfTwoMoments(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	counts := map[string]int{}
	for _, killed := range []bool{false, true} {
		m := &closedMoments{t: t}
		older, newer, now := mixture(t, m, killed)
		for _, base := range []struct {
			name     string
			to, from *shadow.FS
		}{{"older over newer", newer, older}, {"newer over older", older, newer}} {
			var names []string
			for _, name := range slices.Sorted(maps.Keys(base.from.Files)) {
				if !strings.HasPrefix(name, layout.SpareName) {
					names = append(names, name)
				}
			}
			var sets [][]string
			for i := range names {
				sets = append(sets, names[i:i+1], names[:i+1], names[i:])
			}
			for range scaled(60) {
				sets = append(sets, slices.DeleteFunc(slices.Clone(names), func(string) bool { return rng.IntN(2) == 0 }))
			}
			for _, set := range sets {
				d := base.to.Kill()
				for _, name := range set {
					d.Replace(name, base.from)
				}
				opened, err := m.judge(d, shadowOptions(), now)
				require.NoError(t, err, "killed %t, %s: %v", killed, base.name, set)
				counts[fmt.Sprintf("%s, killed %t, opened %t", base.name, killed, opened)]++
			}
		}
	}
	t.Log(counts)
}

// A segment of an earlier moment of one Open, put back after a kill, is known by its file alone: it fits the manifest.
func TestCopies_SegmentOfEarlier(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 20, 1000)
	require.NoError(t, s.Sync())
	older := d.Kill()
	fill(t, s, 20, 40, 1000)
	require.NoError(t, s.Sync())
	newer := d.Kill()
	closeShadow(t, s, d)
	replaced := 0
	for name, f := range older.Files {
		_, isSegment := layout.ParseSegmentFileName(name)
		if now := newer.Files[name]; !isSegment || now == nil || bytes.Equal(f.Current, now.Current) {
			continue
		}
		mixed := newer.Kill()
		mixed.Replace(name, older)
		_, err := openShadow(mixed, shadowOptions(), hooks{hash: fixedHash})
		require.ErrorIs(t, err, ErrCopied, name)
		replaced++
	}
	require.Positive(t, replaced)
}

// A repair takes a copy of a store that was killed as it is: the user has asked for what can be had.
func TestCopies_Repaired(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 40, 1000)
	require.NoError(t, s.Sync())
	want := contentsOf(t, s)
	copied := d.StartCopy(func([]string) {}).End()
	closeShadow(t, s, d)
	_, err := openShadow(copied.Kill(), shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCopied)
	opts := shadowOptions()
	opts.Repair = true
	s = shadowStore(t, copied, opts)
	require.Equal(t, want, contentsOf(t, s))
	closeShadow(t, s, copied)
}

// A hint of another moment is not believed, whatever the segments are like.
func TestCopies_HintOfAnotherClose(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 20, 100)
	require.NoError(t, s.Close())
	older := d.Kill()
	s = shadowStore(t, d, shadowOptions())
	require.NoError(t, s.Close())
	s = shadowStore(t, d.Kill(), shadowOptions())
	require.True(t, s.Stats().Recovery.Clean)
	require.NoError(t, s.Close())

	d.Replace(layout.HintName, older)
	s = shadowStore(t, d, shadowOptions())
	require.False(t, s.Stats().Recovery.Clean, "a hint of another Close was believed")
	requireContents(t, s, 0, 20, 100, all)
	require.NoError(t, s.Close())
}

// A target that a copy has met half filled, and a manifest that lists it: the words say what is wrong, also when
// somebody says that it is of one moment.
func TestCopies_TargetHalfFilled(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 1000)
	deleteWhere(t, s, 0, 100, odd)
	require.NoError(t, s.Sync())
	var copying *shadow.Copying
	s.hooks.at = doAt(pointCompactRecord, 20, func() {
		copying = d.StartCopy(func(names []string) {
			target := slices.Index(names, slices.Max(segmentNames(d)))
			names[0], names[target] = names[target], names[0]
		})
		copying.Next()
	})
	mustCompact(t, s)
	s.hooks.at = nil
	copied := copying.End()
	require.NoError(t, s.Close())

	_, err := openShadow(copied.Kill(), shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCopied)
	require.ErrorContains(t, err, "AfterPowerLoss")
	opts := shadowOptions()
	opts.AfterPowerLoss = true
	s, err = openShadow(copied, opts, hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "the manifest has")
	require.NoError(t, released(copied, s))
}

// Goal: a copy that is put back over the files of its own store is told by what it is a copy of, though the files
// that were there keep their ids.
func TestCopies_PutBackOverTheSameFiles(t *testing.T) {
	putBack := func(d, copied *shadow.FS) {
		for name := range copied.Files {
			d.Overwrite(name, copied)
		}
	}
	t.Run("beside a store", func(t *testing.T) {
		d := newShadow()
		s := oneLaneStore(t, d)
		fill(t, s, 0, 20, 1000)
		require.NoError(t, s.Sync())
		copying := d.StartCopy(func([]string) {})
		for more, i := true, 20; more; i++ {
			more = copying.Next()
			fill(t, s, i, i+1, 1000)
		}
		require.NoError(t, s.Close())
		putBack(d, copying.End())
		_, err := openShadow(d.Kill(), shadowOptions(), hooks{hash: fixedHash})
		require.ErrorIs(t, err, ErrCopied)
		require.ErrorContains(t, err, layout.ManifestName)
	})
	t.Run("closed", func(t *testing.T) {
		d := newShadow()
		s := shadowStore(t, d, shadowOptions())
		fill(t, s, 0, 20, 1000)
		require.NoError(t, s.Close())
		copied := d.Kill()
		s = shadowStore(t, d, shadowOptions())
		require.NoError(t, s.Put(idOf(0), nil)) // to the segment with room left
		require.NoError(t, s.Close())
		putBack(d, copied)
		s = shadowStore(t, d, shadowOptions())
		requireContents(t, s, 0, 20, 1000, all)
		lost := d.Crash(nothingKept)
		require.NoError(t, s.Close())
		s = shadowStore(t, lost, shadowOptions())
		requireContents(t, s, 0, 20, 1000, all)
		closeShadow(t, s, lost)
	})
}
