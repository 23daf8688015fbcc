//go:build !linux

package storetest

import "errors"

func (s *suite) inspectDisk(string) (*diskReport, error) {
	return nil, skipError("a file system is mounted and filled on Linux only")
}

func (s *suite) diskJob(job, func(string)) error { return errors.New("a job for Linux") }

func (s *suite) fillJob(job, func(string)) error { return errors.New("a job for Linux") }
