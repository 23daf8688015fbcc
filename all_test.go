package warmtier

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// Goal: All gives each memory exactly once with its content. Method: against a map, after deletes,
// overwriting and a compaction.
func TestAll_EachMemoryOnce(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	model := map[string][]byte{}
	for i := range 3000 {
		content := contentOf(i, i%3, i%200)
		require.NoError(t, s.Put(idOf(i), nil))
		require.NoError(t, s.Put(idOf(i), content))
		model[idOf(i)] = content
		if i%5 == 0 {
			_, err := s.Delete(idOf(i))
			require.NoError(t, err)
			delete(model, idOf(i))
		}
	}
	requireAll(t, s, model)
	mustCompact(t, s)
	requireAll(t, s, model)
	requireUnpinned(t, s)
}

// Goal: a loop over All may stop anywhere, and leaves no pin. Method: break after n steps.
func TestAll_Break(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	for _, n := range []int{1, 2, 128, 999} {
		steps := 0
		for range s.All() {
			steps++
			if steps == n {
				break
			}
		}
		require.Equal(t, n, steps)
		requireUnpinned(t, s)
	}
	deleteWhere(t, s, 0, 1000, odd)
	mustCompact(t, s)
}

// Goal: a memory that stays is yielded exactly once, and any other at most once, whatever the body
// of the loop does to the others. Method: delete, add and compact in each step.
func TestAll_OthersComeAndGo(t *testing.T) {
	const stay = 1000
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 2*stay, 100) // the first half stays
	fresh, gone, steps := 2*stay, stay, 0
	seen := map[string]int{}
	for id, content := range s.All() {
		require.Len(t, content, 100)
		seen[id]++
		require.Equal(t, 1, seen[id], id)
		if gone < 2*stay {
			deleteWhere(t, s, gone, gone+1, all)
			gone++
		}
		if fresh < 6*stay {
			fill(t, s, fresh, fresh+2, 100)
			fresh += 2
		}
		if steps++; steps%200 == 0 {
			mustCompact(t, s)
		}
	}
	for i := range stay {
		require.Equal(t, 1, seen[idOf(i)], idOf(i))
	}
	requireUnpinned(t, s)
}

// Goal: the body of a loop over All may delete what it was given, overwrite it, and close the
// store, which ends the loop. Method: each in its own loop.
func TestAll_BodyCallsStore(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	for id, content := range s.All() {
		before := bytes.Clone(content)
		require.NoError(t, s.Put(id, []byte("overwritten")))
		require.Equal(t, before, content)
	}
	steps := 0
	for id, content := range s.All() {
		require.Equal(t, "overwritten", string(content))
		existed, err := s.Delete(id)
		require.NoError(t, err)
		require.True(t, existed)
		require.Equal(t, "overwritten", string(content))
		steps++
	}
	require.Equal(t, 1000, steps)
	require.Zero(t, s.Len())

	fill(t, s, 0, 1000, 100)
	steps = 0
	for _, content := range s.All() {
		require.NoError(t, s.Close())
		require.Len(t, content, 100)
		steps++
	}
	require.Equal(t, 1, steps)
}

// Goal: All leaves out a damaged record, counts it, logs it without its id and content, and yields
// no other memory in its place. Method: damage one byte of one record, in each part of it.
func TestAll_DamagedRecordLeftOut(t *testing.T) {
	const size = 40
	for _, c := range []struct {
		name string
		at   int  // byte of the record
		flip byte // turns idOf(10) into idOf(11) where it hits the id
	}{
		{"head checksum", 0, 0x10},
		{"content checksum", atContentSum, 0x10},
		{"kind", atKind, 0x01},
		{"kind, to a tombstone", atKind, 0x03},
		{"flags", atFlags, 0x80},
		{"id length", atIDLen, 0x01},
		{"content length", atContentLen, 0x01},
		{"content length out of bounds", atContentLen + 3, 0x7f},
		{"sequence number", atSeq, 0x01},
		{"id, to that of no memory", record.HeaderSize, 0x80},
		{"id, to that of another memory", record.HeaderSize + len(idOf(0)) - 1, '0' ^ '1'},
		{"content", record.HeaderSize + len(idOf(0)), 0x04},
		{"last byte of the content", record.HeaderSize + len(idOf(0)) + size - 1, 0x80},
	} {
		t.Run(c.name, func(t *testing.T) {
			logger, log := logTo()
			opts := quiet()
			opts.Logger = logger
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, 20, size)
			rec := recordOf(t, s, idOf(10))
			rec[c.at] ^= c.flip
			seen := map[string]int{}
			for id, content := range s.All() {
				seen[id]++
				require.Equal(t, 1, seen[id], "times that %s was yielded", id)
				require.NotEqual(t, idOf(10), id)
				var i int
				_, err := fmt.Sscanf(id, "memory-%d", &i)
				require.NoError(t, err)
				require.Equal(t, contentOf(i, 0, size), content)
			}
			rec[c.at] ^= c.flip
			require.Len(t, seen, 19)
			require.Positive(t, s.Stats().Reads.CorruptRecords)
			require.Contains(t, log.String(), "left out of an iteration")
			require.NotContains(t, log.String(), "memory-")
			requireUnpinned(t, s)
		})
	}
}
