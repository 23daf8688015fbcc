//go:build unix

package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: concurrent calls on one id are linearizable, with compactions running, succeeding and failing.

Method: goroutines call the store and note the arguments, the result, the beginning and the end of
each call; porcupine looks for an order of all calls on one id that explains every result. No two
Puts store the same content, so a result names the call it must come from. The clock is a counter:
one call ended before another began only if the counter says so, and no two moments are equal.
*/

// Kinds of calls in a history.
const (
	callPut = iota
	callRead
	callHas
	callDelete
	callPutIf
	callRemove // a deletion that does not say whether there was anything, in a batch
	callClear  // of all ids: see allMemories
	callEvict  // by the store: version is what OnDrop was told
)

// input is the input of a call in a history.
type input struct {
	kind    int
	id      int
	version uint64 // stored by a Put, PutTTL or PutIf
	wanted  uint64 // by a PutIf to be there

	ttl           time.Duration // of a Put, 0 for none
	before, after int64         // the store's clock when the call began and when it had ended
}

// output is the output of a call: the version read, 0 for none; for Has and Delete 1 when there was
// one; for PutIf 1 when it stored.
type output uint64

// stored is the state of an id: the version stored, 0 for none, and between which times it expires, if it does. The
// store reads its clock during the call.
type stored struct {
	version     uint64
	from, until int64
}

// mayBeThere and mayBeAbsent report whether a call may find the memory, and whether it may find none.
func (m stored) mayBeThere(call input) bool {
	return m.version != 0 && (m.from == 0 || call.before < m.until)
}

func (m stored) mayBeAbsent(call input) bool {
	return m.version == 0 || m.from != 0 && call.after >= m.from
}

// may reports whether a call may find the memory, or none.
func (m stored) may(there bool, call input) bool {
	if there {
		return m.mayBeThere(call)
	}
	return m.mayBeAbsent(call)
}

// put returns the state after a call that has stored.
func (call input) put() stored {
	if call.ttl == 0 {
		return stored{version: call.version}
	}
	ttl := call.ttl.Milliseconds()
	return stored{version: call.version, from: call.before + ttl, until: call.after + ttl}
}

// oneMemory is the promise of the store about one id.
var oneMemory = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byID := map[int][]porcupine.Operation{}
		for _, op := range history {
			id := op.Input.(input).id
			byID[id] = append(byID[id], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byID {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return stored{} },
	Step: func(state, in, out any) (bool, any) {
		m, call, result := state.(stored), in.(input), uint64(out.(output))
		switch call.kind {
		case callPut:
			return true, call.put()
		case callEvict:
			return m.version == call.version, stored{}
		case callRead:
			return m.may(result != 0, call) && (result == 0 || result == m.version), m
		case callHas:
			return m.may(result == 1, call), m
		case callPutIf:
			asWanted := m.may(call.wanted != 0, call) && (call.wanted == 0 || call.wanted == m.version)
			otherwise := m.may(call.wanted == 0, call) || m.version != call.wanted && m.version != 0 && m.mayBeThere(call)
			if result == 0 {
				return otherwise, m
			}
			return asWanted, call.put()
		case callRemove:
			return true, stored{}
		default:
			return m.may(result == 1, call), stored{}
		}
	},
}

// historian records calls of a store.
type historian struct {
	s     *Store
	clock atomic.Int64
	time  *testClock // the store's, nil when nothing expires

	mu      sync.Mutex
	history []porcupine.Operation

	compactions turnstile
	perTurn     int // calls that a client makes for each compaction; 0: any number

	evicting map[int]int64 // when a compaction last decided to drop a memory, by id
	evicted  []porcupine.Operation
	decided  atomic.Int64
}

// fate has compactions drop some of the memories that they could copy.
func (h *historian) fate(id string) fate {
	if h.decided.Add(1)%6 != 0 {
		return fateCopied
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.evicting[numberOf(id)] = h.clock.Add(1)
	return fateEvicted
}

// dropped notes what OnDrop is told: an eviction is a call of the store's, between the decision and this.
func (h *historian) dropped(d Drop) {
	if d.Reason != Evicted {
		return
	}
	version, err := versionOf(d.Content)
	if err != nil {
		panic(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := numberOf(d.ID)
	in := input{kind: callEvict, id: id, version: version}
	h.evicted = append(h.evicted, porcupine.Operation{
		Input: in, Output: output(0), Call: h.evicting[id], Return: h.clock.Add(1),
	})
}

// turnstile is a count that others can wait for.
type turnstile struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // closed with the next count; nil when nobody waits
}

func (g *turnstile) count() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n++
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

func (g *turnstile) wait(n int) {
	for {
		g.mu.Lock()
		if g.n >= n {
			g.mu.Unlock()
			return
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		<-changed
	}
}

// versionContent returns a content that no other version has, of a size that follows from the
// version: most are short, a few longer than what is copied under a lock.
func versionContent(version uint64) []byte {
	size := 8 + int(version*0x9e3779b97f4a7c15>>57)*16
	if version%97 == 0 {
		size += maxLockedCopy
	}
	b := make([]byte, size)
	binary.LittleEndian.PutUint64(b, version)
	for i := 8; i < size; {
		i += copy(b[i:], ramp[byte(version)+byte(i):])
	}
	return b
}

// versionOf returns the version whose content is b, and an error when there is none.
func versionOf(b []byte) (uint64, error) {
	if len(b) < 8 {
		return 0, fmt.Errorf("content of %d bytes, nobody stores that", len(b))
	}
	version := binary.LittleEndian.Uint64(b)
	if want := versionContent(version); string(want) != string(b) {
		return 0, fmt.Errorf("content of version %d with bytes that are not its own", version)
	}
	return version, nil
}

// seen is what a client last saw of an id: the version in the content, and that of the store.
type seen struct {
	content uint64
	store   Version
}

// call makes one call and returns it as an operation. A PutIf wants what last says, which a read and a PutIf
// bring up to date.
func (h *historian) call(client int, in input, view bool, last *seen) (porcupine.Operation, error) {
	id := idOf(in.id)
	in.wanted = last.content
	if h.time != nil {
		in.before = h.time.Load()
	}
	content := versionContent(in.version)
	op := porcupine.Operation{ClientId: client, Input: in, Call: h.clock.Add(1)}
	var out output
	var err error
	switch in.kind {
	case callPut:
		if in.ttl == 0 {
			err = h.s.Put(id, content)
		} else {
			err = h.s.PutTTL(id, content, in.ttl)
		}
	case callRead:
		out, err = h.read(id, view, last)
	case callPutIf:
		var v Version
		if v, err = h.s.PutIf(id, content, last.store); err == nil {
			out, *last = 1, seen{in.version, v}
		} else if errors.Is(err, ErrChanged) {
			err = nil
		}
	case callHas:
		out = asOutput(h.s.Has(id))
	case callClear:
		err = h.s.Clear()
	default:
		var existed bool
		existed, err = h.s.Delete(id)
		out = asOutput(existed)
	}
	op.Return = h.clock.Add(1)
	if h.time != nil {
		in.after = h.time.Load()
	}
	op.Input, op.Output = in, out
	return op, err
}

func (h *historian) read(id string, view bool, last *seen) (output, error) {
	var version uint64
	read := func(content []byte) (err error) {
		version, err = versionOf(content)
		return err
	}
	var content []byte
	var err error
	if view {
		err = h.s.View(id, read)
	} else {
		var v Version
		if content, v, err = h.s.GetVersion(id); err == nil {
			err = read(content)
		}
		*last = seen{version, v}
	}
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return output(version), err
}

func asOutput(is bool) output {
	if is {
		return 1
	}
	return 0
}

// client makes n random calls.
func (h *historian) client(client, n, ids int, rng *rand.Rand) error {
	mine := make([]porcupine.Operation, 0, n)
	last := make([]seen, ids)
	for i := range n {
		if h.perTurn > 0 {
			h.compactions.wait(i / h.perTurn)
		}
		in := input{id: rng.IntN(ids), kind: callRead}
		switch roll := rng.IntN(10); {
		case roll < 4:
			in.kind, in.version = callPut, uint64(client+1)<<32|uint64(i+1)
			if roll < 2 {
				in.kind = callPutIf
			} else if h.time != nil {
				in.ttl = time.Duration(rng.IntN(20)) * time.Millisecond
			}
		case roll < 5:
			in.kind = callDelete
		case roll < 6:
			in.kind = callHas
		case roll == 6:
			ops, err := h.batch(client, i, ids, rng)
			if err != nil {
				return fmt.Errorf("client %d, call %d, batch: %w", client, i, err)
			}
			mine = append(mine, ops...)
			continue
		}
		if h.time != nil && rng.IntN(40) == 0 {
			h.time.pass(time.Millisecond)
		}
		op, err := h.call(client, in, rng.IntN(2) == 0, &last[in.id])
		if err != nil {
			return fmt.Errorf("client %d, call %d, %+v: %w", client, i, in, err)
		}
		mine = append(mine, op)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.history = append(h.history, mine...)
	return nil
}

// check asks porcupine. The limit is for a history that cannot be decided, which has not happened.
func check(history []porcupine.Operation) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(oneMemory, history, 5*time.Minute)
}

// fuse is a hook that makes a point fail once, when it is passed for the n-th time after arm.
type fuse struct {
	point atomic.Pointer[point]
	left  atomic.Int64
	blown atomic.Int64 // how often the point failed
}

func (f *fuse) arm(p point, n int64) {
	f.point.Store(nil)
	f.left.Store(n)
	f.point.Store(&p)
}

func (f *fuse) at(p point) error {
	if armed := f.point.Load(); armed == nil || *armed != p || f.left.Add(-1) != 0 {
		return nil
	}
	f.blown.Add(1)
	return errInjected
}

// armRandomly arms f for a random point where a compaction can fail.
func (f *fuse) armRandomly(rng *rand.Rand) {
	points := []point{
		pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord, pointCompactBuilt,
		pointCompactFlip, pointCompactCommitted,
	}
	p := points[rng.IntN(len(points))]
	n := int64(1)
	if p == pointCompactRecord || p == pointCompactFlip {
		n += rng.Int64N(20)
	}
	f.arm(p, n)
}

// Goal: that of this file. Method: histories of all kinds of rounds, in memory and in a directory.
func TestLinearizable(t *testing.T) {
	parallel(t)
	for _, c := range []struct {
		name      string
		directory bool
		overhead  int64 // 1: rounds of one target; -1: one round
	}{
		{"in memory, small rounds", false, 1},
		{"in memory, one round", false, -1},
		{"in a directory, small rounds", true, 1},
		{"in a directory, one round", true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := compacting(2, c.overhead)
			opts.MaxBytes, opts.WhenFull = 1<<30, Evict // reads set their bit, and nothing is evicted for want of room
			f := &fuse{}
			clock := newTestClock()
			history := &historian{time: clock, evicting: map[int]int64{}}
			opts.OnDrop = history.dropped
			h := hooks{at: f.at, now: clock.Load, fate: history.fate}
			var s *Store
			if c.directory {
				opts.SyncInterval = -1
				var err error
				s, err = open(fastDir(t), opts, h)
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, s.Close()) })
			} else {
				s = openTest(t, opts, h)
			}
			history.s = s
			recordAndCheck(t, history, f)
		})
	}
}

// recordAndCheck runs clients beside compactions, every other one with a fault, until the clients
// are done. Neither runs ahead of the other: a client waits when it is a turn ahead of the
// compactions, which may be slow, and a compaction waits until a turn's calls have given it
// something to do. A turn is short, so that some memories are moved before they are overwritten.
func recordAndCheck(t *testing.T, h *historian, f *fuse) {
	const clients, ids = 10, 40
	turns := stride(t, 30, 400)
	const perTurn = 15
	each := perTurn * turns
	rng := seeded(t)
	s := h.s
	h.perTurn = perTurn
	errs := make(chan error, clients)
	for client := range clients {
		own := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		go func() { errs <- h.client(client, each, ids, own) }()
	}
	compactions, undone, moved := 0, 0, int64(0)
	for left := clients; left > 0; {
		select {
		case err := <-errs:
			require.NoError(t, err)
			left--
		default:
			if h.clock.Load() < int64(2*perTurn*clients*compactions) { // a call advances it twice
				runtime.Gosched()
				continue
			}
			if compactions%2 == 0 {
				f.armRandomly(rng)
			}
			stats, err := s.Compact(context.Background())
			if err != nil {
				require.ErrorIs(t, err, errInjected)
				undone++
			}
			compactions++
			h.compactions.count()
			moved += stats.MemoriesMoved
		}
	}
	f.point.Store(nil)
	require.Greater(t, len(h.history), clients*each, "a batch counts as several")
	require.Len(t, h.evicted, int(s.Stats().Drops.Evicted))
	h.history = append(h.history, h.evicted...)
	require.Equal(t, porcupine.Ok, check(h.history))
	require.GreaterOrEqual(t, compactions, turns-1)
	require.Positive(t, moved, "no compaction moved anything")
	require.Positive(t, f.blown.Load(), "no compaction met a fault")
	require.Positive(t, s.Stats().Writes.PutsChanged, "no PutIf was refused")
	require.True(t, slices.ContainsFunc(h.history, func(op porcupine.Operation) bool {
		return op.Input.(input).kind == callPutIf && op.Output.(output) == 1 && op.Input.(input).wanted != 0
	}), "no PutIf replaced anything")
	require.Positive(t, s.Stats().Drops.Expired, "nothing expired")
	require.NotEmpty(t, h.evicted, "nothing was evicted")
	requireIntact(t, s)
	t.Logf("%d calls by %d clients on %d ids, %d compactions, %d of them with a fault, %d memories moved: linearizable",
		len(h.history), clients, ids, compactions, undone, moved)
}

// Goal: the check finds a wrong answer. Method: in a history that is right, one read returned the
// version before the one it should.
func TestLinearizable_FalsifiedHistory(t *testing.T) {
	h := &historian{s: openTest(t, quiet(), hooks{})}
	require.NoError(t, h.client(0, 500, 3, seeded(t)))
	require.Equal(t, porcupine.Ok, check(h.history))

	last, older, falsified := map[int]uint64{}, map[int]uint64{}, 0
	for i := range h.history {
		in := h.history[i].Input.(input)
		switch in.kind {
		case callPut:
			older[in.id], last[in.id] = last[in.id], in.version
		case callRead:
			was := h.history[i].Output
			if older[in.id] == 0 || was == output(older[in.id]) {
				continue
			}
			h.history[i].Output = output(older[in.id])
			require.Equal(t, porcupine.Illegal, check(h.history), "call %d returns an older version", i)
			h.history[i].Output = was
			falsified++
		}
	}
	require.Positive(t, falsified)
}

// Goal: a bug of the store shows in a history. Method: a compaction that flips without comparing,
// made by hand, loses a Put.
func TestLinearizable_SeededBug(t *testing.T) {
	var s *Store
	var h *historian
	note := func(in input) {
		op, err := h.call(0, in, false, new(seen))
		require.NoError(t, err)
		h.history = append(h.history, op)
	}
	blind := doAt(pointCompactBuilt, 1, func() {
		sh, tag := s.place(idOf(1))
		_, old := sh.current().first(tag)
		note(input{kind: callPut, id: 1, version: 2})
		sh.mu.Lock()
		defer sh.mu.Unlock()
		pos, superseded := sh.current().first(tag)
		sh.current().set(pos, old) // without looking at what the Put has changed
		from, _ := s.resolve(superseded.location())
		to, _ := s.resolve(old.location())
		size := func(version uint64) int64 { return int64(record.Size(len(idOf(1)), len(versionContent(version)))) }
		from.live.Add(-size(2))
		to.live.Add(size(1))
		sh.liveBytes.Add(size(1) - size(2))
	})
	s = openTest(t, quiet(), hooks{at: blind})
	s.makeLanes(1) // so that the segment of the memory does not leave as dead
	h = &historian{s: s}
	note(input{kind: callPut, id: 0, version: 3})
	note(input{kind: callPut, id: 1, version: 1})
	note(input{kind: callPut, id: 2, version: 4})
	note(input{kind: callDelete, id: 0})
	_, err := s.Compact(context.Background())
	require.NoError(t, err)
	note(input{kind: callRead, id: 1})
	require.Equal(t, porcupine.Illegal, check(h.history))
}
