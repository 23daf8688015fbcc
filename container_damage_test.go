//go:build unix

package warmtier

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// Goal: damage to a container that was durable is found, and a repair keeps what is intact of it: records are what it
// repairs. No older version comes back, no deleted memory, and of other records nothing is lost. Method: a bit of
// each byte, 8 bytes and the rest from each place on; in a killed store, a closed one with its hint, and without.
func TestContainer_Damaged(t *testing.T) {
	c := placeContainer(t, true)
	closed := c.d.Kill()
	closeShadow(t, shadowStore(t, closed, shadowOptions()), closed)
	bare := closed.Kill()
	require.NoError(t, removeHint(bare))
	for _, d := range []*shadow.FS{c.d, closed, bare} {
		require.Contains(t, d.Files, c.file)
		hinted := d.Files[layout.HintName] != nil
		for at := c.offset; at < c.offset+c.size; at += stride(t, 53, 1) {
			for _, damage := range []func(mem []byte){
				func(mem []byte) { mem[at] ^= 1 << (at % 8) },
				func(mem []byte) { clear(mem[at&^7 : at&^7+8]) },
				func(mem []byte) { clear(mem[at : c.offset+c.size]) },
			} {
				damaged := d.Kill()
				before := string(c.current(damaged))
				damage(c.current(damaged))
				if string(c.current(damaged)) == before {
					continue
				}
				c.requireDamaged(t, damaged.Kill(), hinted)
				c.requireRepaired(t, damaged)
			}
		}
	}
}

// requireDamaged checks that a strict Open of d calls it damaged, or that every call does that would be wrong.
func (c placedContainer) requireDamaged(t *testing.T, d *shadow.FS, hinted bool) {
	t.Helper()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	if err != nil {
		require.ErrorIs(t, err, ErrCorrupt)
		require.NoError(t, released(d, s))
		return
	}
	for _, id := range []string{"kept", "overwritten", "deleted", "added", "large"} {
		got, err := s.Get(id)
		want, there := c.after[id]
		switch {
		case hinted && errors.Is(err, ErrCorrupt):
		case there:
			require.NoError(t, err, id)
			require.Equal(t, string(want), string(got))
		default:
			require.ErrorIs(t, err, ErrNotFound)
		}
	}
	require.NoError(t, s.Close())
}

// requireRepaired checks what a repair of d finds.
func (c placedContainer) requireRepaired(t *testing.T, d *shadow.FS) {
	t.Helper()
	opts := shadowOptions()
	opts.Repair = true
	s := shadowStore(t, d, opts)
	got := contentsOf(t, s)
	require.Equal(t, "1", string(got["kept"]))
	for id, content := range got {
		want, there := c.after[id]
		require.True(t, there, "%s is back", id)
		require.Equal(t, string(want), string(content), id)
	}
	closeShadow(t, s, d)
	s = shadowStore(t, d, shadowOptions())
	require.Len(t, contentsOf(t, s), len(got))
	closeShadow(t, s, d)
}

// Goal: a repair loses one record of a container where one is damaged, and none where the header of the container is.
func TestContainer_RepairKeepsTheRest(t *testing.T) {
	c := placeContainer(t, true)
	offset := c.offset
	for n := range c.n + 1 {
		h, ok := record.Decode(c.current(c.d)[offset:])
		require.True(t, ok)
		for _, at := range []int{4, 16} { // content checksum, number
			d := c.d.Kill()
			c.current(d)[offset+at] ^= 1
			opts := shadowOptions()
			opts.Repair = true
			s := shadowStore(t, d, opts)
			want := len(c.after)
			if n > 0 && h.Kind() == record.KindMemory {
				want--
			}
			require.Len(t, contentsOf(t, s), want, "record %d at %d", n, at)
			require.False(t, s.Has("deleted"))
			closeShadow(t, s, d)
		}
		offset += h.Next()
	}
}

// Goal: within a container that is there no record is taken for a tail that was not finished, though no flush has
// promised anything of it: after a kill it was acknowledged, and no older version of what is lost comes back.
func TestContainer_NoTailWithin(t *testing.T) {
	c := placeContainer(t, false)
	for offset := c.offset + record.HeaderSize; offset < c.offset+c.size; {
		h, ok := record.Decode(c.current(c.d)[offset:])
		require.True(t, ok)
		d := c.d.Kill()
		clear(c.current(d)[offset : offset+record.HeaderSize])
		c.requireDamaged(t, d.Kill(), false)
		c.requireRepaired(t, d)
		offset += h.Size()
	}
}

// Goal: Verify finds damage in a container, by the place of the record that has it, and counts its records.
func TestContainer_Verify(t *testing.T) {
	c := placeContainer(t, true)
	s := shadowStore(t, c.d, shadowOptions())
	report, err := s.Verify(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3+1+c.n, report.Records)
	seg := segmentOf(t, s, "added")
	for _, id := range []string{"overwritten", "large"} {
		_, offset := locationOf(t, s, id)
		mend := flipByte(seg.mem, offset+record.HeaderSize+len(id))
		report, err = s.Verify(t.Context())
		require.ErrorIs(t, err, ErrCorrupt)
		var places []int64
		for _, f := range report.Findings {
			places = append(places, f.Offset)
		}
		require.Equal(t, []int64{int64(c.offset), int64(offset)}, places)
		mend()
	}
	closeShadow(t, s, c.d)
}
