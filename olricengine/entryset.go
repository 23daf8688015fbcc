package olricengine

import "slices"

// A node may have millions of entries, each in an ordered set. A tree of nodes is a heap object or two for each node,
// which a garbage collection has to find and to look at, one after the other. Here the entries are in slabs, a few for
// each set, without pointers, and leaves know each other by number.
//
// An entrySet is a B+ tree of two levels: leaves of up to leafSize entries, and one sorted list of all leaves. That
// list moves with each new leaf, 16 bytes for about 200 entries, so it costs an insertion some bytes per million of
// entries in the set, and a partition has no more than a few.
//
//	E1  leaves are sorted by first, and none is empty
//	E2  the entries of a leaf are sorted, the first of them has the hash key first
//	E3  the number of a leaf is in leaves or in free, once
type entrySet struct {
	leaves []leaf
	slabs  [][]mapping // leaf at is slabs[at/slabLeaves], from at%slabLeaves*leafSize on
	free   []uint32    // numbers of leaves that are empty
	made   uint32      // leaves that there are, in slabs
	count  int
}

// mapping is an entry of a set, 24 bytes.
type mapping struct {
	hkey  uint64
	stamp stamp
}

// leaf is where entries are.
type leaf struct {
	first uint64
	at    uint32
	n     uint32
}

const (
	leafSize   = 256 // entries; an insertion moves half of them, 3 KiB
	slabLeaves = 64  // 384 KiB; the last slab grows by a quarter at a time until it has that many

	// A set with fewer entries than 3/8 of what its leaves could hold is copied into as many as it fills to 3/4, if it
	// has more than a few.
	fewLeaves = 4
)

func newEntrySet() *entrySet { return &entrySet{} }

// Len returns the number of entries.
func (s *entrySet) Len() int { return s.count }

// Get returns the stamp of a hash key.
func (s *entrySet) Get(hkey uint64) (stamp, bool) {
	i, j, found := s.find(hkey)
	if !found {
		return stamp{}, false
	}
	return s.in(i)[j].stamp, true
}

// Set sets the stamp of a hash key, and returns the one that it had.
func (s *entrySet) Set(hkey uint64, st stamp) (old stamp, replaced bool) {
	i, j, found := s.find(hkey)
	if found {
		m := &s.in(i)[j]
		old, m.stamp = m.stamp, st
		return old, true
	}
	if len(s.leaves) == 0 {
		s.insertLeaf(0)
	} else if s.leaves[i].n == leafSize {
		i, j = s.makeRoom(i, j)
	}
	l := &s.leaves[i]
	l.n++
	s.reach(l)
	entries := s.in(i)
	copy(entries[j+1:], entries[j:])
	entries[j] = mapping{hkey, st}
	l.first = entries[0].hkey
	s.count++
	return stamp{}, false
}

// Delete removes a hash key, and returns the stamp that it had.
func (s *entrySet) Delete(hkey uint64) (stamp, bool) {
	i, j, found := s.find(hkey)
	if !found {
		return stamp{}, false
	}
	entries := s.in(i)
	old := entries[j].stamp
	copy(entries[j:], entries[j+1:])
	l := &s.leaves[i]
	l.n--
	s.count--
	if l.n == 0 {
		s.free = append(s.free, l.at)
		s.leaves = slices.Delete(s.leaves, i, i+1)
	} else {
		l.first = entries[0].hkey
	}
	switch {
	case s.count == 0:
		*s = entrySet{}
	case s.made > fewLeaves && s.count < int(s.made)*leafSize*3/8:
		s.rebuild()
	}
	return old, true
}

// Ascend calls fn for the entries from first on, in the order of their hash keys, until it returns false. fn must not
// change the set.
func (s *entrySet) Ascend(first uint64, fn func(hkey uint64, st stamp) bool) {
	i, j, _ := s.find(first)
	for ; i < len(s.leaves); i, j = i+1, 0 {
		for _, m := range s.in(i)[j:] {
			if !fn(m.hkey, m.stamp) {
				return
			}
		}
	}
}

// Keys returns all hash keys, in their order.
func (s *entrySet) Keys() []uint64 {
	keys := make([]uint64, 0, s.count)
	s.Ascend(0, func(hkey uint64, _ stamp) bool {
		keys = append(keys, hkey)
		return true
	})
	return keys
}

// find returns where a hash key is, or would be: in which of the leaves, and where in it. The searches are written out:
// with slices.BinarySearchFunc a Get takes half as long again.
func (s *entrySet) find(hkey uint64) (i, j int, found bool) {
	low, high := 0, len(s.leaves) // the last leaf with first <= hkey is in [low-1, high)
	for low < high {
		if middle := int(uint(low+high) >> 1); s.leaves[middle].first <= hkey {
			low = middle + 1
		} else {
			high = middle
		}
	}
	i = max(low-1, 0)
	if i == len(s.leaves) {
		return 0, 0, false
	}
	entries := s.in(i)
	low, high = 0, len(entries)
	for low < high {
		if middle := int(uint(low+high) >> 1); entries[middle].hkey < hkey {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return i, low, low < len(entries) && entries[low].hkey == hkey
}

// in returns the entries of the i-th leaf.
func (s *entrySet) in(i int) []mapping {
	l := s.leaves[i]
	from := l.at % slabLeaves * leafSize
	return s.slabs[l.at/slabLeaves][from : from+l.n]
}

// reach makes the slab of a leaf as long as the leaf needs.
func (s *entrySet) reach(l *leaf) {
	slab := &s.slabs[l.at/slabLeaves]
	end := int(l.at%slabLeaves*leafSize + l.n)
	if end > cap(*slab) {
		grown := make([]mapping, end, min(end+end/4+8, slabLeaves*leafSize))
		copy(grown, *slab)
		*slab = grown
	} else if end > len(*slab) {
		*slab = (*slab)[:end]
	}
}

// makeRoom returns where an entry goes that would go to the j-th place of the i-th leaf, which is full. If the leaf
// after it, or the one before, has room it takes half of what it can; otherwise there is a new one after it.
func (s *entrySet) makeRoom(i, j int) (int, int) {
	last := len(s.leaves) - 1
	switch {
	case i == last && j == leafSize: // keys come in order when a node is offered a partition
		s.insertLeaf(i + 1)
		return i + 1, 0
	case i < last && s.leaves[i+1].n <= leafSize*3/4:
		s.shiftRight(i, (leafSize-s.leaves[i+1].n+1)/2)
	case i > 0 && s.leaves[i-1].n <= leafSize*3/4:
		moved := s.shiftLeft(i)
		if j <= moved { // also where it could go to either: the first of a leaf is its least
			return i - 1, int(s.leaves[i-1].n) - moved + j
		}
		return i, j - moved
	default:
		s.insertLeaf(i + 1)
		s.shiftRight(i, leafSize/2)
	}
	if n := int(s.leaves[i].n); j > n {
		return i + 1, j - n
	}
	return i, j
}

// insertLeaf makes an empty leaf the i-th. E1 and E2 hold again when it has an entry.
func (s *entrySet) insertLeaf(i int) {
	var l leaf
	if n := len(s.free); n > 0 {
		l.at, s.free = s.free[n-1], s.free[:n-1]
	} else {
		l.at = s.made
		s.made++
		if l.at%slabLeaves == 0 {
			s.slabs = append(s.slabs, nil)
		}
	}
	s.leaves = slices.Insert(s.leaves, i, l)
}

// shiftRight moves the last n entries of the i-th leaf to the beginning of the one after it.
func (s *entrySet) shiftRight(i int, n uint32) {
	from, to := &s.leaves[i], &s.leaves[i+1]
	to.n += n
	s.reach(to)
	source, target := s.in(i), s.in(i+1)
	copy(target[n:], target)
	copy(target, source[from.n-n:])
	from.n -= n
	to.first = target[0].hkey
}

// shiftLeft moves entries of the i-th leaf to the end of the one before it, half of what that can take, and returns
// how many.
func (s *entrySet) shiftLeft(i int) int {
	from, to := &s.leaves[i], &s.leaves[i-1]
	n := (leafSize - to.n + 1) / 2
	had := to.n
	to.n += n
	s.reach(to)
	source, target := s.in(i), s.in(i-1)
	copy(target[had:], source[:n])
	copy(source, source[n:])
	from.n -= n
	from.first = source[0].hkey
	return int(n)
}

// rebuild copies the set into as few leaves as leave each a quarter of its room.
func (s *entrySet) rebuild() {
	var to entrySet
	s.Ascend(0, func(hkey uint64, st stamp) bool {
		last := len(to.leaves) - 1
		if last < 0 || to.leaves[last].n == leafSize*3/4 {
			last++
			to.insertLeaf(last)
			to.leaves[last].first = hkey
		}
		l := &to.leaves[last]
		l.n++
		to.reach(l)
		to.in(last)[l.n-1] = mapping{hkey, st}
		return true
	})
	to.count = s.count
	*s = to
}
