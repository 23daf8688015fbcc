package vm

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeCounter is a counter of a process with this many mappings, and this limit.
func fakeCounter(limit string, mappings *int) *counter {
	return &counter{
		read: func(string) ([]byte, error) {
			if limit == "" {
				return nil, errors.New("no such file")
			}
			return []byte(limit + "\n"), nil
		},
		lines: func() (int, error) { return *mappings, nil },
	}
}

// Goal: there is room up to the limit less the reserve, the larger of 1,024 and a tenth but not all of
// it; the error has the figures. Without a limit there is always room.
func TestRoom_Reserve(t *testing.T) {
	for _, c := range []struct {
		limit          string
		most, reserved int
	}{
		{"65530", 58977, 6553},
		{"4000", 2976, 1024},
		{"1000", 500, 500},
	} {
		n := c.most - 3
		counted := fakeCounter(c.limit, &n)
		require.NoError(t, counted.room(3), c.limit)
		err := counted.room(4)
		var limit *LimitError
		require.ErrorAs(t, err, &limit, c.limit)
		require.Equal(t, c.most-3, limit.Mappings)
		require.Equal(t, c.reserved, limit.Reserved)
		require.ErrorContains(t, err, c.limit)
		require.NoError(t, counted.room(3), "a caller that may take from the reserve")
	}
	n := 1 << 30
	require.NoError(t, fakeCounter("", &n).room(1))
	require.NoError(t, fakeCounter("many", &n).room(1))
}

// Goal: what this package maps after a count is in the bound: files exactly, memory at most once a change and
// never more than there is of it. Where the bound is over the limit, it is counted what there really is.
func TestRoom_BetweenCounts(t *testing.T) {
	n := 100
	c := fakeCounter("65530", &n)
	require.NoError(t, c.room(1))
	found := c.last.Load()
	for range 10 {
		c.file(1)
	}
	c.file(-1)
	require.Equal(t, 109, c.bound(found))
	for range 5 {
		c.anonymous(1)
	}
	require.Equal(t, 114, c.bound(found))
	c.anonymous(-1) // may have cut one in two, but four are never in more than four pieces
	require.Equal(t, 113, c.bound(found))

	for range 60_000 { // all merged into one
		c.anonymous(1)
	}
	require.Greater(t, c.bound(found), 58_977)
	n = 110
	found.at = time.Now().Add(-time.Hour) // the last count was long ago
	require.NoError(t, c.room(1))
	require.Equal(t, 110, c.bound(c.last.Load()))
}

// Goal: at a limit that is real, callers who ask again and again do not count again and again; and what the
// program maps is noticed by Recount.
func TestRoom_CountsSeldom(t *testing.T) {
	n, counts := 58_977, 0
	c := fakeCounter("65530", &n)
	lines := c.lines
	c.lines = func() (int, error) { counts++; return lines() }
	require.NoError(t, c.room(0))
	c.last.Load().cost = time.Hour // as if counting took long
	for range 1000 {
		require.Error(t, c.room(1))
	}
	require.Equal(t, 1, counts)
	n = 50_000
	c.recount(time.Hour)
	require.Error(t, c.room(1), "the count is younger than an hour")
	c.recount(0)
	require.NoError(t, c.room(1))
	n = 60_000
	require.NoError(t, c.room(1), "not counted yet")
	c.recount(0)
	require.Error(t, c.room(1))

	c.lines = func() (int, error) { return 0, errors.New("too many open files") }
	found := c.last.Load()
	require.Same(t, found, c.recount(0), "what is known stays")
	require.Error(t, c.room(1))
}

// Goal: the package counts what it maps, of both kinds; memory that Zero is asked for is zero, whatever was in it.
func TestMap_Counted(t *testing.T) {
	memory, changes := mapped.memory.Load(), mapped.changes.Load()
	mem, err := Map(2 * PageSize)
	require.NoError(t, err)
	for i := range mem {
		mem[i] = 1
	}
	Zero(mem)
	require.Equal(t, make([]byte, len(mem)), mem)
	if !OnHeap {
		require.Equal(t, memory+1, mapped.memory.Load())
	}
	require.NoError(t, Unmap(mem))
	require.Equal(t, memory, mapped.memory.Load())
	if !OnHeap {
		require.Equal(t, changes+2, mapped.changes.Load())
	}
}
