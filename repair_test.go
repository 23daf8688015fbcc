//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: a store that is opened read-only with Repair gives back all memory when it is closed.
func TestRecover_ReadOnlyRepairReleasesHint(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	require.Contains(t, d.Files, layout.HintName)
	opts := shadowOptions()
	opts.ReadOnly, opts.Repair = true, true
	s = shadowStore(t, d, opts)
	requireContents(t, s, 0, 100, 100, all)
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// Goal: a failed Open with Repair gives back all memory.
func TestRecover_FailedRepairReleasesHint(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallSync || kind == shadow.CallSyncDir {
			return syscall.EIO
		}
		return nil
	}
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.ErrorIs(t, err, syscall.EIO)
	require.NoError(t, released(d, s))
}

// partlyEvacuated returns a closed store in which a compaction was cut off: some memories have two
// copies. places has the records of every memory that is not deleted, by id.
func partlyEvacuated(t *testing.T) (d *shadow.FS, places map[string][]shadowPlace) {
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
	for _, name := range segmentNames(d) {
		mem := d.Files[name].Current
		st, ok := layout.DecodeState(mem, uint64(len(mem)))
		require.True(t, ok)
		for at := layout.HeaderSize; at < int(st.Synced); {
			h, ok := record.Decode(mem[at:])
			require.True(t, ok)
			id := string(record.ID(mem[at:], h))
			if h.Kind() == record.KindMemory {
				if was, ok := seqs[id]; ok {
					require.Equal(t, was, h.Seq, "another version")
				}
				seqs[id] = h.Seq
				places[id] = append(places[id], shadowPlace{name, at})
			}
			at += h.Size()
		}
	}
	for i := 1; i < 400; i += 4 {
		delete(places, idOf(i))
	}
	return d, places
}

// shadowPlace says where a record is.
type shadowPlace struct {
	name   string
	offset int
}

// damageAt flips a bit of a file, both in the cache and on the disk.
func damageAt(d *shadow.FS, name string, at int) {
	f := d.Files[name]
	f.Current[at] ^= 1
	if at < len(f.Durable) {
		f.Durable[at] ^= 1
	}
}

// Goal: a repair keeps a memory that has two copies, whichever one the index takes. Damage to one
// copy costs nothing either, where its prefix says which version it was.
func TestRecover_RepairWithCopies(t *testing.T) {
	opts := shadowOptions()
	opts.Repair = true
	for _, hinted := range []bool{true, false} {
		for _, damaged := range []int{-1, 0, 1} { // no copy, or one of the two
			d, places := partlyEvacuated(t)
			lost, copied := -1, 0
			for i := range 400 {
				switch of := places[idOf(i)]; {
				case len(of) == 1 && lost < 0:
					lost = i
					damageAt(d, of[0].name, of[0].offset+record.HeaderSize)
				case len(of) == 2 && damaged >= 0:
					damageAt(d, of[damaged].name, of[damaged].offset+record.HeaderSize+100)
					fallthrough
				case len(of) == 2:
					copied++
				}
			}
			require.Greater(t, copied, 10)
			if !hinted {
				require.NoError(t, d.Remove(layout.HintName))
			}
			s := shadowStore(t, d, opts)
			requireContents(t, s, 0, 400, 1000, func(i int) bool { return i%4 != 1 && i != lost })
			closeShadow(t, s, d)
		}
	}
}

// Goal: a repair after a power loss that is cut off, and then done again, has the same result: what
// the power loss tore is no damage the second time either, although the machine was not restarted
// in between.
func TestRecover_RepairCutOffAfterPowerLoss(t *testing.T) {
	opts := shadowOptions()
	opts.Repair = true
	hash := func(string) uint64 { return 0 }
	points := append([]point{pointRecoverSealed, pointRecoverListed, pointManifestTemp, pointManifestRenamed,
		pointFlushed, pointStateWritten, pointCloseFlushed}, repairPoints...)
	for passing := 1; ; passing++ { // passings of points where something may have become durable
		passed := 0
		t.Run(strconv.Itoa(passing), func(t *testing.T) {
			d := newShadow()
			s := oneLaneStore(t, d)
			for i, id := range []string{"damaged", "torn", "kept"} {
				require.NoError(t, s.Put(id, contentOf(i, 1, 1000)))
			}
			require.NoError(t, s.Sync())
			seg := s.lanes[0].active
			end := int(seg.inFile.synced.Load())
			require.NoError(t, s.Put("torn", contentOf(1, 2, 1000)))
			require.NoError(t, s.Put("behind", nil))
			lost := d.Crash(allKept)
			require.NoError(t, s.Close())
			clear(lost.Files[seg.name()].Current[end : end+100])
			clear(lost.Files[seg.name()].Durable[end : end+100])
			damageAt(lost, seg.name(), layout.HeaderSize+500)

			var killed *shadow.FS
			s, err := openShadow(lost, opts, hooks{hash: hash, at: func(p point) error {
				if slices.Contains(points, p) {
					if passed++; passed == passing {
						killed = lost.Kill()
					}
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, s.Close())
			if killed == nil { // there are no more
				killed = lost.Kill()
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

// Goal: damage to a superseded copy does not cost the memory that superseded it. The copy, of a
// record that was overwritten while the compaction ran, lies in a target, and no memory has it.
func TestDamage_RepairSupersededCopy(t *testing.T) {
	dir := fastDir(t)
	p := pauseAt(pointCompactWalked)
	opts := quiet()
	opts.SyncInterval = -1
	s, err := open(dir, opts, hooks{at: p.hook})
	require.NoError(t, err)
	fill(t, s, 0, 20, 100)
	deleteWhere(t, s, 0, 20, odd)
	done := make(chan error)
	go func() {
		_, err := s.Compact(context.Background())
		done <- err
	}()
	<-p.reached
	newer := contentOf(2, 1, 100)
	require.NoError(t, s.Put(idOf(2), newer))
	close(p.proceed)
	require.NoError(t, <-done)
	require.NoError(t, s.Close())

	img := loadImage(t, dir)
	hit := 0
	for _, name := range img.segments() {
		b := img[name]
		h, err := layout.DecodeHeader(b)
		require.NoError(t, err)
		at := bytes.Index(b, contentOf(2, 0, 100))
		if h.Kind == layout.KindTarget && at >= 0 {
			b[at] ^= 1
			hit++
		}
	}
	require.Equal(t, 1, hit, "copies of what was superseded")
	img.write(t, dir)
	opts.Repair = true
	s = openDir(t, dir, opts)
	got, err := s.Get(idOf(2))
	require.NoError(t, err)
	require.Equal(t, newer, got)
	requireContents(t, s, 3, 20, 100, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// Goal: damage to the last record of a segment, with nothing after it to say up to which version
// its memory is lost, does not cost a version from a later session.
func TestDamage_RepairLastRecord(t *testing.T) {
	dir := fastDir(t)
	older, newer := contentOf(7, 1, 100), contentOf(7, 2, 100)
	s := openDir(t, dir, quietly())
	fill(t, s, 100, 120, 100)
	require.NoError(t, s.Put(idOf(7), older))
	require.NoError(t, s.Close())
	s = openDir(t, dir, quietly())
	require.NoError(t, s.Put(idOf(7), newer))
	require.NoError(t, s.Close())
	name, at := findInFiles(t, dir, older)
	img := loadImage(t, dir)
	img[name][at] ^= 1
	img.write(t, dir)

	opts := quietly()
	opts.Repair = true
	s = openDir(t, dir, opts)
	requireContents(t, s, 100, 120, 100, all)
	got, err := s.Get(idOf(7))
	require.NoError(t, err)
	require.Equal(t, newer, got)
	closeIntact(t, s)
}

// Goal: a repair can say what is gone: memories whose only version is damaged, and those of which
// only an older version is left, but not those that were stored again.
func TestDamage_RepairedNamesWhatIsLost(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	require.Empty(t, s.Stats().Recovery.Repair)
	fill(t, s, 0, 10, 100)
	require.NoError(t, s.Put(idOf(3), contentOf(3, 1, 100)))
	require.NoError(t, s.Put(idOf(4), contentOf(4, 1, 100)))
	require.NoError(t, s.Close())
	img := loadImage(t, dir)
	for _, content := range [][]byte{contentOf(2, 0, 100), contentOf(3, 1, 100), contentOf(4, 0, 100)} {
		name, at := findInFiles(t, dir, content)
		img[name][at] ^= 1
	}
	img.write(t, dir)

	opts := quietly()
	opts.Repair = true
	s = openDir(t, dir, opts)
	report := s.Stats().Recovery.Repair
	clear(s.Stats().Recovery.Repair.Lost)
	require.Equal(t, report, s.Stats().Recovery.Repair, "the slice is the caller's")
	published, err := json.Marshal(s.Stats())
	require.NoError(t, err)
	require.Contains(t, string(published), `"records_lost":3`)
	require.NotContains(t, string(published), idOf(2), "no ids")
	require.ElementsMatch(t, []string{idOf(2), idOf(3)}, report.Lost)
	require.Equal(t, 3, report.RecordsLost)
	require.Equal(t, 1, report.MemoriesDeleted, "of id 3 the older version was left")
	require.Positive(t, report.SegmentsReplaced)
	closeIntact(t, s)
	s = openDir(t, dir, opts)
	require.Empty(t, s.Stats().Recovery.Repair, "nothing is left to repair")
	closeIntact(t, s)
}
