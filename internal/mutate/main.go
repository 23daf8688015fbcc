// Command mutate tests the tests: it puts one fault after another into the package, builds the
// tests with it, and runs the one test that must fail. Run it in the root of the repository:
//
//	go run ./internal/mutate            # all of them
//	go run ./internal/mutate flip       # those with "flip" in their name
//
// Tests get their long budgets, so that it is no luck whether they look where the fault is.
//
// No file is changed: the compiler is given the altered text as an overlay. A fault whose text is
// not found exactly once, or that does not compile, is an error, so that this list cannot rot
// unnoticed. It is an error too if a test ends in another way than its fault says: a panic that
// comes first says little about what the test looks for. The exit code is 0 only if every fault was
// caught by its test, and every such test passes without the fault.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// testLimit bounds one test. It is generous: a test that does not end is not one that caught a fault.
const testLimit = 3 * time.Minute

func main() {
	names := os.Args[1:]
	var chosen []fault
	for _, f := range allFaults() {
		if len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(f.name, n) }) {
			chosen = append(chosen, f)
		}
	}
	if err := run(chosen); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func allFaults() []fault {
	return slices.Concat(faults, directoryFaults, batchFaults, checkpointFaults)
}

func run(chosen []fault) error {
	if len(chosen) == 0 {
		return errors.New("no fault has such a name")
	}
	scratch, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	if err := passesWithout(scratch, chosen); err != nil {
		return err
	}
	start, bad := time.Now(), 0
	for _, f := range chosen {
		result, err := f.try(scratch)
		switch {
		case err != nil:
			result = "ERROR: " + err.Error()
			bad++
		case result != f.caughtBy():
			result = strings.ToUpper(result) + ", want " + f.caughtBy()
			bad++
		}
		fmt.Printf("%-31s %-14s %-46s %s\n", f.name, f.file, f.test, result)
	}
	fmt.Printf("%d of %d faults caught, in %v\n", len(chosen)-bad, len(chosen), time.Since(start).Round(time.Second))
	if bad > 0 {
		return fmt.Errorf("%d faults were missed or could not be tried", bad)
	}
	return nil
}

// passesWithout runs the tests without a fault: one that fails anyway would catch everything.
func passesWithout(scratch string, chosen []fault) error {
	tests := map[build][]string{}
	for _, f := range chosen {
		if b := f.build(); !slices.Contains(tests[b], f.test) {
			tests[b] = append(tests[b], f.test)
		}
	}
	for b, list := range tests {
		binary, err := b.compile(scratch, "")
		if err != nil {
			return err
		}
		patterns := make([]string, len(list))
		for i, test := range list {
			patterns[i] = pattern(test)
		}
		out, err := b.run(binary, strings.Join(patterns, "|"), time.Duration(len(list))*testLimit)
		if err != nil {
			return fmt.Errorf("without a fault: %w\n%s", err, out)
		}
		for _, test := range list {
			if !strings.Contains(out, "--- PASS: "+test+" (") {
				return fmt.Errorf("there is no test %s, or it was skipped", test)
			}
		}
	}
	return nil
}

// Results of a fault.
const (
	caught  = "caught"            // by an assertion
	panics  = "caught by a panic" // of the code itself, or of checks that are built with tags
	timeout = "did not end"       // in testLimit
	missed  = "missed"
)

// fault is one change of the package that a test must notice.
type fault struct {
	name     string
	file     string
	old, new string // old occurs in file once
	test     string // the one that must fail; with "/" a part of it
	tags     string // of the build
	by       string // how the test must fail; "" for caught
}

func (f fault) caughtBy() string {
	if f.by == "" {
		return caught
	}
	return f.by
}

func (f fault) try(scratch string) (string, error) {
	text, err := os.ReadFile(f.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), f.old); n != 1 {
		return "", fmt.Errorf("%q is %d times in %s, want once", f.old, n, f.file)
	}
	altered := filepath.Join(scratch, filepath.Base(f.file))
	if err := os.WriteFile(altered, []byte(strings.Replace(string(text), f.old, f.new, 1)), 0o600); err != nil {
		return "", err
	}
	original, err := filepath.Abs(f.file)
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(scratch, "overlay.json")
	b, err := json.Marshal(map[string]map[string]string{"Replace": {original: altered}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		return "", err
	}
	binary, err := f.build().compile(scratch, overlay)
	if err != nil {
		return "", err
	}
	out, err := f.build().run(binary, pattern(f.test), testLimit)
	switch {
	case err == nil:
		return missed, nil
	case strings.Contains(out, "panic: test timed out"):
		return timeout, nil
	}
	for line := range strings.Lines(out) {
		switch { // the first one counts: cleanup may well panic after an assertion
		case strings.Contains(line, "Error Trace:"):
			return caught, nil
		case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "fatal error: "):
			return panics, nil
		}
	}
	return caught, nil
}

// pattern returns the pattern for -test.run that matches test only.
func pattern(test string) string {
	return "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
}

// build is a package whose tests are compiled with some tags.
type build struct{ directory, tags string }

// build returns the package that the fault is in, which has the test that must notice it.
func (f fault) build() build { return build{directory: filepath.Dir(f.file), tags: f.tags} }

// compile makes a binary of the tests.
func (b build) compile(scratch, overlay string) (binary string, err error) {
	binary = filepath.Join(scratch, "tests")
	args := []string{"test", "-c", "-ldflags=-s -w", "-o", binary, "-tags", b.tags}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	if out, err := exec.Command("go", append(args, "./"+b.directory)...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("does not compile: %w\n%s", err, out)
	}
	return binary, nil
}

// run returns an error when a test fails, or does not end; it stops at the first failure.
func (b build) run(binary, tests string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.v", "-test.short", "-test.failfast", "-test.run", tests,
		"-test.timeout", limit.String())
	cmd.Dir = b.directory
	cmd.Env = append(os.Environ(), "WARMTIER_TEST_DURATION=300ms")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
