package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a writer is refused only for an answer to its own question. Method: the orders of events at the limit,
// one by one. The first is the one that refused writers of a store in which 60 % was dead: a compaction gave
// back memory, other writers took it, and the look that followed found room enough.
func TestRoom_Answers(t *testing.T) {
	t.Run("answered, then a look that finds nothing to do", func(t *testing.T) {
		var r room
		n := r.ask()
		require.True(t, r.isAsked())
		r.answer(r.heard(), true, 0)
		require.False(t, r.isAsked())
		r.answer(r.heard(), false, 0)
		require.False(t, r.isFruitless(n, 0), "it asks again")
	})
	t.Run("asks while a compaction runs that did not hear it", func(t *testing.T) {
		var r room
		heard := r.heard()
		n := r.ask()
		r.answer(heard, false, 0)
		require.False(t, r.isFruitless(n, 0))
		require.True(t, r.isAsked(), "so a look compacts, whatever else it sees")
		r.answer(r.heard(), false, 0)
		require.True(t, r.isFruitless(n, 0))
		require.False(t, r.isAsked())
	})
	t.Run("fruitless for one, not for the next", func(t *testing.T) {
		var r room
		first := r.ask()
		r.answer(r.heard(), false, 0)
		second := r.ask()
		require.True(t, r.isFruitless(first, 0))
		require.False(t, r.isFruitless(second, 0))
		r.answer(r.heard(), true, 0)
		require.False(t, r.isFruitless(second, 0))
	})
}
