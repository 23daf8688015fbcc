package vm

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootTime returns the time since the machine was started, time in which it was suspended included; 0
// where the system does not say.
func BootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
