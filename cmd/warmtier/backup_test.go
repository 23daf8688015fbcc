package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a backup is the store of its moment, and stays that; what is there already is not overwritten.
func TestBackup(t *testing.T) {
	root := t.TempDir()
	dir, target := filepath.Join(root, "store"), filepath.Join(root, "checkpoints", "monday")
	fill(t, dir, nasty)
	v := command(t, "", "backup", "--json", "-d", dir, target).exits(exitOK).json()
	require.Equal(t, map[string]any{"memories": float64(len(nasty)), "to": target}, v)
	command(t, "changed", "put", "-d", dir, "plain").exits(exitOK)
	command(t, "", "compact", "-d", dir).exits(exitOK)
	require.Equal(t, nasty, contents(t, target))
	command(t, "", "verify", "-d", target).exits(exitOK)

	before := files(t, target)
	require.Contains(t, command(t, "", "backup", "-d", dir, target).exits(exitUsage).err, "the directory is not empty")
	require.Equal(t, before, files(t, target))
	table := command(t, "", "backup", "-d", dir, target+"2").exits(exitOK).out
	require.Contains(t, table, "memories      8\nbacked up to  "+target+"2\n")
	require.Equal(t, "changed", contents(t, target+"2")["plain"])
}

// Another file system is refused with what to do instead, and nothing of the backup stays.
func TestBackup_OtherFileSystem(t *testing.T) {
	elsewhere, err := os.MkdirTemp("/dev/shm", "warmtier-backup-*") //nolint:usetesting // on another file system
	if err != nil {
		t.Skip("there is one file system: ", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(elsewhere) })
	dir, here := filepath.Join(t.TempDir(), "store"), t.TempDir()
	if os.Rename(here, filepath.Join(elsewhere, "moved")) == nil {
		t.Skip("there is one file system")
	}
	fill(t, dir, nasty)
	r := command(t, "", "backup", "-d", dir, filepath.Join(elsewhere, "a", "b")).exits(exitIO)
	require.Contains(t, r.err, "it has to be on the file system of the store, from where it can be copied")
	require.Empty(t, files(t, elsewhere))
}

func TestBackup_NoName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	r := command(t, "", "backup", "-d", dir, "").exits(exitUsage)
	require.Contains(t, r.err, "the directory of the backup has no name")
}
