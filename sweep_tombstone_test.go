//go:build unix

package warmtier

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// waitsForLock reports whether a goroutine is inside this function or method and waits for a mutex.
func waitsForLock(function string) bool {
	buf := make([]byte, 1<<20)
	for goroutine := range bytes.SplitSeq(buf[:runtime.Stack(buf, true)], []byte("\n\n")) {
		if bytes.Contains(goroutine, []byte("sync.(*Mutex).Lock(")) && bytes.Contains(goroutine, []byte(function+"(")) {
			return true
		}
	}
	return false
}

// Goal: a sweep drops no tombstone that is needed for a record in a segment which a lane resumes.
//
// The interleaving: the segment is sealed when the sweep looks at lanes, and active when it looks at
// sealed segments. Seen in neither, its dead record would have no tombstone, and a kill would bring the
// memory back.
func TestSweep_TombstoneOutlivesRecordOfLaneThatResumes(t *testing.T) {
	const gone, n = 0, 100
	dir := fastDir(t)
	s, err := open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	fill(t, s, 0, n, 200)
	s.sealLanes(0)
	deleteWhere(t, s, 0, n, func(i int) bool { return i == gone })
	for buried := s.lanes[0].active; buried.is(stateActive); {
		fill(t, s, n, n+1, 200)
	}
	for s.lanes[0].active.room(1) > 200 { // not to be resumed
		fill(t, s, n+1, n+2, 200)
	}
	closeIntact(t, s)

	paused := pauseAt(pointCompactDead)
	s, err = open(dir, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	_, err = s.sweep()
	require.NoError(t, err)
	require.Equal(t, 1, s.tombstones())
	resumed := segmentOf(t, s, idOf(1))
	s.hooks.at = paused.hook
	s.noteAllDead()
	swept, put := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.sweep()
		swept <- err
	}()
	<-paused.reached
	go func() { put <- s.Put(idOf(n+2), contentOf(n+2, 0, 200)) }()
	require.True(t, waitFor(func() bool {
		return resumed.is(stateActive) || waitsForLock("(*Store).resume")
	}))
	close(paused.proceed)
	require.NoError(t, <-swept)
	require.NoError(t, <-put)
	require.Equal(t, 1, s.tombstones(), "the tombstone is needed")
	require.Same(t, resumed, segmentOf(t, s, idOf(n+2)))

	copied := fastDir(t)
	copyDir(t, dir, copied)
	closeIntact(t, s)
	if raceEnabled {
		return // segments are on the heap
	}
	s, err = open(copied, quietly(), hooks{hash: oneLane})
	require.NoError(t, err)
	requireContents(t, s, 0, n, 200, func(i int) bool { return i != gone })
	closeIntact(t, s)
}
