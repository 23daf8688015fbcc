//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

/*
Goal: damage is never silent. Whatever happens to a file, the store gives the right content, returns
ErrCorrupt (ErrVersion where the version was hit), or does not open; it never gives wrong content, an
older version or a deleted memory, and never says that a memory which is there is not. With Repair it
opens, and loses nothing but what was hit.

Method: the files of a small store are taken into memory; one damage at a time is done to them, and
they are written out and opened. Three stores: one closed, with its hint; the same without; and one as
a kill leaves it. Where each record lies is read from the files, so that it is known which memory a
damage touches. What goes wrong is collected by kind, with an example of each.

One bit of each byte of headers, manifests, states and digests is always tried. Of everything else it
is a random part, as far as the time allows: WARMTIER_TEST_DURATION is the time for each subtest
(default 500ms), and 1h does everything.
*/

// image is a directory in memory.
type image map[string][]byte

func loadImage(t testing.TB, dir string) image {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	img := image{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), spareName) {
			continue // its bytes mean nothing
		}
		img[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
	}
	return img
}

// write makes dir hold img and nothing else.
func (img image) write(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if _, ok := img[e.Name()]; !ok {
			require.NoError(t, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	for name, b := range img {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, fileMode))
	}
}

func (img image) segments() (names []string) {
	for name := range img {
		if _, ok := parseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// damageStore is an image and what is in it.
type damageStore struct {
	name    string
	img     image
	want    map[string][]byte
	ids     []string // of want, and of deleted memories
	records []placedRecord
	killed  bool
}

// placedRecord is a record of an image.
type placedRecord struct {
	file     string
	from, to int
	id       string
	newest   bool // decides what its memory is
	last     bool // of its segment
}

const damageIDs = 14

func damageContent(i, version int) []byte {
	// Records of 128 bytes, so that blocks copied from elsewhere begin with a record.
	return contentOf(i, version, 128-recordHeaderSize-len(idOf(i)))
}

// damageStores returns the stores.
func damageStores(t testing.TB) []damageStore {
	dir := fastDir(t)
	opts := quiet()
	opts.SyncInterval = -1
	s := openDir(t, dir, opts)
	want := map[string][]byte{}
	version := 0
	put := func(is ...int) {
		version++
		for _, i := range is {
			want[idOf(i)] = damageContent(i, version)
			require.NoError(t, s.Put(idOf(i), want[idOf(i)]))
		}
	}
	remove := func(is ...int) {
		for _, i := range is {
			delete(want, idOf(i))
			existed, err := s.Delete(idOf(i))
			require.NoError(t, err)
			require.True(t, existed)
		}
	}
	put(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	put(1, 3, 5, 7)
	remove(0, 8)
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	put(2, 3, 10, 11)
	remove(4)
	require.NoError(t, s.Sync())
	put(2, 3, 5, 12)
	remove(10, 9)
	put(2, 11, 13)
	put(2, 9)
	killed := loadImage(t, dir)
	killedWant := maps.Clone(want)
	require.NoError(t, s.Close())
	closed := loadImage(t, dir)
	require.Contains(t, closed, hintName)
	bare := maps.Clone(closed)
	delete(bare, hintName)
	stores := []damageStore{
		{name: "closed", img: closed, want: want},
		{name: "closed without hint", img: bare, want: want},
	}
	if !raceEnabled { // heap segments reach their files with Sync and Close only
		stores = append(stores, damageStore{name: "killed", img: killed, want: killedWant, killed: true})
	}
	for i := range stores {
		stores[i].ids = make([]string, damageIDs)
		for j := range stores[i].ids {
			stores[i].ids[j] = idOf(j)
		}
		stores[i].parse(t)
	}
	return stores
}

// parse finds the records.
func (d *damageStore) parse(t testing.TB) {
	t.Helper()
	newest := map[string]uint64{}
	seqs := map[int]uint64{}
	for _, name := range d.img.segments() {
		b := d.img[name]
		number, _ := parseSegmentFileName(name)
		seg := newSegment(number, b, kindLane)
		for at := segmentHeaderSize; ; {
			h, ok := decodeHeader(b[at:])
			if !ok || !intactRecord(b[at:], h, seg.seedAt(at)) {
				break
			}
			id := string(recordID(b[at:], h))
			newest[id] = max(newest[id], h.seq)
			seqs[len(d.records)] = h.seq
			d.records = append(d.records, placedRecord{file: name, from: at, to: at + h.size(), id: id})
			at += h.size()
		}
		if n := len(d.records); n > 0 && d.records[n-1].file == name {
			d.records[n-1].last = true
		}
	}
	for i := range d.records {
		d.records[i].newest = seqs[i] == newest[d.records[i].id]
	}
	require.GreaterOrEqual(t, len(d.records), 20)
}

// used is where the records of a segment file end, and how many there are.
func (d *damageStore) used(file string) (end, records int) {
	end = segmentHeaderSize
	for _, r := range d.records {
		if r.file == file {
			end, records = max(end, r.to), records+1
		}
	}
	return end, records
}

// damage is one thing that happens to one file.
type damage struct {
	file     string
	name     string
	from, to int  // bytes that change
	must     bool // to be tried in every run
	apply    func(b []byte) []byte
}

func (d damage) String() string { return d.file + ": " + d.name }

// touched are the memories whose newest record a damage hits.
func (d *damageStore) touched(x damage) map[string]bool {
	m := map[string]bool{}
	for _, r := range d.records {
		if r.newest && r.file == x.file && r.from < x.to && x.from < r.to {
			m[r.id] = true
		}
	}
	return m
}

// looksUnfinished are the memories a damage may take away unnoticed from a store that was killed: it
// left the last record of a segment as a kill in the middle of its Put would have.
func (d *damageStore) looksUnfinished(x damage) map[string]bool {
	m := map[string]bool{}
	if !d.killed {
		return m
	}
	after := x.apply(bytes.Clone(d.img[x.file]))
	for _, r := range d.records {
		if r.file == x.file && r.last && r.to <= len(after) && allZero(after[r.from:r.from+4]) {
			m[r.id] = true
		}
	}
	return m
}

// bitFlips are all single bits that mean something, and a sample of those that do not.
func (d *damageStore) bitFlips(rng *rand.Rand) (list []damage) {
	flip := func(file string, at, bit int, must bool) {
		list = append(list, damage{file: file, name: fmt.Sprintf("bit %d of byte %d", bit, at),
			from: at, to: at + 1, must: must, apply: func(b []byte) []byte {
				b[at] ^= 1 << bit
				return b
			}})
	}
	for name, b := range d.img {
		var end, records int
		structural := func(at int) bool { return true }
		_, isSegment := parseSegmentFileName(name)
		switch {
		case name == manifestName:
			end = len(b)
		case name == hintName:
			end = len(b)
			structural = func(at int) bool { return at < hintHeaderSize+3*hintSegmentSize }
		case isSegment:
			end, records = d.used(name)
			structural = func(at int) bool { return at < segmentHeaderSize }
		default:
			continue // LOCK means nothing
		}
		for at := range end {
			first := rng.IntN(8)
			for bit := range 8 {
				flip(name, at, bit, structural(at) && bit == first)
			}
		}
		if !isSegment {
			continue
		}
		for at := digestAt(len(b), records); at < len(b); at++ { // one digest more than there are
			flip(name, at, rng.IntN(8), true)
		}
		for range 100 {
			flip(name, end+rng.IntN(digestAt(len(b), records)-end), rng.IntN(8), false)
		}
		for at := end; at < end+recordHeaderSize; at++ { // where the next record would begin
			flip(name, at, rng.IntN(8), true)
		}
	}
	return list
}

// truncations are the lengths a file can be cut to.
func (d *damageStore) truncations() (list []damage) {
	for name, b := range d.img {
		cut := func(n int, must bool) {
			list = append(list, damage{file: name, name: fmt.Sprintf("cut to %d bytes", n), from: n, to: len(b), must: must,
				apply: func(b []byte) []byte { return b[:n] }})
		}
		_, isSegment := parseSegmentFileName(name)
		switch {
		case name == lockName:
		case !isSegment:
			for n := range b {
				if n < 256 || n%64 == 0 {
					cut(n, name == manifestName || n < 256)
				}
			}
		default:
			end, records := d.used(name)
			for n := range b {
				inside := n <= segmentHeaderSize || n >= digestAt(len(b), records)
				if inside || n%8 == 0 {
					cut(n, inside || n < end && n%32 == 0)
				}
			}
		}
	}
	return list
}

// blocks are sectors and pages that were zeroed, or overwritten with others.
func (d *damageStore) blocks(rng *rand.Rand) (list []damage) {
	overwrite := func(file, name string, at int, with []byte, must bool) {
		if bytes.Equal(d.img[file][at:at+len(with)], with) {
			return
		}
		list = append(list, damage{file: file, name: name, from: at, to: at + len(with), must: must,
			apply: func(b []byte) []byte {
				copy(b[at:], with)
				return b
			}})
	}
	for _, file := range d.img.segments() {
		b := d.img[file]
		end, records := d.used(file)
		means := func(at, size int) bool { return at < end || at+size > digestAt(len(b), records) }
		for _, size := range []int{512, 4096} {
			for at := 0; at < len(b); at += size {
				if means(at, size) {
					overwrite(file, fmt.Sprintf("%d bytes zeroed at %d", size, at), at, make([]byte, size), true)
				}
				for _, other := range d.img.segments() {
					for from := 0; from < len(d.img[other]); from += size {
						what := fmt.Sprintf("%d bytes at %d overwritten with those at %d of %s", size, at, from, other)
						overwrite(file, what, at, d.img[other][from:from+size], means(at, size) && from < end)
					}
				}
			}
		}
		// Records are not aligned to sectors; blocks that begin with one are the worst.
		for at := segmentHeaderSize; at+128 <= end; at += 8 {
			from := segmentHeaderSize + 8*rng.IntN((end-segmentHeaderSize)/8)
			size := min(128*(1+rng.IntN(4)), end-at, end-from)
			overwrite(file, fmt.Sprintf("%d bytes at %d overwritten with those at %d", size, at, from), at,
				bytes.Clone(b[from:from+size]), true)
		}
		for _, r := range d.records {
			for _, q := range d.records {
				if r.file == file && q.file == file && r.to-r.from == q.to-q.from {
					overwrite(file, fmt.Sprintf("record at %d overwritten with that at %d", r.from, q.from), r.from,
						b[q.from:q.to], true)
				}
			}
		}
		for range 40 {
			garbage := make([]byte, 1+rng.IntN(300))
			for i := range garbage {
				garbage[i] = byte(rng.Uint32())
			}
			overwrite(file, fmt.Sprintf("%d random bytes behind the last record", len(garbage)), end, garbage, true)
			at := end + 8*rng.IntN(100)
			overwrite(file, fmt.Sprintf("%d random bytes at %d", len(garbage), at), at, garbage, true)
			for i, c := range garbage { // lengths of all sizes, in what could be a header
				garbage[i] = []byte{0, 1, 2, 0xff, c}[rng.IntN(5)]
			}
			overwrite(file, fmt.Sprintf("%d hostile bytes behind the last record", len(garbage)), end, garbage, true)
		}
	}
	return list
}

// outcomes counts what the trials of a test came to.
type outcomes struct {
	counts   map[string]int
	problems map[string][]string // by kind
}

func newOutcomes() *outcomes {
	return &outcomes{counts: map[string]int{}, problems: map[string][]string{}}
}

func (o *outcomes) problem(kind string, x damage, detail any) {
	o.problems[kind] = append(o.problems[kind], fmt.Sprintf("%v: %v", x, detail))
}

// require fails when there were problems, with a few of each kind.
func (o *outcomes) require(t testing.TB) {
	t.Helper()
	t.Log(o.counts)
	var lines []string
	for kind, list := range o.problems {
		lines = append(lines, fmt.Sprintf("%s: %d times", kind, len(list)))
		for _, example := range list[:min(4, len(list))] {
			lines = append(lines, "\t"+example)
		}
	}
	if len(lines) > 0 {
		require.Fail(t, "damage was not handled", "%s", strings.Join(lines, "\n"))
	}
}

// trials calls try for the damages of list: for those that must be tried, and as many others as there
// is time for, in random order.
func trials(t testing.TB, rng *rand.Rand, list []damage, try func(damage)) {
	t.Helper()
	budget := 500 * time.Millisecond
	if v := os.Getenv("WARMTIER_TEST_DURATION"); v != "" {
		var err error
		budget, err = time.ParseDuration(v)
		require.NoError(t, err)
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	slices.SortStableFunc(list, func(a, b damage) int {
		switch {
		case a.must == b.must:
			return 0
		case a.must:
			return -1
		}
		return 1
	})
	start := time.Now()
	for i, x := range list {
		late := time.Since(start) > budget
		if late && (!x.must || raceEnabled) {
			t.Logf("%d of %d damages tried", i, len(list))
			return
		}
		try(x)
	}
	t.Logf("all %d damages tried", len(list))
}

// damageTest runs test for each store, with a directory of its own.
func damageTest(t *testing.T, test func(t *testing.T, d damageStore, dir string, rng *rand.Rand)) {
	rng := seeded(t)
	for _, d := range damageStores(t) {
		seed := rng.Uint64()
		t.Run(strings.ReplaceAll(d.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			test(t, d, fastDir(t), rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

// tryReading opens the damaged store, read-only so that the next trial needs no new files.
func (d *damageStore) tryReading(t testing.TB, dir string, x damage, o *outcomes) {
	path := filepath.Join(dir, x.file)
	require.NoError(t, os.WriteFile(path, x.apply(bytes.Clone(d.img[x.file])), fileMode))
	defer func() { require.NoError(t, os.WriteFile(path, d.img[x.file], fileMode)) }()
	opts := quiet()
	opts.ReadOnly = true
	s, err := Open(dir, opts)
	if err != nil {
		o.counts["not opened"]++
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			o.problem("open fails with neither ErrCorrupt nor ErrVersion", x, err)
		}
		return
	}
	d.checkDamaged(s, x, d.looksUnfinished(x), o)
	require.NoError(t, s.Close())
}

// copied collects what is valid for one step only.
func copied(all iter.Seq2[string, []byte]) map[string][]byte {
	m := map[string][]byte{}
	for id, content := range all {
		m[id] = bytes.Clone(content)
	}
	return m
}

// checkDamaged reads every memory of an opened store. Those in free may also be absent or older.
func (d *damageStore) checkDamaged(s *Store, x damage, free map[string]bool, o *outcomes) {
	corrupt := 0
	listed := copied(s.All())
	for _, id := range d.ids {
		if free[id] {
			continue
		}
		want, present := d.want[id]
		got, err := s.Get(id)
		switch {
		case errors.Is(err, ErrCorrupt):
			corrupt++
			continue // All may leave it out
		case err == nil && !present:
			o.problem("deleted memory is back", x, id)
		case err == nil && !bytes.Equal(got, want):
			o.problem("wrong content or older version", x, id+" is "+describe(got, true)+", want "+describe(want, true))
		case errors.Is(err, ErrNotFound) && present:
			o.problem("memory is gone", x, id)
		case err != nil && !errors.Is(err, ErrNotFound):
			o.problem("Get returns another error", x, err)
		}
		content, there := listed[id]
		if there != present || !bytes.Equal(content, want) {
			o.problem("All differs from what is there", x, id)
		}
	}
	if len(free) == 0 && s.Len() != len(d.want) {
		o.problem("Len is wrong", x, s.Len())
	}
	if corrupt > 0 {
		o.counts["ErrCorrupt"]++
	} else {
		o.counts["right"]++
	}
}

func TestDamage_BitFlips(t *testing.T) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, d.bitFlips(rng), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

func TestDamage_Truncations(t *testing.T) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, d.truncations(), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

func TestDamage_Blocks(t *testing.T) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, d.blocks(rng), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

// tryWriting opens the damaged store for writing: what Open changes in the directory must not make
// anything worse for the Open after it.
func (d *damageStore) tryWriting(t testing.TB, dir string, x damage, o *outcomes) {
	damaged := maps.Clone(d.img)
	damaged[x.file] = x.apply(bytes.Clone(d.img[x.file]))
	damaged.write(t, dir)
	for range 2 {
		s, err := Open(dir, quiet())
		if err != nil {
			o.counts["not opened"]++
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				o.problem("open fails with neither ErrCorrupt nor ErrVersion", x, err)
			}
			return
		}
		d.checkDamaged(s, x, d.looksUnfinished(x), o)
		require.NoError(t, s.Close())
	}
}

func TestDamage_OpenForWriting(t *testing.T) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := slices.Concat(d.bitFlips(rng), d.truncations(), d.blocks(rng))
		for i := range list {
			list[i].must = false
		}
		trials(t, rng, list, func(x damage) { d.tryWriting(t, dir, x, o) })
		o.require(t)
	})
}

// tryRepair opens the damaged store with Repair, and without afterwards. All says that all memories
// must be there but those whose newest record was hit.
func (d *damageStore) tryRepair(t testing.TB, dir string, x damage, all bool, o *outcomes) {
	damaged := maps.Clone(d.img)
	damaged[x.file] = x.apply(bytes.Clone(d.img[x.file]))
	damaged.write(t, dir)
	opts := quiet()
	opts.Repair = true
	s, err := Open(dir, opts)
	if err != nil {
		o.counts["not opened"]++
		// Without a hint, some damage leaves nothing that says which memories are lost.
		_, hinted := damaged[hintName]
		nameless := errors.Is(err, ErrCorrupt) && (strings.Contains(err.Error(), "nothing says of which memories") ||
			x.file == manifestName && strings.Contains(err.Error(), "it cannot be replaced"))
		if !errors.Is(err, ErrVersion) && (hinted || !nameless) {
			o.problem("repair fails", x, err)
		}
		return
	}
	o.counts["opened"]++
	touched, free := d.touched(x), d.looksUnfinished(x)
	first := map[string][]byte{}
	for _, id := range d.ids {
		want, present := d.want[id]
		got, err := s.Get(id)
		switch {
		case errors.Is(err, ErrNotFound):
			if present && !touched[id] && !free[id] && all {
				o.problem("repair loses what was not touched", x, id)
			} else if present {
				o.counts["memories gone"]++
			}
			continue
		case err != nil:
			o.problem("repaired store returns an error", x, err)
		case free[id]:
		case !present:
			o.problem("repair brings a deleted memory back", x, id)
		case !bytes.Equal(got, want):
			o.problem("repair gives an older version", x, id+" is "+describe(got, true)+", want "+describe(want, true))
		}
		first[id] = got
	}
	if report, err := s.Verify(context.Background()); err != nil {
		o.problem("repaired store does not verify", x, report.Findings)
	}
	require.NoError(t, s.Close())
	s, err = Open(dir, quiet())
	if err != nil {
		o.problem("plain open after the repair fails", x, err)
		return
	}
	if again := copied(s.All()); !maps.EqualFunc(first, again, bytes.Equal) {
		o.problem("open after the repair finds something else", x,
			fmt.Sprintf("%d memories, were %d", len(again), len(first)))
	}
	if report, err := s.Verify(context.Background()); err != nil {
		o.problem("store does not verify after the repair", x, report.Findings)
	}
	require.NoError(t, s.Close())
}

func TestDamage_RepairBitFlips(t *testing.T) {
	repairTest(t, 4, func(d *damageStore, rng *rand.Rand) []damage { return d.bitFlips(rng) })
}

// The records a truncation cuts off are gone, and with them the digests: which memories they were only
// the hint knows. Without it, a repair must refuse unless no record is missing.
func TestDamage_RepairTruncations(t *testing.T) {
	repairTest(t, 8, func(d *damageStore, _ *rand.Rand) []damage { return d.truncations() })
}

// repairTest repairs each damage alone; of those to be tried in every run one in share, since a repair
// takes ten times as long as a look.
func repairTest(t *testing.T, share int, damages func(*damageStore, *rand.Rand) []damage) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := damages(&d, rng)
		for i := range list {
			list[i].must = list[i].must && list[i].file != hintName && rng.IntN(share) == 0
		}
		trials(t, rng, list, func(x damage) { d.tryRepair(t, dir, x, true, o) })
		o.require(t)
	})
}

func TestDamage_RepairBlocks(t *testing.T) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := d.blocks(rng)
		for i := range list {
			list[i].must = false
		}
		trials(t, rng, list, func(x damage) {
			// A block with the header, or with digests, tells less than a repair needs to keep all.
			_, records := d.used(x.file)
			all := x.from >= segmentHeaderSize && x.to <= digestAt(len(d.img[x.file]), records)
			d.tryRepair(t, dir, x, all, o)
		})
		o.require(t)
	})
}

// A copy of a record that was superseded while the compaction ran is in a target, and no memory at
// all. Damage to it must not cost the memory that superseded it.
func TestDamage_RepairSupersededCopy(t *testing.T) {
	dir := fastDir(t)
	p := pauseAt(pointCompactWalked)
	opts := quiet()
	opts.SyncInterval = -1
	s, err := open(dir, opts, hooks{at: p.hook})
	require.NoError(t, err)
	fill(t, s, 0, 20, 100)
	deleteWhere(t, s, 0, 20, odd)
	done := make(chan error)
	go func() {
		_, err := s.Compact(context.Background())
		done <- err
	}()
	<-p.reached
	newer := contentOf(2, 1, 100)
	require.NoError(t, s.Put(idOf(2), newer))
	close(p.proceed)
	require.NoError(t, <-done)
	require.NoError(t, s.Close())

	img := loadImage(t, dir)
	hit := 0
	for _, name := range img.segments() {
		b := img[name]
		h, err := decodeFileHeader(b)
		require.NoError(t, err)
		at := bytes.Index(b, contentOf(2, 0, 100))
		if h.kind == kindTarget && at >= 0 {
			b[at] ^= 1
			hit++
		}
	}
	require.Equal(t, 1, hit, "copies of what was superseded")
	img.write(t, dir)
	opts.Repair = true
	s = openDir(t, dir, opts)
	got, err := s.Get(idOf(2))
	require.NoError(t, err)
	require.Equal(t, newer, got)
	requireContents(t, s, 3, 20, 100, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// The last record of a segment has nothing behind it that would say up to which version its memory is
// lost. A version from a later session is not.
func TestDamage_RepairLastRecord(t *testing.T) {
	dir := fastDir(t)
	older, newer := contentOf(7, 1, 100), contentOf(7, 2, 100)
	s := openDir(t, dir, quietly())
	fill(t, s, 100, 120, 100)
	require.NoError(t, s.Put(idOf(7), older))
	require.NoError(t, s.Close())
	s = openDir(t, dir, quietly())
	require.NoError(t, s.Put(idOf(7), newer))
	require.NoError(t, s.Close())
	name, at := findInFiles(t, dir, older)
	img := loadImage(t, dir)
	img[name][at] ^= 1
	img.write(t, dir)

	opts := quietly()
	opts.Repair = true
	s = openDir(t, dir, opts)
	requireContents(t, s, 100, 120, 100, all)
	got, err := s.Get(idOf(7))
	require.NoError(t, err)
	require.Equal(t, newer, got)
	closeIntact(t, s)
}

// Who repairs must be able to say what is gone: memories whose only version is damaged, and those of
// which an older one is left, but not those that were stored again.
func TestDamage_RepairedNamesWhatIsLost(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	require.Empty(t, s.Stats().Recovery.Repair)
	fill(t, s, 0, 10, 100)
	require.NoError(t, s.Put(idOf(3), contentOf(3, 1, 100)))
	require.NoError(t, s.Put(idOf(4), contentOf(4, 1, 100)))
	require.NoError(t, s.Close())
	img := loadImage(t, dir)
	for _, content := range [][]byte{contentOf(2, 0, 100), contentOf(3, 1, 100), contentOf(4, 0, 100)} {
		name, at := findInFiles(t, dir, content)
		img[name][at] ^= 1
	}
	img.write(t, dir)

	opts := quietly()
	opts.Repair = true
	s = openDir(t, dir, opts)
	report := s.Stats().Recovery.Repair
	clear(s.Stats().Recovery.Repair.Lost)
	require.Equal(t, report, s.Stats().Recovery.Repair, "the slice is the caller's")
	published, err := json.Marshal(s.Stats())
	require.NoError(t, err)
	require.Contains(t, string(published), `"RecordsLost":3`)
	require.NotContains(t, string(published), idOf(2), "no ids")
	require.ElementsMatch(t, []string{idOf(2), idOf(3)}, report.Lost)
	require.Equal(t, 3, report.RecordsLost)
	require.Equal(t, 1, report.MemoriesDeleted, "of id 3 the older version was left")
	require.Positive(t, report.SegmentsReplaced)
	closeIntact(t, s)
	s = openDir(t, dir, opts)
	require.Empty(t, s.Stats().Recovery.Repair, "nothing is left to repair")
	closeIntact(t, s)
}

// What a damaged length field says must not be believed: memory and time stay bounded.
func TestDamage_HostileLengths(t *testing.T) {
	d := damageStores(t)[1]
	dir := fastDir(t)
	o := newOutcomes()
	for _, name := range d.img.segments() {
		end, _ := d.used(name)
		for _, at := range []int{segmentHeaderSize, end} {
			for _, idLen := range []uint16{0, 1, 0xffff} {
				for _, contentLen := range []uint32{0, minSegmentSize, MaxContentLen, 0xffffffff} {
					for kind := range 3 {
						x := damage{file: name, name: fmt.Sprintf("header at %d: kind %d, %d and %d bytes", at, kind, idLen, contentLen),
							from: at, to: at + recordHeaderSize, apply: func(b []byte) []byte {
								b[at+4] = byte(kind)
								binary.LittleEndian.PutUint16(b[at+6:], idLen)
								binary.LittleEndian.PutUint32(b[at+8:], contentLen)
								return b
							}}
						d.img.write(t, dir)
						d.tryReading(t, dir, x, o)
						if idLen == 0xffff || at == end {
							d.tryRepair(t, dir, x, true, o)
						}
					}
				}
			}
		}
	}
	o.require(t)
}
