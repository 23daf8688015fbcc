//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

func TestDirectory_SecondOpenIsLocked(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quiet())
	require.NoError(t, s.Put("a", []byte("1")))
	for range 2 {
		for _, opts := range []Options{{}, {ReadOnly: true}, {Repair: true}} {
			_, err := Open(dir, &opts)
			require.ErrorIs(t, err, ErrLocked)
			if runtime.GOOS == "linux" {
				require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))
			}
		}
	}
	out, err := runDirectoryChild(t, "expect locked", dir, false)
	require.NoError(t, err, out)
	closeIntact(t, s)
	require.FileExists(t, filepath.Join(dir, layout.LockName))

	// Readers share a directory, and keep writers out.
	first := openDir(t, dir, &Options{ReadOnly: true})
	second := openDir(t, dir, &Options{ReadOnly: true})
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, first.Close())
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, second.Close())
	closeIntact(t, openDir(t, dir, quiet()))
}

// The number in LOCK is that of the last writer, which may have ended, and whose number may be another process's
// by now. ErrLocked names a process that holds the directory, or none.
func TestDirectory_LockedNamesTheHolder(t *testing.T) {
	if _, err := os.Stat("/proc/locks"); err != nil {
		t.Skip("the system does not list locks: ", err)
	}
	dir := fastDir(t)
	closeIntact(t, openDir(t, dir, quiet()))
	alive := os.Getppid()
	for _, last := range []int{alive, 1 << 30} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, layout.LockName), fmt.Appendf(nil, "%-19d\n", last), 0o600))
		reader := openDir(t, dir, &Options{ReadOnly: true})
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))
		require.NotContains(t, err.Error(), fmt.Sprintf("process %d", last))
		require.NoError(t, reader.Close())
	}
}

// Goal: kill -9 frees the lock. The file stays, because another opener would lock a new file of its
// name.
func TestDirectory_LockFreedByKill(t *testing.T) {
	skipKillsUnderRace(t)
	r := newCrashRun(t, fastDir(t), 1, 1)
	c := r.c
	c.Next = []int{0}
	result := r.run(t, c, func(opened <-chan struct{}, kill func()) {
		<-opened
		_, err := Open(c.Dir, nil)
		if !errors.Is(err, ErrLocked) {
			t.Errorf("opened beside a running child: %v", err)
		}
		kill()
	})
	require.True(t, result.killed)
	before, err := os.Stat(filepath.Join(c.Dir, layout.LockName))
	require.NoError(t, err)
	for range 3 {
		s := openDir(t, c.Dir, quiet())
		require.NoError(t, s.Close())
		after, err := os.Stat(filepath.Join(c.Dir, layout.LockName))
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after), "the lock file was replaced")
	}
}

// Goal: OpenWait returns when the directory is free, or says why it is not when its context ends.
func TestOpenWait(t *testing.T) {
	dir := fastDir(t)
	holder := openDir(t, dir, quiet())
	ended, cancel := context.WithCancelCause(t.Context())
	shutdown := errors.New("shutting down")
	cancel(shutdown)
	synctest.Test(t, func(t *testing.T) {
		deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := OpenWait(deadline, dir, quietly())
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		opened := make(chan error)
		var s *Store
		ctx, cancelWithCause := context.WithCancelCause(t.Context())
		wait := func() {
			var err error
			s, err = OpenWait(ctx, dir, quietly())
			opened <- err
		}
		go wait()
		synctest.Wait() // it has been refused
		cancelWithCause(shutdown)
		err = <-opened
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, shutdown)

		ctx = t.Context()
		go wait()
		synctest.Wait()
		require.NoError(t, holder.Close())
		require.NoError(t, <-opened)
		require.NoError(t, s.Put("a", nil))
		require.NoError(t, s.Close())
	})
	_, err := OpenWait(ended, dir, quiet())
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, shutdown)
	require.NotErrorIs(t, err, ErrLocked)
	_, err = OpenWait(t.Context(), dir, &Options{SegmentSize: -1})
	require.ErrorIs(t, err, ErrInvalidOptions, "no reason to wait")
	require.PanicsWithValue(t, "warmtier: nil context", func() {
		var none context.Context
		_, _ = OpenWait(none, dir, nil)
	})
}
