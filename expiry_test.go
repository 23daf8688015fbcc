package warmtier

import (
	"bytes"
	"io/fs"
	"math"
	"math/bits"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// testClock is a clock that stands still until the test moves it, in Unix ms.
type testClock struct{ atomic.Int64 }

func newTestClock() *testClock {
	c := &testClock{}
	c.Store(1_000_000_000_000)
	return c
}

func (c *testClock) pass(d time.Duration) { c.Add(d.Milliseconds()) }

// deadlinesOf returns the deadline of each memory that has one.
func deadlinesOf(t *testing.T, s *Store) map[string]time.Time {
	t.Helper()
	m := map[string]time.Time{}
	for id := range s.All() {
		at, err := s.Expiry(id)
		require.NoError(t, err)
		if !at.IsZero() {
			m[id] = at
		}
	}
	return m
}

// presentIn returns what All yields.
func presentIn(s *Store) map[string][]byte {
	m := map[string][]byte{}
	for id, content := range s.All() {
		m[id] = bytes.Clone(content)
	}
	return m
}

// requireAbsent checks that every call that reads finds no memory of id.
func requireAbsent(t *testing.T, s *Store, id string) {
	t.Helper()
	before := s.Stats().Misses
	_, err := s.Get(id)
	require.ErrorIs(t, err, ErrNotFound)
	dst, err := s.AppendContent([]byte("x"), id)
	require.ErrorIs(t, err, ErrNotFound)
	require.Equal(t, "x", string(dst))
	require.ErrorIs(t, s.View(id, func([]byte) error { panic("called") }), ErrNotFound)
	require.NoError(t, s.GetMany([]string{id}, func(_ int, content []byte, err error) {
		require.ErrorIs(t, err, ErrNotFound)
		require.Nil(t, content)
	}))
	require.Equal(t, before+4, s.Stats().Misses)
	require.False(t, s.Has(id))
	_, err = s.Expiry(id)
	require.ErrorIs(t, err, ErrNotFound)
	for other := range s.All() {
		require.NotEqual(t, id, other)
	}
	_, err = fs.Stat(s.FS(), id)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// Goal: a memory is there up to its deadline, with its content, and absent for every call from then on; Len
// counts it until a compaction has taken it.
func TestPutTTL_AbsentFromDeadlineOn(t *testing.T) {
	for _, size := range []int{0, 100, maxLockedCopy + 1, 2 * minSegmentSize} {
		clock := newTestClock()
		s := openTest(t, quiet(), hooks{now: clock.Load})
		content := make([]byte, size)
		require.NoError(t, s.PutTTL("a", content, 1500*time.Microsecond)) // rounded up
		require.NoError(t, s.Put("b", content))
		at, err := s.Expiry("a")
		require.NoError(t, err)
		require.Equal(t, time.UnixMilli(clock.Load()+2), at)
		at, err = s.Expiry("b")
		require.NoError(t, err)
		require.True(t, at.IsZero())
		clock.pass(time.Millisecond)
		got, err := s.Get("a")
		require.NoError(t, err)
		require.Equal(t, content, got)
		require.True(t, s.Has("a"))
		clock.pass(time.Millisecond)
		requireAbsent(t, s, "a")
		require.True(t, s.Has("b"))
		require.Equal(t, 2, s.Len())
		require.EqualValues(t, record.Size(1, size)+8, s.Stats().ExpiredBytes)
		mustCompact(t, s)
		requireAbsent(t, s, "a")
		require.Equal(t, 1, s.Len())
		require.Zero(t, s.Stats().ExpiredBytes)
	}
}

func TestPutTTL_Errors(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	for _, ttl := range []time.Duration{0, -1, math.MinInt64} {
		err := s.PutTTL("a", nil, ttl)
		require.ErrorIs(t, err, ErrInvalidTTL)
		require.ErrorContains(t, err, ttl.String())
	}
	require.Zero(t, s.Len())
	require.ErrorIs(t, s.PutTTL("", nil, time.Second), ErrInvalidID)
	_, err := s.Expiry("")
	require.ErrorIs(t, err, ErrInvalidID)
	_, err = s.Expiry("a")
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, s.PutTTL("a", nil, math.MaxInt64))
	require.True(t, s.Has("a"))
}

// Goal: a read never takes an id for absent that had a memory all the time. The interleaving: see
// findUnexpired; the clock, which a read asks after it has found the first memory, is where the second one comes.
func TestPutTTL_ReplacedWhileRead(t *testing.T) {
	for _, read := range []func(s *Store) ([]byte, error){
		func(s *Store) ([]byte, error) { return s.Get("a") },
		func(s *Store) (got []byte, err error) {
			require.NoError(t, s.GetMany([]string{"a"}, func(_ int, content []byte, e error) {
				got, err = bytes.Clone(content), e
			}))
			return got, err
		},
	} {
		clock, armed := newTestClock(), false
		var s *Store
		s = openTest(t, quiet(), hooks{now: func() int64 {
			if armed {
				armed = false
				elsewhere(func() { require.NoError(t, s.Put("a", []byte("2"))) })
				clock.pass(time.Hour)
			}
			return clock.Load()
		}})
		require.NoError(t, s.PutTTL("a", []byte("1"), time.Minute))
		armed = true
		got, err := read(s)
		require.NoError(t, err)
		require.Equal(t, "2", string(got))
		require.False(t, armed)
	}
}

// Goal: the last Put decides about the deadline; what has expired does not stand in the way of it, and a Delete of it
// finds nothing.
func TestPutTTL_Replaced(t *testing.T) {
	clock := newTestClock()
	s := openTest(t, quiet(), hooks{now: clock.Load})
	require.NoError(t, s.PutTTL("a", []byte("1"), time.Second))
	require.NoError(t, s.Put("a", []byte("2")))
	require.NoError(t, s.Put("b", []byte("3")))
	require.NoError(t, s.PutTTL("b", []byte("4"), time.Second))
	require.NoError(t, s.PutTTL("c", []byte("5"), time.Second))
	require.NoError(t, s.PutTTL("c", []byte("6"), time.Hour))
	require.NoError(t, s.PutTTL("d", []byte("7"), time.Second))
	require.NoError(t, s.PutTTL("e", []byte("8"), time.Second))
	clock.pass(time.Minute)
	require.Equal(t, map[string][]byte{"a": []byte("2"), "c": []byte("6")}, presentIn(s))
	existed, err := s.Delete("d")
	require.NoError(t, err)
	require.False(t, existed)
	require.NoError(t, s.Put("e", []byte("9")))
	st := s.Stats()
	require.Equal(t, []int64{0, 1}, []int64{st.Deletes, st.Writes.DeleteMisses})
	require.Equal(t, 4, s.Len())
	require.EqualValues(t, record.Size(1, 1)+8, st.ExpiredBytes)
	mustCompact(t, s)
	require.Equal(t, map[string][]byte{"a": []byte("2"), "c": []byte("6"), "e": []byte("9")}, presentIn(s))
	require.Equal(t, 3, s.Len())
}

// Goal: copies keep their deadlines, and what has expired is not copied. Method: three times to live, compactions in
// between.
func TestExpiry_CompactionsKeepDeadlines(t *testing.T) {
	const n, size = 900, 200
	for _, kind := range compactionKinds() {
		t.Run(kind.name, func(t *testing.T) {
			clock := newTestClock()
			s := openTest(t, kind.opts, hooks{now: clock.Load})
			ttls := []time.Duration{time.Second, time.Minute, time.Hour}
			for i := range n {
				require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, size), ttls[i%3]))
			}
			fill(t, s, n, n+10, size)
			want := deadlinesOf(t, s)
			require.Len(t, want, n)
			for passed := range 4 {
				if passed > 0 {
					clock.pass(ttls[passed-1])
				}
				deleteWhere(t, s, n+passed, n+passed+1, all)
				mustCompact(t, s)
				for id, at := range want {
					if at.UnixMilli() <= clock.Load() {
						delete(want, id)
					}
				}
				require.Equal(t, want, deadlinesOf(t, s))
				requireContents(t, s, 0, n, size, func(i int) bool { return i%3 >= passed })
				require.Equal(t, n/3*(3-passed)+9-passed, s.Len())
				require.Zero(t, s.Stats().DeadBytes)
				require.Zero(t, s.Stats().ExpiredBytes)
			}
		})
	}
}

// Goal: under one time to live whole segments are given back uncopied, by an automatic compaction that
// nothing but what has expired makes due.
func TestExpiry_WholeSegmentsLeaveUncopied(t *testing.T) {
	clock := newTestClock()
	opts := quiet()
	opts.Maintenance.MinBytes = -1
	s := openTest(t, opts, hooks{now: clock.Load})
	const n = 6000
	for i := range n {
		require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, 200), time.Minute))
		if i == n/2 {
			clock.pass(30 * time.Second)
		}
	}
	clock.pass(29 * time.Second)
	report, err := s.Maintain(t.Context())
	require.NoError(t, err)
	require.Equal(t, SkipThreshold, report.Skipped)
	clock.pass(time.Second)
	st := s.Stats()
	lanes := int64(len(s.lanes)) * minSegmentSize // a segment of each has memories of both halves
	require.InDelta(t, st.LiveBytes/2, st.ExpiredBytes, float64(lanes))
	report, err = s.Maintain(t.Context())
	require.NoError(t, err)
	require.True(t, report.Compacted)
	require.Less(t, report.Compaction.BytesCopied, lanes)
	require.Less(t, s.Stats().TotalBytes, st.TotalBytes/2+lanes)
	requireContents(t, s, n/2+1, n, 200, all)
}

// Goal: with times to live of 1 s, 1 min and 1 h at a steady load a store stays within 1.6 times what has not
// expired. Method: a clock that moves with the writes; a look whenever the background would have one.
func TestExpiry_StaysSmall(t *testing.T) {
	clock := newTestClock()
	opts := quiet()
	opts.Maintenance.MinBytes = -1
	s := openTest(t, opts, hooks{now: clock.Load})
	ttls := []time.Duration{time.Second, time.Minute, time.Hour}
	n := sized(t, 40_000)
	step := 2 * time.Hour / time.Duration(n)
	size := int64(record.Size(len(idOf(0)), 200) + 8)
	worst := 0.0
	for i := range n {
		require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, 200), ttls[i%3]))
		clock.pass(step)
		if s.maintenance.written.Load() >= s.maintenance.nextLook.Load() {
			_, err := s.Maintain(t.Context())
			require.NoError(t, err)
		}
		if elapsed := time.Duration(i) * step; elapsed > time.Hour && i%500 == 0 {
			live := 0
			for _, ttl := range ttls {
				live += int(ttl/step)/3 + 1
			}
			worst = max(worst, float64(s.Stats().TotalBytes)/float64(int64(live)*size))
		}
	}
	t.Logf("at most %.2f times what has not expired", worst)
	if !raceEnabled && !lockOrderChecked() { // with few memories the segments of lanes are most of it
		require.Less(t, worst, 1.6)
	}
}

// Goal: the estimate of a segment is exact where memories with one time to live were stored together, and in between
// it grows evenly.
func TestDeadlines_Expired(t *testing.T) {
	now := newTestClock()
	c := &clock{test: now.Load}
	var d deadlines
	begin := now.Load()
	for _, ttl := range []int64{1000, 60_000, 3_600_000} {
		for i := range int64(100) {
			d.add(c, begin+ttl+i, 10)
		}
	}
	require.Zero(t, d.expired(begin+1000))
	require.InDelta(t, 500, d.expired(begin+1050), 10)
	for _, at := range []int64{1099, 59_999} {
		require.EqualValues(t, 1000, d.expired(begin+at))
	}
	require.EqualValues(t, 2000, d.expired(begin+60_099))
	for i := range int64(50) {
		d.remove(begin+60_000+i, 10)
	}
	require.EqualValues(t, 1500, d.expired(begin+60_099))
	require.EqualValues(t, 2500, d.expired(math.MaxInt64))
	var again deadlines
	again.decode(d.encode())
	for _, at := range []int64{0, 1050, 1099, 60_050, 60_099, math.MaxInt64 / 2} {
		require.Equal(t, d.expired(begin+at), again.expired(begin+at))
	}
	require.Same(t, &d.buckets[11], d.bucketOf(math.MaxInt64))
	require.Same(t, &d.buckets[0], d.bucketOf(0))
	require.Less(t, bits.Len64(256<<20), 32)
}

// Goal: the clock does not go back, begins where the manifest says, and counts what the machine was suspended; a
// deadline beyond what there can be is the last there is.
func TestClock(t *testing.T) {
	var c clock
	c.init(nil)
	wall := time.Now().UnixMilli()
	require.InDelta(t, wall, c.now(), 60_000)
	before := c.now()
	require.GreaterOrEqual(t, c.after(time.Nanosecond), before+1)
	c.notBefore(wall + 1e9)
	require.GreaterOrEqual(t, c.now(), wall+1e9)
	c.notBefore(0)
	require.GreaterOrEqual(t, c.now(), wall+1e9)
	c.apart.Store(0) // as after the wall clock was set
	before = c.now()
	require.InDelta(t, wall+1e9, before, 60_000)
	if c.boot != 0 {
		c.boot -= time.Hour // as if it had slept for an hour
		require.InDelta(t, before, c.now(), 60_000)
		c.apart.Store(0)
		require.GreaterOrEqual(t, c.now(), before+time.Hour.Milliseconds())
		c.boot += time.Hour // what is known does not go away
		c.apart.Store(0)
		require.GreaterOrEqual(t, c.now(), before+time.Hour.Milliseconds())
	}
	c.notBefore(math.MaxInt64 - 10)
	c.test = func() int64 { return math.MaxInt64 - 10 }
	require.Equal(t, int64(math.MaxInt64-1), c.after(9*time.Millisecond))
	require.Equal(t, int64(math.MaxInt64), c.after(time.Hour))
}
