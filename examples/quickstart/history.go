package main

import (
	"hash/maphash"
	"sync/atomic"
)

// digest stands for a content: keeping every content twice would hide what the store gives back. A
// wrong content has the digest of the right one once in 2^63.
type digest uint64

// absent stands for "no memory has this id".
const absent digest = 0

var seed = maphash.MakeSeed()

func digestOf(content []byte) digest { return digest(maphash.Bytes(seed, content) | 1) }

// maxVersions is how many versions a memory has at most: loaded, deleted, stored again, deleted.
const maxVersions = 4

// memory keeps what is known about one memory of the store: each version it had, is getting, or
// has.
//
// One goroutine writes. It sets begun before it changes the store and done after, so a read sees a
// version from done, as it was before the read, to begun, as it is after. Any other is wrong.
type memory struct {
	id       string
	versions [maxVersions]digest
	begun    atomic.Uint32 // the number of the newest version that readers may see
	done     atomic.Uint32 // the number of the oldest
}

// becomes makes d the next version, by calling store.
func (m *memory) becomes(d digest, store func() error) error {
	v := m.done.Load() + 1
	m.versions[v] = d
	m.begun.Store(v)
	err := store()
	m.done.Store(v)
	return err
}

// had reports whether d is one of the versions from oldest to newest.
func (m *memory) had(d digest, oldest, newest uint32) bool {
	for v := oldest; v <= newest; v++ {
		if m.versions[v] == d {
			return true
		}
	}
	return false
}

// last returns the version that the memory ended with.
func (m *memory) last() digest { return m.versions[m.done.Load()] }
