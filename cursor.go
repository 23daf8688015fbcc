package warmtier

import (
	"errors"
	"fmt"
)

/*
A cursor is the place of a scan: a shard and a tag, which together are the first 32 bits of an id's hash. The
tag of an id never changes, so ranges of places that follow each other have each id in exactly one of them,
wherever its slot and its record are at the time. All that a cursor depends on is the key of the hash. So the
other 32 bits are a stamp of that key: the hash of one constant. A cursor of another store, or of this
directory under another key, would begin somewhere in the middle of other ranges, and miss memories; it is an
error.
*/

// Cursor is a place in a [Store.Scan]. 0 is the beginning, and the end. Its other values mean nothing to
// the caller, and something only to the store that they are from, and to one that opens its directory after a
// clean Close.
type Cursor uint64

const (
	placeBits  = 32 // shard and tag
	scanNumber = 128
)

// makeCursor returns the cursor of a place, 0 beyond the last one.
func (s *Store) makeCursor(shardIndex int, tag uint32) Cursor {
	place := uint64(shardIndex)<<tagBits + uint64(tag) // tag may be tagCount: then it is the next shard's first
	if place >= shardCount<<tagBits || place == 0 {
		return 0
	}
	return Cursor(s.stamp()<<placeBits | place)
}

// placeOf returns the shard and the tag that c stands for.
func (s *Store) placeOf(c Cursor) (shardIndex int, tag uint32, err error) {
	place := uint64(c) & (1<<placeBits - 1)
	if c != 0 && (uint64(c)>>placeBits != s.stamp() || place == 0) {
		return 0, 0, fmt.Errorf("%w: %#x", ErrInvalidCursor, uint64(c))
	}
	return int(place >> tagBits), uint32(place) & (tagCount - 1), nil
}

// stamp returns what the cursors of this store have in common, 32 bits that follow from the key of its hash.
func (s *Store) stamp() uint64 { return s.hash("warmtier: cursors") & (1<<placeBits - 1) }

// Scan returns the next n ids after c, and the cursor to go on with. Cursor 0 begins, and next is 0 when there
// are no more. n is what the caller wants: there are more when ids share a place in the index, which few do,
// and fewer only where next is 0. n <= 0 means 128.
//
// A memory that is there from the first call to the last is returned exactly once, whatever is stored, deleted
// and compacted between them; one that comes or goes on the way may be returned or not, and never twice. Nothing
// is kept for a scan that has not ended: a cursor may be forgotten, kept, or used twice. In memory it is good until
// Close. In a directory it is also good for the next Open, if the Close was clean; an Open that reads
// the records draws another hash, and the cursor is ErrInvalidCursor.
//
// A call reads the header and the id of each record that it returns, about 128 in a hold of the content
// buffer's lock, and passes at most 256 parts of the index that are empty.
//
// Errors: [ErrInvalidCursor]; [ErrClosed]; [ErrCorrupt] for records whose ids cannot be read, each of them
// counted in Stats.Reads.CorruptRecords: ids has the others then, and next is good.
func (s *Store) Scan(c Cursor, n int) (ids []string, next Cursor, err error) {
	shardIndex, tag, err := s.placeOf(c)
	if err != nil {
		return nil, 0, err
	}
	if n <= 0 {
		n = scanNumber
	}
	b := idBatch{next: tag}
	var damage error
	for ; shardIndex < shardCount; shardIndex, b.next = shardIndex+1, 0 {
		for b.next < tagCount {
			if len(ids) >= n {
				return ids, s.makeCursor(shardIndex, b.next), damage
			}
			b.want = min(n-len(ids), iterationBatch)
			damage = errors.Join(damage, s.readIDs(&s.shards[shardIndex], &b))
			if s.lifetime.Err() != nil { // looked at afterwards: what was read may be what Close has left
				return nil, 0, ErrClosed
			}
			ids = append(ids, b.ids...)
		}
	}
	return ids, 0, damage
}
