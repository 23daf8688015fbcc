//go:build unix

package shadow

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"maps"
	"slices"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

// SectorSize is what a disk writes as a whole, bytes.
const SectorSize = 512

// Inode is a file, under whatever names.
type Inode struct {
	Current  []byte
	Durable  []byte
	ID       uint64
	lost     map[int][]byte // sectors that a failed sync left out, as they were then
	mappings int            // with sharedMu held
	links    int            // with sharedMu held
	maker    *FS            // whose space it takes
	linkedAs []byte         // what it had when it got a second name, after which nobody may write to it
}

// change adds to the names and mappings of f, and gives its space back when nobody can reach it any more.
func (f *Inode) change(links, mappings int) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	f.links += links
	f.mappings += mappings
	if f.links == 0 && f.mappings == 0 {
		_ = f.maker.takeLocked(len(f.Current), 0) // less, never more
	}
}

// names returns how many names f has.
func (f *Inode) names() int {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	return f.links
}

func (f *Inode) isMapped() bool {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	return f.mappings > 0
}

// linkTo gives f one more name.
func (f *Inode) linkTo() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	if f.links++; f.links == 2 {
		f.linkedAs = make([]byte, len(f.Current))
		copyShared(f.linkedAs, f.Current)
	}
}

// Rewritten reports whether f got other bytes after it had got a second name, while it has that.
func (f *Inode) Rewritten() bool {
	return f.names() > 1 && f.linkedAs != nil && !equalShared(f.linkedAs, f.Current)
}

// sync makes a range durable, whole sectors of it. REQUIRES: the shadow's mu held.
func (f *Inode) sync(from, to int) {
	f.Durable = resized(f.Durable, len(f.Current))
	from -= from % SectorSize
	for at := from; at < to; at += SectorSize {
		now := f.Current[at:min(at+SectorSize, len(f.Current))]
		if was, ok := f.lost[at/SectorSize]; ok {
			if equalShared(was, now) {
				continue
			}
			delete(f.lost, at/SectorSize)
		}
		copyShared(f.Durable[at:], now)
	}
}

// FailSync is a sync that fails: the dirty sectors of the range count as clean afterwards.
func (f *Inode) FailSync(from, to int) {
	if f.lost == nil {
		f.lost = map[int][]byte{}
	}
	for at := from - from%SectorSize; at < to; at += SectorSize {
		now := make([]byte, min(SectorSize, len(f.Current)-at))
		copyShared(now, f.Current[at:])
		if at+len(now) > len(f.Durable) || !equalShared(now, f.Durable[at:at+len(now)]) {
			f.lost[at/SectorSize] = now
		}
	}
}

func resized(b []byte, size int) []byte {
	if size <= len(b) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-len(b))...)
}

// copyShared and equalShared read bytes that the store may be writing, as a disk does: that is no
// race of the store, so the detector is not told.
//
//go:norace
func copyShared(dst, src []byte) {
	n := min(len(dst), len(src))
	if !vm.OnHeap {
		copy(dst, src)
		return
	}
	for i := range n {
		dst[i] = src[i]
	}
}

//go:norace
func equalShared(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	i := 0
	for ; i+8 <= len(a); i += 8 {
		if binary.LittleEndian.Uint64(a[i:]) != binary.LittleEndian.Uint64(b[i:]) {
			return false
		}
	}
	for ; i < len(a); i++ {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// mapping is a mapped file.
type mapping struct {
	d    *FS
	file *Inode
	mem  []byte
	name string
	st   dir.Stat

	writes bool // WriteAt may be called
	unused bool // Close was called
	look   bool // at a file that is mapped already: a copy of its bytes
}

// stat returns what the system says of f.
func (d *FS) stat(f *Inode) dir.Stat {
	return dir.Stat{ID: d.told(f.ID), Links: uint64(f.names())}
}

// told returns what the system says of an id.
func (d *FS) told(id uint64) uint64 {
	if d.NoIDs {
		return 0
	}
	return id
}

// lookAt maps f once more, for reading. REQUIRES: d.mu held.
func (d *FS) lookAt(name string, f *Inode) dir.File {
	d.Mappings++
	return &mapping{d: d, file: f, mem: slices.Clone(f.Current), name: name, look: true,
		st: d.stat(f)}
}

// mapFile maps f. REQUIRES: d.mu held.
func (d *FS) mapFile(name string, f *Inode) *mapping {
	if f.isMapped() {
		panic("shadow: the store maps a file twice")
	}
	f.change(0, 1)
	d.Mappings++
	return &mapping{d: d, file: f, mem: f.Current, name: name, st: d.stat(f)}
}

// Stat is the method of dir.File.
func (m *mapping) Stat() dir.Stat { return m.st }

// Bytes is the method of dir.File.
func (m *mapping) Bytes() []byte { return m.mem }

// Rename is the method of dir.File.
func (m *mapping) Rename(to string) error {
	err := m.d.Rename(m.name, to)
	if err == nil {
		m.name = to
	}
	return err
}

// Sync is the method of dir.File.
func (m *mapping) Sync(head, tail int) error {
	size := len(m.file.Current)
	skipped, err := m.d.enter(CallSync, "")
	if err != nil {
		m.d.Mu.Lock()
		defer m.d.Mu.Unlock()
		if tail >= size {
			size = head
		}
		m.file.FailSync(0, size) // what lies between too
		return err
	}
	defer m.d.Mu.Unlock()
	if m.d.Files[m.name] != m.file { // which the real one looks for, to see how long it is
		return &fs.PathError{Op: "stat", Path: m.name, Err: fs.ErrNotExist}
	}
	if !skipped { // what lies between was not asked for
		m.file.sync(0, head)
		m.file.sync(tail, size)
	}
	return nil
}

// PrepareEnds is the method of dir.File.
func (m *mapping) PrepareEnds() {}

// Writes is the method of dir.File.
func (m *mapping) Writes() bool { return m.writes }

// WriteAt is the method of dir.File. The pages of its first half are written before [FS.Before] is called, and before
// it fails: a system call is cut off between two pages, and not within one.
func (m *mapping) WriteAt(offset int, first, then []byte) error {
	if !m.writes {
		panic("shadow: a write to a file of which it was said that there would be none")
	}
	to := m.mem[offset : offset+len(first)+len(then)]
	write := func(to []byte) { copy(to[copy(to, first):], then) }
	m.d.Mu.Lock()
	if !m.d.frozen {
		middle := offset + len(to)/2
		write(to[:max(0, middle-middle%vm.PageSize-offset)])
	}
	m.d.Mu.Unlock()
	if _, err := m.d.enter(CallWrite, m.name); err != nil {
		return err
	}
	defer m.d.Mu.Unlock()
	write(to)
	return nil
}

// BeginSync is the method of dir.File. What a disk has written by itself is for the power losses of tests to say.
func (m *mapping) BeginSync(from, to int) error {
	if !m.writes || from < 0 || from >= to || to > len(m.mem) {
		panic("shadow: nothing is written to this part of a file")
	}
	if _, err := m.d.enter(CallBeginSync, m.name); err != nil {
		return err
	}
	defer m.d.Mu.Unlock()
	m.d.Begun.Add(int64(to - from))
	return nil
}

// EndWrites is the method of dir.File.
func (m *mapping) EndWrites() { m.writes = false }

// Rewrite is the method of dir.File.
func (m *mapping) Rewrite(from, to int) {
	m.d.Mu.Lock()
	defer m.d.Mu.Unlock()
	for at := from - from%SectorSize; at < to; at += SectorSize {
		delete(m.file.lost, at/SectorSize)
	}
}

var rubbish = bytes.Repeat([]byte{0xdb}, vm.PageSize)

// Close is the method of dir.File. It makes the old mapping unusable, also when it fails: a late reader
// meets rubbish. After an error only [FS.Mappings] still counts it, until a Close that succeeds.
func (m *mapping) Close() error {
	_, err := m.d.enter(CallClose, "")
	if err != nil {
		m.d.Mu.Lock()
	}
	defer m.d.Mu.Unlock()
	if !m.unused {
		m.unused = true
		if !m.look {
			m.file.Current = slices.Clone(m.mem)
		}
		for rest := m.mem; len(rest) > 0; {
			rest = rest[copy(rest, rubbish):]
		}
		if !m.look {
			m.file.change(0, -1)
		}
	}
	if err == nil {
		m.d.Mappings--
	}
	return err
}

// Evict makes the cache drop what a failed sync left clean: a sector for which gone returns true is again
// what the disk has. No file may be mapped.
func (d *FS) Evict(gone func() bool) (evicted int) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		f := d.Files[name]
		for _, number := range slices.Sorted(maps.Keys(f.lost)) {
			at := number * SectorSize
			sector := f.Current[at:min(at+SectorSize, len(f.Current))]
			if !equalShared(sector, f.lost[number]) || !gone() {
				continue
			}
			clear(sector)
			copy(sector, f.Durable[min(at, len(f.Durable)):])
			delete(f.lost, number)
			evicted++
		}
	}
	return evicted
}
