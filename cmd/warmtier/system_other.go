//go:build !linux

package main

// lockHolder returns "": only Linux lists who holds a lock.
func lockHolder(string) string { return "" }

// systemChecks has none: what a store needs is tried with a store.
func systemChecks(string) []check { return nil }
