//go:build unix

package warmtier

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: a lack of descriptors or rights for a moment is an error of the call that met it, and not the end
of writing: the next call makes durable what that one was to.

Method: the shadow with no descriptors, and with each call in turn that fails for such a reason; and
processes with a limit.
*/

// lackingCalls are what a store is asked to do while something lacks.
var lackingCalls = map[string]func(*Store) error{
	"sync":    (*Store).Sync,
	"put":     func(s *Store) error { return s.Put("one more", make([]byte, 100)) },
	"large":   func(s *Store) error { return s.Put("large", make([]byte, 2*minSegmentSize)) },
	"delete":  func(s *Store) error { _, err := s.Delete(idOf(199)); return err },
	"compact": func(s *Store) error { _, err := s.Compact(context.Background()); return err },
	"ttl":     func(s *Store) error { return s.PutTTL("one more", make([]byte, 100), time.Hour) },
	"put if":  func(s *Store) error { _, err := s.PutIf("one more", make([]byte, 100), 0); return err },
	"drop": func(s *Store) error {
		s.hooks.fate = func(id string) fate {
			if odd(numberOf(id) / 2) {
				return fateEvicted
			}
			return fateCopied
		}
		before := s.Len()
		_, err := s.Compact(context.Background())
		s.hooks.fate = nil
		if err != nil && s.Len() != before {
			return fmt.Errorf("%d of %d memories left by a compaction that returned %v", s.Len(), before, err)
		}
		return err
	},
	"clear": func(s *Store) error {
		before := s.Len()
		err := s.Clear()
		passThrough(&s.clearing)
		if left := s.Len(); err == nil && left > 0 || err != nil && left < before {
			return fmt.Errorf("%d of %d memories left by a Clear that returned %v", left, before, err)
		}
		return err
	},
}

// unsyncedStore returns a store in d of which half was deleted, and most is not durable.
func unsyncedStore(t *testing.T, d *shadow.FS, syncWrites bool, h hooks) *Store {
	t.Helper()
	h.hash = fixedHash
	opts := shadowOptions()
	s, err := openShadow(d, opts, h)
	require.NoError(t, err)
	fill(t, s, 0, 200, 1000)
	require.NoError(t, s.Sync())
	fill(t, s, 200, 400, 1000)
	deleteWhere(t, s, 0, 400, func(i int) bool { return !odd(i) })
	s.opts.SyncWrites = syncWrites
	return s
}

// requireWritable checks that s works as if nothing had been, and that a power loss leaves all of it.
func requireWritable(t *testing.T, s *Store, d *shadow.FS) {
	t.Helper()
	require.NoError(t, s.failedSync())
	require.NoError(t, s.Put("afterwards", []byte("x")))
	require.NoError(t, s.Sync())
	mustCompact(t, s)
	want := contentsOf(t, s)
	require.Contains(t, want, "afterwards")
	after := d.Crash(nothingKept)
	closeShadow(t, s, d)
	s = shadowStore(t, after, shadowOptions())
	require.Equal(t, want, contentsOf(t, s))
	closeShadow(t, s, after)
}

func TestLack_NoDescriptors(t *testing.T) {
	for name, call := range lackingCalls {
		t.Run(name, func(t *testing.T) {
			d := newShadow()
			s := unsyncedStore(t, d, true, hooks{})
			d.NoDescriptors.Store(true)
			err := call(s)
			require.ErrorIs(t, err, syscall.EMFILE)
			require.NotErrorIs(t, err, ErrSyncFailed)
			d.NoDescriptors.Store(false)
			requireWritable(t, s, d)
		})
	}
}

// Goal: whichever of its steps lacks something, a call loses nothing, and the next one succeeds. By
// default every other step is tried.
func TestLack_AnyStep(t *testing.T) {
	t.Parallel()
	for name, call := range lackingCalls {
		for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.EACCES} {
			t.Run(fmt.Sprintf("%s/%v", name, errno), func(t *testing.T) {
				for nth, met := 1, true; met; nth += stride(t, 2, 1) {
					met = lackAt(t, call, nth, errno)
				}
			})
		}
	}
}

// lackAt has the nth step of a call fail, and reports whether there is one.
func lackAt(t *testing.T, call func(*Store) error, nth int, errno syscall.Errno) (met bool) {
	d, left := newShadow(), 0
	s := unsyncedStore(t, d, true, hooks{})
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind == shadow.CallSync || kind == shadow.CallSyncDir || kind == shadow.CallClose {
			return nil // no descriptor is needed: what fails there is lost
		}
		if left++; left != nth {
			return nil
		}
		met = true
		return errno
	}
	err := call(s)
	d.Fault = nil
	if err != nil {
		require.ErrorIs(t, err, errno, "step %d", nth)
		require.NotErrorIs(t, err, ErrSyncFailed, "step %d", nth)
	}
	requireWritable(t, s, d)
	return met
}

// Goal: the error of a sync that could not be begun says so, and that of a sync that failed does not.
func TestLack_Directory(t *testing.T) {
	d, err := dir.At(t.TempDir())
	require.NoError(t, err)
	require.ErrorIs(t, d.SyncFile("x"), dir.ErrUnsynced)
	require.NotErrorIs(t, d.Remove("x"), dir.ErrUnsynced)
	require.NoError(t, d.Close())
}

// childLack runs in a process of its own.
func childLack(t *testing.T, path, name string) {
	s := openDir(t, path, quietly())
	fill(t, s, 0, 400, 1000)
	deleteWhere(t, s, 0, 400, func(i int) bool { return !odd(i) })
	s.opts.SyncWrites = true
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	limit := before
	limit.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	err := lackingCalls[name](s)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before))
	require.ErrorIs(t, err, syscall.EMFILE)
	require.NotErrorIs(t, err, ErrSyncFailed)
	require.NoError(t, s.Put("afterwards", []byte("x")))
	mustCompact(t, s)
	want := contentsOf(t, s)
	closeIntact(t, s)
	s = openDir(t, path, quietly())
	require.Equal(t, want, contentsOf(t, s))
	closeIntact(t, s)
}

func TestLack_Process(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("limits are set the way Linux has them")
	}
	for name := range lackingCalls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := runDirectoryChild(t, "lack: "+name, fastDir(t), false)
			require.NoError(t, err, out)
		})
	}
}

// Goal: what cannot be read while a directory is opened is an error, and no damage: nothing is repaired or begun anew
// for it, and the next Open finds what was there.
func TestLack_WhileOpening(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]func(t *testing.T, d *shadow.FS) *shadow.FS{
		"closed": func(t *testing.T, d *shadow.FS) *shadow.FS {
			s := unsyncedStore(t, d, true, hooks{})
			closeShadow(t, s, d)
			return d
		},
		"killed": func(t *testing.T, d *shadow.FS) *shadow.FS {
			s := unsyncedStore(t, d, true, hooks{})
			killed := d.Kill()
			closeShadow(t, s, d)
			return killed
		},
		"no manifest": func(t *testing.T, d *shadow.FS) *shadow.FS {
			s := unsyncedStore(t, d, true, hooks{})
			closeShadow(t, s, d)
			require.NoError(t, d.Remove(layout.ManifestName))
			return d
		},
	} {
		for _, repair := range []bool{false, true} {
			if name == "no manifest" && !repair {
				continue // no store opens
			}
			t.Run(fmt.Sprintf("%s/repair=%t", name, repair), func(t *testing.T) {
				was := state(t, newShadow())
				opts := shadowOptions()
				opts.Repair = repair
				d := was.Kill()
				s := shadowStore(t, d, opts)
				want := contentsOf(t, s)
				require.NotEmpty(t, want)
				closeShadow(t, s, d)
				for nth, met := 1, true; met; nth++ {
					met = openFailing(t, was.Kill(), opts, nth, want)
				}
			})
		}
	}
}

// openFailing opens d while its nth look at a file or at names fails, then without a fault, and reports whether there
// was such a look.
func openFailing(t *testing.T, d *shadow.FS, opts *Options, nth int, want map[string][]byte) (met bool) {
	t.Helper()
	left := 0
	d.Fault = func(kind shadow.Kind, _ string) error {
		if kind != shadow.CallNames && kind != shadow.CallOpen && kind != shadow.CallReadFile {
			return nil
		}
		if left++; left != nth {
			return nil
		}
		met = true
		return syscall.EIO
	}
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	d.Fault = nil
	if err != nil {
		require.ErrorIs(t, err, syscall.EIO, "look %d", nth)
		require.NoError(t, released(d, s))
		s = shadowStore(t, d, opts)
	}
	require.Equal(t, want, contentsOf(t, s), "look %d", nth)
	closeShadow(t, s, d)
	return met
}
