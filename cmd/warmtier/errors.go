package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/warmtier/warmtier"
)

// Exit codes.
const (
	exitOK      = 0
	exitFinding = 1 // the answer is no, or what was given is not as it must be
	exitUsage   = 2
	exitIO      = 3 // everything else: files, locks, network
)

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// findingError is an answer that is no, or a fault of what was read.
type findingError struct{ error }

func (e findingError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func finding(format string, args ...any) error { return findingError{fmt.Errorf(format, args...)} }

// contextError says where or whom an error is about, or what was done before it.
type contextError struct {
	before, after string
	error
}

// about returns err with the text before it, and without the name that begins each error of the package: the
// program prints that once, at the front.
func about(text string, err error) error {
	if err == nil {
		return nil
	}
	return contextError{text + ": ", "", err}
}

// done returns err with what was done before it, as in "3 memories were stored before".
func done(err error, n int, verb string) error {
	switch {
	case err == nil || n == 0:
		return err
	case n == 1:
		verb = " was " + verb
	default:
		verb = " were " + verb
	}
	return contextError{"", "; " + counted(n, "memory") + verb + " before", err}
}

// aboutFile is about, unless err names the file, or one below it, already. "-" is the standard input.
func aboutFile(name string, err error) error {
	if name == "-" {
		return about("standard input", err)
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok && strings.HasPrefix(e.Path, name) {
		return err
	}
	return about(showName(name), err)
}

func (e contextError) Error() string { return e.before + errorText(e.error) + e.after }

func (e contextError) Unwrap() error { return e.error }

// errorText returns the text of err without the name of the package at its front, and joined errors on one line, each
// once.
func errorText(err error) string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && errors.Join(joined.Unwrap()...).Error() == err.Error() {
		var texts []string
		for _, e := range joined.Unwrap() {
			if text := errorText(e); !slices.Contains(texts, text) { // of goroutines that met the same
				texts = append(texts, text)
			}
		}
		return strings.Join(texts, "; ")
	}
	if e, ok := errors.AsType[contextError](err); ok && e.before != "" && strings.HasPrefix(err.Error(), e.before) {
		return err.Error() // which begins with a name of the user's
	}
	return strings.TrimPrefix(err.Error(), "warmtier: ")
}

// flagError returns err, which may be of options, with the names of their flags.
func flagError(err error) error {
	if !errors.Is(err, warmtier.ErrInvalidOptions) {
		return err
	}
	text := strings.TrimPrefix(err.Error(), warmtier.ErrInvalidOptions.Error()+": ")
	text = strings.NewReplacer("MaxBytes is ", "--max-bytes is ", "SegmentSize is ", "--segment-size is ").Replace(text)
	return usage("%s", strings.ReplaceAll(text, "\n", "; "))
}

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
	case isUsage, is(warmtier.ErrInvalidOptions):
		return exitUsage
	case isFinding, is(warmtier.ErrNotFound, warmtier.ErrCorrupt, warmtier.ErrInvalidID, warmtier.ErrContentTooLarge):
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
	text := errorText(err)
	if errors.Is(err, context.Canceled) && a.ctx.Err() != nil {
		text = strings.TrimSuffix("interrupted: "+text, ": "+context.Canceled.Error())
	}
	if a.json {
		_ = writeJSON(a.errOut, map[string]any{"error": text, "exit": code})
	} else {
		fmt.Fprintln(a.errOut, "warmtier: "+text)
	}
	if _, isParse := errors.AsType[*kong.ParseError](err); isParse && !a.json {
		fmt.Fprintln(a.errOut, "warmtier help says what there is, warmtier help COMMAND has examples.")
	}
	return code
}
