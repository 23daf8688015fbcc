package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: a fresh store is empty in every figure, and every call works on it. Method: literals.
func TestOpen_FreshStore(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.Equal(t, Stats{}, withoutHistograms(t, s.Stats()), "every figure is zero, the fragmentation ratio too")
	require.Zero(t, s.Len())
	for id := range s.All() {
		require.Failf(t, "a memory in an empty store", "%q", id)
	}
	_, err := s.Get("absent")
	require.ErrorIs(t, err, ErrNotFound)
	require.False(t, s.Has("absent"))
	existed, err := s.Delete("absent")
	require.NoError(t, err)
	require.False(t, existed)
	require.NoError(t, s.Sync())

	stats := mustCompact(t, s)
	stats.Duration = 0
	require.Equal(t, CompactionStats{}, stats)
	require.EqualValues(t, 1, s.Stats().Compactions)
	report, err := s.Verify(context.Background())
	require.NoError(t, err)
	require.Zero(t, report.Records)
	require.Zero(t, report.Memories)
}

// Goal: ids of any bytes are stored and told apart. Method: hostile ids side by side, through
// overwriting, deleting and a compaction.
func TestPut_IDsOfAnyBytes(t *testing.T) {
	ids := []string{
		"a", "a\x00", "\x00", "\x00\x00", "\xff\xfe\xfd", "\xc3\x28", "../x", "/", ".", "..", "CON", "a b", "\n",
		"é", "e\u0301", strings.Repeat("x", 255), strings.Repeat("x", 256),
		strings.Repeat("y", MaxIDLen), strings.Repeat("y", MaxIDLen-1),
	}
	opts := quiet()
	opts.SegmentSize = 1 << 20 // MaxIDLen is over the 64 KiB of quiet
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

// Goal: contents of every length come back, those around every limit of the layout in particular.
// Method: sizes at the limits -1, 0 and +1, for small and for larger segments, through a compaction.
func TestPut_ContentSizes(t *testing.T) {
	for _, segmentSize := range []int{minSegmentSize, 2 << 20} {
		t.Run(fmt.Sprintf("segments of %d bytes", segmentSize), func(t *testing.T) {
			opts := quiet()
			opts.SegmentSize = segmentSize
			s := openTest(t, opts, hooks{})
			id := func(size int) string { return fmt.Sprintf("memory of %010d bytes", size) }
			header := recordHeaderSize + len(id(0))
			var sizes []int
			for _, limit := range []int{
				1, 8 - header%8, copyChunk - header, maxLockedCopy,
				segmentSize/largeShare - header,
				s.largeSize() - header,                   // shares a segment
				segmentSize - segmentHeaderSize - header, // fills one
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
				require.Equal(t, recordSize(len(id(0)), size) > s.largeSize(), seg.large,
					"a segment of its own for %d bytes", size)
			}
			check()
			mustCompact(t, s)
			require.Zero(t, s.Stats().DeadBytes)
			check()
		})
	}
}

// sizedContent is contentOf for contents under 16 bytes too.
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
	require.GreaterOrEqual(t, s.Stats().MappedBytes, int64(2*size))

	stats := mustCompact(t, s)
	require.GreaterOrEqual(t, stats.BytesReclaimed, int64(size), "the overwritten version")
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
// Method: contents of mapped memory that was never
// written to, and so takes none.
func TestPut_LongestContent(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector keeps four bytes for each byte of such a content")
	}
	s := openTest(t, quiet(), hooks{})
	before := settled(s)
	content, err := mapPrivate(roundUp(MaxContentLen+1, pageSize))
	require.NoError(t, err)
	defer func() { require.NoError(t, unmapPrivate(content)) }()
	err = s.Put("id", content[:MaxContentLen+1])
	require.ErrorIs(t, err, ErrContentTooLarge)
	require.ErrorContains(t, err, "1073741825 bytes")
	requireSameState(t, before, s.Stats())
	if testing.Short() {
		t.Skip("-short: 1 GiB is not stored")
	}
	require.NoError(t, s.Put("id", content[:MaxContentLen]))
	require.NoError(t, s.View("id", func(got []byte) error {
		require.Len(t, got, MaxContentLen)
		return nil
	}))
	_, err = s.Delete("id")
	require.NoError(t, err)
	mustCompact(t, s)
	require.LessOrEqual(t, s.Stats().MappedBytes, int64(smallBlock), "one block of tables")
}

// Goal: the store keeps no slice of the caller's, and hands out none of its own. Method: change the
// slices on either side.
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

// Goal: when there is neither memory nor a number left for another segment, Put says ErrNoSpace and
// changes nothing; Get and Delete go on, and so does Put once there is room. Method: set the count of
// numbers in use to its limit.
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
			s.segments.used = s.maxSegments()
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

// Goal: an id that is empty or too long is refused by every call that takes one, with the length in
// the message, and nothing changes. Method: a table of calls; the longest id that is allowed passes.
func TestStore_InvalidID(t *testing.T) {
	for _, id := range []string{"", strings.Repeat("x", MaxIDLen+1), strings.Repeat("x", 1<<20)} {
		t.Run(fmt.Sprintf("id of %d bytes", len(id)), func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			fill(t, s, 0, 10, 100)
			before := settled(s)
			for _, call := range storeCalls {
				if !call.takesID {
					continue
				}
				err := call.do(s, id)
				require.ErrorIs(t, err, ErrInvalidID, call.name)
				require.ErrorContains(t, err, fmt.Sprintf("%d bytes", len(id)), call.name)
			}
			require.False(t, s.Has(id))
			requireSameState(t, before, s.Stats())
			requireContents(t, s, 0, 10, 100, all)
		})
	}
	s := openTest(t, quiet(), hooks{})
	longest := strings.Repeat("x", MaxIDLen)
	require.NoError(t, s.Put(longest, []byte("content")))
	require.True(t, s.Has(longest))
}

// storeCalls are the methods of Store that return an error.
var storeCalls = []struct {
	name    string
	takesID bool
	writes  bool
	do      func(s *Store, id string) error
}{
	{"Put", true, true, func(s *Store, id string) error { return s.Put(id, []byte("content")) }},
	{"Put of a large content", true, true, func(s *Store, id string) error { return s.Put(id, make([]byte, 100_000)) }},
	{"Get", true, false, func(s *Store, id string) error { _, err := s.Get(id); return err }},
	{"AppendContent", true, false, func(s *Store, id string) error { _, err := s.AppendContent(nil, id); return err }},
	{"View", true, false, func(s *Store, id string) error { return s.View(id, func([]byte) error { return nil }) }},
	{"Delete", true, true, func(s *Store, id string) error { _, err := s.Delete(id); return err }},
	{"Compact", false, true, func(s *Store, _ string) error { _, err := s.Compact(context.Background()); return err }},
	{"Maintain", false, true, func(s *Store, _ string) error { _, err := s.Maintain(context.Background()); return err }},
	{"Verify", false, false, func(s *Store, _ string) error { _, err := s.Verify(context.Background()); return err }},
	{"Sync", false, false, func(s *Store, _ string) error { return s.Sync() }},
}

// Goal: after Close every call says ErrClosed, those without an error say that there is nothing, and
// Close itself may be called again. Method: a table of calls.
func TestClose_EveryCallAfterIt(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 100, 100)
	require.NoError(t, s.Close())
	for _, call := range storeCalls {
		require.ErrorIs(t, call.do(s, idOf(1)), ErrClosed, call.name)
	}
	require.False(t, s.Has(idOf(1)))
	require.Zero(t, s.Len())
	for range s.All() {
		require.Fail(t, "a memory of a closed store")
	}
	got, err := s.AppendContent([]byte("as it was"), idOf(1))
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, "as it was", string(got))
	st := s.Stats()
	require.EqualValues(t, 100, st.Puts, "counters stay")
	require.Zero(t, st.Memories)
	require.Zero(t, st.Segments)
	require.Zero(t, st.TotalBytes)
	require.Zero(t, st.LiveBytes)
	require.Zero(t, st.MappedBytes)
	require.Zero(t, st.IndexBytes)
	require.NoError(t, s.Close())
}

// Goal: a read-only store refuses every call that writes, and serves the others. Method: a table of
// calls.
func TestOpen_ReadOnly(t *testing.T) {
	opts := quiet()
	opts.ReadOnly = true
	s := openTest(t, opts, hooks{})
	for _, call := range storeCalls {
		err := call.do(s, "id")
		switch {
		case call.writes:
			require.ErrorIs(t, err, ErrReadOnly, call.name)
		case call.takesID:
			require.ErrorIs(t, err, ErrNotFound, call.name)
		default:
			require.NoError(t, err, call.name)
		}
	}
	require.Zero(t, s.Len())
}

// Goal: a cancelled context ends Compact, Maintain and Verify before they do anything, with its
// cause. Method: cancel first; nothing may have changed but the count of failures.
func TestStore_CancelledContext(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	deleteWhere(t, s, 0, 1000, odd)
	before := settled(s)
	cause := errors.New("the caller changed its mind")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)

	stats, err := s.Compact(ctx)
	require.ErrorIs(t, err, ErrCompactionFailed)
	require.ErrorIs(t, err, cause)
	require.Zero(t, stats.Rounds)
	require.Equal(t, before.TotalBytes, stats.BytesAfter)
	_, err = s.Maintain(ctx)
	require.ErrorIs(t, err, cause)
	_, err = s.Verify(ctx)
	require.ErrorIs(t, err, cause)

	after := s.Stats()
	require.EqualValues(t, 1, after.CompactionFailures)
	requireSameState(t, before, after)
	mustCompact(t, s)
	_, err = s.Verify(context.Background())
	require.NoError(t, err)
}

// Goal: Get, View and AppendContent count as gets, misses apart; puts and deletes count when they
// did something. Method: a handful of calls of each kind.
func TestStats_Counters(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 5, 100)
	fill(t, s, 0, 2, 100)
	for _, id := range []string{idOf(0), idOf(1), "absent"} {
		_, _ = s.Get(id)
		_, _ = s.AppendContent(nil, id)
		_ = s.View(id, func([]byte) error { return nil })
		s.Has(id)
	}
	deleteWhere(t, s, 0, 3, all)
	_, err := s.Delete("absent")
	require.NoError(t, err)

	st := s.Stats()
	size := int64(recordSize(len(idOf(0)), 100))
	require.EqualValues(t, 7, st.Puts)
	require.EqualValues(t, 9, st.Gets)
	require.EqualValues(t, 3, st.Misses)
	require.EqualValues(t, 3, st.Deletes)
	require.Equal(t, 2, st.Memories)
	require.Equal(t, 7*size, st.TotalBytes)
	require.Equal(t, 2*size, st.LiveBytes)
	require.Equal(t, 5*size, st.DeadBytes)
	require.InDelta(t, 5.0/7, st.FragmentationRatio, 1e-12)
	require.Equal(t, int64(st.Segments*minSegmentSize)+st.IndexBytes, st.MappedBytes)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	require.Zero(t, st.LastCompaction)

	stats := mustCompact(t, s)
	after := s.Stats()
	require.EqualValues(t, 1, after.Compactions)
	require.Zero(t, after.CompactionFailures)
	require.False(t, after.CompactionInProgress)
	require.False(t, after.LastCompaction.IsZero())
	require.Equal(t, stats.Duration, after.LastCompactionDuration)
	require.Equal(t, stats.MaxSwapPause, after.MaxSwapPause)
	require.Equal(t, 5*size, after.BytesReclaimed)
	require.Equal(t, 2*size, after.TotalBytes)
}

// Goal: AppendContent appends, into the caller's memory when there is room, and leaves dst as it was
// on an error. Method: with room, without, and with errors.
func TestAppendContent_Appends(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	content := contentOf(7, 1, 1000)
	require.NoError(t, s.Put("id", content))

	roomy := append(make([]byte, 0, 2000), "before "...)
	got, err := s.AppendContent(roomy, "id")
	require.NoError(t, err)
	require.Equal(t, append([]byte("before "), content...), got)
	require.Same(t, &roomy[0], &got[0], "not in the caller's memory")

	tight := []byte("before ")
	got, err = s.AppendContent(tight, "id")
	require.NoError(t, err)
	require.Equal(t, append([]byte("before "), content...), got)
	require.Equal(t, "before ", string(tight))

	got, err = s.AppendContent(nil, "id")
	require.NoError(t, err)
	require.Equal(t, content, got)

	for _, id := range []string{"absent", ""} {
		got, err = s.AppendContent(roomy, id)
		require.Error(t, err)
		require.Equal(t, "before ", string(got))
	}
}

// Goal: no call on a memory allocates beyond what it returns. Method: count allocations, with room
// for the content.
func TestAppendContent_NoAllocation(t *testing.T) {
	if raceEnabled || lockOrderChecked() {
		t.Skip("the race detector and the check of the lock order allocate")
	}
	s := openTest(t, quiet(), hooks{})
	for _, size := range []int{100, maxLockedCopy + 1} {
		content := contentOf(1, 0, size)
		require.NoError(t, s.Put("id", content))
		dst := make([]byte, 0, size)
		var err error
		require.Zero(t, testing.AllocsPerRun(100, func() { dst, err = s.AppendContent(dst[:0], "id") }),
			"AppendContent of %d bytes", size)
		require.NoError(t, err)
		require.Equal(t, content, dst)
	}
	content := contentOf(1, 0, 100)
	require.NoError(t, s.Put("id", content))
	fn := func([]byte) error { return nil }
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = s.View("id", fn) }), "View")
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Has("id") }), "Has")
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = s.Put("id", content) }), "Put")
}

// Goal: View passes on what the callback returns and panics with, and in every case neither a lock
// nor a pin is left. Method: look at the pins after each, then write, compact and close.
func TestView_CallbackEnds(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 500, 100)
	failed := errors.New("the callback failed")
	require.ErrorIs(t, s.View(idOf(1), func([]byte) error { return failed }), failed)
	requireUnpinned(t, s)
	require.PanicsWithValue(t, "the callback panicked", func() {
		_ = s.View(idOf(1), func([]byte) error { panic("the callback panicked") })
	})
	requireUnpinned(t, s)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = s.View(idOf(1), func([]byte) error { runtime.Goexit(); return nil })
	}()
	<-exited
	requireUnpinned(t, s)
	require.PanicsWithValue(t, "the loop panicked", func() {
		for range s.All() {
			panic("the loop panicked")
		}
	})
	requireUnpinned(t, s)

	fill(t, s, 0, 250, 100)
	mustCompact(t, s)
	requireContents(t, s, 0, 500, 100, all)
	require.NoError(t, s.Close())
}

// Goal: a callback of View may call the store, and what it was given stays valid whatever becomes of
// the memory meanwhile. Method: overwrite, delete, compact and close inside the callback.
func TestView_CallbackCallsStore(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	err := s.View(idOf(1), func(content []byte) error {
		want := contentOf(1, 0, 100)
		require.NoError(t, s.Put(idOf(1), contentOf(1, 1, 100)))
		got, err := s.Get(idOf(1))
		require.NoError(t, err)
		require.Equal(t, contentOf(1, 1, 100), got)
		existed, err := s.Delete(idOf(1))
		require.NoError(t, err)
		require.True(t, existed)
		require.Equal(t, want, content)

		deleteWhere(t, s, 500, 1000, all)
		mustCompact(t, s)
		require.EqualValues(t, minSegmentSize, s.Stats().SegmentDetails.RetiredBytes)
		fill(t, s, 2000, 3000, 100) // would overwrite the segment, were it used again
		mustCompact(t, s)
		require.Equal(t, want, content)
		require.EqualValues(t, minSegmentSize, s.Stats().SegmentDetails.RetiredBytes)
		return s.View(idOf(2), func(inner []byte) error {
			require.Equal(t, contentOf(2, 0, 100), inner)
			require.Equal(t, want, content)
			return nil
		})
	})
	require.NoError(t, err)
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	requireUnpinned(t, s)
	requireIntact(t, s)

	require.NoError(t, s.View(idOf(2), func(content []byte) error {
		require.NoError(t, s.Close())
		require.Equal(t, contentOf(2, 0, 100), content, "after Close")
		require.ErrorIs(t, s.Put("id", nil), ErrClosed)
		require.Positive(t, s.Stats().MappedBytes)
		return nil
	}))
	require.Zero(t, s.Stats().MappedBytes)
}

// Goal: what View hands out has no room to append into the next record. Method: append to it.
func TestView_ContentHasNoRoom(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0 }})
	fill(t, s, 0, 2, 101)
	require.NoError(t, s.View(idOf(0), func(content []byte) error {
		_ = append(content, bytes.Repeat([]byte{0xee}, 64)...)
		return nil
	}))
	requireContents(t, s, 0, 2, 101, all)
}

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

// Goal: a memory that stays is yielded exactly once, and any other at most once, whatever the body of
// the loop does to the others. Method: delete, add and compact in each step.
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

// Goal: the body of a loop over All may delete what it was given, overwrite it, and close the store,
// which ends the loop. Method: each in its own loop.
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

// Goal: All leaves a damaged record out, counts it and logs it, without id and content in the log,
// and yields no other memory in its place. Method: damage one byte of one record, in each part of it.
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
		{"id, to that of no memory", recordHeaderSize, 0x80},
		{"id, to that of another memory", recordHeaderSize + len(idOf(0)) - 1, '0' ^ '1'},
		{"content", recordHeaderSize + len(idOf(0)), 0x04},
		{"last byte of the content", recordHeaderSize + len(idOf(0)) + size - 1, 0x80},
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

// Goal: a compaction changes no content, brings nothing deleted back and leaves no dead byte. Method:
// contents of all sizes, a third overwritten, a third deleted, against a map; all kinds of rounds.
func TestCompact_ContentPreserved(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			model := map[string][]byte{}
			for i := range 3000 {
				model[idOf(i)] = contentOf(i, 0, i*37%500)
				require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
			}
			for i := 0; i < 3000; i += 3 {
				model[idOf(i)] = contentOf(i, 1, i*53%700)
				require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
				_, err := s.Delete(idOf(i + 1))
				require.NoError(t, err)
				delete(model, idOf(i+1))
			}
			for _, size := range []int{30_000, 65_000, 70_000, 200_000} {
				id := fmt.Sprintf("content of %d bytes", size)
				require.NoError(t, s.Put(id, nil))
				model[id] = contentOf(size, 0, size)
				require.NoError(t, s.Put(id, model[id]))
			}
			before := settled(s)
			for range 2 {
				stats := mustCompact(t, s)
				after := s.Stats()
				require.Equal(t, before.LiveBytes, after.LiveBytes)
				require.Equal(t, after.LiveBytes, after.TotalBytes)
				require.Zero(t, stats.FragmentationAfter)
				require.Zero(t, stats.MemoriesSuperseded)
				requireAll(t, s, model)
				for id, content := range model {
					got, err := s.Get(id)
					require.NoError(t, err)
					require.True(t, bytes.Equal(content, got), id)
				}
				requireIntact(t, s)
			}
		})
	}
}

// Goal: the statistics of a compaction are those of what happened. Method: a store in one lane, where
// everything can be worked out by hand.
func TestCompact_Statistics(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const n = 5000
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n, func(i int) bool { return !odd(i) })
	before := settled(s)
	size := int64(recordSize(len(idOf(0)), 200))
	require.InDelta(t, 0.5, before.FragmentationRatio, 1e-12)

	stats := mustCompact(t, s)
	after := s.Stats()
	require.Equal(t, before.Segments, stats.SegmentsBefore)
	require.Equal(t, after.Segments, stats.SegmentsAfter)
	require.Equal(t, n*size, stats.BytesBefore)
	require.Equal(t, n/2*size, stats.BytesAfter)
	require.Equal(t, n/2*size, stats.BytesReclaimed)
	require.InDelta(t, 0.5, stats.FragmentationBefore, 1e-12)
	require.Zero(t, stats.FragmentationAfter)
	require.EqualValues(t, n/2, stats.MemoriesMoved)
	require.Zero(t, stats.MemoriesSuperseded)
	require.Positive(t, stats.Rounds)
	require.Positive(t, stats.Duration)
	require.Positive(t, stats.MaxSwapPause)
	require.LessOrEqual(t, stats.MaxSwapPause, stats.Duration)
	require.GreaterOrEqual(t, stats.PeakOverheadBytes, int64(minSegmentSize))
	requireContents(t, s, 0, n, 200, odd)
}

// Goal: after a compaction the index points into segments made by it, and the old segments are out of
// the table and unmapped. Method: note where every record was, and compare.
func TestCompact_LocationsUpdated(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			const n = 2000
			for i := range n {
				fill(t, s, i, i+1, 200)
				fill(t, s, i, i+1, 200) // every segment has dead bytes
			}
			newest := s.segments.lastID
			old := s.segments.all()
			before := settled(s)
			mustCompact(t, s)
			for i := range n {
				seg, offset := locationOf(t, s, idOf(i))
				require.Greater(t, seg.id, newest, "memory %d is in an old segment", i)
				require.Same(t, seg, s.segments.at(seg.index))
				require.Equal(t, idOf(i), string(recordID(seg.mem[offset:], header{idLen: len(idOf(i))})))
			}
			table := s.segments.all()
			for _, seg := range old {
				require.NotContains(t, table, seg)
				require.True(t, seg.is(stateRetired))
				require.Zero(t, seg.live.Load())
				require.Zero(t, seg.refs.Load(), "unmapped, or in use again")
			}
			after := s.Stats()
			require.Less(t, after.MappedBytes-after.IndexBytes, (before.MappedBytes-before.IndexBytes)*7/10)
			require.Equal(t, int64(len(table)*minSegmentSize)+after.IndexBytes, after.MappedBytes)
		})
	}
}

// Goal: a full segment without dead bytes stays where it is. Method: delete in one half of the
// segments only; the locations of the other half do not change.
func TestCompact_CleanSegmentsStay(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	const n = 2000
	fill(t, s, 0, n, 200)
	deleteWhere(t, s, 0, n/2, odd)
	type place struct {
		seg    *segment
		offset int
	}
	where := map[int]place{}
	for i := n/2 + 300; i < n-300; i++ { // of segments that hold no other half
		seg, offset := locationOf(t, s, idOf(i))
		where[i] = place{seg, offset}
	}
	stats := mustCompact(t, s)
	for i, old := range where {
		seg, offset := locationOf(t, s, idOf(i))
		now := place{seg, offset}
		require.Equal(t, old, now, "memory %d", i)
	}
	require.Less(t, stats.MemoriesMoved, int64(n/2+300))
	requireContents(t, s, 0, n, 200, func(i int) bool { return i >= n/2 || !odd(i) })
	stats = mustCompact(t, s)
	require.Zero(t, stats.MemoriesMoved, "a second compaction has nothing to do")
	require.Zero(t, stats.Rounds)
}

// Goal: memory really goes back to the operating system: the resident set of the process falls with a
// mass delete and a compaction. Method: read the resident set; under the race detector segments lie on
// the Go heap, which gives pages back when it likes, so the mapped bytes are held to the same bound.
func TestCompact_MemoryReturned(t *testing.T) {
	n := sized(t, 100_000)
	opts := quiet()
	opts.SegmentSize = 4 << 20
	s := openTest(t, opts, hooks{})
	debug.FreeOSMemory()
	empty, ok := residentBytes()
	fill(t, s, 0, n, 1000)
	debug.FreeOSMemory()
	full, _ := residentBytes()
	total := s.Stats().TotalBytes
	deleteWhere(t, s, 0, n, func(i int) bool { return i%10 != 0 })
	mustCompact(t, s)
	debug.FreeOSMemory()
	left, _ := residentBytes()

	st := s.Stats()
	require.InDelta(t, total/10, st.LiveBytes, 2000)
	slack := int64(len(s.lanes)+2) * int64(s.opts.SegmentSize)
	require.LessOrEqual(t, st.MappedBytes, st.LiveBytes+st.IndexBytes+slack)
	if ok && !raceEnabled {
		require.GreaterOrEqual(t, full-empty, total, "the resident set does not show the store")
		require.LessOrEqual(t, left-empty, st.LiveBytes+st.IndexBytes+slack, "resident beyond what was before")
		require.GreaterOrEqual(t, full-left, total*8/10, "given back")
	}
	requireContents(t, s, 0, n, 1000, func(i int) bool { return i%10 == 0 })
}

// injectedFault is what injected faults fail with; errors.As finds it through every wrapping.
type injectedFault struct{ where string }

func (e *injectedFault) Error() string { return "injected fault: " + e.where }

// fault is one way to make a compaction of faultStore fail.
type fault struct {
	p point
	n int64 // the n-th time the point is passed
}

func (f fault) String() string { return fmt.Sprintf("time %d at %q", f.n, string(f.p)) }

// faults has each point that can fail, and k-th slots at the beginning, in the middle and at the end
// of a commit.
func faults() (list []fault) {
	for _, p := range []point{
		pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactBuilt, pointCompactCommitted,
	} {
		list = append(list, fault{p, 1})
	}
	for _, n := range []int64{1, 2, 100, faultMemories / 2} {
		list = append(list, fault{pointCompactRecord, n}, fault{pointCompactFlip, n})
	}
	return append(list,
		fault{pointCompactTarget, 2}, fault{pointCompactFlip, faultMemories/2 - 1}, fault{pointCompactFlip, 333})
}

const faultMemories = 1200

// faultStore holds memories 0 to faultMemories-1 of which the even ones were deleted, in segments
// enough for several rounds.
func faultStore(t *testing.T, opts *Options) *Store {
	s := openTest(t, opts, hooks{})
	fill(t, s, 0, faultMemories, 400)
	deleteWhere(t, s, 0, faultMemories, func(i int) bool { return !odd(i) })
	return s
}

// Goal: whatever fails in a compaction, the round is undone: every memory readable, every figure as
// before the round, and the next compaction succeeds. Method: each injected fault, with one worker and
// with four, in a single round and in several.
func TestCompact_UndoneOnFault(t *testing.T) {
	for _, c := range compactionKinds() {
		for _, f := range faults() {
			t.Run(fmt.Sprintf("%s, %v", c.name, f), func(t *testing.T) {
				s := faultStore(t, c.opts)
				injected := &injectedFault{f.String()}
				before := settled(s)
				s.hooks.at = failAt(f.p, f.n, injected)
				stats, err := s.Compact(context.Background())
				requireFailed(t, s, before, stats, err)
				require.ErrorIs(t, err, injected)
				var as *injectedFault
				require.ErrorAs(t, err, &as)
				require.Same(t, injected, as)
				if c.opts.Compaction.MaxOverhead < 0 {
					require.Zero(t, stats.Rounds, "no round was finished")
				}
				requireContents(t, s, 0, faultMemories, 400, odd)
				requireIntact(t, s)
				requireUnpinned(t, s)

				s.hooks.at = nil
				stats = mustCompact(t, s)
				require.Zero(t, stats.FragmentationAfter)
				requireContents(t, s, 0, faultMemories, 400, odd)
			})
		}
	}
}

// requireFailed checks the error of a compaction that nobody wrote beside, and that Stats are those
// before it but for the rounds it finished.
func requireFailed(t *testing.T, s *Store, before Stats, stats CompactionStats, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrCompactionFailed)
	after := s.Stats()
	require.Equal(t, before.CompactionFailures+1, after.CompactionFailures)
	require.Equal(t, before.Compactions, after.Compactions)
	require.False(t, after.CompactionInProgress)
	require.Equal(t, before.Memories, after.Memories)
	require.Equal(t, before.LiveBytes, after.LiveBytes)
	require.Equal(t, before.TotalBytes-stats.BytesReclaimed, after.TotalBytes)
	require.Equal(t, after.TotalBytes, stats.BytesAfter)
	if stats.Rounds == 0 {
		require.Zero(t, stats.BytesReclaimed)
		require.Zero(t, stats.MemoriesMoved)
		requireSameState(t, before, after)
	}
}

// Goal: a compaction that meets several faults in a row, each in another round, ends as a compaction
// without faults. Method: fail at the n-th flip, n growing, until one succeeds.
func TestCompact_FaultAfterFault(t *testing.T) {
	opts := quiet()
	opts.Compaction.MaxOverhead = 1
	s := faultStore(t, opts)
	injected := &injectedFault{"flip"}
	for n := int64(1); ; n += 61 {
		before := settled(s)
		s.hooks.at = failAt(pointCompactFlip, n, injected)
		stats, err := s.Compact(context.Background())
		if err == nil {
			break
		}
		require.ErrorIs(t, err, injected)
		requireFailed(t, s, before, stats, err)
		requireContents(t, s, 0, faultMemories, 400, odd)
		requireIntact(t, s)
		require.Less(t, n, int64(faultMemories))
	}
	require.Zero(t, s.Stats().DeadBytes)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: no room for a target undoes the round, with ErrNoSpace as the cause. Method: no segment number
// is left, so that the error is the store's own and not an injected one.
func TestCompact_UndoneOnNoSpace(t *testing.T) {
	s := faultStore(t, quiet())
	used := s.segments.used
	s.segments.used = s.maxSegments()
	before := settled(s)
	stats, err := s.Compact(context.Background())
	require.ErrorIs(t, err, ErrNoSpace)
	requireFailed(t, s, before, stats, err)
	requireContents(t, s, 0, faultMemories, 400, odd)
	s.segments.used = used
	mustCompact(t, s)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: a damaged live record fails the compaction with its place, undoes the round and stays readable
// as damage; its segment is left alone from then on, others are given back, and it goes itself once
// nothing live is in it. Method: flip a byte in each part of a record in a sealed segment.
func TestCompact_UndoneOnCorruptRecord(t *testing.T) {
	for _, c := range compactionKinds() {
		for _, damage := range []struct {
			name string
			at   int // byte of the record
			flip byte
		}{
			{"kind", atKind, 0xff},
			{"kind, to a tombstone", atKind, 0x03},
			{"id length", atIDLen, 0x01},
			{"content length out of bounds", atContentLen + 2, 0xff},
			{"content length in bounds", atContentLen, 0x01},
			{"content checksum", atContentSum, 0x01},
			{"sequence number", atSeq + 1, 0x01},
			{"id", recordHeaderSize, 0xff},
			{"content", recordHeaderSize + 100, 0x01},
		} {
			t.Run(fmt.Sprintf("%s, %s", c.name, damage.name), func(t *testing.T) {
				s := faultStore(t, c.opts)
				victim := 501
				seg, offset := locationOf(t, s, idOf(victim))
				rec := recordOf(t, s, idOf(victim))
				before := settled(s)
				rec[damage.at] ^= damage.flip
				stats, err := s.Compact(context.Background())
				requireFailed(t, s, before, stats, err)
				require.ErrorIs(t, err, ErrCorrupt)
				var corrupt *CorruptError
				require.ErrorAs(t, err, &corrupt)
				require.Equal(t, seg.name(), corrupt.File)
				require.EqualValues(t, offset, corrupt.Offset)
				require.NotEmpty(t, corrupt.Reason)
				require.NotContains(t, err.Error(), idOf(victim), "ids do not belong in messages")
				_, err = s.Get(idOf(victim))
				require.ErrorIs(t, err, ErrCorrupt)
				requireContents(t, s, 0, victim, 400, odd)
				requireContents(t, s, victim+1, faultMemories, 400, odd)

				mustCompact(t, s)
				require.Same(t, seg, s.segments.at(seg.index), "the damaged segment stays")
				require.Equal(t, seg.deadBytes(), s.Stats().DeadBytes, "the others are compacted")
				rec[damage.at] ^= damage.flip
				requireContents(t, s, 0, faultMemories, 400, odd)
				requireIntact(t, s)

				deleteWhere(t, s, 0, faultMemories, odd)
				mustCompact(t, s)
				require.Nil(t, s.segments.at(seg.index), "the damaged segment goes when nothing in it lives")
				require.Zero(t, s.Stats().TotalBytes)
			})
		}
	}
}

// Goal: dead records are not read: damage in one neither fails a compaction nor survives it.
func TestCompact_DamagedDeadRecord(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	rec := recordOf(t, s, idOf(500))
	deleteWhere(t, s, 0, 1000, func(i int) bool { return !odd(i) })
	rec[atKind] ^= 0xff
	mustCompact(t, s)
	requireIntact(t, s)
	requireContents(t, s, 0, 1000, 100, odd)
}

// Goal: a compaction cancelled at any point ends early with the cause, and its current round is
// undone. Method: cancel while each point is passed, for the first and for a later time.
func TestCompact_CancelledAtEachPoint(t *testing.T) {
	for _, c := range compactionKinds() {
		for _, p := range []point{
			pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
			pointCompactBuilt, pointCompactFlip, pointCompactCommitted, pointCompactSwapped,
		} {
			for _, n := range []int64{1, 3} {
				t.Run(fmt.Sprintf("%s, %v", c.name, fault{p, n}), func(t *testing.T) {
					s := faultStore(t, c.opts)
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					cause := &injectedFault{"cancelled"}
					var passed atomic.Int64
					var cancelled, builtAfter atomic.Bool
					s.hooks.at = func(q point) error {
						if q == pointCompactBuilt && cancelled.Load() {
							builtAfter.Store(true)
						}
						if q == p && passed.Add(1) == n {
							cancel(cause)
							cancelled.Store(true)
						}
						return nil
					}
					before := settled(s)
					stats, err := s.Compact(ctx)
					if slices.Contains([]point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord}, p) {
						require.False(t, builtAfter.Load(), "the round was built to its end")
					}
					// A round that was committed is finished, and may have been the last.
					if err == nil {
						require.True(t, !cancelled.Load() || p == pointCompactCommitted || p == pointCompactSwapped)
						require.Zero(t, stats.FragmentationAfter)
					} else {
						require.ErrorIs(t, err, cause)
						requireFailed(t, s, before, stats, err)
					}
					requireContents(t, s, 0, faultMemories, 400, odd)
					requireIntact(t, s)
					requireUnpinned(t, s)
					s.hooks.at = nil
					mustCompact(t, s)
					require.Zero(t, s.Stats().DeadBytes)
					requireContents(t, s, 0, faultMemories, 400, odd)
				})
			}
		}
	}
}

// Goal: what is written while a round builds wins over the round, and is counted. Method: overwrite
// and delete between build and commit.
func TestCompact_SupersededWhileBuilding(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := faultStore(t, c.opts)
			written := false
			s.hooks.at = func(p point) error {
				if p == pointCompactBuilt && !written {
					written = true
					overwriteAndDelete(t, s)
				}
				return nil
			}
			stats := mustCompact(t, s)
			require.LessOrEqual(t, stats.MemoriesSuperseded, int64(faultMemories/2/10*2))
			if stats.Rounds == 1 {
				require.EqualValues(t, faultMemories/2/10*2, stats.MemoriesSuperseded)
			}
			requireOverwrittenAndDeleted(t, s)
			requireIntact(t, s)
			mustCompact(t, s)
			require.Zero(t, s.Stats().DeadBytes)
			requireOverwrittenAndDeleted(t, s)
		})
	}
}

// overwriteAndDelete changes a fifth of what lives in a faultStore: of every ten odd memories one is
// overwritten and one deleted.
func overwriteAndDelete(t *testing.T, s *Store) {
	for i := 1; i < faultMemories; i += 20 {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 1, 300)))
		existed, err := s.Delete(idOf(i + 2))
		require.NoError(t, err)
		require.True(t, existed)
	}
}

func requireOverwrittenAndDeleted(t *testing.T, s *Store) {
	t.Helper()
	for i := 1; i < faultMemories; i += 20 {
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, contentOf(i, 1, 300), got)
		require.False(t, s.Has(idOf(i+2)))
		requireContents(t, s, i+4, i+20, 400, odd)
	}
	require.Equal(t, faultMemories/2-faultMemories/20, s.Len())
}

// Goal: a compaction takes no more memory than it may: it shrinks its rounds first, and says what it
// needed and what there was when not even one segment fits. Method: say what is available.
func TestCompact_MemoryBound(t *testing.T) {
	const segment = minSegmentSize
	for _, c := range []struct {
		name       string
		available  int64
		known      bool
		overhead   int64
		fraction   float64
		shortOf    int64 // 0: the compaction succeeds; else what InsufficientMemoryError.Available says
		leastRound int
		mostRound  int
	}{
		{"unknown", 0, false, 0, 0, 0, 1, 100},
		{"nothing", 0, true, 0, 0, -1, 0, 0},
		{"one byte short of a segment", 2*segment - 2, true, 0, 0, segment - 1, 0, 0},
		{"exactly one segment", 2 * segment, true, 0, 0, 0, 2, 100},
		{"a quarter, one byte short", 4*segment - 4, true, 0, 0.25, segment - 1, 0, 0},
		{"a quarter is one segment", 4 * segment, true, 0, 0.25, 0, 2, 100},
		{"all of it is one segment", segment, true, 0, 1, 0, 2, 100},
		{"plenty", 1 << 40, true, 0, 0, 0, 2, 100},
		{"plenty, no overhead bound", 1 << 40, true, -1, 0, 0, 1, 1},
		{"unknown, no overhead bound", 0, false, -1, 0, 0, 1, 1},
		{"one segment, no overhead bound", 2 * segment, true, -1, 0, 0, 2, 100},
		{"three segments, no overhead bound", 6 * segment, true, -1, 0, 0, 2, 3},
		{"one byte short of a segment, no overhead bound", 2*segment - 2, true, -1, 0, segment - 1, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := quiet()
			opts.Compaction.MaxOverhead = c.overhead
			opts.Compaction.MaxMemoryFraction = c.fraction
			s := faultStore(t, opts)
			s.hooks.available = func() (int64, bool) { return c.available, c.known }

			before := settled(s)
			stats, err := s.Compact(context.Background())
			require.GreaterOrEqual(t, stats.Rounds, c.leastRound)
			require.LessOrEqual(t, stats.Rounds, c.mostRound)
			if c.shortOf == 0 {
				require.NoError(t, err)
				require.Zero(t, stats.FragmentationAfter)
				requireContents(t, s, 0, faultMemories, 400, odd)
				return
			}
			requireFailed(t, s, before, stats, err)
			require.ErrorIs(t, err, ErrInsufficientMemory)
			var short *InsufficientMemoryError
			require.ErrorAs(t, err, &short)
			require.EqualValues(t, segment, short.Needed)
			require.Equal(t, max(0, c.shortOf), short.Available)
			requireContents(t, s, 0, faultMemories, 400, odd)
			requireIntact(t, s)

			deleteWhere(t, s, 0, faultMemories, odd)
			mustCompact(t, s) // nothing is left to copy, so nothing is needed
			require.Zero(t, s.Stats().TotalBytes)
			require.Zero(t, s.Stats().Segments)
		})
	}
}

// Goal: memory that runs out between two rounds does not stop a compaction that has recycled some; the
// figures of the error count when it has none. Method: nothing is available after the first round.
func TestCompact_MemoryGoneBetweenRounds(t *testing.T) {
	opts := quiet()
	opts.Compaction.Workers = 1
	s := faultStore(t, opts)
	asked := 0
	s.hooks.available = func() (int64, bool) {
		if asked++; asked == 1 {
			return 1 << 30, true
		}
		return 0, true
	}
	stats := mustCompact(t, s)
	require.Greater(t, stats.Rounds, 1)
	require.Zero(t, stats.FragmentationAfter)
	requireContents(t, s, 0, faultMemories, 400, odd)
}

// Goal: a compaction holds no more target memory than MaxOverhead at any moment, whatever the number
// of workers and the share of dead bytes, and 48 bytes per memory on top by its own account. Method:
// read the mapped bytes at every point, and count the targets of each round.
func TestCompact_OverheadBounded(t *testing.T) {
	deadShares := []int{2, 10, 50, 90}
	if raceEnabled || lockOrderChecked() {
		deadShares = []int{10}
	}
	for _, workers := range []int{1, 4} {
		for _, segments := range []int64{1, 2, 4} {
			for _, deadOf100 := range deadShares {
				t.Run(fmt.Sprintf("%d workers, %d segments, %d%% dead", workers, segments, deadOf100), func(t *testing.T) {
					opts := quiet()
					opts.Compaction.Workers = workers
					opts.Compaction.MaxOverhead = segments * minSegmentSize
					s := openTest(t, opts, hooks{})
					const n = 2500
					fill(t, s, 0, n, 400)
					deleteWhere(t, s, 0, n, func(i int) bool { return i%100 < deadOf100 })
					before := settled(s).MappedBytes
					var peak, targets, mostTargets atomic.Int64
					s.hooks.at = func(p point) error {
						switch p {
						case pointCompactTarget:
							targets.Add(1)
						case pointCompactSwapped:
							mostTargets.Store(max(mostTargets.Load(), targets.Swap(0)))
						}
						for mapped := s.mapper.bytes.Load(); ; {
							old := peak.Load()
							if mapped <= old || peak.CompareAndSwap(old, mapped) {
								return nil
							}
						}
					}
					stats := mustCompact(t, s)
					require.LessOrEqual(t, mostTargets.Load(), segments, "targets of one round")
					require.LessOrEqual(t, peak.Load()-before, segments*minSegmentSize, "mapped beyond what was before")
					require.LessOrEqual(t, stats.PeakOverheadBytes, segments*minSegmentSize+n*48)
					requireContents(t, s, 0, n, 400, func(i int) bool { return i%100 >= deadOf100 })
				})
			}
		}
	}
}

// Goal: OnProgress sees every stage of every round in order, figures that only grow, and everything
// done at the end; it may call the store. Method: record all calls.
func TestCompact_Progress(t *testing.T) {
	var calls []CompactionProgress
	var s *Store
	opts := quiet()
	opts.Compaction.MaxOverhead = 1
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		calls = append(calls, p)
		_, err := s.Get(idOf(1))
		require.NoError(t, err)
		require.NoError(t, s.Put(idOf(1), contentOf(1, 0, 400)))
		require.True(t, s.Stats().CompactionInProgress)
	}
	s = faultStore(t, opts)
	fill(t, s, 1, 2, 400) // out of the victims' way: what OnProgress overwrites is not copied twice
	stats := mustCompact(t, s)

	order := map[CompactionStage]int{StageBuild: 0, StageCommit: 1, StageSwap: 2}
	seen := map[CompactionStage]int{}
	last := CompactionProgress{Stage: StageBuild, Round: 1}
	for _, p := range calls {
		if p.Stage != last.Stage || p.Round != last.Round {
			seen[p.Stage]++
		}
		require.GreaterOrEqual(t, p.Round*3+order[p.Stage], last.Round*3+order[last.Stage], "stages in order")
		require.GreaterOrEqual(t, p.BytesCopied, last.BytesCopied)
		require.GreaterOrEqual(t, p.MemoriesMoved, last.MemoriesMoved)
		require.GreaterOrEqual(t, p.VictimsDone, last.VictimsDone)
		require.GreaterOrEqual(t, p.Elapsed, last.Elapsed)
		require.LessOrEqual(t, p.VictimsDone, p.Victims)
		require.LessOrEqual(t, p.BytesCopied, p.BytesTotal)
		last = p
	}
	require.Greater(t, stats.Rounds, 1)
	require.Equal(t, stats.Rounds, last.Round)
	require.Equal(t, StageSwap, last.Stage)
	require.Equal(t, last.Victims, last.VictimsDone)
	require.Equal(t, stats.MemoriesMoved, last.MemoriesMoved)
	require.Equal(t, stats.Rounds, seen[StageSwap], "rounds whose swap was reported")
	require.Equal(t, stats.Rounds, seen[StageCommit], "rounds whose commit was reported")
}

// Goal: of many versions of one id in one segment only the last survives, before and after a
// compaction. Method: overwrite a few ids hundreds of times.
func TestCompact_ManyVersionsInOneSegment(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: oneLane})
	const versions = 700
	for version := range versions {
		require.NoError(t, s.Put("often", contentOf(0, version, 16)))
		if version%300 == 0 {
			require.NoError(t, s.Put("rarely", contentOf(1, version, 16)))
			require.NoError(t, s.Put("deleted in between", contentOf(2, version, 16)))
			_, err := s.Delete("deleted in between")
			require.NoError(t, err)
		}
	}
	require.Equal(t, 1, s.Stats().Segments)
	check := func() {
		requireAll(t, s, map[string][]byte{
			"often": contentOf(0, versions-1, 16), "rarely": contentOf(1, 600, 16),
		})
	}
	check()
	stats := mustCompact(t, s)
	require.EqualValues(t, 2, stats.MemoriesMoved)
	check()
	require.Equal(t, s.Stats().LiveBytes, s.Stats().TotalBytes)
}

// Goal: ids whose hashes are all the same are still told apart by every call. Method: a constant
// hash, against a map.
func TestStore_CollidingIDs(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0x12345678_9abcdef0 }})
	n := 1000
	if raceEnabled || lockOrderChecked() {
		n = 300 // the cost grows with its square
	}
	model := map[string][]byte{}
	for i := range n {
		model[idOf(i)] = contentOf(i, 0, 100)
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	requireAll(t, s, model)
	for i := 0; i < n; i += 3 {
		model[idOf(i)] = contentOf(i, 1, 80)
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	for i := 1; i < n; i += 3 {
		existed, err := s.Delete(idOf(i))
		require.NoError(t, err)
		require.True(t, existed)
		delete(model, idOf(i))
		_, err = s.Get(idOf(i))
		require.ErrorIs(t, err, ErrNotFound)
	}
	requireAll(t, s, model)
	mustCompact(t, s)
	requireAll(t, s, model)
	for id, content := range model {
		got, err := s.Get(id)
		require.NoError(t, err)
		require.Equal(t, content, got)
	}
}

// Goal: putting one memory and compacting, over and over, leaves no trail of half empty segments.
// Method: 400 times, held to the documented bound each time.
func TestCompact_NoTrailOfSegments(t *testing.T) {
	for _, c := range compactionKinds() {
		t.Run(c.name, func(t *testing.T) {
			s := openTest(t, c.opts, hooks{})
			for i := range 400 {
				fill(t, s, i, i+1, 1000)
				mustCompact(t, s)
				st := s.Stats()
				bound := float64(st.LiveBytes)/(0.9*minSegmentSize) + float64(len(s.lanes)) + 1
				require.LessOrEqual(t, float64(st.Segments), bound, "after %d memories", i+1)
			}
			requireContents(t, s, 0, 400, 1000, all)
		})
	}
}

// Goal: overwriting everything and compacting, 100 times, needs no more memory at the end than at the
// beginning. Method: segments and mapped bytes after each cycle, the resident set after the last.
func TestCompact_CyclesDoNotGrow(t *testing.T) {
	opts := quiet()
	opts.SegmentSize = 256 << 10
	s := openTest(t, opts, hooks{})
	n := sized(t, 2000)
	var first Stats
	var firstResident int64
	for cycle := range 100 {
		for i := range n {
			require.NoError(t, s.Put(idOf(i), contentOf(i, cycle, 500)))
		}
		mustCompact(t, s)
		st := s.Stats()
		require.Zero(t, st.DeadBytes)
		if cycle == 9 {
			first = st
			debug.FreeOSMemory()
			firstResident, _ = residentBytes()
		}
		if cycle > 9 {
			require.LessOrEqual(t, st.Segments, first.Segments+1, "cycle %d", cycle)
			require.LessOrEqual(t, st.MappedBytes, first.MappedBytes+int64(s.opts.SegmentSize), "cycle %d", cycle)
			require.Equal(t, first.IndexBytes, st.IndexBytes)
			require.LessOrEqual(t, s.segments.used, 2*first.Segments+len(s.lanes)+2, "numbers are used again")
		}
	}
	debug.FreeOSMemory()
	if resident, ok := residentBytes(); ok && !raceEnabled {
		require.LessOrEqual(t, resident-firstResident, int64(4<<20), "growth of the resident set")
	}
	for i := range n {
		got, err := s.Get(idOf(i))
		require.NoError(t, err)
		require.Equal(t, contentOf(i, 99, 500), got)
	}
}

// Goal: all of the above at size. Method: 100,000 and 1,000,000 memories, a fifth overwritten and a
// third deleted, everything read back.
func TestCompact_ManyMemories(t *testing.T) {
	for _, full := range []int{100_000, 1_000_000} {
		t.Run(fmt.Sprintf("%d memories", full), func(t *testing.T) {
			n := sized(t, full)
			opts := quiet()
			opts.SegmentSize = 4 << 20
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, n, 32)
			for i := 0; i < n; i += 5 {
				require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 32)))
			}
			deleteWhere(t, s, 0, n, func(i int) bool { return i%3 == 0 })
			keep := func(i int) bool { return i%3 != 0 }
			live := s.Len()
			require.Equal(t, n-(n+2)/3, live)
			stats := mustCompact(t, s)
			require.Zero(t, stats.FragmentationAfter)
			require.Equal(t, live, s.Len())
			requireContents(t, s, 0, n, 32, keep)
			st := s.Stats()
			if live >= 100_000 {
				require.LessOrEqual(t, float64(st.IndexBytes)/float64(live), 24.0)
			}
			bound := float64(st.LiveBytes)/(0.9*float64(s.opts.SegmentSize)) + float64(len(s.lanes)) + 1
			require.LessOrEqual(t, float64(st.Segments), bound)
		})
	}
}

// damagedRecords holds dead records between live ones: memories 0 to 9 of 0 to 36 bytes, some of them
// overwritten, and one deleted.
func damagedRecords(t *testing.T, h hooks) (s *Store, model map[string][]byte) {
	s = openTest(t, quiet(), h)
	model = map[string][]byte{}
	for i := range 10 {
		model[idOf(i)] = sizedContent(i, i*4)
		if i%3 == 0 {
			require.NoError(t, s.Put(idOf(i), []byte("overwritten")))
		}
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	_, err := s.Delete(idOf(5))
	require.NoError(t, err)
	delete(model, idOf(5))
	return s, model
}

// damageHashes are the hashes that damage is tested with.
var damageHashes = []struct {
	name     string
	hash     func(id string) uint64
	collides bool
}{
	{"no two tags alike", oneLane, false},
	{"all tags alike", func(string) uint64 { return 0x11223344_55667788 }, true},
	{"two tags", func(id string) uint64 { return uint64(id[len(id)-1]&1) << 40 }, true},
}

// flips are the changes each byte of a record is put through.
func flips() []byte {
	if raceEnabled || lockOrderChecked() {
		return []byte{0x01, 0x10}
	}
	return []byte{0x01, 0x10, 0x80, 0xff}
}

// damageStride is 1, for every byte, but where each lock costs a stack trace.
func damageStride() int {
	if lockOrderChecked() {
		return 7
	}
	return 1
}

// Goal: whatever byte is damaged, no call ever returns a wrong byte, and no memory that has a slot is
// ever called absent; the error says where, and Verify finds every damage. Method: each byte of each
// record, live or dead, flipped in turn and restored. Padding holds nothing, so damage in it changes
// nothing.
func TestGet_EveryByteDamaged(t *testing.T) {
	for _, hash := range damageHashes {
		t.Run(hash.name, func(t *testing.T) {
			s, model := damagedRecords(t, hooks{hash: hash.hash})
			segs := s.segments.all()
			require.Len(t, segs, 1)
			seg := segs[0]
			for offset := segmentHeaderSize; offset < int(seg.tail.Load()); {
				h, ok := decodeHeader(seg.mem[offset:])
				require.True(t, ok)
				owner := string(recordID(seg.mem[offset:], h))
				live := s.pointsTo(owner, s.locate(seg, offset))
				for i := 0; i < h.size(); i += damageStride() {
					padding := i >= recordHeaderSize+h.idLen+h.contentLen
					for _, flip := range flips() {
						seg.mem[offset+i] ^= flip
						requireNeverWrong(t, s, model, func(id string, err error) {
							if hit := id == owner && live && !padding; hit || err != nil {
								require.True(t, hit || hash.collides, "%s fails for damage in %s", id, owner)
								requireCorrupt(t, err, seg, offset)
							}
						})
						_, err := s.Get("absent")
						require.True(t, errors.Is(err, ErrNotFound) || hash.collides && errors.Is(err, ErrCorrupt))
						report, err := s.Verify(context.Background())
						if padding {
							require.NoError(t, err)
						} else {
							require.ErrorIs(t, err, ErrCorrupt)
							require.True(t, slices.ContainsFunc(report.Findings, func(f Finding) bool {
								return f.File == seg.name() && f.Offset == int64(offset)
							}), "byte %d of %s: %+v", i, owner, report.Findings)
						}
						seg.mem[offset+i] ^= flip
					}
				}
				offset += h.size()
			}
			requireAll(t, s, model)
		})
	}
}

// requireNeverWrong reads every memory of model in every way: the content is right, or check, called
// for each read, agrees with the error.
func requireNeverWrong(t *testing.T, s *Store, model map[string][]byte, check func(id string, err error)) {
	t.Helper()
	for id, content := range model {
		got, err := s.Get(id)
		check(id, err)
		if err == nil && !bytes.Equal(content, got) {
			require.Failf(t, "wrong bytes", "Get of %s", id)
		}
		err = s.View(id, func(got []byte) error {
			if !bytes.Equal(content, got) {
				require.Failf(t, "wrong bytes", "View of %s", id)
			}
			return nil
		})
		check(id, err)
	}
}

// requireCorrupt checks that err is damage of the record at offset.
func requireCorrupt(t *testing.T, err error, seg *segment, offset int) {
	t.Helper()
	require.ErrorIs(t, err, ErrCorrupt)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, seg.name(), corrupt.File)
	require.EqualValues(t, offset, corrupt.Offset)
}

// Goal: Put and Delete beside a damaged record do what they say or return ErrCorrupt and do nothing;
// counts and bytes stay right either way. Method: each byte of a record flipped, one call in a fresh
// store, the byte restored; then the store must verify, hold what a map holds, and compact. The damaged
// record comes first in its shard, and enough others behind it that a longer length stays in bounds.
func TestPut_EveryByteDamaged(t *testing.T) {
	calls := []struct {
		name string
		do   func(s *Store, model map[string][]byte, id string) error
	}{
		{"Put", func(s *Store, model map[string][]byte, id string) error {
			err := s.Put(id, []byte("a new version"))
			if err == nil {
				model[id] = []byte("a new version")
			}
			return err
		}},
		{"Delete", func(s *Store, model map[string][]byte, id string) error {
			existed, err := s.Delete(id)
			if _, present := model[id]; err == nil && existed != present {
				return fmt.Errorf("existed is %v, and the memory present: %v", existed, present)
			}
			if err == nil {
				delete(model, id)
			}
			return err
		}},
	}
	for _, hash := range damageHashes[:2] {
		for _, call := range calls {
			for _, id := range []string{idOf(0), idOf(1), idOf(2), idOf(9)} {
				t.Run(fmt.Sprintf("%s, %s of %s", hash.name, call.name, id), func(t *testing.T) {
					for i := 0; i < recordSize(len(idOf(1)), 17); i += damageStride() {
						for _, flip := range flips() {
							s, err := open("", quiet(), hooks{hash: hash.hash})
							require.NoError(t, err)
							model := map[string][]byte{}
							for _, j := range []int{1, 0, 2, 3, 4, 5, 6, 7} {
								model[idOf(j)] = contentOf(j, 0, 17)
								require.NoError(t, s.Put(idOf(j), model[idOf(j)]))
							}
							rec := recordOf(t, s, idOf(1))
							rec[i] ^= flip
							err = call.do(s, model, id)
							rec[i] ^= flip
							if err != nil {
								require.ErrorIs(t, err, ErrCorrupt, "byte %d ^ %#x", i, flip)
							}
							report, err := s.Verify(context.Background())
							require.NoError(t, err, "byte %d ^ %#x: %+v", i, flip, report.Findings)
							requireAll(t, s, model)
							mustCompact(t, s)
							requireAll(t, s, model)
							require.Zero(t, s.Stats().DeadBytes)
							require.NoError(t, s.Close())
						}
					}
				})
			}
		}
	}
}

// Goal: a damaged memory is cured by writing it anew, and gone when deleted, if its id can still be
// read. Method: damage the content.
func TestPut_CuresDamage(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10, 50)
	for i := range 2 {
		rec := recordOf(t, s, idOf(i))
		rec[recordHeaderSize+len(idOf(i))+7] ^= 0x20
		_, err := s.Get(idOf(i))
		require.ErrorIs(t, err, ErrCorrupt)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, idOf(i), corrupt.ID)
		require.NotContains(t, corrupt.Error(), idOf(i))
	}
	require.EqualValues(t, 2, s.Stats().Reads.CorruptRecords)
	require.NoError(t, s.Put(idOf(0), contentOf(0, 0, 50)))
	existed, err := s.Delete(idOf(1))
	require.NoError(t, err)
	require.True(t, existed)
	requireContents(t, s, 0, 10, 50, func(i int) bool { return i != 1 })
	mustCompact(t, s)
	requireContents(t, s, 0, 10, 50, func(i int) bool { return i != 1 })
}

// Goal: damage that was overwritten or deleted is out of the way: compactions succeed and give its bytes
// back. Method: a wrong length in the header, which is what the bytes that die are counted by.
func TestCompact_AfterDamageReplaced(t *testing.T) {
	for _, flip := range []byte{0x10, 0x20} { // a shorter content, and a longer one
		for _, replace := range []string{"overwritten", "deleted"} {
			t.Run(fmt.Sprintf("length changed by %#x, %s", flip, replace), func(t *testing.T) {
				s := openTest(t, quiet(), hooks{hash: oneLane})
				fill(t, s, 0, 1000, 0x50)
				rec := recordOf(t, s, idOf(5))
				rec[atContentLen] ^= flip
				var err error
				if replace == "overwritten" {
					err = s.Put(idOf(5), contentOf(5, 0, 0x50))
				} else {
					_, err = s.Delete(idOf(5))
				}
				if err != nil { // refused: the damage is still in the way, and nothing changed
					require.ErrorIs(t, err, ErrCorrupt)
					rec[atContentLen] ^= flip
					requireContents(t, s, 0, 1000, 0x50, all)
					return
				}
				deleteWhere(t, s, 100, 200, all)
				mustCompact(t, s)
				require.Zero(t, s.Stats().DeadBytes)
				require.Equal(t, replace == "overwritten", s.Has(idOf(5)))
			})
		}
	}
}

// Goal: Verify fails when anything it vouches for is wrong. Method: break one thing at a time, see it
// found, and mend it again.
func TestVerify_FindsWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		want  string // in a finding
		wreck func(t *testing.T, s *Store) (mend func())
	}{
		{"live record, content", "checksum mismatch", func(t *testing.T, s *Store) func() {
			return flipByte(recordOf(t, s, idOf(7)), recordHeaderSize+30)
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
			return flipByte(rec, recordHeaderSize+30)
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
			seg.tail.Store(segmentHeaderSize)
			return func() { seg.tail.Store(tail) }
		}},
		{"slot lost", "memories: 100 counted, 99 found", wreckSlot(func(slot) slot { return 0 })},
		{"slot that leads between two records", "damaged header or id", wreckSlot(func(w slot) slot { return w + 1 })},
		{"slot that leads to no segment", "no such segment", wreckSlot(func(w slot) slot { return w | 1<<(locationBits-1) })},
		{"slot with another tag", "its slot is in shard", wreckSlot(func(w slot) slot { return w ^ 1<<locationBits })},
		{"slot of another memory", "its slot is in shard", func(t *testing.T, s *Store) func() {
			other := slotOf(t, s, idOf(8))
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

// slotOf is the slot of id.
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
			seg.mem[offset+recordHeaderSize+len(idOf(i))] ^= 0xff
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

// Goal: the store behaves as a map does, through any history. Method: seeded random calls, faults in
// compactions included, against a map; a short look after every call and Verify at the end; several
// option sets, and hashes with so few bits that most ids share one.
func TestStore_RandomHistory(t *testing.T) {
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
			for range sized(t, 8000) {
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

// historyIDs is how many ids a history uses.
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

// compact compacts, with a fault if at has one, after which everything must be as before.
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

// Where the fields of a record's header are, for tests that damage them.
const (
	atContentSum = 4
	atKind       = 8
	atFlags      = 9
	atIDLen      = 10
	atContentLen = 12
	atSeq        = 16
)

// compactionKinds are the kinds of rounds: small ones and one for everything, by one worker and by
// several. The race detector has something to see with several only.
func compactionKinds() []struct {
	name string
	opts *Options
} {
	kind := func(workers int, maxOverhead int64) *Options {
		opts := quiet()
		opts.Compaction.Workers, opts.Compaction.MaxOverhead = workers, maxOverhead
		return opts
	}
	kinds := []struct {
		name string
		opts *Options
	}{
		{"small rounds, four workers", kind(4, 2*minSegmentSize)},
		{"one round, four workers", kind(4, -1)},
		{"small rounds, one worker", kind(1, 1)},
		{"one round, one worker", kind(1, -1)},
		{"defaults", quiet()},
	}
	if raceEnabled || lockOrderChecked() {
		kinds = kinds[:2]
	}
	return kinds
}

// oneLane is a hash that puts all ids into one shard, and so into one lane, with tags that differ.
func oneLane(id string) uint64 { return uint64(crc32.ChecksumIEEE([]byte(id))) << 24 }

func mustCompact(t testing.TB, s *Store) CompactionStats {
	t.Helper()
	stats, err := s.Compact(context.Background())
	require.NoError(t, err)
	return stats
}

// requireAll checks that All yields the memories of model, each once, and nothing else.
func requireAll(t testing.TB, s *Store, model map[string][]byte) {
	t.Helper()
	require.Equal(t, len(model), s.Len())
	seen := make(map[string]bool, len(model))
	for id, got := range s.All() {
		content, present := model[id]
		if seen[id] || !present || !bytes.Equal(content, got) {
			require.Failf(t, "All is wrong", "%q: seen before %v, present %v", id, seen[id], present)
		}
		seen[id] = true
	}
	require.Len(t, seen, len(model))
}

// requireSameState checks that two Stats say the same of what is stored and mapped.
// settled is Stats without old index tables that wait for their readers: a compaction gives them back, one
// that fails too.
func settled(s *Store) Stats {
	s.emptyLimbo()
	return s.Stats()
}

func requireSameState(t *testing.T, before, after Stats) {
	t.Helper()
	state := func(st Stats) Stats {
		return Stats{
			Memories: st.Memories, Segments: st.Segments, TotalBytes: st.TotalBytes, LiveBytes: st.LiveBytes,
			DeadBytes: st.DeadBytes, FragmentationRatio: st.FragmentationRatio, MappedBytes: st.MappedBytes,
			SegmentDetails: SegmentDetails{RetiredBytes: st.SegmentDetails.RetiredBytes}, IndexBytes: st.IndexBytes, Puts: st.Puts, Deletes: st.Deletes,
			BytesReclaimed: st.BytesReclaimed,
		}
	}
	require.Equal(t, state(before), state(after))
}

// requireUnpinned checks that no pin and no lock is left.
func requireUnpinned(t *testing.T, s *Store) {
	t.Helper()
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	s.contentMu.Lock()
	defer s.contentMu.Unlock()
	for _, seg := range s.segments.all() {
		require.EqualValues(t, 1, seg.refs.Load(), "references to %s", seg.name())
	}
}

// locationOf is where the record of id is.
func locationOf(t *testing.T, s *Store, id string) (seg *segment, offset int) {
	t.Helper()
	var m match
	hold, err := s.lookup(&m, id, 0)
	require.NoError(t, err)
	s.contentMu.RUnlock(hold)
	return m.seg, m.offset
}

// recordOf is the bytes of the record of id, for a test to damage.
func recordOf(t *testing.T, s *Store, id string) []byte {
	t.Helper()
	seg, offset := locationOf(t, s, id)
	h, ok := decodeHeader(seg.mem[offset:])
	require.True(t, ok)
	return seg.mem[offset : offset+h.size()]
}

// flipByte damages a byte of b and returns what mends it.
func flipByte(b []byte, i int) (mend func()) {
	b[i] ^= 0xff
	return func() { b[i] ^= 0xff }
}

// logTo returns a logger and what it has written.
func logTo() (*slog.Logger, *logText) {
	var log logText
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), &log
}

// logText can be read while the background writes to it.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// sized is scaled, and less too where every lock is checked against the lock order.
func sized(t testing.TB, n int) int {
	t.Helper()
	if lockOrderChecked() {
		return max(1, n/20)
	}
	return scaled(n)
}

// lockOrderChecked reports whether the build checks the order of locks.
func lockOrderChecked() (checked bool) {
	var mu rankedMutex[laneRank]
	mu.Lock()
	defer mu.Unlock()
	defer func() { checked = recover() != nil }()
	assertUnlocked()
	return false
}
