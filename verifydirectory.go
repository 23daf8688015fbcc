package warmtier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

/*
What the next Open needs beside records: the directory at its path, its manifest, the name, header and state of each
durable segment, and the hint where there is one. Everything is read from the directory, by name, as an Open
reads it, and judged by the same code. What no flush has made durable yet is left out.

A manifest is read with manifestMu held, so it is the newest one. The file of a segment is read with no
lock held, and a compaction may take the segment out of the store meanwhile: what is wrong with a file is
a finding only if the segment is committed after the look. It stops being so before its file goes. The two
copies of a state change one after the other, so a look that finds neither is repeated.
*/

// checkDirectory checks what the next Open reads first.
func (v *verifier) checkDirectory() error {
	d := v.s.disk
	if d == nil {
		return nil
	}
	if err := d.fs.Present(); err != nil {
		v.found(Finding{File: ".", Problem: err.Error()})
		return nil //nolint:nilerr // it is a finding
	}
	// The store goes on in its directory, wherever that is. But the program will name its path at the next Open,
	// and get another store, or a new one.
	if err := d.fs.AtPath(); err != nil {
		v.found(Finding{File: ".", Problem: err.Error()})
	}
	names, err := v.checkManifest()
	if err != nil || !slices.Contains(names, layout.HintName) {
		return err
	}
	switch {
	case !v.s.opts.ReadOnly:
		v.found(Finding{File: layout.HintName, Problem: "there while the store is open for writing"})
	case v.s.recovered.Clean: // else Open has said why it does not use the hint
		return v.checkHint()
	}
	return nil
}

// checkManifest compares the manifest with the one that was written last, and returns the names in the
// directory.
func (v *verifier) checkManifest() (names []string, err error) {
	d := v.s.disk
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if names, err = d.fs.Names(); err != nil {
		return nil, err
	}
	b, err := d.fs.ReadFile(layout.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		v.found(Finding{File: layout.ManifestName, Problem: "file is missing"})
		return names, nil
	}
	if err != nil {
		return nil, err
	}
	m, whole, err := layout.DecodeManifest(b)
	switch {
	case err != nil:
		v.found(Finding{File: layout.ManifestName, Problem: err.Error()})
		return names, nil
	case !whole:
		v.found(Finding{File: layout.ManifestName, Problem: "one of its two copies is damaged"})
	}
	if m.Store != d.store {
		v.found(Finding{File: layout.ManifestName, Problem: "of another store"})
	} else if !v.s.opts.ReadOnly && v.s.failedSync() == nil && !d.lists(m) { // after a failure nobody knows
		v.found(Finding{File: layout.ManifestName, Problem: "not the one that was written last"})
	}
	return names, nil
}

// lists reports whether m lists the segments of the newest manifest. REQUIRES: d.manifestMu held.
func (d *disk) lists(m layout.Manifest) bool {
	for _, l := range m.Listed {
		if !d.listed[l.ID] {
			return false
		}
	}
	return len(m.Listed) == len(d.listed)
}

// checkHint reads the hint again that Open has taken the index from.
func (v *verifier) checkHint() error {
	var problem error
	err := v.withFile(layout.HintName, func(b []byte, _ dir.Stat) {
		h, err := layout.DecodeHint(b)
		if err != nil {
			problem = err
			return
		}
		rest := b[layout.HintTablesAt(len(h.Segments)):]
		for i := range h.Shards {
			size := int(h.Shards[i].Slots) * slotSize
			if size > len(rest) || size > 0 && record.Checksum(rest[:size]) != h.Shards[i].TableSum {
				problem = fmt.Errorf("checksum mismatch in table %d", i)
				return
			}
			rest = rest[size:]
		}
		if _, rest, problem = h.DecodeTombstones(rest); problem == nil {
			_, problem = h.DecodeDeadlines(rest)
		}
	})
	if problem != nil {
		v.found(Finding{File: layout.HintName, Problem: problem.Error()})
	}
	return err
}

// withFile calls fn with the bytes of a file, and with what says which file it is.
func (v *verifier) withFile(name string, fn func(b []byte, is dir.Stat)) (err error) {
	d := v.s.disk
	file, err := d.fs.Open(name, false)
	if err != nil {
		return err
	}
	b := file.Bytes()
	d.track(name, b)
	defer d.unmap(file)
	defer d.untrack(b)
	defer v.s.catchFault(armFaults(), &err)
	fn(b, file.Stat())
	return nil
}

// looks is how often a file is looked at before what is wrong with it is a finding.
const looks = 3

// checkFile checks that the next Open will find seg, which is pinned, under its name.
func (v *verifier) checkFile(ctx context.Context, seg *segment) error {
	if seg.file == nil || !seg.inFile.durable.Load() {
		return nil
	}
	problem := ""
	for range looks {
		if err := stopped(ctx); err != nil {
			return err
		}
		if err := roomFor(1 - targetSlack); err != nil {
			return err
		}
		problem = ""
		err := v.withFile(seg.name(), func(b []byte, is dir.Stat) {
			c := readCandidate(b, seg.name(), seg.id, claimListed)
			c.listed = &layout.ListedSegment{ID: seg.id, Salt: seg.salt}
			result, reason := c.examine(&layout.Manifest{Store: v.s.disk.store}, true)
			switch {
			case result != fileBelongs:
				problem = reason.Error()
			case is.ID != seg.file.Stat().ID:
				problem = "another file than the one that is open"
			case int64(c.state.Synced) > seg.tail.Load():
				problem = fmt.Sprintf("state says %d durable bytes, there are %d", c.state.Synced, seg.tail.Load())
			}
		})
		if errors.Is(err, fs.ErrNotExist) {
			problem = "file is missing"
		} else if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		} else if err != nil { // a fault
			problem = err.Error()
		}
		if problem == "" || !seg.inFile.committed.Load() {
			return nil
		}
	}
	v.found(Finding{File: seg.name(), Problem: problem})
	return nil
}
