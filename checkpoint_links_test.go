//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: a file with a second name is not written to any more, in either directory: what a lane would resume, or an Open
would clear, would change a checkpoint that may be years old. One test for each place that could.
*/

// linkedStore returns a shadow with a store in it, of one lane, whose half-filled segment is in a checkpoint as well,
// in to.
func linkedStore(t *testing.T) (d, to *shadow.FS, s *Store) {
	t.Helper()
	d, to = newShadow(), newShadow()
	s = shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 4, 1000)
	_, err := s.disk.checkpoint(context.Background(), to)
	require.NoError(t, err)
	require.Len(t, segmentNames(to), segmentsWithRecords(s))
	return d, to, s
}

func segmentsWithRecords(s *Store) (n int) {
	for _, seg := range s.segments.all() {
		if seg.recordBytes() > 0 {
			n++
		}
	}
	return n
}

func requireLinkedIntact(t *testing.T, dirs ...*shadow.FS) {
	t.Helper()
	for _, d := range dirs {
		for name, f := range d.Files {
			require.False(t, f.Rewritten(), name)
		}
	}
}

// Close seals segments with room left, and the next Open offers them to lanes.
func TestLinked_NotResumedAfterOpen(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
			d, _, s := linkedStore(t)
			image := d.Kill()
			require.NoError(t, s.Close())
			if !killed {
				image = d
			}
			s = shadowStore(t, image, shadowOptions())
			require.Empty(t, s.segments.partial)
			fill(t, s, 4, 6, 1000)
			require.NoError(t, s.Sync())
			requireLinkedIntact(t, image)
			require.NoError(t, s.Close())
		})
	}
}

// A lane that gets no file resumes any sealed segment with room.
func TestLinked_NotResumedOnFullDisk(t *testing.T) {
	d, _, s := linkedStore(t)
	need := draft{id: "x", kind: record.KindMemory, size: 64}
	s.lanes[0].rolling.Lock()
	require.Nil(t, s.takeHalfEmpty(&need, false))
	s.lanes[0].rolling.Unlock()
	d.Budget = d.Used
	for i := 0; ; i++ {
		if err := s.Put(idOf(100+i), make([]byte, 1000)); err != nil {
			require.ErrorIs(t, err, ErrNoSpace)
			break
		}
	}
	requireLinkedIntact(t, d)
	_, err := s.Delete(idOf(1))
	require.NoError(t, err)
	requireLinkedIntact(t, d)
	closeShadow(t, s, d)
}

// A compaction that fails gives lanes back what it had sealed. Method: the checkpoint is made when they are sealed.
func TestLinked_NotGivenBackByCompaction(t *testing.T) {
	d, to := newShadow(), newShadow()
	failed := errors.New("failed")
	var at latePoints
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: at.hook})
	require.NoError(t, err)
	fill(t, s, 0, 4, 1000)
	deleteWhere(t, s, 0, 2, all)
	at.set(func(p point) error {
		if p != pointCompactWalked {
			return nil
		}
		elsewhere(func() {
			if _, err := s.disk.checkpoint(context.Background(), to); err != nil {
				t.Error(err)
			}
		})
		return failed
	})
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, failed)
	fill(t, s, 4, 6, 1000)
	require.NoError(t, s.Sync())
	requireLinkedIntact(t, d, to)
	closeShadow(t, s, d)
}

// Before its last step nothing keeps a lane from a segment that it has just made ready.
//
// The interleaving: a lane has claimed a sealed segment and written into its header that more follows; the checkpoint
// finds it sealed, and links it; the lane appends to it. So a checkpoint begins when no lane is about to, and from
// then on none is.
func TestLinked_WaitsForLaneThatResumes(t *testing.T) {
	d, to := newShadow(), newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 4, 1000)
	require.NoError(t, s.Close())
	var at latePoints
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: at.hook})
	require.NoError(t, err)
	ln := &s.lanes[0]
	ln.rolling.Lock()
	seg := s.takePartial(64)
	require.NotNil(t, seg)
	made := make(chan error, 1)
	go func() {
		_, err := s.disk.checkpoint(context.Background(), to)
		made <- err
	}()
	require.True(t, waitFor(s.segments.linking.Load))
	stacks := make([]byte, 1<<20)
	require.True(t, waitFor(func() bool {
		waits := bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("(*Store).stopResuming("))
		return waits || len(made) > 0
	}))
	require.Empty(t, made, "a lane was about to resume")
	require.False(t, seg.inFile.linked.Load())
	s.resume(ln, seg)
	ln.rolling.Unlock()
	require.NoError(t, <-made)
	requireLinkedIntact(t, d, to)
	copied := shadowStore(t, to.Kill(), shadowOptions())
	require.Equal(t, 4, copied.Len())
	require.NoError(t, copied.Close())
	closeShadow(t, s, d)
}

// While a checkpoint is under way no lane resumes a segment that is not linked yet.
func TestLinked_NotResumedMeanwhile(t *testing.T) {
	d, to := newShadow(), newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 2000)
	require.NoError(t, s.Close())
	looked := false
	var at latePoints
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: at.hook})
	require.NoError(t, err)
	require.NotEmpty(t, s.segments.partial)
	partial := s.segments.partial
	at.set(func(p point) error {
		if p == pointCheckpointLinked && !looked {
			looked = true
			s.lanes[0].rolling.Lock()
			defer s.lanes[0].rolling.Unlock()
			if s.takePartial(64) != nil || s.takeHalfEmpty(&draft{id: "x", kind: record.KindMemory, size: 64}, false) != nil {
				return errors.New("resumed")
			}
		}
		return nil
	})
	_, err = s.disk.checkpoint(context.Background(), to)
	require.NoError(t, err)
	require.True(t, looked)
	for _, seg := range partial {
		require.Equal(t, unclaimed, seg.claimedBy(), "resumed while a checkpoint was under way")
	}
	requireLinkedIntact(t, d, to)
	closeShadow(t, s, d)
}

// A segment without a record stays the lane's, and is in no checkpoint.
func TestLinked_NotBeforeTheFirstRecord(t *testing.T) {
	d, to, s := linkedStore(t)
	need := draft{id: "x", kind: record.KindMemory, size: 64}
	need.place(s, need.id)
	require.NoError(t, s.makeRoom(&need))
	second := newShadow()
	_, err := s.disk.checkpoint(context.Background(), second)
	require.NoError(t, err)
	require.Equal(t, segmentNames(to), segmentNames(second))
	fill(t, s, 4, 5, 1000)
	requireLinkedIntact(t, d, second)
	closeShadow(t, s, d)
}

// Goal: files of the store that were made after a checkpoint are not taken for its own: they are of another moment.
func TestCheckpoint_IsNoMixture(t *testing.T) {
	d, to, s := linkedStore(t)
	require.NoError(t, s.Put(idOf(0), nil))
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	require.NoError(t, s.Sync())
	fill(t, s, 4, 5, 1000)
	later := 0
	for _, name := range segmentNames(d) {
		mixed := to.Kill()
		if mixed.Files[name] != nil {
			continue
		}
		later++
		mixed.Replace(name, d)
		_, err := openShadow(mixed, shadowOptions(), hooks{hash: fixedHash})
		require.ErrorIs(t, err, ErrCorrupt, name)
		require.ErrorContains(t, err, "generation", name)
	}
	require.GreaterOrEqual(t, later, 2, "a target, and a segment of a lane")
	mixed := to.Kill()
	mixed.Replace(layout.ManifestName, d)
	_, err := openShadow(mixed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCopied, "with the manifest of the store")
	mixed = d.Kill()
	mixed.Replace(layout.ManifestName, to)
	_, err = openShadow(mixed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt, "the store with the manifest of the checkpoint")
	closeShadow(t, s, d)
}

// After a power loss Open clears what lies between the records of a segment and their digests, and after a kill it
// writes headers over themselves.
func TestLinked_NotCleared(t *testing.T) {
	d, _, s := linkedStore(t)
	lost := d.Crash(nothingKept)
	require.NoError(t, s.Close())
	f := lost.Files[segmentNames(lost)[0]]
	f.Current[len(f.Current)/2] = 7 // as a disk might: nobody has written there
	s = shadowStore(t, lost, shadowOptions())
	require.Equal(t, byte(7), s.segments.all()[0].mem[len(f.Current)/2], "a file with two names was cleared")
	require.NoError(t, s.Close())
}

// A checkpoint that fails takes its links back, and not those of the checkpoints before.
func TestLinked_ByTwoCheckpoints(t *testing.T) {
	d, _, s := linkedStore(t)
	second, links := newShadow(), 0
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind != shadow.CallLink {
			return nil
		}
		if links++; links == 2 {
			return syscall.EMLINK
		}
		return nil
	}
	fill(t, s, 4, 5, 1000)
	_, err := s.disk.checkpoint(context.Background(), second)
	require.ErrorIs(t, err, syscall.EMLINK)
	d.Fault = nil
	require.Empty(t, second.Files)
	linked := 0
	for _, seg := range s.segments.all() {
		if seg.inFile.linked.Load() {
			linked++
		}
	}
	require.Equal(t, 1, linked, "those of the first checkpoint")
	closeShadow(t, s, d)
}

// Goal: checkpoints of a store that is written to a little leave no trail: what they have sealed half empty, and
// nobody will fill, is merged by maintenance.
func TestCheckpoint_LeavesNoTrail(t *testing.T) {
	root := fastDir(t)
	opts := quietly()
	opts.SegmentSize = minSegmentSize
	opts.Maintenance.MinBytes, opts.Maintenance.MinPeriod = 10*minSegmentSize, -1
	s := openDir(t, filepath.Join(root, "store"), opts)
	fill(t, s, 0, 100, 2000)
	most, compacted := 0, 0
	for i := range 60 {
		for j := range 8 {
			require.NoError(t, s.Put(idOf(200+i%10*8+j), contentOf(i, j, 100))) // some are superseded
		}
		to := filepath.Join(root, strconv.Itoa(i))
		require.NoError(t, s.Checkpoint(context.Background(), to))
		if i%3 > 0 {
			require.NoError(t, os.RemoveAll(to))
		}
		r, err := s.Maintain(context.Background())
		require.NoError(t, err)
		if r.Compacted {
			compacted++
		}
		most = max(most, s.Stats().Segments)
	}
	require.Positive(t, compacted)
	require.Less(t, most, 30, "segments of %d bytes, with %d bytes live", minSegmentSize, s.Stats().LiveBytes)
	require.Less(t, compacted, 20, "each of them copies the same again")
	closeIntact(t, s)
}

// Goal: a directory that says that it is an unfinished checkpoint is refused by every Open, in words.
func TestCheckpoint_UnfinishedIsNoStore(t *testing.T) {
	path := fastDir(t)
	m := layout.Manifest{Unfinished: true}
	require.NoError(t, os.WriteFile(filepath.Join(path, layout.ManifestName), m.Encode(), 0o600))
	before := snapshot(t, path)
	delete(before, layout.LockName)
	for _, opts := range []*Options{nil, {ReadOnly: true}, {Repair: true}, {AfterPowerLoss: true}} {
		_, err := Open(path, opts)
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "a checkpoint that was not finished, and no store: remove it")
		after := snapshot(t, path)
		delete(after, layout.LockName)
		require.Equal(t, before, after)
	}
}
