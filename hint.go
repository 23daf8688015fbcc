package warmtier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
The hint file is the index as Close left it; internal/layout has its bytes. Open takes the index
from it, and reads no record, when the manifest is that of the same Close, every checksum in the hint that
Open looks at holds, and it names exactly the segments that were found, each sealed at the tail the hint says.
*/

// A hint has a table for each shard.
var _ [layout.HintShards]struct{} = [shardCount]struct{}{}

// writeHint leaves a hint for the next Open. All that is lost without one is time, so errors are
// logged. REQUIRES: nobody else uses the store, every segment is sealed and durable.
func (s *Store) writeHint() {
	segs := s.segments.all()
	size := layout.HintTablesAt(len(segs))
	for i := range s.shards {
		size += s.shards[i].current().slots() * slotSize
	}
	for _, seg := range segs {
		_, list := seg.deadlines.encode()
		size += layout.TombstonesSize(seg.tombstones.len()) + layout.DeadlinesSize(len(list))
	}
	file, err := s.disk.fs.Create(layout.HintName, size)
	if err == nil {
		err = s.encodeHint(file.Bytes(), segs)
		s.disk.unmap(file)
	}
	if err != nil {
		s.opts.Logger.Warn("no hint written, the next open reads every record", "error", err)
	}
}

// encodeHint fills b: tables and tombstones first, then what makes a hint of them.
func (s *Store) encodeHint(b []byte, segs []*segment) (err error) {
	s.disk.track(layout.HintName, b)
	defer s.disk.untrack(b)
	defer s.catchFault(armFaults(), &err)
	h := layout.Hint{
		Store:      s.disk.store,
		OffsetBits: uint32(s.offsetBits),
		MaxSeq:     s.sequence.Load(),
		Open:       s.disk.open,
		Next:       s.segments.newestID() + 1,
		Segments:   make([]layout.HintSegment, len(segs)),
	}
	s.disk.key.Encode(h.Key[:])
	rest := b[layout.HintTablesAt(len(segs)):]
	place := map[int]int{} // index in the segment table -> place in the hint's list
	for i, seg := range segs {
		place[seg.index] = i
	}
	for i := range s.shards {
		sh := &s.shards[i]
		t := sh.current()
		encoded := rest[:t.slots()*slotSize]
		t.encode(encoded, func(loc location) location {
			n := place[int(loc>>s.offsetBits)]
			return location(n)<<s.offsetBits | loc&(1<<s.offsetBits-1)
		})
		rest = rest[len(encoded):]
		h.Shards[i] = layout.HintShard{
			Slots:     uint32(t.slots()),
			Memories:  uint32(sh.memories.Load()),
			LiveBytes: uint64(sh.liveBytes.Load()),
			TableSum:  record.Checksum(encoded),
		}
	}
	for i, seg := range segs {
		h.Segments[i] = layout.HintSegment{
			ID:             seg.id,
			Tail:           uint64(seg.tail.Load()),
			LiveBytes:      uint64(seg.live.Load()),
			MinSeq:         seg.minSeq,
			Records:        uint32(seg.records.Load()),
			Tombstones:     uint32(seg.tombstones.len()),
			TombstoneSum:   layout.PutTombstones(rest, seg.tombstones.all()),
			TombstoneUnits: uint32(seg.tombstoneBytes.Load() / record.Align),
			Salt:           seg.salt,
		}
		rest = rest[layout.TombstonesSize(seg.tombstones.len()):]
	}
	for i, seg := range segs {
		base, list := seg.deadlines.encode()
		g := &h.Segments[i]
		g.DeadlineBase, g.Deadlines = base, uint32(len(list))
		g.DeadlineSum = layout.PutDeadlines(rest, list)
		rest = rest[layout.DeadlinesSize(len(list)):]
	}
	h.Encode(b)
	return nil
}

// loadHint makes the index from the hint and reports whether it did. Where there is no hint to
// believe it leaves the store as it was.
func (r *recovery) loadHint() bool {
	if len(r.leftover) > 0 || !r.manifest.Closed {
		return false
	}
	return r.withHint(func(b []byte) error {
		h, err := layout.DecodeHint(b)
		if err != nil {
			return err
		}
		if err := r.matchHint(h); err != nil {
			return err
		}
		tables, rest, err := r.readTables(b, h)
		if err != nil {
			return err
		}
		tombstones, rest, err := h.DecodeTombstones(rest)
		if err != nil {
			r.s.discardTables(tables)
			return err
		}
		deadlines, err := h.DecodeDeadlines(rest)
		if err != nil {
			r.s.discardTables(tables)
			return err
		}
		r.useHint(h, tables, tombstones)
		for i, f := range r.found {
			f.seg.deadlines.decode(h.Segments[i].DeadlineBase, deadlines[i])
		}
		return nil
	}) == nil
}

// withHint calls fn with the bytes of the hint, and returns an error when there is none.
func (r *recovery) withHint(fn func(b []byte) error) (err error) {
	d := r.s.disk
	file, err := d.fs.Open(layout.HintName, false)
	if err != nil {
		return err
	}
	b := file.Bytes()
	d.track(layout.HintName, b)
	defer d.unmap(file)
	defer d.untrack(b)
	defer func() {
		if err != nil {
			r.s.opts.Logger.Warn("hint is not used, every record is read", "reason", err)
		}
	}()
	defer r.s.catchFault(armFaults(), &err)
	return fn(b)
}

// requireTrue returns an error unless h is the hint that the manifest knows.
func (r *recovery) requireTrue(h *layout.Hint) error {
	switch {
	case h.Store != r.s.disk.store:
		return errors.New("another store")
	case h.Open != r.manifest.Hint:
		return fmt.Errorf("it was left by open %016x, the manifest knows that of open %016x", h.Open, r.manifest.Hint)
	}
	return nil
}

// matchHint checks that h is a hint of the segments found, and puts these into the hint's order.
func (r *recovery) matchHint(h *layout.Hint) error {
	if len(h.Segments) != len(r.found) {
		return errors.New("another number of segments")
	}
	if err := r.requireTrue(h); err != nil {
		return err
	}
	byID := make(map[uint64]*foundSegment, len(r.found))
	for _, f := range r.found {
		byID[f.seg.id] = f
	}
	ordered := make([]*foundSegment, len(r.found))
	for i, hs := range h.Segments {
		f := byID[hs.ID]
		if f == nil || f.seg.salt != hs.Salt || !f.state.Sealed || f.state.Synced != hs.Tail ||
			f.state.Records != hs.Records {
			return fmt.Errorf("segment %d is another", hs.ID)
		}
		delete(byID, hs.ID)
		ordered[i] = f
	}
	r.found = ordered
	return nil
}

// readTables returns copies of the tables in b, a hint, and what follows the tables.
func (r *recovery) readTables(b []byte, h *layout.Hint) (_ []table, rest []byte, err error) {
	tables := make([]table, shardCount)
	rest = b[layout.HintTablesAt(len(h.Segments)):]
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range tables {
		size := int(h.Shards[i].Slots) * slotSize
		if size%tableAlign != 0 || size > len(rest) {
			err = errors.New("a table does not fit")
			break
		}
		encoded := rest[:size]
		rest = rest[size:]
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			tables[i], err = r.copyTable(encoded, h.Shards[i].TableSum)
			return err
		})
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		r.s.discardTables(tables)
		return nil, nil, err
	}
	return tables, rest, nil
}

// copyTable returns a table with the slots in encoded. Whether their locations lead to a record is
// checked whenever one is followed, as with any location.
func (r *recovery) copyTable(encoded []byte, sum uint32) (table, error) {
	if len(encoded) == 0 {
		return nil, nil
	}
	t, err := r.s.tables.acquire(len(encoded)/slotSize, true)
	if err != nil {
		return nil, err
	}
	mem := t.bytes()
	copy(mem, encoded)
	if record.Checksum(mem) != sum {
		r.s.discardTables([]table{t})
		return nil, errors.New("checksum mismatch in a table")
	}
	for pos := range t {
		t[pos] = slot(binary.LittleEndian.Uint64(mem[pos*slotSize:]))
	}
	return t, nil
}

// useHint gives the store the index, counters and hash key of h, and segments what h says of each.
func (r *recovery) useHint(h *layout.Hint, tables []table, tombstones [][]uint32) {
	s := r.s
	s.disk.key = sip.DecodeKey(h.Key[:])
	r.maxSeq = max(r.maxSeq, h.MaxSeq)
	segs := make([]*segment, len(r.found))
	for i, f := range r.found {
		hs := &h.Segments[i]
		f.seg.addRecords(int(hs.Records), int(hs.Tail)-layout.HeaderSize)
		f.seg.live.Store(int64(hs.LiveBytes))
		f.seg.minSeq = hs.MinSeq
		f.seg.maxSeq = f.state.MaxSeq
		for _, unit := range tombstones[i] {
			f.seg.tombstones.add(unit)
		}
		f.seg.tombstoneBytes.Store(int64(hs.TombstoneUnits) * record.Align)
		f.seg.seal(f.seg.isMergeable())
		segs[i] = f.seg
		r.records += int(f.seg.records.Load())
	}
	for i, t := range tables {
		sh := &s.shards[i]
		sh.setTable(t)
		s.tableBytes.Add(int64(t.slots()) * slotSize)
		sh.memories.Store(int64(h.Shards[i].Memories))
		sh.liveBytes.Store(int64(h.Shards[i].LiveBytes))
		r.relocateFromHint(t, h, segs)
	}
}

// relocateFromHint makes the locations of t, which are those of the hint, locations of this Open.
// segs are the segments in the hint's order, nil where a file is missing: what is in those gets a
// location that no record has.
func (r *recovery) relocateFromHint(t table, h *layout.Hint, segs []*segment) {
	bits := h.OffsetBits // SegmentSize, and with it the bits of this Open, may have changed
	t.relocate(func(loc location) location {
		n := int(loc >> bits)
		if n >= len(segs) || segs[n] == nil {
			return locationMask
		}
		return r.s.locate(segs[n], int(loc&(1<<bits-1))*record.Align)
	})
}

// relocate replaces each location in t by what fn returns for it.
func (t table) relocate(fn func(location) location) {
	for pos, w := range t {
		if w != 0 {
			t[pos] = makeSlot(w.tag(), fn(w.location()))
		}
	}
}

// encode writes the slots of t to b, which is zeroed, with what fn returns for each location in its
// place.
func (t table) encode(b []byte, fn func(location) location) {
	for pos, w := range t {
		if w != 0 {
			w = makeSlot(w.tag(), fn(w.location()))
			binary.LittleEndian.PutUint64(b[pos*slotSize:], uint64(w))
		}
	}
}
