package warmtier

import (
	"errors"
	"fmt"
)

// Version names one stored content of an id. Every write has a version of its own, higher than those of all
// writes before it that its caller can know of, and no other write of the store ever gets it: no later one of
// the same content, and in a directory none after a crash, a repair or a power loss. 0 means that there is no
// memory. A directory that is put back from a copy goes on from the versions of the copy.
type Version uint64

// A version is the sequence number of the record, which copies keep. A directory must not draw a number again
// whose record is gone:
//
//   - Segments leave the store with a manifest, which has the number drawn last.
//   - What a power loss takes was drawn after that manifest, and a process may have told others of it. So an
//     Open that finds the store not closed goes on versionGap above what it knows of. Less than that was drawn
//     since the last flush; and there can be 2^24 such Opens.
const versionGap = 1 << 40

// condition is what a write asks of the version that it replaces, and becomes the version that is there
// afterwards. A draft with a condition that does not hold changes nothing.
//
// It is part of the draft: what a draft points to would be allocated for each write.
type condition struct {
	asked  bool // false: whatever is there
	wanted Version
	found  Version
}

// checkLocked returns ErrChanged unless the memory found, if it exists, has the version that d asks for.
// REQUIRES: the lane's lock held since the look-up.
func (d *draft) checkLocked(found *match, exists bool) error {
	c := &d.condition
	if !c.asked {
		return nil
	}
	c.found = 0
	if exists {
		c.found = Version(found.h.Seq)
	}
	if c.found != c.wanted {
		return fmt.Errorf("%w: it is %d, want %d", ErrChanged, c.found, c.wanted)
	}
	return nil
}

// changedLocked is the look-up and checkLocked of a draft that finds no room: for one that is refused in any case
// nothing is compacted or evicted, nobody waits, and its error is not that room lacks. REQUIRES: the lane's lock held,
// contentMu read-held.
func (s *Store) changedLocked(d *draft) error {
	if !d.condition.asked {
		return nil
	}
	var found match
	exists, err := s.probe(&found, d.shard, d.tag, d.id)
	if err != nil {
		return err
	}
	return d.checkLocked(&found, exists && !s.isExpired(&found))
}

// changed is changedLocked for a draft that is about to get a segment of its own.
func (s *Store) changed(d *draft) (err error) {
	if !d.condition.asked {
		return nil
	}
	defer s.catchFault(armFaults(), &err)
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	if s.barrier != nil { // the write itself waits, or says why not
		return nil
	}
	ln := d.shard.lane
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return s.changedLocked(d)
}

// GetVersion is [Store.Get] that returns the version of the content as well.
//
// Errors: as [Store.Get]. The version is 0 then, so after [ErrNotFound] it is what [Store.PutIf] takes for an
// id that must be absent.
func (s *Store) GetVersion(id string) ([]byte, Version, error) {
	if err := checkID(id); err != nil {
		return nil, 0, err
	}
	return s.getVersion(nil, id)
}

// getVersion is GetVersion for a valid id. It appends to dst.
func (s *Store) getVersion(dst []byte, id string) ([]byte, Version, error) {
	var m match
	content, err := s.appendContent(dst, &m, id, true)
	if err != nil {
		return dst, 0, err
	}
	if content == nil {
		content = []byte{}
	}
	return content, Version(m.h.Seq), nil
}

// PutIf stores content under id, as [Store.Put] does, if the version of id is v; 0 asks for an id without a
// memory. It returns the version of what it stored. Looking and storing are one step: no other write comes
// between.
//
// Errors: [ErrChanged], with the version that is there, when it is another one, also where there would be no room;
// otherwise as [Store.Put], with version 0. Nothing has changed then, with the exception that Put has, and nothing was
// evicted for an ErrChanged unless others came between. With SyncWrites what ErrChanged tells of is durable.
func (s *Store) PutIf(id string, content []byte, v Version) (Version, error) {
	started := s.meters.sampleWrite()
	d := &draft{id: id, content: content, condition: condition{asked: true, wanted: v}}
	err := s.putDurably(d)
	if err != nil && errors.Is(err, ErrChanged) { // errors.Is takes 8 ns for nil
		s.meters.putsChanged.Add(1)
		return d.condition.found, err
	}
	s.meters.writeEnded(started, err, &s.meters.puts, &s.meters.putErrors)
	if err != nil {
		return 0, err
	}
	return d.condition.found, nil
}

// Update replaces the content of id by what fn makes of it: it calls fn with a copy of the content, which fn may
// change and return, and stores what fn returns if nobody else has stored or deleted the id since; otherwise it
// begins again. exists is false, and content nil, when there is no memory. nil is the same as empty content, and
// is stored.
//
// fn runs with no lock held, and may run several times: it should do nothing but compute. It may call the store;
// one that writes id itself makes Update begin again each time, without an end. A panic of fn passes through. Of
// calls that meet at one id, one succeeds at a time, so n of them may run fn up to n times each.
//
// Errors: that of fn, unchanged, and then nothing has changed; those of [Store.Get], except ErrNotFound, and of
// [Store.Put].
func (s *Store) Update(id string, fn func(content []byte, exists bool) ([]byte, error)) error {
	if err := s.checkWrite(id); err != nil {
		return err
	}
	var buffer []byte
	for {
		content, v, err := s.getVersion(buffer[:0], id)
		exists := err == nil
		switch {
		case exists:
			buffer = content
		case errors.Is(err, ErrNotFound):
			content = nil
		default:
			return err
		}
		if content, err = fn(content, exists); err != nil {
			return err
		}
		if _, err = s.PutIf(id, content, v); !errors.Is(err, ErrChanged) {
			return err
		}
	}
}
