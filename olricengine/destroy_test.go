package olricengine_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// openDirectory returns a store in a directory. The caller closes it, if anybody does.
func openDirectory(t *testing.T, directory string) *warmtier.Store {
	t.Helper()
	store, err := warmtier.Open(directory, nil)
	require.NoError(t, err)
	return store
}

// A fork whose destruction failed halfway has nothing that anybody could read, offer or move, and what is left in the
// store is removed by the next call.
func TestDestroy_FailedHalfway(t *testing.T) {
	directory := t.TempDir()
	store := openDirectory(t, directory)
	var (
		opts   olricengine.Options
		calls  int
		failed = errors.New("no")
	)
	olricengine.BeforeRemovals(&opts, func() error {
		if calls++; calls > 2 && calls <= 6 {
			return failed
		}
		return nil
	})
	engine, err := olricengine.New(store, opts)
	require.NoError(t, err)
	f := fork(t, engine)
	for hkey := range uint64(5) {
		putUntil(t, f, hkey, "v", 1, time.Now())
	}
	require.ErrorIs(t, f.Destroy(), failed)
	require.Equal(t, 3+1, store.Len(), "what is left, and the note")
	_, failure := engine.Failure()
	require.ErrorIs(t, failure, failed)

	require.Zero(t, f.Stats().Length, "Olric destroys what is empty again")
	_, err = f.Get(4)
	bare(t, storage.ErrKeyNotFound, err)
	require.False(t, f.Check(4))
	require.ErrorIs(t, f.Put(4, entry(f, "k", "v", 2)), olricengine.ErrDestroyed)
	none := func(olricengine.Chunk) error { return errors.New("offered") }
	require.NoError(t, engine.Offer(1, everywhere, none))
	require.False(t, f.TransferIterator().Next())
	require.Empty(t, scanAll(t, f, 10, func() {}))
	require.Zero(t, expire(t, engine, time.Now().Add(time.Hour)))

	require.ErrorIs(t, f.Destroy(), failed)
	require.Equal(t, 1+1, store.Len(), "one more could not be removed")
	require.NoError(t, f.Destroy())
	require.Zero(t, store.Len())
	require.NoError(t, f.Destroy())
	require.NoError(t, store.Close())
}

// A node that is killed while it destroys a fork has no entry of it when it comes back, and removes what is left, later
// if it cannot at once.
func TestDestroy_KilledHalfway(t *testing.T) {
	store := openDirectory(t, t.TempDir())
	left := filepath.Join(t.TempDir(), "left")
	var (
		opts  olricengine.Options
		calls int
	)
	olricengine.BeforeRemovals(&opts, func() error {
		if calls++; calls == 4 { // what a kill leaves here
			return store.Checkpoint(context.Background(), left)
		}
		return nil
	})
	engine, err := olricengine.New(store, opts)
	require.NoError(t, err)
	f, stays := fork(t, engine), fork(t, engine)
	for hkey := range uint64(10) {
		put(t, f, hkey, "destroyed", 1)
	}
	put(t, stays, 1, "stays", 1)
	require.NoError(t, f.Destroy())
	require.NoError(t, store.Close())

	store = openDirectory(t, left)
	require.Equal(t, 7+1+1, store.Len(), "what is left, the note, and the entry of the other fork")
	broken := errors.New("broken")
	olricengine.BeforeRemovals(&opts, func() error { return broken })
	engine, err = olricengine.New(store, opts)
	require.NoError(t, err, "a node that cannot remove it starts all the same")
	require.Equal(t, 1, engine.Recovered())
	_, failure := engine.Failure()
	require.ErrorIs(t, failure, broken)
	broken = nil
	require.Zero(t, expire(t, engine, time.Now()))
	require.Equal(t, 1, store.Len())
	require.NoError(t, store.Close())

	// A note of which nothing is left is removed, and its number is not given again before.
	store = openDirectory(t, left)
	require.NoError(t, store.Put(string([]byte{0, 0, 0, 0, 0, 0, 0, 9}), nil))
	broken = errors.New("broken")
	engine, err = olricengine.New(store, opts)
	require.NoError(t, err)
	f = fork(t, engine)
	put(t, f, 1, "of this life", 2)
	broken = nil
	require.Zero(t, expire(t, engine, time.Now()))
	require.Equal(t, "of this life", value(t, f, 1))
	require.NoError(t, store.Close())
	store = openDirectory(t, left)
	engine, err = olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	require.Equal(t, 2, engine.Recovered())
	require.NoError(t, store.Close())
}

// A destruction that cannot be written down has not begun.
func TestDestroy_NoRoomForItsNote(t *testing.T) {
	store, err := warmtier.Open(t.TempDir(), &warmtier.Options{
		MaxBytes: 4 << 20, Maintenance: warmtier.MaintenanceOptions{Disabled: true},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	f := fork(t, engine)
	put(t, f, 0, long(10_000), 1)
	for stage, size := range []int{100_000, 1000, 0} {
		for i, refused := 0, 0; refused < 100; i++ { // every lane is full then, for ids as long as a note's
			if err := store.Put(fmt.Sprintf("%d%07d", stage, i), make([]byte, size)); err != nil {
				require.ErrorIs(t, err, warmtier.ErrNoSpace)
				refused++
			} else {
				refused = 0
			}
		}
	}
	require.ErrorIs(t, f.Destroy(), warmtier.ErrNoSpace)
	require.Len(t, value(t, f, 0), 10_000)
	require.Equal(t, 1, f.Stats().Length)
}

// Where removals are remembered a destruction would be one without a trace.
func TestDestroy_RefusedWhereRemovalsAreRemembered(t *testing.T) {
	engine := openEngine(t, olricengine.Options{Remember: time.Hour})
	f := fork(t, engine)
	put(t, f, 1, "v", 1)
	require.ErrorIs(t, f.Destroy(), olricengine.ErrRefused)
	require.Equal(t, "v", value(t, f, 1))
	put(t, f, 2, "it goes on", 1)
	require.NoError(t, fork(t, engine).Destroy(), "an empty one is gone")
}
