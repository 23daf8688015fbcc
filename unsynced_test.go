//go:build unix

package warmtier

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: a repair that cannot tell whose records are lost goes on where no Sync had promised to keep any of them, keeps
what was synced, and says how many it gave up at most; it refuses where one of them may have been synced.

Method: a store of one lane is killed that has synced some memories, overwritten one, deleted one and added others. Of
its files those parts are damaged that would name what is lost.
*/

const (
	unsyncedFrom = 20 // memories 0 to 19 were synced, those from 20 on and a version of 0 were not
	unsyncedTo   = 40
)

// partlySynced returns the directory that a kill leaves, and the file that all of it is in.
func partlySynced(t *testing.T) (d *shadow.FS, name string) {
	t.Helper()
	d = newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, unsyncedFrom, 300)
	require.NoError(t, s.Sync())
	require.NoError(t, s.Put(idOf(0), contentOf(0, 1, 300)))
	deleteWhere(t, s, 1, 2, all)
	fill(t, s, unsyncedFrom, unsyncedTo, 300)
	name = segmentOf(t, s, idOf(0)).name()
	killed := d.Kill()
	require.NoError(t, s.Close())
	return killed, name
}

// recordAt returns where record n of partlySynced is.
func recordAt(n int) int {
	at := layout.HeaderSize + n*record.Size(len(idOf(0)), 300)
	if n > unsyncedFrom+1 {
		at -= record.Size(len(idOf(0)), 300) - record.Size(len(idOf(0)), 0)
	}
	return at
}

func zeroDigest(d *shadow.FS, name string, n int) {
	clear(d.Files[name].Current[layout.DigestAt(minSegmentSize, n):][:layout.DigestSize])
}

// zeroDigests takes the digests of a file away, from number n on.
func zeroDigests(f []byte, n int) {
	clear(f[layout.DigestAt(len(f), unsyncedTo+10) : layout.DigestAt(len(f), n)+layout.DigestSize])
}

// unsyncedDamage is damage to the tail of partlySynced, by name, and the records that it takes, of those in
// partlySynced.
var unsyncedDamage = map[string]struct {
	wreck func(t *testing.T, d *shadow.FS, name string)
	lost  []int
}{
	"a record and its digest": {func(_ *testing.T, d *shadow.FS, name string) {
		damageAt(d, name, recordAt(unsyncedFrom)+record.HeaderSize)
		zeroDigest(d, name, unsyncedFrom)
	}, []int{unsyncedFrom}},
	"a record and all digests after it": {func(_ *testing.T, d *shadow.FS, name string) {
		damageAt(d, name, recordAt(unsyncedFrom+1)+4)
		zeroDigests(d.Files[name].Current, unsyncedFrom+1)
	}, []int{unsyncedFrom + 1}},
	"rubbish in the middle, and digests": {func(_ *testing.T, d *shadow.FS, name string) {
		copy(d.Files[name].Current[recordAt(25):recordAt(27)], bytes.Repeat([]byte{0xff}, 1000))
		zeroDigests(d.Files[name].Current, 25)
	}, []int{25, 26}},
	"cut short": {func(_ *testing.T, d *shadow.FS, name string) {
		f := d.Files[name]
		f.Current = f.Current[:recordAt(30)+100]
	}, []int{30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41}},
	"cut short between two records": {func(_ *testing.T, d *shadow.FS, name string) {
		f := d.Files[name]
		f.Current = f.Current[:recordAt(30)]
	}, []int{30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41}},
}

// requireUnsynced checks what a repair of partlySynced gave, without the records in lost.
func requireUnsynced(t *testing.T, s *Store, lost []int) {
	t.Helper()
	gone := map[int]bool{}
	for _, n := range lost {
		gone[n] = true
	}
	version := 1
	if gone[unsyncedFrom] {
		version = 0
	}
	got, err := s.Get(idOf(0))
	require.NoError(t, err)
	require.Equal(t, contentOf(0, version, 300), got)
	require.Equal(t, gone[unsyncedFrom+1], s.Has(idOf(1)), "deleted, unless that was lost")
	requireContents(t, s, 2, unsyncedFrom, 300, all)
	requireContents(t, s, unsyncedFrom, unsyncedTo, 300, func(i int) bool { return !gone[i+2] })
}

func TestUnsynced_RepairFallsBack(t *testing.T) {
	for what, c := range unsyncedDamage {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/readonly=%t", what, readOnly), func(t *testing.T) {
				d, name := partlySynced(t)
				c.wreck(t, d, name)
				_, err := openShadow(d.Kill(), shadowOptions(), hooks{hash: fixedHash})
				require.ErrorIs(t, err, ErrCorrupt)
				opts := shadowOptions()
				opts.Repair, opts.ReadOnly = true, readOnly
				s := shadowStore(t, d, opts)
				requireUnsynced(t, s, c.lost)
				report := s.Stats().Recovery.Repair
				require.GreaterOrEqual(t, report.Unsynced, len(c.lost))
				require.GreaterOrEqual(t, report.MemoriesLost, report.Unsynced)
				require.True(t, report.AtMost)
				require.Positive(t, report.RecordsLost)
				require.Equal(t, 1, report.SegmentsReplaced)
				if readOnly {
					require.NoError(t, s.Close())
					return
				}
				closeShadow(t, s, d)
				s = shadowStore(t, d, shadowOptions())
				requireUnsynced(t, s, c.lost)
				require.NoError(t, s.Sync())
				lost := d.Crash(nothingKept)
				closeShadow(t, s, d)
				s = shadowStore(t, lost, shadowOptions())
				requireUnsynced(t, s, c.lost)
				closeShadow(t, s, lost)
			})
		}
	}
}

// The same below what was synced: nothing may be taken for a tail there.
func TestUnsynced_RepairRefusesBelowTheMark(t *testing.T) {
	for what, wreck := range map[string]func(d *shadow.FS, name string){
		"a record and its digest": func(d *shadow.FS, name string) {
			damageAt(d, name, recordAt(unsyncedFrom-1)+record.HeaderSize)
			zeroDigest(d, name, unsyncedFrom-1)
		},
		"a record, and the digest of another": func(d *shadow.FS, name string) {
			damageAt(d, name, recordAt(3)+record.HeaderSize)
			zeroDigest(d, name, 5)
		},
		"one of each": func(d *shadow.FS, name string) {
			for _, n := range []int{3, unsyncedFrom + 2} {
				damageAt(d, name, recordAt(n)+record.HeaderSize)
				zeroDigest(d, name, n)
			}
		},
		"cut short": func(d *shadow.FS, name string) {
			d.Files[name].Current = d.Files[name].Current[:recordAt(unsyncedFrom-2)]
		},
	} {
		t.Run(what, func(t *testing.T) {
			d, name := partlySynced(t)
			wreck(d, name)
			opts := shadowOptions()
			opts.Repair = true
			s, err := openShadow(d, opts, hooks{hash: fixedHash})
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, "nothing says of which memories")
			require.NoError(t, released(d, s))
		})
	}
}

// Where the digests say whose records are lost, those memories are gone, and no older version comes back.
func TestUnsynced_KnownIsNotOlder(t *testing.T) {
	d, name := partlySynced(t)
	damageAt(d, name, recordAt(unsyncedFrom)+record.HeaderSize)
	s := repairShadow(t, d)
	require.False(t, s.Has(idOf(0)))
	require.Equal(t, RepairReport{RecordsLost: 1, MemoriesLost: 1, AtMost: true, MemoriesDeleted: 1, SegmentsReplaced: 1,
		Lost: []string{idOf(0)}}, s.Stats().Recovery.Repair)
	closeShadow(t, s, d)
}

// A file that no manifest lists, and out of which nothing can be read, or that is not there.
func TestUnsynced_WholeFile(t *testing.T) {
	for _, how := range []string{"missing", "another store's header", "empty"} {
		t.Run(how, func(t *testing.T) {
			d, own := largeAmongSmall(t)
			switch how {
			case "missing":
				require.NoError(t, d.Remove(own))
			case "empty":
				d.Files[own].Current = nil
			default:
				b := d.Files[own].Current
				layout.Header{Kind: layout.KindLane, ID: 7, Capacity: uint64(len(b)), Salt: 7}.Encode(b)
				clear(b[layout.StateAt:layout.HeaderSize])
			}
			s := repairShadow(t, d)
			require.Equal(t, 5, s.Len())
			report := s.Stats().Recovery.Repair
			require.Equal(t, 1, report.RecordsLost)
			atMost := 1
			if how == "empty" { // nothing says how many there were
				atMost = maxRecords(minSegmentSize)
			}
			require.Equal(t, atMost, report.Unsynced)
			require.Equal(t, atMost, report.MemoriesLost)
			require.True(t, report.AtMost)
			closeShadow(t, s, d)
		})
	}
}

// Goal: a repair that falls back, cut off before any call by a kill, and run again, reports and keeps the same. After
// a power loss it reports no less, and keeps what was synced.
func TestUnsynced_CutOff(t *testing.T) {
	t.Parallel()
	cases := map[string]func(t *testing.T) *shadow.FS{
		"missing": func(t *testing.T) *shadow.FS {
			d, own := largeAmongSmall(t)
			require.NoError(t, d.Remove(own))
			return d
		},
	}
	for what, c := range unsyncedDamage {
		cases[what] = func(t *testing.T) *shadow.FS {
			d, name := partlySynced(t)
			c.wreck(t, d, name)
			return d
		}
	}
	for what, made := range cases {
		t.Run(what, func(t *testing.T) {
			whole := made(t)
			require.NoError(t, whole.Sync())
			start := whole.Kill()
			s := repairShadow(t, whole)
			want, left := s.Stats().Recovery.Repair, contentsOf(t, s)
			closeShadow(t, s, whole)
			noted := false
			for calls := 1; ; calls++ {
				d, n := start.Kill(), 0
				var killed, lost *shadow.FS
				d.Before = func(shadow.Site) {
					if n++; n == calls {
						killed, lost = d.Kill(), d.Crash(nothingKept)
					}
				}
				s = repairShadow(t, d)
				d.Before = nil
				require.NoError(t, s.Close())
				if killed == nil {
					require.Greater(t, calls, 10)
					break
				}
				if _, has := killed.Files[layout.RepairName]; has {
					noted = true
				} else if noted {
					continue // it was done
				}
				s = repairShadow(t, killed)
				require.Equal(t, want, s.Stats().Recovery.Repair, "cut off before call %d", calls)
				require.Equal(t, left, contentsOf(t, s), "cut off before call %d", calls)
				closeShadow(t, s, killed)

				_, had := lost.Files[layout.RepairName]
				s = repairShadow(t, lost)
				if report := s.Stats().Recovery.Repair; had {
					require.GreaterOrEqual(t, report.Unsynced, want.Unsynced, "power loss before call %d", calls)
				}
				requireContents(t, s, 2, 3, len(left[idOf(2)]), all)
				closeShadow(t, s, lost)
			}
			require.True(t, noted)
		})
	}
}
