package olricengine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// openStore returns a memory store that the test closes.
func openStore(t *testing.T, opts *warmtier.Options) *warmtier.Store {
	t.Helper()
	store, err := warmtier.Open("", opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		report, err := store.Verify(context.Background())
		require.NoError(t, err)
		require.Empty(t, report.Findings)
		require.NoError(t, store.Close())
	})
	return store
}

func openEngine(t *testing.T, opts olricengine.Options) *olricengine.Engine {
	t.Helper()
	engine, err := olricengine.New(openStore(t, nil), opts)
	require.NoError(t, err)
	return engine
}

// fork returns an empty fork of the engine.
func fork(t *testing.T, engine *olricengine.Engine) *olricengine.Engine {
	t.Helper()
	f, err := engine.Fork(nil)
	require.NoError(t, err)
	return f.(*olricengine.Engine)
}

// put stores an entry of a key and a timestamp.
func put(t *testing.T, engine *olricengine.Engine, hkey uint64, value string, timestamp int64) {
	t.Helper()
	require.NoError(t, engine.Put(hkey, entry(engine, fmt.Sprint("key ", hkey), value, timestamp)))
}

// entry returns one that another node has written.
func entry(_ *olricengine.Engine, key, value string, timestamp int64) storage.Entry {
	en := &olricengine.Entry{}
	en.SetKey(key)
	en.SetValue([]byte(value))
	en.SetTimestamp(timestamp)
	return en
}

func value(t *testing.T, engine *olricengine.Engine, hkey uint64) string {
	t.Helper()
	en, err := engine.Get(hkey)
	require.NoError(t, err)
	return string(en.Value())
}

// bare fails unless the error is exactly the one wanted: Olric compares some of them with ==.
func bare(t *testing.T, want, got error) {
	t.Helper()
	if got != want { //nolint:errorlint // see above
		t.Fatalf("the error is %v, and not %v itself", got, want)
	}
}

func TestEngine_ErrorsAreBare(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	en, err := engine.Get(1)
	bare(t, storage.ErrKeyNotFound, err)
	if en != nil {
		t.Fatal("an interface that holds a nil pointer is not nil to Olric")
	}
	_, err = engine.GetRaw(1)
	bare(t, storage.ErrKeyNotFound, err)
	_, err = engine.GetTTL(1)
	bare(t, storage.ErrKeyNotFound, err)
	_, err = engine.GetKey(1)
	bare(t, storage.ErrKeyNotFound, err)
	_, err = engine.GetLastAccess(1)
	bare(t, storage.ErrKeyNotFound, err)
	bare(t, storage.ErrKeyNotFound, engine.UpdateTTL(1, engine.NewEntry()))
	bare(t, storage.ErrKeyTooLarge, engine.Put(1, entry(engine, long(256), "", 1)))
	require.NoError(t, engine.Put(1, entry(engine, long(255), "", 1)))
	require.NoError(t, engine.Delete(2))
}

func long(n int) string { return string(make([]byte, n)) }

func TestEngine_ForksAreApart(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	a, b := fork(t, engine), fork(t, engine)
	put(t, a, 1, "of a", 1)
	put(t, b, 1, "of b", 1)
	require.NoError(t, a.Destroy())
	require.Equal(t, "of b", value(t, b, 1))
	require.Zero(t, a.Stats().Length)
	require.Equal(t, 1, b.Stats().Length)
}

// Olric lets a write wait for a fragment that its janitor is about to destroy. Stored there it
// would be lost.
func TestEngine_DestroyedTakesNoWrites(t *testing.T) {
	f := fork(t, openEngine(t, olricengine.Options{}))
	require.NoError(t, f.Close())
	require.NoError(t, f.Destroy())
	require.ErrorIs(t, f.Put(1, entry(f, "k", "v", 1)), olricengine.ErrDestroyed)
	require.ErrorIs(t, f.PutRaw(1, entry(f, "k", "v", 1).Encode()), olricengine.ErrDestroyed)
}

func TestEngine_LastWriteWins(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	put(t, engine, 1, "new", 20)
	put(t, engine, 1, "old", 10)
	require.Equal(t, "new", value(t, engine, 1))
	require.NoError(t, engine.PutRaw(1, entry(engine, "key 1", "old replica", 10).Encode()))
	require.Equal(t, "new", value(t, engine, 1))
	older := entry(engine, "key 1", "", 10)
	older.SetTTL(5)
	require.NoError(t, engine.UpdateTTL(1, older))
	ttl, err := engine.GetTTL(1)
	require.NoError(t, err)
	require.Zero(t, ttl)

	// At one timestamp every node keeps the same entry, in whatever order they arrive.
	other := openEngine(t, olricengine.Options{})
	put(t, engine, 2, "a", 30)
	put(t, engine, 2, "b", 30)
	put(t, other, 2, "b", 30)
	put(t, other, 2, "a", 30)
	require.Equal(t, value(t, engine, 2), value(t, other, 2))
}

func TestEngine_ClocksApart(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	put(t, engine, 1, "of the future", time.Now().Add(time.Hour).UnixNano())
	err := engine.Put(1, entry(engine, "key 1", "of the present", time.Now().UnixNano()))
	var clock *olricengine.ClockError
	require.ErrorAs(t, err, &clock)
	require.InDelta(t, time.Hour, clock.Stored.Sub(clock.Written), float64(time.Minute))
	_, failure := engine.Failure()
	require.Equal(t, err, failure)
	require.Equal(t, "of the future", value(t, engine, 1))
}

// Olric reads its clock before it waits for the fragment.
func TestEngine_WritesHereAreInOrder(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	write := func(value string, timestamp int64) {
		en := engine.NewEntry()
		en.SetKey("k")
		en.SetValue([]byte(value))
		en.SetTimestamp(timestamp)
		require.NoError(t, engine.Put(1, en))
		require.Equal(t, value, value1(t, engine))
	}
	now := time.Now().UnixNano()
	write("came second, has the fragment first", now+1)
	write("came first", now)
	ahead := entry(engine, "k", "by a clock that is ahead", now+int64(30*time.Second))
	require.NoError(t, engine.PutRaw(1, ahead.Encode()))
	write("after that", time.Now().UnixNano())
}

func value1(t *testing.T, engine *olricengine.Engine) string { return value(t, engine, 1) }

func TestEngine_HandsOutCopies(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	given := []byte("content")
	en := engine.NewEntry()
	en.SetKey("k")
	en.SetValue(given)
	require.NoError(t, engine.Put(1, en))
	given[0] = 'X'
	got, err := engine.Get(1)
	require.NoError(t, err)
	got.Value()[1] = 'X'
	raw, err := engine.GetRaw(1)
	require.NoError(t, err)
	raw[len(raw)-1] = 'X'
	require.Equal(t, "content", value(t, engine, 1))
}

// An entry that was decoded is encoded as what it was made of, unless it was changed.
func TestEntry_EncodeAfterChanges(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	raw := entry(engine, "key 1", "value", 7).Encode()
	for what, change := range map[string]func(storage.Entry){
		"nothing":     func(storage.Entry) {},
		"last access": func(en storage.Entry) { en.SetLastAccess(9) },
		"key":         func(en storage.Entry) { en.SetKey("key 2") },
		"value":       func(en storage.Entry) { en.SetValue([]byte("another")) },
		"ttl":         func(en storage.Entry) { en.SetTTL(9) },
		"timestamp":   func(en storage.Entry) { en.SetTimestamp(9) },
	} {
		decoded := &olricengine.Entry{}
		decoded.Decode(raw)
		change(decoded)
		made := &olricengine.Entry{}
		made.SetKey(decoded.Key())
		made.SetValue(decoded.Value())
		made.SetTTL(decoded.TTL())
		made.SetTimestamp(decoded.Timestamp())
		require.Equal(t, made.Encode(), decoded.Encode(), what)
	}
	require.NoError(t, engine.PutRaw(1, raw))
	changed := entry(engine, "key 1", "", 8)
	changed.SetTTL(1 << 50)
	require.NoError(t, engine.UpdateTTL(1, changed))
	got, err := engine.GetRaw(1)
	require.NoError(t, err)
	en := &olricengine.Entry{}
	en.Decode(got)
	require.Equal(t, [2]int64{1 << 50, 8}, [2]int64{en.TTL(), en.Timestamp()})
}

func TestEngine_UnknownFormat(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	put(t, engine, 1, "stays", 1)
	raw := entry(engine, "key 1", "of a newer version", 2).Encode()
	raw[0] = 2
	require.ErrorIs(t, engine.PutRaw(1, raw), olricengine.ErrFormat)
	require.ErrorContains(t, engine.PutRaw(1, raw), "format 2")
	require.ErrorIs(t, engine.PutRaw(1, raw[:5]), olricengine.ErrFormat)
	en := engine.NewEntry()
	en.Decode(raw)
	require.Zero(t, en.Timestamp(), "older than any other")
	require.Equal(t, "stays", value(t, engine, 1))

	never := func(uint64, storage.Entry) error { return errors.New("called") }
	payload, _, err := engine.TransferIterator().Export()
	require.NoError(t, err)
	for i := range payload {
		damaged := append([]byte(nil), payload...)
		damaged[i] ^= 1
		require.ErrorIs(t, engine.Import(damaged, never), olricengine.ErrFormat)
		require.ErrorIs(t, engine.Import(payload[:i], never), olricengine.ErrFormat)
	}
}

func TestEngine_Full(t *testing.T) {
	store := openStore(t, &warmtier.Options{MaxBytes: 4 << 20})
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	content := string(make([]byte, 10_000))
	var hkey uint64
	for err == nil {
		hkey++
		err = engine.Put(hkey, entry(engine, fmt.Sprint("key ", hkey), content, 1))
	}
	require.ErrorIs(t, err, warmtier.ErrNoSpace)
	when, failure := engine.Failure()
	require.ErrorIs(t, failure, warmtier.ErrNoSpace)
	require.WithinDuration(t, time.Now(), when, time.Minute)
	require.Equal(t, int(hkey-1), engine.Stats().Length)
	for h := uint64(1); h < hkey; h++ {
		require.Len(t, value(t, engine, h), len(content))
	}
	require.False(t, engine.Check(hkey))
}

func TestEngine_LargeContent(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	large := make([]byte, 16<<20)
	for i := range large {
		large[i] = byte(rand.Uint32())
	}
	put(t, engine, 1, string(large), 1)
	other := openEngine(t, olricengine.Options{})
	payload, _, err := engine.TransferIterator().Export()
	require.NoError(t, err)
	require.NoError(t, other.Import(payload, other.Put))
	require.Equal(t, string(large), value(t, other, 1))
}

// A write and whatever Olric runs beside it: the engine has its own locks.
func TestEngine_Concurrent(t *testing.T) {
	engine := openEngine(t, olricengine.Options{Remember: time.Hour})
	f := fork(t, engine)
	var work sync.WaitGroup
	for w := range uint64(4) {
		work.Go(func() {
			for i := range uint64(300) {
				hkey := i*4 + w
				put(t, f, hkey, "v", int64(i))
				_ = value(t, f, hkey)
				_ = f.Stats()
			}
		})
	}
	work.Go(func() {
		for range 20 {
			cursor := uint64(0)
			for {
				var err error
				if cursor, err = f.Scan(cursor, 50, func(storage.Entry) bool { return true }); err != nil || cursor == 0 {
					require.NoError(t, err)
					break
				}
			}
			f.RangeHKey(func(uint64) bool { return true })
			engine.Mark(func(uint64) bool { return true })
			require.NoError(t, engine.OfferLate(7, func(olricengine.Chunk) error { return nil }))
			require.NoError(t, engine.Offer(7, everywhere, func(olricengine.Chunk) error { return nil }))
		}
	})
	work.Wait()
	require.Equal(t, 1200, f.Stats().Length)
}

func TestEngine_Transfer(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	from, to := fork(t, engine), fork(t, engine)
	content := string(make([]byte, 100_000))
	for h := range uint64(200) { // 20 MB: three payloads
		put(t, from, h, content, 1)
	}
	iterator := from.TransferIterator()
	var payloads int
	for iterator.Next() {
		payload, index, err := iterator.Export()
		require.NoError(t, err)
		if payloads == 0 {
			put(t, from, 0, "written meanwhile", 2)
		}
		require.NoError(t, to.Import(payload, to.Put))
		require.NoError(t, iterator.Drop(index))
		payloads++
		require.Less(t, payloads, 10)
	}
	require.Equal(t, 3, payloads)
	_, _, err := iterator.Export()
	require.ErrorIs(t, err, io.EOF)
	require.Error(t, iterator.Drop(9))
	require.Equal(t, 200, to.Stats().Length)
	require.Equal(t, "written meanwhile", value(t, to, 0))
	require.Zero(t, from.Stats().Inuse)
}

// Olric drops what it has moved unless the other node reports an error.
func TestEngine_ImportReturnsTheFirstError(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	for h := range uint64(10) {
		put(t, engine, h, "v", 1)
	}
	payload, _, err := engine.TransferIterator().Export()
	require.NoError(t, err)
	failure, calls := errors.New("full"), 0
	err = engine.Import(payload, func(uint64, storage.Entry) error {
		if calls++; calls == 3 {
			return failure
		}
		return nil
	})
	require.ErrorIs(t, err, failure)
	require.Equal(t, 3, calls)
}
