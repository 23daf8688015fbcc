package warmtier

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompact_ContentPreserved(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const n = 5000
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n, func(i int) bool { return !odd(i) })
	before := s.Stats()
	require.InDelta(t, 0.5, before.FragmentationRatio, 0.001)

	stats, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.EqualValues(t, n/2, stats.MemoriesMoved)
	require.Zero(t, stats.FragmentationAfter)
	requireContents(t, s, 0, n, 200, odd)
}
