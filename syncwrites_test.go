//go:build unix

package warmtier

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

/*
Goal: with SyncWrites a call that writes returns when all it has stored, deleted or found survives a power
loss, and never otherwise.

Method: the shadow, which loses all that was not synced; calls beside one that is held in its flush.
*/

// syncWritesStore returns a store in d with one lane.
func syncWritesStore(t *testing.T, d *shadow.FS, at func(point) error) *Store {
	t.Helper()
	opts := shadowOptions()
	opts.SyncWrites = true
	s, err := openShadow(d, opts, hooks{hash: func(string) uint64 { return 0 }, at: at})
	require.NoError(t, err)
	return s
}

// requireKept checks what a power loss would leave of d.
func requireKept(t *testing.T, d *shadow.FS, want map[string][]byte) {
	t.Helper()
	after := d.Crash(nothingKept)
	s := shadowStore(t, after, shadowOptions())
	require.Equal(t, want, contentsOf(t, s))
	closeShadow(t, s, after)
}

// Goal: no call says that there is no memory, or what is in it, while a power loss could bring back what was
// there before; and none waits that has seen nothing new.
func TestSyncWrites_WhatWasFound(t *testing.T) {
	load := func(context.Context) ([]byte, error) { return []byte("loaded"), nil }
	getOrLoad := func(id string) func(*Store) (string, error) {
		return func(s *Store) (string, error) {
			got, err := s.GetOrLoad(context.Background(), id, load)
			return string(got), err
		}
	}
	remove := func(s *Store) (string, error) {
		existed, err := s.Delete("x")
		return strconv.FormatBool(existed), err
	}
	put := func(s *Store) (string, error) { return "", s.Put("x", []byte("new")) }
	get := func(s *Store) (string, error) {
		got, err := s.Get("x")
		return string(got), err
	}
	putIf := func(s *Store) (string, error) {
		_, err := s.PutIf("x", nil, 7)
		if errors.Is(err, ErrChanged) {
			return "changed", nil
		}
		return "", err
	}
	for name, c := range map[string]struct {
		first, call func(*Store) (string, error)
		want        string
		waits       bool
		kept        string // content of x when call has returned
	}{
		"deleted":            {remove, remove, "false", true, ""},
		"deleted and loaded": {remove, getOrLoad("x"), "loaded", true, "loaded"},
		"stored":             {put, getOrLoad("x"), "new", true, "new"},
		"changed":            {put, putIf, "changed", true, "new"},
		"gone":               {remove, putIf, "changed", true, ""},
		"another is stored":  {put, getOrLoad("y"), "old", false, "old"},
		"read":               {put, get, "new", false, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newShadow()
				var paused *pause
				s := syncWritesStore(t, d, func(p point) error {
					if paused == nil {
						return nil
					}
					return paused.hook(p)
				})
				require.NoError(t, s.Put("x", []byte("old")))
				require.NoError(t, s.Put("y", []byte("old")))
				paused = pauseAt(pointFlushActive)
				first, called := make(chan error, 1), make(chan error, 1)
				go func() { _, err := c.first(s); first <- err }()
				<-paused.reached
				var got string
				go func() {
					var err error
					got, err = c.call(s)
					called <- err
				}()
				synctest.Wait()
				require.Len(t, called, map[bool]int{false: 1}[c.waits], "calls returned beside a flush")
				want := map[string][]byte{"x": []byte(c.kept), "y": []byte("old")}
				if c.kept == "" {
					delete(want, "x")
				}
				if !c.waits {
					requireKept(t, d, want)
				}
				close(paused.proceed)
				require.NoError(t, <-called)
				require.Equal(t, c.want, got)
				if c.waits {
					requireKept(t, d, want)
				}
				require.NoError(t, <-first)
				closeShadow(t, s, d)
			})
		})
	}
}

// Goal: what was stored while a flush ran is durable with the next one, and not before.
func TestSyncWrites_FoundWhileFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShadow()
		first, second := pauseAt(pointFlushed), pauseAt(pointFlushActive)
		s := syncWritesStore(t, d, func(p point) error {
			if first.once.Load() {
				return second.hook(p)
			}
			return first.hook(p)
		})
		returned := make(chan error, 2)
		go func() { returned <- s.Put("x", nil) }()
		<-first.reached
		go func() { returned <- s.Put("late", []byte("b")) }()
		synctest.Wait()
		close(first.proceed)
		<-second.reached
		require.NoError(t, <-returned)
		found := make(chan error, 1)
		go func() {
			_, err := s.GetOrLoad(t.Context(), "late", nil)
			found <- err
		}()
		synctest.Wait()
		require.Empty(t, found, "found, and not durable")
		close(second.proceed)
		require.NoError(t, <-returned)
		require.NoError(t, <-found)
		closeShadow(t, s, d)
	})
}

// Goal: a call that finds something says so together with the error when it cannot be made durable.
func TestSyncWrites_FoundAndFailed(t *testing.T) {
	d := newShadow()
	s := syncWritesStore(t, d, nil)
	require.NoError(t, s.Put("durable", []byte("a")))
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallSync {
			return syscall.EIO
		}
		return nil
	}
	require.ErrorIs(t, s.Put("lost", []byte("b")), ErrSyncFailed)
	d.Fault = nil
	got, err := s.GetOrLoad(t.Context(), "durable", nil)
	require.NoError(t, err)
	require.Equal(t, "a", string(got))
	got, err = s.GetOrLoad(t.Context(), "lost", nil)
	require.ErrorIs(t, err, ErrSyncFailed)
	require.Equal(t, "b", string(got))
	require.ErrorIs(t, s.Close(), ErrSyncFailed)
}

// Goal: no write is acknowledged by a sync of the directory that comes after one that failed. Method: a Put into
// a new segment that has flushed it, and has to list it, while a compaction syncs the directory. The kernel
// reports a failure once.
func TestSyncWrites_DirectorySyncFailed(t *testing.T) {
	for _, renamed := range []bool{false, true} {
		d := newShadow()
		var s *Store
		var armed, inCommit atomic.Bool
		flushed := make(chan struct{})
		s = syncWritesStore(t, d, func(p point) error {
			switch {
			case p == pointTargetsFlushed && !renamed, p == pointManifestRenamed && renamed && s != nil && s.compacting.Load():
				inCommit.Store(true)
			case p == pointStateWritten && armed.Load():
				close(flushed)
			}
			return nil
		})
		fill(t, s, 0, 100, 1000)
		deleteWhere(t, s, 0, 100, odd)
		put := make(chan error, 1)
		d.Fault = func(kind shadow.Kind, _ string) error {
			if kind != shadow.CallSyncDir || !inCommit.CompareAndSwap(true, false) {
				return nil
			}
			armed.Store(true)
			go func() { put <- s.Put("late", []byte("acknowledged")) }()
			<-flushed // and waits for manifestMu, which the commit holds
			return syscall.EIO
		}
		_, err := s.Compact(t.Context())
		require.ErrorIs(t, err, ErrSyncFailed)
		require.ErrorIs(t, <-put, ErrSyncFailed, "renamed: %v", renamed)
		require.ErrorIs(t, s.Close(), ErrSyncFailed)
	}
}

// Goal: a durable write leaves the marks in headers to a later flush, which comes soon, and a power loss takes
// nothing that was acknowledged.
func TestSyncWrites_Marks(t *testing.T) {
	d := newShadow()
	s := syncWritesStore(t, d, nil)
	content := contentOf(0, 0, 100)
	want := map[string][]byte{}
	put := func() {
		id := idOf(len(want))
		want[id] = content
		require.NoError(t, s.Put(id, content))
	}
	unmarked := func() int64 {
		f := &s.lanes[0].active.inFile
		require.Equal(t, s.lanes[0].active.tail.Load(), f.synced.Load())
		return f.synced.Load() - f.marked.Load()
	}
	put()
	require.Zero(t, unmarked(), "the flush that makes a segment durable writes its mark")
	marked := 0
	for range 5 * marksEvery {
		put()
		if unmarked() == 0 {
			marked++
		}
		requireKept(t, d, want)
	}
	require.Equal(t, 5, marked, "flushes that wrote marks")
	put()
	require.Positive(t, unmarked())
	require.NoError(t, s.Sync())
	require.Zero(t, unmarked(), "after a Sync")
	put()

	full := s.lanes[0].active
	for content = contentOf(0, 0, 1000); s.lanes[0].active == full; {
		put()
	}
	require.False(t, s.disk.group.marks, "no flush for all marks was asked for")
	require.False(t, full.isDirty(), "a sealed segment is flushed once more, and says that it is sealed")
	closeShadow(t, s, d)
	requireKept(t, d, want)
}

// Goal: a durable write flushes the segment that it has written to, and no other, though others have records beyond
// their marks.
func TestSyncWrites_FlushesOneSegment(t *testing.T) {
	d := newShadow()
	opts := shadowOptions()
	opts.SyncWrites = true
	flushed := 0
	s, err := openShadow(d, opts, hooks{hash: fixedHash, at: func(p point) error {
		if p == pointFlushed {
			flushed++
		}
		return nil
	}})
	require.NoError(t, err)
	require.Greater(t, len(s.lanes), 1)
	used := map[*lane]bool{}
	for i := range 10 * marksEvery {
		flushed = 0
		tombstone := s.tombstoneOf(idOf(i))
		used[tombstone.shard.lane] = true
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 10)))
		require.Equal(t, 1, flushed, "segments flushed for Put %d", i)
	}
	require.Len(t, used, len(s.lanes))
	closeShadow(t, s, d)
}

// Goal: in the background marks follow within SyncInterval.
func TestSyncWrites_MarksOfIdleStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newShadow()
		opts := shadowOptions()
		opts.SyncWrites, opts.SyncInterval = true, time.Second
		s := shadowStore(t, d, opts)
		require.NoError(t, s.Put("a", nil))
		require.NoError(t, s.Put("a", nil))
		f := &s.segments.all()[0].inFile
		require.Less(t, f.marked.Load(), f.synced.Load())
		<-time.After(opts.SyncInterval)
		synctest.Wait()
		require.Equal(t, f.synced.Load(), f.marked.Load())
		closeShadow(t, s, d)
	})
}

// Goal: without SyncWrites and without a Sync, a Put in a directory that was removed fails when its lane needs
// the next segment at the latest, also one that it would resume.
func TestDirectory_RemovedAndRolled(t *testing.T) {
	for _, partial := range []bool{false, true} {
		d := newShadow()
		s := oneLaneStore(t, d)
		require.NoError(t, s.Put("a", contentOf(0, 0, 1000)))
		if partial {
			require.NoError(t, s.Close())
			s = oneLaneStore(t, d)
		}
		d.RemoveAll()
		acknowledged := 0
		var err error
		for ; err == nil && acknowledged <= minSegmentSize/1000; acknowledged++ {
			err = s.Put("b", contentOf(0, 0, 1000))
		}
		require.ErrorIs(t, err, fs.ErrNotExist)
		if partial {
			require.Equal(t, 1, acknowledged, "calls")
		}
		require.ErrorIs(t, s.Close(), ErrSyncFailed)
	}
}
