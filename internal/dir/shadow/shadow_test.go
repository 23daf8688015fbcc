//go:build unix

package shadow

import (
	"io/fs"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// The shadow itself: what is synced survives, what is not may or may not, sector by sector and name
// by name; a kill loses nothing.
func TestShadow_Crash(t *testing.T) {
	keep, drop := func() bool { return true }, func() bool { return false }
	happened, waits := func(int, int) bool { return true }, func(int, int) bool { return false }
	d := New()
	f, err := d.Create("a", 4*SectorSize)
	require.NoError(t, err)
	f.Bytes()[0] = 1
	require.Empty(t, d.Crash(Loss{Sector: keep, Operation: waits}).Files, "no name without a sync of the directory")
	require.Empty(t, d.Crash(Loss{Sector: drop, Operation: happened}).Files["a"].Current,
		"no size without a sync of the file")
	require.NoError(t, d.Sync())
	require.NoError(t, f.Sync(10, 4*SectorSize))
	f.Bytes()[0] = 2
	f.Bytes()[SectorSize] = 3

	after := d.Crash(Loss{Sector: drop, Operation: waits}).Files["a"].Current
	require.Len(t, after, 4*SectorSize)
	require.Equal(t, []byte{1, 0}, []byte{after[0], after[SectorSize]})
	turn := 0
	second := func() bool { turn++; return turn == 2 }
	after = d.Crash(Loss{Sector: second, Operation: waits}).Files["a"].Current
	require.Equal(t, []byte{1, 3}, []byte{after[0], after[SectorSize]})

	require.NoError(t, f.Rename("b"))
	require.Contains(t, d.Crash(Loss{Sector: drop, Operation: waits}).Files, "a")
	require.NotContains(t, d.Crash(Loss{Sector: drop, Operation: waits}).Files, "b")
	require.Contains(t, d.Crash(Loss{Sector: drop, Operation: happened}).Files, "b")
	require.NotContains(t, d.Crash(Loss{Sector: drop, Operation: happened}).Files, "a")

	killed := d.Kill()
	require.Equal(t, byte(3), killed.Files["b"].Current[SectorSize])
	require.Equal(t, byte(0), killed.Crash(Loss{Sector: drop, Operation: happened}).Files["b"].Current[SectorSize])

	d.Fault = func(Kind, string) error { return syscall.EIO }
	require.ErrorIs(t, f.Sync(4*SectorSize, 4*SectorSize), syscall.EIO)
	d.Fault = nil
	require.NoError(t, f.Sync(4*SectorSize, 4*SectorSize))
	require.Equal(t, byte(0), d.Crash(Loss{Sector: keep, Operation: happened}).Files["b"].Current[SectorSize],
		"lost by a failed sync")
	require.NoError(t, d.Remove("b"))
	require.ErrorIs(t, f.Sync(4*SectorSize, 4*SectorSize), fs.ErrNotExist)
	require.NoError(t, f.Close())
	require.Zero(t, d.Mappings)
}

// A file with two names takes the space of the directory that made it, until the second one is gone, whichever that is.
func TestShadow_SpaceOfTwoNames(t *testing.T) {
	for _, first := range []string{"maker", "other"} {
		t.Run(first, func(t *testing.T) {
			d, to := New(), New()
			f, err := d.Create("a", 2*vm.PageSize)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			require.NoError(t, d.Link("a", to))
			require.NoError(t, to.WriteFile("b", []byte("b")))
			left := []*FS{d, to}
			if first == "other" {
				slices.Reverse(left)
			}
			require.NoError(t, left[0].Remove("a"))
			require.Equal(t, int64(2*vm.PageSize), d.Used)
			require.NoError(t, left[1].Remove("a"))
			require.Zero(t, d.Used)
			require.Equal(t, int64(vm.PageSize), to.Used)
		})
	}
}
