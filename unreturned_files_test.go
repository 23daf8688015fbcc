//go:build unix

package warmtier

import (
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

// failClose makes d refuse to unmap files while on.
func failClose(d *shadow.FS) (on *atomic.Bool) {
	on = &atomic.Bool{}
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallClose && on.Load() {
			return syscall.ENOMEM
		}
		return nil
	}
	return on
}

// Goal: a file that cannot be unmapped is told, and tried again, whatever it was: a segment, a spare, the hint.
// No call fails for it but Close, whose error says what is left.
func TestUnreturned_Files(t *testing.T) {
	d := newShadow()
	on := failClose(d)
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 1000, 1000)
	on.Store(true)
	deleteWhere(t, s, 0, 1000, odd)
	cs := mustCompact(t, s)
	st := s.Stats()
	require.NotZero(t, st.SegmentDetails.UnreturnedMappings)
	require.GreaterOrEqual(t, cs.BytesUnreturned, int64(minSegmentSize))
	fill(t, s, 1000, 1100, 1000)
	requireContents(t, s, 0, 1000, 1000, func(i int) bool { return !odd(i) })
	on.Store(false)
	_, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Stats().SegmentDetails.UnreturnedMappings)
	d.Mu.Lock()
	require.Equal(t, s.Stats().Segments, d.Mappings)
	d.Mu.Unlock()

	on.Store(true)
	err = s.Close()
	require.ErrorIs(t, err, syscall.ENOMEM)
	require.ErrorContains(t, err, "could not be unmapped")
	on.Store(false)
	require.NoError(t, s.mapper.unreturned.returnAll())
	require.NoError(t, released(d, s))

	// Everything is in the files nevertheless, the hint too, and a failing close of it is no error.
	s = shadowStore(t, d, shadowOptions())
	require.True(t, s.Stats().Recovery.Clean)
	requireContents(t, s, 1000, 1100, 1000, all)
	closeShadow(t, s, d)
}

// Goal: an Open that works is not failed by what it could not unmap; one that fails says so too.
func TestUnreturned_Open(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 300, 1000)
	require.NoError(t, s.Close())
	on := failClose(d)
	on.Store(true)
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	require.NotZero(t, s.Stats().SegmentDetails.UnreturnedMappings, "the hint was read and closed")
	on.Store(false)
	closeShadow(t, s, d)

	d.Files[segmentNames(d)[1]].Current[0] ^= 1
	on.Store(true)
	s, err = openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, err, syscall.ENOMEM)
	require.ErrorContains(t, err, "could not be unmapped")
	on.Store(false)
	require.NoError(t, s.mapper.unreturned.returnAll())
	require.NoError(t, released(d, s))
}
