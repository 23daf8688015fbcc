package warmtier

import (
	"runtime"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

// memory is the medium of a store in anonymous memory. Nothing in it outlives the process, so there
// is nothing to flush, to list or to remove, deletions leave no tombstones, and memory is kept back
// (segmentPool) in place of files.
type memory struct{ s *Store }

// openMemory makes s a store in memory.
func (s *Store) openMemory() {
	s.medium = memory{s}
	// Lanes cost nothing but memory, and fewer writers meet in one.
	s.makeLanes(2 * runtime.GOMAXPROCS(0))
}

// make maps a segment. One for a lane takes memory that the pool has kept for lanes, if there is any.
func (m memory) make(id uint64, spec segmentSpec) (*segment, error) {
	s := m.s
	shared := spec.kind == layout.KindLane && !spec.large
	var mem []byte
	if shared {
		mem = s.pool.take(spec.needed)
	}
	if mem == nil {
		acquire := s.acquire
		if spec.kind == layout.KindTarget {
			acquire = s.mapper.acquireTarget // the compaction has taken what the pool held
		}
		var err error
		if spec.kind == layout.KindLane { // compactions first
			size := 0
			if shared {
				size = spec.size
			}
			if err = s.keepSurvivor(size); err != nil {
				return nil, err
			}
		}
		if mem, err = acquire(spec.size); err != nil {
			return nil, err
		}
		if shared && len(mem) < hugeSegment {
			vm.Touch(mem) // at once: half as dear as a fault for every page
		}
	}
	if shared {
		s.pool.countBegun()
	}
	return newSegment(id, mem, spec.kind, 0), nil
}

func (m memory) discard(seg *segment) error { return m.s.mapper.release(seg.mem) }

func (m memory) free(seg *segment) { m.s.release(seg.mem) }

func (m memory) remove(*segment) {}

// trim discards the pages beyond the tail: in recycled memory they hold what the victim left there.
func (m memory) trim(target *segment) error {
	return vm.Discard(target.mem[vm.RoundUp(int(target.tail.Load()), vm.PageSize):])
}

func (m memory) recycles() bool { return true }

func (m memory) targetSize() int { return m.keptSize() }

// keepSpares does nothing: what a compaction gives back fills the survivor up.
func (m memory) keepSpares() {}

func (m memory) keptSize() int { return m.s.pool.keptSize() }

func (m memory) held() (mapped, spares int64) { return m.s.mapper.bytes.Load(), 0 }

func (m memory) dropDead(segs []*segment) ([]*segment, error) { return segs, nil }

func (m memory) holdFlushes() (done func()) { return func() {} }

func (m memory) unseal(*segment) error { return nil }

func (m memory) carryTombstones(*round) error { return nil }

func (m memory) commit(_, _ []*segment) (uncertain bool, err error) { return false, nil }

func (m memory) syncs() bool { return false }

func (m memory) sync() error { return nil }

func (m memory) syncWrite() error { return nil }

func (m memory) unsynced(*segment) int64 { return 0 }

// fileAt finds nothing: a fault in anonymous memory is a bug, and stays a panic.
func (m memory) fileAt(uintptr) (name string, offset int64, ok bool) { return "", 0, false }

func (m memory) describe() []any {
	return []any{"segment_size", m.s.opts.SegmentSize, "lanes", len(m.s.lanes)}
}

func (m memory) finish() error { return nil }

func (m memory) close() error { return nil }
