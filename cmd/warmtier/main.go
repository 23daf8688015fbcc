// Command warmtier looks into, fills, checks, measures and serves stores that lie in a directory.
// "warmtier --help" lists what it can do, "warmtier COMMAND --help" says how, with examples.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/warmtier/warmtier"
)

// Exit codes.
const (
	exitOK      = 0
	exitFinding = 1 // the answer is no: not found, damaged, lost, incomplete
	exitUsage   = 2
	exitIO      = 3 // everything else: files, locks, network
)

// cli is the command line; kong reads it.
type cli struct {
	JSON  bool `help:"Print JSON: one document, or one line for each memory."`
	Quiet bool `short:"q" help:"No progress and no log."`

	Wait time.Duration `placeholder:"TIME" help:"Wait that long for a directory that others hold, as in 30s."`

	AfterPowerLoss bool `help:"Open a snapshot, or the directory of a machine that crashed: what was synced is there, of the rest anything may be. All files must be of one moment."`

	LogLevel  string `enum:"debug,info,warn,error" default:"warn" help:"Least level of the log on standard error: ${enum}."`
	LogFormat string `enum:"text,json" default:"text" help:"Format of the log: ${enum}."`

	Load   loadCmd   `cmd:"" group:"Memories" help:"Store files, a directory, JSON lines, CSV or standard input."`
	Get    getCmd    `cmd:"" group:"Memories" help:"Print the content of a memory."`
	Put    putCmd    `cmd:"" group:"Memories" help:"Store a memory."`
	Rm     rmCmd     `cmd:"" group:"Memories" help:"Delete memories."`
	Ls     lsCmd     `cmd:"" group:"Memories" help:"List ids."`
	Export exportCmd `cmd:"" group:"Memories" help:"Write all memories to a file."`
	Import importCmd `cmd:"" group:"Memories" help:"Store what export wrote."`

	Stats   statsCmd   `cmd:"" group:"Care" help:"Show sizes and counters."`
	Verify  verifyCmd  `cmd:"" group:"Care" help:"Read everything and check every invariant."`
	Compact compactCmd `cmd:"" group:"Care" help:"Give back the space of dead bytes."`
	Repair  repairCmd  `cmd:"" group:"Care" help:"Salvage a damaged directory into another one."`

	Serve      serveCmd      `cmd:"" group:"Tools" help:"Serve the page and the metrics of a store on loopback."`
	Bench      benchCmd      `cmd:"" group:"Tools" help:"Measure this machine."`
	Doctor     doctorCmd     `cmd:"" group:"Tools" help:"Check what a directory and this system can do."`
	Version    versionCmd    `cmd:"" group:"Tools" help:"Show versions."`
	Completion completionCmd `cmd:"" group:"Tools" help:"Print a completion script for a shell."`
}

// app holds what every command needs.
type app struct {
	ctx      context.Context // ends with SIGINT and SIGTERM
	in       io.Reader
	out      *bufio.Writer
	errOut   *os.File
	json     bool
	wait     time.Duration // for a directory that others hold
	lossy    bool          // the directory is as after a power loss
	progress func(title string, total int64, unit unit) *progress
	log      *slog.Logger
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var c cli
	parser, err := kong.New(&c, kong.Name("warmtier"),
		kong.Description("Memories in a directory: fill, read, check, compact, measure and serve them."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{ctx: ctx, in: os.Stdin, out: bufio.NewWriter(os.Stdout), errOut: os.Stderr}
	parsed, err := parser.Parse(args)
	if err != nil {
		a.json = slices.Contains(args, "--json") // kong has set nothing yet
		return a.fail(usageError{err})
	}
	a.configure(c)
	err = parsed.Run(a)
	if flushErr := a.out.Flush(); err == nil {
		err = flushErr
	}
	return a.fail(err)
}

func (a *app) configure(c cli) {
	a.json, a.wait, a.lossy = c.JSON, c.Wait, c.AfterPowerLoss
	a.progress = noProgress
	a.log = slog.New(slog.DiscardHandler)
	if c.Quiet {
		return
	}
	if isTerminal(a.errOut) {
		a.progress = terminalProgress(a.errOut)
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // kong has checked it
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		a.log = slog.New(slog.NewJSONHandler(a.errOut, options))
	} else {
		a.log = slog.New(slog.NewTextHandler(a.errOut, options))
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// findingError is an answer that is no.
type findingError struct{ error }

func (e findingError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func finding(format string, args ...any) error { return findingError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	is := func(targets ...error) bool {
		for _, target := range targets {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	_, isUsage := errors.AsType[usageError](err)
	_, isFinding := errors.AsType[findingError](err)
	switch {
	case err == nil:
		return exitOK
	case isUsage, is(warmtier.ErrInvalidID, warmtier.ErrContentTooLarge, warmtier.ErrInvalidOptions):
		return exitUsage
	case isFinding, is(warmtier.ErrNotFound, warmtier.ErrCorrupt):
		return exitFinding
	}
	return exitIO
}

// fail prints what went wrong, if anything, and returns the exit code.
func (a *app) fail(err error) int {
	code := exitCode(err)
	if err == nil {
		return code
	}
	// Each error of the package carries its name; once is enough.
	text := strings.ReplaceAll(err.Error(), "warmtier: ", "")
	if errors.Is(err, context.Canceled) && a.ctx.Err() != nil {
		text = "interrupted: " + text
	}
	if a.json {
		_ = writeJSON(a.errOut, map[string]any{"error": text, "exit": code})
	} else {
		fmt.Fprintln(a.errOut, "warmtier: "+text)
	}
	if _, isParse := errors.AsType[*kong.ParseError](err); isParse && !a.json {
		fmt.Fprintln(a.errOut, "warmtier --help says what there is, warmtier COMMAND --help has examples.")
	}
	return code
}
