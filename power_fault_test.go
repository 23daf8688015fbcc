//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: when a call of the file system fails, the store returns an error where one belongs, nothing
that was not acknowledged has happened, reads go on, and everything that the last good Sync made
durable is there after a power loss.

Method: the n-th call of a kind fails, once or from then on, for n = 1, 2, 3 and so on until the
workload runs without a hit.
*/

// powerFault makes calls fail.
type powerFault struct {
	kind    shadow.Kind
	nth     int // from 1
	forever bool
	errno   syscall.Errno

	mu     sync.Mutex // calls of the store's own goroutines fail too
	passed int
	hits   []string // since the last operation
	total  int
}

// take returns the hits since the last operation.
func (f *powerFault) take() (hits []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hits, f.hits = f.hits, nil
	return hits
}

func (f *powerFault) fail(kind shadow.Kind, name string) error {
	if kind != f.kind {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed++
	if f.passed == f.nth || f.forever && f.passed > f.nth {
		f.hits = append(f.hits, name)
		f.total++
		return f.errno
	}
	return nil
}

// forgivable reports whether the hits lose nothing: the next Open removes the files, or they only
// save time, or a spare takes their place.
func (f *powerFault) forgivable(hits []string, what string) bool {
	for _, name := range hits {
		_, isSegment := layout.ParseSegmentFileName(name)
		switch {
		case f.kind == shadow.CallClose:
		case f.kind == shadow.CallWrite && f.errno == syscall.ENOSPC: // another segment had room
		case f.kind == shadow.CallRemove && isSegment:
		case f.kind == shadow.CallCreate && f.errno == syscall.ENOSPC && what != "open": // or a segment had room
		case f.kind == shadow.CallRename && f.errno == syscall.ENOSPC && strings.HasSuffix(name, layout.NewSuffix):
		case f.kind == shadow.CallCreate && (strings.HasPrefix(name, layout.SpareName) || name == layout.HintName):
		case f.kind == shadow.CallOpen && name == layout.HintName:
		case what == "close" && name == layout.ManifestTempName: // of its sweep; the flush before it says so
		case f.kind == shadow.CallOpen && strings.HasPrefix(name, layout.SpareName):
		default:
			return false
		}
	}
	return true
}

// powerFaultRun is one run of the script with a fault.
type powerFaultRun struct {
	l    *powerLife
	f    *powerFault
	full bool // a budget makes the disk full, and f does nothing

	failed     bool // a flush of the open store has failed
	operations int
	refusals   int
}

// judge decides whether the result of an operation is right.
func (r *powerFaultRun) judge(what string, err error) error {
	l, f := r.l, r.f
	hits := f.take()
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s; hits %q, error %w", what, fmt.Sprintf(format, args...), hits, err)
	}
	if err != nil {
		r.refusals++
	}
	noSpace := errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC)
	r.failed = what != "open" && (r.failed || l.s != nil && l.s.failedSync() != nil)
	switch {
	case err == nil && len(hits) > 0 && !f.forgivable(hits, what):
		return wrong("silent")
	case err == nil:
	case errors.Is(err, ErrCorrupt):
		return wrong("called damage")
	case r.full && !noSpace:
		return wrong("a full disk is called something else")
	case r.full && errors.Is(err, ErrSyncFailed):
		return wrong("a full disk is the end of writing")
	case r.full:
	case r.failed && !errors.Is(err, ErrSyncFailed):
		return wrong("a failed store says something else")
	case !r.failed && len(hits) == 0:
		return wrong("error without a cause")
	case len(hits) > 0 && !errors.Is(err, f.errno) && !noSpace:
		return wrong("the cause is not wrapped")
	case len(hits) > 0 && f.errno == syscall.ENOSPC && (f.kind == shadow.CallCreate || f.kind == shadow.CallWriteFile) &&
		!errors.Is(err, ErrNoSpace):
		return wrong("not called ErrNoSpace")
	}
	if what == "open" && err != nil {
		return r.reopen(err)
	}
	if what == "close" {
		return nil
	}
	if r.failed {
		if err := r.requireReadOnly(); err != nil {
			return wrong("after a failed flush: %v", err)
		}
	}
	if r.operations++; len(hits) == 0 && r.operations%16 != 0 {
		return nil
	}
	for i := range powerMemories {
		if _, err := exactly([]powerVersion{l.model.live(i)}).shifted(i).read(l.s, i); err != nil {
			return wrong("read: %v", err)
		}
	}
	return nil
}

// reopen opens the store once more, without faults.
func (r *powerFaultRun) reopen(cause error) error {
	r.l.d.Fault, r.l.d.Budget = nil, 0
	if err := r.l.open(); err != nil {
		return fmt.Errorf("open failed with %q, and the next without a fault: %w", cause, err)
	}
	return nil
}

// requireReadOnly checks that a store with a failed flush accepts no write, even when the disk is
// well again.
func (r *powerFaultRun) requireReadOnly() error {
	s, fault := r.l.s, r.l.d.Fault
	r.l.d.Fault = nil
	defer func() { r.l.d.Fault = fault }()
	_, deleteErr := s.Delete(idOf(30))
	_, compactErr := s.Compact(context.Background())
	for _, err := range []error{s.Put(idOf(30), nil), deleteErr, compactErr, s.Sync()} {
		if !errors.Is(err, ErrSyncFailed) {
			return fmt.Errorf("a write gave %w", err)
		}
	}
	return nil
}

// run runs the script, and then checks what a power loss and a kill leave of the store.
func (r *powerFaultRun) run() (err error) {
	l := r.l
	l.rare, l.often = 0, 0
	defer func() {
		if l.s != nil {
			l.d.Freeze()
			_ = l.s.Close() // gives memory back, and can do nothing else
		}
	}()
	if err := l.powerScript(r.judge); err != nil {
		return err
	}
	l.d.Fault, l.d.Before, l.d.Budget = nil, nil, 0
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, nesting: 2}
	durable, acked := l.model.indexes(false), l.model.indexes(true)
	images := []powerImage{{d: l.d.Kill(), when: "reopened", allowed: l.model.since(acked)}}
	for range 2 {
		images = append(images, powerImage{
			d: l.d.Crash(shadow.RandomLoss(l.rng)), when: "power loss", allowed: l.model.since(durable),
		})
	}
	for _, img := range images {
		if err := c.check(img); err != nil {
			return err
		}
	}
	return nil
}

func TestPower_EveryCallFails(t *testing.T) {
	base := seeded(t).Uint64()
	for _, kind := range []shadow.Kind{
		shadow.CallNames, shadow.CallCreate, shadow.CallOpen, shadow.CallReadFile, shadow.CallWriteFile,
		shadow.CallSyncFile, shadow.CallRename, shadow.CallRemove, shadow.CallSyncDir, shadow.CallSync, shadow.CallClose,
		shadow.CallWrite,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			var opened atomic.Int64
			thorough := thoroughCrashes(t)
			rng := rand.New(rand.NewPCG(base, 4))
			runs := 0
			variants := []int{0, 3, 4, 7}
			if kind == shadow.CallCreate || thorough {
				variants = []int{0, 1, 2, 3, 4, 5, 6, 7}
			}
			for _, variant := range variants {
				most := stride(t, 35, 1) // the longest step from one call to the next that is tried
				switch {
				case thorough && !raceEnabled:
					most = 1
				case variant > 0 || raceEnabled:
					most = stride(t, 99, 9)
				}
				for nth := 1; ; nth += 1 + rng.IntN(most) {
					f := &powerFault{kind: kind, nth: nth, forever: variant&1 != 0,
						errno: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[variant>>1&1]}
					l := newPowerLife(base, powerConfig{}, &opened)
					l.opts.SyncWrites, l.writers = variant>>2 != 0, 1
					l.d.Fault = f.fail
					err := (&powerFaultRun{l: l, f: f}).run()
					require.NoError(t, err, "call %d of %s fails with %v, forever %t, SyncWrites %t",
						nth, kind, f.errno, f.forever, l.opts.SyncWrites)
					if f.total == 0 {
						break
					}
					runs++
				}
			}
			t.Logf("%d workloads with a fault", runs)
		})
	}
}
