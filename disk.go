package warmtier

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
What a directory store does beyond a memory store, so that what was acknowledged survives.

	kill      A record is in the page cache before Put returns, and the page cache outlives the
	          process. Its checksum is written last: what was not finished has none.
	power     Sync flushes segments, then the directory, then the manifest that lists new segments;
	          only then is what came before it durable. What was durable is written into the headers
	          of the segments (fileState), so that damage there is told from a torn tail.
	compaction  Everything is flushed, targets too, then a manifest takes the victims out and the
	          targets in: one rename. Before it the victims count, after it the targets; both hold
	          the same bytes. Then the victims leave the table, and their files are removed.

The first failed flush is final: the kernel may have dropped the pages it could not write and marked
them clean, and a later flush that succeeds would say nothing about them (Rebello et al., "Can
Applications Recover from fsync Failures?", USENIX ATC '20).
*/

// disk is what a directory store has beyond a memory store.
type disk struct {
	fs    dir.FS
	lock  *os.File // holds the lock of the directory; nil where a read-only store could not take it
	store layout.StoreID
	boot  [16]byte
	key   sip.Key

	mappedMu sync.Mutex              // a leaf
	mapped   map[*byte]trackedMemory // for catchFault: what is mapped, by its first byte

	// spaceMu is held for reading by who makes a segment file, and for writing by who takes or makes
	// space kept back. Taken before segmentTable.mu, and with no other lock of Store held.
	spaceMu sync.RWMutex
	kept    []int // bytes kept back by each spare, 0 when it is missing; guarded by spaceMu

	manifestMu sync.Mutex      // one manifest written at a time; taken before every lock of Store
	listed     map[uint64]bool // what the newest manifest lists; guarded by manifestMu

	// Group commit: who wants to be durable waits for a flush that began after it came, and the
	// first to wait runs it for all.
	mu      sync.Mutex
	changed *sync.Cond // running ended
	running bool
	begun   uint64 // flushes
	ended   uint64
}

// openDirectory makes s the store of the directory at path, which stays the same one when the working
// directory changes.
func (s *Store) openDirectory(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("warmtier: open %s: %w", path, err)
	}
	if err := dir.Prepare(abs, layout.ManifestName, s.opts.ReadOnly, dir.SyncPath); err != nil {
		return fmt.Errorf("warmtier: open %s: %w", abs, err)
	}
	lock, err := s.lockDirectory(abs)
	if err != nil {
		return fmt.Errorf("warmtier: open %s: %w", abs, err)
	}
	return s.openDisk(dir.At(abs), lock)
}

// lockDirectory locks the directory at path, and writes into the lock file which process did. The file is
// nil where a read-only store may not lock.
func (s *Store) lockDirectory(path string) (*os.File, error) {
	lock, err := dir.Lock(filepath.Join(path, layout.LockName), s.opts.ReadOnly)
	var held *dir.LockedError
	switch {
	case errors.As(err, &held):
		return nil, fmt.Errorf("%w: %w", ErrLocked, held)
	case s.opts.ReadOnly && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
		return nil, nil
	case err != nil || s.opts.ReadOnly:
		return lock, err
	}
	if _, err := lock.WriteAt(fmt.Appendf(nil, "%-19d\n", os.Getpid()), 0); err != nil {
		return nil, errors.Join(err, dir.Unlock(lock))
	}
	return lock, nil
}

// spaceErrors makes a full disk, or a limit that amounts to one, ErrNoSpace.
type spaceErrors struct{ dir.FS }

func (d spaceErrors) Create(name string, size int) (dir.File, error) {
	file, err := d.FS.Create(name, size)
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

// createFile makes a segment file. It gets its name when it has its header: after a kill, one without a
// header is damaged, and not one that was never filled. REQUIRES: a directory store.
func (s *Store) createFile(id uint64, spec segmentSpec) (_ *segment, err error) {
	d := s.disk
	name := layout.SegmentFileName(id) + layout.NewSuffix
	file, spare, err := s.reserveFile(name, spec)
	if err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", name, err)
	}
	_ = s.hooks.fire(pointSegmentCreated)
	seg := newSegment(id, file.Bytes(), spec.kind)
	seg.spare = spare && spec.kind == layout.KindLane
	s.attach(seg, file)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.detach(seg), d.fs.Remove(name))
		}
	}()
	if err := s.writeHeader(seg, spec.large); err != nil {
		return nil, err
	}
	if err := file.Rename(seg.name()); err != nil {
		return nil, fmt.Errorf("warmtier: cannot make segment file %s: %w", seg.name(), err)
	}
	return seg, nil
}

// writeHeader writes the header of a new segment file.
func (s *Store) writeHeader(seg *segment, large bool) (err error) {
	defer s.catchFault(armFaults(), &err)
	seg.writeState(seg.extent(), false)
	seg.synced.Store(layout.HeaderSize)
	layout.Header{
		Kind: seg.kind, Large: large, ID: seg.id, Capacity: uint64(len(seg.mem)), Store: s.disk.store,
	}.Encode(seg.mem)
	return nil
}

// attach makes seg the owner of file.
func (s *Store) attach(seg *segment, file dir.File) {
	seg.file = file
	s.mapper.adopt(len(seg.mem))
	s.disk.track(seg.name(), seg.mem)
}

// detach unmaps the file of seg.
func (s *Store) detach(seg *segment) error {
	s.disk.untrack(seg.mem)
	s.mapper.forget(len(seg.mem))
	return seg.file.Close()
}

// removeFile removes the file of a segment that left the store. What stays behind after a failure is
// no part of the manifest, and removed by the next Open.
func (s *Store) removeFile(seg *segment) {
	if seg.file == nil {
		return
	}
	_ = s.hooks.fire(pointUnlink)
	if err := s.disk.fs.Remove(seg.name()); err != nil {
		s.logLater(slog.LevelWarn, "segment file could not be removed", "file", seg.name(), "error", err)
	}
}

// failedSync returns the first failed flush, which every write reports from then on; nil while there is none.
func (s *Store) failedSync() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// fail makes err the store's failure, unless it has one already, and returns the failure. Locks may be held.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrSyncFailed, err)
	if s.failure.CompareAndSwap(nil, &err) {
		s.logLater(slog.LevelError, "sync failed, the store takes no more writes", "error", err)
	}
	return *s.failure.Load()
}

// closeDisk gives the directory free for others.
func (s *Store) closeDisk() error {
	if s.disk == nil || s.disk.lock == nil {
		return nil
	}
	return dir.Unlock(s.disk.lock)
}

// bootID is the kernel's name for the time since the machine started, zeros where there is none.
func (s *Store) bootID() (id [16]byte) {
	if s.hooks.boot != nil {
		return s.hooks.boot()
	}
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
