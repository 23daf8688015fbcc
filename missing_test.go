//go:build unix

package warmtier

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: after a kill a segment file that is not there is missed, though no manifest lists it, and nothing that a kill
leaves is taken for that.
*/

// largeAmongSmall is the directory of a store that was killed: some small memories are listed, then came a large
// one, which is in a file of its own, and two small ones.
func largeAmongSmall(t *testing.T) (d *shadow.FS, own string) {
	t.Helper()
	d = newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 3, 100)
	require.NoError(t, s.Sync())
	require.NoError(t, s.Put(idOf(3), contentOf(3, 0, 70_000)))
	own = segmentOf(t, s, idOf(3)).name()
	fill(t, s, 4, 6, 100)
	killed := d.Kill()
	require.NoError(t, s.Close())
	require.NoError(t, killed.Sync()) // its names: a power loss may come
	return killed, own
}

func TestMissing_UnlistedFile(t *testing.T) {
	d, own := largeAmongSmall(t)
	s := oneLaneStore(t, d.Kill())
	require.Equal(t, 6, s.Len())
	require.NoError(t, s.Close())

	taken := d.Kill()
	require.NoError(t, taken.Remove(own))
	before := slices.Sorted(maps.Keys(taken.Files))
	for _, readOnly := range []bool{true, false} {
		opts := shadowOptions()
		opts.ReadOnly = readOnly
		s, err := openShadow(taken, opts, hooks{hash: fixedHash})
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "1 records are in no file, of those numbered 4 to 6")
		require.NoError(t, released(taken, s))
		require.Equal(t, before, slices.Sorted(maps.Keys(taken.Files)))
	}

	s = oneLaneStore(t, taken.Crash(allKept)) // which may have taken it
	require.Equal(t, 5, s.Len())
	require.NoError(t, s.Close())
	opts := shadowOptions()
	opts.AfterPowerLoss = true
	s = shadowStore(t, taken, opts)
	require.Equal(t, 5, s.Len())
	closeShadow(t, s, taken)
}

// A record that was begun has a number, and a kill may come before it has its checksum.
func TestMissing_NotFinishedIsNotMissing(t *testing.T) {
	d, own := largeAmongSmall(t)
	unfinished := d.Kill()
	clear(unfinished.Files[own].Current[layout.HeaderSize:][:4])
	s := oneLaneStore(t, unfinished)
	require.Equal(t, 5, s.Len())
	require.False(t, s.Has(idOf(3)))
	closeShadow(t, s, unfinished)
}

// What has left the store is not missed, whatever numbers it had: a manifest came with its leaving.
func TestMissing_WhatHasLeft(t *testing.T) {
	for _, leave := range []func(t *testing.T, s *Store){
		func(t *testing.T, s *Store) { mustCompact(t, s) },
		func(t *testing.T, s *Store) { sweepAll(t, s) },
	} {
		d := newShadow()
		s := oneLaneStore(t, d)
		s.dead.on = false // until we say so
		fill(t, s, 0, 200, 1000)
		deleteWhere(t, s, 0, 150, all)
		leave(t, s)
		fill(t, s, 300, 310, 100)
		killed := d.Kill()
		require.NoError(t, s.Close())
		s = oneLaneStore(t, killed)
		require.Equal(t, 60, s.Len())
		closeShadow(t, s, killed)
	}
}

func sweepAll(t *testing.T, s *Store) {
	t.Helper()
	before := s.Stats().Segments
	s.noteAllDead()
	_, err := s.sweep()
	require.NoError(t, err)
	require.Less(t, s.Stats().Segments, before)
}

// One file put back, of those of a store that went on: its records were acknowledged, and it has fewer now.
func TestMissing_OlderFile(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 3, 100)
	require.NoError(t, s.Sync())
	older, name := d.Kill(), segmentOf(t, s, idOf(0)).name()
	fill(t, s, 3, 5, 100)
	require.NoError(t, s.Put("large", make([]byte, 70_000)))
	killed := d.Kill()
	require.NoError(t, s.Close())
	killed.Overwrite(name, older)
	s, err := openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "2 records are in no file")
	require.NoError(t, released(killed, s))
}

// A Put that fails draws no number: neither where the table of segments is full, nor at a page that is gone.
func TestMissing_FailedPutDrawsNoNumber(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s, err := open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, 3, 100)
	drawn := s.sequence.Load()

	bits := s.offsetBits
	s.offsetBits = locationBits - 1
	large := s.tombstoneOf("large")
	spec := segmentSpec{kind: layout.KindLane, size: segmentSizeFor(large.size), large: true}
	require.ErrorIs(t, s.tryNewSegment(spec, func(*segment) error { return nil }, func(seg *segment) (bool, error) {
		s.publishLocked(seg, &large)
		return true, nil
	}), ErrNoSpace)
	s.offsetBits = bits
	require.Equal(t, drawn, s.sequence.Load())

	path := filepath.Join(dir, segmentOf(t, s, idOf(0)).name())
	require.NoError(t, os.Truncate(path, minSegmentSize/2)) // where digests are
	require.ErrorIs(t, s.Put("small", nil), ErrCorrupt)
	require.Equal(t, drawn, s.sequence.Load())
	_ = s.Close()
}

// A recovery that is cut off leaves what says that a record was begun, until a manifest has its number. What would
// break:
//
//	a Put                       another Put         first recovery             second recovery
//	draws 4
//	                            stores number 5
//	killed: a digest, no record
//	                                                cuts the tail, clears
//	                                                the digest
//	                                                killed: no manifest yet
//	                                                                           4 is in no file: damage
func TestMissing_RecoveryCutOff(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 4, 100)
	require.NoError(t, s.Put("large", make([]byte, 70_000)))
	seg, offset := locationOf(t, s, idOf(3))
	killed := d.Kill()
	closeShadow(t, s, d)
	clear(killed.Files[seg.name()].Current[offset:][:4])
	var again []*shadow.FS
	killed.Before = func(shadow.Site) { again = append(again, killed.Kill()) }
	s = oneLaneStore(t, killed)
	killed.Before = nil
	require.Equal(t, 4, s.Len())
	closeShadow(t, s, killed)
	require.Greater(t, len(again), 5)
	for i, d := range again {
		s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
		require.NoError(t, err, "cut off before call %d", i)
		require.Equal(t, 4, s.Len())
		require.NoError(t, s.Put(idOf(3), nil))
		closeShadow(t, s, d)
	}
}
