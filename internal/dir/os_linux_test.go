package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process that is alive and noted in the file holds nothing unless the kernel says so.
func TestLockHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "LOCK")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "%-19d\n", os.Getpid()), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	require.Empty(t, lockHolder(f), "nobody")
	held, err := Lock(path, true)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(os.Getpid()), lockHolder(f), "a reader")
	require.NoError(t, Unlock(held))
	require.Empty(t, lockHolder(f), "nobody any more")
	require.Equal(t, path, (&LockedError{Path: path}).Error())
	require.Equal(t, path+", held by process 7", (&LockedError{Path: path, Holder: "7"}).Error())
}
