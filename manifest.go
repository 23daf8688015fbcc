package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
The manifest says which segments make up the store. It names

	listed   segments that are durable: a missing one is damage;
	pending  segments that a lane is making, or that no flush has synced: a power loss may leave
	         nothing of them, and they count where they are there;
	next     the id from which on every segment of a lane counts: it was made after this manifest.

Of each listed segment it knows how much was durable, and which file it is; of itself, which Open wrote it and
how many manifests of that Open came before. The manifest of a clean Close says that nothing was
written since (docs/design.md, section 15, "Copies").

A file that is none of these is a leftover. Replacing the manifest is: write the new one under another
name, sync it, rename it, sync the directory. The rename is the atomic step.
*/

// listSegments writes a manifest if a durable segment has come that the newest one does not list.
func (d *disk) listSegments() error {
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	// The sync of the directory in a commit may have failed while this flush waited for it. The system may
	// report that once, and succeed here without having made the names durable.
	if err := d.s.failedSync(); err != nil {
		return err
	}
	m := d.snapshotManifest(nil, nil)
	for _, l := range m.Listed {
		if !d.listed[l.ID] {
			// The names of the new files first: the manifest says that they exist.
			if err := d.fs.Sync(); err != nil {
				return err
			}
			_, err := d.writeManifest(m)
			return err
		}
	}
	return nil
}

// snapshotManifest returns a manifest of the committed segments in the table, with joining and
// without leaving. REQUIRES: d.manifestMu held.
//
// The table is walked with no lock held, since lanes that roll would wait. Ids come first: a segment
// that is published in between is named as pending or has a higher id than next. In the opposite
// order it would be neither, and in no list: a leftover. A segment that leaves in between is
// committed no longer, and becomes so with manifestMu held.
func (d *disk) snapshotManifest(leaving, joining []*segment) layout.Manifest {
	skip := map[*segment]bool{}
	for _, seg := range leaving {
		skip[seg] = true
	}
	m, pending := d.newManifest()
	for _, seg := range d.s.segments.all() {
		switch {
		case skip[seg] || !seg.inFile.committed.Load():
		case pending[seg.id] || seg.id >= m.Next: // published since
		case seg.inFile.durable.Load():
			m.Listed = append(m.Listed, seg.listing())
		default: // a power loss may leave nothing of it, not even its header
			m.Pending = append(m.Pending, seg.id)
		}
	}
	for _, seg := range joining {
		m.Listed = append(m.Listed, seg.listing())
	}
	return m
}

// newManifest returns a manifest that lists nothing, and the ids that were pending. REQUIRES: d.manifestMu held.
func (d *disk) newManifest() (m layout.Manifest, pending map[uint64]bool) {
	next, pending := d.s.segments.numbers()
	_ = d.s.hooks.fire(pointManifestNumbered)
	return layout.Manifest{
		Store: d.store, Cache: d.boot, Open: d.open, Generation: d.generation + 1, Hint: d.trueHint,
		Directory: d.directory, Clock: d.s.clock.now(), MaxSeq: d.s.sequence.Load(),
		Next: next, Pending: slices.Collect(maps.Keys(pending)),
	}, pending
}

// listing returns what a manifest says of seg. A flush may be under way: the two numbers need not be of the
// same one, and what they say is durable.
func (seg *segment) listing() layout.ListedSegment {
	return layout.ListedSegment{
		ID: seg.id, Salt: seg.salt, File: seg.file.Stat().ID,
		End: uint64(seg.inFile.synced.Load()), Records: uint32(seg.inFile.syncedRecords.Load()),
	}
}

// closeManifest writes the manifest of a clean Close. REQUIRES: every segment is sealed and durable, with the
// state in its header, and nobody else uses the store.
func (d *disk) closeManifest() error {
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	d.trueHint = d.open
	m := d.snapshotManifest(nil, nil)
	m.Closed = true
	if _, err := d.writeManifest(m); err != nil {
		return d.s.failSync(fmt.Errorf("the store could not be noted as closed: %w", err))
	}
	return nil
}

// writeManifest replaces the manifest. renamed says whether the new one may be in force: after an
// error that follows the rename nobody knows. An error that is dir.ErrUnsynced lost nothing that was
// durable before, and another manifest may follow. REQUIRES: d.manifestMu held.
func (d *disk) writeManifest(m layout.Manifest) (renamed bool, err error) {
	fromSpares, err := d.prepareManifest(&m)
	if fromSpares { // it gives as much back
		defer func() {
			d.spares.mu.Lock()
			defer d.spares.mu.Unlock()
			_ = d.refillLocked(len(d.spares.kept)) // the next Put that needs a file tries again, and says so
		}()
	}
	if err != nil {
		return false, err
	}
	if err := d.renameManifest(m); err != nil {
		return false, err
	}
	return true, d.settleManifest(m)
}

// prepareManifest writes m under its temporary name, durably. fromSpares says that it took space that is kept
// back. REQUIRES: d.manifestMu held.
func (d *disk) prepareManifest(m *layout.Manifest) (fromSpares bool, err error) {
	if m.File, err = d.newManifestFile(); err == nil {
		err = d.fs.WriteFile(layout.ManifestTempName, m.Encode())
	}
	if fromSpares = errors.Is(err, ErrNoSpace); fromSpares { // what is kept back has room for it
		err = d.writeFromSpares(layout.ManifestTempName, m.Encode())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // that says that the directory was removed
		err = fmt.Errorf("%w: %w", dir.ErrUnsynced, err) // the next attempt writes all of it again
	}
	if err != nil {
		return fromSpares, err
	}
	_ = d.s.hooks.fire(pointManifestTemp)
	if err := d.fs.SyncFile(layout.ManifestTempName); err != nil {
		return fromSpares, err
	}
	return fromSpares, d.s.hooks.fire(pointManifestWritten)
}

// renameManifest puts m, which was prepared, in force as far as a kill is concerned. An error that is
// dir.ErrUnsynced says that it has not. REQUIRES: d.manifestMu held.
func (d *disk) renameManifest(m layout.Manifest) error {
	if err := d.fs.Rename(layout.ManifestTempName, layout.ManifestName); err != nil {
		if dir.IsLack(err) { // and so it was not begun
			err = fmt.Errorf("%w: %w", dir.ErrUnsynced, err)
		}
		return err
	}
	d.generation = m.Generation
	size := layout.ManifestSize(len(m.Listed) + len(m.Pending))
	d.spares.manifest.Store(int64(vm.RoundUp(size, vm.PageSize)))
	return nil
}

// settleManifest makes it durable that m, which was renamed, is in force. REQUIRES: d.manifestMu held.
func (d *disk) settleManifest(m layout.Manifest) error {
	if err := d.s.hooks.fire(pointManifestRenamed); err != nil {
		return err
	}
	if err := d.fs.Sync(); err != nil {
		return err
	}
	_ = d.s.hooks.fire(pointManifestSynced)
	d.inForce.Store(m.Generation)
	d.listed = make(map[uint64]bool, len(m.Listed))
	for _, l := range m.Listed {
		d.listed[l.ID] = true
	}
	return nil
}

// newManifestFile makes the file that a manifest is written to, or empties the one that a crash has left, and returns
// its id.
func (d *disk) newManifestFile() (id uint64, err error) {
	if err := d.withName(func() error { return d.fs.WriteFile(layout.ManifestTempName, nil) }); err != nil {
		return 0, err
	}
	st, err := d.fs.StatFile(layout.ManifestTempName)
	return st.ID, err
}

// commit flushes everything, the targets too, and replaces the manifest: after the rename its
// targets count and leaving does not (docs/design.md, section 15, "The durable commit of a round").
func (d *disk) commit(leaving, targets []*segment) (uncertain bool, err error) {
	// What superseded the records that go with leaving must be durable first: otherwise a power
	// loss could leave neither version.
	if err := d.sync(); err != nil {
		return false, err
	}
	for _, target := range targets {
		if err := d.flushTarget(target); err != nil {
			return false, d.s.failSync(fmt.Errorf("%s: %w", target.name(), err))
		}
	}
	_ = d.s.hooks.fire(pointTargetsFlushed)
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.s.failedSync(); err != nil { // of a Clear, since the flush: as in listSegments
		return false, err
	}
	for _, target := range targets { // what is in them must not come back
		if d.s.segments.isCleared(target) {
			return false, errCleared
		}
	}
	// First the snapshot, then the sync of the names in it: other segments may come between.
	m := d.snapshotManifest(leaving, targets)
	if err := d.fs.Sync(); err != nil {
		return false, d.s.failSync(err)
	}
	if renamed, err := d.writeManifest(m); err != nil {
		if renamed {
			err = d.s.fail(err)
		}
		return renamed, err
	}
	for _, target := range targets {
		target.inFile.committed.Store(true)
	}
	// Still in the table, but no manifest may list them again.
	for _, seg := range leaving {
		seg.inFile.committed.Store(false)
	}
	return false, nil
}

// flushTarget makes a full target durable. Its state goes with the records, unlike that of a lane's
// segment: a target counts only once a manifest lists it.
func (d *disk) flushTarget(target *segment) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	e := target.extent()
	target.writeState(e, true)
	if err := target.syncRecords(e); err != nil {
		return err
	}
	target.inFile.flushed(e, true)
	return nil
}
