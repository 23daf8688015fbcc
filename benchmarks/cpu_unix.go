//go:build unix

package main

import (
	"syscall"
	"time"
)

// processorTime returns what the process has used, in all its threads; 0 where that is unknown.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
