package warmtier

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
What takes the space that spares keep back: on a full disk a file for a target or for tombstones, a manifest, and names.
*/

// reserveFile makes a file for a segment. On a full disk a spare may become that file, which spare
// says; for a Put, whose spec has no least, none may.
func (d *disk) reserveFile(name string, spec segmentSpec) (file dir.File, spare bool, err error) {
	file, err = d.createFile(name, spec)
	if spec.least == 0 || !errors.Is(err, ErrNoSpace) {
		return file, false, err
	}
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	file, failed := d.takeSpareLocked(name, spec)
	if file == nil {
		return nil, false, errors.Join(err, failed)
	}
	d.s.mapper.adopt(len(file.Bytes())) // the budget of lanes leaves room for all spares
	return file, true, nil
}

// createFile makes a file for a segment of free space, within the budget.
func (d *disk) createFile(name string, spec segmentSpec) (file dir.File, err error) {
	if err := d.s.mapper.claim(spec.size); err != nil {
		return nil, err
	}
	switch {
	case spec.least == 0:
		if err = roomFor(1); err == nil {
			file, err = d.createAfter(len(d.spares.kept), name, spec)
		}
	case spec.kind == layout.KindLane: // for tombstones
		file, err = d.createAfter(laneSpares, name, spec)
	default:
		file, err = d.createAfter(0, name, spec)
	}
	if err != nil {
		d.s.mapper.forget(spec.size)
	}
	return file, err
}

// createAfter makes a file of free space once the first n spares are there: what others need more comes
// first. A Put leaves all of them, and a deletion those of a compaction, without which no space could be made.
// Before a lane gets a larger segment than there was, spares grow with it.
func (d *disk) createAfter(n int, name string, spec segmentSpec) (file dir.File, err error) {
	grows := spec.kind == layout.KindLane && !spec.large
	d.spares.mu.RLock()
	complete := d.keepsAllLocked(n) && (!grows || spec.size <= d.spares.size)
	if complete {
		file, err = d.fs.Create(name, spec.size)
	}
	d.spares.mu.RUnlock()
	if complete {
		return file, err
	}
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	if err := d.refillLocked(n); err != nil {
		return nil, fmt.Errorf("space for deletions and compactions comes first: %w", err)
	}
	if grows {
		if err := d.growLocked(spec.size); err != nil {
			return nil, fmt.Errorf("more space for compactions comes first: %w", err)
		}
	}
	return d.fs.Create(name, spec.size)
}

// takeSpareLocked makes a spare of spec's kind that is large enough the file of this name, and maps it. file is
// nil when none would do; then err says why, unless there is none at all. REQUIRES: d.spares.mu
// held for writing.
func (d *disk) takeSpareLocked(name string, spec segmentSpec) (file dir.File, err error) {
	if spec.kind == layout.KindTarget {
		if rest := d.spares.kept[targetSpare] - spec.size; rest > 0 {
			return d.takePartLocked(name, spec.size, rest)
		}
		return d.takeWholeLocked(targetSpare, name, spec)
	}
	for i := laneSpares; i < len(d.spares.kept) && file == nil; i++ {
		var failed error
		file, failed = d.takeWholeLocked(i, name, spec)
		err = errors.Join(err, failed)
	}
	return file, err
}

// takeWholeLocked is takeSpareLocked of spare i, which it renames. REQUIRES: as takeSpareLocked.
func (d *disk) takeWholeLocked(i int, name string, spec segmentSpec) (dir.File, error) {
	size := d.spares.kept[i]
	if size < spec.least {
		return nil, nil
	}
	err := d.withNameLocked(func() error { return d.fs.Rename(spareFileName(i), name) })
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		d.spares.kept[i] = 0
	}
	if err != nil {
		return nil, err
	}
	file, err := d.fs.Open(name, true)
	if err == nil && len(file.Bytes()) == size {
		return file, nil
	}
	if err == nil {
		d.unmap(file)
	}
	return nil, errors.Join(err, d.fs.Remove(name))
}

// takePartLocked makes a file of size bytes of the space of the target's spare, of which rest bytes stay kept back: a
// round that takes more than it gives back would take the space for good. REQUIRES: as takeSpareLocked.
func (d *disk) takePartLocked(name string, size, rest int) (file dir.File, err error) {
	before := d.spares.kept[targetSpare]
	if err := d.dropSpareLocked(targetSpare); err != nil {
		return nil, err
	}
	err = d.withNameLocked(func() error {
		file, err = d.fs.Create(name, size)
		return err
	})
	if err != nil {
		rest = before
	}
	return file, errors.Join(err, d.makeSpareUpToLocked(targetSpare, rest, leastTarget(rest)))
}

// writeFromSpares writes a file into space kept back: the space of the manifest's spare, or if that
// is not enough, of the target's too.
func (d *disk) writeFromSpares(name string, data []byte) (err error) {
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	err = ErrNoSpace
	for _, i := range []int{manifestSpare, targetSpare} {
		if d.spares.kept[i] == 0 {
			continue
		}
		if failed := d.dropSpareLocked(i); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if err = d.fs.WriteFile(name, data); !errors.Is(err, ErrNoSpace) {
			break
		}
	}
	return err
}

// rename gives file its name.
func (d *disk) rename(file dir.File, name string) error {
	return d.withName(func() error { return file.Rename(name) })
}

// withName calls fn, which gives a file a name.
func (d *disk) withName(fn func() error) error {
	err := noSpace(fn())
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	d.spares.mu.Lock()
	defer d.spares.mu.Unlock()
	return d.withNameLocked(fn)
}

// withNameLocked is withName. Where the directory has no room for one more name, a spare makes room for a block of it,
// and is made anew of what is left. REQUIRES: d.spares.mu held for writing.
func (d *disk) withNameLocked(fn func() error) error {
	err := noSpace(fn())
	for _, i := range []int{nameSpare, manifestSpare} {
		before := d.spares.kept[i]
		if !errors.Is(err, ErrNoSpace) || before == 0 {
			continue
		}
		if failed := d.dropSpareLocked(i); failed != nil {
			return errors.Join(err, failed)
		}
		err = noSpace(fn())
		_ = d.makeSpareUpToLocked(i, before, d.leastSpare(i)) // the next Put tries again, and says so
	}
	return err
}
