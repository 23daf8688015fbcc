package warmtier

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/warmtier/warmtier/internal/layout"
)

/*
What a repair lost is counted before it changes anything. After a clean Close the hint knows how many
records each segment had, and how many memories there were. Otherwise states and digests count the
records of each segment. The counts go into a file, the note, until the repair is done: one that is
cut off and begins again finds some of what it has to count gone, or all of it.
*/

// RepairReport says what a repair by [Open] had to give up, in [RecoveryStats]. It is empty without
// Options.Repair, and when nothing was damaged. A repair that continues one that was cut off reports
// for both.
type RepairReport struct {
	// RecordsLost counts records that are damaged or missing, those of dead memories included.
	RecordsLost int
	// MemoriesLost counts memories that are gone. With AtMost it is an upper bound: the last Close was
	// not clean, and some may have been deleted after the damaged record was written.
	MemoriesLost int
	AtMost       bool
	// Unsynced is a bound for those of the lost records of which nothing says whose they were, and of which no Sync had
	// promised to keep any: the repair fell back to what was synced. It is part of the bound in MemoriesLost. A
	// memory among these may be gone, or have an older version, which may be the one that a deletion had taken.
	Unsynced int
	// MemoriesDeleted counts memories that were taken out because only an older version was left.
	MemoriesDeleted int
	// SegmentsReplaced counts segments that were damaged. Their files stay in the directory, with the
	// suffix .damaged.
	SegmentsReplaced int
	// Lost lists known ids whose newest version is lost: at most 1000, in no particular order. The
	// slice is the caller's. An id that was deleted after its damaged record was written may be
	// among them. JSON leaves Lost out: ids are user data, and statistics get published.
	Lost []string `json:"-"`
}

func (p *RepairReport) isEmpty() bool {
	return p.RecordsLost == 0 && p.MemoriesLost == 0 && p.MemoriesDeleted == 0 && p.SegmentsReplaced == 0
}

// merge takes into p what a repair before this one reported. Where both found the same damage, which
// redone says, p counts what either of them found.
func (p *RepairReport) merge(q RepairReport, redone bool) {
	count := func(a, b int) int { return a + b }
	if redone {
		count = func(a, b int) int { return max(a, b) }
	}
	p.RecordsLost = count(p.RecordsLost, q.RecordsLost)
	p.MemoriesLost = count(p.MemoriesLost, q.MemoriesLost)
	p.MemoriesDeleted = count(p.MemoriesDeleted, q.MemoriesDeleted)
	p.Unsynced = count(p.Unsynced, q.Unsynced)
	p.SegmentsReplaced = count(p.SegmentsReplaced, q.SegmentsReplaced)
	p.AtMost = p.AtMost || q.AtMost
	for _, id := range q.Lost {
		if len(p.Lost) < maxFindings && !slices.Contains(p.Lost, id) {
			p.Lost = append(p.Lost, id)
		}
	}
}

// sumUp makes the report, from an index without what is lost. Of the lost digests unseen are those of
// no memory that is left.
func (v *salvage) sumUp(unseen int) {
	report := RepairReport{
		RecordsLost: v.recordsLost(), MemoriesLost: unseen, MemoriesDeleted: len(v.deleted), Unsynced: v.unsynced,
		SegmentsReplaced: len(v.damaged()) + len(v.aside),
		Lost:             slices.Clone(v.deleted[:min(len(v.deleted), maxFindings)]),
	}
	if v.lastIndex != nil {
		report.MemoriesLost = max(0, v.lastIndex.memories-v.r.s.Len())
	}
	report.MemoriesLost += v.unsynced
	report.AtMost = (v.lastIndex == nil || v.unsynced > 0) && report.MemoriesLost > 0
	known := map[string]bool{}
	for _, id := range v.deleted {
		known[id] = true
	}
	for _, id := range v.lostIDs {
		if !known[id] && !v.r.s.Has(id) && len(report.Lost) < maxFindings {
			known[id] = true
			report.Lost = append(report.Lost, id)
		}
	}
	v.report = report
	if v.note != nil {
		v.report.merge(v.note.report(), !v.note.committed)
	}
}

// recordsLost counts the records that are not there to be read. Where it is known that some are lost and not
// how many, it counts one.
func (v *salvage) recordsLost() (lost int) {
	lost = v.unlisted
	intact := map[uint64]int{}
	for _, f := range v.r.found {
		intact[f.seg.id] = f.intact
		if v.lastIndex == nil || !v.lastIndex.has(f.seg.id) {
			lost += f.missing
			if f.unidentified {
				lost += max(0, 1-f.missing)
			}
		}
	}
	if v.lastIndex == nil {
		return lost // nothing is missing altogether, or Open has failed
	}
	for _, id := range v.missing {
		if !v.lastIndex.has(id) {
			lost++
		}
	}
	for id, records := range v.lastIndex.records {
		lost += max(0, int(records)-intact[id])
	}
	return lost
}

// damaged returns the segments that the repair takes out of the store.
func (v *salvage) damaged() (damaged []*foundSegment) {
	for _, f := range v.r.found {
		if f.damaged {
			damaged = append(damaged, f)
		}
	}
	return damaged
}

// lists reports whether the manifest lists the segment with this id.
func (v *salvage) lists(id uint64) bool {
	return slices.ContainsFunc(v.r.manifest.Listed, func(l layout.ListedSegment) bool { return l.ID == id })
}

// repairNote is the file that a repair leaves until it is done.
type repairNote struct {
	Damaged []uint64 // ids of the segments that it takes out of the store
	Report  RepairReport
	Lost    [][]byte // Report.Lost; an id may be no UTF-8

	committed bool // these segments are out of the store
}

func (n *repairNote) report() RepairReport {
	report := n.Report
	for _, id := range n.Lost {
		report.Lost = append(report.Lost, string(id))
	}
	return report
}

// readNote reads the note of a repair that was cut off. One that is not whole was written before that
// repair changed anything, and is not needed.
func (v *salvage) readNote() error {
	b, err := v.r.s.disk.fs.ReadFile(layout.RepairName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	note := &repairNote{}
	if err := json.Unmarshal(b, note); err != nil {
		v.r.s.opts.Logger.Warn("note of a repair is not whole, and is not used", "file", layout.RepairName, "reason", err)
		return nil
	}
	note.committed = len(note.Damaged) > 0
	for _, id := range note.Damaged {
		note.committed = note.committed && !v.lists(id)
	}
	v.note = note
	return nil
}

// writeNote makes the report durable. What it needs on a full disk it takes from the space kept back, which Open
// makes again.
func (v *salvage) writeNote() error {
	note := repairNote{Report: v.report}
	for _, f := range v.damaged() {
		note.Damaged = append(note.Damaged, f.seg.id)
	}
	for _, id := range v.report.Lost {
		note.Lost = append(note.Lost, []byte(id))
	}
	b, err := json.Marshal(note)
	if err != nil {
		return err
	}
	d := v.r.s.disk
	err = d.fs.WriteFile(layout.RepairName, b)
	if errors.Is(err, ErrNoSpace) {
		if err := v.removeSpares(); err != nil {
			return err
		}
		err = d.fs.WriteFile(layout.RepairName, b)
	}
	if err == nil {
		err = d.fs.SyncFile(layout.RepairName)
	}
	if err != nil {
		return fmt.Errorf("repair: %s: %w", layout.RepairName, err)
	}
	return d.fs.Sync()
}

func (v *salvage) removeSpares() error {
	d := v.r.s.disk
	names, err := d.fs.Names()
	for _, name := range names {
		if strings.HasPrefix(name, layout.SpareName) {
			err = errors.Join(err, d.fs.Remove(name))
		}
	}
	return err
}
