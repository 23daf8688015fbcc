//go:build !linux

package vm

import "time"

// BootTime returns 0: what the runtime's monotonic clock counts is all that is known.
func BootTime() time.Duration { return 0 }
