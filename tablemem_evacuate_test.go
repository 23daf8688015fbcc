package warmtier

import (
	"hash/maphash"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

// untilEvacuated puts memories until the hook of p, which it sets, has run.
func untilEvacuated(t *testing.T, s *Store, p point, fn func()) {
	done := false
	s.hooks.at = doAt(p, 1, func() { fn(); done = true })
	for i := 0; !done; i++ {
		require.Less(t, i, 1_000_000, "no table is evacuated")
		require.NoError(t, s.Put(idOf(i), nil))
	}
}

// Goal: a block that was evacuated stays mapped, with what is in it, for readers that are in one of
// its tables (I7), and goes when they are out.
//
// The interleaving: a reader has loaded a table and the first slot. All tables leave the block. The
// reader loads the next slot.
func TestEvacuate_UnderReader(t *testing.T) {
	seed := maphash.MakeSeed()
	s := openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		if id[0] == '=' {
			return oneTag(id)
		}
		return maphash.String(seed, id)
	}})
	require.NoError(t, s.Put("=1", nil))
	require.NoError(t, s.Put("=2", []byte("two")))
	sh, _ := s.place("=1")
	b := s.tables.last()
	for i := 0; i < 10_000 || b == s.tables.last(); i++ {
		require.NoError(t, s.Put(idOf(i), nil))
		b = s.tables.blocks[s.tables.blockOf(sh.current())]
	}
	mapped := func() bool {
		s.tables.mu.Lock()
		defer s.tables.mu.Unlock()
		return slices.Contains(s.tables.blocks, b)
	}

	released := make(chan struct{})
	s.hooks.at = doAt(pointFindOther, 1, func() {
		for emptied := false; !emptied; emptied = s.evacuate() {
			s.tables.sparse.Store(b) // tables that others retire choose again
		}
		go func() {
			s.trimReplaced()
			s.releaseReplaced()
			close(released)
		}()
		if !waitFor(func() bool { return someoneIn((*Store).releaseReplaced) }) {
			t.Error("nobody waits for the reader")
		}
		if !stays(mapped) {
			t.Error("unmapped under a reader")
		}
	})
	got, err := s.Get("=2")
	require.NoError(t, err)
	require.Equal(t, []byte("two"), got)
	s.hooks.at = nil
	<-released
	require.False(t, mapped())
	require.False(t, b.holds(sh.current()))
}

// Goal: no table is given to a store after Close has taken them all: it would stay mapped. Method:
// Close runs after a table of a sparse block was found, before the shard is locked. (openTest looks
// for what is left mapped.)
func TestEvacuate_ClosedBeforeMove(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	untilEvacuated(t, s, pointTableFound, func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	require.ErrorIs(t, s.Put("a", nil), ErrClosed)
}

// Goal: Close waits for a table that is being moved. Method: Close begins when the table is about to
// be replaced.
func TestEvacuate_ClosedDuringMove(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	closed := make(chan struct{})
	ended := func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	}
	untilEvacuated(t, s, pointTableMoving, func() {
		go func() {
			defer close(closed)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		waits := func() bool { return someoneIn((*Store).Close) }
		if !waitFor(func() bool { return ended() || waits() }) || ended() {
			t.Error("closed while a table moves")
		}
	})
	<-closed
	s.hooks.at = nil
}

// Goal: a table that cannot be moved, for lack of memory, is not tried again with every write, and
// nothing has changed. Method: the table would have to be larger than all memory.
func TestEvacuate_NoMemory(t *testing.T) {
	if vm.OnHeap {
		t.Skip("the Go heap ends the process when it cannot grow")
	}
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10_000, 0)
	s.releaseReplaced()
	b := s.tables.blocks[0]
	before := s.Stats().IndexBytes
	s.tables.sparse.Store(b)
	for i := range s.shards {
		s.shards[i].memories.Add(1 << 50)
	}
	require.False(t, s.evacuate())
	s.tables.provide() // as the next write does
	for i := range s.shards {
		s.shards[i].memories.Add(-1 << 50)
	}
	require.Nil(t, s.tables.sparse.Load())
	require.Equal(t, before, s.Stats().IndexBytes)
	require.Zero(t, s.replaced.bytes.Load())
	require.True(t, s.Has(idOf(1)))
}

// Goal: while tables move, every memory is found, by readers and by writers of its shard. Method:
// writers make the store swing, so that blocks become sparse, and readers look for memories that stay.
func TestEvacuate_UnderLoad(t *testing.T) {
	const stay, writers = 500, 3
	swing := max(1_000, sized(t, 8_000)) // fewer move no table
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, stay, 20)
	moved := 0
	var mu sync.Mutex
	s.hooks.at = func(p point) error {
		if p == pointTableMoving {
			mu.Lock()
			defer mu.Unlock()
			moved++
		}
		return nil
	}
	var writing, reading sync.WaitGroup
	end := make(chan struct{})
	for range 2 {
		reading.Go(func() {
			for i := 0; ; i = (i + 1) % stay {
				select {
				case <-end:
					return
				default:
				}
				got, err := s.Get(idOf(i))
				if err != nil || string(got) != string(contentOf(i, 0, 20)) {
					t.Errorf("memory %d: %q, %v", i, got, err)
					return
				}
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			first := stay + w*swing
			for range 3 {
				for i := range swing {
					if err := s.Put(idOf(first+i), nil); err != nil {
						t.Error(err)
					}
				}
				for i := range swing {
					if err := deletePresent(s, first+i); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writing.Wait()
	close(end)
	reading.Wait()
	s.hooks.at = nil
	require.Positive(t, moved, "no table was moved")
	require.Equal(t, stay, s.Len())
}
