//go:build !unix

package main

// lockShared has nothing to do: there are no stores in directories on this system.
func lockShared(string) (unlock func(), err error) { return func() {}, nil }
