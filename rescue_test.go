//go:build unix

package warmtier

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// flipIn flips a bit of a content, which lies in one file.
func flipIn(t *testing.T, d *shadow.FS, content []byte) {
	t.Helper()
	for _, name := range segmentNames(d) {
		if at := bytes.Index(d.Files[name].Current, content); at >= 0 {
			damageAt(d, name, at+len(content)-1)
			return
		}
	}
	require.Fail(t, "no file has this content")
}

// withoutHint takes the hint away from a closed store, so that the next Open reads every record.
func withoutHint(t *testing.T, d *shadow.FS) *shadow.FS {
	t.Helper()
	require.NoError(t, d.Remove(layout.HintName))
	return d
}

// Goal: what a repair took out for having only an older version left does not come back, and neither does what
// a tombstone in a damaged segment deleted; what was stored again after such a tombstone stays. With ids
// that fill a segment of their own too.
func TestRepair_DeletedStaysDeleted(t *testing.T) {
	t.Parallel()
	for _, long := range []bool{false, true} {
		for _, hinted := range []bool{false, true} {
			id := func(name string) string {
				if long {
					return strings.Repeat(name, MaxIDLen)
				}
				return name
			}
			d, n := newShadow(), 70
			opts := shadowOptions()
			if long { // for one segment of the store as it is opened later
				n, opts.SegmentSize = 1000, 1<<20
			}
			s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }})
			require.NoError(t, err)
			for i, name := range []string{"a", "b", "c"} {
				require.NoError(t, s.Put(id(name), contentOf(i, 0, 300)))
			}
			fill(t, s, 0, n, 1000) // on into another segment
			for _, name := range []string{"a", "b"} {
				_, err := s.Delete(id(name))
				require.NoError(t, err)
			}
			require.NoError(t, s.Put(id("b"), contentOf(1, 1, 300)))
			require.NoError(t, s.Put(id("c"), contentOf(2, 1, 300)))
			fill(t, s, n, n+5, 1000)
			require.NoError(t, s.Close())
			if !hinted {
				withoutHint(t, d)
			}
			flipIn(t, d, contentOf(2, 1, 300))
			flipIn(t, d, contentOf(n+2, 0, 1000))
			repaired := repairShadow(t, d)
			require.Equal(t, 1, repaired.Stats().Recovery.Repair.MemoriesDeleted)
			for _, name := range damagedFilesOf(d) { // are not needed any more
				require.NoError(t, d.Remove(name))
			}
			for range 2 {
				require.False(t, repaired.Has(id("a")))
				require.False(t, repaired.Has(id("c")))
				got, err := repaired.Get(id("b"))
				require.NoError(t, err)
				require.Equal(t, contentOf(1, 1, 300), got)
				requireContents(t, repaired, 0, n+5, 1000, func(i int) bool { return i != n+2 })
				closeShadow(t, repaired, d)
				repaired = oneLaneStore(t, withoutHint(t, d))
			}
			closeShadow(t, repaired, d)
		}
	}
}

func damagedFilesOf(d *shadow.FS) (names []string) {
	for name := range damagedFiles(d) {
		names = append(names, name)
	}
	return names
}

// Goal: after a repair the manifest is one of this boot: what a kill leaves later is not taken for what a power
// loss leaves.
func TestRepair_ManifestIsOfThisBoot(t *testing.T) {
	d := damagedShadow(t, true, false).Crash(allKept)
	s := repairShadow(t, d)
	m, _, err := layout.DecodeManifest(d.Files[layout.ManifestName].Current)
	require.NoError(t, err)
	require.Equal(t, s.bootID(), m.Cache)
	closeShadow(t, s, d)
}

// Goal: a repair on a full disk notes what is lost in the room that the store has kept back.
func TestRepair_FullDisk(t *testing.T) {
	d := damagedShadow(t, true, false)
	opts := shadowOptions()
	opts.Repair = true
	full := func(p point) error {
		switch p {
		case pointRecoverScanned:
			require.Contains(t, d.Files, layout.RepairName)
			d.Budget = 0
		}
		return nil
	}
	d.Budget = d.Used
	s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }, at: full})
	require.NoError(t, err)
	require.Equal(t, 2, s.Stats().Recovery.Repair.RecordsLost)
	closeShadow(t, s, d)
}

// Goal: a note that is not whole keeps no repair from being done.
func TestRepair_TornNote(t *testing.T) {
	d := damagedShadow(t, true, false)
	require.NoError(t, d.WriteFile(layout.RepairName, []byte(`{"Damaged":[`)))
	s := repairShadow(t, d)
	require.Equal(t, 2, s.Stats().Recovery.Repair.RecordsLost)
	require.NotContains(t, d.Files, layout.RepairName)
	closeShadow(t, s, d)
}

// repairKilledAt repairs the store in d, and returns it with the directory as a kill at p would have left it.
func repairKilledAt(t *testing.T, d *shadow.FS, p point) (s *Store, killed *shadow.FS) {
	t.Helper()
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }, at: func(at point) error {
		if at == p {
			killed = d.Kill()
		}
		return nil
	}})
	require.NoError(t, err)
	return s, killed
}

// Goal: damage that comes between a repair, cut off after its manifest, and the next one is counted beside what
// the first one lost.
func TestRepair_DamagedAgainAfterCommit(t *testing.T) {
	d := damagedShadow(t, false, false)
	s, killed := repairKilledAt(t, d, pointRepairCommitted)
	require.NoError(t, s.Close())
	flipIn(t, killed, contentOf(40, 0, 1000))
	s = repairShadow(t, killed)
	report := s.Stats().Recovery.Repair
	require.Equal(t, 3, report.RecordsLost)
	require.Equal(t, 2, report.SegmentsReplaced)
	require.Contains(t, report.Lost, idOf(40))
	require.Contains(t, report.Lost, idOf(5))
	closeShadow(t, s, killed)
}

// Goal: the report lists no more than 1000 ids, however many are lost, deleted, or lost in two repairs.
func TestRepair_ListIsBounded(t *testing.T) {
	t.Parallel()
	const n = 1200
	for _, versions := range []int{1, 2} {
		d := newShadow()
		s := oneLaneStore(t, d)
		for version := range versions {
			for i := range n {
				require.NoError(t, s.Put(idOf(i), contentOf(i, version, 40)))
			}
		}
		require.NoError(t, s.Close())
		for i := range n {
			flipIn(t, d, contentOf(i, versions-1, 40))
		}
		s, noted := repairKilledAt(t, d, pointRepairNoted)
		require.Len(t, s.Stats().Recovery.Repair.Lost, maxFindings)
		require.NoError(t, s.Close())
		s = repairShadow(t, noted)
		report := s.Stats().Recovery.Repair
		require.Len(t, report.Lost, maxFindings)
		require.Equal(t, n, report.RecordsLost)
		closeShadow(t, s, noted)
	}
}

// Goal: damage to what a repair wrote before it was cut off, which no hint knows, is not left out of the count.
func TestRepair_LossInWhatARepairWrote(t *testing.T) {
	d := damagedShadow(t, true, false)
	before := segmentNames(d)
	s, killed := repairKilledAt(t, d, pointRepairCommitted)
	require.NoError(t, s.Close())
	require.NoError(t, killed.Remove(layout.RepairName)) // and with it what the first one said
	written := ""
	for _, name := range segmentNames(killed) {
		if !slices.Contains(before, name) {
			written = name
			damageAt(killed, name, layout.HeaderSize+3*record.Size(len(idOf(0)), 1000)+100)
			break
		}
	}
	require.NotEmpty(t, written)
	s = repairShadow(t, killed)
	report := s.Stats().Recovery.Repair
	require.GreaterOrEqual(t, report.RecordsLost, 1)
	require.GreaterOrEqual(t, report.MemoriesLost, 1)
	require.NoError(t, s.Close())
}

// Goal: a repair that replaces one segment and loses nothing keeps its file all the same, and a report is
// empty only if nothing was given up.
func TestRepair_ReportIsEmpty(t *testing.T) {
	for _, report := range []RepairReport{
		{RecordsLost: 1}, {MemoriesLost: 1}, {MemoriesDeleted: 1}, {SegmentsReplaced: 1},
	} {
		require.False(t, report.isEmpty(), "%+v", report)
	}
	require.True(t, (&RepairReport{}).isEmpty())
	whole := newShadow()
	s := oneLaneStore(t, whole)
	fill(t, s, 0, 30, 1000)
	require.NoError(t, s.Close())
	damageAt(whole, segmentNames(whole)[0], 8)
	s = repairShadow(t, whole)
	require.Len(t, damagedFiles(whole), 1)
	closeShadow(t, s, whole)
}

// Goal: no lane goes on in a segment that a repair took out of the store.
func TestRepair_DamagedIsNotResumed(t *testing.T) {
	for _, hinted := range []bool{true, false} {
		d := newShadow()
		s := oneLaneStore(t, d)
		fill(t, s, 0, 10, 1000)
		require.NoError(t, s.Close())
		if !hinted {
			withoutHint(t, d)
		}
		flipIn(t, d, contentOf(5, 0, 1000))
		s = repairShadow(t, d)
		fill(t, s, 10, 60, 1000)
		requireIntact(t, s)
		requireContents(t, s, 0, 60, 1000, func(i int) bool { return i != 5 })
		require.NoError(t, s.Sync())
		killed := d.Kill()
		closeShadow(t, s, d)
		s = oneLaneStore(t, killed)
		requireContents(t, s, 0, 60, 1000, func(i int) bool { return i != 5 })
		closeShadow(t, s, killed)
	}
}
