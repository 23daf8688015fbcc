//go:build unix

package warmtier

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// storeKinds calls test with a store in memory and one in a directory.
func storeKinds(t *testing.T, opts func() *Options, test func(t *testing.T, s *Store)) {
	t.Run("memory", func(t *testing.T) { test(t, openTest(t, opts(), hooks{})) })
	t.Run("directory", func(t *testing.T) {
		o := opts()
		o.SyncInterval = -1
		s, err := open(fastDir(t), o, hooks{})
		require.NoError(t, err)
		defer func() {
			passThrough(&s.clearing)
			setAt(s, nil)
			if !s.isClosed() {
				closeIntact(t, s)
			}
			require.Zero(t, s.mapper.bytes.Load())
		}()
		test(t, s)
	})
}

// setAt sets the hook of an open store, in which a sweep may be under way.
func setAt(s *Store, at func(point) error) {
	s.dead.running.Lock()
	defer s.dead.running.Unlock()
	s.hooks.at = at
}

// mustClear clears s, and waits until everything is given back.
func mustClear(t *testing.T, s *Store) {
	t.Helper()
	require.NoError(t, s.Clear())
	passThrough(&s.clearing)
}

// Goal: after a Clear nothing is there, nothing of it is mapped, and the store is as new.
func TestClear_NothingLeft(t *testing.T) {
	storeKinds(t, quiet, func(t *testing.T, s *Store) {
		for round := range 3 {
			fill(t, s, 0, 2000, 100)
			fill(t, s, 2000, 2003, maxSharedSize/8) // segments of their own
			deleteWhere(t, s, 0, 1000, odd)
			mustClear(t, s)
			require.Zero(t, s.Len())
			for i := range 2003 {
				require.False(t, s.Has(idOf(i)))
			}
			st := s.Stats()
			require.Zero(t, st.Segments)
			require.Zero(t, st.TotalBytes)
			require.Zero(t, st.IndexBytes)
			require.EqualValues(t, round+1, st.Clears)
			require.LessOrEqual(t, st.MappedBytes, int64(minSegmentSize)) // the survivor
			requireIntact(t, s)
		}
		mustClear(t, s) // of nothing
		fill(t, s, 0, 10, 100)
		require.Equal(t, 10, s.Len())
		require.NoError(t, s.Close())
		require.ErrorIs(t, s.Clear(), ErrClosed)
	})
}

// Goal: a Clear at any moment of a compaction takes everything, the compaction succeeds, and what is stored
// afterwards stays.
//
// The interleavings: the Clear comes when lanes are sealed, victims walked, copied, targets published, slots
// flipped, and when everything was flushed for the manifest. Without the number of its Clears a round would
// find its victims full of live bytes, or list targets with what was cleared in a manifest.
func TestClear_DuringCompaction(t *testing.T) {
	for _, p := range []point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
		pointCompactBuilt, pointTargetsPublished, pointCompactCommitted, pointTargetsFlushed, pointCompactSwapped} {
		t.Run(strings.ReplaceAll(string(p), " ", "_"), func(t *testing.T) {
			storeKinds(t, func() *Options { return bounded(1) }, func(t *testing.T, s *Store) {
				fill(t, s, 0, 2000, 300)
				deleteWhere(t, s, 0, 2000, odd)
				passed := false
				var stored atomic.Bool
				s.hooks.at = func(q point) error {
					if q == pointManifestSynced && stored.Load() && !raceEnabled { // no manifest may list what is cleared
						requireKilled(t, s, 5000, 5003)
					}
					if q == p && !passed {
						passed = true
						elsewhere(func() {
							if err := s.Clear(); err != nil {
								t.Error(err)
							}
							passThrough(&s.clearing)
							fill(t, s, 5000, 5003, 100)
							if err := s.Sync(); err != nil { // with what the compaction has claimed in the table
								t.Error(err)
							}
							requireKilled(t, s, 5000, 5003)
							stored.Store(true)
						})
					}
					return nil
				}
				mustCompact(t, s)
				s.hooks.at = nil
				require.Equal(t, passed, p != pointTargetsFlushed || s.disk != nil)
				if passed {
					requireAfterClear(t, s, 5000, 5003)
				}
			})
		})
	}
}

// requireAfterClear checks that s has these memories and nothing else, now and, in a directory, after a kill.
func requireAfterClear(t *testing.T, s *Store, from, to int) {
	t.Helper()
	want := map[string][]byte{}
	for i := from; i < to; i++ {
		want[idOf(i)] = contentOf(i, 0, 100)
	}
	requireSame(t, s, want)
	requireIntact(t, s)
	passThrough(&s.clearing)
	s.sweepNoted()
	passThrough(&s.dead.running)
	require.LessOrEqual(t, settled(s).Segments, len(s.lanes), "%+v", s.Segments())
	requireKilled(t, s, from, to)
}

// requireKilled checks that the next Open after a kill finds these memories and nothing else.
func requireKilled(t *testing.T, s *Store, from, to int) {
	t.Helper()
	if s.disk == nil {
		return
	}
	if raceEnabled { // mapped memory is on the heap, and reaches no file before
		require.NoError(t, s.Sync())
	}
	want := map[string][]byte{}
	for i := from; i < to; i++ {
		want[idOf(i)] = contentOf(i, 0, 100)
	}
	dir := fastDir(t)
	copyFiles(t, s.directory, dir)
	again := openDir(t, dir, &Options{SegmentSize: minSegmentSize, AfterPowerLoss: true})
	requireSame(t, again, want)
	closeIntact(t, again)
}

// Goal: OnProgress may call Clear, at any stage.
func TestClear_InOnProgress(t *testing.T) {
	for _, stage := range []CompactionStage{StageBuild, StageCommit, StageSwap} {
		t.Run(string(stage), func(t *testing.T) {
			var s *Store
			var cleared error
			done := false
			opts := func() *Options {
				o := bounded(1)
				done = false
				o.Compaction.OnProgress = func(p CompactionProgress) {
					if p.Stage == stage && !done {
						done = true
						cleared = s.Clear()
					}
				}
				return o
			}
			storeKinds(t, opts, func(t *testing.T, opened *Store) {
				s = opened
				fill(t, s, 0, 2000, 300)
				deleteWhere(t, s, 0, 2000, odd)
				mustCompact(t, s)
				require.True(t, done)
				require.NoError(t, cleared)
				fill(t, s, 5000, 5003, 100)
				requireAfterClear(t, s, 5000, 5003)
			})
		})
	}
}

// Goal: Verify finds nothing wrong in the moment when the index is empty and the segments are there.
func TestClear_VerifyInBetween(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 2000, 100)
	looked := false
	s.hooks.at = doAt(pointCleared, 1, func() {
		looked = true
		report, err := s.Verify(context.Background())
		if err != nil || !report.Quiescent || report.Records != 2000 {
			t.Errorf("%+v, %v", report, err)
		}
	})
	require.NoError(t, s.Clear())
	require.True(t, looked)
}

// Goal: what a View holds stays valid and mapped until it returns, and loops end with the Clear in their body.
func TestClear_ReadsUnderWay(t *testing.T) {
	storeKinds(t, quiet, func(t *testing.T, s *Store) {
		fill(t, s, 0, 1000, 100)
		require.NoError(t, s.View(idOf(7), func(content []byte) error {
			mustClear(t, s)
			fill(t, s, 1000, 3000, 100) // over the memory, if it were given back
			require.Equal(t, contentOf(7, 0, 100), content)
			require.Equal(t, 1, s.Stats().SegmentDetails.Retired)
			return nil
		}))
		require.Zero(t, s.Stats().SegmentDetails.Retired)
		steps := 0
		for range s.All() {
			if steps++; steps == 5 {
				require.NoError(t, s.Clear())
			}
		}
		require.Equal(t, 5, steps)
		fill(t, s, 0, 1000, 100)
		_, next, err := s.Scan(0, 10)
		require.NoError(t, err)
		require.NoError(t, s.Clear())
		ids, next, err := s.Scan(next, 10)
		require.NoError(t, err)
		require.Empty(t, ids)
		require.Zero(t, next)
	})
}

// Goal: what a load brings that began before a Clear is not stored, and callers after the Clear start another.
func TestClear_SupersedesLoads(t *testing.T) {
	storeKinds(t, quiet, func(t *testing.T, s *Store) {
		ctx := context.Background()
		content, err := s.GetOrLoad(ctx, "a", func(context.Context) ([]byte, error) {
			require.NoError(t, s.Clear())
			later, err := s.GetOrLoad(ctx, "a", func(context.Context) ([]byte, error) { return []byte("later"), nil })
			require.NoError(t, err)
			require.Equal(t, "later", string(later))
			_, err = s.Delete("a")
			return []byte("earlier"), err
		})
		require.NoError(t, err)
		require.Equal(t, "earlier", string(content))
		require.False(t, s.Has("a"))
		_, err = s.GetOrLoad(ctx, "b", func(context.Context) ([]byte, error) { return []byte("earlier"), s.Clear() })
		require.NoError(t, err)
		require.False(t, s.Has("b"))
	})
}

// Goal: no lane goes on in a segment that was cleared while it was about to resume it.
func TestClear_LaneAboutToResume(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	s = openDir(t, dir, quietly())
	d := draft{size: 200}
	seg := s.takePartial(d.size)
	require.NotNil(t, seg)
	mustClear(t, s)
	ln := &s.lanes[0]
	ln.rolling.Lock()
	s.resume(ln, seg)
	ln.rolling.Unlock()
	require.Nil(t, ln.active)
	require.Equal(t, unclaimed, seg.claimedBy())
	require.False(t, s.canResume(seg, &d, false))
	s.sweepNoted()
	passThrough(&s.dead.running)
	fill(t, s, 5000, 5003, 100)
	requireAfterClear(t, s, 5000, 5003)
	closeIntact(t, s)
}

// Goal: a Clear takes the lock of the content buffer for writing once in memory and twice in a directory before it
// gives anything back, and what it does in these holds does not grow: tables and lanes, no segments.
// Method: the pause is measured by the store as any other; here only that it is counted.
func TestClear_PauseIsCounted(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	s.history.maxPause = 0
	var pause atomic.Int64
	s.hooks.at = func(p point) error {
		if p == pointCleared {
			pause.Store(int64(s.Stats().MaxSwapPause))
		}
		return nil
	}
	require.NoError(t, s.Clear())
	require.Positive(t, pause.Load())
}

// Goal: compactions, sweeps and readers beside one Clear after the other leave what was stored last.
func TestClear_Storm(t *testing.T) {
	parallel(t)
	storeKinds(t, func() *Options { return bounded(2) }, func(t *testing.T, s *Store) {
		done := make(chan struct{})
		errs := make(chan error, 3)
		loop := func(fn func(i int) error) {
			for i := 0; ; i++ {
				select {
				case <-done:
					errs <- nil
					return
				default:
					if err := fn(i); err != nil {
						errs <- err
						return
					}
				}
			}
		}
		go loop(func(i int) error { return s.Put(idOf(i%500), contentOf(i%500, 0, 300)) })
		go loop(func(int) error {
			_, err := s.Compact(context.Background())
			return err
		})
		go loop(func(int) error {
			for id, content := range s.All() {
				if i := numberOf(id); !slices.Equal(content, contentOf(i, 0, 300)) {
					return fmt.Errorf("%s has another content", id)
				}
			}
			return nil
		})
		for range budget(t, 40, 400) {
			require.NoError(t, s.Clear())
		}
		close(done)
		for range 3 {
			require.NoError(t, <-errs)
		}
		require.NoError(t, s.Clear())
		fill(t, s, 5000, 5003, 100)
		requireAfterClear(t, s, 5000, 5003)
	})
}

// Goal: a Clear beside a flush ends nothing: files that the flush was about to sync may be gone when it comes to
// them, and those that are still there it leaves out.
//
// The interleaving: the flush has pinned the segments of lanes, or is about to sync the first of them, and the Clear
// begins and ends.
func TestClear_BesideFlush(t *testing.T) {
	for _, gone := range []bool{true, false} {
		t.Run(fmt.Sprintf("gone=%v", gone), func(t *testing.T) {
			s := openDir(t, fastDir(t), quietly())
			proceed := make(chan struct{})
			cleared, flushed := false, 0
			reach := func(p point) error {
				switch {
				case p == pointSweepClaimed && !gone:
					<-proceed
				case p == pointFlushed:
					flushed++
				case cleared:
				case p == pointFlushActive && !gone, p == "before sync segment" && gone:
					cleared = true
					require.NoError(t, s.Clear())
					if gone {
						passThrough(&s.clearing)
					}
				}
				return nil
			}
			s.hooks.at = reach
			s.disk.fs = &reachingFiles{FS: s.disk.fs, reach: reach}
			fill(t, s, 0, 100, 1000)
			require.NoError(t, s.Sync())
			require.True(t, cleared)
			require.Zero(t, flushed)
			close(proceed)
			passThrough(&s.clearing)
			require.NoError(t, s.Put("later", nil))
			require.NoError(t, s.Sync())
			require.Equal(t, 1, flushed)
			closeIntact(t, s)
		})
	}
}

// Goal: in a directory a Clear returns when it is durable, however long files take to go; the next one waits for
// them, and so does a write for which there is no space before.
// Method: the sweep that removes the files is held on a disk that is full.
func TestClear_FilesGoAfterwards(t *testing.T) {
	d := newShadow()
	held, proceed := make(chan struct{}, 2), make(chan struct{})
	s, err := openShadow(d, shadowOptions(), hooks{hash: oneLane, at: func(p point) error {
		if p == pointSweepClaimed {
			held <- struct{}{}
			<-proceed
		}
		return nil
	}})
	require.NoError(t, err)
	s.dead.on = false
	fill(t, s, 0, 100, 5000)
	d.Budget = d.Used
	files := segmentNames(d)
	require.NoError(t, s.Clear())
	<-held
	require.Zero(t, s.Len())
	require.Subset(t, segmentNames(d), files)
	later := make(chan error, 2)
	go func() { later <- s.Clear() }()
	go func() { later <- s.Put("large", make([]byte, 100_000)) }()
	require.True(t, stays(func() bool { return len(later) == 0 }))
	close(proceed)
	require.NoError(t, <-later)
	require.NoError(t, <-later)
	passThrough(&s.clearing)
	for _, name := range files {
		require.NotContains(t, segmentNames(d), name)
	}
	closeShadow(t, s, d)
}
