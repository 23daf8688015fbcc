//go:build unix

package warmtier

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: a checkpoint takes no directory that another one has filled or made.
//
// The interleaving: b finds the directory empty, or missing; a makes its checkpoint there, as a whole; b gets the
// lock. It would write over the manifest of a. Where b fails it removes what it has made itself, and nothing else.
func TestCheckpoint_ToThePathOfAnother(t *testing.T) {
	for _, there := range []bool{false, true} {
		root := fastDir(t)
		to := filepath.Join(root, "above", "to")
		if there {
			require.NoError(t, os.MkdirAll(to, 0o755))
		}
		a := openDir(t, filepath.Join(root, "a"), quietly())
		require.NoError(t, a.Put("a", []byte("a")))
		b, err := open(filepath.Join(root, "b"), quietly(), hooks{at: func(p point) error {
			if p == pointCheckpointLooked {
				require.NoError(t, a.Checkpoint(context.Background(), to))
			}
			return nil
		}})
		require.NoError(t, err)
		require.NoError(t, b.Put("b", []byte("b")))
		err = b.Checkpoint(context.Background(), to)
		require.ErrorIs(t, err, fs.ErrExist)
		require.ErrorContains(t, err, "not empty")
		closeIntact(t, a)
		closeIntact(t, b)
		c := openDir(t, to, quietly())
		require.True(t, c.Has("a"), "the finished checkpoint was destroyed")
		require.False(t, c.Has("b"))
		closeIntact(t, c)
	}
}

// Goal: a checkpoint that finds its directory locked leaves it as it is, though it has made it: whoever has the lock
// is about to fill it.
func TestCheckpoint_ToOneThatIsLocked(t *testing.T) {
	root := fastDir(t)
	to := filepath.Join(root, "above", "to")
	s, err := open(filepath.Join(root, "store"), quietly(), hooks{at: func(p point) error {
		if p == pointCheckpointLooked { // as an Open that has not made its lock file yet
			f, err := os.Open(to)
			require.NoError(t, err)
			t.Cleanup(func() { _ = f.Close() })
			require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		}
		return nil
	}})
	require.NoError(t, err)
	require.ErrorIs(t, s.Checkpoint(context.Background(), to), ErrLocked)
	require.DirExists(t, to)
	closeIntact(t, s)
}

// Goal: what a kill leaves before the first manifest is an empty directory with a lock, which takes a checkpoint.
func TestCheckpoint_KilledBeforeItsManifest(t *testing.T) {
	root := fastDir(t)
	to := filepath.Join(root, "to")
	s := openDir(t, filepath.Join(root, "store"), quietly())
	require.NoError(t, s.Put("x", nil))
	d, made, err := s.claimEmpty(to)
	require.NoError(t, err)
	require.Equal(t, []string{to}, made)
	require.NoError(t, d.Close())
	require.Len(t, snapshot(t, to), 1)
	require.Contains(t, snapshot(t, to), layout.LockName)
	require.NoError(t, s.Checkpoint(context.Background(), to))
	closeIntact(t, s)
	c := openDir(t, to, quietly())
	require.True(t, c.Has("x"))
	closeIntact(t, c)
}
