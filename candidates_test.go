package warmtier

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: what Open takes a file for under the name of a segment follows from the manifest, from the
// file's header and from whether the page cache was kept, as docs/format.md says. Method: every
// combination.
func TestCandidate_Outcomes(t *testing.T) {
	const id = 7
	store := layout.StoreID{1, 2}
	manifest := layout.Manifest{Store: store, Open: 55, Generation: 4}
	header := layout.Header{Kind: layout.KindLane, ID: id, Capacity: 4096, Store: store, Salt: 66, Open: 55, Generation: 4}
	file := func(change func(h *layout.Header)) []byte {
		h := header
		change(&h)
		mem := make([]byte, 4096)
		layout.State{Generation: 1, Synced: 500, Records: 3, MaxSeq: 9, Sealed: true}.Encode(mem)
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
		newer      = fileNewer
		wrongStore = fileWrongStore
		damaged    = fileDamaged
	)
	for _, c := range []struct {
		name string
		mem  []byte
		none outcome // with no claim, with the cache or without
		// What it is with the cache kept, and without.
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
		{"damaged header", edited(func(mem []byte) { mem[20] ^= 1 }), foreign, damaged, damaged, damaged, damaged},
		{"wrong magic", edited(func(mem []byte) { mem[0] ^= 1 }), foreign, damaged, foreign, damaged, damaged},
		{"damaged version", edited(func(mem []byte) { mem[8] ^= 1 }), foreign, damaged, damaged, damaged, damaged},
		{
			"zeros and a text", append(make([]byte, 8), bytes.Repeat([]byte("text"), 100)...),
			foreign, damaged, foreign, damaged, damaged,
		},
		{"no state", edited(func(mem []byte) { clear(mem[96:192]) }), leftover, damaged, damaged, damaged, damaged},
		{"another version", edited(func(mem []byte) { mem[8]++; mem[92]++ }), other, other, other, other, other},
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
			foreign, wrongStore, wrongStore, wrongStore, wrongStore,
		},
		{
			"of another open", file(func(h *layout.Header) { h.Open++ }),
			leftover, newer, newer, belongs, belongs,
		},
		{
			"target of another open", file(func(h *layout.Header) { h.Open++; h.Kind = layout.KindTarget }),
			leftover, newer, newer, belongs, belongs,
		},
		{
			"of an earlier generation", file(func(h *layout.Header) { h.Generation-- }),
			leftover, belongs, belongs, belongs, belongs,
		},
		{
			"of a later generation", file(func(h *layout.Header) { h.Generation++ }),
			newer, newer, newer, belongs, belongs,
		},
		{
			"of another salt", file(func(h *layout.Header) { h.Salt++ }),
			leftover, belongs, belongs, wrongStore, wrongStore,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(want outcome, says claim, cacheKept bool) {
				x := readCandidate(c.mem, layout.SegmentFileName(id), id, says)
				if says == claimListed {
					x.listed = &layout.ListedSegment{ID: id, Salt: 66, End: 400, Records: 2}
				}
				got, reason := x.examine(&manifest, cacheKept)
				require.Equal(t, want, got, "claim %d, cache kept %v", says, cacheKept)
				fails := want == other || want == newer || want == wrongStore || want == damaged
				require.Equal(t, fails, reason != nil, "claim %d, cache kept %v: %v", says, cacheKept, reason)
			}
			check(c.none, claimNone, true)
			later := c.none
			if c.name == "cut in the header" {
				later = leftover // a power loss may leave so much of a segment that was cleared before a flush
			}
			check(later, claimNone, false)
			check(c.optional, claimOptional, true)
			check(c.optionalLater, claimOptional, false)
			check(c.listed, claimListed, true)
			check(c.listedLater, claimListed, false)
		})
	}
}

// Goal: after a clean Close each file is exactly as the manifest says, and none came later.
func TestCandidate_OutcomesAfterClose(t *testing.T) {
	const id = 7
	m := layout.Manifest{Store: layout.StoreID{1}, Open: 55, Generation: 4, Closed: true}
	read := func(st layout.State, kind layout.SegmentKind, says claim) *candidate {
		mem := make([]byte, 4096)
		st.Generation = 1
		st.Encode(mem)
		layout.Header{Kind: kind, ID: id, Capacity: 4096, Store: m.Store, Salt: 66, Open: 55, Generation: 3}.Encode(mem)
		c := readCandidate(mem, layout.SegmentFileName(id), id, says)
		if says == claimListed {
			c.listed = &layout.ListedSegment{ID: id, Salt: 66, End: 500, Records: 3}
		}
		return c
	}
	whole := layout.State{Synced: 500, Records: 3, Sealed: true}
	for _, c := range []struct {
		name string
		c    *candidate
		want outcome
	}{
		{"as it was", read(whole, layout.KindLane, claimListed), fileBelongs},
		{"not sealed", read(layout.State{Synced: 500, Records: 3}, layout.KindLane, claimListed), fileDamaged},
		{"shorter", read(layout.State{Synced: 400, Records: 2, Sealed: true}, layout.KindLane, claimListed), fileDamaged},
		{"longer", read(layout.State{Synced: 600, Records: 4, Sealed: true}, layout.KindLane, claimListed), fileDamaged},
		{"other end", read(layout.State{Synced: 508, Records: 3, Sealed: true}, layout.KindLane, claimListed), fileDamaged},
		{"other count", read(layout.State{Synced: 500, Records: 4, Sealed: true}, layout.KindLane, claimListed), fileDamaged},
		{"not listed, of a lane", read(whole, layout.KindLane, claimOptional), fileNewer},
		{"not listed, a target", read(whole, layout.KindTarget, claimOptional), fileLeftover},
		{"not listed, and older", read(whole, layout.KindLane, claimNone), fileLeftover},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, reason := c.c.examine(&m, true)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want == fileNewer || c.want == fileDamaged, reason != nil, "%v", reason)
		})
	}
}
