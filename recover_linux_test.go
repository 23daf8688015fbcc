//go:build linux && !race

package warmtier

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// A page written anew is dirty for the kernel, though no byte of it changed.
func TestRecover_RewriteDirtiesPages(t *testing.T) {
	files := &osFileSystem{dir: t.TempDir()}
	file, err := files.create("file", 8*pageSize)
	require.NoError(t, err)
	defer func() { require.NoError(t, file.close()) }()
	for i := range file.bytes() {
		file.bytes()[i] = byte(i)
	}
	require.NoError(t, file.sync(0, 8*pageSize))
	if n := dirtyBytes(t, file.bytes()); n > 0 {
		t.Skipf("%d bytes dirty after a sync: this file system tells nothing", n)
	}
	file.rewrite(pageSize-1, 3*pageSize+1)
	require.GreaterOrEqual(t, dirtyBytes(t, file.bytes()), 4*pageSize) // more where pages come in folios
	require.NoError(t, file.sync(0, 8*pageSize))
	require.Zero(t, dirtyBytes(t, file.bytes()))
}

// dirtyBytes is how much of the mapping that begins at mem is dirty, as /proc/self/smaps has it.
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
