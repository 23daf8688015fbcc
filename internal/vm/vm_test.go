package vm

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: memory comes zeroed, keeps what is written, and is zeroed again by Discard where that gives it
// back.
func TestMap_Discard(t *testing.T) {
	mem, err := Map(4 * PageSize)
	require.NoError(t, err)
	require.Len(t, mem, 4*PageSize)
	Touch(mem)
	for i := range mem {
		require.Zero(t, mem[i])
		mem[i] = 1
	}
	require.NoError(t, Discard(mem[PageSize:2*PageSize]))
	require.NoError(t, Discard(nil))
	require.EqualValues(t, 1, mem[0])
	require.EqualValues(t, 1, mem[2*PageSize])
	if runtime.GOOS == "linux" && !OnHeap {
		require.Zero(t, mem[PageSize])
	}
	require.NoError(t, Unmap(mem))
}

// Goal: more memory than there is addresses for is an error, not a panic.
func TestMap_TooMuch(t *testing.T) {
	if OnHeap {
		t.Skip("the Go heap ends the process when it cannot grow")
	}
	_, err := Map(math.MaxInt &^ (PageSize - 1))
	require.Error(t, err)
}

// Goal: bytes written to a mapping are in the file after Sync.
func TestMapping_Sync(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files are not mapped on Windows")
	}
	path := filepath.Join(t.TempDir(), "a")
	size := 5 * PageSize
	require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	m, err := MapFile(f, size, true)
	require.NoError(t, err)
	for page := range 5 {
		m.Bytes()[page*PageSize] = 7
	}
	m.Rewrite(0, PageSize)
	last := size - 1
	if OnHeap { // it writes bytes, not pages
		last = size - PageSize
	}
	want := []byte{0, 0, 0, 0, 0}
	for _, sync := range []struct {
		head, tail int
		asked      []int // pages
	}{
		{0, size, nil},
		{1, size, []int{0}},
		{0, last, []int{4}},
		{PageSize + 1, size - PageSize, []int{0, 1, 4}},
		{size, size, []int{0, 1, 2, 3, 4}},
	} {
		require.NoError(t, m.Sync(sync.head, sync.tail))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, page := range sync.asked {
			want[page] = 7
			require.EqualValues(t, 7, b[page*PageSize], "page %d", page)
		}
		for page := range want {
			if OnHeap && want[page] == 0 { // others may be writing there
				require.Zero(t, b[page*PageSize], "page %d", page)
			}
		}
	}
	require.NoError(t, m.Close())
}
