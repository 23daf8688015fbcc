package warmtier

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/vm"
)

// clock is the time by which memories expire: the wall clock when the store was opened, and the time that has
// passed since. A wall clock that is set changes nothing. In a directory it begins no earlier than the clock of the
// last manifest, and it never goes back.
//
// Time in which the machine was suspended counts, where the system tells it: see vm.BootTime. That
// takes a system call, which would cost a read of a memory with a deadline more than all else. The runtime's
// monotonic clock stands still then, and the wall clock does not: so the system is asked when the two have moved
// against each other.
type clock struct {
	test   func() int64  // replaces it; nil but in tests
	start  int64         // Unix time in ms at Open; constant from then on
	opened time.Time     // the runtime's clocks at that moment
	boot   time.Duration // vm.BootTime at that moment

	suspended atomic.Int64 // ns that the monotonic clock did not count; only grows
	apart     atomic.Int64 // ns that the wall clock was ahead of the monotonic one when suspended was asked for
}

// clockDrift is how far the wall clock moves against the monotonic one before the system is asked. A
// wall clock that is being adjusted moves by 1 ms in 2 s at most.
const clockDrift = time.Millisecond

func (c *clock) init(test func() int64) {
	c.test, c.opened, c.boot = test, time.Now(), vm.BootTime()
	c.start = max(0, c.opened.UnixMilli())
	c.apart.Store(c.opened.UnixNano())
}

// notBefore makes the clock begin at ms, Unix time, at least. REQUIRES: nobody else knows the store.
func (c *clock) notBefore(ms int64) { c.start = max(c.start, ms) }

// now returns the time, Unix time in ms. Any lock may be held.
func (c *clock) now() int64 {
	if c.test != nil {
		return c.test()
	}
	t := time.Now()
	passed := t.Sub(c.opened) // by the monotonic clock
	apart := t.UnixNano() - int64(passed)
	if d := time.Duration(apart - c.apart.Load()); d >= clockDrift || d <= -clockDrift {
		c.askSystem()
		c.apart.Store(apart) // after suspended, which goes with it
	}
	return c.start + int64((passed+time.Duration(c.suspended.Load()))/time.Millisecond)
}

// askSystem adds time in which the machine was suspended. The monotonic clock is read last, so that it is never
// more than was.
func (c *clock) askSystem() {
	boot := vm.BootTime()
	suspended := int64(boot - c.boot - time.Since(c.opened))
	for {
		known := c.suspended.Load()
		if suspended <= known || c.suspended.CompareAndSwap(known, suspended) {
			return
		}
	}
}

// after returns the deadline of what is to live for ttl from now on, rounded up to whole ms. One that is
// beyond what a deadline can be is the last there is. REQUIRES: ttl is positive.
func (c *clock) after(ttl time.Duration) int64 {
	ms := int64(ttl / time.Millisecond)
	if ttl%time.Millisecond != 0 {
		ms++
	}
	now := c.now()
	if now > math.MaxInt64-ms {
		return math.MaxInt64
	}
	return now + ms
}
