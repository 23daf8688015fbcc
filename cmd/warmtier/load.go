package main

import (
	"bytes"
	"errors"
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
	Sources      []string  `arg:"" name:"source" help:"Files and directories; - is standard input."`
	Format       string    `enum:"auto,file,jsonl,csv" default:"auto" help:"What the files hold that are named: ${enum}. auto goes by the name: .jsonl, .ndjson, .csv, or a file with a content. Below a directory each file is a content."`
	ID           memoryID  `placeholder:"ID" help:"Id of the content on standard input."`
	IDField      string    `placeholder:"NAME" help:"JSON field or CSV column with the id; default: id, or the first column."`
	ContentField string    `placeholder:"NAME" help:"JSON field or CSV column with the content; default: the whole line, or row as JSON."`
	Delimiter    delimiter `default:"," placeholder:"CHARACTER" help:"What is between the columns of CSV, as in ';', or tab; default: a comma."`
	Prefix       id        `placeholder:"ID" help:"Put before each id."`
	KeepGoing    bool      `short:"k" help:"Go on after files that cannot be read; they are listed, and the exit code is 1."`
}

func (loadCmd) Help() string {
	return `Examples:
  warmtier load -d data ~/notes                  each file a memory, its path below ~/notes the id
  warmtier load -d data users.jsonl --id-field email
  warmtier load -d data products.csv --delimiter ';' --id-field sku --content-field description
  zcat events.gz | warmtier load -d data - --format jsonl --prefix event:
  fortune | warmtier load -d data - --id quote
Symbolic links and special files below a directory are left out, and listed. What comes from standard input or a
FIFO is read to its end before anything is stored; over 1 MiB of it waits in a file below $TMPDIR.`
}

// leftOut is a file that was not loaded.
type leftOut struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// loader stores memories and counts them.
type loader struct {
	c   *loadCmd
	a   *app
	s   *warmtier.Store
	bar *progress
	buf bytes.Buffer

	Memories   int       `json:"memories"`
	Bytes      int64     `json:"bytes"`
	Replaced   int       `json:"replaced"`
	Skipped    int       `json:"skipped"`
	Unreadable int       `json:"unreadable"` // of those skipped
	LeftOut    []leftOut `json:"left_out"`   // the first of those skipped

	faults  [][]string // lines about the first of those unreadable
	Seconds float64    `json:"seconds"`
}

// Bounds of lists of files that were left out, in JSON and for people.
const (
	maxLeftOut   = 10_000
	shownLeftOut = 20
)

func (c *loadCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if err := checkDirectory(c.Dir, creating); err != nil {
		return err
	}
	start := time.Now()
	l := &loader{c: c, a: a, bar: noProgress("", 0, unitBytes), LeftOut: []leftOut{}}
	sources, err := l.openSources()
	if err != nil {
		return err
	}
	err = a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		l.s, l.bar = s, a.progress("loading", totalSize(sources), unitBytes)
		err := l.loadAll(sources)
		l.bar.end()
		if err == nil {
			err = s.Sync()
		}
		return err
	})
	for _, source := range sources {
		source.close()
	}
	l.Seconds = time.Since(start).Seconds()
	if err != nil {
		return done(err, l.Memories, "stored")
	}
	if err := a.report(l, l.table(time.Since(start)), l.faults); err != nil {
		return err
	}
	if l.Unreadable > 0 {
		return finding("%s could not be loaded", counted(l.Unreadable, "file"))
	}
	return nil
}

// check refuses flags that would do nothing, or what was not meant, with these sources.
func (c *loadCmd) check() error {
	const directory = "directory"
	read := map[string]string{} // what the sources are read as, and one of them
	for i, name := range c.Sources {
		if info, err := os.Stat(name); name != "-" && err == nil && info.IsDir() {
			read[directory] = name
			continue
		}
		read[c.format(name)] = name
		if name == "-" && slices.Contains(c.Sources[:i], "-") {
			return usage("- is there twice: standard input is read once")
		}
	}
	none := func(formats ...string) bool {
		return !slices.ContainsFunc(formats, func(format string) bool { return read[format] != "" })
	}
	given := slices.Contains(c.Sources, "-")
	content := given && c.format("-") == "file"
	switch {
	case content && c.ID == "":
		return usage("- needs --format jsonl, --format csv, or --id for a single memory")
	case !content && c.ID != "":
		return usage("--id is for a single memory on standard input, which - stands for")
	case read[directory] != "" && c.Format != "auto" && c.Format != "file":
		return usage("each file below %s is a memory: name those that are to be read as --format %s",
			showName(read[directory]), c.Format)
	case c.Delimiter != ',' && none("csv"):
		return usage("--delimiter is for CSV, and none of this is: say --format csv where the name does not")
	case (c.IDField != "" || c.ContentField != "") && none("csv", "jsonl"):
		return usage("--id-field and --content-field are for JSON lines and CSV, and none of this is: " +
			"say --format where the name does not")
	}
	return nil
}

func (l *loader) table(took time.Duration) [][]string {
	table := [][]string{
		{"memories", showCount(l.Memories)}, {"of them replaced", showCount(l.Replaced)},
		{"bytes of content", showBytes(l.Bytes)}, {"files left out", showCount(l.Skipped)},
	}
	for _, out := range l.LeftOut[:min(len(l.LeftOut), shownLeftOut)] {
		table = append(table, []string{"", showName(out.Path) + ": " + out.Reason})
	}
	if more := l.Skipped - shownLeftOut; more > 0 {
		table = append(table, []string{"", "and " + showCount(more) + " more; --json has their names"})
	}
	return append(table, []string{"time", showDuration(took)})
}

// leaveOut notes a file that is not loaded.
func (l *loader) leaveOut(path, reason string) {
	l.Skipped++
	if len(l.LeftOut) < maxLeftOut {
		l.LeftOut = append(l.LeftOut, leftOut{path, reason})
	}
}

// unreadable notes a file that err kept from being read, or returns err if that ends the load.
func (l *loader) unreadable(path string, err error) error {
	if !l.c.KeepGoing || l.a.ctx.Err() != nil {
		return aboutFile(path, err)
	}
	reason := errorText(err)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		reason = e.Err.Error()
	}
	l.Unreadable++
	l.leaveOut(path, reason)
	if len(l.faults) < shownLeftOut {
		l.faults = append(l.faults, []string{showName(path) + ": " + reason})
	}
	return nil
}

// loadSource is what a name of the command line stands for.
type loadSource struct {
	name string
	size int64
	in   *input // nil for a directory, and for a regular file, which is opened again
}

func (s loadSource) close() {
	if s.in != nil {
		s.in.close()
	}
}

// openSources looks at everything that is to be loaded, so that what is not there makes no store.
func (l *loader) openSources() (sources []loadSource, err error) {
	for _, name := range l.c.Sources {
		if info, err := os.Stat(name); name != "-" && err == nil && info.IsDir() {
			sources = append(sources, loadSource{name: name})
			continue
		}
		in, err := l.a.openInput(name, l.c.format(name) == "file")
		switch {
		case err != nil:
			if err = l.unreadable(name, err); err != nil {
				return nil, err
			}
		case name != "-" && in.file != nil && in.regular:
			in.close()
			sources = append(sources, loadSource{name: name, size: in.size})
		default:
			sources = append(sources, loadSource{name, in.size, in})
		}
	}
	if len(sources) == 0 {
		var names []string
		for _, fault := range l.faults {
			names = append(names, fault...)
		}
		if more := l.Unreadable - len(names); more > 0 {
			names = append(names, "and "+showCount(more)+" more")
		}
		return nil, finding("nothing to load: %s", strings.Join(names, "; "))
	}
	return sources, nil
}

// totalSize returns the size of all sources that are files, for the progress bar.
func totalSize(sources []loadSource) (n int64) {
	for _, source := range sources {
		n += source.size
	}
	return n
}

// format returns what a file holds.
func (c *loadCmd) format(name string) string {
	switch {
	case c.Format != "auto":
		return c.Format
	case filepath.Ext(name) == ".jsonl", filepath.Ext(name) == ".ndjson":
		return "jsonl"
	case filepath.Ext(name) == ".csv":
		return "csv"
	}
	return "file"
}

func (l *loader) loadAll(sources []loadSource) error {
	for _, source := range sources {
		if err := l.load(source); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) load(source loadSource) error {
	if info, err := os.Stat(source.name); source.in == nil && err == nil && info.IsDir() {
		return l.loadDirectory(source.name)
	}
	in, id := source.in, filepath.ToSlash(source.name)
	if source.name == "-" {
		id = string(l.c.ID)
	}
	format := l.c.format(source.name)
	if in == nil {
		var err error
		if in, err = l.a.openInput(source.name, format == "file"); err != nil {
			return l.unreadable(source.name, err)
		}
		defer in.close()
	}
	r := l.bar.reader(in)
	switch format {
	case "jsonl":
		return aboutFile(source.name, readObjects(r, l.loadObject))
	case "csv":
		return aboutFile(source.name, l.loadCSV(r))
	}
	return aboutFile(source.name, l.loadFile(r, in.size, id))
}

// loadFile makes a memory of what r has: size bytes, or some other number in /proc.
func (l *loader) loadFile(r io.Reader, size int64, id string) error {
	if err := checkLength(size); err != nil { // before it is read
		return findingError{err}
	}
	l.buf.Reset() // the store keeps no slice of ours
	l.buf.Grow(int(size) + bytes.MinRead)
	if _, err := l.buf.ReadFrom(io.LimitReader(r, warmtier.MaxContentLen+1)); err != nil {
		return err
	}
	if err := checkLength(int64(l.buf.Len())); err != nil {
		return findingError{err}
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
			return l.unreadable(path, err)
		}
		if d.IsDir() {
			info, err := d.Info()
			if err == nil && os.SameFile(info, own) {
				return fs.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() {
			l.leaveOut(path, typeName(d.Type()))
			return nil
		}
		id, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, info, err := openFile(path)
		if err != nil {
			return l.unreadable(path, err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		err = l.loadFile(l.bar.reader(f), info.Size(), filepath.ToSlash(id))
		if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == path || errors.Is(err, warmtier.ErrContentTooLarge) {
			return l.unreadable(path, err)
		}
		return about(path, err)
	})
}

// typeName returns what a file is that has no content of its own.
func typeName(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
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
