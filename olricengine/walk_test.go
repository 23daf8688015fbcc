package olricengine_test

import (
	"context"
	"math"
	"testing"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// scanAll returns how often each key was seen in steps of n.
func scanAll(t *testing.T, engine *olricengine.Engine, n int, between func()) map[string]int {
	t.Helper()
	seen := make(map[string]int)
	for cursor := uint64(0); ; between() {
		var err error
		cursor, err = engine.Scan(cursor, n, func(en storage.Entry) bool {
			seen[en.Key()]++
			return true
		})
		require.NoError(t, err)
		if cursor == 0 {
			return seen
		}
	}
}

func TestScan_SurvivesCompactionsAndWrites(t *testing.T) {
	store := openStore(t, &warmtier.Options{SegmentSize: 64 << 10})
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	for h := uint64(1); h <= 1000; h++ {
		put(t, engine, h*7919, string(make([]byte, 300)), 1)
	}
	calls := uint64(0)
	seen := scanAll(t, engine, 100, func() {
		calls++
		require.NoError(t, engine.Delete(calls*7919)) // seen already, or not: not asked for here
		put(t, engine, calls, "new", 1)
		_, err := store.Compact(context.Background())
		require.NoError(t, err)
	})
	require.Positive(t, store.Stats().Compactions)
	for h := calls + 1; h <= 1000; h++ {
		require.Equal(t, 1, seen[entryKey(h*7919)], "hash key %d", h*7919)
	}
}

func entryKey(hkey uint64) string { return "key " + storageKey(hkey) }

func TestScan_Ends(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	hkeys := []uint64{0, 1, 1 << 40, math.MaxUint64 - 1, math.MaxUint64}
	for _, h := range hkeys {
		put(t, engine, h, "v", 1)
	}
	for n := 1; n <= len(hkeys)+1; n++ {
		seen := scanAll(t, engine, n, func() {})
		require.Len(t, seen, len(hkeys))
	}
	var calls int
	cursor, err := engine.Scan(0, 10, func(storage.Entry) bool { calls++; return false })
	require.NoError(t, err)
	require.Equal(t, 1, calls)
	require.Equal(t, uint64(1), cursor)
	_, err = engine.ScanRegexMatch(0, "(", 1, nil)
	require.Error(t, err)
	cursor, err = engine.ScanRegexMatch(0, "key 1$", 10, func(en storage.Entry) bool {
		require.Equal(t, "key 1", en.Key())
		return true
	})
	require.NoError(t, err)
	require.Zero(t, cursor)
}

// Olric asks for twenty hash keys at a time to find some that have expired.
func TestRangeHKey_BeginsAnywhere(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	const n = 200
	for h := range uint64(n) {
		put(t, engine, h*(math.MaxUint64/n), "v", 1)
	}
	seen := make(map[uint64]bool)
	for range 5000 {
		engine.RangeHKey(func(hkey uint64) bool {
			seen[hkey] = true
			return false
		})
		if len(seen) > n/2 {
			break
		}
	}
	require.Greater(t, len(seen), n/2)
	var all int
	engine.Range(func(uint64, storage.Entry) bool { all++; return true })
	require.Equal(t, n, all)
}
