//go:build unix

package warmtier

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullDirectory returns a store in a directory with memories named by id that fill its budget, and how many
// there are. Everything beside writers is automatic.
func fullDirectory(t *testing.T, dir string, id func(i int) string) (s *Store, n int) {
	s, err := open(dir, &Options{MaxBytes: 2 << 20, SegmentSize: minSegmentSize, SyncInterval: -1}, hooks{hash: oneLane})
	require.NoError(t, err)
	for ; err == nil; n++ {
		err = s.Put(id(n), contentOf(n, 0, 100))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	return s, n - 1
}

// Goal: at the budget's limit tombstones do not stand in the way of what is dead. Method: long ids, so
// that many segments hold nothing but tombstones, which are needed; a compaction copies them, and gives
// nothing back with that.
func TestMaxBytes_TombstonesOfLongIDs(t *testing.T) {
	for _, share := range []int{3, 4} {
		t.Run(fmt.Sprintf("one in %d deleted", share), func(t *testing.T) {
			long := func(i int) string { return idOf(i) + strings.Repeat("x", 1000) }
			s, n := fullDirectory(t, fastDir(t), long)
			for i := 0; i < n; i += share {
				existed, err := s.Delete(long(i))
				require.NoError(t, err, "delete %d", i)
				require.True(t, existed)
			}
			for i := range n / share / 3 {
				require.NoError(t, s.Put(long(n+i), contentOf(n+i, 0, 100)), "put %d", i)
			}
			closeIntact(t, s)
		})
	}
}
