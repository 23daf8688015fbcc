//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/internal/layout"
)

func TestDirectory_NoDescriptorOrMappingLeaks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("descriptors and mappings are counted in /proc/self")
	}
	dir := fastDir(t)
	count := func() (descriptors, mappings int) {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
			if err == nil && strings.HasPrefix(target, dir) {
				descriptors++
			}
		}
		b, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		return descriptors, bytes.Count(b, []byte(dir))
	}
	goroutines := runtime.NumGoroutine()
	var openDescriptors, openMappings []int
	for round := range scaled(200) {
		s := openDir(t, dir, quietly())
		fill(t, s, 0, 100, 300)
		deleteWhere(t, s, 0, 100, odd)
		mustCompact(t, s)
		if round%20 == 0 {
			d, m := count()
			openDescriptors, openMappings = append(openDescriptors, d), append(openMappings, m)
		}
		require.NoError(t, s.Close())
		requireReleased(t, s, goroutines)
		d, m := count()
		require.Zero(t, d, "descriptors after Close")
		require.Zero(t, m, "mappings after Close")
	}
	t.Logf("while open: descriptors %v, mappings %v", openDescriptors, openMappings)
	require.LessOrEqual(t, slices.Max(openDescriptors), slices.Min(openDescriptors)+2)
	require.LessOrEqual(t, slices.Max(openMappings), slices.Min(openMappings)+4)

	// A failed Open leaves nothing either.
	require.NoError(t, os.Truncate(filepath.Join(dir, segmentFiles(t, dir)[0]), 4096))
	for range scaled(50) {
		_, err := Open(dir, quietly())
		require.ErrorIs(t, err, ErrCorrupt)
	}
	d, m := count()
	require.Zero(t, d)
	require.Zero(t, m)
}

// diskBytes returns the space that the files of dir take.
func diskBytes(t testing.TB, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
	}
	return total
}

func TestDirectory_DiskSpaceBounded(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	const n, size = 1000, 500
	bound := func() int64 {
		live := s.Stats().LiveBytes
		segments := float64(live)/(0.9*minSegmentSize) + float64(len(s.lanes)) + 1
		return int64(segments)*minSegmentSize + minSegmentSize + 64<<10 // the spare, and small files
	}
	for range scaled(100) {
		fill(t, s, 0, n, size)
		mustCompact(t, s)
		require.LessOrEqual(t, diskBytes(t, dir), bound())
	}
	closeIntact(t, s)

	// Opening, storing one memory and closing leaves a segment each time; a compaction merges them.
	for i := range 30 {
		s = openDir(t, dir, quietly())
		require.NoError(t, s.Put(fmt.Sprint("session ", i), []byte("x")))
		require.NoError(t, s.Close())
	}
	t.Logf("%d bytes on disk after 30 sessions", diskBytes(t, dir))
	s = openDir(t, dir, quietly())
	mustCompact(t, s)
	require.LessOrEqual(t, diskBytes(t, dir), bound())
	closeIntact(t, s)
}

// Goal: opening, writing a little and closing, over and over, leaves no trail of files.
func TestDirectory_CyclesLeaveNoTrail(t *testing.T) {
	dir := fastDir(t)
	want := map[string][]byte{}
	lanes := 0
	for cycle := range 50 {
		s := openDir(t, dir, quietly())
		lanes = len(s.lanes)
		for i := range 5 {
			id := fmt.Sprintf("%d of %d", i, cycle)
			want[id] = contentOf(i, cycle, 100)
			require.NoError(t, s.Put(id, want[id]))
		}
		if cycle%5 == 4 {
			id := fmt.Sprintf("0 of %d", cycle-2)
			delete(want, id)
			existed, err := s.Delete(id)
			require.NoError(t, err)
			require.True(t, existed)
		}
		requireSame(t, s, want)
		closeIntact(t, s)
	}
	require.LessOrEqual(t, len(segmentFiles(t, dir)), lanes)
	require.NoError(t, os.Remove(filepath.Join(dir, layout.HintName)))
	s := openDir(t, dir, quietly())
	requireSame(t, s, want)
	mustCompact(t, s)
	requireSame(t, s, want)
	closeIntact(t, s)
}

// Goal: a compaction on a full disk decides how many victims fit into one target without reading
// them: a file that was cut short is an error when records are copied from it, not before.
func TestDirectory_FittingReadsNothing(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 150, 300)
	require.NoError(t, s.Sync())
	s.sealLanes(0)
	deleteWhere(t, s, 0, 150, odd)
	s.sealLanes(0)
	c := s.newCompaction(triggerManual)
	c.maxTargets = 1
	c.chooseVictims()
	c.work = c.victims
	buried := 0
	for _, v := range c.work {
		buried += v.seg.tombstones.len()
		require.NoError(t, os.Truncate(filepath.Join(dir, v.seg.name()), 0))
	}
	require.Positive(t, buried)
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		require.NotPanics(t, func() {
			allowed, err := c.fitOneTarget()
			require.NoError(t, err)
			require.Positive(t, allowed.victims)
		})
	}()
	_ = s.Close() // must return; its flush may find the files cut
}

// Goal: in a process out of descriptors, or at its limit of a file's size, calls that need a file
// return errors; others work, and with the limit gone everything does.
func TestDirectory_Limits(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("limits are set the way Linux has them")
	}
	for _, which := range []string{"descriptors", "size"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, "limit of "+which, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// childLimits runs in the process under the limit.
func childLimits(t *testing.T, dir, which string) {
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 100, 300)
	resource, limit := syscall.RLIMIT_NOFILE, syscall.Rlimit{}
	if which == "size" {
		resource = syscall.RLIMIT_FSIZE
	}
	require.NoError(t, syscall.Getrlimit(resource, &limit))
	before := limit
	if limit.Cur = 3; which == "size" {
		limit.Cur = minSegmentSize - 1
	}
	require.NoError(t, syscall.Setrlimit(resource, &limit))
	n := 100
	var err error
	for ; err == nil && n < 5000; n++ {
		err = s.Put(idOf(n), contentOf(n, 0, 300))
	}
	if which == "size" {
		require.ErrorIs(t, err, ErrNoSpace)
	} else {
		require.ErrorIs(t, err, syscall.EMFILE)
	}
	n--
	requireContents(t, s, 0, n, 300, all)
	_, err = s.Compact(context.Background()) // nothing is dead, so it may do nothing
	require.True(t, err == nil || errors.Is(err, ErrCompactionFailed), "%v", err)
	requireContents(t, s, 0, n, 300, all)
	require.NoError(t, syscall.Setrlimit(resource, &before))
	fill(t, s, n, n+1000, 300)
	requireContents(t, s, 0, n+1000, 300, all)
	closeIntact(t, s)
	s = openDir(t, dir, quietly())
	requireContents(t, s, 0, n+1000, 300, all)
	closeIntact(t, s)
}
