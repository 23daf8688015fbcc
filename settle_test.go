//go:build unix

package warmtier

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: what Open makes of the segments that it has found: which of them lanes may write to, and which bytes it writes
itself.
*/

// Goal: a lane resumes what lanes have left half filled, and no file that is damaged, that a compaction made, that was
// made for one record, that is full, that is larger than the segments of now, or that has another name.
func TestSettle_Partial(t *testing.T) {
	for name, change := range map[string]func(f *foundSegment){
		"":                func(*foundSegment) {},
		"damaged":         func(f *foundSegment) { f.damaged = true },
		"target":          func(f *foundSegment) { f.seg.kind = layout.KindTarget },
		"large":           func(f *foundSegment) { f.seg.large = true },
		"full":            func(f *foundSegment) { f.seg.seal(false) },
		"larger":          func(f *foundSegment) { f.seg.mem = make([]byte, 8192) },
		"of a checkpoint": func(f *foundSegment) { f.seg.inFile.linked.Store(true) },
	} {
		f := smallFile()
		f.seg.seal(true)
		change(f)
		r := &recovery{s: &Store{opts: Options{SegmentSize: 4096}}, found: []*foundSegment{f}}
		r.offerPartial()
		require.Equal(t, name == "", len(r.s.segments.partial) == 1, name)
	}
}

// Goal: a segment all of which was durable, and that no header says is sealed, gets a header that does: the next Close
// lists it as sealed, and the Open after it compares the two.
func TestSettle_DurableIsNotSealed(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 1000)
	require.NoError(t, s.Sync())
	killed := d.Kill()
	require.NoError(t, s.Close())
	for range 2 {
		s = oneLaneStore(t, killed)
		requireContents(t, s, 0, 10, 1000, all)
		require.NoError(t, s.Close())
	}
	require.NoError(t, released(killed, s))
}

// Goal: what a power loss has left behind the records of a sealed segment is gone for good in a copy too, of which
// nothing was durable.
func TestSettle_RemainsInCopy(t *testing.T) {
	lost, name := remainsOf(t, true)
	restored := lost.StartCopy(func([]string) {}).End()
	opts := shadowOptions()
	opts.AfterPowerLoss = true
	s, err := openShadow(restored, opts, hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	seg := segmentOf(t, s, "y")
	require.Equal(t, name, seg.name())
	durable := restored.Files[name].Durable
	require.Equal(t, seg.mem[:seg.tail.Load()], durable[:seg.tail.Load()])
	require.True(t, layout.IsZero(durable[seg.tail.Load():layout.DigestAt(len(durable), int(seg.records.Load())-1)]))
	closeShadow(t, s, restored)
}
