package warmtier

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

/*
A compaction takes the processors that are idle and leaves those that are wanted, and yet it gets on
beside any number of busy goroutines. Go has no priorities, so that is done with what it has:

Offers. A worker offers its processor (runtime.Gosched) once a turn. Where processors are idle it
continues at once. Where they are wanted it queues behind everybody: each of n busy goroutines has
its time slice of 10 ms first, so an offer costs 10n ms / processors, hundreds of turns.

Debt. What an offer cost is measured, and the worker does not offer again before it has worked as
long. Until then it is a goroutine like any other, which the runtime preempts every 10 ms, and has
the share of one. The offer costs it one time slice more for as many as the debt has, at most ten.
So its floor is nine tenths of the share of one busy goroutine.

Handoffs. Whatever else makes a compaction wait for a processor costs as much as an offer, so it
starts no goroutine that it must wait for, and wakes none: the goroutine that runs the compaction is
worker 0 of every phase, and waits only for workers that have begun.
*/

const (
	// turn is how long a worker runs before it offers its processor. Offering after each chunk or
	// batch would cost a tenth of a compaction: a goroutine that yields may resume on another
	// processor, whose caches are cold.
	turn = 100 * time.Microsecond

	// urgentTurn is turn where dead bytes grow faster than they are given back: the time slice of
	// the runtime, so a worker offers about as often as it would be preempted.
	urgentTurn = 10 * time.Millisecond

	// longestStep is how much of the time between two calls of yield counts as work. Most steps
	// take 5 to 20 us; a worker that did not come by for longer was preempted.
	longestStep = time.Millisecond

	// mostOwed bounds the debt, and so how long others wait for an offer after a machine was
	// suspended, or after the busy goroutines have left.
	mostOwed = 100 * time.Millisecond
)

// pace says how the workers of a compaction share the processors with everybody else.
type pace struct {
	level   atomic.Int32     // 0: normal; more: urgent. Read at each offer, and before each phase
	steps   atomic.Int64     // calls of yield: who waits for the compaction sees that it gets on
	normal  int              // workers
	most    int              // workers when it is urgent
	workers []account        // by number, each used by its worker only
	now     func() time.Time // time.Now, but in tests
	offer   func()           // runtime.Gosched, but in tests
}

// account is what one worker owes. It outlives rounds and phases: a debt that ended with a shard or
// a round would never be earned.
type account struct {
	last   time.Time     // when the worker last called yield
	worked time.Duration // since its last offer
	owed   time.Duration // what that offer cost
	_      [24]byte      // workers write to cache lines of their own
}

func newPace(normal, most int) *pace {
	return &pace{
		normal: normal, most: max(normal, most), workers: make([]account, max(normal, most)),
		now: time.Now, offer: runtime.Gosched,
	}
}

// urgent sets the level: 0 takes idle processors only, beside the floor; more takes as many workers
// as are allowed, which offer rarely. Any goroutine may call it.
func (p *pace) urgent(level int32) { p.level.Store(level) }

// count returns how many workers the next phase has.
func (p *pace) count() int {
	if p.level.Load() > 0 {
		return p.most
	}
	return p.normal
}

// yield offers the processor if the worker's turn is over and the cost of its last offer has been
// earned, and reports whether it did. REQUIRES: no lock held.
func (p *pace) yield(worker int) (offered bool) {
	p.steps.Add(1)
	a := &p.workers[worker]
	now := p.now()
	a.worked += min(now.Sub(a.last), longestStep)
	a.last = now
	least := turn
	if p.level.Load() > 0 {
		least = urgentTurn
	}
	if a.worked < max(least, a.owed) {
		return false
	}
	p.offer()
	a.last = p.now()
	a.worked, a.owed = 0, min(a.last.Sub(now), mostOwed)
	return true
}

// phase is work that several workers share. Whoever comes when it has ended has nothing to do.
type phase struct {
	mu      sync.Mutex // a leaf
	ended   bool
	err     error // the first of a worker
	working sync.WaitGroup
}

// join reports whether there may be work left. Who has joined leaves.
func (p *phase) join() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.working.Add(1)
	return true
}

// fail notes the first error, and reports whether err is it.
func (p *phase) fail(err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil || p.err != nil {
		return false
	}
	p.err = err
	return true
}

// end waits for those who have joined; nobody joins from here on.
func (p *phase) end() error {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.working.Wait()
	return p.err
}

// together calls fn once for each of so many workers, until one call fails: as worker 0 on this
// goroutine, and as the others on goroutines of their own. fn returns when no work is left, so a
// worker that the runtime has not got to by then is not missed. When together returns, or fn panics,
// no worker runs.
func (c *compaction) together(
	ctx context.Context, workers int, fn func(ctx context.Context, worker int) error,
) error {
	var p phase
	ctx, cancel := context.WithCancelCause(ctx)
	work := func(worker int) {
		if err := fn(ctx, worker); p.fail(err) {
			cancel(err)
		}
	}
	defer func() { // after a panic
		cancel(nil)
		_ = p.end()
	}()
	for worker := 1; worker < workers; worker++ {
		go func() {
			if p.join() {
				defer p.working.Done()
				work(worker)
			}
		}()
	}
	work(0)
	return p.end()
}

// parallel calls fn for every shard, on as many goroutines as there are workers, until one call
// fails.
func (c *compaction) parallel(
	ctx context.Context, workers int, fn func(ctx context.Context, worker, shard int) error,
) error {
	var next atomic.Int32
	return c.together(ctx, workers, func(ctx context.Context, worker int) error {
		for i := next.Add(1) - 1; i < shardCount; i = next.Add(1) - 1 {
			if err := fn(ctx, worker, int(i)); err != nil {
				return err
			}
		}
		return nil
	})
}
