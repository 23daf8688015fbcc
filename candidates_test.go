package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: what Open takes a file for under the name of a segment follows from the manifest, from the
// file's header and from whether the machine was restarted, as docs/format.md says. Method: every
// combination.
func TestCandidate_Outcomes(t *testing.T) {
	const id = 7
	store := layout.StoreID{1, 2}
	header := layout.Header{Kind: layout.KindLane, ID: id, Capacity: 4096, Store: store}
	file := func(change func(h *layout.Header)) []byte {
		h := header
		change(&h)
		mem := make([]byte, 4096)
		layout.State{Generation: 1, Synced: 500, Records: 3, MaxSeq: 9}.Encode(mem)
		h.Encode(mem)
		return mem
	}
	whole := file(func(*layout.Header) {})
	edited := func(edit func(mem []byte)) []byte {
		mem := file(func(*layout.Header) {})
		edit(mem)
		return mem
	}
	const (
		belongs    = fileBelongs
		leftover   = fileLeftover
		foreign    = fileForeign
		other      = fileOtherVersion
		wrongStore = fileWrongStore
		damaged    = fileDamaged
	)
	for _, c := range []struct {
		name string
		mem  []byte
		none outcome // with no claim, on either boot
		// What it is on the same boot, and after a restart.
		optional, optionalLater outcome
		listed, listedLater     outcome
	}{
		{"whole", whole, leftover, belongs, belongs, belongs, belongs},
		{
			"whole target", file(func(h *layout.Header) { h.Kind = layout.KindTarget }),
			leftover, leftover, leftover, belongs, belongs,
		},
		{"empty", nil, leftover, damaged, leftover, damaged, damaged},
		{"zeros", make([]byte, 4096), leftover, damaged, leftover, damaged, damaged},
		{"cut in the header", whole[:100], foreign, damaged, leftover, damaged, damaged},
		{"cut after the header", whole[:2048], leftover, damaged, leftover, damaged, damaged},
		{"damaged header", edited(func(mem []byte) { mem[20] ^= 1 }), foreign, damaged, leftover, damaged, damaged},
		{"wrong magic", edited(func(mem []byte) { mem[0] ^= 1 }), foreign, damaged, leftover, damaged, damaged},
		{"no state", edited(func(mem []byte) { clear(mem[64:128]) }), leftover, damaged, damaged, damaged, damaged},
		{"another version", edited(func(mem []byte) { mem[8]++ }), other, other, other, other, other},
		{
			"of another store", file(func(h *layout.Header) { h.Store[0]++ }),
			foreign, wrongStore, wrongStore, wrongStore, wrongStore,
		},
		{
			"of another segment", file(func(h *layout.Header) { h.ID++ }),
			foreign, wrongStore, wrongStore, wrongStore, wrongStore,
		},
		{
			"of another store, and cut", file(func(h *layout.Header) { h.Store[0]++ })[:2048],
			foreign, wrongStore, leftover, wrongStore, wrongStore,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(want outcome, says claim, sameBoot bool) {
				got, reason := readCandidate(c.mem, id, says).examine(store, sameBoot)
				require.Equal(t, want, got, "claim %d, same boot %v", says, sameBoot)
				fails := want == other || want == wrongStore || want == damaged
				require.Equal(t, fails, reason != nil, "claim %d, same boot %v: %v", says, sameBoot, reason)
			}
			check(c.none, claimNone, true)
			check(c.none, claimNone, false)
			check(c.optional, claimOptional, true)
			check(c.optionalLater, claimOptional, false)
			check(c.listed, claimListed, true)
			check(c.listedLater, claimListed, false)
		})
	}
}
