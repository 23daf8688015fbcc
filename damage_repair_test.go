//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
)

// tryRepair opens the damaged store with Repair, and then without. All says that every memory must
// be there whose newest record was not hit.
func (d *damageStore) tryRepair(t testing.TB, dir string, x damage, all bool, o *outcomes) {
	damaged := maps.Clone(d.img)
	damaged[x.file] = x.apply(bytes.Clone(d.img[x.file]))
	damaged.write(t, dir)
	opts := quiet()
	opts.Repair = true
	s, err := openSame(dir, opts)
	if err != nil {
		o.counts["not opened"]++
		// Without a hint, some damage leaves nothing that says which memories are lost.
		_, hinted := damaged[layout.HintName]
		nameless := errors.Is(err, ErrCorrupt) && (strings.Contains(err.Error(), "nothing says of which memories") ||
			x.file == layout.ManifestName && strings.Contains(err.Error(), "it cannot be replaced"))
		if !errors.Is(err, ErrVersion) && (hinted || !nameless) {
			o.problem("repair fails", x, err)
		}
		return
	}
	o.counts["opened"]++
	touched, free := d.touched(x), d.looksUnfinished(x)
	unsynced := s.Stats().Recovery.Repair.Unsynced // so many may be older, or back
	older := func(problem string, detail any) {
		if unsynced--; unsynced < 0 {
			o.problem(problem, x, detail)
		}
	}
	first := map[string][]byte{}
	for _, id := range d.ids {
		want, present := d.want[id]
		got, err := s.Get(id)
		switch {
		case errors.Is(err, ErrNotFound):
			if present && !touched[id] && !free[id] && all {
				o.problem("repair loses what was not touched", x, id)
			} else if present {
				o.counts["memories gone"]++
			}
			continue
		case err != nil:
			o.problem("repaired store returns an error", x, err)
		case free[id]:
		case !present:
			older("repair brings a deleted memory back", id)
		case !bytes.Equal(got, want):
			older("repair gives an older version", id+" is "+describe(got, true)+", want "+describe(want, true))
		}
		first[id] = got
	}
	if report, err := s.Verify(context.Background()); err != nil {
		o.problem("repaired store does not verify", x, report.Findings)
	}
	require.NoError(t, s.Close())
	s, err = openSame(dir, quiet())
	if err != nil {
		o.problem("plain open after the repair fails", x, err)
		return
	}
	if again := copied(s.All()); !maps.EqualFunc(first, again, bytes.Equal) {
		o.problem("open after the repair finds something else", x,
			fmt.Sprintf("%d memories, were %d", len(again), len(first)))
	}
	if report, err := s.Verify(context.Background()); err != nil {
		o.problem("store does not verify after the repair", x, report.Findings)
	}
	require.NoError(t, s.Close())
}

func TestDamage_RepairBitFlips(t *testing.T) {
	t.Parallel()
	repairTest(t, 4, func(d *damageStore, rng *rand.Rand) []damage { return d.bitFlips(rng) })
}

// A truncation takes records away, and the digests with them: only the hint knows which memories
// they were. Without it, a repair must refuse unless no record is missing.
func TestDamage_RepairTruncations(t *testing.T) {
	t.Parallel()
	repairTest(t, 8, func(d *damageStore, _ *rand.Rand) []damage { return d.truncations() })
}

// repairTest repairs each damage alone. A repair takes ten times as long as a look, so only one in
// share of the damages that other tests always try is always tried.
func repairTest(t *testing.T, share int, damages func(*damageStore, *rand.Rand) []damage) {
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := damages(&d, rng)
		for i := range list {
			list[i].must = list[i].must && list[i].file != layout.HintName && rng.IntN(share) == 0
		}
		trials(t, rng, fewRepairs, list, func(x damage) { d.tryRepair(t, dir, x, true, o) })
		o.require(t)
	})
}

func TestDamage_RepairBlocks(t *testing.T) {
	t.Parallel()
	damageTest(t, func(t *testing.T, d damageStore, dir string, rng *rand.Rand) {
		o := newOutcomes()
		list := d.blocks(rng)
		for i := range list {
			list[i].must = false
		}
		trials(t, rng, fewRepairs, list, func(x damage) {
			// A block with the header, or with digests, tells less than a repair needs to keep all.
			_, records := d.used(x.file)
			all := x.from >= layout.HeaderSize && x.to <= layout.DigestAt(len(d.img[x.file]), records)
			d.tryRepair(t, dir, x, all, o)
		})
		o.require(t)
	})
}
