package warmtier

import "context"

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
	found := make([][]offsets, c.pace.count())
	read := make([][]offsets, len(found))
	for worker := range found {
		found[worker] = make([]offsets, len(group))
		if c.evicts() {
			read[worker] = make([]offsets, len(group))
		}
	}
	err := c.parallel(ctx, len(found), func(ctx context.Context, worker, shard int) error {
		c.walkShard(worker, &c.s.shards[shard], places, found[worker], read[worker])
		return stopped(ctx)
	})
	var sorter offsetSorter
	for i, v := range group {
		for _, lists := range found {
			v.live.join(lists[i].pieces)
		}
		sorter.sort(&v.live)
		if !c.evicts() {
			continue
		}
		for _, lists := range read {
			v.read.join(lists[i].pieces)
		}
		sorter.sort(&v.read)
	}
	return err
}

// walkShard appends the offset in each slot of sh that names a victim to the list of that victim in found,
// and of those that were read to that in read, unless it is nil.
func (c *compaction) walkShard(worker int, sh *shard, places []int, found, read []offsets) {
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
			found[i].add(unit)
			if read != nil && w&readBit != 0 {
				read[i].add(unit)
			}
		}
		from = to
		c.pace.yield(worker)
	}
}
