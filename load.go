package warmtier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

/*
GetOrLoad runs one load for all who miss an id at the same time. What makes it more than that is what
may happen to the id while the load runs:

	Put, Delete   What was loaded may be older, and must neither replace the content nor bring a
	              deleted memory back. So each Put and each Delete, those included that find nothing
	              to delete, supersedes the flight of its id, under the lane's lock; the loaded
	              content is stored under the same lock, and only if its flight was not superseded.
	              The id has no memory then: a flight looks for one when it is known to writers, and
	              before it loads. Those who wait get what was loaded, or what has been stored: they
	              came before the change. Whoever comes later loads anew.
	cancellation  A caller leaves. The load goes on for the others, and is cancelled when the last
	              one has left.

A flight and the call in the singleflight group begin and end together, under loads.mu.
*/

// loads are the loads under way.
type loads struct {
	running atomic.Int64 // flights: what writes look at, so that they need no lock when there is none
	mu      sync.Mutex   // a leaf; may be taken with a lane's lock held
	flights map[string]*flight
	group   singleflight.Group
}

// flight is one load for some callers. What it has is guarded by loads.mu.
type flight struct {
	ctx        context.Context // of the load
	cancel     context.CancelCauseFunc
	callers    int  // that wait for it
	superseded bool // nothing is stored any more
}

// loaded is how a load ended, beside its error.
type loaded struct {
	content  []byte
	panicked *panicError
}

// panicError is what a load panicked with, for the callers to panic with.
type panicError struct {
	value any
	stack []byte // of the load
}

func (p *panicError) Error() string {
	return fmt.Sprintf("warmtier: panic in a load: %v\n\n%s", p.value, p.stack)
}

// Unwrap returns the value of the panic if it was an error.
func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

var (
	errSuperseded = errors.New("warmtier: superseded while it was loaded")
	errLoadExited = errors.New("warmtier: load ended its goroutine with runtime.Goexit")
)

// GetOrLoad returns a copy of the content of id. When there is none it calls load, stores what that
// returns, and returns a copy of it. Concurrent calls for one id share one load; each of them gets a copy
// of its own. nil content is the same as empty content, and is stored; a load that finds nothing returns
// an error.
//
// A load that fails stores nothing, and every call that waits for it returns its error as it is. When
// the id is stored or deleted while the load runs, that stands: what was loaded is returned and not
// stored. When it cannot be stored, it is returned together with the error of Put.
//
// A call whose ctx ends returns ctx's error; the load goes on for the others. The context of load has the
// values of the first caller's and ends when no caller is left, or with Close, which does not wait for
// it. load runs on a goroutine of its own, with no lock held; it may call the store, but waits for itself
// when it calls GetOrLoad for the same id. If it panics, each call that waits panics, with an error that
// has value and stack of the first.
//
// Errors: as [Store.Get], but for ErrNotFound; those of load, ctx and [Store.Put]. [ErrReadOnly] and
// [ErrSyncFailed] are returned instead of a call to load.
func (s *Store) GetOrLoad(
	ctx context.Context, id string, load func(ctx context.Context) ([]byte, error),
) ([]byte, error) {
	content, err := s.Get(id)
	if !errors.Is(err, ErrNotFound) {
		return content, err
	}
	if err := s.checkWrite(id); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, result := s.joinLoad(ctx, id, load)
	defer s.leaveLoad(id, f)
	select {
	case r := <-result:
		l := r.Val.(loaded)
		if l.panicked != nil {
			panic(l.panicked)
		}
		if r.Err != nil && l.content == nil {
			return nil, r.Err
		}
		return append([]byte{}, l.content...), r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.lifetime.Done():
		return nil, ErrClosed
	}
}

// joinLoad joins the flight of id, or starts one.
func (s *Store) joinLoad(
	ctx context.Context, id string, load func(context.Context) ([]byte, error),
) (*flight, <-chan singleflight.Result) {
	l := &s.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.flights[id]
	if f == nil {
		f = &flight{}
		f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		if l.flights == nil {
			l.flights = map[string]*flight{}
		}
		l.flights[id] = f
		l.running.Store(int64(len(l.flights)))
	}
	f.callers++
	return f, l.group.DoChan(id, func() (any, error) { return s.fly(f, id, load) })
}

// leaveLoad ends the wait of one caller. The last one ends the load.
func (s *Store) leaveLoad(id string, f *flight) {
	l := &s.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	f.callers--
	if f.callers == 0 {
		l.dropLocked(id, f)
		f.cancel(cmp.Or(context.Cause(s.lifetime), context.Canceled))
	}
}

// dropLocked makes sure that f stores nothing any more, and that nobody joins it. REQUIRES: l.mu held.
func (l *loads) dropLocked(id string, f *flight) {
	f.superseded = true
	if l.flights[id] == f {
		delete(l.flights, id)
		l.running.Store(int64(len(l.flights)))
		l.group.Forget(id)
	}
}

func (l *loads) drop(id string, f *flight) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(id, f)
}

// supersede drops the flight of id, which was stored or deleted. A flight that begins after running was
// read began after the change. REQUIRES: the lock of id's lane held.
func (l *loads) supersede(id string) {
	if l.running.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.flights[id]; f != nil {
		l.dropLocked(id, f)
	}
}

func (l *loads) isSuperseded(f *flight) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return f.superseded
}

// fly is the load of f, on a goroutine that a load may end: singleflight makes a panic the end of the
// process, and of runtime.Goexit a result that never comes.
func (s *Store) fly(f *flight, id string, load func(context.Context) ([]byte, error)) (l loaded, err error) {
	defer s.loads.drop(id, f)
	defer context.AfterFunc(s.lifetime, func() { f.cancel(ErrClosed) })()
	err = errLoadExited
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				l.panicked = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		l.content, err = s.loadAndStore(f, id, load)
	}()
	<-done
	return l, err
}

// loadAndStore returns what the callers get.
func (s *Store) loadAndStore(
	f *flight, id string, load func(context.Context) ([]byte, error),
) (content []byte, err error) {
	// Between the caller's look and this flight another one may have landed.
	if content, err := s.appendContent(nil, id, false); !errors.Is(err, ErrNotFound) {
		return content, err
	}
	content, err = s.measuredLoad(f.ctx, load)
	if err != nil {
		return nil, err
	}
	if content == nil {
		content = []byte{}
	}
	err = s.putDurably(id, content, f)
	if !errors.Is(err, errSuperseded) {
		s.meters.writeEnded(0, err, &s.meters.puts, &s.meters.putErrors)
		return content, err
	}
	if newer, err := s.appendContent([]byte{}, id, false); err == nil {
		return newer, nil
	}
	return content, nil
}

// measuredLoad calls load; one that panics counts as failed.
func (s *Store) measuredLoad(
	ctx context.Context, load func(context.Context) ([]byte, error),
) (content []byte, err error) {
	start := time.Now()
	ok := false
	defer func() { s.meters.loadEnded(time.Since(start), ok) }()
	content, err = load(ctx)
	ok = err == nil
	return content, err
}
