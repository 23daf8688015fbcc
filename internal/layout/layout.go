// Package layout is the bytes of a store's directory: the names of its files, the headers and digests
// of segment files, the manifest, and the hint. It knows nothing of stores, and reads and writes no
// file.
package layout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/warmtier/warmtier/internal/record"
)

/*
The bytes of a directory, all integers little endian; docs/format.md says the same for the
author of another reader.

	LOCK       locked with flock, as the directory is, while a store has it; holds the id of the last writer; never removed
	MANIFEST   which segments make up the store; replaced as a whole, by rename
	N.seg      segment N, 16 hexadecimal digits
	N.seg.new  a segment that has no header yet

A segment file has a header of 192 bytes, records from there on, and its digests at the end: the
CRC-32C of the id of each record, 4 bytes, in the order of the records and growing
towards them. They tell whose record is damaged, so that a repair never uncovers an older
version of it. The digest of a container, which has no id, is the number of records in it: those that
belong to it are told from those that were begun after it. So a checksum that is no more than
record.MaxContained has its highest bit set.

	offset  bytes
	0       8      magic "WARMSEG\x00"; written last
	8       4      format version
	12      2      kind: 1 lane, 2 target
	14      2      flags: 1 when made for a single record, larger than a segment
	16      8      id
	24      8      capacity: the size of the file
	32      16     id of the store
	48      8      salt, random: part of the seed of each record
	56      8      open: number of the Open that made it
	64      8      generation of the manifest that was in force then
	72      20     0
	92      4      CRC-32C of bytes 8 to 91
	96      48     state, first copy
	144     48     state, second copy

A state copy is rewritten while the other one stays; the intact one of the higher generation counts.

	0       4      generation, from 1
	4       4      number of records
	8       8      synced: bytes up to here, these records, were durable when this was written
	16      8      the highest sequence number among them
	24      8      salt, as in the header: without it no record can be verified
	32      4      1 when sealed: there are no records beyond synced
	36      8      0
	44      4      CRC-32C of bytes 0 to 43

The whole header lies in one sector: a disk writes all of it or nothing.
*/

// Version is the version of the format that this package reads and writes.
const Version = 2

const (
	segmentMagic  = "WARMSEG\x00"
	manifestMagic = "WARMMAN\x00"
)

// Names of files.
const (
	LockName         = "LOCK"
	ManifestName     = "MANIFEST"
	ManifestTempName = "MANIFEST.tmp"
	SpareName        = "SPARE" // followed by a number
	RepairName       = "REPAIR"
	NewSuffix        = ".new" // of a segment file until it has its header
	segmentSuffix    = ".seg"
)

// Sizes of the parts of a segment file, bytes.
const (
	HeaderSize = 192
	DigestSize = 4 // of one record

	StateAt   = 96 // offset of the two copies of the state
	StateSize = 48 // of one copy

	headerSumAt = 92 // offset of the checksum of what never changes
	stateSumAt  = 44 // in a copy of the state
)

// ErrVersion is returned for files of a format version that this package does not read.
var ErrVersion = errors.New("format version")

func versionError(v uint32) error {
	return fmt.Errorf("%w %d, this package reads %d", ErrVersion, v, Version)
}

// SegmentKind says what filled a segment. Targets count only once a manifest lists them.
type SegmentKind uint16

// Kinds of segments.
const (
	KindLane   SegmentKind = 1
	KindTarget SegmentKind = 2
)

// StoreID tells the files of one store from those of another.
type StoreID [16]byte

// SegmentFileName returns the name of the file of segment id.
func SegmentFileName(id uint64) string { return fmt.Sprintf("%016x%s", id, segmentSuffix) }

// ParseSegmentFileName is the inverse of [SegmentFileName]; ok is false for other names.
func ParseSegmentFileName(name string) (id uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 || strings.ToLower(digits) != digits {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 16, 64)
	return id, err == nil && id > 0
}

// flagLarge is a flag of a header.
const flagLarge = 1

// Header is the part of a segment's header that never changes.
type Header struct {
	Kind       SegmentKind
	Large      bool
	ID         uint64
	Capacity   uint64
	Store      StoreID
	Salt       uint64
	Open       uint64 // number of the Open that made it
	Generation uint64 // of the manifest in force when it was made
}

// Encode writes h to mem, the magic last: a file that was not finished when the power went has none.
func (h Header) Encode(mem []byte) {
	binary.LittleEndian.PutUint32(mem[8:], Version)
	binary.LittleEndian.PutUint16(mem[12:], uint16(h.Kind))
	flags := uint16(0)
	if h.Large {
		flags = flagLarge
	}
	binary.LittleEndian.PutUint16(mem[14:], flags)
	binary.LittleEndian.PutUint64(mem[16:], h.ID)
	binary.LittleEndian.PutUint64(mem[24:], h.Capacity)
	copy(mem[32:48], h.Store[:])
	binary.LittleEndian.PutUint64(mem[48:], h.Salt)
	binary.LittleEndian.PutUint64(mem[56:], h.Open)
	binary.LittleEndian.PutUint64(mem[64:], h.Generation)
	binary.LittleEndian.PutUint32(mem[headerSumAt:], record.Checksum(mem[8:headerSumAt]))
	copy(mem, segmentMagic)
}

// ErrNoHeader means that a file has no header: the power went before it reached the disk, or damage.
// After a kill it is damage, since files get their names when they have their headers.
var ErrNoHeader = errors.New("no header")

// DecodeHeader reads and checks the header of a segment file. Its error may be [ErrNoHeader] or
// [ErrVersion].
func DecodeHeader(mem []byte) (h Header, err error) {
	if IsZero(mem[:min(8, len(mem))]) {
		return h, ErrNoHeader
	}
	if len(mem) < HeaderSize {
		return h, fmt.Errorf("file has %d bytes, less than a header", len(mem))
	}
	if string(mem[:8]) != segmentMagic {
		return h, errors.New("wrong magic")
	}
	// The version comes first: what another one checks is unknown.
	if err := checkVersion(mem); err != nil {
		return h, err
	}
	if binary.LittleEndian.Uint32(mem[headerSumAt:]) != record.Checksum(mem[8:headerSumAt]) {
		return h, errors.New("header checksum mismatch")
	}
	flags := binary.LittleEndian.Uint16(mem[14:])
	h = Header{
		Kind:       SegmentKind(binary.LittleEndian.Uint16(mem[12:])),
		Large:      flags&flagLarge != 0,
		ID:         binary.LittleEndian.Uint64(mem[16:]),
		Capacity:   binary.LittleEndian.Uint64(mem[24:]),
		Store:      StoreID(mem[32:48]),
		Salt:       binary.LittleEndian.Uint64(mem[48:]),
		Open:       binary.LittleEndian.Uint64(mem[56:]),
		Generation: binary.LittleEndian.Uint64(mem[64:]),
	}
	if h.Kind != KindLane && h.Kind != KindTarget || flags&^flagLarge != 0 {
		return h, fmt.Errorf("%w %d with kind %d and flags %#x, which this package does not know",
			ErrVersion, Version, h.Kind, flags)
	}
	return h, nil
}

// checkVersion checks the version in the header of a segment. A header that is whole but for its version is
// one of this version, and damaged.
func checkVersion(mem []byte) error {
	v := binary.LittleEndian.Uint32(mem[8:])
	if v == Version {
		return nil
	}
	whole := binary.LittleEndian.AppendUint32(make([]byte, 0, headerSumAt), Version)
	whole = append(whole, mem[12:headerSumAt]...)
	if record.Checksum(whole) == binary.LittleEndian.Uint32(mem[headerSumAt:]) {
		return fmt.Errorf("damaged version: %d", v)
	}
	return versionError(v)
}

// MayBeUnfinished reports whether mem, a file under the name of an unfinished segment, may be one that
// store made: with a header of the store, or without one.
func MayBeUnfinished(mem []byte, store StoreID) bool {
	magic := mem[:min(len(segmentMagic), len(mem))]
	switch {
	case IsZero(magic): // it comes last: the rest may be there, or a part of it
		return zerosOr(mem, 8, binary.LittleEndian.AppendUint32(nil, Version)) && zerosOr(mem, 32, store[:])
	case string(magic) != segmentMagic[:len(magic)]:
		return false
	case len(mem) < HeaderSize: // what a power loss left of it
		return true
	}
	return StoreID(mem[32:48]) == store
}

// zerosOr reports whether mem has zeros at offset, or want, as far as it goes.
func zerosOr(mem []byte, offset int, want []byte) bool {
	got := mem[min(offset, len(mem)):min(offset+len(want), len(mem))]
	return IsZero(got) || bytes.HasPrefix(want, got)
}

// IsForeign reports whether mem begins with other bytes than every segment file that was written.
func IsForeign(mem []byte) bool {
	return !IsZero(mem[:min(8, len(mem))]) && !strings.HasPrefix(segmentMagic, string(mem[:min(8, len(mem))]))
}

var zeroPage [4096]byte

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool {
	for ; len(b) >= len(zeroPage); b = b[len(zeroPage):] {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// State is the part of a segment's header that says what is durable.
type State struct {
	Generation uint32
	Records    uint32
	Synced     uint64
	MaxSeq     uint64
	Salt       uint64 // of the segment
	Sealed     bool
}

// Encode writes st to the copy its generation belongs to; the other copy stays.
func (st State) Encode(mem []byte) {
	b := mem[StateAt+st.Generation%2*StateSize:]
	binary.LittleEndian.PutUint32(b[0:], st.Generation)
	binary.LittleEndian.PutUint32(b[4:], st.Records)
	binary.LittleEndian.PutUint64(b[8:], st.Synced)
	binary.LittleEndian.PutUint64(b[16:], st.MaxSeq)
	sealed := uint32(0)
	if st.Sealed {
		sealed = 1
	}
	binary.LittleEndian.PutUint64(b[24:], st.Salt)
	binary.LittleEndian.PutUint32(b[32:], sealed)
	binary.LittleEndian.PutUint32(b[stateSumAt:], record.Checksum(b[:stateSumAt]))
}

// DecodeState returns the newest intact state of a file made with capacity bytes; ok is false when there
// is none.
func DecodeState(mem []byte, capacity uint64) (newest State, ok bool) {
	for i := range 2 {
		if len(mem) < HeaderSize {
			break
		}
		b := mem[StateAt+i*StateSize:]
		st := State{
			Generation: binary.LittleEndian.Uint32(b[0:]),
			Records:    binary.LittleEndian.Uint32(b[4:]),
			Synced:     binary.LittleEndian.Uint64(b[8:]),
			MaxSeq:     binary.LittleEndian.Uint64(b[16:]),
			Salt:       binary.LittleEndian.Uint64(b[24:]),
			Sealed:     binary.LittleEndian.Uint32(b[32:]) == 1,
		}
		if binary.LittleEndian.Uint32(b[stateSumAt:]) != record.Checksum(b[:stateSumAt]) || st.Generation == 0 ||
			st.Synced < HeaderSize || st.Synced > capacity {
			continue
		}
		if !ok || st.Generation > newest.Generation {
			newest, ok = st, true
		}
	}
	return newest, ok
}

// Digest returns what a segment file keeps of the id of each record; never 0, which says that there is
// none, and no digest of a container.
func Digest(id []byte) uint32 {
	sum := record.Checksum(id)
	if sum <= record.MaxContained {
		sum |= 1 << 31
	}
	return sum
}

// Contained returns how many records the container with this digest holds; 0 if it is that of another record, or none.
func Contained(digest uint32) int {
	if digest <= record.MaxContained {
		return int(digest)
	}
	return 0
}

// DigestAt returns the offset of the digest of record n, counted from 0, in a file of size bytes.
func DigestAt(size, n int) int { return size - (n+1)*DigestSize }
