package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

type getCmd struct {
	whereFlag
	chosen
	Output string `short:"o" placeholder:"FILE" help:"Write to a file."`
	Hex    bool   `help:"Print a hexadecimal dump."`
}

func (getCmd) Help() string {
	return `Examples:
  warmtier get -d data user:42
  warmtier get -d data hex:00ff -o content.bin
  warmtier get -d data --prefix user: --json
  WARMTIER_TOKEN=secret warmtier get --url http://127.0.0.1:7077 user:42
Contents are printed as they are, one after the other, or as hexadecimal dumps where they could harm a terminal.
Exit code 1 when one of the ids is not there; the others are printed all the same, but not to a file of -o, which
appears when it is whole.`
}

func (c *getCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.read(a, func(r reader) error {
		if c.Output == "" {
			return c.print(a, r)
		}
		if err := c.checkOutput(c.Output); err != nil {
			return err
		}
		return writeOutput(a.ctx, c.Output, func(w io.Writer) error {
			return c.each(a, r, func(m memory) error {
				_, err := w.Write(m.content)
				return err
			})
		})
	})
}

// each calls fn for each memory that was asked for, and returns which were not there.
func (c *getCmd) each(a *app, r reader, fn func(m memory) error) error {
	if c.Prefix != nil {
		return r.each(a.ctx, string(*c.Prefix), fn)
	}
	missing := []string{}
	for _, id := range c.IDs {
		content, err := r.get(a.ctx, string(id))
		switch {
		case errors.Is(err, warmtier.ErrNotFound):
			missing = append(missing, string(id))
			continue
		case err != nil:
			return about(showID(string(id)), err)
		}
		if err := fn(memory{id: string(id), content: content}); err != nil {
			return err
		}
	}
	return absent(missing)
}

func (c *getCmd) print(a *app, r reader) error {
	terminal := isTerminal(os.Stdout)
	return c.each(a, r, func(m memory) (err error) {
		switch {
		case a.json:
			return writeJSON(a.out, newMemoryJSON(m))
		case c.Hex || terminal && !harmless(m.content):
			_, err = io.WriteString(a.out, hex.Dump(m.content))
		default:
			_, err = a.out.Write(m.content)
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
	ID   memoryID `arg:"" help:"Id of the memory; hex:... for bytes that cannot be typed."`
	File string   `arg:"" optional:"" default:"-" help:"File with the content; standard input when left out."`

	TTL *time.Duration `name:"ttl" placeholder:"DURATION" help:"It expires after that, as 90s or 12h; default: never."`
}

func (putCmd) Help() string {
	return `Examples:
  echo -n 'likes tea' | warmtier put -d data user:42
  warmtier put -d data photo:7 photo.jpg
  warmtier put -d data --ttl 12h session:1 session.json
It is durable when the command returns.`
}

func (c *putCmd) Run(a *app) error {
	if c.TTL != nil && *c.TTL <= 0 {
		return usage("--ttl is %v, want more than 0", *c.TTL)
	}
	if err := checkDirectory(c.Dir, creating); err != nil { // before somebody types a content
		return err
	}
	in, err := a.openInput(c.File, true)
	if err != nil {
		return aboutFile(c.File, err)
	}
	content, err := in.content()
	in.close()
	if err != nil {
		return aboutFile(c.File, err)
	}
	return a.with(c.Dir, creating, unattended(c.options()), func(s *warmtier.Store) error {
		replaced := s.Has(string(c.ID))
		put := func() error { return s.Put(string(c.ID), content) }
		if c.TTL != nil {
			put = func() error { return s.PutTTL(string(c.ID), content, *c.TTL) }
		}
		if err := put(); err != nil || !a.json {
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

type rmCmd struct {
	dirFlag
	chosen
}

func (rmCmd) Help() string {
	return `Examples:
  warmtier rm -d data user:42 user:43
  warmtier rm -d data --prefix session:
Exit code 1 when one of the ids was not there; the others are deleted all the same.`
}

func (c *rmCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Prefix != nil && *c.Prefix == "" {
		return usage("an empty --prefix would delete every memory, which is for warmtier clear")
	}
	return a.with(c.Dir, changing, unattended(warmtier.Options{}), func(s *warmtier.Store) error {
		deleted, missing, err := c.delete(a, s)
		if err != nil {
			return err
		}
		list := []memoryJSON{}
		for _, id := range missing {
			list = append(list, idJSON(id))
		}
		table := [][]string{}
		if c.Prefix != nil {
			table = [][]string{{"memories deleted", showCount(deleted)}}
		}
		return errors.Join(a.result(map[string]any{"deleted": deleted, "absent": list}, table), absent(missing))
	})
}

// delete deletes what was asked for, and returns how much of it there was, and which ids were missing.
func (c *rmCmd) delete(a *app, s *warmtier.Store) (deleted int, missing []string, err error) {
	remove := func(id string) error {
		existed, err := s.Delete(id)
		switch {
		case err != nil:
			return about(showID(id), err)
		case existed:
			deleted++
		default:
			missing = append(missing, id)
		}
		return nil
	}
	if c.Prefix != nil {
		for id := range s.IDs() {
			if err = a.ctx.Err(); err == nil && strings.HasPrefix(id, string(*c.Prefix)) {
				err = remove(id)
			}
			if err != nil {
				break
			}
		}
	}
	for _, id := range c.IDs {
		if err = errors.Join(err, a.ctx.Err()); err == nil {
			err = remove(string(id))
		}
	}
	return deleted, missing, done(err, deleted, "deleted")
}

type countCmd struct {
	whereFlag
	Prefix id `placeholder:"ID" help:"Only ids that begin with this."`
}

func (countCmd) Help() string {
	return `Examples:
  warmtier count -d data
  warmtier count -d data --prefix user:
With a prefix every record is read. A server counts what has expired until a compaction has given it back.`
}

func (c *countCmd) Run(a *app) error {
	return c.read(a, func(r reader) error {
		n := 0
		var err error
		if c.Prefix == "" {
			n, err = r.count(a.ctx)
		} else {
			err = r.sizes(a.ctx, string(c.Prefix), func(string, int, time.Time) error { n++; return nil })
		}
		if err != nil {
			return err
		}
		if a.json {
			return writeJSON(a.out, map[string]int{"memories": n})
		}
		_, err = fmt.Fprintln(a.out, n)
		return err
	})
}

type lsCmd struct {
	whereFlag
	Prefix id   `placeholder:"ID" help:"Only ids that begin with this."`
	Limit  int  `placeholder:"N" help:"At most so many; 0 means all."`
	Long   bool `short:"l" help:"With the size of each content in bytes."`

	Expiring bool `help:"Only memories that expire, and when."`
}

func (lsCmd) Help() string {
	return `Examples:
  warmtier ls -d data --limit 10
  warmtier ls -d data --prefix user: --long | sort -n
  warmtier ls -d data --expiring | sort
  WARMTIER_TOKEN=secret warmtier ls --url http://127.0.0.1:7077
Ids have no order. One that is not printable is shown as hex:..., which other commands take.`
}

func (c *lsCmd) Run(a *app) error {
	if c.Limit < 0 {
		return usage("--limit is %d, want 0 or more", c.Limit)
	}
	return c.read(a, func(r reader) error {
		listed := 0
		err := r.sizes(a.ctx, string(c.Prefix), func(id string, size int, expires time.Time) error {
			if c.Expiring && expires.IsZero() {
				return nil
			}
			if err := c.list(a, id, size, expires); err != nil {
				return err
			}
			if listed++; listed == c.Limit {
				return errEnough
			}
			return nil
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
}

func (c *lsCmd) list(a *app, id string, size int, expires time.Time) error {
	if a.json {
		m := idJSON(id)
		m.Bytes = &size
		m.expire(expires)
		return writeJSON(a.out, m)
	}
	line := showID(id) + "\n"
	if c.Long {
		line = strconv.Itoa(size) + "\t" + line
	}
	if c.Expiring {
		line = expires.UTC().Format("2006-01-02T15:04:05.000Z") + "\t" + line
	}
	_, err := io.WriteString(a.out, line)
	return err
}
