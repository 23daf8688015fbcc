//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: docs/format.md is enough to read a directory, and a directory once written stays readable.

Method: a reader made from that document alone, which shares nothing with the package but constants
of the standard library; and a store in testdata, written by the first build of this version of the format.
*/

var writeGolden = flag.Bool("golden", false, "write the golden store again, for a new format version")

const goldenDir = "testdata/format-2"

// documentReader reads a directory as docs/format.md says.
type documentReader struct{ t testing.TB }

func (r documentReader) castagnoli(b []byte) uint32 {
	return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

func u16(b []byte, at int) int    { return int(binary.LittleEndian.Uint16(b[at:])) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func u64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

// read returns the content of each id.
func (r documentReader) read(dir string) map[string][]byte {
	t := r.t
	manifest, err := os.ReadFile(filepath.Join(dir, "MANIFEST"))
	require.NoError(t, err)
	half := len(manifest) / 2
	require.Equal(t, manifest[:half], manifest[half:], "copies of the manifest")
	manifest = manifest[:half]
	require.Equal(t, "WARMMAN\x00", string(manifest[:8]))
	require.EqualValues(t, 2, u32(manifest, 8))
	require.Equal(t, r.castagnoli(manifest[:half-4]), u32(manifest, half-4))
	closed := u32(manifest, 12)
	require.LessOrEqual(t, closed, uint32(1), "flags")
	listed, pending := map[uint64][]byte{}, map[uint64]bool{}
	n := int(u32(manifest, 16))
	for i := range n {
		entry := manifest[128+40*i:][:40]
		listed[u64(entry, 0)] = entry
	}
	for i := range int(u32(manifest, 20)) {
		pending[u64(manifest, 128+40*n+8*i)] = true
	}

	type version struct {
		seq      uint64
		content  []byte // nil for a tombstone
		deadline uint64 // 0 for none
	}
	newest := map[string]version{}
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	require.NoError(t, err)
	for _, name := range names {
		id, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), ".seg"), 16, 64)
		require.NoError(t, err)
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		later := pending[id] || id >= u64(manifest, 56)
		entry := listed[id]
		if entry == nil && (!later || u16(b, 12) != 1) {
			continue
		}
		if entry == nil {
			require.Zero(t, closed, "made after the Close")
			require.Equal(t, u64(manifest, 64), u64(b, 56), "open")
			require.LessOrEqual(t, u64(b, 64), u64(manifest, 72), "generation")
		}
		delete(listed, id)
		records, end := r.records(b, id, manifest[24:40], func(
			kind byte, id string, deadline uint64, content []byte, seq uint64,
		) {
			if v, there := newest[id]; there && (v.seq > seq || v.seq == seq && kind != 2) {
				return
			}
			if kind == 2 {
				content = nil
			}
			newest[id] = version{seq: seq, content: content, deadline: deadline}
		})
		if entry != nil {
			require.Equal(t, u64(entry, 8), u64(b, 48), "salt")
			require.GreaterOrEqual(t, end, u64(entry, 24))
			require.GreaterOrEqual(t, records, u32(entry, 32))
			if closed == 1 {
				require.Equal(t, []uint64{end, uint64(records)}, []uint64{u64(entry, 24), uint64(u32(entry, 32))})
			}
		}
	}
	require.Empty(t, listed, "listed segments without a file")
	memories := map[string][]byte{}
	for id, v := range newest {
		if v.content != nil && (v.deadline == 0 || v.deadline > uint64(time.Now().UnixMilli())) {
			memories[id] = v.content
		}
	}
	return memories
}

// records calls fn for each record of a segment file, and returns how many there are and where they end.
func (r documentReader) records(
	b []byte, id uint64, store []byte, fn func(kind byte, id string, deadline uint64, content []byte, seq uint64),
) (records uint32, end uint64) {
	t := r.t
	require.Equal(t, "WARMSEG\x00", string(b[:8]))
	require.EqualValues(t, 2, u32(b, 8))
	require.Equal(t, r.castagnoli(b[8:92]), u32(b, 92))
	require.LessOrEqual(t, u16(b, 14), 1, "flags")
	require.Equal(t, id, u64(b, 16))
	require.EqualValues(t, len(b), u64(b, 24))
	require.Equal(t, store, b[32:48])
	var state []byte
	for at := 96; at <= 144; at += 48 {
		c := b[at : at+48]
		if r.castagnoli(c[:44]) == u32(c, 44) && (state == nil || u32(c, 0) > u32(state, 0)) {
			state = c
		}
	}
	require.NotNil(t, state)
	require.Equal(t, u64(b, 48), u64(state, 24), "salt")
	segmentSeed := r.castagnoli(slices.Concat(b[16:24], b[48:56]))
	sealed, synced := u32(state, 32) == 1, int(u64(state, 8))
	n, highest, at := 0, uint64(0), 192
	for ; !sealed || at < synced; n++ {
		if !sealed && u32(b, at) == 0 {
			require.GreaterOrEqual(t, at, synced)
			break
		}
		idLen, contentLen := u16(b, at+10), int(u32(b, at+12))
		seed := segmentSeed ^ uint32(0x9e3779b1*uint64(at/8))
		prefix, deadline := 24+idLen, uint64(0)
		require.LessOrEqual(t, b[at+9], byte(1), "flags")
		if b[at+9] == 1 {
			require.EqualValues(t, 1, b[at+8])
			deadline = u64(b, at+prefix)
			prefix += 8
		}
		require.Equal(t, max(1, r.castagnoli(b[at+4:at+prefix])^seed), u32(b, at), "record at %d", at)
		content := b[at+prefix : at+prefix+contentLen]
		digest := r.castagnoli(b[at+24 : at+24+idLen])
		if digest <= 1024 {
			digest |= 1 << 31
		}
		sum := r.castagnoli(content)
		if b[at+8] == 3 {
			require.Zero(t, idLen)
			sum, digest = r.container(content)
		}
		require.Equal(t, sum, u32(b, at+4))
		require.Equal(t, digest, u32(b, len(b)-4*(n+1)))
		if at < synced {
			highest = max(highest, u64(b, at+16))
		}
		if b[at+8] == 3 {
			at += 24 // to the first record in it
			continue
		}
		fn(b[at+8], string(b[at+24:at+24+idLen]), deadline, content, u64(b, at+16))
		at += (prefix + contentLen + 7) / 8 * 8
		if at == synced {
			require.EqualValues(t, n+1, u32(state, 4))
			require.Equal(t, highest, u64(state, 16))
		}
	}
	return uint32(n), uint64(at)
}

// container returns the content checksum of a container with this content, and how many records are in it.
func (r documentReader) container(content []byte) (sum, n uint32) {
	var sums []byte
	for at := 0; at < len(content); n++ {
		sums = append(sums, content[at:at+4]...)
		at += (24 + u16(content, at+10) + 8*int(content[at+9]) + int(u32(content, at+12)) + 7) / 8 * 8
	}
	return r.castagnoli(sums), n
}

// formatStore fills dir with a store that is closed, or as a kill would leave it, and returns its
// contents.
func formatStore(t testing.TB, dir string, closed bool) map[string][]byte {
	opts := quietly()
	opts.SegmentSize = minSegmentSize
	s := openDir(t, dir, opts)
	want := map[string][]byte{}
	for i := range 120 {
		want[idOf(i)] = contentOf(i, 0, i*13%700)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	want["\x00\xff"] = bytes.Repeat([]byte("large "), 15_000) // more than a segment
	require.NoError(t, s.Put("\x00\xff", want["\x00\xff"]))
	for i := 0; i < 120; i += 3 {
		delete(want, idOf(i))
		_, err := s.Delete(idOf(i))
		require.NoError(t, err)
	}
	put := func(id string, ttl time.Duration) {
		want[id] = []byte("content of " + id)
		require.NoError(t, s.PutTTL(id, want[id], ttl))
	}
	const centuries = 250 * 365 * 24 * time.Hour
	put("expires, copied", centuries)
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	put("expires", centuries)
	require.NoError(t, s.Put("expired", []byte("older")))
	put("expired", time.Nanosecond)
	delete(want, "expired")
	waitFor(func() bool { return !s.Has("expired") })
	for i := 1; i < 120; i += 6 {
		want[idOf(i)] = contentOf(i, 1, 40)
		require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
	}
	var b Batch
	for _, i := range []int{10, 11, 500} {
		want[idOf(i)] = contentOf(i, 2, 60)
		b.Put(idOf(i), want[idOf(i)])
	}
	b.PutTTL("expires, in a batch", []byte("content"), centuries)
	want["expires, in a batch"] = []byte("content")
	b.Delete(idOf(13))
	delete(want, idOf(13))
	require.NoError(t, s.Apply(&b))
	require.NoError(t, s.Sync())
	delete(want, idOf(2))
	_, err = s.Delete(idOf(2))
	require.NoError(t, err)
	if closed {
		require.NoError(t, s.Close())
	} else {
		t.Cleanup(func() { require.NoError(t, s.Close()) })
	}
	return want
}

func TestFormat_DocumentIsEnough(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			if raceEnabled && !closed {
				t.Skip("heap segments reach their files with Sync and Close only")
			}
			dir := fastDir(t)
			want := formatStore(t, dir, closed)
			require.Equal(t, want, documentReader{t: t}.read(dir))
		})
	}
}

func TestFormat_GoldenStoreOpens(t *testing.T) {
	if *writeGolden {
		require.NoError(t, os.RemoveAll(goldenDir))
		require.NoError(t, os.MkdirAll(goldenDir, 0o700))
		dir := fastDir(t)
		formatStore(t, dir, true)
		copyDir(t, dir, goldenDir)
		spares, err := filepath.Glob(filepath.Join(goldenDir, layout.SpareName+"*"))
		require.NoError(t, err)
		for _, name := range append(spares, filepath.Join(goldenDir, layout.LockName)) {
			require.NoError(t, os.Remove(name))
		}
	}
	want := documentReader{t: t}.read(goldenDir)
	require.Len(t, want, 83)
	again := formatStore(t, fastDir(t), true)
	require.Equal(t, want, again)
	for _, hint := range []bool{true, false} {
		dir := fastDir(t)
		copyDir(t, goldenDir, dir)
		if !hint {
			require.NoError(t, os.Remove(filepath.Join(dir, layout.HintName)))
		}
		opts := quietly()
		opts.ReadOnly = true
		s := openDir(t, dir, opts)
		require.Equal(t, want, presentIn(s))
		require.Len(t, deadlinesOf(t, s), 3)
		closeIntact(t, s)
		s = openDir(t, dir, quietly())
		require.Equal(t, want, presentIn(s))
		mustCompact(t, s)
		require.Equal(t, want, presentIn(s))
		closeIntact(t, s)
		require.Equal(t, want, documentReader{t: t}.read(dir))
	}
}
