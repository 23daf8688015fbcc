//go:build !linux

package storetest

import "errors"

func fullDiskLosesNothing(*env) error {
	return skipError("a file system is mounted and filled on Linux only")
}

func (s *suite) diskJob(job) error { return errors.New("a job for Linux") }
