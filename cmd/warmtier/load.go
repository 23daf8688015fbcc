package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

type loadCmd struct {
	newDirFlag
	Sources      []string `arg:"" name:"source" help:"Files and directories; - is standard input."`
	Format       string   `enum:"auto,file,jsonl,csv" default:"auto" help:"What files hold: ${enum}. auto goes by the name: .jsonl, .ndjson, .csv, or a file with a content."`
	ID           id       `placeholder:"ID" help:"Id of the content on standard input."`
	IDField      string   `placeholder:"NAME" help:"JSON field or CSV column with the id; default: id, or the first column."`
	ContentField string   `placeholder:"NAME" help:"JSON field or CSV column with the content; default: the whole line, or row as JSON."`
	Prefix       id       `placeholder:"ID" help:"Put before each id."`
}

func (loadCmd) Help() string {
	return `Examples:
  warmtier load -d data ~/notes                  each file a memory, its path below ~/notes the id
  warmtier load -d data users.jsonl --id-field email
  warmtier load -d data products.csv --id-field sku --content-field description
  zcat events.gz | warmtier load -d data - --format jsonl --prefix event:
  fortune | warmtier load -d data - --id quote
Symbolic links and special files below a directory are left out, and counted.`
}

// loader stores memories and counts them.
type loader struct {
	c   *loadCmd
	a   *app
	s   *warmtier.Store
	bar *progress
	buf bytes.Buffer

	Memories int     `json:"memories"`
	Bytes    int64   `json:"bytes"`
	Replaced int     `json:"replaced"`
	Skipped  int     `json:"skipped"`
	Seconds  float64 `json:"seconds"`
}

func (c *loadCmd) Run(a *app) error {
	if slices.Contains(c.Sources, "-") && (c.Format == "auto" || c.Format == "file") && c.ID == "" {
		return usage("- needs --format jsonl, --format csv, or --id for a single memory")
	}
	start := time.Now()
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		l := &loader{c: c, a: a, s: s, bar: a.progress("loading", c.size(), unitBytes)}
		err := l.loadAll()
		l.bar.end()
		if err == nil {
			err = s.Sync()
		}
		l.Seconds = time.Since(start).Seconds()
		if err != nil {
			return fmt.Errorf("%w (%s memories were stored before)", err, showCount(l.Memories))
		}
		return a.result(l, [][]string{
			{"memories", showCount(l.Memories)}, {"of them replaced", showCount(l.Replaced)},
			{"bytes of content", showBytes(l.Bytes)}, {"files left out", showCount(l.Skipped)},
			{"time", showDuration(time.Since(start))},
		})
	})
}

// size returns the size of all sources that are files, for the progress bar.
func (c *loadCmd) size() (n int64) {
	for _, source := range c.Sources {
		if info, err := os.Stat(source); err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
	}
	return n
}

func (l *loader) loadAll() error {
	for _, source := range l.c.Sources {
		if err := l.load(source); err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
	}
	return nil
}

func (l *loader) load(source string) error {
	if source == "-" {
		return l.loadStream(l.a.in, 0, l.c.Format, string(l.c.ID))
	}
	info, err := os.Stat(source)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return l.loadDirectory(source)
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // it was only read
	format := l.c.Format
	if format == "auto" {
		format = map[string]string{".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}[filepath.Ext(source)]
	}
	return l.loadStream(f, info.Size(), format, filepath.ToSlash(source))
}

// loadStream loads what r has: size bytes, if that is known.
func (l *loader) loadStream(r io.Reader, size int64, format, id string) error {
	r = l.bar.reader(r)
	switch format {
	case "jsonl":
		return l.loadJSON(r)
	case "csv":
		return l.loadCSV(bufio.NewReaderSize(r, 1<<20))
	}
	if size > warmtier.MaxContentLen { // before it is read
		return fmt.Errorf("%w: %d bytes, limit %d", warmtier.ErrContentTooLarge, size, warmtier.MaxContentLen)
	}
	l.buf.Reset() // the store keeps no slice of ours
	l.buf.Grow(int(min(size, warmtier.MaxContentLen)) + bytes.MinRead)
	if _, err := l.buf.ReadFrom(io.LimitReader(r, warmtier.MaxContentLen+1)); err != nil {
		return err
	}
	return l.put(id, l.buf.Bytes())
}

// loadDirectory makes a memory of each file, but not of the store's own, which may lie below the
// directory.
func (l *loader) loadDirectory(dir string) error {
	own, err := os.Stat(l.c.Dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			info, err := d.Info()
			if err == nil && os.SameFile(info, own) {
				return fs.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() {
			l.Skipped++
			return nil
		}
		id, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, info, err := openFile(path)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // it was only read
		return l.loadStream(f, info.Size(), "file", filepath.ToSlash(id))
	})
}

// openFile opens a file for reading, and returns what it is.
func openFile(path string) (*os.File, os.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (l *loader) put(id string, content []byte) error {
	if err := l.a.ctx.Err(); err != nil {
		return err
	}
	id = string(l.c.Prefix) + id
	replaced := l.s.Has(id)
	if err := l.s.Put(id, content); err != nil {
		return err
	}
	l.Memories++
	l.Bytes += int64(len(content))
	if replaced {
		l.Replaced++
	}
	return nil
}

// loadJSON loads objects that follow each other, each on a line of its own or not.
func (l *loader) loadJSON(r io.Reader) error {
	d := json.NewDecoder(r)
	for n := 1; ; n++ {
		var object json.RawMessage
		err := d.Decode(&object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var id string
		var content []byte
		if err == nil {
			id, content, err = l.fieldsOf(object)
		}
		if err != nil {
			return badInput(fmt.Sprintf("JSON object %d", n), err)
		}
		if err := l.put(id, content); err != nil {
			return err
		}
	}
}

// badInput tells faults of the input from faults while reading it.
func badInput(where string, err error) error {
	if _, isIO := errors.AsType[*fs.PathError](err); isIO {
		return err
	}
	return finding("%s: %w", where, err)
}

func (l *loader) fieldsOf(object json.RawMessage) (id string, content []byte, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return "", nil, err
	}
	idField := l.c.IDField
	if idField == "" {
		idField = "id"
	}
	raw, ok := fields[idField]
	if !ok {
		return "", nil, fmt.Errorf("no field %q", idField)
	}
	name := textOf(raw)
	if l.c.ContentField == "" {
		return string(name), object, nil
	}
	raw, ok = fields[l.c.ContentField]
	if !ok {
		return "", nil, fmt.Errorf("no field %q", l.c.ContentField)
	}
	return string(name), textOf(raw), nil
}

// textOf returns a JSON string without its quotes, and any other JSON as it is.
func textOf(raw json.RawMessage) []byte {
	var text string
	if raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return []byte(text)
	}
	return raw
}

func (l *loader) loadCSV(r io.Reader) error {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return badInput("CSV header", err)
	}
	header = slices.Clone(header)
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // Excel's mark of UTF-8
	idColumn, contentColumn := 0, -1
	if name := l.c.IDField; name != "" {
		idColumn = slices.Index(header, name)
	}
	if name := l.c.ContentField; name != "" {
		contentColumn = slices.Index(header, name)
	}
	if idColumn < 0 || contentColumn < 0 && l.c.ContentField != "" {
		return usage("no such column: there are %q", header)
	}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return badInput("CSV", err)
		}
		content, err := rowContent(header, row, contentColumn)
		if err != nil {
			return err
		}
		if err := l.put(row[idColumn], content); err != nil {
			line, _ := in.FieldPos(idColumn)
			return fmt.Errorf("line %d: %w", line, err)
		}
	}
}

// rowContent returns one column, or all of them as a JSON object in the order of the header.
func rowContent(header, row []string, column int) ([]byte, error) {
	if column >= 0 {
		return []byte(row[column]), nil
	}
	b := bytes.NewBufferString("{")
	for i, name := range header {
		if i > 0 {
			b.WriteByte(',')
		}
		for _, part := range []string{name, ":", row[i]} {
			if part == ":" {
				b.WriteByte(':')
				continue
			}
			if err := writeJSON(b, part); err != nil {
				return nil, err
			}
			b.Truncate(b.Len() - 1) // its line end
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
