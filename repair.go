package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"sync"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Repair keeps what is intact of a damaged directory. A damaged record may have been the newest
version of its memory, so what is left of that memory must not come up in its place. After a clean
Close the hint knows which records are memories (lastindex.go). Otherwise the digests of a segment
say whose records are lost, and up to which version (resync.go). Such memories are deleted. What is
intact in a damaged segment is written to others, and its file is kept under another name (rescue.go).

A repair may be cut off anywhere and begin again. It writes down what is lost (losses.go), then gives
the damaged files their other names, then writes to new segments, and then commits a manifest without
the damaged ones. Up to that the manifest lists them, and the next repair finds them under either name;
so it does the same once more. After it the note says that nothing is left to do.
*/

// damagedSuffix is appended to the name of a segment file that a repair took out of the store.
const damagedSuffix = ".damaged"

// salvage is the repair of a directory during its recovery, which calls it where a strict Open
// would return an error, and to finish.
type salvage struct {
	r         *recovery
	lastIndex *lastIndex // nil where there was no hint to believe

	mu           sync.Mutex // guards what follows while segments are read
	lost         []lostRecord
	lostIDs      []string // of lost records whose prefix is intact
	unidentified error    // records that were durable were lost of which not even the id's digest is left
	unsynced     int      // so many at most, of others that were not

	missing  []uint64 // ids of listed segments out of which nothing can be read
	unlisted int      // records in others, and in those that are not there
	aside    []string // files out of which nothing can be read, to be kept under another name
	deleted  []string // ids of memories of which only an older version was left

	note   *repairNote // of a repair that was cut off, nil without one
	report RepairReport
}

// release ends the use of memory that only a repair needs.
func (v *salvage) release() {
	if v.lastIndex != nil {
		v.r.s.discardTables(v.lastIndex.tables)
	}
}

// keepBoot makes manifests keep boot, the boot id of the one before this Open, until replace. If
// this repair is cut off, the next one has to take the same tails for torn by a power loss.
func (v *salvage) keepBoot(boot [16]byte) { v.r.s.disk.boot = boot }

// replaceManifest takes the list of segments from the hint, and fails without one: the files alone
// do not say which of them count. Some may be left over from finished compactions, and hold what
// was deleted since.
func (v *salvage) replaceManifest(damage *CorruptError) (err error) {
	r, d := v.r, v.r.s.disk
	if r.manifest, err = r.manifestOfHint(); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // the hint: a caller would take it for the store
			err = errors.New(err.Error())
		}
		return fmt.Errorf("%w; it cannot be replaced: %w", damage, err)
	}
	d.store = r.manifest.Store
	r.s.opts.Logger.Error("repair takes the list of segments from the hint", "error", damage)
	return nil
}

// admitDamaged returns the segment in a damaged file, for the store to have until it is replaced;
// nil when there is nothing to read.
func (v *salvage) admitDamaged(c *candidate, found outcome, reason error) *foundSegment {
	if found == fileWrongStore { // the header of another file, over ours or with all that belongs to it
		c.header, c.headerErr, c.hasState = layout.Header{}, reason, false
	}
	switch {
	case len(c.mem) < layout.HeaderSize:
		if c.fileName == c.name() && layout.MayBeUnfinished(c.mem, v.r.s.disk.store) {
			v.aside = append(v.aside, c.fileName)
		}
		fallthrough
	case found == fileWrongStore && !c.hasRecord(): // of others, or ours and nothing of it is left
		if c.claim != claimListed { // else it is missing
			v.goWithoutUnlisted(c, reason)
		}
		return nil
	}
	v.r.s.opts.Logger.Error("repair goes on with a damaged segment", "file", c.fileName, "error", reason)
	f := c.segment()
	f.damaged = true
	f.lost.digests = c.header.Capacity != 0 && c.hasWrongSize()
	if f.lost.state = !c.hasState; f.lost.state {
		f.state = layout.State{Generation: 1, Synced: layout.HeaderSize, MaxSeq: math.MaxUint64}
	}
	if c.header.Capacity == 0 {
		f.seg.large = v.looksLarge(f.seg)
	}
	return f
}

// hasRecord reports whether a record of segment c.id lies in c, whatever its header says.
func (c *candidate) hasRecord() bool {
	f := c.segment()
	f.state, f.lost.digests = layout.State{}, true
	return !f.ended(f.nextIntact(layout.HeaderSize - record.Align))
}

// looksLarge reports whether seg, whose header is lost, was made for one record: one that is larger than
// others and has no second digest. Locations do not reach beyond its first record.
func (v *salvage) looksLarge(seg *segment) bool {
	return len(seg.mem) > v.r.s.opts.SegmentSize && seg.digestOf(1) == 0
}

// goWithout leaves a listed segment out of which nothing can be read.
func (v *salvage) goWithout(id uint64, damage *CorruptError) {
	v.r.s.opts.Logger.Error("repair goes on without a segment", "error", damage)
	v.missing = append(v.missing, id)
	v.loseUnidentified(damage)
}

// goWithoutUnlisted leaves a segment out of which nothing can be read, and of which no Sync has promised anything.
// Its digests say how many records there were; where these are gone too, as many as fit into a segment. After a
// Close nothing was ever in it.
func (v *salvage) goWithoutUnlisted(c *candidate, reason error) {
	v.r.s.opts.Logger.Error("repair goes on without a segment", "file", c.fileName, "error", reason)
	if v.r.manifest.Closed {
		return
	}
	seg := c.segment().seg
	records := seg.lastNumber(0, layout.State{})
	v.unlisted += max(1, records)
	if records == 0 {
		records = maxRecords(max(len(c.mem), v.r.s.opts.SegmentSize))
	}
	v.unsynced += records
}

// loseUnidentified notes that records are lost for the reason in damage, and that nobody knows of
// which memories.
func (v *salvage) loseUnidentified(damage *CorruptError) {
	damage.Reason += "; nothing says of which memories records are lost, whose older versions must not " +
		"come back: a repair of this needs the hint of a clean Close"
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unidentified = damage
}

// readRecords makes the index from the records. It fails where records are lost and neither digests
// nor the hint of a clean Close say of which memories.
func (v *salvage) readRecords() error {
	if err := v.readNote(); err != nil {
		return err
	}
	if v.note == nil || !v.note.committed { // else the hint is of before that repair
		v.lastIndex = v.r.readLastIndex()
	}
	if n := v.r.s.maxSegments(); len(v.r.found) > n {
		return fmt.Errorf("repair: %d segments, of which the largest leaves locations for %d", len(v.r.found), n)
	}
	if err := v.r.scan(); err != nil {
		return err
	}
	if v.unidentified != nil && v.lastIndex == nil {
		return v.unidentified
	}
	v.countUnsynced()
	v.r.dropTombstones()
	return nil
}

// checkEnd notes what is lost at the end of f, after the others were read. torn says that the records
// ended at a place without an intact one.
func (v *salvage) checkEnd(f *foundSegment, torn bool) {
	known := f.seg.records.Load()
	short := known < int64(f.listed.Records)
	f.damaged = f.damaged || short
	f.intact = int(known) - f.missing
	if total := int(f.listed.Records); f.state.Sealed || short {
		if f.state.Sealed {
			total = max(total, int(f.state.Records))
		}
		if more := total - f.intact - f.missing; more > 0 {
			v.missAt(f, int(f.seg.tail.Load()), 0, more)
		}
	}
	cut := short || f.lost.digests && (known < int64(f.state.Records) || !f.state.Sealed && !torn)
	if cut && !torn && !f.state.Sealed { // whole records stand before the place where the file was cut
		f.lostBytes += max(0, f.lostUntil(f.end())-int(f.seg.tail.Load()))
	}
	if cut || f.lost.state && known == 0 {
		v.loseIn(f, int(f.seg.tail.Load()), "no record can be read from here on")
	}
	if f.missing > 0 && f.wrongDigests {
		v.loseIn(f, f.lostAt, "records and digests are damaged")
	}
}

// missAt notes that n records of f are lost, at offset, in so many bytes.
func (v *salvage) missAt(f *foundSegment, offset, bytes, n int) {
	if f.lostAt == 0 {
		f.lostAt = offset
	}
	f.missing += n
	f.lostBytes += bytes
	if m := &v.r.manifest; f.seg.maxSeq >= m.MaxSeq || f.seg.id >= m.Next {
		f.newer += n
	}
}

// loseIn notes that records of f are lost, from offset on, of which nobody knows the memories. Where none of them
// was durable, what was synced is there, and the repair falls back to it.
func (v *salvage) loseIn(f *foundSegment, offset int, reason string) {
	f.unidentified = true
	if offset < f.floor() {
		v.loseUnidentified(&CorruptError{File: f.seg.name(), Offset: int64(offset), Reason: reason})
	}
}

// countUnsynced counts, after the scan, the records of which nobody knows the memories, and that no Sync had made
// durable. Those of numbers that are nowhere were in files that are gone, or in a tail that is.
func (v *salvage) countUnsynced() {
	newer := 0
	for _, f := range v.r.found {
		newer += f.newer
		if f.unidentified && !v.lastIndex.has(f.seg.id) {
			v.unsynced += max(1, f.missing, f.lostBytes/record.Size(1, 0))
		}
	}
	if n := v.r.missingRecords() - newer - v.unlisted; n > 0 {
		v.r.s.opts.Logger.Error("repair goes on without records that are in no file", "records", n)
		v.unlisted += n
		v.unsynced += n
	}
}

// dropLost takes memories out of the index whose newest version is lost. Of the lost digests unseen are
// those of no memory that stays.
func (v *salvage) dropLost() (unseen int, err error) {
	if len(v.lost) == 0 && v.unidentified == nil {
		return 0, nil
	}
	s := v.r.s
	bounds, seen := map[uint32]uint64{}, map[uint32]bool{}
	for _, l := range v.lost {
		bounds[l.digest] = max(bounds[l.digest], l.bound)
	}
	for i := range s.shards {
		sh := &s.shards[i]
		for _, w := range sh.current().appendRange(nil, 0, tagCount) {
			var m match
			if err := s.follow(&m, w.location()); err != nil {
				return 0, err
			}
			id := record.ID(m.rec, m.h)
			digest := layout.Digest(id)
			bound, lost := bounds[digest]
			if lost = lost && m.h.Seq <= bound; v.lastIndex != nil {
				lost = !v.lastIndex.contains(s, i, w, &m)
			}
			if !lost {
				seen[digest] = true
				continue
			}
			v.deleted = append(v.deleted, string(id))
			if pos, ok := sh.current().find(w); ok {
				sh.removeLocked(pos)
				sh.memories.Add(-1)
				countDead(sh, m.seg, m.offset, m.h)
			}
		}
	}
	for digest := range bounds {
		if !seen[digest] {
			unseen++
		}
	}
	return unseen, nil
}

// begin takes out of the index what is lost, and reports it. A read-only store is repaired then. In others
// the damaged files get the names that they keep, as the first change in the directory after the note.
func (v *salvage) begin() error {
	unseen, err := v.dropLost()
	if err != nil {
		return err
	}
	v.sumUp(unseen)
	if v.r.s.opts.ReadOnly || v.report.isEmpty() {
		return nil
	}
	if err := v.writeNote(); err != nil {
		return err
	}
	_ = v.r.s.hooks.fire(pointRepairNoted)
	return v.setAside()
}

// finish takes the damaged segments out of the store, which is otherwise ready. The hint and the note go
// last, one after the other: a repair that is cut off before finds them again.
func (v *salvage) finish() error {
	s := v.r.s
	for _, id := range v.deleted {
		if err := v.writeTombstone(id); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairBuried)
	if err := v.replace(); err != nil {
		return err
	}
	for _, name := range []string{layout.HintName, layout.RepairName} {
		if err := s.disk.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.disk.fs.Sync(); err != nil {
			return err
		}
	}
	s.disk.trueHint = 0
	if !v.report.isEmpty() {
		s.opts.Logger.Error("store repaired", "records_lost", v.report.RecordsLost,
			"memories_lost", v.report.MemoriesLost, "at_most", v.report.AtMost, "unsynced", v.report.Unsynced,
			"memories_deleted", v.report.MemoriesDeleted, "segments_replaced", v.report.SegmentsReplaced)
	}
	return nil
}
