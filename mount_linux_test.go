package warmtier

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

/*
Goal: what the shadow says of mounts and copies is true of a file system. Method: images of ext4 on loop
devices, where the test may mount them.
*/

// loopFS is a file system in a file, mounted.
type loopFS struct {
	t     *testing.T
	image string
	at    string // where it is mounted
}

func newLoopFS(t *testing.T) *loopFS { return newLoopFSOf(t, 64<<20, "mkfs.ext4", "-q", "-m", "0") }

// newLoopFSOf mounts a file system of so many bytes that the command makes.
func newLoopFSOf(t *testing.T, size int64, command ...string) *loopFS {
	if os.Getuid() != 0 {
		t.Skip("only root mounts file systems")
	}
	l := &loopFS{t: t, image: filepath.Join(t.TempDir(), "image")}
	require.NoError(t, os.WriteFile(l.image, nil, 0o600))
	require.NoError(t, os.Truncate(l.image, size))
	if out, err := exec.Command(command[0], append(command[1:], l.image)...).CombinedOutput(); err != nil {
		t.Skipf("the file system cannot be made: %v %s", err, out)
	}
	l.mount()
	return l
}

func (l *loopFS) mount() {
	l.t.Helper()
	l.at = l.t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", l.image, l.at).CombinedOutput(); err != nil {
		l.t.Skipf("no loop device can be mounted: %v %s", err, out)
	}
	at := l.at
	l.t.Cleanup(func() { _ = exec.Command("umount", "-l", at).Run() }) // it may be unmounted already
}

func (l *loopFS) run(name string, args ...string) {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(l.t, err, "%s", out)
}

// remount shuts the file system down as an error of the device does, and mounts it again.
func (l *loopFS) remount(end func()) {
	l.t.Helper()
	f, err := os.Open(l.at)
	require.NoError(l.t, err)
	const shutdown, noLogFlush = 0x8004587d, uint32(2)
	flags := noLogFlush
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		l.t.Skip("the file system cannot be shut down:", errno)
	}
	require.NoError(l.t, f.Close())
	end()
	l.run("umount", l.at)
	l.mount()
}

// afterPowerLoss returns the file system as it is on the device at this moment.
func (l *loopFS) afterPowerLoss() *loopFS {
	l.t.Helper()
	lost := &loopFS{t: l.t, image: filepath.Join(l.t.TempDir(), "image")}
	l.run("cp", l.image, lost.image)
	lost.mount()
	return lost
}

func TestMount_ShutDownAndMountedAgain(t *testing.T) {
	if raceEnabled {
		t.Skip("heap segments hold files open that cannot be written")
	}
	for n := range 3 {
		l := newLoopFS(t)
		s := openDir(t, filepath.Join(l.at, "store"), quietly())
		fill(t, s, 0, 500, 600)
		deleteWhere(t, s, 0, 100, odd)
		require.NoError(t, s.Sync())
		fill(t, s, 500, 700+300*n, 600)
		l.remount(func() {
			require.ErrorIs(t, s.Sync(), ErrSyncFailed)
			require.ErrorIs(t, s.Close(), ErrSyncFailed)
		})
		for _, readOnly := range []bool{true, false} {
			opts := quietly()
			opts.ReadOnly = readOnly
			s = openDir(t, filepath.Join(l.at, "store"), opts)
			requireContents(t, s, 0, 100, 600, func(i int) bool { return !odd(i) })
			requireContents(t, s, 100, 500, 600, all)
			closeIntact(t, s)
		}
	}
}

func TestMount_RestoredIsDurable(t *testing.T) {
	src := fastDir(t)
	s := openDir(t, src, quietly())
	fill(t, s, 0, 500, 1000)
	require.NoError(t, s.Close())
	l := newLoopFS(t)
	l.run("cp", "-a", src, filepath.Join(l.at, "store"))
	s = openDir(t, filepath.Join(l.at, "store"), quietly())
	require.True(t, s.Stats().Recovery.Clean)
	require.NoError(t, s.Put("new", nil))
	require.NoError(t, s.Sync())
	require.NoError(t, s.Close())
	s = openDir(t, filepath.Join(l.afterPowerLoss().at, "store"), quietly())
	requireContents(t, s, 0, 500, 1000, all)
	require.Equal(t, 501, s.Len())
	closeIntact(t, s)
}

// Goal: a copy of a directory that is in use is refused, by whatever it was copied, and one of a store that was closed
// is the store.
func TestMount_CopiesByTools(t *testing.T) {
	for _, tool := range []string{"cp -a %s %s", "mkdir %[2]s && tar -C %[1]s -c . | tar -C %[2]s -x", "rsync -a %s/ %s"} {
		t.Run(tool[:2], func(t *testing.T) {
			base := t.TempDir()
			from := filepath.Join(base, "store")
			copyTo := func(name string) string {
				to := filepath.Join(base, name)
				line := fmt.Sprintf(tool, from, to)
				if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
					t.Skipf("%s: %v %s", line, err, out)
				}
				return to
			}
			s := openDir(t, from, quietly())
			fill(t, s, 0, 100, 300)
			require.NoError(t, s.Sync())
			to := copyTo("used")
			closeIntact(t, s)
			for _, readOnly := range []bool{true, false} {
				opts := quietly()
				opts.ReadOnly = readOnly
				_, err := Open(to, opts)
				require.ErrorIs(t, err, ErrCopied)
				opts.AfterPowerLoss = true
				s, err = Open(to, opts)
				require.NoError(t, err, "nobody wrote while it was copied")
				requireContents(t, s, 0, 100, 300, all)
				closeIntact(t, s)
			}
			s = openDir(t, copyTo("closed"), quietly())
			require.True(t, s.Stats().Recovery.Clean)
			requireContents(t, s, 0, 100, 300, all)
			closeIntact(t, s)
		})
	}
}

// Goal: what was reserved takes large contents on a full file system, written with system calls.
func TestMount_WrittenWhenFull(t *testing.T) {
	const size, segment = 20_000, 1 << 20
	for name, make := range map[string]func(t *testing.T) *loopFS{
		"ext4": newLoopFS,
		"ext4 with small blocks": func(t *testing.T) *loopFS {
			return newLoopFSOf(t, 64<<20, "mkfs.ext4", "-q", "-m", "0", "-b", "1024")
		},
		"xfs": func(t *testing.T) *loopFS { return newLoopFSOf(t, 320<<20, "mkfs.xfs", "-q") },
	} {
		t.Run(name, func(t *testing.T) {
			l := make(t)
			at := filepath.Join(l.at, "store")
			h := hooks{hash: oneLane, share: func(int64) int64 { return segment }}
			opts := quietly()
			opts.SegmentSize = segment
			s, err := open(at, opts, h)
			require.NoError(t, err)
			require.NoError(t, s.Put(idOf(0), contentOf(0, 0, size)))
			require.NoError(t, s.Sync())
			require.True(t, s.lanes[0].active.file.Writes())
			free := fillFileSystem(t, l.at)
			n := 1
			for ; err == nil; n++ {
				err = s.Put(idOf(n), contentOf(n, 0, size))
			}
			require.ErrorIs(t, err, ErrNoSpace)
			n-- // the one that found no room
			require.Greater(t, n, segment*9/10/size)
			require.NoError(t, s.Sync())
			requireContents(t, s, 0, n, size, all)
			deleteWhere(t, s, 0, n, odd)
			// Copies to reserved space are no fault. xfs has no space for names then, which is an error of the round.
			if _, err := s.Compact(t.Context()); err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
			}
			requireContents(t, s, 0, n, size, func(i int) bool { return !odd(i) })
			free()
			closeIntact(t, s)
			s, err = open(at, opts, h)
			require.NoError(t, err)
			requireContents(t, s, 0, n, size, func(i int) bool { return !odd(i) })
			closeIntact(t, s)
		})
	}
}

// fillFileSystem takes all space of the file system of path, until free.
func fillFileSystem(t *testing.T, path string) (free func()) {
	t.Helper()
	var names []string
	for i, piece := range []int{1 << 20, 64 << 10, 4 << 10, 1 << 10} { // metadata takes what is left of a larger one
		name := filepath.Join(path, fmt.Sprint("full ", i))
		f, err := os.Create(name)
		if err == nil {
			for b := make([]byte, piece); err == nil; {
				if _, err = f.Write(b); err == nil {
					err = f.Sync()
				}
			}
			_ = f.Close() // its error is that of the last write
			names = append(names, name)
		}
		require.ErrorIs(t, err, unix.ENOSPC)
	}
	return func() {
		for _, name := range names {
			require.NoError(t, os.Remove(name))
		}
	}
}
