//go:build unix

package warmtier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: Open makes durable what it believes, once, wherever the files come from: a store that was restored from a
// copy survives a power loss after Open, and the next Open of it has nothing to sync.
func TestOrigin_RestoredIsDurable(t *testing.T) {
	d := newShadow()
	s := shadowStore(t, d, shadowOptions())
	fill(t, s, 0, 200, 1000)
	require.NoError(t, s.Close())
	for _, hint := range []bool{true, false} {
		restored := d.StartCopy(func([]string) {}).End()
		if !hint {
			require.NoError(t, restored.Remove(layout.HintName))
		}
		require.Empty(t, restored.Crash(nothingKept).Files, "nothing of it is durable")
		s = shadowStore(t, restored, shadowOptions())
		lost := restored.Crash(nothingKept)
		require.NoError(t, s.Close())
		s = shadowStore(t, lost, shadowOptions())
		requireContents(t, s, 0, 200, 1000, all)
		closeShadow(t, s, lost)

		syncs := 0
		restored.Before = func(site shadow.Site) {
			if site.Kind == shadow.CallSync {
				syncs++
			}
		}
		s = shadowStore(t, restored, shadowOptions())
		require.Zero(t, syncs, "of files that the last Close left")
		requireContents(t, s, 0, 200, 1000, all)
		closeShadow(t, s, restored)
	}
}

// Goal: a file system that loses its cache without a restart is told from a kill, which it is not: what was
// synced is there, and what was not is no damage.
func TestOrigin_MountedAgain(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 20, 40, 1000)
	end := int(s.lanes[0].active.inFile.synced.Load())
	name := s.lanes[0].active.name()
	lost := d.Remount(allKept)
	require.NoError(t, s.Close())
	clear(lost.Files[name].Current[end : end+100]) // of the first record that was not synced
	clear(lost.Files[name].Durable[end : end+100])
	s = shadowStore(t, lost, shadowOptions())
	requireContents(t, s, 0, 20, 1000, all)
	require.Equal(t, 20, s.Len())
	closeShadow(t, s, lost)
}

// Goal: AfterPowerLoss says of a directory that looks as after a kill that it was a power loss.
func TestOrigin_AfterPowerLoss(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 20, 40, 1000)
	end, name := int(s.lanes[0].active.inFile.synced.Load()), s.lanes[0].active.name()
	snapshot := d.Kill()
	require.NoError(t, s.Close())
	clear(snapshot.Files[name].Current[end : end+100])
	_, err := openShadow(snapshot.Kill(), shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	opts := shadowOptions()
	opts.AfterPowerLoss = true
	s = shadowStore(t, snapshot, opts)
	requireContents(t, s, 0, 20, 1000, all)
	closeShadow(t, s, snapshot)
}

// Goal: where the system tells neither ids of files nor when it started, a kill and a power loss are survived all the
// same, what was lost that was not synced is no damage, and a copy that was restored is durable once it is open.
func TestOrigin_NothingKnown(t *testing.T) {
	d := newShadow()
	d.NoIDs, d.Boot = true, [16]byte{}
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 20, 40, 1000)
	name, end := s.lanes[0].active.name(), int(s.lanes[0].active.inFile.synced.Load())
	killed, lost := d.Kill(), d.Crash(allKept)
	lost.Boot = d.Boot
	closeShadow(t, s, d)
	clear(lost.Files[name].Current[end : end+100]) // of the first record that was not synced
	clear(lost.Files[name].Durable[end : end+100])
	for n, d := range map[int]*shadow.FS{40: killed, 20: lost} {
		s = oneLaneStore(t, d)
		requireContents(t, s, 0, n, 1000, all)
		require.Equal(t, n, s.Len())
		closeShadow(t, s, d)
	}

	restored := d.StartCopy(func([]string) {}).End()
	s = oneLaneStore(t, restored)
	lost = restored.Crash(nothingKept)
	closeShadow(t, s, restored)
	s = oneLaneStore(t, lost)
	requireContents(t, s, 0, 40, 1000, all)
	closeShadow(t, s, lost)
}

// Goal: a system that begins to tell ids, or no longer does, makes no copy of a directory.
func TestOrigin_IDsComeAndGo(t *testing.T) {
	for _, before := range []bool{true, false} {
		d := newShadow()
		d.NoIDs = before
		s := oneLaneStore(t, d)
		fill(t, s, 0, 20, 1000)
		killed := d.Kill()
		closeShadow(t, s, d)
		killed.NoIDs = !before
		s = oneLaneStore(t, killed)
		require.NoError(t, s.Close())
		copied := killed.StartCopy(func([]string) {}).End()
		copied.NoIDs = before
		s = oneLaneStore(t, copied)
		lost := copied.Crash(nothingKept)
		closeShadow(t, s, copied)
		s = oneLaneStore(t, lost)
		requireContents(t, s, 0, 20, 1000, all)
		closeShadow(t, s, lost)
		s = oneLaneStore(t, killed)
		requireContents(t, s, 0, 20, 1000, all)
		closeShadow(t, s, killed)
	}
}

// Goal: a hard link to a file in use, which somebody has made to have it a second time, does not keep its own
// directory from opening after a kill.
func TestOrigin_LinkedByOthers(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 20, 1000)
	require.NoError(t, d.Link(s.lanes[0].active.name(), newShadow()))
	killed := d.Kill()
	require.NoError(t, s.Close())
	s = oneLaneStore(t, killed)
	requireContents(t, s, 0, 20, 1000, all)
	require.NoError(t, s.Close())
}

// Goal: a repair takes no record out of a content. Method: a content that is a record of another memory, as
// valid as somebody can make it who does not read the file, and damage to the record that holds it.
func TestOrigin_RepairBelievesNoContent(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	h := record.NewHeader(record.KindMemory, 6, 4, record.Checksum([]byte("evil")))
	h.Seq = 1 << 40
	forged := make([]byte, h.Size())
	record.PutBody(forged, "forged", 0, []byte("evil"))
	outer := "outer id" // so that its content begins at a multiple of 8
	at := layout.HeaderSize + record.HeaderSize + len(outer)
	record.PutHeader(forged, h, record.SeedAt(record.SegmentSeed(1, 0), at))
	require.NoError(t, s.Put(outer, forged))
	require.NoError(t, s.Put("other", nil))
	require.NoError(t, s.Close())
	name := layout.SegmentFileName(1)
	require.Equal(t, forged, d.Files[name].Current[at:at+len(forged)])
	require.NoError(t, d.Remove(layout.HintName)) // which knows what there was
	damageAt(d, name, layout.HeaderSize+10)
	opts := shadowOptions()
	opts.Repair = true
	s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }})
	require.NoError(t, err)
	require.False(t, s.Has("forged"))
	require.True(t, s.Has("other"))
	closeShadow(t, s, d)
}

// Goal: files of others under the name of a segment stay as they are, whatever was lost, and no id that a name has
// is drawn: ids do not begin again after the highest one.
func TestOrigin_FilesOfOthers(t *testing.T) {
	text := []byte("my own precious text, no segment")
	for _, c := range []struct {
		name    string
		file    string
		content func(foreign []byte) []byte
		refused bool
	}{
		{"text", "00000000000000f1.seg", func([]byte) []byte { return text }, false},
		{"text under an id that is soon drawn", "0000000000000009.seg", func([]byte) []byte { return text }, false},
		{"text, unfinished", "0000000000000009.seg" + layout.NewSuffix, func([]byte) []byte { return text }, false},
		{"text after zeros", "00000000000000f1.seg", func([]byte) []byte {
			return append(make([]byte, 8), "0123456789abcdef0123456789abcdef"...)
		}, false},
		{"cut segment of another store", "00000000000000f0.seg", func(b []byte) []byte { return b[:40000] }, true},
		{"highest id, empty", "ffffffffffffffff.seg", func([]byte) []byte { return nil }, false},
		{"highest id, zeros", "ffffffffffffffff.seg", func([]byte) []byte { return make([]byte, 1000) }, false},
		{"segment of another store under the highest id", "ffffffffffffffff.seg", func(b []byte) []byte { return b }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, other := fastDir(t), fastDir(t)
			s := openDir(t, other, quietly())
			fill(t, s, 0, 100, 300)
			require.NoError(t, s.Close())
			foreign, err := os.ReadFile(filepath.Join(other, segmentFiles(t, other)[0]))
			require.NoError(t, err)
			s = openDir(t, dir, quietly())
			fill(t, s, 0, 200, 1000)
			require.NoError(t, s.Close())
			require.Less(t, readManifestOf(t, dir).Next, uint64(9))
			path := filepath.Join(dir, c.file)
			content := c.content(foreign)
			require.NoError(t, os.WriteFile(path, content, 0o600))
			reboot := hooks{boot: func() [16]byte { return [16]byte{9} }}
			for round := range 3 {
				s, err = open(dir, quietly(), reboot)
				if c.refused {
					require.ErrorIs(t, err, ErrCorrupt)
				} else {
					require.NoError(t, err)
					require.Equal(t, 200+100*round, s.Len())
					fill(t, s, 200+100*round, 300+100*round, 1000)
					closeIntact(t, s)
				}
				after, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, string(content), string(after))
				if id := readManifestOf(t, dir).Next; id > 1<<33 {
					require.Fail(t, "ids jump", "next is %x", id)
				}
			}
			require.True(t, c.refused || readManifestOf(t, dir).Next > 9)
		})
	}
}

// Goal: one bit in the version of a header is damage, which a repair mends, and no other version.
func TestOrigin_FlippedVersion(t *testing.T) {
	for bit := range 32 {
		dir := fastDir(t)
		s := openDir(t, dir, quietly())
		fill(t, s, 0, 100, 300)
		require.NoError(t, s.Close())
		path := filepath.Join(dir, segmentFiles(t, dir)[0])
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		b[8+bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err = Open(dir, quietly())
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "damaged version")
		opts := quietly()
		opts.Repair = true
		s = openDir(t, dir, opts)
		requireContents(t, s, 0, 100, 300, all)
		closeIntact(t, s)
	}
}

// Goal: flipped bits in one header, two of them, never make Open remove a segment that was durable: neither both
// copies of the state, nor the newer one and the first record, which then looks like a tail. A repair loses that
// record alone.
func TestOrigin_TwoFlippedBits(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	for n := range scaled(budget(t, 100, 300)) {
		d := newShadow()
		s := oneLaneStore(t, d)
		fill(t, s, 0, 20, 100)
		require.NoError(t, s.Sync())
		name := s.lanes[0].active.name()
		crashed := d.Crash(allKept)
		require.NoError(t, s.Close())
		f := crashed.Files[name]
		var bits []int
		for range 2 {
			at := rng.IntN(8 * (layout.HeaderSize + record.HeaderSize))
			if n%2 == 0 { // the newer copy of the state, which is the first, and the first record
				at = 8*layout.StateAt + rng.IntN(8*36)
				if len(bits) == 1 {
					at = 8*layout.HeaderSize + rng.IntN(8*record.HeaderSize)
				}
			}
			bits = append(bits, at)
			f.Current[at/8] ^= 1 << (at % 8)
			f.Durable[at/8] ^= 1 << (at % 8)
		}
		repaired := crashed.Kill()
		s, err := openShadow(crashed, shadowOptions(), hooks{hash: fixedHash})
		require.Contains(t, crashed.Files, name, "bits %v", bits)
		if n%2 == 0 && err != nil {
			opts := shadowOptions()
			opts.Repair = true
			s, err := openShadow(repaired, opts, hooks{hash: fixedHash})
			require.NoError(t, err, "bits %v", bits)
			requireContents(t, s, 1, 20, 100, all)
			closeShadow(t, s, repaired)
		}
		if err != nil {
			if !errors.Is(err, ErrVersion) { // which one of the two may look like
				require.ErrorIs(t, err, ErrCorrupt, "bits %v", bits)
			}
			continue
		}
		requireContents(t, s, 0, 20, 100, all)
		closeShadow(t, s, crashed)
	}
}

// Goal: a record of a kind or with a flag of a later build is ErrVersion, with Repair too, and nothing is changed.
func TestOrigin_UnknownRecord(t *testing.T) {
	for _, change := range []func(rec []byte){
		func(rec []byte) { rec[8] = 4 },
		func(rec []byte) { rec[8] = 4 },
		func(rec []byte) { rec[9] = 2 },
	} {
		d := newShadow()
		s := oneLaneStore(t, d)
		fill(t, s, 0, 20, 100)
		require.NoError(t, s.Close())
		require.NoError(t, d.Remove(layout.HintName))
		f := d.Files[layout.SegmentFileName(1)]
		header, err := layout.DecodeHeader(f.Current)
		require.NoError(t, err)
		rec := f.Current[layout.HeaderSize:]
		h, ok := record.Decode(rec)
		require.True(t, ok)
		change(rec)
		seed := record.SeedAt(record.SegmentSeed(1, header.Salt), layout.HeaderSize)
		binary.LittleEndian.PutUint32(rec, max(1, record.Checksum(rec[4:record.HeaderSize+h.IDLen()])^seed))
		for _, repair := range []bool{false, true} {
			opts := shadowOptions()
			opts.Repair = repair
			before := string(f.Current)
			s, err = openShadow(d, opts, hooks{hash: fixedHash})
			require.ErrorIs(t, err, ErrVersion)
			require.ErrorContains(t, err, fmt.Sprint("offset ", layout.HeaderSize))
			require.NoError(t, released(d, s))
			require.Equal(t, before, string(f.Current))
		}
	}
}

// Goal: hard links of a closed store open as a store of their own, and neither store writes to what both have.
func TestOrigin_HardLinks(t *testing.T) {
	link := func(from string) (to string) {
		to = filepath.Join(filepath.Dir(from), "linked")
		require.NoError(t, os.Mkdir(to, 0o700))
		for name := range snapshot(t, from) {
			if name == layout.LockName {
				continue // or one lock would be that of both
			}
			require.NoError(t, os.Link(filepath.Join(from, name), filepath.Join(to, name)))
		}
		return to
	}
	from := filepath.Join(fastDir(t), "store")
	s := openDir(t, from, quietly())
	fill(t, s, 0, 100, 300)
	require.NoError(t, s.Close())
	to := link(from)
	for range 2 {
		for _, dir := range []string{from, to} {
			s = openDir(t, dir, quietly())
			requireContents(t, s, 0, 100, 300, all)
			require.NoError(t, s.Put(dir, contentOf(1, 1, 100)))
			require.NoError(t, s.Sync())
			closeIntact(t, s)
		}
	}

	// Of one that is in use an unsealed file would be written to by two.
	from = filepath.Join(fastDir(t), "store")
	s = openDir(t, from, quietly())
	fill(t, s, 0, 100, 300)
	require.NoError(t, s.Sync())
	to = link(from)
	opts := quietly()
	opts.AfterPowerLoss = true
	before := snapshot(t, to)
	for _, o := range []*Options{quietly(), opts} {
		_, err := Open(to, o)
		require.ErrorIs(t, err, ErrCopied)
	}
	after := snapshot(t, to)
	delete(after, layout.LockName)
	require.Equal(t, before, after)
	readOnly := quietly() // for somebody who says that it is of one moment, and writes nothing
	readOnly.ReadOnly, readOnly.AfterPowerLoss = true, true
	reader := openDir(t, to, readOnly)
	requireContents(t, reader, 0, 100, 300, all)
	require.NoError(t, reader.Close())
	closeIntact(t, s)
}
