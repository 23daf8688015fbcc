package warmtier

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: Verify fails when anything it vouches for is wrong. Method: break one thing at a time, see
// that Verify finds it, and mend it.
func TestVerify_FindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		want  string // in a finding
		wreck func(t *testing.T, s *Store) (mend func())
	}{
		{"live record, content", "checksum mismatch", func(t *testing.T, s *Store) func() {
			return flipByte(recordOf(t, s, idOf(7)), record.HeaderSize+30)
		}},
		{"live record, checksum", "checksum mismatch", func(t *testing.T, s *Store) func() {
			return flipByte(recordOf(t, s, idOf(7)), 0)
		}},
		{"live record, header", "no valid header", func(t *testing.T, s *Store) func() {
			return flipByte(recordOf(t, s, idOf(7)), atKind)
		}},
		{"dead record, content", "checksum mismatch", func(t *testing.T, s *Store) func() {
			rec := recordOf(t, s, idOf(8))
			deleteWhere(t, s, 8, 9, all)
			return flipByte(rec, record.HeaderSize+30)
		}},
		{"dead record, header", "no valid header", func(t *testing.T, s *Store) func() {
			rec := recordOf(t, s, idOf(8))
			deleteWhere(t, s, 8, 9, all)
			return flipByte(rec, atFlags)
		}},
		{"count of memories", "memories: 101 counted, 100 found", func(t *testing.T, s *Store) func() {
			sh, _ := s.place(idOf(7))
			sh.memories.Add(1)
			return func() { sh.memories.Add(-1) }
		}},
		{"live bytes of a shard", "live bytes of all shards: ", func(t *testing.T, s *Store) func() {
			sh, _ := s.place(idOf(7))
			sh.liveBytes.Add(-8)
			return func() { sh.liveBytes.Add(8) }
		}},
		{"live bytes of a segment", "live bytes: ", func(t *testing.T, s *Store) func() {
			seg, _ := locationOf(t, s, idOf(7))
			seg.live.Add(8)
			return func() { seg.live.Add(-8) }
		}},
		{"tail too far", "no valid header", func(t *testing.T, s *Store) func() {
			seg, _ := locationOf(t, s, idOf(7))
			seg.tail.Add(32)
			return func() { seg.tail.Add(-32) }
		}},
		{"tail too near", "record beyond the tail", func(t *testing.T, s *Store) func() {
			seg, _ := locationOf(t, s, idOf(7))
			tail := seg.tail.Load()
			seg.tail.Store(layout.HeaderSize)
			return func() { seg.tail.Store(tail) }
		}},
		{"slot lost", "memories: 100 counted, 99 found", wreckSlot(func(slot) slot { return 0 })},
		{"slot that leads between two records", "damaged header or id", wreckSlot(func(w slot) slot { return w + 1 })},
		{"slot that leads to no segment", "no such segment", wreckSlot(func(w slot) slot { return w | 1<<(locationBits-1) })},
		{"slot with another tag", "its slot is in shard", wreckSlot(func(w slot) slot { return w ^ 1<<tagShift })},
		{"slot of another memory", "its slot is in shard", func(t *testing.T, s *Store) func() {
			n := 8 // of another shard: in the same one its id would have two slots
			for mine, _ := s.place(idOf(7)); ; n++ {
				if other, _ := s.place(idOf(n)); other != mine {
					break
				}
			}
			other := slotOf(t, s, idOf(n))
			return wreckSlot(func(slot) slot { return other })(t, s)
		}},
		{"slot of an older version", "live bytes: ", func(t *testing.T, s *Store) func() {
			older := slotOf(t, s, idOf(7))
			require.NoError(t, s.Put(idOf(7), contentOf(7, 1, 500)))
			return wreckSlot(func(slot) slot { return older })(t, s)
		}},
		{"second slot for an id", "its id has two slots", func(t *testing.T, s *Store) func() {
			older := slotOf(t, s, idOf(7))
			require.NoError(t, s.Put(idOf(7), contentOf(7, 1, 50)))
			sh, tag := s.place(idOf(7))
			pos, w := sh.current().first(tag)
			for w != 0 {
				pos, w = sh.current().following(pos, tag)
			}
			sh.current().set(pos, older)
			return func() { sh.current().set(pos, 0) }
		}},
		{"slot away from its home", "cannot be reached from its home", func(t *testing.T, s *Store) func() {
			sh, tag := s.place(idOf(7))
			pos, w := sh.current().first(tag)
			free := wrap(pos+sh.current().slots()/2, sh.current().slots())
			for sh.current().get(free) != 0 || sh.current().get(wrap(free+sh.current().slots()-1, sh.current().slots())) != 0 {
				free = sh.current().next(free)
			}
			sh.current().set(pos, 0)
			sh.current().set(free, w)
			return func() { sh.current().set(free, 0); sh.current().set(pos, w) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			fill(t, s, 0, 100, 50)
			requireIntact(t, s)
			mend := c.wreck(t, s)
			report, err := s.Verify(context.Background())
			mend()
			require.ErrorIs(t, err, ErrCorrupt)
			require.Equal(t, len(report.Findings), report.FindingCount)
			require.True(t, slices.ContainsFunc(report.Findings, func(f Finding) bool {
				return strings.Contains(f.Problem, c.want)
			}), "%+v", report.Findings)
			var corrupt *CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.Equal(t, report.Findings[0].File, corrupt.File)
			requireIntact(t, s)
		})
	}
}

// wreckSlot changes the slot of memory 7.
func wreckSlot(change func(w slot) slot) func(t *testing.T, s *Store) (mend func()) {
	return func(t *testing.T, s *Store) func() {
		w := slotOf(t, s, idOf(7))
		sh, _ := s.place(idOf(7))
		pos, ok := sh.current().find(w)
		require.True(t, ok)
		sh.current().set(pos, change(w))
		return func() { sh.current().set(pos, w) }
	}
}

// slotOf returns the slot of id.
func slotOf(t *testing.T, s *Store, id string) slot {
	t.Helper()
	seg, offset := locationOf(t, s, id)
	_, tag := s.place(id)
	return makeSlot(tag, s.locate(seg, offset))
}

// Goal: a report lists a bounded number of findings and counts all of them. Method: damage more
// records than are listed.
func TestVerify_CountsBeyondTheList(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const n = 1500
	fill(t, s, 0, n, 20)
	change := func() {
		for i := range n {
			seg, offset := locationOf(t, s, idOf(i))
			seg.mem[offset+record.HeaderSize+len(idOf(i))] ^= 0xff
		}
	}
	change()
	report, err := s.Verify(context.Background())
	require.ErrorIs(t, err, ErrCorrupt)
	require.Len(t, report.Findings, maxFindings)
	require.GreaterOrEqual(t, report.FindingCount, n)
	change()
	report, err = s.Verify(context.Background())
	require.NoError(t, err)
	require.Equal(t, n, report.Records)
	require.Equal(t, n, report.Memories)
	require.Equal(t, s.Stats().TotalBytes, report.BytesRead)
	require.Equal(t, s.Stats().Segments, report.Segments)
}

// Goal: Verify finds nothing wrong in a store that is only being written to.
//
// The interleaving: after the segments have been read, a Put writes its record and has not reached
// the index when the totals are compared: nothing in the index has changed, yet the segments hold
// more bytes than were read.
//
// Method: the hash, which Verify computes for every slot, starts such a Put in another shard.
func TestVerify_PutUnderWay(t *testing.T) {
	appended := pauseAt(pointPutAppended)
	put := make(chan error, 1)
	place := placedBy(layoutShard)
	var s *Store
	var verifying atomic.Bool
	var hashes atomic.Int64
	s = openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		// The second hash of an id in a Verify is the one for its slot.
		if verifying.Load() && id == idOf(firstMoved) && hashes.Add(1) == 2 {
			elsewhere(func() {
				go func() { put <- putVersion(s, lastMoved, 1) }()
				<-appended.reached
			})
		}
		return place(id)
	}})
	fill(t, s, 0, 2, layoutSize)
	s.hooks.at = appended.hook
	verifying.Store(true)
	report, err := s.Verify(context.Background())
	verifying.Store(false)
	close(appended.proceed)
	require.NoError(t, <-put)
	require.EqualValues(t, 2, hashes.Load())
	require.NoError(t, err, "findings: %+v", report.Findings)
}
