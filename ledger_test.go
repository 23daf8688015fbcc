package warmtier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// crew is a group of goroutines that loop until a test has seen enough or one goroutine fails.
type crew struct {
	t       testing.TB
	stopped atomic.Bool
	running sync.WaitGroup
	ended   chan struct{} // closed with the first failure
	once    sync.Once
}

func newCrew(t testing.TB) *crew { return &crew{t: t, ended: make(chan struct{})} }

// oversubscribe gives every goroutine of a test a thread, so that the operating system interrupts
// them: anywhere, for milliseconds, and even between two instructions that Go's scheduler would run
// together. No other test may run beside, whose stores would get more lanes: Setenv sees to that.
func oversubscribe(t testing.TB) {
	t.Setenv("GOMAXPROCS", "16") // of the processes that the test starts
	before := runtime.GOMAXPROCS(16)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// loop calls fn over and over on a goroutine of its own, and once on a machine that has no time for
// more.
func (c *crew) loop(fn func() error) {
	c.running.Go(func() {
		for once := false; !once || !c.stopped.Load(); once = true {
			if err := fn(); err != nil {
				c.t.Error(err)
				c.stopped.Store(true)
				c.once.Do(func() { close(c.ended) })
			}
			runtime.Gosched() // short turns for all: more interleavings, and more compactions
		}
	})
}

// wait lets the crew run for d, or until the first failure, and waits for the end of all.
func (c *crew) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ended:
	}
	c.stopped.Store(true)
	c.running.Wait()
}

// ledger knows the versions of each memory. One goroutine writes a memory: version v is a delete
// when v is a multiple of 5, and otherwise a Put; version 0 is "never stored". A linearizable store
// may answer a read with any version from the highest that was acknowledged, or returned by another
// read, before the read began, up to the highest that was started before the read ended.
type ledger struct {
	started, acknowledged, seen []atomic.Int64
	sizeOf                      func(i int, version int64) int
}

func newLedger(n int, sizeOf func(i int, version int64) int) *ledger {
	return &ledger{
		started:      make([]atomic.Int64, n),
		acknowledged: make([]atomic.Int64, n),
		seen:         make([]atomic.Int64, n),
		sizeOf:       sizeOf,
	}
}

func isDelete(version int64) bool { return version%5 == 0 }

func (l *ledger) content(i int, version int64) []byte {
	return contentOf(i, int(version), l.sizeOf(i, version))
}

// write makes the next version of memory i. Only one goroutine writes a memory.
func (l *ledger) write(s *Store, i int) error {
	v := l.started[i].Load() + 1
	l.started[i].Store(v)
	if isDelete(v) {
		if err := deletePresent(s, i); err != nil {
			return err
		}
	} else if err := s.Put(idOf(i), l.content(i, v)); err != nil {
		return fmt.Errorf("put of memory %d version %d: %w", i, v, err)
	}
	l.acknowledged[i].Store(v)
	return nil
}

// least returns the lowest version that a read of memory i beginning at this moment may return.
func (l *ledger) least(i int) int64 { return max(l.acknowledged[i].Load(), l.seen[i].Load()) }

// check judges the answer to a read that began when least was called.
func (l *ledger) check(how string, i int, least int64, content []byte, err error) error {
	most := l.started[i].Load()
	version := (least + 4) / 5 * 5 // for a memory not found: the first delete from least on
	if err == nil {
		if len(content) < 16 || int(binary.LittleEndian.Uint64(content)) != i {
			return fmt.Errorf("%s of memory %d: the content of another one", how, i)
		}
		version = int64(binary.LittleEndian.Uint64(content[8:]))
		if isDelete(version) || !bytes.Equal(content, l.content(i, version)) {
			return fmt.Errorf("%s of memory %d: not the bytes of version %d", how, i, version)
		}
	} else if !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%s of memory %d: %w", how, i, err)
	}
	if version < least || version > most {
		return fmt.Errorf("%s of memory %d: version %d (%v), possible are %d to %d", how, i, version, err, least, most)
	}
	for old := l.seen[i].Load(); old < version; old = l.seen[i].Load() {
		l.seen[i].CompareAndSwap(old, version)
	}
	return nil
}

func (l *ledger) get(s *Store, i int) error {
	least := l.least(i)
	content, err := s.Get(idOf(i))
	return l.check("Get", i, least, content, err)
}

func (l *ledger) view(s *Store, i int) error {
	least := l.least(i)
	var result error
	err := s.View(idOf(i), func(content []byte) error {
		result = l.check("View", i, least, content, nil)
		runtime.Gosched()
		return errors.Join(result, l.check("View, again,", i, least, content, nil))
	})
	if result == nil && err != nil {
		result = l.check("View", i, least, nil, err)
	}
	return result
}

func (l *ledger) has(s *Store, i int) error {
	least := l.least(i)
	found := s.Has(idOf(i))
	most := l.started[i].Load()
	for v := least; v <= most; v++ {
		if isDelete(v) != found {
			return nil
		}
	}
	return fmt.Errorf("Has of memory %d is %v in versions %d to %d", i, found, least, most)
}

// iterate judges every step of All, and checks that nothing comes twice.
func (l *ledger) iterate(s *Store) error {
	n := len(l.started)
	least := make([]int64, n)
	untouched := make([]int64, n)
	for i := range n {
		least[i] = l.least(i)
		untouched[i] = l.acknowledged[i].Load()
	}
	came := make([]bool, n)
	for id, content := range s.All() {
		i := numberOf(id)
		if came[i] {
			return fmt.Errorf("All yielded memory %d twice", i)
		}
		came[i] = true
		if err := l.check("All", i, least[i], content, nil); err != nil {
			return err
		}
		runtime.Gosched()
		for j := range n { // the next step begins here
			least[j] = l.least(j)
		}
	}
	for i := range n {
		if !came[i] && !isDelete(untouched[i]) && l.started[i].Load() == untouched[i] {
			return fmt.Errorf("All left out memory %d, which nobody touched", i)
		}
	}
	return nil
}

// requireFinal checks contents and figures of a store that nobody writes to any longer.
func (l *ledger) requireFinal(t *testing.T, s *Store) {
	t.Helper()
	memories, live := 0, int64(0)
	for i := range l.started {
		v := l.acknowledged[i].Load()
		require.Equal(t, v, l.started[i].Load())
		got, err := s.Get(idOf(i))
		if isDelete(v) {
			require.ErrorIs(t, err, ErrNotFound, "memory %d", i)
			continue
		}
		require.NoError(t, err, "memory %d", i)
		require.True(t, bytes.Equal(l.content(i, v), got), "memory %d, version %d", i, v)
		memories++
		live += int64(record.Size(len(idOf(i)), len(got)))
	}
	st := s.Stats()
	require.Equal(t, memories, st.Memories)
	require.Equal(t, live, st.LiveBytes)
	require.Zero(t, st.Reads.CorruptRecords)
	require.Zero(t, st.SegmentDetails.RetiredBytes)
	requireIntact(t, s)
}
