package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

type exportCmd struct {
	whereFlag
	Output string `short:"o" default:"-" placeholder:"FILE" help:"Write to a file; default: standard output."`
	Format string `enum:"binary,jsonl" default:"binary" help:"${enum}: checksummed, for import, or JSON lines."`
	Prefix id     `placeholder:"ID" help:"Only memories whose id begins with this, of JSON lines."`
}

func (exportCmd) Help() string {
	return `Examples:
  warmtier export -d data -o data.warm
  warmtier export -d data | ssh elsewhere warmtier import -d data -
  warmtier export -d data --format jsonl | jq .id
  WARMTIER_TOKEN=secret warmtier export --url http://127.0.0.1:7077 -o data.warm
binary has all memories, checksums, and an end mark: import refuses what is not whole. A program reads it with
Store.Import, and writes it with Store.Export. --prefix is for JSON lines.
In JSON lines, ids and contents that are not UTF-8 are in fields named id_base64 and content_base64. Only
a line cut in its middle can be told there: use binary for what must be whole.
A file appears under its name when it is whole, also where a link leads; a device or a FIFO is written to.
Of a server, a memory that is written during the export is in it in one version or another.
A damaged memory is left out of JSON lines and ends a binary export, both with exit code 1.`
}

func (c *exportCmd) Run(a *app) error {
	if isStdout(c.Output) { // whose result must not follow the export
		c.Output = "-"
	}
	binary := c.Format == "binary"
	switch {
	case binary && c.Prefix != "":
		return usage("a binary export has all memories: --prefix is for --format jsonl")
	case binary && c.Output == "-" && isTerminal(os.Stdout):
		return usage("the binary format is not for a terminal: choose --output FILE or --format jsonl")
	}
	return c.read(a, func(r reader) error {
		count := 0
		write := func(w io.Writer) (err error) {
			if binary {
				count, err = exportBinary(a, r, w)
			} else {
				count, err = c.exportLines(a, r, w)
			}
			return err
		}
		if c.Output == "-" {
			return write(a.out)
		}
		if err := c.checkOutput(c.Output); err != nil {
			return err
		}
		if err := writeOutput(a.ctx, c.Output, write); err != nil {
			return err
		}
		return a.result(map[string]any{"memories": count, "file": c.Output, "format": c.Format},
			[][]string{{"memories", showCount(count)}, {"file", showName(c.Output)}})
	})
}

func exportBinary(a *app, r reader, w io.Writer) (count int, err error) {
	bar := a.progress("exporting", 0, unitBytes)
	defer bar.end()
	return r.export(a.ctx, bar.writer(w))
}

func (c *exportCmd) exportLines(a *app, r reader, w io.Writer) (count int, err error) {
	total, err := r.count(a.ctx)
	if err != nil {
		return 0, err
	}
	bar := a.progress("exporting", int64(total), unitMemories)
	defer bar.end()
	err = r.each(a.ctx, string(c.Prefix), func(m memory) error {
		count++
		bar.add(1)
		return writeJSON(w, newMemoryJSON(m))
	})
	return count, err
}

type importCmd struct {
	whereFlag
	sizeFlags
	File   string `arg:"" help:"File that export wrote; - is standard input."`
	Format string `enum:"auto,binary,jsonl" default:"auto" help:"${enum}. auto goes by the first bytes."`
}

func (importCmd) Help() string {
	return `Examples:
  warmtier import -d data data.warm
  ssh elsewhere warmtier export -d data | warmtier import -d data -
  WARMTIER_TOKEN=secret warmtier import --url http://127.0.0.1:7077 data.warm
Everything is checked before anything of it is stored; over 1 MiB of standard input waits in a file below $TMPDIR
for that. A memory whose id the store has is left alone. What expires does so at the same moment as where it came
from; what has expired by now is left out.
A directory that is not there yet appears when all of it is stored; what ends this before, a kill or a power loss too,
leaves at most one beside it, DIR.import-NUMBER, to be removed. Into a store that is there all of a binary export is
stored or nothing, also when this fails or is interrupted, but after a kill some: to import again adds the others. Of
JSON lines what came before stays there.
A server takes a binary export, while it serves, and keeps it below its own $TMPDIR until it has all of it. One that is
interrupted stores nothing, unless the server had ended already.`
}

func (c *importCmd) Run(a *app) error {
	if c.URL != "" {
		return c.intoServer(a)
	}
	if err := checkDirectory(c.Dir, creating); err != nil {
		return err
	}
	in, err := a.openInput(c.File, false)
	if err != nil {
		return aboutFile(c.File, err)
	}
	defer in.close()
	store := importBinary // which checks all before it stores any
	binary, err := c.isBinary(in)
	if err == nil && !binary {
		store, err = importLines, checkLines(a, in)
	}
	if err != nil {
		return contextError{"", "; nothing was imported", aboutFile(c.File, err)}
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var st warmtier.ExportStats
	imported := func(s *warmtier.Store) (err error) {
		st, err = store(a, in, s)
		return aboutFile(c.File, err)
	}
	if _, err := os.Lstat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		err = c.intoNew(a, imported)
		if err != nil {
			return contextError{"", "; nothing was imported", err}
		}
	} else if err := a.with(c.Dir, creating, unattended(c.options()), imported); err != nil {
		if binary && !errors.Is(err, warmtier.ErrSyncFailed) {
			return contextError{"", "; nothing was imported", err}
		}
		return done(err, int(st.Memories), "imported")
	}
	return a.imported(importAnswer{st.Memories, st.Existing, st.Expired})
}

// intoServer sends a binary export to a server.
func (c *importCmd) intoServer(a *app) error {
	if c.SegmentSize != 0 || c.MaxBytes != 0 {
		return usage("a server has its sizes: --segment-size and --max-bytes are for --dir")
	}
	in, err := a.openInput(c.File, false)
	if err != nil {
		return aboutFile(c.File, err)
	}
	defer in.close()
	binary, err := c.isBinary(in)
	if err == nil && !binary {
		return usage("a server takes a binary export: import JSON lines into a directory, and export that")
	}
	if err == nil {
		_, err = in.Seek(0, io.SeekStart)
	}
	if err != nil {
		return aboutFile(c.File, err)
	}
	st, err := c.client().importAll(a, in)
	if err != nil {
		return err
	}
	return a.imported(st)
}

// imported shows what became of an export.
func (a *app) imported(st importAnswer) error {
	table := [][]string{{"memories", showCount(st.Memories)}}
	if st.Existing > 0 {
		table = append(table, []string{"left alone", showCount(st.Existing) + " that were there"})
	}
	if st.Expired > 0 {
		table = append(table, []string{"left out", showCount(st.Expired) + " that had expired"})
	}
	return a.result(st, table)
}

// intoNew makes a store with what imported stores, which gets its name when it is whole and durable. The other name is
// beside it, on the same file system.
func (c *importCmd) intoNew(a *app, imported func(*warmtier.Store) error) error {
	dir := filepath.Clean(c.Dir)
	made := fmt.Sprintf("%s.import-%08x", dir, rand.Uint32())
	err := a.with(made, creating, unattended(c.options()), imported)
	if err == nil {
		err = os.Rename(made, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(made))
	}
	return syncDirectory(filepath.Dir(dir))
}

// isBinary reports whether in, which is at its start, is to be read as a binary export.
func (c *importCmd) isBinary(in *input) (bool, error) {
	if c.Format != "auto" {
		return c.Format == "binary", nil
	}
	var first [1]byte
	n, err := in.Read(first[:])
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	_, err = in.Seek(0, io.SeekStart)
	return n == 0 || !strings.Contains("{ \t\r\n"+byteOrderMark[:1], string(first[:])), err
}

func importBinary(a *app, in *input, s *warmtier.Store) (warmtier.ExportStats, error) {
	bar := a.progress("importing", in.size, unitBytes)
	defer bar.end()
	return s.Import(a.ctx, &countedInput{in, bar})
}

func checkLines(a *app, in *input) error {
	bar := a.progress("checking", in.size, unitBytes)
	defer bar.end()
	return readLines(bar.reader(in), func(m memory) error {
		if n := len(m.id); n == 0 || n > warmtier.MaxIDLen {
			return finding("an id has 1 to %d bytes, this one has %d", warmtier.MaxIDLen, n)
		}
		if err := checkLength(int64(len(m.content))); err != nil {
			return findingError{err}
		}
		return a.ctx.Err()
	})
}

// importLines stores JSON lines as Import does an export. Nobody else has the store.
func importLines(a *app, in *input, s *warmtier.Store) (st warmtier.ExportStats, err error) {
	bar := a.progress("importing", in.size, unitBytes)
	defer bar.end()
	err = readLines(bar.reader(in), func(m memory) error {
		switch {
		case a.ctx.Err() != nil:
			return a.ctx.Err()
		case !m.expires.IsZero() && time.Until(m.expires) <= 0:
			st.Expired++
			return nil
		case s.Has(m.id):
			st.Existing++
			return nil
		}
		err := putUntil(s, m)
		if err == nil {
			st.Memories++
		}
		return err
	})
	if err == nil {
		err = s.Sync()
	}
	return st, err
}

// putUntil stores m, with the deadline that it has, or, where the content is longer than a segment, one that is a
// moment off, and less than 293 years away.
func putUntil(s *warmtier.Store, m memory) error {
	if m.expires.IsZero() {
		return s.Put(m.id, m.content)
	}
	var b warmtier.Batch
	b.PutUntil(m.id, m.content, m.expires)
	err := s.Apply(&b)
	if errors.Is(err, warmtier.ErrBatchTooLarge) {
		err = s.PutTTL(m.id, m.content, max(1, time.Until(m.expires)))
	}
	return err
}

// readLines reads JSON lines.
func readLines(r io.Reader, put func(m memory) error) error {
	return readObjects(r, func(object json.RawMessage) error {
		d := json.NewDecoder(bytes.NewReader(object))
		d.DisallowUnknownFields()
		var j memoryJSON
		if err := d.Decode(&j); err != nil {
			return findingError{errors.New(strings.TrimPrefix(err.Error(), "json: "))}
		}
		if hasLoneSurrogate(object) {
			return finding("half of a character is escaped, which no export does")
		}
		m, err := j.memory()
		if err != nil {
			return findingError{err}
		}
		return put(m)
	})
}
