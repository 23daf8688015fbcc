//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

/*
Goal: a directory store is a store, only that it stays: same content after any sequence of closing,
reopening and compacting; one owner at a time; files that are not ours, or not as they should be, are
neither touched nor believed; a file that loses its pages under an open store costs errors and not the
process.

Method: the public interface against a plain map; and for what the directory must look like, the bytes,
modes and names of all its files before and after. Scenarios that need another user, or may end the
process when they fail, run in a child: the test binary itself, as TestDirectoryChild.
*/

func openDir(t testing.TB, dir string, opts *Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	require.NoError(t, err)
	return s
}

// quietly are quiet options without a background Sync.
func quietly() *Options {
	o := quiet()
	o.SyncInterval = -1
	return o
}

// closeIntact verifies and closes.
func closeIntact(t testing.TB, s *Store) {
	t.Helper()
	requireIntact(t, s)
	require.NoError(t, s.Close())
}

// requireSame compares a store with a map.
func requireSame(t testing.TB, s *Store, want map[string][]byte) {
	t.Helper()
	got := contentsOf(t, s)
	for id, content := range want {
		if !bytes.Equal(got[id], content) || got[id] == nil {
			require.Failf(t, "wrong content", "%.40q: %s, want %s", id,
				describe(got[id], got[id] != nil), describe(content, true))
		}
	}
	for id := range got {
		if _, ok := want[id]; !ok {
			require.Failf(t, "deleted memory", "%.40q: %s", id, describe(got[id], true))
		}
	}
}

// snapshot is what a directory looks like: mode, and content or target, by name. Who opens it for
// writing leaves a process id in LOCK.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	m := map[string]string{}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Lstat(path)
		require.NoError(t, err)
		what := info.Mode().String()
		switch {
		case e.Name() == lockName:
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			what += " " + target
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			what += fmt.Sprintf(" %d bytes %08x", len(b), checksum(b))
		}
		m[e.Name()] = what
	}
	return m
}

// copyDir copies the regular files of a directory, in the order of their names.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	require.NoError(t, err)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since
		}
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), b, fileMode))
	}
}

// segmentFiles are the names of the segment files in dir.
func segmentFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	for name := range snapshot(t, dir) {
		if _, ok := parseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func readManifestOf(t testing.TB, dir string) manifest {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	require.NoError(t, err)
	m, _, err := decodeManifest(b)
	require.NoError(t, err)
	return m
}

// ---- content ----

// Goal: a Put that fails leaves nothing behind in the file. Its body is written before the old record is
// looked at; when that is damaged, the body must go, or it lies where a later record's header would be, and
// a store that is killed then does not open any more.
func TestDirectory_FailedPutLeavesNoBody(t *testing.T) {
	if raceEnabled {
		t.Skip("segments on the heap reach their files with Sync, and a kill needs what was not synced")
	}
	dir, killed := fastDir(t), fastDir(t)
	s := openDir(t, dir, quiet())
	require.NoError(t, s.Put("damaged", []byte("old")))
	var m match
	hold := s.contentMu.RLock()
	sh, tag := s.place("damaged")
	exists, err := s.find(&m, sh, tag, "damaged")
	s.contentMu.RUnlock(hold)
	require.NoError(t, err)
	require.True(t, exists)
	m.rec[recordHeaderSize] ^= 1
	require.ErrorIs(t, s.Put("damaged", bytes.Repeat([]byte{0xff}, 5000)), ErrCorrupt)
	m.rec[recordHeaderSize] ^= 1
	for i := range 100 { // in every lane
		require.NoError(t, s.Put(idOf(i), nil))
	}
	copyDir(t, dir, killed) // as a kill leaves it
	closeIntact(t, s)

	reopened := openDir(t, killed, quiet())
	require.Equal(t, 101, reopened.Len())
	closeIntact(t, reopened)
}

// Whatever segment sizes a directory was written with, every other size reads it, and compacts it.
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
			for round, size := range append(sizes, sizes...) {
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
				// With large segments these share one; with small ones each has its own.
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

// A target for a record from larger segments may have room for small ones behind it: further from its
// start than SegmentSize, which locations must reach in the next Open too.
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
	inLane := func() string { // the next id whose records go to the same segment
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
		require.NoError(t, os.Remove(filepath.Join(dir, hintName)))
	}
}

// A tombstone has room for the longest id too, in the smallest segments.
func TestDirectory_DeleteLongestID(t *testing.T) {
	for _, n := range []int{40_000, 65_000, 65_148, 65_300, 65_380, 65_400, 65_500, MaxIDLen} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			dir := fastDir(t)
			s := openDir(t, dir, quietly())
			id := strings.Repeat("i", n)
			require.NoError(t, s.Put(id, []byte("content")))
			require.NoError(t, s.Put("other", []byte("stays")))
			var existed bool
			var err error
			require.NotPanics(t, func() { existed, err = s.Delete(id) })
			require.NoError(t, err)
			require.True(t, existed)
			want := map[string][]byte{"other": []byte("stays")}
			for range 3 {
				requireSame(t, s, want)
				closeIntact(t, s)
				s = openDir(t, dir, quietly())
				requireSame(t, s, want)
				mustCompact(t, s)
			}
			closeIntact(t, s)
		})
	}
}

// A tombstone in a segment of its own is no victim before the memory has left the index: until then there
// is no dead record it would be kept for, and a compaction would drop it.
func TestDirectory_LongTombstoneIsSealedLast(t *testing.T) {
	id := strings.Repeat("i", MaxIDLen)
	var s *Store
	deleting := false
	s, err := open(fastDir(t), quietly(), hooks{at: func(p point) error {
		if p != pointDeleteAppended {
			return nil
		}
		deleting = true
		for _, seg := range s.segments.all() {
			require.False(t, len(seg.tombstones) > 0 && seg.is(stateSealed), "%s may be a victim", seg.name())
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, s.Put(id, []byte("content")))
	existed, err := s.Delete(id)
	require.NoError(t, err)
	require.True(t, existed && deleting)
	mustCompact(t, s)
	require.Zero(t, s.tombstones())
	closeIntact(t, s)
}

// Nobody but who needs it waits while a segment is made: no lock is held, in memory and in a directory.
func TestPut_MakesSegmentsWithoutLocks(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			dir := ""
			if kind == "directory" {
				dir = fastDir(t)
			}
			var s *Store
			made, writers := 0, 0
			s, err := open(dir, quietly(), hooks{at: func(p point) error {
				if p != pointSegmentMade && p != pointSegmentCreated || s == nil {
					return nil
				}
				done := make(chan struct{})
				go func() { // what a swap and a writer of each lane want; with a lock held it waits for ever
					defer close(done)
					s.contentMu.Lock()
					made++
					s.contentMu.Unlock()
					for i := range s.lanes {
						s.lanes[i].mu.Lock()
						writers++
						s.lanes[i].mu.Unlock()
					}
				}()
				<-done
				return nil
			}})
			require.NoError(t, err)
			fill(t, s, 0, 400, 300)
			require.NoError(t, s.Put("large", make([]byte, 2<<20)))
			id := strings.Repeat("i", MaxIDLen)
			require.NoError(t, s.Put(id, nil))
			deleteWhere(t, s, 0, 400, odd)
			existed, err := s.Delete(id)
			require.NoError(t, err)
			require.True(t, existed)
			require.Greater(t, made, 3)
			require.GreaterOrEqual(t, writers, made)
			closeIntact(t, s)
		})
	}
}

// Sequences of five steps, each one a deletion, a second storing, a compaction or a reopening:
// what was deleted stays deleted, and in the end no tombstone is left.
func TestDirectory_TombstonesInEveryOrder(t *testing.T) {
	const steps, kinds = 5, 4
	sequences := 1
	for range steps {
		sequences *= kinds
	}
	stride := 11 // all of them when there is time
	switch {
	case os.Getenv("WARMTIER_TEST_DURATION") != "":
		stride = 1
	case raceEnabled || testing.Short():
		stride = 97
	}
	for sequence := 0; sequence < sequences; sequence += stride {
		dir := fastDir(t)
		s := openDir(t, dir, quietly())
		want := map[string][]byte{}
		put := func(i, version int) {
			want[idOf(i)] = contentOf(i, version, 50)
			require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
		}
		for i := range 30 {
			put(i, 0)
		}
		var log []string
		reopen := func() {
			requireIntact(t, s)
			require.NoError(t, s.Close())
			s = openDir(t, dir, quietly())
		}
		rest := sequence
		for step := range steps {
			switch rest % kinds {
			case 0:
				log = append(log, "delete")
				for i := step; i < 30; i += 2 {
					delete(want, idOf(i))
					_, err := s.Delete(idOf(i))
					require.NoError(t, err)
				}
			case 1:
				log = append(log, "put")
				for i := 0; i < 30; i += 3 {
					put(i, step+1)
				}
			case 2:
				log = append(log, "compact")
				mustCompact(t, s)
			case 3:
				log = append(log, "reopen")
				reopen()
			}
			rest /= kinds
			if got := contentsOf(t, s); !maps.EqualFunc(got, want, bytes.Equal) {
				require.Failf(t, "wrong content", "after %v", log)
			}
		}
		reopen()
		requireSame(t, s, want)
		mustCompact(t, s)
		mustCompact(t, s)
		st := s.Stats()
		require.Zero(t, st.DeadBytes, "tombstones that never go, after %v", log)
		requireSame(t, s, want)
		reopen()
		requireSame(t, s, want)
		require.Zero(t, s.Stats().DeadBytes)
		require.NoError(t, s.Close())
		require.NoError(t, os.RemoveAll(dir))
	}
}

// Empty content is not nil, in the first step of an iteration either.
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

// tombstones counts those in the table.
func (s *Store) tombstones() (n int) {
	for _, seg := range s.segments.all() {
		n += len(seg.tombstones)
	}
	return n
}

// A deleted memory stays deleted although its tombstone's segment is compacted away, as long as its dead
// record lies in a segment that stays; when that one goes too, so does the tombstone. The older segment
// is kept out of a compaction by being marked as damaged.
func TestDirectory_TombstoneOutlivesOlderRecord(t *testing.T) {
	const gone, n = 0, 400
	dir := fastDir(t)
	opts := quietly()
	opts.Compaction.MaxOverhead = 1
	h := hooks{hash: oneLane}
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	fill(t, s, 0, n, 200)
	older := segmentOf(t, s, idOf(gone))
	require.True(t, older.is(stateSealed))
	deleteWhere(t, s, 0, n, func(i int) bool { return i == gone || i == n-1 })
	keep := func(i int) bool { return i != gone && i != n-1 }
	check := func() {
		t.Helper()
		requireContents(t, s, 0, n, 200, keep)
		require.NoError(t, s.Sync())
		copied := fastDir(t)
		copyDir(t, dir, copied)
		killed, err := open(copied, opts, h)
		require.NoError(t, err)
		requireContents(t, killed, 0, n, 200, keep)
		closeIntact(t, killed)
	}
	check()
	require.Equal(t, 2, s.tombstones())
	older.damaged.Store(true)
	mustCompact(t, s)
	require.True(t, older.is(stateSealed), "the older segment was not kept out of the compaction")
	require.Positive(t, s.tombstones(), "a tombstone is needed and gone")
	check()

	older.damaged.Store(false)
	mustCompact(t, s)
	require.True(t, older.is(stateRetired))
	mustCompact(t, s)
	check()
	require.Zero(t, s.tombstones(), "tombstones that nothing needs are left")
	require.Zero(t, s.Stats().DeadBytes)
	closeIntact(t, s)
}

// Goal: a tombstone is kept for the sake of a dead record in a segment that is active when the compaction
// looks for such records at the lanes, and sealed when it looks at the others.
//
// Method: the dead record is in a segment that a lane goes on in, so it is older than the tombstone in the
// victim. An automatic compaction leaves the lane alone; the lane rolls when the one look is over and the
// other is not.
func TestDirectory_TombstoneOutlivesRecordOfLaneThatRolls(t *testing.T) {
	const gone, n = 0, 100
	dir := fastDir(t)
	opts := quietly()
	opts.Maintenance.FragmentationThreshold = 0.6
	s, err := open(dir, opts, hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, n, 200)
	s.sealLanes(0)
	deleteWhere(t, s, 0, n, func(i int) bool { return i == gone })
	for s.lanes[0].active.room(1) > int(s.mergeableRoom())/2 {
		fill(t, s, n, n+1, 200)
	}
	victim := segmentOf(t, s, idOf(n)).id
	closeIntact(t, s)

	paused := pauseAt(pointCompactDead)
	s, err = open(dir, opts, hooks{hash: oneLane, at: paused.hook})
	require.NoError(t, err)
	next := n + 1
	put := func() *segment {
		fill(t, s, next, next+1, 200)
		next++
		return segmentOf(t, s, idOf(next-1))
	}
	wentOn := put()
	require.Same(t, segmentOf(t, s, idOf(1)), wentOn, "the lane has a new segment")
	compacted := make(chan error, 1)
	go func() {
		_, err := s.compact(context.Background(), triggerAuto)
		compacted <- err
	}()
	<-paused.reached
	require.True(t, wentOn.is(stateActive))
	for put() == wentOn {
	}
	require.True(t, wentOn.is(stateSealed))
	close(paused.proceed)
	require.NoError(t, <-compacted)
	for _, seg := range s.segments.all() {
		require.NotEqual(t, victim, seg.id, "no victim left")
	}
	require.Equal(t, 1, s.tombstones(), "the tombstone is needed and gone")

	copied := fastDir(t)
	copyDir(t, dir, copied)
	killed, err := open(copied, opts, hooks{hash: oneLane})
	require.NoError(t, err)
	requireContents(t, killed, 0, next, 200, func(i int) bool { return i != gone })
	closeIntact(t, killed)
	closeIntact(t, s)
}

// Tombstones of several rounds, and of segments that stay, go in the end: they do not keep each other.
// Which ones meet in a round depends on the hash, so there are several.
func TestDirectory_TombstonesVanish(t *testing.T) {
	for seed := range 40 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			tombstonesVanish(t, func(id string) uint64 {
				return sipHash(sipKey{k0: uint64(seed), k1: 1}, id)
			})
		})
	}
}

func tombstonesVanish(t *testing.T, hash func(id string) uint64) {
	dir := fastDir(t)
	opts := quietly()
	opts.Compaction.MaxOverhead = minSegmentSize
	reopen := func() *Store {
		s, err := open(dir, opts, hooks{hash: hash})
		require.NoError(t, err)
		return s
	}
	s := reopen()
	const n = 4000
	for range 3 {
		fill(t, s, 0, n, 200)
		deleteWhere(t, s, 0, n, odd)
		mustCompact(t, s)
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
		require.NoError(t, s.Close())
		s = reopen()
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
	}
	for range 3 {
		mustCompact(t, s)
	}
	require.Zero(t, s.Stats().DeadBytes)
	requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
	closeIntact(t, s)
}

// A random history, with closings and compactions in it, against a map.
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
						dir = dir2
					} else {
						closeIntact(t, s)
					}
					opts.SegmentSize = minSegmentSize << rng.IntN(3)
					if raceEnabled {
						dir = s.disk.fs.(*osFileSystem).dir // heap segments reach the file with Close only
					}
					s = openDir(t, dir, opts)
					requireSame(t, s, want)
				}
			}
			requireSame(t, s, want)
			closeIntact(t, s)
		})
	}
}

// ---- one owner ----

func TestDirectory_SecondOpenIsLocked(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quiet())
	require.NoError(t, s.Put("a", []byte("1")))
	for range 2 {
		for _, opts := range []Options{{}, {ReadOnly: true}, {Repair: true}} {
			_, err := Open(dir, &opts)
			require.ErrorIs(t, err, ErrLocked)
			require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))
		}
	}
	out, err := runDirectoryChild(t, "expect locked", dir, false)
	require.NoError(t, err, out)
	closeIntact(t, s)
	require.FileExists(t, filepath.Join(dir, lockName))

	// Readers share, and keep writers out.
	first := openDir(t, dir, &Options{ReadOnly: true})
	second := openDir(t, dir, &Options{ReadOnly: true})
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, first.Close())
	_, err = Open(dir, nil)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, second.Close())
	closeIntact(t, openDir(t, dir, quiet()))
}

// kill -9 frees the lock; the file stays, since another opener would lock a new one of its name.
func TestDirectory_LockFreedByKill(t *testing.T) {
	skipKillsUnderRace(t)
	r := newCrashRun(t, fastDir(t), 1, 1)
	c := r.c
	c.Next = []int{0}
	result := r.run(t, c, func(opened <-chan struct{}, kill func()) {
		<-opened
		_, err := Open(c.Dir, nil)
		if !errors.Is(err, ErrLocked) {
			t.Errorf("opened beside a running child: %v", err)
		}
		kill()
	})
	require.True(t, result.killed)
	before, err := os.Stat(filepath.Join(c.Dir, lockName))
	require.NoError(t, err)
	for range 3 {
		s := openDir(t, c.Dir, quiet())
		require.NoError(t, s.Close())
		after, err := os.Stat(filepath.Join(c.Dir, lockName))
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after), "the lock file was replaced")
	}
}

// A process that is being forked holds a copy of every descriptor until it executes something else.
// It must not hold the lock.
func TestDirectory_LockFreedWithCopiedDescriptor(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quiet())
	copied, err := syscall.Dup(int(s.disk.lock.Fd()))
	require.NoError(t, err)
	defer func() { _ = syscall.Close(copied) }()
	require.NoError(t, s.Close())
	s, err = Open(dir, quiet())
	require.NoError(t, err)
	require.NoError(t, s.Close())
}

// ---- read-only ----

func TestDirectory_ReadOnly(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			if killed {
				skipKillsUnderRace(t)
			}
			dir := fastDir(t)
			s := openDir(t, dir, quietly())
			want := map[string][]byte{}
			for i := range 400 {
				want[idOf(i)] = contentOf(i, 0, 300)
				require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
			}
			if killed {
				copied := fastDir(t)
				copyDir(t, dir, copied)
				require.NoError(t, s.Close())
				dir = copied
			} else {
				require.NoError(t, s.Close())
			}
			before := snapshot(t, dir)
			lock, err := os.ReadFile(filepath.Join(dir, lockName))
			require.NoError(t, err)
			s = openDir(t, dir, &Options{ReadOnly: true})
			requireSame(t, s, want)
			requireReadOnly(t, s)
			requireIntact(t, s)
			require.NoError(t, s.Close())
			require.Equal(t, before, snapshot(t, dir))
			after, err := os.ReadFile(filepath.Join(dir, lockName))
			require.NoError(t, err)
			require.Equal(t, lock, after)
		})
	}
}

// requireReadOnly tries everything that writes.
func requireReadOnly(t testing.TB, s *Store) {
	t.Helper()
	require.ErrorIs(t, s.Put(idOf(0), []byte("x")), ErrReadOnly)
	require.ErrorIs(t, s.Put("new", make([]byte, 2<<20)), ErrReadOnly)
	_, err := s.Delete(idOf(1))
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, ErrReadOnly)
	_, err = s.Maintain(context.Background())
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, s.Sync())
}

// A user who may read the directory and not write to it can open it read-only.
func TestDirectory_ReadOnlyWithoutPermission(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	for name := range snapshot(t, dir) {
		require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o444))
	}
	require.NoError(t, os.Chmod(dir, 0o555))
	before := snapshot(t, dir)
	out, err := runDirectoryChild(t, "read without permission", dir, true)
	require.NoError(t, err, out)
	require.Equal(t, before, snapshot(t, dir))

	// Without a lock file it works too: nobody can be writing who has not made one.
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Remove(filepath.Join(dir, lockName)))
	require.NoError(t, os.Chmod(dir, 0o555))
	out, err = runDirectoryChild(t, "read without permission", dir, true)
	require.NoError(t, err, out)
	require.NoError(t, os.Chmod(dir, 0o755))
}

func TestDirectory_ReadOnlyNeedsAStore(t *testing.T) {
	dir := fastDir(t)
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		_, err := Open(path, &Options{ReadOnly: true})
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.Empty(t, snapshot(t, dir))
}

// ---- the directory ----

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

// Files of others stay as they are, whatever their names.
func TestDirectory_LeavesOtherFilesAlone(t *testing.T) {
	dir := fastDir(t)
	others := []string{"notes.txt", "1.seg", "000000000000000G.seg", "0000000000000001.seg.bak", "0000000000000000.seg",
		"00000000000000AB.seg", ".seg", "manifest", "LOCK.old", "0000000000000007.seg.damaged"}
	for _, name := range others {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o750))
	before := snapshot(t, dir)
	for round := range 3 {
		s := openDir(t, dir, quietly())
		require.Equal(t, min(round, 1)*250, s.Len())
		fill(t, s, 0, 500, 300)
		deleteWhere(t, s, 0, 500, odd)
		mustCompact(t, s)
		closeIntact(t, s)
		after := snapshot(t, dir)
		for name, what := range before {
			require.Equal(t, what, after[name], name)
		}
	}
}

// What is not what its name says is refused: symbolic links, directories, pipes. Who can plant them
// could have the store write elsewhere, or wait for ever.
func TestDirectory_RefusesOddFiles(t *testing.T) {
	kinds := map[string]func(t *testing.T, path, elsewhere string){
		"symbolic link": func(t *testing.T, path, elsewhere string) {
			require.NoError(t, os.Symlink(elsewhere, path))
		},
		"dangling link": func(t *testing.T, path, elsewhere string) {
			require.NoError(t, os.Symlink(elsewhere+"-not", path))
		},
		"directory": func(t *testing.T, path, _ string) { require.NoError(t, os.Mkdir(path, 0o700)) },
		"pipe":      func(t *testing.T, path, _ string) { require.NoError(t, syscall.Mkfifo(path, 0o600)) },
	}
	// What these are can be put out of the way.
	aside := []string{manifestTempName, spareFileName(targetSpare), hintName}
	for kind, plant := range kinds {
		for _, name := range []string{
			lockName, manifestName, "segment", "new segment", "unfinished segment", manifestTempName,
			spareFileName(targetSpare), hintName,
		} {
			for _, readOnly := range []bool{false, true} {
				title := strings.ReplaceAll(fmt.Sprintf("%s/%s/readonly=%v", kind, name, readOnly), " ", "_")
				t.Run(title, func(t *testing.T) {
					t.Parallel()
					name := name // of this subtest: changed below
					dir := fastDir(t)
					s := openDir(t, dir, quietly())
					fill(t, s, 0, 100, 100)
					require.NoError(t, s.Close())
					m := readManifestOf(t, dir)
					mustOpen := false
					switch name {
					case "segment":
						name = segmentFileName(m.listed[0])
					case "new segment":
						name = segmentFileName(m.next + 5)
					case "unfinished segment":
						name, mustOpen = segmentFileName(m.next+5)+newSuffix, readOnly
					case manifestTempName, spareFileName(targetSpare), hintName:
						mustOpen = readOnly
					}
					path := filepath.Join(dir, name)
					elsewhere := filepath.Join(fastDir(t), "elsewhere")
					if err := os.Rename(path, elsewhere); err != nil {
						require.NoError(t, os.WriteFile(elsewhere, []byte("elsewhere"), 0o600))
					}
					plant(t, path, elsewhere)
					target, err := os.ReadFile(elsewhere)
					require.NoError(t, err)
					before := snapshot(t, dir)

					opts := quietly()
					opts.ReadOnly = readOnly
					s, err = openInTime(t, dir, opts, path)
					switch {
					case err == nil:
						requireContents(t, s, 0, 100, 100, all)
						require.NoError(t, s.Close())
						require.True(t, mustOpen || slices.Contains(aside, name))
					case mustOpen:
						require.NoError(t, err)
					default:
						if !slices.Contains(aside, name) {
							require.Equal(t, before, snapshot(t, dir))
						}
					}
					after, err := os.ReadFile(elsewhere)
					require.NoError(t, err)
					require.Equal(t, target, after, "written through the link")
				})
			}
		}
	}
}

// openInTime fails the test when Open waits for somebody to open the pipe at path.
func openInTime(t *testing.T, dir string, opts *Options, path string) (*Store, error) {
	t.Helper()
	type result struct {
		s   *Store
		err error
	}
	done := make(chan result, 1)
	go func() {
		s, err := Open(dir, opts)
		done <- result{s, err}
	}()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.s, r.err
	case <-timer.C:
	}
	if w, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
		defer func() { _ = w.Close() }() // lets the opener go
	}
	require.Fail(t, "Open waits for a pipe", path)
	return nil, nil
}

func TestDirectory_NotADirectory(t *testing.T) {
	dir := fastDir(t)
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("text"), 0o600))
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for _, path := range []string{file, pipe, filepath.Join(file, "below")} {
		for _, readOnly := range []bool{false, true} {
			opts := quietly()
			opts.ReadOnly = readOnly
			_, err := openInTime(t, path, opts, pipe)
			require.Error(t, err)
		}
	}
	out, err := runDirectoryChild(t, "unwritable", dir, true)
	require.NoError(t, err, out)
}

// ---- files that are not the store's ----

// closedStore fills dir with a store of several segments, some of them targets, and returns what is
// in it.
func closedStore(t testing.TB, dir string, version int) map[string][]byte {
	t.Helper()
	opts := quietly()
	opts.Compaction.MaxOverhead = minSegmentSize
	s := openDir(t, dir, opts)
	want := map[string][]byte{}
	for i := range 600 {
		want[idOf(i)] = contentOf(i, version, 300)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	for i := 0; i < 600; i += 2 {
		delete(want, idOf(i))
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
	}
	mustCompact(t, s)
	for i := range 500 {
		want[idOf(i)] = contentOf(i, version+1, 300)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	require.NoError(t, s.Close())
	return want
}

// kindOf reads the kind of a segment file.
func kindOf(t testing.TB, dir, name string) segmentKind {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	h, err := decodeFileHeader(b)
	require.NoError(t, err)
	return h.kind
}

func firstOfKind(t testing.TB, dir string, kind segmentKind) string {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		if kindOf(t, dir, name) == kind {
			return name
		}
	}
	require.Fail(t, "no segment of this kind")
	return ""
}

// Segment files that are missing, exchanged, doubled or another store's: not opened, and nothing is
// changed, least of all removed.
func TestDirectory_WrongSegmentFiles(t *testing.T) {
	move := func(t *testing.T, from, to string) { require.NoError(t, os.Rename(from, to)) }
	duplicate := func(t *testing.T, from, to string) {
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(to, b, 0o600))
	}
	// A free id below next is that of a victim that is gone.
	gone := func(t *testing.T, dir string) string {
		m := readManifestOf(t, dir)
		for id := m.next - 1; id > 0; id-- {
			if !slices.Contains(m.listed, id) {
				return filepath.Join(dir, segmentFileName(id))
			}
		}
		require.Fail(t, "no free id")
		return ""
	}
	later := func(t *testing.T, dir string) string {
		return filepath.Join(dir, segmentFileName(readManifestOf(t, dir).next+3))
	}
	for name, c := range map[string]struct {
		do       func(t *testing.T, dir, foreign string)
		harmless bool // may also be opened, with the right content
	}{
		"missing": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Remove(filepath.Join(dir, segmentFiles(t, dir)[0])))
		}},
		"all missing": {do: func(t *testing.T, dir, _ string) {
			for _, name := range segmentFiles(t, dir) {
				require.NoError(t, os.Remove(filepath.Join(dir, name)))
			}
		}},
		"empty": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, segmentFiles(t, dir)[0]), 0))
		}},
		"exchanged": {do: func(t *testing.T, dir, _ string) {
			names := segmentFiles(t, dir)
			a, b := filepath.Join(dir, names[0]), filepath.Join(dir, names[1])
			move(t, a, a+".tmp")
			move(t, b, a)
			move(t, a+".tmp", b)
		}},
		"overwritten by another": {do: func(t *testing.T, dir, _ string) {
			names := segmentFiles(t, dir)
			duplicate(t, filepath.Join(dir, names[0]), filepath.Join(dir, names[1]))
		}},
		"lane's doubled under a later id": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, kindLane)), later(t, dir))
		}},
		"target doubled under a later id": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, kindTarget)), later(t, dir))
		}},
		"doubled under the id of a victim": {harmless: true, do: func(t *testing.T, dir, _ string) {
			duplicate(t, filepath.Join(dir, firstOfKind(t, dir, kindLane)), gone(t, dir))
		}},
		"another store's in place of one": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, kindLane)), filepath.Join(dir, segmentFiles(t, dir)[0]))
		}},
		"another store's lane under a later id": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, kindLane)), later(t, dir))
		}},
		"another store's target under a later id": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, kindTarget)), later(t, dir))
		}},
		"another store's under the id of a victim": {harmless: true, do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, firstOfKind(t, foreign, kindLane)), gone(t, dir))
		}},
		"another store's manifest": {do: func(t *testing.T, dir, foreign string) {
			duplicate(t, filepath.Join(foreign, manifestName), filepath.Join(dir, manifestName))
		}},
		"manifest missing": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Remove(filepath.Join(dir, manifestName)))
		}},
		"manifest empty": {do: func(t *testing.T, dir, _ string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, manifestName), 0))
		}},
	} {
		for _, hint := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/hint=%v", strings.ReplaceAll(name, " ", "_"), hint), func(t *testing.T) {
				t.Parallel()
				dir, foreign := fastDir(t), fastDir(t)
				want := closedStore(t, dir, 1)
				closedStore(t, foreign, 7)
				if !hint {
					require.NoError(t, os.Remove(filepath.Join(dir, hintName)))
				}
				c.do(t, dir, foreign)
				before := snapshot(t, dir)
				for _, readOnly := range []bool{true, false} {
					opts := quietly()
					opts.ReadOnly = readOnly
					s, err := Open(dir, opts)
					if err == nil && c.harmless {
						requireSame(t, s, want)
						require.NoError(t, s.Close())
						continue
					}
					require.ErrorIs(t, err, ErrCorrupt)
					require.Equal(t, before, snapshot(t, dir))
				}
			})
		}
	}
}

// A file of a later format version is refused, and nothing is changed.
func TestDirectory_LaterFormatVersion(t *testing.T) {
	later := func(t *testing.T, path string, sum func(b []byte)) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		binary.LittleEndian.PutUint32(b[8:], formatVersion+1)
		sum(b)
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	laterSegment := func(t *testing.T, path string) {
		later(t, path, func(b []byte) { binary.LittleEndian.PutUint32(b[48:], checksum(b[8:48])) })
	}
	for name, change := range map[string]func(t *testing.T, dir string){
		"manifest": func(t *testing.T, dir string) {
			later(t, filepath.Join(dir, manifestName), func(b []byte) {
				first := b[:len(b)/2]
				binary.LittleEndian.PutUint32(first[len(first)-4:], checksum(first[:len(first)-4]))
				copy(b[len(first):], first)
			})
		},
		"manifest with another checksum": func(t *testing.T, dir string) {
			later(t, filepath.Join(dir, manifestName), func(b []byte) { copy(b[len(b)/2:], b[:len(b)/2]) })
		},
		"segment": func(t *testing.T, dir string) {
			laterSegment(t, filepath.Join(dir, segmentFiles(t, dir)[1]))
		},
		"segment that is not listed": func(t *testing.T, dir string) {
			path := filepath.Join(dir, segmentFileName(readManifestOf(t, dir).next+2))
			b, err := os.ReadFile(filepath.Join(dir, segmentFiles(t, dir)[0]))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, b, 0o600))
			laterSegment(t, path)
		},
	} {
		for _, rebooted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/rebooted=%v", strings.ReplaceAll(name, " ", "_"), rebooted), func(t *testing.T) {
				t.Parallel()
				dir := fastDir(t)
				closedStore(t, dir, 1)
				change(t, dir)
				before := snapshot(t, dir)
				var h hooks
				if rebooted {
					h.boot = func() [16]byte { return [16]byte{1} }
				}
				for _, opts := range []Options{{ReadOnly: true}, {}, {Repair: true}} {
					_, err := open(dir, &opts, h)
					require.ErrorIs(t, err, ErrVersion)
					require.Equal(t, before, snapshot(t, dir))
				}
			})
		}
	}
	t.Run("hint", func(t *testing.T) { // worth nothing but time
		dir := fastDir(t)
		want := closedStore(t, dir, 1)
		later(t, filepath.Join(dir, hintName), func([]byte) {})
		s := openDir(t, dir, quietly())
		requireSame(t, s, want)
		closeIntact(t, s)
	})
}

// ---- faults ----

// A segment file cut short under an open store: calls that need its pages return ErrCorrupt, others
// go on, no lock stays held, the process lives.
func TestDirectory_CutShortUnderOpenStore(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{
		"cut sealed to 0", "cut sealed to 64", "cut sealed to 4096", "cut sealed to 32768", "cut sealed to 61440",
		"cut active to 0", "cut active to 4096", "cut target to 0", "cut target to 4096",
		"cut large to 0", "cut large to 40960",
		"cut all to 0",
	} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

func skipFaultsUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector segments are on the heap, which has no faults")
	}
}

// A file that no manifest lists yet is not taken for one that was never filled when its header is gone, cut
// off or overwritten with zeros, and not for nothing by a repair: it may hold the newest version of anything.
func TestDirectory_UnlistedFileWithoutHeader(t *testing.T) {
	if raceEnabled {
		t.Skip("heap segments reach their files with Sync and Close only")
	}
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	require.NoError(t, s.Put("a", []byte("acknowledged, and never synced")))
	killed := fastDir(t)
	copyDir(t, dir, killed)
	require.NoError(t, s.Close())
	names := segmentFiles(t, killed)
	require.Len(t, names, 1)
	require.Empty(t, readManifestOf(t, killed).listed)
	path := filepath.Join(killed, names[0])
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, zeros := range []int{8, 64, segmentHeaderSize, 512, 4096} {
		require.NoError(t, os.WriteFile(path, slices.Concat(make([]byte, zeros), whole[zeros:]), fileMode))
		_, err := Open(killed, quietly())
		require.ErrorIs(t, err, ErrCorrupt, "%d zeros", zeros)
		require.FileExists(t, path)
	}
	require.NoError(t, os.WriteFile(path, whole, fileMode))
	for size := segmentHeaderSize + 20; size >= 0; size-- {
		require.NoError(t, os.Truncate(path, int64(size)))
		_, err := Open(killed, quietly())
		require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", size)
		require.FileExists(t, path)
		repair := quietly()
		repair.Repair = true
		_, err = Open(killed, repair)
		require.ErrorIs(t, err, ErrCorrupt, "repair of a file cut to %d bytes", size)
		require.ErrorContains(t, err, "nothing says of which memories")
	}
}

// A file gets its name when it has its header. What a kill left before that is removed by the next Open.
func TestDirectory_UnfinishedFileIsRemoved(t *testing.T) {
	d := newShadow()
	var s *Store
	var killed []*shadowFS
	s, err := openShadow(d, shadowOptions(), hooks{at: func(p point) error {
		if p == pointSegmentCreated {
			killed = append(killed, d.kill())
		}
		return nil
	}})
	require.NoError(t, err)
	require.NoError(t, s.Put("a", nil))
	require.NoError(t, s.Put("b", nil))
	require.NoError(t, s.Put("large", make([]byte, 1<<20)))
	_, err = s.Delete("a")
	require.NoError(t, err)
	mustCompact(t, s)
	require.NoError(t, s.Close())
	require.GreaterOrEqual(t, len(killed), 3)
	for _, d := range killed {
		before, err := d.names()
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(before, func(name string) bool { return strings.HasSuffix(name, newSuffix) }))
		s, err := openShadow(d, shadowOptions(), hooks{})
		require.NoError(t, err)
		strays, err := d.strays()
		require.NoError(t, err)
		require.Empty(t, strays)
		require.NoError(t, s.Close())
	}
}

// A segment file that never got its name is no store, in a directory of its own neither: what is of no other
// store is removed, what is stays as it is, and the first write finds a name that is free.
func TestDirectory_UnfinishedFileInDirectory(t *testing.T) {
	header := func(store storeID) []byte {
		mem := make([]byte, minSegmentSize)
		fileHeader{kind: kindLane, id: 1, capacity: minSegmentSize, store: store}.encode(mem)
		return mem
	}
	for _, c := range []struct {
		what    string
		content func(own storeID) []byte
		stays   bool
	}{
		{what: "empty", content: func(storeID) []byte { return nil }},
		{what: "zeros", content: func(storeID) []byte { return make([]byte, minSegmentSize) }},
		{what: "part of a header", content: func(own storeID) []byte { return header(own)[:40] }},
		{what: "header", content: header},
		{what: "header of another store", content: func(storeID) []byte { return header(storeID{1}) }, stays: true},
		{what: "other bytes", content: func(storeID) []byte { return []byte("notes") }, stays: true},
	} {
		for _, beside := range []string{"nothing", "lock", "store"} {
			for _, id := range []uint64{1, 2, math.MaxUint64} {
				t.Run(fmt.Sprintf("%s/beside %s/%x", c.what, beside, id), func(t *testing.T) {
					t.Parallel()
					dir := fastDir(t)
					var own storeID
					switch beside {
					case "lock":
						require.NoError(t, os.WriteFile(filepath.Join(dir, lockName), []byte("1"), fileMode))
					case "store":
						require.NoError(t, openDir(t, dir, quietly()).Close())
						own = readManifestOf(t, dir).store
					}
					path := filepath.Join(dir, segmentFileName(id)+newSuffix)
					content := c.content(own)
					require.NoError(t, os.WriteFile(path, content, fileMode))
					stays := c.stays || beside != "store" && c.what == "header" // nobody knows of which store
					for round := range 3 {
						s := openDir(t, dir, quietly())
						require.Equal(t, min(round, 1)*250, s.Len())
						fill(t, s, 0, 500, 300) // several segments
						deleteWhere(t, s, 0, 500, odd)
						mustCompact(t, s)
						closeIntact(t, s)
						if !stays {
							require.NoFileExists(t, path)
							continue
						}
						after, err := os.ReadFile(path)
						require.NoError(t, err)
						require.Equal(t, content, after)
					}
				})
			}
		}
	}
}

// A compaction on a full disk decides how many victims fit into one target without reading them: a file
// that was cut short is an error of the call that copies from it.
func TestDirectory_FittingReadsNothing(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 150, 300)
	require.NoError(t, s.Sync())
	s.sealLanes(0)
	deleteWhere(t, s, 0, 150, odd)
	s.sealLanes(0)
	c := &compaction{s: s, start: time.Now(), maxTargets: 1}
	c.chooseVictims()
	c.work = c.victims
	buried := 0
	for _, v := range c.work {
		buried += len(v.seg.tombstones)
		require.NoError(t, os.Truncate(filepath.Join(dir, v.seg.name()), 0))
	}
	require.Positive(t, buried)
	func() {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		require.NotPanics(t, func() { require.Positive(t, c.fitting()) })
	}()
	_ = s.Close() // returns; its flush may find the files cut
}

// A file that loses its pages between its making and its first use.
func TestDirectory_CutShortWhenMade(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{
		"made cut: put", "made cut: large put", "made cut: delete", "made cut: compact", "made cut: sync",
	} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// The bytes a callback or a loop holds go away while it reads them.
func TestDirectory_CutShortInCallback(t *testing.T) {
	skipFaultsUnderRace(t)
	for _, scenario := range []string{"cut in view", "cut in view of a retired segment", "cut in all"} {
		t.Run(strings.ReplaceAll(scenario, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, scenario, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// Bytes that change in the file behind the store's back are noticed.
func TestDirectory_PageChangedBehindTheStore(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 500, 300)
	mustCompact(t, s)
	rng := seeded(t)
	for range 25 {
		i := rng.IntN(500)
		content := contentOf(i, 0, 300)
		name, at := findInFiles(t, dir, content)
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		require.NoError(t, err)
		at += int64(rng.IntN(300))
		var b [1]byte
		_, err = f.ReadAt(b[:], at)
		require.NoError(t, err)
		flipped := [1]byte{b[0] ^ 1<<rng.IntN(8)}
		_, err = f.WriteAt(flipped[:], at)
		require.NoError(t, err)

		_, err = s.Get(idOf(i))
		require.ErrorIs(t, err, ErrCorrupt)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, name, filepath.Base(corrupt.File))
		require.Equal(t, idOf(i), corrupt.ID)
		require.ErrorIs(t, s.View(idOf(i), func([]byte) error { return nil }), ErrCorrupt)
		for id := range s.All() {
			require.NotEqual(t, idOf(i), id)
		}
		report, err := s.Verify(context.Background())
		require.ErrorIs(t, err, ErrCorrupt)
		require.Equal(t, 1, report.FindingCount, "%+v", report.Findings)
		require.Equal(t, idOf(i), report.Findings[0].ID)

		_, err = f.WriteAt(b[:], at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, content, got)
	}
	closeIntact(t, s)
}

// findInFiles returns where content is.
func findInFiles(t testing.TB, dir string, content []byte) (name string, at int64) {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		if at := bytes.Index(b, content); at >= 0 {
			return name, int64(at)
		}
	}
	require.Fail(t, "content is in no file")
	return "", 0
}

// ---- resources ----

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

	// Failed opens too.
	require.NoError(t, os.Truncate(filepath.Join(dir, segmentFiles(t, dir)[0]), 4096))
	for range scaled(50) {
		_, err := Open(dir, quietly())
		require.ErrorIs(t, err, ErrCorrupt)
	}
	d, m := count()
	require.Zero(t, d)
	require.Zero(t, m)
}

// diskBytes is the space the files of dir take.
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

// Goal: a segment of which a page cannot be had ends one compaction, and the next one does without it.
func TestDirectory_UnreadableSegmentIsLeftAlone(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	const n = 2000
	fill(t, s, 0, n, 300)
	deleteWhere(t, s, 0, n, odd)
	s.sealLanes(0)
	require.NoError(t, s.Sync())
	cut := segmentOf(t, s, idOf(0))
	require.NoError(t, os.Truncate(filepath.Join(dir, cut.name()), int64(pageSize)))
	before := settled(s).DeadBytes

	_, err := s.Compact(context.Background())
	var damage *CorruptError
	require.ErrorAs(t, err, &damage)
	require.Equal(t, cut.name(), damage.File)
	require.Equal(t, before, s.Stats().DeadBytes, "the round was not undone")
	mustCompact(t, s)
	require.Less(t, s.Stats().DeadBytes, before/2)
	require.True(t, cut.is(stateSealed))
	require.ErrorIs(t, s.Close(), ErrCorrupt)
}

// Opening, writing a little and closing, over and over, leaves no trail of files.
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
	require.NoError(t, os.Remove(filepath.Join(dir, hintName)))
	s := openDir(t, dir, quietly())
	requireSame(t, s, want)
	mustCompact(t, s)
	requireSame(t, s, want)
	closeIntact(t, s)
}

// A lane does not go on in a segment behind whose end something lies: it could count as a record.
func TestDirectory_UnfilledOnlyWhenZero(t *testing.T) {
	for _, at := range []int{200, minSegmentSize - digestSize*3} {
		d := newShadow()
		s := oneLaneStore(t, d)
		require.NoError(t, s.Put("a", nil))
		require.NoError(t, s.Close())
		require.Contains(t, d.files, hintName)
		d.damage(d.segmentNames()[0], at)
		s = oneLaneStore(t, d)
		require.NoError(t, s.Put("b", nil))
		require.Len(t, s.segments.all(), 2)
		closeShadow(t, s, d)
	}
}

// Goal: a lane that needs a segment while a compaction runs does not go on in a victim.
//
// The interleaving: after Open lanes may go on in segments that the last Close sealed with room left. A
// compaction has chosen one of them, and a Put comes: what it stores there goes with the victim.
func TestDirectory_LaneGoesOnInNoVictim(t *testing.T) {
	const n = 100
	dir := fastDir(t)
	for _, at := range []point{pointCompactSealed, pointCompactWalked, pointCompactBuilt, pointCompactCommitted} {
		s, err := open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		fill(t, s, 0, n, 200)
		deleteWhere(t, s, 0, n, odd)
		require.NoError(t, s.Close())

		s, err = open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		require.NotEmpty(t, s.segments.unfilled)
		s.hooks.at = doAt(at, 1, func() {
			if err := s.Put(idOf(n), contentOf(n, 1, 200)); err != nil {
				t.Error(err)
			}
		})
		mustCompact(t, s)
		s.hooks.at = nil
		got, err := s.Get(idOf(n))
		require.NoError(t, err, "stored at: %s", at)
		require.Equal(t, contentOf(n, 1, 200), got)
		_, err = s.Delete(idOf(n))
		require.NoError(t, err)
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
		closeIntact(t, s)
	}
}

// What a power loss cut off does not count again behind a new record.
func TestPower_NoRecordComesBack(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	hash := func(string) uint64 { return 0 } // one lane
	s, err := openShadow(d, opts, hooks{hash: hash})
	require.NoError(t, err)
	require.NoError(t, s.Put("kept", nil))
	require.NoError(t, s.Sync())
	require.NoError(t, s.Put("lost", contentOf(1, 1, 1000)))
	require.NoError(t, s.Put("lost with it", nil))
	seg := s.lanes[0].active
	at := seg.synced.Load()
	name := seg.name()
	kept := func() bool { return true }
	lost := d.crash(loss{sector: kept, operation: func(int, int) bool { return true }})
	for _, b := range [][]byte{lost.files[name].current, lost.files[name].durable} {
		clear(b[at : at+100]) // of the first of two records that were not synced
	}
	require.NoError(t, s.Close())

	s, err = openShadow(lost, opts, hooks{hash: hash})
	require.NoError(t, err)
	require.True(t, s.Has("kept"))
	require.False(t, s.Has("lost"))
	require.False(t, s.Has("lost with it"))
	require.NoError(t, s.Put("lost", contentOf(2, 2, 1000))) // as long as the one before
	killed := lost.kill()
	require.NoError(t, s.Close())
	s, err = openShadow(killed, opts, hooks{hash: hash})
	require.NoError(t, err)
	require.True(t, s.Has("lost"))
	require.False(t, s.Has("lost with it"), "it was gone")
	require.NoError(t, s.Close())
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

// ---- syncing ----

// unsynced is how many bytes a power loss could take.
func unsynced(s *Store) (n int64) {
	for _, seg := range s.segments.all() {
		n += seg.tail.Load() - seg.synced.Load()
	}
	return n
}

func TestDirectory_BackgroundSync(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		opts := quiet()
		opts.SyncInterval = 50 * time.Millisecond
		s := openDir(t, dir, opts)
		for range 10 {
			fill(t, s, 0, 100, 100)
			require.Positive(t, unsynced(s))
			<-time.After(2 * opts.SyncInterval)
			synctest.Wait()
			require.Zero(t, unsynced(s))
		}
		require.NoError(t, s.Close())

		opts.SyncInterval = -1
		s = openDir(t, dir, opts)
		fill(t, s, 0, 100, 100)
		<-time.After(time.Hour)
		synctest.Wait()
		require.Positive(t, unsynced(s))
		require.NoError(t, s.Sync())
		require.Zero(t, unsynced(s))
		require.NoError(t, s.Close())
	})
}

// Close waits for a Put that has a file of its own under way: whoever opens the directory next may list
// the file, and the Put would remove it when it finds the store closed.
func TestDirectory_CloseWaitsForLargePut(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		paused := pauseAt(pointSegmentMade)
		s, err := open(dir, quietly(), hooks{at: paused.hook})
		require.NoError(t, err)
		put, closed := make(chan error, 1), make(chan error, 1)
		go func() { put <- s.Put("large", make([]byte, 2<<20)) }()
		<-paused.reached
		go func() { closed <- s.Close() }()
		synctest.Wait()
		require.Empty(t, closed, "closed, with a file that nobody owns")
		close(paused.proceed)
		require.NoError(t, <-put)
		require.NoError(t, <-closed)
		require.ErrorIs(t, s.Put("large", make([]byte, 2<<20)), ErrClosed)
	})
	s := openDir(t, dir, quietly())
	require.True(t, s.Has("large"))
	closeIntact(t, s)
	s = openDir(t, dir, quietly())
	require.True(t, s.Has("large"))
	closeIntact(t, s)
}

// Close waits for calls that have a flush of their own to make: one that came when the segments are leaving
// the table would list a part of them.
func TestDirectory_CloseWaitsForSyncWrites(t *testing.T) {
	for _, call := range []string{"put", "delete"} {
		t.Run(call, func(t *testing.T) {
			dir := fastDir(t)
			synctest.Test(t, func(t *testing.T) {
				var armed, sealed atomic.Bool
				paused := pauseAt(pointFlushed)
				opts := quietly()
				opts.SyncWrites = true
				s, err := open(dir, opts, hooks{at: func(p point) error {
					sealed.Store(sealed.Load() || p == pointCloseSealed)
					if armed.Load() {
						return paused.hook(p)
					}
					return nil
				}})
				require.NoError(t, err)
				require.NoError(t, s.Put("a", []byte("b")))
				armed.Store(true)
				written, closed := make(chan error, 1), make(chan error, 1)
				go func() {
					if call == "put" {
						written <- s.Put("a", []byte("c"))
						return
					}
					_, err := s.Delete("a")
					written <- err
				}()
				<-paused.reached
				go func() { closed <- s.Close() }()
				synctest.Wait()
				require.False(t, sealed.Load(), "Close went on beside a flush")
				close(paused.proceed)
				require.NoError(t, <-written)
				require.NoError(t, <-closed)
			})
		})
	}
}

// Writers that come while a flush runs share the next one, and none returns before it: what the running one
// makes durable was noted before their records. Method: the first writer is held in its flush until the
// records of all others are written, and one of them in the flush they share until all wait for it.
func TestDirectory_WritersShareFlush(t *testing.T) {
	dir := fastDir(t)
	const writers = 8
	synctest.Test(t, func(t *testing.T) {
		opts := quietly()
		opts.SyncWrites = true
		first, second := pauseAt(pointFlushed), pauseAt(pointFlushed)
		var appended atomic.Int64
		s, err := open(dir, opts, hooks{at: func(p point) error {
			if p == pointPutAppended {
				appended.Add(1)
			}
			if first.once.Load() { // it has one segment to flush, so whoever comes next is of another flush
				return second.hook(p)
			}
			return first.hook(p)
		}})
		require.NoError(t, err)
		returned := make(chan error, writers)
		put := func(i int) { returned <- s.Put(idOf(i), contentOf(i, 0, 100)) }
		go put(0)
		<-first.reached
		for i := 1; i < writers; i++ {
			go put(i)
		}
		synctest.Wait()
		require.EqualValues(t, writers, appended.Load(), "records written while a flush runs")
		require.Empty(t, returned, "acknowledged, and not durable")
		close(first.proceed)
		synctest.Wait()
		require.Len(t, returned, 1, "acknowledged, and only the first record is durable")
		close(second.proceed)
		for range writers {
			require.NoError(t, <-returned)
		}
		require.Zero(t, unsynced(s))
		require.EqualValues(t, 2, s.disk.ended, "flushes, one of them of all writers but the first")
		closeIntact(t, s)
	})
}

// Writers beside each other are durable one by one, whichever of them share a flush.
func TestDirectory_SyncWrites(t *testing.T) {
	dir := fastDir(t)
	opts := quietly()
	opts.SyncWrites = true
	s := openDir(t, dir, opts)
	const writers = 8
	each := scaled(200)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				id := w*each + i
				if err := s.Put(idOf(id), contentOf(id, 0, 100)); err != nil {
					t.Errorf("put: %v", err)
				}
				if odd(i) {
					if existed, err := s.Delete(idOf(id)); err != nil || !existed {
						t.Errorf("delete: %v %v", existed, err)
					}
				}
			}
		})
	}
	group.Wait()
	require.Zero(t, unsynced(s))
	t.Logf("%d writes, %d flushes", writers*each*3/2, s.disk.ended)
	requireContents(t, s, 0, writers*each, 100, func(i int) bool { return !odd(i % each) })
	closeIntact(t, s)
	s = openDir(t, dir, opts)
	requireContents(t, s, 0, writers*each, 100, func(i int) bool { return !odd(i % each) })
	closeIntact(t, s)
}

// A manifest written between the commit of a round and its swap, by a Sync that ran meanwhile, must
// not bring the victims back: their files are removed next.
func TestDirectory_SyncBetweenCommitAndSwap(t *testing.T) {
	dir := fastDir(t)
	var s *Store
	var once sync.Once
	var meanwhile sync.WaitGroup
	h := hooks{at: func(p point) error {
		if p != pointManifestRenamed || s == nil || !s.compacting.Load() {
			return nil
		}
		once.Do(func() {
			holding := make(chan struct{})
			meanwhile.Go(func() {
				defer s.contentMu.RUnlock(s.contentMu.RLock()) // the swap has to wait
				close(holding)
				if err := s.listSegments(); err != nil { // the last step of a Sync; has to wait for the commit
					t.Errorf("sync: %v", err)
				}
			})
			<-holding
		})
		return nil
	}}
	opened, err := open(dir, quietly(), h)
	require.NoError(t, err)
	s = opened
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, odd)
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	meanwhile.Wait()
	m := readManifestOf(t, dir)
	for _, id := range m.listed {
		require.FileExists(t, filepath.Join(dir, segmentFileName(id)), "listed, and removed")
	}
	copied := fastDir(t)
	copyDir(t, dir, copied)
	if !raceEnabled { // heap segments have not reached their files
		s2 := openDir(t, copied, quietly())
		requireContents(t, s2, 0, 1000, 200, func(i int) bool { return !odd(i) })
		closeIntact(t, s2)
	}
	closeIntact(t, s)
}

// What was deleted is in no file after a compaction and a Sync.
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

// A process out of descriptors, or over its limit of a file's size, gets errors from the calls that
// need a file; the others go on, and with the limit gone everything does.
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

// childLimits is the process under the limit.
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
	_, err = s.Compact(context.Background()) // nothing is dead: what it does is its own affair
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

// ---- copies ----

// A copy of a directory that is being written to, file after file: no point in time, but per memory
// a version from while the copy was made; or it is refused.
func TestDirectory_CopyOfLiveStore(t *testing.T) {
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
		copyDir(t, dir, copied)
		for i := range memories {
			to[i] = begun[i].Load()
		}
		s2, err := Open(copied, quietly())
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

// The same files give the same content, every time.
func TestDirectory_RecoveryIsDeterministic(t *testing.T) {
	skipKillsUnderRace(t)
	r := newCrashRun(t, fastDir(t), seeded(t).Uint64(), 1)
	c := r.c
	c.Script, c.KillAt, c.Passing, c.Next = true, pointCompactSwapped, 3, []int{0}
	require.True(t, r.run(t, c, nil).killed)
	img := loadImage(t, c.Dir)
	var first map[string][]byte
	for range 10 {
		dir := fastDir(t)
		img.write(t, dir)
		s := openDir(t, dir, quietly())
		got := contentsOf(t, s)
		if first == nil {
			first = got
		}
		require.True(t, maps.EqualFunc(first, got, bytes.Equal))
		closeIntact(t, s)
	}
}

// ---- children ----

const directoryVariable = "WARMTIER_TEST_DIRECTORY_CHILD"

// nobody is a user without any rights.
const nobody = 65534

// runDirectoryChild runs a scenario in a process of its own, as nobody when asked for and possible.
func runDirectoryChild(t *testing.T, scenario, dir string, asNobody bool) (output string, err error) {
	t.Helper()
	binary, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer func() { _ = binary.Close() }()
	path := os.Args[0]
	var credential *syscall.SysProcAttr
	if asNobody && os.Geteuid() == 0 {
		if runtime.GOOS == "linux" {
			path = "/proc/self/fd/3" // nobody may not look into the directory of the binary
		}
		credential = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd := exec.Command(path, "-test.run=^TestDirectoryChild$", "-test.count=1")
	cmd.SysProcAttr = credential
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Env = append(os.Environ(), directoryVariable+"="+scenario+"\n"+dir)
	out, err := cmd.CombinedOutput()
	return string(out[:min(len(out), 1500)]), err
}

// TestDirectoryChild is the child.
func TestDirectoryChild(t *testing.T) {
	scenario, dir, ok := strings.Cut(os.Getenv(directoryVariable), "\n")
	if !ok {
		t.Skip("is the child process of the directory tests")
	}
	switch {
	case scenario == "expect locked":
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getppid()))
	case scenario == "read without permission":
		_, err := Open(dir, quietly())
		require.ErrorIs(t, err, fs.ErrPermission)
		s := openDir(t, dir, &Options{ReadOnly: true})
		requireContents(t, s, 0, 100, 100, all)
		requireReadOnly(t, s)
		closeIntact(t, s)
	case scenario == "unwritable":
		_, err := Open(filepath.Join(dir, "new"), quietly())
		require.ErrorIs(t, err, fs.ErrPermission)
	case strings.HasPrefix(scenario, "limit of "):
		childLimits(t, dir, strings.TrimPrefix(scenario, "limit of "))
	case strings.HasPrefix(scenario, "made cut: "):
		childMadeCut(t, dir, strings.TrimPrefix(scenario, "made cut: "))
	case scenario == "cut in view":
		childCutInView(t, dir)
	case scenario == "cut in view of a retired segment":
		childCutRetired(t, dir)
	case scenario == "cut in all":
		childCutInAll(t, dir)
	default:
		var which string
		var size int64
		_, err := fmt.Sscanf(scenario, "cut %s to %d", &which, &size)
		require.NoError(t, err)
		childCut(t, dir, which, size)
	}
}

// childCut cuts one segment file of an open store, or all, and then calls everything.
func childCut(t *testing.T, dir, which string, size int64) {
	s := openDir(t, dir, quietly())
	const n = 1200
	fill(t, s, 0, n, 300)
	deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 0 })
	keep := func(i int) bool { return i%3 != 0 }
	mustCompact(t, s)
	fill(t, s, n, 2*n, 300)
	large := contentOf(1, 1, 100_000)
	require.NoError(t, s.Put("large", large))
	if which != "large" {
		require.NoError(t, s.Sync())
	}
	var cut []*segment
	for _, seg := range s.segments.all() {
		is := map[string]bool{
			"all":    true,
			"large":  seg.large,
			"target": seg.kind == kindTarget,
			"active": seg.is(stateActive),
			"sealed": seg.is(stateSealed) && seg.kind == kindLane && !seg.large,
		}[which]
		if is && (which == "all" || len(cut) == 0) {
			cut = append(cut, seg)
			require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), size))
		}
	}
	require.NotEmpty(t, cut)
	tolerable := func(what string, err error) bool {
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt, what)
		}
		return err == nil
	}

	good, bad := 0, 0
	for i := range 2 * n {
		got, err := s.Get(idOf(i))
		switch {
		case i < n && !keep(i):
			if !errors.Is(err, ErrCorrupt) {
				require.ErrorIs(t, err, ErrNotFound)
			}
		case tolerable("get", err):
			require.Equal(t, contentOf(i, 0, 300), got)
			good++
		default:
			bad++
		}
		err = s.View(idOf(i), func([]byte) error { return nil })
		if keep(i) || i >= n {
			tolerable("view", err)
		}
		s.Has(idOf(i))
	}
	got, err := s.Get("large")
	if tolerable("get large", err) {
		require.Equal(t, large, got)
	}
	t.Logf("%d good, %d bad", good, bad)
	for id, content := range s.All() {
		require.NotEmpty(t, id)
		require.NotEmpty(t, content)
	}
	_, err = s.Verify(context.Background())
	require.ErrorIs(t, err, ErrCorrupt)
	for i := range 2 * n {
		if tolerable("put", s.Put(idOf(i), contentOf(i, 1, 300))) {
			got, err := s.Get(idOf(i))
			require.NoError(t, err)
			require.Equal(t, contentOf(i, 1, 300), got)
		}
		if odd(i) {
			_, err := s.Delete(idOf(i))
			tolerable("delete", err)
		}
	}
	_ = s.Stats()
	_, err = s.Compact(context.Background())
	tolerable("compact", err)
	_, err = s.Compact(context.Background())
	tolerable("second compact", err)
	if err := s.Sync(); err != nil && !errors.Is(err, ErrCorrupt) {
		require.ErrorIs(t, err, ErrSyncFailed)
	}
	if err := s.Put("new", []byte("stored")); err != nil && which != "all" && which != "active" {
		require.ErrorIs(t, err, ErrSyncFailed)
	}
	_ = s.Close() // returns; what it returns depends on what was cut
	_, err = Open(dir, quietly())
	require.ErrorIs(t, err, ErrCorrupt)
	repair := quietly()
	repair.Repair = true
	s, err = Open(dir, repair)
	if err != nil { // who knows what was in a file that was not closed
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "nothing says of which memories")
		return
	}
	requireIntact(t, s)
	require.NoError(t, s.Close())
}

// cuttingFiles empties every file it makes, once armed.
type cuttingFiles struct {
	fileSystem
	dir   string
	armed bool
}

func (f *cuttingFiles) create(name string, size int) (mappedFile, error) {
	file, err := f.fileSystem.create(name, size)
	if err == nil && f.armed {
		err = os.Truncate(filepath.Join(f.dir, name), 0)
	}
	return file, err
}

func childMadeCut(t *testing.T, dir, call string) {
	s := openDir(t, dir, quietly())
	fill(t, s, 0, 500, 300)
	deleteWhere(t, s, 0, 500, odd)
	files := &cuttingFiles{fileSystem: s.disk.fs, dir: dir}
	s.disk.fs = files
	s.sealLanes(0) // the next record needs a new segment
	files.armed = true
	var err error
	switch call {
	case "put":
		err = s.Put("a", []byte("b"))
	case "large put":
		err = s.Put("a", make([]byte, 100_000))
	case "delete":
		_, err = s.Delete(idOf(0))
	case "compact":
		_, err = s.Compact(context.Background())
	case "sync":
		files.armed = false
		require.NoError(t, s.Put("a", []byte("b")))
		for _, seg := range s.segments.all() {
			if seg.is(stateActive) {
				require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 0))
			}
		}
		err = s.Sync()
		require.Error(t, err)
		_ = s.Close() // returns
		return
	}
	require.ErrorIs(t, err, ErrCorrupt)
	files.armed = false
	requireContents(t, s, 0, 500, 300, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Put("b", []byte("c")))
	mustCompact(t, s)
	requireIntact(t, s)
	require.NoError(t, s.Close())
	s = openDir(t, dir, quietly())
	requireContents(t, s, 0, 500, 300, func(i int) bool { return !odd(i) })
	closeIntact(t, s)
}

func childCutInView(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	content := contentOf(1, 1, 60_000)
	require.NoError(t, s.Put("a", content))
	require.NoError(t, s.Put("b", content))
	seg := s.segments.all()[0]
	id := "a"
	if !bytes.Contains(seg.mem, []byte("a\x01")) {
		id = "b"
	}
	reached := false
	err := s.View(id, func(content []byte) error {
		for _, seg := range s.segments.all() {
			require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 4096))
		}
		reached = true
		sum := byte(0)
		for _, c := range content {
			sum += c
		}
		return fmt.Errorf("read to the end: %d", sum)
	})
	require.True(t, reached)
	require.ErrorIs(t, err, ErrCorrupt)
	_ = s.Close() // returns
}

// childCutRetired: the callback holds the last pin of the segment that it has the fault on, so that the
// segment is unmapped on the way out.
func childCutRetired(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	require.NoError(t, s.Put("a", contentOf(1, 1, 100))) // dead bytes in the same segment
	require.NoError(t, s.Put("a", contentOf(1, 2, 50_000)))
	reached := false
	err := s.View("a", func(content []byte) error {
		segs := s.segments.all()
		var files []*os.File // by their names they are gone after the compaction
		for _, seg := range segs {
			f, err := os.OpenFile(filepath.Join(dir, seg.name()), os.O_RDWR, 0)
			require.NoError(t, err)
			files = append(files, f)
		}
		mustCompact(t, s)
		for i, seg := range segs {
			require.True(t, seg.is(stateRetired))
			require.NoError(t, files[i].Truncate(4096))
			require.NoError(t, files[i].Close())
		}
		reached = true
		sum := byte(0)
		for _, c := range content {
			sum += c
		}
		return fmt.Errorf("read to the end: %d", sum)
	})
	require.True(t, reached)
	require.ErrorIs(t, err, ErrCorrupt)
	got, err := s.Get("a") // from the target
	require.NoError(t, err)
	require.Equal(t, contentOf(1, 2, 50_000), got)
	closeIntact(t, s)
}

func childCutInAll(t *testing.T, dir string) {
	s := openDir(t, dir, quietly())
	for i := range 10 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 30_000)))
	}
	steps, sum := 0, 0
	require.NotPanics(t, func() {
		for _, content := range s.All() {
			steps++
			for _, seg := range s.segments.all() {
				require.NoError(t, os.Truncate(filepath.Join(dir, seg.name()), 4096))
			}
			for _, c := range content {
				sum += int(c)
			}
		}
	})
	t.Logf("%d steps, sum %d", steps, sum)
	require.Positive(t, steps)
	_ = s.Close() // returns
}

// Goal: recovery says what it found. Method: what a kill leaves of an open store, as it is and with the last
// record without its checksum.
func TestLog_Recovery(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fillSecret(t, s, 0, 10)
	killed, torn := d.kill(), d.kill()
	seg := s.lanes[0].active
	last, tail := seg.name(), int(seg.tail.Load())
	require.NoError(t, s.Close())

	log := &recorder{t: t}
	opts := shadowOptions()
	opts.Logger = slog.New(log)
	s = shadowStore(t, killed, opts)
	log.requireNone(slog.LevelWarn)
	require.Equal(t, []string{"the last close was not clean, every record was read"}, log.take(s, slog.LevelInfo))
	require.NoError(t, s.Close())
	log.take(s, slog.LevelInfo)
	s = shadowStore(t, killed, opts)
	log.requireNone(slog.LevelInfo) // a clean one has no findings
	require.NoError(t, s.Close())

	clear(torn.files[last].current[tail-recordSize(len(secret)+1, 300):][:4])
	s = shadowStore(t, torn, opts)
	require.Equal(t, []string{"tails cut that were not finished"}, log.take(s, slog.LevelWarn))
	require.Positive(t, s.Stats().Recovery.TruncatedBytes)
	require.False(t, s.Has(fmt.Sprint(secret, 9)))
	require.Equal(t, 9, s.Len())
	require.NoError(t, s.Close())
}

// Goal: a failed flush is one error in the log, whoever asked for it.
func TestLog_SyncFailed(t *testing.T) {
	log := &recorder{t: t}
	opts := quiet()
	opts.Logger = slog.New(log)
	s := openDir(t, t.TempDir(), opts)
	log.attach(s)
	log.take(s, slog.LevelInfo)
	require.Error(t, s.disk.fail(errors.New("boom")))
	require.Error(t, s.disk.fail(errors.New("boom again")))
	require.Equal(t, []string{"sync failed, the store takes no more writes"}, log.take(s, slog.LevelError))
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
}

// Goal: Open warns of a fragmented store, whose first maintenance cycle compacts it, as what it is.
func TestLog_StartupFragmentation(t *testing.T) {
	if lockOrderChecked() || raceEnabled || testing.Short() {
		t.Skip("writes 60 MB, which takes long where every access or lock is watched: not there, nor with -short")
	}
	dir := t.TempDir()
	opts := &Options{Maintenance: MaintenanceOptions{Disabled: true, FragmentationThreshold: 1, MinBytes: 1 << 40}}
	s := openDir(t, dir, opts)
	content := []byte(strings.Repeat(secret, 20_000))
	for i := range 500 {
		require.NoError(t, s.Put(fmt.Sprint(secret, i%100), content))
	}
	require.NoError(t, s.Close())
	log := &recorder{t: t}
	opts.Logger = slog.New(log)
	s = openDir(t, dir, opts)
	require.Equal(t, []string{"store is fragmented, the first maintenance cycle will compact it"},
		log.take(s, slog.LevelWarn))
	r, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.True(t, r.Compacted)
	require.Equal(t, CompactionResults{OK: 1}, s.Stats().CompactionDetails.Startup)
	require.NoError(t, s.Close())
}

// Goal: a Close is clean although a lane has got a segment for a record that was not written.
//
// Method: the id is deleted while the segment for its loaded content is made.
func TestGetOrLoad_LeavesNothingUnsealed(t *testing.T) {
	dir := fastDir(t)
	var s *Store
	var deletion func()
	s, err := open(dir, quietly(), hooks{hash: oneLane, at: func(p point) error {
		if p == pointSegmentMade && deletion != nil {
			deletion()
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 1, 2, 60_000)
	deletion = func() {
		deletion = nil
		_, err = s.Delete(idOf(0))
	}
	content, loadErr := s.GetOrLoad(t.Context(), idOf(0), func(context.Context) ([]byte, error) {
		return contentOf(0, 0, 10_000), nil
	})
	require.NoError(t, loadErr)
	require.NoError(t, err)
	require.Equal(t, contentOf(0, 0, 10_000), content)
	require.Equal(t, 1, s.Len())
	require.Zero(t, s.lanes[0].active.records.Load())
	closeIntact(t, s)

	for range 2 {
		s, err = open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		require.True(t, s.recovered.Clean)
		require.Equal(t, 1, s.segments.count(), "one without a record is left")
		requireContents(t, s, 1, 2, 60_000, all)
		closeIntact(t, s)
	}
	require.Len(t, segmentFiles(t, dir), 1)
}

// Goal: a page that cannot be had is the error of the ids it is needed for, and no id counts twice. Method:
// one of two segment files is cut under the open store, behind what is loaded ahead, and a missing id comes
// before what is in it.
func TestGetMany_Fault(t *testing.T) {
	skipFaultsUnderRace(t)
	dir := t.TempDir()
	s, err := open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	require.NoError(t, s.Put("cut", make([]byte, 20_000)))
	s.sealLanes(0)
	require.NoError(t, s.Put("whole", []byte("content")))
	require.NoError(t, os.Truncate(filepath.Join(dir, segmentOf(t, s, "cut").name()), 4096)) // its head is not touched
	before := s.Stats()
	list := getMany(t, s, []string{"whole", "missing", "cut", "whole"})
	after := s.Stats()
	require.NoError(t, list[0].err)
	require.ErrorIs(t, list[1].err, ErrNotFound)
	require.ErrorIs(t, list[2].err, ErrCorrupt)
	require.Equal(t, []byte("content"), list[3].content)
	require.EqualValues(t, 4, after.Gets-before.Gets, "once each")
	require.EqualValues(t, 1, after.Misses-before.Misses)
	requireUnpinned(t, s)
	require.Error(t, s.Close(), "what was not synced cannot be")
}
