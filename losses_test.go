//go:build unix

package warmtier

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: after a clean Close a repair counts what is gone with a segment file that was cut short, or is
// missing, exactly.
func TestRepair_CountsWhatIsGone(t *testing.T) {
	for _, how := range []string{"half", "header", "empty", "missing"} {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/readonly=%v", how, readOnly), func(t *testing.T) {
				dir := fastDir(t)
				s := openDir(t, dir, quietly())
				fill(t, s, 0, 400, 1000)
				require.NoError(t, s.Put(idOf(1), contentOf(1, 1, 1000)))
				require.NoError(t, s.Close())
				path := filepath.Join(dir, segmentFiles(t, dir)[0])
				switch how {
				case "half":
					require.NoError(t, os.Truncate(path, minSegmentSize/2))
				case "header":
					require.NoError(t, os.Truncate(path, 100))
				case "empty":
					require.NoError(t, os.Truncate(path, 0))
				case "missing":
					require.NoError(t, os.Remove(path))
				}
				opts := quietly()
				opts.Repair, opts.ReadOnly = true, readOnly
				s = openDir(t, dir, opts)
				report := s.Stats().Recovery.Repair
				require.Equal(t, 400-s.Len(), report.MemoriesLost)
				require.Greater(t, report.MemoriesLost, 10)
				require.GreaterOrEqual(t, report.RecordsLost, report.MemoriesLost)
				require.LessOrEqual(t, report.RecordsLost, report.MemoriesLost+1, "one was overwritten")
				require.False(t, report.AtMost)
				if readOnly { // the files are as damaged as before
					require.NoError(t, s.Close())
					return
				}
				closeIntact(t, s)
				require.Equal(t, how != "missing", slices.ContainsFunc(files(t, dir), isDamagedFile))
				s = openDir(t, dir, opts)
				require.Empty(t, s.Stats().Recovery.Repair, "nothing is left to repair")
				closeIntact(t, s)
			})
		}
	}
}

func isDamagedFile(name string) bool { return strings.HasSuffix(name, damagedSuffix) }

// files returns the names of the files in dir.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	for name := range snapshot(t, dir) {
		names = append(names, name)
	}
	return names
}

// Goal: without a hint a repair says how many memories are gone at most, and how many records.
func TestRepair_BoundsWhatIsGone(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 30, 1000)
	require.NoError(t, s.Put(idOf(2), nil)) // was in the damaged record, and is there
	require.NoError(t, s.Close())
	require.NoError(t, d.Remove(layout.HintName))
	size := record.Size(len(idOf(0)), 1000)
	for _, i := range []int{2, 3, 4, 9} {
		damageAt(d, segmentNames(d)[0], layout.HeaderSize+i*size+record.HeaderSize) // the id: no prefix is left
	}
	s = repairShadow(t, d)
	report := s.Stats().Recovery.Repair
	require.Equal(t, RepairReport{RecordsLost: 4, MemoriesLost: 3, AtMost: true, SegmentsReplaced: 1}, report)
	require.Equal(t, 27, s.Len())
	closeShadow(t, s, d)
}

func repairShadow(t *testing.T, d *shadow.FS) *Store {
	t.Helper()
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	return s
}

// damagedShadow returns a closed store with two damaged records, one of which has an older version, or without
// a segment of which nothing is left.
func damagedShadow(t *testing.T, hinted, missing bool) *shadow.FS {
	t.Helper()
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 30, 1000)
	require.NoError(t, s.Put(idOf(3), contentOf(3, 1, 1000)))
	fill(t, s, 30, 90, 1000) // on into another segment
	require.NoError(t, s.Close())
	if hinted {
		require.NoError(t, d.SyncFile(layout.HintName)) // as it is some time later
	} else {
		require.NoError(t, d.Remove(layout.HintName))
	}
	if missing {
		require.NoError(t, d.Remove(segmentNames(d)[0]))
		return d
	}
	size := record.Size(len(idOf(0)), 1000)
	damageAt(d, segmentNames(d)[0], layout.HeaderSize+5*size+100)
	damageAt(d, segmentNames(d)[0], layout.HeaderSize+30*size+100)
	return d
}

// Goal: a repair that is cut off anywhere, by a kill or by a power loss, and done again, reports the same, keeps
// the same files aside and saves the same. Method: the end before each call that it makes, with a hint and
// without, with damaged records and without a file.
func TestRepair_CutOffReportsTheSame(t *testing.T) {
	t.Parallel()
	ends := map[string]func(d *shadow.FS) *shadow.FS{
		"kill":                   (*shadow.FS).Kill,
		"power, nothing is kept": func(d *shadow.FS) *shadow.FS { return d.Crash(nothingKept) },
		"power, all is kept":     func(d *shadow.FS) *shadow.FS { return d.Crash(allKept) },
	}
	for name, end := range ends {
		for _, c := range []struct{ hinted, missing bool }{{true, false}, {false, false}, {true, true}} {
			t.Run(fmt.Sprintf("%s/hint=%t/missing=%t", name, c.hinted, c.missing), func(t *testing.T) {
				made := damagedShadow(t, c.hinted, c.missing)
				require.NoError(t, made.Sync())
				whole := made.Kill()
				s := repairShadow(t, whole)
				want, left, aside := s.Stats().Recovery.Repair, s.Len(), damagedFiles(whole)
				require.Positive(t, want.RecordsLost)
				require.Equal(t, !c.missing, want.MemoriesDeleted == 1)
				require.Equal(t, !c.missing, len(aside) == 1)
				closeShadow(t, s, whole)
				noted := false
				for calls := 1; ; calls += stride(t, 3, 1) {
					d, n := made.Kill(), 0
					var cut *shadow.FS
					d.Before = func(shadow.Site) {
						if n++; n == calls {
							cut = end(d)
						}
					}
					s = repairShadow(t, d)
					d.Before = nil
					require.NoError(t, s.Close())
					if cut == nil {
						require.Greater(t, calls, 10)
						break
					}
					if _, has := cut.Files[layout.RepairName]; has {
						noted = true
					} else if noted {
						continue // it was done
					}
					s = repairShadow(t, cut)
					got := s.Stats().Recovery.Repair
					require.ElementsMatch(t, want.Lost, got.Lost, "cut off before call %d", calls)
					got.Lost = want.Lost
					require.Equal(t, want, got, "cut off before call %d", calls)
					require.Equal(t, left, s.Len())
					require.Equal(t, aside, damagedFiles(cut))
					require.NotContains(t, cut.Files, layout.RepairName)
					closeShadow(t, s, cut)
				}
				require.True(t, noted)
			})
		}
	}
}

// damagedFiles returns the bytes of the files that repairs have set aside.
func damagedFiles(d *shadow.FS) map[string]uint32 {
	m := map[string]uint32{}
	for name, f := range d.Files {
		if isDamagedFile(name) {
			m[name] = record.Checksum(f.Current)
		}
	}
	return m
}

// Goal: a store that is opened with Repair each time does not grow a file each time.
func TestRepair_AlwaysLeavesNothing(t *testing.T) {
	d := newShadow()
	closeShadow(t, oneLaneStore(t, d), d)
	for i := range 10 {
		s := repairShadow(t, d)
		require.NoError(t, s.Put(idOf(i), nil))
		closeShadow(t, s, d)
	}
	require.Len(t, segmentNames(d), 1)
}

// Goal: files of others that have the name of a segment are left alone, whatever happened since the last
// Open.
func TestRecover_ForeignFilesStay(t *testing.T) {
	d, other := newShadow(), newShadow()
	for _, d := range []*shadow.FS{d, other} {
		s := oneLaneStore(t, d)
		fill(t, s, 0, 10, 300)
		closeShadow(t, s, d)
	}
	foreign := map[string][]byte{
		layout.SegmentFileName(0xf0): other.Files[segmentNames(other)[0]].Current[:40_000],
		layout.SegmentFileName(0xf1): []byte("text of somebody's own, and no segment"),
	}
	for name, b := range foreign {
		require.NoError(t, d.WriteFile(name, b))
		require.NoError(t, d.SyncFile(name))
	}
	require.NoError(t, d.Sync())
	_, err := openShadow(d.Kill(), shadowOptions(), hooks{})
	require.ErrorIs(t, err, ErrCorrupt, "a killed process may have filled one of them")
	for _, repair := range []bool{true, false} {
		for _, later := range []*shadow.FS{d.Kill(), d.Crash(allKept)} {
			if !repair && later.Boot == d.Boot {
				continue
			}
			opts := shadowOptions()
			opts.Repair = repair
			for range 2 {
				s, err := openShadow(later, opts, hooks{hash: func(string) uint64 { return 0 }})
				if repair {
					require.NoError(t, err)
				}
				if err == nil {
					require.Empty(t, s.Stats().Recovery.Repair)
					requireContents(t, s, 0, 10, 300, all)
					closeShadow(t, s, later)
				}
				for name, b := range foreign {
					require.Equal(t, b, later.Files[name].Current, name)
				}
			}
		}
	}
}

// Goal: one flipped bit in the version of a header is damage, which a repair mends without a loss.
func TestRepair_DamagedVersion(t *testing.T) {
	for _, hinted := range []bool{true, false} {
		d := newShadow()
		s := oneLaneStore(t, d)
		fill(t, s, 0, 30, 1000)
		require.NoError(t, s.Close())
		if !hinted {
			require.NoError(t, d.Remove(layout.HintName))
		}
		damageAt(d, segmentNames(d)[0], 8)
		_, err := openShadow(d, shadowOptions(), hooks{})
		require.ErrorIs(t, err, ErrCorrupt)
		require.NotErrorIs(t, err, ErrVersion)
		s = repairShadow(t, d)
		require.Equal(t, RepairReport{SegmentsReplaced: 1}, s.Stats().Recovery.Repair)
		requireContents(t, s, 0, 30, 1000, all)
		closeShadow(t, s, d)
	}
}

// Goal: a large content whose header is lost does not take the locations of others.
func TestRepair_LargeHeader(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 1000)
	require.NoError(t, s.Put("large", make([]byte, 8<<20)))
	name := layout.SegmentFileName(0)
	for _, seg := range s.segments.all() {
		if seg.large {
			name = seg.name()
		}
	}
	bits := s.offsetBits
	require.NoError(t, s.Close())
	damageAt(d, name, 48)
	s = repairShadow(t, d)
	require.Equal(t, bits, s.offsetBits)
	require.True(t, s.Has("large"))
	require.Zero(t, s.Stats().Recovery.Repair.RecordsLost)
	requireContents(t, s, 0, 10, 1000, all)
	closeShadow(t, s, d)
}

// Goal: a segment that no manifest lists, with the header of another one written over its own, is
// damage after a kill: a repair that leaves it out gives the older versions of what is in it, which were synced, and
// says of how many records.
func TestRepair_UnlistedWithOtherHeader(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 3, 1000)
	require.NoError(t, s.Sync())
	listed := segmentNames(d)[0]
	fill(t, s, 100, 160, 1000) // on into another segment
	for i := range 3 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 1, 100)))
	}
	records := int(segmentOf(t, s, idOf(0)).records.Load())
	killed := d.Kill()
	require.NoError(t, s.Close())
	unlisted := segmentNames(killed)[1]
	copy(killed.Files[unlisted].Current[:512], killed.Files[listed].Current[:512])
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(killed, opts, hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	report := s.Stats().Recovery.Repair
	require.Equal(t, records, report.RecordsLost)
	require.Equal(t, report.RecordsLost, report.Unsynced)
	require.Equal(t, report.RecordsLost, report.MemoriesLost)
	requireContents(t, s, 0, 3, 1000, all)
	closeShadow(t, s, killed)
}

// Goal: after a Close a file that no manifest lists was never the store's: nothing of it is lost with it.
func TestRepair_UnlistedAfterClose(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 1000)
	require.NoError(t, s.Close())
	listed := d.Files[segmentNames(d)[0]].Current
	unlisted := layout.SegmentFileName(7)
	require.NoError(t, d.WriteFile(unlisted, slices.Clone(listed)))
	_, err := openShadow(d, shadowOptions(), hooks{})
	require.ErrorIs(t, err, ErrCorrupt)
	s = repairShadow(t, d)
	require.Equal(t, RepairReport{}, s.Stats().Recovery.Repair)
	requireContents(t, s, 0, 20, 1000, all)
	closeShadow(t, s, d)
	require.Contains(t, d.Files, unlisted)
}

// Goal: a repair reads a segment of whose first page nothing is left: the manifest knows its salt.
func TestRepair_FirstPageGone(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 100)
	name := segmentOf(t, s, idOf(0)).name()
	require.NoError(t, s.Close())
	for _, b := range [][]byte{d.Files[name].Current, d.Files[name].Durable} {
		clear(b[:layout.HeaderSize])
	}
	s = repairShadow(t, d)
	requireContents(t, s, 0, 20, 100, all)
	require.Equal(t, RepairReport{SegmentsReplaced: 1}, s.Stats().Recovery.Repair)
	closeShadow(t, s, d)
}

// Goal: where nothing says how far a segment was durable, its state being lost and no manifest listing it, a repair
// goes on after a damaged record, which after a power loss could be the end of what there was.
func TestRepair_UnlistedWithoutState(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 100)
	name := segmentOf(t, s, idOf(0)).name()
	lost := d.Crash(allKept)
	closeShadow(t, s, d)
	for _, b := range [][]byte{lost.Files[name].Current, lost.Files[name].Durable} {
		clear(b[96:layout.HeaderSize]) // both copies of the state
	}
	damageAt(lost, name, layout.HeaderSize+5*record.Size(len(idOf(0)), 100)+50)
	opts := shadowOptions()
	opts.Repair = true
	s = shadowStore(t, lost, opts)
	requireContents(t, s, 0, 20, 100, func(i int) bool { return i != 5 })
	require.Equal(t, 1, s.Stats().Recovery.Repair.RecordsLost)
	closeShadow(t, s, lost)
}

// Goal: a repair reads a segment without a header that no manifest lists: the state in it says how.
func TestRepair_UnlistedWithoutHeader(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 100)
	name := segmentOf(t, s, idOf(0)).name()
	killed := d.Kill()
	closeShadow(t, s, d)
	damageAt(killed, name, 20)
	opts := shadowOptions()
	opts.Repair = true
	s = shadowStore(t, killed, opts)
	requireContents(t, s, 0, 20, 100, all)
	require.Zero(t, s.Stats().Recovery.Repair.MemoriesLost)
	closeShadow(t, s, killed)
}
