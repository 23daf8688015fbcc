// Package dir is the file system as a store sees it: one directory, named files in it that are mapped
// as a whole, and the calls that make bytes and names durable. Package shadow below it is a directory
// in memory that loses what was not synced. It knows nothing of stores or of what is in the files.
//
// Everything that makes bytes durable is a call of [FS] or [File], and errors are those of the system.
package dir

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrUnsynced is wrapped by the error of a SyncFile or Sync that lost nothing, and that a later one makes
// up for: what was to be synced could not be opened. After any other error of theirs bytes may be lost.
var ErrUnsynced = errors.New("not synced, nothing lost")

// IsLack reports whether err means that a call was not begun, for want of descriptors, memory or rights.
func IsLack(err error) bool {
	for _, lack := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EACCES, syscall.EPERM, syscall.EINTR, syscall.EAGAIN,
	} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// FS is one directory.
type FS interface {
	// Names lists the files of the directory.
	Names() ([]string, error)
	// Create makes a file of size bytes whose space is reserved, and maps it. Without space it returns
	// an error for which [IsNoSpace] holds, and leaves nothing behind.
	Create(name string, size int) (File, error)
	// Open maps an existing file; writable says whether the mapping may be written to.
	Open(name string, writable bool) (File, error)
	// ReadFile reads a file as a whole.
	ReadFile(name string) ([]byte, error)
	// WriteFile writes a new or emptied file, without a sync; SyncFile does that. A file that is emptied
	// stays the same one.
	WriteFile(name string, data []byte) error
	// StatFile says which file has this name.
	StatFile(name string) (Stat, error)
	// SyncFile makes the bytes of a file durable.
	SyncFile(name string) error
	// Rename gives a file another name, in place of a file of that name.
	Rename(from, to string) error
	// Link gives a file the same name in to, a directory of the same file system, as well. From then on it is one
	// file with two names: whatever is written to it is in both directories.
	Link(name string, to FS) error
	// Remove removes a name.
	Remove(name string) error
	// Sync makes creations, renames and removals durable.
	Sync() error
	// SyncName makes the name of the directory itself durable, where that may be done.
	SyncName() error
	// Stat says which directory this is.
	Stat() (Stat, error)
	// Present returns an error when the directory was removed: what is written from then on is in no
	// directory, though no call need say so.
	Present() error
	// Available returns how many bytes the file system still takes; known is false where it does not say.
	Available() (bytes int64, known bool)
	// AtPath returns an error when the path that the directory was opened by leads elsewhere now.
	AtPath() error
}

// File is a file mapped as a whole.
type File interface {
	// Bytes returns the mapping, valid until Close.
	Bytes() []byte
	// Sync makes both ends of the file durable in one flush: the bytes below head, and those from tail on.
	// What lies between may become durable with them. After a Sync that failed, here or in a process
	// before, a later one may leave out what the failed one should have written, what lies between
	// included. The error of a file that has become shorter than its mapping is a [*CutShortError].
	Sync(head, tail int) error
	// PrepareEnds makes the first and the last page of a new file present, alone, where WriteAt is going to write what
	// lies between: the first store would have the kernel fill as much as its read-ahead says around it. It does what
	// it can.
	PrepareEnds()
	// Writes reports whether WriteAt may be called. It never begins to be true.
	Writes() bool
	// WriteAt writes first, and then behind it, to the place at offset, which lies in the file, with a system call: the
	// mapping has what was written once it returns, in this order at the latest. After an error any part of it may have
	// been written, and where it was the space or the device that failed no signal comes. REQUIRES: Writes.
	WriteAt(offset int, first, then []byte) error
	// BeginSync has the system begin to write what WriteAt brought below to from from on, and does not wait for it: less
	// is left to do for the next Sync, which alone makes bytes durable, and reports the errors of this writing too. Those
	// that are known at once are returned: the bytes may be lost then. REQUIRES: Writes.
	BeginSync(from, to int) error
	// EndWrites says that WriteAt and BeginSync will not be called again: a descriptor less.
	EndWrites()
	// Rewrite writes the bytes from from to to over themselves: the next Sync leaves none out.
	Rewrite(from, to int)
	// Stat says which file this is. It knows what was known when the file was made or opened.
	Stat() Stat
	// Rename gives the file another name in its directory, in place of a file of that name.
	Rename(to string) error
	// Close unmaps. Bytes that were not synced stay in the operating system's cache. After an error
	// the file is still mapped, for nobody to use, and Close may be called again.
	Close() error
}

// Stat tells files and directories from their copies.
type Stat struct {
	// ID is that of no copy of this file, and stays the same for as long as the file is there, under
	// whatever name; 0 where the system does not say.
	ID uint64
	// Links is how many names a file has.
	Links uint64
	// Mount is where the directory is mounted: what was not synced is lost when that changes. 0 where the
	// system has no number for it that is never used twice.
	Mount uint64
}

// Empty stands for a file that is too short, or too long, to be mapped.
type Empty struct{}

// Bytes returns nothing.
func (Empty) Bytes() []byte { return nil }

// Sync does nothing.
func (Empty) Sync(int, int) error { return nil }

// PrepareEnds does nothing.
func (Empty) PrepareEnds() {}

// Writes reports false.
func (Empty) Writes() bool { return false }

// WriteAt returns [errors.ErrUnsupported].
func (Empty) WriteAt(int, []byte, []byte) error { return errors.ErrUnsupported }

// BeginSync does nothing.
func (Empty) BeginSync(int, int) error { return nil }

// EndWrites does nothing.
func (Empty) EndWrites() {}

// Rewrite does nothing.
func (Empty) Rewrite(int, int) {}

// Stat knows nothing.
func (Empty) Stat() Stat { return Stat{} }

// Rename does nothing.
func (Empty) Rename(string) error { return nil }

// Close does nothing.
func (Empty) Close() error { return nil }

// CutShortError is returned by [File.Sync] when the file has become shorter than its mapping: what
// was written beyond its end is lost.
type CutShortError struct {
	Size   int64 // of the file, bytes
	Mapped int   // bytes
}

// Error gives both sizes.
func (e *CutShortError) Error() string {
	return fmt.Sprintf("file was cut short to %d bytes, it had %d", e.Size, e.Mapped)
}

// LockedError is returned by [OS.Lock] when somebody else holds the lock.
type LockedError struct {
	Path   string
	Holder string // id of a process that holds the lock; "" where the system does not say
}

// Error names what is locked and, where it is known, a process that holds the lock.
func (e *LockedError) Error() string {
	if e.Holder == "" {
		return e.Path
	}
	return fmt.Sprintf("%s, held by process %s", e.Path, e.Holder)
}
