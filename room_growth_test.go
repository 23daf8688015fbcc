package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a large content that does not fit gets a compaction that gives back what is dead, although the
// store is neither nearly full nor as fragmented as a cycle would want it.
func TestRoom_LargeContentWaitsForWhatIsDead(t *testing.T) {
	const n, largeSize = 10_000, 4_800_000
	s, err := open("", &Options{MaxBytes: 16 << 20, SegmentSize: minSegmentSize}, hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, n, 1000)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%5 == 0 })
	st := s.Stats()
	require.Greater(t, st.MappedBytes+largeSize, st.MaxBytes)
	require.False(t, s.nearlyFull())
	require.NoError(t, s.Put("large", make([]byte, largeSize)))
	requireContents(t, s, 0, n, 1000, func(i int) bool { return i%5 > 0 })
	require.NoError(t, s.Close())
}

// Goal: the index grows into memory that is kept for lanes.
func TestRoom_IndexTakesWhatIsKeptForLanes(t *testing.T) {
	opts := quiet()
	opts.MaxBytes = 2 << 20
	s := openTest(t, opts, hooks{})
	require.NoError(t, s.Put("a", nil))
	for {
		mem, err := s.mapper.acquire(s.opts.SegmentSize)
		if err != nil {
			require.ErrorIs(t, err, errOverBudget)
			break
		}
		require.True(t, s.pool.offer(mem, 1<<30))
	}
	for i := range 4000 { // the tables of 4,000 memories need another block
		require.NoError(t, s.Put(idOf(i), nil))
	}
	require.Positive(t, s.pool.held())
}
