//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each directory that Open makes survives a power loss: its name is synced before there is anything in it.
func TestDirectory_MakesDirectoriesDurably(t *testing.T) {
	base := t.TempDir()
	a := filepath.Join(base, "a")
	b, c := filepath.Join(a, "b"), filepath.Join(a, "b", "c")
	var synced []string
	require.NoError(t, prepareDirectory(c, false, func(dir string) error {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		if dir == filepath.Dir(base) { // base may be new as well
			return syscall.EINVAL
		}
		require.Len(t, entries, 1)
		below, err := os.ReadDir(filepath.Join(dir, entries[0].Name()))
		require.NoError(t, err)
		require.Empty(t, below)
		synced = append(synced, dir)
		return nil
	}))
	require.Equal(t, []string{base, a, b}, synced)

	// An Open that was killed may have got no further than making it.
	synced = nil
	again := func(dir string) error { synced = append(synced, dir); return nil }
	require.NoError(t, prepareDirectory(c, false, again))
	require.Equal(t, []string{b}, synced)
	failed := errors.New("cannot be synced")
	require.ErrorIs(t, prepareDirectory(c, false, func(string) error { return failed }), failed)
	for _, err := range []error{os.ErrPermission, syscall.EINVAL, syscall.ENOTSUP, syscall.EROFS} {
		require.NoError(t, prepareDirectory(c, false, func(string) error { return err }), "made by another")
	}
	require.NoError(t, prepareDirectory(c, true, func(string) error { return failed }), "reads only")
	require.NoError(t, os.WriteFile(filepath.Join(c, manifestName), nil, fileMode))
	require.NoError(t, prepareDirectory(c, false, func(string) error { return failed }), "a store is there")
	require.ErrorIs(t, prepareDirectory(filepath.Join(base, "d"), true, syncDirectory), os.ErrNotExist)

	// It may have been killed between making a directory above and syncing its name.
	d := filepath.Join(base, "d")
	require.NoError(t, os.Mkdir(d, directoryMode))
	synced = nil
	require.NoError(t, prepareDirectory(filepath.Join(d, "e", "f"), false, again))
	require.Equal(t, []string{base, d, filepath.Join(d, "e")}, synced)
}

// A relative path names the directory that it named when the store was opened.
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

// nothingKept is a power loss that takes all that it may, allKept one that takes nothing.
var (
	nothingKept = loss{sector: func() bool { return false }, operation: func(int, int) bool { return false }}
	allKept     = loss{sector: func() bool { return true }, operation: func(int, int) bool { return true }}
)

// shadowStore is a store in d, which must open.
func shadowStore(t testing.TB, d *shadowFS, opts *Options) *Store {
	t.Helper()
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.NoError(t, err)
	return s
}

// closeShadow closes s, with every invariant checked and nothing left.
func closeShadow(t testing.TB, s *Store, d *shadowFS) {
	t.Helper()
	requireIntact(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// segmentNames lists the segment files of d.
func (d *shadowFS) segmentNames() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if _, ok := parseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	return names
}

// What Open finds is durable when it returns, in a segment with a damaged digest too.
func TestRecover_DamagedDigestIsNoReasonNotToSync(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 10, 100)
	require.NoError(t, s.Sync())
	fill(t, s, 10, 20, 100)
	killed := d.kill()
	require.NoError(t, s.Close())
	for _, name := range killed.segmentNames() {
		f := killed.files[name]
		at := digestAt(len(f.current), 0)
		f.current[at] ^= 1
		f.durable[at] ^= 1
	}
	s = shadowStore(t, killed, shadowOptions())
	after := killed.crash(nothingKept)
	require.NoError(t, s.Close())
	s = shadowStore(t, after, shadowOptions())
	requireContents(t, s, 0, 20, 100, all)
	require.NoError(t, s.Close())
}

// Where space is reserved by writing zeros, a power loss may leave a part of a file. One of which nothing
// was promised is no damage; any other one is.
func TestRecover_FileOfPartOfItsLength(t *testing.T) {
	for _, size := range []int{9, 100, segmentHeaderSize, 1000, pageSize, minSegmentSize - pageSize} {
		for _, synced := range []bool{false, true} {
			d := newShadow()
			s := shadowStore(t, d, shadowOptions())
			fill(t, s, 0, 10, 100)
			if synced {
				require.NoError(t, s.Sync())
			}
			after, killed := d.crash(allKept), d.kill()
			require.NoError(t, s.Close())
			for _, left := range []*shadowFS{after, killed} {
				for _, name := range left.segmentNames() {
					f := left.files[name]
					f.current, f.durable = f.current[:size], f.durable[:min(size, len(f.durable))]
				}
			}
			_, err := openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
			require.ErrorIs(t, err, ErrCorrupt, "%d bytes after a kill", size)
			if synced {
				_, err := openShadow(after, shadowOptions(), hooks{hash: fixedHash})
				require.ErrorIs(t, err, ErrCorrupt, "%d bytes of a file that was synced", size)
				continue
			}
			s = shadowStore(t, after, shadowOptions())
			require.Zero(t, s.Len())
			fill(t, s, 0, 10, 100)
			closeShadow(t, s, after)
		}
	}
}

// A store that is read with Repair gives back all it took.
func TestRecover_ReadOnlyRepairReleasesHint(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	require.Contains(t, d.files, hintName)
	opts := shadowOptions()
	opts.ReadOnly, opts.Repair = true, true
	s = shadowStore(t, d, opts)
	requireContents(t, s, 0, 100, 100, all)
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// A failed Open with Repair does too.
func TestRecover_FailedRepairReleasesHint(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	d.fault = func(kind callKind, _ string) error {
		if kind == callSync || kind == callSyncDir {
			return syscall.EIO
		}
		return nil
	}
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.ErrorIs(t, err, syscall.EIO)
	require.NoError(t, d.released(s))
}

// The hint is of use whatever SegmentSize is.
func TestRecover_HintWithOtherSegmentSize(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	s := shadowStore(t, d, opts)
	fill(t, s, 0, 300, 1000)
	require.NoError(t, s.Put("large", contentOf(1, 1, 200_000)))
	deleteWhere(t, s, 0, 300, odd)
	require.NoError(t, s.Close())
	for _, size := range []int{16 * minSegmentSize, minSegmentSize, 4 * minSegmentSize, 2 * minSegmentSize} {
		opts.SegmentSize = size
		var log bytes.Buffer
		opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
		s = shadowStore(t, d, opts)
		require.NotContains(t, log.String(), "hint is not used", "segments of %d bytes", size)
		requireContents(t, s, 0, 300, 1000, func(i int) bool { return !odd(i) })
		got, err := s.Get("large")
		require.NoError(t, err)
		require.Equal(t, contentOf(1, 1, 200_000), got)
		require.NoError(t, s.Put("other", contentOf(2, size, 100_000)))
		closeShadow(t, s, d)
	}
}

// A kill while a record is written that leaves no room in its segment is a kill like any other.
func TestRecover_KillInRecordThatFillsItsSegment(t *testing.T) {
	const id = "filler"
	for before := range 4 {
		d := newShadow()
		armed, killed := false, (*shadowFS)(nil)
		s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
			if p == pointPutBody && armed {
				killed = d.kill()
			}
			return nil
		}})
		require.NoError(t, err)
		for range before {
			require.NoError(t, s.Put(id, []byte("before")))
		}
		room := s.largestShared()
		if before > 0 {
			room = s.segments.all()[0].room(1)
		}
		armed = true
		size := room - room%recordAlign - recordHeaderSize - len(id)
		require.NoError(t, s.Put(id, bytes.Repeat([]byte{0xff}, size)))
		require.Len(t, s.segments.all(), 1)
		require.Less(t, s.segments.all()[0].room(1), recordAlign)
		require.NoError(t, s.Close())

		s = shadowStore(t, killed, shadowOptions())
		got, err := s.Get(id)
		if before == 0 {
			require.ErrorIs(t, err, ErrNotFound)
		} else {
			require.NoError(t, err)
			require.Equal(t, "before", string(got))
		}
		closeShadow(t, s, killed)
	}
}

// partlyEvacuated returns a closed store in which a compaction was cut off: of some memories there are
// two copies. places says where the records are of what is not deleted, by id.
func partlyEvacuated(t *testing.T) (d *shadowFS, places map[string][]shadowPlace) {
	t.Helper()
	d = newShadow()
	opts := shadowOptions()
	opts.Compaction.MaxOverhead = minSegmentSize
	s, err := openShadow(d, opts, hooks{hash: fixedHash, at: failAt(pointCompactTarget, 2, errors.New("cut off"))})
	require.NoError(t, err)
	fill(t, s, 0, 400, 1000)
	deleteWhere(t, s, 0, 400, func(i int) bool { return i%4 == 1 })
	_, err = s.Compact(context.Background())
	require.ErrorContains(t, err, "cut off")
	require.NoError(t, s.Close())
	places = map[string][]shadowPlace{}
	seqs := map[string]uint64{}
	for _, name := range d.segmentNames() {
		mem := d.files[name].current
		st, ok := decodeFileState(mem, uint64(len(mem)))
		require.True(t, ok)
		for at := segmentHeaderSize; at < int(st.synced); {
			h, ok := decodeHeader(mem[at:])
			require.True(t, ok)
			id := string(recordID(mem[at:], h))
			if h.kind == kindMemory {
				if was, ok := seqs[id]; ok {
					require.Equal(t, was, h.seq, "another version")
				}
				seqs[id] = h.seq
				places[id] = append(places[id], shadowPlace{name, at})
			}
			at += h.size()
		}
	}
	for i := 1; i < 400; i += 4 {
		delete(places, idOf(i))
	}
	return d, places
}

// shadowPlace is where a record is.
type shadowPlace struct {
	name   string
	offset int
}

// damage flips a bit, on the disk too.
func (d *shadowFS) damage(name string, at int) {
	f := d.files[name]
	f.current[at] ^= 1
	if at < len(f.durable) {
		f.durable[at] ^= 1
	}
}

// A repair keeps a memory of which there are two copies, whichever one the index takes. Damage to one of
// them costs nothing either, where its head says which version it was.
func TestRecover_RepairWithCopies(t *testing.T) {
	opts := shadowOptions()
	opts.Repair = true
	for _, hinted := range []bool{true, false} {
		for _, damaged := range []int{-1, 0, 1} { // one of the two copies
			d, places := partlyEvacuated(t)
			lost, copied := -1, 0
			for i := range 400 {
				switch of := places[idOf(i)]; {
				case len(of) == 1 && lost < 0:
					lost = i
					d.damage(of[0].name, of[0].offset+recordHeaderSize)
				case len(of) == 2 && damaged >= 0:
					d.damage(of[damaged].name, of[damaged].offset+recordHeaderSize+100)
					fallthrough
				case len(of) == 2:
					copied++
				}
			}
			require.Greater(t, copied, 10)
			if !hinted {
				require.NoError(t, d.remove(hintName))
			}
			s := shadowStore(t, d, opts)
			requireContents(t, s, 0, 400, 1000, func(i int) bool { return i%4 != 1 && i != lost })
			closeShadow(t, s, d)
		}
	}
}

// failedFlush returns the directory of a store whose last flush failed, as its end left it: of so many
// memories the first hundred were durable.
func failedFlush(t *testing.T, memories int) *shadowFS {
	t.Helper()
	d := newShadow()
	s := oneLaneStore(t, d) // so that what is in which segment does not depend on the machine
	fill(t, s, 0, 100, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 100, memories, 1000)
	d.fault = func(kind callKind, _ string) error {
		if kind == callSync {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Sync(), ErrSyncFailed)
	for _, f := range d.files { // as the next tries of others may do
		f.failSync(0, len(f.current))
	}
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	d.fault = nil
	return d
}

// After a failed flush the kernel believes clean what it has not written. What the next Open finds is
// durable all the same.
func TestRecover_FailedFlush(t *testing.T) {
	d := failedFlush(t, 200)
	s := shadowStore(t, d, shadowOptions())
	requireContents(t, s, 0, 200, 1000, all)
	require.NoError(t, s.Sync())
	after := d.crash(nothingKept)
	closeShadow(t, s, d)
	s = shadowStore(t, after, shadowOptions())
	requireContents(t, s, 0, 200, 1000, all)
	closeShadow(t, s, after)
}

// The kernel may also drop it from its cache before the next Open. Then it is gone, and called damage where
// anything shows it; what was durable is there, and what Open does find is durable. Nothing shows it where all
// of it is dropped, unless there are new segments.
func TestRecover_FailedFlushAndEviction(t *testing.T) {
	rng := seeded(t)
	corrupt, opened := 0, 0
	for n := range scaled(200) { // at least ten, and every case comes up in eight
		chance := []float64{0, 0.01, 1, rng.Float64()}[n%4]
		memories := []int{200, 101}[n/4%2] // with two new segments and with none
		d := failedFlush(t, memories)
		d.evict(func() bool { return rng.Float64() < chance })
		s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
		switch {
		case chance == 0:
			require.NoError(t, err)
			requireContents(t, s, 0, memories, 1000, all)
		case chance == 1 && memories == 101:
			require.NoError(t, err)
			require.Equal(t, 100, s.Len())
		case chance == 1:
			require.ErrorIs(t, err, ErrCorrupt)
		}
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			require.NoError(t, d.released(s))
			corrupt++
			continue
		}
		opened++
		found := contentsOf(t, s)
		requireContents(t, s, 0, 100, 1000, all)
		for i := 100; i < memories; i++ {
			if content, ok := found[idOf(i)]; ok {
				require.Equal(t, contentOf(i, 0, 1000), content)
			}
		}
		after := d.crash(randomLoss(rng))
		closeShadow(t, s, d)
		s = shadowStore(t, after, shadowOptions())
		require.Equal(t, found, contentsOf(t, s))
		closeShadow(t, s, after)
	}
	t.Logf("%d opened, %d called damaged", opened, corrupt)
}

// A sync of the directory that failed is final as that of a file is: no later one acknowledges records in
// a file whose name a power loss may take. Method: of the syncs in a call the first one fails, in another
// run the second, and so on, and the disk is well again at once.
func TestRecover_FailedSyncOfDirectory(t *testing.T) {
	for _, call := range []string{"sync", "compact", "put"} {
		t.Run(call, func(t *testing.T) {
			nth := 1
			for failedSyncOfDirectory(t, call, nth) {
				nth++
			}
			require.Greater(t, nth, 2, "names first, then the manifest")
		})
	}
}

// failedSyncOfDirectory reports whether the call syncs the directory so many times.
func failedSyncOfDirectory(t *testing.T, call string, nth int) (failed bool) {
	d := newShadow()
	opts := shadowOptions()
	opts.SyncWrites = call == "put"
	s := shadowStore(t, d, opts)
	fill(t, s, 0, 100, 1000)
	fill(t, s, 0, 100, 1000) // so that a compaction has something to do
	require.NoError(t, s.Sync())
	written, durable := 100, 100
	put := func() (err error) {
		for ; written < 200 && err == nil; written++ {
			err = s.Put(idOf(written), contentOf(written, 0, 1000))
			if err == nil && opts.SyncWrites {
				durable = written + 1
			}
		}
		return err
	}
	if call != "put" {
		require.NoError(t, put())
	}
	passed := 0
	d.fault = func(kind callKind, _ string) error {
		if kind == callSyncDir {
			if passed++; passed == nth {
				return syscall.EIO
			}
		}
		return nil
	}
	err := map[string]func() error{
		"sync": s.Sync, "put": put, "compact": func() error { _, err := s.Compact(context.Background()); return err },
	}[call]()
	if passed < nth {
		require.NoError(t, err)
		closeShadow(t, s, d)
		return false
	}
	require.ErrorIs(t, err, syscall.EIO)
	for range 2 {
		require.ErrorIs(t, s.Sync(), ErrSyncFailed)
		require.ErrorIs(t, s.Put(idOf(0), nil), ErrSyncFailed)
	}
	lost, killed := d.crash(nothingKept), d.kill()
	require.ErrorIs(t, s.Close(), ErrSyncFailed)

	s = shadowStore(t, lost, opts)
	requireContents(t, s, 0, durable, 1000, all)
	closeShadow(t, s, lost)
	s = shadowStore(t, killed, opts)
	requireContents(t, s, 0, durable, 1000, all)
	found := contentsOf(t, s)
	lost = killed.crash(nothingKept)
	closeShadow(t, s, killed)
	s = shadowStore(t, lost, opts)
	require.Equal(t, found, contentsOf(t, s))
	closeShadow(t, s, lost)
	return true
}

// The same with the headers that Close syncs last: what the next Open has verified must not pass for a tail
// that was never durable.
func TestRecover_FailedFlushOfStates(t *testing.T) {
	d := newShadow()
	failing := false
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
		failing = failing || p == pointCloseFlushed
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 20, 100)
	d.fault = func(callKind, string) error {
		if failing {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
	d.fault = nil
	s = shadowStore(t, d, shadowOptions())
	after := d.crash(nothingKept)
	closeShadow(t, s, d)
	names := after.segmentNames()
	require.NotEmpty(t, names)
	after.damage(names[0], segmentHeaderSize+4)
	_, err = openShadow(after, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
}

// remainsOf returns what a power loss leaves of a store with the memories "x" and "y", each in a durable
// version 1 and a version 2 that was not synced: the record of x is lost and that of y, behind it, is
// there. With sealed a clean Close came before the versions 2, and the header from then is there too.
func remainsOf(t *testing.T, sealed bool) (lost *shadowFS, name string) {
	t.Helper()
	d := newShadow()
	s := oneLaneStore(t, d)
	put := func(version int) {
		require.NoError(t, s.Put("x", contentOf(1, version, 1000)))
		require.NoError(t, s.Put("y", contentOf(2, version, 1000)))
	}
	put(1)
	if sealed {
		require.NoError(t, s.Close())
		s = oneLaneStore(t, d)
	} else {
		require.NoError(t, s.Sync())
	}
	header := slices.Clone(d.files[d.segmentNames()[0]].durable[:segmentHeaderSize])
	put(2)
	seg := s.lanes[0].active
	name, end := seg.name(), int(seg.synced.Load())
	lost = d.crash(allKept)
	for _, b := range [][]byte{lost.files[name].current, lost.files[name].durable} {
		if sealed {
			copy(b, header)
		} else {
			clear(b[end : end+100])
		}
	}
	require.NoError(t, s.Close())
	return lost, name
}

func oneLaneStore(t *testing.T, d *shadowFS) *Store {
	t.Helper()
	s, err := openShadow(d, shadowOptions(), hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	return s
}

// What a power loss cut off is gone for good: records of it that are intact do not come back when the
// state that says where the segment ends is damaged later, one copy of it, with a repair or without.
func TestRecover_RemainsAreGone(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, hinted := range []bool{false, true} {
			for newest := range 2 {
				for _, repair := range []bool{false, true} {
					name := fmt.Sprintf("sealed=%v/hinted=%v/copy=%d/repair=%v", sealed, hinted, newest, repair)
					t.Run(name, func(t *testing.T) {
						remainsAreGone(t, sealed, hinted, newest, repair)
					})
				}
			}
		}
	}
}

func remainsAreGone(t *testing.T, sealed, hinted bool, damaged int, repair bool) {
	d, name := remainsOf(t, sealed)
	s := oneLaneStore(t, d)
	got, err := s.Get("y")
	require.NoError(t, err)
	require.Equal(t, contentOf(2, 1, 1000), got)
	existed, err := s.Delete("y")
	require.NoError(t, err)
	require.True(t, existed)
	require.NoError(t, s.Put("x", contentOf(1, 3, 1000)))
	require.NoError(t, s.Close())
	if !hinted {
		require.NoError(t, d.remove(hintName))
	}
	d.damage(name, fileStateAt+damaged*fileStateSize)
	opts := shadowOptions()
	opts.Repair = repair
	s, err = openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }})
	if err != nil {
		require.False(t, repair)
		require.ErrorIs(t, err, ErrCorrupt)
		return
	}
	require.False(t, s.Has("y"), "deleted, and back")
	got, err = s.Get("x")
	require.NoError(t, err)
	require.Equal(t, contentOf(1, 3, 1000), got)
	closeShadow(t, s, d)
}

// A repair after a power loss that is cut off comes to the same when it is done again: what the power loss
// tore is no damage then either, though the machine was not started anew since the first try.
func TestRecover_RepairCutOffAfterPowerLoss(t *testing.T) {
	opts := shadowOptions()
	opts.Repair = true
	hash := func(string) uint64 { return 0 }
	points := append([]point{pointRecoverSealed, pointRecoverListed, pointManifestTemp, pointManifestRenamed,
		pointFlushed, pointStateWritten, pointCloseFlushed}, repairPoints...)
	for passing := 1; ; passing++ { // of points where something may be durable that was not before
		passed := 0
		t.Run(strconv.Itoa(passing), func(t *testing.T) {
			d := newShadow()
			s := oneLaneStore(t, d)
			for i, id := range []string{"damaged", "torn", "kept"} {
				require.NoError(t, s.Put(id, contentOf(i, 1, 1000)))
			}
			require.NoError(t, s.Sync())
			seg := s.lanes[0].active
			end := int(seg.synced.Load())
			require.NoError(t, s.Put("torn", contentOf(1, 2, 1000)))
			require.NoError(t, s.Put("behind", nil))
			lost := d.crash(allKept)
			require.NoError(t, s.Close())
			clear(lost.files[seg.name()].current[end : end+100])
			clear(lost.files[seg.name()].durable[end : end+100])
			lost.damage(seg.name(), segmentHeaderSize+500)

			var killed *shadowFS
			s, err := openShadow(lost, opts, hooks{hash: hash, at: func(p point) error {
				if slices.Contains(points, p) {
					if passed++; passed == passing {
						killed = lost.kill()
					}
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, s.Close())
			if killed == nil { // the last one
				killed = lost.kill()
			}
			s, err = openShadow(killed, opts, hooks{hash: hash})
			require.NoError(t, err)
			got, err := s.Get("torn")
			require.NoError(t, err)
			require.Equal(t, contentOf(1, 1, 1000), got)
			require.True(t, s.Has("kept"))
			require.False(t, s.Has("damaged"))
			require.False(t, s.Has("behind"))
			closeShadow(t, s, killed)
		})
		if passed < passing {
			require.Greater(t, passed, 8)
			break
		}
	}
}
