package storetest

import "errors"

// diskReport says what came of filling a file system.
type diskReport struct {
	crash string // how the process ended that filled it
	lost  error
}

func fullDiskLosesNothing(e *env) error {
	r, err := e.disk()
	if err != nil {
		return err
	}
	return r.lost
}

func fullDiskEndsNoProcess(e *env) error {
	r, err := e.disk()
	if err != nil {
		return err
	}
	if r.crash != "" {
		return errors.New(r.crash)
	}
	return nil
}
