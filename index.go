package warmtier

import (
	"encoding/binary"
	"hash/maphash"
	"sync/atomic"
	"unsafe"
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

Cost: a table is between 40 % and 80 % full, which is 10 to 20 bytes per memory. Two ids of one
shard share a tag with probability 2^-24 each, 0.2 % of all look-ups at 10 million memories read
a second record; ids are always compared in the record itself.

I2 (one slot): an id has at most one slot, found from its home before any empty slot.
I3 (positions): positions change only by insert, remove and resize, whose callers hold the lock of
the shard's lane; a compaction exchanges locations in place. So whoever holds the lane's lock may
remember a position between two holds of the shard's lock.
*/

const (
	shardBits    = 8
	shardCount   = 1 << shardBits
	tagBits      = 24
	tagCount     = 1 << tagBits
	locationBits = 64 - tagBits
	locationMask = 1<<locationBits - 1
	slotSize     = 8 // bytes

	// cacheLines is the alignment that keeps two shards apart: two lines, since processors fetch
	// lines in pairs.
	cacheLines = 128 // bytes
)

// location is the place of a record: (segment, offset) in 40 bits.
type location uint64

// slot is one entry of a table: tag and location.
type slot uint64

func makeSlot(tag uint32, loc location) slot { return slot(tag)<<locationBits | slot(loc) }
func (w slot) tag() uint32                   { return uint32(w >> locationBits) }
func (w slot) location() location            { return location(w & locationMask) }

// table is the slots of one shard.
type table []byte

func (t table) slots() int          { return len(t) / slotSize }
func (t table) get(pos int) slot    { return slot(binary.LittleEndian.Uint64(t[pos*slotSize:])) }
func (t table) set(pos int, w slot) { binary.LittleEndian.PutUint64(t[pos*slotSize:], uint64(w)) }
func (t table) home(tag uint32) int { return int(uint64(tag) * uint64(t.slots()) >> tagBits) }
func (t table) next(pos int) int    { return wrap(pos+1, t.slots()) }
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
		pos = t.next(pos)
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

// remove empties pos and moves back every later slot that could no longer be found.
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
	shardState
	_ [cacheLines - unsafe.Sizeof(shardState{})%cacheLines]byte
}

type shardState struct {
	lane *lane // whose lock every writer of this shard holds; set by Open

	mu rankedRWMutex[shardRank]
	// table and what follows is guarded by mu; the atomics are also read without it, by Stats,
	// which then sees each of them exact but not all of one moment.
	table     table
	memories  atomic.Int64 // slots in use
	liveBytes atomic.Int64 // sizes of the records they point to
	version   atomic.Int64 // grows before and after each change of slots and byte counts

	puts, deletes atomic.Int64 // written under mu
	gets, misses  atomic.Int64 // written by readers; per shard, so that no line is written by all
	deleteMisses  atomic.Int64 // written under the lane's lock
	remainder     int64        // of gets, at which a read is measured; set by Open
}

// wanted is the number of slots the table should have for n memories: as many as it has while that
// leaves it between 2/5 and 4/5 full, else as many whole pages as make it 3/5 full.
func (sh *shard) wanted(n int) int {
	slots := sh.table.slots()
	if n*5 <= slots*4 && n*5 >= slots*2 {
		return slots
	}
	return roundUp(max(1, n*5/3*slotSize), pageSize) / slotSize
}

// rangeEnd returns a tag so that about n memories have tags from it down to from.
func (sh *shard) rangeEnd(from uint32, n int) uint32 {
	memories := max(1, sh.memories.Load())
	return uint32(min(tagCount, int64(from)+max(1, int64(n)*tagCount/memories)))
}

// resizeLocked moves the slots to t, which is empty and large enough, and returns the old table.
// REQUIRES: the lane's lock held and sh.mu held.
func (sh *shard) resizeLocked(t table) (old table) {
	old = sh.table
	for pos := range old.slots() {
		if w := old.get(pos); w != 0 {
			free := t.home(w.tag())
			for t.get(free) != 0 {
				free = t.next(free)
			}
			t.set(free, w)
		}
	}
	sh.table = t
	return old
}

// prepare gives the shard of a lane a table that suits n memories. The new table is mapped, and its
// pages touched, with no shard lock held, so that the lock is held for moving slots only.
// REQUIRES: the lane's lock held; sh.mu NOT held.
func (s *Store) prepare(sh *shard, n int) error {
	slots := sh.wanted(n)
	// Reading the table's length needs no sh.mu: whoever writes it holds the lane's lock.
	if slots == sh.table.slots() {
		return nil
	}
	mem, err := s.mapper.acquire(slots * slotSize)
	if err != nil {
		return err
	}
	for i := 0; i < len(mem); i += pageSize {
		mem[i] = 0
	}
	sh.mu.Lock()
	old := sh.resizeLocked(mem)
	sh.mu.Unlock()
	if len(old) > 0 {
		s.release(old)
	}
	return nil
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
		return sipHash(s.disk.key, id)
	}
	return maphash.String(s.hashSeed, id)
}

// hashBytes is hash of an id that is not a string.
func (s *Store) hashBytes(id []byte) uint64 {
	if s.hooks.hash != nil {
		return s.hooks.hash(string(id))
	}
	if s.disk != nil {
		return sipHash(s.disk.key, id)
	}
	return maphash.Bytes(s.hashSeed, id)
}
