//go:build unix

package warmtier

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: a flush covers what was acknowledged before it, and pins nothing that left the table or has a
// lane, though it walks the table with no lock held.
//
// The interleavings: a lane rolls between the two looks, so what was active is sealed; a segment that
// looked dirty in the walk is resumed by a lane, or leaves the table, before it is pinned.
func TestHolds_FlushWalksUnlocked(t *testing.T) {
	s := openDir(t, fastDir(t), quietly())
	fill(t, s, 0, 200, 1000)
	var segs []*segment
	tails := map[*segment]int64{}
	for _, seg := range s.segments.all() {
		tails[seg] = seg.tail.Load()
		segs = append(segs, seg)
	}
	var rolled atomic.Bool
	s.hooks.at = func(p point) error {
		if p == pointFlushActive && rolled.CompareAndSwap(false, true) {
			elsewhere(func() { fill(t, s, 200, 600, 1000) })
		}
		return nil
	}
	require.NoError(t, s.Sync())
	s.hooks.at = nil
	require.Greater(t, len(s.segments.all()), len(segs), "lanes have rolled")
	for seg, tail := range tails {
		require.GreaterOrEqual(t, seg.inFile.synced.Load(), tail, "%s", seg.name())
	}

	var active []*segment
	for i := range s.lanes {
		active = append(active, s.lanes[i].active)
	}
	require.Empty(t, s.disk.pinSealed(active), "of lanes")
	s.sealLanes(0)
	dirty := s.disk.pinSealed(active)
	require.Len(t, dirty, len(active))
	for _, d := range dirty {
		s.unpin(d.seg)
	}
	gone := newSegment(active[0].id, active[0].mem, layout.KindLane, 0)
	gone.index = active[0].index
	gone.inFile.made(layout.KindLane)
	gone.seal(false)
	require.True(t, gone.isDirty())
	require.Empty(t, s.disk.pinSealed([]*segment{gone}), "not in the table, though another segment is at its index")
	closeIntact(t, s)
}

// Goal: a manifest names every segment once, or has a next id that covers it, whatever lanes publish
// while the table is walked.
//
// The interleaving: ids are noted; then a segment that was pending is published, and another one is
// made and published. In the opposite order both could be in no list, and the next Open would remove
// their files.
func TestHolds_ManifestWalksUnlocked(t *testing.T) {
	s := openDir(t, fastDir(t), quietly())
	fill(t, s, 0, 100, 1000)
	require.NoError(t, s.Sync())
	made := pauseAt(pointSegmentMade)
	s.hooks.at = made.hook
	large := make(chan error, 1)
	go func() { large <- s.Put("pending", make([]byte, minSegmentSize)) }()
	<-made.reached
	s.hooks.at = doAt(pointManifestNumbered, 1, func() {
		close(made.proceed)
		require.NoError(t, <-large)
		require.NoError(t, s.Put("new", make([]byte, minSegmentSize)))
	})
	s.disk.manifestMu.Lock()
	m := s.disk.snapshotManifest(nil, nil)
	s.disk.manifestMu.Unlock()
	s.hooks.at = nil

	named := map[uint64]int{}
	for _, ids := range [][]uint64{listedIDs(m), m.Pending} {
		for _, id := range ids {
			named[id]++
			require.Less(t, id, m.Next)
		}
	}
	pending, fresh := 0, 0
	for _, seg := range s.segments.all() {
		require.Equal(t, layout.KindLane, seg.kind)
		if seg.id >= m.Next {
			fresh++
			continue
		}
		require.Equal(t, 1, named[seg.id], fmt.Sprint("segment ", seg.id))
		if seg.large {
			pending++
		}
	}
	require.Equal(t, 1, pending)
	require.Equal(t, 1, fresh)
	closeIntact(t, s)
}
