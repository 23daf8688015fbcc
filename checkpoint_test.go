//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// checkpointed returns a store in a directory with every kind of record in it, what it holds, and the path for a
// checkpoint beside it.
func checkpointed(t *testing.T, h hooks) (s *Store, dir, to string, want map[string][]byte) {
	t.Helper()
	root := fastDir(t)
	dir, to = filepath.Join(root, "store"), filepath.Join(root, "backups", "today")
	opts := quietly()
	opts.SegmentSize = minSegmentSize
	h.share = doublingSegments
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	fill(t, s, 0, 100, 2000)
	require.NoError(t, s.Sync())
	for i := range 30 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 1, 1000)))
	}
	deleteWhere(t, s, 30, 60, odd)
	mustCompact(t, s)
	deleteWhere(t, s, 60, 70, all)
	require.NoError(t, s.PutTTL("expires", contentOf(0, 0, 100), time.Hour))
	require.NoError(t, s.Put("large", make([]byte, 100_000)))
	var b Batch
	b.Put("batch 1", contentOf(1, 0, 300))
	b.Delete(idOf(99))
	require.NoError(t, s.Apply(&b))
	return s, dir, to, contentsOf(t, s)
}

// filesOf returns the segment files of a directory, by the numbers of their inodes, with their bytes.
func filesOf(t testing.TB, dir string) map[uint64]string {
	t.Helper()
	files := map[uint64]string{}
	for _, name := range segmentFiles(t, dir) {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		files[statOf(t, path).Ino] = string(b)
	}
	return files
}

func statOf(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Stat(path)
	require.NoError(t, err)
	st, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	return st
}

// requireNotRewritten checks that those of files that are still in one of dirs have the same bytes.
func requireNotRewritten(t testing.TB, files map[uint64]string, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		for inode, b := range filesOf(t, dir) {
			if was, ok := files[inode]; ok && was != b {
				require.Failf(t, "a file with two names has other bytes", "inode %d in %s", inode, dir)
			}
		}
	}
}

// Goal: a checkpoint is the store at a moment, opens as a store of its own, and both go on. Files that both have are
// not written to by either.
func TestCheckpoint(t *testing.T) {
	s, dir, to, want := checkpointed(t, hooks{})
	versions := map[string]Version{}
	for id := range want {
		_, v, err := s.GetVersion(id)
		require.NoError(t, err)
		versions[id] = v
	}
	require.NoError(t, s.Checkpoint(context.Background(), to))
	files := filesOf(t, to)
	require.NotEmpty(t, files)
	require.NotContains(t, snapshot(t, to), layout.ManifestTempName)

	// The store goes on, and then the copy does.
	churn := func(s *Store) {
		for i := range 40 {
			require.NoError(t, s.Put(idOf(i), contentOf(i, 7, 700)))
		}
		deleteWhere(t, s, 70, 90, odd)
		mustCompact(t, s)
		require.NoError(t, s.Put("later", nil))
	}
	churn(s)
	requireIntact(t, s)
	now := contentsOf(t, s)
	copied := openDir(t, to, quietly())
	require.False(t, copied.Stats().Recovery.Clean)
	requireSame(t, copied, want)
	for id, v := range versions {
		_, got, err := copied.GetVersion(id)
		require.NoError(t, err)
		require.Equal(t, v, got)
	}
	deadline, err := copied.Expiry("expires")
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Hour), deadline, time.Minute)
	churn(copied)
	requireSame(t, s, now)
	closeIntact(t, copied)
	closeIntact(t, s)
	requireNotRewritten(t, files, dir, to)
	requireNoStrays(t, dir)
	requireNoStrays(t, to)
	s = openDir(t, dir, quietly())
	requireSame(t, s, now)
	closeIntact(t, s)
}

// Goal: a checkpoint of a checkpoint, of a store that was moved, of one with SyncWrites, and of one with no memories.
func TestCheckpoint_OfAnyStore(t *testing.T) {
	ctx := context.Background()
	s, dir, to, want := checkpointed(t, hooks{})
	require.NoError(t, os.Rename(dir, dir+" moved"))
	require.NoError(t, s.Checkpoint(ctx, to))
	require.NoError(t, s.Close())
	opts := quietly()
	opts.SyncWrites = true
	s = openDir(t, to, opts)
	require.NoError(t, s.Checkpoint(ctx, to+"2"))
	require.NoError(t, s.Put("more", nil))
	require.NoError(t, s.Checkpoint(ctx, to+"3"))
	requireSame(t, s, contentsOf(t, s))
	closeIntact(t, s)
	s = openDir(t, to+"2", quietly())
	requireSame(t, s, want)
	closeIntact(t, s)
	s = openDir(t, to+"3", quietly())
	require.True(t, s.Has("more"))
	require.NoError(t, s.Clear())
	require.NoError(t, s.Checkpoint(ctx, to+"4"))
	closeIntact(t, s)
	s = openDir(t, to+"4", quietly())
	require.Zero(t, s.Len())
	closeIntact(t, s)
}

// Goal: what cannot be done is an error that says so, leaves no trace, and the store as it was.
func TestCheckpoint_Errors(t *testing.T) {
	ctx := context.Background()
	s, dir, to, want := checkpointed(t, hooks{})
	root := filepath.Dir(filepath.Dir(to))
	used := filepath.Join(root, "used")
	require.NoError(t, os.Mkdir(used, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(used, "file"), nil, 0o600))
	other := openDir(t, filepath.Join(root, "other"), quietly())
	ended, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("enough"))
	before := snapshot(t, dir)
	for name, test := range map[string]struct {
		ctx  context.Context
		to   string
		want error
		text string
	}{
		"not empty":        {ctx, used, fs.ErrExist, "not empty, it has file"},
		"a file":           {ctx, filepath.Join(used, "file"), syscall.ENOTDIR, "file"},
		"another store's":  {ctx, filepath.Join(root, "other"), fs.ErrExist, "not empty"},
		"its own":          {ctx, dir, fs.ErrExist, "not empty"},
		"no name":          {ctx, "", fs.ErrInvalid, "no directory is named"},
		"below a file":     {ctx, filepath.Join(used, "file", "x"), syscall.ENOTDIR, ""},
		"cancelled before": {ended, to, context.Canceled, "enough"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Checkpoint(test.ctx, test.to)
			require.ErrorIs(t, err, test.want)
			require.ErrorContains(t, err, test.text)
			require.ErrorContains(t, err, "warmtier: checkpoint "+test.to+": ")
			require.NoDirExists(t, filepath.Dir(to))
			require.Equal(t, before, snapshot(t, dir))
		})
	}
	require.Len(t, snapshot(t, used), 1)
	require.NoError(t, other.Close())
	require.PanicsWithValue(t, "warmtier: nil context", func() {
		var none context.Context
		_ = s.Checkpoint(none, to)
	})
	requireSame(t, s, want)
	closeIntact(t, s)
	require.ErrorIs(t, s.Checkpoint(ctx, to), ErrClosed)

	reader := openDir(t, dir, &Options{ReadOnly: true})
	require.ErrorIs(t, reader.Checkpoint(ctx, to), ErrReadOnly)
	require.NoError(t, reader.Close())
	memory := openTest(t, nil, hooks{})
	require.ErrorIs(t, memory.Checkpoint(ctx, to), errors.ErrUnsupported)
	require.NoDirExists(t, filepath.Dir(to))
}

// Goal: a directory on another file system is refused with advice, and nothing of it stays.
func TestCheckpoint_OtherFileSystem(t *testing.T) {
	s, dir, _, want := checkpointed(t, hooks{})
	elsewhere := t.TempDir()
	if statOf(t, dir).Dev == statOf(t, elsewhere).Dev {
		t.Skip("one file system")
	}
	err := s.Checkpoint(context.Background(), filepath.Join(elsewhere, "a", "b"))
	require.ErrorIs(t, err, syscall.EXDEV)
	require.ErrorContains(t, err, "from where it can be copied")
	require.Empty(t, snapshot(t, elsewhere))
	requireSame(t, s, want)
	closeIntact(t, s)
}

// Goal: with a write a checkpoint has all that had returned before that one began, in whatever lanes.
//
// The interleaving that would break it: lanes are sealed one after the other; x goes to one that is sealed already,
// then y to one that is not. Method: x and y are put, one after the other, when the first lane is locked.
func TestCheckpoint_IsOneMoment(t *testing.T) {
	var at latePoints
	s, _, to, _ := checkpointed(t, hooks{at: at.hook})
	require.GreaterOrEqual(t, len(s.lanes), 2)
	once, written := false, make(chan error, 1)
	ids := idsOfLanes(s)
	require.NoError(t, s.Put(ids[0], []byte("old")))
	require.NoError(t, s.Put(ids[1], []byte("old")))
	at.set(func(p point) error {
		if p == pointCheckpointLocked && !once {
			once = true
			go func() {
				written <- errors.Join(s.Put(ids[0], []byte("new")), s.Put(ids[1], []byte("new")))
			}()
			require.True(t, stays(func() bool { return len(written) == 0 }))
		}
		return nil
	})
	require.NoError(t, s.Checkpoint(context.Background(), to))
	require.NoError(t, <-written)
	closeIntact(t, s)
	s = openDir(t, to, quietly())
	for _, id := range ids[:2] {
		content, err := s.Get(id)
		require.NoError(t, err)
		require.Equal(t, "old", string(content), "written after the first lane was locked")
	}
	closeIntact(t, s)
}

// idsOfLanes returns an id of each lane.
func idsOfLanes(s *Store) []string {
	ids := make([]string, len(s.lanes))
	for i, found := 0, 0; found < len(ids); i++ {
		id := fmt.Sprintf("lane %d", i)
		sh, _ := s.place(id)
		for n := range s.lanes {
			if sh.lane == &s.lanes[n] && ids[n] == "" {
				ids[n] = id
				found++
			}
		}
	}
	return ids
}
