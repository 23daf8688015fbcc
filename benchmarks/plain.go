package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// writePlain writes the section of a suite for a terminal: without charts, the columns of its tables aligned.
func writePlain(w io.Writer, s suiteResult) error {
	var b strings.Builder
	if err := writeSuite(&b, s, ""); err != nil {
		return err
	}
	var out strings.Builder
	var table [][]string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if cells, ok := strings.CutPrefix(line, "|"); ok {
			if !strings.HasPrefix(cells, " ---") {
				table = append(table, strings.Split(strings.TrimSuffix(cells, "|"), "|"))
			}
			continue
		}
		writeAligned(&out, table)
		table = nil
		out.WriteString(strings.ReplaceAll(line, "### ", "") + "\n")
	}
	writeAligned(&out, table)
	_, err := io.WriteString(w, out.String())
	return err
}

// writeAligned writes rows with each column as wide as its widest cell.
func writeAligned(b *strings.Builder, table [][]string) {
	var widths []int
	for _, row := range table {
		for i, cell := range row {
			row[i] = strings.ReplaceAll(strings.TrimSpace(cell), "**", "")
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range table {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
