//go:build !linux

package main

// lockHolder returns "": only Linux lists who holds a lock.
func lockHolder(string) string { return "" }

// systemChecks has no checks for this system: what a store needs is tried with a store.
func systemChecks(string) []check { return nil }
