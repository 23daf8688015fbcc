package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

type statsCmd struct {
	whereFlag
	Segments bool          `help:"One line for each segment."`
	Watch    time.Duration `placeholder:"INTERVAL" help:"Show again and again, as in 1s."`
}

func (statsCmd) Help() string {
	return `Examples:
  warmtier stats -d data
  warmtier stats -d data --segments
  warmtier stats --url http://127.0.0.1:7077 --json --watch 5s
Counters of operations begin when a store is opened: for a directory, with this command.`
}

func (c *statsCmd) Run(a *app) error {
	if c.Watch < 0 {
		return usage("--watch is %v, want more than 0", c.Watch)
	}
	for {
		err := c.once(a)
		if err == nil {
			err = a.out.Flush()
		}
		if err != nil || c.Watch == 0 {
			return err
		}
		select {
		case <-a.ctx.Done():
			return nil
		case <-time.After(c.Watch):
			if !a.json {
				fmt.Fprintln(a.out)
			}
		}
	}
}

func (c *statsCmd) once(a *app) error {
	show := c.showStats
	if c.Segments {
		show = c.showSegments
	}
	if c.URL != "" {
		return show(a, c.client())
	}
	return a.with(c.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) error {
		local, closeHandler := localClient(s)
		return errors.Join(show(a, local), closeHandler())
	})
}

func (c *statsCmd) showStats(a *app, from *client) error {
	body, err := from.do(a.ctx, http.MethodGet, "/api/v1/stats")
	if err != nil {
		return err
	}
	var st statsAnswer
	if err := json.Unmarshal(body, &st); err != nil {
		return err
	}
	opened := "its records were read"
	if st.Recovery.Clean {
		opened = "it was closed cleanly"
	}
	if st.Recovery.RecordsLost > 0 {
		opened += ", and a repair lost " + showCount(st.Recovery.RecordsLost) + " records"
	}
	seg, ops := st.Segments, st.Operations
	return a.answer(body, [][]string{
		{"memories", showCount(st.Memories)},
		{"segments", fmt.Sprintf("%d: %d active, %d sealed, %d compacting, %d retired",
			seg.Active+seg.Sealed+seg.Compacting+seg.Retired, seg.Active, seg.Sealed, seg.Compacting, seg.Retired)},
		{"total bytes", showBytes(st.TotalBytes)},
		{"live bytes", showBytes(st.LiveBytes)},
		{"dead bytes", showBytes(st.DeadBytes)},
		{"fragmentation", showShare(st.Fragmentation)},
		{"mapped", showBytes(st.MappedBytes) + unreturned(st.Unreturned)},
		{"beside records", fmt.Sprintf("%s room in segments, %s kept for the next ones, %s index, %s held by readers",
			showBytes(st.RoomBytes), showBytes(st.ReserveBytes), showBytes(st.IndexBytes), showBytes(st.RetiredBytes))},
		{"budget", budget(&st)},
		{"not yet durable", showBytes(st.UnsyncedBytes)},
		{"since opened", fmt.Sprintf("%s gets, %s puts, %s deletes", showCount(ops.Gets), showCount(ops.Puts),
			showCount(ops.Deletes))},
		{"hits", showShare(ops.HitRatio)},
		{"dropped", fmt.Sprintf("%s expired, %s evicted", showCount(ops.Expired), showCount(ops.Evicted))},
		{"writes waited", waits(&st)},
		{"given back", showBytes(st.Compactions.BytesReclaimed)},
		{"opened in", showDuration(seconds(st.Recovery.Seconds)) + ", " + opened},
	})
}

// budget returns how much of its bound the store uses.
func budget(st *statsAnswer) string {
	spares := ""
	if st.SpareBytes > 0 { // which a store that is only read does not have
		spares = "; " + showBytes(st.SpareBytes) + " in spare files"
	}
	if st.MaxBytes == 0 {
		return "none" + spares
	}
	used := st.MappedBytes + st.SpareBytes
	return showBytes(st.MaxBytes) + ", " + showShare(ratio(used, st.MaxBytes)) + " used" + spares
}

// waits returns how often and how long writes waited for memory.
func waits(st *statsAnswer) string {
	w := st.Operations.Wait
	if w.Count == 0 {
		return "never"
	}
	return fmt.Sprintf("%s times for memory, 99 %% up to %s, longest %s",
		showCount(w.Count), showDuration(seconds(w.P99)), showDuration(seconds(w.Max)))
}

// unreturned continues a line when the system did not take back n bytes.
func unreturned(n int64) string {
	if n == 0 {
		return ""
	}
	return ", and " + showBytes(n) + " that the system did not take back yet"
}

func (c *statsCmd) showSegments(a *app, from *client) error {
	all, err := from.segments(a.ctx)
	if err != nil {
		return err
	}
	table := [][]string{{"segment", "state", "total", "live", "dead", "fragmentation", "pins", "age"}}
	for _, raw := range all.Segments {
		var seg segmentAnswer
		if err := json.Unmarshal(raw, &seg); err != nil {
			return err
		}
		table = append(table, []string{fmt.Sprintf("%016x", seg.Number), seg.State, showBytes(seg.TotalBytes),
			showBytes(seg.LiveBytes), showBytes(seg.DeadBytes), showShare(ratio(seg.DeadBytes, seg.TotalBytes)),
			strconv.Itoa(seg.Pins), showDuration(seconds(seg.Age))})
	}
	return a.answer(all, table)
}

func seconds(f float64) time.Duration { return time.Duration(f * float64(time.Second)) }

func ratio(part, whole int64) float64 { return float64(part) / float64(max(1, whole)) }

type verifyCmd struct{ whereFlag }

func (verifyCmd) Help() string {
	return `Examples:
  warmtier verify -d data && rsync -a data/ backup/
  warmtier verify --url http://127.0.0.1:7077
Reads every record, and what the next open needs; a server keeps serving.
Exit code 1 when anything is not as it must be; each finding is listed.`
}

func (c *verifyCmd) Run(a *app) error {
	if c.URL != "" {
		return c.ask(a)
	}
	var report warmtier.VerifyReport
	err := a.with(c.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) (err error) {
		bar := a.progress("verifying", 0, unitNothing)
		defer bar.end()
		report, err = s.Verify(a.ctx)
		return err
	})
	damage, isDamage := errors.AsType[*warmtier.CorruptError](err)
	if err != nil && !isDamage {
		return err
	}
	if isDamage && report.FindingCount == 0 { // so damaged that it cannot be opened
		report.FindingCount = 1
		report.Findings = []warmtier.Finding{
			{File: damage.File, Offset: damage.Offset, ID: damage.ID, Problem: damage.Reason}}
	}
	findings := []map[string]any{}
	for _, f := range report.Findings {
		findings = append(findings, findingJSON(f))
	}
	result := figures(report)
	result["findings"] = findings
	if err := a.report(result, verifyTable(report), findingRows(report)); err != nil {
		return err
	}
	if report.FindingCount > 0 {
		return about(showName(c.Dir), finding("%s; warmtier repair --to DIR salvages what is intact",
			counted(report.FindingCount, "finding")))
	}
	return nil
}

type compactCmd struct{ whereFlag }

func (compactCmd) Help() string {
	return `Examples:
  warmtier compact -d data
  warmtier compact --url http://127.0.0.1:7077
A server keeps serving during the compaction. Interrupted, it stops: finished rounds stay, nothing is lost.`
}

func (c *compactCmd) Run(a *app) error {
	bar := a.progress("compacting", 0, unitBytes)
	body, err := c.compact(a, bar)
	bar.end()
	if err != nil {
		return err
	}
	var st compactionAnswer
	if err := json.Unmarshal(body, &st); err != nil {
		return err
	}
	return a.result(body, [][]string{
		{"", "before", "after"},
		{"segments", showCount(st.SegmentsBefore), showCount(st.SegmentsAfter)},
		{"total bytes", showBytes(st.BytesBefore), showBytes(st.BytesAfter)},
		{"fragmentation", showShare(st.FragmentationBefore), showShare(st.FragmentationAfter)},
		{"given back", "", showBytes(st.BytesReclaimed) + unreturned(st.BytesUnreturned)},
		{"memories moved", "", showCount(st.MemoriesMoved)},
		{"time", "", showDuration(seconds(st.Duration))},
		{"longest swap pause", "", showDuration(seconds(st.MaxSwapPause))},
	})
}

func (c *compactCmd) compact(a *app, bar *progress) (body json.RawMessage, err error) {
	if c.URL != "" {
		return c.client().compact(a.ctx, bar)
	}
	opts := unattended(warmtier.Options{})
	opts.Compaction.OnProgress = func(p warmtier.CompactionProgress) { bar.set(p.BytesCopied, p.BytesTotal) }
	err = a.with(c.Dir, changing, opts, func(s *warmtier.Store) error {
		st, err := s.Compact(a.ctx)
		if err == nil {
			body, err = json.Marshal(figures(st)) // as a server puts it
		}
		return err
	})
	return body, err
}

type repairCmd struct {
	dirFlag
	To string `required:"" placeholder:"DIR" help:"New directory for what is intact; never the damaged one."`
}

func (repairCmd) Help() string {
	return `Example:
  warmtier repair -d data --to salvaged
Copies the files of the store to a new directory and repairs the copy; the damaged one stays as it is.
Exit code 1 when anything was lost, with the ids that are known. What is salvaged is then verified.`
}

// repaired is the result of a repair.
type repaired struct {
	To               string       `json:"to"`
	MemoriesSaved    int          `json:"memories_saved"`
	BytesSaved       int64        `json:"bytes_saved"`
	RecordsLost      int          `json:"records_lost"`
	MemoriesLost     int          `json:"memories_lost"`
	AtMost           bool         `json:"at_most"` // MemoriesLost is a bound
	Unsynced         int          `json:"unsynced"`
	MemoriesDeleted  int          `json:"memories_deleted"`
	SegmentsReplaced int          `json:"segments_replaced"`
	Lost             []memoryJSON `json:"lost"`
	VerifyFindings   int          `json:"verify_findings"`

	shown []string // Lost, for people
}

func (c *repairCmd) Run(a *app) error {
	if err := checkDirectory(c.Dir, changing); err != nil {
		return err
	}
	unlock, err := a.keepWritersOut(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Mkdir(c.To, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return usage("%s is there already: a repair goes to a new directory", c.To)
		}
		return err
	}
	var r repaired
	if err = copyStore(a, c.Dir, c.To); err == nil {
		r, err = salvage(a, c.To)
	}
	if err == nil { // which has renamed what it replaced
		err = errors.Join(syncDirectory(c.To), syncDirectory(filepath.Dir(filepath.Clean(c.To))))
	}
	if err != nil { // half of a store would look like one
		return errors.Join(about("nothing was salvaged", err), os.RemoveAll(c.To))
	}
	atMost := ""
	if r.AtMost {
		atMost = "at most "
	}
	table := [][]string{
		{"salvaged to", c.To},
		{"memories saved", showCount(r.MemoriesSaved)},
		{"bytes saved", showBytes(r.BytesSaved)},
		{"records lost", showCount(r.RecordsLost)},
		{"memories lost", atMost + showCount(r.MemoriesLost)},
		{"memories deleted", showCount(r.MemoriesDeleted) + ", of which only an older version was left"},
		{"segments replaced", showCount(r.SegmentsReplaced) + ", kept as *.damaged"},
	}
	if r.Unsynced > 0 {
		table = append(table, []string{"fell back", "to what was synced: at most " + counted(r.Unsynced, "memory") +
			" may be gone or as it was before"})
	}
	lost := [][]string{}
	for _, id := range r.shown {
		lost = append(lost, []string{"lost", id})
	}
	if err := a.report(r, append(table, lost...), lost); err != nil {
		return err
	}
	if r.RecordsLost > 0 || r.MemoriesLost > 0 || r.MemoriesDeleted > 0 || r.VerifyFindings > 0 {
		return finding("lost: %s, %s%s; left: %s", counted(r.RecordsLost, "record"), atMost,
			counted(r.MemoriesLost, "memory"), counted(r.VerifyFindings, "finding"))
	}
	return nil
}

// salvage repairs dir, which is a copy, and reports what came out.
func salvage(a *app, dir string) (r repaired, err error) {
	opts := unattended(warmtier.Options{})
	opts.Repair = true
	err = a.with(dir, changing, opts, func(s *warmtier.Store) error {
		st := s.Stats()
		report := st.Recovery.Repair
		r = repaired{To: dir, MemoriesSaved: st.Memories, BytesSaved: st.LiveBytes,
			RecordsLost: report.RecordsLost, MemoriesLost: report.MemoriesLost, AtMost: report.AtMost,
			Unsynced: report.Unsynced, MemoriesDeleted: report.MemoriesDeleted,
			SegmentsReplaced: report.SegmentsReplaced, Lost: []memoryJSON{}}
		for _, id := range report.Lost {
			r.Lost = append(r.Lost, idJSON(id))
			r.shown = append(r.shown, showID(id))
		}
		bar := a.progress("verifying", 0, unitNothing)
		defer bar.end()
		verified, err := s.Verify(a.ctx)
		r.VerifyFindings = verified.FindingCount
		if verified.FindingCount > 0 {
			return nil
		}
		return err
	})
	return r, err
}

// copyStore copies the files of a store, except for the lock and the space kept back.
func copyStore(a *app, from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	var names []string
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		name := e.Name()
		if info.Mode().IsRegular() && name != "LOCK" && !strings.HasPrefix(name, "SPARE") {
			names = append(names, name)
			total += info.Size()
		}
	}
	bar := a.progress("copying", total, unitBytes)
	defer bar.end()
	for _, name := range names {
		if err := copyFile(a.ctx, filepath.Join(from, name), filepath.Join(to, name), bar); err != nil {
			return err
		}
	}
	return syncDirectory(to)
}

// copyFile copies a file and makes the copy durable: the store believes what headers call durable.
func copyFile(ctx context.Context, from, to string, bar *progress) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // it was only read
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, bar.reader(in))
	if err == nil {
		err = errors.Join(ctx.Err(), out.Sync())
	}
	return errors.Join(err, out.Close())
}
