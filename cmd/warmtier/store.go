package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

// dirFlag names a store.
type dirFlag struct {
	Dir string `short:"d" required:"" env:"WARMTIER_DIR" placeholder:"DIR" help:"Directory of the store."`
}

// Validate refuses what an empty WARMTIER_DIR says: "" is a store in memory.
func (d dirFlag) Validate() error {
	if d.Dir == "" {
		return errors.New("--dir is missing: say which directory")
	}
	return nil
}

// newDirFlag names a store that is made when it is missing.
type newDirFlag struct {
	dirFlag
	sizeFlags
}

// sizeFlags are how large a store may get.
type sizeFlags struct {
	SegmentSize byteSize `placeholder:"BYTES" help:"Size that segments grow to; default: 32MiB, less with --max-bytes."`
	MaxBytes    byteSize `placeholder:"BYTES" help:"Bound of memory and files, as in 512MiB: beyond it writes are refused; default: none."`
}

// options returns those of a store of these sizes.
func (f sizeFlags) options() warmtier.Options {
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
	bar := a.progress("opening "+showName(dir), 0, unitNothing)
	defer bar.end()
	s, err := a.openWait(dir, &opts)
	if errors.Is(err, warmtier.ErrLocked) && a.ctx.Err() == nil {
		return nil, lockedError(err, a.remote)
	}
	return s, flagError(err)
}

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

// unattended returns opts for commands that end soon: nothing is changed in the background, unless a
// budget needs that.
func unattended(opts warmtier.Options) warmtier.Options {
	opts.Maintenance.Disabled = opts.MaxBytes == 0
	return opts
}

// noStoreError is what a directory without a store gives.
type noStoreError struct{}

func (noStoreError) Error() string { return "there is no store here" }

func (noStoreError) Unwrap() error { return fs.ErrNotExist }

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
		return about(showName(dir), noStoreError{})
	case foreign != "":
		return about(showName(dir), usage("there are other files here (%s) and no store: choose a new directory",
			showName(foreign)))
	}
	return nil
}

// lockedError says what to do about a store that others hold; err is that of Open, which names a process where
// the system lists them. remote says whether a server could be asked instead.
func lockedError(err error, remote bool) error {
	if remote {
		return fmt.Errorf("%w; stop it, wait longer with --wait, or ask a server with --url", err)
	}
	return fmt.Errorf("%w; stop it, or wait longer with --wait", err)
}

// whoHolds returns the error, for a command that asks no server, of a store at dir that others hold for writing, or did
// a moment ago.
func whoHolds(dir string) error {
	s, err := warmtier.Open(dir, &warmtier.Options{ReadOnly: true})
	if err == nil {
		err = s.Close() // it was only read
	}
	if errors.Is(err, warmtier.ErrLocked) {
		return lockedError(err, false)
	}
	return lockedError(fmt.Errorf("%w: %s", warmtier.ErrLocked, dir), false)
}
