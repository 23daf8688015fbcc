package main

import (
	"encoding/binary"
	"hash/crc32"
	"hash/maphash"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

/*
floorPeer is what a store of checked records cannot do without, and nothing else: a flat table of a size known
beforehand, and a log in huge pages. A read loads a slot and the record that it leads to, compares the id, copies the
content, and checks the copy. A write loads the slot and the old record's header, whose bytes would be counted as dead,
and appends a checked record. Nothing grows or moves, reads write nothing, and a lock in 512 parts, which writers
seldom share, stands for those of any store. The log is a ring, and new ids are safe from one goroutine alone. What a
store takes beyond it is its own work; the rest is that of the machine.
*/
type floorPeer struct {
	seed  maphash.Seed
	slots []atomic.Uint64 // upper 30 bits: of the hash; the rest: place in the log over 8, plus 1
	shift int             // of a hash, to its first slot
	log   []byte
	parts [512]floorPart
}

// floorPart has a part of the log to itself.
type floorPart struct {
	mu         sync.Mutex
	next, from int
	dead       int64
	_          [88]byte // keeps two parts out of one another's lines
}

const (
	floorHeader = 16            // of a record: checksum, length of the id, length of the content, sequence number
	floorTag    = 1<<64 - 1<<34 // of a slot
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func floorRoom(c *contents) int64 {
	return ringRoom(c, floorHeader+8) + unevenly(c, int64(len(floorPeer{}.parts)))
}

func openFloor(c *contents, _ string) (peer, error) {
	n := bits.Len(uint(2 * c.N))
	table, err := hugeMemory(8 << n)
	if err != nil {
		return nil, err
	}
	slots := unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(table))), 1<<n) // mapped, so aligned
	p := &floorPeer{seed: maphash.MakeSeed(), slots: slots, shift: 64 - n}
	part := int(floorRoom(c)) / len(p.parts) &^ 7
	if p.log, err = hugeMemory(part * len(p.parts)); err != nil {
		return nil, err
	}
	for i := range p.parts {
		p.parts[i].from, p.parts[i].next = i*part, i*part
	}
	return p, nil
}

// find returns the slot of a hash, or the free one where it would go.
func (p *floorPeer) find(hash uint64) (slot *atomic.Uint64, w uint64) {
	for at := int(hash >> p.shift); ; at = (at + 1) & (len(p.slots) - 1) {
		slot = &p.slots[at]
		if w = slot.Load(); w == 0 || (w^hash<<34)&floorTag == 0 {
			return slot, w
		}
	}
}

func (p *floorPeer) record(w uint64) []byte { return p.log[(w&^floorTag-1)*8:] }

func (p *floorPeer) get(dst []byte, id string) ([]byte, bool, error) {
	_, w := p.find(maphash.String(p.seed, id))
	if w == 0 {
		return nil, false, nil
	}
	rec := p.record(w)
	idEnd := floorHeader + int(binary.LittleEndian.Uint16(rec[4:]))
	end := idEnd + int(binary.LittleEndian.Uint32(rec[8:]))
	if end > len(rec) || string(rec[floorHeader:idEnd]) != id {
		return nil, false, nil
	}
	dst = append(dst[:0], rec[idEnd:end]...)
	return dst, crc32.Checksum(dst, castagnoli) == binary.LittleEndian.Uint32(rec), nil
}

func (p *floorPeer) put(id string, content []byte) error {
	hash := maphash.String(p.seed, id)
	sum := crc32.Checksum(content, castagnoli)
	size := (floorHeader + len(id) + len(content) + 7) &^ 7
	part := &p.parts[hash>>31%uint64(len(p.parts))]
	slot, w := p.find(hash)
	part.mu.Lock()
	defer part.mu.Unlock()
	if w != 0 {
		part.dead += int64(binary.LittleEndian.Uint32(p.record(w)[8:]))
	}
	if each := len(p.log) / len(p.parts); part.next+size > part.from+each {
		part.next = part.from
	}
	rec := p.log[part.next : part.next+size]
	binary.LittleEndian.PutUint32(rec, sum)
	binary.LittleEndian.PutUint32(rec[4:], uint32(len(id)))
	binary.LittleEndian.PutUint32(rec[8:], uint32(len(content)))
	copy(rec[floorHeader:], id)
	copy(rec[floorHeader+len(id):], content)
	slot.Store(hash<<34&floorTag | uint64(part.next/8+1))
	part.next += size
	return nil
}

func (p *floorPeer) close() error { return nil }
