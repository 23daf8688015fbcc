package dir

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A process that is alive and noted in the file holds nothing unless the kernel says so.
func TestLockHolder(t *testing.T) {
	path := t.TempDir()
	d := at(t, path)
	self := strconv.Itoa(os.Getpid())
	require.Empty(t, lockHolder(d.dir, self), "nobody")
	held := at(t, path)
	require.NoError(t, held.Lock(lockName, true))
	require.Equal(t, self, lockHolder(d.dir, "1"), "a reader")
	require.NoError(t, held.Close())
	require.Empty(t, lockHolder(d.dir, self), "nobody any more")
	require.NoError(t, d.Close())
	require.Equal(t, path, (&LockedError{Path: path}).Error())
	require.Equal(t, path+", held by process 7", (&LockedError{Path: path, Holder: "7"}).Error())
}

// What is written is in the mapping, wherever a system call ends early: here at the size of files that the process may
// have, beyond which the rest is stored. The mapping shows the same bytes as the file.
func TestFile_WriteAt(t *testing.T) {
	d := at(t, t.TempDir())
	f, err := d.Create("f", 64<<10)
	require.NoError(t, err)
	if !f.Writes() {
		t.Skip("files of this file system are not written to with system calls")
	}
	want := make([]byte, 64<<10)
	write := func(offset, first, then int) {
		t.Helper()
		b := bytes.Repeat([]byte{byte(offset%251 + 1)}, first+then)
		copy(want[offset:], b)
		require.NoError(t, f.WriteAt(offset, b[:first], b[first:]))
		require.True(t, bytes.Equal(want, f.Bytes()))
	}
	write(1, 100, 10_000)
	write(12_000, 5000, 0)

	var before unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &before))
	for _, limit := range []uint64{20_050, 21_000, 10_000} { // in the first part, in the second, before both
		limited := before
		limited.Cur = limit
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limited))
		write(20_000, 100, 10_000)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &before))
		clear(f.Bytes()[20_000:])
		clear(want[20_000:])
	}
	inFile, err := os.ReadFile(filepath.Join(d.path, "f"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, inFile))
	f.EndWrites()
	require.False(t, f.Writes())
	require.NoError(t, f.Close())
	require.NoError(t, d.Close())
}
