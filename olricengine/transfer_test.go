package olricengine_test

import (
	"errors"
	"testing"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// What was written between Export and Drop has not been sent, also where its timestamp and its size are those of what
// was: two nodes wrote at the same nanosecond, and all nodes must keep the content that comes last.
func TestTransfer_DropKeepsAWriteThatLooksTheSame(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	f, to := fork(t, engine), fork(t, engine)
	put(t, f, 1, "a", 7)
	put(t, f, 2, "sent", 7)
	moves := f.TransferIterator()
	payload, index, err := moves.Export()
	require.NoError(t, err)
	require.NoError(t, to.Import(payload, to.Put))
	put(t, f, 1, "b", 7)
	require.NoError(t, moves.Drop(index))
	require.Equal(t, "b", value(t, f, 1))
	require.False(t, f.Check(2), "what was sent is dropped")

	payload, index, err = moves.Export()
	require.NoError(t, err)
	require.NoError(t, to.Import(payload, to.Put))
	require.NoError(t, moves.Drop(index))
	require.Zero(t, f.Stats().Length)
	require.Equal(t, "b", value(t, to, 1))
}

// A removal and a write that make what was sent again are not what was sent.
func TestTransfer_DropKeepsWhatWasRemovedAndWritten(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	f := fork(t, engine)
	put(t, f, 1, "b", 7)
	moves := f.TransferIterator()
	_, index, err := moves.Export()
	require.NoError(t, err)
	require.NoError(t, f.Delete(1))
	put(t, f, 1, "a", 7)
	require.NoError(t, moves.Drop(index))
	require.Equal(t, "a", value(t, f, 1))
}

// The sender drops what was taken. A power loss could otherwise take the copy that was made, and not the removal of
// the one that had been durable for long: the store orders nothing between two ids.
func TestTransfer_DropsWhatIsDurableElsewhere(t *testing.T) {
	open := func() (*warmtier.Store, *olricengine.Engine) {
		store, err := warmtier.Open(t.TempDir(), &warmtier.Options{SyncInterval: -1}) // nothing syncs by itself
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		engine, err := olricengine.New(store, olricengine.Options{})
		require.NoError(t, err)
		return store, fork(t, engine)
	}
	unsynced := func(store *warmtier.Store) int64 { return store.Stats().Sync.UnsyncedBytes }
	_, from := open()
	store, to := open()
	put(t, from, 1, "old", 7)
	put(t, from, 2, "there already", 7)
	put(t, to, 2, "there already", 7)
	moves := from.TransferIterator()
	payload, index, err := moves.Export()
	require.NoError(t, err)

	refused := errors.New("refused")
	require.ErrorIs(t, to.Import(payload, func(uint64, storage.Entry) error { return refused }), refused)
	require.Positive(t, unsynced(store), "nobody drops anything")
	// Olric's merge stores only what is not there: the other copy may be as young as this one.
	require.NoError(t, to.Import(payload, func(hkey uint64, entry storage.Entry) error {
		if to.Check(hkey) {
			return nil
		}
		return to.Put(hkey, entry)
	}))
	require.Zero(t, unsynced(store))
	require.NoError(t, moves.Drop(index))

	// A node that could not make it durable has not taken it.
	payload, _, err = to.TransferIterator().Export()
	require.NoError(t, err)
	closed, full := open()
	require.NoError(t, closed.Close())
	require.ErrorIs(t, full.Import(payload, func(uint64, storage.Entry) error { return nil }), warmtier.ErrClosed)
}
