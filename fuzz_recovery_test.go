//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: whatever is in a directory's files, Open and the reads of the store return errors or bytes
// that were stored under that id, and nothing panics or hangs. Method: the fuzzer says where the
// files of a small store are changed: file, offset, bytes.
func FuzzRecovery(f *testing.F) {
	names := []string{layout.ManifestName, layout.HintName}
	files, err := filepath.Glob(filepath.Join(goldenDir, "*"+".seg"))
	require.NoError(f, err)
	for _, name := range files {
		names = append(names, filepath.Base(name))
	}
	stored := map[string][][]byte{}
	for i := range 120 {
		stored[idOf(i)] = [][]byte{contentOf(i, 0, i*13%700), contentOf(i, 1, 40)}
	}
	for _, i := range []int{10, 11, 500} { // in a batch
		stored[idOf(i)] = append(stored[idOf(i)], contentOf(i, 2, 60))
	}
	f.Add(byte(0), uint32(60), []byte{1}, byte(2), uint32(160), []byte{7, 7}, byte(0))
	f.Add(byte(2), uint32(64), make([]byte, 64), byte(1), uint32(0), []byte{}, byte(1))
	f.Add(byte(3), uint32(0), make([]byte, 512), byte(1), uint32(20), []byte{1}, byte(2))
	f.Add(byte(5), uint32(128), []byte{0, 0, 0, 0}, byte(4), uint32(65530), []byte{1, 2, 3}, byte(3))
	f.Fuzz(func(t *testing.T, file1 byte, at1 uint32, bytes1 []byte, file2 byte, at2 uint32, bytes2 []byte, how byte) {
		dir := fastDir(t)
		copyDir(t, goldenDir, dir)
		change := func(file byte, at uint32, with []byte) {
			path := filepath.Join(dir, names[int(file)%len(names)])
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			copy(b[int(at)%len(b):], with)
			require.NoError(t, os.WriteFile(path, b, 0o600))
		}
		change(file1, at1, bytes1)
		change(file2, at2, bytes2)
		opts := quietly()
		opts.ReadOnly, opts.Repair = how&1 != 0, how&2 != 0
		s, err := Open(dir, opts)
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion), "%v", err)
			return
		}
		for id, content := range s.All() {
			versions, known := stored[id]
			if !known {
				require.Contains(t, []string{"\x00\xff", "expires", "expires, copied", "expires, in a batch"}, id)
				continue
			}
			require.True(t, slices.ContainsFunc(versions, func(v []byte) bool { return bytes.Equal(v, content) }), id)
		}
		_, err = s.Verify(context.Background())
		require.True(t, err == nil || errors.Is(err, ErrCorrupt), "%v", err)
		_, err = s.Compact(context.Background())
		require.True(t, err == nil || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrReadOnly), "%v", err)
		require.NoError(t, s.Close())
	})
}
