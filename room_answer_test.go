package warmtier

import (
	"testing"
	"time"

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

// Goal: a writer gives up when the compaction it waits for had its chance and got no further, and not because time
// has passed.
//
// What would break: a process that is stopped for longer than a writer is patient refuses that write when it goes on,
// though the compaction would have given memory back a moment later; so does one on a machine that is busy with
// others, whose compaction gets on, but slowly.
func TestRoom_PatienceIsNotTime(t *testing.T) {
	looks := make(chan time.Time)
	s := openTest(t, quiet(), hooks{looks: looks, patience: time.Nanosecond * patienceLooks})
	p := newPace(1, 1)
	s.pacing.Store(p)
	defer s.pacing.Store(nil)
	ended := make(chan bool, 1)
	change := make(chan struct{})
	wait := func() {
		changed, err := s.awaitChange(change)
		require.NoError(t, err)
		ended <- changed
	}
	look := func(times int) {
		t.Helper()
		for range times {
			select {
			case looks <- time.Time{}:
			case <-ended:
				require.Fail(t, "gave up")
			}
		}
	}
	go wait()
	look(patienceLooks - 1)
	for range 3 { // a step may be seen by the look before it, which has been taken and not ended
		p.yield(0)
		look(patienceLooks - 1)
	}
	s.pacing.Store(nil) // that compaction has ended
	look(patienceLooks - 1)
	for gaveUp := false; !gaveUp; {
		select {
		case looks <- time.Time{}:
		case changed := <-ended:
			require.False(t, changed)
			gaveUp = true
		}
	}

	go wait()
	look(patienceLooks - 1)
	close(change)
	require.True(t, <-ended)
}
