package main

import (
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/warmtier/warmtier"
)

type getCmd struct {
	dirFlag
	ID     id     `arg:"" help:"Id of the memory; hex:... for bytes that cannot be typed."`
	Output string `short:"o" placeholder:"FILE" help:"Write to a file."`
	Hex    bool   `help:"Print a hexadecimal dump."`
}

func (getCmd) Help() string {
	return `Examples:
  warmtier get -d data user:42
  warmtier get -d data hex:00ff -o content.bin
The content is printed as it is, or as a hexadecimal dump where it could harm a terminal.
Exit code 1 when there is no such memory.`
}

func (c *getCmd) Run(a *app) error {
	return a.with(c.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) error {
		content, err := s.Get(string(c.ID))
		if err != nil {
			return finding("%s: %w", showID(string(c.ID)), err)
		}
		switch {
		case c.Output != "":
			return writeOutput(a.ctx, c.Output, func(w io.Writer) error {
				_, err := w.Write(content)
				return err
			})
		case a.json:
			return writeJSON(a.out, newMemoryJSON(string(c.ID), content))
		case c.Hex || isTerminal(os.Stdout) && !harmless(content):
			_, err = io.WriteString(a.out, hex.Dump(content))
		default:
			_, err = a.out.Write(content)
		}
		return err
	})
}

// harmless reports whether content may be shown on a terminal: lines of text.
func harmless(content []byte) bool {
	return printable(strings.NewReplacer("\n", "", "\r\n", "", "\t", "").Replace(string(content)))
}

type putCmd struct {
	newDirFlag
	ID   id     `arg:"" help:"Id of the memory; hex:... for bytes that cannot be typed."`
	File string `arg:"" optional:"" default:"-" help:"File with the content; standard input when left out."`
}

func (putCmd) Help() string {
	return `Examples:
  echo -n 'likes tea' | warmtier put -d data user:42
  warmtier put -d data photo:7 photo.jpg
It is durable when the command returns.`
}

func (c *putCmd) Run(a *app) error {
	content, err := a.readAll(c.File)
	if err != nil {
		return err
	}
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		replaced := s.Has(string(c.ID))
		if err := s.Put(string(c.ID), content); err != nil || !a.json {
			return err
		}
		m := idJSON(string(c.ID))
		m.Bytes = new(len(content))
		return writeJSON(a.out, struct {
			memoryJSON
			Replaced bool `json:"replaced"`
		}{m, replaced})
	})
}

// readAll reads a file, or standard input for "-", up to the longest content.
func (a *app) readAll(name string) ([]byte, error) {
	in := a.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // it was only read
		in = f
	}
	return io.ReadAll(io.LimitReader(in, warmtier.MaxContentLen+1))
}

type rmCmd struct {
	dirFlag
	IDs []id `arg:"" name:"id" help:"Ids of memories; hex:... for bytes that cannot be typed."`
}

func (rmCmd) Help() string {
	return `Example:
  warmtier rm -d data user:42 user:43
Exit code 1 when one of them was not there; the others are deleted all the same.`
}

func (c *rmCmd) Run(a *app) error {
	return a.with(c.Dir, changing, unattended(warmtier.Options{}), func(s *warmtier.Store) error {
		deleted, absent, shown := 0, []memoryJSON{}, []string{}
		for _, id := range c.IDs {
			existed, err := s.Delete(string(id))
			switch {
			case err != nil:
				return err
			case existed:
				deleted++
			default:
				absent = append(absent, idJSON(string(id)))
				shown = append(shown, showID(string(id)))
			}
		}
		if a.json {
			if err := writeJSON(a.out, map[string]any{"deleted": deleted, "absent": absent}); err != nil {
				return err
			}
		}
		if len(absent) > 0 {
			return finding("not there: %s", strings.Join(shown, ", "))
		}
		return nil
	})
}

type lsCmd struct {
	dirFlag
	Prefix id   `placeholder:"ID" help:"Only ids that begin with this."`
	Limit  int  `placeholder:"N" help:"At most so many; 0 means all."`
	Long   bool `short:"l" help:"With the size of each content in bytes."`
}

func (lsCmd) Help() string {
	return `Examples:
  warmtier ls -d data --limit 10
  warmtier ls -d data --prefix user: --long | sort -n
Ids have no order. One that is not printable is shown as hex:..., which other commands take.`
}

func (c *lsCmd) Run(a *app) error {
	if c.Limit < 0 {
		return usage("--limit is %d, want 0 or more", c.Limit)
	}
	return a.with(c.Dir, reading, warmtier.Options{}, func(s *warmtier.Store) error {
		listed := 0
		for id, content := range s.All() {
			if a.ctx.Err() != nil {
				break
			}
			if !strings.HasPrefix(id, string(c.Prefix)) {
				continue
			}
			if err := c.list(a, id, len(content)); err != nil {
				return err
			}
			if listed++; listed == c.Limit {
				break
			}
		}
		return errors.Join(a.ctx.Err(), unread(s))
	})
}

func (c *lsCmd) list(a *app, id string, size int) error {
	var err error
	switch m := idJSON(id); {
	case a.json:
		m.Bytes = &size
		err = writeJSON(a.out, m)
	case c.Long:
		_, err = io.WriteString(a.out, strconv.Itoa(size)+"\t"+showID(id)+"\n")
	default:
		_, err = io.WriteString(a.out, showID(id)+"\n")
	}
	return err
}

// unread returns the error of an iteration that had to leave memories out.
func unread(s *warmtier.Store) error {
	if n := s.Stats().Reads.CorruptRecords; n > 0 {
		return finding("%d damaged memories are missing here: see warmtier verify", n)
	}
	return nil
}
