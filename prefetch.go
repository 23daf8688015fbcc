//go:build amd64 || arm64

package warmtier

// prefetch asks the processor for the cache lines of mem, and waits for none of them. It reads nothing, so
// it is no data race, and mem may be memory that somebody else writes to, or that is not there any more.
// The lines arrive some 100 to 300 ns later, while other work is done.
//
//go:noescape
func prefetch(mem []byte)
