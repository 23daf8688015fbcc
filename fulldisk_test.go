//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
Goal: a store on a full disk stays alive: it reads, deletes, compacts, syncs and opens, and writes
again once there is space.

Method: the budget of the shadow, and a small file system in memory where the test may mount one.
*/

// diskIsFull fills a store until there is no space, and checks that it reads, deletes and compacts,
// and has space again.
func diskIsFull(t *testing.T, s *Store, cycles int) {
	version, next := map[int]int{}, 0
	read := func() {
		require.Equal(t, len(version), s.Len())
		for i, v := range version {
			got, err := s.Get(idOf(i))
			require.NoError(t, err)
			if !bytes.Equal(got, contentOf(i, v, 1000)) {
				require.Failf(t, "wrong bytes", "memory %d", i)
			}
		}
	}
	for cycle := range cycles {
		first := next
		for ; ; next++ {
			err := s.Put(idOf(next), contentOf(next, cycle, 1000))
			if err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
				break
			}
			version[next] = cycle
		}
		t.Logf("cycle %d: full after %d puts, with %d memories", cycle, next-first, len(version))
		require.Greater(t, next, first+50, "puts after space was given back")
		require.ErrorIs(t, s.Put(idOf(next), make([]byte, 1000)), ErrNoSpace)
		require.ErrorIs(t, s.Put("large", make([]byte, 1<<20)), ErrNoSpace)
		read()
		if cycle%2 == 0 {
			require.NoError(t, s.Sync(), "on a full disk")
		}
		deleted := 0
		for i := range version {
			if (i+cycle)%4 == 0 {
				continue
			}
			existed, err := s.Delete(idOf(i))
			if errors.Is(err, ErrNoSpace) && deleted > 100 { // the bytes kept back for deletions may run out
				_, err = s.Compact(context.Background())
				require.NoError(t, err, "on a full disk")
				existed, err = s.Delete(idOf(i))
			}
			require.NoError(t, err, "on a full disk, after %d deletions", deleted)
			require.True(t, existed)
			delete(version, i)
			deleted++
		}
		read()
		_, err := s.Compact(context.Background())
		require.NoError(t, err, "on a full disk")
		read()
		if cycle%2 == 1 {
			require.NoError(t, s.Sync())
		}
		requireIntact(t, s)
	}
}

func TestPower_FullDisk(t *testing.T) {
	for _, budget := range []int64{10 * minSegmentSize, 10*minSegmentSize + 4096, 12*minSegmentSize - 4096} {
		t.Run(fmt.Sprintf("budget=%d", budget), func(t *testing.T) {
			d := newShadow()
			d.Budget = budget
			s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
			require.NoError(t, err)
			diskIsFull(t, s, 8)
			require.NoError(t, s.Close())
			s, err = openShadow(d, shadowOptions(), hooks{hash: fixedHash})
			require.NoError(t, err)
			requireIntact(t, s)
			require.NoError(t, s.Close())
			require.NoError(t, released(d, s))
		})
	}
}

// Goal: a store whose disk has no byte left opens again, reads, deletes and compacts.
func TestPower_FullDiskOpens(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 300, 1000)
	require.NoError(t, s.Close())
	d.Budget = d.Used
	s, err = openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	requireContents(t, s, 0, 300, 1000, all)
	deleteWhere(t, s, 0, 300, func(i int) bool { return i%4 > 0 })
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	fill(t, s, 300, 350, 1000)
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// Goal: the space that a compaction gives back on a full disk first makes up what is kept back for
// compactions: a writer that tries again and again beside it gets nothing before.
func TestPower_FullDiskAndGreedyWriter(t *testing.T) {
	d := newShadow()
	d.Budget = 24 * minSegmentSize
	opts := shadowOptions()
	opts.Compaction.MaxOverhead = minSegmentSize
	var s *Store
	next := 0
	greedy := func() {
		for ; ; next++ {
			if err := s.Put(idOf(next), contentOf(next, 0, 1000)); err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
				return
			}
		}
	}
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		if p.Stage == StageSwap {
			greedy()
		}
	}
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.NoError(t, err)
	greedy()
	for cycle := range 4 {
		for i := range next {
			if i%8 == cycle { // little is dead in each segment, so one target has many victims
				_, err := s.Delete(idOf(i))
				require.NoError(t, err)
			}
		}
		_, err = s.Compact(context.Background())
		require.NoError(t, err, "compaction %d", cycle)
		requireIntact(t, s)
	}
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// Goal: the space kept back for a manifest grows with the number of segments.
func TestPower_FullDiskWithManySegments(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 300, 60_000) // one memory in each segment
	require.GreaterOrEqual(t, s.disk.spares.kept[manifestSpare], layout.ManifestSize(300))
	d.Budget = d.Used
	require.NoError(t, s.Sync(), "on a full disk")
	deleteWhere(t, s, 0, 300, odd)
	mustCompact(t, s)
	requireContents(t, s, 0, 300, 60_000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// Goal: it does not matter at which step of a workload the disk becomes full. Method: budgets of
// one page, two pages and so on; some are left out unless long tests are asked for.
func TestPower_FullAnywhere(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	base := rng.Uint64()
	var opened atomic.Int64
	runs := 0
	for pages := 1; ; pages += 20/scaled(20) + rng.IntN(stride(t, 12, 1)) {
		l := newPowerLife(base+uint64(runs), powerConfig{}, &opened)
		l.opts.SyncWrites, l.writers = runs%2 == 1, 1
		l.d.Budget = int64(pages * vm.PageSize)
		r := &powerFaultRun{l: l, f: &powerFault{}, full: true}
		require.NoError(t, r.run(), "budget of %d pages", pages)
		runs++
		if r.refusals == 0 {
			break
		}
	}
	t.Logf("%d budgets", runs)
}

// empty deletes every memory of s and compacts it.
func empty(t *testing.T, s *Store) {
	t.Helper()
	for id := range s.All() {
		_, err := s.Delete(id)
		require.NoError(t, err)
	}
	mustCompact(t, s)
}

// Goal: a store on a real full disk stays alive too, and gets no SIGBUS.
func TestPower_FullFileSystem(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1 << 20, 1<<20 + 12<<10, 3 << 20} {
		t.Run(fmt.Sprintf("size=%d", size), func(t *testing.T) {
			dir := t.TempDir()
			out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", dir).CombinedOutput()
			if err != nil {
				t.Skipf("a small file system cannot be mounted: %v: %s", err, bytes.TrimSpace(out))
			}
			t.Cleanup(func() { require.NoError(t, exec.Command("umount", "-l", dir).Run()) })
			store := filepath.Join(dir, "store")
			for range 2 {
				s, err := Open(store, shadowOptions())
				require.NoError(t, err)
				empty(t, s)
				diskIsFull(t, s, 4)
				require.NoError(t, s.Close())
			}
			// With not a byte left the store opens, and can be emptied.
			filler, err := os.Create(filepath.Join(dir, "filler"))
			require.NoError(t, err)
			_, err = filler.Write(make([]byte, 2*size))
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.NoError(t, filler.Close())
			s, err := Open(store, shadowOptions())
			require.NoError(t, err)
			empty(t, s)
			require.NoError(t, s.Put("again", nil))
			require.NoError(t, s.Close())
		})
	}
}
