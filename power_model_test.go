//go:build unix

package warmtier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// powerVersion is one state of a memory.
type powerVersion struct {
	number  int // never used twice for a memory
	size    int // of the content
	deleted bool
}

func (v powerVersion) String() string {
	if v.deleted {
		return fmt.Sprintf("deleted (%d)", v.number)
	}
	return fmt.Sprintf("version %d", v.number)
}

// powerMemory holds what the model knows of one memory.
type powerMemory struct {
	versions []powerVersion // begun, in this order; only appended to
	acked    int            // index of the last acknowledged one
	durable  int            // index of the last one that must survive a power loss
	numbers  int            // used so far
}

// powerModel knows what a store must hold. A memory has one writer at a time.
type powerModel struct {
	mu       sync.Mutex
	memories []powerMemory
	batches  [][]powerMember
}

// powerMember is a version that was written in a batch.
type powerMember struct {
	i, index int
	v        powerVersion
}

// beginBatch notes that these versions are of one batch.
func (m *powerModel) beginBatch(members []powerMember) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches = append(m.batches, members)
}

// whole returns an error when state has a version of a batch, and another memory a version from before it.
func (m *powerModel) whole(state []powerVersion) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, batch := range m.batches {
		there := slices.ContainsFunc(batch, func(b powerMember) bool { return !b.v.deleted && state[b.i] == b.v })
		for _, b := range batch {
			found := state[b.i]
			asWanted := found.number >= b.v.number || b.v.deleted && found.deleted
			if there && !asWanted {
				return fmt.Errorf("some of a batch: memory %d is %v, want %v or later", b.i, found, b.v)
			}
		}
	}
	return nil
}

func newPowerModel(n int) *powerModel {
	m := &powerModel{memories: make([]powerMemory, n)}
	for i := range m.memories {
		m.memories[i].versions = []powerVersion{{deleted: true}}
	}
	return m
}

// begin notes that another version of memory i may exist from here on.
func (m *powerModel) begin(i, size int, deleted bool) (v powerVersion, index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := &m.memories[i]
	mem.numbers++
	v = powerVersion{number: mem.numbers, size: size, deleted: deleted}
	mem.versions = append(mem.versions, v)
	return v, len(mem.versions) - 1
}

// acknowledge notes that the store has confirmed a version.
func (m *powerModel) acknowledge(i, index int, durable bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memories[i].acked = index
	if durable {
		m.memories[i].durable = index
	}
}

// acknowledged returns the index of the last acknowledged version of each memory.
func (m *powerModel) acknowledged() []int { return m.indexes(true) }

func (m *powerModel) indexes(acked bool) (list []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.memories {
		if acked {
			list = append(list, m.memories[i].acked)
		} else {
			list = append(list, m.memories[i].durable)
		}
	}
	return list
}

// synced notes that a Sync that began with these acknowledged versions has succeeded.
func (m *powerModel) synced(marks []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, mark := range marks {
		m.memories[i].durable = max(m.memories[i].durable, mark)
	}
}

// found notes that Open has found state, which it makes durable. A compaction that failed may have evicted what the
// store still had, and nobody was told.
func (m *powerModel) found(state []powerVersion) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range state {
		mem := &m.memories[i]
		mem.acked = slices.Index(mem.versions, v)
		mem.durable = mem.acked
	}
}

// live returns the version of memory i that a read must find while nobody writes it.
func (m *powerModel) live(i int) powerVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := &m.memories[i]
	return mem.versions[mem.acked]
}

// allowed holds the versions that each memory may have after a crash.
type allowed [][]powerVersion

// since returns the versions begun so far, from these indexes on.
func (m *powerModel) since(from []int) (a allowed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.memories {
		a = append(a, slices.Clip(m.memories[i].versions[from[i]:]))
	}
	return a
}

// adopt makes state the acknowledged one. After a kill, durable stays what it was until Open has
// ended.
func (m *powerModel) adopt(state []powerVersion, killed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range state {
		mem := &m.memories[i]
		from, to := mem.durable, slices.Index(mem.versions, v)
		if !killed {
			from = to
		}
		mem.versions = slices.Clone(mem.versions[from : to+1])
		mem.durable, mem.acked = 0, to-from
	}
}

func (m *powerModel) version(i, index int) powerVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.memories[i].versions[index]
}

// exactly allows one state.
func exactly(state []powerVersion) (a allowed) {
	for _, v := range state {
		a = append(a, []powerVersion{v})
	}
	return a
}

// read returns which of the allowed versions memory i has in s.
func (a allowed) read(s *Store, i int) (found powerVersion, err error) {
	content, err := s.Get(idOf(i))
	missing := errors.Is(err, ErrNotFound)
	if err != nil && !missing {
		return found, fmt.Errorf("memory %d: %w", i, err)
	}
	for _, v := range slices.Backward(a[i]) {
		if v.deleted == missing && (missing || bytes.Equal(content, contentOf(i, v.number, v.size))) {
			if at, err := s.Expiry(idOf(i)); !missing && (err != nil || at.IsZero() == v.expires()) {
				return v, fmt.Errorf("memory %d, version %d: expires %v, %w", i, v.number, at, err)
			}
			return v, nil
		}
	}
	if missing {
		return found, fmt.Errorf("memory %d is missing, allowed: %v", i, a[i])
	}
	return found, fmt.Errorf("memory %d: %d bytes of version %d, allowed: %v", i, len(content),
		binary.LittleEndian.Uint64(content[8:]), a[i])
}

// observe returns what s holds, and an error when that is not allowed.
func (a allowed) observe(s *Store) (state []powerVersion, err error) {
	n := 0
	for i := range a {
		v, err := a.read(s, i)
		if err != nil {
			return nil, err
		}
		if !v.deleted {
			n++
		}
		state = append(state, v)
	}
	if ids := len(slices.Collect(s.IDs())); ids != n {
		return nil, fmt.Errorf("store has %d memories, %d of them known", ids, n)
	}
	return state, nil
}

// shifted gives the one memory of a the number i.
func (a allowed) shifted(i int) allowed { return append(make(allowed, i), a...) }
