//go:build unix

// Package shadow is a directory in memory that knows what a power loss would leave of it: a test double
// of package dir. It knows nothing of what is in the files.
package shadow

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
The shadow promises what POSIX promises and not more:

	bytes   A file has current bytes, which the mapping is, and durable ones. A sync makes its range
	        durable; until then each sector of 512 bytes may be on the disk or not. The size of a
	        file is durable with the first sync of the file; until then any part of it may be there.
	names   Creations, renames and removals wait in a journal for a sync of the directory; until
	        then each of them may have happened or not, whatever came before or after it.
	failed  After a failed sync the dirty sectors count as clean, and later syncs leave them out, until
	        they are written again. Until then the cache may drop them.

Crash makes the directory that may be found after a power loss, Kill the one found after the process
has ended. One place that syncs can be made to do nothing instead, a call can fail, and the disk can be
full.
*/

// SectorSize is what a disk writes as a whole, bytes.
const SectorSize = 512

// Kind names a method of dir.FS or dir.File.
type Kind string

// The methods.
const (
	CallNames     Kind = "names"
	CallCreate    Kind = "create"
	CallOpen      Kind = "open"
	CallReadFile  Kind = "readFile"
	CallWriteFile Kind = "writeFile"
	CallSyncFile  Kind = "syncFile"
	CallRename    Kind = "rename"
	CallRemove    Kind = "remove"
	CallSyncDir   Kind = "syncDir"
	CallSync      Kind = "sync"
	CallClose     Kind = "close"
)

// Site is a place in the code under test that calls the file system: kind, function and line.
type Site struct {
	Kind Kind
	At   string
}

// Syncs reports whether the call makes something durable.
func (c Site) Syncs() bool {
	return c.Kind == CallSync || c.Kind == CallSyncFile || c.Kind == CallSyncDir
}

func (c Site) String() string { return string(c.Kind) + " in " + c.At }

// Sites are the places met by a directory and everything made from it.
type Sites struct {
	Skip Site // its syncs do nothing; set before the first call

	forwarders []string

	mu     sync.Mutex
	seen   map[Site]int
	recent int // calls for which a skipped one counts as recent
}

// NewSites returns an empty set. Forwarders are the ends of names of functions that pass calls on: a call
// through one of them counts for its caller.
func NewSites(forwarders ...string) *Sites {
	return &Sites{forwarders: forwarders, seen: map[Site]int{}}
}

// Seen returns how often each place was met.
func (sites *Sites) Seen() map[Site]int {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	return maps.Clone(sites.seen)
}

func (sites *Sites) note(c Site) (skipped bool) {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	sites.seen[c]++
	sites.recent--
	if c == sites.Skip {
		sites.recent = 8
	}
	return c == sites.Skip
}

// Tempting reports whether a sync was left out a moment ago: a crash would be revealing.
func (sites *Sites) Tempting() bool {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	return sites.recent > 0
}

// Inode is a file, under whatever names.
type Inode struct {
	Current  []byte
	Durable  []byte
	lost     map[int][]byte // sectors that a failed sync left out, as they were then
	mappings int
	links    int
}

// dirOperation is one entry of the journal.
type dirOperation struct {
	kind     Kind // callCreate, callRename or callRemove
	name, to string
	file     *Inode
}

func (op dirOperation) apply(names map[string]*Inode) {
	if op.kind != CallCreate && names[op.name] == op.file {
		delete(names, op.name)
	}
	switch op.kind {
	case CallCreate:
		names[op.name] = op.file
	case CallRename:
		names[op.to] = op.file
	}
}

// FS is a dir.FS. The exported fields are set before it is used, or while nobody uses it.
type FS struct {
	Boot   [16]byte
	Sites  *Sites
	Before func(Site)                         // a call that changes or syncs is about to begin
	Fault  func(kind Kind, name string) error // an error instead of the call

	Mu       sync.Mutex
	Files    map[string]*Inode
	durable  map[string]*Inode
	journal  []dirOperation
	Mappings int
	Used     int64 // bytes
	Budget   int64 // bytes; 0 for no bound
	frozen   bool  // the machine is gone
}

// New returns an empty directory; forwarders are those of [NewSites].
func New(forwarders ...string) *FS {
	return &FS{
		Boot:    [16]byte{1},
		Sites:   NewSites(forwarders...),
		Files:   map[string]*Inode{},
		durable: map[string]*Inode{},
	}
}

// enter begins a call. Unless err is set, d.mu is held on return.
func (d *FS) enter(kind Kind, name string) (skipped bool, err error) {
	site := Site{kind, d.Sites.caller()}
	skipped = d.Sites.note(site)
	if d.Before != nil && kind != CallNames && kind != CallOpen && kind != CallReadFile && kind != CallClose {
		d.Before(site)
	}
	if d.Fault != nil {
		if err := d.Fault(kind, name); err != nil {
			return false, err
		}
	}
	d.Mu.Lock()
	if d.frozen {
		d.Mu.Unlock()
		return false, syscall.EIO
	}
	return skipped, nil
}

// caller returns the function and line of the code under test that called the file system.
func (sites *Sites) caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		function := f.Function[strings.LastIndex(f.Function, "/")+1:]
		ours := strings.HasSuffix(f.File, "_test.go") || strings.HasPrefix(function, "shadow.") ||
			slices.ContainsFunc(sites.forwarders, func(name string) bool { return strings.HasSuffix(function, name) })
		if !ours || !more {
			return fmt.Sprintf("%s (%s:%d)", function, filepath.Base(f.File), f.Line)
		}
	}
}

// Names is the method of dir.FS.
func (d *FS) Names() ([]string, error) {
	if _, err := d.enter(CallNames, ""); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	return slices.Sorted(maps.Keys(d.Files)), nil
}

// take accounts for the space of a file that grows or shrinks. REQUIRES: d.mu held.
func (d *FS) take(before, after int) error {
	delta := int64(vm.RoundUp(after, vm.PageSize) - vm.RoundUp(before, vm.PageSize))
	if d.Budget > 0 && delta > 0 && d.Used+delta > d.Budget {
		return syscall.ENOSPC
	}
	d.Used += delta
	return nil
}

// unlinked gives the space of a file back that nobody can reach. REQUIRES: d.mu held.
func (d *FS) unlinked(f *Inode) {
	if f.links == 0 && f.mappings == 0 {
		_ = d.take(len(f.Current), 0) // less, never more
	}
}

// log applies a change of names. REQUIRES: d.mu held.
func (d *FS) log(op dirOperation) {
	op.apply(d.Files)
	d.journal = append(d.journal, op)
}

// Create is the method of dir.FS.
func (d *FS) Create(name string, size int) (dir.File, error) {
	if _, err := d.enter(CallCreate, name); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	if d.Files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: os.ErrExist}
	}
	if err := d.take(0, size); err != nil {
		return nil, err
	}
	f := &Inode{Current: make([]byte, size), links: 1}
	d.log(dirOperation{kind: CallCreate, name: name, file: f})
	return d.mapFile(name, f), nil
}

func (d *FS) missing(call, name string) error {
	return &fs.PathError{Op: call, Path: name, Err: os.ErrNotExist}
}

// Open is the method of dir.FS.
func (d *FS) Open(name string, _ bool) (dir.File, error) {
	if _, err := d.enter(CallOpen, name); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	f := d.Files[name]
	switch {
	case f == nil:
		return nil, d.missing("open", name)
	case len(f.Current) == 0:
		return dir.Empty{}, nil
	}
	return d.mapFile(name, f), nil
}

// ReadFile is the method of dir.FS.
func (d *FS) ReadFile(name string) ([]byte, error) {
	if _, err := d.enter(CallReadFile, name); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	f := d.Files[name]
	if f == nil {
		return nil, d.missing("read", name)
	}
	return slices.Clone(f.Current), nil
}

// WriteFile is the method of dir.FS.
func (d *FS) WriteFile(name string, data []byte) error {
	if _, err := d.enter(CallWriteFile, name); err != nil {
		return err
	}
	defer d.Mu.Unlock()
	f := d.Files[name]
	if f == nil {
		f = &Inode{links: 1}
		d.log(dirOperation{kind: CallCreate, name: name, file: f})
	}
	// As on a real disk, a file that does not fit is there, and empty.
	_ = d.take(len(f.Current), 0)
	f.Current, f.lost = nil, nil
	if err := d.take(0, len(data)); err != nil {
		return err
	}
	f.Current = slices.Clone(data)
	return nil
}

// SyncFile is the method of dir.FS.
func (d *FS) SyncFile(name string) error {
	skipped, err := d.enter(CallSyncFile, name)
	if err != nil {
		d.Mu.Lock()
		defer d.Mu.Unlock()
		if f := d.Files[name]; f != nil {
			f.FailSync(0, len(f.Current))
		}
		return err
	}
	defer d.Mu.Unlock()
	f := d.Files[name]
	switch {
	case f == nil:
		return d.missing("sync", name)
	case !skipped:
		f.sync(0, len(f.Current))
	}
	return nil
}

// Rename is the method of dir.FS.
func (d *FS) Rename(from, to string) error {
	if _, err := d.enter(CallRename, from); err != nil {
		return err
	}
	defer d.Mu.Unlock()
	f := d.Files[from]
	if f == nil {
		return d.missing("rename", from)
	}
	if old := d.Files[to]; old != nil {
		old.links--
		defer d.unlinked(old)
	}
	d.log(dirOperation{kind: CallRename, name: from, to: to, file: f})
	return nil
}

// Remove is the method of dir.FS.
func (d *FS) Remove(name string) error {
	if _, err := d.enter(CallRemove, name); err != nil {
		return err
	}
	defer d.Mu.Unlock()
	f := d.Files[name]
	if f == nil {
		return d.missing("remove", name)
	}
	d.log(dirOperation{kind: CallRemove, name: name, file: f})
	f.links--
	d.unlinked(f)
	return nil
}

// Sync is the method of dir.FS.
func (d *FS) Sync() error {
	skipped, err := d.enter(CallSyncDir, "")
	if err != nil {
		return err
	}
	defer d.Mu.Unlock()
	if !skipped {
		d.durable = maps.Clone(d.Files)
		d.journal = nil
	}
	return nil
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
}

// mapFile maps f. REQUIRES: d.mu held.
func (d *FS) mapFile(name string, f *Inode) dir.File {
	if f.mappings > 0 {
		panic("shadow: the store maps a file twice")
	}
	f.mappings++
	d.Mappings++
	return &mapping{d: d, file: f, mem: f.Current, name: name}
}

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
func (m *mapping) Sync(from, to int) error {
	skipped, err := m.d.enter(CallSync, "")
	if err != nil {
		m.d.Mu.Lock()
		defer m.d.Mu.Unlock()
		m.file.FailSync(from, to)
		return err
	}
	defer m.d.Mu.Unlock()
	if !skipped {
		m.file.sync(from, to)
	}
	return nil
}

// Rewrite is the method of dir.File.
func (m *mapping) Rewrite(from, to int) {
	m.d.Mu.Lock()
	defer m.d.Mu.Unlock()
	for at := from - from%SectorSize; at < to; at += SectorSize {
		delete(m.file.lost, at/SectorSize)
	}
}

// Close is the method of dir.File. It makes the old mapping unusable: a late reader meets rubbish. An
// error leaves the file unmapped too: nobody has a use for it.
func (m *mapping) Close() error {
	_, err := m.d.enter(CallClose, "")
	if err != nil {
		m.d.Mu.Lock()
	}
	defer m.d.Mu.Unlock()
	m.file.Current = slices.Clone(m.mem)
	for i := range m.mem {
		m.mem[i] = 0xdb
	}
	m.file.mappings--
	m.d.Mappings--
	m.d.unlinked(m.file)
	return err
}

// Loss decides what of a directory survives.
type Loss struct {
	Sector    func() bool                    // one that was written and not synced is on the disk
	Operation func(i, n int) bool            // number i of the n in the journal has happened
	Size      func(durable, current int) int // of a file whose size is not durable; nil: the current one
}

// RandomLoss draws how much survives, and then what.
func RandomLoss(rng *rand.Rand) Loss {
	chance := []float64{0, 0.1, 0.5, 1, rng.Float64()}
	sectors, operations := chance[rng.IntN(5)], chance[rng.IntN(5)]
	l := Loss{
		Sector:    func() bool { return rng.Float64() < sectors },
		Operation: func(int, int) bool { return rng.Float64() < operations },
		Size:      func(_, current int) int { return current },
	}
	if rng.IntN(3) == 0 { // a file grows as it is written, where nothing reserves space at once
		l.Size = func(durable, current int) int {
			return min(durable, current) + rng.IntN(max(durable, current)-min(durable, current)+1)
		}
	}
	switch rng.IntN(4) {
	case 0: // the last one has overtaken all others
		l.Operation = func(i, n int) bool { return i == n-1 }
	case 1: // one has been overtaken by all others
		late := rng.Int()
		l.Operation = func(i, n int) bool { return i != late%n }
	}
	return l
}

// Crash returns the directory as it could be after a power loss at this moment.
func (d *FS) Crash(l Loss) *FS {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	names := maps.Clone(d.durable)
	for i, op := range d.journal {
		if l.Operation(i, len(d.journal)) {
			op.apply(names)
		}
	}
	after := New()
	after.Sites = d.Sites
	binary.LittleEndian.PutUint64(after.Boot[:], binary.LittleEndian.Uint64(d.Boot[:])+1)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b := names[name].afterCrash(l)
		after.add(name, &Inode{Current: b, Durable: slices.Clone(b), links: 1})
		after.durable[name] = after.Files[name]
	}
	return after
}

// add gives a file a name. REQUIRES: nobody else uses d.
func (d *FS) add(name string, f *Inode) {
	d.Files[name] = f
	d.Used += int64(vm.RoundUp(len(f.Current), vm.PageSize))
}

// afterCrash is what is left of the bytes of a file.
func (f *Inode) afterCrash(l Loss) []byte {
	size := len(f.Durable)
	if len(f.Current) != size && l.Sector() {
		if l.Size == nil {
			size = len(f.Current)
		} else {
			size = l.Size(size, len(f.Current))
		}
	}
	b := make([]byte, size)
	copy(b, f.Durable)
	for at := 0; at < min(size, len(f.Current)); at += SectorSize {
		end := min(at+SectorSize, size, len(f.Current))
		if _, ok := f.lost[at/SectorSize]; !ok && !equalShared(b[at:end], f.Current[at:end]) && l.Sector() {
			copyShared(b[at:end], f.Current[at:end])
		}
	}
	return b
}

// Kill returns the directory as it is after the process was killed at this moment. What was not durable
// is not durable yet.
func (d *FS) Kill() *FS {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	after := New()
	after.Sites, after.Boot, after.Budget = d.Sites, d.Boot, d.Budget
	clones := map[*Inode]*Inode{}
	clone := func(f *Inode) *Inode {
		if clones[f] == nil {
			c := &Inode{Current: make([]byte, len(f.Current)), Durable: slices.Clone(f.Durable),
				lost: maps.Clone(f.lost), links: f.links}
			copyShared(c.Current, f.Current)
			clones[f] = c
		}
		return clones[f]
	}
	for name, f := range d.Files {
		after.add(name, clone(f))
	}
	for name, f := range d.durable {
		after.durable[name] = clone(f)
	}
	for _, op := range d.journal {
		op.file = clone(op.file)
		after.journal = append(after.journal, op)
	}
	return after
}

// Freeze ends the machine: calls from here on fail, and have no effect.
func (d *FS) Freeze() {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	d.frozen = true
}
