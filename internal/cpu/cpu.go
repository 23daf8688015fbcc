// Package cpu holds what depends on the processor: asking for cache lines ahead of their use, and
// keeping data that several cores write on lines of its own. It knows nothing of stores.
package cpu

// CacheLines is the distance that keeps two things off each other's cache lines: two lines, since
// processors fetch lines in pairs.
const CacheLines = 128 // bytes
