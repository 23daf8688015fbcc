package warmtier

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Giving back can fail: Linux refuses to unmap what lies in the middle of a merged mapping, which it would
have to cut in two, when the process has as many mappings as vm.max_map_count allows. Then the pages
are given back and the addresses stay. They are kept here, so that nothing is leaked, to become
the next memory of that size, or to be unmapped later: when another mapping was unmapped or made, which
shows that something is possible again, in each maintenance cycle, at the end of a compaction, and by Close.
*/

// maxReturned bounds the mappings that returnSome unmaps: a few us each.
const maxReturned = 16

// unreturned holds what was released and could not be unmapped. It is safe for concurrent use.
type unreturned struct {
	bytes    atomic.Int64
	mappings atomic.Int64
	fail     func() error // stands for a failed system call in tests; nil otherwise

	mu    sync.Mutex // a leaf; held while the system is asked, so that nothing is asked for twice
	kept  []mapping  // returnSome takes from its front, and everything else adds to its end
	cause error      // of the last failure
}

// mapping is memory of mapper.acquire, or a mapped file.
type mapping struct {
	mem  []byte
	file dir.File // nil for memory
}

// giveBack unmaps m, which nobody can reach, or keeps it. Of the failures between two moments at which nothing
// is kept only the first is an error: there may be thousands.
func (u *unreturned) giveBack(m mapping) error {
	err := u.unmap(m)
	if err == nil {
		u.returnSome()
		return nil
	}
	if m.file == nil {
		_ = vm.Discard(m.mem) // it saves memory, as far as it can; a File does the same
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.kept, u.cause = append(u.kept, m), err
	u.bytes.Add(int64(len(m.mem)))
	if u.mappings.Add(1) > 1 {
		return nil
	}
	return fmt.Errorf("warmtier: cannot unmap %d bytes: %w", len(m.mem), err)
}

func (u *unreturned) unmap(m mapping) error {
	if u.fail != nil {
		if err := u.fail(); err != nil {
			return err
		}
	}
	if m.file != nil {
		return m.file.Close()
	}
	return vm.Unmap(m.mem)
}

// take takes out size bytes of memory, zeroed, nil when there are none.
func (u *unreturned) take(size int) []byte {
	if u.mappings.Load() == 0 {
		return nil
	}
	u.mu.Lock()
	i := slices.IndexFunc(u.kept, func(m mapping) bool { return m.file == nil && len(m.mem) == size })
	if i < 0 {
		u.mu.Unlock()
		return nil
	}
	mem := u.kept[i].mem
	u.kept = slices.Delete(u.kept, i, i+1)
	u.gone(mem)
	u.mu.Unlock()
	vm.Zero(mem)
	return mem
}

func (u *unreturned) gone(mem []byte) {
	u.bytes.Add(-int64(len(mem)))
	u.mappings.Add(-1)
}

// returnSome unmaps what is kept until that fails, and not too much of it, since a Put may wait. It does
// nothing while somebody else is at it.
func (u *unreturned) returnSome() {
	if u.mappings.Load() == 0 || !u.mu.TryLock() {
		return
	}
	defer u.mu.Unlock()
	for range min(len(u.kept), maxReturned) {
		m := u.kept[0]
		u.kept = u.kept[1:]
		if err := u.unmap(m); err != nil {
			u.kept, u.cause = append(u.kept, m), err
			return
		}
		u.gone(m.mem)
	}
}

// returnAll tries to unmap everything that is kept. It returns an error that says how much is left, if any.
//
// It goes by addresses, upwards and then downwards: of neighbours that the kernel has merged the first
// and the last can always be unmapped, since nothing is cut in two, and then the one beside it.
func (u *unreturned) returnAll() error {
	if u.mappings.Load() == 0 {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	slices.SortFunc(u.kept, func(a, b mapping) int { return cmp.Compare(address(a.mem), address(b.mem)) })
	for range 2 {
		u.kept = slices.DeleteFunc(u.kept, func(m mapping) bool {
			err := u.unmap(m)
			if err != nil {
				u.cause = err
				return false
			}
			u.gone(m.mem)
			return true
		})
		slices.Reverse(u.kept)
	}
	if len(u.kept) == 0 {
		return nil
	}
	return fmt.Errorf("warmtier: %d bytes in %d mappings could not be unmapped: %w",
		u.bytes.Load(), u.mappings.Load(), u.cause)
}
