package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/warmtier/warmtier/internal/record"
)

/*
The manifest says which segments are the store. It is replaced as a whole: written under another name,
synced, renamed into place, the directory synced. The rename is where a compaction becomes durable.
It holds two copies, one after the other, of:

	offset  bytes
	0       8      magic "WARMMAN\x00"
	8       4      format version
	12      4      number n of listed segments
	16      4      number p of pending segments
	20      4      0
	24      16     id of the store
	40      16     id of the boot in which it was written, zeros when unknown
	56      8      next: no segment had this id or a higher one yet
	64      8 n    ids of listed segments: each must exist
	        8 p    ids of pending segments: each may exist, made before and filled after this
	        4      CRC-32C of everything before

A segment file that is neither listed nor pending, with an id below next, is left over from a finished
compaction. One with an id from next on was made later: it counts when a lane filled it, and is left
over from an unfinished compaction when it is a target.
*/

// manifestHeaderSize is the size of a manifest without ids and checksum, of one copy.
const manifestHeaderSize = 64 // bytes

// Manifest is a decoded manifest.
type Manifest struct {
	Store   StoreID
	Boot    [16]byte
	Next    uint64
	Listed  []uint64
	Pending []uint64
}

// ManifestSize returns the size, bytes, of both copies of a manifest with so many ids.
func ManifestSize(ids int) int { return 2 * (manifestHeaderSize + 8*ids + 4) }

// Encode returns both copies.
func (m Manifest) Encode() []byte {
	b := make([]byte, manifestHeaderSize, ManifestSize(len(m.Listed)+len(m.Pending)))
	copy(b, manifestMagic)
	binary.LittleEndian.PutUint32(b[8:], Version)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(m.Listed)))
	binary.LittleEndian.PutUint32(b[16:], uint32(len(m.Pending)))
	copy(b[24:], m.Store[:])
	copy(b[40:], m.Boot[:])
	binary.LittleEndian.PutUint64(b[56:], m.Next)
	for _, id := range slices.Concat(m.Listed, m.Pending) {
		b = binary.LittleEndian.AppendUint64(b, id)
	}
	b = binary.LittleEndian.AppendUint32(b, record.Checksum(b))
	return append(b, b...)
}

// DecodeManifest reads an intact copy; whole says that both are intact. Its error, which may be
// [ErrVersion], is that of the first copy.
func DecodeManifest(b []byte) (m Manifest, whole bool, err error) {
	first, err1 := decodeManifestCopy(b)
	second, err2 := decodeManifestCopy(b[len(b)/2:])
	switch {
	case err1 == nil:
		return first, err2 == nil, nil
	case err2 == nil:
		return second, false, nil
	}
	return m, false, err1
}

// decodeManifestCopy reads the copy at the start of b.
func decodeManifestCopy(b []byte) (m Manifest, err error) {
	if len(b) < manifestHeaderSize+4 || string(b[:8]) != manifestMagic {
		return m, errors.New("no manifest")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != Version {
		return m, versionError(v)
	}
	listed := uint64(binary.LittleEndian.Uint32(b[12:]))
	pending := uint64(binary.LittleEndian.Uint32(b[16:]))
	size := manifestHeaderSize + 8*(listed+pending) + 4
	if uint64(len(b)) < size {
		return m, fmt.Errorf("%d bytes do not hold %d listed and %d pending segments", len(b), listed, pending)
	}
	b = b[:size]
	if binary.LittleEndian.Uint32(b[size-4:]) != record.Checksum(b[:size-4]) {
		return m, errors.New("checksum mismatch")
	}
	m.Store, m.Boot = StoreID(b[24:40]), [16]byte(b[40:56])
	m.Next = binary.LittleEndian.Uint64(b[56:])
	ids := make([]uint64, listed+pending)
	for i := range ids {
		ids[i] = binary.LittleEndian.Uint64(b[manifestHeaderSize+8*i:])
	}
	m.Listed, m.Pending = ids[:listed], ids[listed:]
	return m, nil
}
