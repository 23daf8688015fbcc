package warmtier

import (
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Goal: memory that cannot be unmapped is lost to nobody: its pages go, it is told, used again, and
unmapped once that is possible. Method: a knob makes the system call fail.
*/

var errNotUnmapped = errors.New("the system does not unmap")

// unmapFault makes unmapping fail while it is on.
type unmapFault struct {
	on    atomic.Bool
	calls atomic.Int64
}

func (f *unmapFault) fail() error {
	f.calls.Add(1)
	if f.on.Load() {
		return errNotUnmapped
	}
	return nil
}

// unreturnedStore returns a store with fault on, and every tenth memory of n left. What its last compaction
// could not unmap is kept.
func unreturnedStore(t *testing.T, opts *Options, n int) (s *Store, f *unmapFault, cs CompactionStats) {
	t.Helper()
	f = &unmapFault{}
	s = openTest(t, opts, hooks{unmap: f.fail})
	t.Cleanup(func() { f.on.Store(false) })
	fill(t, s, 0, n, 1000)
	f.on.Store(true)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%10 != 0 })
	cs = mustCompact(t, s)
	return s, f, cs
}

// What would break: physical memory held for nobody; a compaction that calls given back what is not; a
// list that nobody empties.
func TestUnreturned_KeptAndTold(t *testing.T) {
	const n = 2000
	s, f, cs := unreturnedStore(t, quiet(), n)
	st := s.Stats()
	require.NotZero(t, st.SegmentDetails.UnreturnedMappings)
	require.GreaterOrEqual(t, st.SegmentDetails.UnreturnedBytes, int64(minSegmentSize))
	require.LessOrEqual(t, cs.BytesUnreturned, st.SegmentDetails.UnreturnedBytes)
	var kept int64
	for _, m := range s.mapper.unreturned.kept {
		kept += int64(len(m.mem))
		if runtime.GOOS == "linux" && !vm.OnHeap {
			require.Equal(t, make([]byte, len(m.mem)), m.mem, "its pages were given back")
		}
	}
	require.Equal(t, st.SegmentDetails.UnreturnedBytes, kept)
	require.Less(t, st.MappedBytes, kept, "the store is small, without what it waits for")
	requireContents(t, s, 0, n, 1000, func(i int) bool { return i%10 == 0 })

	_, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.Equal(t, st.SegmentDetails.UnreturnedBytes, s.Stats().SegmentDetails.UnreturnedBytes)
	f.on.Store(false)
	_, err = s.Maintain(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Stats().SegmentDetails.UnreturnedBytes)
	require.Zero(t, s.Stats().SegmentDetails.UnreturnedMappings)
	requireIntact(t, s)
}

// Goal: bytes that could not be unmapped do not count as reclaimed, and never make that negative.
func TestUnreturned_NotReclaimed(t *testing.T) {
	for _, c := range []struct{ reclaimed, unreturned, want, told int64 }{
		{1000, 0, 1000, 0},
		{1000, -5, 1000, 0}, // some from before could be unmapped
		{1000, 300, 700, 300},
		{1000, 1300, 0, 1300},
		{-50, 1300, -50, 1300}, // a failed compaction may have filled more than it emptied
	} {
		cs := CompactionStats{BytesReclaimed: c.reclaimed}
		cs.subtractUnreturned(c.unreturned)
		require.Equal(t, CompactionStats{BytesReclaimed: c.want, BytesUnreturned: c.told}, cs)
	}
	f := &unmapFault{}
	s := openTest(t, bounded(1), hooks{unmap: f.fail})
	t.Cleanup(func() { f.on.Store(false) })
	fill(t, s, 0, 2000, 1000)
	deleteWhere(t, s, 0, 2000, func(i int) bool { return i%10 >= 5 })
	f.on.Store(true)
	cs := mustCompact(t, s)
	require.Equal(t, max(0, cs.BytesBefore-cs.BytesAfter-cs.BytesUnreturned), cs.BytesReclaimed)
}

// Goal: what is mapped next takes what is kept, and finds it zeroed. Then nothing grows when every unmapping
// fails for ever.
func TestUnreturned_UsedAgain(t *testing.T) {
	parallel(t)
	const n = 2000
	s, _, _ := unreturnedStore(t, quiet(), n)
	most := s.mapper.mappings.Load() + s.mapper.unreturned.mappings.Load()
	for range 20 {
		fill(t, s, 0, n, 1000)
		requireContents(t, s, 0, n, 1000, all)
		deleteWhere(t, s, 0, n, func(i int) bool { return i%10 != 0 })
		mustCompact(t, s)
		requireContents(t, s, 0, n, 1000, func(i int) bool { return i%10 == 0 })
	}
	// Twice, since tables of the index come in sizes of which not each was there the first time.
	require.LessOrEqual(t, s.mapper.mappings.Load()+s.mapper.unreturned.mappings.Load(), 2*most)
	requireIntact(t, s)

	m := &s.mapper
	size := 3 * vm.PageSize
	mem, err := m.acquire(size)
	require.NoError(t, err)
	for i := range mem {
		mem[i] = 1
	}
	_ = m.release(mem)
	again, err := m.acquire(size)
	require.NoError(t, err)
	require.Same(t, &mem[0], &again[0])
	require.Equal(t, make([]byte, size), again)
	_ = m.release(again)
}

// Goal: an unmapping and a mapping that succeed try again, a bounded number of times, and no further than
// to the first failure.
func TestUnreturned_TriedAgain(t *testing.T) {
	f := &unmapFault{}
	m := &mapper{}
	m.unreturned.fail = f.fail
	var mems [][]byte
	for range 3 * maxReturned {
		mem, err := m.acquire(vm.PageSize)
		require.NoError(t, err)
		mems = append(mems, mem)
	}
	f.on.Store(true)
	failed := 0
	for _, mem := range mems {
		if err := m.release(mem); err != nil {
			require.ErrorIs(t, err, errNotUnmapped)
			failed++
		}
	}
	require.Equal(t, 1, failed, "told once")
	require.Zero(t, m.bytes.Load())
	require.EqualValues(t, 3*maxReturned, m.unreturned.mappings.Load())

	f.calls.Store(0)
	other, err := m.acquire(2 * vm.PageSize)
	require.NoError(t, err)
	require.EqualValues(t, 1, f.calls.Load(), "no further than to the first failure")
	require.EqualValues(t, 3*maxReturned, m.unreturned.mappings.Load())
	f.on.Store(false)
	require.NoError(t, m.release(other))
	require.EqualValues(t, 2*maxReturned, m.unreturned.mappings.Load())
	other, err = m.acquire(2 * vm.PageSize)
	require.NoError(t, err)
	require.EqualValues(t, maxReturned, m.unreturned.mappings.Load())
	require.NoError(t, m.release(other))
	require.Zero(t, m.unreturned.mappings.Load())
	require.Zero(t, m.unreturned.bytes.Load())
	require.Zero(t, m.mappings.Load())
}

// Goal: Close tries again, and its error says what is left if anything is. So does a failed Open.
func TestUnreturned_Close(t *testing.T) {
	f := &unmapFault{}
	s, err := open("", quiet(), hooks{unmap: f.fail})
	require.NoError(t, err)
	fill(t, s, 0, 1000, 1000)
	f.on.Store(true)
	err = s.Close()
	require.ErrorIs(t, err, errNotUnmapped)
	require.Regexp(t, `\d{6,} bytes in \d+ mappings could not be unmapped`, err.Error())
	require.Zero(t, s.mapper.bytes.Load())
	require.NotZero(t, s.Stats().SegmentDetails.UnreturnedBytes)
	f.on.Store(false)
	require.NoError(t, s.mapper.unreturned.returnAll())
	require.Zero(t, s.mapper.unreturned.mappings.Load())

	// A moment later it is possible.
	left := 10
	s, err = open("", quiet(), hooks{unmap: func() error {
		if left--; left >= 0 {
			return errNotUnmapped
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 1000, 1000)
	require.NoError(t, s.Close())
	require.Negative(t, left)
	requireReleased(t, s, runtime.NumGoroutine())
}

// Goal: a memory that a View holds past Close, and that cannot be unmapped then, is kept too.
func TestUnreturned_PinnedPastClose(t *testing.T) {
	f := &unmapFault{}
	s, err := open("", quiet(), hooks{unmap: f.fail})
	require.NoError(t, err)
	require.NoError(t, s.Put("a", []byte("content")))
	require.NoError(t, s.View("a", func(content []byte) error {
		require.NoError(t, s.Close())
		require.Equal(t, "content", string(content))
		f.on.Store(true)
		return nil
	}))
	require.EqualValues(t, 1, s.mapper.unreturned.mappings.Load())
	f.on.Store(false)
	require.NoError(t, s.mapper.unreturned.returnAll())
	requireReleased(t, s, runtime.NumGoroutine())
}

// Goal: thousands of failures are one line of the log.
func TestUnreturned_LoggedOnce(t *testing.T) {
	logger, text := logTo()
	opts := quiet()
	opts.Logger = logger
	s, _, _ := unreturnedStore(t, opts, 2000)
	require.Greater(t, s.mapper.unreturned.mappings.Load(), int64(10))
	s.waitForLog()
	require.Equal(t, 1, strings.Count(text.String(), errNotUnmapped.Error()), text.String())
}

// mergedFile stands for a mapping that the kernel has merged with its neighbours, at a limit: only one at an
// end of what is left can be unmapped.
type mergedFile struct {
	dir.Empty
	i       int
	present []bool
}

func (f *mergedFile) Close() error {
	if f.i > 0 && f.present[f.i-1] && f.i < len(f.present)-1 && f.present[f.i+1] {
		return errNotUnmapped
	}
	f.present[f.i] = false
	return nil
}

// Goal: neighbours that were merged are all unmapped, whatever the order in which they were released, and
// also when what is beside them on one side is somebody else's and stays.
func TestUnreturned_MergedNeighbours(t *testing.T) {
	for _, ends := range []struct{ from, to int }{{0, 64}, {1, 64}, {0, 63}} {
		mem := make([]byte, 64*8)
		present := make([]bool, 64)
		var u unreturned
		for i := range present {
			present[i] = true
		}
		for _, i := range seeded(t).Perm(64) {
			if i < ends.from || i >= ends.to {
				continue // somebody else's
			}
			m := mapping{mem[i*8 : i*8+8 : i*8+8], &mergedFile{i: i, present: present}}
			u.kept = append(u.kept, m)
			u.bytes.Add(8)
			u.mappings.Add(1)
		}
		require.NoError(t, u.returnAll())
		require.Zero(t, u.bytes.Load())
		require.Zero(t, u.mappings.Load())
	}
}

// Goal: callers that map, release and try again at the same time lose nothing, and get nothing twice.
func TestUnreturned_Concurrent(t *testing.T) {
	f := &unmapFault{}
	m := &mapper{}
	m.unreturned.fail = f.fail
	done := make(chan error, 4)
	for g := range cap(done) {
		go func() {
			for i := range 2000 {
				mem, err := m.acquire((1 + i%3) * vm.PageSize)
				if err != nil {
					done <- err
					return
				}
				for j := range mem {
					if mem[j] != 0 {
						done <- errors.New("memory is not zeroed, or somebody else's")
						return
					}
					mem[j] = byte(g + 1)
				}
				f.on.Store(i%5 < 2)
				_ = m.release(mem)
				if i%7 == 0 {
					_ = m.unreturned.returnAll()
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		require.NoError(t, <-done)
	}
	f.on.Store(false)
	require.NoError(t, m.unreturned.returnAll())
	require.Zero(t, m.bytes.Load())
	require.Zero(t, m.mappings.Load())
	require.Zero(t, m.unreturned.mappings.Load())
	require.Zero(t, m.unreturned.bytes.Load())
}
