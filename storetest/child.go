package storetest

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

/*
Processes of the suite are the test binary again, with a pattern that leads to the same call of Run. That finds its
job in the environment, does it, and ends the process. A line of its standard output that has the marker is the job's
answer; others are the store's, or the testing package's.
*/

const (
	jobVariable = "STORETEST_JOB"
	marker      = "\x01storetest\x01"
)

// job is what a process was started for.
type job struct {
	Test string // that called Run
	Kind jobKind
	Dir  string
	Seed uint64

	Scenario string   // of jobScenario
	Writer   writers  // of jobWriter
	Damages  []damage // of jobDamage
	From     int      // the first of them
}

type jobKind string

const (
	jobScenario jobKind = "scenario"
	jobWriter   jobKind = "writer"
	jobSecond   jobKind = "second"
	jobDamage   jobKind = "damage"
	jobDisk     jobKind = "disk"
	jobFill     jobKind = "fill"
)

// jobOf returns the job of this process, if it has one for that test.
func jobOf(test string) (job, bool) {
	text := os.Getenv(jobVariable)
	var j job
	if text == "" || json.Unmarshal([]byte(text), &j) != nil || j.Test != test {
		return j, false
	}
	return j, true
}

// obey does the job of this process, and ends it.
func (s *suite) obey(j job) {
	s.Seed = j.Seed
	var mu sync.Mutex
	say := func(line string) { // in one write, so that what is killed has said a line or has not
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.WriteString("\n" + marker + line + "\n")
	}
	err := guarded(func() error {
		switch j.Kind {
		case jobScenario:
			return s.scenarioJob(j)
		case jobWriter:
			return s.writerJob(j, say)
		case jobSecond:
			s.second(j, say)
			return nil
		case jobDamage:
			return s.damageJob(j, say)
		case jobDisk:
			return s.diskJob(j, say)
		case jobFill:
			return s.fillJob(j, say)
		}
		return fmt.Errorf("unknown job %q", j.Kind)
	})
	ended := ending{}
	if skip := (skipError)(""); errors.As(err, &skip) {
		ended.Skip = string(skip)
	} else if err != nil {
		ended.Err = err.Error()
	}
	text, _ := json.Marshal(ended) // it has two strings
	say("end " + string(text))
	exit()
}

// exit ends a process that was started for a job: of what the test that it is part of would do, nothing is wanted.
func exit() {
	os.Exit(0) //nolint:forbidigo // there is nobody to return to
}

// ending is the last line of a job.
type ending struct{ Err, Skip string }

func (s *suite) scenarioJob(j job) error {
	for _, sc := range scenarios {
		if sc.name == j.Scenario {
			return s.perform(sc, j.Dir)
		}
	}
	return fmt.Errorf("unknown scenario %q", j.Scenario)
}

// child is a process that does a job.
type child struct {
	cmd    *exec.Cmd
	out    *bufio.Reader
	errors *tail
	pipe   *os.File
	ended  sync.Once
	state  error // of its end
}

// start starts a process, changed by the options before.
func (s *suite) start(j job, options ...func(*exec.Cmd)) (*child, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	j.Test, j.Seed = s.test, s.Seed
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	elements := strings.Split(s.test, "/")
	for i, element := range elements {
		elements[i] = "^" + regexp.QuoteMeta(element) + "$"
	}
	c := &child{errors: &tail{}}
	args := []string{"-test.run=" + strings.Join(elements, "/"), "-test.count=1", "-test.timeout=0"}
	flag.Visit(func(f *flag.Flag) { // those of the tests themselves: one may lead to the call of Run
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	c.cmd = exec.Command(executable, args...)
	c.cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	c.cmd.Stderr = c.errors
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }() // the child has its own
	c.cmd.Stdout, c.pipe, c.out = w, r, bufio.NewReader(r)
	for _, option := range options {
		option(c.cmd)
	}
	if err := c.cmd.Start(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return c, nil
}

// kill ends the process as the system does when it is out of memory: with SIGKILL, where there are signals. What it had
// said before can still be read.
func (c *child) kill() {
	c.ended.Do(func() {
		_ = c.cmd.Process.Kill() // it may have ended
		c.state = c.cmd.Wait()
	})
}

// end kills what may still run, and forgets the rest of its output.
func (c *child) end() {
	c.kill()
	_ = c.pipe.Close()
}

// lines returns a channel of what the process says, which is closed at its end.
func (c *child) lines() <-chan string {
	lines := make(chan string, 1024)
	go func() {
		defer close(lines)
		scanLines(c.out, func(line string) { lines <- line })
	}()
	return lines
}

// finish reads to the end of a process that is not killed, and returns how it ended. A process that hangs, and says
// nothing for as long as patience, is killed.
func (c *child) finish(patience time.Duration, f func(line string)) error {
	var hung atomic.Bool
	timer := time.AfterFunc(patience, func() {
		hung.Store(true)
		_ = c.cmd.Process.Kill() // it may have ended
	})
	var last *ending
	scanLines(c.out, func(line string) {
		timer.Reset(patience)
		if text, ok := strings.CutPrefix(line, "end "); ok {
			last = &ending{}
			if json.Unmarshal([]byte(text), last) != nil {
				last.Err = text
			}
			return
		}
		f(line)
	})
	timer.Stop()
	c.ended.Do(func() { c.state = c.cmd.Wait() })
	_ = c.pipe.Close()
	switch {
	case last == nil && hung.Load():
		return errHung
	case last == nil && c.state == nil:
		return errors.New("the process ended without its job: in it the test does not come to the call of Run")
	case last == nil:
		return &crashError{fmt.Errorf("the process ended: %w: %s", c.state, c.errors.brief())}
	case last.Skip != "":
		return skipError(last.Skip)
	case last.Err != "":
		return errors.New(last.Err)
	}
	return nil
}

var errHung = errors.New("the process hung, and was killed")

// crashError is returned for a process that ended without doing its job.
type crashError struct{ cause error }

func (e *crashError) Error() string { return e.cause.Error() }
func (e *crashError) Unwrap() error { return e.cause }

// isolated runs a scenario in a process of its own.
func (s *suite) isolated(dir, scenario string) error {
	c, err := s.start(job{Kind: jobScenario, Dir: dir, Scenario: scenario})
	if err != nil {
		return err
	}
	return c.finish(5*time.Minute+20*s.Duration, func(string) {})
}

// tail keeps what a process writes, up to a limit.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), 1<<20-len(t.text))]...)
	return len(p), nil
}

// brief returns what says why a Go process ended.
func (t *tail) brief() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.text)
	for _, first := range []string{"panic: ", "fatal error: ", "unexpected fault "} {
		if i := strings.Index(text, first); i >= 0 {
			text = text[i:]
			break
		}
	}
	text, _, _ = strings.Cut(text, "\n\ngoroutine ")
	return strings.Join(strings.Fields(text[:min(len(text), 500)]), " ")
}
