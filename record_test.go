package warmtier

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// encodeRecord is the bytes of a record as a Put writes them.
func encodeRecord(h header, id string, content []byte, seed uint32) []byte {
	h.idLen, h.contentLen = len(id), len(content)
	rec := make([]byte, h.size())
	putBody(rec, id, content)
	h.contentSum = checksum(content)
	putHeader(rec, h, seed)
	return rec
}

// Goal: the bytes of a record and the seed of a segment are what the format says, on every machine.
// Method: literals, made with another implementation of CRC-32C.
func TestRecord_GoldenBytes(t *testing.T) {
	require.Equal(t, uint32(0xc514cfad), segmentSeed(1))
	require.Equal(t, uint32(0x26f9021c), segmentSeed(0x0102030405060708))

	for _, c := range []struct {
		name    string
		h       header
		id      string
		content []byte
		seed    uint32
		want    string
	}{
		{"memory of segment 1", header{kind: kindMemory, seq: 7}, "ab", []byte("hello"), segmentSeed(1),
			"11457cf1" + "4cbb719a" + "01000200" + "05000000" + "0700000000000000" + "616268656c6c6f00"},
		{"memory without content, no seed", header{kind: kindMemory, seq: math.MaxUint64}, "\x00", nil, 0,
			"595fa708" + "00000000" + "01000100" + "00000000" + "ffffffffffffffff" + "0000000000000000"},
		{"tombstone", header{kind: kindTombstone, seq: 1 << 32}, "gone", nil, 0xffffffff,
			"d56b684e" + "00000000" + "02000400" + "00000000" + "0000000001000000" + "676f6e6500000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, hex.EncodeToString(encodeRecord(c.h, c.id, c.content, c.seed)))
		})
	}
}

// Goal: what was encoded is decoded again, whatever lies behind it, and takes no more than 32 bytes
// beyond id and content. Method: a table of lengths around the padding.
func TestRecord_RoundTrip(t *testing.T) {
	for _, idLen := range []int{1, 2, 3, 4, 5, 11, 12, 13, 255, 256, MaxIDLen} {
		for _, contentLen := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 4096} {
			id, content := strings.Repeat("i", idLen), contentOf(idLen, contentLen, contentLen)[:contentLen]
			in := header{kind: kindMemory, seq: uint64(idLen)<<32 | uint64(contentLen)}
			rec := encodeRecord(in, id, content, 42)
			require.Zero(t, len(rec)%recordAlign)
			require.LessOrEqual(t, len(rec), idLen+contentLen+32)

			h, ok := decodeHeader(append(rec, "what lies behind"...))
			require.True(t, ok)
			require.Equal(t, len(rec), h.size())
			require.Equal(t, in.kind, h.kind)
			require.Equal(t, in.seq, h.seq)
			require.Equal(t, id, string(recordID(rec, h)))
			require.True(t, bytes.Equal(content, recordContent(rec, h)))
			require.Equal(t, contentLen, cap(recordContent(rec, h)), "room to append into the next record")
			require.True(t, intactRecord(rec, h, 42))
			require.False(t, intactRecord(rec, h, 43), "a record of another segment verifies")
		}
	}
}

// Goal: a copy in another segment has the checksum of that segment. Method: copy, then verify with
// either seed.
func TestRecord_CopyChangesSeed(t *testing.T) {
	from, to := segmentSeed(1), segmentSeed(2)
	rec := encodeRecord(header{kind: kindMemory, seq: 9}, "id", []byte("some content"), from)
	h, ok := decodeHeader(rec)
	require.True(t, ok)
	reseed(rec, h, to)
	require.Equal(t, encodeRecord(h, "id", []byte("some content"), to), rec)
}

// Goal: no flipped bit of header, id or content goes unnoticed. Method: every bit of one record;
// padding, which holds nothing, is not covered.
func TestRecord_EveryFlippedBitDetected(t *testing.T) {
	const id = "flip"
	content := []byte("every single bit of it")
	rec := encodeRecord(header{kind: kindMemory, seq: 3}, id, content, 77)
	behind := make([]byte, 1024) // so that a longer length stays in bounds
	for bit := range (recordHeaderSize + len(id) + len(content)) * 8 {
		damaged := append(bytes.Clone(rec), behind...)
		damaged[bit/8] ^= 1 << (bit % 8)
		h, ok := decodeHeader(damaged)
		require.False(t, ok && intactRecord(damaged, h, 77), "bit %d of byte %d", bit%8, bit/8)
	}
}

// Goal: lengths that reach out of bounds, unknown kinds and flags, and bytes that never were a record
// are refused before anything is read through them. Method: a table of damaged headers.
func TestRecord_HostileHeadersRefused(t *testing.T) {
	good := encodeRecord(header{kind: kindMemory, seq: 1}, "id", []byte("content"), 0)
	with := func(change func(rec []byte)) []byte {
		rec := bytes.Clone(good)
		change(rec)
		return rec
	}
	for _, c := range []struct {
		name string
		rec  []byte
	}{
		{"nil", nil},
		{"nothing", []byte{}},
		{"one byte short of a header", good[:recordHeaderSize-1]},
		{"header alone", good[:recordHeaderSize]},
		{"one byte short of its padding", good[:len(good)-1]},
		{"zeros", make([]byte, 64)},
		{"ones", bytes.Repeat([]byte{0xff}, 64)},
		{"kind 0", with(func(rec []byte) { rec[8] = 0 })},
		{"kind 3", with(func(rec []byte) { rec[8] = 3 })},
		{"unknown flag", with(func(rec []byte) { rec[9] = 1 })},
		{"id length 0", with(func(rec []byte) { rec[10], rec[11] = 0, 0 })},
		{"longest id length", with(func(rec []byte) { rec[10], rec[11] = 0xff, 0xff })},
		{"content length one over the record", with(func(rec []byte) { rec[12] = 15 })},
		{"content length 1 GiB", with(func(rec []byte) { copy(rec[12:], []byte{0, 0, 0, 0x40}) })},
		{"content length over 1 GiB", with(func(rec []byte) { copy(rec[12:], []byte{1, 0, 0, 0x40}) })},
		{"content length negative in 32 bits", with(func(rec []byte) { copy(rec[12:], []byte{0, 0, 0, 0x80}) })},
		{"longest content length", with(func(rec []byte) { copy(rec[12:], []byte{0xff, 0xff, 0xff, 0xff}) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ok := decodeHeader(c.rec)
			require.False(t, ok)
		})
	}
	_, ok := decodeHeader(good)
	require.True(t, ok, "the undamaged record")
}

// Goal: a content length over the limit is refused even where so many bytes follow. Method: mapped
// memory of which one page is touched.
func TestRecord_ContentLengthOverTheLimit(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector keeps four bytes for each byte of such a record")
	}
	rec, err := mapPrivate(MaxContentLen + 2*pageSize)
	require.NoError(t, err)
	defer func() { require.NoError(t, unmapPrivate(rec)) }()
	rec[atKind], rec[atIDLen] = kindMemory, 1
	for _, c := range []struct {
		contentLen uint32
		ok         bool
	}{{MaxContentLen, true}, {MaxContentLen + 1, false}} {
		binary.LittleEndian.PutUint32(rec[atContentLen:], c.contentLen)
		_, ok := decodeHeader(rec)
		require.Equal(t, c.ok, ok, "content length %d", c.contentLen)
	}
}

// Goal: sizes are what the format says: header, id, content, rounded up to 8. Method: a table.
func TestRecord_Size(t *testing.T) {
	for _, c := range []struct{ idLen, contentLen, want int }{
		{1, 0, 32}, {8, 0, 32}, {8, 1, 40}, {12, 4, 40}, {16, 0, 40}, {16, 512, 552},
		{MaxIDLen, MaxContentLen, 1<<30 + 65_560},
	} {
		t.Run(fmt.Sprintf("id of %d and content of %d bytes", c.idLen, c.contentLen), func(t *testing.T) {
			require.Equal(t, c.want, recordSize(c.idLen, c.contentLen))
		})
	}
}

// FuzzRecord: whatever the bytes, decoding them does not panic, and what it accepts lies within them.
// What is intact besides is exactly what encoding gives, padding aside.
func FuzzRecord(f *testing.F) {
	whole := encodeRecord(header{kind: kindMemory, seq: 5}, "an id", []byte("and its content"), 7)
	tombstone := encodeRecord(header{kind: kindTombstone, seq: math.MaxUint64}, "\x00", nil, 7)
	hostile := bytes.Clone(whole)
	copy(hostile[6:], bytes.Repeat([]byte{0xff}, 6))
	for _, data := range [][]byte{
		nil, whole, tombstone, hostile, whole[:recordHeaderSize], whole[:len(whole)-1],
		append(bytes.Clone(tombstone), whole...), make([]byte, 100), bytes.Repeat([]byte{0xff}, 100),
	} {
		f.Add(data, uint32(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint32) {
		before := bytes.Clone(data)
		h, ok := decodeHeader(data)
		if !ok {
			return
		}
		require.LessOrEqual(t, h.size(), len(data))
		require.Zero(t, h.size()%recordAlign)
		require.GreaterOrEqual(t, h.size(), recordHeaderSize+h.idLen+h.contentLen)
		id, content := recordID(data, h), recordContent(data, h)
		require.Len(t, id, h.idLen)
		require.Len(t, content, h.contentLen)
		require.Equal(t, len(content), cap(content))
		again := encodeRecord(h, string(id), content, seed)
		covered := recordHeaderSize + h.idLen + h.contentLen
		require.Equal(t, bytes.Equal(again[:covered], data[:covered]), intactRecord(data, h, seed))
		require.Equal(t, before, data, "reading wrote")
	})
}
