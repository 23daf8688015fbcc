package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: contents that View and a step of All hand out stay as they are, byte for byte, until the
// callback or the step ends, although the memory is overwritten and two compactions, with
// recycling, pass.
//
// What would break: a segment whose memory is used for targets, or unmapped, while it is pinned; a
// pin that is never dropped keeps it for ever.
//
// Method: the callback itself does all of it. The pinned segment must be retired, held by one pin,
// and its memory in no other segment; afterwards it must be gone.
func TestView_BytesStayDuringCompactions(t *testing.T) {
	view := func(s *Store, i int, fn func([]byte) error) error { return s.View(idOf(i), fn) }
	step := func(s *Store, i int, fn func([]byte) error) (err error) {
		for id, content := range s.All() {
			if id == idOf(i) {
				err = fn(content)
			}
		}
		return err
	}
	readers := map[string]func(*Store, int, func([]byte) error) error{"View": view, "All": step}
	for name, read := range readers {
		for _, size := range []int{layoutSize, 2 * minSegmentSize} {
			for _, opts := range []*Options{bounded(1), bounded(4), unbounded(2)} {
				c := opts.Compaction
				t.Run(fmt.Sprintf("%s/size=%d/workers=%d/overhead=%d", name, size, c.Workers, c.MaxOverhead),
					func(t *testing.T) { holdDuringCompactions(t, opts, size, read) })
			}
		}
	}
}

func holdDuringCompactions(t *testing.T, opts *Options, size int, read func(*Store, int, func([]byte) error) error) {
	s := openTest(t, opts, hooks{})
	const n = 600
	fill(t, s, 0, n/2, layoutSize)
	require.NoError(t, s.Put(idOf(n), contentOf(n, 0, size)))
	fill(t, s, n/2, n, layoutSize)
	want := contentOf(n, 0, size)
	var held *segment
	times := 0
	err := read(s, n, func(content []byte) error {
		held = segmentOf(t, s, idOf(n))
		require.EqualValues(t, 2, held.refs.Load())
		for round := 1; round <= 2; round++ {
			for i := range n {
				require.NoError(t, s.Put(idOf(i), contentOf(i, round, layoutSize)))
			}
			require.NoError(t, s.Put(idOf(n), contentOf(n, round, size)))
			_, err := s.Compact(context.Background())
			require.NoError(t, err)
			fill(t, s, n+1, 2*n, layoutSize) // refill
			deleteWhere(t, s, n+1, 2*n, all)

			require.True(t, bytes.Equal(want, content), "the bytes handed out have changed")
			require.True(t, held.is(stateRetired))
			require.EqualValues(t, 1, held.refs.Load())
			require.EqualValues(t, len(held.mem), s.Stats().SegmentDetails.RetiredBytes)
			for _, seg := range s.segments.all() {
				require.NotSame(t, &held.mem[0], &seg.mem[0])
			}
		}
		times++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 1, times)
	require.Zero(t, held.refs.Load())
	st := s.Stats()
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	var mapped int64
	for _, seg := range s.segments.all() {
		mapped += int64(len(seg.mem))
	}
	require.Equal(t, mapped+st.IndexBytes+st.SegmentDetails.ReserveBytes, st.MappedBytes)
}

// Goal: contents that Get and AppendContent copy under a pin, with no lock held, stay mapped until
// they are copied.
//
// The interleaving: the reader has its location and copies; the memory is overwritten and compacted
// away, and its segment's memory goes to a target or back to the system.
//
// Method: contents that take long to copy, in a segment of their own and in a shared one, read in a
// loop while every one of them is overwritten and compacted in a loop.
func TestGet_LargeContentDuringCompactions(t *testing.T) {
	opts := bounded(2)
	opts.SegmentSize = 1 << 20
	s := openTest(t, opts, hooks{})
	sizes := []int{100 << 10, 3 << 20}
	if raceEnabled {
		sizes[1] = 1100 << 10 // still larger than a segment
	}
	contents := make([][2][]byte, len(sizes))
	for i, size := range sizes {
		contents[i] = [2][]byte{contentOf(i, 0, size), contentOf(i, 1, size)}
		require.NoError(t, s.Put(idOf(i), contents[i][0]))
	}
	right := func(i int, content []byte, err error) error {
		if err == nil && !bytes.Equal(content, contents[i][0]) && !bytes.Equal(content, contents[i][1]) {
			err = fmt.Errorf("wrong bytes for memory %d", i)
		}
		return err
	}
	c := newCrew(t)
	for i := range sizes {
		buf := make([]byte, 0, sizes[i])
		c.loop(func() error {
			got, err := s.AppendContent(buf[:0], idOf(i))
			return right(i, got, err)
		})
		c.loop(func() error {
			got, err := s.Get(idOf(i))
			return right(i, got, err)
		})
	}
	version := 0
	c.loop(func() error {
		version++
		for i := range sizes {
			if err := s.Put(idOf(i), contents[i][version%2]); err != nil {
				return err
			}
		}
		_, err := s.Compact(context.Background())
		return err
	})
	c.wait(testDuration(t))
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	require.Zero(t, s.Stats().Reads.CorruptRecords)
	t.Logf("%d compactions", version)
}

// Goal: a pin is taken while the location still holds.
//
// The interleaving: a reader finds its record, releases contentMu, and pins only after that. In
// between the swap retires the segment, finds no pin, and gives the memory back; when the late pin
// drops to zero, the memory is given back a second time.
//
// Method: hot memories are overwritten, and their segments swapped out, as fast as possible, by the
// end of a compaction without its build. They are read by more threads than there are processors.
func TestView_PinnedAgainstSwap(t *testing.T) {
	oversubscribe(t)
	s := openTest(t, unbounded(1), hooks{hash: placedBy(func(i int) int { return i })})
	const small, large = 0, 1
	sizes := []int{16, maxLockedCopy + 1}
	want := [][]byte{contentOf(small, 0, sizes[small]), contentOf(large, 0, sizes[large])}
	fill := func() error { return errors.Join(s.Put(idOf(small), want[small]), s.Put(idOf(large), want[large])) }
	require.NoError(t, fill())
	c := newCrew(t)
	for range 4 {
		c.loop(func() error {
			for range 100 {
				err := s.View(idOf(small), func(content []byte) error {
					if !bytes.Equal(content, want[small]) {
						return errors.New("wrong bytes in View")
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 4 {
		buf := make([]byte, 0, sizes[large])
		c.loop(func() error {
			got, err := s.AppendContent(buf[:0], idOf(large))
			if err == nil && !bytes.Equal(got, want[large]) {
				err = errors.New("wrong bytes in AppendContent")
			}
			return err
		})
	}
	swaps := 0
	swapper := &compaction{s: s, maxTargets: 1, pace: newPace(1, 1)}
	c.loop(func() error {
		if err := fill(); err != nil {
			return err
		}
		s.sealLanes(0)
		var dead []*segment
		for _, seg := range s.segments.all() {
			if seg.claimFor(ownerVictim) && seg.isDead() {
				dead = append(dead, seg)
			}
		}
		swapper.removeFromTable(dead)
		swapper.giveBack(dead, true)
		swapper.drainPool()
		swaps++
		return nil
	})
	c.wait(testDuration(t))
	require.Zero(t, s.Stats().SegmentDetails.RetiredBytes)
	require.Zero(t, s.Stats().Reads.CorruptRecords)
	t.Logf("%d swaps, %d reads", swaps, s.Stats().Gets)
}
