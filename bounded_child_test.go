//go:build linux

package warmtier

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/vm"
)

/*
Goal: a store that has met the limit of its process's address space still gives back what is dead, and
a compaction there leaves it as able to write as it was. Method: a child process, whose limit is lowered
when the store is filled. What would break: a compaction whose targets are to be had from the system alone; a
need that is counted in whole segments; lanes whose active segments are sealed for nothing.
*/

const boundedVariable = "WARMTIER_TEST_BOUNDED_CHILD"

func TestBounded_AddressSpace(t *testing.T) {
	t.Parallel()
	if vm.OnHeap {
		t.Skip("nothing is mapped in this build")
	}
	for _, scenario := range []string{"deleted here and there", "deleted in a row", "small puts", "small puts, all live"} {
		t.Run(scenario, func(t *testing.T) {
			runtime.LockOSThread() // the child ends with the thread that started it
			defer runtime.UnlockOSThread()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestBoundedChild$", "-test.count=1", "-test.v")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			cmd.Env = append(os.Environ(), boundedVariable+"="+scenario)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%.3000s", out)
			require.Contains(t, string(out), "child is done")
			if testing.Verbose() {
				t.Logf("%s", out)
			}
		})
	}
}

// limitAddressSpace lowers the limit to what the process has and so many bytes more.
func limitAddressSpace(t *testing.T, more uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.ParseUint(strings.Fields(string(b))[0], 10, 64)
	require.NoError(t, err)
	limit := pages*uint64(vm.PageSize) + more
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}))
}

// prepareRuntime lets the Go runtime have the heap and the threads that it will need, so that the limit is
// not met by it.
func prepareRuntime() {
	heap := make([]byte, 100<<20)
	runtime.KeepAlive(heap) // and then garbage
	runtime.GC()
	var all, begun sync.WaitGroup
	begun.Add(16)
	for range 16 {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			begun.Done()
			begun.Wait()
		})
	}
	all.Wait()
}

func TestBoundedChild(t *testing.T) {
	scenario := os.Getenv(boundedVariable)
	if scenario == "" {
		t.Skip("is the child process of TestBounded_AddressSpace")
	}
	prepareRuntime()
	switch scenario {
	case "deleted here and there":
		childDeleted(t, func(i int) bool { return i%10 != 0 })
	case "deleted in a row":
		childDeleted(t, func(i int) bool { return i >= 5000 })
	case "small puts":
		childSmallPuts(t, odd)
	case "small puts, all live":
		childSmallPuts(t, none)
	}
	t.Log("child is done")
}

// childDeleted fills a store up to the limit, deletes about nine tenths and compacts: nearly all
// that is dead comes back, and is there for new memories.
func childDeleted(t *testing.T, drop func(i int) bool) {
	const size = 4000
	opts, more, fresh := &Options{Maintenance: MaintenanceOptions{Disabled: true}}, uint64(500<<20), 50_000
	if _, ok := askedDuration(t); !ok {
		opts.SegmentSize, more, fresh = 8<<20, 125<<20, 12_500
	}
	s, err := Open("", opts)
	require.NoError(t, err)
	limitAddressSpace(t, more)
	n := 0
	for ; err == nil; n++ {
		err = s.Put(idOf(n), contentOf(n, 0, size))
	}
	n--
	require.ErrorIs(t, err, ErrNoSpace)
	require.Greater(t, n, 3*fresh/2)
	before := s.Stats()
	deleteWhere(t, s, 0, n, drop)
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	st := s.Stats()
	t.Logf("%d memories; %d MiB mapped, then %d MiB with %d MiB live and %d MiB dead", n,
		before.MappedBytes>>20, st.MappedBytes>>20, st.LiveBytes>>20, st.DeadBytes>>20)
	require.LessOrEqual(t, st.DeadBytes, before.TotalBytes/20)
	require.LessOrEqual(t, st.MappedBytes-st.IndexBytes,
		st.LiveBytes+int64((len(s.lanes)+2)*s.opts.SegmentSize))
	fill(t, s, n, n+fresh, size)
	requireContents(t, s, 0, n, size, func(i int) bool { return !drop(i) })
	requireContents(t, s, n, n+fresh, size, all)
	requireIntact(t, s)
	require.NoError(t, s.Close())
	require.Zero(t, s.mapper.bytes.Load())
}

// childSmallPuts stores memories of a byte where lanes have room for them and the process has none for a
// segment, before and after compactions.
func childSmallPuts(t *testing.T, drop func(i int) bool) {
	const n, size = 2000, 60_000
	s, err := Open("", &Options{Maintenance: MaintenanceOptions{Disabled: true}})
	require.NoError(t, err)
	fill(t, s, 0, n, size)
	deleteWhere(t, s, 0, n, drop)
	limitAddressSpace(t, 8<<20)
	for round := range 4 {
		for i := range 100 {
			require.NoError(t, s.Put(fmt.Sprintf("small %d, %d", round, i), []byte("x")))
		}
		cs, err := s.Compact(context.Background())
		t.Logf("compaction %d gave back %d MiB: %v", round, cs.BytesReclaimed>>20, err)
	}
	requireContents(t, s, 0, n, size, func(i int) bool { return !drop(i) })
	requireIntact(t, s)
	require.Equal(t, 400+countKept(n, drop), s.Len())
	require.NoError(t, s.Close())
}
