package warmtier

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"sync/atomic"
	"time"
)

var errInjected = errors.New("injected by the test")

// compactionPoints are all points of a compaction, in the order in which they are first reached.
var compactionPoints = []point{
	pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord, pointCompactBuilt,
	pointCompactFlip, pointCompactCommitted, pointCompactSwapped,
}

// failAt returns a hook that fails the n-th time (from 1) a point is passed.
func failAt(p point, n int64, err error) func(point) error {
	var passed atomic.Int64
	return func(q point) error {
		if q == p && passed.Add(1) == n {
			return err
		}
		return nil
	}
}

// pause is a hook that stops the first goroutine to pass a point until the test lets it go.
type pause struct {
	at      point
	reached chan struct{} // closed when a goroutine waits at the point
	proceed chan struct{} // to be closed by the test
	once    atomic.Bool
}

func pauseAt(p point) *pause {
	return &pause{at: p, reached: make(chan struct{}), proceed: make(chan struct{})}
}

func (p *pause) hook(q point) error {
	if q == p.at && p.once.CompareAndSwap(false, true) {
		close(p.reached)
		<-p.proceed
	}
	return nil
}

// latePoints are hooks that a test sets when the store is open, beside its background work.
type latePoints struct {
	at atomic.Pointer[func(point) error]
}

func (l *latePoints) set(at func(point) error) { l.at.Store(&at) }

func (l *latePoints) hook(p point) error {
	if at := l.at.Load(); at != nil && *at != nil {
		return (*at)(p)
	}
	return nil
}

// elsewhere runs fn on another goroutine and waits for it.
func elsewhere(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// doAt returns a hook that runs fn elsewhere when p is passed for the n-th time (from 1).
func doAt(p point, n int64, fn func()) func(point) error {
	var passed atomic.Int64
	return func(q point) error {
		if q == p && passed.Add(1) == n {
			elsewhere(fn)
		}
		return nil
	}
}

// both returns a hook that runs a, and then b unless a fails.
func both(a, b func(point) error) func(point) error {
	return func(p point) error {
		if err := a(p); err != nil {
			return err
		}
		return b(p)
	}
}

// waitFor yields until ok holds, and reports whether it did within a minute: a busy machine may
// need many times what an idle one does.
func waitFor(ok func() bool) bool {
	for start := time.Now(); !ok(); runtime.Gosched() {
		if time.Since(start) > time.Minute {
			return false
		}
	}
	return true
}

// someoneIn reports whether a goroutine is inside this function or method and waits for a write
// lock.
func someoneIn(function any) bool {
	name := []byte(runtime.FuncForPC(reflect.ValueOf(function).Pointer()).Name() + "(")
	buf := make([]byte, 1<<20)
	for goroutine := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		if bytes.Contains(goroutine, []byte("(*contentLock).Lock(")) && bytes.Contains(goroutine, name) {
			return true
		}
	}
	return false
}

// stays yields many times to goroutines that could make ok false, and reports whether it held.
func stays(ok func() bool) bool {
	for range 2000 {
		if !ok() {
			return false
		}
		runtime.Gosched()
	}
	return true
}
