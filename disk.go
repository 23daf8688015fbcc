package warmtier

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
What a directory store does beyond a memory store, so that what it acknowledged survives

	a kill        A record is in the page cache before Put returns, and the page cache outlives the
	              process. Its checksum is written last: a record that was not finished has none.
	a power loss  Sync flushes segments, then the directory, then the manifest that lists new
	              segments; only then is what came before it durable. How much of a segment is
	              durable is written into its header (fileState), so that damage there is told from
	              a torn tail.
	a compaction  Everything is flushed, targets too. Then one rename puts a manifest in force that
	              has the targets and not the victims. Before it the victims count, after it the
	              targets do; both hold the same bytes. Then the victims leave the table, and their
	              files are removed.

The first flush that fails is final: the kernel may have dropped the pages it could not write and
marked them clean, and a later flush that succeeds would say nothing about them (Rebello et al.,
"Can Applications Recover from fsync Failures?", USENIX ATC '20).
*/

// disk is the medium of a store in the files of a directory.
type disk struct {
	s     *Store
	fs    dir.FS
	leave func() error // releases the directory and its lock
	store layout.StoreID
	boot  [16]byte // what manifests say of the page cache: see bootID
	open  uint64   // number of this Open, drawn at random: which files were made by it
	key   sip.Key  // of the hash
	hint  func()   // leaves the hint for the next Open; given by recovery, which reads it

	mappedFiles
	spares spares
	group  groupCommit

	checkpointing chan struct{} // has the token of the checkpoint under way

	manifestMu sync.Mutex      // one manifest is written at a time
	listed     map[uint64]bool // segments in the newest manifest; guarded by manifestMu
	generation uint64          // of the newest manifest that may be in force; guarded by manifestMu
	directory  uint64          // id of the directory, 0 when unknown; constant
	trueHint   uint64          // manifests say that the hint of this Open is true; 0: none is

	inForce atomic.Uint64 // generation of the newest manifest that is
}

// useFiles makes s the store in files, which recovery has yet to read. hint is called at the end of
// a clean Close, to leave the hint, and leave after any.
func (s *Store) useFiles(files dir.FS, leave func() error, hint func()) {
	d := &disk{s: s, fs: spaceErrors{files}, leave: leave, open: randomNumber(), hint: hint}
	d.checkpointing = make(chan struct{}, 1)
	d.files = map[*byte]mappedFile{}
	d.spares.kept, d.spares.size = make([]int, laneSpares+len(s.lanes)), minSegmentSize
	d.group.changed = sync.NewCond(&d.group.mu)
	s.mapper.limit = 0 // what is there is opened, however much it is: see limitMappings
	s.disk, s.medium = d, d
	d.boot = s.bootID()
	if s.opts.ReadOnly {
		s.medium = readOnlyDisk{d}
	}
}

// readOnlyDisk is a disk that is only read: it has nothing to sync, and Close leaves everything as
// it is.
type readOnlyDisk struct{ *disk }

func (readOnlyDisk) syncs() bool { return false }

func (readOnlyDisk) sync() error { return nil }

func (readOnlyDisk) syncWrite() error { return nil }

func (readOnlyDisk) unsynced(*segment) int64 { return 0 }

func (readOnlyDisk) finish() error { return nil }

// claimDirectory makes the directory at path, unless it is there, opens and locks it. From then on the
// path means nothing: it may lead elsewhere.
func (s *Store) claimDirectory(path string) (*dir.OS, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := dir.Prepare(abs, layout.ManifestName, s.opts.ReadOnly, dir.SyncPath); err != nil {
		return nil, err
	}
	d, err := dir.At(abs)
	if err != nil {
		return nil, err
	}
	err = d.Lock(layout.LockName, s.opts.ReadOnly)
	if held, ok := errors.AsType[*dir.LockedError](err); ok {
		err = fmt.Errorf("%w: %w", ErrLocked, held)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *disk) finish() error {
	d.s.sealLanes(0)
	_ = d.s.hooks.fire(pointCloseSealed)
	if err := d.sync(); err != nil {
		return err
	}
	_ = d.s.hooks.fire(pointCloseFlushed)
	d.s.noteAllDead()
	if _, err := d.s.sweep(); errors.Is(err, ErrSyncFailed) {
		return err
	} else if err != nil {
		d.s.warn("dead segments could not be given back", err)
	}
	if err := d.flushStates(); err != nil {
		return err
	}
	if err := d.closeManifest(); err != nil {
		return err
	}
	d.hint()
	_ = d.s.hooks.fire(pointCloseHinted)
	return nil
}

// flushStates makes durable what flushes wrote into headers.
func (d *disk) flushStates() error {
	for _, seg := range d.s.segments.all() {
		if !seg.inFile.stateUnsynced.Load() {
			continue
		}
		if err := seg.syncHeader(); err != nil {
			return d.s.failSync(fmt.Errorf("%s: %w", seg.name(), err))
		}
	}
	return nil
}

// close leaves the directory to others.
func (d *disk) close() error {
	if d.leave == nil {
		return nil
	}
	return d.leave()
}

// spaceErrors turns the error of a full disk, or of a limit that amounts to one, into ErrNoSpace.
type spaceErrors struct{ dir.FS }

func (d spaceErrors) Create(name string, size int) (dir.File, error) {
	if err := roomFor(1 - targetSlack); err != nil {
		return nil, err
	}
	file, err := d.FS.Create(name, size)
	return file, noSpace(err)
}

func (d spaceErrors) Open(name string, writable bool) (dir.File, error) {
	file, err := d.FS.Open(name, writable)
	return file, noSpace(err)
}

func (d spaceErrors) WriteFile(name string, data []byte) error {
	return noSpace(d.FS.WriteFile(name, data))
}

func noSpace(err error) error {
	if dir.IsNoSpace(err) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// make makes a segment file. The file gets its own name only when it has its header: so after a
// kill a segment file without a header is damaged, and was not just never filled.
func (d *disk) make(id uint64, spec segmentSpec) (_ *segment, err error) {
	name := layout.SegmentFileName(id) + layout.NewSuffix
	file, spare, err := d.reserveFile(name, spec)
	if err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", name, err)
	}
	_ = d.s.hooks.fire(pointSegmentCreated)
	seg := newSegment(id, file.Bytes(), spec.kind, randomNumber())
	seg.spare = spare && spec.kind == layout.KindLane
	d.attach(seg, file)
	defer func() {
		if err != nil {
			err = errors.Join(err, d.fs.Remove(name), d.detach(seg))
		}
	}()
	if err := d.writeHeader(seg, spec); err != nil {
		return nil, err
	}
	if err := d.rename(file, seg.name()); err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", seg.name(), err)
	}
	return seg, nil
}

// writeHeader writes the header of a new segment file.
func (d *disk) writeHeader(seg *segment, spec segmentSpec) (err error) {
	defer d.s.catchFault(armFaults(), &err)
	if spec.written { // otherwise what the first store reads ahead saves as much time, with the lane locked
		seg.file.PrepareEnds()
	}
	seg.writeState(seg.extent(), false)
	seg.inFile.made(seg.kind)
	layout.Header{
		Kind: seg.kind, Large: spec.large, ID: seg.id, Capacity: uint64(len(seg.mem)), Store: d.store,
		Salt: seg.salt, Open: d.open, Generation: d.inForce.Load(),
	}.Encode(seg.mem)
	seg.putDigest(0, 0) // its page, too: a fault in a new file takes a millisecond, and no lane is locked here
	return nil
}

// attach makes seg the owner of file, the mapping that its memory is, which is counted already.
func (d *disk) attach(seg *segment, file dir.File) {
	seg.file = file
	d.track(seg.name(), seg.mem)
}

// detach unmaps the file of seg.
func (d *disk) detach(seg *segment) error {
	d.untrack(seg.mem)
	err := d.s.mapper.closeFile(seg.file)
	d.s.mapper.forget(len(seg.mem))
	return err
}

// unmap unmaps a file that is no segment's. A failure is logged: what is kept for later is no fault of the
// call that met it.
func (d *disk) unmap(file dir.File) {
	d.s.warn("file could not be unmapped", d.s.mapper.closeFile(file))
}

func (d *disk) discard(seg *segment) error {
	_ = d.s.hooks.fire(pointUnlink)
	err := d.fs.Remove(seg.name())
	return errors.Join(err, d.detach(seg))
}

func (d *disk) free(seg *segment) {
	d.s.warn("segment file could not be unmapped", d.detach(seg))
}

// remove removes the file of seg. Where that fails the next Open does it, since no manifest lists
// the file.
func (d *disk) remove(seg *segment) {
	_ = d.s.hooks.fire(pointUnlink)
	if err := d.fs.Remove(seg.name()); err != nil {
		d.s.logLater(slog.LevelWarn, "segment file could not be removed", "file", seg.name(), "error", err)
	}
}

// trim leaves a file as it is: its space is reserved, and its pages beyond the tail were never
// touched.
func (d *disk) trim(*segment) error { return nil }

// recycles reports false: a victim's file goes with it. No target needs memory of the process
// either, since the page cache gives way when memory is short.
func (d *disk) recycles() bool { return false }

func (d *disk) keptSize() int {
	d.spares.mu.RLock()
	defer d.spares.mu.RUnlock()
	return d.spares.size
}

func (d *disk) held() (mapped, spares int64) {
	d.spares.mu.RLock()
	defer d.spares.mu.RUnlock()
	return d.s.mapper.bytes.Load(), d.spares.bytesLocked()
}

func (d *disk) describe() []any {
	st, r := d.s.sizes(), d.s.recovered
	return []any{"memories", st.Memories, "segments", st.Segments, "records", r.Records, "total_bytes", st.TotalBytes,
		"fragmentation", st.FragmentationRatio, "clean", r.Clean, "duration", r.Duration}
}

// bootID names the page cache that holds what is written: the kernel's number of the time since the machine
// started, and that of the mount, since a file system that is shut down by errors and mounted again has lost what
// was not synced. It is zeros where one of the two is unknown.
func (s *Store) bootID() (id [16]byte) {
	st, err := s.disk.fs.Stat()
	if err != nil || st.Mount == 0 {
		return id
	}
	boot := kernelBoot
	if s.hooks.boot != nil {
		boot = s.hooks.boot
	}
	if id = boot(); id == [16]byte{} {
		return id
	}
	binary.LittleEndian.PutUint64(id[8:], binary.LittleEndian.Uint64(id[8:])^st.Mount)
	return id
}

// kernelBoot returns the kernel's name for the time since the machine started, zeros where there is
// none.
func kernelBoot() (id [16]byte) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	digits := strings.ReplaceAll(strings.TrimSpace(string(b)), "-", "")
	if n, err := fmt.Sscanf(digits, "%x", &digits); n != 1 || err != nil {
		return id
	}
	copy(id[:], digits)
	return id
}

// randomNumber returns a number, not 0, that nobody can guess.
func randomNumber() (n uint64) {
	var b [8]byte
	for n == 0 {
		_, _ = rand.Read(b[:]) // never fails
		n = binary.LittleEndian.Uint64(b[:])
	}
	return n
}
