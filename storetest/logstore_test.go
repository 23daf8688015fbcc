package storetest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/storetest"
)

/*
A small store that keeps every promise: one log, an index in memory, one lock. It is what faults are planted in, and an
example of everything that a store may offer. A record is

	checksum of the rest 4 | kind 1 | deadline 8 | length of id 4 | of content 4 | id | content

A batch is one record whose content is the records of its writes. Close leaves the size of the log in the file
"clean", without which the end of the log may be one that a kill has cut.
*/

const (
	kindPut = iota
	kindDelete
	kindBatch
	headerSize = 21
)

type logStore struct {
	fault fault
	dir   string
	lock  *os.File

	mu     sync.Mutex
	log    *os.File
	size   int64 // of the log, with what is in pending
	at     map[string]place
	closed bool

	// For faults alone.
	pending             []byte // the end of the log, not written yet
	cache               map[string][]byte
	buffer              []byte
	writes, compactions atomic.Int64
}

type place struct {
	offset   int64
	size     int
	deadline int64
}

var (
	errClosed  = errors.New("closed")
	errDamaged = errors.New("damaged")
)

func (f fault) open(dir string) (_ storetest.Store, err error) {
	s := &logStore{fault: f, dir: dir, at: map[string]place{}, cache: map[string][]byte{}}
	if f != secondOpenIsLetIn {
		if s.lock, err = lockFile(filepath.Join(dir, "lock")); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if s.log, err = os.OpenFile(s.path("log"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(s.path("log"))
	if err != nil {
		return nil, err
	}
	clean, err := s.wasClosed(int64(len(text)))
	if err != nil {
		return nil, err
	}
	good := s.index(text, 0)
	switch {
	case good < len(text) && f == damagePanics:
		panic("assertion failed")
	case good < len(text) && clean && f != damageEndsTheLog && f != cutIsNotNoticed:
		return nil, fmt.Errorf("%w: the log at byte %d", errDamaged, good)
	}
	s.size = int64(good) // what follows was being written when the process was killed
	return s, errors.Join(s.log.Truncate(s.size), s.forget("clean"))
}

func (s *logStore) path(name string) string { return filepath.Join(s.dir, name) }

func (s *logStore) forget(name string) error {
	if err := os.Remove(s.path(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *logStore) release() {
	for _, f := range []*os.File{s.log, s.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// wasClosed says whether the last process closed the store, and whether the log is what it left.
func (s *logStore) wasClosed(size int64) (bool, error) {
	text, err := os.ReadFile(s.path("clean"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || s.fault == cutIsNotNoticed {
		return true, err
	}
	if len(text) != 12 || crc32.ChecksumIEEE(text[:8]) != binary.BigEndian.Uint32(text[8:]) {
		return true, fmt.Errorf("%w: the file clean", errDamaged)
	}
	if want := int64(binary.BigEndian.Uint64(text)); want != size {
		return true, fmt.Errorf("%w: the log has %d bytes, and had %d", errDamaged, size, want)
	}
	return true, nil
}

// index enters the records of text, which begins at an offset of the log, and returns how much of it is good.
func (s *logStore) index(text []byte, offset int64) int {
	for i := 0; ; {
		n, ok := s.recordAt(text[i:])
		if !ok {
			return i
		}
		record := text[i : i+n]
		id := string(record[headerSize : headerSize+int(binary.BigEndian.Uint32(record[13:]))])
		switch record[4] {
		case kindPut:
			s.at[id] = place{offset + int64(i), n, int64(binary.BigEndian.Uint64(record[5:]))}
		case kindDelete:
			delete(s.at, id)
		case kindBatch:
			s.index(record[headerSize:], offset+int64(i)+headerSize)
		}
		i += n
	}
}

// recordAt returns the size of the record that text begins with, if there is one.
func (s *logStore) recordAt(text []byte) (int, bool) {
	if len(text) < headerSize {
		return 0, false
	}
	n := headerSize + uint64(binary.BigEndian.Uint32(text[13:])) + uint64(binary.BigEndian.Uint32(text[17:]))
	if n > uint64(len(text)) {
		return 0, false
	}
	sum := crc32.ChecksumIEEE(text[4:n])
	return int(n), sum == binary.BigEndian.Uint32(text) || s.fault == noChecksum
}

func record(to []byte, kind byte, deadline int64, id string, content []byte) []byte {
	at := len(to)
	to = append(to, 0, 0, 0, 0, kind)
	to = binary.BigEndian.AppendUint64(to, uint64(deadline))
	to = binary.BigEndian.AppendUint32(to, uint32(len(id)))
	to = binary.BigEndian.AppendUint32(to, uint32(len(content)))
	to = append(append(to, id...), content...)
	binary.BigEndian.PutUint32(to[at:], crc32.ChecksumIEEE(to[at+4:]))
	return to
}

// appendLocked appends records and enters them. REQUIRES: mu held.
func (s *logStore) appendLocked(records []byte) error {
	if s.closed {
		if s.fault == closedStoreAcknowledges {
			return nil
		}
		return errClosed
	}
	if s.fault == writesAreBuffered || len(s.pending) > 0 {
		s.pending = append(s.pending, records...)
	} else if _, err := s.log.WriteAt(records, s.size); err != nil && s.fault != fullDiskIsIgnored {
		if s.fault == fullDiskPanics {
			go panic("assertion failed")
			select {}
		}
		return errors.Join(err, s.log.Truncate(s.size))
	}
	s.index(records, s.size)
	s.size += int64(len(records))
	s.writes.Add(1)
	return nil
}

func (s *logStore) Put(id string, content []byte) error { return s.PutTTL(id, content, 0) }

func (s *logStore) PutTTL(id string, content []byte, ttl time.Duration) error {
	deadline := int64(0)
	if ttl > 0 {
		deadline = time.Now().Add(ttl).UnixNano()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == sliceIsKept {
		s.cache[id] = content
	}
	s.buffer = record(s.buffer[:0], kindPut, deadline, id, content)
	return s.appendLocked(s.buffer)
}

func (s *logStore) Delete(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == deletionIsNotWritten && !s.closed {
		delete(s.at, id)
		return nil
	}
	return s.appendLocked(record(nil, kindDelete, 0, id, nil))
}

func (s *logStore) Get(id string) ([]byte, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.cache[id]; ok {
		if s.fault == cacheIsOvertaken {
			delete(s.cache, id)
		}
		return bytes.Clone(b), true, nil
	}
	p := s.at[id]
	b, found, err := s.readLocked(nil, id)
	if s.fault == emptyIsAbsent && len(b) == 0 {
		return nil, false, err
	}
	if s.fault == cacheIsOvertaken && found && err == nil {
		s.mu.Unlock()
		s.untilChange(&s.writes)
		s.mu.Lock()
		if p != s.at[id] {
			s.cache[id] = bytes.Clone(b)
		}
	}
	return b, found, err
}

// readLocked reads into b, and checks what it read. REQUIRES: mu held.
func (s *logStore) readLocked(b []byte, id string) ([]byte, bool, error) {
	if s.closed {
		return nil, false, errClosed
	}
	p, ok := s.at[id]
	if !ok || p.expired() {
		return nil, false, nil
	}
	if s.fault == placeIsOfBefore {
		s.mu.Unlock()
		s.untilChange(&s.compactions)
		s.mu.Lock()
	}
	b = slices.Grow(b[:0], p.size)[:p.size]
	flushed := s.size - int64(len(s.pending))
	if p.offset >= flushed {
		copy(b, s.pending[p.offset-flushed:])
	} else if _, err := s.log.ReadAt(b, p.offset); err != nil && s.fault != placeIsOfBefore {
		return nil, false, err
	}
	if _, ok := s.recordAt(b); !ok && s.fault != placeIsOfBefore {
		return nil, false, fmt.Errorf("%w: the record of %q", errDamaged, id)
	}
	return b[min(len(b), headerSize+len(id)):], true, nil
}

func (p place) expired() bool { return p.deadline != 0 && time.Now().UnixNano() >= p.deadline }

func (s *logStore) View(id string, f func([]byte)) (bool, error) {
	var to []byte
	s.mu.Lock()
	if s.fault == viewIsReused {
		to = s.buffer
	}
	b, found, err := s.readLocked(to, id)
	if s.fault == viewIsReused && found {
		s.buffer = b
	}
	s.mu.Unlock()
	if found {
		f(b)
	}
	return found, err
}

func (s *logStore) Scan(f func(string, []byte) bool) error {
	s.mu.Lock()
	order := slices.SortedFunc(maps.Keys(s.at), func(a, b string) int { return int(s.at[a].offset - s.at[b].offset) })
	s.mu.Unlock()
	last := int64(-1)
	for i, id := range order {
		if s.fault == scanIsByPlace && i == len(order)/2 {
			s.untilChange(&s.compactions)
		}
		s.mu.Lock()
		p := s.at[id]
		b, found, err := s.readLocked(nil, id)
		s.mu.Unlock()
		if s.fault == scanIsByPlace {
			found, last = found && p.offset > last, max(last, p.offset)
		}
		if err != nil {
			return err
		}
		if found && !f(id, b) {
			return nil
		}
	}
	return nil
}

func (s *logStore) Update(id string, f func([]byte, bool) []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, found, err := s.readLocked(nil, id)
	if err != nil {
		return err
	}
	if s.fault == updateIsTwoSteps {
		s.mu.Unlock()
		s.untilChange(&s.writes)
		s.mu.Lock()
	}
	return s.appendLocked(record(nil, kindPut, 0, id, f(b, found)))
}

func (s *logStore) Batch(writes []storetest.Write) error {
	var records []byte
	for _, w := range writes {
		one := record(nil, kindPut, 0, w.ID, w.Content)
		if w.Delete {
			one = record(nil, kindDelete, 0, w.ID, nil)
		}
		if s.fault == batchIsSingleWrites {
			s.mu.Lock()
			err := s.appendLocked(one)
			s.mu.Unlock()
			if err != nil {
				return err
			}
			s.untilChange(&s.writes)
		}
		records = append(records, one...)
	}
	if s.fault == batchIsSingleWrites {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == batchEndsLater {
		err := s.flushLocked()
		half := s.size + int64(len(records)/2)
		if err = errors.Join(err, s.appendLocked(records)); err != nil {
			return err
		}
		s.pending = bytes.Clone(records[len(records)/2:]) // instead of the file, where it is as well until then
		return s.log.Truncate(half)
	}
	return s.appendLocked(record(nil, kindBatch, 0, "", records))
}

// Compact writes what is live to another log, and puts it in the place of the first.
func (s *logStore) Compact() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if err := s.flushLocked(); err != nil {
		return err
	}
	before := maps.Clone(s.at)
	var live []byte
	at := make(map[string]place, len(s.at))
	for id, p := range before {
		if p.expired() && s.fault != deadlineIsForgotten {
			continue
		}
		b := make([]byte, p.size)
		if _, err := s.log.ReadAt(b, p.offset); err != nil {
			return err
		}
		if s.fault == deadlineIsForgotten {
			p.deadline = 0
			b = record(nil, kindPut, 0, id, b[headerSize+len(id):])
		}
		at[id] = place{int64(len(live)), p.size, p.deadline}
		live = append(live, b...)
	}
	if s.fault == compactionLosesWrites || s.fault == compactionRevives {
		s.mu.Unlock()
		s.untilChange(&s.writes)
		s.mu.Lock()
		for id, p := range s.at { // what was written beside it
			if p == before[id] || s.fault == compactionLosesWrites {
				continue
			}
			b := make([]byte, p.size)
			if _, err := s.log.ReadAt(b, p.offset); err != nil {
				return err
			}
			at[id] = place{int64(len(live)), p.size, p.deadline}
			live = append(live, b...)
		}
	}
	return s.replaceLocked(live, at)
}

func (s *logStore) replaceLocked(live []byte, at map[string]place) error {
	next, err := os.OpenFile(s.path("log.next"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if s.fault == compactionIsBuffered {
		s.pending = live
	} else if _, err := next.WriteAt(live, 0); err != nil {
		return errors.Join(err, next.Close(), s.forget("log.next"))
	}
	if err := os.Rename(s.path("log.next"), s.path("log")); err != nil {
		return errors.Join(err, next.Close())
	}
	_ = s.log.Close() // nobody reads it any more
	s.log, s.at, s.size = next, at, int64(len(live))
	s.compactions.Add(1)
	return nil
}

func (s *logStore) flushLocked() error {
	if len(s.pending) == 0 {
		return nil
	}
	_, err := s.log.WriteAt(s.pending, s.size-int64(len(s.pending)))
	s.pending = nil
	return err
}

func (s *logStore) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	return errors.Join(s.flushLocked(), s.log.Sync())
}

func (s *logStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	clean := binary.BigEndian.AppendUint64(nil, uint64(s.size))
	clean = binary.BigEndian.AppendUint32(clean, crc32.ChecksumIEEE(clean))
	err := errors.Join(s.flushLocked(), os.WriteFile(s.path("clean"), clean, 0o600))
	s.release()
	return err
}

// untilChange gives another goroutine the time to count, so that a fault does not wait for chance.
func (s *logStore) untilChange(count *atomic.Int64) {
	end := time.After(5 * time.Millisecond)
	tick := time.NewTicker(50 * time.Microsecond)
	defer tick.Stop()
	for before := count.Load(); count.Load() == before; {
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}
