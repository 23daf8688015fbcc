package record

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// encodeRecord is the bytes of a record as a Put writes them.
func encodeRecord(h Header, id string, content []byte, seed uint32) []byte {
	return encodeDeadline(h, id, 0, content, seed)
}

// encodeDeadline is the bytes of a record with a deadline, 0 for none.
func encodeDeadline(h Header, id string, deadline int64, content []byte, seed uint32) []byte {
	seq := h.Seq
	h = NewHeader(h.Kind(), len(id), len(content), Checksum(content))
	h.Seq = seq
	if deadline != 0 {
		h = h.WithDeadline()
	}
	rec := make([]byte, h.Size())
	PutBody(rec, id, deadline, content)
	PutHeader(rec, h, seed)
	return rec
}

// patterned returns n bytes, no two neighbors alike.
func patterned(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// Goal: the bytes of a record and the seed of a segment are what the format says, on every machine.
// Method: literals, made with another implementation of CRC-32C.
func TestRecord_GoldenBytes(t *testing.T) {
	require.Equal(t, uint32(0xb07c9714), SegmentSeed(1, 0))
	require.Equal(t, uint32(0xa3fce11e), SegmentSeed(0x0102030405060708, 0x1112131415161718))

	for _, c := range []struct {
		name    string
		h       Header
		id      string
		content []byte
		seed    uint32
		want    string
	}{
		{"memory of segment 1", Header{form: KindMemory, Seq: 7}, "ab", []byte("hello"), SegmentSeed(1, 0),
			"a81d1484" + "4cbb719a" + "01000200" + "05000000" + "0700000000000000" + "616268656c6c6f00"},
		{"memory without content, no seed", Header{form: KindMemory, Seq: math.MaxUint64}, "\x00", nil, 0,
			"595fa708" + "00000000" + "01000100" + "00000000" + "ffffffffffffffff" + "0000000000000000"},
		{"tombstone", Header{form: KindTombstone, Seq: 1 << 32}, "gone", nil, 0xffffffff,
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
			id, content := strings.Repeat("i", idLen), patterned(contentLen)
			in := Header{form: KindMemory, Seq: uint64(idLen)<<32 | uint64(contentLen)}
			rec := encodeRecord(in, id, content, 42)
			require.Zero(t, len(rec)%Align)
			require.LessOrEqual(t, len(rec), idLen+contentLen+32)

			h, ok := Decode(append(rec, "what lies behind"...))
			require.True(t, ok)
			require.Equal(t, len(rec), h.Size())
			require.Equal(t, in.Kind(), h.Kind())
			require.Equal(t, in.Seq, h.Seq)
			require.Equal(t, id, string(ID(rec, h)))
			require.True(t, bytes.Equal(content, Content(rec, h)))
			require.Equal(t, contentLen, cap(Content(rec, h)), "room to append into the next record")
			require.True(t, Intact(rec, h, 42))
			require.False(t, Intact(rec, h, 43), "a record of another segment verifies")
		}
	}
}

// Goal: a copy in another segment has the checksum of that segment. Method: copy, then verify with
// either seed.
func TestRecord_CopyChangesSeed(t *testing.T) {
	from, to := SegmentSeed(1, 0), SegmentSeed(1, 1)
	rec := encodeRecord(Header{form: KindMemory, Seq: 9}, "id", []byte("some content"), from)
	h, ok := Decode(rec)
	require.True(t, ok)
	Reseed(rec, h, to)
	require.Equal(t, encodeRecord(h, "id", []byte("some content"), to), rec)
}

// Goal: no flipped bit of header, id or content goes unnoticed. Method: every bit of one record;
// padding, which holds nothing, is not covered.
func TestRecord_EveryFlippedBitDetected(t *testing.T) {
	const id = "flip"
	content := []byte("every single bit of it")
	rec := encodeRecord(Header{form: KindMemory, Seq: 3}, id, content, 77)
	behind := make([]byte, 1024) // so that a longer length stays in bounds
	for bit := range (HeaderSize + len(id) + len(content)) * 8 {
		damaged := append(bytes.Clone(rec), behind...)
		damaged[bit/8] ^= 1 << (bit % 8)
		h, ok := Decode(damaged)
		require.False(t, ok && Intact(damaged, h, 77), "bit %d of byte %d", bit%8, bit/8)
	}
}

// Goal: lengths that reach out of bounds, unknown kinds and flags, and bytes that never were a record
// are refused before anything is read through them. Method: a table of damaged headers.
func TestRecord_HostileHeadersRefused(t *testing.T) {
	good := encodeRecord(Header{form: KindMemory, Seq: 1}, "id", []byte("content"), 0)
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
		{"one byte short of a header", good[:HeaderSize-1]},
		{"header alone", good[:HeaderSize]},
		{"one byte short of its padding", good[:len(good)-1]},
		{"zeros", make([]byte, 64)},
		{"ones", bytes.Repeat([]byte{0xff}, 64)},
		{"kind 0", with(func(rec []byte) { rec[8] = 0 })},
		{"kind 4", with(func(rec []byte) { rec[8] = 4 })},
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
			_, ok := Decode(c.rec)
			require.False(t, ok)
		})
	}
	_, ok := Decode(good)
	require.True(t, ok, "the undamaged record")
}

// Goal: a content length over the limit is refused even where so many bytes follow. Method: mapped
// memory of which one page is touched.
func TestRecord_ContentLengthOverTheLimit(t *testing.T) {
	if vm.OnHeap {
		t.Skip("the race detector keeps four bytes for each byte of such a record")
	}
	rec, err := vm.Map(MaxContentLen + 2*vm.PageSize)
	require.NoError(t, err)
	defer func() { require.NoError(t, vm.Unmap(rec)) }()
	rec[8], rec[10] = KindMemory, 1
	for _, c := range []struct {
		contentLen uint32
		ok         bool
	}{{MaxContentLen, true}, {MaxContentLen + 1, false}} {
		binary.LittleEndian.PutUint32(rec[12:], c.contentLen)
		_, ok := Decode(rec)
		require.Equal(t, c.ok, ok, "content length %d", c.contentLen)
	}
}

// Goal: a record that is moved inside its segment does not verify: every offset has another seed.
func TestSeedAt_EveryOffsetItsOwn(t *testing.T) {
	seen := map[uint32]bool{}
	for i := range 100_000 {
		seed := SeedAt(SegmentSeed(1, 0), i*Align)
		require.False(t, seen[seed], "offset %d", i*Align)
		seen[seed] = true
	}
}

// Goal: a record of a later build, of a kind or with a flag that this one does not know, is told from damage:
// its prefix is intact, which with flag 1 has a deadline behind the id.
func TestRecord_Unknown(t *testing.T) {
	build := func(kind, flags byte, id string, deadline []byte) []byte {
		rec := encodeRecord(Header{form: KindMemory, Seq: 3}, id, append(bytes.Clone(deadline), "content"...), 77)
		rec[8], rec[9] = kind, flags
		binary.LittleEndian.PutUint32(rec, max(1, Checksum(rec[4:HeaderSize+len(id)+len(deadline)])^77))
		return append(rec, make([]byte, 64)...)
	}
	for _, c := range []struct {
		name string
		rec  []byte
		want bool
	}{
		{"memory", build(KindMemory, 0, "id", nil), false},
		{"tombstone", build(KindTombstone, 0, "id", nil), false},
		{"container", build(KindContainer, 0, "", nil), false},
		{"container with an id", build(KindContainer, 0, "id", nil), false},
		{"container with a deadline", build(KindContainer, 1, "", make([]byte, 8)), true},
		{"stub", build(4, 0, "id", nil), true},
		{"deadline", build(KindMemory, 1, "id", make([]byte, 8)), false},
		{"tombstone with a deadline", build(KindTombstone, 1, "id", make([]byte, 8)), true},
		{"stub with a deadline", build(4, 1, "id", make([]byte, 8)), true},
		{"deadline that the prefix leaves out", build(4, 1, "id", nil), false},
		{"another flag", build(KindMemory, 0x80, "id", nil), true},
		{"zeros", make([]byte, 100), false},
		{"nothing", nil, false},
		{"cut in the id", build(4, 0, "id", nil)[:HeaderSize+1], false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, Unknown(c.rec, 77))
			require.False(t, Unknown(c.rec, 78), "of another place")
			if c.want {
				_, ok := Decode(c.rec)
				require.False(t, ok)
			}
		})
	}
}

// Goal: sizes are what the format says: header, id, content, rounded up to 8. Method: a table.
func TestRecord_Size(t *testing.T) {
	for _, c := range []struct{ idLen, contentLen, want int }{
		{1, 0, 32}, {8, 0, 32}, {8, 1, 40}, {12, 4, 40}, {16, 0, 40}, {16, 512, 552},
		{MaxIDLen, MaxContentLen, 1<<30 + 65_560},
	} {
		t.Run(fmt.Sprintf("id of %d and content of %d bytes", c.idLen, c.contentLen), func(t *testing.T) {
			require.Equal(t, c.want, Size(c.idLen, c.contentLen))
		})
	}
}

// containerOf encodes a container of records at offset 0 of a segment with this seed.
func containerOf(seed uint32, records ...[]byte) []byte {
	rec := make([]byte, HeaderSize)
	for _, inner := range records {
		rec = append(rec, inner...)
		h, _ := Decode(inner)
		Reseed(rec[len(rec)-len(inner):], h, SeedAt(seed, len(rec)-len(inner)))
	}
	h := NewHeader(KindContainer, 0, len(rec)-HeaderSize, ContainerSum(rec[HeaderSize:]))
	h.Seq = 9
	PutHeader(rec, h, SeedAt(seed, 0))
	return rec
}

// Goal: a container is as it was written if all its records are, and holds nothing but whole memories and
// tombstones. Method: each byte changed, and contents that no writer makes.
func TestContained(t *testing.T) {
	const seed = 77
	memory := encodeRecord(Header{form: KindMemory, Seq: 1}, "an id", []byte("content"), 0)
	tombstone := encodeRecord(Header{form: KindTombstone, Seq: 2}, "another", nil, 0)
	look := func(rec []byte) (n int, ok bool) {
		h, ok := Decode(rec)
		if !ok || !IntactPrefix(rec, h, SeedAt(seed, 0)) {
			return 0, false
		}
		n, sum, ok := Contained(rec, h, func(offset int) uint32 { return SeedAt(seed, offset) })
		return n, ok && sum == h.ContentSum()
	}
	rec := containerOf(seed, memory, tombstone)
	n, ok := look(rec)
	require.True(t, ok)
	require.Equal(t, 2, n)
	h, ok := Decode(rec)
	require.True(t, ok)
	require.Equal(t, len(rec), h.Size())
	require.Equal(t, HeaderSize, h.Next())
	unseen := 0
	for at := range rec {
		rec[at] ^= 1
		if _, ok := look(rec); ok {
			unseen++ // padding
		}
		rec[at] ^= 1
	}
	require.Equal(t, len(memory)-HeaderSize-len("an id")-len("content")+len(tombstone)-HeaderSize-len("another"), unseen)

	many := make([][]byte, MaxContained+1)
	for i := range many {
		many[i] = tombstone
	}
	_, ok = look(containerOf(seed, many[1:]...))
	require.True(t, ok)
	for name, rec := range map[string][]byte{
		"nothing":        containerOf(seed),
		"too many":       containerOf(seed, many...),
		"a container":    containerOf(seed, containerOf(seed, memory)),
		"cut":            rec[:len(rec)-Align],
		"without header": rec[HeaderSize:],
	} {
		_, ok := look(rec)
		require.False(t, ok, name)
	}
}

// FuzzRecord: whatever the bytes, decoding them does not panic, and what it accepts lies within them.
// What is intact besides is exactly what encoding gives, padding aside.
func FuzzRecord(f *testing.F) {
	whole := encodeRecord(Header{form: KindMemory, Seq: 5}, "an id", []byte("and its content"), 7)
	tombstone := encodeRecord(Header{form: KindTombstone, Seq: math.MaxUint64}, "\x00", nil, 7)
	hostile := bytes.Clone(whole)
	copy(hostile[6:], bytes.Repeat([]byte{0xff}, 6))
	for _, data := range [][]byte{
		nil, whole, tombstone, hostile, whole[:HeaderSize], whole[:len(whole)-1],
		append(bytes.Clone(tombstone), whole...), make([]byte, 100), bytes.Repeat([]byte{0xff}, 100),
	} {
		f.Add(data, uint32(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint32) {
		before := bytes.Clone(data)
		h, ok := Decode(data)
		if !ok {
			return
		}
		require.LessOrEqual(t, h.Size(), len(data))
		require.Zero(t, h.Size()%Align)
		require.GreaterOrEqual(t, h.Size(), HeaderSize+h.IDLen()+h.ContentLen())
		id, content := ID(data, h), Content(data, h)
		require.Len(t, id, h.IDLen())
		require.Len(t, content, h.ContentLen())
		require.Equal(t, len(content), cap(content))
		again := encodeRecord(h, string(id), content, seed)
		covered := HeaderSize + h.IDLen() + h.ContentLen()
		require.Equal(t, bytes.Equal(again[:covered], data[:covered]), Intact(data, h, seed))
		require.Equal(t, before, data, "reading wrote")
	})
}

// Goal: a deadline takes eight bytes, of the prefix, and a copy keeps it. Method: literals, made with another
// implementation of CRC-32C; every flipped bit; no kind but a memory has one.
func TestRecord_Deadline(t *testing.T) {
	h := Header{form: KindMemory, Seq: 7}
	rec := encodeDeadline(h, "ab", 0x0102030405060708, []byte("hello"), SegmentSeed(1, 0))
	require.Equal(t, "11b79c92"+"4cbb719a"+"01010200"+"05000000"+"0700000000000000"+
		"6162"+"0807060504030201"+"68656c6c6f"+"00", hex.EncodeToString(rec))
	require.Len(t, rec, Size(2, 5)+DeadlineSize)
	h, ok := Decode(rec)
	require.True(t, ok && Intact(rec, h, SegmentSeed(1, 0)))
	require.EqualValues(t, FlagDeadline, h.Flags())
	require.Equal(t, len(rec), h.Size())
	require.Equal(t, int64(0x0102030405060708), Deadline(rec, h))
	require.Equal(t, "ab", string(ID(rec, h)))
	require.Equal(t, "hello", string(Content(rec, h)))
	require.False(t, Unknown(rec, SegmentSeed(1, 0)))
	for bit := range (HeaderSize + 2 + DeadlineSize + 5) * 8 {
		damaged := append(bytes.Clone(rec), make([]byte, 1024)...)
		damaged[bit/8] ^= 1 << (bit % 8)
		h, ok := Decode(damaged)
		require.False(t, ok && Intact(damaged, h, SegmentSeed(1, 0)), "bit %d of byte %d", bit%8, bit/8)
	}
	Reseed(rec, h, 42)
	h, _ = Decode(rec)
	require.True(t, Intact(rec, h, 42))
	require.Equal(t, int64(0x0102030405060708), Deadline(rec, h))

	tombstone := encodeDeadline(Header{form: KindTombstone, Seq: 7}, "ab", 5, nil, 42)
	_, ok = Decode(tombstone)
	require.False(t, ok)
	require.True(t, Unknown(tombstone, 42))
}

// Goal: a header is passed in registers. Go keeps a struct there that has at most four fields and four words.
func TestHeader_FitsRegisters(t *testing.T) {
	require.LessOrEqual(t, reflect.TypeFor[Header]().NumField(), 4)
	require.LessOrEqual(t, reflect.TypeFor[Header]().Size(), 4*reflect.TypeFor[uint64]().Size())
}
