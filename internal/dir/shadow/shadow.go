//go:build unix

// Package shadow is a directory in memory that knows what a power loss would leave of it: a test double
// of package dir. It knows nothing of what is in the files.
package shadow

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
The shadow promises what POSIX promises and not more:

	bytes   A file has current bytes, which the mapping is, and durable ones. A sync makes its range
	        durable; until then each sector of 512 bytes may be on the disk or not. The size of a
	        file is durable with the first sync of the file; until then any part of it may be there.
	names   Creations, links, renames and removals wait in a journal for a sync of the directory; until
	        then each of them may have happened or not, whatever came before or after it.
	space   Files take whole pages, and names blocks of the directory (names.go). A file takes that of the directory
	        that made it, until the last of its names is gone.
	lack    While the process has no descriptors every call that opens something fails, and does nothing
	        else: a sync by name too, after which nothing counts as clean.
	failed  After a failed sync the dirty sectors count as clean, and later syncs leave them out, until
	        they are written again. Until then the cache may drop them.

Crash makes the directory that may be found after a power loss, Remount the one after a file system
has lost its cache and the machine went on, and Kill the one found after the process
has ended. StartCopy copies the files one by one, as cp -a does beside a process that uses them. One
place that syncs can be made to do nothing instead, a call can fail, and the disk can be full.
*/

// dirOperation is one entry of the journal.
type dirOperation struct {
	kind     Kind // CallCreate, CallRename or CallRemove
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

// FS is a directory, a dir.FS. The exported fields are set before it is used, or while nobody uses it.
type FS struct {
	Boot   [16]byte
	Mount  uint64
	ID     uint64 // of the directory
	NoIDs  bool   // nobody is told an id, as where the system has none
	Sites  *Sites
	Before func(Site)                         // a call that changes or syncs is about to begin
	Fault  func(kind Kind, name string) error // an error instead of the call

	NoDescriptors atomic.Bool  // the process has none; set at any time
	Begun         atomic.Int64 // bytes that files were asked to begin to sync

	Mu       sync.Mutex
	Files    map[string]*Inode
	durable  map[string]*Inode
	journal  []dirOperation
	Mappings int
	Used     int64 // bytes; changed with sharedMu held
	Budget   int64 // bytes; 0 for no bound

	NamesPerBlock int         // how many names a block of the directory holds; 0: names take no space
	blocks        []nameBlock // in the order of their hashes

	unnamed bool // its own name, which somebody else has made, is not durable
	frozen  bool // the machine is gone
	removed bool // the directory is
}

// sharedMu guards what directories that have the same files share: FS.Used, since who removes the last name of a file
// may not be who made it, and of a file how many names and mappings it has. A leaf.
var sharedMu sync.Mutex

// ids numbers directories and files: no copy has the number of what it was made from.
var ids atomic.Uint64

// newInode returns a file of d under no name yet, of which nothing is durable.
func (d *FS) newInode(current []byte) *Inode {
	return &Inode{Current: current, ID: ids.Add(1), links: 1, maker: d}
}

// New returns an empty directory; forwarders are those of [NewSites].
func New(forwarders ...string) *FS {
	return &FS{
		Mount:   1,
		ID:      ids.Add(1),
		Boot:    [16]byte{1},
		Sites:   NewSites(forwarders...),
		Files:   map[string]*Inode{},
		durable: map[string]*Inode{},
		blocks:  []nameBlock{{names: map[string]bool{}}},
	}
}

// enter begins a call. Unless err is set, d.mu is held on return.
func (d *FS) enter(kind Kind, name string) (skipped bool, err error) {
	site := Site{kind, d.Sites.caller()}
	skipped = d.Sites.note(site)
	if d.Before != nil && kind != CallNames && kind != CallOpen && kind != CallReadFile && kind != CallClose {
		d.Before(site)
	}
	if d.NoDescriptors.Load() && kind.opens() {
		return false, unbegun(kind, syscall.EMFILE)
	}
	if d.Fault != nil {
		if err := d.Fault(kind, name); err != nil {
			return false, unbegun(kind, err)
		}
	}
	d.Mu.Lock()
	if d.frozen {
		d.Mu.Unlock()
		return false, syscall.EIO
	}
	return skipped, nil
}

// unbegun returns err as a call of kind returns it: a sync that could not open what it syncs has done nothing.
func unbegun(kind Kind, err error) error {
	if kind == CallSyncFile && dir.IsLack(err) {
		return fmt.Errorf("%w: %w", dir.ErrUnsynced, err)
	}
	return err
}

// Names is the method of dir.FS.
func (d *FS) Names() ([]string, error) {
	if _, err := d.enter(CallNames, ""); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	return slices.Sorted(maps.Keys(d.Files)), nil
}

// take accounts for the space of a file that grows or shrinks.
func (d *FS) take(before, after int) error {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	return d.takeLocked(before, after)
}

// takeLocked is take. REQUIRES: sharedMu held.
func (d *FS) takeLocked(before, after int) error {
	delta := int64(vm.RoundUp(after, vm.PageSize) - vm.RoundUp(before, vm.PageSize))
	if d.Budget > 0 && delta > 0 && d.Used+delta > d.Budget {
		return syscall.ENOSPC
	}
	d.Used += delta
	return nil
}

// charge accounts for the space of f, whether or not there is any.
func (d *FS) charge(f *Inode) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	d.Used += int64(vm.RoundUp(len(f.Current), vm.PageSize))
}

// log applies a change of names. REQUIRES: d.mu held.
func (d *FS) log(op dirOperation) {
	op.apply(d.Files)
	d.noteNames(op)
	d.journal = append(d.journal, op)
}

// Create is the method of dir.FS.
func (d *FS) Create(name string, size int) (dir.File, error) {
	if _, err := d.enter(CallCreate, name); err != nil {
		return nil, err
	}
	defer d.Mu.Unlock()
	if d.removed {
		return nil, d.missing("create", name)
	}
	if d.Files[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: os.ErrExist}
	}
	if err := d.makeRoomForName(name); err != nil {
		return nil, err
	}
	if err := d.take(0, size); err != nil {
		return nil, err
	}
	f := d.newInode(make([]byte, size))
	d.log(dirOperation{kind: CallCreate, name: name, file: f})
	m := d.mapFile(name, f)
	m.writes = true
	return m, nil
}

func (d *FS) missing(call, name string) error {
	return &fs.PathError{Op: call, Path: name, Err: os.ErrNotExist}
}

// Open is the method of dir.FS.
func (d *FS) Open(name string, writable bool) (dir.File, error) {
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
	case f.isMapped() && !writable:
		return d.lookAt(name, f), nil
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
	if f == nil && d.removed {
		return d.missing("create", name)
	}
	if f == nil {
		if err := d.makeRoomForName(name); err != nil {
			return err
		}
		f = d.newInode(nil)
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
	if errors.Is(err, dir.ErrUnsynced) {
		return err
	}
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
	if err := d.makeRoomForName(to); err != nil {
		return err
	}
	if old := d.Files[to]; old != nil {
		old.change(-1, 0)
	}
	d.log(dirOperation{kind: CallRename, name: from, to: to, file: f})
	return nil
}

// Link is the method of dir.FS. Directories that share a file crash each on its own.
func (d *FS) Link(name string, to dir.FS) error {
	other, ok := to.(*FS)
	if !ok || other == d {
		return errors.ErrUnsupported
	}
	if _, err := d.enter(CallLink, name); err != nil {
		return err
	}
	defer d.Mu.Unlock()
	other.Mu.Lock()
	defer other.Mu.Unlock()
	f := d.Files[name]
	switch {
	case f == nil:
		return d.missing("link", name)
	case other.frozen:
		return syscall.EIO
	case other.removed:
		return other.missing("link", name)
	case other.Files[name] != nil:
		return &fs.PathError{Op: "link", Path: name, Err: os.ErrExist}
	}
	f.linkTo()
	other.log(dirOperation{kind: CallCreate, name: name, file: f})
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
	f.change(-1, 0)
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

// SyncName is the method of dir.FS: the name of the directory is durable.
func (d *FS) SyncName() error {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	d.unnamed = false
	return nil
}

// Stat is the method of dir.FS.
func (d *FS) Stat() (dir.Stat, error) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	return dir.Stat{ID: d.told(d.ID), Links: 1, Mount: d.Mount}, nil
}

// StatFile is the method of dir.FS.
func (d *FS) StatFile(name string) (dir.Stat, error) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	f := d.Files[name]
	if f == nil {
		return dir.Stat{}, d.missing("stat", name)
	}
	return d.stat(f), nil
}

// Present is the method of dir.FS.
func (d *FS) Present() error {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	switch {
	case d.frozen:
		return syscall.EIO
	case d.removed:
		return d.missing("stat", "")
	}
	return nil
}

// Available is the method of dir.FS.
func (d *FS) Available() (bytes int64, known bool) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	if d.Budget == 0 {
		return math.MaxInt64, true
	}
	sharedMu.Lock()
	defer sharedMu.Unlock()
	return d.Budget - d.Used, true
}

// AtPath is the method of dir.FS: a shadow has no path.
func (d *FS) AtPath() error { return nil }

// RemoveAll removes the directory with everything in it, as rm -r does under a process that uses it. What is
// mapped stays mapped, and no file can be made.
func (d *FS) RemoveAll() {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		f := d.Files[name]
		d.log(dirOperation{kind: CallRemove, name: name, file: f})
		f.change(-1, 0)
	}
	d.removed = true
}
