//go:build unix

package warmtier

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: whatever ends the process or cuts the file, recovery finds all of a batch or nothing of it.

Method: a store with a few memories, and a batch that overwrites, deletes and adds. Directories as they may be after a
kill or a power loss at each step are opened, and must hold what was there before the batch or after it, as the
step says.
*/

// before and after the batch.
var (
	beforeBatch = map[string][]byte{"kept": []byte("1"), "overwritten": []byte("2"), "deleted": []byte("3")}
	afterBatch  = map[string][]byte{"kept": []byte("1"), "overwritten": []byte("of the batch"), "added": {}, "large": nil}
)

// containerStore returns a store with what was there before, and a batch; large makes it go to a segment of its own.
func containerStore(t *testing.T, d *shadow.FS, large bool, h hooks) (s *Store, b *Batch, after map[string][]byte) {
	t.Helper()
	opts := shadowOptions()
	after = maps.Clone(afterBatch)
	after["large"] = make([]byte, 10)
	if large {
		opts.SegmentSize = 2 << 20
		after["large"] = make([]byte, maxSharedSize)
	}
	h.hash = fixedHash
	s, err := openShadow(d, opts, h)
	require.NoError(t, err)
	for _, id := range []string{"kept", "overwritten", "deleted"} {
		require.NoError(t, s.Put(id, beforeBatch[id]))
	}
	b = new(Batch)
	b.Put("overwritten", after["overwritten"])
	b.Delete("deleted")
	b.Put("added", after["added"])
	b.Put("large", after["large"])
	b.Delete("absent")
	return s, b, after
}

// requireOneOf opens d, a crashed directory, and checks that it holds what it had before the batch, or what it has
// after; and that it can be written to, closed and opened again.
func requireOneOf(t *testing.T, d *shadow.FS, wants ...map[string][]byte) (found int) {
	t.Helper()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	got := contentsOf(t, s)
	found = slices.IndexFunc(wants, func(want map[string][]byte) bool {
		return maps.EqualFunc(got, want, func(a, b []byte) bool { return string(a) == string(b) })
	})
	require.GreaterOrEqual(t, found, 0, "some of a batch: %v", slices.Sorted(maps.Keys(got)))
	require.NoError(t, s.Put("next", nil))
	var b Batch
	b.Put("one", nil)
	b.Put("more", nil)
	require.NoError(t, s.Apply(&b))
	again := d.Kill()
	closeShadow(t, s, d)
	for _, d := range []*shadow.FS{again, d} {
		s = shadowStore(t, d, shadowOptions())
		require.Len(t, contentsOf(t, s), len(got)+3)
		closeShadow(t, s, d)
	}
	return found
}

// Goal: that of this file, for a process that dies at any step of Apply, and then for a power loss that keeps all or
// nothing of what no flush has made durable.
func TestContainer_KilledAtEachPoint(t *testing.T) {
	t.Parallel()
	points := map[point]bool{ // whether the batch is in force
		pointPutFound: false, pointApplyLocked: false, pointPutBody: false, pointApplyDigests: false,
		pointApplyHeaders: false, pointPutAppended: true, pointApplyIndexed: true,
	}
	for p, inForce := range points {
		for _, large := range []bool{false, true} {
			if large && p != pointPutBody && p != pointPutAppended && stride(t, 2, 1) > 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s/large=%v", strings.ReplaceAll(string(p), " ", "_"), large), func(t *testing.T) {
				d := newShadow()
				var killed *shadow.FS
				var applying bool
				s, b, after := containerStore(t, d, large, hooks{at: func(q point) error {
					if applying && q == p && killed == nil {
						killed = d.Kill()
					}
					return nil
				}})
				require.NoError(t, s.Sync())
				applying = true
				require.NoError(t, s.Apply(b))
				applying = false
				ended := d.Kill()
				closeShadow(t, s, d)
				want := []map[string][]byte{beforeBatch}
				if inForce {
					want[0] = after
				}
				requireOneOf(t, killed.Kill(), want...)
				requireOneOf(t, killed.Crash(nothingKept), beforeBatch)
				if large {
					return
				}
				requireOneOf(t, killed.Crash(allKept), want...)
				requireOneOf(t, ended, after)
				requireOneOf(t, d, after)
			})
		}
	}
}

// Goal: with SyncWrites one flush makes all of a batch durable before Apply returns.
func TestContainer_SyncWrites(t *testing.T) {
	for _, large := range []bool{false, true} {
		d := newShadow()
		s, b, after := containerStore(t, d, large, hooks{})
		s.opts.SyncWrites = true
		syncs := s.Stats().Sync.OK
		require.NoError(t, s.Apply(b))
		require.Equal(t, syncs+1, s.Stats().Sync.OK)
		lost := d.Crash(nothingKept)
		closeShadow(t, s, d)
		requireOneOf(t, lost, after)
	}
}

// placedContainer is a killed directory in which a batch is the newest record of a segment.
type placedContainer struct {
	d      *shadow.FS
	file   string
	offset int
	size   int
	number int // of the container among the records of its segment
	n      int // records in it
	after  map[string][]byte
}

func (c placedContainer) current(d *shadow.FS) []byte { return d.Files[c.file].Current }

func placeContainer(t *testing.T, flushed bool) placedContainer {
	t.Helper()
	d := newShadow()
	s, b, after := containerStore(t, d, false, hooks{})
	require.NoError(t, s.Sync())
	require.NoError(t, s.Apply(b))
	if flushed {
		require.NoError(t, s.Sync())
	}
	seg := segmentOf(t, s, "added")
	c := placedContainer{d: d.Kill(), file: seg.name(), after: after}
	for offset := layout.HeaderSize; offset < int(seg.tail.Load()); c.number++ {
		h, ok := record.Decode(seg.mem[offset:])
		require.True(t, ok)
		if h.Kind() == record.KindContainer {
			c.offset, c.size = offset, h.Size()
			break
		}
		offset += h.Size()
	}
	require.NotZero(t, c.size)
	c.n = int(seg.digestOf(c.number))
	require.Equal(t, 4, c.n, "a deletion of what is absent leaves no record")
	require.EqualValues(t, c.offset+c.size, seg.tail.Load(), "the container is the last record")
	require.EqualValues(t, c.number+1+c.n, seg.records.Load())
	closeShadow(t, s, d)
	return c
}

// Goal: after a power loss nothing of a batch is there unless every byte of it is. Method: the bytes from each place
// on, 8 bytes at each place, and one bit of each byte, are not as they were written.
func TestContainer_TornByPowerLoss(t *testing.T) {
	c := placeContainer(t, false)
	lost := func(change func(mem []byte)) {
		t.Helper()
		d := c.d.Crash(allKept)
		mem := c.current(d)[c.offset : c.offset+c.size]
		whole := string(mem)
		change(mem)
		want := beforeBatch
		if string(mem) == whole {
			want = c.after
		}
		requireOneOf(t, d, want)
	}
	lost(func([]byte) {})
	for at := 0; at < c.size; at += record.Align * stride(t, 2, 1) {
		lost(func(mem []byte) { clear(mem[at:]) })
		lost(func(mem []byte) { clear(mem[at : at+record.Align]) })
	}
	padding := 0
	for at := 0; at < c.size; at += stride(t, 17, 1) {
		d := c.d.Crash(allKept)
		c.current(d)[c.offset+at] ^= 1 << (at % 8)
		padding += requireOneOf(t, d, beforeBatch, c.after)
	}
	require.LessOrEqual(t, padding, c.n*(record.Align-1), "bytes that mean something")
	for n := range c.n + 1 { // a digest is written again
		d := c.d.Crash(allKept)
		mem := c.current(d)
		clear(mem[layout.DigestAt(len(mem), c.number+n):][:layout.DigestSize])
		requireOneOf(t, d, c.after)
	}
}

// Goal: a process that dies between any two of the stores that make a container leaves none, and no trace that is taken
// for damage, a missing record, or a record of a batch. Method: the stores are undone one after the other, from
// the last one on.
func TestContainer_KilledBetweenStores(t *testing.T) {
	c := placeContainer(t, false)
	d := c.d
	requireOneOf(t, d.Kill(), c.after)
	var headers []int
	for offset := c.offset; offset < c.offset+c.size; {
		headers = append(headers, offset)
		h, ok := record.Decode(c.current(d)[offset:])
		require.True(t, ok)
		offset += h.Next()
	}
	require.Len(t, headers, c.n+1)
	mem := c.current(d)
	clear(mem[headers[0] : headers[0]+4]) // the checksum of the container's header is the last
	requireOneOf(t, d.Kill(), beforeBatch)
	clear(mem[headers[0] : headers[0]+record.HeaderSize])
	requireOneOf(t, d.Kill(), beforeBatch)
	for _, offset := range slices.Backward(headers[1:]) {
		clear(mem[offset : offset+4])
		requireOneOf(t, d.Kill(), beforeBatch)
		clear(mem[offset : offset+record.HeaderSize])
		requireOneOf(t, d.Kill(), beforeBatch)
	}
	for n := c.n; n >= 0; n-- {
		clear(mem[layout.DigestAt(len(mem), c.number+n):][:layout.DigestSize])
		requireOneOf(t, d.Kill(), beforeBatch)
	}
	clear(mem[c.offset : c.offset+c.size])
	requireOneOf(t, d.Kill(), beforeBatch)
}

// Goal: a container with a record after it whose header is damaged is damage, and no torn tail, though the digests of
// its own records come after its own.
func TestContainer_FollowedByRecord(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	var b Batch
	b.Put("a", nil)
	b.Put("b", nil)
	require.NoError(t, s.Apply(&b))
	name := segmentOf(t, s, "a").name()
	alone := d.Kill()
	require.NoError(t, s.Put("c", nil))
	followed := d.Kill()
	closeShadow(t, s, d)
	for _, d := range []*shadow.FS{alone, followed} {
		clear(d.Files[name].Current[layout.HeaderSize:][:4])
	}
	s = oneLaneStore(t, alone)
	require.Zero(t, s.Len())
	closeShadow(t, s, alone)
	s, err := openShadow(followed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, released(followed, s))
}

// Goal: after a kill a file with a container that is not there is missed, with all its records.
func TestContainer_MissingFile(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	require.NoError(t, s.Put("a", make([]byte, 500)))
	require.NoError(t, s.Sync())
	var b Batch
	for i := range 3 {
		b.Put(idOf(i), make([]byte, 21_600))
	}
	require.NoError(t, s.Apply(&b)) // rolls
	name := segmentOf(t, s, idOf(0)).name()
	require.NoError(t, s.Put("large", make([]byte, 70_000)))
	killed := d.Kill()
	closeShadow(t, s, d)
	require.NoError(t, killed.Remove(name))
	s, err := openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "4 records are in no file, of those numbered 2 to 6")
	require.NoError(t, released(killed, s))
}

// Goal: a container that a kill has cut off has drawn its numbers, and none of them is missed where another lane has
// drawn one since.
func TestContainer_NumbersOfUnfinished(t *testing.T) {
	d := newShadow()
	var killed *shadow.FS
	var s *Store
	s, err := openShadow(d, shadowOptions(), hooks{
		hash: placedBy(func(i int) int { return i }),
		at: func(p point) error {
			if p == pointApplyHeaders {
				elsewhere(func() {
					if err := s.Put(idOf(1), nil); err != nil {
						t.Error(err)
					}
				})
				killed = d.Kill()
			}
			return nil
		}})
	require.NoError(t, err)
	s.makeLanes(2)
	require.NoError(t, s.Put(idOf(1), nil))
	var b Batch
	for _, i := range []int{2, 4, 6} { // not the lane of 1
		b.Put(idOf(i), nil)
	}
	require.NoError(t, s.Apply(&b))
	closeShadow(t, s, d)
	s = shadowStore(t, killed, shadowOptions())
	require.Equal(t, 1, s.Len())
	closeShadow(t, s, killed)
}

// pageFault is a page that the kernel cannot supply.
type pageFault struct{ at *byte }

func (pageFault) Error() string   { return "injected fault" }
func (pageFault) RuntimeError()   {}
func (f pageFault) Addr() uintptr { return uintptr(unsafe.Pointer(f.at)) }

// Goal: a fault on the way changes nothing and draws no number, and leaves nothing that a kill, after a further record,
// would show as damage.
func TestContainer_Fault(t *testing.T) {
	for _, p := range []point{pointPutBody, pointApplyDigests} {
		d := newShadow()
		s, b, after := containerStore(t, d, false, hooks{})
		drawn, total, page := s.sequence.Load(), s.Stats().TotalBytes, &segmentOf(t, s, "kept").mem[0]
		s.hooks.at = func(q point) error {
			if q == p {
				panic(pageFault{page})
			}
			return nil
		}
		require.ErrorIs(t, s.Apply(b), ErrCorrupt)
		s.hooks.at = nil
		require.Equal(t, drawn, s.sequence.Load())
		require.Equal(t, total, s.Stats().TotalBytes)
		requireSame(t, s, beforeBatch)
		requireOneOf(t, d.Kill(), beforeBatch)
		more := maps.Clone(beforeBatch)
		for i := range 8 { // in both lanes
			more[idOf(i)] = nil
			require.NoError(t, s.Put(idOf(i), nil))
			requireOneOf(t, d.Kill(), more)
		}
		require.NoError(t, s.Apply(b))
		require.Len(t, contentsOf(t, s), len(after)+8)
		closeShadow(t, s, d)
	}
}

// Goal: the rule for tombstones holds for one in a container: while a segment that stays has the record that it
// hides, compactions carry it.
func TestContainer_TombstoneIsCarried(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 60, 1000) // a segment
	require.NoError(t, s.Sync())
	var b Batch
	b.Delete(idOf(0))
	for i := 100; i < 160; i++ {
		b.Put(idOf(i), contentOf(i, 0, 1000))
	}
	require.NoError(t, s.Apply(&b))
	fill(t, s, 200, 210, 1000)
	deleteWhere(t, s, 100, 160, all) // the container's segment is the better victim
	old := segmentOf(t, s, idOf(1))
	require.True(t, old.claimFor(ownerLane), "the one with the older record stays")
	mustCompact(t, s)
	s.unclaim(old)
	killed := d.Kill()
	closeShadow(t, s, d)
	for _, d := range []*shadow.FS{killed, d} {
		require.NoError(t, removeHint(d))
		s = oneLaneStore(t, d)
		require.False(t, s.Has(idOf(0)))
		require.Equal(t, 69, s.Len())
		closeShadow(t, s, d)
	}
}

func removeHint(d *shadow.FS) error {
	if d.Files[layout.HintName] == nil {
		return nil
	}
	return d.Remove(layout.HintName)
}
