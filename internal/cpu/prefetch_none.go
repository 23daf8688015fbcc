//go:build !amd64 && !arm64

package cpu

// Prefetch does nothing: there is no way here to ask for a cache line without waiting for it.
func Prefetch([]byte) {}
