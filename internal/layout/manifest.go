package layout

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/warmtier/warmtier/internal/record"
)

/*
The manifest says which segments are the store. It is replaced as a whole: written under another name,
synced, renamed into place, the directory synced. The rename is where a compaction becomes durable.
It holds two copies, one after the other, of:

	offset  bytes
	0       8      magic "WARMMAN\x00"
	8       4      format version
	12      4      flags: 1 when the store was closed, 2 when the directory is a checkpoint that was not finished
	16      4      number n of listed segments
	20      4      number p of pending segments
	24      16     id of the store
	40      16     id of the page cache that was written to, zeros when unknown
	56      8      next: no segment had this id or a higher one yet
	64      8      open: number of the Open that wrote this
	72      8      generation: counts the manifests of that Open, from 1
	80      8      hint: number of the Open whose Close left the hint that is true; 0: none is
	88      8      id of the directory, 0 when unknown
	96      8      clock: Unix time in ms, not before that of any manifest before
	104     8      a sequence number that was drawn: no lower one, and not this one, may be drawn again
	112     8      id of the file that this was written to, 0 when unknown
	120     8      0
	128     40 n   listed segments: each must exist
	        8 p    ids of pending segments: each may exist, made before and filled after this
	        4      CRC-32C of everything before

A listed segment: id (8), salt (8), id of its file (8, 0 when unknown), end (8) and number of records (4) that were
durable, 0 (4).

A segment file that is neither listed nor pending, with an id below next, is left over from a finished
compaction. One with an id from next on was made later by the same Open: it counts when a lane filled it, and is
left over from an unfinished compaction when it is a target.
*/

// Sizes, bytes.
const (
	manifestHeaderSize = 128 // of one copy of a manifest, without segments and checksum
	listedSize         = 40  // of a listed segment
)

// Flags of a manifest.
const (
	flagClosed     = 1
	flagUnfinished = 2
)

// Manifest is a decoded manifest.
type Manifest struct {
	Store      StoreID
	Cache      [16]byte // tells page caches apart: that of a boot and a mount from all others
	Closed     bool     // written by a clean Close: nothing was made or changed since
	Unfinished bool     // of a checkpoint in the making: the directory is no store
	Next       uint64
	Open       uint64
	Generation uint64
	Hint       uint64
	Directory  uint64
	Clock      int64
	MaxSeq     uint64
	File       uint64 // id of its own file
	Listed     []ListedSegment
	Pending    []uint64
}

// ListedSegment is what a manifest knows of a segment.
type ListedSegment struct {
	ID      uint64
	Salt    uint64
	File    uint64 // id of the file
	End     uint64 // of the records that were durable
	Records uint32 // of them
}

// ManifestSize returns the size, bytes, of both copies of a manifest with so many segments at the most.
func ManifestSize(segments int) int { return 2 * (manifestHeaderSize + listedSize*segments + 4) }

// Encode returns both copies.
func (m Manifest) Encode() []byte {
	b := make([]byte, manifestHeaderSize, ManifestSize(len(m.Listed)+len(m.Pending)))
	copy(b, manifestMagic)
	binary.LittleEndian.PutUint32(b[8:], Version)
	flags := uint32(0)
	if m.Closed {
		flags |= flagClosed
	}
	if m.Unfinished {
		flags |= flagUnfinished
	}
	binary.LittleEndian.PutUint32(b[12:], flags)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(m.Listed)))
	binary.LittleEndian.PutUint32(b[20:], uint32(len(m.Pending)))
	copy(b[24:], m.Store[:])
	copy(b[40:], m.Cache[:])
	binary.LittleEndian.PutUint64(b[56:], m.Next)
	binary.LittleEndian.PutUint64(b[64:], m.Open)
	binary.LittleEndian.PutUint64(b[72:], m.Generation)
	binary.LittleEndian.PutUint64(b[80:], m.Hint)
	binary.LittleEndian.PutUint64(b[88:], m.Directory)
	binary.LittleEndian.PutUint64(b[96:], uint64(m.Clock))
	binary.LittleEndian.PutUint64(b[104:], m.MaxSeq)
	binary.LittleEndian.PutUint64(b[112:], m.File)
	for _, l := range m.Listed {
		b = binary.LittleEndian.AppendUint64(b, l.ID)
		b = binary.LittleEndian.AppendUint64(b, l.Salt)
		b = binary.LittleEndian.AppendUint64(b, l.File)
		b = binary.LittleEndian.AppendUint64(b, l.End)
		b = binary.LittleEndian.AppendUint64(b, uint64(l.Records))
	}
	for _, id := range m.Pending {
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
	listed := uint64(binary.LittleEndian.Uint32(b[16:]))
	pending := uint64(binary.LittleEndian.Uint32(b[20:]))
	size := manifestHeaderSize + listedSize*listed + 8*pending + 4
	if uint64(len(b)) < size {
		return m, fmt.Errorf("%d bytes do not hold %d listed and %d pending segments", len(b), listed, pending)
	}
	b = b[:size]
	if binary.LittleEndian.Uint32(b[size-4:]) != record.Checksum(b[:size-4]) {
		return m, errors.New("checksum mismatch")
	}
	flags := binary.LittleEndian.Uint32(b[12:])
	if flags&^(flagClosed|flagUnfinished) != 0 {
		return m, fmt.Errorf("%w %d with flags %#x, which this package does not know", ErrVersion, Version, flags)
	}
	m = Manifest{
		Store:      StoreID(b[24:40]),
		Cache:      [16]byte(b[40:56]),
		Closed:     flags&flagClosed != 0,
		Unfinished: flags&flagUnfinished != 0,
		Next:       binary.LittleEndian.Uint64(b[56:]),
		Open:       binary.LittleEndian.Uint64(b[64:]),
		Generation: binary.LittleEndian.Uint64(b[72:]),
		Hint:       binary.LittleEndian.Uint64(b[80:]),
		Directory:  binary.LittleEndian.Uint64(b[88:]),
		Clock:      int64(binary.LittleEndian.Uint64(b[96:])),
		MaxSeq:     binary.LittleEndian.Uint64(b[104:]),
		File:       binary.LittleEndian.Uint64(b[112:]),
		Listed:     make([]ListedSegment, listed),
		Pending:    make([]uint64, pending),
	}
	rest := b[manifestHeaderSize:]
	for i := range m.Listed {
		m.Listed[i] = ListedSegment{
			ID:      binary.LittleEndian.Uint64(rest[0:]),
			Salt:    binary.LittleEndian.Uint64(rest[8:]),
			File:    binary.LittleEndian.Uint64(rest[16:]),
			End:     binary.LittleEndian.Uint64(rest[24:]),
			Records: binary.LittleEndian.Uint32(rest[32:]),
		}
		rest = rest[listedSize:]
	}
	for i := range m.Pending {
		m.Pending[i] = binary.LittleEndian.Uint64(rest[8*i:])
	}
	return m, nil
}
