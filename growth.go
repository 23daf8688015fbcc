package warmtier

import (
	"math/bits"
	"sync"
	"time"
)

/*
Segments grow with the store. Each lane has an active segment, and one more is kept back: of SegmentSize,
that would be 100 MiB and more for the first ten memories. So the next segment of a lane is a share of
what the store maps (growthShare), from 64 KiB to SegmentSize, in powers of two: what active segments and
the one kept back have beside records is a part of the store, and there are at most some 12 segments a
lane of each smaller size, which compactions merge as they merge any.

A small store may be overwritten as fast as a large one, and would make a segment, in a directory a file,
with every few hundred records. So what lanes have written lately counts as what is mapped does: a
store makes a few segments a second at most, however small it is.

What is kept back for compactions takes the live records of any one segment of a lane, or one could not
begin at a limit (room.go). So it grows first: a lane gets a larger segment only when as much is
kept back (segmentPool.keepBack, disk.growLocked), and otherwise one of the size that is.

	lane                                        compaction
	makes a segment larger than what is
	kept back, and fills it
	                                            seals it; no memory is left
	                                            fills what is kept back, the victim is not empty,
	                                            nothing is given back, now or later: wrong

What is kept back never becomes smaller before the next Open, and is counted (medium.keptSize) only once
it is there. A compaction reads that first, for its targets, then takes what is kept back, which is as large at
least. A lane whose segments grow while a compaction has it keeps a larger one back beside. A victim that has
grown between the two is larger than a target, and goes in two rounds: at a limit no lane grows.
*/

const (
	// growthShare is how many segments of its size a lane has filled, by its share, when it begins one.
	growthShare = 6

	// growthWindow is how long what was written counts, at least, and less than twice as long.
	growthWindow = 30 * time.Second

	// A memory store of hugeStore bytes has segments of hugeSegment at least, which get huge pages: in pages
	// of 4 KiB a Get of one of 10,000 memories of 1 KiB took a fifth longer, and a Put of a new one half.
	hugeStore   = 4 << 20
	hugeSegment = 2 << 20
)

// growth counts what lanes write. It is safe for concurrent use.
type growth struct {
	mu     sync.Mutex // a leaf
	since  time.Time  // when the window began
	begun  int64      // bytes that had been written then
	before int64      // bytes that were written in the window before
}

// lately returns how many bytes were written in about a window, of all that were written until now.
func (g *growth) lately(written int64, now time.Time) int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if age := now.Sub(g.since); age >= growthWindow {
		g.before = 0
		if age < 2*growthWindow {
			g.before = written - g.begun
		}
		g.since, g.begun = now, written
	}
	return max(g.before, written-g.begun)
}

// smallSegments returns about how many segments under SegmentSize a store has that has grown.
func (s *Store) smallSegments() int {
	return 2 * growthShare * len(s.lanes) * bits.Len(uint(s.opts.SegmentSize-1)/minSegmentSize)
}

// nextSize returns the size of the next segment of a lane, which a record of size bytes needs.
func (s *Store) nextSize(size int) int {
	lately := s.growth.lately(s.maintenance.written.Load(), time.Now())
	store, least := max(s.mapper.bytes.Load(), lately), minSegmentSize
	share := store / int64(growthShare*len(s.lanes))
	if s.hooks.share != nil {
		share = s.hooks.share(store)
	} else if s.medium.recycles() && max(s.maintenance.liveBytes.Load(), lately) >= hugeStore {
		least = hugeSegment // not by what is mapped: segments of that size would keep it there
	}
	next := s.opts.SegmentSize
	if share < int64(next) {
		next = min(next, max(least, 1<<(bits.Len64(uint64(share|1))-1)))
	}
	if kept := s.medium.keptSize(); next < kept && kept <= 2*next {
		next = kept // a store near a power of two has segments of one size, whose memory can be used again
	}
	return max(next, segmentSizeFor(size))
}
