package warmtier

import (
	"iter"
	"math/bits"
	"slices"
	"unsafe"
)

// pieceBytes is the most that a list, which grows with memories, takes from the Go heap in one piece. A larger one
// would be cleared, and its pages be made, in one go that nothing can preempt, for which a starting garbage collection
// waits on the other processors.
const pieceBytes = 256 << 10

// pieces is a list that grows at its end in pieces of at most pieceBytes, and may lose elements at its front. A copy
// of it stays as it is while the original grows and is skipped, until the copy grows itself.
type pieces[T any] struct {
	list [][]T // all full but the last one
	last int   // elements in that
	at   int   // elements of the first one that were skipped
	n    int
}

func (p *pieces[T]) len() int { return p.n }

func (p *pieces[T]) add(v T) {
	if len(p.list) == 0 || p.last == len(p.list[len(p.list)-1]) {
		size := max(64, min(p.n/2, pieceBytes/int(unsafe.Sizeof(v))))
		p.list, p.last = append(p.list, make([]T, size)), 0
	}
	p.list[len(p.list)-1][p.last] = v
	p.last++
	p.n++
}

// first returns the first element. REQUIRES: there is one.
func (p *pieces[T]) first() T { return p.list[0][p.at] }

// join adds the elements of q, which is not used any more.
func (p *pieces[T]) join(q pieces[T]) {
	switch {
	case q.n == 0:
	case p.n == 0:
		*p = q
	default:
		last := len(p.list) - 1
		p.list[last] = p.list[last][:p.last]
		p.list = append(p.list, q.list...)
		p.last, p.n = q.last, p.n+q.n
	}
}

// skip takes the first n elements away.
func (p *pieces[T]) skip(n int) {
	p.n -= n
	p.at += n
	for len(p.list) > 1 && p.at >= len(p.list[0]) {
		p.at -= len(p.list[0])
		p.list = p.list[1:]
	}
}

// each returns the elements, piece by piece.
func (p *pieces[T]) each() iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		from := p.at
		for i, piece := range p.list {
			if i == len(p.list)-1 {
				piece = piece[:p.last]
			}
			if !yield(piece[from:]) {
				return
			}
			from = 0
		}
	}
}

// all returns the elements.
func (p *pieces[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for piece := range p.each() {
			for _, v := range piece {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// bytes returns the memory of the pieces.
func (p *pieces[T]) bytes() (bytes int64) {
	var v T
	for _, piece := range p.list {
		bytes += int64(cap(piece)) * int64(unsafe.Sizeof(v))
	}
	return bytes
}

// offsets lists records of a segment by their offsets, in units of 8 bytes.
type offsets struct{ pieces[uint32] }

// contains reports whether unit is among the offsets, which are sorted.
func (o *offsets) contains(unit uint32) bool {
	for piece := range o.each() {
		if n := len(piece); n > 0 && piece[n-1] >= unit {
			_, found := slices.BinarySearch(piece, unit)
			return found
		}
	}
	return false
}

// offsetSorter sorts the offsets of records in one segment by setting a bit for each (Bentley,
// "Programming Pearls", column 1), which takes a fifth of the time of a sort that compares.
type offsetSorter struct{ bits [][]uint64 }

// sort sorts offsets, which are all different.
func (s *offsetSorter) sort(o *offsets) {
	const words = pieceBytes / 8 / 8 // of a piece: enough for 2 MiB of a segment
	for piece := range o.each() {
		for _, u := range piece {
			for int(u/64/words) >= len(s.bits) {
				s.bits = append(s.bits, make([]uint64, words))
			}
			s.bits[u/64/words][u/64%words] |= 1 << (u % 64)
		}
	}
	word := 0
	for piece := range o.each() {
		for i := range piece {
			for s.bits[word/words][word%words] == 0 {
				word++
			}
			left := &s.bits[word/words][word%words]
			piece[i] = uint32(word*64 + bits.TrailingZeros64(*left))
			*left &= *left - 1
		}
	}
}
