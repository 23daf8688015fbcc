package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
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
	fileNewer                       // made after the manifest, which is of another moment: Open fails
	fileWrongStore                  // under the name of a segment that counts, with the header of another one
	fileDamaged                     // of a segment that counts, and not as it was written
)

// candidate is a file under the name of a segment.
type candidate struct {
	id        uint64
	fileName  string // which a repair that was cut off may have changed
	claim     claim
	listed    *layout.ListedSegment // nil unless claimListed
	file      dir.Stat
	mem       []byte
	header    layout.Header
	headerErr error // why header is not to be believed
	state     layout.State
	hasState  bool // state is valid
}

// readCandidate reads header and state of the file of segment id.
func readCandidate(mem []byte, fileName string, id uint64, c claim) *candidate {
	x := &candidate{id: id, fileName: fileName, claim: c, mem: mem}
	x.header, x.headerErr = layout.DecodeHeader(mem)
	capacity := x.header.Capacity
	if x.headerErr != nil { // the state may be all that says how to read the records
		capacity = uint64(len(mem))
	}
	x.state, x.hasState = layout.DecodeState(mem, capacity)
	return x
}

func (c *candidate) name() string { return layout.SegmentFileName(c.id) }

// hasWrongSize reports whether the file has another size than it was made with. REQUIRES: a header.
func (c *candidate) hasWrongSize() bool { return c.header.Capacity != uint64(len(c.mem)) }

// isNewer reports whether a file of this store, which m does not list, was made after m. No Open makes a file
// before its first manifest is in force, no file is made under a generation that is not, and none after the
// manifest of a Close. Ids are drawn in order: what is older than m has an id below m.Next.
func (c *candidate) isNewer(m *layout.Manifest) bool {
	switch h := &c.header; {
	case c.claim == claimListed:
		return false
	case h.Open == m.Open && h.Generation > m.Generation:
		return true
	case c.claim == claimOptional && h.Open != m.Open:
		return true
	default:
		return c.claim == claimOptional && m.Closed && h.Kind == layout.KindLane
	}
}

// mayBeUnwritten reports whether a power loss may have left the file like this before anything in it was synced.
// The header lies in one sector: it is there as a whole, or not, or the file ends before it.
func (c *candidate) mayBeUnwritten(store layout.StoreID) bool {
	if c.headerErr == nil {
		return c.header.Store == store && c.hasWrongSize()
	}
	cut := errors.Is(c.headerErr, layout.ErrNoHeader) || len(c.mem) < layout.HeaderSize
	return cut && layout.MayBeUnfinished(c.mem, store)
}

// examine decides what c is to the store of a manifest, and says why where that is an error. With cacheKept,
// whatever was written to the file is there. The cases are looked at in this order, and each one
// relies on those before it.
func (c *candidate) examine(m *layout.Manifest, cacheKept bool) (outcome, error) {
	h, err := c.header, c.headerErr
	ours := err == nil && h.ID == c.id && h.Store == m.Store
	unwritten := errors.Is(err, layout.ErrNoHeader)
	promised := cacheKept && !m.Closed // that what is not listed is there as it was written
	switch {
	case errors.Is(err, layout.ErrVersion):
		return fileOtherVersion, err
	case ours && c.isNewer(m):
		return fileNewer, fmt.Errorf("made by open %016x under generation %d, and the manifest is generation %d of open "+
			"%016x: it is older than the directory (was a backup restored over it?)", h.Open, h.Generation, m.Generation, m.Open)
	case c.claim == claimNone && (ours || (unwritten || !cacheKept) && c.mayBeUnwritten(m.Store)):
		// By a finished compaction, by a Clear that no flush came before, or never filled.
		return fileLeftover, nil
	case c.claim == claimNone:
		return fileForeign, nil
	case c.claim == claimOptional && ours && h.Kind == layout.KindTarget: // by an unfinished compaction
		return fileLeftover, nil
	case c.claim == claimOptional && !promised && c.mayBeUnwritten(m.Store):
		return fileLeftover, nil
	case c.claim == claimOptional && !promised && (unwritten || layout.IsForeign(c.mem)):
		return fileForeign, nil
	case err == nil && !ours:
		return fileWrongStore, fmt.Errorf("file of segment %d of store %x, want segment %d of %x",
			h.ID, h.Store, c.id, m.Store)
	case err == nil && c.listed != nil && h.Salt != c.listed.Salt:
		return fileWrongStore, fmt.Errorf("another file than the manifest lists: its salt is %016x, want %016x",
			h.Salt, c.listed.Salt)
	case unwritten && cacheKept:
		return fileDamaged, errors.New("no header, without which it would not have its name")
	case err != nil:
		return fileDamaged, err
	case !c.hasState:
		return fileDamaged, errors.New("no valid state in the header")
	case c.hasWrongSize():
		return fileDamaged, fmt.Errorf("file has %d bytes, its header says %d", len(c.mem), h.Capacity)
	case m.Closed && c.listed != nil && !c.isAsListed():
		return fileDamaged, fmt.Errorf("%d records up to %d, sealed %t: the manifest of the last Close has %d up to %d, so "+
			"one of the two is of another moment",
			c.state.Records, c.state.Synced, c.state.Sealed, c.listed.Records, c.listed.End)
	}
	return fileBelongs, nil
}

// isAsListed reports whether the file ends as the manifest of a Close says. REQUIRES: c is listed.
func (c *candidate) isAsListed() bool {
	return c.state.Sealed && c.state.Synced == c.listed.End && c.state.Records == c.listed.Records
}

// foundSegment is a segment that counts, on its way into the store.
type foundSegment struct {
	seg      *segment
	state    layout.State
	listed   layout.ListedSegment // what the manifest says of it; zero where it does not
	capacity int                  // with which the file was made, 0 when unknown
	copied   bool                 // somebody else made the file, and nobody knows what of it is durable
	damaged  bool                 // not as it was written: a repair replaces it
	redigest []missingDigest      // to be written again

	// What a repair notes.
	lost         lostParts
	aside        bool // the file has the name already that damaged ones keep
	missing      int  // records that cannot be read
	newer        int  // of them, with a number above the manifest's
	lostAt       int  // where the first of them was, 0 for none
	lostBytes    int  // where they were
	intact       int  // records that can
	wrongDigests bool // digests are not those of the records
	unidentified bool // records are lost, and nobody knows of which memories
}

// lostParts are parts of a segment file that are not there to be read.
type lostParts struct {
	state   bool // the header, or both copies of the state: foundSegment.state is made up
	digests bool // they are not at the end of the file, which was cut short or has grown
}

// missingDigest is a digest that a power loss took while its record stayed.
type missingDigest struct {
	n      int // number of the record
	digest uint32
}

// segment returns the segment in the file, without its records.
func (c *candidate) segment() *foundSegment {
	salt := c.header.Salt
	switch { // with an error of the header a repair goes on
	case c.headerErr != nil && c.listed != nil:
		salt = c.listed.Salt
	case c.headerErr != nil:
		salt = c.state.Salt
	}
	seg := newSegment(c.id, c.mem, c.header.Kind, salt)
	seg.large = c.header.Large
	seg.inFile.linked.Store(c.file.Links > 1)
	f := &foundSegment{seg: seg, state: c.state, capacity: int(c.header.Capacity)}
	if c.listed != nil {
		f.listed = *c.listed
	}
	return f
}

// floor returns the offset up to which every record was durable once.
func (f *foundSegment) floor() int { return int(max(f.state.Synced, f.listed.End)) }

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
	listed := map[uint64]*layout.ListedSegment{}
	for i := range r.manifest.Listed {
		l := &r.manifest.Listed[i]
		claims[l.ID], listed[l.ID] = claimListed, l
	}
	r.s.segments.lastID = r.manifest.Next - 1
	for _, name := range names {
		id, ok := layout.ParseSegmentFileName(name)
		if !ok {
			continue // not ours
		}
		if id >= r.manifest.Next && id-r.manifest.Next >= farAhead {
			r.leaveAlone(id)
			continue
		}
		c := claims[id]
		if c == claimNone && id >= r.manifest.Next {
			c = claimOptional
		}
		present[id], err = r.openSegment(name, id, c, listed[id])
		if err != nil {
			return err
		}
	}
	for id := range listed {
		if present[id] {
			continue
		}
		if err := r.findMissing(listed[id], names); err != nil {
			return err
		}
	}
	return nil
}

// farAhead is how many ids no store draws before it writes a manifest: a file with such a name is somebody
// else's, and the ids that follow it, which end at 2^64, are not drawn.
const farAhead = 1 << 32

// leaveAlone notes that the file of segment id stays as it is, and its name is not used.
func (r *recovery) leaveAlone(id uint64) {
	r.s.segments.taken[id] = true
	r.s.opts.Logger.Warn("file is of no segment of this store, and is left alone", "file", layout.SegmentFileName(id))
}

// findMissing continues with the file of a listed segment that a repair which was cut off has set
// aside, or without one.
func (r *recovery) findMissing(listed *layout.ListedSegment, names []string) error {
	id, reason := listed.ID, "segment file is missing, empty or of another store"
	if aside := layout.SegmentFileName(id) + damagedSuffix; slices.Contains(names, aside) {
		if r.salvage != nil {
			present, err := r.openSegment(aside, id, claimListed, listed)
			if present || err != nil {
				return err
			}
		}
		reason = "a repair was cut off, and has to be done again"
	}
	return r.missing(id, reason)
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
	r.salvage.goWithout(id, damage)
	return nil
}

// openSegment maps one file and, when it is a segment that counts, puts it into the table.
func (r *recovery) openSegment(
	name string, id uint64, c claim, listed *layout.ListedSegment,
) (present bool, err error) {
	file, err := r.s.disk.fs.Open(name, !r.s.opts.ReadOnly)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	mem := file.Bytes()
	r.s.disk.track(name, mem) // for a fault while the file is no segment's
	f, err := r.admit(mem, name, id, c, listed, file.Stat())
	if err != nil || f == nil {
		r.s.disk.untrack(mem)
		r.s.disk.unmap(file)
		return false, err
	}
	if name != layout.SegmentFileName(id) { // findMissing
		f.damaged, f.aside = true, true
	}
	return true, r.adopt(file, f)
}

// admit examines the file of a segment and acts on the outcome. It returns nil when the file stays
// out of the store.
func (r *recovery) admit(
	mem []byte, name string, id uint64, claim claim, listed *layout.ListedSegment, file dir.Stat,
) (_ *foundSegment, err error) {
	defer r.s.catchFault(armFaults(), &err)
	c := readCandidate(mem, name, id, claim)
	c.listed, c.file = listed, file
	result, reason := c.examine(&r.manifest, r.cacheKept)
	if result != fileForeign { // drawn by this store: never to be drawn again
		r.s.segments.lastID = max(r.s.segments.lastID, id)
	}
	switch result {
	case fileOtherVersion:
		return nil, fmt.Errorf("%w: %s: %w", ErrVersion, c.name(), reason)
	case fileLeftover:
		r.leftover = append(r.leftover, c.name())
		return nil, nil
	case fileForeign:
		r.leaveAlone(id)
		return nil, nil
	case fileNewer:
		return nil, &CorruptError{File: c.name(), Reason: reason.Error()}
	case fileWrongStore, fileDamaged:
		if r.salvage == nil {
			return nil, &CorruptError{File: c.name(), Reason: reason.Error()}
		}
		return r.salvage.admitDamaged(c, result, reason), nil
	case fileBelongs:
	}
	f := c.segment()
	return f, r.checkOrigin(c, f)
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
