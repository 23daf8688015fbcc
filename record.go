package warmtier

import (
	"encoding/binary"
	"hash/crc32"
	"unsafe"
)

/*
A record is one stored version of a memory, or a tombstone:

	offset  bytes
	0       4      checksum: CRC-32C of id ‖ content ‖ header bytes 4 to 19, xor the segment's seed;
	               1 in place of 0, so that 0 means: not finished
	4       1      kind: 1 memory, 2 tombstone; never 0, so zeroed bytes are no record
	5       1      flags, 0; a set bit this version does not know makes a record unreadable
	6       2      id length
	8       4      content length
	12      8      sequence number
	20             id, content, zero padding to a multiple of 8

All integers are little endian. Why it looks like this:

  - The checksum ends with the header, so that the long part of it (id and content) is computed
    before any lock is taken, and the sequence number can be drawn under the lane's lock.
  - The seed is the CRC-32C of the segment's id: bytes that belong to another segment, or to an
    earlier life of the same memory, do not verify. A copy into another segment gets a new checksum
    from the body's part of it, without reading the content a second time.
  - Lengths are checked against the segment before they are used, and the checksum after.

I1 (immutability): the bytes below a segment's tail never change while any reader can reach them.
Every argument about readers rests on it.
*/

const (
	recordHeaderSize = 20 // bytes
	recordAlign      = 8  // bytes; offsets are stored in this unit

	kindMemory    = 1
	kindTombstone = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the decoded header of a record.
type header struct {
	checksum   uint32
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
// cannot be a record that ends within rec; the checksum is not looked at.
func decodeHeader(rec []byte) (h header, ok bool) {
	if len(rec) < recordHeaderSize {
		return header{}, false
	}
	contentLen := binary.LittleEndian.Uint32(rec[8:])
	if contentLen > MaxContentLen { // before it becomes an int, which may have 32 bits
		return header{}, false
	}
	h = header{
		checksum:   binary.LittleEndian.Uint32(rec[0:]),
		kind:       rec[4],
		flags:      rec[5],
		idLen:      int(binary.LittleEndian.Uint16(rec[6:])),
		contentLen: int(contentLen),
		seq:        binary.LittleEndian.Uint64(rec[12:]),
	}
	ok = h.flags == 0 && h.idLen > 0 && h.size() <= len(rec) &&
		(h.kind == kindMemory || h.kind == kindTombstone)
	return h, ok
}

// bodyChecksum is the part of a record's checksum that covers id and content.
func bodyChecksum(id string, content []byte) uint32 {
	// []byte(id) would be a copy on the heap, because Update's slice escapes; Update only reads it.
	sum := crc32.Update(0, castagnoli, unsafe.Slice(unsafe.StringData(id), len(id)))
	return crc32.Update(sum, castagnoli, content)
}

// finishChecksum turns the checksum of the body of the record at rec into that of the record.
func finishChecksum(body uint32, rec []byte, seed uint32) uint32 {
	return max(1, crc32.Update(body, castagnoli, rec[4:recordHeaderSize])^seed)
}

// checkRecord returns the body part of the checksum of the record at rec, whose header is h, and
// whether the whole is what it should be in a segment with this seed.
func checkRecord(rec []byte, h header, seed uint32) (body uint32, ok bool) {
	body = crc32.Update(0, castagnoli, rec[recordHeaderSize:recordHeaderSize+h.idLen+h.contentLen])
	return body, finishChecksum(body, rec, seed) == h.checksum
}

func intactRecord(rec []byte, h header, seed uint32) bool {
	_, ok := checkRecord(rec, h, seed)
	return ok
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

// putHeader writes the header of a record to rec, its checksum last: body is its bodyChecksum, and
// h.checksum is not used.
func putHeader(rec []byte, h header, body, seed uint32) {
	rec[4] = h.kind
	rec[5] = h.flags
	binary.LittleEndian.PutUint16(rec[6:], uint16(h.idLen))
	binary.LittleEndian.PutUint32(rec[8:], uint32(h.contentLen))
	binary.LittleEndian.PutUint64(rec[12:], h.seq)
	binary.LittleEndian.PutUint32(rec[0:], finishChecksum(body, rec, seed))
}

// copyRecord copies the record rec with header h to dst, in a segment with this seed; body is from
// checkRecord.
func copyRecord(dst, rec []byte, h header, body, seed uint32) {
	copy(dst, rec[:h.size()])
	binary.LittleEndian.PutUint32(dst, finishChecksum(body, dst, seed))
}
