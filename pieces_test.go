package warmtier

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func elements[T any](p *pieces[T]) []T { return slices.Collect(p.all()) }

// Goal: a list in pieces is the list that it stands for, no piece is over the limit, and a copy stays as it is while
// the original goes on. Method: random calls beside a slice.
func TestPieces(t *testing.T) {
	rng := seeded(t)
	for range 4 {
		var p, kept pieces[uint64]
		var want, wantKept []uint64
		for range 100 {
			switch n := rng.IntN(1000); rng.IntN(6) {
			case 0:
				n = min(n, len(want))
				p.skip(n)
				want = want[n:]
			case 1:
				kept, wantKept = p, slices.Clone(want)
			case 2:
				var q pieces[uint64]
				for i := range n {
					q.add(uint64(i))
					want = append(want, uint64(i))
				}
				kept, wantKept = pieces[uint64]{}, nil // join shortens a piece of both
				p.join(q)
			default:
				for range n * 10 {
					v := rng.Uint64()
					p.add(v)
					want = append(want, v)
				}
			}
			require.Equal(t, len(want), p.len())
			if len(want) > 0 {
				require.Equal(t, want[0], p.first())
			}
		}
		require.Equal(t, slices.Clip(want), elements(&p))
		require.True(t, slices.Equal(wantKept, elements(&kept)))
		for _, piece := range p.list {
			require.LessOrEqual(t, cap(piece)*8, pieceBytes)
		}
	}
}

func TestOffsets_Sort(t *testing.T) {
	rng := seeded(t)
	var sorter offsetSorter // used again: it must be empty after each
	for _, n := range []int{0, 1, 64, 65, 1000, 100_000} {
		var o offsets
		var want []uint32
		for _, u := range rng.Perm(4 * max(n, 1))[:n] {
			o.add(uint32(u))
			want = append(want, uint32(u))
		}
		sorter.sort(&o)
		slices.Sort(want)
		require.True(t, slices.Equal(want, elements(&o.pieces)))
		for range 100 {
			u := rng.Uint32N(uint32(4*n + 2))
			_, found := slices.BinarySearch(want, u)
			require.Equal(t, found, o.contains(u))
		}
	}
}

// Goal: what was staged is all flipped, each move in a batch of its shard. Method: moves of three workers' worth of
// lists, used twice.
func TestMoves_OfShards(t *testing.T) {
	rng := seeded(t)
	var m moves
	for _, n := range []int{100_000, 10, 50_000} {
		m.reset()
		want := map[move]bool{}
		for i := range n {
			mv := move{from: slot(i), to: slot(rng.Uint64()), shard: uint8(rng.IntN(shardCount))}
			want[mv] = true
			m.add(mv)
		}
		m.sort()
		for shard := range shardCount {
			for batch := range m.of(shard) {
				require.LessOrEqual(t, len(batch), flipBatch)
				for _, mv := range batch {
					require.Equal(t, shard, int(mv.shard))
					require.True(t, want[mv])
					delete(want, mv)
				}
			}
		}
		require.Empty(t, want)
	}
	for _, l := range m.lists {
		require.LessOrEqual(t, cap(l.moves)*24, pieceBytes)
	}
}
