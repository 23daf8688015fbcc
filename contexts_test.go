//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// withContext are the calls that take a context.
var withContext = []struct {
	name     string
	compacts bool
	call     func(s *Store, ctx context.Context) error
}{
	{"Compact", true, func(s *Store, ctx context.Context) error { _, err := s.Compact(ctx); return err }},
	{"Maintain", true, func(s *Store, ctx context.Context) error { _, err := s.Maintain(ctx); return err }},
	{"Verify", false, func(s *Store, ctx context.Context) error { _, err := s.Verify(ctx); return err }},
	{"GetOrLoad", false, func(s *Store, ctx context.Context) error {
		_, err := s.GetOrLoad(ctx, "absent", func(ctx context.Context) ([]byte, error) {
			<-ctx.Done()
			return nil, nil
		})
		return err
	}},
}

// brokenContext is a context whose methods panic; a nil one has no methods to call at all.
type brokenContext struct{ context.Context }

// Goal: a call with a nil or broken context panics and leaves nothing behind: no lock, no pin, nothing
// that Close would wait for. So it does in every state of the store.
func TestContext_NilOrBroken(t *testing.T) {
	states := map[string]func(t *testing.T) *Store{
		"open": func(t *testing.T) *Store { return openTest(t, maintained(), hooks{}) },
		"closed": func(t *testing.T) *Store {
			s := openTest(t, maintained(), hooks{})
			require.NoError(t, s.Close())
			return s
		},
		"read-only": func(t *testing.T) *Store {
			opts := maintained()
			opts.ReadOnly = true
			return openTest(t, opts, hooks{})
		},
	}
	for _, c := range withContext {
		for state, open := range states {
			t.Run(c.name+", "+state, func(t *testing.T) {
				s := open(t)
				require.PanicsWithValue(t, "warmtier: nil context", func() { _ = c.call(s, nil) })
				if state == "open" {
					fragment(t, s, 600)
					require.Panics(t, func() { _ = c.call(s, brokenContext{}) })
					require.Panics(t, func() { _ = c.call(s, (*brokenContext)(nil)) })
					requireUnpinned(t, s)
				}
				require.False(t, s.compacting.Load())
				require.Empty(t, s.loads.calls)
				elsewhere(func() { require.NoError(t, s.Close()) }) // would hang
			})
		}
	}
}

// liar is an error that claims to be every other one, and names a segment as damaged.
type liar struct{ CorruptError }

func (*liar) Error() string        { return "the cause" }
func (*liar) Is(target error) bool { return target != errExited }

// Goal: a call whose context ended returns the context's error and its cause, whatever that cause
// is; a compaction counts as aborted, and nothing in the store acts on the cause.
//
// What would break: a cause that is the error of another store taken for this one's: a full disk
// (rounds of one target from then on), short memory or a busy store (a reason to skip, and no error),
// damage (a segment left alone from then on).
func TestContext_EndsWithCause(t *testing.T) {
	t.Parallel()
	causes := map[string]func(s *Store) error{
		"none":       func(*Store) error { return nil },
		"plain":      func(*Store) error { return errors.New("the cause") },
		"wrapped":    func(*Store) error { return fmt.Errorf("on request: %w", context.Canceled) },
		"full disk":  func(*Store) error { return fmt.Errorf("another store: %w", ErrNoSpace) },
		"busy":       func(*Store) error { return ErrCompactionInProgress },
		"memory":     func(*Store) error { return &InsufficientMemoryError{} },
		"closed":     func(*Store) error { return ErrClosed },
		"damage":     func(s *Store) error { return &CorruptError{File: s.segments.all()[0].name()} },
		"everything": func(s *Store) error { return &liar{CorruptError{File: s.segments.all()[0].name()}} },
	}
	for _, kind := range []string{"memory", "directory"} {
		for _, c := range withContext {
			for name, cause := range causes {
				t.Run(fmt.Sprintf("%s, %s, %s", kind, c.name, name), func(t *testing.T) {
					dir := ""
					if kind == "directory" {
						dir = filepath.Join(t.TempDir(), "store")
					}
					opts := maintained()
					opts.SyncInterval = -1
					s := openDir(t, dir, opts)
					fragment(t, s, 600)
					endsWithCause(t, s, cause(s), c.compacts, c.call)
					for _, seg := range s.segments.all() {
						require.False(t, seg.damaged.Load(), "marked as damaged")
					}
					requireIntact(t, s)
					if c.compacts {
						mustCompact(t, s)
						require.Zero(t, s.Stats().DeadBytes)
					}
					require.NoError(t, s.Close())
				})
			}
		}
	}
}

// endsWithCause lets the context of a call end before the call and, where it compacts, in its middle.
func endsWithCause(t *testing.T, s *Store, cause error, compacts bool, call func(*Store, context.Context) error) {
	t.Helper()
	check := func(err, want error) {
		require.ErrorIs(t, err, want)
		if cause != nil {
			require.ErrorIs(t, err, cause)
			require.ErrorContains(t, err, cause.Error())
		}
	}
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	check(call(s, cancelled), context.Canceled)
	late, release := context.WithDeadlineCause(context.Background(), time.Unix(0, 0), cause)
	defer release()
	check(call(s, late), context.DeadlineExceeded)
	if !compacts {
		return
	}
	aborted := func() int64 {
		d := s.Stats().CompactionDetails
		require.Zero(t, d.Manual.Failed+d.Automatic.Failed, "counted as failed")
		return d.Manual.Cancelled + d.Automatic.Cancelled
	}
	before := aborted()
	middle, cancel := context.WithCancelCause(context.Background())
	s.hooks.at = doAt(pointCompactRecord, 1, func() { cancel(cause) })
	check(call(s, middle), context.Canceled)
	s.hooks.at = nil
	require.Equal(t, before+1, aborted())
}

// Goal: when Close is what ended a call, its error is ErrClosed and no error of a context.
//
// Method: Close begins while the call is at work. A short compaction may have ended before its context has learned of
// that, which it does on a goroutine of its own; then another store is closed.
func TestContext_EndedByClose(t *testing.T) {
	for _, c := range withContext {
		if c.name == "Verify" {
			continue // no hook is inside it; it takes its context from begin, as the others do
		}
		t.Run(c.name, func(t *testing.T) {
			var err error
			for tries := 0; err == nil && tries < 100; tries++ {
				s := openDir(t, "", maintained())
				fragment(t, s, 600)
				s.hooks.at = doAt(pointCompactRecord, 1, func() { <-s.lifetime.Done() })
				ended := make(chan error)
				go func() { ended <- c.call(s, context.Background()) }()
				require.True(t, waitFor(func() bool { return s.progress().Round > 0 || s.loads.running.Load() > 0 }))
				require.NoError(t, s.Close())
				err = <-ended
			}
			require.ErrorIs(t, err, ErrClosed)
			require.NotErrorIs(t, err, context.Canceled)
		})
	}
}

// silentContext is a context that ends without an error.
type silentContext struct{ context.Context }

func (silentContext) Done() <-chan struct{} { done := make(chan struct{}); close(done); return done }
func (silentContext) Err() error            { return nil }

// Goal: no call returns nothing and no error, not even with a context that ends without one.
func TestContext_EndsWithoutError(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	cancelled := make(chan struct{})
	_, err := s.GetOrLoad(silentContext{context.Background()}, "a", func(ctx context.Context) ([]byte, error) {
		defer close(cancelled)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	<-cancelled
}
