//go:build unix

package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

// Goal: a checkpoint at any step of a compaction is the store of that moment: it counts victims or targets, as the
// manifest in force does, and their files are there.
func TestCheckpoint_BesideCompaction(t *testing.T) {
	for _, p := range []point{pointCompactSealed, pointCompactWalked, pointCompactBuilt, pointTargetsPublished,
		pointCompactFlip, pointCompactCommitted, pointTargetsFlushed, pointCompactDrop, pointCompactSwapped, pointUnlink} {
		t.Run(string(p), func(t *testing.T) {
			d := newShadow()
			var s *Store
			var at latePoints
			var images []*shadow.FS
			s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: at.hook})
			require.NoError(t, err)
			fill(t, s, 0, 200, 1000)
			deleteWhere(t, s, 0, 200, odd)
			want := contentsOf(t, s)
			at.set(func(q point) error {
				if q == p && len(images) < 3 {
					to := newShadow()
					images = append(images, to)
					done := make(chan error, 1)
					go func() {
						_, err := s.disk.checkpoint(context.Background(), to)
						done <- err
					}()
					return <-done
				}
				return nil
			})
			mustCompact(t, s)
			require.NotEmpty(t, images)
			requireSame(t, s, want)
			closeShadow(t, s, d)
			for _, to := range images {
				s = shadowStore(t, to.Kill(), shadowOptions())
				requireSame(t, s, want)
				closeShadow(t, s, s.disk.fs.(spaceErrors).FS.(*shadow.FS)) //nolint:forcetypeassert // openShadow
			}
		})
	}
}

// Goal: checkpoints beside writers, batches, compactions, Clears, syncs and each other are each of one moment.
// Method: a writer counts in x, then in y of another lane, then in both with a batch; in no copy is y ahead of x,
// nor x by more than one step, and those of one writer are there together or not at all.
func TestCheckpoint_BesideAll(t *testing.T) {
	root := fastDir(t)
	opts := quietly()
	opts.SegmentSize = minSegmentSize
	s := openDir(t, filepath.Join(root, "store"), opts)
	ids := idsOfLanes(s)
	var ended atomic.Bool
	var others sync.WaitGroup
	check := func(err error) {
		if err != nil && !errors.Is(err, ErrCompactionInProgress) && !errors.Is(err, errStopped) {
			t.Error(err)
		}
	}
	for w := range 3 {
		others.Go(func() {
			x, y := fmt.Sprint(w, ids[0]), fmt.Sprint(w, ids[len(ids)-1])
			var b Batch
			for n := uint64(1); !ended.Load(); n += 2 {
				check(s.Put(x, binary.LittleEndian.AppendUint64(nil, n)))
				check(s.Put(y, binary.LittleEndian.AppendUint64(nil, n)))
				b.Reset()
				for _, id := range []string{x, y} {
					b.Put(id, binary.LittleEndian.AppendUint64(nil, n+1))
				}
				check(s.Apply(&b))
			}
		})
	}
	others.Go(func() {
		for i := 0; !ended.Load(); i++ {
			switch i % 8 {
			case 7:
				check(s.Clear())
			default:
				_, err := s.Compact(context.Background())
				check(err)
			}
			check(s.Sync())
		}
	})
	var makers sync.WaitGroup
	copies := sized(t, 6)
	for m := range 2 {
		makers.Go(func() {
			for i := m; i < copies; i += 2 {
				check(s.Checkpoint(context.Background(), filepath.Join(root, strconv.Itoa(i))))
			}
		})
	}
	makers.Wait()
	ended.Store(true)
	others.Wait()
	for i := range copies {
		c := openDir(t, filepath.Join(root, strconv.Itoa(i)), opts)
		for w := range 3 {
			var n [2]uint64
			for j, id := range []string{fmt.Sprint(w, ids[0]), fmt.Sprint(w, ids[len(ids)-1])} {
				content, err := c.Get(id)
				if err == nil {
					n[j] = binary.LittleEndian.Uint64(content)
				} else {
					require.ErrorIs(t, err, ErrNotFound)
				}
			}
			if n[0] == 0 || n[1] == 0 {
				continue // a Clear
			}
			require.LessOrEqual(t, n[1], n[0], "y is ahead of the x before it")
			require.LessOrEqual(t, n[0]-n[1], uint64(1))
			if n[0]%2 == 0 {
				require.Equal(t, n[0], n[1], "half of a batch")
			}
		}
		closeIntact(t, c)
	}
	closeIntact(t, s)
}

// Goal: Close ends a checkpoint, which leaves nothing; one that waits for another ends with its context.
func TestCheckpoint_BesideClose(t *testing.T) {
	var at latePoints
	s, _, to, _ := checkpointed(t, hooks{at: at.hook})
	closed, told := make(chan error, 1), make(chan struct{})
	at.set(func(p point) error {
		switch p {
		case pointCloseTold:
			close(told)
		case pointCheckpointSealed:
			ctx, cancel := context.WithCancel(context.Background())
			second := make(chan error, 1)
			go func() { second <- s.Checkpoint(ctx, to+"2") }()
			require.True(t, stays(func() bool { return len(second) == 0 }))
			cancel()
			require.ErrorIs(t, <-second, context.Canceled)
			go func() { closed <- s.Close() }()
			<-told
		}
		return nil
	})
	require.ErrorIs(t, s.Checkpoint(context.Background(), to), ErrClosed)
	require.NoError(t, <-closed)
	require.NoDirExists(t, filepath.Dir(to))
}

// Goal: what leaves the store while a checkpoint is about to sync its header fails neither: the file is gone, and with
// it what the sync was for.
func TestCheckpoint_SegmentLeavesBeforeItsHeaderIsSynced(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, s *Store){
		"compaction": func(t *testing.T, s *Store) { mustCompact(t, s) },
		"clear": func(t *testing.T, s *Store) {
			require.NoError(t, s.Clear())
			s.clearing.Lock() // its files go in the background
			defer s.clearing.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := fastDir(t)
			s := openDir(t, filepath.Join(root, "store"), quietly())
			fill(t, s, 0, 200, 1000)
			require.NoError(t, s.Sync())
			deleteWhere(t, s, 0, 200, odd)
			require.NoError(t, s.Put("kept", []byte("kept")))
			left := 0
			s.hooks.at = doAt(pointCheckpointPinned, 1, func() {
				before := s.segments.all()
				leave(t, s)
				for _, seg := range before {
					if _, err := s.disk.fs.StatFile(seg.name()); errors.Is(err, fs.ErrNotExist) {
						left++
					}
				}
			})
			to := filepath.Join(root, "copy")
			require.NoError(t, s.Checkpoint(t.Context(), to))
			require.Positive(t, left)
			require.NoError(t, s.Put("more", nil))
			require.NoError(t, s.Sync())
			closeIntact(t, s)
			c := openDir(t, to, quietly())
			require.Equal(t, name == "compaction", c.Has("kept"))
			closeIntact(t, c)
		})
	}
}
