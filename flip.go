package warmtier

import (
	"context"
	"iter"
	"slices"
	"sync/atomic"
	"unsafe"
)

// flipBatch is how many slots are exchanged in one hold of a shard's lock, which takes a few us.
const flipBatch = 128

// move is one staged change of the index: the slot of a record becomes that of its copy.
type move struct {
	from, to slot
	size     uint32 // of the record, bytes
	shard    uint8
}

// moves holds what one worker has staged, in lists of at most pieceBytes. These are sorted one by one, each while it
// is in the processor's cache.
type moves struct {
	lists []moveList
	used  int // the others are memory of rounds before
	n     int
}

type moveList struct {
	moves []move
	start [shardCount + 1]int32 // after sort, moves[start[i]:start[i+1]] belongs to shard i
}

func (m *moves) reset() { m.used, m.n = 0, 0 }

func (m *moves) add(mv move) {
	if m.used == 0 || len(m.lists[m.used-1].moves) == cap(m.lists[m.used-1].moves) {
		m.extend()
	}
	l := &m.lists[m.used-1]
	l.moves = append(l.moves, mv)
	m.n++
}

func (m *moves) extend() {
	m.sort()
	if m.used == len(m.lists) {
		size := max(64, min(m.n/2, pieceBytes/int(unsafe.Sizeof(move{}))))
		m.lists = append(m.lists, moveList{moves: make([]move, 0, size)})
	}
	m.lists[m.used].moves = m.lists[m.used].moves[:0]
	m.used++
}

// sort sorts the last list. The others are.
func (m *moves) sort() {
	if m.used > 0 {
		m.lists[m.used-1].sort()
	}
}

// bytes returns the memory that m takes.
func (m *moves) bytes() (bytes int64) {
	for i := range m.lists {
		bytes += int64(cap(m.lists[i].moves))*int64(unsafe.Sizeof(move{})) + int64(unsafe.Sizeof(moveList{}))
	}
	return bytes
}

// of returns the moves of a shard, flipBatch of them at a time. A batch is good until the next. REQUIRES: sort
// was called.
func (m *moves) of(shard int) iter.Seq[[]move] {
	return func(yield func([]move) bool) {
		var batch [flipBatch]move
		n := 0
		for i := range m.lists[:m.used] {
			l := &m.lists[i]
			for rest := l.moves[l.start[shard]:l.start[shard+1]]; len(rest) > 0; {
				k := copy(batch[n:], rest)
				rest = rest[k:]
				if n += k; n < flipBatch {
					continue
				}
				if !yield(batch[:]) {
					return
				}
				n = 0
			}
		}
		if n > 0 {
			yield(batch[:n])
		}
	}
}

// sort brings the moves into the order of their shards, in place and in linear time (American flag
// sort: McIlroy, Bostic, McIlroy, "Engineering Radix Sort", Computing Systems 6(1), 1993, section
// 3.1). A list for each shard would take up to twice the memory.
func (l *moveList) sort() {
	clear(l.start[:])
	for _, mv := range l.moves {
		l.start[int(mv.shard)+1]++
	}
	for i := range shardCount {
		l.start[i+1] += l.start[i]
	}
	var next [shardCount]int32 // where the next move of each shard goes
	copy(next[:], l.start[:])
	for shard := range shardCount {
		for next[shard] < l.start[shard+1] {
			at := next[shard]
			if home := int(l.moves[at].shard); home != shard {
				l.moves[at], l.moves[next[home]] = l.moves[next[home]], l.moves[at]
				next[home]++
				continue
			}
			next[shard]++
		}
	}
}

// commit makes the copies visible: it publishes the targets, then flips every staged move. moved is
// how many slots it exchanged, superseded how many had changed since their record was copied.
func (r *round) commit(ctx context.Context) (moved, superseded int64, err error) {
	c := r.c
	for w := range c.staged {
		c.staged[w].sort()
	}
	r.publish()
	bits := slot(readBit)
	if c.evicts() { // it has had its turn
		bits = 0
	}
	var m, sup atomic.Int64
	err = c.parallel(ctx, len(c.staged), func(ctx context.Context, worker, shard int) error {
		for w := range c.staged {
			for batch := range c.staged[w].of(shard) {
				n, err := c.s.flip(&c.s.shards[shard], batch, bits)
				m.Add(int64(n))
				sup.Add(int64(len(batch) - n))
				if err == nil {
					err = stopped(ctx)
				}
				if err != nil {
					return err
				}
				c.pace.yield(worker)
			}
		}
		return nil
	})
	return m.Load(), sup.Load(), err
}

// publish puts the targets into the table, a few in a hold of contentMu, before any slot can name
// them.
func (r *round) publish() {
	s := r.c.s
	for batch := range slices.Chunk(r.targets, removalBatch) {
		hold := s.contentMu.RLock()
		for _, target := range batch {
			s.segments.publish(target)
		}
		s.contentMu.RUnlock(hold)
		_ = s.hooks.fire(pointTargetsPublished)
	}
	r.published = true
}

// flip exchanges the slots of batch that the index still has, all of them but the bit of reads, which
// goes along if bits has it, and returns how many it exchanged. A slot that a writer has changed stays as
// it is, so no write is lost. A read that sets its bit between the load and the store is forgotten.
func (s *Store) flip(sh *shard, batch []move, bits slot) (flipped int, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	var tally liveTally
	defer tally.flush()
	for _, m := range batch {
		sh.prefetch(m.from.tag())
	}
	for _, m := range batch {
		if err := s.hooks.fire(pointCompactFlip); err != nil {
			return flipped, err
		}
		if pos, ok := sh.current().find(m.from); ok {
			sh.setLocked(pos, m.to|sh.current().get(pos)&bits)
			s.moveLive(&tally, m)
			flipped++
		}
	}
	return flipped, nil
}

// liveTally adds up live bytes on their way from one segment to another, so that the counters both
// segments share with others are written once for each run of moves: a batch seldom has more than a
// few runs.
type liveTally struct {
	from, to *segment
	bytes    int64
}

// flush moves what was added up.
func (t *liveTally) flush() {
	if t.bytes > 0 {
		t.from.live.Add(-t.bytes)
		t.to.live.Add(t.bytes)
	}
	t.bytes = 0
}

// moveLive counts the bytes of m as live in its new segment and no longer in its old one. REQUIRES:
// the lock of m's shard held until t is flushed.
func (s *Store) moveLive(t *liveTally, m move) {
	from, _ := s.resolve(m.from.location())
	to, _ := s.resolve(m.to.location())
	if from != t.from || to != t.to {
		t.flush()
		t.from, t.to = from, to
	}
	t.bytes += int64(m.size)
}

// unflipAll takes back every flip of the round whose new slot is still there.
func (c *compaction) unflipAll() {
	for w := range c.staged {
		for i := range c.s.shards {
			for batch := range c.staged[w].of(i) {
				c.s.unflip(&c.s.shards[i], batch)
			}
		}
	}
}

// unflip puts the old slots of batch back where the index still has the new ones.
func (s *Store) unflip(sh *shard, batch []move) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.version.Add(1)
	defer sh.version.Add(1)
	var tally liveTally
	defer tally.flush()
	for _, m := range batch {
		if pos, ok := sh.current().find(m.to); ok {
			sh.setLocked(pos, m.from|sh.current().get(pos)&readBit)
			s.moveLive(&tally, move{from: m.to, to: m.from, size: m.size})
		}
	}
}
