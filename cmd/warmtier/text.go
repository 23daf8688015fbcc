package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/warmtier/warmtier"
)

// hexPrefix marks ids in hexadecimal, in what is printed and in what is typed.
const hexPrefix = "hex:"

// id is an id on the command line: as it is, or hex:... for bytes that cannot be typed.
type id string

// UnmarshalText makes id an argument.
func (i *id) UnmarshalText(text []byte) error {
	digits, isHex := strings.CutPrefix(string(text), hexPrefix)
	if !isHex {
		*i = id(text)
		return nil
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return fmt.Errorf("%q: want an even number of hexadecimal digits after %q", text, hexPrefix)
	}
	*i = id(b)
	return nil
}

// memoryID is the id of a memory on the command line, neither empty nor too long.
type memoryID id

// UnmarshalText makes memoryID an argument.
func (i *memoryID) UnmarshalText(text []byte) error {
	if err := (*id)(i).UnmarshalText(text); err != nil {
		return err
	}
	if len(*i) == 0 || len(*i) > warmtier.MaxIDLen {
		return fmt.Errorf("an id has 1 to %d bytes, this one has %d", warmtier.MaxIDLen, len(*i))
	}
	return nil
}

// showID returns an id in a form that is safe for a terminal and for other programs: printable
// characters as they are, any other id in hexadecimal. Typed as an argument, the result is that id
// again.
func showID(id string) string {
	if printable(id) && !strings.HasPrefix(id, hexPrefix) && strings.TrimSpace(id) == id {
		return id
	}
	return hexPrefix + hex.EncodeToString([]byte(id))
}

// printable reports whether s holds nothing that could steer a terminal or break a line.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// byteSize is a number of bytes on the command line, as in 64KiB or 10MB.
type byteSize int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}, {"", 1},
}

// UnmarshalText makes byteSize a flag.
func (b *byteSize) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if n *= float64(u.bytes); err != nil || !(n >= 0 && n <= 1<<40) { // which NaN is not
			break
		}
		*b = byteSize(n)
		return nil
	}
	return fmt.Errorf("%q: want a number of bytes, as in 4096, 64KiB or 10MB", text)
}

func showBytes(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 10<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// showCount groups digits by thousands.
func showCount[T int | int64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	for at := len(s) - 3; at > 0 && s[at-1] != '-'; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// counted returns n with its noun, as in "1 memory" and "2 memories".
func counted[T int | int64](n T, noun string) string {
	if n != 1 {
		if stem, ok := strings.CutSuffix(noun, "y"); ok {
			noun = stem + "ie"
		}
		noun += "s"
	}
	return showCount(n) + " " + noun
}

// showName returns the name of a file in a form that is safe for a terminal.
func showName(name string) string {
	if printable(name) {
		return name
	}
	return strconv.Quote(name)
}

func showDuration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f µs", d.Seconds()*1e6)
}

func showShare(f float64) string { return fmt.Sprintf("%.1f %%", 100*f) }

// rows prints a table without borders, its columns aligned.
func rows(w io.Writer, table [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range table {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// answer prints v with --json, and the table without.
func (a *app) answer(v any, table [][]string) error {
	if a.json {
		return writeJSON(a.out, v)
	}
	return rows(a.out, table)
}

// result is answer for what a command has done, which -q keeps to itself.
func (a *app) result(v any, table [][]string) error {
	if a.quiet && !a.json {
		return nil
	}
	return a.answer(v, table)
}

// report is result for what looks for faults, which -q does not keep to itself.
func (a *app) report(v any, table, faults [][]string) error {
	if a.quiet && !a.json {
		return rows(a.out, faults)
	}
	return a.answer(v, table)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// memoryJSON is a memory in JSON: text as it is, and base64 where id or content are not UTF-8. The
// name of the field says which.
type memoryJSON struct {
	ID            *string `json:"id,omitempty"`
	IDBase64      *[]byte `json:"id_base64,omitempty"`
	Bytes         *int    `json:"bytes,omitempty"`
	Content       *string `json:"content,omitempty"`
	ContentBase64 *[]byte `json:"content_base64,omitempty"`

	Expires *time.Time `json:"expires,omitempty"`
}

func idJSON(id string) (m memoryJSON) {
	if utf8.ValidString(id) {
		m.ID = &id
	} else {
		b := []byte(id)
		m.IDBase64 = &b
	}
	return m
}

func newMemoryJSON(m memory) memoryJSON {
	j := idJSON(m.id)
	if utf8.Valid(m.content) {
		text := string(m.content)
		j.Content = &text
	} else {
		j.ContentBase64 = &m.content
	}
	j.expire(m.expires)
	return j
}

// lastMoment is the last one that JSON has; a store knows later ones.
var lastMoment = time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)

// expire notes when the memory expires, if it does.
func (m *memoryJSON) expire(at time.Time) {
	if at.After(lastMoment) {
		at = lastMoment
	}
	if !at.IsZero() {
		at = at.UTC()
		m.Expires = &at
	}
}

// memory is the inverse of newMemoryJSON.
func (m memoryJSON) memory() (got memory, err error) {
	switch {
	case (m.ID == nil) == (m.IDBase64 == nil):
		return got, errors.New(`want one of "id" and "id_base64"`)
	case (m.Content == nil) == (m.ContentBase64 == nil):
		return got, errors.New(`want one of "content" and "content_base64"`)
	case m.ID != nil:
		got.id = *m.ID
	default:
		got.id = string(*m.IDBase64)
	}
	if m.Content != nil {
		got.content = []byte(*m.Content)
	} else {
		got.content = *m.ContentBase64
	}
	if m.Expires != nil {
		got.expires = *m.Expires
	}
	return got, nil
}

// figures turns a struct of the package into a JSON object: names in snake case, durations in
// seconds.
func figures(v any) map[string]any {
	fields := map[string]any{}
	value := reflect.ValueOf(v)
	for i := range value.NumField() {
		name := snakeCase(value.Type().Field(i).Name)
		switch f := value.Field(i).Interface().(type) {
		case time.Duration:
			fields[name+"_seconds"] = f.Seconds()
		case time.Time:
			if !f.IsZero() {
				fields[name] = f
			}
		case warmtier.Histogram:
			fields[name] = map[string]any{"count": f.Count, "sum_seconds": f.Sum.Seconds(),
				"p50_seconds": f.Quantile(0.5).Seconds(), "p99_seconds": f.Quantile(0.99).Seconds()}
		default:
			if value.Field(i).Kind() == reflect.Struct {
				fields[name] = figures(f)
			} else {
				fields[name] = f
			}
		}
	}
	return fields
}

// snakeCase returns name in snake case. It keeps abbreviations together: ID is id, OK is ok.
func snakeCase(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) && !unicode.IsUpper(rune(name[i-1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
