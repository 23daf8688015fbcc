package datastore

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	dstest "github.com/ipfs/go-datastore/test"
	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
)

func open(t *testing.T, dir string, opts *warmtier.Options) *Datastore {
	t.Helper()
	store, err := warmtier.Open(dir, opts)
	require.NoError(t, err)
	d := New(store)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// The tests of go-datastore for its implementations.
func TestSubtestAll_Memory(t *testing.T) { dstest.SubtestAll(t, open(t, "", nil)) }

func TestSubtestAll_Directory(t *testing.T) {
	dstest.SubtestAll(t, open(t, t.TempDir(), &warmtier.Options{SegmentSize: 64 << 10}))
}

func TestFeatures(t *testing.T) {
	var names []string
	for _, f := range ds.FeaturesForDatastore(open(t, "", nil)) {
		names = append(names, f.Name)
	}
	require.Equal(t, []string{ds.FeatureNameBatching, ds.FeatureNameChecked, ds.FeatureNameGC,
		ds.FeatureNamePersistent, ds.FeatureNameTTL}, names)
}

// Goal: SetTTL of a value longer than a segment says so, and the value stays.
func TestTTL_LongerThanSegment(t *testing.T) {
	d, ctx, key := open(t, "", &warmtier.Options{SegmentSize: 1 << 20}), t.Context(), ds.NewKey("/a")
	require.NoError(t, d.PutWithTTL(ctx, key, make([]byte, 2<<20), time.Hour))
	before, err := d.GetExpiration(ctx, key)
	require.NoError(t, err)
	require.ErrorIs(t, d.SetTTL(ctx, key, time.Minute), warmtier.ErrBatchTooLarge)
	after, err := d.GetExpiration(ctx, key)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestTTL(t *testing.T) {
	d, ctx, key := open(t, "", nil), t.Context(), ds.NewKey("/a")
	require.ErrorIs(t, d.SetTTL(ctx, key, time.Hour), ds.ErrNotFound)
	_, err := d.GetExpiration(ctx, key)
	require.ErrorIs(t, err, ds.ErrNotFound)

	require.NoError(t, d.Put(ctx, key, []byte("value")))
	at, err := d.GetExpiration(ctx, key)
	require.NoError(t, err)
	require.Zero(t, at)
	require.NoError(t, d.SetTTL(ctx, key, time.Hour))
	at, err = d.GetExpiration(ctx, key)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Hour), at, 30*time.Minute)
	value, err := d.Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, "value", string(value))

	require.NoError(t, d.PutWithTTL(ctx, key, []byte("value"), time.Millisecond))
	require.Eventually(t, func() bool {
		has, err := d.Has(ctx, key)
		require.NoError(t, err)
		return !has
	}, 10*time.Second, time.Millisecond)
	require.ErrorIs(t, d.PutWithTTL(ctx, key, nil, 0), warmtier.ErrInvalidTTL)
}

// A batch is as large as its caller likes, a value in it as large as the store takes.
func TestBatch_AnySize(t *testing.T) {
	d, ctx := open(t, "", &warmtier.Options{SegmentSize: 64 << 10}), t.Context()
	b, err := d.Batch(ctx)
	require.NoError(t, err)
	large := bytes.Repeat([]byte("x"), 1<<20)
	require.NoError(t, d.Put(ctx, ds.NewKey("/old"), []byte("old")))
	require.NoError(t, b.Delete(ctx, ds.NewKey("/old")))
	for i := range 3000 {
		require.NoError(t, b.Put(ctx, ds.NewKey(fmt.Sprint("/", i)), []byte("first")))
		require.NoError(t, b.Put(ctx, ds.NewKey(fmt.Sprint("/", i)), fmt.Append(nil, i)))
	}
	require.NoError(t, b.Put(ctx, ds.NewKey("/large"), large))
	require.NoError(t, b.Put(ctx, ds.NewKey("/gone"), large))
	require.NoError(t, b.Delete(ctx, ds.NewKey("/gone")))
	require.Equal(t, 1, d.store.Len(), "nothing is written before Commit")
	require.NoError(t, b.Commit(ctx))
	require.Equal(t, 3001, d.store.Len())
	for i := range 3000 {
		value, err := d.Get(ctx, ds.NewKey(fmt.Sprint("/", i)))
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(i), string(value))
	}
	size, err := d.GetSize(ctx, ds.NewKey("/large"))
	require.NoError(t, err)
	require.Equal(t, 1<<20, size)

	b, err = d.Batch(ctx)
	require.NoError(t, err)
	require.NoError(t, b.Commit(ctx), "an empty one")
	require.NoError(t, b.Put(ctx, ds.RawKey("/"+strings.Repeat("x", warmtier.MaxIDLen)), nil))
	require.ErrorIs(t, b.Commit(ctx), warmtier.ErrInvalidID)
}

func TestQuery_SizesAndExpirations(t *testing.T) {
	d, ctx := open(t, "", nil), t.Context()
	require.NoError(t, d.Put(ctx, ds.NewKey("/a/1"), []byte("12345")))
	require.NoError(t, d.PutWithTTL(ctx, ds.NewKey("/a/2"), []byte("123"), time.Hour))
	require.NoError(t, d.Put(ctx, ds.NewKey("/ab"), nil))
	require.NoError(t, d.store.Put("not a key", nil))
	require.NoError(t, d.store.Put("/nor/this/", nil))
	entries := func(q query.Query) []query.Entry {
		results, err := d.Query(ctx, q)
		require.NoError(t, err)
		all, err := results.Rest()
		require.NoError(t, err)
		return all
	}
	require.Len(t, entries(query.Query{}), 3)
	got := entries(query.Query{Prefix: "/a", KeysOnly: true, ReturnsSizes: true, ReturnExpirations: true,
		Orders: []query.Order{query.OrderByKey{}}})
	require.Len(t, got, 2)
	require.Equal(t, query.Entry{Key: "/a/1", Size: 5}, got[0])
	require.Equal(t, 3, got[1].Size)
	require.Nil(t, got[1].Value)
	require.WithinDuration(t, time.Now().Add(time.Hour), got[1].Expiration, 30*time.Minute)
}

// A query that cannot go on says so: what it has returned is not all.
func TestQuery_EndsWithAnError(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(d *Datastore, cancel func()) error
		want error
	}{
		"cancelled": {func(_ *Datastore, cancel func()) error { cancel(); return nil }, context.Canceled},
		"closed":    {func(d *Datastore, _ func()) error { return d.Close() }, warmtier.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, "", nil)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for i := range 5000 {
				require.NoError(t, d.Put(ctx, ds.NewKey(fmt.Sprint("/", i)), nil))
			}
			results, err := d.Query(ctx, query.Query{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, results.Close()) })
			_, ok := results.NextSync()
			require.True(t, ok)
			require.NoError(t, end.by(d, cancel))
			var last query.Result
			for next, ok := results.NextSync(); ok; next, ok = results.NextSync() {
				require.NoError(t, last.Error, "an error is the last result")
				last = next
			}
			require.ErrorIs(t, last.Error, end.want)
		})
	}
}

// Goal: a key that cannot be read is missing from no query in silence.
func TestQuery_DamagedKey(t *testing.T) {
	d, ctx := open(t, "", nil), t.Context()
	for i := range 300 {
		require.NoError(t, d.Put(ctx, ds.NewKey(fmt.Sprintf("/key/%03d", i)), []byte("value")))
	}
	require.NoError(t, d.store.View("/key/007", func(content []byte) error {
		*(*byte)(unsafe.Add(unsafe.Pointer(&content[0]), -1)) ^= 1 // the last byte of the key, before its value
		return nil
	}))
	for _, q := range []query.Query{{}, {KeysOnly: true}} {
		results, err := d.Query(ctx, q)
		require.NoError(t, err)
		entries := 0
		var last query.Result
		for next, ok := results.NextSync(); ok; next, ok = results.NextSync() {
			require.NoError(t, last.Error, "an error is the last result")
			if last = next; last.Error == nil {
				entries++
			}
		}
		require.Equal(t, 299, entries)
		require.ErrorIs(t, last.Error, warmtier.ErrCorrupt)
		require.NoError(t, results.Close())
	}
	require.ErrorIs(t, d.Check(ctx), warmtier.ErrCorrupt)
}

func TestCare(t *testing.T) {
	d, ctx := open(t, t.TempDir(), nil), t.Context()
	for i := range 1000 {
		require.NoError(t, d.Put(ctx, ds.NewKey("/a"), bytes.Repeat([]byte{byte(i)}, 1000)))
	}
	before, err := d.DiskUsage(ctx)
	require.NoError(t, err)
	require.NoError(t, d.CollectGarbage(ctx))
	require.NoError(t, d.Check(ctx))
	require.Less(t, d.store.Stats().DeadBytes, int64(1000))
	after, err := d.DiskUsage(ctx)
	require.NoError(t, err)
	require.LessOrEqual(t, after, before)
	require.NoError(t, d.Sync(ctx, ds.NewKey("/")))

	ctx, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, d.CollectGarbage(ctx), context.Canceled)
	require.ErrorIs(t, d.Check(ctx), context.Canceled)
	_, err = d.Query(ctx, query.Query{})
	require.ErrorIs(t, err, context.Canceled)
}
