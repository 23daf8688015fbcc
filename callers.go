package warmtier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

/*
The store runs code of its callers: callbacks, log handlers, the methods of contexts and of errors. It
may panic, end its goroutine with runtime.Goexit, be nil, or return values that mean something to
somebody else. Three rules keep that from becoming the store's own trouble:

	order     Nothing is locked, counted or registered before code that may not return, unless a
	          defer takes it back.
	values    An error of load and the cause of a context are handed on in a struct of ours, and
	          neither the store nor a library that it uses asks what they are: a cause that is
	          another store's ErrNoSpace must not look like a full disk. Inside the store, work
	          whose context has ended fails with errStopped; the cause is added on the way out.
	goroutine On a goroutine of the caller's, a panic and Goexit pass through. On one of the
	          store's they would end the process, or background work for good: there such code
	          runs apart.
*/

// errExited is how a callback ended that neither returned nor panicked.
var errExited = errors.New("warmtier: a callback ended its goroutine with runtime.Goexit")

// panicError is a panic of the caller's code on a goroutine of the store's.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string {
	return fmt.Sprintf("warmtier: panic in a callback: %v\n\n%s", p.value, p.stack)
}

// Unwrap returns the value of the panic if it was an error.
func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// apart calls fn on a goroutine of its own and waits for it. It returns nil when fn returned, else
// how fn ended: a *panicError or errExited.
func apart(fn func()) (end error) {
	end = errExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				end = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		fn()
		end = nil
	}()
	<-done
	return end
}

// ownGoroutine is the key of a value that the contexts of the store's own goroutines have.
type ownGoroutine struct{}

// onOwnGoroutine reports whether the work of ctx runs on a goroutine of the store's.
func onOwnGoroutine(ctx context.Context) bool { return ctx.Value(ownGoroutine{}) != nil }

// checkContext panics when ctx is nil, as the functions of package context do.
func checkContext(ctx context.Context) {
	if ctx == nil {
		panic("warmtier: nil context")
	}
}

// begin does what enter does, for work that takes a context: ctx ends with parent, and when Close begins.
func (s *Store) begin(parent context.Context) (ctx context.Context, done func(), err error) {
	ctx, cancel := context.WithCancelCause(parent) // may panic, so it comes before anything is counted
	left, err := s.enter()
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	s.running.Add(1)
	stop := context.AfterFunc(s.lifetime, func() {
		defer s.running.Done()
		cancel(ErrClosed)
		_ = s.hooks.fire(pointCloseTold)
	})
	return ctx, func() {
		if stop() {
			s.running.Done()
		}
		cancel(nil)
		left()
	}, nil
}

// errStopped is how work fails whose context has ended. It stays inside the store: whyStopped makes
// it the error that the caller gets.
var errStopped = errors.New("warmtier: stopped")

// stopped returns errStopped when ctx has ended.
func stopped(ctx context.Context) error {
	if ctx.Err() != nil {
		return errStopped
	}
	return nil
}

// stopError is the error of a call that ended early on request: of its context, or of Close.
type stopError struct {
	err   error // of the context, or ErrClosed
	cause error // of the context; nil for Close
}

func (e *stopError) Error() string {
	text := e.err.Error()
	if e.cause != nil && e.cause.Error() != text {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *stopError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.err}
	}
	return []error{e.err, e.cause}
}

// Is makes errors.Is(err, errStopped) hold before it gets to the caller's cause.
func (e *stopError) Is(target error) bool { return target == errStopped }

// whyStopped returns err, and for errStopped the reason: ErrClosed if Close ended ctx, else ctx's
// error with its cause.
func (s *Store) whyStopped(ctx context.Context, err error) error {
	if !errors.Is(err, errStopped) {
		return err
	}
	cause := context.Cause(ctx)
	if cause == ErrClosed && s.lifetime.Err() != nil { //nolint:errorlint // what begin gives, not what wraps it
		return &stopError{err: ErrClosed}
	}
	return &stopError{err: cmp.Or(ctx.Err(), context.Canceled), cause: cause}
}

// isAborted reports whether err ended a compaction on request: of the caller, or of Close.
func isAborted(err error) bool { return errors.Is(err, errStopped) || errors.Is(err, ErrClosed) }
