//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

/*
Goal: a power loss at any instant loses nothing that a Sync or an acknowledged operation under
SyncWrites made durable, brings nothing back, and leaves a directory that opens. A kill loses
nothing at all that was acknowledged.

Method: a workload runs on a shadow (package shadow), and a model beside it knows the versions of
each memory and the last one that must survive. At a call of the file system, at a named point, or
between two operations, the shadow says what the directory could be after a crash at this moment;
the workload goes on. Each such directory is opened and held against the model: every memory has one
of the versions from the last durable one on. Then recovery itself is cut short, twice over, and
must find the same; what it found must survive the next power loss; and damage to it must be seen.

That these tests would notice a missing sync is tested too: with any sync taken out of the store
they must fail.
*/

// crashBudget returns how many directories a test opens: WARMTIER_TEST_CRASHES, or else a budget.
func crashBudget(t testing.TB, usual, long int) int64 {
	t.Helper()
	if n := envInt(t, "WARMTIER_TEST_CRASHES", 0); n > 0 {
		return int64(n)
	}
	return int64(scaled(budget(t, usual, long)))
}

// thoroughCrashes reports whether WARMTIER_TEST_CRASHES is set: tests that look at calls one by one
// then try everything at each call.
func thoroughCrashes(t testing.TB) bool { return envInt(t, "WARMTIER_TEST_CRASHES", 0) > 0 }

// powerRun runs lives on every processor until as many directories were opened as wanted, or a life
// goes wrong.
func powerRun(base uint64, c powerConfig) (opened int64, err error) {
	var count, next atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for count.Load() < c.wanted && failed.Load() == nil {
				seed := base + uint64(next.Add(1))
				l := newPowerLife(seed, c, &count)
				if err := l.run(); err != nil {
					err = fmt.Errorf("life %d: %w", seed-base, err)
					failed.CompareAndSwap(nil, &err)
				}
				if c.each != nil {
					c.each(l)
				}
			}
		})
	}
	workers.Wait()
	if p := failed.Load(); p != nil {
		err = *p
	}
	return count.Load(), err
}

// powerPoints are the points that directory stores pass.
var powerPoints = []point{pointPutBody, pointPutDrawn, pointPutAppended, pointDeleteAppended, pointSegmentCreated,
	pointApplyLocked, pointApplyDigests, pointApplyHeaders, pointApplyIndexed,
	pointLaneRolled, pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
	pointCompactDead, pointCompactBuilt, pointCompactFlip, pointCompactCommitted, pointCompactDrop, pointCompactSwapped,
	pointUnlink, pointFlushed, pointStateWritten, pointManifestWritten, pointManifestRenamed, pointManifestSynced,
	pointClearPrepared, pointClearBarred, pointCleared,
	pointCloseSealed, pointCloseFlushed, pointRecoverScanned, pointRecoverSealed, pointRecoverListed}

// Goal: after a kill while a large content is copied, the next Open removes the file, which has no
// record.
func TestPower_KillInLargePut(t *testing.T) {
	for _, p := range []point{pointSegmentMade, pointPutBody} {
		t.Run(strings.ReplaceAll(string(p), " ", "_"), func(t *testing.T) {
			d := newShadow()
			var killed *shadow.FS
			s, err := openShadow(d, shadowOptions(), hooks{at: func(q point) error {
				if q == p {
					killed = d.Kill()
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, s.Put("large", make([]byte, 2<<20)))
			require.NoError(t, s.Close())
			for range 2 {
				s, err = openShadow(killed, shadowOptions(), hooks{})
				require.NoError(t, err)
				require.Zero(t, s.Len())
				names, err := killed.Names()
				require.NoError(t, err)
				for _, name := range names {
					_, isSegment := layout.ParseSegmentFileName(name)
					require.False(t, isSegment, name)
				}
				require.NoError(t, s.Close())
			}
			require.NoError(t, released(killed, s))
		})
	}
}

// Goal: that of this file. Method: random workloads, crashes at random instants, and crashes of
// recoveries. A few lives need not pass every point (it may be that no generation ends with Close),
// so more follow until every point was passed.
func TestPower_Random(t *testing.T) {
	t.Parallel()
	base := seeded(t).Uint64()
	var mu sync.Mutex
	points, evicted := map[point]int{}, 0
	c := powerConfig{wanted: crashBudget(t, 300, 3000), thin: stride(t, 5, 1), each: func(l *powerLife) {
		mu.Lock()
		defer mu.Unlock()
		for p, n := range l.points {
			points[p] += n
		}
		evicted += l.evicted
	}}
	opened, err := powerRun(base, c)
	t.Logf("%d directories opened after crashes", opened)
	require.NoError(t, err)
	passed := func(p point) bool { return points[p] > 0 }
	for more := uint64(1); more <= 20 && !every(powerPoints, passed); more++ {
		c.wanted = 1
		_, err := powerRun(base+more<<32, c)
		require.NoError(t, err)
	}
	for _, p := range powerPoints {
		require.True(t, passed(p), "point never reached: %s", p)
	}
	require.Positive(t, evicted)
}

func every(points []point, is func(point) bool) bool {
	return !slices.ContainsFunc(points, func(p point) bool { return !is(p) })
}

// Goal: a Sync between the manifest of a round and its swap, when the victims are still in the
// table, does not list them again: their files are about to go.
func TestPower_SyncBeforeSwap(t *testing.T) {
	d := newShadow()
	var s *Store
	compacting, once := false, sync.Once{}
	ready, done := make(chan struct{}), make(chan error, 1)
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
		if p == pointManifestSynced && compacting {
			once.Do(func() {
				go func() {
					defer s.contentMu.RUnlock(s.contentMu.RLock()) // the swap waits
					close(ready)
					elsewhere(func() { done <- s.disk.listSegments() })
				}()
				<-ready
			})
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 200, 1000)
	deleteWhere(t, s, 0, 200, odd)
	require.NoError(t, s.Sync())
	compacting = true
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	compacting = false
	require.NoError(t, <-done)
	killed := d.Kill()
	require.NoError(t, s.Close())
	s, err = openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	requireContents(t, s, 0, 200, 1000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// Goal: a record that superseded one of a victim is durable before the victim goes: otherwise a
// power loss could leave neither version. Method: the new version is written after the victims were
// sealed, so the compaction copies neither.
func TestPower_NewVersionBeforeVictimGoes(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 200, 1000)
	deleteWhere(t, s, 0, 200, odd)
	require.NoError(t, s.Sync())
	s.hooks.at = doAt(pointCompactSealed, 1, func() {
		if err := s.Put(idOf(0), contentOf(0, 1, 1000)); err != nil {
			t.Error(err)
		}
	})
	mustCompact(t, s)
	s.hooks.at = nil
	lost := d.Crash(nothingKept)
	require.NoError(t, s.Close())
	s, err = openShadow(lost, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	got, err := s.Get(idOf(0))
	require.NoError(t, err, "neither the old version nor the new one")
	require.Equal(t, contentOf(0, 1, 1000), got)
	requireContents(t, s, 1, 200, 1000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// Goal: records that Open and Close have made durable never pass for a tail that was not.
func TestPower_DamageIsNoTornTail(t *testing.T) {
	t.Parallel()
	config := powerConfig{wanted: crashBudget(t, 200, 2000), thin: stride(t, 5, 1), damage: true}
	opened, err := powerRun(seeded(t).Uint64(), config)
	t.Logf("%d directories opened after crashes", opened)
	require.NoError(t, err)
}

// powerScript runs a small workload that makes every kind of call, always the same. It calls step
// with the result of each operation, and stops when step returns an error.
func (l *powerLife) powerScript(step func(what string, err error) error) (err error) {
	do := func(what string, fn func() error) {
		if err == nil {
			err = step(what, fn())
		}
	}
	puts := func(from, to, size int) {
		for i := from; i < to; i++ {
			do(fmt.Sprintf("put %d", i), func() error { return l.put(i, size) })
		}
	}
	deletes := func(from, to int) {
		for i := from; i < to; i++ {
			do(fmt.Sprintf("delete %d", i), func() error { return l.delete(i) })
		}
	}
	open := func() { do("open", l.open) }
	compact := func() {
		do("compact", func() error {
			_, err := l.s.Compact(context.Background())
			return err
		})
	}
	sweep := func() {
		do("sweep", func() error {
			l.s.noteAllDead()
			_, err := l.s.sweep()
			return err
		})
	}
	batch := func(n int) {
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		do("batch", func() error { return l.batch(rng, 0) })
	}
	open()
	puts(0, 44, 3000)
	do("sync", l.sync)
	batch(1)
	puts(10, 30, 2000)
	puts(44, 45, 70_000)
	deletes(0, 12)
	compact()
	do("sync", l.sync)
	puts(28, 40, 2500)
	sweep()
	batch(2)
	deletes(40, 46)
	do("close", l.close)
	open()
	puts(0, 20, 1500)
	do("sync", l.sync)
	deletes(5, 15)
	compact()
	puts(0, 20, 100)
	sweep()
	deletes(20, 24)
	compact()
	do("clear", l.clear)
	puts(0, 3, 100)
	do("close", l.close)
	open()
	do("close", l.close)
	return err
}

// open opens l.d and checks what is there.
func (l *powerLife) open() error {
	before := l.model.since(l.model.acknowledged())
	opts := *l.opts // those who check what a crash has left tell nobody
	opts.OnDrop = l.dropped
	s, err := openShadow(l.d, &opts, hooks{hash: fixedHash, at: l.reach, now: powerTime.Load, fate: l.fate})
	if err != nil {
		return errors.Join(err, released(l.d, s))
	}
	s.dead.on = false // operations of the script sweep: others would fail beside it
	l.s = s
	state, err := before.observe(l.s)
	if err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	l.model.found(state)
	return nil
}

// Goal: no call is a bad moment for a crash. Method: a kill and power losses (everything lost;
// everything kept; names or bytes alone kept; a mixture) at each call of a workload, and at each
// passing of a point, or each 29th of a point that every record passes. By default only some of
// these are tried: see crashesAtCall and crashesAtPoint.
func TestPower_EveryCall(t *testing.T) {
	t.Parallel()
	base := seeded(t).Uint64()
	var opened, calls atomic.Int64
	var mu sync.Mutex
	passed := map[point]int{}
	for round, syncWrites := range []bool{false, true} {
		l := newPowerLife(base+uint64(round), powerConfig{}, &opened)
		l.opts.SyncWrites, l.writers, l.rare, l.often = syncWrites, 1, 0, 0
		take := func(when string, variants ...int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, variant := range variants {
				img := l.takeLocked(when, variant == killedVariant)
				if variant < 4 {
					keep := func() bool { return variant%2 == 1 }
					img.d = l.d.Crash(shadow.Loss{Sector: keep, Operation: func(int, int) bool { return variant/2 == 1 }})
				}
				l.images = append(l.images, img)
			}
		}
		l.d.Before = func(site shadow.Site) {
			n := int(calls.Add(1))
			take("at call "+site.String(), crashesAtCall(t, n, round == 0)...)
		}
		l.hook = func(p point) { // also on the goroutine that gives back what a Clear has taken out
			mu.Lock()
			passed[p]++
			n := passed[p]
			mu.Unlock()
			if l.isOften(p) {
				if n%29 != 0 {
					return
				}
				n /= 29
			}
			take("at point "+string(p), crashesAtPoint(t, n)...)
		}
		require.NoError(t, l.powerScript(func(what string, err error) error {
			if err == nil {
				err = l.checkImages()
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			return err
		}))
	}
	for _, p := range powerPoints {
		require.Positive(t, passed[p], "point never reached: %s", p)
	}
	t.Logf("%d directories opened after crashes at %d calls", opened.Load(), calls.Load())
}

// Variants of a crash. In 0 to 3 all or none of the sectors, and all or none of the names, are
// kept.
const (
	mixedVariant  = 4 // a power loss that keeps a random mixture
	killedVariant = 5
	crashVariants = 6
)

func everyCrash() []int { return []int{0, 1, 2, 3, mixedVariant, killedVariant} }

// crashesAtCall returns the variants that are tried at call n; the first of two rounds gets more.
func crashesAtCall(t testing.TB, n int, first bool) []int {
	step := stride(t, 9, 1)
	switch {
	case thoroughCrashes(t):
		return everyCrash()
	case raceEnabled:
		step = 16
	case first && step == 1:
		return []int{n % mixedVariant, mixedVariant + n%2}
	case !first:
		step = stride(t, 36, 1)
	}
	return everyNth(n, step)
}

// crashesAtPoint returns the variants that are tried at the n-th passing of a point.
func crashesAtPoint(t testing.TB, n int) []int {
	switch {
	case thoroughCrashes(t):
		return everyCrash()
	case raceEnabled:
		return everyNth(n, 32)
	}
	return everyNth(n, stride(t, 27, 1))
}

// everyNth returns a variant for one number in stride, beginning with 1: the next variant each
// time.
func everyNth(n, stride int) []int {
	if (n-1)%stride != 0 {
		return nil
	}
	return []int{(n - 1) / stride % crashVariants}
}

// Goal: these tests would notice a missing sync. Method: take one out and search until a violation
// is found; by default for one sync drawn at random, of those that a second shows to be needed: the
// sync of names in recovery takes some 40,000 directories.
func TestPower_EverySyncIsNeeded(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("says nothing about races, and takes long with the detector")
	}
	rng := seeded(t)
	base := rng.Uint64()
	var opened atomic.Int64
	normal := shadow.NewSites(forwarders...)
	l := newPowerLife(base, powerConfig{sites: normal}, &opened)
	l.rare, l.often = 0, 0
	require.NoError(t, l.powerScript(func(what string, err error) error { return err }))
	config := powerConfig{wanted: crashBudget(t, 100, 500), thin: stride(t, 5, 1), sites: normal}
	_, err := powerRun(base, config) // recoveries
	require.NoError(t, err)
	syncs := slices.SortedFunc(maps.Keys(normal.Seen()), compareSites)
	quick := budget(t, 1, 2) == 1
	syncs = slices.DeleteFunc(syncs, func(site shadow.Site) bool {
		return !site.Syncs() || quick && strings.Contains(site.String(), "recovery).settle ")
	})
	rng.Shuffle(len(syncs), func(i, j int) { syncs[i], syncs[j] = syncs[j], syncs[i] })
	for _, site := range syncs[:min(len(syncs), budget(t, 1, len(syncs)))] {
		t.Run(site.String(), func(t *testing.T) {
			mutant := shadow.NewSites(forwarders...)
			mutant.Skip = site
			c := powerConfig{wanted: 200_000, damage: true, sites: mutant} // it ends with the first finding
			opened, err := powerRun(base, c)
			require.Error(t, err, "%d directories opened, %d calls left out, nothing noticed", opened, mutant.Seen()[site])
			t.Logf("noticed after %d directories: %v", opened, err)
		})
	}
}

func compareSites(a, b shadow.Site) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) }
