//go:build !amd64 && !arm64

package warmtier

// prefetch does nothing: there is no way to ask for a cache line without waiting for it.
func prefetch([]byte) {}
