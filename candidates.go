package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Candidates are the files of a directory that have the name of a segment. The manifest and the file's
own header decide together what each of them is to the store (see examine). Those that belong to it,
whole or damaged, go into the segment table; nothing in the directory is changed before all of them
were looked at.
*/

// claim is what the manifest says of a segment's id.
type claim int

const (
	claimNone     claim = iota // in no list and older than the manifest: the segment does not count
	claimOptional              // pending, or newer than the manifest: counts if a lane filled it
	claimListed                // must be there
)

// outcome is what a candidate is to the store.
type outcome int

const (
	fileBelongs      outcome = iota // a segment of the store
	fileLeftover                    // of no segment that counts, and made by this store: removed
	fileForeign                     // of no segment that counts, and not known to be of this store: left alone
	fileOtherVersion                // in a format that this package does not read: Open fails
	fileWrongStore                  // under the name of a segment that counts, with the header of another one
	fileDamaged                     // of a segment that counts, and not as it was written
)

// candidate is a file under the name of a segment.
type candidate struct {
	id        uint64
	claim     claim
	mem       []byte
	header    layout.Header
	headerErr error // why header is not to be believed
	state     layout.State
	hasState  bool // state is valid
}

// readCandidate reads header and state of the file of segment id.
func readCandidate(mem []byte, id uint64, c claim) *candidate {
	x := &candidate{id: id, claim: c, mem: mem}
	x.header, x.headerErr = layout.DecodeHeader(mem)
	x.state, x.hasState = layout.DecodeState(mem, x.header.Capacity)
	return x
}

func (c *candidate) name() string { return layout.SegmentFileName(c.id) }

// hasWrongSize reports whether the file has another size than it was made with. REQUIRES: a header.
func (c *candidate) hasWrongSize() bool { return c.header.Capacity != uint64(len(c.mem)) }

// examine decides what c is to a store, and says why where that is an error. With sameBoot,
// whatever was written to the file is there. The cases are looked at in this order, and each one
// relies on those before it.
func (c *candidate) examine(store layout.StoreID, sameBoot bool) (outcome, error) {
	h, err := c.header, c.headerErr
	ours := err == nil && h.ID == c.id && h.Store == store
	unwritten := errors.Is(err, layout.ErrNoHeader)
	switch {
	case errors.Is(err, layout.ErrVersion):
		return fileOtherVersion, err
	case c.claim == claimNone && (ours || unwritten): // by a finished compaction, or never filled
		return fileLeftover, nil
	case c.claim == claimNone:
		return fileForeign, nil
	case c.claim == claimOptional && ours && h.Kind == layout.KindTarget: // by an unfinished compaction
		return fileLeftover, nil
	case c.claim == claimOptional && !sameBoot && (err != nil || c.hasWrongSize()):
		// By a power loss, of a file of which nothing was promised.
		return fileLeftover, nil //nolint:nilerr // what the header lacks is no fault then
	case err == nil && !ours:
		return fileWrongStore, fmt.Errorf("file of segment %d of store %x, want segment %d of %x",
			h.ID, h.Store, c.id, store)
	case unwritten && sameBoot:
		return fileDamaged, errors.New("no header, without which it would not have its name")
	case err != nil:
		return fileDamaged, err
	case !c.hasState:
		return fileDamaged, errors.New("no valid state in the header")
	case c.hasWrongSize():
		return fileDamaged, fmt.Errorf("file has %d bytes, its header says %d", len(c.mem), h.Capacity)
	}
	return fileBelongs, nil
}

// foundSegment is a segment that counts, on its way into the store.
type foundSegment struct {
	seg      *segment
	state    layout.State
	damaged  bool            // not as it was written: a repair replaces it
	lost     lostParts       // nothing in a strict Open
	redigest []missingDigest // to be written again
}

// lostParts are parts of a segment file that are not there to be read.
type lostParts struct {
	state   bool // the header, or both copies of the state: foundSegment.state is made up
	digests bool // they are not at the end of the file, which was cut short or has grown
}

// missingDigest is a digest that a power loss took while its record stayed.
type missingDigest struct {
	n  int    // number of the record
	id []byte // in the record
}

// segment returns the segment in the file, without its records.
func (c *candidate) segment() *foundSegment {
	seg := newSegment(c.id, c.mem, c.header.Kind)
	seg.large = c.header.Large
	return &foundSegment{seg: seg, state: c.state}
}

// openSegments maps the segments that count and puts them into the table.
func (r *recovery) openSegments() error {
	names, err := r.s.disk.fs.Names()
	if err != nil {
		return err
	}
	if err := r.findUnfinished(names); err != nil {
		return err
	}
	if err := roomFor(len(names)); err != nil { // before anything is mapped
		return err
	}
	claims, present := map[uint64]claim{}, map[uint64]bool{}
	for _, id := range r.manifest.Pending {
		claims[id] = claimOptional
	}
	for _, id := range r.manifest.Listed {
		claims[id] = claimListed
	}
	r.s.segments.lastID = max(r.manifest.Next-1, highestID(names))
	for _, name := range names {
		id, ok := layout.ParseSegmentFileName(name)
		if !ok {
			continue // not ours
		}
		c := claims[id]
		if c == claimNone && id >= r.manifest.Next {
			c = claimOptional
		}
		present[id], err = r.openSegment(id, c)
		if err != nil {
			return err
		}
	}
	for _, id := range r.manifest.Listed {
		if !present[id] {
			if err := r.missing(id, "segment file is missing, empty or of another store"); err != nil {
				return err
			}
		}
	}
	return nil
}

// highestID returns the highest id in the names of segments, 0 when there is none.
func highestID(names []string) (highest uint64) {
	for _, name := range names {
		id, _ := layout.ParseSegmentFileName(name)
		highest = max(highest, id)
	}
	return highest
}

// missing returns an error for a segment that must be there and is not, unless a repair goes on
// without it.
func (r *recovery) missing(id uint64, reason string) error {
	damage := &CorruptError{File: layout.SegmentFileName(id), Reason: reason}
	if r.salvage == nil {
		return damage
	}
	r.salvage.goWithout(damage)
	return nil
}

// openSegment maps one file and, when it is a segment that counts, puts it into the table.
func (r *recovery) openSegment(id uint64, c claim) (present bool, err error) {
	name := layout.SegmentFileName(id)
	file, err := r.s.disk.fs.Open(name, !r.s.opts.ReadOnly)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	mem := file.Bytes()
	r.s.disk.track(name, mem) // for a fault while the file is no segment's
	f, err := r.admit(mem, id, c)
	if err != nil || f == nil {
		r.s.disk.untrack(mem)
		r.s.disk.unmap(file)
		return false, err
	}
	return true, r.adopt(file, f)
}

// admit examines the file of a segment and acts on the outcome. It returns nil when the file stays
// out of the store.
func (r *recovery) admit(mem []byte, id uint64, claim claim) (_ *foundSegment, err error) {
	defer r.s.catchFault(armFaults(), &err)
	c := readCandidate(mem, id, claim)
	result, reason := c.examine(r.s.disk.store, r.sameBoot)
	switch result {
	case fileOtherVersion:
		return nil, fmt.Errorf("%w: %s: %w", ErrVersion, c.name(), reason)
	case fileLeftover:
		r.leftover = append(r.leftover, c.name())
		return nil, nil
	case fileForeign:
		r.s.opts.Logger.Warn("file is of no segment of this store, and is left alone", "file", c.name())
		return nil, nil
	case fileWrongStore, fileDamaged:
		if r.salvage == nil {
			return nil, &CorruptError{File: c.name(), Reason: reason.Error()}
		}
		return r.salvage.admitDamaged(c, result, reason), nil
	case fileBelongs:
	}
	return c.segment(), nil
}

// adopt puts a mapped segment, whose records are not counted yet, into the table.
func (r *recovery) adopt(file dir.File, f *foundSegment) error {
	seg := f.seg
	r.s.mapper.adopt(len(seg.mem)) // whatever the limit
	r.s.disk.attach(seg, file)
	seg.inFile.found(f.state)
	if err := r.s.segments.assign(seg, r.s.maxSegments()); err != nil {
		r.s.medium.free(seg)
		return err
	}
	r.s.segments.publish(seg)
	r.found = append(r.found, f)
	return nil
}

// findUnfinished looks for files that never got the name of a segment. Those of this store are
// leftovers. No segment may be made under the name of one that is there.
func (r *recovery) findUnfinished(names []string) error {
	for _, name := range names {
		base, unnamed := strings.CutSuffix(name, layout.NewSuffix)
		id, ok := layout.ParseSegmentFileName(base)
		if !unnamed || !ok {
			continue
		}
		r.s.segments.taken[id] = true
		ours := true
		if !r.s.opts.ReadOnly { // which removes nothing
			var err error
			if ours, err = r.isUnfinished(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if ours {
			r.leftover = append(r.leftover, name)
			continue
		}
		r.s.opts.Logger.Warn("file is of no segment of this store, and is left alone", "file", name)
	}
	return nil
}

// isUnfinished reports whether an unfinished file, with its header or without, may be of this
// store.
func (r *recovery) isUnfinished(name string) (ours bool, err error) {
	file, err := r.s.disk.fs.Open(name, false)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mem := file.Bytes()
	r.s.disk.track(name, mem)
	defer func() {
		r.s.disk.untrack(mem)
		r.s.disk.unmap(file)
	}()
	defer r.s.catchFault(armFaults(), &err)
	return layout.MayBeUnfinished(mem, r.s.disk.store), nil
}
