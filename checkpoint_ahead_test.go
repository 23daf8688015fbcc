//go:build unix

package warmtier

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// hasAhead reports whether a segment was made ahead for ln.
func hasAhead(ln *lane) bool {
	ln.rolling.Lock()
	defer ln.rolling.Unlock()
	return ln.next != nil
}

// requireNoneAhead checks that nothing that was made ahead is left: every segment file is one of the table.
func requireNoneAhead(t *testing.T, s *Store, dir string) {
	t.Helper()
	for i := range s.lanes {
		require.False(t, hasAhead(&s.lanes[i]))
	}
	var names []string
	for _, seg := range s.segments.all() {
		names = append(names, seg.name())
	}
	require.ElementsMatch(t, names, segmentFiles(t, dir))
}

// requireCopy opens the checkpoint at path and checks what it holds.
func requireCopy(t *testing.T, path string, want map[string][]byte) {
	t.Helper()
	s := openDir(t, path, quietly())
	requireSame(t, s, want)
	require.NoError(t, s.Close())
}

// Goal: after the moment of a checkpoint no write waits for a segment to be made. Method: writes to every lane, right
// after it.
func TestCheckpoint_Ahead(t *testing.T) {
	var at latePoints
	s, dir, to, want := checkpointed(t, hooks{at: at.hook})
	ids := idsOfLanes(s)
	for _, id := range ids {
		require.NoError(t, s.Put(id, []byte("before")))
		want[id] = []byte("before")
	}
	var created atomic.Int64
	now := maps.Clone(want)
	at.set(func(p point) error {
		switch p {
		case pointSegmentCreated:
			created.Add(1)
		case pointCheckpointSealed:
			made := created.Load()
			elsewhere(func() {
				for _, id := range ids {
					if err := s.Put(id, []byte("after")); err != nil {
						t.Error(err)
					}
					now[id] = []byte("after")
				}
			})
			if created.Load() != made {
				t.Error("a write waited for a segment to be made")
			}
		}
		return nil
	})
	require.NoError(t, s.Checkpoint(t.Context(), to))
	at.set(nil)
	requireNoneAhead(t, s, dir)
	requireSame(t, s, now)
	requireCopy(t, to, want)
	require.NoError(t, s.Close())
	requireCopy(t, dir, now)
}

// Goal: a lane that nobody writes to goes on in the segment made ahead, later.
func TestCheckpoint_AheadOfIdleLanes(t *testing.T) {
	var at latePoints
	s, dir, to, want := checkpointed(t, hooks{at: at.hook})
	require.NoError(t, s.Checkpoint(t.Context(), to))
	requireNoneAhead(t, s, dir)
	at.set(func(p point) error {
		if p == pointSegmentCreated {
			t.Error("a write waited for a segment to be made")
		}
		return nil
	})
	for _, id := range idsOfLanes(s) {
		require.NoError(t, s.Put(id, nil))
	}
	at.set(nil)
	require.NoError(t, s.Close())
	requireCopy(t, to, want)
}

// Goal: what is written between the making of the segments and the moment is in the copy. What would break: the
// manifest of the moment begins its next ids with theirs, though one of them has a record, or another segment has an id
// after them.
func TestCheckpoint_WrittenAhead(t *testing.T) {
	for name, write := range map[string]func(s *Store, n int) (id string, content []byte, more bool){
		"in a segment made ahead": func(s *Store, n int) (id string, content []byte, more bool) {
			sh, _ := s.place("fills its lane")
			for i := n; ; i++ {
				id = "in one lane " + strconv.Itoa(i)
				if other, _ := s.place(id); other.lane == sh.lane {
					return id, contentOf(i, 1, 500), hasAhead(sh.lane)
				}
			}
		},
		"in a segment of its own": func(*Store, int) (id string, content []byte, more bool) {
			return "large ahead", make([]byte, 100_000), false
		},
	} {
		t.Run(name, func(t *testing.T) {
			var at latePoints
			s, dir, to, want := checkpointed(t, hooks{at: at.hook})
			for _, id := range append(idsOfLanes(s), "fills its lane") {
				require.NoError(t, s.Put(id, nil))
				want[id] = []byte{}
			}
			at.set(func(p point) error {
				if p == pointCheckpointAhead {
					elsewhere(func() {
						for n, more := 0, true; more; n += 100 {
							var id string
							var content []byte
							id, content, more = write(s, n)
							if err := s.Put(id, content); err != nil {
								t.Error(err)
								return
							}
							want[id] = content
						}
					})
				}
				return nil
			})
			require.NoError(t, s.Checkpoint(t.Context(), to))
			at.set(nil)
			requireNoneAhead(t, s, dir)
			requireSame(t, s, want)
			requireCopy(t, to, want)
			require.NoError(t, s.Close())
		})
	}
}

// Goal: a file that a lane has begun after the moment is newer than the copy, though it was made before: mixed in, it
// is refused.
func TestCheckpoint_AheadIsNewer(t *testing.T) {
	s, dir, to, _ := checkpointed(t, hooks{})
	for _, id := range idsOfLanes(s) {
		require.NoError(t, s.Put(id, nil))
	}
	require.NoError(t, s.Checkpoint(t.Context(), to))
	for _, id := range idsOfLanes(s) {
		require.NoError(t, s.Put(id, []byte("after")))
	}
	require.NoError(t, s.Close())
	mixed := 0
	for _, name := range segmentFiles(t, dir) {
		if slices.Contains(segmentFiles(t, to), name) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, name), b, 0o600))
		mixed++
		_, err = Open(to, quietly())
		require.ErrorContains(t, err, "it is older than the directory", name)
		require.NoError(t, os.Remove(filepath.Join(to, name)))
	}
	require.NotZero(t, mixed)
}

// Goal: a checkpoint that fails leaves no segment made ahead, and lanes go on where they were.
func TestCheckpoint_FailsAhead(t *testing.T) {
	var at latePoints
	s, dir, to, want := checkpointed(t, hooks{at: at.hook})
	before := len(segmentFiles(t, dir))
	ctx, cancel := context.WithCancel(t.Context())
	at.set(func(p point) error {
		if p == pointCheckpointSealed {
			cancel()
		}
		return nil
	})
	err := s.Checkpoint(ctx, to)
	require.ErrorIs(t, err, context.Canceled)
	at.set(nil)
	requireNoneAhead(t, s, dir)
	require.Len(t, segmentFiles(t, dir), before)
	requireSame(t, s, want)
	require.NoError(t, s.Close())
}
