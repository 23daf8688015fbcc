//go:build unix

package warmtier

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// endings are the ways in which a callback may end without returning.
var endings = map[string]func(){
	"panic":     func() { panic("from the callback") },
	"panic nil": func() { panic(nil) },
	"goexit":    runtime.Goexit,
}

// onOwn calls fn on a goroutine of its own, as apart does, and returns what it panicked with.
func onOwn(fn func()) (panicked any) {
	elsewhere(func() {
		defer func() { panicked = recover() }()
		fn()
	})
	return panicked
}

// Goal: a callback that panics, ends its goroutine or is nil leaves nothing locked or pinned, in a
// store of either kind: it can be written, compacted and closed. Method: every call that takes one.
func TestCallers_CallbackDoesNotReturn(t *testing.T) {
	t.Parallel()
	calls := map[string]func(s *Store, end func()){
		"View":      func(s *Store, end func()) { _ = s.View(idOf(1), func([]byte) error { end(); return nil }) },
		"View, nil": func(s *Store, _ func()) { _ = s.View(idOf(1), nil) },
		"GetMany": func(s *Store, end func()) {
			_ = s.GetMany([]string{idOf(1), "absent"}, func(int, []byte, error) { end() })
		},
		"GetMany, nil": func(s *Store, _ func()) { _ = s.GetMany([]string{idOf(1)}, nil) },
		"All":          func(s *Store, end func()) { s.All()(func(string, []byte) bool { end(); return true }) },
		"All, nil":     func(s *Store, _ func()) { s.All()(nil) },
		"fs.WalkDir": func(s *Store, end func()) {
			_ = fs.WalkDir(s.FS(), ".", func(string, fs.DirEntry, error) error { end(); return nil })
		},
		"GetOrLoad, nil": func(s *Store, _ func()) { _, _ = s.GetOrLoad(context.Background(), "absent", nil) },
		"GetOrLoad": func(s *Store, end func()) {
			_, _ = s.GetOrLoad(context.Background(), "absent", func(context.Context) ([]byte, error) { end(); return nil, nil })
		},
	}
	for _, kind := range []string{"memory", "directory"} {
		dir := ""
		if kind == "directory" {
			dir = filepath.Join(t.TempDir(), "store")
		}
		for name, call := range calls {
			for how, end := range endings {
				t.Run(fmt.Sprintf("%s, %s, %s", kind, name, how), func(t *testing.T) {
					s := openDir(t, dir, quietly())
					fill(t, s, 0, 600, 100)
					panicked := onOwn(func() { call(s, end) })
					if how != "goexit" || strings.HasSuffix(name, "nil") {
						require.NotNil(t, panicked, "the panic passes through")
					}
					requireUnpinned(t, s)
					require.Empty(t, s.loads.calls)
					elsewhere(func() {
						fill(t, s, 0, 600, 100)
						mustCompact(t, s)
						require.Zero(t, s.Stats().DeadBytes)
						requireContents(t, s, 0, 600, 100, all)
						require.NoError(t, s.Close())
					})
				})
			}
		}
	}
}

// Goal: an OnProgress that does not return, at each stage, ends the compaction of a caller: its round
// is undone, nothing stays locked, pinned or counted as under way, and the next one succeeds.
func TestCallers_ProgressDoesNotReturn(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"memory", "directory"} {
		for _, c := range withContext[:2] { // Compact, Maintain
			for _, stage := range []CompactionStage{StageBuild, StageCommit, StageSwap} {
				for how, end := range endings {
					t.Run(fmt.Sprintf("%s, %s, %s, %s", kind, c.name, stage, how), func(t *testing.T) {
						dir := ""
						if kind == "directory" {
							dir = filepath.Join(t.TempDir(), "store")
						}
						var calls atomic.Int32
						opts := maintained()
						opts.SyncInterval, opts.Compaction.MaxOverhead = -1, 1
						opts.Compaction.OnProgress = func(p CompactionProgress) {
							if p.Stage == stage && calls.Add(1) == 1 {
								end()
							}
						}
						s := openDir(t, dir, opts)
						fragment(t, s, 600)
						before := s.Len()
						panicked := onOwn(func() { _ = c.call(s, context.Background()) })
						require.Positive(t, calls.Load())
						require.Equal(t, how != "goexit", panicked != nil)
						require.False(t, s.Stats().CompactionInProgress)
						require.True(t, s.maintenance.mu.TryLock())
						s.maintenance.mu.Unlock()
						require.Equal(t, before, s.Len())
						requireUnpinned(t, s)
						requireIntact(t, s)
						elsewhere(func() {
							require.NoError(t, c.call(s, context.Background()))
							mustCompact(t, s)
							require.Zero(t, s.Stats().DeadBytes)
							requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= 600 })
							require.NoError(t, s.Close())
						})
					})
				}
			}
		}
	}
}

// Goal: in the background, where no caller can recover, an OnProgress that does not return is logged
// once for each compaction, and neither the compaction nor later cycles suffer.
func TestCallers_ProgressDoesNotReturnInBackground(t *testing.T) {
	for how, end := range endings {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				logger, log := logTo()
				var calls atomic.Int32
				opts := maintained()
				opts.Logger = logger
				opts.Maintenance.Disabled = false
				opts.Maintenance.Interval = time.Second
				opts.Compaction.OnProgress = func(CompactionProgress) { calls.Add(1); end() }
				s := openTest(t, opts, hooks{})
				for cycle := range int64(3) {
					fragment(t, s, 600)
					afterwards(time.Second)
					st := s.Stats()
					require.Equal(t, cycle+1, st.Compactions)
					require.Zero(t, st.CompactionFailures)
					require.EqualValues(t, cycle+1, calls.Load())
				}
				require.Contains(t, log.String(), "OnProgress did not return")
				requireContents(t, s, 0, 1000, 100, func(i int) bool { return i >= 600 })
			})
		})
	}
}

// stubborn is a log handler that does not return from the lines that it is told to.
type stubborn struct {
	slog.Handler
	end     func()
	refuses func(message string) bool
	asked   bool // it does not return from Enabled either
}

func (h stubborn) Enabled(context.Context, slog.Level) bool {
	if h.asked && h.refuses("") {
		h.end()
	}
	return true
}

func (h stubborn) Handle(ctx context.Context, r slog.Record) error {
	if h.refuses(r.Message) {
		h.end()
	}
	return h.Handler.Handle(ctx, r)
}

// Goal: a log handler that does not return loses its lines and nothing else: the store opens, works,
// compacts in the background and closes, and says later how many lines were lost. Method: the life of
// a store in a directory whose handler refuses everything until the end.
func TestLog_HandlerDoesNotReturn(t *testing.T) {
	for how, end := range endings {
		for _, asked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, Enabled %v", how, asked), func(t *testing.T) {
				logger, log := logTo()
				var broken atomic.Bool
				broken.Store(true)
				opts := maintained()
				opts.SyncInterval = -1
				opts.Logger = slog.New(stubborn{logger.Handler(), end, func(string) bool { return broken.Load() }, asked})
				opts.Maintenance.Disabled = false
				opts.Maintenance.Interval = time.Millisecond
				s := openDir(t, filepath.Join(t.TempDir(), "store"), opts)
				fragment(t, s, 600) // seals segments, which is logged by the queue's goroutine
				require.True(t, waitFor(func() bool { return s.Stats().Maintenance.Compactions > 0 }), "the background goes on")
				s.waitForLog()
				require.Empty(t, log.String())
				broken.Store(false)
				_, err := s.Compact(t.Context())
				if err != nil { // a cycle was faster
					require.ErrorIs(t, err, ErrCompactionInProgress)
				}
				require.NoError(t, s.Close())
				require.Contains(t, log.String(), "log lines lost: the handler did not return")
				require.Contains(t, log.String(), "store closed")
			})
		}
	}
}
