package olricengine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/olric-data/olric/pkg/storage"
	"github.com/warmtier/warmtier"
)

// A payload carries entries of one partition to another node. Numbers are big-endian.
//
//	0  format, 2
//	1  what stands for the owners that the sender sees: see Owners
//	9  the life of the sender, if it syncs before it drops anything: see Import; otherwise 0
//	17 entries, each as hash key, length and what Entry.Encode returned
//	   CRC-32C of all that
const (
	payloadFormat = 2
	payloadHead   = 17

	// payloadSize is what a payload is filled to. Olric moves one per partition and round of its
	// balancer, with the fragment locked, so it must be neither small nor slow to send. An entry
	// that is larger has one of its own.
	payloadSize = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// payload is one that is being made.
type payload struct {
	buf      []byte
	places   []uint64           // hash keys, in the order of the entries
	versions []warmtier.Version // what the store had of them
	writes   uint64             // of the fork, before the first entry was read
	scratch  []byte
}

// add appends an entry of the fork, unless it is gone, or damaged: that one stays where it is, and keeps no other
// from moving. Errors: those of the store.
func (p *payload) add(e *Engine, hkey uint64) error {
	e.mu.RLock()
	_, ok := e.entries.Get(hkey)
	if len(p.places) == 0 {
		p.writes = e.writes
	}
	e.mu.RUnlock()
	if !ok {
		return nil
	}
	en, version, err := e.loadVersion(hkey)
	if err == storage.ErrKeyNotFound { //nolint:errorlint // the engine's own, bare
		return nil
	}
	if isDamage(err) {
		e.node.passOver(place{e, hkey})
		return nil
	}
	if err != nil {
		return err
	}
	if len(p.buf) == 0 {
		p.buf = append(p.buf, payloadFormat)
		p.buf = append(p.buf, make([]byte, payloadHead-1)...) // set by sealed
	}
	p.scratch = en.appendTo(p.scratch[:0])
	p.buf = binary.BigEndian.AppendUint64(p.buf, hkey)
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(p.scratch)))
	p.buf = append(p.buf, p.scratch...)
	p.places, p.versions = append(p.places, hkey), append(p.versions, version)
	return nil
}

func (p *payload) full() bool { return len(p.buf) >= payloadSize }

// sealed returns the bytes to send, for a node that sees the same owners; life is that of a node that syncs before it
// drops what it sends, or 0. The payload takes no more entries.
func (p *payload) sealed(owners *Owners, life uint64) []byte {
	binary.BigEndian.PutUint64(p.buf[1:], owners.number(p.places[0]))
	binary.BigEndian.PutUint64(p.buf[9:], life)
	return binary.BigEndian.AppendUint32(p.buf, crc32.Checksum(p.buf, castagnoli))
}

// dropFrom removes the entries that the payload carries, but those that were written since.
func (p *payload) dropFrom(e *Engine) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, hkey := range p.places {
		if e.writes != p.writes {
			unchanged, err := p.unchangedLocked(e, i)
			if err != nil {
				return e.fail(err)
			}
			if !unchanged {
				continue
			}
		}
		if err := e.removeLocked(hkey); err != nil {
			return err
		}
	}
	return nil
}

// unchangedLocked reports whether the store has the i-th entry as the payload has it. A stamp would not tell: another
// write may have the timestamp and the size of the one before. REQUIRES: e.mu held.
func (p *payload) unchangedLocked(e *Engine, i int) (bool, error) {
	_, version, err := e.node.store.GetVersion(e.id(p.places[i]))
	switch {
	case errors.Is(err, warmtier.ErrNotFound):
		return false, nil
	case isDamage(err):
		e.node.passOver(place{e, p.places[i]})
		return false, nil
	}
	return version == p.versions[i], err
}

// Import calls f for every entry of a payload, in order, and returns the first error of f: the
// sender then keeps what it sent. When it returns nil, everything that this node has is durable, as
// after Store.Sync: the sender drops its copy, which may have been durable for long, and nothing
// would order the loss of the one behind the other. That holds for what f finds stored already, too. What this engine
// sends itself by [Engine.Offer] is durable when Offer drops it, many payloads with one sync.
// Errors: also [ErrFormat], for a payload of another engine, of another version, or damaged;
// [ErrOtherOwners]; those of Store.Sync.
func (e *Engine) Import(data []byte, f func(hkey uint64, entry storage.Entry) error) error {
	number, life, entries, err := opened(data)
	if err != nil {
		return err
	}
	if err := e.node.agrees(number, entries); err != nil {
		return err
	}
	if err := importEach(entries, f); err != nil {
		return err
	}
	if life != e.node.life {
		if err := e.sync(); err != nil {
			return err
		}
	}
	// Had this node seen other owners before the last entry was stored, it might not offer it to them.
	return e.node.agrees(number, entries)
}

// opened returns what a payload carries: what stands for the owners that the sender sees, its life, and the entries.
func opened(data []byte) (number, life uint64, entries []byte, err error) {
	end := len(data) - crc32.Size
	if end < payloadHead || data[0] != payloadFormat {
		return 0, 0, nil, fmt.Errorf("%w: a payload of %d bytes is not of format %d", ErrFormat, len(data), payloadFormat)
	}
	if crc32.Checksum(data[:end], castagnoli) != binary.BigEndian.Uint32(data[end:]) {
		return 0, 0, nil, fmt.Errorf("%w: a payload of %d bytes is damaged", ErrFormat, len(data))
	}
	return binary.BigEndian.Uint64(data[1:]), binary.BigEndian.Uint64(data[9:]), data[payloadHead:end], nil
}

func importEach(rest []byte, f func(hkey uint64, entry storage.Entry) error) error {
	for len(rest) > 0 {
		if len(rest) < 12 || uint64(len(rest)-12) < uint64(binary.BigEndian.Uint32(rest[8:])) {
			return fmt.Errorf("%w: a payload ends within an entry", ErrFormat)
		}
		hkey, size := binary.BigEndian.Uint64(rest), binary.BigEndian.Uint32(rest[8:])
		en, err := decode(rest[12 : 12+size : 12+size])
		if err != nil {
			return err
		}
		if err := f(hkey, en); err != nil {
			return err
		}
		rest = rest[12+size:]
	}
	return nil
}

// TransferIterator returns what moves the fork's entries to another node, payload by payload.
func (e *Engine) TransferIterator() storage.TransferIterator { return &transfer{fork: e} }

type transfer struct {
	fork *Engine
	sent []export // by index
}

// export is a payload that was exported, and the owners that the node saw then.
type export struct {
	*payload
	owners *Owners
}

// Next reports whether there is anything to export.
func (t *transfer) Next() bool {
	leaves := t.fork.leaving(t.fork.node.owners.Load())
	damaged := t.fork.node.damagedPlaces()
	return !t.fork.walk(0, func(hkey uint64) bool {
		at := place{t.fork, hkey}
		return !leaves(hkey) || damaged[at] && at.damage() != nil
	})
}

// Export returns entries for Import on another node, with the index by which Drop knows them;
// io.EOF when there is none. Without a Drop the next call returns the same ones.
func (t *transfer) Export() ([]byte, int, error) {
	var (
		p       payload
		failure error
		owners  = t.fork.node.owners.Load()
		leaves  = t.fork.leaving(owners)
	)
	t.fork.walk(0, func(hkey uint64) bool {
		if leaves(hkey) {
			failure = p.add(t.fork, hkey)
		}
		return failure == nil && !p.full()
	})
	if failure != nil {
		return nil, 0, failure
	}
	if len(p.places) == 0 {
		return nil, 0, io.EOF
	}
	data := p.sealed(owners, 0)
	p.buf, p.scratch = nil, nil
	t.sent = append(t.sent, export{&p, owners})
	return data, len(t.sent) - 1, nil
}

// Drop removes what Export returned with the index, but entries that were written since. It removes nothing when other
// owners are seen since: Export will have it again when they have had it.
func (t *transfer) Drop(index int) error {
	if index < 0 || index >= len(t.sent) {
		return fmt.Errorf("olricengine: nothing was exported with index %d", index)
	}
	sent := t.sent[index]
	if now := t.fork.node.owners.Load(); !now.agree(sent.owners, now.partition(sent.places[0])) {
		return nil
	}
	return sent.dropFrom(t.fork)
}
