package warmtier

import (
	"fmt"
	"time"

	"github.com/warmtier/warmtier/internal/biaslock"
	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

// maxLockedCopy is how many bytes of contents or ids are copied, about, in one hold of contentMu. A
// longer copy is made under a pin, or in several holds, so that a swap, and every reader that queues
// after it, never waits for it.
const maxLockedCopy = 64 << 10

// copiesLong reports whether to append n bytes to dst copies more than maxLockedCopy: what dst has
// is copied too when dst must grow.
func copiesLong(dst []byte, n int) bool {
	return n > maxLockedCopy || len(dst)+n > max(cap(dst), maxLockedCopy)
}

// match is a record that the index points to, or the place in the index where an id is missing.
type match struct {
	seg    *segment
	offset int    // of the record in seg
	rec    []byte // from the record's first byte to seg's tail
	h      record.Header
	pos    int // of the slot; for an id that is absent, where its slot would go

	started time.Duration // when the read began, if it is measured (see meters); otherwise 0
}

func (m *match) corrupt(id, reason string) error {
	return &CorruptError{File: m.seg.name(), Offset: int64(m.offset), ID: id, Reason: reason}
}

// content returns the record's content, unverified.
func (m *match) content() []byte { return record.Content(m.rec, m.h) }

// Get returns a copy of the content of id; it is never nil when err is nil.
//
// Errors: [ErrNotFound], [ErrInvalidID], [ErrClosed], [ErrCorrupt].
func (s *Store) Get(id string) ([]byte, error) {
	content, err := s.AppendContent(nil, id)
	if content == nil && err == nil {
		content = []byte{}
	}
	return content, err
}

// AppendContent appends the content of id to dst and returns the longer slice, as append does. It
// does not allocate when dst has room. On an error it returns dst; bytes between its length and its
// capacity may have been written.
//
// Errors: as [Store.Get].
func (s *Store) AppendContent(dst []byte, id string) ([]byte, error) {
	if err := checkID(id); err != nil {
		return dst, err
	}
	var m match
	return s.appendContent(dst, &m, id, true)
}

// appendContent is AppendContent for a valid id; m becomes what it found. It copies first and then checks
// the copy, which nobody else can write to, so contentMu is held for the copy only.
func (s *Store) appendContent(dst []byte, m *match, id string, counted bool) (content []byte, err error) {
	var h readHold
	if s.mayFault() {
		content = dst //nolint:wastedassign // what a fault returns
		defer s.catchFault(armFaults(), &err)
		defer h.release()
	}
	if err := s.lookup(&h, m, id, counted); err != nil {
		return dst, err
	}
	var out []byte
	if copiesLong(dst, m.h.ContentLen()) {
		if out, err = s.copyPinned(dst, &h, m); err != nil {
			return dst, err
		}
	} else {
		out = appendTo(dst, m.content())
		h.release()
	}
	if !record.IntactContent(out[len(dst):], m.h) {
		s.countDamage()
		return dst, m.corrupt(id, "checksum mismatch")
	}
	if m.started != 0 {
		s.meters.readEnded(m.started, m.h.ContentLen())
	}
	return out, nil
}

// appendTo appends content to dst; a new slice has exactly its size.
func appendTo(dst, content []byte) []byte {
	if dst == nil && len(content) > 0 {
		out := make([]byte, len(content))
		copy(out, content)
		return out
	}
	return append(dst, content...)
}

// copyPinned is the copy of appendContent where it is too long for a hold of contentMu. It releases
// h.
func (s *Store) copyPinned(dst []byte, h *readHold, m *match) (out []byte, err error) {
	m.seg.pin()
	h.release()
	defer s.unpin(m.seg)
	if s.mayFault() { // as in viewPinned
		defer s.catchFault(armFaults(), &err)
	}
	lockrank.AssertUnlocked()
	if err := s.hooks.fire(pointCopyPinned); err != nil {
		return nil, err
	}
	return appendTo(dst, m.content()), nil
}

// View calls fn with the content of id, without a copy, and returns what fn returns. The slice is
// valid inside fn only, and must not be written to. fn runs with no lock held: it may take its time
// and call the store, Close included. Until it returns, the segment stays mapped, even if a
// compaction has replaced it.
//
// Errors: as [Store.Get], and what fn returns. A panic of fn passes through.
func (s *Store) View(id string, fn func(content []byte) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	return s.view(id, true, fn)
}

// view is View for a valid id.
func (s *Store) view(id string, counted bool, fn func(content []byte) error) (err error) {
	var h readHold
	if s.mayFault() {
		defer s.catchFault(armFaults(), &err)
		defer h.release()
	}
	var m match
	if err := s.lookup(&h, &m, id, counted); err != nil {
		return err
	}
	m.seg.pin()
	h.release()
	return s.viewPinned(id, &m, fn)
}

// viewPinned calls fn with the content of m, whose segment is pinned, and drops the pin.
func (s *Store) viewPinned(id string, m *match, fn func(content []byte) error) (err error) {
	defer s.unpin(m.seg)
	if s.mayFault() { // caught before unpin, which may unmap what the fault is on
		defer s.catchFault(armFaults(), &err)
	}
	content := m.content()
	if !record.IntactContent(content, m.h) {
		s.countDamage()
		return m.corrupt(id, "checksum mismatch")
	}
	if m.started != 0 {
		s.meters.readEnded(m.started, m.h.ContentLen())
	}
	if err := s.hooks.fire(pointViewPinned); err != nil {
		return err
	}
	lockrank.AssertUnlocked()
	return fn(content)
}

// Has reports whether id has a memory. It neither reads nor verifies the content. It returns false
// for an invalid id, a closed store and a damaged record.
func (s *Store) Has(id string) (exists bool) {
	if checkID(id) != nil {
		return false
	}
	var h readHold
	if s.mayFault() {
		var fault error // Has is false then
		defer s.catchFault(armFaults(), &fault)
		defer h.release()
	}
	var m match
	err := s.lookup(&h, &m, id, false)
	h.release()
	return err == nil
}

func checkID(id string) error {
	if len(id) == 0 || len(id) > MaxIDLen {
		return fmt.Errorf("%w: %d bytes, want 1 to %d", ErrInvalidID, len(id), MaxIDLen)
	}
	return nil
}

func (s *Store) checkWrite(id string) error {
	if err := s.checkWritable(); err != nil {
		return err
	}
	return checkID(id)
}

func (s *Store) checkWritable() error {
	if s.opts.ReadOnly {
		return ErrReadOnly
	}
	return s.failedSync()
}

// readHold is a hold of contentMu for reading that knows whether it is held: a call that may end
// with a fault defers release, and still releases as early as it can.
type readHold struct {
	biaslock.Hold
	lock *contentLock // nil when it is not held
}

// acquire begins a hold of lock.
func (h *readHold) acquire(lock *contentLock) { h.Hold, h.lock = lock.RLock(), lock }

// release ends the hold, once.
func (h *readHold) release() {
	if lock := h.lock; lock != nil {
		h.lock = nil
		lock.RUnlock(h.Hold)
	}
}

// lookup finds id. When it returns nil, h is held, so that the match can be used or pinned. It
// counts as a get if counted is true.
func (s *Store) lookup(h *readHold, m *match, id string, counted bool) error {
	sh, tag := s.place(id)
	h.acquire(&s.contentMu)
	if s.closed {
		h.release()
		return ErrClosed
	}
	if counted {
		m.started = s.meters.sampleRead(&h.Hold)
	}
	exists, err := s.find(m, sh, tag, id)
	if exists && m.h.Flags() != 0 {
		exists, err = s.findUnexpired(m, sh, tag, id)
	}
	switch {
	case exists:
		if counted {
			h.Gets = 1 // not earlier: a look-up that ends with a fault is no get
			if s.marksReads {
				s.markRead(m, sh, tag)
			}
		}
		return nil
	case err == nil:
		err = ErrNotFound
		if counted {
			h.Misses(1)
		}
		if m.started != 0 {
			s.meters.readEnded(m.started, 0)
		}
	default:
		s.corruptRecords.Add(1)
		if counted {
			s.meters.getErrors.Add(1)
		}
	}
	h.release()
	return err
}

// markRead sets the bit of reads in the slot of m, which find has found with tag in sh, unless it is set or
// the slot is another by now. REQUIRES: as find.
func (s *Store) markRead(m *match, sh *shard, tag uint32) {
	t := sh.current()
	if m.pos >= len(t) { // it was replaced by a smaller one
		return
	}
	if w := t.get(m.pos); w == makeSlot(tag, s.locate(m.seg, m.offset)) {
		t.markRead(m.pos, w)
	}
}

// countDamage counts a content that was found damaged.
func (s *Store) countDamage() {
	s.corruptRecords.Add(1)
	s.meters.getErrors.Add(1)
}

// missAttempts is how often a miss is checked without the shard's lock.
const missAttempts = 4

// find looks id up. It takes no lock when the id is there; index.go says what it may believe.
// REQUIRES: contentMu held, no lock of a shard held.
func (s *Store) find(m *match, sh *shard, tag uint32, id string) (exists bool, err error) {
	if exists, _ = s.probe(m, sh, tag, id); exists {
		return true, nil
	}
	for range missAttempts {
		before := sh.shifts.Load()
		exists, err = s.probe(m, sh, tag, id)
		if exists {
			return true, nil
		}
		if err == nil && before%2 == 0 && sh.shifts.Load() == before {
			return false, nil
		}
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.probe(m, sh, tag, id)
}

// probe looks id up once, comparing it with the ids in the records. A damaged prefix among the
// records it meets is an error, since it may be id's. Only a hit is certain unless the lock of the
// shard, or of its lane, is held. REQUIRES: contentMu held.
func (s *Store) probe(m *match, sh *shard, tag uint32, id string) (exists bool, err error) {
	t := sh.current()
	if t == nil {
		return false, nil
	}
	pos, w := t.first(tag)
	for ; w != 0; pos, w = t.following(pos, tag) {
		if err := s.follow(m, w.location()); err != nil {
			return false, err
		}
		if string(record.ID(m.rec, m.h)) == id {
			m.pos = pos
			return true, nil
		}
		_ = s.hooks.fire(pointFindOther)
	}
	m.pos = pos
	return false, nil
}

// follow reads the prefix of the record at loc into m and verifies it. REQUIRES: contentMu held.
func (s *Store) follow(m *match, loc location) error {
	seg, offset := s.resolve(loc)
	if seg == nil {
		return &CorruptError{File: "index", Offset: int64(loc), Reason: "no such segment"}
	}
	m.seg, m.offset = seg, offset
	tail := int(seg.tail.Load())
	if offset >= tail {
		return m.corrupt("", "record beyond the tail")
	}
	m.rec = seg.mem[offset:tail]
	var ok bool
	m.h, ok = record.Decode(m.rec)
	if !ok || m.h.Kind() != record.KindMemory || !record.IntactPrefix(m.rec, m.h, seg.seedAt(offset)) {
		return m.corrupt("", "damaged header or id")
	}
	return nil
}
