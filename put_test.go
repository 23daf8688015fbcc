package warmtier

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// Goal: ids of any bytes are stored and told apart. Method: hostile ids side by side, through
// overwriting, deleting and a compaction.
func TestPut_IDsOfAnyBytes(t *testing.T) {
	ids := []string{
		"a", "a\x00", "\x00", "\x00\x00", "\xff\xfe\xfd", "\xc3\x28", "../x", "/", ".", "..", "CON", "a b", "\n",
		"é", "e\u0301", strings.Repeat("x", 255), strings.Repeat("x", 256),
		strings.Repeat("y", MaxIDLen), strings.Repeat("y", MaxIDLen-1),
	}
	opts := quiet()
	opts.SegmentSize = 1 << 20 // with room for the longest id
	s := openTest(t, opts, hooks{})
	for version := range 2 {
		for i, id := range ids {
			require.NoError(t, s.Put(id, contentOf(i, version, 20)))
		}
	}
	check := func() {
		require.Equal(t, len(ids), s.Len())
		for i, id := range ids {
			got, err := s.Get(id)
			require.NoError(t, err, "id %.20q", id)
			require.Equal(t, contentOf(i, 1, 20), got)
		}
	}
	check()
	mustCompact(t, s)
	check()
	seen := map[string]bool{}
	for id := range s.All() {
		seen[id] = true
	}
	require.Len(t, seen, len(ids))
	for _, id := range ids {
		existed, err := s.Delete(id)
		require.NoError(t, err)
		require.True(t, existed)
		require.False(t, s.Has(id))
	}
}

// Goal: contents of every length come back, in particular those around the limits of the layout.
// Method: sizes at the limits -1, 0 and +1, for small and for larger segments, through a
// compaction.
func TestPut_ContentSizes(t *testing.T) {
	for _, segmentSize := range []int{minSegmentSize, 2 << 20} {
		t.Run(fmt.Sprintf("segments of %d bytes", segmentSize), func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize = segmentSize
			s := openTest(t, opts, hooks{})
			id := func(size int) string { return fmt.Sprintf("memory of %010d bytes", size) }
			header := record.HeaderSize + len(id(0))
			var sizes []int
			for _, limit := range []int{
				1, 8 - header%8, chunkSize - header, maxLockedCopy,
				segmentSize/largeShare - header,
				s.largeSize() - header,                   // shares a segment
				segmentSize - layout.HeaderSize - header, // fills a segment
				segmentSize, 2 * segmentSize,
			} {
				sizes = append(sizes, limit-1, limit, limit+1)
			}
			slices.Sort(sizes)
			sizes = slices.Compact(sizes)
			check := func() {
				t.Helper()
				for i, size := range sizes {
					got, err := s.Get(id(size))
					require.NoError(t, err, "content of %d bytes", size)
					require.NotNil(t, got)
					if !bytes.Equal(sizedContent(i, size), got) {
						require.Failf(t, "wrong bytes", "content of %d bytes", size)
					}
				}
			}
			for i, size := range sizes {
				require.NoError(t, s.Put(id(size), []byte("first version")))
				require.NoError(t, s.Put(id(size), sizedContent(i, size)))
				seg, _ := locationOf(t, s, id(size))
				require.Equal(t, record.Size(len(id(0)), size) > s.largeSize(), seg.large,
					"a segment of its own for %d bytes", size)
			}
			check()
			mustCompact(t, s)
			require.Zero(t, s.Stats().DeadBytes)
			check()
		})
	}
}

// sizedContent returns a content as contentOf does, but of fewer than 16 bytes too.
func sizedContent(i, size int) []byte { return contentOf(i, size, size)[:size] }

// Goal: nil content is stored, and is the same as empty content. Method: both, through Get,
// AppendContent and View.
func TestPut_NilAndEmptyContent(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("nil", nil))
	require.NoError(t, s.Put("empty", []byte{}))
	for _, id := range []string{"nil", "empty"} {
		require.True(t, s.Has(id))
		got, err := s.Get(id)
		require.NoError(t, err)
		require.NotNil(t, got)
		require.Empty(t, got)
		got, err = s.AppendContent([]byte("as it was"), id)
		require.NoError(t, err)
		require.Equal(t, "as it was", string(got))
		require.NoError(t, s.View(id, func(content []byte) error {
			require.Empty(t, content)
			return nil
		}))
	}
	require.Equal(t, 2, s.Len())
}

// Goal: contents far over the segment size work in every call, and their memory comes back. Method:
// 33 MiB in a store with segments of 64 KiB.
func TestPut_ContentLargerThanSegment(t *testing.T) {
	const size = 33 << 20
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 100, 100)
	small := s.Stats().MappedBytes

	older, newer := contentOf(1, 0, size), contentOf(1, 1, size)
	require.NoError(t, s.Put("large", older))
	require.NoError(t, s.Put("large", newer))
	got, err := s.Get("large")
	require.NoError(t, err)
	require.True(t, bytes.Equal(newer, got))
	require.NoError(t, s.View("large", func(content []byte) error {
		require.True(t, bytes.Equal(got, content))
		return nil
	}))
	require.GreaterOrEqual(t, s.Stats().BytesReclaimed, int64(size), "the overwritten version leaves at once")
	mustCompact(t, s)
	require.Less(t, s.Stats().MappedBytes, small+size+size/2, "the overwritten version")
	got, err = s.AppendContent(got[:0], "large")
	require.NoError(t, err)
	require.True(t, bytes.Equal(newer, got))

	existed, err := s.Delete("large")
	require.NoError(t, err)
	require.True(t, existed)
	mustCompact(t, s)
	require.LessOrEqual(t, s.Stats().MappedBytes, small, "the deleted memory")
	requireContents(t, s, 0, 100, 100, all)
}

// Goal: 1 GiB is the longest content, and one byte more is refused before anything is done with it.
// Method: contents of mapped memory that was never written to, and so takes no memory.
func TestPut_LongestContent(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector keeps four bytes for each byte of such a content")
	}
	s := openTest(t, quiet(), hooks{})
	before := settled(s)
	content, err := vm.Map(vm.RoundUp(MaxContentLen+1, vm.PageSize))
	require.NoError(t, err)
	defer func() { require.NoError(t, vm.Unmap(content)) }()
	err = s.Put("id", content[:MaxContentLen+1])
	require.ErrorIs(t, err, ErrContentTooLarge)
	require.ErrorContains(t, err, "1073741825 bytes")
	requireSameState(t, before, s.Stats())
	if _, long := askedDuration(t); !long {
		t.Skip("2 GiB of memory are for the long tests")
	}
	require.NoError(t, s.Put("id", content[:MaxContentLen]))
	require.NoError(t, s.View("id", func(got []byte) error {
		require.Len(t, got, MaxContentLen)
		return nil
	}))
	_, err = s.Delete("id")
	require.NoError(t, err)
	mustCompact(t, s)
	require.LessOrEqual(t, s.Stats().MappedBytes, int64(2*smallBlock), "one block of tables, and one that is replaced")
}

// Goal: the store keeps no slice of the caller's, and hands out none of its own. Method: change
// both slices.
func TestPut_CallerKeepsItsSlice(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	for _, size := range []int{16, 100, 100_000} {
		content := contentOf(1, 1, size)
		require.NoError(t, s.Put("id", content))
		clear(content)
		got, err := s.Get("id")
		require.NoError(t, err)
		require.Equal(t, contentOf(1, 1, size), got)
		clear(got)
		again, err := s.Get("id")
		require.NoError(t, err)
		require.Equal(t, contentOf(1, 1, size), again)
	}
}

// Goal: when no number is left for another segment, Put returns ErrNoSpace and changes nothing; Get
// and Delete work, and so does Put once there is room. Method: set the count of numbers in use to
// its limit.
func TestPut_NoSpace(t *testing.T) {
	for _, c := range []struct {
		name    string
		content []byte
	}{
		{"content that shares a segment", make([]byte, 60_000)},
		{"content with a segment of its own", make([]byte, 100_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 1 << 63 }})
			fill(t, s, 0, 100, 300)
			used := s.segments.used
			s.segments.used = s.maxSegments() - 1 // which is a compaction's
			before := settled(s)
			err := s.Put(idOf(3), c.content)
			require.ErrorIs(t, err, ErrNoSpace)
			requireSameState(t, before, s.Stats())
			requireContents(t, s, 0, 100, 300, all)
			deleteWhere(t, s, 0, 50, all)
			s.segments.used = used
			require.NoError(t, s.Put(idOf(3), c.content))
		})
	}
}

// Goal: a Put does not believe a look-up from before it took the lane's lock when something came
// between.
//
// The interleaving: the Put has its id's slot and record; before it has the lane's lock the memory
// is overwritten with another length, deleted, deleted and stored again, moved to another position
// by the removal of a neighbour, moved to another segment by a compaction, or the table is
// replaced. A Put that believes its first look-up counts the wrong dead bytes, or writes over
// another id's slot.
func TestPut_FoundBeforeLaneLock(t *testing.T) {
	const id = 2
	for name, between := range map[string]func(t *testing.T, s *Store){
		"overwritten": func(t *testing.T, s *Store) { require.NoError(t, s.Put(idOf(id), contentOf(id, 1, 500))) },
		"deleted":     func(t *testing.T, s *Store) { require.NoError(t, deletePresent(s, id)) },
		"stored again": func(t *testing.T, s *Store) {
			require.NoError(t, deletePresent(s, id))
			require.NoError(t, s.Put(idOf(id), contentOf(id, 1, 500)))
		},
		"neighbour removed": func(t *testing.T, s *Store) { require.NoError(t, deletePresent(s, 0)) },
		"moved by a compaction": func(t *testing.T, s *Store) {
			require.NoError(t, s.Put(idOf(3), contentOf(3, 1, 50))) // leaves a dead record
		},
		"table replaced": func(t *testing.T, s *Store) {
			sh, _ := s.place("")
			before := sh.table.Load()
			for i := 1000; sh.table.Load() == before; i++ {
				require.NoError(t, s.Put(idOf(i), nil))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, quiet(), hooks{hash: oneLaneOrTag(name)})
			fill(t, s, 0, 4, 50)
			compacted := make(chan error, 1)
			committed := make(chan struct{})
			s.hooks.at = both(doAt(pointPutFound, 1, func() {
				between(t, s)
				if name == "moved by a compaction" { // its swap waits for the Put
					go func() {
						_, err := s.Compact(t.Context())
						compacted <- err
					}()
					<-committed
				} else {
					compacted <- nil
				}
			}), doAt(pointCompactCommitted, 1, func() { close(committed) }))
			require.NoError(t, s.Put(idOf(id), contentOf(id, 2, 90)))
			require.NoError(t, <-compacted)
			s.hooks.at = nil
			got, err := s.Get(idOf(id))
			require.NoError(t, err)
			require.Equal(t, contentOf(id, 2, 90), got)
			requireIntact(t, s)
		})
	}
}
