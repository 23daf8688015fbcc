package warmtier

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: the store behaves as a map does, through any history. Method: seeded random calls, faults
// in compactions included, against a map; a short check after every call and Verify at the end;
// several sets of options, and hashes with so few bits that most ids share one.
func TestStore_RandomHistory(t *testing.T) {
	parallel(t)
	fewBits := func(bits int) func(id string) uint64 {
		return func(id string) uint64 { return oneLane(id) << 8 >> (56 - bits) << (64 - bits) }
	}
	for _, c := range []struct {
		name        string
		segmentSize int
		workers     int
		maxOverhead int64
		hash        func(id string) uint64
	}{
		{"defaults, small segments", minSegmentSize, 0, 0, nil},
		{"four workers, small rounds", minSegmentSize, 4, 1, nil},
		{"four workers, one round", minSegmentSize, 4, -1, nil},
		{"one worker, one round", minSegmentSize, 1, -1, nil},
		{"larger segments", 1 << 20, 2, 0, nil},
		{"one lane", minSegmentSize, 1, 1, oneLane},
		{"hash of three bits", minSegmentSize, 1, 0, fewBits(3)},
		{"hash of twelve bits", minSegmentSize, 4, 0, fewBits(12)},
		{"constant hash", minSegmentSize, 2, -1, fewBits(0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize = c.segmentSize
			opts.Compaction.Workers = c.workers
			opts.Compaction.MaxOverhead = c.maxOverhead
			h := &historyTest{t: t, s: openTest(t, opts, hooks{hash: c.hash}), model: map[string][]byte{}}
			rnd := seeded(t)
			for range sized(t, stride(t, 3000, 8000)) {
				h.step(rnd)
			}
			requireIntact(t, h.s)
			requireAll(t, h.s, h.model)
			mustCompact(t, h.s)
			requireAll(t, h.s, h.model)
			require.Zero(t, h.s.Stats().DeadBytes)
		})
	}
}

// historyTest runs calls against a store and a map.
type historyTest struct {
	t       testing.TB
	s       *Store
	model   map[string][]byte
	version int
}

// historyIDs is the number of ids in a history.
const historyIDs = 300

func (h *historyTest) step(rnd *rand.Rand) {
	i := rnd.IntN(historyIDs)
	switch n := rnd.IntN(1000); {
	case n < 450:
		size := rnd.IntN(300)
		if rnd.IntN(100) == 0 {
			size = rnd.IntN(100_000)
		}
		h.put(i, size)
	case n < 700:
		h.remove(i)
	case n < 900:
		h.get(i)
	case n < 980:
		h.view(i)
	case n < 983:
		requireAll(h.t, h.s, h.model)
	case n < 984:
		for j := range historyIDs { // a mass delete
			h.remove(j)
		}
	case n < 992:
		h.compact(nil)
	default:
		ps := []point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
			pointCompactBuilt, pointCompactFlip, pointCompactCommitted}
		h.compact(failAt(ps[rnd.IntN(len(ps))], 1+rnd.Int64N(50), &injectedFault{"history"}))
	}
	require.Equal(h.t, len(h.model), h.s.Len())
}

func (h *historyTest) put(i, size int) {
	h.version++
	content := contentOf(i, h.version, size)[:size]
	require.NoError(h.t, h.s.Put(idOf(i), content))
	h.model[idOf(i)] = content
	h.get(i)
}

func (h *historyTest) remove(i int) {
	existed, err := h.s.Delete(idOf(i))
	require.NoError(h.t, err)
	_, present := h.model[idOf(i)]
	require.Equal(h.t, present, existed)
	delete(h.model, idOf(i))
	require.False(h.t, h.s.Has(idOf(i)))
}

func (h *historyTest) get(i int) {
	content, present := h.model[idOf(i)]
	got, err := h.s.Get(idOf(i))
	require.Equal(h.t, present, h.s.Has(idOf(i)))
	if !present {
		require.ErrorIs(h.t, err, ErrNotFound)
		return
	}
	require.NoError(h.t, err)
	if !bytes.Equal(content, got) {
		require.Failf(h.t, "wrong bytes", "Get of %s", idOf(i))
	}
}

func (h *historyTest) view(i int) {
	content, present := h.model[idOf(i)]
	called := false
	err := h.s.View(idOf(i), func(got []byte) error {
		called = true
		if !bytes.Equal(content, got) {
			require.Failf(h.t, "wrong bytes", "View of %s", idOf(i))
		}
		return nil
	})
	require.Equal(h.t, present, called)
	if !present {
		require.ErrorIs(h.t, err, ErrNotFound)
		return
	}
	require.NoError(h.t, err)
}

// compact compacts with this hook; when the hook fails the compaction, everything must be as
// before.
func (h *historyTest) compact(at func(point) error) {
	before := h.s.Stats()
	h.s.hooks.at = at
	stats, err := h.s.Compact(context.Background())
	h.s.hooks.at = nil
	after := h.s.Stats()
	require.Equal(h.t, before.Memories, after.Memories)
	require.Equal(h.t, before.LiveBytes, after.LiveBytes)
	require.Equal(h.t, before.TotalBytes-stats.BytesReclaimed, after.TotalBytes)
	if err == nil {
		require.Zero(h.t, after.DeadBytes)
		return
	}
	require.NotNil(h.t, at)
	require.ErrorIs(h.t, err, ErrCompactionFailed)
	var injected *injectedFault
	require.ErrorAs(h.t, err, &injected)
}
