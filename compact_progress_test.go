package warmtier

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: OnProgress sees every stage of every round in order, figures that only grow, and everything
// done at the end; it may call the store. Method: record all calls.
func TestCompact_Progress(t *testing.T) {
	var calls []CompactionProgress
	var s *Store
	opts := quiet()
	opts.Compaction.MaxOverhead = 1
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		calls = append(calls, p)
		_, err := s.Get(idOf(1))
		require.NoError(t, err)
		require.NoError(t, s.Put(idOf(1), contentOf(1, 0, 400)))
		require.True(t, s.Stats().CompactionInProgress)
	}
	s = faultStore(t, opts)
	fill(t, s, 1, 2, 400) // out of the victims' way: what OnProgress overwrites is not copied twice
	stats := mustCompact(t, s)

	order := map[CompactionStage]int{StageBuild: 0, StageCommit: 1, StageSwap: 2}
	seen := map[CompactionStage]int{}
	last := CompactionProgress{Stage: StageBuild, Round: 1}
	for _, p := range calls {
		if p.Stage != last.Stage || p.Round != last.Round {
			seen[p.Stage]++
		}
		require.GreaterOrEqual(t, p.Round*3+order[p.Stage], last.Round*3+order[last.Stage], "stages in order")
		require.GreaterOrEqual(t, p.BytesCopied, last.BytesCopied)
		require.GreaterOrEqual(t, p.MemoriesMoved, last.MemoriesMoved)
		require.GreaterOrEqual(t, p.VictimsDone, last.VictimsDone)
		require.GreaterOrEqual(t, p.Elapsed, last.Elapsed)
		require.LessOrEqual(t, p.VictimsDone, p.Victims)
		require.LessOrEqual(t, p.BytesCopied, p.BytesTotal)
		last = p
	}
	require.Greater(t, stats.Rounds, 1)
	require.Equal(t, stats.Rounds, last.Round)
	require.Equal(t, StageSwap, last.Stage)
	require.Equal(t, last.Victims, last.VictimsDone)
	require.Equal(t, stats.MemoriesMoved, last.MemoriesMoved)
	require.Equal(t, stats.Rounds, seen[StageSwap], "rounds whose swap was reported")
	require.Equal(t, stats.Rounds, seen[StageCommit], "rounds whose commit was reported")
}

// Goal: a panic of OnProgress reaches the caller of Compact, with the round undone, nothing locked,
// nothing pinned, and the next compaction possible.
//
// Method: a first run counts the calls; then each of them panics in turn.
func TestCompact_ProgressPanics(t *testing.T) {
	for _, workers := range []int{1, 4} {
		var stages []CompactionStage
		compactReporting(t, workers, func(p CompactionProgress) { stages = append(stages, p.Stage) })
		require.Contains(t, stages, StageBuild)
		require.Contains(t, stages, StageCommit)
		require.Contains(t, stages, StageSwap)
		for n := range stages {
			t.Run(fmt.Sprintf("workers=%d/call=%d", workers, n), func(t *testing.T) {
				calls := 0
				var stage CompactionStage
				compactReporting(t, workers, func(p CompactionProgress) {
					stage = p.Stage
					if calls++; calls == n+1 {
						panic("from OnProgress")
					}
				})
				t.Logf("panicked at stage %q", stage)
			})
		}
	}
}

// compactReporting compacts a store in a few rounds with fn as OnProgress, which may panic once.
func compactReporting(t *testing.T, workers int, fn func(CompactionProgress)) {
	t.Helper()
	var silent bool
	opts := bounded(workers)
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		if !silent {
			fn(p)
		}
	}
	s, model := fragmentedStore(t, opts)
	func() {
		defer func() {
			if r := recover(); r != nil {
				require.Equal(t, "from OnProgress", r)
			}
		}()
		_, err := s.Compact(context.Background())
		require.NoError(t, err)
	}()
	silent = true
	require.False(t, s.Stats().CompactionInProgress)
	for _, seg := range s.segments.all() {
		require.EqualValues(t, 1, seg.refs.Load())
	}
	requireModel(t, s, model)
	elsewhere(func() { // no lock is held
		if err := errors.Join(putVersion(s, firstMoved, 0), putVersion(s, lastMoved, 0)); err != nil {
			t.Error(err)
		}
	})
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.Zero(t, s.Stats().DeadBytes)
	requireModel(t, s, model)
}

// Goal: OnProgress may use the store, as its documentation says.
func TestCompact_ProgressUsesStore(t *testing.T) {
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			var s *Store
			calls := 0
			opts := bounded(workers)
			opts.Compaction.OnProgress = func(p CompactionProgress) {
				if s == nil {
					return
				}
				calls++
				require.NoError(t, putVersion(s, firstMoved, calls))
				require.NoError(t, expectVersion(s, firstMoved, calls))
				require.NoError(t, deletePresent(s, firstMoved))
				require.NoError(t, expectVersion(s, firstMoved, -1))
				require.NoError(t, putVersion(s, firstMoved, calls))
				_, err := s.Compact(context.Background())
				require.ErrorIs(t, err, ErrCompactionInProgress)
				require.True(t, s.Stats().CompactionInProgress)
				_, err = s.Verify(context.Background())
				require.NoError(t, err)
				require.Equal(t, layoutMoved, s.Len())
			}
			var model map[int]int
			s, model = fragmentedStore(t, opts)
			_, err := s.Compact(context.Background())
			require.NoError(t, err)
			require.Positive(t, calls)
			model[firstMoved] = calls
			requireModel(t, s, model)
		})
	}
}
