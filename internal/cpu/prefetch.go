//go:build amd64 || arm64

package cpu

// Prefetch asks the processor for the cache lines of mem and does not wait for them. It reads
// nothing, so it is no data race, and mem may be written by others or no longer be mapped. The
// lines arrive some 100 to 300 ns later, while other work is done.
//
//go:noescape
func Prefetch(mem []byte)
