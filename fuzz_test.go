package warmtier

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a program of calls has the results it has on a map, and leaves a store that verifies.
// Method: three bytes are one call: which, on what id, and how (a size, or where a compaction
// fails).
func FuzzOperations(f *testing.F) {
	f.Add([]byte{0, 1, 10, 0, 2, 20, 4, 0, 0, 2, 1, 0, 1, 2, 0, 4, 0, 0}, uint8(1))
	f.Add([]byte{0, 1, 255, 0, 1, 254, 0, 1, 253, 5, 3, 1, 3, 1, 0, 4, 0, 0}, uint8(0))
	f.Add([]byte{0, 1, 1, 0, 2, 1, 0, 3, 1, 1, 2, 0, 5, 5, 2, 6, 0, 0, 5, 6, 1, 4, 0, 0}, uint8(3))
	f.Add(bytes.Repeat([]byte{0, 1, 250, 0, 2, 250, 1, 1, 0, 5, 4, 3}, 20), uint8(2))
	f.Add([]byte{}, uint8(9))
	f.Fuzz(func(t *testing.T, program []byte, hashBits uint8) {
		opts := quiet()
		opts.Compaction.Workers = 1 + int(hashBits)%2
		opts.Compaction.MaxOverhead = []int64{0, -1, 1}[hashBits%3]
		bits := int(hashBits % 40)
		hash := func(id string) uint64 { return oneLane(id) << 8 >> (56 - bits) << (64 - bits) }
		s, err := open("", opts, hooks{hash: hash})
		require.NoError(t, err)
		h := &historyTest{t: t, s: s, model: map[string][]byte{}}
		for ; len(program) >= 3 && h.version < 500; program = program[3:] {
			call, i, how := program[0]%7, int(program[1]), int(program[2])
			switch call {
			case 0:
				h.put(i, how*how) // up to 65,025: nearly a segment
			case 1:
				h.remove(i)
			case 2:
				h.get(i)
			case 3:
				h.view(i)
			case 4:
				h.compact(nil)
			case 5:
				points := []point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
					pointCompactBuilt, pointCompactFlip, pointCompactCommitted}
				h.compact(failAt(points[i%len(points)], int64(how)+1, &injectedFault{"program"}))
			case 6:
				requireAll(t, s, h.model)
			}
		}
		requireIntact(t, s)
		requireAll(t, s, h.model)
		mustCompact(t, s)
		requireAll(t, s, h.model)
		require.NoError(t, s.Close())
		require.Zero(t, s.mapper.bytes.Load())
	})
}

// Goal: whatever two ids and contents are, each content comes back as it was stored, through every
// way of reading, a compaction, and for a directory a close and an open; and an invalid id is
// refused.
func FuzzMemories(f *testing.F) {
	f.Add("a", []byte("content"), "b", []byte{}, false)
	f.Add("", []byte("no id"), "\x00", []byte(nil), true)
	f.Add("../../etc/passwd", []byte{0, 0, 0, 0}, "\xff\xfe", bytes.Repeat([]byte{0xff}, 70000), true)
	f.Add("same", []byte("first"), "same", []byte("second"), true)
	f.Fuzz(func(t *testing.T, id1 string, content1 []byte, id2 string, content2 []byte, inDirectory bool) {
		dir := ""
		if inDirectory {
			dir = t.TempDir()
		}
		s, err := open(dir, quiet(), hooks{})
		require.NoError(t, err)
		model := map[string][]byte{}
		for _, m := range []struct {
			id      string
			content []byte
		}{{id1, content1}, {id2, content2}} {
			err := s.Put(m.id, m.content)
			if len(m.id) == 0 || len(m.id) > MaxIDLen {
				require.ErrorIs(t, err, ErrInvalidID)
				continue
			}
			require.NoError(t, err)
			model[m.id] = m.content
		}
		requireMemories(t, s, model)
		mustCompact(t, s)
		requireMemories(t, s, model)
		if inDirectory {
			require.NoError(t, s.Close())
			s, err = open(dir, quiet(), hooks{})
			require.NoError(t, err)
			requireMemories(t, s, model)
		}
		for id := range model {
			existed, err := s.Delete(id)
			require.NoError(t, err)
			require.True(t, existed)
			require.False(t, s.Has(id))
		}
		require.Zero(t, s.Len())
		requireIntact(t, s)
		require.NoError(t, s.Close())
	})
}

// requireMemories checks, by every way of reading, that s holds the memories of model and no
// others.
func requireMemories(t *testing.T, s *Store, model map[string][]byte) {
	t.Helper()
	require.Equal(t, len(model), s.Len())
	for id, want := range model {
		got, err := s.Get(id)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, s.View(id, func(content []byte) error {
			require.True(t, bytes.Equal(want, content))
			return nil
		}))
		require.True(t, s.Has(id))
	}
	for id, content := range s.All() {
		want, ok := model[id]
		require.True(t, ok)
		require.True(t, bytes.Equal(want, content))
	}
}
