//go:build !linux

package warmtier

import "time"

// bootTime returns 0: what the runtime's monotonic clock counts is all that is known.
func bootTime() time.Duration { return 0 }
