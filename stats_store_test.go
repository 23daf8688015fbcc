package warmtier

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: Stats says which store it is of, since when, and that it is closed.
func TestStats_Store(t *testing.T) {
	dir := t.TempDir()
	before := time.Now()
	s, err := Open(dir, nil)
	require.NoError(t, err)
	st := s.Stats()
	require.Equal(t, dir, st.Directory)
	require.False(t, st.Opened.Before(before) || st.Opened.After(time.Now()), "%v", st.Opened)
	require.False(t, st.Closed)
	require.NoError(t, st.Sync.Failure)
	require.NoError(t, s.Close())
	require.True(t, s.Stats().Closed)
	require.Empty(t, openTest(t, nil, hooks{}).Stats().Directory)
}

// Goal: the failure that ends writing is in Stats, as every later write returns it.
func TestStats_SyncFailure(t *testing.T) {
	s := openTest(t, nil, hooks{})
	_ = s.fail(errors.New("the disk is gone"))
	require.ErrorIs(t, s.Stats().Sync.Failure, ErrSyncFailed)
	require.ErrorContains(t, s.Stats().Sync.Failure, "the disk is gone")
}

// Goal: Space says what memory and disk have left, and says that it does not know where nothing tells.
func TestSpace(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems do not say")
	}
	dir := t.TempDir()
	s, err := Open(dir, nil)
	require.NoError(t, err)
	left := s.Space()
	require.Positive(t, left.Memory)
	require.Positive(t, left.Disk)
	require.NoError(t, s.Close())
	require.NoError(t, os.RemoveAll(dir))
	require.Negative(t, s.Space().Disk, "the directory is gone")
	require.Negative(t, openTest(t, nil, hooks{}).Space().Disk, "in memory")

	unknown := openTest(t, nil, hooks{available: func() (int64, bool) { return 0, false }})
	require.Negative(t, unknown.Space().Memory)
}
