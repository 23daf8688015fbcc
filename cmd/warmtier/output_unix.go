//go:build unix

package main

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives f the owner and the group of old where the system allows it, and returns the mode for f:
// that of old, less what would let in another group than old's.
func keepOwner(f *os.File, old fs.FileInfo) fs.FileMode {
	mode := old.Mode().Perm()
	st, ok := old.Sys().(*syscall.Stat_t)
	if ok && (f.Chown(int(st.Uid), int(st.Gid)) == nil || f.Chown(-1, int(st.Gid)) == nil) {
		return mode
	}
	return mode &^ 0o070
}
