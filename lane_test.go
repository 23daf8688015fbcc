//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: a Put that fails leaves nothing in the file. Its body is written before it looks at the old
// record; when that is damaged, the body must go: otherwise it lies where a later record's header
// would be, and a store killed after that no longer opens.
func TestDirectory_FailedPutLeavesNoBody(t *testing.T) {
	if raceEnabled {
		t.Skip("segments on the heap reach their files with Sync, and a kill needs what was not synced")
	}
	dir, killed := fastDir(t), fastDir(t)
	s := openDir(t, dir, quiet())
	require.NoError(t, s.Put("damaged", []byte("old")))
	var m match
	hold := s.contentMu.RLock()
	sh, tag := s.place("damaged")
	exists, err := s.find(&m, sh, tag, "damaged")
	s.contentMu.RUnlock(hold)
	require.NoError(t, err)
	require.True(t, exists)
	m.rec[record.HeaderSize] ^= 1
	require.ErrorIs(t, s.Put("damaged", bytes.Repeat([]byte{0xff}, 5000)), ErrCorrupt)
	m.rec[record.HeaderSize] ^= 1
	for i := range 100 { // reach every lane
		require.NoError(t, s.Put(idOf(i), nil))
	}
	copyDir(t, dir, killed) // as a kill leaves it
	closeIntact(t, s)

	reopened := openDir(t, killed, quiet())
	require.Equal(t, 101, reopened.Len())
	closeIntact(t, reopened)
}

// Goal: while a segment is made, nobody waits but the call that needs it: no lock is held, in
// memory or in a directory.
func TestPut_MakesSegmentsWithoutLocks(t *testing.T) {
	for _, kind := range []string{"memory", "directory"} {
		t.Run(kind, func(t *testing.T) {
			dir := ""
			if kind == "directory" {
				dir = fastDir(t)
			}
			var s *Store
			made, writers := 0, 0
			s, err := open(dir, quietly(), hooks{at: func(p point) error {
				if p != pointSegmentMade && p != pointSegmentCreated || s == nil {
					return nil
				}
				done := make(chan struct{})
				go func() { // takes the locks of a swap and a writer; waits for ever if one is held
					defer close(done)
					s.contentMu.Lock()
					made++
					s.contentMu.Unlock()
					for i := range s.lanes {
						s.lanes[i].mu.Lock()
						writers++
						s.lanes[i].mu.Unlock()
					}
				}()
				<-done
				return nil
			}})
			require.NoError(t, err)
			fill(t, s, 0, 400, 300)
			require.NoError(t, s.Put("large", make([]byte, 2<<20)))
			id := strings.Repeat("i", MaxIDLen)
			require.NoError(t, s.Put(id, nil))
			deleteWhere(t, s, 0, 400, odd)
			existed, err := s.Delete(id)
			require.NoError(t, err)
			require.True(t, existed)
			require.Greater(t, made, 3)
			require.GreaterOrEqual(t, writers, made)
			closeIntact(t, s)
		})
	}
}

// Goal: a lane does not resume in a segment with bytes after its end, which could pass for a
// record.
func TestDirectory_PartialOnlyWhenZero(t *testing.T) {
	for _, at := range []int{layout.HeaderSize + 72, minSegmentSize - layout.DigestSize*3} {
		d := newShadow()
		s := oneLaneStore(t, d)
		require.NoError(t, s.Put("a", nil))
		require.NoError(t, s.Close())
		require.Contains(t, d.Files, layout.HintName)
		damageAt(d, segmentNames(d)[0], at)
		s = oneLaneStore(t, d)
		require.NoError(t, s.Put("b", nil))
		require.Len(t, s.segments.all(), 2)
		closeShadow(t, s, d)
	}
}

// Goal: a lane that needs a segment while a compaction runs does not resume in a victim.
//
// The interleaving: after Open lanes may resume in segments that the last Close sealed with room
// left. A compaction has chosen such a segment, and a Put comes: what it stores there is lost with
// the victim.
func TestDirectory_LaneGoesOnInNoVictim(t *testing.T) {
	const n = 100
	dir := fastDir(t)
	for _, at := range []point{pointCompactSealed, pointCompactWalked, pointCompactBuilt, pointCompactCommitted} {
		s, err := open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		fill(t, s, 0, n, 200)
		deleteWhere(t, s, 0, n, odd)
		require.NoError(t, s.Close())

		s, err = open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		require.NotEmpty(t, s.segments.partial)
		s.hooks.at = doAt(at, 1, func() {
			if err := s.Put(idOf(n), contentOf(n, 1, 200)); err != nil {
				t.Error(err)
			}
		})
		mustCompact(t, s)
		s.hooks.at = nil
		got, err := s.Get(idOf(n))
		require.NoError(t, err, "stored at: %s", at)
		require.Equal(t, contentOf(n, 1, 200), got)
		_, err = s.Delete(idOf(n))
		require.NoError(t, err)
		requireContents(t, s, 0, n, 200, func(i int) bool { return !odd(i) })
		closeIntact(t, s)
	}
}

// Goal: Close is clean although a lane has been given a segment for a record that was not written.
//
// Method: the id is deleted while the segment for its loaded content is made.
func TestGetOrLoad_LeavesNothingUnsealed(t *testing.T) {
	dir := fastDir(t)
	var s *Store
	var deletion func()
	s, err := open(dir, quietly(), hooks{hash: oneLane, at: func(p point) error {
		if p == pointSegmentMade && deletion != nil {
			deletion()
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 1, 2, 60_000)
	deletion = func() {
		deletion = nil
		_, err = s.Delete(idOf(0))
	}
	content, loadErr := s.GetOrLoad(t.Context(), idOf(0), func(context.Context) ([]byte, error) {
		return contentOf(0, 0, 10_000), nil
	})
	require.NoError(t, loadErr)
	require.NoError(t, err)
	require.Equal(t, contentOf(0, 0, 10_000), content)
	require.Equal(t, 1, s.Len())
	require.Zero(t, s.lanes[0].active.records.Load())
	closeIntact(t, s)

	for range 2 {
		s, err = open(dir, quietly(), hooks{hash: oneLane})
		require.NoError(t, err)
		require.True(t, s.recovered.Clean)
		require.Equal(t, 1, s.segments.count(), "one without a record is left")
		requireContents(t, s, 1, 2, 60_000, all)
		closeIntact(t, s)
	}
	require.Len(t, segmentFiles(t, dir), 1)
}
