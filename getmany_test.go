package warmtier

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
)

// got holds the arguments of one call of fn.
type got struct {
	i       int
	content []byte
	err     error
}

func getMany(t *testing.T, s *Store, ids []string) (list []got) {
	t.Helper()
	require.NoError(t, s.GetMany(ids, func(i int, content []byte, err error) {
		list = append(list, got{i, bytes.Clone(content), err})
	}))
	return list
}

// Goal: GetMany hands out, in order, what Get would return for each id. Method: ids that are
// present, absent, invalid and repeated, with empty, short and long contents, in several batches,
// some ended early by the most that a batch copies; in a memory store and in a directory.
func TestGetMany_AsGet(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		t.Run(fmt.Sprintf("directory=%v", dir != ""), func(t *testing.T) {
			opts := quiet()
			opts.SyncInterval = -1 // a background flush pins segments
			s, err := Open(dir, opts)
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			rnd := seeded(t)
			sizes := []int{0, 1, 300, 5000, maxLockedCopy - 1, maxLockedCopy, maxLockedCopy + 1, 3 * maxLockedCopy}
			var ids []string
			for i := range 300 {
				if i%3 != 2 {
					require.NoError(t, s.Put(idOf(i), bytes.Repeat([]byte{byte(i)}, sizes[rnd.IntN(len(sizes))])))
				}
				ids = append(ids, idOf(i), idOf(rnd.IntN(300)))
			}
			ids = append(ids, "", strings.Repeat("x", MaxIDLen+1), idOf(0), idOf(0))
			before := settled(s)
			list := getMany(t, s, ids)
			after := s.Stats()
			require.Len(t, list, len(ids))
			misses := int64(0)
			for i, g := range list {
				require.Equal(t, i, g.i)
				want, err := s.Get(ids[i])
				require.Equal(t, err, g.err)
				require.True(t, bytes.Equal(want, g.content), "id %q", ids[i])
				if err == nil {
					require.NotNil(t, g.content)
				} else {
					require.Nil(t, g.content)
				}
				if i < len(ids)-4 && err != nil {
					misses++
				}
			}
			require.EqualValues(t, len(ids)-2, after.Gets-before.Gets, "invalid ids are no gets")
			require.Equal(t, misses, after.Misses-before.Misses)
			requireUnpinned(t, s)
			require.NoError(t, s.GetMany(nil, nil))
		})
	}
}

// Goal: damage of a prefix or a content is an error of that id alone.
func TestGetMany_Damage(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 100, 200)
	mendHead := flipByte(recordOf(t, s, idOf(10)), record.HeaderSize)
	mendContent := flipByte(recordOf(t, s, idOf(20)), record.HeaderSize+100)
	var ids []string
	for i := range 100 {
		ids = append(ids, idOf(i))
	}
	for _, g := range getMany(t, s, ids) {
		if g.i == 10 || g.i == 20 {
			require.ErrorIs(t, g.err, ErrCorrupt)
			require.Nil(t, g.content)
			continue
		}
		require.NoError(t, g.err)
		require.Equal(t, contentOf(g.i, 0, 200), g.content)
	}
	require.EqualValues(t, 2, s.Stats().Reads.CorruptRecords)
	mendHead()
	mendContent()
}

// Goal: fn runs with no lock held and may do anything: write, compact, read many, close the store.
// After Close the contents already copied are still handed out, and then comes ErrClosed.
func TestGetMany_CallbackCallsStore(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 200, 200)
	var ids []string
	for i := range 200 {
		ids = append(ids, idOf(i))
	}
	calls := 0
	err := s.GetMany(ids, func(i int, content []byte, err error) {
		lockrank.AssertUnlocked()
		calls++
		switch i {
		case 3:
			require.NoError(t, s.Put(idOf(3), contentOf(3, 1, 300)))
			mustCompact(t, s)
			require.Len(t, getMany(t, s, ids[:70]), 70)
		case 100:
			require.NoError(t, s.Close())
		}
		require.NoError(t, err)
		require.Equal(t, contentOf(i, 0, 200), content)
	})
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, 2*batchIDs, calls)
	require.ErrorIs(t, s.GetMany(ids, nil), ErrClosed)
}

// Goal: a panic of fn passes through, and leaves nothing locked or pinned.
func TestGetMany_PanicPasses(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10, 2*maxLockedCopy)
	require.PanicsWithValue(t, "mine", func() {
		_ = s.GetMany([]string{idOf(1), idOf(2)}, func(i int, _ []byte, _ error) {
			if i == 1 {
				panic("mine")
			}
		})
	})
	requireUnpinned(t, s)
	requireContents(t, s, 0, 10, 2*maxLockedCopy, all)
}

// Goal: GetMany returns right bytes beside overwrites, deletes, resizes and compactions. Method: a
// content says whose it is; ids that stay are never absent.
func TestGetMany_BesideWriters(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const n = 3000
	fill(t, s, 0, n, 60)
	var stop atomic.Bool
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for v := 1; !stop.Load(); v++ {
			for i := range n {
				if i%2 == 0 {
					_ = putVersion(s, i, v)
				} else if i%4 == 1 {
					_, _ = s.Delete(idOf(i))
				}
			}
			_, _ = s.Compact(context.Background())
			for i := range n {
				_ = s.Put(idOf(i), contentOf(i, 0, 60))
			}
		}
	}()
	rnd := seeded(t)
	for range scaled(2000) {
		var ids []string
		var numbers []int
		for range 1 + rnd.IntN(100) {
			numbers = append(numbers, rnd.IntN(n))
			ids = append(ids, idOf(numbers[len(numbers)-1]))
		}
		require.NoError(t, s.GetMany(ids, func(i int, content []byte, err error) {
			switch number := numbers[i]; {
			case number%4 == 1 && err != nil:
				require.ErrorIs(t, err, ErrNotFound)
			default:
				require.NoError(t, err)
				require.True(t, bytes.HasPrefix(content, contentOf(number, 0, 0)[:8]), "memory %d", number)
			}
		}))
	}
	stop.Store(true)
	<-writing
}
