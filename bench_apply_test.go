package warmtier

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkApply overwrites memories of 256 bytes at random, in batches of 64 and one by one; one iteration is 64 of
// them.
func BenchmarkApply(b *testing.B) {
	const memories, size, batch = 1_000_000, 256, 64
	for _, kind := range []struct {
		name      string
		directory bool
		sync      bool
	}{{"memory", false, false}, {"directory", true, false}, {"SyncWrites", true, true}} {
		for _, batched := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/batch=%v", kind.name, batched), func(b *testing.B) {
				dir, n := "", sized(b, memories)
				if kind.directory {
					dir = b.TempDir()
				}
				s, err := Open(dir, nil)
				require.NoError(b, err)
				defer func() { require.NoError(b, s.Close()) }()
				ids := make([]string, n)
				for i := range ids {
					ids[i] = idOf(i)
					require.NoError(b, s.Put(ids[i], contentOf(i, 0, size)))
				}
				s.opts.SyncWrites = kind.sync
				content := contentOf(1, 1, size)
				var writes Batch
				x := uint64(1)
				b.SetBytes(batch * size)
				for b.Loop() {
					writes.Reset()
					for range batch {
						x = x*6364136223846793005 + 1442695040888963407
						id := ids[x>>33%uint64(n)]
						if batched {
							writes.Put(id, content)
						} else if err := s.Put(id, content); err != nil {
							b.Fatal(err)
						}
					}
					if batched {
						if err := s.Apply(&writes); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
