package warmtier

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/vm"
)

// settle makes what was found durable, and the directory as a running store has it.
func (r *recovery) settle() error {
	s, d := r.s, r.s.disk
	r.dropEmpty()
	if err := r.settleSegments(); err != nil {
		return err
	}
	_ = s.hooks.fire(pointRecoverSealed)
	// The hint is of the past from the next write on: its removal must be durable before that, or it
	// could come back and be believed; a repair needs it to the end. Spares are made anew: the old
	// ones may be of another size, or unfinished, and on a full disk the manifest needs some of it.
	names := []string{layout.ManifestTempName}
	if !s.opts.Repair {
		names = append(names, hintName)
	}
	for i := range laneSpares + maxLanes {
		names = append(names, spareFileName(i))
	}
	for _, name := range names {
		if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.fs.Sync(); err != nil {
		return err
	}
	if _, err := d.writeManifest(d.snapshotManifest(nil, nil)); err != nil {
		return err
	}
	_ = s.hooks.fire(pointRecoverListed)
	for _, name := range r.leftover {
		if err := d.fs.Remove(name); err != nil {
			return err
		}
	}
	d.keepSpares()
	return nil
}

// dropEmpty takes segments without a record out of the store: the process ended between making and
// filling them, a large one while its content was copied.
func (r *recovery) dropEmpty() {
	s := r.s
	var empty []*segment
	r.found = slices.DeleteFunc(r.found, func(f *recovered) bool {
		if f.damaged || f.seg.recordBytes() > 0 {
			return false
		}
		empty = append(empty, f.seg)
		return true
	})
	s.contentMu.Lock()
	s.segments.removeLocked(empty)
	s.contentMu.Unlock()
	s.segments.reuse(empty)
	for _, seg := range empty {
		r.leftover = append(r.leftover, seg.name())
		if s.retire(seg) {
			s.medium.free(seg)
		}
	}
}

// offerUnfilled lets lanes go on in segments that have room.
func (r *recovery) offerPartial() {
	var segs []*segment
	for _, f := range r.found {
		seg := f.seg
		if seg.kind == layout.KindLane && !seg.large && seg.sealedEarly.Load() && len(seg.mem) == r.s.opts.SegmentSize && !f.damaged {
			segs = append(segs, seg)
		}
	}
	r.s.segments.setPartial(segs)
}

// settleSegments does all at once: each waits for the disk.
func (r *recovery) settleSegments() error {
	var g errgroup.Group
	g.SetLimit(cmp.Or(r.s.hooks.settlers, settlers))
	for _, f := range r.found {
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			return r.settleSegment(f)
		})
	}
	return g.Wait()
}

// settlers is how many segments are made durable at a time.
const settlers = 8

// settleSegment seals a segment at the end of its records.
func (r *recovery) settleSegment(f *recovered) error {
	seg := f.seg
	e := seg.extent()
	seg.inFile.flushed(e, true) // before it is: nobody else knows the segment
	settled := f.state.Sealed && int64(f.state.Synced) == e.tail
	switch {
	case f.damaged && r.s.opts.Repair:
		return nil // it is replaced; without Repair no more than digests are damaged
	case settled && r.hinted:
		return nil
	case settled && (r.powered || !seg.clearRemains()):
		// After a kill it may be in the page cache only.
		seg.file.Rewrite(0, layout.HeaderSize)
		return seg.syncFile(0, layout.HeaderSize)
	}
	for _, d := range f.redigest {
		seg.putDigest(d.n, d.id)
	}
	seg.clearRemains()
	seg.file.Rewrite(0, layout.HeaderSize)
	seg.file.Rewrite(min(int(f.state.Synced), int(e.tail)), int(e.tail))
	seg.file.Rewrite(layout.DigestAt(len(seg.mem), int(e.records)-1), len(seg.mem))
	if err := seg.syncFile(0, len(seg.mem)); err != nil {
		return err
	}
	seg.writeState(e, true)
	return seg.syncFile(0, layout.HeaderSize)
}

// clearRemains makes zero what lies behind the records of seg, and reports whether anything did. Records
// that were cut off may be intact there: they would count again if the state that says where the segment
// ends were damaged, and behind a new record of the right length. After a power loss they may lie behind
// a sealed segment too: a lane had gone on in it, and its old header is back.
func (seg *segment) clearRemains() (found bool) {
	for rest := seg.rest(); len(rest) > 0; rest = rest[min(vm.PageSize, len(rest)):] {
		if part := rest[:min(vm.PageSize, len(rest))]; !layout.IsZero(part) {
			clear(part)
			found = true
		}
	}
	return found
}

// rest is what lies between the records of seg and their digests.
func (seg *segment) rest() []byte {
	return seg.mem[seg.tail.Load() : len(seg.mem)-layout.DigestSize*int(seg.records.Load())]
}

// report says in the log what recovery met.
func (r *recovery) report() {
	st := r.s.sizes()
	log := r.s.opts.Logger
	if len(r.found) > 0 && !r.hinted && !r.s.opts.Repair {
		log.Info("the last close was not clean, every record was read", "segments", len(r.found), "records", r.records)
	}
	if len(r.leftover) > 0 {
		log.Info("files removed that a crash had left", "files", len(r.leftover))
	}
	if r.torn > 0 {
		log.Warn("tails cut that were not finished", "bytes", r.torn)
	}
	if st.FragmentationRatio > warnFragmentation && st.TotalBytes > warnBytes {
		r.s.maintenance.startup = true
		log.Warn("store is fragmented, the first maintenance cycle will compact it",
			"fragmentation", st.FragmentationRatio, "total_bytes", st.TotalBytes)
	}
}

// Open warns of stores with more dead bytes than this.
const (
	warnFragmentation = 0.7        // ratio
	warnBytes         = 50_000_000 // bytes
)
