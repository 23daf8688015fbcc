package warmtier

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

/*
GetOrLoad runs one load for all calls that miss an id at the same time. The difficulty is what may
happen to the id while the load runs:

	Put, Delete   What was loaded may be older than the change, and must neither replace the new
	              content nor bring a deleted memory back. So each Put and each Delete, including one
	              that finds nothing to delete, supersedes the load of its id, under the lane's
	              lock; the loaded content is stored under the same lock, and only if its load was
	              not superseded. The id has no memory at that moment: a load is made known to
	              writers first, then looks for a memory, and only then begins. Callers that wait
	              get what was loaded or what has been stored: they came before the change. Callers
	              that come after the change start another load.
	cancellation  A caller leaves. The load continues for the others, and is cancelled when the last
	              one has left.

A loadCall and its call in the singleflight group begin and end together, under loads.mu.
*/

// loads are the loads under way.
type loads struct {
	running atomic.Int64 // len(calls), for writes, which take no lock when there is no load
	mu      sync.Mutex   // a leaf; may be taken with a lane's lock held
	calls   map[string]*loadCall
	group   singleflight.Group
}

// loadCall is one load, shared by the callers that wait for it. loads.mu guards its fields.
type loadCall struct {
	ctx        context.Context // of the load
	cancel     context.CancelCauseFunc
	callers    int   // how many wait for it
	superseded bool  // what it loads is not stored
	clears     int64 // Clears before it was known: a later one supersedes it
}

// loaded is how a load ended. Its error travels in here, not as one of the singleflight group, which
// gives some errors a meaning: one that is the panic of another group would end the process.
type loaded struct {
	content  []byte
	err      error
	panicked *panicError // what its callers panic with
}

var errSuperseded = errors.New("warmtier: superseded while it was loaded")

// GetOrLoad returns a copy of the content of id. When there is none it calls load, stores what load
// returns, and returns a copy of that. Concurrent calls for one id share one load, and each gets a
// copy of its own. nil content is the same as empty content, and is stored; a load that finds
// nothing must return an error.
//
// A load that fails stores nothing, and every call that waits for it returns its error unchanged.
// When the id is stored or deleted while the load runs, that change stands: what was loaded is
// returned and not stored; so it is with a change by PutIf or a batch. When it cannot be stored, it is returned
// together with the error of Put. What is stored has a version of its own: [Store.GetVersion] reads it.
//
// A call whose ctx ends returns ctx's error with its cause, and the load continues for the others. The context of
// load has the values of the first caller's; it ends when no caller is left, or with Close, which
// does not wait for the load. load runs on a goroutine of its own, with no lock held. It may call
// the store, but would wait for itself if it called GetOrLoad for the same id. If it panics, each
// call that waits panics with an error that has the value and the stack of that panic; if it ends
// its goroutine, each returns an error. GetOrLoad panics when ctx is nil, and when load is nil and
// would be called.
//
// With SyncWrites the content that is returned is durable, also where another call stored it: a content that was
// found and cannot be made durable is returned together with the error. One that has been durable costs a
// second look-up.
//
// Errors: as [Store.Get], except ErrNotFound; those of load, ctx and [Store.Put]. With
// [ErrReadOnly] and [ErrSyncFailed] load is not called.
func (s *Store) GetOrLoad(
	ctx context.Context, id string, load func(ctx context.Context) ([]byte, error),
) ([]byte, error) {
	if load == nil {
		return s.getOrLoad(ctx, id, nil)
	}
	return s.getOrLoad(ctx, id, func(ctx context.Context) ([]byte, time.Duration, error) {
		content, err := load(ctx)
		return content, 0, err
	})
}

// GetOrLoadTTL is [Store.GetOrLoad] with a load that says how long to keep what it has loaded, from then on, as
// [Store.PutTTL] does: what has expired is loaded again. A ttl of 0 is for good.
//
// Errors: as GetOrLoad. What comes with a negative ttl is returned together with [ErrInvalidTTL], and not stored.
func (s *Store) GetOrLoadTTL(
	ctx context.Context, id string, load func(ctx context.Context) (content []byte, ttl time.Duration, err error),
) ([]byte, error) {
	return s.getOrLoad(ctx, id, load)
}

// loader is what GetOrLoad calls. A ttl of 0 means for good.
type loader func(ctx context.Context) (content []byte, ttl time.Duration, err error)

func (s *Store) getOrLoad(ctx context.Context, id string, load loader) ([]byte, error) {
	checkContext(ctx)
	content, err := s.Get(id)
	if err == nil {
		return content, s.makeFoundDurable(id)
	}
	if !errors.Is(err, ErrNotFound) {
		return content, err
	}
	if err := s.checkWrite(id); err != nil {
		return nil, err
	}
	if err := stopped(ctx); err != nil {
		return nil, s.whyStopped(ctx, err)
	}
	if load == nil {
		panic("warmtier: nil load") // here, and not in every call that would have joined it
	}
	c, result := s.joinLoad(ctx, id, load)
	defer s.leaveLoad(id, c)
	select {
	case r := <-result:
		l := r.Val.(loaded)
		if l.panicked != nil {
			panic(l.panicked)
		}
		if l.err != nil && l.content == nil {
			return nil, l.err
		}
		return append([]byte{}, l.content...), l.err
	case <-ctx.Done():
		return nil, s.whyStopped(ctx, errStopped)
	case <-s.lifetime.Done():
		return nil, ErrClosed
	}
}

// joinLoad joins the load of id, or starts one.
func (s *Store) joinLoad(ctx context.Context, id string, load loader) (*loadCall, <-chan singleflight.Result) {
	l := &s.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	c, clears := l.calls[id], s.segments.clears.Load()
	if c != nil && c.clears != clears {
		l.dropLocked(id, c)
		c = nil
	}
	if c == nil {
		c = &loadCall{clears: clears}
		c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		if l.calls == nil {
			l.calls = map[string]*loadCall{}
		}
		l.calls[id] = c
		l.running.Store(int64(len(l.calls)))
	}
	c.callers++
	return c, l.group.DoChan(id, func() (any, error) { return s.runLoad(c, id, load), nil })
}

// leaveLoad ends the wait of one caller, and cancels the load when it was the last one.
func (s *Store) leaveLoad(id string, c *loadCall) {
	l := &s.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	c.callers--
	if c.callers == 0 {
		l.dropLocked(id, c)
		c.cancel(cmp.Or(context.Cause(s.lifetime), context.Canceled))
	}
}

// dropLocked keeps c from storing anything, and callers from joining it. REQUIRES: l.mu held.
func (l *loads) dropLocked(id string, c *loadCall) {
	c.superseded = true
	if l.calls[id] == c {
		delete(l.calls, id)
		l.running.Store(int64(len(l.calls)))
		l.group.Forget(id)
	}
}

func (l *loads) drop(id string, c *loadCall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(id, c)
}

// supersede drops the load of id, which was stored or deleted. A load that begins after running was
// read began after the change. REQUIRES: the lock of id's lane held.
func (l *loads) supersede(id string) {
	if l.running.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.calls[id]; c != nil {
		l.dropLocked(id, c)
	}
}

// isSuperseded reports whether what c loads must not be stored. REQUIRES: the lock of its id's lane held, contentMu
// read-held.
func (s *Store) isSuperseded(c *loadCall) bool {
	s.loads.mu.Lock()
	defer s.loads.mu.Unlock()
	return c.superseded || c.clears != s.segments.clears.Load()
}

// runLoad runs load apart: singleflight would make a panic the end of the process, and of
// runtime.Goexit a result that never comes.
func (s *Store) runLoad(c *loadCall, id string, load loader) (l loaded) {
	defer s.loads.drop(id, c)
	defer context.AfterFunc(s.lifetime, func() { c.cancel(ErrClosed) })()
	end := apart(func() { l.content, l.err = s.loadAndStore(c, id, load) })
	if end != nil {
		l.err = end
		l.panicked, _ = end.(*panicError) //nolint:errorlint // never wrapped
	}
	return l
}

// loadAndStore returns what the callers get.
func (s *Store) loadAndStore(c *loadCall, id string, load loader) (content []byte, err error) {
	// Another load may have finished since the caller found nothing and before this one was known.
	content, err = s.appendContent([]byte{}, new(match), id, false)
	if err == nil {
		return content, s.makeFoundDurable(id)
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	content, ttl, err := s.measuredLoad(c.ctx, load)
	if err != nil {
		return nil, err
	}
	if content == nil {
		content = []byte{}
	}
	if ttl < 0 {
		return content, invalidTTL(ttl)
	}
	d := draft{id: id, content: content, load: c}
	if ttl > 0 {
		d.deadline = s.clock.after(ttl)
	}
	err = s.putDurably(&d)
	if !errors.Is(err, errSuperseded) {
		s.meters.writeEnded(0, err, &s.meters.puts, &s.meters.putErrors)
		return content, err
	}
	if newer, err := s.appendContent([]byte{}, new(match), id, false); err == nil {
		return newer, s.makeFoundDurable(id)
	}
	return content, nil
}

// measuredLoad calls load, and counts it; a panic counts as a failure.
func (s *Store) measuredLoad(ctx context.Context, load loader) (content []byte, ttl time.Duration, err error) {
	start := time.Now()
	ok := false
	defer func() { s.meters.loadEnded(time.Since(start), ok) }()
	content, ttl, err = load(ctx)
	ok = err == nil
	return content, ttl, err
}

// makeFoundDurable is makeDurable for a call that has found the memory of id. Nothing is to be done unless its
// record is new. The record that is there by now is the one that was found, or superseded it.
func (s *Store) makeFoundDurable(id string) error {
	if !s.opts.SyncWrites || s.isDurable(id) {
		return nil
	}
	done, err := s.enterSynced()
	if err != nil {
		return err
	}
	defer done()
	return s.makeDurable()
}

// isDurable reports whether the memory of id is known to be durable.
func (s *Store) isDurable(id string) (durable bool) {
	if !s.medium.syncs() {
		return true
	}
	var h readHold
	var fault error // then nothing is known
	defer s.catchFault(armFaults(), &fault)
	defer h.release()
	var m match
	err := s.lookup(&h, &m, id, false)
	return err == nil && m.h.Seq <= s.disk.group.durable.Load()
}
