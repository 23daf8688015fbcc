package main

import (
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
	newDirFlag
	File   string `arg:"" help:"File that export wrote; - is standard input."`
	Format string `enum:"auto,binary,jsonl" default:"auto" help:"${enum}. auto goes by the first bytes."`
}

func (importCmd) Help() string {
	return `Examples:
  warmtier import -d data data.warm
  ssh elsewhere warmtier export -d data | warmtier import -d data -
Everything is checked before anything of it is stored; over 1 MiB of standard input waits in a file below $TMPDIR
for that. A memory whose id the store has is left alone: warmtier load --format jsonl replaces. What expires does so
at the same moment as where it came from; what has expired by now is left out. Of a binary export all is stored or
nothing, also when this fails or is interrupted; of JSON lines what came before stays.`
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
	check, store, err := c.ways(in)
	if err == nil {
		err = check(a, in)
	}
	if err != nil {
		return contextError{"", "; nothing was imported", aboutFile(c.File, err)}
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		st, err := store(a, in, s)
		if err != nil {
			return done(aboutFile(c.File, err), int(st.Memories), "imported")
		}
		table := [][]string{{"memories", showCount(st.Memories)}}
		if st.Existing > 0 {
			table = append(table, []string{"left alone", showCount(st.Existing) + " that were there"})
		}
		if st.Expired > 0 {
			table = append(table, []string{"left out", showCount(st.Expired) + " that had expired"})
		}
		return a.result(map[string]any{"memories": st.Memories, "existing": st.Existing, "expired": st.Expired}, table)
	})
}

// ways returns how in, which is at its start, is checked and stored.
func (c *importCmd) ways(in *input) (
	check func(*app, *input) error, store func(*app, *input, *warmtier.Store) (warmtier.ExportStats, error), err error,
) {
	format := c.Format
	if format == "auto" {
		var first [1]byte
		n, err := in.Read(first[:])
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, nil, err
		}
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return nil, nil, err
		}
		format = "binary"
		if n > 0 && strings.Contains("{ \t\r\n", string(first[:])) {
			format = "jsonl"
		}
	}
	if format == "jsonl" {
		return checkLines, importLines, nil
	}
	return checkBinary, importBinary, nil
}

// errWhole is what an export gives that is to be read a second time.
var errWhole = errors.New("whole")

// readOnce is an input that ends an import where that begins to store.
type readOnce struct{ *countedInput }

func (r readOnce) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart {
		return 0, errWhole
	}
	return r.countedInput.Seek(offset, whence)
}

// checkBinary checks an export while there is no store: a file that is none must not make one. Import reads
// it to its end, and stores only what it reads a second time.
func checkBinary(a *app, in *input) error {
	opts := unattended(warmtier.Options{})
	s, err := warmtier.Open("", &opts)
	if err != nil {
		return err
	}
	bar := a.progress("checking", in.size, unitBytes)
	defer bar.end()
	_, err = s.Import(a.ctx, readOnce{&countedInput{in, bar}})
	if errors.Is(err, errWhole) {
		err = nil
	}
	return errors.Join(err, s.Close())
}

func importBinary(a *app, in *input, s *warmtier.Store) (warmtier.ExportStats, error) {
	bar := a.progress("importing", in.size, unitBytes)
	defer bar.end()
	return s.Import(a.ctx, &countedInput{in, bar})
}

func checkLines(a *app, in *input) error {
	bar := a.progress("checking", in.size, unitBytes)
	defer bar.end()
	return readLines(bar.reader(in), func(memory) error { return a.ctx.Err() })
}

// importLines stores JSON lines as Import does an export. Nobody else has the store.
func importLines(a *app, in *input, s *warmtier.Store) (st warmtier.ExportStats, err error) {
	bar := a.progress("importing", in.size, unitBytes)
	defer bar.end()
	err = readLines(bar.reader(in), func(m memory) error {
		ttl := time.Until(m.expires)
		switch {
		case a.ctx.Err() != nil:
			return a.ctx.Err()
		case !m.expires.IsZero() && ttl <= 0:
			st.Expired++
			return nil
		case s.Has(m.id):
			st.Existing++
			return nil
		}
		if m.expires.IsZero() {
			err = s.Put(m.id, m.content)
		} else {
			err = s.PutTTL(m.id, m.content, ttl)
		}
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
