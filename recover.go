package warmtier

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
Recovery makes a store of a directory:

 1. The manifest says which segments count. Nothing is changed before all of it was understood
    (candidates.go).
 2. The index comes from the hint of a clean Close (hint.go), or from the records: segments are read
    in parallel and every record is verified (scan.go). For each id the record with the highest
    sequence number wins, tombstones included. Records of one id with equal numbers are copies of
    one version, since a victim that was evacuated in part stays beside the target.
 3. Segments that were not sealed are sealed at the end of their valid records, and made durable
    (settle.go).
 4. A manifest of what was found is written, and leftovers are removed.

A crash during recovery is followed by another recovery that finds the same. A strict Open, the
default, returns an error for everything that it cannot account for; with Options.Repair a salvage
steps in there (repair.go).

Torn tails. A segment that is not sealed ends where its records end, and the last of them may be
torn. Below the synced mark in its header everything was durable, so what is missing there is
damage. Beyond the mark:

  - After a kill the page cache is as the process left it. So the records end either at zeros or at
    one record that was not finished: its checksum, which is written last, is missing, and no digest
    of a record after it is there, which would have been written first. Anything else is damage.
  - After a power loss any page that was not synced may be missing while later ones are intact. What
    follows the first missing record was never acknowledged as durable, and is cut off.

The kernel's boot id and the number of the mount tell which of the two it was: the manifest has those of
the last Open for writing. Where they are not known it is taken for a power loss: that forgives more,
and what a kill leaves is read to its end either way.

Failed flushes. A flush may have failed in the process before, and nothing on the disk would say so:
the page cache has what was written, and takes it for flushed. So what lies beyond the synced mark
is written over itself before it is synced. Pages that the kernel has dropped since are lost, which
is damage wherever anything shows that they were there. The store had said so with ErrSyncFailed.
*/

// recovery is one Open of a directory.
type recovery struct {
	s            *Store
	salvage      *salvage // nil in a strict Open; called where that would return an error
	manifest     layout.Manifest
	manifestFile uint64          // id of the file it was read from, 0 when unknown
	cacheKept    bool            // the page cache is as the process left it: neither a restart nor a new mount since
	elsewhere    bool            // it is another directory, or manifest file, than the one that was written to
	found        []*foundSegment // the segments that count
	leftover     []string        // files to be removed

	fromHint bool // the index is that of the hint: no record was read
	perShard int  // memories expected in each shard

	mu         sync.Mutex  // guards what follows while segments are read
	tombstones []slotPlace // that may be in the index
	maxSeq     uint64
	records    int
	newer      int   // of them, with a number above the manifest's
	unfinished int   // records that were begun
	tornBytes  int64 // cut off
}

// slotPlace is a slot and the shard it belongs to.
type slotPlace struct {
	sh *shard
	w  slot
}

// openDirectory makes s the store of the directory at path.
func (s *Store) openDirectory(path string) error {
	d, err := s.claimDirectory(path)
	if err == nil {
		err = s.openDisk(d, d.Close)
	}
	if err != nil {
		return fmt.Errorf("warmtier: open %s: %w", path, inner{err})
	}
	return nil
}

// openDisk recovers the store in files. After an error nothing stays mapped, and leave, which may be nil, has
// been called.
func (s *Store) openDisk(files dir.FS, leave func() error) error {
	start := time.Now()
	s.useFiles(files, leave, s.writeHint)
	r := &recovery{s: s}
	if s.opts.Repair {
		r.salvage = &salvage{r: r}
	}
	var key [16]byte
	_, err := rand.Read(key[:])
	s.disk.key = sip.DecodeKey(key[:])
	if err == nil {
		err = r.run()
	}
	s.releaseReplaced()
	if err != nil {
		for _, seg := range s.segments.all() {
			s.medium.free(seg)
		}
		for i := range s.shards {
			s.discardTables([]table{s.shards[i].current()})
		}
		return errors.Join(err, s.mapper.unreturned.returnAll(), s.disk.close())
	}
	s.segments.gone = -written(s.segments.all()) // by others
	s.disk.limitMappings()
	s.recovered = RecoveryStats{
		Duration: time.Since(start), Clean: r.fromHint, Records: r.records, TruncatedBytes: r.tornBytes,
	}
	if r.salvage != nil {
		s.recovered.Repair = r.salvage.report
	}
	return nil
}

// run takes the steps of recovery. Only settle and the salvage change anything in the directory.
func (r *recovery) run() (err error) {
	if r.salvage != nil {
		defer r.salvage.release()
	}
	defer r.s.catchFault(armFaults(), &err)
	if err := r.s.disk.identify(); err != nil {
		return err
	}
	exists, err := r.readManifest()
	if err != nil {
		return err
	}
	if exists {
		if err := r.checkDirectory(&r.manifest); err != nil {
			return err
		}
		if err := r.openSegments(); err != nil {
			return err
		}
		r.chooseLocations()
		if err := r.readRecords(); err != nil {
			return err
		}
	}
	r.s.sequence.Store(max(r.maxSeq, r.manifest.MaxSeq))
	if r.salvage != nil {
		if err := r.salvage.begin(); err != nil {
			return err
		}
	}
	if r.s.opts.ReadOnly {
		return nil
	}
	_ = r.s.hooks.fire(pointRecoverScanned)
	if err := r.settle(); err != nil {
		return err
	}
	r.report()
	if r.salvage != nil {
		if err := r.salvage.finish(); err != nil {
			return err
		}
	}
	r.offerPartial()
	return nil
}

// readManifest reads the manifest, and reports whether there is a store: without one the directory
// is made that of a new store.
func (r *recovery) readManifest() (exists bool, err error) {
	d := r.s.disk
	b, err := d.fs.ReadFile(layout.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return r.withoutManifest("missing, with segments present")
	}
	if err != nil {
		return false, err
	}
	m, whole, err := layout.DecodeManifest(b)
	switch {
	case errors.Is(err, layout.ErrVersion):
		return false, fmt.Errorf("%w: %s: %w", ErrVersion, layout.ManifestName, err)
	case err != nil:
		return r.withoutManifest(err.Error())
	case m.Unfinished: // a repair could not tell what is missing
		return false, &CorruptError{File: layout.ManifestName, Reason: "the directory is a checkpoint that was not " +
			"finished, and no store: remove it"}
	case !whole:
		r.s.opts.Logger.Warn("one of the manifest's two copies is damaged, the other one is used")
	}
	st, err := d.fs.StatFile(layout.ManifestName)
	if err != nil {
		return false, err
	}
	r.manifest, r.manifestFile = m, st.ID
	d.store = m.Store
	r.s.clock.notBefore(m.Clock)
	return true, nil
}

// withoutManifest begins a new store where there is neither a manifest nor a segment. Anything else
// is damage.
func (r *recovery) withoutManifest(reason string) (exists bool, err error) {
	d := r.s.disk
	names, err := d.fs.Names()
	if err != nil {
		return false, err
	}
	if highestID(names) == 0 && !slices.Contains(names, layout.ManifestName) {
		if r.s.opts.ReadOnly {
			return false, fmt.Errorf("no store to read: %w", fs.ErrNotExist)
		}
		if _, err := rand.Read(d.store[:]); err != nil {
			return false, err
		}
		return false, r.findUnfinished(names)
	}
	damage := &CorruptError{File: layout.ManifestName, Reason: reason}
	if r.salvage == nil {
		return false, damage
	}
	return true, r.salvage.replaceManifest(damage)
}

// chooseLocations decides how many bits of a location are an offset: enough to reach into the
// largest segment, which may have been made with another SegmentSize. A large segment needs none,
// having its record at the start. Targets, and the space kept back for one, are as large as the largest segment.
func (r *recovery) chooseLocations() {
	largest := minSegmentSize
	for _, f := range r.found {
		if !f.seg.large {
			largest = max(largest, len(f.seg.mem))
		}
	}
	r.s.offsetBits = offsetBitsFor(max(largest, r.s.opts.SegmentSize))
	r.s.disk.spares.size = min(largest, r.s.opts.SegmentSize)
}

// readRecords makes the index, from the hint or from the records themselves.
func (r *recovery) readRecords() error {
	if r.salvage != nil {
		return r.salvage.readRecords()
	}
	if r.fromHint = r.loadHint(); r.fromHint {
		return nil
	}
	if err := r.scan(); err != nil {
		return err
	}
	if n := r.missingRecords(); n > 0 {
		return &CorruptError{File: ".", Reason: fmt.Sprintf("%d records are in no file, of those numbered %d to %d: "+
			"a segment file is missing, or is of another moment", n, r.manifest.MaxSeq+1, r.maxSeq)}
	}
	r.dropTombstones()
	return nil
}

// report logs what recovery met.
func (r *recovery) report() {
	st := r.s.sizes()
	log := r.s.opts.Logger
	if len(r.found) > 0 && !r.fromHint && r.salvage == nil {
		log.Info("the last close was not clean, every record was read", "segments", len(r.found), "records", r.records)
	}
	if len(r.leftover) > 0 {
		log.Info("files removed that a crash had left", "files", len(r.leftover))
	}
	if r.tornBytes > 0 {
		log.Warn("tails cut that were not finished", "bytes", r.tornBytes)
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
