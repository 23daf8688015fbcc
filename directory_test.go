//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: a directory store is a store that stays: it has the same content after any sequence of
closing, reopening and compacting, and one owner at a time; files that are not the store's, or not
as they should be, are neither touched nor believed; a file that loses its pages under an open store
costs errors, and not the process.

Method: the public interface is held against a plain map, and the directory against the bytes, modes
and names of its files before. Scenarios that need another user, or could end the process when they
fail, run in a child process: the test binary itself, as TestDirectoryChild.
*/

// Goal: a directory written with one segment size is read and compacted with every other.
func TestDirectory_ContentSurvivesReopening(t *testing.T) {
	const k, m = 1 << 10, 1 << 20
	for _, sizes := range [][]int{
		{64 * k, 64 * k, 64 * k},
		{64 * k, 1 * m, 64 * k},
		{4 * m, 64 * k, 64 * k, 64 * k},
		{4 * m, 256 * k, 16 * m, 64 * k},
	} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(fastDir(t), "a", "store")
			want := map[string][]byte{"": nil}
			delete(want, "")
			for round, size := range slices.Concat(sizes, sizes[:stride(t, 1, len(sizes))]) {
				opts := quietly()
				opts.SegmentSize = size
				s := openDir(t, dir, opts)
				requireSame(t, s, want)
				put := func(id string, content []byte) {
					want[id] = content
					require.NoError(t, s.Put(id, content))
				}
				for i := range 300 {
					put(idOf(i+200*round), contentOf(i, round, 100+i))
				}
				for i := 0; i < 200; i += 3 {
					delete(want, idOf(i+200*round))
					_, err := s.Delete(idOf(i + 200*round))
					require.NoError(t, err)
				}
				// Large segments hold all of these; small segments, one each.
				for i := range 6 {
					put(fmt.Sprintf("medium-%d", i+2*round), contentOf(i, round, 500*k+997*i))
				}
				put(fmt.Sprintf("large-%d", round%2), contentOf(1, round, 1*m+100*k*round))
				put("empty", []byte{})
				for version := range 1000 {
					put("often", contentOf(0, version, 30))
				}
				for i, id := range oddIDs() {
					put(id, contentOf(i, round, 16+i))
				}
				requireSame(t, s, want)
				if round%2 == 1 {
					mustCompact(t, s)
					requireSame(t, s, want)
				}
				closeIntact(t, s)
			}
			s := openDir(t, dir, quietly())
			requireSame(t, s, want)
			closeIntact(t, s)
			requireNoStrays(t, dir)
		})
	}
}

func oddIDs() []string {
	return []string{
		"\x00", "\x00\x00", "\xff\xfe", "a\x00b", "../../etc/passwd", "/", ".", "LOCK", "MANIFEST",
		"0000000000000001.seg", "línea\nnueva", strings.Repeat("x", 255), strings.Repeat("y", 40_000),
		strings.Repeat("z", MaxIDLen-1),
	}
}

// Goal: a target made for a record from larger segments may have room for small records after it,
// further from its start than SegmentSize, and locations reach there in the next Open too.
func TestDirectory_RecordBeyondSegmentSize(t *testing.T) {
	dir := fastDir(t)
	opts := quietly()
	opts.SegmentSize = 1 << 20
	s := openDir(t, dir, opts)
	lane := s.shards[0].lane
	want := map[string][]byte{}
	put := func(id string, size int) {
		want[id] = contentOf(len(want), 0, size)
		require.NoError(t, s.Put(id, want[id]))
	}
	n := 0
	inLane := func() string { // returns the next id whose records go to the same segment
		for ; ; n++ {
			if sh, _ := s.place(idOf(n)); sh.lane == lane {
				n++
				return idOf(n - 1)
			}
		}
	}
	put(inLane(), 500<<10) // 3 KiB short of whole pages
	for range 4 {
		put(inLane(), 100)
	}
	dead := inLane()
	require.NoError(t, s.Put(dead, make([]byte, 1000)))
	_, err := s.Delete(dead)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	s = openDir(t, dir, quietly())
	mustCompact(t, s)
	requireSame(t, s, want)
	closeIntact(t, s)
	for range 2 { // with the hint, and without
		s = openDir(t, dir, quietly())
		requireSame(t, s, want)
		closeIntact(t, s)
		require.NoError(t, os.Remove(filepath.Join(dir, layout.HintName)))
	}
}

// Goal: All yields empty content as such, and never nil, in the first step too.
func TestDirectory_AllYieldsEmptyContent(t *testing.T) {
	s := openDir(t, fastDir(t), quietly())
	require.NoError(t, s.Put("empty", nil))
	for id, content := range s.All() {
		require.Equal(t, "empty", id)
		require.NotNil(t, content)
		require.Empty(t, content)
	}
	closeIntact(t, s)
}

// Goal: a random history of calls, with closings, kills and compactions, leaves what it would in a
// map.
func TestDirectory_RandomHistory(t *testing.T) {
	rng := seeded(t)
	for range scaled(6) {
		seed := rng.Uint64()
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			dir := fastDir(t)
			opts := quietly()
			s := openDir(t, dir, opts)
			want := map[string][]byte{}
			for step := range scaled(6000) {
				id := idOf(rng.IntN(150))
				switch p := rng.IntN(1000); {
				case p < 600:
					size := rng.IntN(400)
					if rng.IntN(100) == 0 {
						size = rng.IntN(100_000)
					}
					content := contentOf(step, step, size)
					require.NoError(t, s.Put(id, content))
					want[id] = content
				case p < 900:
					existed, err := s.Delete(id)
					require.NoError(t, err)
					_, was := want[id]
					require.Equal(t, was, existed)
					delete(want, id)
				case p < 985:
					got, err := s.Get(id)
					if content, ok := want[id]; ok {
						require.NoError(t, err)
						require.Equal(t, content, got)
					} else {
						require.ErrorIs(t, err, ErrNotFound)
					}
				case p < 992:
					require.NoError(t, s.Sync())
				case p < 996:
					mustCompact(t, s)
				default:
					if rng.IntN(2) == 0 { // as a kill leaves it
						dir2 := fastDir(t)
						copyDir(t, dir, dir2)
						require.NoError(t, s.Close())
						if !raceEnabled { // heap segments reach the file with Close only
							dir = dir2
						}
					} else {
						closeIntact(t, s)
					}
					opts.SegmentSize = minSegmentSize << rng.IntN(3)
					s = openDir(t, dir, opts)
					requireSame(t, s, want)
				}
			}
			requireSame(t, s, want)
			closeIntact(t, s)
		})
	}
}

func TestDirectory_CloseThenUse(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quiet())
	fill(t, s, 0, 10, 100)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Put("a", nil), ErrClosed)
	require.ErrorIs(t, s.Put("a", make([]byte, 200_000)), ErrClosed)
	_, err := s.Get(idOf(0))
	require.ErrorIs(t, err, ErrClosed)
	_, err = s.Delete(idOf(0))
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, s.Sync(), ErrClosed)
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, ErrClosed)
	_, err = s.Verify(context.Background())
	require.ErrorIs(t, err, ErrClosed)
	require.False(t, s.Has(idOf(0)))
	require.Zero(t, s.Len())
	for range s.All() {
		require.Fail(t, "All of a closed store yields")
	}
	requireNoStrays(t, dir)
	s = openDir(t, dir, quiet())
	requireContents(t, s, 0, 10, 100, all)
	closeIntact(t, s)
}

// Goal: the same files give the same content every time.
func TestDirectory_RecoveryIsDeterministic(t *testing.T) {
	skipKillsUnderRace(t)
	r := newCrashRun(t, fastDir(t), seeded(t).Uint64(), 1)
	c := r.c
	c.Script, c.KillAt, c.Passing, c.Next = true, pointCompactSwapped, 3, []int{0}
	require.True(t, r.run(t, c, nil).killed)
	img, h := loadImage(t, c.Dir), at(time.Now().UnixMilli())
	h.sameFiles = true
	var first map[string][]byte
	for range 10 {
		dir := fastDir(t)
		img.write(t, dir)
		s, got := openContents(t, dir, h)
		if first == nil {
			first = got
		}
		require.True(t, maps.EqualFunc(first, got, bytes.Equal))
		closeIntact(t, s)
	}
}

func TestDirectory_Modes(t *testing.T) {
	dir := filepath.Join(fastDir(t), "x", "store")
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, odd)
	mustCompact(t, s)
	require.NoError(t, s.Put("large", make([]byte, 1<<20)))
	check := func() {
		info, err := os.Stat(dir)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
		for name := range snapshot(t, dir) {
			info, err := os.Lstat(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, fs.FileMode(0o600), info.Mode(), name)
		}
	}
	check()
	closeIntact(t, s)
	check()
}

// Goal: a relative path names the directory that it named when the store was opened.
func TestDirectory_RelativePath(t *testing.T) {
	base, elsewhere := t.TempDir(), t.TempDir()
	t.Chdir(base)
	s := openDir(t, "store", quietly())
	fill(t, s, 0, 100, 1000)
	t.Chdir(elsewhere)
	fill(t, s, 100, 300, 1000) // new segments
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	require.NoError(t, s.Close())
	entries, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	require.Empty(t, entries)
	s = openDir(t, filepath.Join(base, "store"), quietly())
	requireContents(t, s, 0, 300, 1000, all)
	closeIntact(t, s)
}

// Goal: a copy of a directory that is being written to, made file by file, is refused, or holds for
// each memory a version from the time of the copy. The copy as a whole is of no point in time.
func TestDirectory_CopyOfLiveStore(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("under the race detector segments reach their files with Sync and Close only")
	}
	dir := fastDir(t)
	opts := quiet()
	opts.SyncInterval = time.Millisecond
	s := openDir(t, dir, opts)
	const memories = 60
	var begun, done [memories]atomic.Int64 // versions
	isDelete := func(version int64) bool { return version%7 == 6 }
	const perRound = 2000 // writes
	allowed := make(chan struct{}, 2*perRound)
	var group sync.WaitGroup
	for w := range 2 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for range allowed {
				i := 2*rng.IntN(memories/2) + w
				version := begun[i].Add(1)
				var err error
				if isDelete(version) {
					_, err = s.Delete(idOf(i))
				} else {
					err = s.Put(idOf(i), contentOf(i, int(version), 200))
				}
				if err != nil {
					t.Errorf("write: %v", err)
				}
				done[i].Store(version)
			}
		})
	}
	opened, refused := 0, 0
	for round := range 40 {
		for range perRound {
			allowed <- struct{}{}
		}
		if round%4 == 0 {
			group.Go(func() {
				if _, err := s.Compact(context.Background()); err != nil && !errors.Is(err, ErrCompactionInProgress) {
					t.Errorf("compact: %v", err)
				}
			})
		}
		var from, to [memories]int64
		for i := range memories {
			from[i] = done[i].Load()
		}
		copied := fastDir(t)
		copyFiles(t, dir, copied)
		for i := range memories {
			to[i] = begun[i].Load()
		}
		_, err := Open(copied, quietly())
		require.ErrorIs(t, err, ErrCopied)
		opts := quietly()
		opts.AfterPowerLoss = true // which is not true, and yet nothing wrong may be shown
		s2, err := Open(copied, opts)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			refused++
			continue
		}
		opened++
		for i := range memories {
			got, err := s2.Get(idOf(i))
			if errors.Is(err, ErrNotFound) {
				may := from[i] == 0
				for v := from[i]; v <= to[i]; v++ {
					may = may || isDelete(v)
				}
				require.True(t, may, "memory %d is gone: versions %d to %d", i, from[i], to[i])
				continue
			}
			require.NoError(t, err)
			version := int64(binary.LittleEndian.Uint64(got[8:]))
			require.Equal(t, contentOf(i, int(version), 200), got)
			require.GreaterOrEqual(t, version, from[i], "memory %d", i)
			require.LessOrEqual(t, version, to[i], "memory %d", i)
		}
		closeIntact(t, s2)
	}
	close(allowed)
	group.Wait()
	t.Logf("%d copies opened, %d refused", opened, refused)
	closeIntact(t, s)
}

// Goal: after a compaction and a Sync no file contains what was deleted.
func TestDirectory_DeletedBytesAreGone(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	canary := []byte("canary, to be looked for in every file")
	fill(t, s, 0, 500, 200)
	require.NoError(t, s.Put("deleted", canary))
	require.NoError(t, s.Put("overwritten", canary))
	require.NoError(t, s.Sync())
	holders := func() (names []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			if bytes.Contains(b, canary) {
				names = append(names, e.Name())
			}
		}
		return names
	}
	require.NotEmpty(t, holders())
	_, err := s.Delete("deleted")
	require.NoError(t, err)
	require.NoError(t, s.Put("overwritten", nil))
	mustCompact(t, s)
	require.NoError(t, s.Sync())
	require.Empty(t, holders())
	closeIntact(t, s)
	require.Empty(t, holders())
}
