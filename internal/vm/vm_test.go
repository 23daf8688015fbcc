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
	require.NoError(t, os.WriteFile(path, make([]byte, 3*PageSize), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	m, err := MapFile(f, 3*PageSize, true)
	require.NoError(t, err)
	m.Bytes()[PageSize] = 7
	m.Rewrite(0, PageSize)
	require.NoError(t, m.Sync(PageSize, PageSize+1))
	require.NoError(t, m.Sync(5, 5))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.EqualValues(t, 7, b[PageSize])
	require.NoError(t, m.Close())
}
