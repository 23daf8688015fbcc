package warmtier

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/warmtier/warmtier/internal/cpu"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/sip"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
The offset index finds the record of an id. It holds no pointer and no string: it is 256 shards,
each an open-addressing table of 8-byte slots in mapped memory, where the garbage collector never
looks.

	slot      0 when empty, otherwise tag (23 bits) ‖ bit of reads ‖ location (40 bits)
	location  number of the segment in the segment table ‖ offset in units of 8 bytes; how many bits
	          each part has follows from SegmentSize; never 0, since a segment starts with a header
	hash      shard (8 bits) ‖ tag (23 bits) ‖ rest; seeded per store, so that nobody can choose ids
	          that crowd one shard

A tag is all of the hash that a shard uses. The home of a slot is tag × slots / 2^23, a multiply and
a shift, so a table may have any number of slots, and grows by a third instead of doubling.
Collisions go to the next free slot, and a removal moves later slots back (Knuth, TAOCP vol. 3,
section 6.4, algorithm R) instead of leaving marks. Growing, shrinking and removing need the tags
only: no record is read, no page of a segment is touched.

Cost: a table is between 50 % and 80 % full, which is 10 to 16 bytes per memory. With the room
around tables, and old ones that wait for readers, the index takes at most 24 (see tablemem.go). Two
ids of one shard share a tag with probability 2^-23, so at 10 million memories 0.5 % of all look-ups
read a second record; ids are always compared in the record itself.

I2 (one slot): an id has at most one slot, found from its home before any empty slot. While a
removal moves slots back, one of them may be there twice for a moment, the same in both places.
I3 (positions): positions change only by insert, remove and resize, and only with the lock of the
shard's lane held; a compaction exchanges locations in place. So a holder of the lane's lock may
remember a position between two holds of the shard's lock, and look an id up without that lock.

Reading without a lock. A reader holds contentMu and no lock of the index. It loads the shard's
table, and then slots one by one, atomically; writers store slots atomically, under the shard's
lock. The reader believes:

  - A hit, always. Whatever slot it loads was the slot of its id at that moment, or, in a table that
    was replaced during the probe, when the table was replaced, which was within the call. Each
    store puts a slot into the table that is valid at that moment, over an empty one (a new memory),
    over the same id's (an overwrite, a flip), over one that has been removed, or over one that has
    been copied to where it is found before (a removal that moves slots back copies first, then
    overwrites). contentMu keeps the segment that the slot names in the segment table. The record
    says whose it is.
  - A miss, only if no removal came between: one may move the slot looked for from ahead of the
    reader to a place it has passed. So shifts is odd while a removal is under way and has grown
    after it, and a miss counts when shifts was even before the probe and is the same after. No
    other change hides a slot: a new memory fills an empty slot, an overwrite and a flip keep a
    slot's tag and place, and a resize leaves the old table as it was. After missAttempts misses
    that do not count the reader takes the shard's lock.
  - Damage, only with the shard's lock held. What a slot leads to is damaged without the lock as
    well (see hits), but an error may take its time.

The bit of reads. In a store that evicts, a read sets the bit in the slot that it followed, by
compare-and-swap with the slot as it was, and does not try again. While it holds contentMu no other
record can get that location, so the slot it changes is its id's, wherever that is; a slot that was
exchanged, moved or emptied in the meantime differs, and stays as it is. What a writer stores over a
slot that it has loaded may lose a bit set in between, and so may a table that is replaced, which is
a read forgotten. Whoever looks for a slot ignores the bit: a flip that did not would leave slots that
name its victim.

A probe ends: some slots are always empty, and a reader that walked after a moving slot forever
would need a writer at each step.

I7 (old tables): a table that was replaced stays mapped until contentMu has been held for writing,
so a reader, which loads a table and is done with it within one hold of contentMu, never loads a
slot from unmapped memory. A goroutine that reads a table without contentMu loads it with the
shard's lock held, under which no table is replaced.

docs/design.md, sections 3 and 8, has the proofs.
*/

const (
	shardBits    = 8
	shardCount   = 1 << shardBits
	tagBits      = 23
	tagCount     = 1 << tagBits
	tagShift     = 64 - tagBits
	readBit      = 1 << locationBits // of a slot: its memory was read since the hand of eviction came by
	locationBits = tagShift - 1
	locationMask = 1<<locationBits - 1
	slotSize     = 8 // bytes
)

// location is the place of a record: (segment, offset) in 40 bits.
type location uint64

// slot is one entry of a table: tag, bit of reads, location.
type slot uint64

// makeSlot returns a slot that was not read.
func makeSlot(tag uint32, loc location) slot { return slot(tag)<<tagShift | slot(loc) }

func (w slot) tag() uint32 { return uint32(w >> tagShift) }

// same reports whether w and v are the slot of one record, read or not.
func (w slot) same(v slot) bool { return (w^v)&^readBit == 0 }

func (w slot) location() location { return location(w & locationMask) }

// table is the slots of one shard. Once readers know it, its slots are loaded and stored with get
// and set only.
type table []slot

// tableOf returns mapped memory as a table. The memory begins at a page, so slots are aligned as
// words are.
func tableOf(mem []byte) table {
	return unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/slotSize)
}

// bytes returns the memory of t.
func (t table) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t))), len(t)*slotSize)
}

func (t table) slots() int { return len(t) }

func (t table) get(pos int) slot { return slot(atomic.LoadUint64((*uint64)(&t[pos]))) }

func (t table) set(pos int, w slot) { atomic.StoreUint64((*uint64)(&t[pos]), uint64(w)) }

func (t table) home(tag uint32) int { return int(uint64(tag) * uint64(t.slots()) >> tagBits) }

func (t table) next(pos int) int { return wrap(pos+1, t.slots()) }

// distance returns how many steps forward lead from a to b.
func (t table) distance(a, b int) int {
	return wrap(b-a+t.slots(), t.slots())
}

func wrap(pos, slots int) int {
	if pos >= slots {
		return pos - slots
	}
	return pos
}

// first returns the first slot with tag, or 0 when there is none: its position is where a new slot
// with that tag goes.
func (t table) first(tag uint32) (pos int, w slot) {
	if len(t) == 0 {
		return 0, 0
	}
	return t.seek(t.home(tag), tag)
}

// following returns the next slot with tag after pos, or 0 as first does.
func (t table) following(pos int, tag uint32) (int, slot) { return t.seek(t.next(pos), tag) }

// seek returns the first slot from pos on that is empty or has tag. It ends, since a table is never
// full.
func (t table) seek(pos int, tag uint32) (int, slot) {
	for {
		w := t.get(pos)
		if w == 0 || w.tag() == tag {
			return pos, w
		}
		if pos++; pos >= len(t) {
			pos = 0
		}
	}
}

// find returns the position of w, whose bit of reads may have changed.
func (t table) find(w slot) (pos int, ok bool) {
	for pos, v := t.first(w.tag()); v != 0; pos, v = t.following(pos, w.tag()) {
		if v.same(w) {
			return pos, true
		}
	}
	return 0, false
}

// remove empties pos and moves back every later slot that could no longer be found. A slot that
// moves is in both places before it is gone from one, since readers may be looking.
func (t table) remove(pos int) {
	for next := t.next(pos); ; next = t.next(next) {
		w := t.get(next)
		if w == 0 {
			break
		}
		// w may move to pos unless its home lies between pos and where it is.
		if t.distance(t.home(w.tag()), next) >= t.distance(pos, next) {
			t.set(pos, w)
			pos = next
		}
	}
	t.set(pos, 0)
}

// appendRange appends the slots whose tag is in [from, to) to dst. The tag of an id never changes,
// so ranges walked one after the other see each id once, though tables may be resized, slots moved
// and locations exchanged between them.
func (t table) appendRange(dst []slot, from, to uint32) []slot {
	if len(t) == 0 {
		return dst
	}
	last := t.home(to - 1)
	passed := false
	for pos, n := t.home(from), 0; n < t.slots(); pos, n = t.next(pos), n+1 {
		w := t.get(pos)
		passed = passed || pos == last
		if w == 0 && passed {
			break // no slot of the range is beyond an empty one at or after its last home
		}
		if w != 0 && w.tag() >= from && w.tag() < to {
			dst = append(dst, w)
		}
	}
	return dst
}

// shard is one part of the index.
type shard struct {
	shardShared
	_ [cpu.CacheLines - unsafe.Sizeof(shardShared{})%cpu.CacheLines]byte
	shardState
	_ [cpu.CacheLines - unsafe.Sizeof(shardState{})%cpu.CacheLines]byte
}

// shardShared is what readers load. It changes only when the table is replaced.
type shardShared struct {
	lane  *lane                 // every writer of this shard holds its lock; set by Open
	table atomic.Pointer[table] // nil for an empty one; stored with the lane's lock and mu held
}

// shardState changes with every write.
type shardState struct {
	mu lockrank.Mutex[shardRank]
	// mu guards writing the slots of the table and the counters. Both are also read without it;
	// Stats sees each counter exact, but not all of them at one moment.
	memories  atomic.Int64  // slots in use
	liveBytes atomic.Int64  // sizes of the records they point to
	version   atomic.Int64  // grows before and after each change of slots and byte counts
	shifts    atomic.Uint64 // grows before and after each removal: odd while one is under way

	puts, deletes atomic.Int64
	deleteMisses  atomic.Int64 // written under the lane's lock

	resizing *resizing // nil while no other table is being filled; written with the lane's lock and mu held
}

// passThrough waits until nobody holds the lock who had it before. REQUIRES: mu NOT held.
func (sh *shard) passThrough() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
}

// current returns the shard's table, empty before its first memory.
func (sh *shard) current() table {
	if t := sh.table.Load(); t != nil {
		return *t
	}
	return nil
}

// prefetch asks for the home slot of tag. No lock is needed: it does no harm when the table has
// been replaced, and even unmapped.
func (sh *shard) prefetch(tag uint32) {
	if t := sh.current(); len(t) > 0 {
		home := t.home(tag)
		cpu.Prefetch(t[home : home+1].bytes())
	}
}

// setTable makes t the shard's table. REQUIRES: the lane's lock and mu held, or nobody else knows the shard yet.
func (sh *shard) setTable(t table) { sh.table.Store(&t) }

// wanted returns the number of slots the table should have for n memories: what it has, if that
// leaves it between 1/2 and 4/5 full, and otherwise that of a new table. A cache line is not counted
// towards 1/2: with it, a table of a few lines that has just grown would be too empty already.
func (sh *shard) wanted(n int) int {
	slots := sh.current().slots()
	if n*5 <= slots*4 && n*2 >= slots-tableAlign/slotSize {
		return slots
	}
	return newTableSlots(n)
}

// newTableSlots returns as many slots as make a table of n memories 3/5 full, in whole cache lines.
func newTableSlots(n int) int {
	return vm.RoundUp(max(1, n*5/3*slotSize), tableAlign) / slotSize
}

// rangeEnd returns a tag such that about n memories have a tag between from and it.
func (sh *shard) rangeEnd(from uint32, n int) uint32 {
	memories := max(1, sh.memories.Load())
	return uint32(min(tagCount, int64(from)+max(1, int64(n)*tagCount/memories)))
}

// replacedTables are the tables that wait for their readers (I7).
type replacedTables struct {
	mu     sync.Mutex // a leaf
	tables []table
	bytes  atomic.Int64 // size of all tables; written with mu held
}

// leastReplaced is how many bytes of tables may wait in any case, since a release waits for every
// reader.
const leastReplaced = 64 << 10

func (l *replacedTables) add(t table) {
	if len(t) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tables = append(l.tables, t)
	l.bytes.Add(int64(len(t)) * slotSize)
}

// takeLocked returns all replaced tables and forgets them. No reader is in them, and none will be.
// REQUIRES: contentMu write-held.
func (l *replacedTables) takeLocked() (tables []table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tables, l.tables = l.tables, nil
	l.bytes.Store(0)
	return tables
}

// trimReplaced ends a call that may have replaced a table: it moves a table out of a block that is
// to be emptied, and gives old ones back when a block is empty or more than 1/16 of the index is
// waiting. REQUIRES: no lock held.
func (s *Store) trimReplaced() {
	s.tables.provide()
	emptied := s.evacuate()
	waiting := s.replaced.bytes.Load()
	if emptied || waiting > leastReplaced && waiting > s.tableBytes.Load()/16 {
		s.releaseReplaced()
	}
}

// releaseReplaced gives all replaced tables back. REQUIRES: no lock held.
func (s *Store) releaseReplaced() {
	if s.replaced.bytes.Load() == 0 {
		return
	}
	s.contentMu.Lock()
	start := time.Now()
	tables := s.replaced.takeLocked()
	pause := time.Since(start)
	s.contentMu.Unlock()
	s.history.addPause(pause)
	s.releaseTables(tables)
}

// discardTables gives back tables that no reader knows, and that wait for nobody.
func (s *Store) discardTables(tables []table) {
	for _, t := range tables {
		s.tables.retire(t)
	}
	s.releaseTables(tables)
}

// releaseTables gives back tables that were replaced. REQUIRES: I7 holds for them.
func (s *Store) releaseTables(tables []table) {
	for _, t := range tables {
		if len(t) > 0 {
			s.warn("memory of the index could not be given back", s.tables.release(t))
		}
	}
}

// splitHash returns the shard and the tag of an id with this hash.
func splitHash(h uint64) (shardIndex int, tag uint32) {
	return int(h >> (64 - shardBits)), uint32(h>>(64-shardBits-tagBits)) & (tagCount - 1)
}

// place returns the shard and the tag of id.
func (s *Store) place(id string) (sh *shard, tag uint32) {
	shardIndex, tag := splitHash(s.hash(id))
	return &s.shards[shardIndex], tag
}

// hash returns the seeded hash of id.
func (s *Store) hash(id string) uint64 {
	if s.hooks.hash != nil {
		return s.hooks.hash(id)
	}
	if s.keyedHash() {
		return sip.Hash(s.disk.key, id)
	}
	return maphash.String(s.hashSeed, id)
}

// hashBytes returns the hash of an id that is not a string.
func (s *Store) hashBytes(id []byte) uint64 {
	if s.hooks.hash != nil {
		return s.hooks.hash(string(id))
	}
	if s.keyedHash() {
		return sip.Hash(s.disk.key, id)
	}
	return maphash.Bytes(s.hashSeed, id)
}

// keyedHash reports whether hashes have to outlive the process, as tags in the hint of a directory
// do; the seed of maphash does not.
func (s *Store) keyedHash() bool { return s.disk != nil }
