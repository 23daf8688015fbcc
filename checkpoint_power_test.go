//go:build unix

package warmtier

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

// checkpointLife is a checkpoint of a shadow into another one, beside writes and a compaction, and what the
// directories could be after a crash at each moment of it.
type checkpointLife struct {
	t        *testing.T
	s        *Store
	from, to *shadow.FS
	rng      *rand.Rand
	want     map[string][]byte // at the moment
	done     bool              // it has returned
	points   map[point]int
	images   []checkpointImage
	busy     bool // inside of a hook, or at an end
	at       latePoints
}

type checkpointImage struct {
	when     string
	from, to *shadow.FS
	killed   bool
	now      map[string][]byte // of the store when it was killed
	want     map[string][]byte // nil before the moment
	done     bool
}

func newCheckpointLife(t *testing.T) *checkpointLife {
	t.Helper()
	l := &checkpointLife{t: t, from: newShadow(), to: newShadow(), rng: seeded(t), points: map[point]int{}}
	s, err := openShadow(l.from, shadowOptions(), hooks{hash: fixedHash, at: l.at.hook})
	require.NoError(t, err)
	l.s = s
	fill(t, s, 0, 40, 3000)
	require.NoError(t, s.Sync())
	fill(t, s, 40, 44, 3000)
	var b Batch
	for i := 44; i < 48; i++ {
		b.Put(idOf(i), contentOf(i, 0, 500))
	}
	require.NoError(t, s.Apply(&b))
	deleteWhere(t, s, 0, 40, odd)
	l.at.set(l.reach)
	return l
}

// reach does at a point what others do beside the checkpoint.
func (l *checkpointLife) reach(p point) error {
	if l.busy {
		return nil
	}
	l.busy = true
	defer func() { l.busy = false }()
	l.points[p]++
	first := l.points[p] == 1
	switch {
	case p == pointCheckpointLinked && first: // what was linked leaves
		mustCompact(l.t, l.s)
		require.NoError(l.t, l.s.Put("before", nil))
	case p == pointCheckpointSealed:
		l.want = contentsOf(l.t, l.s)
		require.NoError(l.t, l.s.Put("after", nil))
		require.NoError(l.t, l.s.Put(idOf(2), []byte("after")))
		_, err := l.s.Delete(idOf(4))
		require.NoError(l.t, err)
	}
	if p != pointCheckpointLocked && p != pointManifestNumbered { // lanes are locked
		l.take("at point " + string(p))
	}
	return nil
}

// take notes what the directories could be after crashes at this moment.
func (l *checkpointLife) take(when string) {
	now := contentsOf(l.t, l.s)
	add := func(how string, from, to *shadow.FS) {
		l.images = append(l.images, checkpointImage{when: how + " " + when, from: from, to: to, killed: how == "killed",
			now: now, want: l.want, done: l.done})
	}
	random := func() shadow.Loss { return shadow.RandomLoss(rand.New(rand.NewPCG(l.rng.Uint64(), 1))) }
	add("killed", l.from.Kill(), l.to.Kill())
	add("nothing kept", l.from.Crash(nothingKept), l.to.Crash(nothingKept))
	add("all kept", l.from.Crash(allKept), l.to.Crash(allKept))
	add("some kept", l.from.Crash(random()), l.to.Crash(random()))
}

// run makes the checkpoint.
func (l *checkpointLife) run() error {
	before := func(site shadow.Site) {
		if !l.busy {
			l.busy = true
			l.take("at " + site.String())
			l.busy = false
		}
	}
	l.from.Before, l.to.Before = before, before
	_, err := l.s.disk.checkpoint(context.Background(), l.to)
	l.from.Before, l.to.Before = nil, nil
	l.done = err == nil
	l.take("at the end")
	l.busy = true
	return err
}

// check opens both directories of an image.
func (img *checkpointImage) check(t *testing.T) (outcome string) {
	for name, f := range img.to.Files {
		require.False(t, f.Rewritten(), "%s was written to after it was linked", name)
	}
	s := shadowStore(t, img.from, shadowOptions())
	if img.killed {
		requireSame(t, s, img.now)
	} else if img.done {
		for i := range 48 {
			require.True(t, s.Has(idOf(i)) || i < 40 && odd(i) || i == 4, "written before: %d", i)
		}
	}
	img.churn(t, s, img.from)

	names := segmentNames(img.to)
	if len(names) == 0 { // and a manifest, or what a power loss has left of one
		require.False(t, img.done)
		return "nothing"
	}
	s, err := openShadow(img.to, shadowOptions(), hooks{hash: fixedHash})
	if err != nil {
		require.False(t, img.done, "%v", err)
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "not finished")
		repair := shadowOptions()
		repair.Repair = true
		_, err = openShadow(img.to, repair, hooks{hash: fixedHash})
		require.ErrorIs(t, err, ErrCorrupt, "a repair makes a store of it")
		return "refused"
	}
	requireSame(t, s, img.want)
	img.churn(t, s, img.to)
	return "opened"
}

// churn uses s, which is in d, as any store, and checks that no file with two names is written to.
func (img *checkpointImage) churn(t *testing.T, s *Store, d *shadow.FS) {
	fill(t, s, 100, 104, 3000)
	require.NoError(t, s.Sync())
	for name, f := range d.Files {
		require.False(t, f.Rewritten(), "%s has a second name, and was written to", name)
	}
	closeShadow(t, s, d)
}

// Goal: whatever ends the machine or the process at whatever moment of a checkpoint, its directory is one without a
// file, refuses to open, by a repair too, or is the whole of its moment; and that once it has returned. The
// store has lost nothing, and no file with two names is written to by either.
func TestCheckpoint_EveryCall(t *testing.T) {
	t.Parallel()
	l := newCheckpointLife(t)
	require.NoError(t, l.run())
	for _, p := range []point{pointCheckpointLinked, pointCheckpointLocked, pointCheckpointSealed,
		pointCheckpointWhole, pointCheckpointListed} {
		require.Positive(t, l.points[p], p)
	}
	require.NotContains(t, l.want, "after")
	require.Contains(t, l.want, "before")
	m, _, err := layout.DecodeManifest(l.to.Files[layout.ManifestName].Current)
	require.NoError(t, err)
	require.Len(t, segmentNames(l.to), len(m.Listed), "files of segments that had left before the moment")
	requireIntact(t, l.s)
	require.NoError(t, l.s.Close())
	outcomes, sampled := map[string]int{}, stride(t, 5, 1)
	if raceEnabled || lockOrderChecked() {
		sampled = 17
	}
	for i := range l.images {
		img := &l.images[i]
		if !img.done && i%sampled > 0 {
			continue
		}
		t.Run(img.when, func(t *testing.T) { outcomes[img.check(t)]++ })
	}
	require.Len(t, outcomes, 3, "%v", outcomes)
}

// Goal: a checkpoint that fails, at whatever call, leaves nothing in its directory, and the store with the segments
// that it had: lanes go on in them.
func TestCheckpoint_FailsAtEachCall(t *testing.T) {
	failed, kinds := 0, map[shadow.Kind]int{}
	step := stride(t, 2, 1)
	if raceEnabled || lockOrderChecked() {
		step = 3
	}
	for call := 1; ; call += step {
		l := newCheckpointLife(t)
		require.NoError(t, l.s.Sync())
		l.busy = true
		want := contentsOf(t, l.s)
		actives, segments := l.s.Stats().SegmentDetails.Active, l.s.Stats().Segments
		calls := 0
		fault := func(in *shadow.FS) func(kind shadow.Kind, name string) error {
			return func(kind shadow.Kind, name string) error {
				if in == l.from && kind != shadow.CallLink || kind == shadow.CallRemove {
					return nil
				}
				if calls++; calls == call {
					kinds[kind]++
					return syscall.ENOSPC
				}
				return nil
			}
		}
		l.from.Fault, l.to.Fault = fault(l.from), fault(l.to)
		_, err := l.s.disk.checkpoint(context.Background(), l.to)
		l.from.Fault, l.to.Fault = nil, nil
		if err == nil {
			require.NoError(t, l.s.Close())
			break
		}
		failed++
		require.ErrorIs(t, err, ErrNoSpace)
		require.Empty(t, slices.Collect(maps.Keys(l.to.Files)), "left by a checkpoint that failed at call %d", call)
		require.NoError(t, l.s.failedSync())
		st := l.s.Stats()
		require.Equal(t, []int{actives, segments}, []int{st.SegmentDetails.Active, st.Segments},
			"lanes have not got back what was sealed: call %d", call)
		fill(t, l.s, 200, 202, 100)
		for _, seg := range l.s.segments.all() {
			require.False(t, seg.inFile.linked.Load(), seg.name())
		}
		_, err = l.s.disk.checkpoint(context.Background(), l.to)
		require.NoError(t, err)
		for i := 200; i < 202; i++ {
			want[idOf(i)] = contentOf(i, 0, 100)
		}
		closeShadow(t, l.s, l.from)
		s := shadowStore(t, l.to.Kill(), shadowOptions())
		requireSame(t, s, want)
		require.NoError(t, s.Close())
	}
	require.Greater(t, failed, 3, "%v", kinds)
	require.Greater(t, len(kinds), 2, "%v", kinds)
}

// Goal: as above, when the context ends at each point.
func TestCheckpoint_CancelledAtEachPoint(t *testing.T) {
	for _, p := range []point{pointCheckpointLinked, pointCheckpointSealed, pointFlushed, pointCheckpointWhole} {
		t.Run(string(p), func(t *testing.T) {
			l := newCheckpointLife(t)
			ctx, cancel := context.WithCancel(context.Background())
			l.at.set(func(q point) error {
				if q == p {
					cancel()
				}
				return nil
			})
			want := contentsOf(t, l.s)
			_, err := l.s.disk.checkpoint(ctx, l.to)
			require.ErrorIs(t, err, errStopped)
			require.Empty(t, l.to.Files)
			requireSame(t, l.s, want)
			closeShadow(t, l.s, l.from)
		})
	}
}

// Goal: where the removal of a checkpoint that failed is not durable, nobody writes to its files: a power loss may
// bring back all of it.
func TestCheckpoint_UndoneNotDurably(t *testing.T) {
	for _, durable := range []bool{false, true} {
		l := newCheckpointLife(t)
		listed, failed := false, 0
		l.at.set(func(p point) error {
			listed = listed || p == pointCheckpointListed
			return nil
		})
		want := contentsOf(t, l.s)
		l.to.Fault = func(kind shadow.Kind, _ string) error {
			if !listed || kind != shadow.CallSyncDir || durable && failed > 0 {
				return nil
			}
			failed++
			return syscall.EIO
		}
		_, err := l.s.disk.checkpoint(context.Background(), l.to)
		require.ErrorIs(t, err, syscall.EIO)
		require.Empty(t, l.to.Files)
		fill(t, l.s, 200, 204, 100)
		require.NoError(t, l.s.Sync())
		kept := allKept
		kept.Operation = func(i, _ int) bool { return i < 2 } // the manifest and its renaming, no removal
		back := l.to.Crash(kept)
		require.Equal(t, durable, len(back.Files) == 0)
		for _, seg := range l.s.segments.all() {
			require.False(t, durable && seg.inFile.linked.Load(), "lanes have not got back what was sealed")
		}
		if !durable {
			copied := shadowStore(t, back, shadowOptions())
			requireSame(t, copied, want)
			closeShadow(t, copied, back)
		}
		closeShadow(t, l.s, l.from)
	}
}

// Goal: a failed flush of a checkpoint is one of the store.
func TestCheckpoint_FailedFlush(t *testing.T) {
	l := newCheckpointLife(t)
	sealed := false
	l.at.set(func(p point) error {
		sealed = sealed || p == pointCheckpointSealed
		return nil
	})
	require.NoError(t, l.s.Sync())
	require.NoError(t, l.s.Put("more", nil))
	broken := errors.New("broken")
	l.from.Fault = func(kind shadow.Kind, _ string) error {
		if sealed && kind == shadow.CallSync {
			return broken
		}
		return nil
	}
	_, err := l.s.disk.checkpoint(context.Background(), l.to)
	require.ErrorIs(t, err, ErrSyncFailed)
	require.ErrorIs(t, err, broken)
	require.Empty(t, l.to.Files)
	l.from.Fault = nil
	require.ErrorIs(t, l.s.Put("x", nil), ErrSyncFailed)
	_, err = l.s.disk.checkpoint(context.Background(), l.to)
	require.ErrorIs(t, err, ErrSyncFailed)
	require.Empty(t, l.to.Files)
	require.ErrorIs(t, l.s.Close(), ErrSyncFailed)
	require.NoError(t, released(l.from, l.s))
}
