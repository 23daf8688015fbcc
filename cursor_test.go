//go:build unix

package warmtier

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// scanAll scans s in steps of n and calls between after each of them. It returns how often each id was seen.
func scanAll(t *testing.T, s *Store, n int, between func()) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for c := Cursor(0); ; {
		ids, next, err := s.Scan(c, n)
		require.NoError(t, err)
		for _, id := range ids {
			seen[id]++
		}
		if next == 0 {
			return seen
		}
		require.GreaterOrEqual(t, len(ids), n)
		require.NotEqual(t, c, next)
		c = next
		between()
	}
}

// Goal: a scan returns what was there throughout exactly once, whatever happens to the others and to the
// index. Method: between the calls memories come, go and are overwritten, tables grow and shrink, and
// compactions move everything.
func TestScan_OthersComeAndGo(t *testing.T) {
	parallel(t)
	const stay = 1000
	for _, n := range []int{1, 7, 100, 3 * stay} {
		t.Run(fmt.Sprintf("n=%d", n), func(t *testing.T) {
			s := openTest(t, quiet(), hooks{})
			fill(t, s, 0, 2*stay, 10) // the first half stays
			turn, fresh, gone := 0, 2*stay, stay
			seen := scanAll(t, s, n, func() {
				turn++
				more := min(2*n, 200)
				fill(t, s, fresh, fresh+more, 10)
				fresh += more
				require.NoError(t, s.Put(idOf(turn%stay), []byte("again")))
				for i := 0; i < n && gone < fresh && turn%2 == 0; i++ {
					deleteWhere(t, s, gone, gone+1, all)
					gone++
				}
				if turn%64 == 1 {
					mustCompact(t, s)
				}
			})
			for i := range stay {
				require.Equal(t, 1, seen[idOf(i)], idOf(i))
			}
			for id, times := range seen {
				require.Equal(t, 1, times, id)
			}
		})
	}
}

// Goal: ids that share a place are never parted, since a cursor could not say which were returned; n ids are
// returned otherwise. Method: three ids of each tag, and steps that end within and between tags.
func TestScan_EqualTags(t *testing.T) {
	const tags = 50
	s := openTest(t, quiet(), hooks{hash: func(id string) uint64 {
		var i int
		if _, err := fmt.Sscanf(id, "memory-%d", &i); err != nil {
			return 0
		}
		return uint64(i%tags) << (64 - shardBits - tagBits) // one shard
	}})
	fill(t, s, 0, 3*tags, 10)
	for n := 1; n <= 10; n++ {
		var got int
		for c := Cursor(0); ; {
			ids, next, err := s.Scan(c, n)
			require.NoError(t, err)
			got += len(ids)
			if next == 0 {
				break
			}
			require.Len(t, ids, (n+2)/3*3)
			c = next
		}
		require.Equal(t, 3*tags, got)
	}
}

// Goal: a cursor is good after a clean Close and Open, and an error where the ids have other places: in
// another store, and after an Open that had to draw another key. So is a number that was never a cursor.
func TestScan_CursorOfAnotherStore(t *testing.T) {
	dir := fastDir(t)
	open := func() *Store {
		s, err := Open(dir, quiet())
		require.NoError(t, err)
		return s
	}
	s := open()
	fill(t, s, 0, 1000, 10)
	ids, next, err := s.Scan(0, 400)
	require.NoError(t, err)
	require.Len(t, ids, 400)
	require.NoError(t, s.Close())
	_, _, err = s.Scan(next, 400)
	require.ErrorIs(t, err, ErrClosed)

	s = open()
	rest, end, err := s.Scan(next, 1000)
	require.NoError(t, err)
	require.Zero(t, end)
	require.Len(t, rest, 600)
	require.NotSubset(t, ids, rest)
	first, _, err := s.Scan(0, -1)
	require.NoError(t, err)
	require.Len(t, first, scanNumber)

	other := openTest(t, quiet(), hooks{})
	for _, c := range []Cursor{next, 1, 1 << 40, ^Cursor(0), Cursor(other.stamp() << placeBits)} {
		ids, again, err := other.Scan(c, 1)
		require.ErrorIs(t, err, ErrInvalidCursor)
		require.Zero(t, again)
		require.Empty(t, ids)
	}
	require.NoError(t, s.Close())
}

// Goal: IDs and Scan leave a damaged record out, and say so; they do not read contents. Method: one byte of
// one record.
func TestScan_DamagedRecord(t *testing.T) {
	for _, c := range []struct {
		name  string
		at    int
		found int
	}{
		{"header", atSeq, 19},
		{"content", 24 + len(idOf(0)), 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			logger, log := logTo()
			opts := quiet()
			opts.Logger = logger
			s := openTest(t, opts, hooks{})
			fill(t, s, 0, 20, 10)
			rec := recordOf(t, s, idOf(10))
			rec[c.at] ^= 1
			defer func() { rec[c.at] ^= 1 }()
			ids, next, err := s.Scan(0, 100)
			require.Zero(t, next)
			require.Len(t, ids, c.found)
			var listed []string
			for id := range s.IDs() {
				listed = append(listed, id)
			}
			require.Equal(t, ids, listed)
			if c.found == 20 {
				require.NoError(t, err)
				require.Zero(t, s.Stats().Reads.CorruptRecords)
				return
			}
			require.ErrorIs(t, err, ErrCorrupt)
			require.NotContains(t, ids, idOf(10))
			require.EqualValues(t, 2, s.Stats().Reads.CorruptRecords)
			require.Contains(t, log.String(), "left out of an iteration")
		})
	}
}

// Goal: IDs yields what All does, may be left at any step, and ends when the store is closed.
func TestIDs_AsAll(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 3000, 10)
	deleteWhere(t, s, 0, 3000, odd)
	want := map[string]bool{}
	for id := range s.All() {
		want[id] = true
	}
	require.Len(t, want, 1500)
	steps := 0
	for id := range s.IDs() {
		require.True(t, want[id], "%s again, or not there", id)
		delete(want, id)
		steps++
	}
	require.Empty(t, want)
	for range s.IDs() {
		if steps--; steps == 1000 {
			break
		}
	}
	require.Equal(t, 1000, steps)
	for range s.IDs() {
		require.NoError(t, s.Close())
		steps++
	}
	require.Equal(t, 1001, steps)
}
