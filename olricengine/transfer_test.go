package olricengine_test

import (
	"testing"

	"github.com/stretchr/testify/require"
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
