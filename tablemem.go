package warmtier

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/warmtier/warmtier/internal/vm"
)

/*
Tables of the index lie side by side in blocks, so that a look-up finds its slot in memory that is
near. A mapping for each table would be at least 256 places for the processor's address cache (TLB),
each at least a page, and none of them long enough for a huge page: a look-up would take up to 13 %
longer in a large store, and a store of 10,000 memories would have ten times the index (measured in
docs/design.md, section 3).

A block is filled from front to back and never used twice: memory of a new table is zero, and where
a reader may still be nothing is ever written. It is unmapped with its last table. Tables are
replaced in no order, so a block would live as long as the luckiest of them. Therefore, when blocks
that are filled take more than 6/5 of the tables in use in them, the one that is used least is
evacuated: each write moves a table out of it, or part of one, until it is empty (Store.evacuate). That costs
little: all shards are resized at about the same time, since the hash spreads ids evenly, and a
table that moves is resized a little early.

So IndexBytes is at most: 6/5 of the tables in use, which take 16 bytes a memory or less; one block
that is being filled and one that is being emptied, 1/16 of the tables each, or 1/5 where a block
has to be as long as a huge page; and 1/16 that waits for readers.
*/

const (
	tableAlign = 64 // bytes: a table begins with a cache line

	// A block has room for tablesPerBlock tables, and smallBlock bytes at least. For tables of
	// hugeFrom bytes or more, of which all shards together need 10 MiB, it is made of huge pages.
	tablesPerBlock     = 16
	tablesPerHugeBlock = 8
	smallBlock         = 64 << 10
	largeBlock         = 2 << 20
	hugeFrom           = 40 << 10
	largestInBlock     = 1 << 20
)

// tableMemory hands out memory for tables: out of a block, which one longer than largestInBlock has for itself. It is
// safe for concurrent use.
type tableMemory struct {
	mapper *mapper

	mu     sync.Mutex    // a leaf
	closed bool          // by Close: no block is added any more
	blocks []*tableBlock // the last one is being filled

	bytes  atomic.Int64               // mapped; written under mu
	wanted atomic.Int64               // size of a table for which no block had room; 0: none
	sparse atomic.Pointer[tableBlock] // the block to be emptied, or nil; written under mu, but for giving up
}

// tableBlock is one mapping, shared by tables.
type tableBlock struct {
	mem  []byte
	used int           // bytes handed out, from the front
	held int           // bytes of tables that were not released
	live int           // bytes of tables that were not retired
	next atomic.Uint32 // where the evacuation looks for a table; counts on
}

// blockSize returns the size of a block for tables of size bytes.
func blockSize(size int) int {
	switch {
	case size > largestInBlock:
		return vm.RoundUp(size, vm.PageSize)
	case size >= hugeFrom:
		return vm.RoundUp(tablesPerHugeBlock*size, largeBlock)
	}
	return max(smallBlock, vm.RoundUp(tablesPerBlock*size, vm.PageSize))
}

// errNoBlock is returned where a block would have to be mapped, and a caller with locks held would wait for it.
var errNoBlock = errors.New("warmtier: no block of the index has room")

// mappedAtOnce is the size of the largest block that is mapped with locks held.
const mappedAtOnce = 128 << 10

// acquire returns a table of empty slots whose pages are present. The slots of a table fill lines of
// tableAlign bytes. The error is ErrNoSpace, or unless it is needed now, errNoBlock: then a call of provide maps one.
func (m *tableMemory) acquire(slots int, now bool) (table, error) {
	size := slots * slotSize
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.last()
	if b == nil || len(b.mem)-b.used < size {
		if mapped := blockSize(size); !now && mapped > mappedAtOnce {
			m.wanted.Store(int64(size))
			return nil, errNoBlock
		}
		mem, err := m.mapBlock(size)
		if err != nil {
			return nil, err
		}
		b = m.addLocked(mem)
	}
	mem := b.mem[b.used : b.used+size : b.used+size]
	b.used += size
	b.held += size
	b.live += size
	m.chooseSparse()
	return tableOf(mem), nil
}

// provide maps the block that a caller of acquire wanted, if any. A failure shows when the table is needed.
// REQUIRES: no lock held.
func (m *tableMemory) provide() {
	size := int(m.wanted.Load())
	if size == 0 || !m.wanted.CompareAndSwap(int64(size), 0) {
		return
	}
	mem, err := m.mapBlock(size)
	if err != nil {
		m.sparse.Store(nil) // nothing is wrong but the room that it takes, and the next table makes the choice again
		return
	}
	m.mu.Lock()
	b := m.last()
	useless := m.closed || b != nil && len(b.mem)-b.used >= size // another writer was first
	if !useless {
		m.addLocked(mem)
	}
	m.mu.Unlock()
	if useless {
		_ = m.mapper.release(mem) // what cannot be unmapped is kept, and told by Close
	}
}

// mapBlock returns the memory of a block for a table of size bytes, and others if there is memory for them, whose pages
// are present.
func (m *tableMemory) mapBlock(size int) (mem []byte, err error) {
	if mem, err = m.mapper.acquire(blockSize(size)); err != nil { // near a limit a block for this table alone may do
		mem, err = m.mapper.acquire(vm.RoundUp(size, vm.PageSize))
	}
	if err == nil {
		vm.Touch(mem)
	}
	return mem, err
}

// addLocked makes mem the block that is filled next. REQUIRES: m.mu held.
func (m *tableMemory) addLocked(mem []byte) *tableBlock {
	b := &tableBlock{mem: mem}
	m.dropUnusedLocked()
	m.blocks = append(m.blocks, b)
	m.bytes.Add(int64(len(mem)))
	return b
}

// dropUnusedLocked unmaps the last block if no table was ever taken from it. REQUIRES: m.mu held.
func (m *tableMemory) dropUnusedLocked() {
	if b := m.last(); b != nil && b.used == 0 {
		m.blocks = m.blocks[:len(m.blocks)-1]
		m.bytes.Add(-int64(len(b.mem)))
		_ = m.mapper.release(b.mem) // what cannot be unmapped is kept, and told by Close
	}
}

// close unmaps what no table has used. The others go with their tables.
func (m *tableMemory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.dropUnusedLocked()
}

// last returns the block being filled, nil when there is none. REQUIRES: m.mu held.
func (m *tableMemory) last() *tableBlock {
	if len(m.blocks) == 0 {
		return nil
	}
	return m.blocks[len(m.blocks)-1]
}

// chooseSparse chooses the block to be emptied: the one least in use, when there is more than 1/5 to
// be gained in those that are filled. One without a table in use waits for readers only, and counts
// no more. REQUIRES: m.mu held.
func (m *tableMemory) chooseSparse() {
	var sparse *tableBlock
	size, live := 0, 0
	for _, b := range m.blocks[:max(1, len(m.blocks))-1] {
		if b.live == 0 {
			continue
		}
		size += len(b.mem)
		live += b.live
		if sparse == nil || b.live*len(sparse.mem) < sparse.live*len(b.mem) {
			sparse = b
		}
	}
	if (size-smallBlock)*5 <= live*6 {
		sparse = nil
	}
	m.sparse.Store(sparse)
}

// retire counts t, which is no shard's table any more. emptied means that no table in its block is in
// use.
func (m *tableMemory) retire(t table) (emptied bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.blockOf(t)
	if i < 0 {
		return false
	}
	b := m.blocks[i]
	b.live -= len(t) * slotSize
	m.chooseSparse()
	return b.live == 0
}

// release takes back a retired table that no reader is in, and unmaps its block with the last one.
func (m *tableMemory) release(t table) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := t[:cap(t)].bytes()
	if i := m.blockOf(t); i >= 0 {
		b := m.blocks[i]
		if b.held -= len(t) * slotSize; b.held > 0 {
			if vm.OnHeap {
				clear(mem) // for the race detector, as with what vm.Unmap takes back
			}
			return nil
		}
		m.blocks = slices.Delete(m.blocks, i, i+1)
		m.chooseSparse()
		mem = b.mem
	}
	m.bytes.Add(-int64(len(mem)))
	return m.mapper.release(mem)
}

// evacuate moves one table out of the block that is to be emptied, if there is one, and reports
// whether that was the last one in use there. REQUIRES: no lock held.
func (s *Store) evacuate() (emptied bool) {
	b := s.tables.sparse.Load()
	if b == nil {
		return false
	}
	for range shardCount {
		sh := &s.shards[b.next.Add(1)%shardCount]
		if b.holds(sh.current()) {
			return s.moveTable(sh, b)
		}
	}
	// A table in b is about to be published or retired. The next one that is makes the choice again.
	s.tables.sparse.CompareAndSwap(b, nil)
	return false
}

// moveTable moves the table of sh out of b. It gets the size of a new table: in a store that grows
// or shrinks it would have been resized before long.
//
// Nobody may give a shard a table once Close has taken them all: Close would have lost it. Close
// holds contentMu for writing, and leaves no table behind. So the table is looked at again with
// contentMu read-held. REQUIRES: no lock held.
func (s *Store) moveTable(sh *shard, b *tableBlock) (emptied bool) {
	_ = s.hooks.fire(pointTableFound)
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	sh.lane.mu.Lock()
	defer sh.lane.mu.Unlock()
	if !b.holds(sh.current()) {
		return false
	}
	_ = s.hooks.fire(pointTableMoving)
	if sh.resizing == nil {
		err := s.beginResize(sh, newTableSlots(int(sh.memories.Load())), false)
		if errors.Is(err, errNoBlock) {
			return false // the next write finds one
		}
		if err != nil {
			// Nothing is wrong but the room that b takes, and the next table makes the choice again.
			s.tables.sparse.CompareAndSwap(b, nil)
			return false
		}
	}
	return s.moveSlots(sh)
}

// blockOf returns which block t was handed out of, -1 for an empty one. REQUIRES: m.mu held.
func (m *tableMemory) blockOf(t table) int {
	return slices.IndexFunc(m.blocks, func(b *tableBlock) bool { return b.holds(t) })
}

// address returns where t lies. It is compared, and never becomes a pointer again.
func (t table) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(t))) }

// holds reports whether t was handed out of b.
func (b *tableBlock) holds(t table) bool {
	return t.address() >= address(b.mem) && t.address()-address(b.mem) < uintptr(len(b.mem))
}
