package warmtier

import (
	"errors"
	"fmt"

	"github.com/warmtier/warmtier/internal/layout"
)

// listSegments writes a manifest when a segment has come that the last one does not list.
func (s *Store) listSegments() error {
	d := s.disk
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	m := s.snapshotManifest(nil, nil)
	for _, id := range m.Listed {
		if !d.listed[id] {
			// The names of the new files first: the manifest says that they exist.
			if err := d.fs.Sync(); err != nil {
				return err
			}
			_, err := s.writeManifest(m)
			return err
		}
	}
	return nil
}

// snapshotManifest says which segments make up the store: the committed ones in the table, with
// those of joining and without those of leaving.
func (s *Store) snapshotManifest(leaving, joining []*segment) layout.Manifest {
	skip := map[*segment]bool{}
	for _, seg := range leaving {
		skip[seg] = true
	}
	t := &s.segments
	t.mu.Lock() // segments are published, and ids pending, under it
	defer t.mu.Unlock()
	m := layout.Manifest{Store: s.disk.store, Boot: s.disk.boot, Next: t.lastID + 1}
	for id := range t.pending {
		m.Pending = append(m.Pending, id)
	}
	for _, seg := range t.all() {
		switch {
		case skip[seg] || !seg.committed.Load():
		case seg.durable.Load():
			m.Listed = append(m.Listed, seg.id)
		default: // a power loss may leave nothing of it, not even its header
			m.Pending = append(m.Pending, seg.id)
		}
	}
	for _, seg := range joining {
		m.Listed = append(m.Listed, seg.id)
	}
	return m
}

// writeManifest replaces the manifest. renamed says whether the new one may be in force: after an
// error behind the rename nobody knows. REQUIRES: d.manifestMu held.
func (s *Store) writeManifest(m layout.Manifest) (renamed bool, err error) {
	d := s.disk
	err = d.fs.WriteFile(layout.ManifestTempName, m.Encode())
	if errors.Is(err, ErrNoSpace) { // what is kept back has room for it, and it gives as much back
		err = s.writeFromSpares(layout.ManifestTempName, m.Encode())
		defer func() {
			d.spaceMu.Lock()
			defer d.spaceMu.Unlock()
			_ = s.refillLocked() // whoever needs it most tries again, and says so
		}()
	}
	if err != nil {
		return false, err
	}
	_ = s.hooks.fire(pointManifestTemp)
	if err := d.fs.SyncFile(layout.ManifestTempName); err != nil {
		return false, err
	}
	if err := s.hooks.fire(pointManifestWritten); err != nil {
		return false, err
	}
	if err := d.fs.Rename(layout.ManifestTempName, layout.ManifestName); err != nil {
		return false, err
	}
	if err := s.hooks.fire(pointManifestRenamed); err != nil {
		return true, err
	}
	if err := d.fs.Sync(); err != nil {
		return true, err
	}
	_ = s.hooks.fire(pointManifestSynced)
	d.listed = make(map[uint64]bool, len(m.Listed))
	for _, id := range m.Listed {
		d.listed[id] = true
	}
	return true, nil
}

// commitTargets makes a round durable: from here on its targets count, and leaving does not. After an
// error the round has to be undone. Where uncertain is true, nobody knows which manifest a power loss
// would leave: the store takes no more writes, and the files of both sides must stay.
func (s *Store) commitTargets(leaving, targets []*segment) (uncertain bool, err error) {
	d := s.disk
	if d == nil {
		return false, nil
	}
	// What superseded the records that go with leaving must be durable first: else a power loss could
	// leave neither version.
	if err := s.flush(); err != nil {
		return false, err
	}
	for _, target := range targets {
		if err := s.flushTarget(target); err != nil {
			return false, s.fail(fmt.Errorf("%s: %w", target.name(), err))
		}
	}
	_ = s.hooks.fire(pointTargetsFlushed)
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	// What the manifest lists first, the names of it second: other segments may come between.
	m := s.snapshotManifest(leaving, targets)
	if err := d.fs.Sync(); err != nil {
		return false, s.fail(err)
	}
	if renamed, err := s.writeManifest(m); err != nil {
		if renamed {
			err = s.fail(err)
		}
		return renamed, err
	}
	for _, target := range targets {
		target.committed.Store(true)
	}
	// Still in the table, but no manifest may list them again.
	for _, seg := range leaving {
		seg.committed.Store(false)
	}
	return false, nil
}

// flushTarget makes a full target durable. Its state goes with the records: a target counts only once
// a manifest lists it.
func (s *Store) flushTarget(target *segment) (err error) {
	defer s.catchFault(armFaults(), &err)
	e := target.extent()
	target.writeState(e, true)
	if err := target.syncRecords(e); err != nil {
		return err
	}
	target.synced.Store(e.tail)
	target.durable.Store(true)
	target.sealedInFile.Store(true)
	return nil
}
