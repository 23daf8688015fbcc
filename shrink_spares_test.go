//go:build unix

package warmtier

import (
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: what is kept back for a full disk is there when it is needed, as much of it as there is space for. Method: the
budget of the shadow.
*/

// Goal: where there is no space for a whole spare, a smaller one is kept, of which a target and a manifest can be
// made; and no lane's before the target's.
func TestShrink_SmallerSpares(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	opts.SegmentSize = 4 * minSegmentSize
	s, err := openShadow(d, opts, hooks{hash: oneLane, share: fullSegments})
	require.NoError(t, err)
	fill(t, s, 0, 1000, 1000)
	deleteWhere(t, s, 0, 1000, odd)
	s.sealLanes(0)
	spares := &s.disk.spares
	drop := func(less int64) {
		spares.mu.Lock()
		defer spares.mu.Unlock()
		for i := range spares.kept {
			require.NoError(t, s.disk.dropSpareLocked(i))
		}
		d.Budget = d.Used + int64(s.disk.spareSize(targetSpare, s.opts.SegmentSize)) - less
	}
	drop(20480)
	s.disk.keepSpares()
	require.Zero(t, spares.kept[targetSpare], "too little for a target")
	require.Zero(t, spares.kept[laneSpares])
	drop(4096)
	s.disk.keepSpares()
	require.Equal(t, s.opts.SegmentSize-4096, spares.kept[targetSpare])
	d.Budget += 4096 // for manifests
	st := mustCompact(t, s)
	require.Positive(t, st.FileBytesReclaimed)
	requireContents(t, s, 0, 1000, 1000, func(i int) bool { return !odd(i) })

	drop(int64(s.opts.SegmentSize)) // nothing is left
	s.disk.keepSpares()
	require.Equal(t, make([]int, len(spares.kept)), spares.kept)
	d.Budget = 0
	closeShadow(t, s, d)
}

// Goal: where there is too little space for all spares, the lanes' come before a larger one for manifests.
func TestShrink_EverySpareBeforeLargerOnes(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, 6000, 1000)
	spares := &s.disk.spares
	spares.mu.Lock()
	var space int64
	for i := range spares.kept {
		require.NoError(t, s.disk.dropSpareLocked(i))
		size := s.disk.spareSize(i, spares.size)
		if i == manifestSpare {
			require.Greater(t, size, s.disk.enough(i))
			size = s.disk.enough(i)
		}
		space += int64(size)
	}
	d.Budget = d.Used + space
	spares.mu.Unlock()
	s.disk.keepSpares()
	require.True(t, s.disk.keepsAll(), "%v of %d", spares.kept, space)
	closeShadow(t, s, d)
}

// Goal: a directory that has no room for one more name gets it from the space kept back for names, and where that
// is used up from a manifest's.
func TestShrink_NoSpaceForNames(t *testing.T) {
	for _, i := range []int{nameSpare, manifestSpare} {
		t.Run(spareFileName(i), func(t *testing.T) {
			d := newShadow()
			s, _ := halfFullTarget(t, d)
			deleteWhere(t, s, 0, 300, func(i int) bool { return i%4 == 0 })
			refused := 0
			d.Fault = func(kind shadow.Kind, name string) error {
				newName := kind == shadow.CallRename && strings.HasSuffix(name, layout.NewSuffix) ||
					kind == shadow.CallWriteFile && d.Files[name] == nil
				if newName && s.disk.spares.kept[i] > 0 {
					refused++
					return syscall.ENOSPC
				}
				return nil
			}
			st := mustCompact(t, s)
			require.Positive(t, st.FileBytesReclaimed)
			require.Positive(t, refused)
			requireContents(t, s, 0, 300, 1000, func(i int) bool { return !odd(i) && i%4 != 0 })
			d.Fault = nil
			closeShadow(t, s, d)
		})
	}
}
