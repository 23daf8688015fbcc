package warmtier

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Space kept back, so that deletions and compactions go on when the disk is full: a file for the target
of a compaction, one for the tombstones of each lane, and one for a manifest. Whoever takes one
renames it. Nobody may take other space for a Put while one is missing: so what a compaction gives
back fills them up again before a writer that tries again and again can have it.
*/

// spares is how many files keep space back.
func (s *Store) spares() int { return 2 + len(s.lanes) }

// spareSize is the size of one of them when it is made, bytes.
func (s *Store) spareSize(i int) int {
	switch i {
	case targetSpare:
		return s.opts.SegmentSize
	case manifestSpare:
		return vm.RoundUp(layout.ManifestSize(2*s.segments.count()+2*manifestReserve), vm.PageSize)
	}
	return max(minSegmentSize, s.opts.SegmentSize/largeShare)
}

// keepsEnough reports whether spare i need not be made. That for a manifest grows with the store.
// REQUIRES: d.spaceMu held.
func (s *Store) keepsEnough(i int) bool {
	kept := s.disk.kept[i]
	return kept > 0 && (i != manifestSpare || kept >= layout.ManifestSize(s.segments.count()+manifestReserve))
}

// manifestReserve is how many segments a manifest may list beyond those in the table when its space is
// kept back: tombstones and targets that come when the disk is full.
const manifestReserve = 64

// Numbers of spares; from laneSpares on they are for tombstones.
const (
	targetSpare   = 0
	manifestSpare = 1
	laneSpares    = 2
)

func spareFileName(i int) string { return fmt.Sprintf("%s.%d", layout.SpareName, i) }

// reserveFile makes a file for a segment. On a full disk one may be made of space kept back, but not for
// a Put: that gets none before everything is kept back.
func (s *Store) reserveFile(name string, spec segmentSpec) (file dir.File, spare bool, err error) {
	d := s.disk
	if spec.least == 0 {
		return s.reserveForPut(name, spec.size)
	}
	d.spaceMu.RLock()
	file, err = d.fs.Create(name, spec.size)
	d.spaceMu.RUnlock()
	if !errors.Is(err, ErrNoSpace) {
		return file, false, err
	}
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	file, failed := s.takeSpareLocked(name, spec)
	if file == nil {
		return nil, false, errors.Join(err, failed)
	}
	return file, true, nil
}

func (s *Store) reserveForPut(name string, size int) (file dir.File, spare bool, err error) {
	d := s.disk
	d.spaceMu.RLock()
	complete := true
	for i := range d.kept {
		complete = complete && s.keepsEnough(i)
	}
	if complete {
		file, err = d.fs.Create(name, size)
	}
	d.spaceMu.RUnlock()
	if complete {
		return file, false, err
	}
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	if err := s.refillLocked(); err != nil {
		return nil, false, fmt.Errorf("space for deletions and compactions comes first: %w", err)
	}
	file, err = d.fs.Create(name, size)
	return file, false, err
}

// takeSpareLocked makes space kept back the file name, nil when none of it will do; then err says why,
// unless there just is none. REQUIRES: d.spaceMu held for writing.
func (s *Store) takeSpareLocked(name string, spec segmentSpec) (_ dir.File, err error) {
	d := s.disk
	from, to := targetSpare, targetSpare+1
	if spec.kind == layout.KindLane {
		from, to = laneSpares, s.spares()
	}
	for i := from; i < to; i++ {
		size := d.kept[i]
		if size < spec.least {
			continue
		}
		failed := d.fs.Rename(spareFileName(i), name)
		if failed == nil || errors.Is(failed, fs.ErrNotExist) {
			d.kept[i] = 0
		}
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		file, failed := d.fs.Open(name, true)
		if failed == nil && len(file.Bytes()) == size {
			return file, nil
		}
		if failed == nil {
			failed = file.Close()
		}
		err = errors.Join(err, failed, d.fs.Remove(name))
	}
	return nil, err
}

// keepSpares keeps space back for the next time the disk is full, if it can and has none. REQUIRES: no
// lock held.
func (s *Store) keepSpares() {
	s.disk.spaceMu.Lock()
	err := s.refillLocked()
	s.disk.spaceMu.Unlock()
	s.warn("no space could be kept back for deletions and compactions", err)
}

// refillLocked makes the spares that are missing or too small. REQUIRES: d.spaceMu held for writing.
func (s *Store) refillLocked() (err error) {
	d := s.disk
	for i := range d.kept {
		if s.keepsEnough(i) {
			continue
		}
		size, before := s.spareSize(i), d.kept[i]
		if failed := s.dropSpareLocked(i); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		failed := s.makeSpareLocked(i, size)
		if failed != nil && before > 0 { // what there was is better than nothing
			failed = errors.Join(failed, s.makeSpareLocked(i, before))
		}
		err = errors.Join(err, failed)
	}
	return err
}

// dropSpareLocked gives free what spare i keeps back. REQUIRES: d.spaceMu held for writing.
func (s *Store) dropSpareLocked(i int) error {
	d := s.disk
	if d.kept[i] == 0 {
		return nil
	}
	if err := d.fs.Remove(spareFileName(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.kept[i] = 0
	return nil
}

func (s *Store) makeSpareLocked(i, size int) error {
	file, err := s.disk.fs.Create(spareFileName(i), size)
	if err == nil {
		err = file.Close()
		s.disk.kept[i] = size
	}
	return err
}

// writeFromSpares is writeFile with space kept back.
func (s *Store) writeFromSpares(name string, data []byte) (err error) {
	d := s.disk
	d.spaceMu.Lock()
	defer d.spaceMu.Unlock()
	err = ErrNoSpace
	for _, i := range []int{manifestSpare, targetSpare} {
		if d.kept[i] == 0 {
			continue
		}
		if failed := s.dropSpareLocked(i); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if err = d.fs.WriteFile(name, data); !errors.Is(err, ErrNoSpace) {
			break
		}
	}
	return err
}
