package olricengine_test

import (
	"errors"
	"io"
	"testing"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine"
)

// owners are those of one partition.
func owners(number uint64, keeps, given bool) *olricengine.Owners {
	return &olricengine.Owners{Numbers: []uint64{number}, Keeps: []bool{keeps}, Given: []bool{given}}
}

// A node gives what it has to the owners that it sees. One that sees others would take it for what they all have.
func TestImport_OtherOwners(t *testing.T) {
	sender, receiver := openEngine(t, olricengine.Options{}), openEngine(t, olricengine.Options{})
	from, to := fork(t, sender), fork(t, receiver)
	put(t, from, 1, "a", 7)
	exported := func() []byte {
		payload, _, err := from.TransferIterator().Export()
		require.NoError(t, err)
		return payload
	}
	never := func(uint64, storage.Entry) error { return errors.New("called") }

	ofNobody := exported()
	sender.SetOwners(owners(1, false, true))
	payload := exported()
	require.ErrorIs(t, to.Import(payload, never), olricengine.ErrOtherOwners, "this node has not seen any yet")
	receiver.SetOwners(owners(2, true, false))
	require.ErrorIs(t, to.Import(payload, never), olricengine.ErrOtherOwners)
	require.ErrorIs(t, to.Import(ofNobody, never), olricengine.ErrOtherOwners)

	receiver.SetOwners(owners(1, true, false))
	require.NoError(t, to.Import(payload, to.Put))
	require.Equal(t, "a", value(t, to, 1))
	changing := func(hkey uint64, entry storage.Entry) error {
		receiver.SetOwners(owners(2, true, false))
		return to.Put(hkey, entry)
	}
	require.ErrorIs(t, to.Import(payload, changing), olricengine.ErrOtherOwners, "it may have offered its own by then")
}

// What a node owes to an owner does not leave it, nor what it must have itself.
func TestTransfer_KeepsWhatIsOwed(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	old, other := fork(t, engine), fork(t, engine)
	put(t, old, 1, "a", 7)
	put(t, old, 2, "b", 7)
	moves := old.TransferIterator()
	stays := func() {
		t.Helper()
		require.False(t, moves.Next())
		_, _, err := moves.Export()
		require.ErrorIs(t, err, io.EOF)
	}
	engine.SetOwners(owners(1, false, false))
	stays()
	engine.SetOwners(owners(1, true, true))
	stays()
	put(t, other, 1, "older", 6)
	stays()

	// What is in another fork as well may leave this one.
	put(t, other, 1, "a", 7)
	require.True(t, moves.Next())
	_, index, err := moves.Export()
	require.NoError(t, err)
	engine.SetOwners(owners(2, true, false))
	require.NoError(t, moves.Drop(index))
	require.True(t, old.Check(1), "other owners may lack it")
	engine.SetOwners(owners(1, true, true))
	require.NoError(t, moves.Drop(index))
	require.False(t, old.Check(1))
	require.True(t, old.Check(2), "it is nowhere else")

	// Nor does what was written while owners changed, before it was offered.
	engine.SetOwners(owners(1, false, true))
	en := engine.NewEntry()
	en.SetKey("key 3")
	en.SetTimestamp(7)
	engine.Mark(func(uint64) bool { return false })
	late := fork(t, engine)
	require.NoError(t, late.Put(3, en))
	moves = late.TransferIterator()
	stays()
	require.NoError(t, engine.OfferLate(1, func(olricengine.Chunk) error { return nil }))
	require.True(t, moves.Next())
}
