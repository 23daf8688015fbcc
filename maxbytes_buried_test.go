//go:build unix

package warmtier

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: tombstones that fill a budget go, though a lane that is hardly used holds a dead record older than all of
// them, which keeps them: too little of its segment is dead to be worth a compaction by itself.
func TestMaxBytes_BuriedByAnIdleLane(t *testing.T) {
	byRange := placedBy(func(i int) int { return i / 100_000 })
	s := budgeted(t, "directory", Options{MaxBytes: 2 * fullBytes}, hooks{hash: byRange})
	require.NotSame(t, s.shards[0].lane, s.shards[1].lane)
	fill(t, s, 0, 20, 1000)
	n, _ := fillUp(t, s, 100_000, 100)
	for i := 100_000; i < n; i += 4 {
		deleteWhere(t, s, i, min(i+3, n), all)
	}
	fill(t, s, 0, 1, 1000)
	_, _ = fillUp(t, s, 160_000, 100)
	require.Less(t, s.sizes().FragmentationRatio, waitShare)
	requireContents(t, s, 0, 20, 1000, all)
}

// Goal: a Put for which a compaction has found nothing is refused, however often rounds of it have woken the Put.
// Method: the tombstones that fill the budget are needed, for a dead record in a segment that is left alone; so
// compactions copy them, round after round.
func TestMaxBytes_BuriedForGood(t *testing.T) {
	var waits, rounds atomic.Int64
	var on atomic.Bool
	s := budgeted(t, "directory", Options{MaxBytes: 2 * fullBytes}, hooks{hash: oneLane, at: func(p point) error {
		switch {
		case !on.Load():
		case p == pointRoomWait:
			waits.Add(1)
		case p == pointCompactBuilt:
			waitFor(func() bool { return waits.Load() > rounds.Load() })
		case p == pointCompactSwapped:
			rounds.Add(1)
		}
		return nil
	}})
	fill(t, s, 0, 60, 1000)
	sealFull(s).damaged.Store(true)
	deleteWhere(t, s, 0, 1, all)
	fill(t, s, 10_000, 16_000, 0)
	deleteWhere(t, s, 10_000, 16_000, all)
	n, _ := fillUp(t, s, 30_000, 1000)
	require.True(t, waitFor(func() bool { return !s.compacting.Load() }))
	require.Greater(t, s.sizes().FragmentationRatio, waitShare)
	on.Store(true)
	var asked uint64
	for err := error(nil); err == nil; n++ { // some room may have come back since the last one was refused
		asked = s.room.heard()
		if err = s.Put(idOf(n), make([]byte, 1000)); err != nil {
			require.ErrorIs(t, err, ErrNoSpace)
		}
	}
	on.Store(false)
	require.Greater(t, rounds.Load(), int64(2))
	require.Equal(t, asked+1, s.room.heard(), "it asks once")
}
