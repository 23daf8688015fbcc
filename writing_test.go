//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// What would break: a system call writes a part of a record and fails; a shorter record is acknowledged in its
// place, and recovery finds bytes after the last one. Or a number was drawn for a record that is not there.
func TestWritten_EveryWriteFails(t *testing.T) {
	calls := map[string]func(s *Store) error{
		"put":     func(s *Store) error { return s.Put("new", bytes.Repeat([]byte{0xff}, 3*vm.PageSize)) },
		"over":    func(s *Store) error { return s.Put(idOf(0), bytes.Repeat([]byte{0xff}, 3*vm.PageSize)) },
		"large":   func(s *Store) error { return s.Put("new", bytes.Repeat([]byte{0xff}, 2*minSegmentSize)) },
		"compact": func(s *Store) error { _, err := s.Compact(context.Background()); return err },
	}
	for name, call := range calls {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
			t.Run(name+"/"+errno.Error(), func(t *testing.T) {
				writes := 0
				for nth, hit := 1, true; hit; nth++ {
					d := newShadow()
					s := oneLaneStore(t, d)
					fill(t, s, 0, 100, 300)
					deleteWhere(t, s, 1, 100, odd)
					n := 0
					d.Fault = func(kind shadow.Kind, _ string) error {
						if kind == shadow.CallWrite {
							if n++; n == nth {
								return errno
							}
						}
						return nil
					}
					err := call(s)
					d.Fault = nil
					hit = n >= nth
					if hit && errno == syscall.EIO { // ENOSPC is tried again once
						require.ErrorIs(t, err, errno)
					}
					if err != nil {
						require.Equal(t, 50, s.Len())
					}
					requireIntact(t, s)
					require.NoError(t, s.Put("short", []byte("x"))) // where the record would have been
					after := oneLaneStore(t, d.Kill())
					require.Equal(t, s.Len(), after.Len())
					requireIntact(t, after)
					require.NoError(t, after.Close())
					mustCompact(t, s)
					closeShadow(t, s, d)
					if hit {
						writes++
					}
				}
				require.Positive(t, writes)
			})
		}
	}
}

// Goal: a kill in the call that writes a body, or behind it, loses nothing, with the header on one page and on two.
func TestWritten_KilledInWrite(t *testing.T) {
	for _, left := range []int{8, 16, 24, record.HeaderSize, 2 * record.HeaderSize} { // of the page, for the header
		t.Run(strconv.Itoa(left), func(t *testing.T) {
			d := newShadow()
			s := oneLaneStore(t, d)
			require.NoError(t, s.Put("first", make([]byte, vm.PageSize-left-layout.HeaderSize-record.HeaderSize-len("first"))))
			require.EqualValues(t, vm.PageSize-left, s.lanes[0].active.tail.Load())
			var killed []*shadow.FS
			d.Before = func(site shadow.Site) {
				if site.Kind == shadow.CallWrite {
					killed = append(killed, d.Kill())
				}
			}
			s.hooks.at = func(p point) error {
				if p == pointPutBody {
					killed = append(killed, d.Kill())
				}
				return nil
			}
			require.NoError(t, s.Put("second", bytes.Repeat([]byte{0xff}, 3*vm.PageSize)))
			d.Before, s.hooks.at = nil, nil
			closeShadow(t, s, d)
			require.Len(t, killed, 2)
			for _, d := range killed {
				s := oneLaneStore(t, d)
				require.True(t, s.Has("first"))
				require.False(t, s.Has("second"))
				require.NoError(t, s.Put("third", []byte("x")))
				closeShadow(t, s, d)
			}
		})
	}
}

// What would break: the disk is idle while a round is built, and then all of it waits for the disk.
func TestWritten_SyncOfTargetsIsBegun(t *testing.T) {
	d := newShadow()
	o := shadowOptions()
	o.SegmentSize = 4 * syncPart
	s, err := openShadow(d, o, hooks{})
	require.NoError(t, err)
	const n, size = 600, 16 << 10
	for i := range n {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
	}
	deleteWhere(t, s, 0, n, odd)
	require.Zero(t, d.Begun.Load())
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallBeginSync {
			return syscall.EIO
		}
		return nil
	}
	_, err = s.Compact(context.Background())
	require.ErrorIs(t, err, syscall.EIO) // the next flush need not say it
	d.Fault = nil
	require.Equal(t, n/2, s.Len())
	requireIntact(t, s)
	require.Zero(t, d.Begun.Load())
	st := mustCompact(t, s)
	require.Positive(t, st.MemoriesMoved)
	// All but the ends of targets, each less than a part.
	least := st.MemoriesMoved*size - int64(st.SegmentsAfter)*syncPart
	require.GreaterOrEqual(t, d.Begun.Load(), least)
	require.Positive(t, least)
	requireIntact(t, s)
	closeShadow(t, s, d)
}

// Goal: what is written to the page cache is what readers of the mapping find, and what stores and flushes go on with.
func TestWritten_MixedWithStores(t *testing.T) {
	dir := fastDir(t)
	s := openDir(t, dir, quietly())
	for i := range 200 {
		size := 1 + i*i%(5*vm.PageSize)
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, size)))
		if i%16 == 0 {
			require.NoError(t, s.Sync())
		}
	}
	check := func() {
		for i := range 200 {
			got, err := s.Get(idOf(i))
			require.NoError(t, err)
			require.Equal(t, contentOf(i, 0, 1+i*i%(5*vm.PageSize)), got)
		}
	}
	check()
	for i := 200; i < 400; i++ {
		require.NoError(t, s.Put(idOf(i), contentOf(i, 0, 100)))
	}
	deleteWhere(t, s, 200, 400, func(int) bool { return true })
	mustCompact(t, s)
	check()
	closeIntact(t, s)
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	s = openDir(t, dir, quietly())
	check()
	closeIntact(t, s)
}

// endingFile calls a function when writes to it end.
type endingFile struct {
	dir.File
	ending func()
}

func (f endingFile) EndWrites() {
	f.ending()
	f.File.EndWrites()
}

// What would break: a segment counts as sealed before its descriptor is closed; another lane resumes it, and writes to
// the descriptor, whose number is that of a file of the host by then.
func TestSeal_EndsWritesBefore(t *testing.T) {
	ended := false
	seg := newSegment(1, make([]byte, minSegmentSize), layout.KindLane, 1)
	seg.file = endingFile{File: dir.Empty{}, ending: func() {
		ended = true
		require.False(t, seg.is(stateSealed))
	}}
	seg.seal(true)
	require.True(t, ended)
	require.True(t, seg.is(stateSealed))
}

// What would break: a Clear closes descriptors while it holds contentMu, and readers wait for system calls.
func TestClear_EndsWritesBeforeTheCut(t *testing.T) {
	d := newShadow()
	s := oneLaneStore(t, d)
	fill(t, s, 0, 10, 300)
	seg, ended := s.lanes[0].active, false
	file := seg.file
	seg.file = endingFile{File: file, ending: func() {
		if file.Writes() {
			ended = true
			require.Same(t, seg, s.lanes[0].active) // the cut takes it away
		}
	}}
	require.NoError(t, s.Clear())
	require.True(t, ended)
	fill(t, s, 0, 10, 300)
	closeShadow(t, s, d)
}
