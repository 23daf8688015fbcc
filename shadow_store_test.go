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
)

// shadowOptions are options without anything in the background.
func shadowOptions() *Options {
	return &Options{
		SegmentSize:  minSegmentSize,
		SyncInterval: -1,
		Maintenance:  MaintenanceOptions{Disabled: true},
		Compaction:   CompactionOptions{Workers: 1},
	}
}

// openShadow is open for a store in d. s is there when Open fails, too, for what it may have left.
func openShadow(d *shadowFS, opts *Options, h hooks) (s *Store, err error) {
	h.boot = func() [16]byte { return d.boot }
	h.settlers = 1 // the same calls in the same order each time
	if s, err = newStore(opts, h); err != nil {
		return nil, err
	}
	if err := s.openDisk(d, nil); err != nil {
		return s, err
	}
	s.startBackground()
	return s, nil
}

// shadowStore is a store in d, which must open.
func shadowStore(t testing.TB, d *shadowFS, opts *Options) *Store {
	t.Helper()
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.NoError(t, err)
	return s
}

// closeShadow closes s, with every invariant checked and nothing left.
func closeShadow(t testing.TB, s *Store, d *shadowFS) {
	t.Helper()
	requireIntact(t, s)
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// nothingKept is a power loss that takes all that it may, allKept one that takes nothing.
var (
	nothingKept = loss{sector: func() bool { return false }, operation: func(int, int) bool { return false }}
	allKept     = loss{sector: func() bool { return true }, operation: func(int, int) bool { return true }}
)

// released returns an error when s, closed or never open, holds on to something.
func (d *shadowFS) released(s *Store) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, m := s.mapper.bytes.Load(), s.mapper.mappings.Load(); n != 0 || m != 0 || d.mappings != 0 {
		return fmt.Errorf("%d bytes in %d mappings left, %d files mapped", n, m, d.mappings)
	}
	return nil
}

// strays returns the names of files that an open store has no use for.
func (d *shadowFS) strays() (names []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[manifestName]
	if f == nil {
		return nil, errors.New("no manifest")
	}
	m, _, err := decodeManifest(f.current)
	if err != nil {
		return nil, err
	}
	for name := range d.files {
		id, isSegment := parseSegmentFileName(name)
		switch {
		case name == manifestName, strings.HasPrefix(name, spareName):
		case isSegment && (slices.Contains(m.listed, id) || slices.Contains(m.pending, id)):
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// segmentNames lists the segment files of d.
func (d *shadowFS) segmentNames() (names []string) {
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if _, ok := parseSegmentFileName(name); ok {
			names = append(names, name)
		}
	}
	return names
}
