//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// powerImage is a directory after a crash, with the versions it may hold.
type powerImage struct {
	d       *shadow.FS
	when    string
	allowed allowed
	power   allowed // after a power loss that follows
}

// powerCheck opens images, checks them and counts them.
type powerCheck struct {
	rng     *rand.Rand
	opts    *Options
	opened  *atomic.Int64
	damage  bool                             // do damage now and then: see settled
	whole   func(state []powerVersion) error // nil, or says what of a batch is not there
	nesting int
}

// check opens an image and holds it against the model.
func (c *powerCheck) check(img powerImage) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", img.when, err)
		}
	}()
	if c.rng.IntN(4) == 0 {
		if err := c.copied(img); err != nil {
			return fmt.Errorf("copied: %w", err)
		}
	}
	nested := c.interrupt(&img)
	s, err := c.open(img.d)
	if err != nil {
		return err
	}
	img.d.Before = nil
	state, err := c.inspect(s, img)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	for _, again := range *nested {
		if again.allowed == nil {
			again.allowed = exactly(state)
		}
		c.nesting++
		err := c.check(again)
		c.nesting--
		if err != nil {
			return errors.Join(err, s.Close())
		}
	}
	tails := tailsOf(s)
	if err := c.settled(img.d, state, tails, "after Open"); err != nil {
		return errors.Join(err, s.Close())
	}
	if err := errors.Join(s.Close(), released(img.d, s)); err != nil {
		return err
	}
	return c.settled(img.d, state, tails, "after Close")
}

// copied copies an image to another directory. The copy is refused unless the store was closed, or somebody says
// that it is of one moment; then Open makes all of it durable.
func (c *powerCheck) copied(img powerImage) error {
	moved := img.d.StartCopy(func([]string) {}).End()
	closed := true // or there never was a store
	if f := moved.Files[layout.ManifestName]; f != nil {
		m, _, err := layout.DecodeManifest(f.Current)
		if err != nil {
			return err
		}
		closed = m.Closed
	}
	opts := *c.opts
	there := powerCheck{rng: c.rng, opts: &opts, opened: c.opened}
	s, err := there.open(moved)
	if !closed {
		if !errors.Is(err, ErrCopied) {
			return fmt.Errorf("not closed, and open says %w", err)
		}
		opts.AfterPowerLoss = true
		s, err = there.open(moved)
	}
	if err != nil {
		return err
	}
	state, err := img.allowed.observe(s)
	after := moved.Crash(nothingKept)
	if err := errors.Join(err, s.Close(), released(moved, s)); err != nil {
		return err
	}
	if s, err = c.open(after); err != nil {
		return fmt.Errorf("power loss after Open: %w", err)
	}
	_, err = exactly(state).observe(s)
	return errors.Join(err, s.Close(), released(after, s))
}

func (c *powerCheck) open(d *shadow.FS) (*Store, error) {
	c.opened.Add(1)
	s, err := openShadow(d, c.opts, hooks{hash: fixedHash, now: powerTime.Load})
	if err != nil {
		return nil, errors.Join(err, released(d, s))
	}
	return s, nil
}

// inspect reads a whole store, and looks for damage and files it should not have.
func (c *powerCheck) inspect(s *Store, img powerImage) ([]powerVersion, error) {
	state, err := img.allowed.observe(s)
	if err == nil && c.whole != nil {
		err = c.whole(state)
	}
	if err != nil {
		return nil, err
	}
	if report, err := s.Verify(context.Background()); err != nil {
		return nil, fmt.Errorf("%w: %+v", err, report.Findings)
	}
	if strays, err := strays(img.d); err != nil || len(strays) > 0 {
		return nil, errors.Join(fmt.Errorf("stray files: %v", strays), err)
	}
	return state, nil
}

// interrupt arranges that the coming recovery of img crashes at one of its calls, in a copy, and
// returns where the images of that will be.
func (c *powerCheck) interrupt(img *powerImage) *[]powerImage {
	var nested []powerImage
	if c.nesting == 2 || c.nesting == 1 && img.d.Sites.Skip != (shadow.Site{}) {
		return &nested // one crash of a recovery is enough to show a missing sync
	}
	at, calls := 1+c.rng.IntN(14), 0
	img.d.Before = func(site shadow.Site) {
		tempting := img.d.Sites.Tempting() && len(nested) < 3 && c.rng.IntN(2) == 0
		if calls++; calls != at && !tempting {
			return
		}
		when := fmt.Sprintf("crash in recovery, call %d, %s", calls, site)
		if c.rng.IntN(3) == 0 {
			nested = append(nested, powerImage{d: img.d.Kill(), when: when + ", killed", power: img.power})
		} else {
			again := powerImage{d: img.d.Crash(shadow.RandomLoss(c.rng)), when: when}
			if img.power != nil { // a power loss after a kill may leave less
				again.allowed = img.power
			}
			nested = append(nested, again)
		}
	}
	return &nested
}

// settled checks that d survives a power loss unchanged, and that damage to it is seen: nothing
// durable may pass for a tail that never was.
func (c *powerCheck) settled(d *shadow.FS, state []powerVersion, tails map[string]int, when string) error {
	if c.rng.IntN(2) == 0 {
		return nil
	}
	after := d.Crash(shadow.RandomLoss(c.rng))
	switch {
	case c.damage && c.rng.IntN(3) == 0:
		return c.damaged(after, tails, when)
	case c.damage && c.rng.IntN(2) == 0:
		if c.rng.IntN(2) == 0 {
			after = d.Kill()
		}
		return c.flippedState(after, state, tails, when)
	}
	s, err := c.open(after)
	if err != nil {
		return fmt.Errorf("power loss %s: %w", when, err)
	}
	_, err = exactly(state).observe(s)
	if err := errors.Join(err, s.Close(), released(after, s)); err != nil {
		return fmt.Errorf("power loss %s: %w", when, err)
	}
	return nil
}

// tailsOf returns where the records of each segment of s end, by file name. Segments that Close may
// sweep are left out.
func tailsOf(s *Store) map[string]int {
	tails := map[string]int{}
	for _, seg := range s.segments.all() {
		if seg.live.Load() > 0 {
			tails[seg.name()] = int(seg.tail.Load())
		}
	}
	return tails
}

// damaged flips a bit in the header of a record, and checks that Open notices. It removes the hint
// first, with which Open does not read records.
func (c *powerCheck) damaged(d *shadow.FS, tails map[string]int, when string) error {
	delete(d.Files, layout.HintName)
	names := slices.Sorted(maps.Keys(tails))
	c.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names { // the first that is not empty
		tail := tails[name]
		if size := len(d.Files[name].Current); size < tail {
			return fmt.Errorf("%s: %s has %d bytes, its records end at %d", when, name, size, tail)
		}
		var starts []int
		for at := layout.HeaderSize; at < tail; {
			h, ok := record.Decode(d.Files[name].Current[at:tail])
			if !ok {
				return fmt.Errorf("%s: %s at %d: no record", when, name, at)
			}
			starts = append(starts, at)
			at += h.Next()
		}
		if len(starts) == 0 {
			continue
		}
		if c.rng.IntN(2) == 0 {
			starts = starts[len(starts)-1:] // where a tail would be cut
		}
		offset := starts[c.rng.IntN(len(starts))] + 4 + c.rng.IntN(record.HeaderSize-4)
		d.Files[name].Current[offset] ^= 1
		s, err := c.open(d)
		if err == nil {
			_ = s.Close()
			return fmt.Errorf("%s: %s was damaged at %d, and Open took it for a torn tail",
				when, name, offset)
		}
		if !errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%s: %s was damaged at %d: %w", when, name, offset, err)
		}
		return nil
	}
	return nil
}

// flippedState flips a bit in one of the two copies of a segment's state, and checks that the store
// opens as it was, or is called damaged. A repair must find everything.
func (c *powerCheck) flippedState(d *shadow.FS, state []powerVersion, tails map[string]int, when string) error {
	names := slices.Sorted(maps.Keys(tails))
	if len(names) == 0 {
		return nil
	}
	name, at := names[c.rng.IntN(len(names))], layout.StateAt+c.rng.IntN(2*layout.StateSize)
	if size := len(d.Files[name].Current); size < tails[name] {
		return fmt.Errorf("%s: %s has %d bytes, its records end at %d", when, name, size, tails[name])
	}
	damageAt(d, name, at)
	if c.rng.IntN(2) == 0 {
		delete(d.Files, layout.HintName)
	}
	opts := *c.opts
	opts.Repair = c.rng.IntN(2) == 0
	when = fmt.Sprintf("%s: %s flipped at %d, repair %v", when, name, at, opts.Repair)
	repairing := powerCheck{rng: c.rng, opts: &opts, opened: c.opened}
	s, err := repairing.open(d)
	if errors.Is(err, ErrCorrupt) && !opts.Repair {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	_, err = exactly(state).observe(s)
	if err := errors.Join(err, s.Close(), released(d, s)); err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	return nil
}
