package warmtier

import (
	"context"
	"math/bits"
)

// walkBatch is how many slots are read in one hold of a shard's lock, which takes a few us.
const walkBatch = 1024

// walk lists the live records of group. It need not see one moment of the index: a record that is
// live when its shard is read may be superseded later, which the flip will find out, and none can
// become live.
func (c *compaction) walk(ctx context.Context, group []*victim) error {
	places := make([]int, len(*c.s.segments.entries.Load())) // segment index -> 1 + position in group
	for i, v := range group {
		v.left = v.seg.live.Load() // before any is found: it only falls
		places[v.seg.index] = i + 1
	}
	found := make([][][]uint32, c.pace.count())
	read := make([][][]uint32, len(found))
	for worker := range found {
		if c.evicts() {
			read[worker] = make([][]uint32, len(group))
		}
		found[worker] = make([][]uint32, len(group))
		for i, v := range group {
			found[worker][i] = make([]uint32, 0, c.expectedLive(v.seg)/len(found))
		}
	}
	err := c.parallel(ctx, len(found), func(ctx context.Context, worker, shard int) error {
		c.walkShard(worker, &c.s.shards[shard], places, found[worker], read[worker])
		return stopped(ctx)
	})
	var sorter offsetSorter
	for i, v := range group {
		v.live = found[0][i]
		for _, lists := range found[1:] {
			v.live = append(v.live, lists[i]...)
		}
		sorter.sort(v.live)
		for _, lists := range read {
			if c.evicts() {
				v.read = append(v.read, lists[i]...)
			}
		}
		sorter.sort(v.read)
	}
	return err
}

// expectedLive estimates how many live records seg has, from their average size in the store, and
// adds a tenth.
func (c *compaction) expectedLive(seg *segment) int {
	return int(float64(seg.live.Load()) / c.recordSize * 1.1)
}

// offsetSorter sorts the offsets of records in one segment by setting a bit for each (Bentley,
// "Programming Pearls", column 1), which takes a fifth of the time of a sort that compares.
type offsetSorter struct{ bits []uint64 }

// sort sorts offsets, which are all different.
func (o *offsetSorter) sort(offsets []uint32) {
	for _, u := range offsets {
		for int(u/64) >= len(o.bits) {
			o.bits = append(o.bits, make([]uint64, max(1024, len(o.bits)))...)
		}
		o.bits[u/64] |= 1 << (u % 64)
	}
	n := 0
	for i, word := range o.bits {
		for ; word != 0; word &= word - 1 {
			offsets[n] = uint32(i*64 + bits.TrailingZeros64(word))
			n++
		}
		o.bits[i] = 0
	}
}

// walkShard appends the offset in each slot of sh that names a victim to the list of that victim in found,
// and of those that were read to that in read, unless it is nil.
func (c *compaction) walkShard(worker int, sh *shard, places []int, found, read [][]uint32) {
	slots := make([]slot, 0, 2*walkBatch)
	for from := uint32(0); from < tagCount; {
		sh.mu.Lock()
		to := sh.rangeEnd(from, walkBatch)
		slots = sh.current().appendRange(slots[:0], from, to)
		sh.mu.Unlock()
		for _, w := range slots {
			index := int(w.location() >> c.s.offsetBits)
			if index >= len(places) || places[index] == 0 {
				continue
			}
			i, unit := places[index]-1, uint32(w.location()&(1<<c.s.offsetBits-1))
			found[i] = append(found[i], unit)
			if read != nil && w&readBit != 0 {
				read[i] = append(read[i], unit)
			}
		}
		from = to
		c.pace.yield(worker)
	}
}
