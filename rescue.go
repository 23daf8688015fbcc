package warmtier

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// setAside gives damaged files the names that they keep.
func (v *salvage) setAside() error {
	fsys := v.r.s.disk.fs
	for _, f := range v.damaged() {
		if f.aside {
			continue // by a repair that was cut off
		}
		if err := f.seg.file.Rename(f.seg.name() + damagedSuffix); err != nil {
			return err
		}
	}
	for _, name := range v.aside {
		if err := fsys.Rename(name, name+damagedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_ = v.r.s.hooks.fire(pointRepairAside)
	return fsys.Sync() // no power loss may leave the manifest without them, and their old names
}

// replace writes what is intact in damaged segments to others, and takes the damaged ones out of
// the store. The manifest that does so is the first one with the boot id of this Open (see
// keepBoot).
func (v *salvage) replace() error {
	s := v.r.s
	var damaged []*segment
	for _, f := range v.damaged() {
		damaged = append(damaged, f.seg)
		if err := v.rescue(f.seg); err != nil {
			return err
		}
	}
	_ = s.hooks.fire(pointRepairRescued)
	if err := s.disk.sync(); err != nil { // it may list segments, and the damaged ones are among them still
		return err
	}
	s.disk.boot = s.bootID()
	if _, err := s.disk.commit(damaged, nil); err != nil {
		return err
	}
	_ = s.hooks.fire(pointRepairCommitted)
	s.contentMu.Lock()
	s.segments.removeLocked(damaged)
	s.contentMu.Unlock()
	s.segments.reuse(damaged)
	for _, seg := range damaged {
		if s.retire(seg) {
			s.medium.free(seg)
		}
	}
	return nil
}

// writeTombstone appends a tombstone for an id that is in no slot.
func (v *salvage) writeTombstone(id string) error {
	s := v.r.s
	d := s.tombstoneOf(id)
	if d.size > s.largestShared() {
		return v.writeLargeTombstone(&d)
	}
	for !v.tryWriteTombstone(&d) {
		if err := s.makeRoom(&d); err != nil {
			return err
		}
	}
	return nil
}

func (v *salvage) tryWriteTombstone(d *draft) (ok bool) {
	s, ln := v.r.s, d.shard.lane
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return s.appendTombstoneLocked(ln, d)
}

func (v *salvage) writeLargeTombstone(d *draft) error {
	s, ln := v.r.s, d.shard.lane
	return s.withOwnSegment(d, func(seg *segment) (published bool, err error) {
		defer s.contentMu.RUnlock(s.contentMu.RLock())
		ln.mu.Lock()
		defer ln.mu.Unlock()
		s.publishLocked(seg, d)
		seg.addTombstone(layout.HeaderSize, d.size)
		seg.seal(false)
		return true, nil
	})
}

// rescue writes the live memories and the tombstones of a damaged segment to others.
func (v *salvage) rescue(seg *segment) error {
	s := v.r.s
	var ids []string
	for i := range s.shards {
		for _, w := range s.shards[i].current().appendRange(nil, 0, tagCount) {
			if owner, _ := s.resolve(w.location()); owner == seg {
				var m match
				if err := s.follow(&m, w.location()); err != nil {
					return err
				}
				ids = append(ids, string(record.ID(m.rec, m.h)))
			}
		}
	}
	for _, id := range ids {
		content, deadline, err := s.stored(id) // what has expired too: an older version must not come back
		if err == nil {
			err = s.putMeasured(id, content, deadline)
		}
		if err != nil {
			return fmt.Errorf("repair: %w", err)
		}
	}
	for unit := range seg.tombstones.all() {
		rec := seg.mem[int(unit)*record.Align:]
		h, ok := record.Decode(rec)
		if !ok {
			return errors.New("repair: tombstone changed while it was read")
		}
		// With a new sequence number, unless the memory was stored again.
		if id := string(record.ID(rec, h)); !s.isStored(id) {
			if err := v.writeTombstone(id); err != nil {
				return err
			}
		}
	}
	return nil
}
