package main

import (
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"time"
)

/*
What the machine itself can do, to compare the stores with: a read of a random memory in a store much
larger than the caches cannot take less than a miss for its slot, one for its record, the copy and the
checksum.
*/

var limits = map[string]func(size int) float64{
	"memcpy":     memcpyLimit,
	"miss":       missLimit,
	"crc 256 B":  func(int) float64 { return crcLimit(256) },
	"crc 1 KiB":  func(int) float64 { return crcLimit(1 << 10) },
	"crc 16 KiB": func(int) float64 { return crcLimit(16 << 10) },
}

// memcpyLimit returns how long copying takes in memory already touched, far beyond the caches: ns
// per KiB.
func memcpyLimit(size int) float64 {
	size /= 2
	from, to := make([]byte, size), make([]byte, size)
	for i := range from { // touch both: fresh pages would be measured, and zeros need no page
		from[i], to[i] = byte(i), 1
	}
	start := time.Now()
	copy(to, from)
	elapsed := time.Since(start)
	runtime.KeepAlive(to)
	return float64(elapsed) / float64(size>>10)
}

// missLimit returns how long a step takes in a random cycle through memory, where the address of
// each step comes from the step before: ns.
func missLimit(size int) float64 {
	const (
		line  = 16 // uint32s in a cache line
		steps = 1 << 20
	)
	lines := size / 64
	next := make([]uint32, lines*line)
	r := rand.New(rand.NewPCG(1, 5))
	// Sattolo's shuffle of the lines makes one cycle through all of them.
	for i := range lines {
		next[i*line] = uint32(i)
	}
	for i := lines - 1; i > 0; i-- {
		j := r.IntN(i)
		next[i*line], next[j*line] = next[j*line], next[i*line]
	}
	at := uint32(0)
	start := time.Now()
	for range steps {
		at = next[int(at)*line]
	}
	elapsed := time.Since(start)
	runtime.KeepAlive(at) // so that the compiler keeps the loop
	return float64(elapsed) / steps
}

// crcLimit returns how long a checksum of size bytes takes that are in the cache: ns.
func crcLimit(size int) float64 {
	const rounds = 100_000
	block := make([]byte, size)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	start := time.Now()
	for range rounds {
		sum = crc32.Update(sum, table, block)
	}
	elapsed := time.Since(start)
	runtime.KeepAlive(sum)
	return float64(elapsed) / rounds
}
