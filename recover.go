package warmtier

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
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
    either zeros or a record without its checksum, which is written last. Anything else is damage.
  - After a power loss any page that was not synced may be missing, with intact ones behind it. What
    lies beyond the first missing record was never acknowledged as durable, and is cut.

Which of the two it was, the kernel's boot id tells: the manifest has that of the last Open.
*/

// openDirectory makes s the store of dir.
func (s *Store) openDirectory(dir string) error {
	if err := prepareDirectory(dir, s.opts.ReadOnly); err != nil {
		return fmt.Errorf("warmtier: open %s: %w", dir, err)
	}
	lock, err := lockDirectory(filepath.Join(dir, lockName), s.opts.ReadOnly)
	if err != nil && !(s.opts.ReadOnly && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission))) {
		return fmt.Errorf("warmtier: open %s: %w", dir, err)
	}
	if lock != nil && !s.opts.ReadOnly {
		pid := fmt.Sprintf("%-19d\n", os.Getpid())
		if _, err := lock.WriteAt([]byte(pid), 0); err != nil {
			return errors.Join(fmt.Errorf("warmtier: open %s: %w", dir, err), lock.Close())
		}
	}
	return s.openDisk(&osFileSystem{dir: dir}, lock)
}

// openDisk recovers the store in fs. On an error nothing is mapped or locked.
func (s *Store) openDisk(files fileSystem, lock *os.File) error {
	s.disk = &disk{fs: files, lock: lock, boot: s.bootID(), mapped: map[*segment]bool{}}
	s.disk.changed = sync.NewCond(&s.disk.mu)
	r := &recovery{s: s}
	var key [16]byte
	_, err := rand.Read(key[:])
	s.disk.key = decodeSipKey(key[:])
	if err == nil {
		err = r.run()
	}
	if err != nil {
		for _, seg := range s.segments.all() {
			s.free(seg)
		}
		for i := range s.shards {
			if t := s.shards[i].table; len(t) > 0 {
				s.release(t)
			}
		}
		return errors.Join(fmt.Errorf("warmtier: open: %w", err), s.closeDisk())
	}
	return nil
}

// recovery is one Open of a directory.
type recovery struct {
	s        *Store
	manifest manifest
	powered  bool // no power loss since the last Open: the page cache is as the process left it
	found    []*recovered
	leftover []string // files of segments that do not count

	perShard int // memories expected in each shard

	mu         sync.Mutex
	tombstones []slotPlace // that may be in the index
	maxSeq     uint64
	records    int
	torn       int64 // bytes cut
	lost       []lostRecord
}

// recovered is one segment file.
type recovered struct {
	seg     *segment
	state   fileState
	bound   uint64
	damaged bool
}

type slotPlace struct {
	sh *shard
	w  slot
}

// lostRecord is a damaged record that a repair goes on without.
type lostRecord struct {
	digest uint32 // of its id
	bound  uint64 // it has no higher sequence number
}

func (r *recovery) run() error {
	fresh, err := r.readManifest()
	if err != nil {
		return err
	}
	if !fresh {
		if err := r.openSegments(); err != nil {
			return err
		}
		r.chooseLocations()
		if !r.loadHint() {
			if err := r.scan(); err != nil {
				return err
			}
			r.dropTombstones()
		}
	}
	r.s.sequence.Store(r.maxSeq)
	if r.s.opts.ReadOnly {
		_, err := r.dropLost()
		return err
	}
	_ = r.s.reach(pointRecoverScanned)
	if err := r.settle(); err != nil {
		return err
	}
	r.report()
	return r.repair()
}

// readManifest reads the manifest; fresh says that the directory is that of a new store.
func (r *recovery) readManifest() (fresh bool, err error) {
	d := r.s.disk
	b, err := d.fs.readFile(manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return r.noManifest()
	}
	if err != nil {
		return false, err
	}
	r.manifest, err = decodeManifest(b)
	switch {
	case errors.Is(err, ErrVersion):
		return false, fmt.Errorf("%s: %w", manifestName, err)
	case err != nil && r.s.opts.Repair:
		r.s.opts.Logger.Error("manifest is damaged, all segment files are taken", "error", err)
		return r.noManifest()
	case err != nil:
		return false, &CorruptError{File: manifestName, Reason: err.Error()}
	}
	d.store = r.manifest.store
	r.powered = r.manifest.boot == d.boot && d.boot != [16]byte{}
	return false, nil
}

// noManifest is a new store, unless there are segments.
func (r *recovery) noManifest() (fresh bool, err error) {
	d := r.s.disk
	names, err := d.fs.names()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if id, ok := parseSegmentFileName(name); ok {
			r.manifest.listed = append(r.manifest.listed, id)
			r.manifest.next = max(r.manifest.next, id+1)
		}
	}
	if len(r.manifest.listed) == 0 {
		if r.s.opts.ReadOnly {
			return false, fmt.Errorf("no store to read: %w", fs.ErrNotExist)
		}
		_, err := rand.Read(d.store[:])
		return true, err
	}
	if !r.s.opts.Repair {
		return false, &CorruptError{File: manifestName, Reason: "missing or damaged, with segments present"}
	}
	return false, nil
}

// openSegments maps the segments that count and puts them into the table.
func (r *recovery) openSegments() error {
	names, err := r.s.disk.fs.names()
	if err != nil {
		return err
	}
	present := map[uint64]bool{}
	highest := r.manifest.next - 1
	for _, name := range names {
		id, ok := parseSegmentFileName(name)
		if !ok {
			continue // not ours
		}
		highest = max(highest, id)
		present[id] = true
		listed := slices.Contains(r.manifest.listed, id)
		if !listed && id < r.manifest.next && !slices.Contains(r.manifest.pending, id) {
			r.leftover = append(r.leftover, name)
			continue
		}
		if err := r.openSegment(id, listed); err != nil {
			return err
		}
	}
	r.s.segments.lastID = highest
	for _, id := range r.manifest.listed {
		if !present[id] {
			err := &CorruptError{File: segmentFileName(id), Reason: "segment file is missing"}
			if !r.s.opts.Repair {
				return err
			}
			r.s.opts.Logger.Error("repair goes on without a segment", "error", err)
		}
	}
	return nil
}

// openSegment maps one file.
func (r *recovery) openSegment(id uint64, listed bool) error {
	name := segmentFileName(id)
	file, err := r.s.disk.fs.open(name, !r.s.opts.ReadOnly)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	mem := file.bytes()
	h, err := decodeFileHeader(mem)
	unfinished := errors.Is(err, errNoHeader) || err != nil && !r.powered
	if err == nil && !listed && h.kind == kindTarget || unfinished && !listed {
		// An unfinished compaction, or a file that was made and not filled.
		r.leftover = append(r.leftover, name)
		return file.close()
	}
	if err == nil {
		err = r.checkHeader(h, id)
	}
	state, ok := fileState{}, false
	if err == nil {
		if state, ok = decodeFileState(mem); !ok {
			err = errors.New("no valid state in the header")
		}
	}
	if err != nil {
		if !errors.Is(err, ErrVersion) {
			err = &CorruptError{File: name, Reason: err.Error()}
		}
		err = errors.Join(err, file.close())
		if r.s.opts.Repair && !errors.Is(err, ErrVersion) {
			r.s.opts.Logger.Error("repair goes on without a segment", "error", err)
			return nil
		}
		return err
	}
	return r.adopt(file, h, state)
}

func (r *recovery) checkHeader(h fileHeader, id uint64) error {
	if r.s.disk.store == (storeID{}) {
		r.s.disk.store = h.store // no manifest: the first segment says which store it is
	}
	if h.id != id {
		return fmt.Errorf("file of segment %d under another's name", h.id)
	}
	if h.store != r.s.disk.store {
		return errors.New("file of another store")
	}
	return nil
}

// adopt puts a mapped segment, empty as yet, into the table.
func (r *recovery) adopt(file mappedFile, h fileHeader, state fileState) error {
	seg := newSegment(h.id, file.bytes(), h.kind)
	r.s.attach(seg, file)
	seg.committed.Store(true)
	seg.generation = state.generation
	seg.large = h.large
	seg.durable.Store(true)
	if err := r.s.segments.assign(seg, r.s.maxSegments()); err != nil {
		r.s.free(seg)
		return err
	}
	r.s.segments.publish(seg)
	r.found = append(r.found, &recovered{seg: seg, state: state, bound: h.bound})
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

// scan reads the segments in parallel.
func (r *recovery) scan() error {
	expected := 0
	for _, f := range r.found {
		expected += int(f.state.records)
	}
	r.perShard = expected / shardCount
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range r.found {
		g.Go(func() error { return r.scanSegment(ctx, f) })
	}
	return g.Wait()
}

// scanSegment reads the records of one segment into the index.
func (r *recovery) scanSegment(ctx context.Context, f *recovered) (err error) {
	defer r.s.catchFault(armFaults(), &err)
	seg := f.seg
	var tombstones []slotPlace
	maxSeq := uint64(0)
	for offset := segmentHeaderSize; !f.ended(offset); {
		if seg.records.Load()%1024 == 0 && ctx.Err() != nil {
			return nil // another segment has failed
		}
		rec := seg.mem[offset:f.end()]
		h, ok := decodeHeader(rec)
		if !ok || !intactRecord(rec, h, seg.seed) {
			next, err := r.damage(f, offset)
			if err != nil {
				return err
			}
			if next < 0 {
				break
			}
			seg.tail.Store(int64(next))
			offset = next
			continue
		}
		seg.grew(1, h.size())
		seg.minSeq = min(seg.minSeq, h.seq)
		maxSeq = max(maxSeq, h.seq)
		place, err := r.putRecord(seg, offset, rec, h)
		if err != nil {
			return err
		}
		if h.kind == kindTombstone {
			seg.tombstones = append(seg.tombstones, uint32(offset/recordAlign))
			tombstones = append(tombstones, place)
		}
		offset += h.size()
	}
	seg.seal(!seg.large && int64(seg.room(1)) > r.s.mergeableRoom())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tombstones = append(r.tombstones, tombstones...)
	r.maxSeq = max(r.maxSeq, maxSeq)
	r.records += int(seg.records.Load())
	return nil
}

// end is where records end at the latest.
func (f *recovered) end() int {
	if f.state.sealed {
		return int(f.state.synced)
	}
	return digestAt(len(f.seg.mem), int(f.seg.records.Load()))
}

func (f *recovered) ended(offset int) bool {
	if f.state.sealed {
		return offset >= f.end()
	}
	return offset+recordHeaderSize > f.end()
}

// damage decides what it means that there is no record at offset: the end of the segment (next is
// negative), an error, or with Repair the offset to go on at.
func (r *recovery) damage(f *recovered, offset int) (next int, err error) {
	mem := f.seg.mem
	unsynced := !f.state.sealed && offset >= int(f.state.synced) // then a header fits behind offset
	if unsynced && (!r.powered || allZero(mem[offset:offset+4])) {
		if !allZero(mem[offset : offset+recordHeaderSize]) {
			r.mu.Lock()
			r.torn += int64(f.end() - offset)
			r.mu.Unlock()
		}
		return -1, nil
	}
	if !r.s.opts.Repair {
		return 0, &CorruptError{File: f.seg.name(), Offset: int64(offset), Reason: "damaged record"}
	}
	f.damaged = true
	return r.resync(f, offset), nil
}

// resync finds the next record behind the damaged one at offset, and remembers what was lost.
func (r *recovery) resync(f *recovered, offset int) (next int) {
	seg := f.seg
	first := int(seg.records.Load())
	number, bound := -1, f.bound
	for next = offset + recordAlign; !f.ended(next); next += recordAlign {
		h, ok := decodeHeader(seg.mem[next:f.end()])
		if !ok || !intactRecord(seg.mem[next:f.end()], h, seg.seed) {
			continue
		}
		number = seg.numberOf(first+1, recordID(seg.mem[next:], h))
		if seg.kind == kindLane {
			bound = h.seq - 1
		}
		break
	}
	if number < 0 { // nothing intact behind it
		next = -1
		number = seg.lastNumber(first, f.state)
		if seg.kind == kindLane {
			bound = math.MaxUint64
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := first; n < number; n++ {
		r.lost = append(r.lost, lostRecord{digest: seg.digestOf(n), bound: bound})
	}
	seg.records.Store(int64(number))
	return next
}

// putRecord puts the record at offset into the index, unless a newer one of its id is there.
func (r *recovery) putRecord(seg *segment, offset int, rec []byte, h header) (slotPlace, error) {
	s := r.s
	id := recordID(rec, h)
	number, tag := splitHash(s.hashBytes(id))
	sh := &s.shards[number]
	w := makeSlot(tag, s.locate(seg, offset))
	place := slotPlace{sh: sh, w: w}
	sh.lane.mu.Lock() // the order of locks, and of prepare, is that of a Put
	defer sh.lane.mu.Unlock()
	if err := s.prepare(sh, max(r.perShard, int(sh.memories.Load())+1)); err != nil {
		return place, err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	pos, old := sh.table.first(tag)
	for ; old != 0; pos, old = sh.table.following(pos, tag) {
		oldSeg, oldOffset := s.resolve(old.location())
		oldRec := oldSeg.mem[oldOffset:]
		oldHeader, _ := decodeHeader(oldRec) // it was valid when it was put there
		if string(recordID(oldRec, oldHeader)) != string(id) {
			continue
		}
		if oldHeader.seq >= h.seq {
			return place, nil
		}
		s.countLive(sh, oldSeg, oldHeader, -1)
		break
	}
	if old == 0 {
		sh.memories.Add(1)
	}
	sh.table.set(pos, w)
	s.countLive(sh, seg, h, 1)
	return place, nil
}

// countLive adds the bytes of a memory's record, or with sign -1 takes them off.
func (s *Store) countLive(sh *shard, seg *segment, h header, sign int64) {
	if h.kind == kindMemory {
		seg.live.Add(sign * int64(h.size()))
		sh.liveBytes.Add(sign * int64(h.size()))
	}
}

// dropTombstones takes the slots of deleted memories out of the index.
func (r *recovery) dropTombstones() {
	for _, p := range r.tombstones {
		if pos, ok := p.sh.table.find(p.w); ok {
			p.sh.table.remove(pos)
			p.sh.memories.Add(-1)
		}
	}
}

// settle makes what was found durable, and the directory as a running store has it.
func (r *recovery) settle() error {
	s, d := r.s, r.s.disk
	for _, f := range r.found {
		tail := f.seg.tail.Load()
		f.seg.sealedInFile.Store(true)
		if f.state.sealed && int64(f.state.synced) == tail || f.damaged {
			f.seg.synced.Store(tail)
			continue
		}
		if err := f.seg.file.sync(0, len(f.seg.mem)); err != nil {
			return err
		}
		f.seg.generation++
		fileState{generation: f.seg.generation, synced: uint64(tail), records: uint32(f.seg.records.Load()), sealed: true}.encode(f.seg.mem)
		if err := f.seg.file.sync(0, segmentHeaderSize); err != nil {
			return err
		}
		f.seg.synced.Store(tail)
	}
	_ = s.reach(pointRecoverSealed)
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.fs.syncDir(); err != nil {
		return err
	}
	if _, err := s.writeManifest(s.snapshotManifest(nil, nil)); err != nil {
		return err
	}
	_ = s.reach(pointRecoverListed)
	for _, name := range r.leftover {
		if err := d.fs.remove(name); err != nil {
			return err
		}
	}
	// The hint is of the past from the next write on. The space kept back is made anew: the old
	// file may be of another size, or unfinished.
	for _, name := range []string{hintName, spareName, manifestTempName} {
		if err := d.fs.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	s.keepSpare()
	return nil
}

// report says in the log what recovery met.
func (r *recovery) report() {
	st := r.s.Stats()
	log := r.s.opts.Logger
	log.Info("store opened", "memories", st.Memories, "segments", st.Segments, "records", r.records,
		"total_bytes", st.TotalBytes, "fragmentation", st.FragmentationRatio, "files_removed", len(r.leftover))
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
