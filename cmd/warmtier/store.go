package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

// dirFlag names a store.
type dirFlag struct {
	Dir string `short:"d" required:"" env:"WARMTIER_DIR" placeholder:"DIR" help:"Directory of the store."`
}

// newDirFlag names a store that is made when it is missing.
type newDirFlag struct {
	dirFlag
	SegmentSize byteSize `placeholder:"BYTES" help:"Size of a new segment; default: as the store has them, 32MiB for a new one."`
	MaxBytes    byteSize `placeholder:"BYTES" help:"Bound of memory and files, as in 512MiB: beyond it writes are refused; default: none."`
}

// options returns those of a store that f names.
func (f newDirFlag) options() warmtier.Options {
	return warmtier.Options{SegmentSize: int(f.SegmentSize), MaxBytes: int64(f.MaxBytes)}
}

// access says what a command does with a directory.
type access int

const (
	reading  access = iota // beside others that read
	changing               // of a store that is there
	creating               // of one that need not be there yet
)

// with opens the store, calls fn and closes it.
func (a *app) with(dir string, how access, opts warmtier.Options, fn func(*warmtier.Store) error) (err error) {
	s, err := a.open(dir, how, opts)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := s.Close(); closeErr != nil {
			err = errors.Join(err, about("close "+dir, closeErr))
		}
	}()
	return fn(s)
}

func (a *app) open(dir string, how access, opts warmtier.Options) (*warmtier.Store, error) {
	if err := checkDirectory(dir, how); err != nil {
		return nil, err
	}
	opts.ReadOnly = how == reading
	opts.AfterPowerLoss = a.lossy
	opts.Logger = a.log
	if opts.SegmentSize == 0 {
		opts.SegmentSize = segmentSize(dir)
		if least := leastSegments * int64(opts.SegmentSize); opts.MaxBytes > 0 && opts.MaxBytes < least {
			opts.SegmentSize = 0 // the budget chooses
		}
	}
	bar := a.progress("opening "+showName(dir), 0, unitNothing)
	defer bar.end()
	s, err := a.openWait(dir, &opts)
	if errors.Is(err, warmtier.ErrLocked) && a.ctx.Err() == nil {
		return nil, lockedError(err)
	}
	return s, err
}

// leastSegments is how many segments a store needs that has a budget.
const leastSegments = 16

// openWait opens as warmtier.Open does, or as OpenWait for as long as --wait says.
func (a *app) openWait(dir string, opts *warmtier.Options) (*warmtier.Store, error) {
	if a.wait <= 0 {
		return warmtier.Open(dir, opts)
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.wait)
	defer cancel()
	s, err := warmtier.OpenWait(ctx, dir, opts)
	if both, ok := err.(interface{ Unwrap() []error }); ok && errors.Is(err, warmtier.ErrLocked) && a.ctx.Err() == nil {
		err = both.Unwrap()[0] // without the end of ctx, which the caller did not ask for
	}
	return s, err
}

// keepWritersOut is lockShared, for as long as --wait says.
func (a *app) keepWritersOut(dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(a.ctx, max(0, a.wait))
	defer cancel()
	for {
		unlock, err = lockShared(dir)
		if !errors.Is(err, warmtier.ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, a.ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// segmentSize returns the segment size that the store was last opened with, 0 when it is unknown:
// the space kept back for compactions has that size. With another size a store cannot use its hint.
func segmentSize(dir string) int {
	info, err := os.Stat(filepath.Join(dir, "SPARE.0"))
	if err != nil || info.Size() > 1<<30 {
		return 0
	}
	return int(info.Size())
}

// unattended returns opts for commands that end soon: nothing is changed in the background, unless a
// budget needs that.
func unattended(opts warmtier.Options) warmtier.Options {
	opts.Maintenance.Disabled = opts.MaxBytes == 0
	return opts
}

// errNoStore is what a directory without a store gives.
var errNoStore = fmt.Errorf("there is no store here: %w", fs.ErrNotExist)

// checkDirectory keeps a mistyped name from making a store where none is meant to be.
func checkDirectory(dir string, how access) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && how == creating {
		return nil
	}
	if err != nil {
		return err
	}
	foreign := ""
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == "MANIFEST" || strings.HasSuffix(name, ".seg"):
			return nil
		case name == "LOCK" || strings.HasPrefix(name, "SPARE") || name == "MANIFEST.tmp":
		default:
			foreign = name
		}
	}
	switch {
	case how != creating:
		return about(showName(dir), errNoStore)
	case foreign != "":
		return about(showName(dir), usage("there are other files here (%s) and no store: choose a new directory",
			showName(foreign)))
	}
	return nil
}

// lockedError says what to do about a store that others hold; err is that of Open, which names a process where
// the system lists them.
func lockedError(err error) error {
	return fmt.Errorf("%w; stop it, wait longer with --wait, or ask a server with --url", err)
}

// whoHolds returns the error of a store at dir that others hold for writing, or did a moment ago.
func whoHolds(dir string) error {
	s, err := warmtier.Open(dir, &warmtier.Options{ReadOnly: true})
	if err == nil {
		err = s.Close() // it was only read
	}
	if errors.Is(err, warmtier.ErrLocked) {
		return lockedError(err)
	}
	return lockedError(fmt.Errorf("%w: %s", warmtier.ErrLocked, dir))
}
