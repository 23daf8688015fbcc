package main

import (
	"errors"
	"io/fs"

	"github.com/warmtier/warmtier"
)

type backupCmd struct {
	whereFlag
	Target string `arg:"" help:"New or empty directory, on the file system of the store; of a server a name."`
}

func (backupCmd) Help() string {
	return `Examples:
  warmtier backup -d data checkpoints/monday
  rsync -a checkpoints/monday/ backup:/srv/monday/
  WARMTIER_TOKEN=secret warmtier backup --url http://127.0.0.1:7077 monday
Makes a store of its own of what is there, of hard links: it takes no space until the store goes on, and has to be
on the same file system. A dead disk takes both: copy it elsewhere, with any tool. Interrupted, it leaves nothing.
A server makes it in the directory of its --backups, while it serves. Another program backs up the store that it has
open with Store.Checkpoint.`
}

func (c *backupCmd) Run(a *app) error {
	if c.URL != "" {
		to, err := c.client().backup(a.ctx, c.Target)
		if err != nil {
			return err
		}
		return a.result(backupAnswer{to}, [][]string{{"backed up to", showName(to)}})
	}
	if c.Target == "" {
		return usage("the directory of the backup has no name")
	}
	return a.with(c.Dir, changing, unattended(warmtier.Options{}), func(s *warmtier.Store) error {
		if err := s.Checkpoint(a.ctx, c.Target); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return usageError{err}
			}
			return err
		}
		n := stillStore{openStore{s}}.present()
		return a.result(map[string]any{"memories": n, "to": c.Target},
			[][]string{{"memories", showCount(n)}, {"backed up to", showName(c.Target)}})
	})
}
