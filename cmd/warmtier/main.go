// Command warmtier looks into, fills, checks, measures and serves stores that lie in a directory.
// "warmtier --help" lists what it can do, "warmtier COMMAND --help" says how, with examples.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// cli is the command line; kong reads it.
type cli struct {
	JSON  bool `help:"Print JSON: one document, or one line for each memory."`
	Quiet bool `short:"q" help:"No progress, no log, and no table of what was done."`

	Wait time.Duration `default:"5s" placeholder:"TIME" help:"Wait that long for a directory that others hold (${default}); 0 does not wait."`

	ShowVersion versionFlag `name:"version" help:"Show the version."`

	AfterPowerLoss bool `help:"Open a snapshot, or the directory of a machine that crashed: what was synced is there, of the rest anything may be. All files must be of one moment."`

	LogLevel  string `enum:"debug,info,warn,error" default:"warn" help:"Least level of the log on standard error: ${enum}."`
	LogFormat string `enum:"text,json" default:"text" help:"Format of the log: ${enum}."`

	Load   loadCmd   `cmd:"" group:"Memories" help:"Store files, a directory, JSON lines, CSV or standard input."`
	Get    getCmd    `cmd:"" group:"Memories" help:"Print the contents of memories."`
	Put    putCmd    `cmd:"" group:"Memories" help:"Store a memory."`
	Rm     rmCmd     `cmd:"" group:"Memories" help:"Delete memories."`
	Ls     lsCmd     `cmd:"" group:"Memories" help:"List ids."`
	Count  countCmd  `cmd:"" group:"Memories" help:"Print how many memories there are."`
	Export exportCmd `cmd:"" group:"Memories" help:"Write all memories to a file."`
	Import importCmd `cmd:"" group:"Memories" help:"Store what export wrote."`

	Stats   statsCmd   `cmd:"" group:"Care" help:"Show sizes and counters."`
	Verify  verifyCmd  `cmd:"" group:"Care" help:"Read everything and check every invariant."`
	Compact compactCmd `cmd:"" group:"Care" help:"Give back the space of dead bytes."`
	Backup  backupCmd  `cmd:"" group:"Care" help:"Make a second directory of the store, of hard links."`
	Clear   clearCmd   `cmd:"" group:"Care" help:"Delete all memories."`
	Repair  repairCmd  `cmd:"" group:"Care" help:"Salvage a damaged directory into another one."`

	Serve      serveCmd      `cmd:"" group:"Tools" help:"Serve the page and the metrics of a store on loopback."`
	Bench      benchCmd      `cmd:"" group:"Tools" help:"Measure this machine."`
	Doctor     doctorCmd     `cmd:"" group:"Tools" help:"Check what a directory and this system can do."`
	Version    versionCmd    `cmd:"" group:"Tools" help:"Show versions."`
	Help       helpCmd       `cmd:"" group:"Tools" help:"Show what there is, or what a command does."`
	Completion completionCmd `cmd:"" group:"Tools" help:"Print a completion script for a shell."`
}

// app holds what every command needs.
type app struct {
	ctx      context.Context // ends with SIGINT and SIGTERM
	in       *os.File
	out      *bufio.Writer
	errOut   *os.File
	json     bool
	quiet    bool
	wait     time.Duration // for a directory that others hold
	lossy    bool          // the directory is as after a power loss
	remote   bool          // the command takes --url
	progress func(title string, total int64, unit unit) *progress
	log      *slog.Logger
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var c cli
	parser, err := kong.New(&c, kong.Name("warmtier"), kong.Help(printHelp),
		kong.Description("Memories in a directory: fill, read, check, compact, measure and serve them."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the process, whatever it waits for
	a := &app{ctx: ctx, in: os.Stdin, out: bufio.NewWriter(os.Stdout), errOut: os.Stderr}
	parsed, err := parser.Parse(args)
	if err != nil {
		a.json = slices.Contains(args, "--json") // kong has set nothing yet
		return a.fail(usageError{commandError(err)})
	}
	if err := checkWhere(parsed); err != nil {
		return a.fail(err)
	}
	a.configure(c)
	a.remote = slices.ContainsFunc(parsed.Flags(), func(f *kong.Flag) bool { return f.Name == "url" })
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
	if a.quiet = c.Quiet; a.quiet {
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

// commandError returns err, of parsing, in words for where kong's are its own.
func commandError(err error) error {
	e, ok := errors.AsType[*kong.ParseError](err)
	if !ok {
		return err
	}
	if rest, found := strings.CutPrefix(err.Error(), "unexpected argument "); found && e.Context.Selected() == nil {
		return usage("unknown command %s; warmtier help lists all", rest)
	}
	if flag, found := strings.CutSuffix(err.Error(), ` value but got "EOL" (<EOL>)`); found {
		flag, _, _ = strings.Cut(flag, ": expected ")
		return usage("%s is the last word: its value is missing", flag)
	}
	if strings.HasPrefix(err.Error(), "expected one of ") && e.Context.Selected() == nil {
		return usage("no command; warmtier help lists all")
	}
	if command := e.Context.Selected(); command != nil {
		if m := missingPart.FindStringSubmatch(err.Error()); m != nil {
			return usage("%s needs %s; warmtier help %[1]s has examples", command.Name, strings.TrimSuffix(m[1], `"`))
		}
		if strings.HasPrefix(err.Error(), "unknown flag --url") && command.Target.FieldByName("Dir").IsValid() {
			return usage("%s is for a directory, and has no --url: Redis clients write to a server (serve --resp)",
				command.Name)
		}
	}
	if m := badValue.FindStringSubmatch(err.Error()); m != nil {
		want := "a whole number"
		if m[2] == "duration" {
			want = "a time, as in 90s or 12h"
		}
		return usage("%s: %s: want %s", m[1], m[3], want)
	}
	if m := ofArgument.FindString(err.Error()); m != "" {
		return usage("%s", strings.TrimPrefix(err.Error(), m)) // which says what it is about
	}
	return err
}

// Forms of kong's errors.
var (
	missingPart = regexp.MustCompile(`^(?:expected "|missing flags: )(.*)$`)

	badValue   = regexp.MustCompile(`^(--[a-z-]+): expected (?:a valid \d+ bit )?(int|duration) but got ("[^"]*")`)
	ofArgument = regexp.MustCompile(`^\[?<[a-z]+>(?: \.\.\.)?\]?: `)
)

// printHelp prints help, but not for a command that there is not.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if ctx.Error != nil && ctx.Selected() == nil {
		return ctx.Error
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command; all of them are listed without one."`
}

func (c *helpCmd) Run(k *kong.Kong) error {
	_, err := k.Parse(append(c.Command, "--help")) // which ends the process
	return usageError{commandError(err)}
}

// versionFlag prints the version and ends the process.
type versionFlag bool

// BeforeReset prints the version.
func (versionFlag) BeforeReset(k *kong.Kong) error { //nolint:unparam // as kong calls it
	fmt.Fprintln(k.Stdout, "warmtier "+buildVersion())
	k.Exit(exitOK)
	return nil
}

// checkWhere refuses a command line that names both a directory and a server, two of anything of which there is one,
// or something by an empty name. WARMTIER_DIR may be set beside a server.
func checkWhere(parsed *kong.Context) error {
	if flag := emptyFlag(parsed.Args); flag != "" {
		return usage("%s is empty: want a value", flag)
	}
	given := map[string]bool{}
	for _, part := range parsed.Path {
		if part.Flag == nil || part.Resolved {
			continue
		}
		name := part.Flag.Name
		if given[name] && slices.Contains([]string{"dir", "url", "prefix", "id", "to", "output"}, name) {
			return usage("--%s is there twice: want one", name) // the last one would hide the others
		}
		given[name] = true
	}
	if given["dir"] && given["url"] {
		return usage("--dir and --url are two stores: want one of them")
	}
	return nil
}

// emptyFlag returns the flag in args, if any, that was given an empty value where that means something else than was
// wanted, as "$DIR" is when DIR is not set: the directory one is in, or a server without a token. Of --dir the commands
// say so, since WARMTIER_DIR may be empty too.
func emptyFlag(args []string) string {
	flags := []string{"--url", "--to", "-o", "--output", "--backups", "--in", "--hdr", "--resp", "--token"}
	for i, arg := range args {
		if arg == "--" {
			break // ids follow
		}
		flag, empty := strings.CutSuffix(arg, "=")
		if slices.Contains(flags, flag) && (empty || i+1 < len(args) && args[i+1] == "") {
			return flag
		}
	}
	return ""
}
