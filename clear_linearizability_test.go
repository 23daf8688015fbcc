//go:build unix

package warmtier

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// clearedIDs is how many ids histories with Clears have: few, since a Clear ties all of them together.
const clearedIDs = 3

// allMemories is the promise of the store about all ids at once; its state is the version of each.
var allMemories = porcupine.Model{
	Init: func() any { return [clearedIDs]stored{} },
	Step: func(state, in, out any) (bool, any) {
		memories, call := state.([clearedIDs]stored), in.(input)
		if call.kind == callClear {
			return true, [clearedIDs]stored{}
		}
		ok, next := oneMemory.Step(memories[call.id], in, out)
		memories[call.id] = next.(stored)
		return ok, memories
	},
}

// clearer makes n random calls, one of eight a Clear, and returns them.
func (h *historian) clearer(client, n int, rng *rand.Rand) (calls []porcupine.Operation, err error) {
	for i := range n {
		in := input{id: rng.IntN(clearedIDs), kind: callRead}
		switch roll := rng.IntN(8); {
		case roll < 3:
			in.kind, in.version = callPut, uint64(client+1)<<32|uint64(i+1)
		case roll == 3:
			in.kind = callDelete
		case roll == 4:
			in.kind = callClear
		}
		op, err := h.call(client, in, rng.IntN(2) == 0, new(seen))
		if err != nil {
			return nil, err
		}
		calls = append(calls, op)
	}
	return calls, nil
}

// Goal: calls beside a Clear see everything that was there, or nothing of it, and what is stored after it stays.
// Method: histories as those of TestLinearizable, of a few ids whose memories the model knows together, in memory
// and in a directory, with compactions beside them.
func TestLinearizable_Clear(t *testing.T) {
	storeKinds(t, func() *Options { return bounded(1) }, func(t *testing.T, s *Store) {
		const clients, each = 4, 12
		rng := seeded(t)
		for range budget(t, 25, 300) {
			h := &historian{s: s}
			errs := make(chan error, clients)
			for client := range clients {
				own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
				go func() {
					calls, err := h.clearer(client, each, own)
					h.mu.Lock()
					h.history = append(h.history, calls...)
					h.mu.Unlock()
					errs <- err
				}()
			}
			_, err := s.Compact(context.Background())
			for range clients {
				err = errors.Join(err, <-errs)
			}
			require.NoError(t, err)
			require.Len(t, h.history, clients*each)
			require.Equal(t, porcupine.Ok, porcupine.CheckOperationsTimeout(allMemories, h.history, time.Minute))
			require.NoError(t, s.Clear()) // the next history begins with nothing
		}
	})
}

// Goal: a store that is cleared one shard after the other would be found. Method: a history in which a read between
// two others sees what only they do not.
func TestLinearizable_ClearInParts(t *testing.T) {
	read := func(client, id int, version uint64, from, to int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: input{kind: callRead, id: id}, Output: output(version),
			Call: from, Return: to}
	}
	put := func(id int, at int64) porcupine.Operation {
		in := input{kind: callPut, id: id, version: 1}
		return porcupine.Operation{Input: in, Output: output(0), Call: at, Return: at + 1}
	}
	history := []porcupine.Operation{put(0, 1), put(1, 3),
		{ClientId: 1, Input: input{kind: callClear}, Output: output(0), Call: 5, Return: 20},
		read(2, 0, 0, 6, 7), read(2, 1, 0, 8, 9)}
	require.True(t, porcupine.CheckOperations(allMemories, history))
	history[4] = read(2, 1, 1, 8, 9)
	require.False(t, porcupine.CheckOperations(allMemories, history))
}
