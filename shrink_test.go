//go:build unix

package warmtier

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: a full disk shrinks, whatever share of the memories is deleted: each Delete succeeds, Compact gives
file bytes back and says how many, and Puts have about as much room as was deleted.

Method: the budget of the shadow, killed and opened again in between; and a small file system.
*/

// fillDisk stores memories of size bytes until there is no space, and returns how many.
func fillDisk(t *testing.T, s *Store, name string, size int) (n int) {
	t.Helper()
	for {
		if err := s.Put(name+idOf(n), contentOf(n, 0, size)); err != nil {
			require.ErrorIs(t, err, ErrNoSpace)
			return n
		}
		n++
	}
}

// gone reports whether memory i is among so many percent.
func gone(i, percent int) bool { return i*percent/100 != (i+1)*percent/100 }

// deletePercent deletes so many percent of n memories, spread evenly.
func deletePercent(t *testing.T, s *Store, n, percent int) {
	t.Helper()
	for i := range n {
		if gone(i, percent) {
			existed, err := s.Delete("old" + idOf(i))
			require.NoError(t, err, "deletion of %d of %d", i, n)
			require.True(t, existed)
		}
	}
}

// requireRest checks that the others are there, and those are not.
func requireRest(t *testing.T, s *Store, n, percent, size int) {
	t.Helper()
	for i := range n {
		got, err := s.Get("old" + idOf(i))
		if gone(i, percent) {
			require.ErrorIs(t, err, ErrNotFound)
			continue
		}
		require.NoError(t, err)
		require.True(t, bytes.Equal(contentOf(i, 0, size), got), "memory %d", i)
	}
}

func TestShrink_AnyShare(t *testing.T) {
	every := thoroughCrashes(t)
	for i, size := range []int{0, 1000, 12_000, 50_000} {
		for j, percent := range []int{10, 25, 33, 50, 75, 100} {
			if !every && (i+j)%3 != 0 {
				continue
			}
			for _, segment := range []int{minSegmentSize, 4 * minSegmentSize} {
				t.Run(fmt.Sprintf("segment=%d/size=%d/deleted=%d", segment, size, percent), func(t *testing.T) {
					t.Parallel()
					d := newShadow()
					d.NamesPerBlock = 20
					d.Budget = int64(110 * minSegmentSize)
					if size == 0 {
						d.Budget = int64(16 * segment)
					}
					shrinks(t, d, segment, size, percent)
				})
			}
		}
	}
}

// shrinks fills d, deletes and compacts, with a kill after each step.
func shrinks(t *testing.T, d *shadow.FS, segment, size, percent int) {
	opts := shadowOptions()
	opts.SegmentSize = segment
	open := func() *Store {
		s, err := openShadow(d, opts, hooks{hash: fixedHash, share: growingSegments})
		require.NoError(t, err)
		return s
	}
	s := open()
	n := fillDisk(t, s, "old", size)
	before := s.Stats().TotalBytes
	d.Budget = d.Used // others have the rest
	deletePercent(t, s, n, percent)
	killed := d.Kill()
	closeShadow(t, s, d)

	d = killed
	s = open()
	requireRest(t, s, n, percent, size)
	files := func() (total int64) {
		for _, seg := range s.segments.all() {
			total += seg.fileBytes()
		}
		return total
	}
	s.dead.running.Lock() // no sweep beside it gives anything back
	s.dead.on = false
	s.dead.running.Unlock()
	had := files()
	st := mustCompact(t, s)
	require.Equal(t, had-files(), st.FileBytesReclaimed)
	requireRest(t, s, n, percent, size)
	killed = d.Kill()
	closeShadow(t, s, d)

	d = killed
	s = open()
	requireRest(t, s, n, percent, size)
	mustCompact(t, s)
	again := fillDisk(t, s, "new", size)
	room := int(before) * percent / 100 / (int(before) / n)
	require.GreaterOrEqual(t, again, room*7/10-2*segment/(int(before)/n),
		"of %d memories %d percent were deleted", n, percent)
	requireRest(t, s, n, percent, size)
	closeShadow(t, s, d)
}

// Goal: a Delete that compacts for itself stops when there is space for deletions again, and does not
// compact the whole store.
func TestShrink_DeleteStopsWithSpace(t *testing.T) {
	d := newShadow()
	d.Budget = 110 * minSegmentSize
	compactions := 0
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
		if p == pointCompactSealed {
			compactions++
		}
		return nil
	}})
	require.NoError(t, err)
	n := fillDisk(t, s, "old", 1000)
	for i := 0; i < n && compactions == 0; i += 2 {
		_, err := s.Delete("old" + idOf(i))
		require.NoError(t, err)
	}
	require.Positive(t, compactions)
	require.Greater(t, s.Stats().DeadBytes, int64(8*minSegmentSize))
	closeShadow(t, s, d)
}

// Goal: a Delete that needs a compaction while one is under way waits for its rounds; one in OnProgress,
// which would wait for itself, does not wait forever.
func TestShrink_DeleteBesideCompaction(t *testing.T) {
	d := newShadow()
	d.Budget = 40 * minSegmentSize
	opts := shadowOptions()
	paused := pauseAt(pointCompactBuilt)
	s, err := openShadow(d, opts, hooks{hash: fixedHash, at: paused.hook})
	require.NoError(t, err)
	n := fillDisk(t, s, "old", 100)
	deletePercent(t, s, n/4, 50)
	compacted := make(chan error, 1)
	go func() {
		_, err := s.Compact(t.Context())
		compacted <- err
	}()
	<-paused.reached
	deleted := make(chan error, 1)
	go func() {
		for i := n / 4; i < n; i++ {
			if _, err := s.Delete("old" + idOf(i)); err != nil {
				deleted <- err
				return
			}
		}
		deleted <- nil
	}()
	for s.room.waiting.Load() == 0 && len(deleted) == 0 {
		runtime.Gosched()
	}
	require.Empty(t, deleted, "no deletion had to wait")
	close(paused.proceed)
	require.NoError(t, <-compacted)
	require.NoError(t, <-deleted)
	mustCompact(t, s)
	require.Positive(t, fillDisk(t, s, "new", 100))
	closeShadow(t, s, d)
}

// Goal: on a full disk lanes fill up what compactions left half empty, targets too, and a power loss and a
// kill leave what they promise of it.
func TestShrink_LanesResumeTargets(t *testing.T) {
	d := newShadow()
	s, half := halfFullTarget(t, d)
	records := half.records.Load()
	before := s.Stats().Writes.Bytes
	n := fillDisk(t, s, "new", 1000)
	require.Greater(t, half.records.Load(), records)
	require.Equal(t, int64(n)*int64(record.Size(len("new"+idOf(0)), 1000)), s.Stats().Writes.Bytes-before)
	require.NoError(t, s.Sync())
	want := contentsOf(t, s)
	_, err := s.Delete(idOf(0))
	require.NoError(t, err)
	lost, killed := d.Crash(nothingKept), d.Kill()
	now := contentsOf(t, s)
	closeShadow(t, s, d)
	s = shadowStore(t, lost, shadowOptions())
	require.Equal(t, want, contentsOf(t, s))
	closeShadow(t, s, lost)
	s = shadowStore(t, killed, shadowOptions())
	require.Equal(t, now, contentsOf(t, s))
	closeShadow(t, s, killed)
}

// halfFullTarget returns a store of one lane in a full d, and its segment with room, a target. The
// memories with even numbers below 300 are left.
func halfFullTarget(t *testing.T, d *shadow.FS) (s *Store, half *segment) {
	t.Helper()
	s = oneLaneStore(t, d)
	fill(t, s, 0, 300, 1000)
	deleteWhere(t, s, 0, 300, odd)
	mustCompact(t, s)
	require.NoError(t, s.Sync())
	for _, seg := range s.segments.all() {
		if seg.sealedEarly.Load() {
			half = seg
		}
	}
	require.NotNil(t, half)
	require.Equal(t, layout.KindTarget, half.kind)
	d.Budget = d.Used
	return s, half
}

// requireDurable checks that a power loss leaves all that s has, and closes it.
func requireDurable(t *testing.T, s *Store, d *shadow.FS) {
	t.Helper()
	want := contentsOf(t, s)
	lost := d.Crash(nothingKept)
	closeShadow(t, s, d)
	s = shadowStore(t, lost, shadowOptions())
	require.Equal(t, want, contentsOf(t, s))
	closeShadow(t, s, lost)
}

// Goal: a durable write to a segment that a lane has resumed survives a power loss: what the header on the disk said
// before, that the segment had ended, is gone with the same flush.
func TestShrink_DurableInResumedTarget(t *testing.T) {
	d := newShadow()
	s, half := halfFullTarget(t, d)
	s.opts.SyncWrites = true
	require.NoError(t, s.Put(idOf(0), contentOf(0, 1, 1000)))
	require.True(t, half.is(stateActive))
	require.NoError(t, s.Put(idOf(2), contentOf(2, 1, 1000)))
	requireDurable(t, s, d)
}

// Goal: a repair of a target that a lane has resumed takes no older version for one that was lost there: the
// header of the target knows nothing of what the lane added.
func TestShrink_ResumedTargetRepaired(t *testing.T) {
	d := newShadow()
	s, half := halfFullTarget(t, d)
	d.Budget = 0 // a version newer than all in the target, in a segment that the lane then fills up
	require.NoError(t, s.Put(idOf(0), contentOf(0, 1, 1000)))
	d.Budget = d.Used
	for i := 0; !half.is(stateActive); i++ {
		require.NoError(t, s.Put("more"+idOf(i), contentOf(i, 0, 1000)))
	}
	newer := contentOf(0, 2, 1000)
	require.NoError(t, s.Put(idOf(0), newer))
	require.NoError(t, s.Put(idOf(2), contentOf(2, 1, 1000)))
	require.Same(t, half, segmentOf(t, s, idOf(0)))
	killed := d.Kill()
	closeShadow(t, s, d)

	at := bytes.Index(killed.Files[half.name()].Current, newer)
	require.Positive(t, at)
	damageAt(killed, half.name(), at-1) // in its id
	killed.Budget = 0                   // a repair needs a segment
	opts := shadowOptions()
	opts.Repair = true
	s = shadowStore(t, killed, opts)
	_, err := s.Get(idOf(0))
	require.ErrorIs(t, err, ErrNotFound)
	got, err := s.Get(idOf(2))
	require.NoError(t, err)
	require.Equal(t, contentOf(2, 1, 1000), got)
	closeShadow(t, s, killed)
}

// Goal: a lane resumes no segment that a flush has yet to write to the header of: it would write that the
// segment ends where the lane goes on.
func TestShrink_ResumesWhatIsDurable(t *testing.T) {
	d := newShadow()
	s, half := halfFullTarget(t, d)
	require.NoError(t, s.Put(idOf(0), contentOf(0, 1, 1000)))
	require.True(t, half.is(stateActive))
	s.sealLanes(0)
	require.True(t, half.is(stateSealed))
	require.ErrorIs(t, s.Put(idOf(2), contentOf(2, 1, 1000)), ErrNoSpace)
	require.NoError(t, s.Sync())
	require.NoError(t, s.Put(idOf(2), contentOf(2, 1, 1000)))
	require.True(t, half.is(stateActive))
	require.NoError(t, s.Sync())
	requireDurable(t, s, d)
}

// Goal: a deletion leaves free space to what compactions need, without which nothing could be given back.
func TestShrink_DeletionsLeaveTargets(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	require.NoError(t, s.Put("a", nil))
	s.disk.spares.mu.Lock()
	require.NoError(t, s.disk.dropSpareLocked(targetSpare))
	s.disk.spares.mu.Unlock()
	d.Budget = d.Used + int64(s.opts.SegmentSize)
	_, err := s.disk.createFile("x", segmentSpec{kind: layout.KindLane, size: minSegmentSize, least: minSegmentSize})
	require.ErrorIs(t, err, ErrNoSpace)
	require.Equal(t, s.opts.SegmentSize, s.disk.spares.kept[targetSpare])
	closeShadow(t, s, d)
}

// Goal: a segment that a lane has resumed, old as its records are, does not keep tombstones needed as long as
// all its records are live.
func TestShrink_ResumedSegmentNeedsNoTombstones(t *testing.T) {
	d := newShadow()
	s, half := halfFullTarget(t, d)
	require.NoError(t, s.Put(idOf(0), contentOf(0, 1, 1000)))
	require.True(t, half.is(stateActive))
	d.Budget = 0
	for _, dead := range []bool{false, true} {
		if dead { // a record of it, and nobody knows which tombstones that needs
			_, err := s.Delete(idOf(298))
			require.NoError(t, err)
		}
		oldest := s.oldestDead(map[*segment]bool{segmentOf(t, s, idOf(2)): true})
		require.Equal(t, dead, oldest <= half.minSeq, "dead %v, oldest %d, lowest %d", dead, oldest, half.minSeq)
	}
	closeShadow(t, s, d)
}

// Goal: segments that hold little but tombstones are the last victims: a round would copy them, and give
// nothing back.
func TestShrink_TombstonesLast(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 120, 1000)
	s.sealLanes(0)
	deleteWhere(t, s, 0, 120, func(i int) bool { return i%10 == 0 })
	s.sealLanes(0)
	c := s.newCompaction(triggerManual)
	c.chooseVictims()
	c.end()
	require.Len(t, c.claimed, 3)
	for i, v := range c.claimed {
		require.Equal(t, i == 2, v.seg.tombstones.len() > 0, "victim %d", i)
	}
	closeShadow(t, s, d)
}

// Goal: the same on a real file system.
func TestShrink_FileSystem(t *testing.T) {
	for _, percent := range []int{10, 33, 75} {
		dir := t.TempDir()
		out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=7M", "tmpfs", dir).CombinedOutput()
		if err != nil {
			t.Skipf("a small file system cannot be mounted: %v: %s", err, bytes.TrimSpace(out))
		}
		t.Cleanup(func() { require.NoError(t, exec.Command("umount", "-l", dir).Run()) })
		s := openDir(t, filepath.Join(dir, "store"), shadowOptions())
		n := fillDisk(t, s, "old", 2000)
		deletePercent(t, s, n, percent)
		mustCompact(t, s)
		again := fillDisk(t, s, "new", 2000)
		require.GreaterOrEqual(t, again, n*percent/100*7/10)
		requireRest(t, s, n, percent, 2000)
		closeIntact(t, s)
	}
}

// Goal: a full disk with so many segments that a manifest takes as much as a segment shrinks: the first manifest after
// many segments takes the space of its spare and leaves next to none, since the one before was of an empty store.
func TestShrink_ManySegments(t *testing.T) {
	t.Parallel()
	const size, segments = 2000, 455 // so many that the spare is as small as it may be
	d := newShadow()
	d.Budget = segments * minSegmentSize
	s := shadowStore(t, d, shadowOptions())
	n := fillDisk(t, s, "old", size)
	require.Greater(t, s.Stats().Segments, segments*9/10)
	for percent := range 20 {
		d.Budget = d.Used // others have the rest
		for i := percent; i < n; i += 100 {
			existed, err := s.Delete("old" + idOf(i))
			require.NoError(t, err)
			require.True(t, existed)
		}
		if percent%5 == 4 {
			c, err := s.Compact(t.Context())
			require.NoError(t, err)
			require.Positive(t, c.FileBytesReclaimed)
		}
	}
	closeShadow(t, s, d)
}
