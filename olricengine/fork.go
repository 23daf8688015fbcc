package olricengine

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/olric-data/olric/hasher"
	"github.com/olric-data/olric/pkg/storage"
	"github.com/warmtier/warmtier"
)

// buffers hold encoded entries on their way into the store, which keeps none of them.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxPooled = 1 << 20

// Put stores an entry, unless a later one of its hash key is there. Errors: storage.ErrKeyTooLarge
// and storage.ErrEntryTooLarge, bare, as Olric compares them; *[ClockError]; [ErrDestroyed];
// [ErrRefused]; those of the store, of which warmtier.ErrNoSpace means that the node's memory budget, or its disk, is
// used up.
func (e *Engine) Put(hkey uint64, entry storage.Entry) error {
	en := own(entry)
	if len(en.key) > maxKeySize {
		return storage.ErrKeyTooLarge
	}
	buf := buffers.Get().(*[]byte)
	encoded := en.appendTo((*buf)[:0])
	err := e.put(hkey, en, encoded)
	if cap(encoded) <= maxPooled {
		*buf = encoded
		buffers.Put(buf)
	}
	// A write that Olric began before the last Mark may have gone to the owners of before. The
	// entry is stored by now: either the Offer that follows a Mark finds it in the fork, or the
	// mark is another one here.
	if last := e.node.marked.Load(); err == nil && en.begun != nil && (en.begun != last || !last.primary(hkey)) {
		e.node.mu.Lock()
		e.node.late[place{e, hkey}] = struct{}{}
		e.node.mu.Unlock()
	}
	return err
}

// PutRaw stores what Entry.Encode returned, as Put does. Errors: also [ErrFormat].
func (e *Engine) PutRaw(hkey uint64, encoded []byte) error {
	en, err := decode(encoded)
	if err != nil {
		return err
	}
	return e.put(hkey, en, encoded)
}

// takes returns the error for an entry of another map than Options.Map.
func (n *node) takes(hkey uint64, key string) error {
	if n.opts.Map == "" || hasher.NewDefaultHasher().Sum64([]byte(n.opts.Map+key)) == hkey {
		return nil
	}
	return fmt.Errorf("%w: key %q is not of map %q, the only one that this node keeps", ErrRefused, key, n.opts.Map)
}

func (e *Engine) put(hkey uint64, en *Entry, encoded []byte) error {
	if err := e.node.takes(hkey, en.key); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.destroyed {
		return ErrDestroyed
	}
	if old, ok := e.entries.Get(hkey); ok {
		if stays, err := e.staysLocked(hkey, old, en, encoded); stays || err != nil {
			return err
		}
	}
	return e.writeLocked(hkey, en, encoded)
}

// staysLocked reports whether the entry with the stamp old outlives the write of en. REQUIRES: e.mu
// held.
func (e *Engine) staysLocked(hkey uint64, old stamp, en *Entry, encoded []byte) (bool, error) {
	switch {
	case old.timestamp < en.timestamp:
		return false, nil
	case old.timestamp > en.timestamp:
		if now := time.Now(); old.timestamp > now.Add(maxAhead).UnixNano() {
			return true, e.fail(&ClockError{time.Unix(0, en.timestamp), time.Unix(0, old.timestamp), now})
		}
		return true, nil
	}
	// Two nodes wrote at the same nanosecond, or this is the same entry again. All nodes must
	// choose the same one.
	stored, err := e.node.store.Get(e.id(hkey))
	if errors.Is(err, warmtier.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, e.fail(err)
	}
	return bytes.Compare(order(stored), order(encoded)) >= 0, nil
}

// order returns what decides between entries of one timestamp: tombstones first.
func order(encoded []byte) []byte { return encoded[1:] }

// writeLocked stores the entry, and its stamp. REQUIRES: e.mu held.
func (e *Engine) writeLocked(hkey uint64, en *Entry, encoded []byte) error {
	err := e.node.store.Put(e.id(hkey), encoded)
	if errors.Is(err, warmtier.ErrContentTooLarge) {
		return storage.ErrEntryTooLarge
	}
	if err != nil {
		return e.fail(err)
	}
	e.writes++
	e.node.clock.see(en.timestamp)
	s := stamp{timestamp: en.timestamp, access: e.node.tick(), size: uint32(len(encoded))}
	if en.tombstone {
		s.size |= tombstoneBit
	}
	old, _ := e.entries.Set(hkey, s)
	e.bytes += s.bytes() - old.bytes()
	e.soonest = sooner(e.soonest, en.ttl)
	return nil
}

func (s stamp) bytes() int64    { return int64(s.size &^ tombstoneBit) }
func (s stamp) tombstone() bool { return s.size&tombstoneBit != 0 }

// fail notes the error of a write, and returns it.
func (e *Engine) fail(err error) error {
	e.node.mu.Lock()
	defer e.node.mu.Unlock()
	e.node.failure, e.node.failed = err, time.Now()
	return err
}

// tick returns the time as stamps have it.
func (n *node) tick() uint32 { return uint32(time.Since(n.began) / accessUnit) }

// accessed returns the last use of an entry, Unix nanoseconds.
func (n *node) accessed(s stamp) int64 {
	return n.began.Add(time.Duration(s.access) * accessUnit).UnixNano()
}

// read returns the entry, without counting as its use. Errors: storage.ErrKeyNotFound, bare; those
// of the store.
func (e *Engine) read(hkey uint64) (*Entry, stamp, error) {
	e.mu.RLock()
	s, ok := e.entries.Get(hkey)
	e.mu.RUnlock()
	if !ok {
		return nil, s, storage.ErrKeyNotFound
	}
	en, err := e.load(hkey)
	if err != nil {
		return nil, s, err
	}
	en.lastAccess = e.node.accessed(s)
	return en, s, nil
}

// load returns the entry that the store has.
func (e *Engine) load(hkey uint64) (*Entry, error) {
	en, _, err := e.loadVersion(hkey)
	return en, err
}

// loadVersion is load with the version that the entry has in the store.
func (e *Engine) loadVersion(hkey uint64) (*Entry, warmtier.Version, error) {
	content, version, err := e.node.store.GetVersion(e.id(hkey))
	if errors.Is(err, warmtier.ErrNotFound) {
		return nil, 0, storage.ErrKeyNotFound // removed since its stamp was seen
	}
	if err != nil {
		return nil, 0, err
	}
	en, err := decode(content)
	return en, version, err
}

// Get returns an entry, a copy. Of one whose removal is remembered it returns the timestamp, as of
// an expired one. Errors: storage.ErrKeyNotFound, bare; those of the store.
func (e *Engine) Get(hkey uint64) (storage.Entry, error) {
	en, s, err := e.read(hkey)
	if err != nil {
		return nil, err // and not a nil *Entry, which Olric would take for an entry
	}
	if now := e.node.tick(); now != s.access {
		e.mu.Lock()
		if s, ok := e.entries.Get(hkey); ok {
			s.access = now
			e.entries.Set(hkey, s)
		}
		e.mu.Unlock()
	}
	return en, nil
}

// GetRaw returns an entry as Entry.Encode does, a copy. Errors: those of Get.
func (e *Engine) GetRaw(hkey uint64) ([]byte, error) {
	en, _, err := e.read(hkey)
	if err != nil {
		return nil, err
	}
	return en.Encode(), nil
}

// GetTTL returns when the entry expires, in Unix milliseconds, 0 for never. Errors: those of Get.
func (e *Engine) GetTTL(hkey uint64) (int64, error) {
	en, _, err := e.read(hkey)
	if err != nil {
		return 0, err
	}
	return en.TTL(), nil
}

// GetLastAccess returns when the entry was last stored or got, in Unix nanoseconds, to 10 ms.
// Errors: storage.ErrKeyNotFound, bare.
func (e *Engine) GetLastAccess(hkey uint64) (int64, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	s, ok := e.entries.Get(hkey)
	if !ok {
		return 0, storage.ErrKeyNotFound
	}
	return e.node.accessed(s), nil
}

// GetKey returns the key of the entry. Errors: those of Get.
func (e *Engine) GetKey(hkey uint64) (string, error) {
	en, _, err := e.read(hkey)
	if err != nil {
		return "", err
	}
	return en.Key(), nil
}

// Check reports whether there is an entry.
func (e *Engine) Check(hkey uint64) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	s, ok := e.entries.Get(hkey)
	return ok && !s.tombstone()
}

// Delete removes an entry; one that is not there is no error. Errors: [ErrRefused]; those of the
// store.
func (e *Engine) Delete(hkey uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.entries.Get(hkey); !ok {
		return nil
	}
	if e.node.opts.Remember > 0 {
		return fmt.Errorf("%w: a node that was away could undo a deletion", ErrRefused)
	}
	return e.removeLocked(hkey)
}

// removeLocked removes an entry and its stamp. REQUIRES: e.mu held.
func (e *Engine) removeLocked(hkey uint64) error {
	if err := e.node.remove(e.id(hkey)); err != nil {
		return e.fail(err)
	}
	old, _ := e.entries.Delete(hkey)
	e.bytes -= old.bytes()
	return nil
}

// remove removes an id from the store, if it is there.
func (n *node) remove(id string) error {
	if n.opts.removing != nil {
		if err := n.opts.removing(); err != nil {
			return err
		}
	}
	_, err := n.store.Delete(id)
	return err
}

// UpdateTTL sets when an entry expires, and its timestamp, to those of data. Errors: those of Get
// and Put.
func (e *Engine) UpdateTTL(hkey uint64, data storage.Entry) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, ok := e.entries.Get(hkey)
	if !ok || old.tombstone() {
		return storage.ErrKeyNotFound
	}
	if old.timestamp > data.Timestamp() {
		_, err := e.staysLocked(hkey, old, own(data), nil)
		return err
	}
	en, err := e.load(hkey)
	if err != nil {
		return err
	}
	en.ttl, en.timestamp, en.encoded = data.TTL(), data.Timestamp(), nil
	return e.writeLocked(hkey, en, en.Encode())
}
