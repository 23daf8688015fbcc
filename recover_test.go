//go:build unix

package warmtier

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: everything that Open finds is durable when it returns, even in a segment with a damaged
// digest.
func TestRecover_DamagedDigestIsNoReasonNotToSync(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 10, 100)
	require.NoError(t, s.Sync())
	fill(t, s, 10, 20, 100)
	killed := d.Kill()
	require.NoError(t, s.Close())
	for _, name := range segmentNames(killed) {
		f := killed.Files[name]
		at := layout.DigestAt(len(f.Current), 0)
		f.Current[at] ^= 1
		f.Durable[at] ^= 1
	}
	s = shadowStore(t, killed, shadowOptions())
	after := killed.Crash(nothingKept)
	require.NoError(t, s.Close())
	s = shadowStore(t, after, shadowOptions())
	requireContents(t, s, 0, 20, 100, all)
	require.NoError(t, s.Close())
}

// Goal: of a hint with one bit flipped anywhere nothing is believed that is not so: the index is what the records say.
func TestRecover_HintFlippedAnywhere(t *testing.T) {
	t.Parallel()
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 300, 100)
	deleteWhere(t, s, 0, 300, odd)
	require.NoError(t, s.PutTTL("expires", nil, time.Hour))
	want := contentsOf(t, s)
	closeShadow(t, s, d)
	hint := d.Files[layout.HintName].Current
	rng := seeded(t)
	for range scaled(300) {
		damaged, at := d.Kill(), 0
		for at == 0 || hint[at] == 0 && rng.IntN(50) > 0 { // of tables most is empty
			at = rng.IntN(len(hint))
		}
		damaged.Files[layout.HintName].Current[at] ^= 1 << rng.IntN(8)
		s := shadowStore(t, damaged, shadowOptions())
		require.Equal(t, want, contentsOf(t, s), "byte %d of %d", at, len(hint))
		closeShadow(t, s, damaged)
	}
}

// Goal: the hint is used whatever SegmentSize is.
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

// remainsOf returns what a power loss leaves of a store with the memories "x" and "y", each in a
// durable version 1 and a version 2 that was not synced: the record of x is lost, and that of y,
// which follows it, is there. With sealed, a clean Close came before the versions 2, and the header
// of then is there too.
func remainsOf(t *testing.T, sealed bool) (lost *shadow.FS, name string) {
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
	header := slices.Clone(d.Files[segmentNames(d)[0]].Durable[:layout.HeaderSize])
	put(2)
	seg := s.lanes[0].active
	name, end := seg.name(), int(seg.inFile.synced.Load())
	lost = d.Crash(allKept)
	for _, b := range [][]byte{lost.Files[name].Current, lost.Files[name].Durable} {
		if sealed {
			copy(b, header)
		} else {
			clear(b[end : end+100])
		}
	}
	require.NoError(t, s.Close())
	return lost, name
}

func oneLaneStore(t *testing.T, d *shadow.FS) *Store {
	t.Helper()
	s, err := openShadow(d, shadowOptions(), hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	return s
}

// Goal: a tail that a power loss cut off is gone for good: its intact records do not come back when
// one copy of the state that says where the segment ends is damaged later, with a repair or
// without.
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
		require.NoError(t, d.Remove(layout.HintName))
	}
	damageAt(d, name, layout.StateAt+damaged*layout.StateSize)
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

// Goal: a tail that a power loss cut off does not count again after a new record.
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
	at := seg.inFile.synced.Load()
	name := seg.name()
	kept := func() bool { return true }
	lost := d.Crash(shadow.Loss{Sector: kept, Operation: func(int, int) bool { return true }})
	for _, b := range [][]byte{lost.Files[name].Current, lost.Files[name].Durable} {
		clear(b[at : at+100]) // in the first of two records that were not synced
	}
	require.NoError(t, s.Close())

	s, err = openShadow(lost, opts, hooks{hash: hash})
	require.NoError(t, err)
	require.True(t, s.Has("kept"))
	require.False(t, s.Has("lost"))
	require.False(t, s.Has("lost with it"))
	require.NoError(t, s.Put("lost", contentOf(2, 2, 1000))) // as long as the record it replaces
	killed := lost.Kill()
	require.NoError(t, s.Close())
	s, err = openShadow(killed, opts, hooks{hash: hash})
	require.NoError(t, err)
	require.True(t, s.Has("lost"))
	require.False(t, s.Has("lost with it"), "it was gone")
	require.NoError(t, s.Close())
}

// Goal: recovery logs what it found. Method: what a kill leaves of an open store, unchanged, and
// with the last record lacking its checksum.
func TestLog_Recovery(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fillSecret(t, s, 0, 10)
	killed, torn := d.Kill(), d.Kill()
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
	log.requireNone(slog.LevelInfo) // a clean directory has no findings
	require.NoError(t, s.Close())

	clear(torn.Files[last].Current[tail-record.Size(len(secret)+1, 300):][:4])
	s = shadowStore(t, torn, opts)
	require.Equal(t, []string{"tails cut that were not finished"}, log.take(s, slog.LevelWarn))
	require.Positive(t, s.Stats().Recovery.TruncatedBytes)
	require.False(t, s.Has(fmt.Sprint(secret, 9)))
	require.Equal(t, 9, s.Len())
	require.NoError(t, s.Close())
}

// Goal: Open warns of a fragmented store, and the first maintenance cycle compacts it, as a
// compaction at the start of the store.
func TestLog_StartupFragmentation(t *testing.T) {
	if lockOrderChecked() || raceEnabled || testing.Short() {
		t.Skip("writes 60 MB, which takes long where every access or lock is watched: not there, nor with -short")
	}
	dir := t.TempDir()
	opts := &Options{Maintenance: MaintenanceOptions{Disabled: true, FragmentationThreshold: 1, MinBytes: 1 << 40}}
	s, err := open(dir, opts, hooks{share: fullSegments}) // smaller ones would be wholly dead, and gone
	require.NoError(t, err)
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

// Goal: no id of a segment is drawn twice, whatever has left by the next Open: what is newer has a higher one. Method:
// segments that have left before a Close, and the target of a compaction that a kill has cut off.
func TestRecover_NoIDTwice(t *testing.T) {
	newest := func(d *shadow.FS, id string) uint64 {
		s := oneLaneStore(t, d)
		require.NoError(t, s.Put(id, make([]byte, minSegmentSize-500)))
		seg := segmentOf(t, s, id)
		closeShadow(t, s, d)
		return seg.id
	}
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 300, 1000)
	deleteWhere(t, s, 0, 300, all)
	mustCompact(t, s)
	highest := s.segments.newestID()
	require.NoError(t, s.Close())
	require.Less(t, highestID(segmentNames(d)), highest)
	require.Greater(t, newest(d, "after a Close"), highest)

	var killed *shadow.FS
	s, err := openShadow(d, shadowOptions(), hooks{hash: func(string) uint64 { return 0 }, at: func(p point) error {
		if p == pointCompactBuilt && killed == nil {
			killed = d.Kill()
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 300, 1000)
	deleteWhere(t, s, 0, 300, odd)
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	require.NoError(t, s.Close())
	highest = highestID(segmentNames(killed))
	h, err := layout.DecodeHeader(killed.Files[layout.SegmentFileName(highest)].Current)
	require.NoError(t, err)
	require.Equal(t, layout.KindTarget, h.Kind)
	require.Greater(t, newest(killed, "after a kill"), highest)
}

// Goal: Open makes the names that a kill has left durable before the manifest that lists them. Method: power losses
// at each of its calls, which keep a single one of the changes to names, whichever it is.
func TestRecover_NamesBeforeManifest(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 10, 200, 1000) // on into segments of which nothing is durable
	killed := d.Kill()
	closeShadow(t, s, d)
	var lost []*shadow.FS
	killed.Before = func(shadow.Site) {
		kept := allKept
		for n, i := 1, 0; i < n; i++ {
			kept.Operation = func(j, of int) bool { n = of; return j == i }
			lost = append(lost, killed.Crash(kept))
		}
	}
	s = oneLaneStore(t, killed)
	killed.Before = nil
	closeShadow(t, s, killed)
	require.Greater(t, len(lost), 20)
	for _, d := range lost {
		s = oneLaneStore(t, d)
		requireContents(t, s, 0, 10, 1000, all)
		closeShadow(t, s, d)
	}
}
