//go:build unix

package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

// Goal: PutIf stores exactly when the id has the version asked for, says which one is there, and changes nothing
// otherwise; in shared segments and in one of the record's own.
func TestPutIf(t *testing.T) {
	for name, c := range map[string]struct {
		directory bool
		size      int
	}{
		"memory": {false, 100}, "memory, large": {false, 200_000},
		"directory": {true, 100}, "directory, large": {true, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			if c.directory {
				dir = t.TempDir()
			}
			s, err := Open(dir, quiet())
			require.NoError(t, err)
			defer func() { closeIntact(t, s) }()
			content := func(n int) []byte { return contentOf(1, n, c.size) }
			refused := func(v, there Version) {
				t.Helper()
				before := s.Stats().LiveBytes
				got, err := s.PutIf("a", content(99), v)
				require.ErrorIs(t, err, ErrChanged)
				require.Equal(t, there, got)
				require.Equal(t, before, s.Stats().LiveBytes)
				require.Equal(t, there != 0, s.Has("a"))
			}

			got, absent, err := s.GetVersion("a")
			require.ErrorIs(t, err, ErrNotFound)
			require.Nil(t, got)
			require.Zero(t, absent)
			refused(1, 0)
			first, err := s.PutIf("a", content(1), absent)
			require.NoError(t, err)
			require.NotZero(t, first)
			refused(0, first)
			second, err := s.PutIf("a", content(2), first)
			require.NoError(t, err)
			require.Greater(t, second, first)
			refused(first, second)
			got, v, err := s.GetVersion("a")
			require.NoError(t, err)
			require.Equal(t, second, v)
			require.Equal(t, content(2), got)

			require.NoError(t, s.Put("a", content(1)))
			_, third, err := s.GetVersion("a")
			require.NoError(t, err)
			require.Greater(t, third, second, "the same content again is another version")
			refused(first, third)
			existed, err := s.Delete("a")
			require.NoError(t, err)
			require.True(t, existed)
			refused(third, 0)
			again, err := s.PutIf("a", nil, 0)
			require.NoError(t, err)
			require.Greater(t, again, third)
			got, v, err = s.GetVersion("a")
			require.NoError(t, err)
			require.Equal(t, again, v)
			require.Equal(t, []byte{}, got)
			st := s.Stats()
			require.EqualValues(t, 5, st.Writes.PutsChanged)
			require.Zero(t, st.Writes.PutErrors)
			require.EqualValues(t, 4, st.Puts)
		})
	}
}

// Goal: what is wrong with a call is told as Put does, with version 0.
func TestPutIf_Errors(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	v, err := s.PutIf("", nil, 0)
	require.ErrorIs(t, err, ErrInvalidID)
	require.Zero(t, v)
	_, _, err = s.GetVersion("")
	require.ErrorIs(t, err, ErrInvalidID)
	require.ErrorIs(t, s.Update("", nil), ErrInvalidID)
	_, err = s.PutIf("a", nil, 7)
	require.EqualError(t, err, "warmtier: version changed: it is 0, want 7")
	require.NoError(t, s.Close())
	v, err = s.PutIf("a", nil, 0)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, v)
	_, _, err = s.GetVersion("a")
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, s.Update("a", func([]byte, bool) ([]byte, error) { return nil, nil }), ErrClosed)
	opts := quiet()
	opts.ReadOnly = true
	s = openTest(t, opts, hooks{})
	_, err = s.PutIf("a", nil, 0)
	require.ErrorIs(t, err, ErrReadOnly)
	require.ErrorIs(t, s.Update("a", nil), ErrReadOnly, "fn is not called for nothing")
}

// Goal: a PutIf that is refused for its version needs no room: in a full store its error is ErrChanged, with the
// version, and in one that evicts nothing goes for it. Contents share a segment or have one of their own.
func TestPutIf_RefusedWhereNoRoomIs(t *testing.T) {
	refused := func(s *Store, id string) {
		want := Version(0)
		if id != "nobody" {
			_, v, err := s.GetVersion(id)
			require.NoError(t, err)
			want = v
		}
		for _, size := range []int{0, 1000, s.largeSize() - 100, s.largeSize() + 1, 1 << 20} {
			v, err := s.PutIf(id, make([]byte, size), want+1)
			require.ErrorIs(t, err, ErrChanged, "%s, %d bytes", id, size)
			require.Equal(t, want, v)
		}
	}
	s, _ := fullStore(t, *quiet(), hooks{})
	_, err := s.PutIf("nobody", make([]byte, 1<<20), 0)
	require.ErrorIs(t, err, ErrNoSpace)
	refused(s, idOf(1)) // every third is gone, from 0 on
	refused(s, "nobody")

	s = openEvicting(t, false, byHand(), hooks{})
	last := ""
	for i := 0; s.Stats().Drops.Evicted == 0; i++ {
		last = idOf(i)
		require.NoError(t, s.Put(last, make([]byte, 1000)))
	}
	for range 20 { // in lanes with room and without
		require.NoError(t, s.Put(last, make([]byte, 1000)))
		before := s.Stats().Drops.Evicted
		refused(s, last)
		refused(s, "nobody")
		require.Equal(t, before, s.Stats().Drops.Evicted)
	}
}

// Goal: looking and storing are one step. The interleaving: another Put comes after the call has begun and
// before it has the lane's lock.
func TestPutIf_BesidePut(t *testing.T) {
	for _, size := range []int{100, 200_000} {
		var s *Store
		beside := false
		s = openTest(t, quiet(), hooks{at: func(p point) error {
			if beside && p == pointPutFound {
				beside = false
				return s.Put("a", []byte("other"))
			}
			return nil
		}})
		v, err := s.PutIf("a", []byte("first"), 0)
		require.NoError(t, err)
		beside = true
		there, err := s.PutIf("a", contentOf(1, 1, size), v)
		require.ErrorIs(t, err, ErrChanged)
		got, now, err := s.GetVersion("a")
		require.NoError(t, err)
		require.Equal(t, "other", string(got))
		require.Equal(t, now, there)
	}
}

// Goal: a version belongs to what was stored, wherever it lies: compactions, Close and Open keep it.
func TestVersion_IsKept(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, quiet())
	require.NoError(t, err)
	fill(t, s, 0, 1000, 200)
	deleteWhere(t, s, 0, 1000, odd)
	versions := func() (list []Version) {
		for i := 0; i < 1000; i += 2 {
			_, v, err := s.GetVersion(idOf(i))
			require.NoError(t, err)
			list = append(list, v)
		}
		return list
	}
	want := versions()
	st, err := s.Compact(context.Background())
	require.NoError(t, err)
	require.Positive(t, st.MemoriesMoved)
	require.Equal(t, want, versions())
	require.NoError(t, s.Close())
	s, err = Open(dir, quiet())
	require.NoError(t, err)
	require.Equal(t, want, versions())
	closeIntact(t, s)
}

// Goal: no version is used twice, though the record that had the highest one is gone: a compaction has dropped
// it, or the power loss that came before it was durable.
func TestVersion_NeverAgain(t *testing.T) {
	for name, end := range map[string]func(*shadow.FS) *shadow.FS{
		"killed":                   (*shadow.FS).Kill,
		"power, nothing kept":      func(d *shadow.FS) *shadow.FS { return d.Crash(nothingKept) },
		"power, everything kept":   func(d *shadow.FS) *shadow.FS { return d.Crash(allKept) },
		"closed":                   nil,
		"killed, and repaired":     (*shadow.FS).Kill,
		"power, and only read":     func(d *shadow.FS) *shadow.FS { return d.Crash(nothingKept) },
		"power, and lost twice":    func(d *shadow.FS) *shadow.FS { return d.Crash(nothingKept) },
		"closed, and then a crash": nil,
	} {
		t.Run(name, func(t *testing.T) {
			d := newShadow()
			s := shadowStore(t, d, shadowOptions())
			require.NoError(t, s.Put("kept", nil))
			require.NoError(t, s.Put("deleted", nil))
			existed, err := s.Delete("deleted")
			require.NoError(t, err)
			require.True(t, existed)
			for range 2 {
				_, err = s.Compact(context.Background())
				require.NoError(t, err)
			}
			var highest Version
			store := func() {
				v, err := s.PutIf("a", nil, 0)
				require.NoError(t, err)
				require.Greater(t, v, highest)
				highest = v
				_, err = s.Delete("a")
				require.NoError(t, err)
				highest++ // the tombstone's
			}
			store()
			if end == nil {
				closeShadow(t, s, d)
			} else {
				d = end(d)
			}
			opts := shadowOptions()
			opts.Repair = name == "killed, and repaired"
			switch name {
			case "power, and only read":
				reading := shadowOptions()
				reading.ReadOnly = true
				closeShadow(t, shadowStore(t, d, reading), d)
			case "power, and lost twice", "closed, and then a crash":
				s = shadowStore(t, d, opts)
				store()
				d = d.Crash(nothingKept)
			}
			s = shadowStore(t, d, opts)
			store()
			closeShadow(t, s, d)
		})
	}
}

// Goal: a load does not replace what a PutIf has stored, and one that was refused does not spoil a load.
func TestPutIf_DuringLoad(t *testing.T) {
	for _, v := range []Version{0, 7} {
		s := openTest(t, quiet(), hooks{})
		content, err := s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
			_, err := s.PutIf("a", []byte("put"), v)
			require.Equal(t, v != 0, errors.Is(err, ErrChanged))
			return []byte("loaded"), nil
		})
		require.NoError(t, err)
		want := map[Version]string{0: "put", 7: "loaded"}[v]
		require.Equal(t, want, string(content))
		got, err := s.Get("a")
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
}

// Goal: no increment is lost among goroutines that update one id, with compactions running.
func TestUpdate_Increments(t *testing.T) {
	const goroutines = 8
	each := budget(t, 2000, 125_000)
	for name, directory := range map[string]bool{"memory": false, "directory": true} {
		t.Run(name, func(t *testing.T) {
			dir := ""
			if directory {
				dir = fastDir(t)
			}
			opts := quiet()
			opts.SyncInterval = -1
			s, err := Open(dir, opts)
			require.NoError(t, err)
			defer func() { closeIntact(t, s) }()
			var increments, compactions sync.WaitGroup
			done := make(chan struct{})
			for range goroutines {
				increments.Go(func() {
					for range each {
						if err := s.Update("n", increment); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			compactions.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						if _, err := s.Compact(context.Background()); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
			increments.Wait()
			close(done)
			compactions.Wait()
			got, err := s.Get("n")
			require.NoError(t, err)
			require.EqualValues(t, goroutines*each, binary.LittleEndian.Uint64(got))
			require.EqualValues(t, goroutines*each, s.Stats().Puts)
		})
	}
}

func increment(content []byte, exists bool) ([]byte, error) {
	if !exists {
		content = make([]byte, 8)
	}
	binary.LittleEndian.PutUint64(content, binary.LittleEndian.Uint64(content)+1)
	return content, nil
}

// Goal: fn gets what is there, runs again when that changed, and stops the call with its error or panic, which
// change nothing.
func TestUpdate(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	boom := errors.New("boom")
	require.Same(t, boom, s.Update("a", func(content []byte, exists bool) ([]byte, error) {
		require.Nil(t, content)
		require.False(t, exists)
		return []byte("x"), boom
	}))
	require.PanicsWithValue(t, "boom", func() {
		_ = s.Update("a", func([]byte, bool) ([]byte, error) { panic("boom") })
	})
	require.Zero(t, s.Len())
	require.NoError(t, s.Update("a", func([]byte, bool) ([]byte, error) { return nil, nil }))

	changes := []func(){
		func() { require.NoError(t, s.Put("a", []byte("other"))) },
		func() {
			_, err := s.Delete("a")
			require.NoError(t, err)
		},
		func() {},
	}
	var seen []string
	require.NoError(t, s.Update("a", func(content []byte, exists bool) ([]byte, error) {
		if exists {
			require.NotNil(t, content)
			seen = append(seen, "is "+string(content))
		} else {
			require.Nil(t, content)
			seen = append(seen, "absent")
		}
		changes[len(seen)-1]()
		return []byte("updated"), nil
	}))
	require.Equal(t, []string{"is ", "is other", "absent"}, seen)
	got, err := s.Get("a")
	require.NoError(t, err)
	require.Equal(t, "updated", string(got))
}
