package warmtier

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// memoryRead is what a model knows of a memory: whether its slot has the bit of reads in the table of readers, and in
// the one being filled.
type memoryRead struct{ now, next bool }

// Goal: reads that set bits while slots move to another table hide no slot from it, leave none that was exchanged or
// removed, and give no other id a bit. The interleaving: a slot has moved, a reader sets its bit in the old table, and
// then it is flipped, overwritten, removed or its bit is cleared, in both. Method: a model that says which bits are
// kept: those set before a slot moved, or before a flip of it took them along.
func TestResize_ReadsBetweenMoves(t *testing.T) {
	rnd := seeded(t)
	for range scaled(15) {
		sh := &shard{}
		sh.setTable(make(table, 700))
		model := map[slot]*memoryRead{} // by the slots without their bits
		var drawn []slot                // its keys, and some that are gone, in an order that the seed decides
		last := 0
		fresh := func(tag uint32) slot {
			last++
			drawn = append(drawn, makeSlot(tag, location(last)))
			return drawn[len(drawn)-1]
		}
		add := func() {
			w := fresh(rnd.Uint32N(tagCount) >> rnd.UintN(20))
			pos, found := sh.current().first(w.tag())
			for found != 0 {
				pos, found = sh.current().following(pos, w.tag())
			}
			sh.setLocked(pos, w)
			sh.memories.Add(1)
			model[w] = &memoryRead{}
		}
		change := func(w slot, m *memoryRead) {
			pos, ok := sh.current().find(w)
			require.True(t, ok)
			switch rnd.IntN(6) {
			case 0: // a flip
				to := fresh(w.tag())
				sh.setLocked(pos, to|sh.current().get(pos)&readBit)
				delete(model, w)
				model[to] = &memoryRead{m.now, m.now}
			case 1: // an overwrite
				to := fresh(w.tag())
				sh.setLocked(pos, to)
				delete(model, w)
				model[to] = &memoryRead{}
			case 2: // the hand of eviction
				sh.setLocked(pos, w)
				*m = memoryRead{}
			case 3:
				sh.removeLocked(pos)
				sh.memories.Add(-1)
				delete(model, w)
			default:
				sh.current().markRead(pos, w)
				m.now = true
			}
		}
		work := func(steps int) {
			for range steps {
				if len(model) < 350 {
					add()
				}
				w := drawn[rnd.IntN(len(drawn))]
				if m := model[w]; m != nil {
					change(w, m)
				}
			}
		}
		check := func() {
			n := 0
			for _, w := range sh.current() {
				if w == 0 {
					continue
				}
				n++
				m := model[w&^readBit]
				require.NotNil(t, m, "slot %#x", w)
				require.Equal(t, m.now, w&readBit != 0, "slot %#x", w)
			}
			require.Len(t, model, n)
		}
		for range 300 {
			add()
		}
		work(200)
		sh.resizing = &resizing{next: make(table, 600+rnd.IntN(600))}
		for done := false; !done; {
			from, to := sh.resizing.upTo, uint32(tagCount)
			if _, done = sh.moveLocked(1 + rnd.IntN(100)); !done {
				to = sh.resizing.upTo
			}
			for w, m := range model {
				if w.tag() >= from && w.tag() < to {
					m.next = m.now
				}
				if done {
					m.now = m.next
				}
			}
			check()
			work(40)
			check()
		}
	}
}

// Goal: what is read, flipped, overwritten and deleted while the tables of a store move is neither lost nor there
// twice, and what nobody has read has no bit of reads. Method: half of the ids are read beside all that.
func TestResize_ReadsBesideWrites(t *testing.T) {
	const n, size = 2 * resizeBatch, 10
	spread := func(id string) uint64 { return uint64(numberOf(id)) * 0x9e3779b97f4a7c15 >> shardBits }
	opts := &Options{MaxBytes: 1 << 30, WhenFull: Evict, Maintenance: MaintenanceOptions{Disabled: true}}
	s := openTest(t, opts, hooks{hash: spread})
	fill(t, s, 0, n, size)
	sh, _ := s.place(idOf(0))
	resized := 0
	s.hooks.at = func(p point) error {
		if p == pointTableMoved {
			resized++
		}
		return nil
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; ; i = (i + 4) % n { // 0 modulo 4 stay, and are read
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Get(idOf(i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		for i := range n {
			switch i % 4 {
			case 0:
				if i%8 == 0 {
					require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
				}
			case 1, 3:
				require.NoError(t, deletePresent(s, i))
			}
			if i%1000 == 0 {
				mustCompact(t, s)
			}
		}
		for i := 1; i < n; i += 2 {
			require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		}
	}
	close(stop)
	readers.Wait()
	require.Greater(t, resized, 2)
	for i := range n {
		if i%4 != 0 {
			require.Zero(t, slotOfAny(s, idOf(i))&readBit, i)
		}
	}
	require.EqualValues(t, n, sh.memories.Load())
	requireContents(t, s, 0, n, size, all)
	requireIntact(t, s)
}

// slotOfAny returns the slot of id as it is, 0 when there is none.
func slotOfAny(s *Store, id string) slot {
	var m match
	sh, tag := s.place(id)
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if exists, err := s.find(&m, sh, tag, id); err != nil || !exists {
		return 0
	}
	return sh.current().get(m.pos)
}
