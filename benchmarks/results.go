package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// results holds all suites ever measured into one file, by name: a run replaces the suites it
// measured.
type results map[string]suiteResult

// suiteResult holds the raw figures of one run of a suite.
type suiteResult struct {
	Name    string
	Title   string
	Note    string
	When    string
	Profile string
	Machine string
	Tables  []*table
}

type table struct {
	Title   string
	Unit    string
	Columns []string
	Rows    []*row
}

type row struct {
	Peer  string
	Cells map[string]*measured // by column
}

// measured is one cell: a value for each round.
type measured struct {
	Values []float64
	Hits   []float64            `json:",omitempty"`
	Extra  map[string][]float64 `json:",omitempty"`
	Err    string               `json:",omitempty"`
}

func newSuiteResult(s suite) suiteResult {
	return suiteResult{Name: s.key(), Title: s.title, Note: s.note, When: time.Now().UTC().Format("2006-01-02"),
		Machine: machine()}
}

// machine describes what figures depend on.
func machine() string {
	cpu := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d processors, %s %s/%s", cpu, runtime.NumCPU(), runtime.Version(),
		runtime.GOOS, runtime.GOARCH)
}

// add puts what one turn found into its cell.
func (s *suiteResult) add(c cell, peer string, r reply, err error) {
	m := s.table(c).row(peer).cell(c.column)
	if err != nil {
		m.Err = err.Error()
		return
	}
	if len(r.Samples) > 0 {
		m.Values = append(m.Values, r.Samples...)
	} else {
		m.Values = append(m.Values, r.Value)
	}
	m.Hits = append(m.Hits, r.Hits)
	for name, value := range r.Extra {
		if m.Extra == nil {
			m.Extra = map[string][]float64{}
		}
		m.Extra[name] = append(m.Extra[name], value)
	}
	for name, values := range r.Series {
		if m.Extra == nil {
			m.Extra = map[string][]float64{}
		}
		m.Extra[name] = append(m.Extra[name], values...)
	}
}

// put keeps what was measured; with more, beside the rounds that are there. Of a section with several suites, the
// columns that were not measured stay.
func (all results) put(s suiteResult, more bool) {
	old, ok := all[s.Name]
	if !ok || s.Name != ycsbSection && !more {
		all[s.Name] = s
		return
	}
	for _, t := range s.Tables {
		for _, column := range t.Columns {
			into := old.table(cell{table: t.Title, column: column, unit: t.Unit})
			for _, r := range t.Rows {
				cell := r.Cells[column]
				if before := into.row(r.Peer).Cells[column]; more && before != nil && cell != nil {
					cell = before.and(cell)
				}
				into.row(r.Peer).Cells[column] = cell
			}
		}
	}
	s.Tables = old.Tables
	all[s.Name] = s
}

// and returns the rounds of both.
func (m *measured) and(more *measured) *measured {
	sum := &measured{Values: slices.Concat(m.Values, more.Values), Hits: slices.Concat(m.Hits, more.Hits),
		Err: cmp.Or(m.Err, more.Err)}
	for name := range more.Extra {
		if sum.Extra == nil {
			sum.Extra = map[string][]float64{}
		}
		sum.Extra[name] = slices.Concat(m.Extra[name], more.Extra[name])
	}
	return sum
}

func (s *suiteResult) table(c cell) *table {
	for _, t := range s.Tables {
		if t.Title == c.table {
			return t.column(c.column)
		}
	}
	t := &table{Title: c.table, Unit: c.unit}
	s.Tables = append(s.Tables, t)
	return t.column(c.column)
}

func (t *table) column(name string) *table {
	for _, c := range t.Columns {
		if c == name {
			return t
		}
	}
	t.Columns = append(t.Columns, name)
	return t
}

func (t *table) row(peer string) *row {
	for _, r := range t.Rows {
		if r.Peer == peer {
			return r
		}
	}
	r := &row{Peer: peer, Cells: map[string]*measured{}}
	t.Rows = append(t.Rows, r)
	return r
}

func (r *row) cell(column string) *measured {
	if r.Cells[column] == nil {
		r.Cells[column] = &measured{}
	}
	return r.Cells[column]
}

// errors lists the cells that could not be measured.
func (s *suiteResult) errors() error {
	var all []error
	for _, t := range s.Tables {
		for _, r := range t.Rows {
			for _, column := range t.Columns {
				if m := r.Cells[column]; m != nil && m.Err != "" {
					all = append(all, fmt.Errorf("%s, %s, %s: %s", t.Title, column, r.Peer, m.Err))
				}
			}
		}
	}
	return errors.Join(all...)
}

// byProcessorTime shows the processor time of calls instead of wall time.
func (all results) byProcessorTime() {
	for _, s := range all {
		overTime := s.Name == "sustained" || strings.HasSuffix(s.Name, "defaults") // a line over time has no such figure
		for _, t := range s.Tables {
			for _, r := range t.Rows {
				for _, m := range r.Cells {
					if used := m.Extra[processorTimeUnit]; !overTime && len(used) > 0 {
						t.Unit, m.Values = processorTimeUnit, used
					}
				}
			}
		}
	}
}

func loadResults(name string) (results, error) {
	all := results{}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(b, &all)
}

func (all results) save(name string) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
