package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/warmtier/warmtier"
)

type exportCmd struct {
	dirFlag
	Output string `short:"o" default:"-" placeholder:"FILE" help:"Write to a file; default: standard output."`
	Format string `enum:"binary,jsonl" default:"binary" help:"${enum}: checksummed, for import; or JSON lines, for other programs."`
}

func (exportCmd) Help() string {
	return `Examples:
  warmtier export -d data -o data.warm
  warmtier export -d data | ssh elsewhere warmtier import -d data -
  warmtier export -d data --format jsonl | jq .id
binary ends with the number of memories and a checksum of everything: import refuses what is not whole.
In JSON lines, ids and contents that are not UTF-8 are in fields named id_base64 and content_base64. Only
a line cut in its middle can be told there: use binary for what must be whole.
A file appears under its name when it is whole, also where a link leads; a device or a FIFO is written to.
Exit code 1 when damaged memories had to be left out.`
}

func (c *exportCmd) Run(a *app) error {
	if isStdout(c.Output) { // whose result must not follow the export
		c.Output = "-"
	}
	if c.Output == "-" && c.Format == "binary" && isTerminal(os.Stdout) {
		return usage("the binary format is not for a terminal: choose --output FILE or --format jsonl")
	}
	return a.with(c.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) error {
		bar := a.progress("exporting", int64(s.Len()), unitMemories)
		var count int
		var err error
		if c.Output == "-" {
			count, err = c.write(a, s, a.out, bar)
		} else {
			err = writeOutput(a.ctx, c.Output, func(w io.Writer) (err error) {
				count, err = c.write(a, s, w, bar)
				return err
			})
		}
		bar.end()
		if err != nil || c.Output == "-" {
			return err
		}
		return a.result(map[string]any{"memories": count, "file": c.Output, "format": c.Format},
			[][]string{{"memories", showCount(count)}, {"file", c.Output}})
	})
}

// write exports the store, which nobody changes during the call, and makes the stream whole only
// when nothing is missing.
func (c *exportCmd) write(a *app, s *warmtier.Store, w io.Writer, bar *progress) (count int, err error) {
	put := func(id string, content []byte) error { return writeJSON(w, newMemoryJSON(id, content)) }
	end := func() error { return nil }
	if c.Format == "binary" {
		stream, err := newStreamWriter(w)
		if err != nil {
			return 0, err
		}
		put, end = stream.put, stream.end
	}
	for id, content := range s.All() {
		if err := errors.Join(a.ctx.Err(), put(id, content)); err != nil {
			return count, err
		}
		count++
		bar.add(1)
	}
	if err := unread(s); err != nil {
		return count, err
	}
	if count != s.Len() {
		return count, finding("%d of %d memories could be read: see warmtier verify", count, s.Len())
	}
	return count, end()
}

type importCmd struct {
	newDirFlag
	File   string `arg:"" help:"File that export wrote; - is standard input."`
	Format string `enum:"auto,binary,jsonl" default:"auto" help:"${enum}. auto goes by the first bytes."`
}

func (importCmd) Help() string {
	return `Examples:
  warmtier import -d data data.warm
  ssh elsewhere warmtier export -d data | warmtier import -d data -
A file is checked as a whole before anything of it is stored. Standard input cannot be: when it turns out
to be damaged, what came before the damage is stored, the message says how much, and the exit code is 1.
Memories with the same id are replaced, all others stay.`
}

func (c *importCmd) Run(a *app) error {
	in := a.in
	var size int64
	if c.File != "-" {
		f, info, err := openFile(c.File)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // it was only read
		in, size = f, info.Size()
		if info.Mode().IsRegular() {
			if _, err := c.read(a, f, "checking", size, func(string, []byte) error { return nil }); err != nil {
				return fmt.Errorf("%s: %w; nothing was imported", c.File, err)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
	}
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		count, err := c.read(a, in, "importing", size, s.Put)
		if err == nil {
			err = s.Sync()
		}
		if err != nil {
			return fmt.Errorf("%s: %w; %s memories were imported", c.File, err, showCount(count))
		}
		return a.result(map[string]any{"memories": count}, [][]string{{"memories", showCount(count)}})
	})
}

func (c *importCmd) read(a *app, in io.Reader, title string, size int64,
	put func(id string, content []byte) error) (count int, err error) {
	bar := a.progress(title, size, unitBytes)
	defer bar.end()
	r := bufio.NewReaderSize(bar.reader(in), 1<<20)
	format := c.Format
	if format == "auto" {
		format = "binary"
		if first, err := r.Peek(1); err == nil && strings.Contains("{ \t\r\n", string(first)) {
			format = "jsonl"
		}
	}
	counted := func(id string, content []byte) error {
		if err := errors.Join(a.ctx.Err(), put(id, content)); err != nil {
			return err
		}
		count++
		return nil
	}
	if format == "jsonl" {
		err = readLines(r, counted)
	} else {
		err = readStream(r, counted)
	}
	return count, err
}

// readLines reads JSON lines.
func readLines(r io.Reader, put func(id string, content []byte) error) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	for n := 1; ; n++ {
		var m memoryJSON
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			return nil
		}
		id, content := "", []byte(nil)
		if err == nil {
			id, content, err = m.memory()
		}
		if err != nil {
			return badInput(fmt.Sprintf("JSON line %d", n), err)
		}
		if err := put(id, content); err != nil {
			return err
		}
	}
}
