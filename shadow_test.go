//go:build unix

package warmtier

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
	"testing"

	"github.com/stretchr/testify/require"
)

/*
The shadow is a directory in memory that knows what a power loss would leave of it. It promises what
POSIX promises and not more:

	bytes   A file has current bytes, which the mapping is, and durable ones. A sync makes its range
	        durable; until then each sector of 512 bytes may be on the disk or not. The size of a
	        file is durable with the first sync of the file; until then any part of it may be there.
	names   Creations, renames and removals wait in a journal for a sync of the directory; until
	        then each of them may have happened or not, whatever came before or after it.
	failed  After a failed sync the dirty sectors count as clean, and later syncs leave them out, until
	        they are written again. Meanwhile the cache may drop them.

crash makes the directory that may be found after a power loss, kill that which is found after the
process has ended. One call site of the store can be made to do nothing instead of its sync, a call
can fail, and the disk can be full.
*/

const shadowSector = 512 // bytes a disk writes as a whole

// callKind names a method of fileSystem or mappedFile.
type callKind string

const (
	callNames     callKind = "names"
	callCreate    callKind = "create"
	callOpen      callKind = "open"
	callReadFile  callKind = "readFile"
	callWriteFile callKind = "writeFile"
	callSyncFile  callKind = "syncFile"
	callRename    callKind = "rename"
	callRemove    callKind = "remove"
	callSyncDir   callKind = "syncDir"
	callSync      callKind = "sync"
	callClose     callKind = "close"
)

// callSite is a place in the store that calls the file system: kind, function and line.
type callSite struct {
	kind callKind
	at   string
}

func (c callSite) syncs() bool {
	return c.kind == callSync || c.kind == callSyncFile || c.kind == callSyncDir
}

// shadowSites is shared by a shadow and everything made from it.
type shadowSites struct {
	skip callSite // its syncs do nothing; set before the first call

	mu     sync.Mutex
	seen   map[callSite]int
	recent int // calls for which a skipped one counts as recent
}

func (sites *shadowSites) note(c callSite) (skipped bool) {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	sites.seen[c]++
	sites.recent--
	if c == sites.skip {
		sites.recent = 8
	}
	return c == sites.skip
}

// tempting says that a sync was left out a moment ago: a crash would be revealing.
func (sites *shadowSites) tempting() bool {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	return sites.recent > 0
}

// shadowFile is an inode.
type shadowFile struct {
	current  []byte
	durable  []byte
	lost     map[int][]byte // sectors that a failed sync left out, as they were then
	mappings int
	links    int
}

// dirOperation is one entry of the journal.
type dirOperation struct {
	kind     callKind // callCreate, callRename or callRemove
	name, to string
	file     *shadowFile
}

func (op dirOperation) apply(names map[string]*shadowFile) {
	if op.kind != callCreate && names[op.name] == op.file {
		delete(names, op.name)
	}
	switch op.kind {
	case callCreate:
		names[op.name] = op.file
	case callRename:
		names[op.to] = op.file
	}
}

// shadowFS is a fileSystem. The function fields are set before it is used.
type shadowFS struct {
	boot   [16]byte
	sites  *shadowSites
	before func(callSite)                         // a call that changes or syncs is about to begin
	fault  func(kind callKind, name string) error // an error instead of the call

	mu       sync.Mutex
	files    map[string]*shadowFile
	durable  map[string]*shadowFile
	journal  []dirOperation
	mappings int
	used     int64 // bytes
	budget   int64 // bytes; 0 for no bound
	frozen   bool  // the machine is gone
}

func newShadow() *shadowFS {
	return &shadowFS{
		boot:    [16]byte{1},
		sites:   &shadowSites{seen: map[callSite]int{}},
		files:   map[string]*shadowFile{},
		durable: map[string]*shadowFile{},
	}
}

// enter begins a call. Unless err is set, d.mu is held on return.
func (d *shadowFS) enter(kind callKind, name string) (skipped bool, err error) {
	site := callSite{kind, caller()}
	skipped = d.sites.note(site)
	if d.before != nil && kind != callNames && kind != callOpen && kind != callReadFile && kind != callClose {
		d.before(site)
	}
	if d.fault != nil {
		if err := d.fault(kind, name); err != nil {
			return false, err
		}
	}
	d.mu.Lock()
	if d.frozen {
		d.mu.Unlock()
		return false, syscall.EIO
	}
	return skipped, nil
}

// caller is the function and line of the store's code that called the file system.
func caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		if !strings.HasSuffix(f.File, "_test.go") || !more {
			function := f.Function[strings.LastIndex(f.Function, "/")+1:]
			return fmt.Sprintf("%s (%s:%d)", function, filepath.Base(f.File), f.Line)
		}
	}
}

func (d *shadowFS) names() ([]string, error) {
	if _, err := d.enter(callNames, ""); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.files)), nil
}

// take accounts for the space of a file that grows or shrinks. REQUIRES: d.mu held.
func (d *shadowFS) take(before, after int) error {
	delta := int64(roundUp(after, pageSize) - roundUp(before, pageSize))
	if d.budget > 0 && delta > 0 && d.used+delta > d.budget {
		return noSpace(syscall.ENOSPC)
	}
	d.used += delta
	return nil
}

// unlinked gives the space of a file back that nobody can reach. REQUIRES: d.mu held.
func (d *shadowFS) unlinked(f *shadowFile) {
	if f.links == 0 && f.mappings == 0 {
		_ = d.take(len(f.current), 0) // less, never more
	}
}

// log applies a change of names. REQUIRES: d.mu held.
func (d *shadowFS) log(op dirOperation) {
	op.apply(d.files)
	d.journal = append(d.journal, op)
}

func (d *shadowFS) create(name string, size int) (mappedFile, error) {
	if _, err := d.enter(callCreate, name); err != nil {
		return nil, noSpace(err)
	}
	defer d.mu.Unlock()
	if d.files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: os.ErrExist}
	}
	if err := d.take(0, size); err != nil {
		return nil, err
	}
	f := &shadowFile{current: make([]byte, size), links: 1}
	d.log(dirOperation{kind: callCreate, name: name, file: f})
	return d.mapShadow(name, f), nil
}

func (d *shadowFS) missing(call, name string) error {
	return &fs.PathError{Op: call, Path: name, Err: os.ErrNotExist}
}

func (d *shadowFS) open(name string, _ bool) (mappedFile, error) {
	if _, err := d.enter(callOpen, name); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	f := d.files[name]
	switch {
	case f == nil:
		return nil, d.missing("open", name)
	case len(f.current) == 0:
		return emptyFile{}, nil
	}
	return d.mapShadow(name, f), nil
}

func (d *shadowFS) readFile(name string) ([]byte, error) {
	if _, err := d.enter(callReadFile, name); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return nil, d.missing("read", name)
	}
	return slices.Clone(f.current), nil
}

func (d *shadowFS) writeFile(name string, data []byte) error {
	if _, err := d.enter(callWriteFile, name); err != nil {
		return noSpace(err)
	}
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		f = &shadowFile{links: 1}
		d.log(dirOperation{kind: callCreate, name: name, file: f})
	}
	// As on a real disk, a file that does not fit is there, and empty.
	_ = d.take(len(f.current), 0)
	f.current, f.lost = nil, nil
	if err := d.take(0, len(data)); err != nil {
		return err
	}
	f.current = slices.Clone(data)
	return nil
}

func (d *shadowFS) syncFile(name string) error {
	skipped, err := d.enter(callSyncFile, name)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if f := d.files[name]; f != nil {
			f.failSync(0, len(f.current))
		}
		return err
	}
	defer d.mu.Unlock()
	f := d.files[name]
	switch {
	case f == nil:
		return d.missing("sync", name)
	case !skipped:
		f.sync(0, len(f.current))
	}
	return nil
}

func (d *shadowFS) rename(from, to string) error {
	if _, err := d.enter(callRename, from); err != nil {
		return err
	}
	defer d.mu.Unlock()
	f := d.files[from]
	if f == nil {
		return d.missing("rename", from)
	}
	if old := d.files[to]; old != nil {
		old.links--
		defer d.unlinked(old)
	}
	d.log(dirOperation{kind: callRename, name: from, to: to, file: f})
	return nil
}

func (d *shadowFS) remove(name string) error {
	if _, err := d.enter(callRemove, name); err != nil {
		return err
	}
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return d.missing("remove", name)
	}
	d.log(dirOperation{kind: callRemove, name: name, file: f})
	f.links--
	d.unlinked(f)
	return nil
}

func (d *shadowFS) syncDir() error {
	skipped, err := d.enter(callSyncDir, "")
	if err != nil {
		return err
	}
	defer d.mu.Unlock()
	if !skipped {
		d.durable = maps.Clone(d.files)
		d.journal = nil
	}
	return nil
}

// sync makes a range durable, whole sectors of it. REQUIRES: the shadow's mu held.
func (f *shadowFile) sync(from, to int) {
	f.durable = resized(f.durable, len(f.current))
	from -= from % shadowSector
	for at := from; at < to; at += shadowSector {
		now := f.current[at:min(at+shadowSector, len(f.current))]
		if was, ok := f.lost[at/shadowSector]; ok {
			if equalShared(was, now) {
				continue
			}
			delete(f.lost, at/shadowSector)
		}
		copyShared(f.durable[at:], now)
	}
}

// failSync is a sync that fails: the dirty sectors of the range are clean afterwards.
func (f *shadowFile) failSync(from, to int) {
	if f.lost == nil {
		f.lost = map[int][]byte{}
	}
	for at := from - from%shadowSector; at < to; at += shadowSector {
		now := make([]byte, min(shadowSector, len(f.current)-at))
		copyShared(now, f.current[at:])
		if at+len(now) > len(f.durable) || !equalShared(now, f.durable[at:at+len(now)]) {
			f.lost[at/shadowSector] = now
		}
	}
}

// evict makes the cache drop what a failed sync left clean: a sector for which gone says so is again what the
// disk has. REQUIRES: no file is mapped.
func (d *shadowFS) evict(gone func() bool) (evicted int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		f := d.files[name]
		for _, number := range slices.Sorted(maps.Keys(f.lost)) {
			at := number * shadowSector
			sector := f.current[at:min(at+shadowSector, len(f.current))]
			if !equalShared(sector, f.lost[number]) || !gone() {
				continue
			}
			clear(sector)
			copy(sector, f.durable[min(at, len(f.durable)):])
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
	if !raceEnabled {
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

// shadowMapping is a mapped file.
type shadowMapping struct {
	d    *shadowFS
	file *shadowFile
	mem  []byte
	name string
}

// mapShadow maps f. REQUIRES: d.mu held.
func (d *shadowFS) mapShadow(name string, f *shadowFile) mappedFile {
	if f.mappings > 0 {
		panic("shadow: the store maps a file twice")
	}
	f.mappings++
	d.mappings++
	return &shadowMapping{d: d, file: f, mem: f.current, name: name}
}

func (m *shadowMapping) bytes() []byte { return m.mem }

func (m *shadowMapping) rename(to string) error {
	err := m.d.rename(m.name, to)
	if err == nil {
		m.name = to
	}
	return err
}

func (m *shadowMapping) sync(from, to int) error {
	skipped, err := m.d.enter(callSync, "")
	if err != nil {
		m.d.mu.Lock()
		defer m.d.mu.Unlock()
		m.file.failSync(from, to)
		return err
	}
	defer m.d.mu.Unlock()
	if !skipped {
		m.file.sync(from, to)
	}
	return nil
}

func (m *shadowMapping) rewrite(from, to int) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	for at := from - from%shadowSector; at < to; at += shadowSector {
		delete(m.file.lost, at/shadowSector)
	}
}

// close makes the old mapping unusable: whoever still reads it meets rubbish. An error leaves the
// file unmapped too: nobody has a use for it.
func (m *shadowMapping) close() error {
	_, err := m.d.enter(callClose, "")
	if err != nil {
		m.d.mu.Lock()
	}
	defer m.d.mu.Unlock()
	m.file.current = slices.Clone(m.mem)
	for i := range m.mem {
		m.mem[i] = 0xdb
	}
	m.file.mappings--
	m.d.mappings--
	m.d.unlinked(m.file)
	return err
}

// loss decides what of a directory survives.
type loss struct {
	sector    func() bool                    // one that was written and not synced is on the disk
	operation func(i, n int) bool            // number i of the n in the journal has happened
	size      func(durable, current int) int // of a file whose size is not durable; nil: the current one
}

// randomLoss draws how much survives, and then what.
func randomLoss(rng *rand.Rand) loss {
	chance := []float64{0, 0.1, 0.5, 1, rng.Float64()}
	sectors, operations := chance[rng.IntN(5)], chance[rng.IntN(5)]
	l := loss{
		sector:    func() bool { return rng.Float64() < sectors },
		operation: func(int, int) bool { return rng.Float64() < operations },
		size:      func(_, current int) int { return current },
	}
	if rng.IntN(3) == 0 { // a file grows as it is written, where nothing reserves space at once
		l.size = func(durable, current int) int {
			return min(durable, current) + rng.IntN(max(durable, current)-min(durable, current)+1)
		}
	}
	switch rng.IntN(4) {
	case 0: // the last one has overtaken all others
		l.operation = func(i, n int) bool { return i == n-1 }
	case 1: // one has been overtaken by all others
		late := rng.Int()
		l.operation = func(i, n int) bool { return i != late%n }
	}
	return l
}

// crash returns the directory as it could be after a power loss at this moment.
func (d *shadowFS) crash(l loss) *shadowFS {
	d.mu.Lock()
	defer d.mu.Unlock()
	names := maps.Clone(d.durable)
	for i, op := range d.journal {
		if l.operation(i, len(d.journal)) {
			op.apply(names)
		}
	}
	after := newShadow()
	after.sites = d.sites
	binary.LittleEndian.PutUint64(after.boot[:], binary.LittleEndian.Uint64(d.boot[:])+1)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		b := names[name].afterCrash(l)
		after.add(name, &shadowFile{current: b, durable: slices.Clone(b), links: 1})
		after.durable[name] = after.files[name]
	}
	return after
}

// add gives a file a name. REQUIRES: nobody else uses d.
func (d *shadowFS) add(name string, f *shadowFile) {
	d.files[name] = f
	d.used += int64(roundUp(len(f.current), pageSize))
}

// afterCrash is what is left of the bytes of a file.
func (f *shadowFile) afterCrash(l loss) []byte {
	size := len(f.durable)
	if len(f.current) != size && l.sector() {
		if l.size == nil {
			size = len(f.current)
		} else {
			size = l.size(size, len(f.current))
		}
	}
	b := make([]byte, size)
	copy(b, f.durable)
	for at := 0; at < min(size, len(f.current)); at += shadowSector {
		end := min(at+shadowSector, size, len(f.current))
		if _, ok := f.lost[at/shadowSector]; !ok && !equalShared(b[at:end], f.current[at:end]) && l.sector() {
			copyShared(b[at:end], f.current[at:end])
		}
	}
	return b
}

// kill returns the directory as it is after the process was killed at this moment. What was not
// durable is not durable yet.
func (d *shadowFS) kill() *shadowFS {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newShadow()
	after.sites, after.boot, after.budget = d.sites, d.boot, d.budget
	clones := map[*shadowFile]*shadowFile{}
	clone := func(f *shadowFile) *shadowFile {
		if clones[f] == nil {
			c := &shadowFile{current: make([]byte, len(f.current)), durable: slices.Clone(f.durable),
				lost: maps.Clone(f.lost), links: f.links}
			copyShared(c.current, f.current)
			clones[f] = c
		}
		return clones[f]
	}
	for name, f := range d.files {
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

// freeze ends the machine: what the store does from here on has no effect.
func (d *shadowFS) freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = true
}

// The shadow itself: what is synced survives, what is not may or may not, sector by sector and name
// by name; a kill loses nothing.
func TestShadow_Crash(t *testing.T) {
	keep, drop := func() bool { return true }, func() bool { return false }
	happened, waits := func(int, int) bool { return true }, func(int, int) bool { return false }
	d := newShadow()
	f, err := d.create("a", 4*shadowSector)
	require.NoError(t, err)
	f.bytes()[0] = 1
	require.Empty(t, d.crash(loss{sector: keep, operation: waits}).files, "no name without a sync of the directory")
	require.Empty(t, d.crash(loss{sector: drop, operation: happened}).files["a"].current,
		"no size without a sync of the file")
	require.NoError(t, d.syncDir())
	require.NoError(t, f.sync(0, 10))
	f.bytes()[0] = 2
	f.bytes()[shadowSector] = 3

	after := d.crash(loss{sector: drop, operation: waits}).files["a"].current
	require.Len(t, after, 4*shadowSector)
	require.Equal(t, []byte{1, 0}, []byte{after[0], after[shadowSector]})
	turn := 0
	second := func() bool { turn++; return turn == 2 }
	after = d.crash(loss{sector: second, operation: waits}).files["a"].current
	require.Equal(t, []byte{1, 3}, []byte{after[0], after[shadowSector]})

	require.NoError(t, d.rename("a", "b"))
	require.Contains(t, d.crash(loss{sector: drop, operation: waits}).files, "a")
	require.NotContains(t, d.crash(loss{sector: drop, operation: waits}).files, "b")
	require.Contains(t, d.crash(loss{sector: drop, operation: happened}).files, "b")
	require.NotContains(t, d.crash(loss{sector: drop, operation: happened}).files, "a")

	killed := d.kill()
	require.Equal(t, byte(3), killed.files["b"].current[shadowSector])
	require.Equal(t, byte(0), killed.crash(loss{sector: drop, operation: happened}).files["b"].current[shadowSector])

	d.fault = func(callKind, string) error { return syscall.EIO }
	require.ErrorIs(t, f.sync(0, 4*shadowSector), syscall.EIO)
	d.fault = nil
	require.NoError(t, f.sync(0, 4*shadowSector))
	require.Equal(t, byte(0), d.crash(loss{sector: keep, operation: happened}).files["b"].current[shadowSector],
		"lost by a failed sync")
	require.NoError(t, f.close())
	require.Zero(t, d.mappings)
}

func (c callSite) String() string { return string(c.kind) + " in " + c.at }
