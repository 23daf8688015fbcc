package warmtier

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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

// openDirectory makes s the store of the directory at path, which stays the same one when the working
// directory changes.
func (s *Store) openDirectory(path string) error {
	dir, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("warmtier: open %s: %w", path, err)
	}
	if err := prepareDirectory(dir, s.opts.ReadOnly, syncDirectory); err != nil {
		return fmt.Errorf("warmtier: open %s: %w", dir, err)
	}
	lock, err := lockDirectory(filepath.Join(dir, lockName), s.opts.ReadOnly)
	unlockable := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
	if err != nil && (!s.opts.ReadOnly || !unlockable) {
		return fmt.Errorf("warmtier: open %s: %w", dir, err)
	}
	if lock != nil && !s.opts.ReadOnly {
		pid := fmt.Sprintf("%-19d\n", os.Getpid())
		if _, err := lock.WriteAt([]byte(pid), 0); err != nil {
			return errors.Join(fmt.Errorf("warmtier: open %s: %w", dir, err), unlockDirectory(lock))
		}
	}
	return s.openDisk(&osFileSystem{dir: dir}, lock)
}

// openDisk recovers the store in fs. On an error nothing is mapped or locked.
func (s *Store) openDisk(files fileSystem, lock *os.File) error {
	start := time.Now()
	s.disk = &disk{fs: files, lock: lock, boot: s.bootID(), mapped: map[*byte]trackedMemory{}}
	s.disk.kept = make([]int, s.spares())
	s.disk.changed = sync.NewCond(&s.disk.mu)
	s.disk.failed = func(err error) {
		s.logLater(slog.LevelError, "sync failed, the store takes no more writes", "error", err)
	}
	r := &recovery{s: s}
	var key [16]byte
	_, err := rand.Read(key[:])
	s.disk.key = decodeSipKey(key[:])
	if err == nil {
		err = r.run()
	}
	s.emptyLimbo()
	if err != nil {
		for _, seg := range s.segments.all() {
			s.free(seg)
		}
		for i := range s.shards {
			s.releaseTables([]table{s.shards[i].current()})
		}
		return errors.Join(fmt.Errorf("warmtier: open: %w", err), s.closeDisk())
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
	manifest manifest
	powered  bool // no power loss since the last Open: the page cache is as the process left it
	found    []*recovered
	leftover []string // files of segments that do not count

	hinted   bool   // the index came from the hint
	truth    *truth // with Repair: what the index was at the last Close, where that is known
	perShard int    // memories expected in each shard

	mu         sync.Mutex
	tombstones []slotPlace // that may be in the index
	maxSeq     uint64
	records    int
	torn       int64 // bytes cut
	lost       []lostRecord
	lostIDs    []string // of those whose head is intact
	nameless   error    // records were lost of which not even the id's digest is left
	repaired   RepairReport
}

// recovered is one segment file.
type recovered struct {
	seg       *segment
	state     fileState
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

// lostRecord is a damaged record that a repair goes on without.
type lostRecord struct {
	digest uint32 // of its id
	bound  uint64 // it has no higher sequence number
}

func (r *recovery) run() (err error) {
	defer r.forgetTruth()
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
	_ = r.s.reach(pointRecoverScanned)
	if err := r.settle(); err != nil {
		return err
	}
	r.report()
	if !r.s.opts.Repair { // which needs the hint, and that knows segments as they were
		r.offerUnfilled()
	}
	return r.repair()
}

// readRecords makes the index, from the hint or from the records themselves.
func (r *recovery) readRecords() error {
	if r.s.opts.Repair {
		r.truth = r.readTruth()
	} else if r.hinted = r.loadHint(); r.hinted {
		return nil
	}
	if err := r.scan(); err != nil {
		return err
	}
	if r.nameless != nil && r.truth == nil {
		return r.nameless
	}
	r.dropTombstones()
	return nil
}

// readManifest reads the manifest; fresh says that the directory is that of a new store.
func (r *recovery) readManifest() (fresh bool, err error) {
	d := r.s.disk
	b, err := d.fs.readFile(manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return r.noManifest("missing, with segments present")
	}
	if err != nil {
		return false, err
	}
	m, whole, err := decodeManifest(b)
	switch {
	case errors.Is(err, ErrVersion):
		return false, fmt.Errorf("%s: %w", manifestName, err)
	case err != nil:
		return r.noManifest(err.Error())
	case !whole:
		r.s.opts.Logger.Warn("one of the manifest's two copies is damaged, the other one is used")
	}
	r.manifest = m
	d.store = m.store
	r.powered = m.boot == d.boot && d.boot != [16]byte{}
	if r.s.opts.Repair { // until it has replaced what a power loss may have torn: see replace
		d.boot = m.boot
	}
	return false, nil
}

// noManifest is a new store, unless there are segments. A repair then asks the hint which of them
// count: files of finished compactions may be among them, and hold what was deleted.
func (r *recovery) noManifest(reason string) (fresh bool, err error) {
	d := r.s.disk
	names, err := d.fs.names()
	if err != nil {
		return false, err
	}
	highest := uint64(0)
	for _, name := range names {
		id, _ := parseSegmentFileName(name)
		highest = max(highest, id)
	}
	if highest == 0 && !slices.Contains(names, manifestName) {
		if r.s.opts.ReadOnly {
			return false, fmt.Errorf("no store to read: %w", fs.ErrNotExist)
		}
		if _, err := rand.Read(d.store[:]); err != nil {
			return false, err
		}
		return true, r.findUnfinished(names)
	}
	damage := &CorruptError{File: manifestName, Reason: reason}
	if !r.s.opts.Repair {
		return false, damage
	}
	if d.store, r.manifest.listed, err = r.segmentsOfHint(); err != nil {
		damage.Reason += "; it cannot be replaced: " + err.Error()
		return false, damage
	}
	r.manifest.next = max(highest, slices.Max(append(r.manifest.listed, 0))) + 1
	d.boot = [16]byte{} // as in readManifest: nobody knows
	r.s.opts.Logger.Error("repair takes the list of segments from the hint", "error", damage)
	return false, nil
}

// openSegments maps the segments that count and puts them into the table.
func (r *recovery) openSegments() error {
	names, err := r.s.disk.fs.names()
	if err != nil {
		return err
	}
	if err := r.findUnfinished(names); err != nil {
		return err
	}
	listed, pending, present := setOf(r.manifest.listed), setOf(r.manifest.pending), map[uint64]bool{}
	highest := r.manifest.next - 1
	for _, name := range names {
		id, ok := parseSegmentFileName(name)
		if !ok {
			continue // not ours
		}
		highest = max(highest, id)
		counts := listed[id] || id >= r.manifest.next || pending[id]
		present[id], err = r.openSegment(id, listed[id], counts)
		if err != nil {
			return err
		}
	}
	r.s.segments.lastID = highest
	for _, id := range r.manifest.listed {
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
		base, unnamed := strings.CutSuffix(name, newSuffix)
		id, ok := parseSegmentFileName(base)
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
	file, err := r.s.disk.fs.open(name, false)
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	mem := file.bytes()
	r.s.disk.track(name, mem)
	defer func() {
		r.s.disk.untrack(mem)
		err = errors.Join(err, file.close())
	}()
	defer r.s.catchFault(armFaults(), &err)
	magic := mem[:min(len(segmentMagic), len(mem))]
	switch {
	case allZero(magic):
		return true, nil
	case string(magic) != segmentMagic[:len(magic)]:
		return false, nil
	case len(mem) < segmentHeaderSize: // what a power loss left of it
		return true, nil
	}
	return storeID(mem[32:48]) == r.s.disk.store, nil
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
	name := segmentFileName(id)
	file, err := r.s.disk.fs.open(name, !r.s.opts.ReadOnly)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	// A fault on a file that is no segment's yet.
	r.s.disk.track(name, file.bytes())
	f, err := r.examine(file.bytes(), id, listed, counts)
	if err != nil || f == nil {
		r.s.disk.untrack(file.bytes())
		return false, errors.Join(err, file.close())
	}
	return true, r.adopt(file, f)
}

// examine says what the file of a segment is, by its header; nil when it does not count.
func (r *recovery) examine(mem []byte, id uint64, listed, counts bool) (_ *recovered, err error) {
	defer r.s.catchFault(armFaults(), &err)
	name := segmentFileName(id)
	h, err := decodeFileHeader(mem)
	if errors.Is(err, errNoHeader) && r.powered && counts {
		err = errors.New("no header, without which it would not have its name")
	}
	ours := err == nil && h.id == id && (h.store == r.s.disk.store || r.s.disk.store == storeID{})
	switch {
	case errors.Is(err, ErrVersion):
		return nil, fmt.Errorf("%s: %w", name, err)
	case errors.Is(err, errNoHeader) && !listed, ours && !counts, ours && !listed && h.kind == kindTarget,
		(err != nil || h.capacity != uint64(len(mem))) && !listed && counts && !r.powered:
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
				h.id, h.store, id, r.s.disk.store)}
		}
		return nil, nil
	}
	f := &recovered{seg: newSegment(id, mem, h.kind)}
	f.seg.large = h.large
	if err == nil && h.capacity != uint64(len(mem)) {
		f.noDigests = true
		err = fmt.Errorf("file has %d bytes, its header says %d", len(mem), h.capacity)
	}
	state, ok := decodeFileState(mem, h.capacity)
	if ours && !ok {
		err = errors.New("no valid state in the header")
	}
	if err != nil {
		if !r.s.opts.Repair {
			return nil, &CorruptError{File: name, Reason: err.Error()}
		}
		if len(mem) < segmentHeaderSize {
			return nil, r.missing(id, err.Error())
		}
		r.s.opts.Logger.Error("repair goes on with a damaged segment", "file", name, "error", err)
		f.damaged = true
	}
	if f.rebuilt = !ours || !ok; f.rebuilt {
		state = fileState{generation: 1, synced: segmentHeaderSize, maxSeq: math.MaxUint64}
		f.seg.large = false
	}
	f.state = state
	return f, nil
}

// missing is the error of a listed segment of which there is nothing to be read; none with Repair.
func (r *recovery) missing(id uint64, reason string) error {
	err := &CorruptError{File: segmentFileName(id), Reason: reason}
	if !r.s.opts.Repair {
		return err
	}
	r.s.opts.Logger.Error("repair goes on without a segment", "error", err)
	r.loseNameless(err)
	return nil
}

// loseNameless notes that records are lost for the reason in damage, and nobody knows of which
// memories. REQUIRES: r.mu held, or nobody else knows r.
func (r *recovery) loseNameless(damage *CorruptError) {
	damage.Reason += "; nothing says of which memories records are lost, whose older versions must not " +
		"come back: a repair of this needs the hint of a clean Close"
	r.nameless = damage
}

// adopt puts a mapped segment, empty as yet, into the table.
func (r *recovery) adopt(file mappedFile, f *recovered) error {
	seg := f.seg
	r.s.attach(seg, file)
	if r.s.disk.store == (storeID{}) {
		r.s.disk.store = storeID(seg.mem[32:48])
	}
	seg.committed.Store(true)
	seg.generation = f.state.generation
	seg.durable.Store(true)
	if err := r.s.segments.assign(seg, r.s.maxSegments()); err != nil {
		r.s.free(seg)
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

// scan reads the segments in parallel.
func (r *recovery) scan() error {
	expected := 0
	for _, f := range r.found {
		expected += int(f.state.records)
	}
	r.perShard = expected / shardCount
	var next atomic.Int32
	g, ctx := errgroup.WithContext(context.Background())
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() (err error) {
			defer r.s.catchFault(armFaults(), &err)
			var batches shardBatches
			for i := int(next.Add(1)) - 1; i < len(r.found); i = int(next.Add(1)) - 1 {
				if err := r.scanSegment(ctx, r.found[i], &batches); err != nil {
					return err
				}
			}
			for number := range batches {
				if err := r.putBatch(&batches, number); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// scanSegment reads the records of one segment into batches, and so into the index.
func (r *recovery) scanSegment(ctx context.Context, f *recovered, batches *shardBatches) error {
	seg := f.seg
	var tombstones []slotPlace
	torn := false
	for offset := segmentHeaderSize; !f.ended(offset); {
		if seg.records.Load()%1024 == 0 && ctx.Err() != nil {
			return nil // another segment has failed
		}
		rec := seg.mem[offset:f.end()]
		h, ok := decodeHeader(rec)
		if !ok || !intactRecord(rec, h, seg.seedAt(offset)) {
			next, err := r.damage(f, offset)
			if err != nil {
				return err
			}
			if torn = next < 0; torn {
				break
			}
			seg.tail.Store(int64(next))
			offset = next
			continue
		}
		r.checkDigest(f, offset, recordID(rec, h))
		seg.grew(1, h.size())
		seg.contains(h.seq)
		place, err := r.add(batches, seg, offset, recordID(rec, h), h)
		if err != nil {
			return err
		}
		if h.kind == kindTombstone {
			seg.holdsTombstone(offset, h.size())
			tombstones = append(tombstones, place)
		}
		offset += h.size()
	}
	seg.seal(!seg.large && int64(seg.room(1)) > r.s.mergeableRoom())
	r.mu.Lock()
	defer r.mu.Unlock()
	known := seg.records.Load()
	cut := f.noDigests && (known < int64(f.state.records) || !f.state.sealed && !torn)
	if cut || f.rebuilt && known == 0 {
		r.loseNameless(&CorruptError{File: seg.name(), Offset: seg.tail.Load(), Reason: "no record can be read from here on"})
	}
	r.tombstones = append(r.tombstones, tombstones...)
	r.maxSeq = max(r.maxSeq, seg.maxSeq)
	r.records += int(seg.records.Load())
	return nil
}

// checkDigest holds the id of the next record against its digest. A power loss may have kept the one
// and not the other.
func (r *recovery) checkDigest(f *recovered, offset int, id []byte) {
	n := int(f.seg.records.Load())
	switch {
	case f.noDigests || f.seg.digestOf(n) == digest(id):
	case !f.state.sealed && offset >= int(f.state.synced) && !r.s.opts.ReadOnly:
		f.redigest = append(f.redigest, missingDigest{n: n, id: id})
	default:
		f.damaged = true
	}
}

// end is where records end at the latest.
func (f *recovered) end() int {
	switch {
	case f.state.sealed:
		return min(int(f.state.synced), len(f.seg.mem))
	case f.noDigests:
		return len(f.seg.mem)
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
	unsynced := !f.state.sealed && !f.rebuilt && offset >= int(f.state.synced)
	if unsynced && offset+recordHeaderSize <= len(mem) &&
		(!r.powered || allZero(mem[offset:offset+4]) && !f.goesOn(offset)) {
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

// goesOn reports whether a record was written behind the one at offset: its digest came first.
func (f *recovered) goesOn(offset int) bool {
	at := digestAt(len(f.seg.mem), int(f.seg.records.Load())+1)
	return !f.noDigests && at >= offset+recordHeaderSize && !allZero(f.seg.mem[at:at+digestSize])
}

// resync finds the next record behind the damaged one at offset, and remembers what was lost. next is
// negative when nothing behind it is intact.
func (r *recovery) resync(f *recovered, offset int) (next int) {
	seg := f.seg
	first := int(seg.records.Load())
	rec := seg.mem[offset:f.end()]
	if h, ok := decodeHeader(rec); ok && intactHead(rec, h, seg.seedAt(offset)) { // only the content
		seg.records.Add(1)
		seg.contains(h.seq)
		// A copy with the same number is the same version, and may be intact.
		r.lose(lostRecord{digest: digest(recordID(rec, h)), bound: h.seq - 1})
		r.mu.Lock()
		defer r.mu.Unlock()
		r.lostIDs = append(r.lostIDs, string(recordID(rec, h)))
		return offset + h.size()
	}
	number, lostTo, bound := -1, -1, f.state.maxSeq
	for next = offset + recordAlign; !f.ended(next); next += recordAlign {
		rec := seg.mem[next:f.end()]
		h, ok := decodeHeader(rec)
		if !ok || !intactRecord(rec, h, seg.seedAt(next)) {
			continue
		}
		if !f.noDigests {
			number, lostTo = f.numberOf(first+1, next)
		}
		if seg.kind == kindLane {
			bound = h.seq - 1
		}
		break
	}
	if f.noDigests {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.loseNameless(&CorruptError{File: seg.name(), Offset: int64(offset), Reason: "damaged record in a file cut short"})
		if f.ended(next) {
			return -1
		}
		return next
	}
	if number < 0 { // nothing intact behind it
		next = -1
		number = seg.lastNumber(first, f.state)
		lostTo = number
		if !f.state.sealed {
			bound = math.MaxUint64 // beyond what the state knows
		}
	}
	for n := first; n < lostTo; n++ { // too many do no harm: bound is below what they may be
		r.lose(lostRecord{digest: seg.digestOf(n), bound: bound})
	}
	seg.records.Store(int64(number))
	return next
}

func (r *recovery) lose(l lostRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, l)
}

// scanBatch is how many records of one shard a scan collects before it takes the shard's locks: its
// table is in the processor's cache for all but the first of them.
const scanBatch = 64

// scanned is a record on its way into the index.
type scanned struct {
	w    slot
	seg  *segment
	seq  uint64
	size uint32 // 0 for a tombstone: it makes nothing live
}

// shardBatches are the records that one goroutine has collected.
type shardBatches [shardCount][]scanned

// add collects the record at offset, and says where its slot will be if it is the newest of its id.
func (r *recovery) add(b *shardBatches, seg *segment, offset int, id []byte, h header) (slotPlace, error) {
	s := r.s
	number, tag := splitHash(s.hashBytes(id))
	sc := scanned{w: makeSlot(tag, s.locate(seg, offset)), seg: seg, seq: h.seq}
	if h.kind == kindMemory {
		sc.size = uint32(h.size())
	}
	b[number] = append(b[number], sc)
	place := slotPlace{sh: &s.shards[number], w: sc.w}
	if len(b[number]) < scanBatch {
		return place, nil
	}
	return place, r.putBatch(b, number)
}

// putBatch puts what b has for a shard into the index.
func (r *recovery) putBatch(b *shardBatches, number int) error {
	s, sh := r.s, &r.s.shards[number]
	batch := b[number]
	b[number] = batch[:0]
	if len(batch) == 0 {
		return nil
	}
	sh.lane.mu.Lock() // the order of locks, and of prepare, is that of a Put
	defer sh.lane.mu.Unlock()
	if err := s.prepare(sh, max(r.perShard, int(sh.memories.Load())+len(batch))); err != nil {
		return err
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, sc := range batch {
		s.putScanned(sh, sc)
	}
	return nil
}

// putScanned puts a record into the index, unless a newer one of its id is there. Equal sequence
// numbers are copies: the one at the lower location stays, whichever came first, so that recovery
// always ends the same. REQUIRES: sh.mu held.
func (s *Store) putScanned(sh *shard, sc scanned) {
	pos, old := sh.current().first(sc.w.tag())
	for ; old != 0; pos, old = sh.current().following(pos, sc.w.tag()) {
		oldSeg, oldHeader, same := s.sameID(old, sc.w)
		if !same {
			continue
		}
		if oldHeader.seq > sc.seq || oldHeader.seq == sc.seq && old.location() < sc.w.location() {
			return
		}
		countDead(sh, oldSeg, oldHeader)
		break
	}
	if old == 0 {
		sh.memories.Add(1)
	}
	sh.current().set(pos, sc.w)
	sc.seg.live.Add(int64(sc.size))
	sh.liveBytes.Add(int64(sc.size))
}

// sameID compares the ids of two records, which are known to be intact, and returns segment and header
// of the first.
func (s *Store) sameID(a, b slot) (seg *segment, h header, same bool) {
	seg, offset := s.resolve(a.location())
	other, at := s.resolve(b.location())
	h, _ = decodeHeader(seg.mem[offset:])
	oh, _ := decodeHeader(other.mem[at:])
	return seg, h, string(recordID(seg.mem[offset:], h)) == string(recordID(other.mem[at:], oh))
}

// countDead takes the bytes of a memory's record off the live ones.
func countDead(sh *shard, seg *segment, h header) {
	if h.kind == kindMemory {
		seg.live.Add(-int64(h.size()))
		sh.liveBytes.Add(-int64(h.size()))
	}
}

// dropTombstones takes the slots of deleted memories out of the index.
func (r *recovery) dropTombstones() {
	for _, p := range r.tombstones {
		if pos, ok := p.sh.current().find(p.w); ok {
			p.sh.current().remove(pos)
			p.sh.memories.Add(-1)
		}
	}
}

// settle makes what was found durable, and the directory as a running store has it.
func (r *recovery) settle() error {
	s, d := r.s, r.s.disk
	r.dropEmpty()
	if err := r.settleSegments(); err != nil {
		return err
	}
	_ = s.reach(pointRecoverSealed)
	// The hint is of the past from the next write on: its removal must be durable before that, or it
	// could come back and be believed; a repair needs it to the end. Spares are made anew: the old
	// ones may be of another size, or unfinished, and on a full disk the manifest needs some of it.
	names := []string{manifestTempName}
	if !s.opts.Repair {
		names = append(names, hintName)
	}
	for i := range laneSpares + maxLanes {
		names = append(names, spareFileName(i))
	}
	for _, name := range names {
		if err := d.fs.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
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
	s.keepSpares()
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
			s.free(seg)
		}
	}
}

// offerUnfilled lets lanes go on in segments that have room.
func (r *recovery) offerUnfilled() {
	var segs []*segment
	for _, f := range r.found {
		seg := f.seg
		if seg.kind == kindLane && !seg.large && seg.early.Load() && len(seg.mem) == r.s.opts.SegmentSize && !f.damaged {
			segs = append(segs, seg)
		}
	}
	r.s.segments.setUnfilled(segs)
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
	seg.sealedInFile.Store(true)
	seg.synced.Store(e.tail)
	settled := f.state.sealed && int64(f.state.synced) == e.tail
	switch {
	case f.damaged && r.s.opts.Repair:
		return nil // it is replaced; without Repair no more than digests are damaged
	case settled && r.hinted:
		return nil
	case settled && (r.powered || !seg.clearRemains()):
		// After a kill it may be in the page cache only.
		seg.file.rewrite(0, segmentHeaderSize)
		return seg.file.sync(0, segmentHeaderSize)
	}
	for _, d := range f.redigest {
		seg.putDigest(d.n, d.id)
	}
	seg.clearRemains()
	seg.file.rewrite(0, segmentHeaderSize)
	seg.file.rewrite(min(int(f.state.synced), int(e.tail)), int(e.tail))
	seg.file.rewrite(digestAt(len(seg.mem), int(e.records)-1), len(seg.mem))
	if err := seg.file.sync(0, len(seg.mem)); err != nil {
		return err
	}
	seg.writeState(e, true)
	return seg.file.sync(0, segmentHeaderSize)
}

// clearRemains makes zero what lies behind the records of seg, and reports whether anything did. Records
// that were cut off may be intact there: they would count again if the state that says where the segment
// ends were damaged, and behind a new record of the right length. After a power loss they may lie behind
// a sealed segment too: a lane had gone on in it, and its old header is back.
func (seg *segment) clearRemains() (found bool) {
	for rest := seg.rest(); len(rest) > 0; rest = rest[min(pageSize, len(rest)):] {
		if part := rest[:min(pageSize, len(rest))]; !isZero(part) {
			clear(part)
			found = true
		}
	}
	return found
}

// rest is what lies between the records of seg and their digests.
func (seg *segment) rest() []byte {
	return seg.mem[seg.tail.Load() : len(seg.mem)-digestSize*int(seg.records.Load())]
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
