package olricengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/olric-data/olric/pkg/storage"
)

// The content of a memory, and what travels between nodes: a header, the key, the value. Numbers
// are big-endian.
//
//	0  format, 1
//	1  kind: of an entry, or of a tombstone
//	2  length of the key
//	4  when it expires, Unix milliseconds, 0 for never
//	12 timestamp of the write, Unix nanoseconds
//	20 key, value
const (
	format     = 1
	headerSize = 20

	kindEntry     = 0
	kindTombstone = 1

	// maxKeySize is Olric's own limit.
	maxKeySize = 255

	// longExpired is the time to live that Olric sees of a tombstone: past at any time.
	longExpired = 1
)

// ErrFormat is returned for bytes of another node, or of a directory, that this version of the
// module does not understand: a newer version wrote them, or another engine.
var ErrFormat = errors.New("olricengine: unknown format of an entry")

// Entry is a key with its value, as Olric handles it. Make one with [Engine.NewEntry].
type Entry struct {
	key        string
	value      []byte
	ttl        int64
	timestamp  int64
	lastAccess int64
	// tombstone: nothing is left of the entry but its timestamp, so that no older one comes back.
	tombstone bool
	// encoded is what the entry was decoded from, nil when that is not known or the entry has changed. Of each Get two
	// nodes encode what they have decoded.
	encoded []byte
	// node is where Olric begins a write with the entry, nil for an entry from elsewhere.
	node *node
	// begun is the last mark of the node when the write began. See Engine.Mark.
	begun *mark
}

var _ storage.Entry = (*Entry)(nil)

// SetKey sets the key.
func (en *Entry) SetKey(key string) { en.key, en.encoded = key, nil }

// Key returns the key.
func (en *Entry) Key() string { return en.key }

// SetValue sets the value, which must not be changed afterwards.
func (en *Entry) SetValue(value []byte) { en.value, en.encoded = value, nil }

// Value returns the value, which is the caller's in an entry that [Engine.Get] returned.
func (en *Entry) Value() []byte { return en.value }

// SetTTL sets when the entry expires, in Unix milliseconds; 0 means never.
func (en *Entry) SetTTL(ttl int64) { en.ttl, en.encoded = ttl, nil }

// TTL returns when the entry expires, in Unix milliseconds, or 0 for never.
func (en *Entry) TTL() int64 {
	if en.tombstone {
		return longExpired
	}
	return en.ttl
}

// SetTimestamp sets when the entry was written, in Unix nanoseconds. For a write that begins on
// this node it is made later than every timestamp that the node has seen: Olric reads its clock
// before it waits for the fragment, and calls SetTimestamp while it has it, so the order of writes
// is that of their timestamps.
func (en *Entry) SetTimestamp(timestamp int64) {
	if en.node != nil {
		timestamp = en.node.clock.after(timestamp)
	}
	en.timestamp, en.encoded = timestamp, nil
}

// Timestamp returns when the entry was written, in Unix nanoseconds.
func (en *Entry) Timestamp() int64 { return en.timestamp }

// SetLastAccess sets when the entry was last used, in Unix nanoseconds. It stays on this node.
func (en *Entry) SetLastAccess(lastAccess int64) { en.lastAccess = lastAccess }

// LastAccess returns when the entry was last used, in Unix nanoseconds.
func (en *Entry) LastAccess() int64 { return en.lastAccess }

// Encode returns the entry in the form that [Engine.PutRaw] takes. The bytes must not be changed: of an entry that was
// decoded they are what Value is part of.
func (en *Entry) Encode() []byte {
	if en.encoded != nil {
		return en.encoded
	}
	return en.appendTo(make([]byte, 0, headerSize+len(en.key)+len(en.value)))
}

// Decode sets the entry to what Encode returned. Olric leaves no way to report bytes that are
// something else: the entry is then without key and value, and older than any other.
func (en *Entry) Decode(encoded []byte) {
	*en = Entry{}
	_ = en.decode(encoded) // which leaves it as it is then
}

// appendTo encodes the entry behind buf.
func (en *Entry) appendTo(buf []byte) []byte {
	kind := byte(kindEntry)
	if en.tombstone {
		kind = kindTombstone
	}
	buf = append(buf, format, kind)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(en.key)))
	buf = binary.BigEndian.AppendUint64(buf, uint64(en.ttl))
	buf = binary.BigEndian.AppendUint64(buf, uint64(en.timestamp))
	buf = append(buf, en.key...)
	return append(buf, en.value...)
}

// decode returns an entry whose value is part of encoded.
func decode(encoded []byte) (*Entry, error) {
	en := &Entry{}
	if err := en.decode(encoded); err != nil {
		return nil, err
	}
	return en, nil
}

// decode makes an empty entry what encoded says; value is part of it. After an error the entry is still empty.
func (en *Entry) decode(encoded []byte) error {
	if len(encoded) < headerSize {
		return fmt.Errorf("%w: %d bytes", ErrFormat, len(encoded))
	}
	if encoded[0] != format || encoded[1] > kindTombstone {
		return fmt.Errorf("%w: format %d, kind %d, this node knows format %d", ErrFormat, encoded[0], encoded[1], format)
	}
	behindKey := headerSize + int(binary.BigEndian.Uint16(encoded[2:]))
	if len(encoded) < behindKey {
		return fmt.Errorf("%w: %d bytes, of which the key needs %d", ErrFormat, len(encoded), behindKey)
	}
	en.encoded = encoded[:len(encoded):len(encoded)]
	en.key = string(encoded[headerSize:behindKey])
	en.value = encoded[behindKey:]
	en.ttl = int64(binary.BigEndian.Uint64(encoded[4:]))
	en.timestamp = int64(binary.BigEndian.Uint64(encoded[12:]))
	en.tombstone = encoded[1] == kindTombstone
	return nil
}

// expired reports whether the entry's time is over, which for a tombstone is when it need not be
// kept any longer.
func (en *Entry) expired(now time.Time) bool {
	return en.ttl != 0 && en.ttl <= now.UnixMilli()
}

// own returns entry as the engine's own type. Olric may hand over one that another engine made.
func own(entry storage.Entry) *Entry {
	if en, ok := entry.(*Entry); ok {
		return en
	}
	return &Entry{key: entry.Key(), value: entry.Value(), ttl: entry.TTL(), timestamp: entry.Timestamp()}
}
