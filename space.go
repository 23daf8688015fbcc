package warmtier

import "github.com/warmtier/warmtier/internal/dir"

// Space says how many bytes the system would still give, to this process and to all others that ask. A
// figure is negative where the system does not say; both are known on Linux only.
type Space struct {
	// Memory is what the machine has available, or what the control groups of the process leave, whichever
	// is less. MaxBytes is not part of it.
	Memory int64
	// Disk is what the file system of the directory has left for unprivileged processes; negative for a
	// store in memory, and when the directory is no longer at the path that Open was given.
	Disk int64
}

// Space returns what memory and disk have left at this moment. It is apart from [Store.Stats] because it reads
// files of the system: tens to hundreds of microseconds. Nothing of the store is locked or changed, and it may be
// called after Close.
func (s *Store) Space() Space {
	left := Space{Memory: -1, Disk: -1}
	if bytes, known := s.availableMemory(); known {
		left.Memory = bytes
	}
	// Of a store in memory there is no path, and nothing is known of that.
	if bytes, known := dir.AvailableSpace(s.directory); known {
		left.Disk = bytes
	}
	return left
}
