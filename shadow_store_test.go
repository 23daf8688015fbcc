//go:build unix

package warmtier

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/layout"
)

// forwarders are functions of the store that pass on calls of the file system: the place that
// counts is their caller.
var forwarders = []string{"spaceErrors.Create", "spaceErrors.Open", "spaceErrors.WriteFile", "(*segment).syncFile",
	"(*segment).syncHeader", "(*segment).writeAt"}

func newShadow() *shadow.FS { return shadow.New(forwarders...) }

// shadowOptions returns options with nothing in the background.
func shadowOptions() *Options {
	return &Options{
		SegmentSize:  minSegmentSize,
		SyncInterval: -1,
		Maintenance:  MaintenanceOptions{Disabled: true},
		Compaction:   CompactionOptions{Workers: 1},
	}
}

// openShadow opens a store in d. It returns s when Open fails, too, to show what that may have
// left.
func openShadow(d *shadow.FS, opts *Options, h hooks) (s *Store, err error) {
	h.boot = func() [16]byte { return d.Boot }
	h.settlers = 1 // makes the same calls in the same order each time
	if h.share == nil {
		h.share = doublingSegments
	}
	if h.written == 0 {
		h.written = 100 // some records are stored, and some written
	}
	if s, err = newStore(opts, h); err != nil {
		return nil, err
	}
	if err := s.openDisk(d, nil); err != nil {
		return s, err
	}
	s.startBackground()
	passThrough(&s.dead.running) // until what Open has found dead is gone: callers look at the files
	return s, nil
}

// shadowStore returns a store in d, which must open.
func shadowStore(t testing.TB, d *shadow.FS, opts *Options) *Store {
	t.Helper()
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.NoError(t, err)
	return s
}

// closeShadow verifies s, closes it, and checks that nothing is left.
func closeShadow(t testing.TB, s *Store, d *shadow.FS) {
	t.Helper()
	requireIntact(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, released(d, s))
}

// nothingKept is a power loss that takes everything it may, and allKept one that takes nothing.
var (
	nothingKept = shadow.Loss{Sector: func() bool { return false }, Operation: func(int, int) bool { return false }}
	allKept     = shadow.Loss{Sector: func() bool { return true }, Operation: func(int, int) bool { return true }}
)

// released returns an error when s, closed or never open, holds anything.
func released(d *shadow.FS, s *Store) error {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	n, m, u := s.mapper.bytes.Load(), s.mapper.mappings.Load(), s.mapper.unreturned.mappings.Load()
	if n != 0 || m != 0 || u != 0 || d.Mappings != 0 {
		return fmt.Errorf("%d bytes in %d mappings and %d unreturned ones left, %d files mapped", n, m, u, d.Mappings)
	}
	return nil
}

// strays returns the names of files that an open store has no use for.
func strays(d *shadow.FS) (names []string, err error) {
	d.Mu.Lock()
	defer d.Mu.Unlock()
	f := d.Files[layout.ManifestName]
	if f == nil {
		return nil, errors.New("no manifest")
	}
	m, _, err := layout.DecodeManifest(f.Current)
	if err != nil {
		return nil, err
	}
	for name := range d.Files {
		id, isSegment := layout.ParseSegmentFileName(name)
		switch {
		case name == layout.ManifestName, strings.HasPrefix(name, layout.SpareName):
		case isSegment && (slices.Contains(listedIDs(m), id) || slices.Contains(m.Pending, id)):
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// segmentNames returns the segment files of d.
func segmentNames(d *shadow.FS) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(d.Files)) {
		if _, ok := layout.ParseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	return names
}
