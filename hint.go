package warmtier

import (
	"bytes"
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
The hint file is the index as Close left it, so that the next Open need not read the records. It is
believed only when its checksums hold and it names exactly the segments of the manifest, each sealed at
the tail the hint says: segments do not change while there is a hint, and ids are never used again, so
such a hint is true. Without one, Open reads everything.

	offset  bytes
	0       8      magic "WARMHNT\x00"
	8       4      format version
	12      4      n: number of segments; a location names one by its place in their list
	16      16     id of the store
	32      16     key of the hash
	48      4      bits of an offset in a location
	52      4      0
	56      8      highest sequence number
	64      48 n   segments
	        24 x 256  shards
	        4      CRC-32C of everything before
	               tables of the shards, one after the other
	               offsets of tombstones by segment, 4 bytes each in units of 8 bytes

A segment: id (8), tail (8), live bytes (8), lowest sequence number (8), records (4), tombstones (4),
CRC-32C of their offsets (4), their bytes / 8 (4). A shard: slots (4), memories (4), live bytes (8),
CRC-32C of the table (4), 0 (4).
*/

const (
	hintMagic       = "WARMHNT\x00"
	hintName        = "HINT"
	hintHeaderSize  = 64 // bytes
	hintSegmentSize = 48
	hintShardSize   = 24
)

// hintParts says where the parts of a hint are.
type hintParts struct {
	segments int
	shardsAt int // offset of the shards
	tablesAt int
}

func partsOfHint(segments int) hintParts {
	at := hintHeaderSize + segments*hintSegmentSize
	return hintParts{segments: segments, shardsAt: at, tablesAt: at + shardCount*hintShardSize + 4}
}

// writeHint leaves a hint for the next Open. It is worth nothing but time, so errors are logged.
// REQUIRES: nobody else uses the store, every segment is sealed and durable.
func (s *Store) writeHint() {
	segs := s.segments.all()
	parts := partsOfHint(len(segs))
	size := parts.tablesAt
	for i := range s.shards {
		size += s.shards[i].current().slots() * slotSize
	}
	for _, seg := range segs {
		size += 4 * len(seg.tombstones)
	}
	file, err := s.disk.fs.Create(hintName, size)
	if err == nil {
		err = errors.Join(s.encodeHint(file.Bytes(), segs, parts), file.Close())
	}
	if err != nil {
		s.opts.Logger.Warn("no hint written, the next open reads every record", "error", err)
	}
}

// encodeHint fills b, the header last: without it the rest is no hint.
func (s *Store) encodeHint(b []byte, segs []*segment, parts hintParts) (err error) {
	s.disk.track(hintName, b)
	defer s.disk.untrack(b)
	defer s.catchFault(armFaults(), &err)
	le := binary.LittleEndian
	copy(b, hintMagic)
	le.PutUint32(b[8:], layout.Version)
	le.PutUint32(b[12:], uint32(len(segs)))
	copy(b[16:], s.disk.store[:])
	s.disk.key.Encode(b[32:])
	le.PutUint32(b[48:], uint32(s.offsetBits))
	le.PutUint64(b[56:], s.sequence.Load())

	number := map[int]int{} // index in the segment table -> place in the list
	at := parts.tablesAt
	for i, seg := range segs {
		number[seg.index] = i
	}
	for i := range s.shards {
		sh := &s.shards[i]
		t := sh.current()
		encoded := b[at : at+t.slots()*slotSize]
		t.encode(encoded, func(loc location) location {
			n := number[int(loc>>s.offsetBits)]
			return location(n)<<s.offsetBits | loc&(1<<s.offsetBits-1)
		})
		at += len(encoded)
		e := b[parts.shardsAt+i*hintShardSize:]
		le.PutUint32(e[0:], uint32(t.slots()))
		le.PutUint32(e[4:], uint32(sh.memories.Load()))
		le.PutUint64(e[8:], uint64(sh.liveBytes.Load()))
		le.PutUint32(e[16:], record.Checksum(encoded))
	}
	for i, seg := range segs {
		offsets := b[at : at+4*len(seg.tombstones)]
		for j, unit := range seg.tombstones {
			le.PutUint32(offsets[4*j:], unit)
		}
		at += len(offsets)
		e := b[hintHeaderSize+i*hintSegmentSize:]
		le.PutUint64(e[0:], seg.id)
		le.PutUint64(e[8:], uint64(seg.tail.Load()))
		le.PutUint64(e[16:], uint64(seg.live.Load()))
		le.PutUint64(e[24:], seg.minSeq)
		le.PutUint32(e[32:], uint32(seg.records.Load()))
		le.PutUint32(e[36:], uint32(len(seg.tombstones)))
		le.PutUint32(e[40:], record.Checksum(offsets))
		le.PutUint32(e[44:], uint32(seg.tombstoneBytes/record.Align))
	}
	le.PutUint32(b[parts.tablesAt-4:], record.Checksum(b[:parts.tablesAt-4]))
	return nil
}

// loadHint makes the index from the hint, if there is one to be believed. Nothing is changed when not.
func (r *recovery) loadHint() bool {
	if len(r.leftover) > 0 {
		return false
	}
	return r.withHint(func(b []byte) error {
		parts, err := r.checkHint(b)
		if err != nil {
			return err
		}
		tables, at, err := r.readTables(b, parts)
		if err != nil {
			return err
		}
		tombstones, err := readTombstones(b, at, parts)
		if err != nil {
			r.s.releaseTables(tables)
			return err
		}
		r.useHint(b, parts, tables, tombstones)
		return nil
	}) == nil
}

// withHint calls fn with the bytes of the hint.
func (r *recovery) withHint(fn func(b []byte) error) (err error) {
	d := r.s.disk
	file, err := d.fs.Open(hintName, false)
	if err == nil {
		b := file.Bytes()
		d.track(hintName, b)
		defer func() { _ = file.Close() }() // it was only read
		defer d.untrack(b)
		defer func() {
			if err != nil {
				r.s.opts.Logger.Warn("hint is not used, every record is read", "reason", err)
			}
		}()
		defer r.s.catchFault(armFaults(), &err)
		err = fn(b)
	}
	return err
}

// readTables returns copies of the tables, and where they end.
func (r *recovery) readTables(b []byte, parts hintParts) (_ []table, at int, err error) {
	tables := make([]table, shardCount)
	at = parts.tablesAt
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range tables {
		e := b[parts.shardsAt+i*hintShardSize:]
		size := int(binary.LittleEndian.Uint32(e)) * slotSize
		if size%tableAlign != 0 || size > len(b)-at {
			err = errors.New("a table does not fit")
			break
		}
		from := b[at : at+size]
		at += size
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			tables[i], err = r.copyTable(from, binary.LittleEndian.Uint32(e[16:]))
			return err
		})
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		r.s.releaseTables(tables)
		return nil, 0, err
	}
	return tables, at, nil
}

// checkHintHeader checks everything before the tables, by itself.
func checkHintHeader(b []byte) (parts hintParts, err error) {
	le := binary.LittleEndian
	if len(b) < hintHeaderSize || string(b[:8]) != hintMagic || le.Uint32(b[8:]) != layout.Version {
		return parts, errors.New("no hint of this version")
	}
	n := int64(le.Uint32(b[12:]))
	if n*hintSegmentSize > int64(len(b)) || partsOfHint(int(n)).tablesAt > len(b) {
		return parts, errors.New("segments do not fit")
	}
	parts = partsOfHint(int(n))
	if le.Uint32(b[parts.tablesAt-4:]) != record.Checksum(b[:parts.tablesAt-4]) {
		return parts, errors.New("checksum mismatch")
	}
	return parts, nil
}

// checkHint checks the header of a hint, and that it is one of the segments found.
func (r *recovery) checkHint(b []byte) (parts hintParts, err error) {
	le := binary.LittleEndian
	if parts, err = checkHintHeader(b); err != nil {
		return parts, err
	}
	if parts.segments != len(r.found) {
		return parts, errors.New("another number of segments")
	}
	if layout.StoreID(b[16:32]) != r.s.disk.store {
		return parts, errors.New("another store")
	}
	byID := make(map[uint64]*recovered, len(r.found))
	for _, f := range r.found {
		byID[f.seg.id] = f
	}
	ordered := make([]*recovered, len(r.found))
	for i := range ordered {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		f := byID[le.Uint64(e)]
		if f == nil || !f.state.Sealed || f.state.Synced != le.Uint64(e[8:]) || f.state.Records != le.Uint32(e[32:]) {
			return parts, fmt.Errorf("segment %d is another", le.Uint64(e))
		}
		delete(byID, f.seg.id)
		ordered[i] = f
	}
	r.found = ordered // as the hint has them
	return parts, nil
}

// segmentsOfHint returns the store, and the ids of its segments, at the last Close.
func (r *recovery) segmentsOfHint() (store layout.StoreID, ids []uint64, err error) {
	err = r.withHint(func(b []byte) error {
		parts, err := checkHintHeader(b)
		if err != nil {
			return err
		}
		store = layout.StoreID(b[16:32])
		for i := range parts.segments {
			ids = append(ids, binary.LittleEndian.Uint64(b[hintHeaderSize+i*hintSegmentSize:]))
		}
		return nil
	})
	return store, ids, err
}

/*
A truth is the index as the last Close left it, for a repair. A hint stays only until the next Open that
writes, so whatever record it does not point to is no memory: it was overwritten or deleted, even if
the record that says so is lost. Segments that the hint does not know were written by a repair that was
cut off, and what they say is newer.
*/
type lastIndex struct {
	tables []table      // with the locations of this Open
	known  map[int]bool // indexes of the segments it knows
}

// contains reports whether w, the slot in a shard of the index that leads to m, is that of a memory. Of two
// copies of one version, which have equal sequence numbers, the index may have the other one.
func (t *lastIndex) contains(s *Store, shard int, w slot, m *match) bool {
	if !t.known[m.seg.index] {
		return true
	}
	table := t.tables[shard]
	for pos, v := table.first(w.tag()); v != 0; pos, v = table.following(pos, w.tag()) {
		if v == w {
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

func (r *recovery) releaseLastIndex() {
	if r.lastIndex != nil {
		r.s.releaseTables(r.lastIndex.tables)
	}
}

// readTruth returns nil when there is no hint to be believed. Locations are made up as chooseLocations
// said; the hash is that of the hint from here on.
func (r *recovery) readLastIndex() (t *lastIndex) {
	_ = r.withHint(func(b []byte) error {
		le := binary.LittleEndian
		parts, err := checkHintHeader(b)
		if err != nil {
			return err
		}
		if layout.StoreID(b[16:32]) != r.s.disk.store {
			return errors.New("another store")
		}
		tables, _, err := r.readTables(b, parts)
		if err != nil {
			return err
		}
		t = &lastIndex{tables: tables, known: map[int]bool{}}
		r.s.disk.key = sip.DecodeKey(b[32:])
		found := map[uint64]*segment{}
		for _, f := range r.found {
			found[f.seg.id] = f.seg
		}
		segs := make([]*segment, parts.segments) // nil where a file is missing
		for i := range segs {
			if segs[i] = found[le.Uint64(b[hintHeaderSize+i*hintSegmentSize:])]; segs[i] != nil {
				t.known[segs[i].index] = true
			}
		}
		bits := uint(le.Uint32(b[48:]))
		for _, t := range tables {
			t.relocate(func(loc location) location { return r.locationOf(loc, bits, segs) })
		}
		return nil
	})
	return t
}

// locationOf makes a location of the hint one of this Open; one that no record has, where the segment
// is missing.
func (r *recovery) locationOf(loc location, bits uint, segs []*segment) location {
	n := int(loc >> bits)
	if n >= len(segs) || segs[n] == nil {
		return locationMask
	}
	return r.s.locate(segs[n], int(loc&(1<<bits-1))*record.Align)
}

// relocate makes the locations of t those that fn makes of them.
func (t table) relocate(fn func(location) location) {
	for pos, w := range t {
		if w != 0 {
			t[pos] = makeSlot(w.tag(), fn(w.location()))
		}
	}
}

// encode writes the slots of t, with the locations that fn makes of theirs, to b, which is zeroed.
func (t table) encode(b []byte, fn func(location) location) {
	for pos, w := range t {
		if w != 0 {
			w = makeSlot(w.tag(), fn(w.location()))
			binary.LittleEndian.PutUint64(b[pos*slotSize:], uint64(w))
		}
	}
}

// copyTable returns a table of its own, with the slots encoded in from. Locations are checked when they
// are followed, as always.
func (r *recovery) copyTable(from []byte, sum uint32) (table, error) {
	if len(from) == 0 {
		return nil, nil
	}
	t, err := r.s.tables.acquire(len(from) / slotSize)
	if err != nil {
		return nil, err
	}
	mem := t.bytes()
	copy(mem, from)
	if record.Checksum(mem) != sum {
		r.s.releaseTables([]table{t})
		return nil, errors.New("checksum mismatch in a table")
	}
	for pos := range t {
		t[pos] = slot(binary.LittleEndian.Uint64(mem[pos*slotSize:]))
	}
	return t, nil
}

// readTombstones reads the lists of tombstones that begin at at.
func readTombstones(b []byte, at int, parts hintParts) (lists [][]uint32, err error) {
	le := binary.LittleEndian
	for i := range parts.segments {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		size := 4 * int(le.Uint32(e[36:]))
		if size > len(b)-at || record.Checksum(b[at:at+size]) != le.Uint32(e[40:]) {
			return nil, errors.New("checksum mismatch in the tombstones")
		}
		list := make([]uint32, 0, size/4)
		for j := at; j < at+size; j += 4 {
			list = append(list, le.Uint32(b[j:]))
		}
		lists = append(lists, list)
		at += size
	}
	return lists, nil
}

// useHint makes the store what the hint says.
func (r *recovery) useHint(b []byte, parts hintParts, tables []table, tombstones [][]uint32) {
	le := binary.LittleEndian
	s := r.s
	s.disk.key = sip.DecodeKey(b[32:])
	r.maxSeq = le.Uint64(b[56:])
	bits := uint(le.Uint32(b[48:])) // of an offset: SegmentSize may be another one than it was
	segs := make([]*segment, len(r.found))
	for i, f := range r.found {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		f.seg.addRecords(int(le.Uint32(e[32:])), int(le.Uint64(e[8:]))-layout.HeaderSize)
		f.seg.live.Store(int64(le.Uint64(e[16:])))
		f.seg.minSeq = le.Uint64(e[24:])
		f.seg.maxSeq = f.state.MaxSeq
		f.seg.tombstones = tombstones[i]
		f.seg.tombstoneBytes = int64(le.Uint32(e[44:])) * record.Align
		f.seg.seal(!f.seg.large && int64(f.seg.room(1)) > s.mergeableRoom())
		segs[i] = f.seg
		r.records += int(f.seg.records.Load())
	}
	for i, t := range tables {
		e := b[parts.shardsAt+i*hintShardSize:]
		sh := &s.shards[i]
		sh.setTable(t)
		s.tableBytes.Add(int64(t.slots()) * slotSize)
		sh.memories.Store(int64(le.Uint32(e[4:])))
		sh.liveBytes.Store(int64(le.Uint64(e[8:])))
		t.relocate(func(loc location) location { return r.locationOf(loc, bits, segs) })
	}
}
