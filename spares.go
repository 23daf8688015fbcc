package warmtier

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Spares are files that keep space back, so that deletions and compactions go on when the disk is
full: one for the target of a compaction, one for a manifest, one for blocks of the directory, and one for
the tombstones of each lane. A segment takes a spare by renaming it, or, where it needs less, by making its file of
the space; a manifest and a new name, by removing it first. No Put gets a file while a spare is missing: so what a
compaction gives back fills the spares up again before a writer that tries again and again can have it.
*/

// spares is the space kept back. See laneSpares for their numbers.
type spares struct {
	// mu is held for reading to make a file for a segment from free space, and for writing to take
	// or to make a spare.
	mu   sync.RWMutex
	kept []int // bytes kept back by each spare, 0 when it is missing
	size int   // of the segments that spares are for, bytes: no lane has made a larger one (growth.go)
	// limit is what all spares and everything mapped may take together; 0: no bound. Set by Open.
	limit int64

	manifest atomic.Int64 // size of the manifest in force, bytes
}

// Numbers of spares. Each lane has its own for tombstones, since one for all runs out: see
// docs/design.md, section 15, "Full disks".
const (
	targetSpare   = 0
	manifestSpare = 1
	nameSpare     = 2
	laneSpares    = 3 // the first of them; the last ones are those of lanes

	growingSpare = laneSpares + maxLanes // one that is made to replace a smaller one
)

// nameReserve is what is kept back for names, bytes. A block of the directory that is full of names is split
// when one more comes: a segment, a target and a manifest take up to five of 4 KiB, and what a compaction gives
// back comes after. Blocks of a directory do not become fewer, so the next ones find room in these.
const nameReserve = 32 << 10

// manifestReserve is how many segments a manifest may list beyond those in the table when its space
// is kept back: tombstones and targets that come when the disk is full.
const manifestReserve = 64

func spareFileName(i int) string { return fmt.Sprintf("%s.%d", layout.SpareName, i) }

// spareSize returns the size that spare i gets when it is made beside segments of segmentSize bytes.
func (d *disk) spareSize(i, segmentSize int) int {
	switch i {
	case targetSpare:
		return segmentSize
	case manifestSpare:
		return d.spareForManifests(2*d.s.segments.count() + 2*manifestReserve)
	case nameSpare:
		return nameReserve
	}
	return max(minSegmentSize, segmentSize/largeShare)
}

// spareForManifests returns how large the spare has to be, bytes, that manifests of so many segments can be written
// one after the other: a manifest takes the space of the spare, and the one that it replaces, which may be of a
// time when there were few segments, becomes the spare. So the two have room for two.
func (d *disk) spareForManifests(segments int) int {
	size := vm.RoundUp(layout.ManifestSize(segments), vm.PageSize)
	return max(size, 2*size-int(d.spares.manifest.Load()))
}

// enough returns the size below which spare i is made again as soon as there is space. What a manifest needs grows
// with the store. REQUIRES: d.spares.mu held.
func (d *disk) enough(i int) int {
	switch i {
	case targetSpare:
		return leastTarget(d.spares.size)
	case manifestSpare:
		return d.spareForManifests(d.s.segments.count() + manifestReserve)
	case nameSpare:
		return nameReserve
	}
	return 1 // those of lanes grow with segments
}

// keepsEnough reports whether spare i is there and large enough. REQUIRES: d.spares.mu held.
func (d *disk) keepsEnough(i int) bool { return d.spares.kept[i] >= d.enough(i) }

// growLocked makes spares as large as segments of size bytes need them. Each one stays until the larger one is
// there: on a disk that is nearly full somebody else could have its space before. REQUIRES: d.spares.mu held
// for writing.
func (d *disk) growLocked(size int) error {
	if size <= d.spares.size {
		return nil
	}
	for i, kept := range d.spares.kept {
		if larger := d.spareSize(i, size); i != manifestSpare && kept < larger {
			if err := d.replaceSpareLocked(i, larger); err != nil {
				return err
			}
		}
	}
	d.spares.size = size
	return nil
}

// keepsAllLocked reports whether the first n spares are there. REQUIRES: d.spares.mu held.
func (d *disk) keepsAllLocked(n int) bool {
	for i := range n {
		if !d.keepsEnough(i) {
			return false
		}
	}
	return true
}

// keepsAll reports whether all spares are there.
func (d *disk) keepsAll() bool {
	d.spares.mu.RLock()
	defer d.spares.mu.RUnlock()
	return d.keepsAllLocked(len(d.spares.kept))
}

// bytesLocked returns the size of all spares. REQUIRES: mu held.
func (s *spares) bytesLocked() (total int64) {
	for _, size := range s.kept {
		total += int64(size)
	}
	return total
}

// bytes returns the size of all spares.
func (s *spares) bytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bytesLocked()
}

// budgetFor returns what MaxBytes leaves for mappings when every spare is there.
func (d *disk) budgetFor(maxBytes int64) int64 {
	segments := int(maxBytes/int64(d.s.opts.SegmentSize)) + d.s.smallSegments()
	manifest := vm.RoundUp(layout.ManifestSize(2*segments+2*manifestReserve), vm.PageSize)
	spares := int64(d.s.opts.SegmentSize + 2*manifest + nameReserve)
	spares += int64(len(d.spares.kept)-laneSpares) * int64(d.spareSize(laneSpares, d.s.opts.SegmentSize))
	return maxBytes - spares
}

// limitMappings ends Open: from here on what is mapped is bounded. A directory that holds more than
// MaxBytes gets its spares nevertheless: without them nothing could be deleted.
func (d *disk) limitMappings() {
	if maxBytes := d.s.opts.MaxBytes; maxBytes > 0 && !d.s.opts.ReadOnly {
		d.s.mapper.limit = d.budgetFor(maxBytes)
		d.spares.limit = max(maxBytes, d.s.mapper.bytes.Load()+d.spares.bytes())
	}
}

func (d *disk) targetSize() int {
	d.spares.mu.RLock()
	defer d.spares.mu.RUnlock()
	return cmp.Or(d.spares.kept[targetSpare], d.spares.size)
}

func (d *disk) keepSpares() {
	d.spares.mu.Lock()
	err := d.refillLocked(len(d.spares.kept))
	d.spares.mu.Unlock()
	d.s.warn("no space could be kept back for deletions and compactions", err)
}

// refillLocked makes those of the first n spares that are missing or too small. While the target's cannot be
// made, what there is of space stays for it: without a target nothing can be given back. All others come before one
// that is there grows. REQUIRES: d.spares.mu held for writing.
func (d *disk) refillLocked(n int) (err error) {
	for i := range n {
		if d.spares.kept[i] > 0 && (i != targetSpare || d.keepsEnough(i)) {
			continue
		}
		if i >= laneSpares && !d.keepsEnough(targetSpare) {
			return err
		}
		size := d.spareSize(i, d.spares.size)
		if i == manifestSpare {
			size = d.enough(i)
		}
		err = errors.Join(err, d.remakeSpareLocked(i, size))
	}
	for i := manifestSpare; i < min(n, laneSpares) && err == nil; i++ {
		if !d.keepsEnough(i) {
			err = d.remakeSpareLocked(i, d.spareSize(i, d.spares.size))
		}
	}
	return err
}

// remakeSpareLocked makes spare i of size bytes, or as much less as is of use, or as it was.
// REQUIRES: as refillLocked.
func (d *disk) remakeSpareLocked(i, size int) error {
	before := d.spares.kept[i]
	if err := d.dropSpareLocked(i); err != nil {
		return err
	}
	err := d.makeSpareUpToLocked(i, size, d.leastSpare(i))
	if before > 0 && d.spares.kept[i] == 0 {
		_ = d.makeSpareLocked(i, before) // err says that it is too small
	}
	return err
}

// leastSpare returns the least size of spare i that is of use. A manifest has just taken the space of its own, and
// may have grown: what is left is enough for the next ones, and without it the next one would take the target's, of
// which no target could be made again. REQUIRES: d.spares.mu held.
func (d *disk) leastSpare(i int) int {
	switch i {
	case targetSpare:
		return leastTarget(d.spares.size)
	case manifestSpare:
		return d.spareForManifests(d.s.segments.count() + manifestReserve/8)
	case nameSpare:
		return vm.PageSize
	}
	return d.spareSize(i, d.spares.size)
}

// leastTarget returns the least size of a target, where one of size bytes cannot be had: in scattered free
// space a file takes more of it than the one that made it free.
func leastTarget(size int) int { return max(minSegmentSize/2, size*15/16/vm.PageSize*vm.PageSize) }

// makeSpareUpToLocked makes spare i of size bytes, or where there is no space for that, of as many as there
// is space for, at least least. Its error says that it has less than size. REQUIRES: as makeSpareLocked.
func (d *disk) makeSpareUpToLocked(i, size, least int) error {
	err := d.makeSpareLocked(i, size)
	for less := size - vm.PageSize; err != nil && d.spares.kept[i] == 0 && less >= least; less -= vm.PageSize {
		_ = d.makeSpareLocked(i, less) // err says it
	}
	return err
}

// dropSpareLocked removes spare i, and so frees its space. REQUIRES: d.spares.mu held for writing.
func (d *disk) dropSpareLocked(i int) error {
	if d.spares.kept[i] == 0 {
		return nil
	}
	if err := d.fs.Remove(spareFileName(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d.spares.kept[i] = 0
	return nil
}

// makeSpareLocked makes spare i. REQUIRES: d.spares.mu held for writing, the spare is missing.
func (d *disk) makeSpareLocked(i, size int) error {
	err := d.createSpareLocked(i, size)
	if err == nil {
		d.spares.kept[i] = size
	}
	return err
}

// replaceSpareLocked makes spare i, which may be there, of size bytes. REQUIRES: d.spares.mu held for writing.
func (d *disk) replaceSpareLocked(i, size int) error {
	if err := d.createSpareLocked(growingSpare, size); err != nil {
		return err
	}
	if err := d.fs.Rename(spareFileName(growingSpare), spareFileName(i)); err != nil {
		return errors.Join(noSpace(err), d.fs.Remove(spareFileName(growingSpare)))
	}
	d.spares.kept[i] = size
	return nil
}

// createSpareLocked makes the file of spare i. REQUIRES: d.spares.mu held for writing.
func (d *disk) createSpareLocked(i, size int) error {
	if limit := d.spares.limit; limit > 0 && d.s.mapper.bytes.Load()+d.spares.bytesLocked()+int64(size) > limit {
		return errOverBudget
	}
	file, err := d.fs.Create(spareFileName(i), size)
	if err == nil {
		d.unmap(file)
	}
	return err
}
