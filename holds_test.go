package warmtier

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a swap of many segments takes at most 64 in a hold of contentMu, and lets everybody in
// between. Method: a compaction of 200 dead segments; after each hold, as many are gone as there were
// holds, a write lock is to be had, and reads succeed.
func TestHolds_SwapInBatches(t *testing.T) {
	const dead = 200
	s := openTest(t, unbounded(1), hooks{})
	require.NoError(t, s.Put("stays", []byte("here")))
	for i := range dead {
		require.NoError(t, s.Put(idOf(i), make([]byte, minSegmentSize))) // a segment of its own
	}
	s.dead.on = false // all at once
	deleteWhere(t, s, 0, dead, all)
	before := s.Stats()
	var left []int
	s.hooks.at = func(p point) error {
		if p == pointSegmentsRemoved {
			elsewhere(func() {
				passThrough(&s.contentMu) // nobody holds it
				if !s.Has("stays") {
					t.Error("a memory is missing between two holds")
				}
				left = append(left, before.Segments-s.Stats().Segments)
			})
		}
		return nil
	}
	mustCompact(t, s)
	s.hooks.at = nil
	require.Len(t, left, 4)
	require.Equal(t, []int{64, 128, 192}, left[:3])
	require.EqualValues(t, 4, s.Stats().CompactionDetails.SwapDuration.Count, "holds measured")
	require.Equal(t, before.Writes.Bytes, s.Stats().Writes.Bytes)
}

// Goal: the targets of a round enter the table in batches as well. Method: a round that fills more
// than 64 targets; after each hold a write lock is to be had.
func TestHolds_TargetsInBatches(t *testing.T) {
	s := openTest(t, unbounded(2), hooks{})
	const n = 1000
	fill(t, s, 0, n, minSegmentSize/2-1000)
	deleteWhere(t, s, 0, n, odd)
	var holds []int
	s.hooks.at = func(p point) error {
		if p == pointTargetsPublished {
			elsewhere(func() {
				passThrough(&s.contentMu) // nobody holds it
				holds = append(holds, s.Stats().Segments)
			})
		}
		return nil
	}
	before := s.Stats().Segments
	mustCompact(t, s)
	s.hooks.at = nil
	require.Greater(t, len(holds), 1)
	require.Equal(t, before+removalBatch, holds[0])
	requireContents(t, s, 0, n, minSegmentSize/2-1000, func(i int) bool { return !odd(i) })
}

// Goal: AppendContent lets go of contentMu before it copies more than 64 KiB, also where that is
// what dst has already. Method: short contents, slices that must grow and slices that need not; a
// write lock is to be had whenever the copy is a long one.
func TestHolds_AppendToLongSlice(t *testing.T) {
	content := contentOf(1, 0, 1000)
	for _, c := range []struct {
		name         string
		length, room int
		letsGo       bool
	}{
		{name: "nothing there"},
		{name: "short, must grow", length: maxLockedCopy - 1000},
		{name: "long, must grow", length: maxLockedCopy - 999, letsGo: true},
		{name: "longer by far, must grow", length: 1 << 20, room: 999, letsGo: true},
		{name: "long, with room", length: 1 << 20, room: 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			require.NoError(t, s.Put("id", content))
			free := 0
			s.hooks.at = func(p point) error {
				if p == pointCopyPinned {
					elsewhere(func() {
						s.contentMu.Lock()
						free++
						s.contentMu.Unlock()
					})
				}
				return nil
			}
			dst := make([]byte, c.length, c.length+c.room)
			got, err := s.AppendContent(dst, "id")
			require.NoError(t, err)
			require.Len(t, got, c.length+len(content))
			require.Equal(t, content, got[c.length:])
			require.Equal(t, c.letsGo, free == 1)
			requireUnpinned(t, s)
		})
	}
}

// Goal: an iteration and a verification read at most 64 KiB of ids, and one id more, in a hold; none
// is left out or read twice where a batch ends early, ids that share a tag included, and though slots do
// not lie in the order of their tags. Method: ids of 1,000 to 60,000 bytes in one shard, three with a tag,
// all with one home, the highest tag first; read batch by batch.
func TestHolds_IDsInBatches(t *testing.T) {
	const n = 60
	s := openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		i := uint64(numberOf(id[:len(idOf(0))]))
		return (n - i/3) << (64 - shardBits - tagBits) // shard 0
	}})
	ids := map[string]bool{}
	for i := range n {
		id := idOf(i) + strings.Repeat("x", 1000+i*1000)
		ids[id] = true
		require.NoError(t, s.Put(id, []byte("content")))
	}
	const most = maxLockedCopy + 2*MaxIDLen // a batch does not end within a tag
	all := map[string]bool{}
	batch, batches := idBatch{want: iterationBatch}, 0
	for batch.next < tagCount {
		require.NoError(t, s.readIDs(&s.shards[0], &batch))
		batches++
		bytes := 0
		for _, id := range batch.ids {
			require.False(t, all[id], "read twice")
			all[id] = true
			bytes += len(id)
		}
		require.Less(t, bytes, maxLockedCopy+most)
	}
	require.Equal(t, ids, all)
	require.Greater(t, batches, n/9)

	verified := map[string]bool{}
	v := &verifier{s: s}
	for from := uint32(0); from < tagCount; {
		var found []slotID
		_, found, from = v.readSlots(&s.shards[0], from, nil)
		bytes := 0
		for _, id := range found {
			require.False(t, verified[id.id], "read twice")
			verified[id.id] = true
			bytes += len(id.id)
		}
		require.Less(t, bytes, maxLockedCopy+most)
	}
	require.Equal(t, ids, verified)
	report, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Equal(t, n, report.Memories)
}

// Goal: a batch of GetMany looks up at most 64 KiB of ids, and one id more. Method: long ids, there
// and missing, by batches and as a whole.
func TestHolds_GetManyByIDBytes(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	var ids []string
	for i := range batchIDs {
		ids = append(ids, idOf(i)+strings.Repeat("x", 20_000))
		if odd(i) {
			require.NoError(t, s.Put(ids[i], contentOf(i, 0, 100)))
		}
	}
	b := new(batch)
	require.NoError(t, s.readBatch(b, ids))
	require.Equal(t, 4, b.n)
	next := 0
	require.NoError(t, s.GetMany(ids, func(i int, content []byte, err error) {
		require.Equal(t, next, i)
		next++
		if odd(i) {
			require.NoError(t, err)
			require.Equal(t, contentOf(i, 0, 100), content)
		} else {
			require.ErrorIs(t, err, ErrNotFound)
		}
	}))
	require.Equal(t, len(ids), next)
}

// Goal: no record of more than 1 MiB is written with locks held, whatever the size of a segment.
func TestHolds_LargestRecordShared(t *testing.T) {
	for _, size := range []int{minSegmentSize, 1 << 20, 16 << 20, defaultSegmentSize, maxSegmentSize} {
		s := &Store{opts: Options{SegmentSize: size}}
		require.LessOrEqual(t, s.largeSize(), 1<<20, "segments of %d bytes", size)
		require.LessOrEqual(t, s.largeSize(), s.largestShared())
	}
}

// Goal: a loop over All that meets a Close finds nothing damaged.
//
// The interleaving: Close takes segments out of the table, a few at a time; in between a loop reads
// the next ids, with no look at whether the store is closed. Slots that lead to a segment that is gone
// would be logged and counted as damage.
//
// Method: the ids of every shard are read after each hold.
func TestHolds_IterationDuringClose(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	for i := range 2 * removalBatch {
		require.NoError(t, s.Put(idOf(i), make([]byte, minSegmentSize)))
	}
	holds := 0
	s.hooks.at = func(p point) error {
		if p == pointSegmentsRemoved {
			holds++
			for i := range s.shards {
				batch := idBatch{want: iterationBatch}
				if err := s.readIDs(&s.shards[i], &batch); err != nil || len(batch.ids) > 0 {
					t.Errorf("%d ids, error %v", len(batch.ids), err)
				}
			}
		}
		return nil
	}
	require.NoError(t, s.Close())
	require.Equal(t, 2, holds)
	require.Zero(t, s.Stats().Reads.CorruptRecords)
	require.Zero(t, s.Stats().Segments)
}
