// Command benchmarks measures warmtier beside the stores that its users would otherwise pick. It prints
// tables, and writes them with charts into a document, as docs/performance.md, when it is told which.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if os.Getenv(childVariable) != "" {
		if err := serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := benchmarks(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// arguments are the arguments of the command line.
type arguments struct {
	quick, tiny, list, render, cpu, sustained, utilisation, more bool
	only, peers, traces, results, document, scratch              string
	rounds, samples                                              int
}

func parse(args []string, faults io.Writer) (arguments, error) {
	var a arguments
	f := flag.NewFlagSet("benchmarks", flag.ContinueOnError)
	f.SetOutput(faults)
	f.BoolVar(&a.quick, "quick", false, "smaller stores and shorter turns: about 3 minutes")
	f.BoolVar(&a.tiny, "tiny", false, "only shows that everything runs; measures nothing")
	f.StringVar(&a.only, "only", "", "measure only the suites whose names begin like these, with commas "+
		"between them; \"figures\" are the rows that matter most")
	f.StringVar(&a.peers, "peers", "", "of the peers of a suite, only these, with commas between them")
	f.BoolVar(&a.list, "list", false, "list the suites")
	f.BoolVar(&a.render, "render", false, "take everything from the file of -results, measure nothing")
	f.BoolVar(&a.cpu, "cpu", false, "with -render: processor time of calls instead of wall time, for a "+
		"machine that does other work")
	f.BoolVar(&a.sustained, "sustained", false, "measure overwriting for minutes (like -only sustained)")
	f.BoolVar(&a.utilisation, "utilisation", false,
		"measure throughput against utilisation (like -only utilisation)")
	f.StringVar(&a.traces, "traces", os.Getenv("WARMTIER_TRACES"),
		"folder of traces, see README.md; default $WARMTIER_TRACES")
	f.StringVar(&a.results, "results", "", "file of raw results; suites not measured stay in it; default: none")
	f.BoolVar(&a.more, "more", false, "add rounds to those that -results has, instead of taking their place")
	f.StringVar(&a.document, "document", "", "write tables into this file too, and charts to img/ beside it; "+
		"sections not measured stay in it; default: none")
	f.StringVar(&a.scratch, "dir", os.TempDir(), "where directory stores are made")
	f.IntVar(&a.rounds, "rounds", 0, "rounds of which medians are taken; 0 is 5, with -quick 3")
	f.IntVar(&a.samples, "samples", 0, "seconds of each run over time; 0 is 180, with default options "+
		"60 at most, with -quick 20")
	if err := f.Parse(args); err != nil {
		return a, err
	}
	if f.NArg() > 0 {
		return a, fmt.Errorf("not a flag: %q", f.Arg(0))
	}
	if a.render && a.results == "" {
		return a, errors.New("-render needs the -results of earlier runs")
	}
	if a.more && a.results == "" {
		return a, errors.New("-more needs the -results of earlier runs")
	}
	return a, nil
}

func (a arguments) profile() profile {
	p := fullProfile
	if a.quick {
		p = quickProfile
	}
	if a.tiny {
		p = tinyProfile
	}
	if a.rounds > 0 {
		p.rounds = a.rounds
	}
	if a.samples > 0 {
		p.samples = a.samples
	}
	return p
}

func (a arguments) names() []string {
	var names []string
	for name := range strings.SplitSeq(a.only, ",") {
		if name != "" {
			names = append(names, name)
		}
	}
	if a.sustained {
		names = append(names, "sustained")
	}
	if a.utilisation {
		names = append(names, "utilisation")
	}
	return names
}

func benchmarks(ctx context.Context, args []string, out io.Writer, log *os.File) error {
	a, err := parse(args, log)
	if err != nil {
		return err
	}
	all, err := loadResults(a.results)
	if err != nil {
		return err
	}
	if a.render {
		save := a
		save.results = "" // they stay as they were measured
		if a.cpu {
			all.byProcessorTime()
		}
		return errors.Join(all.print(out), save.write(all))
	}
	p := a.profile()
	chosen, err := selectSuites(suites(p, a.traces), a.names())
	if err != nil {
		return err
	}
	if a.peers != "" {
		selectPeers(chosen, strings.Split(a.peers, ","))
	}
	if a.traces == "" {
		fmt.Fprintln(log, "no folder of traces given (-traces): the suites production, trace and hits are left out")
	}
	if a.list {
		for _, s := range chosen {
			fmt.Fprintf(out, "%-14s %s\n", s.name, s.title)
		}
		return nil
	}
	r := &runner{ctx: ctx, profile: p, scratch: a.scratch, progress: newProgress(log)}
	var failures []error
	for _, s := range chosen {
		result := r.measure(s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		result.Profile = p.name
		failures = append(failures, result.errors())
		all.put(result, a.more)
		// After each suite: an hour's work must not depend on the last one.
		if err := errors.Join(writePlain(out, result), a.write(all)); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}

// write writes the files that were asked for.
func (a arguments) write(all results) error {
	if a.results != "" {
		if err := all.save(a.results); err != nil {
			return err
		}
	}
	if a.document == "" {
		return nil
	}
	return writeReport(all, a.document, append(suites(a.profile(), "x"), suites(fullProfile, "x")...))
}

// print writes all sections for a terminal.
func (all results) print(w io.Writer) error {
	for _, name := range order {
		if s, ok := all[name]; ok {
			if err := writePlain(w, s); err != nil {
				return err
			}
		}
	}
	return nil
}
