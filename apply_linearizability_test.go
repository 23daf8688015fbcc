//go:build unix

package warmtier

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

/*
Goal: of calls that write each sees all of a batch or none of it, with compactions running, succeeding and failing, and
with kills.

Method: histories of calls that write, to a few ids of one group: batches with and without checks, Puts, PutIfs,
Updates and Deletes. Whether a check holds says what a call has seen, of all ids of its group at once. Reads, which may
see some of a batch before the rest, are left out here: TestLinearizable has them, and batches, id by id.
*/

const (
	groupIDs = 3
	groups   = 4
)

// groupCall is a call that writes to ids of a group, if they have the versions that it wants.
type groupCall struct {
	Group   int
	Write   [groupIDs]uint64 // what it stores: a version, removed, or 0 for nothing
	Checked [groupIDs]bool
	Wanted  [groupIDs]uint64
}

const removed = 1<<64 - 1

// oneGroup is the promise of the store about one group; its state is the version of each id. The output of a call says
// whether it wrote, and is nil where nobody knows.
var oneGroup = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		byGroup := map[int][]porcupine.Operation{}
		for _, op := range history {
			group := op.Input.(groupCall).Group
			byGroup[group] = append(byGroup[group], op)
		}
		for _, part := range byGroup {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return [groupIDs]uint64{} },
	Step: func(state, in, out any) (bool, any) {
		versions, call := state.([groupIDs]uint64), in.(groupCall)
		holds := true
		for i, checked := range call.Checked {
			holds = holds && (!checked || versions[i] == call.Wanted[i])
		}
		wrote, known := out.(bool)
		if !known {
			wrote = holds
		}
		if wrote != holds || !wrote {
			return wrote == holds, versions
		}
		for i, v := range call.Write {
			switch v {
			case 0:
			case removed:
				versions[i] = 0
			default:
				versions[i] = v
			}
		}
		return true, versions
	},
}

// look reads what the ids of a group have; not all of it need be of one moment.
func (h *historian) look(group int) (found [groupIDs]seen, err error) {
	for i := range found {
		if _, err = h.read(idOf(group*groupIDs+i), false, &found[i]); err != nil {
			break
		}
	}
	return found, err
}

// planGroup returns a random call, and a function that makes it. That returns the call again, since an Update learns
// what it has found when it is made.
func (h *historian) planGroup(client, n int, rng *rand.Rand) (groupCall, func() (groupCall, error), error) {
	version := batchVersion(client, n)
	call := groupCall{Group: rng.IntN(groups)}
	found, err := h.look(call.Group)
	if err != nil {
		return call, nil, err
	}
	one := rng.IntN(groupIDs)
	id := idOf(call.Group*groupIDs + one)
	var do func() error
	switch rng.IntN(9) {
	case 0:
		call.Write[one] = version
		do = func() error { return h.s.Put(id, versionContent(version)) }
	case 1:
		call.Write[one] = removed
		do = func() error {
			_, err := h.s.Delete(id)
			return err
		}
	case 2:
		call.Write[one], call.Checked[one], call.Wanted[one] = version, true, found[one].content
		do = func() error {
			_, err := h.s.PutIf(id, versionContent(version), found[one].store)
			return err
		}
	case 3:
		call.Write[one] = version
		return call, func() (groupCall, error) {
			made := call
			made.Checked[one] = true
			return made, h.s.Update(id, func(content []byte, exists bool) (_ []byte, err error) {
				if made.Wanted[one] = 0; exists {
					made.Wanted[one], err = versionOf(content)
				}
				return versionContent(version), err
			})
		}, nil
	default:
		var b Batch
		check := rng.IntN(4) > 0
		for i := range groupIDs {
			id := idOf(call.Group*groupIDs + i)
			if call.Checked[i] = check; check {
				call.Wanted[i] = found[i].content
				b.Check(id, found[i].store)
			}
			switch rng.IntN(6) {
			case 0: // left as it is
			case 1:
				call.Write[i] = removed
				b.Delete(id)
			default:
				call.Write[i] = version
				b.Put(id, versionContent(version))
			}
		}
		do = func() error { return h.s.Apply(&b) }
	}
	return call, func() (groupCall, error) { return call, do() }, nil
}

// writeGroup makes one random call, and returns it as an operation.
func (h *historian) writeGroup(client, n int, rng *rand.Rand) (op porcupine.Operation, err error) {
	_, do, err := h.planGroup(client, n, rng)
	if err != nil {
		return op, err
	}
	op = porcupine.Operation{ClientId: client, Call: h.clock.Add(1)}
	call, err := do()
	op.Return = h.clock.Add(1)
	op.Input, op.Output = call, err == nil
	if errors.Is(err, ErrChanged) {
		err = nil
	}
	return op, err
}

// batchVersion returns a version whose content is short: several fit into a segment.
func batchVersion(client, n int) uint64 {
	version := uint64(client+1)<<32 | uint64(n+1)
	if version%97 == 0 {
		version |= 1 << 60
	}
	return version
}

// Goal: that of this file.
func TestLinearizable_Batches(t *testing.T) {
	storeKinds(t, func() *Options { return compacting(2, 1) }, func(t *testing.T, s *Store) {
		const clients = 6
		each := stride(t, 60, 2000)
		rng := seeded(t)
		f := &fuse{}
		s.hooks.at = f.at
		h := &historian{s: s}
		type result struct {
			calls []porcupine.Operation
			err   error
		}
		results := make(chan result, clients)
		var refusals atomic.Int64 // without one the history says nothing of checks: clients go on
		for client := range clients {
			own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
			go func() {
				var r result
				for n := 0; r.err == nil && (n < each || n < 100*each && refusals.Load() == 0); n++ {
					var op porcupine.Operation
					op, r.err = h.writeGroup(client, n, own)
					if r.err == nil && !op.Output.(bool) {
						refusals.Add(1)
					}
					r.calls = append(r.calls, op)
				}
				results <- r
			}()
		}
		var history []porcupine.Operation
		for left := clients; left > 0; {
			select {
			case r := <-results:
				require.NoError(t, r.err)
				history = append(history, r.calls...)
				left--
			default:
				f.armRandomly(rng)
				if _, err := s.Compact(context.Background()); err != nil {
					require.ErrorIs(t, err, errInjected)
				}
			}
		}
		require.GreaterOrEqual(t, len(history), clients*each)
		require.True(t, porcupine.CheckOperations(oneGroup, history))
		refused := 0
		for i, op := range history {
			if !op.Output.(bool) {
				refused++
				continue
			}
			if call := op.Input.(groupCall); call.Checked == [groupIDs]bool{true, true, true} && refused > 0 {
				call.Wanted[0]++ // the check finds a wrong answer
				history[i].Input = call
				require.False(t, porcupine.CheckOperations(oneGroup, history))
				break
			}
		}
		require.Positive(t, refused)
	})
}

// batch makes a batch of a few writes, and returns one operation for each id.
func (h *historian) batch(client, n, ids int, rng *rand.Rand) (ops []porcupine.Operation, err error) {
	var b Batch
	var ins []input
	for _, id := range rng.Perm(ids)[:1+rng.IntN(min(ids, 4))] {
		in := input{id: id, kind: callPut, version: batchVersion(client, n)}
		if rng.IntN(4) == 0 {
			in.kind = callRemove
			b.Delete(idOf(id))
		} else {
			b.Put(idOf(id), versionContent(in.version))
		}
		ins = append(ins, in)
	}
	op := porcupine.Operation{ClientId: client, Call: h.clock.Add(1)}
	err = h.s.Apply(&b)
	op.Return = h.clock.Add(1)
	for _, in := range ins {
		op.Input, op.Output = in, output(0)
		ops = append(ops, op)
	}
	return ops, err
}
