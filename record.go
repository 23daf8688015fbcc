package warmtier

import (
	"encoding/binary"
	"hash/crc32"
)

/*
A record is one stored version of a memory, or a tombstone:

	offset  bytes
	0       4      head checksum: CRC-32C of bytes 4 to 23 and the id, xor the seed of its place;
	               1 in place of 0, so that 0 means: not finished
	4       4      content checksum: CRC-32C of the content
	8       1      kind: 1 memory, 2 tombstone; never 0, so zeroed bytes are no record
	9       1      flags, 0; a set bit this version does not know makes a record unreadable
	10      2      id length
	12      4      content length
	16      8      sequence number
	24             id, content, zero padding to a multiple of 8

All integers are little endian. Why it looks like this:

  - Two checksums, so that a look-up can trust whose record it is and how long, for a few ns and
    without reading the content: an overwrite accounts for the right number of dead bytes, and a
    damaged id or length is an error and never an absent memory. The head covers the content
    checksum, so both parts belong together.
  - The content checksum, which takes long, is computed before any lock is taken; the head, with the
    sequence number, under the lane's lock.
  - The seed comes from the segment's id and the record's offset: bytes that belong to another
    segment, to another place, or to an earlier life of the same memory, do not verify.
  - Lengths are checked against the segment before they are used, and the checksums after.

I1 (immutability): the bytes below a segment's tail never change while any reader can reach them.
Every argument about readers rests on it.
*/

const (
	recordHeaderSize = 24 // bytes
	recordAlign      = 8  // bytes; offsets are stored in this unit

	// prefetchLimit is how many bytes of a record are asked for ahead: the processor itself sees that more
	// of the same will be needed.
	prefetchLimit = 1024

	kindMemory    = 1
	kindTombstone = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// header is the decoded header of a record.
type header struct {
	headSum    uint32
	contentSum uint32
	kind       byte
	flags      byte
	idLen      int
	contentLen int
	seq        uint64
}

// recordSize is the number of bytes a record takes, padding included.
func recordSize(idLen, contentLen int) int {
	return roundUp(recordHeaderSize+idLen+contentLen, recordAlign)
}

func (h header) size() int { return recordSize(h.idLen, h.contentLen) }

// decodeHeader reads the header of the record that starts at rec[0]. ok is false when the bytes
// cannot be a record that ends within rec; checksums are not looked at.
func decodeHeader(rec []byte) (h header, ok bool) {
	if len(rec) < recordHeaderSize {
		return header{}, false
	}
	contentLen := binary.LittleEndian.Uint32(rec[12:])
	if contentLen > MaxContentLen { // before it becomes an int, which may have 32 bits
		return header{}, false
	}
	h = header{
		headSum:    binary.LittleEndian.Uint32(rec[0:]),
		contentSum: binary.LittleEndian.Uint32(rec[4:]),
		kind:       rec[8],
		flags:      rec[9],
		idLen:      int(binary.LittleEndian.Uint16(rec[10:])),
		contentLen: int(contentLen),
		seq:        binary.LittleEndian.Uint64(rec[16:]),
	}
	ok = h.flags == 0 && h.idLen > 0 && h.size() <= len(rec) &&
		(h.kind == kindMemory || h.kind == kindTombstone)
	return h, ok
}

// headChecksum is what the head checksum of the record at rec must be.
func headChecksum(rec []byte, idLen int, seed uint32) uint32 {
	return max(1, checksum(rec[4:recordHeaderSize+idLen])^seed)
}

// intactHead reports whether header and id of the record at rec, decoded as h, are as they were
// written to the place with this seed.
func intactHead(rec []byte, h header, seed uint32) bool {
	return headChecksum(rec, h.idLen, seed) == h.headSum
}

// intactContent reports whether content, of the record at rec or a copy of it, is as it was written.
// REQUIRES: the head is intact.
func intactContent(content []byte, h header) bool { return checksum(content) == h.contentSum }

// intactRecord is both.
func intactRecord(rec []byte, h header, seed uint32) bool {
	return intactHead(rec, h, seed) && intactContent(recordContent(rec, h), h)
}

// recordID is the id inside rec, aliasing it.
func recordID(rec []byte, h header) []byte {
	return rec[recordHeaderSize : recordHeaderSize+h.idLen]
}

// recordContent is the content inside rec, aliasing it, with no room to append.
func recordContent(rec []byte, h header) []byte {
	from, to := recordHeaderSize+h.idLen, recordHeaderSize+h.idLen+h.contentLen
	return rec[from:to:to]
}

// putBody writes id, content and padding of a record to rec.
func putBody(rec []byte, id string, content []byte) {
	n := recordHeaderSize + copy(rec[recordHeaderSize:], id)
	n += copy(rec[n:], content)
	clear(rec[n:roundUp(n, recordAlign)])
}

// putHeader writes the header of the record at rec, whose id is there, the head checksum last.
// h.headSum is not used.
func putHeader(rec []byte, h header, seed uint32) {
	binary.LittleEndian.PutUint32(rec[4:], h.contentSum)
	rec[8] = h.kind
	rec[9] = h.flags
	binary.LittleEndian.PutUint16(rec[10:], uint16(h.idLen))
	binary.LittleEndian.PutUint32(rec[12:], uint32(h.contentLen))
	binary.LittleEndian.PutUint64(rec[16:], h.seq)
	binary.LittleEndian.PutUint32(rec[0:], headChecksum(rec, h.idLen, seed))
}

// reseed makes rec, an intact record with header h, one of the place with this seed.
func reseed(rec []byte, h header, seed uint32) {
	binary.LittleEndian.PutUint32(rec, headChecksum(rec, h.idLen, seed))
}
