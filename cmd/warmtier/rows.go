package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// lineCounter tells the line of a place in what was read through it.
type lineCounter struct {
	io.Reader
	read, line int64
	ends       []int64 // of lines that are read and not yet counted in line
}

func (l *lineCounter) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	for at := 0; ; at++ {
		next := bytes.IndexByte(b[at:n], '\n')
		if next < 0 {
			break
		}
		at += next
		l.ends = append(l.ends, l.read+int64(at))
	}
	l.read += int64(n)
	return n, err
}

// at returns the number of the line that has the byte at offset. Offsets only grow from call to call.
func (l *lineCounter) at(offset int64) int64 {
	passed := 0
	for passed < len(l.ends) && l.ends[passed] < offset {
		passed++
	}
	l.ends = slices.Delete(l.ends, 0, passed)
	l.line += int64(passed)
	return l.line + 1
}

// byteOrderMark begins files that are UTF-8 of programs of Windows.
const byteOrderMark = "\ufeff"

// readObjects calls fn for each of the JSON objects that follow each other, each on a line of its own or not.
func readObjects(r io.Reader, fn func(object json.RawMessage) error) error {
	start := bufio.NewReader(r)
	if mark, err := start.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = start.Discard(len(mark)) // they are there
	}
	lines := &lineCounter{Reader: start}
	d := json.NewDecoder(lines)
	for {
		d.More() // goes to where the object begins
		line := lines.at(d.InputOffset())
		var object json.RawMessage
		err := d.Decode(&object)
		switch _, isIO := errors.AsType[*fs.PathError](err); {
		case errors.Is(err, io.EOF):
			return nil
		case isIO:
			return err
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = finding("the object that begins here is cut off")
		case err != nil:
			err = finding("this is not JSON: %w", err)
		case object[0] != '{':
			err = finding(`want a JSON object, as in {"id": ...}, not %s`, kindOf(object))
		case !utf8.Valid(object): // it would be replaced
			err = finding("not UTF-8, which JSON is")
		default:
			err = fn(object)
		}
		if err != nil {
			return badInput(line, err)
		}
	}
}

// badInput says in which line of the input a fault is, unless it is one of the store.
func badInput(line int64, err error) error {
	if exitCode(err) != exitFinding {
		return err
	}
	return about(fmt.Sprintf("line %d", line), err)
}

// kindOf returns what a JSON value is.
func kindOf(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// loadObject makes a memory of a JSON object.
func (l *loader) loadObject(object json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(object, &fields); err != nil {
		return findingError{err}
	}
	idField := cmp.Or(l.c.IDField, "id")
	raw, ok := fields[idField]
	if !ok {
		return finding("no field %q", idField)
	}
	if kind := kindOf(raw); kind != "a string" && kind != "a number" {
		return finding("field %q is %s: an id is a string or a number", idField, kind)
	}
	if hasLoneSurrogate(raw) {
		return finding("field %q has half of a character, %s", idField, raw)
	}
	id, content := string(textOf(raw)), []byte(object)
	if name := l.c.ContentField; name != "" {
		if raw, ok = fields[name]; !ok {
			return finding("no field %q", name)
		}
		if kindOf(raw) == "null" {
			return finding("field %q is null: there is no content", name)
		}
		if raw[0] == '"' && hasLoneSurrogate(raw) {
			return finding("field %q has half of a character, which a content cannot have", name)
		}
		content = textOf(raw)
	}
	return l.put(id, content)
}

// textOf returns a JSON string without its quotes, and any other JSON as it is.
func textOf(raw json.RawMessage) []byte {
	var text string
	if raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return []byte(text)
	}
	return raw
}

// hasLoneSurrogate reports whether raw, which is JSON, escapes half of a character: decoded, it would be replaced, and
// two ids would be one.
func hasLoneSurrogate(raw []byte) bool {
	unit := func(at int) rune { // of \u and four digits, where these begin
		if len(raw) < at+6 || raw[at] != '\\' || raw[at+1] != 'u' {
			return utf8.RuneError
		}
		n, _ := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16) // as the decoder has checked
		return rune(n)
	}
	for at := 0; at < len(raw); at++ {
		if raw[at] != '\\' {
			continue
		}
		first := unit(at)
		at++ // what is escaped is no backslash of its own
		if !utf16.IsSurrogate(first) {
			continue
		}
		if utf16.DecodeRune(first, unit(at+5)) == utf8.RuneError {
			return true
		}
		at += 10
	}
	return false
}

// delimiter is what is between the columns of CSV.
type delimiter rune

// UnmarshalText makes delimiter a flag.
func (d *delimiter) UnmarshalText(text []byte) error {
	if string(text) == "tab" || string(text) == `\t` {
		text = []byte("\t")
	}
	r, n := utf8.DecodeRune(text)
	if n != len(text) || r == utf8.RuneError || strings.ContainsRune("\"\r\n\ufeff", r) {
		return fmt.Errorf("%q: want one character, as in ';', or tab", text)
	}
	*d = delimiter(r)
	return nil
}

// loadCSV makes a memory of each row below the header.
func (l *loader) loadCSV(r io.Reader) error {
	in := csv.NewReader(bufio.NewReaderSize(r, 1<<20))
	in.ReuseRecord = true
	in.Comma = rune(l.c.Delimiter)
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return csvError(err)
	}
	header = slices.Clone(header)
	header[0] = strings.TrimPrefix(header[0], byteOrderMark)
	idColumn, contentColumn, err := l.columns(header)
	if err != nil {
		return err
	}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return csvError(err)
		}
		content, err := rowContent(header, row, contentColumn)
		if err == nil {
			err = l.put(row[idColumn], content)
		}
		if err != nil {
			line, _ := in.FieldPos(idColumn)
			return badInput(int64(line), err)
		}
	}
}

// csvError returns the error of a csv.Reader with the line it is about.
func csvError(err error) error {
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		return badInput(int64(e.Line), findingError{e.Err})
	}
	return err
}

// columns returns which columns have the id and the content, -1 for the whole row. A header that does not fit
// would make memories of something else.
func (l *loader) columns(header []string) (id, content int, err error) {
	others := strings.ReplaceAll(",;\t|", string(l.c.Delimiter), "")
	if len(header) == 1 && strings.ContainsAny(header[0], others) {
		return 0, 0, badInput(1, finding("one column, %q: say with --delimiter what is between the columns", header[0]))
	}
	if l.c.IDField == "" && strings.ContainsAny(header[0], others) {
		return 0, 0, badInput(1, finding("the first column is %q: say with --delimiter what is between the columns, "+
			"or with --id-field that this is its name", header[0]))
	}
	for i, name := range header {
		if slices.Contains(header[:i], name) {
			return 0, 0, badInput(1, finding("two columns are named %q", name))
		}
	}
	find := func(name string, otherwise int) int {
		if name == "" {
			return otherwise
		}
		at := slices.Index(header, name)
		if at < 0 && err == nil {
			err = badInput(1, finding("no column is named %q, there are %q", name, header))
		}
		return at
	}
	id = find(l.c.IDField, 0)
	content = find(l.c.ContentField, -1)
	return id, content, err
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
			if !utf8.ValidString(part) { // it would be replaced
				return nil, finding("column %q is not UTF-8: choose it with --content-field, or convert the file", name)
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
