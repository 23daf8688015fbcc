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

A block is filled from front to back and never used twice: tables are replaced by larger or smaller
ones, all shards at about the same time since the hash spreads ids evenly, and so the blocks that
belong to one size of the store empty together. What a table leaves in a block that is still needed
is given back page by page.
*/

const (
	tableAlign = 64 // bytes: a table begins with a cache line

	// A block has smallBlock bytes while the index is small. Once tables have largeBlocksFrom bytes
	// a new block is one huge page, which is at most a quarter of that.
	smallBlock      = 256 << 10
	largeBlock      = 2 << 20
	largeBlocksFrom = 8 << 20
)

// tableMemory hands out memory for tables: out of a block, or a mapping of its own for a table of
// more than half a block. It is safe for concurrent use.
type tableMemory struct {
	mapper *mapper

	mu     sync.Mutex    // a leaf
	blocks []*tableBlock // the last one is being filled
	live   int           // bytes of tables in blocks

	bytes atomic.Int64 // mapped, less the pages given back in blocks; written under mu
}

// tableBlock is one mapping, shared by tables.
type tableBlock struct {
	mem  []byte
	used int // bytes handed out, from the front
	live int // bytes of tables that were not released
	kept int // bytes of mem less the pages given back
}

// acquire returns a table of empty slots whose pages are present. The slots of a table fill lines of
// tableAlign bytes. The error is ErrNoSpace.
func (m *tableMemory) acquire(slots int) (table, error) {
	size := slots * slotSize
	m.mu.Lock()
	defer m.mu.Unlock()
	blockSize := smallBlock
	if m.live >= largeBlocksFrom {
		blockSize = largeBlock
	}
	if vm.OnHeap || size > blockSize/2 {
		mem, err := m.mapper.acquire(vm.RoundUp(size, vm.PageSize))
		if err != nil {
			return nil, err
		}
		vm.Touch(mem)
		m.bytes.Add(int64(len(mem)))
		return tableOf(mem)[:slots], nil
	}
	b := m.last()
	if b == nil || len(b.mem)-b.used < size {
		mem, err := m.mapper.acquire(blockSize)
		if err != nil {
			return nil, err
		}
		vm.Touch(mem)
		m.bytes.Add(int64(len(mem)))
		b = &tableBlock{mem: mem, kept: len(mem)}
		m.blocks = append(m.blocks, b)
	}
	mem := b.mem[b.used : b.used+size : b.used+size]
	b.used += size
	b.live += size
	m.live += size
	return tableOf(mem), nil
}

// last returns the block being filled, nil when there is none. REQUIRES: m.mu held.
func (m *tableMemory) last() *tableBlock {
	if len(m.blocks) == 0 {
		return nil
	}
	return m.blocks[len(m.blocks)-1]
}

// release takes back a table that nobody can reach: it unmaps the block with its last table, and
// until then gives back the whole pages in it that only t was on.
func (m *tableMemory) release(t table) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.blocks, func(b *tableBlock) bool { return b.holds(t) })
	if i < 0 { // it has a mapping of its own
		mem := t[:cap(t)].bytes()
		m.bytes.Add(-int64(len(mem)))
		return m.mapper.release(mem)
	}
	b, size := m.blocks[i], len(t)*slotSize
	b.live -= size
	m.live -= size
	if b.live == 0 {
		m.blocks = slices.Delete(m.blocks, i, i+1)
		m.bytes.Add(-int64(b.kept))
		return m.mapper.release(b.mem)
	}
	offset := int(t.address() - address(b.mem))
	from, to := vm.RoundUp(offset, vm.PageSize), offset+size
	if to -= to % vm.PageSize; from >= to {
		return nil
	}
	b.kept -= to - from
	m.bytes.Add(-int64(to - from))
	return vm.Discard(b.mem[from:to])
}

// address returns where t lies. It is compared, and never becomes a pointer again.
func (t table) address() uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(t))) }

// holds reports whether t was handed out of b.
func (b *tableBlock) holds(t table) bool {
	return t.address() >= address(b.mem) && t.address()-address(b.mem) < uintptr(len(b.mem))
}
