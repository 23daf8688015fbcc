//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// applyKind is a kind of store, and of place that a batch goes to.
type applyKind struct {
	name      string
	directory bool
	segment   int // its size, bytes
	size      int // of a content, bytes: 40 of them go to a shared segment, or to one of their own
}

var applyKinds = []applyKind{
	{"memory", false, minSegmentSize, 100},
	{"memory, apart", false, 2 << 20, 30_000},
	{"directory", true, minSegmentSize, 100},
	{"directory, apart", true, 2 << 20, 30_000},
}

func (k applyKind) open(t *testing.T, dir string, h hooks) *Store {
	t.Helper()
	opts := quietly()
	opts.SegmentSize = k.segment
	if !k.directory {
		dir = ""
	}
	s, err := open(dir, opts, h)
	require.NoError(t, err)
	return s
}

// Goal: a batch does what its writes would do one after the other. Method: random batches against a map, with ids
// that come twice, deletions of what is not there, and compactions and a reopening in between.
func TestApply(t *testing.T) {
	for _, kind := range applyKinds {
		t.Run(kind.name, func(t *testing.T) {
			rng := seeded(t)
			dir := fastDir(t)
			s := kind.open(t, dir, hooks{})
			want := map[string][]byte{}
			var b Batch
			for round := range stride(t, 30, 300) {
				b.Reset()
				b.Delete(idOf(80)) // one at least, whatever is drawn
				for n := range 40 {
					id := idOf(rng.IntN(80))
					if rng.IntN(4) == 0 {
						b.Delete(id)
						delete(want, id)
						continue
					}
					content := contentOf(n, round, kind.size)
					b.Put(id, content)
					want[id] = bytes.Clone(content)
					clear(content) // the batch has a copy
				}
				require.Equal(t, 41, b.Len())
				before := s.Stats()
				require.NoError(t, s.Apply(&b))
				st := s.Stats()
				require.LessOrEqual(t, st.Puts-before.Puts, int64(40))
				require.Positive(t, st.Deletes-before.Deletes+st.Writes.DeleteMisses-before.Writes.DeleteMisses)
				if round%20 == 10 {
					requireSame(t, s, want)
					requireIntact(t, s)
					mustCompact(t, s)
				}
			}
			requireSame(t, s, want)
			closeIntact(t, s)
			if kind.directory {
				s = kind.open(t, dir, hooks{})
				requireSame(t, s, want)
				closeIntact(t, s)
			}
		})
	}
}

// Goal: of several writes of one id the last one counts, deletions among them.
func TestApply_LastWriteCounts(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("deleted", []byte("before")))
	var b Batch
	b.Put("stored", []byte("1"))
	b.Put("deleted", []byte("2"))
	b.Delete("stored")
	b.PutTTL("stored", []byte("3"), time.Hour)
	b.Put("stored", []byte("4"))
	b.Delete("deleted")
	require.NoError(t, s.Apply(&b))
	got, err := s.Get("stored")
	require.NoError(t, err)
	require.Equal(t, "4", string(got))
	at, err := s.Expiry("stored")
	require.NoError(t, err)
	require.Zero(t, at)
	require.Equal(t, 1, s.Len())
	require.EqualValues(t, 2, s.Stats().Puts)
	require.EqualValues(t, 1, s.Stats().Deletes)
}

// Goal: a memory that is replaced again and again keeps its deadline to the millisecond, however late Apply comes;
// one whose moment has passed is absent.
func TestApply_PutUntil(t *testing.T) {
	clock := newTestClock()
	s := openTest(t, quiet(), hooks{now: clock.Load})
	require.NoError(t, s.PutTTL("a", []byte("0"), time.Second))
	deadline, err := s.Expiry("a")
	require.NoError(t, err)
	var b Batch
	for range 10 {
		clock.pass(time.Millisecond)
		at, err := s.Expiry("a")
		require.NoError(t, err)
		b.Reset()
		b.PutUntil("a", []byte("1"), at.Add(999*time.Microsecond))
		clock.pass(time.Millisecond)
		require.NoError(t, s.Apply(&b))
	}
	at, err := s.Expiry("a")
	require.NoError(t, err)
	require.Equal(t, deadline, at)

	b.Reset()
	b.PutUntil("a", []byte("2"), time.Time{})
	b.PutUntil("b", []byte("2"), time.UnixMilli(0))
	b.PutUntil("c", []byte("2"), time.UnixMilli(clock.Load()))
	b.PutUntil("d", []byte("2"), time.UnixMilli(clock.Load()+1))
	b.PutUntil("e", []byte("2"), time.UnixMilli(clock.Load()))
	b.PutTTL("e", []byte("3"), time.Millisecond)
	require.NoError(t, s.Apply(&b))
	require.False(t, s.Has("b"))
	require.False(t, s.Has("c"))
	require.True(t, s.Has("d"))
	require.True(t, s.Has("e"))
	clock.pass(time.Hour)
	require.False(t, s.Has("d"))
	require.False(t, s.Has("e"))
	require.True(t, s.Has("a"))
}

// Goal: Apply does nothing unless all its checks hold, and says which one does not; checks see what is there before
// the batch, and alone they are one look.
func TestApply_Checks(t *testing.T) {
	for _, kind := range applyKinds {
		t.Run(kind.name, func(t *testing.T) {
			clock := newTestClock()
			s := kind.open(t, fastDir(t), hooks{now: clock.Load})
			defer func() { closeIntact(t, s) }()
			v, err := s.PutIf("there", nil, 0)
			require.NoError(t, err)
			require.NoError(t, s.PutTTL("expired", nil, time.Millisecond))
			clock.pass(time.Millisecond)

			var b Batch
			refused := func(want string) {
				t.Helper()
				before := s.Stats()
				err := s.Apply(&b)
				require.ErrorIs(t, err, ErrChanged)
				require.EqualError(t, err, want)
				st := s.Stats()
				require.Equal(t, before.TotalBytes, st.TotalBytes)
				require.Equal(t, before.Writes.PutsChanged+1, st.Writes.PutsChanged)
				require.False(t, s.Has("new"))
			}
			for i := range 40 {
				b.Put(fmt.Sprint("new", i), make([]byte, kind.size))
			}
			b.Put("new", nil)
			b.Put("there", []byte("changed"))
			b.Check("there", v)
			b.Check("absent", 0)
			b.Check("expired", 0)
			b.Check("absent", 7)
			refused("warmtier: version changed: check 3 of the batch: it is 0, want 7")
			b.checks = b.checks[:3]
			require.NoError(t, s.Apply(&b))
			got, now, err := s.GetVersion("there")
			require.NoError(t, err)
			require.Equal(t, "changed", string(got))
			require.Greater(t, now, v)

			b.Reset()
			b.Check("there", v)
			b.Delete("new")
			require.ErrorIs(t, s.Apply(&b), ErrChanged, "the batch itself has changed it")
			b.Reset()
			b.Check("there", now)
			b.Check("new", 0)
			require.ErrorIs(t, s.Apply(&b), ErrChanged)
			b.Reset()
			b.Check("there", now)
			b.Check("absent", 0)
			require.NoError(t, s.Apply(&b), "checks alone")
			require.NoError(t, s.Apply(new(Batch)))
		})
	}
}

// Goal: what is wrong with a batch is an error of Apply that says so, and nothing has changed.
func TestApply_Errors(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("a", []byte("kept")))
	full := func(n int) (b *Batch) {
		b = new(Batch)
		for i := range n {
			b.Put(idOf(i), nil)
		}
		return b
	}
	checks := full(0)
	for range MaxBatchLen + 1 {
		checks.Check("a", 0)
	}
	for _, c := range []struct {
		fill func(b *Batch)
		is   error
		text string
	}{
		{func(b *Batch) { b.Put("", nil) }, ErrInvalidID,
			"warmtier: write 1 of the batch: invalid id: 0 bytes, want 1 to 65535"},
		{func(b *Batch) { b.Delete("") }, ErrInvalidID,
			"warmtier: write 1 of the batch: invalid id: 0 bytes, want 1 to 65535"},
		{func(b *Batch) { b.Check("", 1) }, ErrInvalidID,
			"warmtier: check 0 of the batch: invalid id: 0 bytes, want 1 to 65535"},
		{func(b *Batch) { b.PutTTL("b", nil, 0); b.Put("", nil) }, ErrInvalidTTL,
			"warmtier: write 1 of the batch: invalid time to live: 0s, want more than 0"},
		{func(b *Batch) { b.Put("b", make([]byte, minSegmentSize)) }, ErrBatchTooLarge,
			"warmtier: batch too large: 65608 bytes of records, limit 65336"},
		{func(b *Batch) { *b = *full(MaxBatchLen + 1) }, ErrBatchTooLarge,
			"warmtier: batch too large: 1025 writes and 0 checks, limit 1024 each"},
		{func(b *Batch) { *b = *checks }, ErrBatchTooLarge,
			"warmtier: batch too large: 0 writes and 1025 checks, limit 1024 each"},
	} {
		var b Batch
		b.Put("a", []byte("changed"))
		c.fill(&b)
		err := s.Apply(&b)
		require.ErrorIs(t, err, c.is)
		require.EqualError(t, err, c.text)
		got, err := s.Get("a")
		require.NoError(t, err)
		require.Equal(t, "kept", string(got))
		require.Equal(t, 1, s.Len())
		b.Reset()
		require.NoError(t, s.Apply(&b), "Reset forgets it")
	}
	require.Zero(t, s.Stats().Writes.PutErrors, "mistakes of the caller")
	require.NoError(t, s.Apply(full(MaxBatchLen)))
	require.Equal(t, MaxBatchLen+1, s.Len())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Apply(full(1)), ErrClosed)
	require.ErrorIs(t, s.Apply(full(0)), ErrClosed)
	opts := quiet()
	opts.ReadOnly = true
	require.ErrorIs(t, openTest(t, opts, hooks{}).Apply(full(1)), ErrReadOnly)
}

// Goal: a content that is too large is an error of Apply, and is not copied.
func TestBatch_ContentTooLarge(t *testing.T) {
	if vm.OnHeap {
		t.Skip("the race detector keeps four bytes for each byte of such a content")
	}
	content, err := vm.Map(vm.RoundUp(MaxContentLen+1, vm.PageSize))
	require.NoError(t, err)
	defer func() { require.NoError(t, vm.Unmap(content)) }()
	var b Batch
	b.Put("a", content[:MaxContentLen+1])
	require.Empty(t, b.chunk)
	require.ErrorIs(t, openTest(t, quiet(), hooks{}).Apply(&b), ErrContentTooLarge)
}

// Goal: a batch keeps its contents apart, and Reset keeps memory for as much again and no id.
func TestBatch_Reset(t *testing.T) {
	var b Batch
	fillBatch := func() {
		for i := range 100 {
			b.Put(fmt.Sprint("id ", i), bytes.Repeat([]byte{byte(i)}, 97))
		}
		for i, w := range b.writes {
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, 97), w.content)
		}
	}
	fillBatch()
	b.Reset()
	require.Zero(t, b.Len())
	require.Empty(t, b.writes[:1][0].id)
	fillBatch()
	b.Reset()
	room := cap(b.chunk)
	require.GreaterOrEqual(t, room, 97*50)
	fillBatch()
	b.Reset()
	require.LessOrEqual(t, cap(b.chunk), 2*room)
}

// Goal: near MaxBytes a batch is stored as a whole or refused with ErrNoSpace, nothing changed, and one that
// overwrites what is there is stored.
func TestApply_MaxBytes(t *testing.T) {
	opts := quiet()
	opts.MaxBytes = 40 * minSegmentSize
	s := openTest(t, opts, hooks{patience: time.Millisecond})
	want := map[string][]byte{}
	var b Batch
	var err error
	for round := 0; err == nil; round++ {
		require.Less(t, round, 100_000)
		b.Reset()
		next := maps.Clone(want)
		for i := range 64 {
			id := fmt.Sprint(round, " ", i)
			next[id] = contentOf(i, round, 300)
			b.Put(id, next[id])
		}
		if err = s.Apply(&b); err == nil {
			want = next
		}
	}
	require.ErrorIs(t, err, ErrNoSpace)
	require.ErrorContains(t, err, "MaxBytes")
	require.Len(t, want, s.Len())
	for id, content := range want {
		got, err := s.Get(id)
		require.NoError(t, err)
		require.Equal(t, content, got)
	}
	require.EqualValues(t, 1, s.Stats().Writes.PutErrors)
}

// Goal: a batch that a check refuses needs no room: in a full store its error is ErrChanged, and in one that evicts
// nothing goes for it. Its records share a segment or have one of their own.
func TestApply_RefusedWhereNoRoomIs(t *testing.T) {
	const size = 100_000
	var shared, apart Batch
	for _, b := range []*Batch{&shared, &apart} {
		b.Check("nobody", 5)
		b.Put("a", make([]byte, size))
	}
	for i := range 14 {
		apart.Put(idOf(i), make([]byte, size))
	}
	refused := func(s *Store) {
		for range 10 { // in lanes with room and without
			require.ErrorIs(t, s.Apply(&shared), ErrChanged)
			require.ErrorIs(t, s.Apply(&apart), ErrChanged)
		}
	}
	opts := quiet()
	opts.SegmentSize, opts.MaxBytes = 2<<20, 40<<20
	s := openTest(t, opts, hooks{patience: time.Millisecond})
	var err error
	for i := 0; err == nil; i++ {
		err = s.Put(strconv.Itoa(i), make([]byte, size))
	}
	require.ErrorIs(t, err, ErrNoSpace)
	n := s.Len()
	refused(s)
	require.Equal(t, n, s.Len())

	opts.WhenFull = Evict
	s = openEvicting(t, false, opts, hooks{})
	for i := 0; s.Stats().Drops.Evicted == 0; i++ {
		require.NoError(t, s.Put(strconv.Itoa(i), make([]byte, size)))
	}
	before := s.Stats().Drops.Evicted
	refused(s)
	require.Equal(t, before, s.Stats().Drops.Evicted)
}

// Goal: a batch of checks alone that meets a Clear waits for it, and makes no segment: on a full disk it would be
// refused for a room that it does not need.
func TestApply_ChecksAloneBesideClear(t *testing.T) {
	s := openDir(t, fastDir(t), quietly())
	var b Batch
	b.Check("a", 0)
	a := &b.applied
	require.NoError(t, a.plan(s, &b))
	s.keepWritesOut()
	ok, err := s.tryApply(a)
	require.NoError(t, err)
	require.False(t, ok)
	s.letWritesIn()
	require.NoError(t, s.makeRoom(&a.need))
	require.NoError(t, s.Apply(&b))
	require.Empty(t, s.Segments())
	closeIntact(t, s)
}

// Goal: at any step of a compaction a batch overwrites and deletes what is being moved, whether the round ends well
// or is undone.
func TestApply_BesideCompaction(t *testing.T) {
	for _, kind := range applyKinds {
		for _, p := range slices.DeleteFunc(slices.Clone(compactionPoints), func(p point) bool {
			return p == pointCompactFlip || // with a shard locked
				kind.segment > minSegmentSize && p != pointCompactBuilt && stride(t, 2, 1) > 1
		}) {
			for _, fails := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/%v", kind.name, strings.ReplaceAll(string(p), " ", "_"), fails), func(t *testing.T) {
					s := kind.open(t, fastDir(t), hooks{hash: oneLane})
					want := map[string][]byte{}
					var b Batch
					put := func(i, version int) {
						want[idOf(i)] = contentOf(i, version, kind.size)
						b.Put(idOf(i), want[idOf(i)])
					}
					for version := range 2 { // the segments of the first are half dead
						b.Reset()
						for i := version; i < 40; i += 1 + version {
							put(i, version)
						}
						require.NoError(t, s.Apply(&b))
					}
					applied := false
					setAt(s, func(q point) error {
						if q != p || applied {
							return nil
						}
						applied = true
						elsewhere(func() {
							b.Reset()
							for i := range 40 {
								switch i % 5 {
								case 0, 1:
									put(i, 2)
								case 2:
									delete(want, idOf(i))
									b.Delete(idOf(i))
								}
							}
							if err := s.Apply(&b); err != nil {
								t.Error(err)
							}
						})
						if fails {
							return errInjected
						}
						return nil
					})
					_, err := s.Compact(context.Background())
					require.True(t, applied)
					if err != nil {
						require.ErrorIs(t, err, errInjected)
					}
					setAt(s, nil)
					requireSame(t, s, want)
					requireIntact(t, s)
					mustCompact(t, s)
					requireSame(t, s, want)
					closeIntact(t, s)
				})
			}
		}
	}
}

// Goal: a batch and a conditional write of one of its ids are one after the other. The interleavings: each comes when
// the other has begun and has no lock.
func TestApply_BesidePutIf(t *testing.T) {
	var s *Store
	var beside func() error
	var done error
	s = openTest(t, quiet(), hooks{at: func(p point) error {
		if do := beside; p == pointPutFound && do != nil {
			beside = nil
			elsewhere(func() { done = do() })
		}
		return nil
	}})
	v, err := s.PutIf("a", []byte("first"), 0)
	require.NoError(t, err)
	var b Batch
	b.Put("b", nil)
	b.Put("a", []byte("of the batch"))
	b.Check("a", v)
	beside = func() error { return s.Apply(&b) }
	_, err = s.PutIf("a", nil, v)
	require.NoError(t, done)
	require.ErrorIs(t, err, ErrChanged)
	require.True(t, s.Has("b"))

	_, v, err = s.GetVersion("a")
	require.NoError(t, err)
	b.Reset()
	b.Put("c", nil)
	b.Check("a", v)
	beside = func() error { _, err := s.PutIf("a", nil, v); return err }
	require.ErrorIs(t, s.Apply(&b), ErrChanged)
	require.NoError(t, done)
	require.False(t, s.Has("c"))
}

// Goal: from its look-ups to its last slot a batch keeps other writers of its ids out, in all lanes: whatever shard is
// in the index, all its lanes are locked. A Get sees each id whole, as it was before or after.
func TestApply_HoldsAllLanes(t *testing.T) {
	const ids = 8
	var s *Store
	var b Batch
	looks, indexed := 0, 0
	s = openTest(t, quiet(), hooks{
		hash: placedBy(func(i int) int { return i }), // shard i
		at: func(p point) error {
			if p != pointApplyIndexed && p != pointPutAppended || b.Len() == 0 {
				return nil
			}
			looks++
			if p == pointApplyIndexed {
				indexed++
			}
			for i := range min(ids, len(s.lanes)) {
				require.False(t, s.lanes[i].mu.TryLock(), "lane %d after %d shards", i, indexed)
			}
			elsewhere(func() {
				for i := range ids {
					want := "before"
					if i < indexed {
						want = "batch"
					}
					if got, err := s.Get(idOf(i)); err != nil || string(got) != want {
						t.Errorf("after %d shards memory %d is %q, %v", indexed, i, got, err)
					}
				}
			})
			return nil
		}})
	for i := range ids {
		require.NoError(t, s.Put(idOf(i), []byte("before")))
	}
	for i := range ids {
		b.Put(idOf(i), []byte("batch"))
	}
	require.NoError(t, s.Apply(&b))
	require.Equal(t, ids+1, looks)
}

// Goal: a load whose id a batch stores or deletes is superseded.
func TestApply_SupersedesLoads(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	var b Batch
	b.Put("stored", []byte("batch"))
	b.Delete("deleted")
	for id, want := range map[string]string{"stored": "batch", "deleted": ""} {
		_, err := s.GetOrLoad(context.Background(), id, func(context.Context) ([]byte, error) {
			return []byte("loaded"), s.Apply(&b)
		})
		require.NoError(t, err)
		got, err := s.Get(id)
		if want == "" {
			require.ErrorIs(t, err, ErrNotFound)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// Goal: in a table where ids collide a batch finds the slots it overwrites, removes and inserts, whatever its own
// changes do to positions. Method: all ids in one shard, few tags.
func TestApply_OneShard(t *testing.T) {
	rng := seeded(t)
	tags := func(id string) uint64 { // far apart: a table that grows moves them
		return uint64(record.Checksum([]byte(id))%5*(tagCount/5)) << (64 - shardBits - tagBits)
	}
	s := openTest(t, quiet(), hooks{hash: tags})
	want := map[string]string{}
	var b Batch
	for round := range 200 {
		b.Reset()
		for range 30 {
			id := idOf(rng.IntN(60))
			if rng.IntN(3) == 0 {
				b.Delete(id)
				delete(want, id)
			} else {
				want[id] = fmt.Sprint(round, id)
				b.Put(id, []byte(want[id]))
			}
		}
		require.NoError(t, s.Apply(&b))
		require.Equal(t, len(want), s.Len())
		for id, content := range want {
			got, err := s.Get(id)
			require.NoError(t, err)
			require.Equal(t, content, string(got))
		}
	}
	requireIntact(t, s)
}
