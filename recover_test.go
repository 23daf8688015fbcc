package warmtier

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func openDir(t testing.TB, dir string, opts *Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	require.NoError(t, err)
	return s
}

func TestDirectory_ContentSurvivesClose(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openDir(t, dir, quiet())
	const n = 3000
	fill(t, s, 0, n, 200)
	big := contentOf(1, 1, 3<<20)
	require.NoError(t, s.Put("big", big))
	deleteWhere(t, s, 0, n, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())

	s = openDir(t, dir, quiet())
	requireIntact(t, s)
	requireContents(t, s, 0, n, 200, odd)
	got, err := s.Get("big")
	require.NoError(t, err)
	require.Equal(t, big, got)
	for range 3 {
		st, err := s.Compact(context.Background())
		require.NoError(t, err)
		t.Logf("%+v", st)
		requireIntact(t, s)
		requireContents(t, s, 0, n, 200, odd)
	}
	require.NoError(t, s.Close())
	s = openDir(t, dir, quiet())
	requireIntact(t, s)
	requireContents(t, s, 0, n, 200, odd)
	t.Logf("%+v", s.Stats())
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	t.Log(len(entries))
	for _, e := range entries {
		t.Log(e.Name())
	}
}

func BenchmarkDirectoryOpen(b *testing.B) {
	dir := b.TempDir()
	s := openDir(b, dir, &Options{Maintenance: MaintenanceOptions{Disabled: true}})
	fill(b, s, 0, 1_000_000, 256)
	require.NoError(b, s.Close())
	for b.Loop() {
		s := openDir(b, dir, &Options{Maintenance: MaintenanceOptions{Disabled: true}})
		b.StopTimer()
		require.NoError(b, s.Close())
		b.StartTimer()
	}
}
