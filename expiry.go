package warmtier

import (
	"fmt"
	"time"

	"github.com/warmtier/warmtier/internal/record"
)

// PutTTL stores content under id for the time ttl, in place of what was there. From its deadline on the memory is
// absent for every call, and counts in [Store.Len] and Stats.Memories until a compaction has given its bytes back.
// The next Put of id replaces it, and a Put or PutTTL before then replaces its deadline too.
//
// A deadline has a resolution of 1 ms, and takes 8 bytes. It is a moment of the store's clock: the wall clock when the
// store was opened, and the time that has passed since, on Linux that of a suspended machine too. In a directory the
// clock goes on from where it was last written down, if the wall clock is behind that.
//
// Errors: [ErrInvalidTTL] for a ttl of 0 or less, and those of [Store.Put].
func (s *Store) PutTTL(id string, content []byte, ttl time.Duration) error {
	if ttl <= 0 {
		return invalidTTL(ttl)
	}
	return s.putMeasured(id, content, s.clock.after(ttl))
}

// putMeasured is Put of a memory with a deadline, 0 for none.
func (s *Store) putMeasured(id string, content []byte, deadline int64) error {
	started := s.meters.sampleWrite()
	err := s.putDurably(&draft{id: id, content: content, deadline: deadline})
	s.meters.writeEnded(started, err, &s.meters.puts, &s.meters.putErrors)
	return err
}

func invalidTTL(ttl time.Duration) error {
	return fmt.Errorf("%w: %v, want more than 0", ErrInvalidTTL, ttl)
}

// Expiry returns when the memory of id expires, by the store's clock; the zero time means never. It does not read the
// content.
//
// Errors: as [Store.Get]; [ErrNotFound] also for a memory that has expired.
func (s *Store) Expiry(id string) (at time.Time, err error) {
	if err := checkID(id); err != nil {
		return time.Time{}, err
	}
	deadline, _, err := s.expiry(id)
	if deadline != 0 {
		at = time.UnixMilli(deadline)
	}
	return at, err
}

// expiry returns the deadline, 0 for none, and the number of the memory of a valid id.
func (s *Store) expiry(id string) (deadline int64, seq uint64, err error) {
	var h readHold
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
		defer h.release()
	}
	var m match
	if err := s.lookup(&h, &m, id, false); err != nil {
		return 0, 0, err
	}
	deadline, seq = m.deadline(), m.h.Seq
	h.release()
	return deadline, seq, nil
}

// deadline returns when the memory at m expires, Unix time in ms; 0 means never.
func (m *match) deadline() int64 { return deadlineOf(m.rec, m.h) }

// isExpired reports whether the memory at m is absent for callers, since its deadline is over.
func (s *Store) isExpired(m *match) bool {
	return m.h.Flags() != 0 && record.Deadline(m.rec, m.h) <= s.clock.now()
}

// findUnexpired goes on from a find that has found m, a memory with a deadline. One that has expired is absent.
//
// That is true of a moment only if the slot was the memory's when the clock was read, or later:
//
//	reader                          others
//	finds "1", of deadline 5
//	                                Put "2", which has none
//	                                the clock passes 5
//	takes "1" for expired: at no moment was the id absent
//
// So the slot is looked at again. One that was not expired after it was found was not when it was found.
// REQUIRES: as find.
func (s *Store) findUnexpired(m *match, sh *shard, tag uint32, id string) (exists bool, err error) {
	for exists = true; exists && s.isExpired(m); {
		seq := m.h.Seq
		exists, err = s.find(m, sh, tag, id)
		if exists && m.h.Seq == seq {
			return false, nil
		}
	}
	return exists, err
}

// stored returns a copy of the content that the index has for id, and its deadline, whether or not it has
// expired. Its error is ErrNotFound when there is none. It is for recovery, which catches faults.
func (s *Store) stored(id string) (content []byte, deadline int64, err error) {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	var m match
	sh, tag := s.place(id)
	exists, err := s.find(&m, sh, tag, id)
	switch {
	case err != nil:
		return nil, 0, err
	case !exists:
		return nil, 0, ErrNotFound
	case !record.IntactContent(m.content(), m.h):
		return nil, 0, m.corrupt(id, "checksum mismatch")
	}
	return append([]byte{}, m.content()...), m.deadline(), nil
}

// isStored reports whether the index has a memory of id, expired or not.
func (s *Store) isStored(id string) bool {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	sh, tag := s.place(id)
	exists, err := s.find(new(match), sh, tag, id)
	return exists && err == nil
}
