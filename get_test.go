package warmtier

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: AppendContent appends, into the caller's memory when there is room, and leaves dst as it
// was on an error. Method: with room, without, and with errors.
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
	_, version, err := s.GetVersion("id")
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { version, _ = s.PutIf("id", content, version) }), "PutIf")
	require.NotZero(t, version, "PutIf stored")
}

// Goal: View passes on what the callback returns or panics with, and in every case neither a lock
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

// Goal: a callback of View may call the store, and its content stays valid whatever becomes of the
// memory during the call. Method: overwrite, delete, compact and close inside the callback.
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

// Goal: a content handed out by View has no room for appending into the next record. Method: append
// to it.
func TestView_ContentHasNoRoom(t *testing.T) {
	s := openTest(t, quiet(), hooks{hash: func(string) uint64 { return 0 }})
	fill(t, s, 0, 2, 101)
	require.NoError(t, s.View(idOf(0), func(content []byte) error {
		_ = append(content, bytes.Repeat([]byte{0xee}, 64)...)
		return nil
	}))
	requireContents(t, s, 0, 2, 101, all)
}
