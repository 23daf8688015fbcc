//go:build unix

package warmtier

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// Goal: deadlines survive Close, with the hint and without, and a kill; what has expired by then is
// absent, and its bytes are known as expired.
func TestExpiry_Reopening(t *testing.T) {
	const n, size = 600, 200
	clock := newTestClock()
	dir := fastDir(t)
	h := hooks{now: clock.Load}
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	for i := range n {
		ttl := time.Hour
		if odd(i) {
			ttl = time.Minute
		}
		require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, size), ttl))
	}
	for i := 0; i < n; i += 3 { // these never expire
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
	}
	there := func(i int) bool { return i%3 == 0 || !odd(i) }
	want := deadlinesOf(t, s)
	require.Len(t, want, n/3*2)
	killed, noHint := fastDir(t), fastDir(t)
	require.NoError(t, s.Sync())
	copyDir(t, dir, killed)
	closeIntact(t, s)
	copyDir(t, dir, noHint)
	require.NoError(t, os.Remove(filepath.Join(noHint, layout.HintName)))
	begin := clock.Load()
	for _, d := range []string{dir, killed, noHint} {
		clock.Store(begin)
		s, err := open(d, quietly(), h)
		require.NoError(t, err)
		require.Equal(t, d == dir, s.Stats().Recovery.Clean)
		require.Equal(t, want, deadlinesOf(t, s))
		require.Zero(t, s.Stats().ExpiredBytes)
		clock.pass(time.Minute)
		requireContents(t, s, 0, n, size, there)
		require.Equal(t, n/3*bytesOf(1, size)+int64(n/3*8), s.Stats().ExpiredBytes)
		closeIntact(t, s)
		s, err = open(d, quietly(), h)
		require.NoError(t, err)
		require.Equal(t, n/3*bytesOf(1, size)+int64(n/3*8), s.Stats().ExpiredBytes)
		mustCompact(t, s)
		requireContents(t, s, 0, n, size, there)
		require.Equal(t, n-n/3, s.Len())
		closeIntact(t, s)
	}
}

// Goal: the clock does not begin before that of the last manifest, whatever the wall clock says.
func TestExpiry_ClockOfTheManifest(t *testing.T) {
	dir := fastDir(t)
	ahead := time.Now().Add(24 * time.Hour).UnixMilli()
	s, err := open(dir, quietly(), hooks{now: func() int64 { return ahead }})
	require.NoError(t, err)
	require.NoError(t, s.PutTTL("a", nil, time.Hour))
	require.NoError(t, s.Close())
	require.Equal(t, ahead, readManifestOf(t, dir).Clock)
	s = openDir(t, dir, quietly())
	require.True(t, s.Has("a"))
	require.GreaterOrEqual(t, s.clock.now(), ahead)
	require.NoError(t, s.PutTTL("b", nil, time.Hour))
	at, err := s.Expiry("b")
	require.NoError(t, err)
	require.GreaterOrEqual(t, at.UnixMilli(), ahead+time.Hour.Milliseconds())
	closeIntact(t, s)
	require.GreaterOrEqual(t, readManifestOf(t, dir).Clock, ahead)
}

// Goal: no older version comes back after a memory has expired: it is replaced, expires, is deleted or dropped, and the
// store is killed. Method: each id has an older version without a deadline, in a segment that stays.
func TestExpiry_NothingOlderComesBack(t *testing.T) {
	const n, size = 200, 200
	clock := newTestClock()
	dir := fastDir(t)
	h := hooks{now: clock.Load, hash: oneLane}
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	fill(t, s, 0, n+1, size) // the last one stays
	s.sealLanes(0)
	last := func(i int) bool { return i == n }
	older := segmentOf(t, s, idOf(0))
	for i := range n {
		require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 1, size), time.Minute))
	}
	clock.pass(time.Hour)
	check := func() {
		t.Helper()
		requireContents(t, s, 0, n+1, size, last)
		require.NoError(t, s.Sync())
		copied := fastDir(t)
		copyDir(t, dir, copied)
		killed, err := open(copied, quietly(), h)
		require.NoError(t, err)
		requireContents(t, killed, 0, n+1, size, last)
		closeIntact(t, killed)
	}
	check()
	for i := range n / 2 {
		existed, err := s.Delete(idOf(i))
		require.NoError(t, err)
		require.False(t, existed)
	}
	check()
	older.damaged.Store(true) // so that it stays
	mustCompact(t, s)
	require.True(t, older.is(stateSealed))
	require.Equal(t, 1, s.Len())
	check()
	older.damaged.Store(false)
	mustCompact(t, s)
	mustCompact(t, s)
	check()
	require.Equal(t, bytesOf(1, size), s.Stats().TotalBytes)
	closeIntact(t, s)
}

// Goal: a repair keeps deadlines, and what has expired hides what is older.
func TestExpiry_Repair(t *testing.T) {
	const n, size = 200, 200
	clock := newTestClock()
	dir := fastDir(t)
	h := hooks{now: clock.Load, hash: oneLane}
	s, err := open(dir, quietly(), h)
	require.NoError(t, err)
	fill(t, s, 0, n, size)
	s.sealLanes(0)
	for i := range n {
		ttl := time.Minute
		if odd(i) {
			ttl = time.Hour
		}
		require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, size), ttl))
	}
	name := segmentOf(t, s, idOf(1)).name()
	want := deadlinesOf(t, s)
	closeIntact(t, s)
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	b[layout.HeaderSize+100] ^= 1 // the content of memory 0
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	clock.pass(time.Minute)
	opts := quietly()
	opts.Repair = true
	h.sameFiles = true
	s, err = open(dir, opts, h)
	require.NoError(t, err)
	for id, at := range want {
		if at.UnixMilli() <= clock.Load() {
			delete(want, id)
		}
	}
	require.Equal(t, want, deadlinesOf(t, s))
	requireContents(t, s, 0, n, size, odd)
	closeIntact(t, s)
	s, err = open(dir, quietly(), h)
	require.NoError(t, err)
	require.Equal(t, want, deadlinesOf(t, s))
	closeIntact(t, s)
}
