package warmtier

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/warmtier/warmtier/internal/layout"
)

// settle makes what was found durable, and the directory one of a running store.
func (r *recovery) settle() error {
	s, d := r.s, r.s.disk
	r.dropEmpty()
	begun, others := r.partBegun()
	if err := r.each(others, r.settleSegment); err != nil {
		return err
	}
	if err := r.each(begun, r.flushSegment); err != nil {
		return err
	}
	_ = s.hooks.fire(pointRecoverSealed)
	// Spares are made again: the old ones may be of another size, or unfinished, and on a full disk
	// the manifest needs some of their space.
	names := []string{layout.ManifestTempName}
	if r.salvage == nil { // which needs the hint to its end
		// From the next write on the hint is of the past. Its removal has to be durable before
		// that, or it could come back and be believed.
		names = append(names, layout.HintName)
	}
	for i := range growingSpare + 1 {
		names = append(names, spareFileName(i))
	}
	if r.elsewhere || d.directory == 0 || r.manifest.Directory == 0 { // somebody else may have made it
		if err := d.fs.SyncName(); err != nil {
			return err
		}
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
	if r.manifest.Open != 0 && !r.manifest.Closed || r.salvage != nil {
		s.sequence.Add(versionGap) // with the manifest that has it: a kill before must not miss numbers in between
	}
	if _, err := d.writeManifest(d.snapshotManifest(nil, nil)); err != nil {
		return err
	}
	if err := r.each(begun, r.settleSegment); err != nil {
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

// dropEmpty takes segments without a record out of the store. The process ended between making and
// filling them; a large one, while its content was copied.
func (r *recovery) dropEmpty() {
	s := r.s
	var empty []*segment
	r.found = slices.DeleteFunc(r.found, func(f *foundSegment) bool {
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

// offerPartial lets lanes resume segments that have room. A repair does so at its end: it needs the hint,
// which knows segments as they were.
func (r *recovery) offerPartial() {
	var segs []*segment
	for _, f := range r.found {
		seg := f.seg
		if !f.damaged && seg.kind == layout.KindLane && !seg.large && seg.sealedEarly.Load() &&
			len(seg.mem) <= r.s.opts.SegmentSize && !seg.inFile.linked.Load() {
			segs = append(segs, seg)
		}
	}
	r.s.segments.setPartial(segs)
}

// partBegun parts the segments in which a record was begun, and not finished, from the others. Its digest says so, and
// that its number is in no file. A recovery that is killed must leave that until a manifest has the number: the next
// one would miss a record. See TestMissing_RecoveryCutOff.
func (r *recovery) partBegun() (begun, others []*foundSegment) {
	for _, f := range r.found {
		if !f.damaged && !f.state.Sealed && f.unfinished() > 0 {
			begun = append(begun, f)
		} else {
			others = append(others, f)
		}
	}
	return begun, others
}

// each calls do for several segments at a time, since each waits for the disk.
func (r *recovery) each(segments []*foundSegment, do func(*foundSegment) error) error {
	var g errgroup.Group
	g.SetLimit(cmp.Or(r.s.hooks.settlers, settlers))
	for _, f := range segments {
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			return do(f)
		})
	}
	return g.Wait()
}

// settlers is how many segments are settled at a time.
const settlers = 8

// settleSegment seals a segment at the end of its records, durably.
func (r *recovery) settleSegment(f *foundSegment) error {
	seg := f.seg
	e := seg.extent()
	// It will be in a moment, and nobody else knows the segment yet.
	seg.inFile.flushed(e, true)
	sealed := f.state.Sealed // in the file too, and where its records end: what does not end there is damaged
	switch {
	case f.damaged && r.salvage != nil:
		// It is replaced, and until then nothing is written to it; in a strict Open no more than digests are
		// damaged. Manifests go on to say of it what the last one said: no more was made durable.
		seg.inFile.replaced = true
		seg.inFile.synced.Store(max(layout.HeaderSize, int64(f.listed.End)))
		seg.inFile.syncedRecords.Store(int64(f.listed.Records))
		return nil
	case sealed && r.manifest.Closed && !f.copied:
		return nil
	case sealed && (seg.inFile.linked.Load() || f.copied && (r.manifest.Closed || !seg.clearRemains())):
		// A linked one was durable before it got its second name, and is written to no more.
		return seg.syncFile(len(seg.mem), len(seg.mem))
	case sealed && !f.copied && (r.cacheKept || !seg.clearRemains()):
		// After a kill the header may be in the page cache only.
		seg.file.Rewrite(0, layout.HeaderSize)
		return seg.syncHeader()
	}
	seg.clearRemains()
	if err := r.flushSegment(f); err != nil {
		return err
	}
	seg.writeState(e, true)
	return seg.syncHeader()
}

// flushSegment makes all of a segment durable, and does not seal it. Pages may have been written to no file, or to
// another one, and not be dirty.
func (r *recovery) flushSegment(f *foundSegment) error {
	seg := f.seg
	e := seg.extent()
	seg.inFile.flushed(e, true)
	for _, d := range f.redigest {
		seg.putDigest(d.n, d.digest)
	}
	seg.file.Rewrite(0, layout.HeaderSize)
	seg.file.Rewrite(min(int(f.state.Synced), int(e.tail)), int(e.tail))
	seg.file.Rewrite(layout.DigestAt(len(seg.mem), int(e.records)-1), len(seg.mem))
	return seg.syncFile(len(seg.mem), len(seg.mem))
}

// clearRemains zeroes what lies between the records of seg and their digests, and reports whether
// anything did. Records that were cut off may be intact there. They would count again after a new
// record of the right length, or if the state that says where the segment ends were damaged. After
// a power loss they may lie in a sealed segment too, where a lane had resumed it and its old header
// is back.
func (seg *segment) clearRemains() (found bool) {
	for _, part := range usedPages(seg.rest(), int(seg.tail.Load())) {
		clear(part)
		found = true
	}
	return found
}
