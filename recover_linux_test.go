//go:build linux && !race

package warmtier

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: nothing of a record whose writing ended with a fault stays in the file, wherever the fault
// was.
//
// What would break: a body is written in part, because a page cannot be written for a moment; a
// shorter record is acknowledged in its place, and the process is killed. Recovery finds bytes
// after the last record. Or a system call writes the body, and a store that follows is a fault: the body stays,
// where a store cannot clear it, or a number was drawn for a record that is not there.
func TestRecover_FaultInUnfinishedRecord(t *testing.T) {
	long := strings.Repeat("i", 200)
	big := func(s *Store) error { return s.Put("big", bytes.Repeat([]byte{0xff}, 2*vm.PageSize)) }
	for name, c := range map[string]struct {
		page    func(mem []byte) []byte // returns the pages that cannot be accessed as usual
		access  int                     // to these
		written int                     // as in hooks
		tail    int                     // where the record begins, 0: behind the first one
		call    func(s *Store) error
	}{
		"stored body": {
			func(mem []byte) []byte { return mem[vm.PageSize : 2*vm.PageSize] },
			unix.PROT_NONE, math.MaxInt, 0, big,
		},
		"digest of a tombstone": {
			func(mem []byte) []byte { return mem[len(mem)-vm.PageSize:] },
			unix.PROT_NONE, 0, 0, func(s *Store) error { _, err := s.Delete(long); return err },
		},
		"header of a stored body": { // its page was written back since
			func(mem []byte) []byte { return mem[:vm.PageSize] }, unix.PROT_READ, math.MaxInt,
			vm.PageSize - record.HeaderSize, big,
		},
		"headers of a batch": {
			func(mem []byte) []byte { return mem[:vm.PageSize] }, unix.PROT_READ, 0, vm.PageSize - 2*record.HeaderSize,
			func(s *Store) error {
				var b Batch
				b.Put("big", bytes.Repeat([]byte{0xff}, 2*vm.PageSize))
				return s.Apply(&b)
			},
		},
		"header of a written body": {func(mem []byte) []byte { return mem[:vm.PageSize] }, unix.PROT_READ, 1, 0, big},
		"digest of a written body, and clearing it": {
			func(mem []byte) []byte { return mem[vm.PageSize:] }, unix.PROT_READ, 1, 0, big,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, killed := fastDir(t), fastDir(t)
			s, err := open(dir, quietly(), hooks{hash: oneTag, written: c.written})
			require.NoError(t, err)
			require.NoError(t, s.Put(long, nil))
			sh, _ := s.place(long)
			want := 2
			if c.tail > 0 {
				rest := c.tail - int(sh.lane.active.tail.Load())
				require.NoError(t, s.Put("filler", make([]byte, rest-record.HeaderSize-len("filler"))))
				require.EqualValues(t, c.tail, sh.lane.active.tail.Load())
				want++
			}
			page := c.page(sh.lane.active.mem)
			require.NoError(t, unix.Mprotect(page, c.access))
			require.ErrorIs(t, c.call(s), ErrCorrupt)
			require.NoError(t, unix.Mprotect(page, unix.PROT_READ|unix.PROT_WRITE))
			require.NoError(t, s.Put("x", make([]byte, 24))) // a header behind it would lie in the body
			copyDir(t, dir, killed)
			require.NoError(t, s.Close())

			s = openDir(t, killed, quietly())
			require.Equal(t, want, s.Len())
			closeIntact(t, s)
		})
	}
}

// Goal: rewriting a page makes it dirty for the kernel, even when no byte of it changes.
func TestRecover_RewriteDirtiesPages(t *testing.T) {
	files, err := dir.At(t.TempDir())
	require.NoError(t, err)
	defer func() { require.NoError(t, files.Close()) }()
	file, err := files.Create("file", 8*vm.PageSize)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	for i := range file.Bytes() {
		file.Bytes()[i] = byte(i)
	}
	require.NoError(t, file.Sync(8*vm.PageSize, 8*vm.PageSize))
	if n := dirtyBytes(t, file.Bytes()); n > 0 {
		t.Skipf("%d bytes dirty after a sync: this file system tells nothing", n)
	}
	file.Rewrite(vm.PageSize-1, 3*vm.PageSize+1)
	require.GreaterOrEqual(t, dirtyBytes(t, file.Bytes()), 4*vm.PageSize) // more where pages come in folios
	require.NoError(t, file.Sync(8*vm.PageSize, 8*vm.PageSize))
	require.Zero(t, dirtyBytes(t, file.Bytes()))
}

// dirtyBytes returns how much of the mapping that begins at mem is dirty, according to
// /proc/self/smaps.
func dirtyBytes(t testing.TB, mem []byte) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&mem[0])))
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		var kib int
		switch {
		case strings.HasPrefix(line, start):
			inside = true
		case strings.HasPrefix(line, "VmFlags:"):
			inside = false
		case inside && strings.Contains(line, "_Dirty:"):
			_, err := fmt.Sscanf(line[strings.Index(line, ":")+1:], "%d", &kib)
			require.NoError(t, err)
			n += kib << 10
		}
	}
	return n
}
