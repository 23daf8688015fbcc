package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Repair keeps what is intact of a damaged directory. A damaged record may have been the newest
version of its memory, so what is left of that memory must not come up in its place. After a clean
Close the hint knows which records are memories (lastindex.go). Otherwise the digests of a segment
say whose records are lost, and up to which version (resync.go). Such memories are deleted. What is
intact in a damaged segment is written to others, and its file is kept under another name.
*/

// damagedSuffix is appended to the name of a segment file that a repair took out of the store.
const damagedSuffix = ".damaged"

// RepairReport says what a repair by [Open] had to give up, in [RecoveryStats]. It is empty without
// Options.Repair, and when nothing was damaged.
type RepairReport struct {
	RecordsLost      int // records that are damaged or missing
	MemoriesDeleted  int // memories of which only an older version was left
	SegmentsReplaced int // damaged segments; their files stay in the directory, with the suffix .damaged
	// Lost lists known ids whose newest version is lost: at most 1000, in no particular order. The
	// slice is the caller's. An id that was deleted after its damaged record was written may be
	// among them. JSON leaves Lost out: ids are user data, and statistics get published.
	Lost []string `json:"-"`
}

// salvage is the repair of a directory during its recovery, which calls it where a strict Open
// would return an error, and to finish.
type salvage struct {
	r         *recovery
	lastIndex *lastIndex // nil where there was no hint to believe

	mu           sync.Mutex // guards what follows while segments are read
	lost         []lostRecord
	lostIDs      []string // of lost records whose prefix is intact
	unidentified error    // records were lost of which not even the id's digest is left

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
		damage.Reason += "; it cannot be replaced: " + err.Error()
		return damage
	}
	d.store = r.manifest.Store
	r.s.opts.Logger.Error("repair takes the list of segments from the hint", "error", damage)
	return nil
}

// admitDamaged returns the segment in a damaged file, for the store to have until it is replaced;
// nil when there is nothing to read.
func (v *salvage) admitDamaged(c *candidate, found outcome, reason error) *foundSegment {
	switch {
	case found == fileWrongStore:
		return nil
	case len(c.mem) < layout.HeaderSize:
		v.goWithout(&CorruptError{File: c.name(), Reason: reason.Error()})
		return nil
	}
	v.r.s.opts.Logger.Error("repair goes on with a damaged segment", "file", c.name(), "error", reason)
	f := c.segment()
	f.damaged = true
	f.lost.digests = c.headerErr == nil && c.hasWrongSize()
	if f.lost.state = !c.hasState; f.lost.state {
		f.state = layout.State{Generation: 1, Synced: layout.HeaderSize, MaxSeq: math.MaxUint64}
		f.seg.large = false
	}
	return f
}

// goWithout leaves a segment out of which nothing can be read.
func (v *salvage) goWithout(damage *CorruptError) {
	v.r.s.opts.Logger.Error("repair goes on without a segment", "error", damage)
	v.loseUnidentified(damage)
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
	v.lastIndex = v.r.readLastIndex()
	if err := v.r.scan(); err != nil {
		return err
	}
	if v.unidentified != nil && v.lastIndex == nil {
		return v.unidentified
	}
	v.r.dropTombstones()
	return nil
}

// checkEnd notes whether records are lost at the end of f, after the others were read. torn says that
// they ended at a place without an intact one.
func (v *salvage) checkEnd(f *foundSegment, torn bool) {
	known := f.seg.records.Load()
	short := known < int64(f.listed.Records)
	f.damaged = f.damaged || short
	cut := short || f.lost.digests && (known < int64(f.state.Records) || !f.state.Sealed && !torn)
	if cut || f.lost.state && known == 0 {
		v.loseUnidentified(&CorruptError{
			File: f.seg.name(), Offset: f.seg.tail.Load(), Reason: "no record can be read from here on",
		})
	}
}

// dropLost takes memories out of the index whose newest version is lost, and returns their ids.
func (v *salvage) dropLost() (ids []string, err error) {
	if len(v.lost) == 0 && v.unidentified == nil {
		return nil, nil
	}
	s := v.r.s
	bounds := map[uint32]uint64{}
	for _, l := range v.lost {
		bounds[l.digest] = max(bounds[l.digest], l.bound)
	}
	for i := range s.shards {
		sh := &s.shards[i]
		for _, w := range sh.current().appendRange(nil, 0, tagCount) {
			var m match
			if err := s.follow(&m, w.location()); err != nil {
				return nil, err
			}
			id := record.ID(m.rec, m.h)
			bound, lost := bounds[layout.Digest(id)]
			lost = lost && m.h.Seq <= bound
			if v.lastIndex != nil {
				lost = !v.lastIndex.contains(s, i, w, &m)
			}
			if !lost {
				continue
			}
			ids = append(ids, string(id))
			if pos, ok := sh.current().find(w); ok {
				sh.current().remove(pos)
				sh.memories.Add(-1)
				countDead(sh, m.seg, m.h)
			}
		}
	}
	return ids, nil
}

// finishReadOnly ends the repair of a read-only store, which lacks what is lost and changes no
// file.
func (v *salvage) finishReadOnly() error {
	_, err := v.dropLost()
	return err
}

// finish takes the damaged segments out of the store, which is otherwise ready. The hint goes last:
// a repair that is cut off before finds it again.
func (v *salvage) finish() error {
	s := v.r.s
	ids, err := v.dropLost()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := v.writeTombstone(id); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairBuried)
	var damaged []*segment
	for _, f := range v.r.found {
		if f.damaged {
			damaged = append(damaged, f.seg)
		}
	}
	if err := v.replace(damaged); err != nil {
		return err
	}
	if err := s.disk.fs.Remove(layout.HintName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.disk.trueHint = 0
	v.sumUp(len(damaged), ids)
	if len(damaged) > 0 || len(ids) > 0 {
		s.opts.Logger.Error("store repaired", "records_lost", len(v.lost), "memories_deleted", len(ids),
			"segments_replaced", len(damaged))
	}
	return s.disk.fs.Sync()
}

// sumUp makes the report of a repair that replaced so many segments and deleted these memories.
func (v *salvage) sumUp(segments int, deleted []string) {
	report := RepairReport{
		RecordsLost: len(v.lost), MemoriesDeleted: len(deleted), SegmentsReplaced: segments,
		Lost: slices.Clone(deleted[:min(len(deleted), maxFindings)]),
	}
	known := map[string]bool{}
	for _, id := range deleted {
		known[id] = true
	}
	for _, id := range v.lostIDs {
		if !known[id] && !v.r.s.Has(id) && len(report.Lost) < maxFindings {
			known[id] = true
			report.Lost = append(report.Lost, id)
		}
	}
	v.report = report
}

// replace writes what is intact in damaged segments to others, and takes the damaged ones out of
// the store. The manifest that does so is the first one with the boot id of this Open (see
// keepBoot).
func (v *salvage) replace(damaged []*segment) error {
	s := v.r.s
	for _, seg := range damaged {
		if err := v.rescue(seg); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairRescued)
	if err := s.disk.sync(); err != nil { // it may list segments, and the damaged ones are among them still
		return err
	}
	s.disk.boot = s.bootID()
	if _, err := s.disk.commit(damaged, nil); err != nil {
		return err
	}
	_ = s.hooks.fire(pointRepairCommitted)
	s.contentMu.Lock()
	s.segments.removeLocked(damaged)
	s.contentMu.Unlock()
	s.segments.reuse(damaged)
	for _, seg := range damaged {
		if err := s.disk.fs.Rename(seg.name(), seg.name()+damagedSuffix); err != nil {
			return err
		}
		if s.retire(seg) {
			s.medium.free(seg)
		}
	}
	return nil
}

// writeTombstone appends a tombstone for an id that is in no slot.
func (v *salvage) writeTombstone(id string) error {
	s := v.r.s
	d := s.tombstoneOf(id)
	if d.size > s.largestShared() {
		return v.writeLargeTombstone(&d)
	}
	for !v.tryWriteTombstone(&d) {
		if err := s.makeRoom(&d); err != nil {
			return err
		}
	}
	return nil
}

func (v *salvage) tryWriteTombstone(d *draft) (ok bool) {
	s, ln := v.r.s, d.shard.lane
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return s.appendTombstoneLocked(ln, d)
}

func (v *salvage) writeLargeTombstone(d *draft) error {
	s, ln := v.r.s, d.shard.lane
	return s.withOwnSegment(d, func(seg *segment) (published bool, err error) {
		defer s.contentMu.RUnlock(s.contentMu.RLock())
		ln.mu.Lock()
		defer ln.mu.Unlock()
		if err := s.publishLocked(seg, d); err != nil {
			return false, err
		}
		seg.addTombstone(layout.HeaderSize, d.size)
		seg.seal(false)
		return true, nil
	})
}

// rescue writes the live memories and the tombstones of a damaged segment to others.
func (v *salvage) rescue(seg *segment) error {
	s := v.r.s
	var ids []string
	for i := range s.shards {
		for _, w := range s.shards[i].current().appendRange(nil, 0, tagCount) {
			if owner, _ := s.resolve(w.location()); owner == seg {
				var m match
				if err := s.follow(&m, w.location()); err != nil {
					return err
				}
				ids = append(ids, string(record.ID(m.rec, m.h)))
			}
		}
	}
	for _, id := range ids {
		content, err := s.Get(id)
		if err == nil {
			err = s.Put(id, content)
		}
		if err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	for _, unit := range seg.tombstones {
		rec := seg.mem[int(unit)*record.Align:]
		h, ok := record.Decode(rec)
		if !ok {
			return errors.New("repair: tombstone changed while it was read")
		}
		// With a new sequence number, unless the memory was stored again.
		if id := string(record.ID(rec, h)); !s.Has(id) {
			if err := v.writeTombstone(id); err != nil {
				return err
			}
		}
	}
	return nil
}
