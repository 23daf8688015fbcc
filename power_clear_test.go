//go:build unix

package warmtier

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/record"
)

// clearedStore returns a store with memories that were synced, overwritten, deleted and not synced, and what must
// be there: after a kill as it is, after a power loss of the last five any part.
func clearedStore(t *testing.T, d *shadow.FS, h hooks) (s *Store, want map[string][]byte) {
	t.Helper()
	h.hash = fixedHash
	s, err := openShadow(d, shadowOptions(), h)
	require.NoError(t, err)
	want = map[string][]byte{}
	put := func(i, version, size int) {
		require.NoError(t, s.Put(idOf(i), contentOf(i, version, size)))
		want[idOf(i)] = contentOf(i, version, size)
	}
	for i := range 30 {
		put(i, 0, 3000)
	}
	require.NoError(t, s.Sync())
	for i := range 15 {
		put(i, 1, 3000)
	}
	put(30, 0, 70_000) // a segment of its own
	deleteWhere(t, s, 15, 20, all)
	for i := 15; i < 20; i++ {
		delete(want, idOf(i))
	}
	require.NoError(t, s.Sync())
	for i := range 5 {
		put(25+i, 2, 3000)
	}
	return s, want
}

// requireAllOrNothing opens d and checks that it has all of want, or nothing of it, and of the memories "after" any.
// With done nothing is all it may have. lost says that what was not synced may be as it was before.
func requireAllOrNothing(t *testing.T, d *shadow.FS, want map[string][]byte, done, lost bool) (cleared bool) {
	t.Helper()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	found := contentsOf(t, s)
	delete(found, "after")
	cleared = len(found) == 0
	if !cleared {
		require.False(t, done, "%d memories are back", len(found))
		for i := range 31 {
			content, there := found[idOf(i)]
			wanted, should := want[idOf(i)]
			require.Equal(t, should, there, idOf(i))
			if lost && i >= 25 && i < 30 && string(content) == string(contentOf(i, 0, 3000)) {
				continue
			}
			require.Equal(t, describe(wanted, should), describe(content, there), idOf(i))
		}
	}
	strays, err := strays(d)
	require.NoError(t, err)
	require.Empty(t, strays)
	closeShadow(t, s, d)
	return cleared
}

// Goal: a kill or a power loss at any moment of a Clear leaves everything or nothing, and after it nothing.
// Method: images at each call of the file system and at each point, of several kinds of losses. A Put goes on
// as soon as the store is empty.
func TestPower_Clear(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	d := newShadow()
	type image struct {
		d          *shadow.FS
		when       string
		lost, done bool
	}
	var images []image
	taking, done := false, false
	take := func(when string) {
		if !taking {
			return
		}
		for _, loss := range []shadow.Loss{nothingKept, allKept, shadow.RandomLoss(rand.New(rand.NewPCG(rng.Uint64(), 1)))} {
			images = append(images, image{d.Crash(loss), "power loss " + when, true, done})
		}
		images = append(images, image{d.Kill(), "killed " + when, false, done})
	}
	var s *Store
	var want map[string][]byte
	s, want = clearedStore(t, d, hooks{at: func(p point) error {
		done = done || taking && p == pointManifestSynced
		take("at " + string(p))
		if p == pointManifestRenamed && taking { // the first point after the cut
			require.NoError(t, s.Put("after", nil))
			take("after a Put")
		}
		return nil
	}})
	d.Before = func(site shadow.Site) { take("at " + site.String()) }
	taking = true
	mustClear(t, s)
	require.True(t, done)
	take("at the end")
	taking = false
	d.Before = nil
	require.Len(t, contentsOf(t, s), 1)
	closeShadow(t, s, d)
	outcomes := map[string]int{}
	for _, img := range images {
		t.Run(img.when, func(t *testing.T) {
			outcomes[fmt.Sprint(img.lost, requireAllOrNothing(t, img.d, want, img.done, img.lost))]++
		})
	}
	require.Len(t, outcomes, 4, "%v: kills and power losses each leave both", outcomes)
}

// Goal: no write of before the cut is in a segment that counts after it.
//
// The interleavings: a lane gets a segment when the empty manifest has been written with the ids of before, and
// writes to it; the next Open would take it for one made after the Clear. A write comes between the rename and the
// cut; it would be acknowledged, and gone after a kill. So the manifest is written again, and writes wait.
func TestPower_ClearKeepsWritesOut(t *testing.T) {
	t.Run("a segment between", func(t *testing.T) {
		testClearKeepsWritesOut(t, func(s *Store) {
			for i, before := 100, s.segments.newestID(); s.segments.newestID() < before+2; i++ {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 9000)))
			}
		})
	})
	t.Run("a record between", func(t *testing.T) { // whose number the next Open must not miss
		testClearKeepsWritesOut(t, func(s *Store) {
			before, numbers := s.segments.newestID(), s.sequence.Load()
			for i := 100; s.sequence.Load() == numbers; i++ {
				tombstone := s.tombstoneOf(idOf(i))
				if tombstone.shard.lane.active.room(1) > 2*tombstone.size {
					require.NoError(t, s.Put(idOf(i), nil))
				}
			}
			require.Equal(t, before, s.segments.newestID())
		})
	})
}

func testClearKeepsWritesOut(t *testing.T, between func(*Store)) {
	d := newShadow()
	var s *Store
	var killed *shadow.FS
	waiting := make(chan error, 2)
	s, _ = clearedStore(t, d, hooks{at: func(p point) error {
		switch p {
		case pointClearPrepared:
			between(s)
		case pointClearBarred:
			put := draft{id: "a", kind: record.KindMemory, size: record.Size(1, 0), sum: record.Checksum(nil)}
			put.shard, put.tag = s.place(put.id)
			ok, err := s.tryPut(&put)
			require.NoError(t, err)
			require.False(t, ok)
			remove := s.tombstoneOf(idOf(0))
			_, ok, err = s.tryRemove(&remove)
			require.NoError(t, err)
			require.False(t, ok)
			content, err := s.Get(idOf(0))
			require.NoError(t, err)
			require.Equal(t, contentOf(0, 1, 3000), content)
			go func() { waiting <- s.Put("a", nil) }()
			go func() { waiting <- s.Put("large", make([]byte, 70_000)) }()
			require.True(t, stays(func() bool { return len(waiting) == 0 }))
		case pointCleared:
			killed = d.Kill()
		}
		return nil
	}})
	require.NoError(t, s.Clear())
	require.NoError(t, <-waiting)
	require.NoError(t, <-waiting)
	require.Equal(t, 2, s.Len())
	later := d.Kill()
	closeShadow(t, s, d)
	s = shadowStore(t, killed, shadowOptions())
	found := contentsOf(t, s)
	delete(found, "a") // which have waited for the cut
	delete(found, "large")
	require.Empty(t, found, "memories of before")
	closeShadow(t, s, killed)
	s = shadowStore(t, later, shadowOptions())
	require.Len(t, contentsOf(t, s), 2)
	closeShadow(t, s, later)
}

// Goal: a kill after a Clear finds no record missing of those that it has taken, of which some were stored between
// its manifest and the cut; and it still finds what is missing of those that came afterwards.
func TestPower_ClearSkipsNumbers(t *testing.T) {
	d := newShadow()
	var s *Store
	var killed *shadow.FS
	var between Version
	cut := false
	s, _ = clearedStore(t, d, hooks{at: func(p point) error {
		switch {
		case p == pointClearPrepared:
			v, err := s.PutIf("between", nil, 0)
			require.NoError(t, err)
			between = v
		case p == pointCleared:
			cut = true
		case p == pointManifestRenamed && cut && killed == nil: // before any other manifest
			require.NoError(t, s.Put("missing", make([]byte, 90_000))) // in a file of its own
			after, err := s.PutIf("after", nil, 0)
			require.NoError(t, err)
			require.Greater(t, after, between)
			killed = d.Kill()
		}
		return nil
	}})
	require.NoError(t, s.Clear())
	closeShadow(t, s, d)
	s = shadowStore(t, killed.Kill(), shadowOptions())
	require.Len(t, contentsOf(t, s), 2)
	require.NoError(t, s.Close())
	large := slices.MaxFunc(slices.Collect(maps.Keys(killed.Files)), func(a, b string) int {
		return cmp.Compare(len(killed.Files[a].Current), len(killed.Files[b].Current))
	})
	delete(killed.Files, large)
	_, err := openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "are in no file")
}

// Goal: a Clear that fails has changed nothing, unless what failed is the sync after the rename: that is final,
// everything is gone in this process, and no file is.
func TestPower_ClearFails(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(kind shadow.Kind, cleared bool) bool
		final bool
	}{
		{"manifest not written", func(k shadow.Kind, _ bool) bool { return k == shadow.CallWriteFile }, false},
		{"manifest not synced", func(k shadow.Kind, _ bool) bool { return k == shadow.CallSyncFile }, false},
		{"manifest perhaps renamed", func(k shadow.Kind, _ bool) bool { return k == shadow.CallRename }, true},
		{"directory not synced", func(k shadow.Kind, cleared bool) bool { return k == shadow.CallSyncDir && cleared }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newShadow()
			cut := false
			s, want := clearedStore(t, d, hooks{at: func(p point) error {
				cut = cut || p == pointCleared
				return nil
			}})
			files := segmentNames(d)
			d.Fault = func(kind shadow.Kind, _ string) error {
				if c.fault(kind, cut) {
					return syscall.EIO
				}
				return nil
			}
			err := s.Clear()
			d.Fault = nil
			require.ErrorIs(t, err, syscall.EIO)
			require.Equal(t, c.final, errors.Is(err, ErrSyncFailed))
			require.Equal(t, err == nil, s.Stats().Clears > 0)
			require.Subset(t, segmentNames(d), files)
			if cut {
				require.Zero(t, s.Len())
				require.ErrorIs(t, s.Put("a", nil), ErrSyncFailed)
				require.ErrorIs(t, s.Clear(), ErrSyncFailed)
			} else {
				requireSame(t, s, want)
			}
			if !c.final {
				require.NoError(t, s.Put("after", nil))
				require.NoError(t, s.Clear())
				require.Zero(t, s.Len())
				closeShadow(t, s, d)
				return
			}
			for _, crashed := range []*shadow.FS{d.Crash(nothingKept), d.Kill()} {
				requireAllOrNothing(t, crashed, want, false, true)
			}
			d.Freeze()
			_ = s.Close()
		})
	}
}

// Goal: no file goes before the manifest that is without it is durable.
//
// The interleaving: a sweep has claimed a dead segment when the Clear comes, and finds it out of the manifest while
// that is not synced yet. A power loss would find the old manifest, which lists it.
//
// Method: the sync fails, so the old manifest may be in force for good.
func TestPower_SweepDuringClear(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	claimed, swept := make(chan struct{}), make(chan struct{})
	proceed := make(chan struct{})
	armed := false
	s, err := openShadow(d, opts, hooks{hash: oneLane, at: func(p point) error {
		switch {
		case !armed:
		case p == pointSweepClaimed:
			close(claimed)
			<-proceed
		case p == pointManifestRenamed:
			close(proceed)
			select { // a sweep that does not wait has ended by then
			case <-swept:
			case <-time.After(50 * time.Millisecond):
			}
			return errInjected
		}
		return nil
	}})
	require.NoError(t, err)
	s.dead.on = false
	fill(t, s, 0, 30, 5000)
	require.NoError(t, s.Sync())
	fill(t, s, 0, 30, 5000)
	require.NoError(t, s.Sync())
	require.Positive(t, s.dead.waiting.Load())
	files := segmentNames(d)
	armed = true
	go func() {
		defer close(swept)
		_, _ = s.sweep()
	}()
	<-claimed
	require.ErrorIs(t, s.Clear(), errInjected)
	<-swept
	require.Subset(t, segmentNames(d), files)
	old := d.Crash(nothingKept)
	d.Freeze()
	_ = s.Close()
	s = shadowStore(t, old, shadowOptions())
	require.Contains(t, []int{0, 30}, s.Len())
	closeShadow(t, s, old)
}
