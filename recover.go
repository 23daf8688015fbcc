package warmtier

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/sip"
)

/*
Recovery makes a store of a directory:

	1. The manifest says which segments count; nothing is changed before all of it was understood.
	2. Segments are read in parallel, and every record is verified. For each id the record with
	   the highest sequence number wins, tombstones included. Equal numbers are copies of one
	   version: a victim that was evacuated in part stays beside the target.
	3. What was not sealed is sealed at the end of its valid records, and made durable.
	4. A manifest of what was found is written, and files that belong to nothing are removed.

A crash during recovery is followed by another recovery that finds the same.

Torn tails. A segment that is not sealed ends where its records end, and the last one may be torn. Up
to the synced mark of its header everything was durable, so damage there is damage. Beyond it:

  - After a kill the page cache is as the process left it, so the first thing that is no record is
    either zeros or a record without its checksum, which is written last, and no record follows it:
    no digest does, which is written first. Anything else is damage.
  - After a power loss any page that was not synced may be missing, with intact ones behind it. What
    lies beyond the first missing record was never acknowledged as durable, and is cut.

Which of the two it was, the kernel's boot id tells: the manifest has that of the last Open.

Failed flushes. A flush may have failed in the process before, and nothing on the disk would say so: the
page cache has what was written, and believes it to be on the disk. So what lies beyond the synced mark
is written anew before it is synced. Pages that the kernel has dropped meanwhile are gone: they are
damage, as on the same boot anything is that is missing, unless nothing shows that they were there. The
store had said so then, with ErrSyncFailed.
*/

// openDirectory makes s the store of the directory at path.
func (s *Store) openDirectory(path string) error {
	abs, lock, err := s.claimDirectory(path)
	if err != nil {
		return fmt.Errorf("warmtier: open %s: %w", abs, err)
	}
	return s.openDisk(dir.At(abs), lock)
}

// openDisk recovers the store in fs. On an error nothing is mapped or locked.
func (s *Store) openDisk(files dir.FS, lock *os.File) error {
	start := time.Now()
	s.useFiles(files, lock, s.writeHint)
	r := &recovery{s: s}
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
			s.releaseTables([]table{s.shards[i].current()})
		}
		return errors.Join(fmt.Errorf("warmtier: open: %w", err), s.disk.close())
	}
	s.writtenGone = -written(s.segments.all()) // by others
	s.recovered = RecoveryStats{
		Duration: time.Since(start), Clean: r.hinted, Records: r.records, TruncatedBytes: r.torn,
		Repair: r.repaired,
	}
	return nil
}

// recovery is one Open of a directory.
type recovery struct {
	s        *Store
	manifest layout.Manifest
	powered  bool // no power loss since the last Open: the page cache is as the process left it
	found    []*recovered
	leftover []string // files of segments that do not count

	hinted    bool       // the index came from the hint
	lastIndex *lastIndex // with Repair: what the index was at the last Close, where that is known
	perShard  int        // memories expected in each shard

	mu           sync.Mutex
	tombstones   []slotPlace // that may be in the index
	maxSeq       uint64
	records      int
	torn         int64 // bytes cut
	lost         []lostRecord
	lostIDs      []string // of those whose head is intact
	unidentified error    // records were lost of which not even the id's digest is left
	repaired     RepairReport
}

// recovered is one segment file.
type recovered struct {
	seg       *segment
	state     layout.State
	damaged   bool // to be replaced by a repair
	rebuilt   bool // a repair goes on without its header
	noDigests bool // it is cut short
	redigest  []missingDigest
}

// missingDigest is one that a power loss took while it kept its record.
type missingDigest struct {
	n  int
	id []byte // in the record
}

type slotPlace struct {
	sh *shard
	w  slot
}

func (r *recovery) run() (err error) {
	defer r.releaseLastIndex()
	defer r.s.catchFault(armFaults(), &err)
	fresh, err := r.readManifest()
	if err != nil {
		return err
	}
	if !fresh {
		if err := r.openSegments(); err != nil {
			return err
		}
		r.chooseLocations()
		if err := r.readRecords(); err != nil {
			return err
		}
	}
	r.s.sequence.Store(r.maxSeq)
	if r.s.opts.ReadOnly {
		_, err := r.dropLost()
		return err
	}
	_ = r.s.hooks.fire(pointRecoverScanned)
	if err := r.settle(); err != nil {
		return err
	}
	r.report()
	if !r.s.opts.Repair { // which needs the hint, and that knows segments as they were
		r.offerPartial()
	}
	return r.repair()
}

// readRecords makes the index, from the hint or from the records themselves.
func (r *recovery) readRecords() error {
	if r.s.opts.Repair {
		r.lastIndex = r.readLastIndex()
	} else if r.hinted = r.loadHint(); r.hinted {
		return nil
	}
	if err := r.scan(); err != nil {
		return err
	}
	if r.unidentified != nil && r.lastIndex == nil {
		return r.unidentified
	}
	r.dropTombstones()
	return nil
}

// readManifest reads the manifest; fresh says that the directory is that of a new store.
func (r *recovery) readManifest() (fresh bool, err error) {
	d := r.s.disk
	b, err := d.fs.ReadFile(layout.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return r.noManifest("missing, with segments present")
	}
	if err != nil {
		return false, err
	}
	m, whole, err := layout.DecodeManifest(b)
	switch {
	case errors.Is(err, layout.ErrVersion):
		return false, fmt.Errorf("%w: %s: %w", ErrVersion, layout.ManifestName, err)
	case err != nil:
		return r.noManifest(err.Error())
	case !whole:
		r.s.opts.Logger.Warn("one of the manifest's two copies is damaged, the other one is used")
	}
	r.manifest = m
	d.store = m.Store
	r.powered = m.Boot == d.boot && d.boot != [16]byte{}
	if r.s.opts.Repair { // until it has replaced what a power loss may have torn: see replace
		d.boot = m.Boot
	}
	return false, nil
}

// noManifest is a new store, unless there are segments. A repair then asks the hint which of them
// count: files of finished compactions may be among them, and hold what was deleted.
func (r *recovery) noManifest(reason string) (fresh bool, err error) {
	d := r.s.disk
	names, err := d.fs.Names()
	if err != nil {
		return false, err
	}
	highest := uint64(0)
	for _, name := range names {
		id, _ := layout.ParseSegmentFileName(name)
		highest = max(highest, id)
	}
	if highest == 0 && !slices.Contains(names, layout.ManifestName) {
		if r.s.opts.ReadOnly {
			return false, fmt.Errorf("no store to read: %w", fs.ErrNotExist)
		}
		if _, err := rand.Read(d.store[:]); err != nil {
			return false, err
		}
		return true, r.findUnfinished(names)
	}
	damage := &CorruptError{File: layout.ManifestName, Reason: reason}
	if !r.s.opts.Repair {
		return false, damage
	}
	if d.store, r.manifest.Listed, err = r.segmentsOfHint(); err != nil {
		damage.Reason += "; it cannot be replaced: " + err.Error()
		return false, damage
	}
	r.manifest.Next = max(highest, slices.Max(append(r.manifest.Listed, 0))) + 1
	d.boot = [16]byte{} // as in readManifest: nobody knows
	r.s.opts.Logger.Error("repair takes the list of segments from the hint", "error", damage)
	return false, nil
}

// openSegments maps the segments that count and puts them into the table.
func (r *recovery) openSegments() error {
	names, err := r.s.disk.fs.Names()
	if err != nil {
		return err
	}
	if err := r.findUnfinished(names); err != nil {
		return err
	}
	listed, pending, present := setOf(r.manifest.Listed), setOf(r.manifest.Pending), map[uint64]bool{}
	highest := r.manifest.Next - 1
	for _, name := range names {
		id, ok := layout.ParseSegmentFileName(name)
		if !ok {
			continue // not ours
		}
		highest = max(highest, id)
		counts := listed[id] || id >= r.manifest.Next || pending[id]
		present[id], err = r.openSegment(id, listed[id], counts)
		if err != nil {
			return err
		}
	}
	r.s.segments.lastID = highest
	for _, id := range r.manifest.Listed {
		if !present[id] {
			if err := r.missing(id, "segment file is missing, empty or of another store"); err != nil {
				return err
			}
		}
	}
	return nil
}

// findUnfinished looks for files that never got the name of a segment. Those of this store are leftovers, and
// no other segment may be made under the name of one that is there.
func (r *recovery) findUnfinished(names []string) error {
	for _, name := range names {
		base, unnamed := strings.CutSuffix(name, layout.NewSuffix)
		id, ok := layout.ParseSegmentFileName(base)
		if !unnamed || !ok {
			continue
		}
		r.s.segments.taken[id] = true
		ours := true
		if !r.s.opts.ReadOnly { // which removes nothing
			var err error
			if ours, err = r.isUnfinished(name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if ours {
			r.leftover = append(r.leftover, name)
			continue
		}
		r.s.opts.Logger.Warn("file is of no segment of this store, and is left alone", "file", name)
	}
	return nil
}

// isUnfinished tells a file of this store, with its header or without, from one of others.
func (r *recovery) isUnfinished(name string) (ours bool, err error) {
	file, err := r.s.disk.fs.Open(name, false)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mem := file.Bytes()
	r.s.disk.track(name, mem)
	defer func() {
		r.s.disk.untrack(mem)
		err = errors.Join(err, file.Close())
	}()
	defer r.s.catchFault(armFaults(), &err)
	return layout.MayBeUnfinished(mem, r.s.disk.store), nil
}

func setOf(ids []uint64) map[uint64]bool {
	set := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// openSegment maps one file, and puts it into the table if it counts.
func (r *recovery) openSegment(id uint64, listed, counts bool) (present bool, err error) {
	name := layout.SegmentFileName(id)
	file, err := r.s.disk.fs.Open(name, !r.s.opts.ReadOnly)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	// A fault on a file that is no segment's yet.
	r.s.disk.track(name, file.Bytes())
	f, err := r.examine(file.Bytes(), id, listed, counts)
	if err != nil || f == nil {
		r.s.disk.untrack(file.Bytes())
		return false, errors.Join(err, file.Close())
	}
	return true, r.adopt(file, f)
}

// examine says what the file of a segment is, by its header; nil when it does not count.
func (r *recovery) examine(mem []byte, id uint64, listed, counts bool) (_ *recovered, err error) {
	defer r.s.catchFault(armFaults(), &err)
	name := layout.SegmentFileName(id)
	h, err := layout.DecodeHeader(mem)
	if errors.Is(err, layout.ErrNoHeader) && r.powered && counts {
		err = errors.New("no header, without which it would not have its name")
	}
	ours := err == nil && h.ID == id && (h.Store == r.s.disk.store || r.s.disk.store == layout.StoreID{})
	switch {
	case errors.Is(err, layout.ErrVersion):
		return nil, fmt.Errorf("%w: %s: %w", ErrVersion, name, err)
	case errors.Is(err, layout.ErrNoHeader) && !listed, ours && !counts, ours && !listed && h.Kind == layout.KindTarget,
		(err != nil || h.Capacity != uint64(len(mem))) && !listed && counts && !r.powered:
		// Made and not filled, what a compaction left, or what a power loss left of a file of which
		// nothing was promised.
		r.leftover = append(r.leftover, name)
		return nil, nil
	case !counts:
		r.s.opts.Logger.Warn("file is of no segment of this store, and is left alone", "file", name)
		return nil, nil
	case err == nil && !ours:
		if !r.s.opts.Repair {
			return nil, &CorruptError{File: name, Reason: fmt.Sprintf("file of segment %d of store %x, want segment %d of %x",
				h.ID, h.Store, id, r.s.disk.store)}
		}
		return nil, nil
	}
	f := &recovered{seg: newSegment(id, mem, h.Kind)}
	f.seg.large = h.Large
	if err == nil && h.Capacity != uint64(len(mem)) {
		f.noDigests = true
		err = fmt.Errorf("file has %d bytes, its header says %d", len(mem), h.Capacity)
	}
	state, ok := layout.DecodeState(mem, h.Capacity)
	if ours && !ok {
		err = errors.New("no valid state in the header")
	}
	if err != nil {
		if !r.s.opts.Repair {
			return nil, &CorruptError{File: name, Reason: err.Error()}
		}
		if len(mem) < layout.HeaderSize {
			return nil, r.missing(id, err.Error())
		}
		r.s.opts.Logger.Error("repair goes on with a damaged segment", "file", name, "error", err)
		f.damaged = true
	}
	if f.rebuilt = !ours || !ok; f.rebuilt {
		state = layout.State{Generation: 1, Synced: layout.HeaderSize, MaxSeq: math.MaxUint64}
		f.seg.large = false
	}
	f.state = state
	return f, nil
}

// missing is the error of a listed segment of which there is nothing to be read; none with Repair.
func (r *recovery) missing(id uint64, reason string) error {
	err := &CorruptError{File: layout.SegmentFileName(id), Reason: reason}
	if !r.s.opts.Repair {
		return err
	}
	r.s.opts.Logger.Error("repair goes on without a segment", "error", err)
	r.loseUnidentified(err)
	return nil
}

// loseNameless notes that records are lost for the reason in damage, and nobody knows of which
// memories. REQUIRES: r.mu held, or nobody else knows r.
func (r *recovery) loseUnidentified(damage *CorruptError) {
	damage.Reason += "; nothing says of which memories records are lost, whose older versions must not " +
		"come back: a repair of this needs the hint of a clean Close"
	r.unidentified = damage
}

// adopt puts a mapped segment, empty as yet, into the table.
func (r *recovery) adopt(file dir.File, f *recovered) error {
	seg := f.seg
	r.s.disk.attach(seg, file)
	if r.s.disk.store == (layout.StoreID{}) {
		r.s.disk.store = layout.StoreID(seg.mem[32:48])
	}
	seg.inFile.found(f.state)
	if err := r.s.segments.assign(seg, r.s.maxSegments()); err != nil {
		r.s.medium.free(seg)
		return err
	}
	r.s.segments.publish(seg)
	r.found = append(r.found, f)
	return nil
}

// chooseLocations decides how locations are made up.
func (r *recovery) chooseLocations() {
	// Locations must reach into the largest segment, whatever SegmentSize it was made with. A large
	// one has its record at the start.
	largest := r.s.opts.SegmentSize
	for _, f := range r.found {
		if !f.seg.large {
			largest = max(largest, len(f.seg.mem))
		}
	}
	r.s.offsetBits = offsetBitsFor(largest)
}
