package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

type exportCmd struct {
	whereFlag
	Output string `short:"o" default:"-" placeholder:"FILE" help:"Write to a file; default: standard output."`
	Format string `enum:"binary,jsonl" default:"binary" help:"${enum}: checksummed, for import; or JSON lines, for other programs."`
	Prefix id     `placeholder:"ID" help:"Only memories whose id begins with this."`
}

func (exportCmd) Help() string {
	return `Examples:
  warmtier export -d data -o data.warm
  warmtier export -d data | ssh elsewhere warmtier import -d data -
  warmtier export -d data --format jsonl | jq .id
  WARMTIER_TOKEN=secret warmtier export --url http://127.0.0.1:7077 -o data.warm
binary ends with the number of memories and a checksum of everything: import refuses what is not whole.
In JSON lines, ids and contents that are not UTF-8 are in fields named id_base64 and content_base64. Only
a line cut in its middle can be told there: use binary for what must be whole.
A file appears under its name when it is whole, also where a link leads; a device or a FIFO is written to.
Of a server, a memory that is written during the export is in it in one version or another.
Exit code 1 when damaged memories had to be left out.`
}

func (c *exportCmd) Run(a *app) error {
	if isStdout(c.Output) { // whose result must not follow the export
		c.Output = "-"
	}
	if c.Output == "-" && c.Format == "binary" && isTerminal(os.Stdout) {
		return usage("the binary format is not for a terminal: choose --output FILE or --format jsonl")
	}
	return c.read(a, func(r reader) error {
		total, err := r.count(a.ctx)
		if err != nil {
			return err
		}
		bar := a.progress("exporting", int64(total), unitMemories)
		var count int
		if c.Output == "-" {
			count, err = c.write(a, r, a.out, bar)
		} else {
			err = writeOutput(a.ctx, c.Output, func(w io.Writer) (err error) {
				count, err = c.write(a, r, w, bar)
				return err
			})
		}
		bar.end()
		if err != nil || c.Output == "-" {
			return err
		}
		return a.result(map[string]any{"memories": count, "file": c.Output, "format": c.Format},
			[][]string{{"memories", showCount(count)}, {"file", showName(c.Output)}})
	})
}

// write exports the memories of r, and makes the stream whole only when nothing is missing.
func (c *exportCmd) write(a *app, r reader, w io.Writer, bar *progress) (count int, err error) {
	put := func(m memory) error { return writeJSON(w, newMemoryJSON(m)) }
	end := func() error { return nil }
	if c.Format == "binary" {
		stream, err := newStreamWriter(w)
		if err != nil {
			return 0, err
		}
		put, end = stream.put, stream.end
	}
	err = r.each(a.ctx, string(c.Prefix), func(m memory) error {
		count++
		bar.add(1)
		return put(m)
	})
	if err != nil {
		return count, err
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
Everything is checked before anything of it is stored; over 1 MiB of standard input waits in a file below $TMPDIR
for that. Memories with the same id are replaced, all others stay. What expires does so at the same moment as where
it came from; what has expired by now is left out.`
}

func (c *importCmd) Run(a *app) error {
	if err := checkDirectory(c.Dir, creating); err != nil {
		return err
	}
	in, err := a.openInput(c.File, false)
	if err != nil {
		return aboutFile(c.File, err)
	}
	defer in.close()
	if _, err := c.read(a, in, "checking", func(memory) error { return nil }); err != nil {
		return contextError{"", "; nothing was imported", aboutFile(c.File, err)}
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		expired := 0
		count, err := c.read(a, in, "importing", func(m memory) error {
			ttl := time.Until(m.expires)
			switch {
			case m.expires.IsZero():
				return s.Put(m.id, m.content)
			case ttl <= 0:
				expired++
				return nil
			}
			return s.PutTTL(m.id, m.content, ttl)
		})
		count -= expired
		if err == nil {
			err = s.Sync()
		}
		if err != nil {
			return done(aboutFile(c.File, err), count, "imported")
		}
		table := [][]string{{"memories", showCount(count)}}
		if expired > 0 {
			table = append(table, []string{"left out", showCount(expired) + " that had expired"})
		}
		return a.result(map[string]any{"memories": count, "expired": expired}, table)
	})
}

func (c *importCmd) read(a *app, in *input, title string,
	put func(m memory) error) (count int, err error) {
	bar := a.progress(title, in.size, unitBytes)
	defer bar.end()
	r := bufio.NewReaderSize(bar.reader(in), 1<<20)
	format := c.Format
	if format == "auto" {
		format = "binary"
		if first, err := r.Peek(1); err == nil && strings.Contains("{ \t\r\n", string(first)) {
			format = "jsonl"
		}
	}
	counted := func(m memory) error {
		if err := errors.Join(a.ctx.Err(), put(m)); err != nil {
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
func readLines(r io.Reader, put func(m memory) error) error {
	return readObjects(r, func(object json.RawMessage) error {
		d := json.NewDecoder(bytes.NewReader(object))
		d.DisallowUnknownFields()
		var j memoryJSON
		if err := d.Decode(&j); err != nil {
			return findingError{errors.New(strings.TrimPrefix(err.Error(), "json: "))}
		}
		m, err := j.memory()
		if err != nil {
			return findingError{err}
		}
		return put(m)
	})
}
