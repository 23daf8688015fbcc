package warmtier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

/*
The bytes of a directory, all integers little endian; docs/format.md says the same for whoever wants
to write a reader.

	LOCK       locked with flock while a store has the directory; holds the process id; never removed
	MANIFEST   which segments make up the store; replaced as a whole, by rename
	N.seg      segment N, 16 hexadecimal digits
	N.seg.new  one without a header yet

A segment file has a header of 128 bytes, records from there on, and its digests at the end: the
CRC-32C of the id of each record (1 in place of 0), 4 bytes, in the order of the records and growing
towards them. They tell whose record it was that is damaged, so that a repair never uncovers an older
version of it.

	offset  bytes
	0       8      magic "WARMSEG\x00"; written last
	8       4      format version
	12      2      kind: 1 lane, 2 target
	14      2      1 when made for a single record, larger than a segment
	16      8      id
	24      8      capacity: the size of the file
	32      16     id of the store
	48      4      CRC-32C of bytes 8 to 47
	52      12     0
	64      32     state, first copy
	96      32     state, second copy

A state copy is rewritten while the other one stays; the intact one of the higher generation counts.

	0       4      generation, from 1
	4       4      number of records
	8       8      synced: bytes up to here, these records, were durable when this was written
	16      8      the highest sequence number among them
	24      4      1 when sealed: there are no records beyond synced
	28      4      CRC-32C of bytes 0 to 27
*/

const (
	formatVersion = 1

	segmentMagic  = "WARMSEG\x00"
	manifestMagic = "WARMMAN\x00"

	lockName         = "LOCK"
	manifestName     = "MANIFEST"
	manifestTempName = "MANIFEST.tmp"
	spareName        = "SPARE"
	segmentSuffix    = ".seg"
	newSuffix        = ".new" // of a segment file until it has its header

	digestSize = 4 // bytes
)

// segmentKind says who filled a segment. Targets count only once a manifest lists them.
type segmentKind uint16

const (
	kindLane   segmentKind = 1
	kindTarget segmentKind = 2
)

// storeID tells the files of one store from those of another.
type storeID [16]byte

func segmentFileName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

// parseSegmentFileName is the inverse of segmentFileName.
func parseSegmentFileName(name string) (id uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 || strings.ToLower(digits) != digits {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return id, err == nil && id > 0
}

// fileHeader is the part of a segment's header that never changes.
type fileHeader struct {
	kind     segmentKind
	large    bool
	id       uint64
	capacity uint64
	store    storeID
}

// encode writes h to mem, the magic last: a file that was not finished when the power went has none.
func (h fileHeader) encode(mem []byte) {
	binary.LittleEndian.PutUint32(mem[8:], formatVersion)
	binary.LittleEndian.PutUint16(mem[12:], uint16(h.kind))
	mem[14] = 0
	if h.large {
		mem[14] = 1
	}
	binary.LittleEndian.PutUint64(mem[16:], h.id)
	binary.LittleEndian.PutUint64(mem[24:], h.capacity)
	copy(mem[32:48], h.store[:])
	binary.LittleEndian.PutUint32(mem[48:], checksum(mem[8:48]))
	copy(mem, segmentMagic)
}

// errNoHeader means that a file has no header: the power went before it reached the disk, or damage. After
// a kill it is damage, since files get their names when they have their headers.
var errNoHeader = errors.New("no header")

// decodeFileHeader reads and checks the header of a mapped segment file.
func decodeFileHeader(mem []byte) (h fileHeader, err error) {
	if allZero(mem[:min(8, len(mem))]) {
		return h, errNoHeader
	}
	if len(mem) < segmentHeaderSize {
		return h, fmt.Errorf("file has %d bytes, less than a header", len(mem))
	}
	if string(mem[:8]) != segmentMagic {
		return h, errors.New("wrong magic")
	}
	// The version comes first: what another one checks is unknown.
	if v := binary.LittleEndian.Uint32(mem[8:]); v != formatVersion {
		return h, fmt.Errorf("%w: %d, this package reads %d", ErrVersion, v, formatVersion)
	}
	if binary.LittleEndian.Uint32(mem[48:]) != checksum(mem[8:48]) {
		return h, errors.New("header checksum mismatch")
	}
	h = fileHeader{
		kind:     segmentKind(binary.LittleEndian.Uint16(mem[12:])),
		large:    mem[14] == 1,
		id:       binary.LittleEndian.Uint64(mem[16:]),
		capacity: binary.LittleEndian.Uint64(mem[24:]),
		store:    storeID(mem[32:48]),
	}
	return h, nil
}

// isZero is allZero for much.
func isZero(b []byte) bool {
	for ; len(b) >= len(zeroPage); b = b[len(zeroPage):] {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
	}
	return allZero(b)
}

var zeroPage [4096]byte

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// fileState is the part of a segment's header that says what is durable.
type fileState struct {
	generation uint32
	records    uint32
	synced     uint64
	maxSeq     uint64
	sealed     bool
}

const (
	fileStateAt   = 64
	fileStateSize = 32
)

// encode writes st to the copy its generation belongs to.
func (st fileState) encode(mem []byte) {
	b := mem[fileStateAt+st.generation%2*fileStateSize:]
	binary.LittleEndian.PutUint32(b[0:], st.generation)
	binary.LittleEndian.PutUint32(b[4:], st.records)
	binary.LittleEndian.PutUint64(b[8:], st.synced)
	binary.LittleEndian.PutUint64(b[16:], st.maxSeq)
	sealed := uint32(0)
	if st.sealed {
		sealed = 1
	}
	binary.LittleEndian.PutUint32(b[24:], sealed)
	binary.LittleEndian.PutUint32(b[28:], checksum(b[:28]))
}

// decodeFileState returns the newest intact state of a file made with capacity bytes; ok is false when
// there is none.
func decodeFileState(mem []byte, capacity uint64) (newest fileState, ok bool) {
	for i := range 2 {
		if len(mem) < segmentHeaderSize {
			break
		}
		b := mem[fileStateAt+i*fileStateSize:]
		st := fileState{
			generation: binary.LittleEndian.Uint32(b[0:]),
			records:    binary.LittleEndian.Uint32(b[4:]),
			synced:     binary.LittleEndian.Uint64(b[8:]),
			maxSeq:     binary.LittleEndian.Uint64(b[16:]),
			sealed:     binary.LittleEndian.Uint32(b[24:]) == 1,
		}
		if binary.LittleEndian.Uint32(b[28:]) != checksum(b[:28]) || st.generation == 0 ||
			st.synced < segmentHeaderSize || st.synced > capacity {
			continue
		}
		if !ok || st.generation > newest.generation {
			newest, ok = st, true
		}
	}
	return newest, ok
}

// digest is what a segment file remembers of the id of each record, never 0: that says there is none.
func digest(id []byte) uint32 { return max(1, checksum(id)) }

// digestAt is the offset of the digest of record n, from 0, in a file of size bytes.
func digestAt(size, n int) int { return size - (n+1)*digestSize }

/*
The manifest says which segments are the store. It is replaced at once: written under another name,
synced, renamed into place, the directory synced. The rename is where a compaction becomes durable.
It holds two copies, one behind the other, of:

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

const manifestHeaderSize = 64 // bytes

// manifest is a decoded MANIFEST.
type manifest struct {
	store   storeID
	boot    [16]byte
	next    uint64
	listed  []uint64
	pending []uint64
}

// manifestSize is the size of a manifest with so many ids.
func manifestSize(ids int) int { return 2 * (manifestHeaderSize + 8*ids + 4) }

// encode returns both copies.
func (m manifest) encode() []byte {
	b := make([]byte, manifestHeaderSize, manifestSize(len(m.listed)+len(m.pending)))
	copy(b, manifestMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(m.listed)))
	binary.LittleEndian.PutUint32(b[16:], uint32(len(m.pending)))
	copy(b[24:], m.store[:])
	copy(b[40:], m.boot[:])
	binary.LittleEndian.PutUint64(b[56:], m.next)
	for _, id := range slices.Concat(m.listed, m.pending) {
		b = binary.LittleEndian.AppendUint64(b, id)
	}
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	return append(b, b...)
}

// decodeManifest reads an intact copy; whole says that both are intact. The error is that of the first.
func decodeManifest(b []byte) (m manifest, whole bool, err error) {
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

// decodeManifestCopy reads the copy that b begins with.
func decodeManifestCopy(b []byte) (m manifest, err error) {
	if len(b) < manifestHeaderSize+4 || string(b[:8]) != manifestMagic {
		return m, errors.New("no manifest")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return m, fmt.Errorf("%w: %d, this package reads %d", ErrVersion, v, formatVersion)
	}
	listed := uint64(binary.LittleEndian.Uint32(b[12:]))
	pending := uint64(binary.LittleEndian.Uint32(b[16:]))
	size := manifestHeaderSize + 8*(listed+pending) + 4
	if uint64(len(b)) < size {
		return m, fmt.Errorf("%d bytes do not hold %d listed and %d pending segments", len(b), listed, pending)
	}
	b = b[:size]
	if binary.LittleEndian.Uint32(b[size-4:]) != checksum(b[:size-4]) {
		return m, errors.New("checksum mismatch")
	}
	m.store, m.boot = storeID(b[24:40]), [16]byte(b[40:56])
	m.next = binary.LittleEndian.Uint64(b[56:])
	ids := make([]uint64, listed+pending)
	for i := range ids {
		ids[i] = binary.LittleEndian.Uint64(b[manifestHeaderSize+8*i:])
	}
	m.listed, m.pending = ids[:listed], ids[listed:]
	return m, nil
}
