//go:build unix

package warmtier

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

/*
Goal: room in segments that nobody will fill, which checkpoints leave, is given back as dead bytes are: where writers
wait for room, where a store evicts, and where a deletion needs space. Where there is none to give back nobody waits.
*/

const unfilledBytes = 2 << 20 // budget of these tests: thirty-odd of the smallest segments

// limited returns a store of one lane in d with a budget.
func limited(t *testing.T, d *shadow.FS, change func(*Options), h hooks) *Store {
	t.Helper()
	opts := &Options{Logger: quietly().Logger, SegmentSize: minSegmentSize, MaxBytes: unfilledBytes, SyncInterval: -1}
	change(opts)
	h.hash, h.share = oneLane, fullSegments
	s, err := openShadow(d, opts, h)
	require.NoError(t, err)
	return s
}

func noChange(*Options) {}

func unmaintained(opts *Options) { opts.Maintenance.Disabled = true }

// fillUnfilled makes checkpoints, each after so many memories of size bytes, until one memory is refused or all n are
// there, and returns how many are. The checkpoints stay.
func fillUnfilled(t *testing.T, s *Store, n, each, size int) int {
	t.Helper()
	for i := range n {
		if err := s.Put(idOf(i), contentOf(i, 0, size)); err != nil {
			require.ErrorIs(t, err, ErrNoSpace)
			return i
		}
		if i%each == each-1 {
			_, err := s.disk.checkpoint(t.Context(), newShadow())
			require.NoError(t, err)
		}
	}
	return n
}

// A Put is refused when less than a tenth is to be given back, and no sooner.
func TestUnfilled_PutWaitsForIt(t *testing.T) {
	d := newShadow()
	s := limited(t, d, noChange, hooks{})
	n := fillUnfilled(t, s, 1000, 3, 9000)
	require.Less(t, n, 1000)
	z := s.sizes()
	require.LessOrEqual(t, z.reclaimableShare(), waitShare)
	require.Greater(t, z.LiveBytes, int64(unfilledBytes*7/10))
	requireContents(t, s, 0, n, 9000, all)
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// A store that evicts drops nothing that there is room for, whether maintenance makes it or a Put.
func TestUnfilled_GoesBeforeMemories(t *testing.T) {
	for _, maintained := range []bool{true, false} {
		d := newShadow()
		s := limited(t, d, func(opts *Options) {
			unmaintained(opts)
			opts.WhenFull = Evict
		}, hooks{})
		n := 0
		for ; n < 140; n++ {
			require.NoError(t, s.Put(idOf(n), contentOf(n, 0, 9000)))
			if n%3 < 2 {
				continue
			}
			_, err := s.disk.checkpoint(t.Context(), newShadow())
			require.NoError(t, err)
			if maintained {
				_, err = s.Maintain(t.Context())
				require.NoError(t, err)
			}
		}
		require.Zero(t, s.Stats().Drops.Evicted, "maintained %t", maintained)
		requireContents(t, s, 0, n, 9000, all)
		closeShadow(t, s, d)
	}
}

// A deletion in a store in which nothing is dead makes space for its tombstone, also without maintenance.
func TestUnfilled_DeletionFindsRoom(t *testing.T) {
	d := newShadow()
	s := limited(t, d, unmaintained, hooks{})
	n := fillUnfilled(t, s, 1000, 3, 9000)
	require.Less(t, n, 110, "Put waits for nothing without maintenance")
	for _, seg := range s.segments.all() {
		require.Zero(t, seg.deadBytes())
	}
	for i := range n {
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
		_, err = s.disk.checkpoint(t.Context(), newShadow()) // each tombstone needs a segment of its own
		require.NoError(t, err)
	}
	require.Zero(t, s.Len())
	closeShadow(t, s, d)
}

// Who asked before a compaction that merged such segments was not answered in vain, and the next one need not evict,
// though no bytes of records were given back.
func TestUnfilled_CountsAsGiven(t *testing.T) {
	d := newShadow()
	s := limited(t, d, unmaintained, hooks{})
	fillUnfilled(t, s, 60, 3, 9000)
	before := s.sizes()
	require.Positive(t, before.unfilled)
	require.Zero(t, before.DeadBytes)
	asked := s.room.ask()
	mapped := s.mapper.bytes.Load()
	st := mustCompact(t, s)
	require.LessOrEqual(t, st.BytesReclaimed, int64(0))
	require.GreaterOrEqual(t, mapped-s.mapper.bytes.Load(), before.unfilled, "less was given back than was counted")
	require.Zero(t, s.sizes().unfilled)
	require.False(t, s.room.isFruitless(asked, before.reclaimable()))
	require.False(t, s.barren.Load())

	asked = s.room.ask()
	mustCompact(t, s)
	require.True(t, s.room.isFruitless(asked, 0), "there was nothing left")
	closeShadow(t, s, d)
}

// Room counts as far as merging gives it back: where that is little, no compaction runs for a Put that is refused, and
// none is due.
func TestUnfilled_LittleToGive(t *testing.T) {
	d := newShadow()
	s := limited(t, d, func(opts *Options) {
		opts.Maintenance.MinBytes, opts.Maintenance.MinPeriod, opts.Maintenance.FragmentationThreshold = -1, -1, waitShare
	}, hooks{})
	n := fillUnfilled(t, s, 1000, 6, 9000) // of 64 KiB 54 are full
	require.Less(t, n, 1000)
	room := 0
	for _, seg := range s.segments.all() {
		if seg.isUnfilled() {
			room += seg.room(1)
		}
	}
	require.Greater(t, room, unfilledBytes/10)
	for range 5 {
		require.ErrorIs(t, s.Put("more", make([]byte, 50_000)), ErrNoSpace)
		r, err := s.Maintain(t.Context())
		require.NoError(t, err)
		require.NotEmpty(t, r.Skipped) // the threshold, or the background looks at the moment
	}
	require.Zero(t, s.Stats().Compactions)
	closeShadow(t, s, d)
}

// Where the disk is full too, what checkpoints keep does not come back: the space kept back for compactions is not
// spent on it.
func TestUnfilled_OnFullDisk(t *testing.T) {
	d := newShadow()
	s := limited(t, d, unmaintained, hooks{})
	n := fillUnfilled(t, s, 1000, 3, 9000)
	require.Positive(t, s.sizes().unfilled)
	d.Budget = d.Used + minSegmentSize
	for range 3 {
		_, err := s.Compact(t.Context())
		require.ErrorIs(t, err, ErrNoSpace)
		require.ErrorContains(t, err, "in no checkpoint")
		require.True(t, s.disk.keepsAll())
	}
	d.Budget = 0
	mustCompact(t, s)
	require.True(t, s.disk.keepsAll())
	require.NoError(t, s.Put("more", make([]byte, 50_000)))
	requireContents(t, s, 0, n, 9000, all)
	closeShadow(t, s, d)
}

// One segment that is larger than all that are made now is given up for a smaller one.
func TestUnfilled_OfLargerSegments(t *testing.T) {
	d, opts := newShadow(), shadowOptions()
	opts.SegmentSize = 16 * minSegmentSize
	s, err := openShadow(d, opts, hooks{hash: oneLane, share: fullSegments})
	require.NoError(t, err)
	fill(t, s, 0, 1, 1000)
	_, err = s.disk.checkpoint(t.Context(), newShadow())
	require.NoError(t, err)
	require.Zero(t, s.sizes().unfilled)
	require.NoError(t, s.Close())
	s, err = openShadow(d, shadowOptions(), hooks{hash: oneLane, share: fullSegments})
	require.NoError(t, err)
	require.Equal(t, 1, s.segments.count())
	require.Greater(t, s.sizes().unfilled, int64(14*minSegmentSize))
	mustCompact(t, s)
	require.Zero(t, s.sizes().unfilled)
	require.Less(t, s.mapper.bytes.Load(), int64(3*minSegmentSize))
	requireContents(t, s, 0, 1, 1000, all)
	closeShadow(t, s, d)
}

// What a checkpoint, or a compaction, that fails has sealed does not stay half filled: lanes get it back, or, where a
// Put came first and the lane went on without it, it is merged by maintenance.
func TestUnfilled_LeftByFailures(t *testing.T) {
	for name, fails := range map[string]struct {
		at  point
		run func(ctx context.Context, s *Store) error
	}{
		"checkpoint": {pointCheckpointSealed, func(ctx context.Context, s *Store) error {
			_, err := s.disk.checkpoint(ctx, newShadow())
			return err
		}},
		"compaction": {pointCompactSealed, func(ctx context.Context, s *Store) error {
			_, err := s.Compact(ctx)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d, opts := newShadow(), shadowOptions()
			opts.Maintenance.MinBytes, opts.Maintenance.MinPeriod = -1, -1
			var at latePoints
			s, err := openShadow(d, opts, hooks{hash: oneLane, share: fullSegments, at: at.hook})
			require.NoError(t, err)
			n, most := 0, 0
			put := func() {
				require.NoError(t, s.Put("x", nil)) // a compaction has something to do
				require.NoError(t, s.Put(idOf(n), contentOf(n, 0, 100)))
				n++
			}
			for range 30 {
				put()
				ctx, cancel := context.WithCancel(t.Context())
				at.set(func(p point) error {
					if p == fails.at {
						elsewhere(put)
						cancel()
					}
					return nil
				})
				require.ErrorIs(t, fails.run(ctx, s), errStopped)
				at.set(func(point) error { return nil })
				_, err := s.Maintain(t.Context())
				require.NoError(t, err)
				most = max(most, s.segments.count())
			}
			require.Less(t, most, 6)
			requireContents(t, s, 0, n, 100, all)
			closeShadow(t, s, d)
		})
	}
}

// A lane may resume a segment that another one has gone on without. The interleaving: unsealLanes finds that a lane has
// gone on; one that gets no memory takes the segment; it would count as unfilled while that lane fills it.
func TestUnfilled_NotWhatALaneResumes(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	fill(t, s, 0, 1, 100)
	ln := &s.lanes[0]
	seg := ln.active
	s.segments.noteUnresumed(seg)
	require.False(t, seg.unresumed.Load(), "it is active")
	sealed := s.sealLanes(0)
	s.segments.noteUnresumed(seg)
	require.True(t, seg.isUnfilled())
	s.unsealLanes(sealed)
	require.Same(t, seg, ln.active)
	require.False(t, seg.unresumed.Load())
	s.sealLanes(0)
	require.False(t, seg.isUnfilled())
}

// The interleaving is at mustEvict.
func TestUnfilled_NothingIsEvictedForWhoHasRoom(t *testing.T) {
	d := newShadow()
	var at latePoints
	s := limited(t, d, func(opts *Options) {
		unmaintained(opts)
		opts.WhenFull = Evict
	}, hooks{at: at.hook})
	fillUnfilled(t, s, 60, 3, 9000)
	end := s.beginWait()
	at.set(func(p point) error {
		if p == pointCompactSwapped {
			s.room.ask()
		}
		return nil
	})
	mustCompact(t, s)
	require.False(t, s.room.isAsked())
	require.False(t, s.isPressed(s.sizes()), "who waits has not looked yet")
	at.set(nil)
	asked := s.room.ask()
	mustCompact(t, s)
	require.True(t, s.room.isAnswered(asked))
	s.room.ask()
	require.True(t, s.isPressed(s.sizes()), "it looked, and found nothing")
	end()
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}
