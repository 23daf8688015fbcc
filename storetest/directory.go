package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// reopenKeepsAll closes and opens the store again and again.
func reopenKeepsAll(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(300)
	for round := range 6 {
		err := e.together(l.writer(e.st, e.rng.Uint64(), 0, 2, 300), l.writer(e.st, e.rng.Uint64(), 1, 2, 300))
		if c, ok := e.st.(Compacter); ok && err == nil && round%2 == 1 {
			err = c.Compact()
		}
		if err == nil {
			err = e.reopen()
		}
		if err == nil {
			err = l.check(e.st)
		}
		if err != nil {
			return fmt.Errorf("in a store opened %d times: %w", round+2, err)
		}
	}
	return nil
}

// closeKeepsWrites closes the store under its writers. What they were told is stored must be there.
func closeKeepsWrites(e *env) error {
	l := e.newLedger(90)
	for range 4 {
		if err := e.open(); err != nil {
			return err
		}
		if err := l.check(e.st); err != nil {
			return fmt.Errorf("closed under its writers: %w", err)
		}
		const writers, enough, most = 3, 200, 4000
		st, closing := e.st, make(chan struct{})
		var writes atomic.Int64
		ended := make(chan struct{}, writers)
		for w := range writers {
			go func() {
				// A closed store may answer with an error or a panic. Only a nil error is a promise.
				_ = guarded(func() error {
					for n := range most {
						if err := l.write(st, (w+n*writers)%len(l.ids)); err != nil {
							return err
						}
						if writes.Add(1) == enough {
							close(closing)
						}
					}
					return nil
				})
				ended <- struct{}{}
			}()
		}
		select {
		case <-closing:
		case <-time.After(time.Minute):
			return errors.New("200 writes take more than a minute, or fail")
		}
		err := e.close()
		for range writers {
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				return errors.New("a write hangs 20 s after Close has returned")
			}
		}
		if err != nil {
			return err
		}
	}
	if err := e.open(); err != nil {
		return err
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("closed under its writers: %w", err)
	}
	return nil
}

// secondOpenLosesNothing opens the directory in a second process. It may be refused, or wait; if it is let in, nothing
// that either is told is stored may be lost.
func secondOpenLosesNothing(e *env) error {
	if err := e.open(); err != nil {
		return err
	}
	l := e.newLedger(100)
	if err := l.fill(e.st, 1); err != nil {
		return err
	}
	c, err := e.start(job{Kind: jobSecond, Dir: e.dir})
	if err != nil {
		return err
	}
	defer c.end()
	answers, acked := c.lines(), 0
	for deadline := time.After(time.Minute); ; { // for the process to begin
		var line string
		var ok bool
		select {
		case line, ok = <-answers:
		case <-deadline:
		}
		if !ok {
			break
		}
		if line == "opens" {
			deadline = time.After(2 * time.Second) // a store may wait for its turn
		}
		if strings.HasPrefix(line, "second ") {
			acked++
		}
	}
	c.end()
	if err := l.fill(e.st, 2); err != nil {
		return fmt.Errorf("a second process has opened the directory: %w", err)
	}
	if err := e.reopen(); err != nil {
		return fmt.Errorf("a second process had opened the directory: %w", err)
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("a second process had opened the directory: %w", err)
	}
	for i := range acked {
		id := secondID(i)
		got, found, err := e.st.Get(id)
		if err != nil {
			return fmt.Errorf("get %q, which a second process stored: %w", id, err)
		}
		if !found || string(got) != id {
			return fmt.Errorf("a second process was let in, and of %q, which it was told is stored, there is: %q, %t", id,
				got, found)
		}
	}
	return nil
}

func secondID(i int) string { return fmt.Sprintf("second/%03d", i) }

// second is what the second process does. Being refused is right, and then nothing is said.
func (s *suite) second(j job, say func(string)) {
	say("opens")
	st, err := s.Open(j.Dir)
	for i := 0; err == nil && i < 100; i++ {
		err = st.Put(secondID(i), []byte(secondID(i)))
	}
	if err != nil || st.Sync() != nil || st.Close() != nil {
		return
	}
	for i := range 100 {
		say("second " + secondID(i))
	}
}

// scanLines calls f with what a job has said, line by line, and ignores what the store prints.
func scanLines(r *bufio.Reader, f func(line string)) {
	for {
		line, err := r.ReadString('\n')
		if _, said, ok := strings.Cut(strings.TrimSuffix(line, "\n"), marker); ok && err == nil {
			f(said)
		}
		if err != nil {
			return
		}
	}
}
