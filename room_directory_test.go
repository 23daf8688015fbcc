//go:build unix

package warmtier

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullDirectory returns a store in a directory with memories named by id that fill its budget, and how many
// there are. Everything beside writers is automatic.
func fullDirectory(t *testing.T, dir string, id func(i int) string) (s *Store, n int) {
	s, err := open(dir, &Options{MaxBytes: 2 << 20, SegmentSize: minSegmentSize, SyncInterval: -1}, hooks{hash: oneLane})
	require.NoError(t, err)
	for ; err == nil; n++ {
		err = s.Put(id(n), contentOf(n, 0, 100))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	return s, n - 1
}

// Goal: at the budget's limit tombstones do not stand in the way of what is dead. Method: long ids, so
// that many segments hold nothing but tombstones, which are needed; a compaction copies them, and gives
// nothing back with that.
func TestMaxBytes_TombstonesOfLongIDs(t *testing.T) {
	for _, share := range []int{3, 4} {
		t.Run(fmt.Sprintf("one in %d deleted", share), func(t *testing.T) {
			long := func(i int) string { return idOf(i) + strings.Repeat("x", 1000) }
			s, n := fullDirectory(t, fastDir(t), long)
			for i := 0; i < n; i += share {
				existed, err := s.Delete(long(i))
				require.NoError(t, err, "delete %d", i)
				require.True(t, existed)
			}
			for i := range n / share / 3 {
				require.NoError(t, s.Put(long(n+i), contentOf(n+i, 0, 100)), "put %d", i)
			}
			require.NoError(t, s.Close())
		})
	}
}

// Goal: a directory that holds more than MaxBytes opens, and takes writes again when enough was deleted; to
// a read-only store the bound says nothing.
func TestMaxBytes_LessThanTheDirectoryHolds(t *testing.T) {
	const n = 5000
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, n, 1000)
	closeIntact(t, s)
	opts := &Options{MaxBytes: 2 << 20, SegmentSize: minSegmentSize, SyncInterval: -1}
	for _, readOnly := range []bool{true, false} {
		opts.ReadOnly = readOnly
		s, err := Open(dir, opts)
		require.NoError(t, err)
		requireContents(t, s, 0, n, 1000, all)
		if readOnly {
			require.NoError(t, s.Close())
			continue
		}
		held := s.Stats().MappedBytes + s.Stats().SegmentDetails.SpareBytes
		for err == nil { // there may be room in a segment
			err = s.Put("more", make([]byte, 1000))
		}
		require.ErrorIs(t, err, ErrNoSpace)
		for i := range n - 100 {
			_, err := s.Delete(idOf(i))
			require.NoError(t, err, "delete %d", i)
			require.LessOrEqual(t, s.mapper.bytes.Load()+s.disk.spares.bytes(), held)
		}
		require.NoError(t, s.Put("more", make([]byte, 1000)))
		require.True(t, waitFor(func() bool {
			st := s.Stats()
			return st.MappedBytes+st.SegmentDetails.SpareBytes <= opts.MaxBytes
		}))
		requireContents(t, s, n-100, n, 1000, all)
		require.NoError(t, s.Close())
	}
}

// Goal: a Put is not refused because a sweep, which has given back enough, had taken the dead segments
// before the Put could.
func TestRoom_AnotherSweepMadeRoom(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	content := make([]byte, 300_000)
	paused := pauseAt(pointSweepClaimed)
	require.NoError(t, s.Put("a", content))
	s.hooks.at = paused.hook
	require.NoError(t, s.Put("a", content))
	<-paused.reached
	d.Mu.Lock()
	d.Budget = d.Used
	d.Mu.Unlock()
	put := make(chan error, 1)
	go func() { put <- s.Put("b", content) }()
	require.True(t, waitFor(func() bool { return waitsForLock("(*Store).sweep") }))
	close(paused.proceed)
	require.NoError(t, <-put)
	closeShadow(t, s, d)
}

// Goal: what an Open finds dead leaves at once: programs that are killed after seconds leave no trail.
func TestSweep_WhatOpenFindsDead(t *testing.T) {
	skipKillsUnderRace(t)
	dir := fastDir(t)
	s, err := open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	s.dead.on = false // as if it were killed before it could sweep
	for range 3 {
		fill(t, s, 0, 500, 1000)
	}
	killed := fastDir(t)
	copyDir(t, dir, killed)
	require.NoError(t, s.Close())
	found := len(segmentFiles(t, killed))
	require.Greater(t, found, 20)
	s, err = open(killed, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	require.True(t, waitFor(func() bool { return s.Stats().Segments < found/2 }))
	requireContents(t, s, 0, 500, 1000, all)
	closeIntact(t, s)
}
