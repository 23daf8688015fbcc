package warmtier

import (
	"iter"
	"slices"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
A round may drop live memories of the victims that leave in it, instead of copying them. The order:

	build   what is to be dropped is staged with its victim (stageDrops); in a directory it leaves a
	        tombstone in a target, as long as older records of its id can be left (tombstones.go)
	flip    the survivors
	commit  flush, and the manifest without the victims
	drop    each staged memory leaves the index, if its slot is still the one that was staged
	swap    the victims leave the table, and their memory is used again

A memory is dropped after the manifest is in force, and not before: otherwise a Delete that comes in
between would find nothing and write no tombstone, and after a crash the victim, and the memory in it,
would count again. Until the drop the memory is there for everybody; a crash in between drops it.

A drop can neither fail nor does it need memory, since the round cannot be undone any more. It holds the
lock of the lane, since it moves slots (I3), and that of the shard. The slot names a record in a victim,
which nobody else writes and which is in the table until the swap: where the slot is no longer the one that
was staged, the memory was overwritten or deleted, and that write has accounted for the record.

What is staged of a victim that does not leave yet waits for the round in which it does: a tombstone of
a memory whose record stays would be no better than none.

A tombstone has the sequence number of the memory that was dropped. A record with that number may be
left in a segment that stays, if a compaction was cut off when it had copied a part of it: recovery
takes the tombstone for the newer of the two.
*/

// fate is what a round does with a live record of a victim.
type fate uint8

const (
	fateCopied fate = iota
	fateExpired
	fateEvicted
)

// drop is a memory that a round drops when its victim leaves.
type drop struct {
	slot  slot   // of the record, in the victim
	size  uint32 // of the record, bytes
	shard uint8
	mark  uint16 // of the ghost
	fate  fate
	done  bool // the memory has left the index by this drop
}

// dropBatch is how many memories are dropped in one hold of a lane's lock, which takes some us.
const dropBatch = 64

// fateOf decides about the live record at rec, whose header h is not verified yet.
func (r *round) fateOf(rec []byte, h record.Header) fate {
	if h.Flags() != 0 && record.Deadline(rec, h) <= r.now {
		return fateExpired
	}
	if decide := r.c.s.hooks.fate; decide != nil {
		return decide(string(record.ID(rec, h)))
	}
	return fateCopied
}

// drop adds the record with header h at offset in ch's victim to what is dropped.
func (ch *chunk) drop(s *Store, offset int, h record.Header, f fate) {
	loc := s.locate(ch.v.seg, offset)
	ch.drops = append(ch.drops, drop{slot: slot(loc), size: uint32(h.Size()), fate: f})
	if s.leavesTombstones() {
		ch.tombstones += record.Size(h.IDLen(), 0) + layout.DigestSize
	}
}

// stageDrops verifies the prefixes of the records of ch that are to be dropped, and stages the drops.
// REQUIRES: r.mu NOT held.
func (r *round) stageDrops(ch *chunk) error {
	if len(ch.drops) == 0 {
		return nil
	}
	s, seg := r.c.s, ch.v.seg
	for i := range ch.drops {
		d := &ch.drops[i]
		_, offset := s.resolve(d.slot.location())
		rec := seg.mem[offset:int(seg.tail.Load())]
		h, ok := record.Decode(rec)
		if !ok || h.Kind() != record.KindMemory || !record.IntactPrefix(rec, h, seg.seedAt(offset)) {
			return ch.v.damaged(offset, "damaged header or id")
		}
		hash := s.hashBytes(record.ID(rec, h))
		shardIndex, tag := splitHash(hash)
		d.slot, d.shard, d.mark = makeSlot(tag, d.slot.location()), uint8(shardIndex), ghostMark(hash)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range ch.drops {
		ch.v.drops.add(d)
	}
	return nil
}

// dropBytes returns the size of the records that are dropped when v leaves.
func (v *victim) dropBytes() (bytes int64) {
	for d := range v.drops.all() {
		bytes += int64(d.size)
	}
	return bytes
}

// shardDrops are drops by shard.
type shardDrops [shardCount]pieces[drop]

// leavingDrops returns the drops of the victims that leave, nil if there are none.
func (c *compaction) leavingDrops() (drops *shardDrops) {
	for _, v := range c.work {
		if v.live.len() > 0 || v.drops.len() == 0 {
			continue
		}
		if drops == nil {
			drops = new(shardDrops)
		}
		for d := range v.drops.all() {
			drops[d.shard].add(d)
		}
	}
	return drops
}

// apply takes what is to be dropped out of the index. REQUIRES: the round is durable, no lock held.
func (c *compaction) apply(drops *shardDrops) {
	_ = c.s.hooks.fire(pointCompactDrop)
	for shard := range drops.shards() {
		for piece := range drops[shard].each() {
			for batch := range slices.Chunk(piece, dropBatch) {
				c.s.drop(&c.s.shards[shard], batch)
				c.pace.yield(0)
			}
		}
	}
}

// shards returns the shards that have drops.
func (d *shardDrops) shards() iter.Seq[int] {
	return func(yield func(int) bool) {
		for shard := 0; d != nil && shard < shardCount; shard++ {
			if d[shard].len() > 0 && !yield(shard) {
				return
			}
		}
	}
}

// drop takes the memories of batch, all of sh, out of the index whose slots are still those that were
// staged.
func (s *Store) drop(sh *shard, batch []drop) {
	sh.lane.mu.Lock() // positions change (I3)
	defer sh.lane.mu.Unlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	for i := range batch {
		d := &batch[i]
		pos, ok := sh.current().find(d.slot)
		if !ok {
			continue // overwritten or deleted since it was staged
		}
		seg, _ := s.resolve(d.slot.location())
		s.takeOut(sh, pos, seg, int64(d.size))
		d.done = true
		if d.fate == fateEvicted {
			s.ghosts.note(int(d.shard), d.slot.tag(), d.mark)
		}
	}
}

// shrinkTables gives the shards of drops tables of the size that suits what is left.
func (s *Store) shrinkTables(drops *shardDrops) {
	for shard := range drops.shards() {
		s.suit(&s.shards[shard])
	}
}
