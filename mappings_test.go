//go:build linux

package warmtier

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/vm"
)

/*
Goal: a process that has nearly as many mappings as vm.max_map_count allows goes on: Put and Open are
errors that say why, reads and deletions work, the Go runtime has room to grow, compactions give back, and
what the kernel refuses to unmap is kept without its pages until it can be unmapped.

Method: a child process, since a mistake would be the end of it, cuts one large mapping of its own into
as many as it wants.
*/

const mappingsVariable = "WARMTIER_TEST_MAPPINGS"

func TestMappings_NearLimit(t *testing.T) {
	if vm.OnHeap {
		t.Skip("nothing is mapped in this build")
	}
	for _, scenario := range []string{"reserve", "unmap"} {
		t.Run(scenario, func(t *testing.T) {
			runtime.LockOSThread() // the child ends with the thread that started it
			defer runtime.UnlockOSThread()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMappingsChild$", "-test.count=1", "-test.v")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it may take much of the machine
			cmd.Env = append(os.Environ(), mappingsVariable+"="+scenario)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%.3000s", out)
			if strings.Contains(string(out), "--- SKIP") {
				t.Skipf("%s", out)
			}
			require.Contains(t, string(out), "child is done")
		})
	}
}

// ballast is the memory of a host program that has many mappings.
type ballast struct {
	mem  []byte
	used int
}

// fill cuts the ballast until the process has n mappings.
func (b *ballast) fill(t *testing.T, n int) {
	for now := mappings(t); now < n; now = mappings(t) {
		for range max(1, (n-now)/2) { // one page with another protection adds two
			require.NoError(t, unix.Mprotect(b.mem[b.used:b.used+vm.PageSize], unix.PROT_READ))
			b.used += 2 * vm.PageSize
		}
	}
}

// leave takes as many cuts back as leave the process n mappings: the Go runtime takes some for each thread that it
// starts, and starts more of them on a busy machine.
func (b *ballast) leave(t *testing.T, n int) {
	for now := mappings(t); now > n; now -= 2 {
		b.used -= 2 * vm.PageSize
		require.NoError(t, unix.Mprotect(b.mem[b.used:b.used+vm.PageSize], unix.PROT_NONE))
	}
}

// mappings returns how many mappings the process has.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return bytes.Count(maps, []byte("\n"))
}

func TestMappingsChild(t *testing.T) {
	scenario := os.Getenv(mappingsVariable)
	if scenario == "" {
		t.Skip("is the child process of TestMappings_NearLimit")
	}
	text, err := os.ReadFile("/proc/sys/vm/max_map_count")
	require.NoError(t, err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	if limit > 1<<20 {
		t.Skipf("a limit of %d mappings takes too long to reach", limit)
	}
	var b ballast
	b.mem, err = unix.Mmap(-1, 0, 2*limit*vm.PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	require.NoError(t, err)
	if scenario == "reserve" {
		childReserve(t, &b, limit)
	} else {
		childUnmap(t, &b, limit)
	}
	t.Log("child is done")
}

// remove gives it back: the kernel need not cut anything.
func (b *ballast) remove(t *testing.T) {
	require.NoError(t, unix.Munmap(b.mem))
	vm.Recount(0)
}

// childReserve fills the process up to what is left to the program.
func childReserve(t *testing.T, b *ballast, limit int) {
	path := t.TempDir()
	anonymous, err := Open("", quiet())
	require.NoError(t, err)
	files := openDir(t, path, quietly())
	stores := []*Store{anonymous, files}
	for _, s := range stores {
		fill(t, s, 0, 500, 1000)
	}
	b.fill(t, limit-max(1024, limit/10)-40)
	vm.Recount(0) // in place of the time after which a maintenance cycle does it

	n := []int{500, 500}
	for i, s := range []*Store{anonymous, files} {
		for err = nil; err == nil && n[i] < 10_000; n[i]++ {
			err = s.Put(idOf(n[i]), contentOf(n[i], 0, 1000))
		}
		n[i]--
		require.ErrorIs(t, err, ErrNoSpace)
		var full *vm.LimitError
		require.ErrorAs(t, err, &full)
		require.Equal(t, limit, full.Limit)
		require.ErrorContains(t, err, "vm.max_map_count")
		requireContents(t, s, 0, n[i], 1000, all)
	}
	require.Less(t, n[0]+n[1], 1000+70*100, "forty segments, and what was in the active ones")
	for _, dir := range []string{"", t.TempDir(), path} {
		_, err := Open(dir, quietly())
		require.ErrorIs(t, err, ErrNoSpace)
		require.ErrorContains(t, err, "vm.max_map_count")
	}

	// The program has what is reserved for it.
	var heap [][]byte
	for range 100 {
		heap = append(heap, make([]byte, 4<<20))
	}
	runtime.KeepAlive(heap)

	for i, s := range stores {
		before := s.Stats().MappedBytes
		deleteWhere(t, s, 0, n[i], func(i int) bool { return i%10 != 0 })
		mustCompact(t, s)
		require.Less(t, s.Stats().MappedBytes, before)
		requireContents(t, s, 0, n[i], 1000, func(i int) bool { return i%10 == 0 })
	}
	fill(t, files, 0, n[1], 1000) // it has given back as many as it took
	for i, s := range stores {
		require.NoError(t, s.PutTTL(idOf(0), contentOf(0, 0, 1000), time.Hour))
		require.NoError(t, s.Clear())
		require.Zero(t, s.Len())
		fill(t, s, 0, n[i]/2, 1000)
	}
	b.remove(t)
	for i, s := range stores {
		fill(t, s, 0, 2*n[i], 1000)
		requireContents(t, s, 0, 2*n[i], 1000, all)
		requireIntact(t, s)
		require.NoError(t, s.Close())
		require.Zero(t, s.mapper.bytes.Load())
		require.Zero(t, s.mapper.unreturned.mappings.Load())
	}
	closeIntact(t, openDir(t, path, quietly()))
}

// childUnmap fills the process up to the limit, where the kernel cuts no mapping in two.
func childUnmap(t *testing.T, b *ballast, limit int) {
	const n = 20_000
	s, err := Open("", quiet())
	require.NoError(t, err)
	base := mappings(t)
	fill(t, s, 0, n, 1000)
	dead := make([]bool, n)
	for i := range dead {
		dead[i] = odd(segmentOf(t, s, idOf(i)).index)
	}
	// The runtime has its threads and a heap that need not grow: here it has no reserve.
	debug.SetGCPercent(-1)
	for range 3 { // more of everything than what follows allocates
		requireContents(t, s, 0, n, 1000, all)
	}
	runtime.GC()
	b.fill(t, limit-32)
	full, _ := residentBytes()

	deleteWhere(t, s, 0, n, func(i int) bool { return dead[i] })
	cs := mustCompact(t, s)
	st := s.Stats()
	left, _ := residentBytes()
	kept := st.SegmentDetails.UnreturnedBytes
	t.Logf("%d bytes in %d mappings not taken back, %d of them in the compaction", kept,
		st.SegmentDetails.UnreturnedMappings, cs.BytesUnreturned)
	require.Greater(t, kept, int64(2<<20))
	require.Greater(t, full-left, cs.BytesBefore/3, "the pages were given back")
	requireContents(t, s, 0, n, 1000, func(i int) bool { return !dead[i] })

	b.leave(t, limit-32)
	fill(t, s, n, n+1000, 1000)
	require.Less(t, s.Stats().SegmentDetails.UnreturnedBytes, kept, "used again")
	full, _ = residentBytes()
	mapped := s.Stats().MappedBytes
	require.NoError(t, s.Clear())
	left, _ = residentBytes()
	require.Greater(t, full-left, mapped/2, "the pages were given back")
	require.Zero(t, s.Len())
	b.leave(t, limit-32)
	fill(t, s, 0, n/4, 1000)
	b.remove(t)
	_, err = s.Maintain(t.Context())
	require.NoError(t, err)
	require.Zero(t, s.Stats().SegmentDetails.UnreturnedMappings)
	requireContents(t, s, 0, n/4, 1000, all)
	requireIntact(t, s)
	require.NoError(t, s.Close())
	require.Zero(t, s.mapper.bytes.Load())
	require.Zero(t, s.mapper.unreturned.mappings.Load())
	require.LessOrEqual(t, mappings(t), base+32+4*runtime.GOMAXPROCS(0))
}
