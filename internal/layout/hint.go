package layout

import (
	"encoding/binary"
	"errors"
	"iter"

	"github.com/warmtier/warmtier/internal/record"
)

/*
The hint is the index as Close left it, so that the next Open need not read the records:

	offset  bytes
	0       8      magic "WARMHNT\x00"
	8       4      format version
	12      4      n: number of segments; a location names one by its place in their list
	16      16     id of the store
	32      16     key of the hash
	48      4      bits of an offset in a location
	52      4      0
	56      8      highest sequence number
	64      8      open: number of the Open whose Close wrote it
	72      8      next: no segment had this id or a higher one yet
	80      72 n   segments
	        24 x 256  shards
	        4      CRC-32C of everything before
	               tables of the shards, one after the other
	               offsets of tombstones by segment, 4 bytes each in units of 8 bytes
	               deadlines by segment, 32 bytes for each bucket that has any

A segment: id (8), tail (8), live bytes (8), lowest sequence number (8), records (4), tombstones
(4), CRC-32C of their offsets (4), their bytes / 8 (4), salt (8), base of its deadlines (8), buckets of
deadlines (4), CRC-32C of these (4). A bucket: number (4), 0 (4), live bytes (8), first deadline (8), last
one (8), all in Unix ms. A shard: slots (4), memories (4), live bytes
(8), CRC-32C of the table (4), 0 (4).
*/

// HintName is the name of the file.
const HintName = "HINT"

const hintMagic = "WARMHNT\x00"

// Sizes of the parts of a hint, bytes.
const (
	HintHeaderSize  = 80
	HintSegmentSize = 72
	hintShardSize   = 24
	hintSumSize     = 4
)

// DeadlineBuckets is the number of buckets for deadlines that a segment has.
const DeadlineBuckets = 12

// HintShards is the number of shards, each with a table, in every hint.
const HintShards = 256

// Hint is a hint up to its tables: everything that says what the tables are.
type Hint struct {
	Store      StoreID
	Key        [16]byte // of the hash
	OffsetBits uint32   // of a location
	MaxSeq     uint64
	Open       uint64 // number of the Open whose Close wrote it
	Next       uint64 // no segment had this id or a higher one
	Segments   []HintSegment
	Shards     [HintShards]HintShard
}

// HintSegment describes a segment, which is sealed.
type HintSegment struct {
	ID             uint64
	Tail           uint64
	LiveBytes      uint64
	MinSeq         uint64
	Records        uint32
	Tombstones     uint32
	TombstoneSum   uint32 // checksum of the list of their offsets
	TombstoneUnits uint32 // bytes of tombstones, in units of 8
	Salt           uint64
	DeadlineBase   int64  // Unix time in ms from which buckets count; 0 without deadlines
	Deadlines      uint32 // buckets that have any
	DeadlineSum    uint32 // checksum of the list of these
}

// HintDeadlines is one bucket of the deadlines in a segment.
type HintDeadlines struct {
	Bucket      uint32
	Bytes       uint64 // of live records
	First, Last int64  // Unix time in ms
}

// HintShard describes a shard and its table.
type HintShard struct {
	Slots     uint32
	Memories  uint32
	LiveBytes uint64
	TableSum  uint32
}

// HintTablesAt returns where the tables begin in a hint of so many segments.
func HintTablesAt(segments int) int {
	return HintHeaderSize + segments*HintSegmentSize + HintShards*hintShardSize + hintSumSize
}

// Encode writes h to the start of b, which is zeroed there, up to the tables. Tables and tombstones
// come first: without what Encode writes they are no hint.
func (h *Hint) Encode(b []byte) {
	b = b[:HintTablesAt(len(h.Segments))]
	copy(b, hintMagic)
	binary.LittleEndian.PutUint32(b[8:], Version)
	binary.LittleEndian.PutUint32(b[12:], uint32(len(h.Segments)))
	copy(b[16:], h.Store[:])
	copy(b[32:], h.Key[:])
	binary.LittleEndian.PutUint32(b[48:], h.OffsetBits)
	binary.LittleEndian.PutUint64(b[56:], h.MaxSeq)
	binary.LittleEndian.PutUint64(b[64:], h.Open)
	binary.LittleEndian.PutUint64(b[72:], h.Next)
	rest := b[HintHeaderSize:]
	for i := range h.Segments {
		h.Segments[i].encode(rest)
		rest = rest[HintSegmentSize:]
	}
	for i := range h.Shards {
		h.Shards[i].encode(rest)
		rest = rest[hintShardSize:]
	}
	binary.LittleEndian.PutUint32(rest, record.Checksum(b[:len(b)-hintSumSize]))
}

func (g *HintSegment) encode(b []byte) {
	binary.LittleEndian.PutUint64(b[0:], g.ID)
	binary.LittleEndian.PutUint64(b[8:], g.Tail)
	binary.LittleEndian.PutUint64(b[16:], g.LiveBytes)
	binary.LittleEndian.PutUint64(b[24:], g.MinSeq)
	binary.LittleEndian.PutUint32(b[32:], g.Records)
	binary.LittleEndian.PutUint32(b[36:], g.Tombstones)
	binary.LittleEndian.PutUint32(b[40:], g.TombstoneSum)
	binary.LittleEndian.PutUint32(b[44:], g.TombstoneUnits)
	binary.LittleEndian.PutUint64(b[48:], g.Salt)
	binary.LittleEndian.PutUint64(b[56:], uint64(g.DeadlineBase))
	binary.LittleEndian.PutUint32(b[64:], g.Deadlines)
	binary.LittleEndian.PutUint32(b[68:], g.DeadlineSum)
}

func (d *HintShard) encode(b []byte) {
	binary.LittleEndian.PutUint32(b[0:], d.Slots)
	binary.LittleEndian.PutUint32(b[4:], d.Memories)
	binary.LittleEndian.PutUint64(b[8:], d.LiveBytes)
	binary.LittleEndian.PutUint32(b[16:], d.TableSum)
}

// DecodeHint reads and checks a hint up to its tables, which begin at [HintTablesAt].
func DecodeHint(b []byte) (*Hint, error) {
	if len(b) < HintHeaderSize || string(b[:8]) != hintMagic || binary.LittleEndian.Uint32(b[8:]) != Version {
		return nil, errors.New("no hint of this version")
	}
	n := int64(binary.LittleEndian.Uint32(b[12:]))
	if n*HintSegmentSize > int64(len(b)) || HintTablesAt(int(n)) > len(b) {
		return nil, errors.New("segments do not fit")
	}
	b = b[:HintTablesAt(int(n))]
	sumAt := len(b) - hintSumSize
	if binary.LittleEndian.Uint32(b[sumAt:]) != record.Checksum(b[:sumAt]) {
		return nil, errors.New("checksum mismatch")
	}
	h := &Hint{
		Store:      StoreID(b[16:32]),
		Key:        [16]byte(b[32:48]),
		OffsetBits: binary.LittleEndian.Uint32(b[48:]),
		MaxSeq:     binary.LittleEndian.Uint64(b[56:]),
		Open:       binary.LittleEndian.Uint64(b[64:]),
		Next:       binary.LittleEndian.Uint64(b[72:]),
		Segments:   make([]HintSegment, n),
	}
	rest := b[HintHeaderSize:]
	for i := range h.Segments {
		h.Segments[i] = decodeHintSegment(rest)
		rest = rest[HintSegmentSize:]
	}
	for i := range h.Shards {
		h.Shards[i] = decodeHintShard(rest)
		rest = rest[hintShardSize:]
	}
	return h, nil
}

func decodeHintSegment(b []byte) HintSegment {
	return HintSegment{
		ID:             binary.LittleEndian.Uint64(b[0:]),
		Tail:           binary.LittleEndian.Uint64(b[8:]),
		LiveBytes:      binary.LittleEndian.Uint64(b[16:]),
		MinSeq:         binary.LittleEndian.Uint64(b[24:]),
		Records:        binary.LittleEndian.Uint32(b[32:]),
		Tombstones:     binary.LittleEndian.Uint32(b[36:]),
		TombstoneSum:   binary.LittleEndian.Uint32(b[40:]),
		TombstoneUnits: binary.LittleEndian.Uint32(b[44:]),
		Salt:           binary.LittleEndian.Uint64(b[48:]),
		DeadlineBase:   int64(binary.LittleEndian.Uint64(b[56:])),
		Deadlines:      binary.LittleEndian.Uint32(b[64:]),
		DeadlineSum:    binary.LittleEndian.Uint32(b[68:]),
	}
}

func decodeHintShard(b []byte) HintShard {
	return HintShard{
		Slots:     binary.LittleEndian.Uint32(b[0:]),
		Memories:  binary.LittleEndian.Uint32(b[4:]),
		LiveBytes: binary.LittleEndian.Uint64(b[8:]),
		TableSum:  binary.LittleEndian.Uint32(b[16:]),
	}
}

// TombstonesSize returns how many bytes [PutTombstones] takes for n tombstones.
func TombstonesSize(n int) int { return 4 * n }

// PutTombstones writes the list of one segment's tombstones to b, and returns its checksum.
func PutTombstones(b []byte, units iter.Seq[uint32]) (sum uint32) {
	n := 0
	for unit := range units {
		binary.LittleEndian.PutUint32(b[4*n:], unit)
		n++
	}
	return record.Checksum(b[:TombstonesSize(n)])
}

// hintDeadlinesSize is the size of one bucket of deadlines, bytes.
const hintDeadlinesSize = 32

// DeadlinesSize returns how many bytes [PutDeadlines] takes for n buckets.
func DeadlinesSize(n int) int { return hintDeadlinesSize * n }

// PutDeadlines writes the list of one segment's deadlines to b, and returns its checksum.
func PutDeadlines(b []byte, list []HintDeadlines) (sum uint32) {
	for i, l := range list {
		at := b[hintDeadlinesSize*i:]
		binary.LittleEndian.PutUint32(at, l.Bucket)
		binary.LittleEndian.PutUint64(at[8:], l.Bytes)
		binary.LittleEndian.PutUint64(at[16:], uint64(l.First))
		binary.LittleEndian.PutUint64(at[24:], uint64(l.Last))
	}
	return record.Checksum(b[:DeadlinesSize(len(list))])
}

// DecodeDeadlines reads the lists of all segments of h from b, which begins where the tombstones end.
func (h *Hint) DecodeDeadlines(b []byte) (lists [][]HintDeadlines, err error) {
	for _, g := range h.Segments {
		if g.Deadlines > DeadlineBuckets {
			return nil, errors.New("too many deadlines")
		}
		size := DeadlinesSize(int(g.Deadlines))
		if size > len(b) || record.Checksum(b[:size]) != g.DeadlineSum {
			return nil, errors.New("checksum mismatch in the deadlines")
		}
		list := make([]HintDeadlines, g.Deadlines)
		for i := range list {
			at := b[hintDeadlinesSize*i:]
			list[i] = HintDeadlines{
				Bucket: binary.LittleEndian.Uint32(at), Bytes: binary.LittleEndian.Uint64(at[8:]),
				First: int64(binary.LittleEndian.Uint64(at[16:])), Last: int64(binary.LittleEndian.Uint64(at[24:])),
			}
		}
		lists = append(lists, list)
		b = b[size:]
	}
	return lists, nil
}

// DecodeTombstones reads the lists of all segments of h from b, which begins where the tables end, and
// returns what follows them.
func (h *Hint) DecodeTombstones(b []byte) (lists [][]uint32, rest []byte, err error) {
	for _, g := range h.Segments {
		size := TombstonesSize(int(g.Tombstones))
		if size > len(b) || record.Checksum(b[:size]) != g.TombstoneSum {
			return nil, nil, errors.New("checksum mismatch in the tombstones")
		}
		list := make([]uint32, g.Tombstones)
		for i := range list {
			list[i] = binary.LittleEndian.Uint32(b[4*i:])
		}
		lists = append(lists, list)
		b = b[size:]
	}
	return lists, b, nil
}
