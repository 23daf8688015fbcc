package layout

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

func exampleHint() *Hint {
	h := &Hint{
		Store: StoreID{1, 2}, Key: [16]byte{3, 4}, OffsetBits: 13, MaxSeq: 99, Open: 1 << 60, Next: 17,
		Segments: []HintSegment{
			{ID: 7, Tail: 500, LiveBytes: 300, MinSeq: 2, Records: 9, Tombstones: 2, TombstoneUnits: 8, Salt: 1 << 62},
			{ID: 5, Tail: 128, LiveBytes: 0, MinSeq: 1<<64 - 1, Records: 0},
			{ID: 8, Tail: 600, LiveBytes: 472, MinSeq: 20, Records: 11, Tombstones: 1, TombstoneUnits: 4},
		},
	}
	for i := range h.Shards {
		h.Shards[i] = HintShard{Slots: uint32(8 * i), Memories: uint32(i), LiveBytes: uint64(100 * i), TableSum: ^uint32(i)}
	}
	return h
}

// Goal: a hint is decoded as it was encoded; no flipped bit up to its tables goes unnoticed, and no number of
// segments is believed before they fit.
func TestHint_EveryFlippedBitDetected(t *testing.T) {
	want := exampleHint()
	b := make([]byte, HintTablesAt(len(want.Segments))+64) // tables behind it are none of its business
	want.Encode(b)
	require.Equal(t, make([]byte, 64), b[len(b)-64:])
	got, err := DecodeHint(b)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for bit := range HintTablesAt(len(want.Segments)) * 8 {
		damaged := bytes.Clone(b)
		damaged[bit/8] ^= 1 << (bit % 8)
		_, err := DecodeHint(damaged)
		require.Error(t, err, "bit %d of byte %d", bit%8, bit/8)
	}
	for size := range HintTablesAt(len(want.Segments)) {
		_, err := DecodeHint(b[:size])
		require.Error(t, err, "%d bytes", size)
	}
}

// Goal: each field of a hint is where docs/format.md says.
func TestHint_Bytes(t *testing.T) {
	h := &Hint{
		Store: StoreID{0xaa}, Key: [16]byte{0xbb}, OffsetBits: 0x11, MaxSeq: 0x22, Open: 0x33, Next: 0x44,
		Segments: []HintSegment{
			{ID: 1, Tail: 2, LiveBytes: 3, MinSeq: 4, Records: 5, Tombstones: 6, TombstoneSum: 7, TombstoneUnits: 8, Salt: 9},
		},
	}
	h.Shards[255] = HintShard{Slots: 9, Memories: 10, LiveBytes: 11, TableSum: 12}
	b := make([]byte, HintTablesAt(1))
	h.Encode(b)
	require.Equal(t, "WARMHNT\x00", string(b[:8]))
	at := func(from int) byte { return b[from] }
	require.Equal(t, []byte{Version, 1, 0xaa, 0xbb, 0x11, 0x22, 0x33, 0x44},
		[]byte{at(8), at(12), at(16), at(32), at(48), at(56), at(64), at(72)})
	seg := b[80:152]
	require.Equal(t, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9},
		[]byte{seg[0], seg[8], seg[16], seg[24], seg[32], seg[36], seg[40], seg[44], seg[48]})
	last := b[152+255*24 : 152+256*24]
	require.Equal(t, []byte{9, 10, 11, 12, 0}, []byte{last[0], last[4], last[8], last[16], last[20]})
	require.Len(t, b, 152+256*24+4)
}

// Goal: lists of tombstones come back as they were written, a flipped bit in them is noticed, and no length is
// believed before it fits.
func TestHint_Tombstones(t *testing.T) {
	h := exampleHint()
	lists := [][]uint32{{16, 20}, {}, {40}}
	b := make([]byte, TombstonesSize(3))
	rest := b
	for i, list := range lists {
		h.Segments[i].TombstoneSum = PutTombstones(rest, slices.Values(list))
		require.Equal(t, record.Checksum(rest[:4*len(list)]), h.Segments[i].TombstoneSum)
		rest = rest[TombstonesSize(len(list)):]
	}
	got, left, err := h.DecodeTombstones(append(bytes.Clone(b), 7))
	require.NoError(t, err)
	require.Equal(t, []byte{7}, left)
	require.Equal(t, lists, got)
	for bit := range len(b) * 8 {
		damaged := bytes.Clone(b)
		damaged[bit/8] ^= 1 << (bit % 8)
		_, _, err := h.DecodeTombstones(damaged)
		require.Error(t, err, "bit %d", bit)
	}
	_, _, err = h.DecodeTombstones(b[:len(b)-1])
	require.Error(t, err)
	h.Segments[0].Tombstones = 1<<32 - 1
	_, _, err = h.DecodeTombstones(b)
	require.Error(t, err)
}

// Goal: lists of deadlines come back as they were written, a flipped bit in them is noticed, and no length is
// believed before it fits.
func TestHint_Deadlines(t *testing.T) {
	h := exampleHint()
	lists := [][]HintDeadlines{
		{{Bucket: 1, Bytes: 2, First: 3, Last: 4}, {Bucket: 11, Bytes: 1 << 40, First: 5, Last: 1 << 60}},
		{},
		{{Bucket: 2, Bytes: 8, First: 9, Last: 9}},
	}
	b := make([]byte, DeadlinesSize(3))
	rest := b
	for i, list := range lists {
		h.Segments[i].Deadlines = uint32(len(list))
		h.Segments[i].DeadlineSum = PutDeadlines(rest, list)
		rest = rest[DeadlinesSize(len(list)):]
	}
	got, err := h.DecodeDeadlines(b)
	require.NoError(t, err)
	require.Equal(t, lists, got)
	for bit := range len(b) * 8 {
		damaged := bytes.Clone(b)
		damaged[bit/8] ^= 1 << (bit % 8)
		_, err := h.DecodeDeadlines(damaged)
		require.Error(t, err, "bit %d", bit)
	}
	_, err = h.DecodeDeadlines(b[:len(b)-1])
	require.Error(t, err)
	h.Segments[0].Deadlines = DeadlineBuckets + 1
	_, err = h.DecodeDeadlines(make([]byte, 1<<20))
	require.Error(t, err)
}
