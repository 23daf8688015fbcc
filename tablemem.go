package warmtier

import (
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
evacuated: each write moves one table out of it, until it is empty (Store.evacuate). That costs
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

// tableMemory hands out memory for tables: out of a block, or a mapping of its own for one longer
// than largestInBlock. It is safe for concurrent use.
type tableMemory struct {
	mapper *mapper

	mu     sync.Mutex    // a leaf
	blocks []*tableBlock // the last one is being filled

	bytes  atomic.Int64               // mapped; written under mu
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

// blockSize returns the size of a block for tables of size bytes, 0 if they share none.
func blockSize(size int) int {
	switch {
	case size > largestInBlock:
		return 0
	case size >= hugeFrom:
		return vm.RoundUp(tablesPerHugeBlock*size, largeBlock)
	}
	return max(smallBlock, vm.RoundUp(tablesPerBlock*size, vm.PageSize))
}

// acquire returns a table of empty slots whose pages are present. The slots of a table fill lines of
// tableAlign bytes. The error is ErrNoSpace.
func (m *tableMemory) acquire(slots int) (table, error) {
	size := slots * slotSize
	m.mu.Lock()
	defer m.mu.Unlock()
	mapped := blockSize(size)
	if mapped == 0 {
		mem, err := m.mapLocked(vm.RoundUp(size, vm.PageSize))
		if err != nil {
			return nil, err
		}
		return tableOf(mem)[:slots], nil
	}
	b := m.last()
	if b == nil || len(b.mem)-b.used < size {
		mem, err := m.mapLocked(mapped)
		if err != nil { // near a limit a block for this table alone may do
			mem, err = m.mapLocked(vm.RoundUp(size, vm.PageSize))
		}
		if err != nil {
			return nil, err
		}
		b = &tableBlock{mem: mem}
		m.blocks = append(m.blocks, b)
	}
	mem := b.mem[b.used : b.used+size : b.used+size]
	b.used += size
	b.held += size
	b.live += size
	m.chooseSparse()
	return tableOf(mem), nil
}

// mapLocked returns size bytes whose pages are present. REQUIRES: m.mu held.
func (m *tableMemory) mapLocked(size int) ([]byte, error) {
	mem, err := m.mapper.acquire(size)
	if err != nil {
		return nil, err
	}
	vm.Touch(mem)
	m.bytes.Add(int64(size))
	return mem, nil
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
	emptied, err := s.replaceTable(sh, newTableSlots(int(sh.memories.Load())))
	if err != nil {
		// Nothing is wrong but the room that b takes, and the next table makes the choice again.
		s.tables.sparse.CompareAndSwap(b, nil)
	}
	return emptied
}

// blockOf returns which block t was handed out of, -1 if it has a mapping of its own. REQUIRES: m.mu
// held.
func (m *tableMemory) blockOf(t table) int {
	return slices.IndexFunc(m.blocks, func(b *tableBlock) bool { return b.holds(t) })
}

// address returns where t lies. It is compared, and never becomes a pointer again.
func (t table) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(t))) }

// holds reports whether t was handed out of b.
func (b *tableBlock) holds(t table) bool {
	return t.address() >= address(b.mem) && t.address()-address(b.mem) < uintptr(len(b.mem))
}
