package warmtier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/lockrank"
)

// recorder is a log handler that keeps its lines, calls the store each time, as a handler may, and
// fails the test when a lock is held or a line contains an id or a content.
type recorder struct {
	t     *testing.T
	store *Store // nil before Open has returned

	mu      sync.Mutex
	records []slog.Record
}

const secret = "s3cret" // in every id and every content

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }

func (r *recorder) Handle(_ context.Context, record slog.Record) error {
	lockrank.AssertUnlocked() // in builds that check the order of locks
	line := record.Message
	record.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	if strings.Contains(line, secret) {
		r.t.Errorf("an id or a content in the log: %s", line)
	}
	r.mu.Lock()
	r.records = append(r.records, record)
	s := r.store
	r.mu.Unlock()
	if s != nil {
		s.Stats()
		s.Segments()
		if err := s.Put("log "+secret, []byte(secret)); err != nil && !errors.Is(err, ErrClosed) &&
			!errors.Is(err, ErrSyncFailed) {
			r.t.Error(err)
		}
		if err := s.Sync(); err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrSyncFailed) {
			r.t.Error(err)
		}
	}
	return nil
}

func (r *recorder) attach(s *Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store = s
}

// take returns the lines of this level so far, those that s has queued included, and forgets all.
func (r *recorder) take(s *Store, level slog.Level) (messages []string) {
	s.waitForLog()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range r.records {
		if record.Level == level {
			messages = append(messages, record.Message)
		}
	}
	r.records = nil
	return messages
}

// requireNone checks that there was no line of this level or above.
func (r *recorder) requireNone(level slog.Level) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, record := range r.records {
		require.Less(r.t, record.Level, level, record.Message)
	}
}

func fillSecret(t *testing.T, s *Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, s.Put(fmt.Sprint(secret, i), []byte(strings.Repeat(secret, 50))))
	}
}

// deleteSecret deletes three of four: segments that have nothing live would leave before a compaction.
func deleteSecret(t *testing.T, s *Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if i%4 == 0 {
			continue
		}
		_, err := s.Delete(fmt.Sprint(secret, i))
		require.NoError(t, err)
	}
}

// Goal: events that matter to operators are in the log at their level, without ids and contents,
// and no lock is held when the handler runs. Method: the life of a store, with a handler that calls
// the store.
func TestLog_Life(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			dir := ""
			if kind == "directory" {
				dir = t.TempDir()
			}
			log := &recorder{t: t}
			var fail error
			opts := quiet()
			opts.SyncInterval = -1
			opts.Logger = slog.New(log)
			opts.Maintenance.MinBytes = 1
			s, err := open(dir, opts, hooks{at: func(p point) error {
				if p == pointCompactBuilt {
					return fail
				}
				return nil
			}})
			require.NoError(t, err)
			log.attach(s)
			log.requireNone(slog.LevelWarn)
			require.Equal(t, []string{"store opened"}, log.take(s, slog.LevelInfo))

			fillSecret(t, s, 0, 1000)
			require.Contains(t, log.take(s, slog.LevelDebug), "segment sealed")
			_, err = s.Maintain(t.Context())
			require.NoError(t, err)
			log.requireNone(slog.LevelInfo)
			require.Equal(t, []string{"maintenance had nothing to do"}, log.take(s, slog.LevelDebug))

			deleteSecret(t, s, 0, 1000)
			fail = errors.New("boom")
			_, err = s.Compact(t.Context())
			require.ErrorIs(t, err, fail)
			require.Equal(t, []string{"compaction failed"}, log.take(s, slog.LevelError))
			fail = nil
			cancelled, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = s.Compact(cancelled)
			require.ErrorIs(t, err, context.Canceled)
			log.requireNone(slog.LevelWarn)
			require.Equal(t, []string{"compaction started", "compaction cancelled"}, log.take(s, slog.LevelInfo))
			_, err = s.Maintain(t.Context())
			require.NoError(t, err)
			log.requireNone(slog.LevelWarn)
			require.Equal(t, []string{"compaction started", "compaction ended"}, log.take(s, slog.LevelInfo))
			_, err = s.Compact(t.Context())
			require.NoError(t, err)
			require.Subset(t, log.take(s, slog.LevelDebug), []string{"segment sealed"})

			require.NoError(t, s.Close())
			log.requireNone(slog.LevelWarn)
			require.Equal(t, []string{"store closed"}, log.take(s, slog.LevelInfo))
		})
	}
}

// Goal: a cycle logs why it did nothing. Method: one store for each reason.
func TestLog_MaintenanceReasons(t *testing.T) {
	reason := func(r slog.Record) (v string) {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "reason" {
				v = a.Value.String()
			}
			return true
		})
		return v
	}
	for _, c := range []struct {
		want   SkipReason
		change func(o *Options)
		before func(s *Store)
	}{
		{want: SkipThreshold, change: func(o *Options) { o.Maintenance.FragmentationThreshold = 0.9 }},
		{want: SkipSize, change: func(o *Options) { o.Maintenance.MinBytes = 1 << 40 }},
		{want: SkipRateLimit, before: func(s *Store) {
			s.maintenance.last, s.maintenance.died = time.Now(), died(s.sizes())
		}},
		{want: SkipBusy, before: func(s *Store) { s.compacting.Store(true) }},
	} {
		t.Run(string(c.want), func(t *testing.T) {
			log := &recorder{t: t}
			opts := quiet()
			opts.Logger = slog.New(log)
			opts.Maintenance.MinBytes = 1
			if c.change != nil {
				c.change(opts)
			}
			s := openTest(t, opts, hooks{})
			fillSecret(t, s, 0, 1000)
			deleteSecret(t, s, 0, 1000)
			if c.before != nil {
				c.before(s)
			}
			log.take(s, slog.LevelDebug)
			_, err := s.Maintain(t.Context())
			require.NoError(t, err)
			s.compacting.Store(false)
			log.mu.Lock()
			defer log.mu.Unlock()
			require.Len(t, log.records, 1)
			require.Equal(t, slog.LevelDebug, log.records[0].Level)
			require.Equal(t, string(c.want), reason(log.records[0]))
		})
	}
}

// Goal: a slow handler makes the queue drop lines, say so, and not grow.
func TestLog_SlowHandler(t *testing.T) {
	log := &recorder{t: t}
	opts := quiet()
	opts.Logger = slog.New(log)
	s := openTest(t, opts, hooks{})
	log.mu.Lock() // the handler waits
	for range 3 * maxLogQueue {
		s.logLater(slog.LevelInfo, "line")
	}
	require.LessOrEqual(t, len(s.logQueue.lines), maxLogQueue)
	log.mu.Unlock()
	lines := log.take(s, slog.LevelInfo)
	require.LessOrEqual(t, len(lines), 2*maxLogQueue+1)
	require.Greater(t, len(lines), maxLogQueue-1)
}
