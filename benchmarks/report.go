package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Everything between these lines of the document is written by this program.
const (
	beginMark = "<!-- benchmarks: begin, written by benchmarks/ -->"
	endMark   = "<!-- benchmarks: end -->"
)

// order is the order of sections in the document.
var order = []string{"figure-get", "figure-cached", "figure-mixed", "figure-put", "figure-large",
	"figure-memory", "figure-gc", "limits", "contents",
	"counts", "goroutines", "production", "trace", "hits", "directories", ycsbSection, "memory", "gc",
	"defaults", "million-defaults", "sustained", "utilisation"}

// writeReport makes section and charts from results, and puts them into the document. Of suites that have no
// results it keeps the part that the document has.
func writeReport(all results, document string, known []suite) error {
	images := filepath.Join(filepath.Dir(document), "img")
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	old, err := os.ReadFile(document)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	kept := oldParts(string(old), known)
	var b strings.Builder
	b.WriteString("## Beside others\n\n" + intro)
	for _, name := range order {
		s, ok := all[name]
		if !ok {
			b.WriteString(kept[name])
			continue
		}
		if err := writeSuite(&b, s, images); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return os.WriteFile(document, []byte(replaceSection(string(old), b.String())), 0o644)
}

const intro = "Each store lives in a process of its own and holds the same ids (15 bytes) and contents. Turns of " +
	"all stores follow each other, round after round, and entries are medians over the rounds, with the " +
	"lowest and the highest. Where a store can copy a content into the caller's buffer it does; the " +
	"buffer is used again. Caches have room for everything: a read that finds nothing ends the " +
	"measurement where nothing is written, and shows as hits below 100 % where something is. The last " +
	"row of a table is warmtier over the fastest of the others that return a copy, and, in brackets, of all. " +
	"A table and a log, where shown, are no store: the loads, copies and checksums that a store of checked records " +
	"cannot do without, in a loop ([floor.go](../benchmarks/floor.go)).\n\n" +
	"```sh\ncd benchmarks && go run . -only figures   # the rows that matter most\n" +
	"go run .                                  # all of it, about 30 minutes; -quick: about 3\n```\n"

// oldParts returns the parts of a document's section by the name of their suite, known by its title.
func oldParts(document string, known []suite) map[string]string {
	parts := map[string]string{}
	_, section, _ := strings.Cut(document, beginMark)
	section, _, _ = strings.Cut(section, endMark)
	for _, part := range strings.Split(section, "\n### ")[1:] {
		title, _, _ := strings.Cut(part, "\n")
		for _, s := range known {
			if s.title == title {
				parts[s.key()] = "\n### " + strings.TrimSpace(part) + "\n\n"
			}
		}
	}
	return parts
}

// replaceSection replaces the section of a document; one that is not there yet goes to the end.
func replaceSection(document, section string) string {
	section = beginMark + "\n\n" + strings.TrimSpace(section) + "\n\n" + endMark
	begin, end := strings.Index(document, beginMark), strings.Index(document, endMark)
	if begin >= 0 && end > begin {
		return document[:begin] + section + document[end+len(endMark):]
	}
	if document != "" {
		document = strings.TrimRight(document, "\n") + "\n\n"
	}
	return document + section + "\n"
}

// writeSuite writes the part of a suite, and its charts into the folder images, unless that is "".
func writeSuite(b *strings.Builder, s suiteResult, images string) error {
	fmt.Fprintf(b, "\n### %s\n\n", s.Title)
	if s.Note != "" {
		fmt.Fprintf(b, "%s\n\n", s.Note)
	}
	fmt.Fprintf(b, "%s, %s; profile %s.\n\n", s.When, s.Machine, s.Profile)
	switch s.Name {
	case "sustained":
		return writeSustained(b, s, images)
	case "defaults", "million-defaults":
		return writeDefaults(b, s, images)
	}
	for i, t := range s.Tables {
		writeTable(b, t)
		image := fmt.Sprintf("bench-%s-%d.svg", s.Name, i+1)
		if images == "" {
			continue
		}
		if drawn, err := drawTable(t, filepath.Join(images, image)); err != nil {
			return err
		} else if drawn {
			fmt.Fprintf(b, "![%s](img/%s)\n\n", t.Title, image)
		}
	}
	return nil
}

func writeTable(b *strings.Builder, t *table) {
	fmt.Fprintf(b, "| %s, %s | %s |\n", t.Title, t.Unit, strings.Join(t.Columns, " | "))
	fmt.Fprintf(b, "| --- |%s\n", strings.Repeat(" --- |", len(t.Columns)))
	for _, r := range t.Rows {
		fmt.Fprintf(b, "| %s |", label(r.Peer))
		for _, column := range t.Columns {
			fmt.Fprintf(b, " %s |", r.Cells[column])
		}
		b.WriteString("\n")
	}
	writeRatios(b, t)
	if _, ok := drivers[t.Rows[0].Peer]; ok {
		writeYCSBRatios(b, t)
	}
	b.WriteString("\n")
}

func label(peer string) string {
	if k, ok := kinds[peer]; ok {
		return k.label
	}
	if d, ok := drivers[peer]; ok {
		return d.label
	}
	return peer
}

// pointers are the peers that hand out what they store instead of a copy.
var pointers = []string{"otter", "otter-unbounded", "ristretto", "map"}

// writeRatios compares warmtier with the fastest other, of those that copy and of all, and with the floor.
func writeRatios(b *strings.Builder, t *table) {
	if len(t.Rows) == 1 {
		return
	}
	for _, own := range []struct{ peer, title string }{
		{"warmtier", "warmtier"}, {"warmtier-batch", "batches of 64"},
	} {
		if !slices.ContainsFunc(t.Rows, func(r *row) bool { return r.Peer == own.peer }) {
			continue
		}
		var line strings.Builder
		for _, column := range t.Columns {
			copying, all := t.fastest(column)
			v := t.row(own.peer).Cells[column].median()
			if v <= 0 || copying == 0 {
				line.WriteString(" |")
				continue
			}
			fmt.Fprintf(&line, " **%.2f** (%.2f) |", v/copying, v/all)
		}
		fmt.Fprintf(b, "| **%s / fastest** |%s\n", own.title, line.String())
	}
	writeFloorRatio(b, t)
}

// fastest returns the least of others' figures, of those that return a copy and of all.
func (t *table) fastest(column string) (copying, all float64) {
	for _, r := range t.Rows {
		v := r.Cells[column].median()
		if strings.HasPrefix(r.Peer, "warmtier") || r.Peer == "floor" || v <= 0 {
			continue
		}
		if all == 0 || v < all {
			all = v
		}
		if !slices.Contains(pointers, r.Peer) && (copying == 0 || v < copying) {
			copying = v
		}
	}
	return copying, all
}

func writeFloorRatio(b *strings.Builder, t *table) {
	if !slices.ContainsFunc(t.Rows, func(r *row) bool { return r.Peer == "floor" }) {
		return
	}
	b.WriteString("| **warmtier / a table and a log** |")
	for _, column := range t.Columns {
		own, floor := t.row("warmtier").Cells[column].median(), t.row("floor").Cells[column].median()
		if own <= 0 || floor <= 0 {
			b.WriteString(" |")
			continue
		}
		fmt.Fprintf(b, " **%.2f** |", own/floor)
	}
	b.WriteString("\n")
}

func (m *measured) median() float64 {
	if m == nil {
		return 0
	}
	return median(m.Values)
}

// String returns median, lowest and highest, hits where some were missed, and moves where some were
// made.
func (m *measured) String() string {
	switch {
	case m == nil:
		return ""
	case m.Err != "" && strings.Contains(m.Err, "left out"):
		return "left out: memory"
	case m.Err != "":
		return "failed"
	}
	s := number(median(m.Values))
	if len(m.Values) > 1 {
		s += fmt.Sprintf(" (%s–%s)", number(slices.Min(m.Values)), number(slices.Max(m.Values)))
	}
	if hits := median(m.Hits); hits < 0.9995 && hits > 0 {
		s += fmt.Sprintf(", %.1f %% hits", hits*100)
	}
	if moved := m.Extra["moved-per-put"]; len(moved) > 0 {
		s += fmt.Sprintf(", %.1f moved/Put", median(moved))
	}
	return s
}

// number returns v with about three digits.
func number(v float64) string {
	switch {
	case v >= 1000 || v <= -1000:
		return countName(int(v + 0.5))
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

// writeSustained shows time series by their extremes and by their first and last third, where a
// drift shows.
func writeSustained(b *strings.Builder, s suiteResult, images string) error {
	for _, t := range s.Tables {
		fmt.Fprintf(b, "| ids | calls/s | lowest, highest | first third, last third | fragmentation | "+
			"records, share of the budget | resident, MiB | read p99.9, µs | longest read, ms | compactions |\n")
		fmt.Fprintf(b, "|%s\n", strings.Repeat(" --- |", 10))
		for _, column := range t.Columns {
			for _, r := range t.Rows {
				writeSeries(b, column, r.Cells[column])
			}
		}
		b.WriteString("\n")
		image := "bench-sustained.svg"
		if images == "" {
			continue
		}
		if err := drawSustained(t, filepath.Join(images, image)); err != nil {
			return err
		}
		fmt.Fprintf(b, "![%s](img/%s)\n\n", s.Title, image)
	}
	return nil
}

func writeSeries(b *strings.Builder, column string, m *measured) {
	if m.Err != "" || len(m.Values) == 0 {
		fmt.Fprintf(b, "| %s | failed |\n", column)
		return
	}
	rates := perSecond(m.Values)
	third := max(1, len(rates)/3)
	budget := m.Extra["live-bytes"][0] / 0.8
	fmt.Fprintf(b, "| %s | %s | %s, %s | %s, %s | %.3f, at most %.3f | %.2f, at most %.2f | %.0f to %.0f | "+
		"%s, worst second %s | %.1f | %.0f |\n", column, number(median(rates)),
		number(slices.Min(rates)), number(slices.Max(rates)),
		number(median(rates[:third])), number(median(rates[len(rates)-third:])),
		median(m.Extra["fragmentation"]), slices.Max(m.Extra["fragmentation"]),
		median(m.Extra["total-bytes"])/budget, slices.Max(m.Extra["total-bytes"])/budget,
		slices.Min(m.Extra["resident-bytes"])/(1<<20), slices.Max(m.Extra["resident-bytes"])/(1<<20),
		number(median(m.Extra["p99.9-us"])), number(slices.Max(m.Extra["p99.9-us"])),
		slices.Max(m.Extra["max-us"])/1e3, slices.Max(m.Extra["compactions"]))
}

// perSecond turns ns per call into calls per second.
func perSecond(ns []float64) []float64 {
	rates := make([]float64, len(ns))
	for i, v := range ns {
		rates[i] = 1e9 / v
	}
	return rates
}

// writeDefaults shows a minute of each store by its figures, and compares warmtier's median with that
// of each other.
func writeDefaults(b *strings.Builder, s suiteResult, images string) error {
	for _, t := range s.Tables {
		b.WriteString("| memories | store | given, MiB | Puts/s, by second | warmtier's over it | processor, ns/Put | " +
			"Put p50, µs | p99.9, µs | longest, ms | resident at the end, MiB | peak, MiB | held at the end |\n")
		fmt.Fprintf(b, "|%s\n", strings.Repeat(" --- |", 12))
		for _, column := range t.Columns {
			own := t.row("warmtier-default").cell(column).median()
			for _, r := range t.Rows {
				fmt.Fprintf(b, "| %s | %s |", column, label(r.Peer))
				writeMinute(b, r.Cells[column], own)
			}
		}
		b.WriteString("\n")
		image := "bench-" + s.Name + ".svg"
		if images == "" {
			continue
		}
		if err := drawDefaults(t, filepath.Join(images, image)); err != nil {
			return err
		}
		fmt.Fprintf(b, "![%s](img/%s)\n\n", s.Title, image)
	}
	return nil
}

func writeMinute(b *strings.Builder, m *measured, own float64) {
	if m.Err != "" || len(m.Values) == 0 {
		b.WriteString(" failed |\n")
		return
	}
	const mib = 1 << 20
	given := "as needed"
	if room := median(m.Extra["room-bytes"]); room > 0 {
		given = number(room / mib)
	}
	figure := func(name string, unit float64) string { return number(median(m.Extra[name]) / unit) }
	resident := m.Extra["resident-bytes"]
	fmt.Fprintf(b, " %s | %s (%s–%s) | %.2f | %s | %s | %s | %s | %s | %s | %.2f %% |\n", given,
		number(m.median()), number(slices.Min(m.Values)), number(slices.Max(m.Values)), own/m.median(),
		figure(processorTimeUnit, 1), figure("p50-us", 1), figure("p99.9-us", 1), figure("max-us", 1e3),
		number(resident[len(resident)-1]/mib), figure("peak-bytes", mib), median(m.Hits)*100)
}
