package olricengine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// check fails unless the set is what its invariants say, and has what want has.
func (s *entrySet) check(t *testing.T, want map[uint64]stamp) {
	t.Helper()
	require.Equal(t, len(want), s.Len())
	numbers := make(map[uint32]bool)
	for _, at := range s.free {
		numbers[at] = true
	}
	for i, l := range s.leaves {
		require.Positive(t, l.n)
		require.LessOrEqual(t, l.n, uint32(leafSize))
		require.Equal(t, s.in(i)[0].hkey, l.first)
		numbers[l.at] = true
	}
	require.Len(t, numbers, len(s.free)+len(s.leaves))
	require.Len(t, numbers, int(s.made))
	require.True(t, slices.Equal(slices.Sorted(maps.Keys(want)), s.Keys()))
	for key, st := range want {
		if got, ok := s.Get(key); !ok || got != st {
			require.Equal(t, st, got, ok)
		}
	}
}

// Random insertions and deletions, of hash keys that are far apart, close together, in order and against it, are as
// those of a map.
func TestEntrySet_IsAMap(t *testing.T) {
	const n = 8000
	next := uint64(0)
	for name, key := range map[string]func(rng *rand.Rand) uint64{
		"anywhere":  (*rand.Rand).Uint64,
		"few":       func(rng *rand.Rand) uint64 { return rng.Uint64N(n / 4) },
		"ends":      func(rng *rand.Rand) uint64 { return -rng.Uint64N(3) },
		"clusters":  func(rng *rand.Rand) uint64 { return rng.Uint64N(5)<<60 + rng.Uint64N(n/20) },
		"ascending": func(*rand.Rand) uint64 { next++; return next },
		"falling":   func(*rand.Rand) uint64 { next--; return next },
		"both":      func(rng *rand.Rand) uint64 { next++; return next << (rng.Uint64N(2) * 32) },
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			next = n * 10
			set, want := newEntrySet(), make(map[uint64]stamp)
			for phase, deletions := range []int{1, 9, 4, 10} { // of ten
				for i := range n {
					hkey := key(rng)
					old, had := want[hkey]
					if rng.IntN(10) >= deletions {
						st := stamp{timestamp: rng.Int64()}
						got, replaced := set.Set(hkey, st)
						require.Equal(t, had, replaced)
						require.Equal(t, old, got)
						want[hkey] = st
					} else {
						if deletions > 1 && len(want) > 0 && rng.IntN(2) == 0 { // one that is there
							first := hkey
							set.Ascend(first, func(h uint64, _ stamp) bool { hkey = h; return false })
							old, had = want[hkey]
						}
						got, was := set.Delete(hkey)
						require.Equal(t, had, was)
						require.Equal(t, old, got)
						delete(want, hkey)
					}
					if i%500 == 0 {
						set.check(t, want)
					}
				}
				set.check(t, want)
				if first := key(rng); phase == 0 {
					var after []uint64
					set.Ascend(first, func(h uint64, _ stamp) bool { after = append(after, h); return len(after) < 1000 })
					all := set.Keys()
					at, _ := slices.BinarySearch(all, first)
					require.True(t, slices.Equal(all[at:min(len(all), at+1000)], after))
				}
			}
			for hkey := range want {
				set.Delete(hkey)
				delete(want, hkey)
			}
			set.check(t, want)
			require.Equal(t, entrySet{}, *set, "an empty set keeps nothing")
		})
	}
}

// A set takes no more than it needs, however it has become what it is.
func TestEntrySet_Size(t *testing.T) {
	const n = 100_000
	rng := rand.New(rand.NewPCG(1, 2))
	size := func(s *entrySet) (bytes int) {
		for _, slab := range s.slabs {
			bytes += 24 * cap(slab)
		}
		return bytes + 16*cap(s.leaves) + 4*cap(s.free)
	}
	for name, key := range map[string]func(i int) uint64{
		"ascending": func(i int) uint64 { return uint64(i) },
		"falling":   func(i int) uint64 { return uint64(n - i) },
		"anywhere":  func(int) uint64 { return rng.Uint64() },
	} {
		set := newEntrySet()
		for i := range n {
			set.Set(key(i), stamp{})
		}
		t.Log(name, float64(size(set))/n, "bytes for an entry")
		require.Less(t, size(set), 36*n, name)
		for i, hkey := range set.Keys() {
			if i%10 != 0 {
				set.Delete(hkey)
			}
		}
		t.Log(name, float64(size(set))/n*10, "bytes for an entry, after nine of ten were deleted")
		require.Less(t, size(set), 90*n/10, name)
	}
	set := newEntrySet()
	set.Set(1, stamp{})
	require.Less(t, size(set), 300)
}

func BenchmarkEntrySet(b *testing.B) {
	for _, n := range []int{14_000, 1_000_000} {
		keys := make([]uint64, n)
		rng := rand.New(rand.NewPCG(1, 2))
		set := newEntrySet()
		for i := range keys {
			keys[i] = rng.Uint64()
			set.Set(keys[i], stamp{})
		}
		b.Run(fmt.Sprint("Get/n=", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				set.Get(keys[i%n])
			}
		})
		b.Run(fmt.Sprint("DeleteSet/n=", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				set.Delete(keys[i%n])
				keys[i%n] = rng.Uint64()
				set.Set(keys[i%n], stamp{})
			}
		})
	}
}
