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
The offset index finds the record of an id. It holds no pointer and no string: 256 shards, each an
open-addressing table of 8-byte slots in mapped memory, where the garbage collector never looks.

	slot      0 when empty, else tag (24 bits) ‖ location (40 bits)
	location  number of the segment in the segment table ‖ offset in units of 8 bytes; how many bits
	          each part has follows from SegmentSize; never 0, since a segment starts with a header
	hash      shard (8 bits) ‖ tag (24 bits) ‖ unused; seeded per store, so that nobody can choose
	          ids that crowd one shard

A tag is all of the hash that a shard uses: the home of a slot is tag × slots / 2^24 (a multiply
and a shift, so a table may have any number of slots, and grows by a third instead of doubling),
collisions go to the next free slot, and a removal moves later slots back (Knuth, TAOCP vol. 3,
section 6.4, algorithm R) instead of leaving marks behind. Growing, shrinking and removing need the
tags only: no record is read, no page of a segment is touched.

Cost: a table is between 45 % and 80 % full, which is 10 to 18 bytes per memory; while tables are replaced,
up to 24. Two ids of one
shard share a tag with probability 2^-24 each, 0.2 % of all look-ups at 10 million memories read
a second record; ids are always compared in the record itself.

I2 (one slot): an id has at most one slot, found from its home before any empty slot. While a removal
moves slots back, one of them may be there twice for a moment, the same in both places.
I3 (positions): positions change only by insert, remove and resize, whose callers hold the lock of
the shard's lane; a compaction exchanges locations in place. So whoever holds the lane's lock may
remember a position between two holds of the shard's lock, and needs none to look an id up.

Reading without a lock. A reader holds contentMu and no lock of the index: it loads the shard's table,
and slots one by one, atomically, while writers store them atomically under the shard's lock. What it
may believe:

  - A hit, always. Each store puts a slot into the table that is valid at that moment, over an empty
    one (a new memory), over the same id's (an overwrite, a flip), over one that has been removed, or
    over one that has been copied to where it is found before (a removal that moves slots back: copy
    first, then overwrite). So whatever slot is loaded, at whatever moment, was the slot of its id at that
    moment, and contentMu keeps the segment it names in the segment table (section 8 of
    docs/design.md). The record says whose it is. That moment is the read's point of linearization.
  - A hit or a miss in a table that was replaced meanwhile: it is frozen as it was when it was replaced,
    which was within the call. A hit there was true at that moment.
  - A miss, only if no removal came between. The interleaving that would break it: X at position 5, home
    4. The reader has passed 4, another memory's. A removal of that one moves X to 4 and empties 5; the
    reader finds 5 empty. So shifts is odd while a removal is under way and another number after it, and
    a miss counts when it was even before the probe and the same after. Other changes need not be
    counted: a new memory fills an empty slot, an overwrite and a flip keep a slot's tag and place, and
    a resize leaves the old table behind as it was. After a few such misses the reader takes the lock.
  - A damaged record, only under the shard's lock: it would be one without (see hits), but an error may
    take its time.

A probe ends: some slots are always empty, and a reader that walked after a moving one would need a
writer at each step.

I7 (old tables): a table that was replaced stays mapped until no reader can be in it. Readers load a table
and are done with it within one hold of contentMu; so an old one waits in limbo until contentMu has been
held for writing once: by a swap, by Close, or by a write that finds too much waiting. Whoever reads a
table with the shard's lock only, and without contentMu, has it from the shard under that lock, where it
is not replaced meanwhile. The interleaving that would break it: a reader loads the table, a Put replaces
and unmaps it, the reader loads a slot.
*/

const (
	shardBits    = 8
	shardCount   = 1 << shardBits
	tagBits      = 24
	tagCount     = 1 << tagBits
	locationBits = 64 - tagBits
	locationMask = 1<<locationBits - 1
	slotSize     = 8 // bytes
)

// location is the place of a record: (segment, offset) in 40 bits.
type location uint64

// slot is one entry of a table: tag and location.
type slot uint64

func makeSlot(tag uint32, loc location) slot { return slot(tag)<<locationBits | slot(loc) }

func (w slot) tag() uint32 { return uint32(w >> locationBits) }

func (w slot) location() location { return location(w & locationMask) }

// table is the slots of one shard. In a table that readers know, slots are loaded with get and stored
// with set only.
type table []slot

// tableOf makes a table of mapped memory. A slice of bytes that begins at a page is one of whole words.
func tableOf(mem []byte) table {
	return unsafe.Slice((*slot)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/slotSize)
}

// bytes is the memory of t.
func (t table) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t))), len(t)*slotSize)
}

func (t table) slots() int { return len(t) }

func (t table) get(pos int) slot { return slot(atomic.LoadUint64((*uint64)(&t[pos]))) }

func (t table) set(pos int, w slot) { atomic.StoreUint64((*uint64)(&t[pos]), uint64(w)) }

func (t table) home(tag uint32) int { return int(uint64(tag) * uint64(t.slots()) >> tagBits) }

func (t table) next(pos int) int { return wrap(pos+1, t.slots()) }

func (t table) distance(a, b int) int { // from a forward to b
	return wrap(b-a+t.slots(), t.slots())
}

func wrap(pos, slots int) int {
	if pos >= slots {
		return pos - slots
	}
	return pos
}

// first returns the first slot with tag, 0 when there is none. The position of 0 is where a new
// slot of that tag goes.
func (t table) first(tag uint32) (pos int, w slot) {
	if len(t) == 0 {
		return 0, 0
	}
	return t.seek(t.home(tag), tag)
}

// following returns the next slot with tag after pos, 0 when there is none.
func (t table) following(pos int, tag uint32) (int, slot) { return t.seek(t.next(pos), tag) }

// seek ends, since a table is never full.
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

// find returns the position of exactly w.
func (t table) find(w slot) (pos int, ok bool) {
	for pos, v := t.first(w.tag()); v != 0; pos, v = t.following(pos, w.tag()) {
		if v == w {
			return pos, true
		}
	}
	return 0, false
}

// remove empties pos and moves back every later slot that could no longer be found. A slot that moves is
// in both places before it is gone from one: readers may look on.
func (t table) remove(pos int) {
	for next := t.next(pos); ; next = t.next(next) {
		w := t.get(next)
		if w == 0 {
			break
		}
		// w may move to pos unless its home lies behind pos.
		if t.distance(t.home(w.tag()), next) >= t.distance(pos, next) {
			t.set(pos, w)
			pos = next
		}
	}
	t.set(pos, 0)
}

// appendRange appends the slots whose tag is in [from, to) to dst. The tags of ids never change,
// so ranges walked one after the other see each id once, whatever happens between them: tables may
// be resized, slots moved and locations exchanged.
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
			break // no slot of the range is beyond an empty one at or behind its last home
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

// shardShared is what readers load. It changes when the table is resized.
type shardShared struct {
	lane  *lane                 // whose lock every writer of this shard holds; set by Open
	table atomic.Pointer[table] // nil as nil table; stored under the lane's lock and mu
}

// shardState changes with every write.
type shardState struct {
	mu lockrank.Mutex[shardRank]
	// The slots of the table, and what follows, are written under mu; all of it is also read without:
	// the counters by Stats, which then sees each of them exact but not all of one moment.
	memories  atomic.Int64  // slots in use
	liveBytes atomic.Int64  // sizes of the records they point to
	version   atomic.Int64  // grows before and after each change of slots and byte counts
	shifts    atomic.Uint64 // grows before and after each removal: odd while one is under way

	puts, deletes atomic.Int64
	deleteMisses  atomic.Int64 // written under the lane's lock
}

// current is the shard's table.
func (sh *shard) current() table {
	if t := sh.table.Load(); t != nil {
		return *t
	}
	return nil
}

// prefetch has the home slot of tag fetched. No lock is needed: the table may be an old one, even one that
// is not mapped any more.
func (sh *shard) prefetch(tag uint32) {
	if t := sh.current(); len(t) > 0 {
		home := t.home(tag)
		cpu.Prefetch(t[home : home+1].bytes())
	}
}

// setTable makes t the shard's table. REQUIRES: as resizeLocked, or nobody else knows the shard yet.
func (sh *shard) setTable(t table) { sh.table.Store(&t) }

// wanted is the number of slots the table should have for n memories: as many as it has while that
// leaves it between 9/20 and 4/5 full, else as many whole cache lines as make it 3/5 full.
func (sh *shard) wanted(n int) int {
	slots := sh.current().slots()
	if n*5 <= slots*4 && n*20 >= slots*9 {
		return slots
	}
	return vm.RoundUp(max(1, n*5/3*slotSize), tableAlign) / slotSize
}

// rangeEnd returns a tag so that about n memories have tags from it down to from.
func (sh *shard) rangeEnd(from uint32, n int) uint32 {
	memories := max(1, sh.memories.Load())
	return uint32(min(tagCount, int64(from)+max(1, int64(n)*tagCount/memories)))
}

// resizeLocked moves the slots to t, which is empty and large enough, and returns the old table.
// REQUIRES: the lane's lock held and sh.mu held.
func (sh *shard) resizeLocked(t table) (old table) {
	old = sh.current()
	for _, w := range old { // who writes slots holds sh.mu, and t is known to nobody
		if w != 0 {
			free := t.home(w.tag())
			for t[free] != 0 {
				free = t.next(free)
			}
			t[free] = w
		}
	}
	sh.setTable(t)
	return old
}

// prepare gives the shard of a lane a table that suits n memories. The new table is mapped, and its
// pages touched, with no shard lock held, so that the lock is held for moving slots only.
// REQUIRES: the lane's lock held; sh.mu NOT held.
func (s *Store) prepare(sh *shard, n int) error {
	slots := sh.wanted(n)
	// Whoever replaces the table holds the lane's lock.
	if slots == sh.current().slots() {
		return nil
	}
	t, err := s.tables.acquire(slots)
	if err != nil {
		return err
	}
	sh.mu.Lock()
	old := sh.resizeLocked(t)
	sh.mu.Unlock()
	s.tableBytes.Add(int64(slots-old.slots()) * slotSize)
	s.replaced.add(old)
	return nil
}

// limbo is where tables wait that were replaced (I7).
type replacedTables struct {
	mu     sync.Mutex // a leaf
	tables []table
	bytes  atomic.Int64 // of them; written under mu
}

// leastLimbo is what may wait in any case, bytes: a release waits for every reader.
const leastReplaced = 256 << 10

func (l *replacedTables) add(t table) {
	if len(t) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tables = append(l.tables, t)
	l.bytes.Add(int64(len(t)) * slotSize)
}

// takeLocked empties the limbo. No reader is in these tables, and none comes. REQUIRES: contentMu
// write-held.
func (l *replacedTables) takeLocked() (tables []table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tables, l.tables = l.tables, nil
	l.bytes.Store(0)
	return tables
}

// trimLimbo ends a call that may have resized a table: it gives old ones back when more are waiting
// than 1/8 of the index. REQUIRES: no lock held.
func (s *Store) trimReplaced() {
	if waiting := s.replaced.bytes.Load(); waiting > leastReplaced && waiting > s.tableBytes.Load()/8 {
		s.releaseReplaced()
	}
}

// emptyLimbo gives all old tables back. REQUIRES: no lock held.
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

func (s *Store) releaseTables(tables []table) {
	for _, t := range tables {
		if len(t) > 0 {
			s.warn("memory of the index could not be given back", s.tables.release(t))
		}
	}
}

// splitHash returns the shard's number and the tag of an id with this hash.
func splitHash(h uint64) (number int, tag uint32) {
	return int(h >> (64 - shardBits)), uint32(h>>(64-shardBits-tagBits)) & (tagCount - 1)
}

// place returns the shard and the tag of id.
func (s *Store) place(id string) (sh *shard, tag uint32) {
	number, tag := splitHash(s.hash(id))
	return &s.shards[number], tag
}

func (s *Store) hash(id string) uint64 {
	if s.hooks.hash != nil {
		return s.hooks.hash(id)
	}
	if s.disk != nil {
		return sip.Hash(s.disk.key, id)
	}
	return maphash.String(s.hashSeed, id)
}

// hashBytes is hash of an id that is not a string.
func (s *Store) hashBytes(id []byte) uint64 {
	if s.hooks.hash != nil {
		return s.hooks.hash(string(id))
	}
	if s.disk != nil {
		return sip.Hash(s.disk.key, id)
	}
	return maphash.Bytes(s.hashSeed, id)
}
