//go:build unix

package warmtier

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// unsynced returns how many bytes a power loss could take.
func unsynced(s *Store) (n int64) {
	for _, seg := range s.segments.all() {
		n += seg.tail.Load() - seg.inFile.synced.Load()
	}
	return n
}

func TestDirectory_BackgroundSync(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		opts := quiet()
		opts.SyncInterval = 50 * time.Millisecond
		s := openDir(t, dir, opts)
		for i := range 10 {
			fill(t, s, 100*i, 100*i+100, 100) // nothing dies: a sweep would sync
			require.Positive(t, unsynced(s))
			<-time.After(2 * opts.SyncInterval)
			synctest.Wait()
			require.Zero(t, unsynced(s))
		}
		require.NoError(t, s.Close())

		opts.SyncInterval = -1
		s = openDir(t, dir, opts)
		fill(t, s, 0, 100, 100)
		<-time.After(time.Hour)
		synctest.Wait()
		require.Positive(t, unsynced(s))
		require.NoError(t, s.Sync())
		require.Zero(t, unsynced(s))
		require.NoError(t, s.Close())
	})
}

// Goal: Close waits for a Put that is making a file of its own: otherwise the next owner of the
// directory could list the file, which the Put would remove when it finds the store closed.
func TestDirectory_CloseWaitsForLargePut(t *testing.T) {
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		paused := pauseAt(pointSegmentMade)
		s, err := open(dir, quietly(), hooks{at: paused.hook})
		require.NoError(t, err)
		put, closed := make(chan error, 1), make(chan error, 1)
		go func() { put <- s.Put("large", make([]byte, 2<<20)) }()
		<-paused.reached
		go func() { closed <- s.Close() }()
		synctest.Wait()
		require.Empty(t, closed, "closed, with a file that nobody owns")
		close(paused.proceed)
		require.NoError(t, <-put)
		require.NoError(t, <-closed)
		require.ErrorIs(t, s.Put("large", make([]byte, 2<<20)), ErrClosed)
	})
	s := openDir(t, dir, quietly())
	require.True(t, s.Has("large"))
	closeIntact(t, s)
	s = openDir(t, dir, quietly())
	require.True(t, s.Has("large"))
	closeIntact(t, s)
}

// Goal: Close waits for calls that have a flush of their own to make: a flush that came when
// segments are leaving the table would list only the rest.
func TestDirectory_CloseWaitsForSyncWrites(t *testing.T) {
	for _, call := range []string{"put", "delete"} {
		t.Run(call, func(t *testing.T) {
			dir := fastDir(t)
			synctest.Test(t, func(t *testing.T) {
				var armed, sealed atomic.Bool
				paused := pauseAt(pointFlushed)
				opts := quietly()
				opts.SyncWrites = true
				s, err := open(dir, opts, hooks{at: func(p point) error {
					sealed.Store(sealed.Load() || p == pointCloseSealed)
					if armed.Load() {
						return paused.hook(p)
					}
					return nil
				}})
				require.NoError(t, err)
				require.NoError(t, s.Put("a", []byte("b")))
				armed.Store(true)
				written, closed := make(chan error, 1), make(chan error, 1)
				go func() {
					if call == "put" {
						written <- s.Put("a", []byte("c"))
						return
					}
					_, err := s.Delete("a")
					written <- err
				}()
				<-paused.reached
				go func() { closed <- s.Close() }()
				synctest.Wait()
				require.False(t, sealed.Load(), "Close went on beside a flush")
				close(paused.proceed)
				require.NoError(t, <-written)
				require.NoError(t, <-closed)
			})
		})
	}
}

// Goal: writers that come while a flush runs share the next one, and none returns before it: what
// the running flush makes durable was noted before their records. Method: the first writer is held
// in its flush until the records of all others are written, and one of the others in the flush they
// share until all wait.
func TestDirectory_WritersShareFlush(t *testing.T) {
	dir := fastDir(t)
	const writers = 8
	synctest.Test(t, func(t *testing.T) {
		opts := quietly()
		opts.SyncWrites = true
		first, second := pauseAt(pointFlushed), pauseAt(pointFlushed)
		var appended atomic.Int64
		s, err := open(dir, opts, hooks{at: func(p point) error {
			if p == pointPutAppended {
				appended.Add(1)
			}
			if first.once.Load() { // that flush has one segment, so this one is another
				return second.hook(p)
			}
			return first.hook(p)
		}})
		require.NoError(t, err)
		returned := make(chan error, writers)
		put := func(i int) { returned <- s.Put(idOf(i), contentOf(i, 0, 100)) }
		go put(0)
		<-first.reached
		for i := 1; i < writers; i++ {
			go put(i)
		}
		synctest.Wait()
		require.EqualValues(t, writers, appended.Load(), "records written while a flush runs")
		require.Empty(t, returned, "acknowledged, and not durable")
		close(first.proceed)
		synctest.Wait()
		require.Len(t, returned, 1, "acknowledged, and only the first record is durable")
		close(second.proceed)
		for range writers {
			require.NoError(t, <-returned)
		}
		require.Zero(t, unsynced(s))
		require.EqualValues(t, 2, s.disk.group.ended, "flushes, one of them of all writers but the first")
		closeIntact(t, s)
	})
}

// Goal: each of several concurrent writes is durable when it returns, whichever writers share a
// flush.
func TestDirectory_SyncWrites(t *testing.T) {
	dir := fastDir(t)
	opts := quietly()
	opts.SyncWrites = true
	s := openDir(t, dir, opts)
	const writers = 8
	each := scaled(200)
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				id := w*each + i
				if err := s.Put(idOf(id), contentOf(id, 0, 100)); err != nil {
					t.Errorf("put: %v", err)
				}
				if odd(i) {
					if existed, err := s.Delete(idOf(id)); err != nil || !existed {
						t.Errorf("delete: %v %v", existed, err)
					}
				}
			}
		})
	}
	group.Wait()
	require.Zero(t, unsynced(s))
	t.Logf("%d writes, %d flushes", writers*each*3/2, s.disk.group.ended)
	requireContents(t, s, 0, writers*each, 100, func(i int) bool { return !odd(i % each) })
	closeIntact(t, s)
	s = openDir(t, dir, opts)
	requireContents(t, s, 0, writers*each, 100, func(i int) bool { return !odd(i % each) })
	closeIntact(t, s)
}

// Goal: a manifest that a Sync writes between the commit of a round and its swap does not bring the
// victims back: their files are removed next.
func TestDirectory_SyncBetweenCommitAndSwap(t *testing.T) {
	dir := fastDir(t)
	var s *Store
	var once sync.Once
	var syncs sync.WaitGroup
	h := hooks{at: func(p point) error {
		if p != pointManifestRenamed || s == nil || !s.compacting.Load() {
			return nil
		}
		once.Do(func() {
			holding := make(chan struct{})
			syncs.Go(func() {
				defer s.contentMu.RUnlock(s.contentMu.RLock()) // the swap has to wait
				close(holding)
				elsewhere(func() { // the last step of a Sync, which has to wait for the commit
					if err := s.disk.listSegments(); err != nil {
						t.Errorf("sync: %v", err)
					}
				})
			})
			<-holding
		})
		return nil
	}}
	opened, err := open(dir, quietly(), h)
	require.NoError(t, err)
	s = opened
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, odd)
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	syncs.Wait()
	m := readManifestOf(t, dir)
	for _, id := range listedIDs(m) {
		require.FileExists(t, filepath.Join(dir, layout.SegmentFileName(id)), "listed, and removed")
	}
	copied := fastDir(t)
	copyDir(t, dir, copied)
	if !raceEnabled { // heap segments have not reached their files
		s2 := openDir(t, copied, quietly())
		requireContents(t, s2, 0, 1000, 200, func(i int) bool { return !odd(i) })
		closeIntact(t, s2)
	}
	closeIntact(t, s)
}
