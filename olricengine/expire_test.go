package olricengine_test

import (
	"testing"
	"time"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// putUntil stores an entry that expires.
func putUntil(t *testing.T, engine *olricengine.Engine, hkey uint64, value string, timestamp int64, end time.Time) {
	t.Helper()
	en := entry(engine, "key "+storageKey(hkey), value, timestamp)
	en.SetTTL(end.UnixMilli())
	require.NoError(t, engine.Put(hkey, en))
}

func expire(t *testing.T, engine *olricengine.Engine, now time.Time) int {
	t.Helper()
	n, err := engine.Expire(now)
	require.NoError(t, err)
	return n
}

func TestExpire_WithoutTrace(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	now := time.Now()
	put(t, engine, 1, "without end", 1)
	putUntil(t, engine, 2, "ends", 1, now)
	putUntil(t, engine, 3, "ends later", 1, now.Add(time.Minute))
	require.Equal(t, 1, expire(t, engine, now))
	require.Zero(t, expire(t, engine, now))
	require.Equal(t, 1, expire(t, engine, now.Add(time.Minute)))
	require.Equal(t, 1, engine.Stats().Length)
}

func TestExpire_RemembersTimestamps(t *testing.T) {
	isMarker := func(value []byte) bool { return string(value) == "marker" }
	engine := openEngine(t, olricengine.Options{Remember: time.Hour, Deleted: isMarker})
	now := time.Now()
	put(t, engine, 1, "without end", 10)
	require.ErrorIs(t, engine.Delete(1), olricengine.ErrRefused)
	putUntil(t, engine, 2, "ends", 20, now)
	putUntil(t, engine, 3, "marker", 20, now.Add(time.Minute))
	require.Equal(t, map[string]int{"key 1": 1}, scanAll(t, engine, 10, func() {}))
	engine.RangeHKey(func(uint64) bool { panic("Olric would remove it") })

	require.Equal(t, 1, expire(t, engine, now))
	require.False(t, engine.Check(2))
	require.Equal(t, 3, engine.Stats().Length, "a fork with tombstones is not empty")
	put(t, engine, 2, "of a node that was away", 15)
	left, err := engine.Get(2)
	require.NoError(t, err)
	require.Empty(t, left.Value())
	require.EqualValues(t, 20, left.Timestamp())
	require.Less(t, left.TTL(), time.Now().UnixMilli(), "Olric takes it for expired")
	engine.Range(func(hkey uint64, _ storage.Entry) bool {
		require.NotEqualValues(t, 2, hkey)
		return true
	})

	// It moves along with the entries, and beats them there, whichever comes first.
	other := fork(t, engine)
	put(t, other, 2, "of a node that was away", 15)
	payload, _, err := engine.TransferIterator().Export()
	require.NoError(t, err)
	require.NoError(t, other.Import(payload, other.Put))
	require.False(t, other.Check(2))
	putUntil(t, other, 2, "ends", 20, now)
	require.False(t, other.Check(2))
	put(t, other, 2, "later", 30)
	require.Equal(t, "later", value(t, other, 2))

	// What marks a deletion was remembered long enough when it expires, and so was a timestamp.
	require.Equal(t, 2, expire(t, engine, now.Add(time.Minute)), "the marker, in two forks")
	_, err = engine.Get(3)
	require.ErrorIs(t, err, storage.ErrKeyNotFound)
	require.Equal(t, 1, expire(t, engine, now.Add(2*time.Hour)))
	require.Equal(t, 1, engine.Stats().Length)
}

// A store without room for a timestamp would otherwise stay full of what has expired.
func TestExpire_FullStore(t *testing.T) {
	store := openStore(t, &warmtier.Options{MaxBytes: 4 << 20})
	engine, err := olricengine.New(store, olricengine.Options{Remember: time.Hour})
	require.NoError(t, err)
	now := time.Now()
	var hkey uint64
	for err == nil {
		hkey++
		en := entry(engine, "k", long(900), 1)
		en.SetTTL(now.UnixMilli())
		err = engine.Put(hkey, en)
	}
	require.ErrorIs(t, err, warmtier.ErrNoSpace)
	require.Equal(t, int(hkey-1), expire(t, engine, now))
	put(t, engine, hkey, long(900), 1)
}
