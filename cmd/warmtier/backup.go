package main

import (
	"errors"
	"io/fs"

	"github.com/warmtier/warmtier"
)

type backupCmd struct {
	dirFlag
	Target string `arg:"" help:"New or empty directory, on the file system of the store."`
}

func (backupCmd) Help() string {
	return `Examples:
  warmtier backup -d data checkpoints/monday
  rsync -a checkpoints/monday/ backup:/srv/monday/
Makes a store of its own of what is there, of hard links: it takes no space until the store goes on, and has to be
on the same file system. A dead disk takes both: copy it elsewhere, with any tool. Interrupted, it leaves nothing.
A store that a process has open is backed up by that process, with Store.Checkpoint, or with warmtier export --url.`
}

func (c *backupCmd) Run(a *app) error {
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
