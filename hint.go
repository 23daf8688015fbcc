package warmtier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"
)

/*
The hint file is the index as Close left it, so that the next Open need not read the records. It is
believed only when its checksums hold and it names exactly the segments of the manifest, each sealed at
the tail the hint says: segments never change after that, and ids are never used again, so such a hint
is true. Without one, Open reads everything.

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
CRC-32C of their offsets (4), 0 (4). A shard: slots (4), memories (4), live bytes (8), CRC-32C of the
table (4), 0 (4).
*/

const (
	hintMagic       = "WARMHNT\x00"
	hintName        = "HINT"
	hintHeaderSize  = 64 // bytes
	hintSegmentSize = 48
	hintShardSize   = 24
)

// hintLayout says where the parts of a hint are.
type hintLayout struct {
	segments int
	shardsAt int // offset of the shards
	tablesAt int
}

func layoutHint(segments int) hintLayout {
	at := hintHeaderSize + segments*hintSegmentSize
	return hintLayout{segments: segments, shardsAt: at, tablesAt: at + shardCount*hintShardSize + 4}
}

// writeHint leaves a hint for the next Open. It is worth nothing but time, so errors are logged.
// REQUIRES: nobody else uses the store, every segment is sealed and durable.
func (s *Store) writeHint() {
	segs := s.segments.all()
	layout := layoutHint(len(segs))
	size := layout.tablesAt
	for i := range s.shards {
		size += len(s.shards[i].table)
	}
	for _, seg := range segs {
		size += 4 * len(seg.tombstones)
	}
	file, err := s.disk.fs.create(hintName, size)
	if err == nil {
		s.encodeHint(file.bytes(), segs, layout)
		err = file.close()
	}
	if err != nil {
		s.opts.Logger.Warn("no hint written, the next open reads every record", "error", err)
	}
}

// encodeHint fills b.
func (s *Store) encodeHint(b []byte, segs []*segment, layout hintLayout) {
	le := binary.LittleEndian
	copy(b, hintMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint32(b[12:], uint32(len(segs)))
	copy(b[16:], s.disk.store[:])
	le.PutUint64(b[32:], s.disk.key.k0)
	le.PutUint64(b[40:], s.disk.key.k1)
	le.PutUint32(b[48:], uint32(s.offsetBits))
	le.PutUint64(b[56:], s.sequence.Load())

	number := map[int]int{} // index in the segment table -> place in the list
	at := layout.tablesAt
	for i, seg := range segs {
		number[seg.index] = i
	}
	for i := range s.shards {
		sh := &s.shards[i]
		t := table(b[at : at+len(sh.table)])
		for pos := range sh.table.slots() {
			if w := sh.table.get(pos); w != 0 {
				loc := w.location()
				n := number[int(loc>>s.offsetBits)]
				t.set(pos, makeSlot(w.tag(), location(n)<<s.offsetBits|loc&(1<<s.offsetBits-1)))
			}
		}
		at += len(t)
		e := b[layout.shardsAt+i*hintShardSize:]
		le.PutUint32(e[0:], uint32(t.slots()))
		le.PutUint32(e[4:], uint32(sh.memories.Load()))
		le.PutUint64(e[8:], uint64(sh.liveBytes.Load()))
		le.PutUint32(e[16:], checksum(t))
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
		le.PutUint32(e[40:], checksum(offsets))
	}
	le.PutUint32(b[layout.tablesAt-4:], checksum(b[:layout.tablesAt-4]))
}

// loadHint makes the index from the hint, if there is one to be believed. Nothing is changed when not.
func (r *recovery) loadHint() bool {
	if r.s.opts.Repair || len(r.leftover) > 0 {
		return false
	}
	file, err := r.s.disk.fs.open(hintName, false)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.s.opts.Logger.Warn("hint cannot be opened, every record is read", "error", err)
		}
		return false
	}
	defer func() { _ = file.close() }() // it was only read
	if err := r.readHint(file.bytes()); err != nil {
		r.s.opts.Logger.Warn("hint is not used, every record is read", "reason", err)
		return false
	}
	return true
}

// readHint checks all of b before it uses any of it.
func (r *recovery) readHint(b []byte) (err error) {
	defer r.s.catchFault(armFaults(), &err)
	layout, err := r.checkHint(b)
	if err != nil {
		return err
	}
	tables := make([]table, shardCount)
	at := layout.tablesAt
	var g errgroup.Group
	g.SetLimit(r.workers())
	for i := range tables {
		e := b[layout.shardsAt+i*hintShardSize:]
		size := int(binary.LittleEndian.Uint32(e)) * slotSize
		if size%pageSize != 0 || size > len(b)-at {
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
	err = errors.Join(err, g.Wait())
	var tombstones [][]uint32
	if err == nil {
		tombstones, err = readTombstones(b, at, layout)
	}
	if err != nil {
		for _, t := range tables {
			if len(t) > 0 {
				r.s.release(t)
			}
		}
		return err
	}
	r.useHint(b, layout, tables, tombstones)
	return nil
}

// checkHint checks the header of a hint, and that it is one of the segments found.
func (r *recovery) checkHint(b []byte) (layout hintLayout, err error) {
	le := binary.LittleEndian
	if len(b) < hintHeaderSize || string(b[:8]) != hintMagic || le.Uint32(b[8:]) != formatVersion {
		return layout, errors.New("no hint of this version")
	}
	layout = layoutHint(len(r.found))
	if le.Uint32(b[12:]) != uint32(len(r.found)) || len(b) < layout.tablesAt {
		return layout, errors.New("another number of segments")
	}
	if le.Uint32(b[layout.tablesAt-4:]) != checksum(b[:layout.tablesAt-4]) {
		return layout, errors.New("checksum mismatch")
	}
	if storeID(b[16:32]) != r.s.disk.store || le.Uint32(b[48:]) != uint32(r.s.offsetBits) {
		return layout, errors.New("another store, or another size of segments")
	}
	byID := map[uint64]*recovered{}
	for _, f := range r.found {
		byID[f.seg.id] = f
	}
	for i := range r.found {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		f := byID[le.Uint64(e)]
		if f == nil || !f.state.sealed || f.state.synced != le.Uint64(e[8:]) || f.state.records != le.Uint32(e[32:]) {
			return layout, fmt.Errorf("segment %d is another", le.Uint64(e))
		}
		delete(byID, f.seg.id)
		r.found[i], r.found[slices.Index(r.found, f)] = f, r.found[i] // in the order of the hint
	}
	return layout, nil
}

// copyTable returns a table of its own, with the bytes of from. Locations are checked when they are
// followed, as always.
func (r *recovery) copyTable(from []byte, sum uint32) (table, error) {
	if len(from) == 0 {
		return nil, nil
	}
	mem, err := r.s.mapper.acquire(len(from))
	if err != nil {
		return nil, err
	}
	copy(mem, from)
	if checksum(mem) != sum {
		r.s.release(mem)
		return nil, errors.New("checksum mismatch in a table")
	}
	return mem, nil
}

// readTombstones reads the lists of tombstones that begin at at.
func readTombstones(b []byte, at int, layout hintLayout) (lists [][]uint32, err error) {
	le := binary.LittleEndian
	for i := range layout.segments {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		size := 4 * int(le.Uint32(e[36:]))
		if size > len(b)-at || checksum(b[at:at+size]) != le.Uint32(e[40:]) {
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
func (r *recovery) useHint(b []byte, layout hintLayout, tables []table, tombstones [][]uint32) {
	le := binary.LittleEndian
	s := r.s
	s.disk.key = decodeSipKey(b[32:])
	r.maxSeq = le.Uint64(b[56:])
	index := make([]int, len(r.found)) // place in the list -> index in the segment table
	for i, f := range r.found {
		e := b[hintHeaderSize+i*hintSegmentSize:]
		f.seg.grew(int(le.Uint32(e[32:])), int(le.Uint64(e[8:]))-segmentHeaderSize)
		f.seg.live.Store(int64(le.Uint64(e[16:])))
		f.seg.minSeq = le.Uint64(e[24:])
		f.seg.tombstones = tombstones[i]
		f.seg.seal(!f.seg.large && int64(f.seg.room(1)) > s.mergeableRoom())
		index[i] = f.seg.index
		r.records += int(f.seg.records.Load())
	}
	for i, t := range tables {
		e := b[layout.shardsAt+i*hintShardSize:]
		sh := &s.shards[i]
		sh.table = t
		sh.memories.Store(int64(le.Uint32(e[4:])))
		sh.liveBytes.Store(int64(le.Uint64(e[8:])))
		for pos := range t.slots() {
			if w := t.get(pos); w != 0 {
				loc := w.location()
				n := int(loc >> s.offsetBits)
				t.set(pos, makeSlot(w.tag(), location(index[n])<<s.offsetBits|loc&(1<<s.offsetBits-1)))
			}
		}
	}
}

func (r *recovery) workers() int { return min(maxLanes, r.s.opts.Compaction.Workers*2) }
