package olricengine

import (
	"fmt"
	"sync/atomic"
	"time"
)

// maxAhead is how far in the future a timestamp of another node may be for this node to follow it.
// Beyond that the clock there is wrong, and would make every clock wrong.
const maxAhead = time.Minute

// clock is a hybrid logical clock, as in Kulkarni and others, "Logical Physical Clocks" (OPODIS
// 2014), in one number: the latest timestamp that the node has seen or given.
type clock struct{ last atomic.Int64 }

// after returns timestamp, or if that is not later than all that were seen, one that is.
func (c *clock) after(timestamp int64) int64 {
	for {
		last := c.last.Load()
		next := max(timestamp, last+1)
		if c.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// see notes a timestamp of an entry that is stored.
func (c *clock) see(timestamp int64) {
	for {
		last := c.last.Load()
		if timestamp <= last || timestamp > time.Now().Add(maxAhead).UnixNano() ||
			c.last.CompareAndSwap(last, timestamp) {
			return
		}
	}
}

// ClockError is returned for a write that is older than an entry from this node's future, by more
// than a minute: the clocks of the nodes are apart, and last write wins cannot hold.
type ClockError struct {
	Written time.Time // timestamp of the write
	Stored  time.Time // timestamp of the entry that stays
	Now     time.Time // this node's clock
}

// Error gives the times.
func (err *ClockError) Error() string {
	return fmt.Sprintf("olricengine: clocks of nodes are apart: the entry stored is of %s, %v from now, the write of %s",
		err.Stored.UTC().Format(time.RFC3339Nano), err.Stored.Sub(err.Now), err.Written.UTC().Format(time.RFC3339Nano))
}
