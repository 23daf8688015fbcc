package warmtier

import "github.com/warmtier/warmtier/internal/layout"

// medium is where the segments of a store live: in anonymous memory (memory), or in the files of a
// directory (disk). Off the hot paths everything that the two kinds of store do differently is a
// method of it. A hot path asks mayFault, keyedHash or leavesTombstones: a branch that predicts is
// cheaper than a call through an interface.
type medium interface {
	// make returns a new segment with this id, empty and in no table. The error is ErrNoSpace, or
	// in a directory one of the file system. No lock is held but that of the lane which is rolling.
	make(id uint64, spec segmentSpec) (*segment, error)
	// discard gets rid of a segment that never was in the table, its file included.
	discard(seg *segment) error
	// free unmaps a segment that nobody can reach. Its file stays. Failures are logged, since no
	// caller can do anything about them; any lock may be held.
	free(seg *segment)
	// remove removes the file of a segment that left the store. Pins may still keep it mapped.
	remove(seg *segment)
	// holdFlushes waits for the flush under way, and keeps the next one from beginning until done.
	// REQUIRES: no lock held.
	holdFlushes() (done func())
	// unseal prepares a sealed segment for further records.
	unseal(seg *segment) error
	// trim gives back the pages of a sealed target that no record will ever use.
	trim(target *segment) error

	// recycles reports whether the memory of a victim can become a target. Then rounds prefer
	// recycled memory, and the memory that the process may take bounds what they add to it.
	recycles() bool
	// targetSize returns how large a target can be made of the space kept back, bytes.
	targetSize() int
	// keepSpares keeps space back for the next time there is none, where it can. REQUIRES: no lock
	// held.
	keepSpares()
	// keptSize returns how large the segments of lanes are that what is kept back takes, bytes: those there
	// are, and the targets of a compaction. See growth.go.
	keptSize() int
	// dropDead makes it durable that those of segs are gone which it returns. Their live bytes are 0,
	// and the caller has claimed them. REQUIRES: no lock held.
	dropDead(segs []*segment) (leaving []*segment, err error)
	// held returns what is mapped and what spares keep back at one moment, bytes: one may become the other.
	held() (mapped, spares int64)
	// carryTombstones copies those tombstones of r's leaving victims that are still needed. It ends
	// a build.
	carryTombstones(r *round) error
	// commit makes a round durable: once it has returned nil, targets count and leaving does not,
	// whatever happens to the machine. After an error the round has to be undone. uncertain says
	// that nobody knows which side a power loss would leave: then the store takes no more writes,
	// and no file may go. REQUIRES: no lock held, the targets are in the table.
	commit(leaving, targets []*segment) (uncertain bool, err error)

	// clear calls cut, and makes it durable: after an error it was not called, unless the error is
	// ErrSyncFailed. REQUIRES: no lock held.
	clear() error

	// syncs reports whether sync has anything to do, now and then.
	syncs() bool
	// sync returns when everything acknowledged before the call survives a power loss, as far as
	// the medium can survive one. REQUIRES: no lock held.
	sync() error
	// syncWrite is sync for the end of a write. What tells damage from the end of a file after a power loss
	// may be older then.
	syncWrite() error
	// unsynced returns how many bytes of the records in seg a power loss may take that a sync would
	// keep.
	unsynced(seg *segment) int64

	// fileAt finds the mapped file, and the offset in it, that addr lies in: the place of a fault.
	fileAt(addr uintptr) (name string, offset int64, ok bool)
	// describe returns what the log says of a store just opened, as arguments of slog.
	describe() []any

	// finish seals every segment and makes everything durable, so that the next Open finds no tail
	// to look for. REQUIRES: no background work left, and no more writes.
	finish() error
	// close lets go of the directory. REQUIRES: nothing touches a file from here on but to unmap
	// it.
	close() error
}

// segmentSpec says what segment is wanted.
type segmentSpec struct {
	kind    layout.SegmentKind
	size    int  // bytes
	needed  int  // bytes: memory of the segment pool that has these will do; 0 for none
	large   bool // for one record
	written bool // in a file most of it is going to be written with system calls
	least   int  // on a full disk: the size of kept-back space that would do, bytes; 0 for none
}

// createSegment makes a segment that is in no table yet.
func (s *Store) createSegment(spec segmentSpec) (*segment, error) {
	id := s.segments.newID(spec.kind)
	seg, err := s.medium.make(id, spec)
	if err != nil {
		s.segments.abandon(id)
		return nil, err
	}
	seg.large = spec.large
	_ = s.hooks.fire(pointSegmentMade)
	return seg, nil
}

// discardSegment gets rid of a segment that never was in the table. Its error is joined to the one
// that made the segment useless.
func (s *Store) discardSegment(seg *segment) error {
	s.segments.abandon(seg.id)
	return s.medium.discard(seg)
}
