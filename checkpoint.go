package warmtier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
A checkpoint is a second directory with the files of the store as they were at one moment: hard links, which cost
no space and no copying. What makes that sound is that a segment's file is not written to any more once it is sealed,
durable, and its header says so. From its second name on that holds for good, in both directories
(fileState.linked).

	resuming  ends: no lane gets a sealed segment back while a checkpoint is under way (segmentTable.linking)
	flush     of everything, as Sync; then what is sealed and durable is linked already, with no lock held
	ahead     each lane that is in use gets its next segment made, so that no call waits for one after the moment
	moment    with the locks of all lanes held, each active segment is sealed. The numbers of the next segment
	          and of the last record are read. No flush runs, and manifestMu is held: no round, sweep or
	          Clear takes effect between this and the last link, so what counts at the moment stays
	flush     of what was sealed, with its header
	links     of the rest; those of segments that have left the store before the moment are removed again
	manifest  of the second directory, as that of a Close: it lists each file with its end

A kill or a power loss on the way leaves a manifest that says so (layout.Manifest.Unfinished), which is
durable before the first link: a directory with some of the files is never taken for a store. A kill before that
leaves an empty directory with a lock. docs/design.md, section 15, has the interleavings.
*/

// Checkpoint makes dir a copy of the store as it is at one moment within the call: a directory that opens as a
// store of its own, now or later, while this one goes on. It takes no space beside its manifest: the files are hard
// links, and each stays until both stores have given it up. So dir must be on the file system of the store; to have
// the copy elsewhere, copy dir, which nobody writes to, with any tool.
//
// The copy has every write that returned before Checkpoint was called, durably, and none that began after it has
// returned; batches whole; and with each write all those that had returned before that one began. Versions go on
// from those of the moment, in both.
//
// dir is made, with what is missing above it, and must be empty otherwise. It is locked meanwhile, as by Open. When
// an error is returned nothing of it stays. After a crash on the way dir does not open, and is to be removed; or it
// has nothing but a lock file yet, and is to any Open, or a Checkpoint, an empty directory.
//
// Calls wait for it no longer than for another call, about as long as it takes to lock each lane; with SyncWrites, for
// a flush. Each lane begins a new segment after it, for which the disk needs space. One checkpoint at a time is
// made, and a second call waits. It panics when ctx is nil.
//
// Errors: one that is [errors.ErrUnsupported] for a store in memory, which [Store.Export] writes; [ErrReadOnly];
// [ErrClosed]; [ErrLocked] when another store has dir; one that is [fs.ErrExist] when dir is not empty; ctx's error
// with its cause; [ErrNoSpace]; [ErrSyncFailed]; and those of the file system, one that is [syscall.EXDEV] when dir
// is on another one.
func (s *Store) Checkpoint(ctx context.Context, dir string) error {
	checkContext(ctx)
	if err := s.checkpoint(ctx, dir); err != nil {
		return fmt.Errorf("warmtier: checkpoint %s: %w", dir, inner{err})
	}
	return nil
}

// checkpoint is Checkpoint without the name in its errors.
func (s *Store) checkpoint(ctx context.Context, path string) error {
	switch {
	case s.disk == nil:
		return fmt.Errorf("a store in memory has no files: %w", errors.ErrUnsupported)
	case s.opts.ReadOnly:
		return ErrReadOnly
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	select {
	case s.disk.checkpointing <- struct{}{}:
		defer func() { <-s.disk.checkpointing }()
	case <-ctx.Done():
	}
	if stopped(ctx) != nil {
		return s.whyStopped(ctx, errStopped)
	}
	return s.checkpointTo(ctx, path)
}

// checkpointTo makes the directory of a checkpoint, and removes it when the checkpoint fails.
func (s *Store) checkpointTo(ctx context.Context, path string) error {
	start := time.Now()
	to, made, err := s.claimEmpty(path)
	if err != nil {
		return err
	}
	segments, err := s.disk.checkpoint(ctx, to)
	if err != nil {
		err = errors.Join(s.whyStopped(ctx, err), to.Remove(layout.LockName))
		for _, path := range made {
			err = errors.Join(err, os.Remove(path))
		}
	}
	if err = errors.Join(err, to.Close()); err == nil {
		s.opts.Logger.Info("checkpoint made", "dir", path, "segments", segments, "duration", time.Since(start))
	}
	return err
}

// claimEmpty makes the directory at path, unless it is there and empty, opens and locks it. made are the paths of
// the directories that it has made, the lowest first.
//
// That it is empty counts once it is locked: another checkpoint to the same path may have been finished since the first
// look, and its manifest would be written over. The first look is for the sake of those who use it: nothing is made in
// a directory that is theirs.
func (s *Store) claimEmpty(path string) (to *dir.OS, made []string, err error) {
	if path == "" {
		return nil, nil, fmt.Errorf("no directory is named: %w", fs.ErrInvalid)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(abs)
	if errors.Is(err, fs.ErrNotExist) {
		made, err = dir.Make(abs, dir.SyncPath)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	if err == nil {
		err = requireEmpty(names)
	}
	if err == nil {
		_ = s.hooks.fire(pointCheckpointLooked)
		to, err = s.claimDirectory(abs)
	}
	if err == nil {
		if names, err = to.Names(); err == nil {
			err = requireEmpty(names)
		}
		if err == nil {
			return to, made, nil
		}
		err = errors.Join(err, to.Close())
	}
	for _, path := range made {
		if !errors.Is(err, ErrLocked) { // somebody is about to fill it
			_ = os.Remove(path) // if there is nothing in it
		}
	}
	return nil, nil, err
}

// requireEmpty returns an error for a directory with anything in it but the lock that a crash has left.
func requireEmpty(names []string) error {
	for _, name := range names {
		if name != layout.LockName {
			return fmt.Errorf("the directory is not empty, it has %s: %w", name, fs.ErrExist)
		}
	}
	return nil
}

// checkpoint is a checkpoint in the making.
type checkpoint struct {
	d      *disk
	to     dir.FS
	linked map[*segment]bool // in to; whether it had a second name before
	sealed []sealedLane      // at the moment
}

// checkpoint makes a checkpoint in to, an empty directory, and returns how many segments are in it. After an error to
// is empty again.
func (d *disk) checkpoint(ctx context.Context, to dir.FS) (segments int, err error) {
	c := &checkpoint{d: d, to: to, linked: map[*segment]bool{}}
	d.s.stopResuming()
	finished := false
	defer func() { // a hook may panic
		if !finished {
			err = errors.Join(err, c.undo())
		}
		d.s.segments.linking.Store(false)
		if !finished {
			d.s.unsealLanes(c.sealed)
		}
		d.s.endAhead()
	}()
	if err := c.make(ctx); err != nil {
		if !errors.Is(err, errStopped) {
			err = noSpace(err)
		}
		return 0, err
	}
	finished = true
	return len(c.linked), nil
}

// stopResuming makes lanes leave sealed segments alone from here on. Whoever has a lane's rolling when it is called
// has resumed one, if any, when it returns.
func (s *Store) stopResuming() {
	s.segments.linking.Store(true)
	for i := range s.lanes {
		s.lanes[i].awaitRolling()
	}
}

// awaitRolling returns when nobody has rolling who had it at the call.
func (ln *lane) awaitRolling() {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
}

// make takes the steps of a checkpoint.
func (c *checkpoint) make(ctx context.Context) error {
	m := layout.Manifest{Store: c.d.store, Unfinished: true}
	if err := c.to.WriteFile(layout.ManifestName, m.Encode()); err != nil {
		return err
	}
	if err := errors.Join(c.to.SyncFile(layout.ManifestName), c.to.Sync()); err != nil {
		return err
	}
	if err := c.d.sync(); err != nil {
		return err
	}
	if err := c.linkSealed(ctx); err != nil {
		return err
	}
	m, err := c.cut(ctx)
	if err != nil {
		return err
	}
	_ = c.d.s.hooks.fire(pointCheckpointWhole)
	return c.finish(ctx, &m)
}

// linkSealed links what is sealed and durable. Segments may leave the store meanwhile.
func (c *checkpoint) linkSealed(ctx context.Context) error {
	for _, seg := range c.d.s.segments.all() {
		if err := stopped(ctx); err != nil {
			return err
		}
		if !c.d.pinFlushed(seg) {
			continue
		}
		_ = c.d.s.hooks.fire(pointCheckpointPinned)
		err := c.d.settleState(seg)
		if err == nil {
			err = c.link(seg)
		}
		c.d.s.unpin(seg)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has left, or the moment will find the same
			return err
		}
		_ = c.d.s.hooks.fire(pointCheckpointLinked)
	}
	return nil
}

// pinFlushed pins seg if it is in the table, committed, sealed, and no flush has anything to do in it.
func (d *disk) pinFlushed(seg *segment) bool {
	defer d.s.contentMu.RUnlock(d.s.contentMu.RLock())
	if d.s.segments.at(seg.index) != seg || !seg.inFile.committed.Load() || !seg.is(stateSealed) || seg.isDirty() {
		return false
	}
	seg.pin()
	return true
}

// settleState makes durable what the last flush of seg wrote into its header. A segment may have left the store since
// it was pinned, and its file, which cannot be synced then: nothing in it has to be durable any more. REQUIRES: seg is
// sealed and clean, and no lane resumes it.
func (d *disk) settleState(seg *segment) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	if !seg.inFile.stateUnsynced.Load() {
		return nil
	}
	if err := seg.syncHeader(); err != nil {
		err = fmt.Errorf("%s: %w", seg.name(), err)
		if !seg.inFile.committed.Load() {
			return err
		}
		return d.s.failSync(err)
	}
	seg.inFile.stateUnsynced.Store(false)
	return nil
}

// link gives the file of seg its second name. REQUIRES: it is sealed and durable, header included, and no lane resumes
// it.
func (c *checkpoint) link(seg *segment) error {
	if _, there := c.linked[seg]; there {
		return nil
	}
	err := c.d.fs.Link(seg.name(), c.to)
	if errors.Is(err, syscall.EXDEV) {
		err = fmt.Errorf("%w: it has to be on the file system of the store, from where it can be copied to another one", err)
	}
	if err == nil {
		c.linked[seg] = seg.inFile.linked.Swap(true)
	}
	return err
}

// cut chooses the moment, links what counts at it, and returns its manifest.
func (c *checkpoint) cut(ctx context.Context) (m layout.Manifest, err error) {
	d := c.d
	defer d.holdFlushes()()
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.s.failedSync(); err != nil { // of a commit: which manifest is in force is unknown
		return m, err
	}
	ahead := d.s.rollAhead()
	_ = d.s.hooks.fire(pointCheckpointAhead)
	m, without := c.seal(ahead)
	_ = d.s.hooks.fire(pointCheckpointSealed)
	counting := map[*segment]bool{}
	for _, seg := range d.s.segments.all() {
		if !seg.inFile.committed.Load() || seg.id >= m.Next || without[seg.id] {
			continue
		}
		if err := stopped(ctx); err != nil {
			return m, err
		}
		if err := c.flush(seg); err != nil {
			return m, err
		}
		if err := c.link(seg); err != nil {
			return m, err
		}
		counting[seg] = true
		m.Listed = append(m.Listed, seg.listing())
	}
	for seg := range c.linked {
		if counting[seg] {
			continue
		}
		if err := c.to.Remove(seg.name()); err != nil {
			return m, err
		}
		delete(c.linked, seg)
	}
	return m, nil
}

// seal seals the active segments that hold a record, all at one moment, and returns a manifest of that moment that
// lists nothing, and the ids below its next one of segments that have nothing to do with it: nobody had written to
// them. ahead are the ids of the segments made for the lanes to go on in: they come after the moment, so the next id
// is the first of them, as long as nothing else has drawn one since. REQUIRES: manifestMu held, no flush under way.
func (c *checkpoint) seal(ahead []uint64) (m layout.Manifest, without map[uint64]bool) {
	s := c.d.s
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	for i := range s.lanes {
		s.lanes[i].mu.LockNth(i)
		defer s.lanes[i].mu.Unlock()
		_ = s.hooks.fire(pointCheckpointLocked)
	}
	m, without = c.d.newManifest()
	if areLast(ahead, m.Next, without) {
		m.Next = ahead[0]
	}
	for i := range s.lanes {
		ln := &s.lanes[i]
		switch seg := ln.active; {
		case seg == nil:
		case seg.recordBytes() == 0:
			without[seg.id] = true
		default:
			s.sealActiveLocked(ln, seg.isMergeable())
			c.sealed = append(c.sealed, sealedLane{ln, seg})
		}
	}
	m.Generation-- // it is of the one in force: what was made under it, and is not listed, is newer
	m.Closed, m.Hint, m.Pending = true, 0, nil
	return m, without
}

// flush makes all of seg durable, and its header say so. REQUIRES: it is sealed and committed, holdFlushes.
func (c *checkpoint) flush(seg *segment) error {
	if seg.isDirty() {
		if err := c.d.flushSegment(dirtySegment{seg: seg, extent: seg.extent(), sealed: true}, true); err != nil {
			return c.d.s.failSync(fmt.Errorf("%s: %w", seg.name(), err))
		}
	}
	return c.d.settleState(seg)
}

// finish writes the manifest that makes a store of the directory.
func (c *checkpoint) finish(ctx context.Context, m *layout.Manifest) error {
	if err := c.to.Sync(); err != nil { // the names first: the manifest says that they exist
		return err
	}
	if err := c.to.WriteFile(layout.ManifestTempName, nil); err != nil {
		return err
	}
	file, err := c.to.StatFile(layout.ManifestTempName)
	if err != nil {
		return err
	}
	here, err := c.to.Stat()
	if err != nil {
		return err
	}
	m.File, m.Directory = file.ID, here.ID
	if err := c.to.WriteFile(layout.ManifestTempName, m.Encode()); err != nil {
		return err
	}
	if err := c.to.SyncFile(layout.ManifestTempName); err != nil {
		return err
	}
	if err := stopped(ctx); err != nil {
		return err
	}
	if err := c.to.Rename(layout.ManifestTempName, layout.ManifestName); err != nil {
		return err
	}
	_ = c.d.s.hooks.fire(pointCheckpointListed)
	return c.to.Sync()
}

// undo removes what was made in the directory, durably. What could not be removed stays linked, and is not written to:
// after a power loss names may be there again, and the manifest that says that the checkpoint is finished.
func (c *checkpoint) undo() (err error) {
	remove := func(name string) bool {
		failed := c.to.Remove(name)
		if errors.Is(failed, fs.ErrNotExist) {
			return true
		}
		err = errors.Join(err, failed)
		return failed == nil
	}
	var removed []*segment
	for seg := range c.linked {
		if remove(seg.name()) {
			removed = append(removed, seg)
		}
	}
	remove(layout.ManifestTempName)
	remove(layout.ManifestName)
	if failed := c.to.Sync(); failed != nil {
		return errors.Join(err, failed)
	}
	for _, seg := range removed {
		seg.inFile.linked.Store(c.linked[seg])
	}
	return err
}
