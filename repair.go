package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Repair keeps what is intact of a damaged directory. A damaged record may have been the newest version
of its memory, so what is left of that memory must not come up in its place. After a clean Close the
hint knows which records are memories (see truth). Otherwise the digests of a segment say whose records
are lost, and bound up to which version. Such memories are deleted. What is intact in a damaged segment
is written anew, and its file is kept under another name.
*/

// damagedSuffix is appended to the name of a segment file that a repair took out of the store.
const damagedSuffix = ".damaged"

// RepairReport says what a repair by [Open] had to give up, in [RecoveryStats]. It is empty without
// Options.Repair, and when nothing was damaged.
type RepairReport struct {
	RecordsLost      int // records that are damaged or missing
	MemoriesDeleted  int // memories of which only an older version was left
	SegmentsReplaced int // damaged segments; their files stay in the directory, with the suffix .damaged
	// Lost lists known ids whose newest version is lost: at most 1000, in no order, in a slice of
	// the caller's. An id that was deleted after its damaged record was written may be among them.
	// JSON leaves Lost out: ids are user data, and statistics get published.
	Lost []string `json:"-"`
}

// repairReport sums up. deleted are the ids that dropLost took out.
func (r *recovery) repairReport(segments int, deleted []string) RepairReport {
	report := RepairReport{
		RecordsLost: len(r.lost), MemoriesDeleted: len(deleted), SegmentsReplaced: segments,
		Lost: slices.Clone(deleted[:min(len(deleted), maxFindings)]),
	}
	known := map[string]bool{}
	for _, id := range deleted {
		known[id] = true
	}
	for _, id := range r.lostIDs {
		if !known[id] && !r.s.Has(id) && len(report.Lost) < maxFindings {
			known[id] = true
			report.Lost = append(report.Lost, id)
		}
	}
	return report
}

// dropLost takes memories out of the index whose newest version is lost, and returns their ids.
func (r *recovery) dropLost() (ids []string, err error) {
	if len(r.lost) == 0 && r.unidentified == nil {
		return nil, nil
	}
	bounds := map[uint32]uint64{}
	for _, l := range r.lost {
		bounds[l.digest] = max(bounds[l.digest], l.bound)
	}
	for i := range r.s.shards {
		sh := &r.s.shards[i]
		for _, w := range sh.current().appendRange(nil, 0, tagCount) {
			var m match
			if err := r.s.follow(&m, w.location()); err != nil {
				return nil, err
			}
			id := record.ID(m.rec, m.h)
			bound, lost := bounds[layout.Digest(id)]
			lost = lost && m.h.Seq <= bound
			if r.lastIndex != nil {
				lost = !r.lastIndex.contains(r.s, i, w, &m)
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

// repair takes the damaged segments out of the store, which is otherwise ready, and the hint with
// them: until then, a repair that is cut off finds it again.
func (r *recovery) repair() error {
	s := r.s
	if !s.opts.Repair {
		return nil
	}
	ids, err := r.dropLost()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := r.writeTombstone(id); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairBuried)
	var damaged []*segment
	for _, f := range r.found {
		if f.damaged {
			damaged = append(damaged, f.seg)
		}
	}
	if err := r.replace(damaged); err != nil {
		return err
	}
	if err := s.disk.fs.Remove(hintName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.repaired = r.repairReport(len(damaged), ids)
	if len(damaged) > 0 || len(ids) > 0 {
		s.opts.Logger.Error("store repaired", "records_lost", len(r.lost), "memories_deleted", len(ids),
			"segments_replaced", len(damaged))
	}
	return s.disk.fs.Sync()
}

// replace writes what is intact in damaged segments anew, and takes them out of the store. Up to then
// manifests have the boot id of the last one before this Open: to a repair that begins again after this one
// was cut off, tails of damaged segments must be what they were to this one.
func (r *recovery) replace(damaged []*segment) error {
	s := r.s
	for _, seg := range damaged {
		if err := r.rescue(seg); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairRescued)
	if err := s.flush(); err != nil { // it may list segments, and the damaged ones are among them still
		return err
	}
	s.disk.boot = s.bootID()
	if _, err := s.commitTargets(damaged, nil); err != nil {
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
			s.free(seg)
		}
	}
	return nil
}

// writeTombstone writes a tombstone for an id that is in no slot.
func (r *recovery) writeTombstone(id string) error {
	d := r.s.tombstoneOf(id)
	if d.size > r.s.largestShared() {
		return r.writeLargeTombstone(&d)
	}
	for !r.tryWriteTombstone(&d) {
		if err := r.s.makeRoom(&d); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) tryWriteTombstone(d *draft) (ok bool) {
	s := r.s
	ln := d.shard.lane
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return s.appendTombstoneLocked(ln, d)
}

func (r *recovery) writeLargeTombstone(d *draft) error {
	s := r.s
	return s.withOwnSegment(d, func(seg *segment) (published bool, err error) {
		ln := d.shard.lane
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

// rescue writes the live memories and the tombstones of a damaged segment anew.
func (r *recovery) rescue(seg *segment) error {
	s := r.s
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
			if err := r.writeTombstone(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// numberOf returns the lowest and the highest number, at least from, that the intact record at offset can
// have: from there on the digests are those of this record and of all that follow it, up to the next
// damage. They differ where the same ids were written again and again; not at the end of the records,
// where the last digests are.
func (f *recovered) numberOf(from, offset int) (lowest, highest int) {
	seg := f.seg
	var digests []uint32
	for !f.ended(offset) {
		rec := seg.mem[offset:f.end()]
		h, ok := record.Decode(rec)
		if !ok || !record.Intact(rec, h, seg.seedAt(offset)) {
			break
		}
		digests = append(digests, layout.Digest(record.ID(rec, h)))
		offset += h.Size()
	}
	lowest = -1
	for n := from; n+len(digests) <= seg.maxRecords() && seg.digestOf(n) != 0; n++ {
		same := 0
		for same < len(digests) && seg.digestOf(n+same) == digests[same] {
			same++
		}
		if same == len(digests) {
			highest = n
			if lowest < 0 {
				lowest = n
			}
		}
	}
	switch {
	case lowest < 0: // digests are damaged too
		return from, from
	case f.ended(offset) || layout.IsZero(seg.mem[offset:offset+4]):
		return highest, highest
	}
	return lowest, highest
}

// lastNumber returns how many records seg has, when none can be read from number first on.
func (seg *segment) lastNumber(first int, st layout.State) int {
	n := max(first, int(st.Records))
	for !st.Sealed && n < seg.maxRecords() && seg.digestOf(n) != 0 {
		n++
	}
	return n
}

// maxRecords is how many records fit into seg at most.
func (seg *segment) maxRecords() int {
	return (len(seg.mem) - layout.HeaderSize) / (record.Size(1, 0) + layout.DigestSize)
}
