// Package record reads and writes the bytes of one record: one stored version of a memory, a
// tombstone, or a container of such records. It knows nothing of stores and segments beyond the seed
// that it is given for a place.
package record

import (
	"encoding/binary"
	"hash/crc32"
)

/*
A record:

	offset  bytes
	0       4      prefix checksum: CRC-32C of bytes 4 to 23 and the id, xor the seed of its place;
	               1 in place of 0, so that 0 means: not finished
	4       4      content checksum: CRC-32C of the content; of a container see below
	8       1      kind: 1 memory, 2 tombstone, 3 container; never 0, so zeroed bytes are no record
	9       1      flags: 1 deadline
	10      2      id length
	12      4      content length
	16      8      sequence number
	24             id, deadline (8, by its flag), content, zero padding to a multiple of 8

All integers are little endian. The prefix is header, id and deadline. Why it looks like this:

  - Two checksums, so that a look-up can trust whose record it is and how long, for a few ns and
    without reading the content: an overwrite accounts for the right number of dead bytes, and a
    damaged id or length is an error and never an absent memory. The prefix covers the content
    checksum, so both parts belong together.
  - The content checksum, which takes long, is computed before any lock is taken; that of the prefix,
    with the sequence number, under the lock of the writer.
  - The seed comes from the segment's id and salt and the record's offset: bytes that belong to another
    segment, to another place, or to an earlier life of the same memory, do not verify. The salt of a
    file is drawn at random: who writes a record into a content has one chance in 2^32 that a repair,
    which looks for records everywhere, takes it for one.
  - A record without a deadline has no bytes for one. Kinds and flags that this package does not know
    are told from damage (see Unknown): the deadline is the only thing that a flag adds to the prefix.
  - Lengths are checked against the bytes at hand before they are used, and the checksums after.
  - A container has no id, and its content is whole records, back to back, each one of the place where it
    lies: what is valid of them on its own is in force only if the container is valid. Its content
    checksum is the CRC-32C of their prefix checksums, 4 bytes each: these cover all the rest, so a
    writer that has all its records but for their numbers has little left to compute.
*/

// Limits of what a record holds.
const (
	MaxIDLen      = 65_535  // bytes
	MaxContentLen = 1 << 30 // bytes, 1 GiB
)

// Layout of a record.
const (
	HeaderSize = 24 // bytes
	Align      = 8  // bytes: records begin at multiples of it
)

// Kinds of records. docs/format.md has the numbers of more, that nothing writes yet.
const (
	KindMemory    = 1
	KindTombstone = 2
	KindContainer = 3
)

// MaxContained is how many records a container holds at most.
const MaxContained = 1024

// FlagDeadline says that a deadline, DeadlineSize bytes, follows the id.
const (
	FlagDeadline = 1
	DeadlineSize = 8 // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC-32C of b.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// SegmentSeed returns the seed of offset 0 in the segment with this id and salt.
func SegmentSeed(segmentID, salt uint64) uint32 {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), segmentID)
	return Checksum(binary.LittleEndian.AppendUint64(b, salt))
}

// SeedAt returns the seed of the record at offset, a multiple of [Align], in a segment with this seed.
// The multiplier, an odd number, gives every offset another seed (Knuth, TAOCP vol. 3, section 6.4, on
// Fibonacci hashing).
func SeedAt(segmentSeed uint32, offset int) uint32 {
	return segmentSeed ^ uint32(offset/Align)*0x9e3779b1
}

// Header is the header of a record as it lies there: three words, little endian. Go keeps a struct of up to four
// fields, four words, in registers. With a field for each part of the header it would have seven: Go puts such a struct
// together in memory in stores of 1 to 8 bytes and copies it in loads of 16, each of which waits until the stores are
// through. A Get of a memory in the processor's caches took a third longer.
type Header struct {
	sums uint64 // prefix checksum (32 bits, the lowest) ‖ content checksum
	form uint64 // kind (8) ‖ flags (8) ‖ id length (16) ‖ content length (32)
	Seq  uint64
}

// NewHeader returns the header of a record of this kind that has no number yet.
func NewHeader(kind byte, idLen, contentLen int, contentSum uint32) Header {
	return Header{
		sums: uint64(contentSum) << 32,
		form: uint64(kind) | uint64(uint16(idLen))<<16 | uint64(uint32(contentLen))<<32,
	}
}

// WithDeadline returns h with [FlagDeadline].
func (h Header) WithDeadline() Header {
	h.form |= FlagDeadline << 8
	return h
}

func (h Header) prefixSum() uint32 { return uint32(h.sums) }

// ContentSum returns the content checksum.
func (h Header) ContentSum() uint32 { return uint32(h.sums >> 32) }

// Kind returns the kind of the record.
func (h Header) Kind() byte { return byte(h.form) }

// Flags returns its flags.
func (h Header) Flags() byte { return byte(h.form >> 8) }

// IDLen returns the length of the id, bytes.
func (h Header) IDLen() int { return int(uint16(h.form >> 16)) }

// ContentLen returns the length of the content, bytes.
func (h Header) ContentLen() int { return int(h.form >> 32) }

// Size returns the bytes that a record without a deadline takes, padding included. A deadline takes
// [DeadlineSize] more.
func Size(idLen, contentLen int) int { return aligned(HeaderSize + idLen + contentLen) }

func aligned(n int) int { return (n + Align - 1) &^ (Align - 1) }

// Size returns the bytes that the record takes, padding included.
func (h Header) Size() int { return aligned(h.prefixSize() + h.ContentLen()) }

// prefixSize returns the bytes of header, id and deadline.
func (h Header) prefixSize() int {
	return HeaderSize + h.IDLen() + int(h.Flags()&FlagDeadline)*DeadlineSize
}

// Decode reads the header of the record that starts at rec[0]. ok is false when the bytes cannot be a
// record that ends within rec; checksums are not looked at.
func Decode(rec []byte) (h Header, ok bool) {
	if len(rec) < HeaderSize {
		return Header{}, false
	}
	h = Header{
		sums: binary.LittleEndian.Uint64(rec),
		form: binary.LittleEndian.Uint64(rec[8:]),
		Seq:  binary.LittleEndian.Uint64(rec[16:]),
	}
	if h.form>>32 > MaxContentLen { // before it becomes an int, which may have 32 bits
		return Header{}, false
	}
	ok = h.isKnown() && h.IDLen() > 0 != (h.Kind() == KindContainer) && h.Size() <= len(rec)
	return h, ok
}

// Next returns how far behind the beginning of the record the next one begins, bytes: in a container the
// first of its records.
func (h Header) Next() int {
	if h.Kind() == KindContainer {
		return HeaderSize
	}
	return h.Size()
}

// isKnown reports whether this package reads records of h's kind with h's flags.
func (h Header) isKnown() bool {
	return h.Kind() == KindMemory && h.Flags()&^FlagDeadline == 0 ||
		(h.Kind() == KindTombstone || h.Kind() == KindContainer) && h.Flags() == 0
}

// prefixChecksum returns what the prefix checksum of the record at rec must be, whose prefix has size
// bytes.
func prefixChecksum(rec []byte, size int, seed uint32) uint32 {
	return max(1, Checksum(rec[4:size])^seed)
}

// IntactPrefix reports whether header and id of the record at rec, decoded as h, are as they were
// written to the place with this seed.
func IntactPrefix(rec []byte, h Header, seed uint32) bool {
	return prefixChecksum(rec, h.prefixSize(), seed) == h.prefixSum()
}

// Unknown reports whether rec, which [Decode] refuses, begins with a prefix as it was written to the
// place with this seed: of a kind, or with flags, that this package does not read.
func Unknown(rec []byte, seed uint32) bool {
	h, ok := Decode(rec)
	if ok || len(rec) < h.prefixSize() || h.isKnown() {
		return false
	}
	return prefixChecksum(rec, h.prefixSize(), seed) == h.prefixSum()
}

// IntactContent reports whether content, in the record or a copy of it, is as it was written. It
// believes h, whose prefix must be intact.
func IntactContent(content []byte, h Header) bool { return Checksum(content) == h.ContentSum() }

// Intact reports whether prefix and content are as they were written to the place with this seed.
func Intact(rec []byte, h Header, seed uint32) bool {
	return IntactPrefix(rec, h, seed) && IntactContent(Content(rec, h), h)
}

// Contained returns how many records the container at rec, with header h, holds, and its content checksum.
// ok is false when its content is no sequence of intact records. seed returns the seed of the place so
// many bytes behind that of the container.
func Contained(rec []byte, h Header, seed func(offset int) uint32) (n int, sum uint32, ok bool) {
	for offset := HeaderSize; offset < h.Size(); n++ {
		inner := rec[offset:h.Size()]
		ih, ok := Decode(inner)
		if !ok || ih.Kind() == KindContainer || !Intact(inner, ih, seed(offset)) {
			return 0, 0, false
		}
		sum = crc32.Update(sum, castagnoli, inner[:4])
		offset += ih.Size()
	}
	return n, sum, n > 0 && n <= MaxContained
}

// ContainerSum returns the content checksum of a container of records that lie back to back in content,
// and are whole.
func ContainerSum(content []byte) (sum uint32) {
	for len(content) > 0 {
		sum = crc32.Update(sum, castagnoli, content[:4])
		h, _ := Decode(content)
		content = content[h.Size():]
	}
	return sum
}

// ID returns the id inside rec, aliasing it, unverified.
func ID(rec []byte, h Header) []byte {
	return rec[HeaderSize : HeaderSize+h.IDLen()]
}

// Content returns the content inside rec, aliasing it, with no room to append, unverified.
func Content(rec []byte, h Header) []byte {
	from := h.prefixSize()
	to := from + h.ContentLen()
	return rec[from:to:to]
}

// Deadline returns the deadline inside rec, Unix time in ms, unverified. REQUIRES: h has
// [FlagDeadline].
func Deadline(rec []byte, h Header) int64 {
	return int64(binary.LittleEndian.Uint64(rec[HeaderSize+h.IDLen():]))
}

// PutBody writes id, deadline, content and padding of a record to rec; deadline 0 is none.
func PutBody(rec []byte, id string, deadline int64, content []byte) {
	n := HeaderSize + copy(rec[HeaderSize:], id)
	if deadline != 0 {
		binary.LittleEndian.PutUint64(rec[n:], uint64(deadline))
		n += DeadlineSize
	}
	n += copy(rec[n:], content)
	clear(rec[n:aligned(n)])
}

// PutHeader writes the header of the record at rec, whose id and deadline are there, the prefix checksum last: until
// then rec is no record.
func PutHeader(rec []byte, h Header, seed uint32) {
	binary.LittleEndian.PutUint32(rec[4:], h.ContentSum())
	binary.LittleEndian.PutUint64(rec[8:], h.form)
	binary.LittleEndian.PutUint64(rec[16:], h.Seq)
	binary.LittleEndian.PutUint32(rec[0:], prefixChecksum(rec, h.prefixSize(), seed))
}

// Reseed makes rec, an intact record with header h, one of the place with this seed.
func Reseed(rec []byte, h Header, seed uint32) {
	binary.LittleEndian.PutUint32(rec, prefixChecksum(rec, h.prefixSize(), seed))
}
