//go:build unix

package warmtier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
Goal: damage is never silent. Whatever happens to a file, the store gives the right content, returns
ErrCorrupt (ErrVersion where the version was hit), or does not open; it never gives wrong content,
an older version or a deleted memory, and never calls a memory absent that is there. With Repair it
opens, and loses nothing but what was hit.

Method: the files of a small store are taken into memory; one damage at a time is done to them, and
they are written out and opened. There are three stores: one closed, with its hint; the same
without; and one as a kill leaves it. The files themselves tell where each record lies, and so which
memory a damage touches. Problems are collected by kind, with a few examples of each.

By default each subtest tries a random few, most of them in headers, manifests, states and digests.
With WARMTIER_TEST_DURATION it tries one bit of each byte of those, and as much of everything else as
there is time for: 1h does everything.
*/

// outcomes counts the outcomes of the trials of a test.
type outcomes struct {
	counts   map[string]int
	problems map[string][]string // by kind
}

func newOutcomes() *outcomes {
	return &outcomes{counts: map[string]int{}, problems: map[string][]string{}}
}

func (o *outcomes) problem(kind string, x damage, detail any) {
	o.problems[kind] = append(o.problems[kind], fmt.Sprintf("%v: %v", x, detail))
}

// require fails when there were problems, and shows a few of each kind.
func (o *outcomes) require(t testing.TB) {
	t.Helper()
	t.Log(o.counts)
	var lines []string
	for kind, list := range o.problems {
		lines = append(lines, fmt.Sprintf("%s: %d times", kind, len(list)))
		for _, example := range list[:min(4, len(list))] {
			lines = append(lines, "\t"+example)
		}
	}
	if len(lines) > 0 {
		require.Fail(t, "damage was not handled", "%s", strings.Join(lines, "\n"))
	}
}

// trials calls try for damages of list in random order: for a few, three of four of those that long
// tests always try, or in long tests for all of those and for as many others as there is time for.
func trials(t testing.TB, rng *rand.Rand, few int, list []damage, try func(damage)) {
	t.Helper()
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	var must, others []damage
	for _, x := range list {
		if x.must {
			must = append(must, x)
		} else {
			others = append(others, x)
		}
	}
	enough, long := askedDuration(t)
	if !long {
		few = scaled(budget(t, few, few))
		must = must[:min(len(must), few*3/4)]
		others = others[:min(len(others), few-len(must))]
	}
	for _, x := range must {
		try(x)
	}
	tried, start := len(must), time.Now()
	for _, x := range others {
		if long && time.Since(start) > enough {
			break
		}
		try(x)
		tried++
	}
	t.Logf("%d of %d damages tried", tried, len(list))
}

// Of each kind of trial a few: a repair takes several times as long as a look.
const (
	fewReadings = 120
	fewRepairs  = 40
)

// damageTest runs test for each store, with a directory of its own.
func damageTest(t *testing.T, test func(t *testing.T, d damageStore, dir string, rng *rand.Rand)) {
	rng := seeded(t)
	for _, d := range damageStores(t) {
		seed := rng.Uint64()
		t.Run(strings.ReplaceAll(d.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			test(t, d, fastDir(t), rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

// tryReading opens the damaged store, read-only so that the next trial needs no new files.
func (d *damageStore) tryReading(t testing.TB, dir string, x damage, o *outcomes) {
	path := filepath.Join(dir, x.file)
	require.NoError(t, os.WriteFile(path, x.apply(bytes.Clone(d.img[x.file])), 0o600))
	defer func() { require.NoError(t, os.WriteFile(path, d.img[x.file], 0o600)) }()
	opts := quiet()
	opts.ReadOnly = true
	s, err := openSame(dir, opts)
	if err != nil {
		o.counts["not opened"]++
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			o.problem("open fails with neither ErrCorrupt nor ErrVersion", x, err)
		}
		return
	}
	d.checkDamaged(s, x, d.looksUnfinished(x), o)
	require.NoError(t, s.Close())
}

// copied collects an iterator whose contents are valid for one step only.
func copied(all iter.Seq2[string, []byte]) map[string][]byte {
	m := map[string][]byte{}
	for id, content := range all {
		m[id] = bytes.Clone(content)
	}
	return m
}

// checkDamaged reads every memory of an opened store. The memories in free may also be absent or
// older.
func (d *damageStore) checkDamaged(s *Store, x damage, free map[string]bool, o *outcomes) {
	corrupt := 0
	listed := copied(s.All())
	for _, id := range d.ids {
		if free[id] {
			continue
		}
		want, present := d.want[id]
		got, err := s.Get(id)
		switch {
		case errors.Is(err, ErrCorrupt):
			corrupt++
			continue // All may leave it out
		case err == nil && !present:
			o.problem("deleted memory is back", x, id)
		case err == nil && !bytes.Equal(got, want):
			o.problem("wrong content or older version", x, id+" is "+describe(got, true)+", want "+describe(want, true))
		case errors.Is(err, ErrNotFound) && present:
			o.problem("memory is gone", x, id)
		case err != nil && !errors.Is(err, ErrNotFound):
			o.problem("Get returns another error", x, err)
		}
		content, there := listed[id]
		if there != present || !bytes.Equal(content, want) {
			o.problem("All differs from what is there", x, id)
		}
	}
	if len(free) == 0 && s.Len() != len(d.want) {
		o.problem("Len is wrong", x, s.Len())
	}
	if corrupt > 0 {
		o.counts["ErrCorrupt"]++
	} else {
		o.counts["right"]++
	}
}

func TestDamage_BitFlips(t *testing.T) {
	t.Parallel()
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, fewReadings, d.bitFlips(rng), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

func TestDamage_Truncations(t *testing.T) {
	t.Parallel()
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, fewReadings, d.truncations(), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

func TestDamage_Blocks(t *testing.T) {
	t.Parallel()
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		d.img.write(t, dir)
		o := newOutcomes()
		trials(t, rng, fewReadings, d.blocks(rng), func(x damage) { d.tryReading(t, dir, x, o) })
		o.require(t)
	})
}

// tryWriting opens the damaged store for writing, twice: what the first Open changes in the
// directory must not make anything worse for the second.
func (d *damageStore) tryWriting(t testing.TB, dir string, x damage, o *outcomes) {
	damaged := maps.Clone(d.img)
	damaged[x.file] = x.apply(bytes.Clone(d.img[x.file]))
	damaged.write(t, dir)
	for range 2 {
		s, err := openSame(dir, quiet())
		if err != nil {
			o.counts["not opened"]++
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				o.problem("open fails with neither ErrCorrupt nor ErrVersion", x, err)
			}
			return
		}
		d.checkDamaged(s, x, d.looksUnfinished(x), o)
		require.NoError(t, s.Close())
	}
}

func TestDamage_OpenForWriting(t *testing.T) {
	t.Parallel()
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := slices.Concat(d.bitFlips(rng), d.truncations(), d.blocks(rng))
		for i := range list {
			list[i].must = false
		}
		trials(t, rng, fewRepairs, list, func(x damage) { d.tryWriting(t, dir, x, o) })
		o.require(t)
	})
}

// Goal: a damaged length is not believed: memory and time stay bounded. Method: headers with
// lengths of all sizes, where records begin and where the next one would.
func TestDamage_HostileLengths(t *testing.T) {
	t.Parallel()
	d := damageStores(t)[1]
	dir := fastDir(t)
	o := newOutcomes()
	for _, name := range d.img.segments() {
		end, _ := d.used(name)
		for _, at := range []int{layout.HeaderSize, end} {
			for _, idLen := range []uint16{0, 1, 0xffff} {
				for _, contentLen := range []uint32{0, minSegmentSize, MaxContentLen, 0xffffffff} {
					for kind := range 3 {
						x := damage{file: name, name: fmt.Sprintf("header at %d: kind %d, %d and %d bytes", at, kind, idLen, contentLen),
							from: at, to: at + record.HeaderSize, apply: func(b []byte) []byte {
								b[at+4] = byte(kind)
								binary.LittleEndian.PutUint16(b[at+6:], idLen)
								binary.LittleEndian.PutUint32(b[at+8:], contentLen)
								return b
							}}
						d.img.write(t, dir)
						d.tryReading(t, dir, x, o)
						if idLen == 0xffff || at == end {
							d.tryRepair(t, dir, x, true, o)
						}
					}
				}
			}
		}
	}
	o.require(t)
}
