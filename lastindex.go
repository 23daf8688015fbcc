package warmtier

import (
	"bytes"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
The last index is the index as the last Close left it, for a repair. A hint stays only until the
next Open that writes, so every record that it does not point to was overwritten or deleted, even
where the record that says so is lost. Segments that the hint does not know were written by a repair
that was cut off, and what they say is newer.
*/
type lastIndex struct {
	tables   []table           // with locations of this Open
	known    map[int]bool      // indexes of the segments that the hint knows, and that are there
	records  map[uint64]uint32 // how many each segment had, by id
	memories int               // how many there were
}

// has reports whether the last index knows the segment with this id.
func (t *lastIndex) has(id uint64) bool {
	if t == nil {
		return false
	}
	_, ok := t.records[id]
	return ok
}

// readLastIndex returns nil when there is no hint to believe. Otherwise the store hashes with the
// hint's key from then on. REQUIRES: chooseLocations.
func (r *recovery) readLastIndex() (t *lastIndex) {
	_ = r.withHint(func(b []byte) error {
		h, err := layout.DecodeHint(b)
		if err != nil {
			return err
		}
		if err := r.requireTrue(h); err != nil {
			return err
		}
		tables, _, err := r.readTables(b, h)
		if err != nil {
			return err
		}
		t = &lastIndex{tables: tables, known: map[int]bool{}, records: map[uint64]uint32{}}
		for i := range h.Shards {
			t.memories += int(h.Shards[i].Memories)
		}
		r.s.disk.key = sip.DecodeKey(h.Key[:])
		found := map[uint64]*segment{}
		for _, f := range r.found {
			found[f.seg.id] = f.seg
		}
		segs := make([]*segment, len(h.Segments))
		for i := range segs {
			t.records[h.Segments[i].ID] = h.Segments[i].Records
			if segs[i] = found[h.Segments[i].ID]; segs[i] != nil {
				t.known[segs[i].index] = true
			}
		}
		for _, t := range tables {
			r.relocateFromHint(t, h, segs)
		}
		return nil
	})
	return t
}

// manifestOfHint returns the manifest that the last Close wrote beside the hint, as far as the hint knows it.
func (r *recovery) manifestOfHint() (m layout.Manifest, err error) {
	err = r.withHint(func(b []byte) error {
		h, err := layout.DecodeHint(b)
		if err != nil {
			return err
		}
		m = layout.Manifest{Store: h.Store, Closed: true, Open: h.Open, Hint: h.Open, Next: h.Next, MaxSeq: h.MaxSeq}
		for _, g := range h.Segments {
			m.Listed = append(m.Listed, layout.ListedSegment{ID: g.ID, Salt: g.Salt, End: g.Tail, Records: g.Records})
		}
		return nil
	})
	return m, err
}

// contains reports whether w, the slot in a shard of the index that leads to m, is that of a
// memory. Where two records are copies of one version, the last index may point to the other one.
func (t *lastIndex) contains(s *Store, shardIndex int, w slot, m *match) bool {
	if !t.known[m.seg.index] {
		return true
	}
	table := t.tables[shardIndex]
	for pos, v := table.first(w.tag()); v != 0; pos, v = table.following(pos, w.tag()) {
		if v.same(w) {
			return true
		}
		var copied match
		if s.follow(&copied, v.location()) == nil && copied.h.Seq == m.h.Seq &&
			bytes.Equal(record.ID(copied.rec, copied.h), record.ID(m.rec, m.h)) {
			return true
		}
	}
	return false
}
