package dir

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
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
