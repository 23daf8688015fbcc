package warmtier

/*
A shard that needs a table of another size fills it a few slots at a time: each write to the shard moves those of the
next range of tags, so no write holds its locks for as long as there are slots. The tag of an id never changes, and a
table lies about in the order of tags, so a range is read in one go, whatever was moved, inserted or removed since.

Until the last range the shard's table is the old one, and whole: readers, flips and walks know no other. Whoever
changes a slot does it with the shard's lock held (setLocked, removeLocked), and if its tag has been moved already, in
the new table as well:

	writer 1                                    writer 2
	moves the tags below 1000
	                                            overwrites an id with tag 17 in the old table alone
	moves the others, publishes the new table:
	the overwritten record is back: wrong

Readers set the bit of reads (index.go) with no lock, in the old table alone: slots are loaded atomically, and whoever
looks one up in the new table ignores the bit, as find does. A bit set after its slot has moved is lost with the old
table, unless a write or a flip takes it along: a read forgotten. It never gets to another id, since a slot is moved,
stored and removed as a whole.

The memory of a new table is there already as a rule. To map a block and to touch its pages takes as long as it is, so
where there is none a write notes what is wanted, and maps it when it has let go of all locks (tableMemory.provide).
Until then the table fills beyond the 4/5 at which it should have grown.
*/

const (
	// resizeBatch is how many slots a write moves, about: a few us.
	resizeBatch = 1024

	// A table that is fuller than fullest/8 waits no longer, neither for a block nor for the rest of the slots. The
	// writes that fill it so far beyond 4/5 have moved all of them, unless memory is short: no write is refused for want
	// of another table, larger or smaller, while the one that is there takes what it writes.
	fullest = 7
)

// resizing is a table that is being filled.
type resizing struct {
	next  table
	upTo  uint32 // tags below it are in both tables
	slots []slot // of the range that is being moved; room for it, since nothing is allocated with mu held
}

// setLocked stores w at pos of the shard's table, in place of an empty slot or one with the same tag. REQUIRES: mu
// held.
func (sh *shard) setLocked(pos int, w slot) {
	t := sh.current()
	if r := sh.resizing; r != nil && w.tag() < r.upTo {
		r.next.exchange(t.get(pos), w)
	}
	t.set(pos, w)
}

// removeLocked empties the slot at pos of the shard's table. REQUIRES: the lane's lock and mu held.
func (sh *shard) removeLocked(pos int) {
	t := sh.current()
	if r := sh.resizing; r != nil {
		if w := t.get(pos); w.tag() < r.upTo {
			if at, ok := r.next.find(w); ok {
				r.next.remove(at)
			}
		}
	}
	sh.shifts.Add(1) // odd: no miss is believed
	t.remove(pos)
	sh.shifts.Add(1)
}

// exchange puts w in the place of old, or adds it if old is empty.
func (t table) exchange(old, w slot) {
	if old == 0 {
		t.insert(w)
	} else if pos, ok := t.find(old); ok {
		t.set(pos, w)
	}
}

// insert puts w into the first empty place from its home.
func (t table) insert(w slot) { t.set(t.free(w.tag()), w) }

// moveLocked adds the next slots, about most of them, to the table being filled, and publishes that when it has all:
// then it returns the old table. REQUIRES: the lane's lock and mu held.
func (sh *shard) moveLocked(most int) (old table, done bool) {
	r, t := sh.resizing, sh.current()
	to := sh.rangeEnd(r.upTo, most)
	r.slots = t.appendRange(r.slots[:0], r.upTo, to)
	for _, w := range r.slots {
		r.next.insert(w)
	}
	if r.upTo = to; to < tagCount {
		return nil, false
	}
	sh.setTable(r.next)
	sh.resizing = nil
	return t, true
}

// prepare gives the shard of a lane a table that suits n memories, or goes on with that. REQUIRES: the lane's lock and
// contentMu held, so that nobody takes all tables away in between; sh.mu NOT held.
func (s *Store) prepare(sh *shard, n int) error {
	for {
		slots := sh.current().slots() // nobody else replaces the table: the lane's lock is held
		if sh.resizing != nil {
			slots = min(slots, sh.resizing.next.slots()) // one that was to shrink may have to take n
		}
		full := n*8 > slots*fullest
		if sh.resizing == nil {
			wanted := sh.wanted(n)
			if wanted == slots {
				return nil
			}
			if err := s.beginResize(sh, wanted, full); err != nil {
				if full {
					return err
				}
				return nil // the table that is there takes n
			}
		}
		s.moveSlots(sh)
		if !full {
			return nil
		}
	}
}

// beginResize gives sh a table of so many slots to be filled. It returns errNoBlock when there is no memory for it that
// is mapped already, and now is false. REQUIRES: as prepare.
func (s *Store) beginResize(sh *shard, slots int, now bool) error {
	t, err := s.tables.acquire(slots, now)
	if err != nil {
		return err
	}
	r := &resizing{next: t, slots: make([]slot, 0, min(resizeBatch*5/4, int(sh.memories.Load())))}
	sh.mu.Lock()
	sh.resizing = r
	sh.mu.Unlock()
	return nil
}

// moveSlots moves the next slots of sh. emptied means that these were the last, and that the block of the old
// table has none in use any more. REQUIRES: as prepare.
func (s *Store) moveSlots(sh *shard) (emptied bool) {
	next := sh.resizing.next
	sh.mu.Lock()
	old, done := sh.moveLocked(resizeBatch)
	sh.mu.Unlock()
	_ = s.hooks.fire(pointTableMoved)
	if !done {
		return false
	}
	s.tableBytes.Add(int64(next.slots()-old.slots()) * slotSize)
	emptied = s.tables.retire(old)
	s.replaced.add(old)
	return emptied
}

// suit gives sh a table that suits its memories, batch by batch, where no write may come to do it. One that cannot be
// made smaller stays as it is. REQUIRES: no lock held.
func (s *Store) suit(sh *shard) {
	step := func() (more bool) {
		defer s.contentMu.RUnlock(s.contentMu.RLock()) // a Clear, which takes all tables, must not come between
		sh.lane.mu.Lock()
		defer sh.lane.mu.Unlock()
		_ = s.prepare(sh, int(sh.memories.Load()))
		return sh.resizing != nil
	}
	if !step() {
		s.tables.provide()
	}
	for step() {
	}
}

// takeTablesLocked appends the tables of sh to tables, at most two. It has none any more. REQUIRES: contentMu
// write-held, sh.mu held.
func (sh *shard) takeTablesLocked(tables []table) []table {
	tables = append(tables, sh.current())
	if sh.resizing != nil {
		tables = append(tables, sh.resizing.next)
	}
	sh.resizing = nil
	sh.setTable(nil)
	return tables
}
