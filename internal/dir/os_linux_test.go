package dir

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/vm"
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
	if !vm.OnHeap {
		inFile, err := os.ReadFile(filepath.Join(d.path, "f"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, inFile))
	}

	usual := pwritev
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} { // of a sandbox
		pwritev = func(int, [][]byte, int64) (int, error) { return -1, errno }
		write(30_000, 100, 10_000)
	}
	pwritev = usual
	require.NoError(t, f.BeginSync(0, 32<<10))
	write(3, 100, 20_000) // while the disk has it
	f.EndWrites()
	require.False(t, f.Writes())
	require.NoError(t, f.Close())
	require.NoError(t, d.Close())
}

// A file that was made has its space, and nothing in it: a spare that was written to would have to be written anew by
// who takes it, for which a full file system that copies on writing has no space.
func TestCreate_WritesNothing(t *testing.T) {
	if vm.OnHeap {
		t.Skip("files are read onto the heap, and so into the page cache")
	}
	d := at(t, t.TempDir())
	file, err := d.Create("f", 64<<10)
	require.NoError(t, err)
	f, err := os.Open(filepath.Join(d.path, "f"))
	require.NoError(t, err)
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	require.ErrorIs(t, err, unix.ENXIO)
	require.NoError(t, f.Close())
	file.PrepareEnds()
	require.NoError(t, file.Close())
	require.NoError(t, d.Close())
}

// What would break: each of any number of files that are being written takes a descriptor from the process.
func TestCreate_DescriptorsAreBounded(t *testing.T) {
	d := at(t, t.TempDir())
	files := make([]File, maxKept+2)
	for i := range files {
		f, err := d.Create(strconv.Itoa(i), 4<<10)
		require.NoError(t, err)
		files[i] = f
	}
	if vm.OnHeap || !files[0].Writes() {
		t.Skip("files are not written to with system calls here")
	}
	for i, f := range files {
		require.Equal(t, i < maxKept, f.Writes())
	}
	files[0].EndWrites()
	require.NoError(t, files[1].Close())
	for i := range 3 {
		f, err := d.Create("further"+strconv.Itoa(i), 4<<10)
		require.NoError(t, err)
		require.Equal(t, i < 2, f.Writes())
		files = append(files, f)
	}
	for i, f := range files {
		if i != 1 {
			require.NoError(t, f.Close())
		}
	}
	require.Zero(t, d.kept.Load())

	next, err := unix.Dup(0) // the lowest that is free
	require.NoError(t, err)
	require.NoError(t, unix.Close(next))
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	last := limit
	last.Cur = uint64(next) + 1
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &last))
	f, err := d.Create("last", 4<<10)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	require.NoError(t, err)
	require.False(t, f.Writes())
	require.NoError(t, f.Close())
	require.Zero(t, d.kept.Load())
	require.NoError(t, d.Close())
}
