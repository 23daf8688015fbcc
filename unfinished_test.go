//go:build unix

package warmtier

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: a file that no manifest lists yet, and whose header is gone, cut off or overwritten with
// zeros, is not taken for one that was never filled, and a repair says what it may have held.
func TestDirectory_UnlistedFileWithoutHeader(t *testing.T) {
	if raceEnabled {
		t.Skip("heap segments reach their files with Sync and Close only")
	}
	if !tellsKills(t) {
		t.Skip("a power loss may leave such a file")
	}
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	require.NoError(t, s.Put("a", []byte("acknowledged, and never synced")))
	killed := fastDir(t)
	copyDir(t, dir, killed)
	require.NoError(t, s.Close())
	names := segmentFiles(t, killed)
	require.Len(t, names, 1)
	require.Empty(t, readManifestOf(t, killed).Listed)
	path := filepath.Join(killed, names[0])
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, zeros := range []int{8, 64, layout.HeaderSize, 512, 4096} {
		require.NoError(t, os.WriteFile(path, slices.Concat(make([]byte, zeros), whole[zeros:]), 0o600))
		_, err := Open(killed, quietly())
		require.ErrorIs(t, err, ErrCorrupt, "%d zeros", zeros)
		require.FileExists(t, path)
	}
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	for size := layout.HeaderSize + 20; size >= 0; size-- {
		require.NoError(t, os.Truncate(path, int64(size)))
		_, err := Open(killed, quietly())
		require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", size)
		require.FileExists(t, path)
	}
	repair := quietly()
	repair.Repair = true
	s, err = Open(killed, repair)
	require.NoError(t, err)
	report := s.Stats().Recovery.Repair
	require.Zero(t, s.Len())
	require.Positive(t, report.RecordsLost)
	require.Equal(t, maxRecords(minSegmentSize), report.Unsynced, "nothing says how many there were")
	require.GreaterOrEqual(t, report.MemoriesLost, report.Unsynced)
	require.True(t, report.AtMost)
	require.NoError(t, s.Close())
}

// Goal: a file gets its name when it has its header, and the next Open removes what a kill left
// before that.
func TestDirectory_UnfinishedFileIsRemoved(t *testing.T) {
	d := newShadow()
	var s *Store
	var killed []*shadow.FS
	s, err := openShadow(d, shadowOptions(), hooks{at: func(p point) error {
		if p == pointSegmentCreated {
			killed = append(killed, d.Kill())
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
		before, err := d.Names()
		require.NoError(t, err)
		unnamed := func(name string) bool { return strings.HasSuffix(name, layout.NewSuffix) }
		require.True(t, slices.ContainsFunc(before, unnamed))
		s, err := openShadow(d, shadowOptions(), hooks{})
		require.NoError(t, err)
		strays, err := strays(d)
		require.NoError(t, err)
		require.Empty(t, strays)
		require.NoError(t, s.Close())
	}
}

// Goal: a segment file that never got its name is no store, not even alone in a directory: files of
// no other store are removed, files of another stay as they are, and the first write finds a name
// that is free.
func TestDirectory_UnfinishedFileInDirectory(t *testing.T) {
	header := func(store layout.StoreID) []byte {
		mem := make([]byte, minSegmentSize)
		layout.Header{Kind: layout.KindLane, ID: 1, Capacity: minSegmentSize, Store: store}.Encode(mem)
		return mem
	}
	for _, c := range []struct {
		what    string
		content func(own layout.StoreID) []byte
		stays   bool
	}{
		{what: "empty", content: func(layout.StoreID) []byte { return nil }},
		{what: "zeros", content: func(layout.StoreID) []byte { return make([]byte, minSegmentSize) }},
		{what: "part of a header", content: func(own layout.StoreID) []byte { return header(own)[:40] }},
		{what: "header", content: header},
		{what: "header of another store", stays: true,
			content: func(layout.StoreID) []byte { return header(layout.StoreID{1}) }},
		{what: "other bytes", content: func(layout.StoreID) []byte { return []byte("notes") }, stays: true},
	} {
		for _, beside := range []string{"nothing", "lock", "store"} {
			for _, id := range []uint64{1, 2, math.MaxUint64} {
				t.Run(fmt.Sprintf("%s/beside %s/%x", c.what, beside, id), func(t *testing.T) {
					t.Parallel()
					dir := fastDir(t)
					var own layout.StoreID
					switch beside {
					case "lock":
						require.NoError(t, os.WriteFile(filepath.Join(dir, layout.LockName), []byte("1"), 0o600))
					case "store":
						require.NoError(t, openDir(t, dir, quietly()).Close())
						own = readManifestOf(t, dir).Store
					}
					path := filepath.Join(dir, layout.SegmentFileName(id)+layout.NewSuffix)
					content := c.content(own)
					require.NoError(t, os.WriteFile(path, content, 0o600))
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

// Goal: a file that has only a part of its length, as a power loss may leave one where space is
// reserved by writing zeros, is no damage if nothing in it was promised, and damage otherwise.
func TestRecover_FileOfPartOfItsLength(t *testing.T) {
	for _, size := range []int{9, 100, layout.HeaderSize, 1000, vm.PageSize, minSegmentSize - vm.PageSize} {
		for _, synced := range []bool{false, true} {
			d := newShadow()
			s := shadowStore(t, d, shadowOptions())
			fill(t, s, 0, 10, 100)
			if synced {
				require.NoError(t, s.Sync())
			}
			after, killed := d.Crash(allKept), d.Kill()
			require.NoError(t, s.Close())
			for _, left := range []*shadow.FS{after, killed} {
				for _, name := range segmentNames(left) {
					f := left.Files[name]
					f.Current, f.Durable = f.Current[:size], f.Durable[:min(size, len(f.Durable))]
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

// Goal: a kill while a record is written that fills its segment loses nothing else.
func TestRecover_KillInRecordThatFillsItsSegment(t *testing.T) {
	const id = "filler"
	for before := range 4 {
		d := newShadow()
		armed, killed := false, (*shadow.FS)(nil)
		s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
			if p == pointPutBody && armed {
				killed = d.Kill()
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
		size := room - room%record.Align - record.HeaderSize - len(id)
		require.NoError(t, s.Put(id, bytes.Repeat([]byte{0xff}, size)))
		require.Len(t, s.segments.all(), 1)
		require.Less(t, s.segments.all()[0].room(1), record.Align)
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

// Goal: a segment that a manifest names as pending counts after a kill. Method: it is made while another one is
// flushed, so that the manifest which follows finds it, with nothing of it durable.
func TestRecover_PendingSegmentCounts(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	require.NoError(t, s.Put("small", []byte("flushed")))
	large := contentOf(1, 0, 2*minSegmentSize)
	s.hooks.at = doAt(pointFlushed, 1, func() { require.NoError(t, s.Put("large", large)) })
	require.NoError(t, s.Sync())
	s.hooks.at = nil
	m, _, err := layout.DecodeManifest(d.Files[layout.ManifestName].Current)
	require.NoError(t, err)
	require.Len(t, m.Pending, 1)
	require.Less(t, m.Pending[0], m.Next)
	killed := d.Kill()
	require.NoError(t, s.Close())
	s = shadowStore(t, killed, shadowOptions())
	got, err := s.Get("large")
	require.NoError(t, err)
	require.Equal(t, large, got)
	closeShadow(t, s, killed)
}
