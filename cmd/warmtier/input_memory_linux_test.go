//go:build !race

package main

import (
	"bufio"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
)

// A content that is too large is refused before it is read, and one that is not is in memory once, beside the
// segment that it is written to.
func TestInput_Memory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	file := filepath.Join(t.TempDir(), "file")
	allocated := func(size int64, cmd interface{ Run(*app) error }) (bytes int64, err error) {
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		require.NoError(t, os.Truncate(file, size)) // without a block on the disk
		in, err := os.Open(file)
		require.NoError(t, err)
		defer in.Close() //nolint:errcheck // of no consequence here
		a := &app{ctx: t.Context(), in: in, out: bufio.NewWriter(io.Discard), progress: noProgress,
			log: slog.New(slog.DiscardHandler)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = cmd.Run(a)
		runtime.ReadMemStats(&after)
		return int64(after.TotalAlloc - before.TotalAlloc), err
	}
	where := newDirFlag{dirFlag{dir}, sizeFlags{SegmentSize: 64 << 10}}
	commands := []interface{ Run(*app) error }{
		&putCmd{newDirFlag: where, ID: "a", File: file}, &putCmd{newDirFlag: where, ID: "b", File: "-"},
		&loadCmd{newDirFlag: where, Sources: []string{file}, Format: "auto", Delimiter: ','},
		&loadCmd{newDirFlag: where, Sources: []string{"-"}, Format: "file", ID: "c", Delimiter: ','},
	}
	for i, cmd := range commands {
		used, err := allocated(warmtier.MaxContentLen+1, cmd)
		require.ErrorIs(t, err, warmtier.ErrContentTooLarge)
		require.Less(t, used, int64(1<<20), i)
		require.NoDirExists(t, dir)
	}
	const size, beside = 64 << 20, 8 << 20
	for i, cmd := range commands {
		used, err := allocated(size, cmd)
		require.NoError(t, err)
		require.Less(t, used, int64(size+beside), i)
	}
	require.True(t, slices.Equal(make([]byte, size), []byte(contents(t, dir)["b"])))
}
