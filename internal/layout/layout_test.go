package layout

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// Goal: names of segments are read as they are written, and nothing else is taken for one.
func TestSegmentFileName_RoundTrip(t *testing.T) {
	for _, id := range []uint64{1, 255, 1 << 40, 1<<64 - 1} {
		got, ok := ParseSegmentFileName(SegmentFileName(id))
		require.True(t, ok)
		require.Equal(t, id, got)
	}
	for _, name := range []string{
		"", ".seg", "1.seg", "0000000000000000.seg", "000000000000000A.seg", "00000000000000001.seg",
		"0000000000000001.seg.new", "+000000000000001.seg", "000000000000001g.seg", LockName, ManifestName,
	} {
		_, ok := ParseSegmentFileName(name)
		require.False(t, ok, name)
	}
}

func segmentFile() []byte {
	mem := make([]byte, 4096)
	State{Generation: 1, Records: 3, Synced: 500, MaxSeq: 9, Salt: 6}.Encode(mem)
	exampleHeader.Encode(mem)
	return mem
}

var exampleHeader = Header{
	Kind: KindLane, Large: true, ID: 7, Capacity: 4096, Store: StoreID{1, 2}, Salt: 6, Open: 1 << 63, Generation: 12,
}

// Goal: a header is decoded as it was encoded, and no flipped bit of it goes unnoticed.
func TestHeader_EveryFlippedBitDetected(t *testing.T) {
	got, err := DecodeHeader(segmentFile())
	require.NoError(t, err)
	require.Equal(t, exampleHeader, got)

	for bit := range 96 * 8 {
		mem := segmentFile()
		mem[bit/8] ^= 1 << (bit % 8)
		_, err := DecodeHeader(mem)
		require.Error(t, err, "bit %d of byte %d", bit%8, bit/8)
		require.NotErrorIs(t, err, ErrVersion, "damage is no other version: bit %d of byte %d", bit%8, bit/8)
	}
	_, err = DecodeHeader(nil)
	require.ErrorIs(t, err, ErrNoHeader)
	_, err = DecodeHeader(make([]byte, 4096))
	require.ErrorIs(t, err, ErrNoHeader)
	for what, change := range map[string]func(mem []byte){
		"format version 3, this package reads 2": func(mem []byte) { mem[8]++ },
		"with kind 3":                            func(mem []byte) { mem[12] = 3 },
		"flags 0x3":                              func(mem []byte) { mem[14] |= 2 },
	} {
		mem := segmentFile()
		change(mem)
		binary.LittleEndian.PutUint32(mem[92:], record.Checksum(mem[8:92]))
		_, err = DecodeHeader(mem)
		require.ErrorIs(t, err, ErrVersion)
		require.ErrorContains(t, err, what)
	}
}

// Goal: of the two copies of a state the newest intact one counts, and a damaged one never does.
func TestState_NewestIntactCopy(t *testing.T) {
	mem := segmentFile()
	newer := State{Generation: 2, Records: 4, Synced: 600, MaxSeq: 10, Salt: 6, Sealed: true}
	newer.Encode(mem)
	st, ok := DecodeState(mem, 4096)
	require.True(t, ok)
	require.Equal(t, newer, st)
	for bit := range StateSize * 8 {
		damaged := bytes.Clone(mem)
		damaged[StateAt+bit/8] ^= 1 << (bit % 8) // generation 2 is in the first copy
		st, ok := DecodeState(damaged, 4096)
		require.True(t, ok)
		require.Equal(t, uint32(1), st.Generation, "bit %d of byte %d", bit%8, bit/8)
	}
	_, ok = DecodeState(mem, 550)
	require.True(t, ok, "the older one fits")
	_, ok = DecodeState(mem, 400)
	require.False(t, ok, "beyond the file")
	_, ok = DecodeState(mem[:HeaderSize-1], 4096)
	require.False(t, ok)
}

// Goal: an unfinished file is told from one of others by what there is of its header.
func TestMayBeUnfinished(t *testing.T) {
	ours := StoreID{1, 2}
	for _, c := range []struct {
		name string
		mem  []byte
		want bool
	}{
		{"empty", nil, true},
		{"zeros", make([]byte, 200), true},
		{"with our header", segmentFile(), true},
		{"cut in the header", segmentFile()[:HeaderSize-1], true},
		{"cut in the magic", segmentFile()[:3], true},
		{"something else", []byte("#!/bin/sh"), false},
	} {
		require.Equal(t, c.want, MayBeUnfinished(c.mem, ours), c.name)
	}
	require.False(t, MayBeUnfinished(segmentFile(), StoreID{3}), "of another store")
}

// Goal: a manifest is decoded as it was encoded; one damaged copy is made up for by the other, and every
// flipped bit is noticed; no length is believed before it fits.
func TestManifest_EveryFlippedBitDetected(t *testing.T) {
	m := Manifest{
		Store: StoreID{5}, Cache: [16]byte{6}, Closed: true, Next: 9, Open: 10, Generation: 11, Hint: 12, Directory: 13,
		Unfinished: true, Clock: 14, MaxSeq: 15,
		Listed: []ListedSegment{{1, 16, 17, 18, 19}, {3, 20, 21, 22, 23}}, Pending: []uint64{8},
	}
	b := m.Encode()
	require.Len(t, b, 2*(128+2*40+8+4))
	require.Len(t, Manifest{}.Encode(), ManifestSize(0))
	got, whole, err := DecodeManifest(b)
	require.NoError(t, err)
	require.True(t, whole)
	require.Equal(t, m, got)
	for bit := range len(b) * 8 {
		damaged := bytes.Clone(b)
		damaged[bit/8] ^= 1 << (bit % 8)
		got, whole, err := DecodeManifest(damaged)
		require.NoError(t, err, "bit %d of byte %d", bit%8, bit/8)
		require.False(t, whole, "bit %d of byte %d", bit%8, bit/8)
		require.Equal(t, m, got)
	}
	for size := range len(b) / 2 {
		_, _, err := DecodeManifest(b[:size])
		require.Error(t, err, "%d bytes", size)
	}
	for at, what := range map[int]string{8: "format version 3", 12: "flags 0x4"} {
		b := m.Encode()
		half := len(b) / 2
		b[at]++
		binary.LittleEndian.PutUint32(b[half-4:], record.Checksum(b[:half-4]))
		copy(b[half:], b[:half])
		_, _, err = DecodeManifest(b)
		require.ErrorIs(t, err, ErrVersion)
		require.ErrorContains(t, err, what)
	}
}

// Goal: zeros are told from everything else, wherever the one byte is.
func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 100, 4096, 10_000} {
		b := make([]byte, n)
		require.True(t, IsZero(b), "%d", n)
		for _, at := range slices.Compact([]int{0, n / 2, n - 1}) {
			if n == 0 {
				break
			}
			b[at] = 1
			require.False(t, IsZero(b), "%d of %d", at, n)
			b[at] = 0
		}
	}
}
