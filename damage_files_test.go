//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// image holds the files of a directory in memory.
type image map[string][]byte

func loadImage(t testing.TB, dir string) image {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	img := image{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), layout.SpareName) {
			continue // nothing reads its bytes
		}
		img[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
	}
	return img
}

// write makes img the contents of dir.
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
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
}

func (img image) segments() (names []string) {
	for name := range img {
		if _, ok := layout.ParseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// damageStore is an image of a store, and the contents of that store.
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
	newest   bool // the newest one of its memory
	last     bool // the last one of its segment
}

const damageIDs = 14

func damageContent(i, version int) []byte {
	// Records have 128 bytes, so that blocks copied from elsewhere begin with a record.
	return contentOf(i, version, 128-record.HeaderSize-len(idOf(i)))
}

// damageStores returns the stores that damage is done to.
func damageStores(t testing.TB) []damageStore {
	dir := fastDir(t)
	opts := quiet()
	opts.SegmentSize, opts.SyncInterval = 2*minSegmentSize, -1
	share := int64(minSegmentSize) // so files have two sizes
	s, err := open(dir, opts, hooks{share: func(int64) int64 { share *= 2; return share / 2 }})
	require.NoError(t, err)
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
	_, err = s.Compact(context.Background())
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
	require.Contains(t, closed, layout.HintName)
	bare := maps.Clone(closed)
	delete(bare, layout.HintName)
	stores := []damageStore{
		{name: "closed", img: closed, want: want},
		{name: "closed without hint", img: bare, want: want},
	}
	if !raceEnabled && tellsKills(t) { // heap segments reach their files with Sync and Close only
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

// parse finds the records of d.
func (d *damageStore) parse(t testing.TB) {
	t.Helper()
	newest := map[string]uint64{}
	seqs := map[int]uint64{}
	for _, name := range d.img.segments() {
		b := d.img[name]
		number, _ := layout.ParseSegmentFileName(name)
		h, err := layout.DecodeHeader(b)
		require.NoError(t, err)
		seg := newSegment(number, b, layout.KindLane, h.Salt)
		for at := layout.HeaderSize; ; {
			h, ok := record.Decode(b[at:])
			if !ok || !record.Intact(b[at:], h, seg.seedAt(at)) {
				break
			}
			id := string(record.ID(b[at:], h))
			newest[id] = max(newest[id], h.Seq)
			seqs[len(d.records)] = h.Seq
			d.records = append(d.records, placedRecord{file: name, from: at, to: at + h.Size(), id: id})
			at += h.Size()
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

// used returns where the records of a segment file end, and how many there are.
func (d *damageStore) used(file string) (end, records int) {
	end = layout.HeaderSize
	for _, r := range d.records {
		if r.file == file {
			end, records = max(end, r.to), records+1
		}
	}
	return end, records
}

// damage is one change of one file.
type damage struct {
	file     string
	name     string
	from, to int  // bytes that change
	must     bool // to be tried in every run
	apply    func(b []byte) []byte
}

func (d damage) String() string { return d.file + ": " + d.name }

// touched returns the memories whose newest record a damage hits.
func (d *damageStore) touched(x damage) map[string]bool {
	m := map[string]bool{}
	for _, r := range d.records {
		if r.newest && r.file == x.file && r.from < x.to && x.from < r.to {
			m[r.id] = true
		}
	}
	return m
}

// looksUnfinished returns the memories that a damage may take away unnoticed from a store that was
// killed: it left the last record of a segment as a kill in the middle of its Put would have.
func (d *damageStore) looksUnfinished(x damage) map[string]bool {
	m := map[string]bool{}
	if !d.killed {
		return m
	}
	after := x.apply(bytes.Clone(d.img[x.file]))
	for _, r := range d.records {
		if r.file == x.file && r.last && r.to <= len(after) && layout.IsZero(after[r.from:r.from+4]) {
			m[r.id] = true
		}
	}
	return m
}

// bitFlips returns flips of every single bit that means something, and of a sample of those that do
// not.
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
		_, isSegment := layout.ParseSegmentFileName(name)
		switch {
		case name == layout.ManifestName:
			end = len(b)
		case name == layout.HintName:
			end = len(b)
			structural = func(at int) bool { return at < layout.HintHeaderSize+3*layout.HintSegmentSize }
		case isSegment:
			end, records = d.used(name)
			structural = func(at int) bool { return at < layout.HeaderSize }
		default:
			continue // nothing reads LOCK
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
		for at := layout.DigestAt(len(b), records); at < len(b); at++ { // and where the next digest would be
			flip(name, at, rng.IntN(8), true)
		}
		for range 100 {
			flip(name, end+rng.IntN(layout.DigestAt(len(b), records)-end), rng.IntN(8), false)
		}
		for at := end; at < end+record.HeaderSize; at++ { // where the next record would begin
			flip(name, at, rng.IntN(8), true)
		}
	}
	return list
}

// truncations returns cuts to the lengths that may matter, for each file.
func (d *damageStore) truncations() (list []damage) {
	for name, b := range d.img {
		cut := func(n int, must bool) {
			list = append(list, damage{file: name, name: fmt.Sprintf("cut to %d bytes", n), from: n, to: len(b), must: must,
				apply: func(b []byte) []byte { return b[:n] }})
		}
		_, isSegment := layout.ParseSegmentFileName(name)
		switch {
		case name == layout.LockName:
		case !isSegment:
			for n := range b {
				if n < 256 || n%64 == 0 {
					cut(n, name == layout.ManifestName || n < 256)
				}
			}
		default:
			end, records := d.used(name)
			for n := range b {
				inside := n <= layout.HeaderSize || n >= layout.DigestAt(len(b), records)
				if inside || n%8 == 0 {
					cut(n, inside || n < end && n%32 == 0)
				}
			}
		}
	}
	return list
}

// blocks returns sectors and pages that were zeroed, or overwritten with others.
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
		means := func(at, size int) bool { return at < end || at+size > layout.DigestAt(len(b), records) }
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
		for at := layout.HeaderSize; at+128 <= end; at += 8 {
			from := layout.HeaderSize + 8*rng.IntN((end-layout.HeaderSize)/8)
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
