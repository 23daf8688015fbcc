package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// writers is what a process that will be killed does.
type writers struct {
	IDs      int
	From     []uint64 // the first version to write, of each id
	Compacts bool
	Width    int // of batches; 0 means single writes
	Synced   bool
}

const writerCount = 3

// killKeepsAll kills a process that writes.
func killKeepsAll(e *env) error { return e.kills(writers{IDs: 90}) }

// killInCompactionKeepsAll kills one that compacts as well, without a pause.
func killInCompactionKeepsAll(e *env) error { return e.kills(writers{IDs: 90, Compacts: true}) }

// killKeepsBatchesWhole kills one that writes batches.
func killKeepsBatchesWhole(e *env) error { return e.kills(writers{IDs: 12, Width: 8}) }

// kills kills a process that writes at a random moment, looks at what is in its directory, and goes on from there.
func (e *env) kills(w writers) error {
	l := e.newLedger(w.IDs)
	check := l.check
	if w.Width > 0 {
		check = batches{l, w.Width}.check
	}
	w.Synced = e.Keeps == Synced
	w.From = make([]uint64, w.IDs)
	var acked int
	for round, deadline := 1, time.Now().Add(e.Duration); round <= 4 || time.Now().Before(deadline); round++ {
		for i := range w.From {
			w.From[i] = l.of[i].from.Load()
		}
		n, err := e.killOnce(w, l)
		acked += n
		if err != nil {
			return fmt.Errorf("before kill %d: %w", round, err)
		}
		if err := e.open(); err != nil {
			return fmt.Errorf("after kill %d, with %d writes acknowledged: %w", round, acked, err)
		}
		if err := check(e.st); err != nil {
			return fmt.Errorf("after kill %d, with %d writes acknowledged: %w", round, acked, err)
		}
		if err := e.close(); err != nil {
			return fmt.Errorf("after kill %d: %w", round, err)
		}
	}
	return nil
}

// killOnce has a process write, kills it, and enters in the ledger what it has said. It returns how many writes that
// acknowledged.
func (e *env) killOnce(w writers, l *ledger) (int, error) {
	c, err := e.start(job{Kind: jobWriter, Dir: e.dir, Writer: w})
	if err != nil {
		return 0, err
	}
	defer c.end()
	acked, enough := 0, 20+e.rng.IntN(800)
	compacted, enoughCompacted := 0, 0
	if w.Compacts {
		enoughCompacted = 2 // the second one has begun after a write
	}
	var bad error
	enter := func(line string) {
		if line == sayCompacted {
			compacted++
			return
		}
		if strings.HasPrefix(line, "a ") {
			acked++
		}
		if rest, ok := strings.CutPrefix(line, "end "); ok {
			bad = errors.New("a write failed: " + rest)
		} else if err := l.enter(line); err != nil {
			bad = err
		}
	}
	lines := c.lines()
	limit := time.After(time.Minute) // for a process to begin
	for open := true; open && (acked < enough || compacted < enoughCompacted) && bad == nil; {
		select {
		case line, ok := <-lines:
			before := acked
			if open = ok; ok {
				enter(line)
			}
			if before == 0 && acked > 0 {
				limit = time.After(max(10*time.Second, e.Duration))
			}
		case <-limit: // a slow disk: what was acknowledged by now has to do
			open = false
		}
	}
	<-time.After(time.Duration(e.rng.IntN(3000)) * time.Microsecond)
	c.kill()
	for line := range lines {
		enter(line)
	}
	if bad == nil && acked == 0 {
		bad = fmt.Errorf("no write was acknowledged: %w: %s", c.state, c.errors.brief())
	}
	return acked, bad
}

// enter enters what a process has said: that it begins to write a version of an id, "s", or that it was acknowledged,
// "a".
func (l *ledger) enter(line string) error {
	var verb string
	var i int
	var version uint64
	if n, err := fmt.Sscanf(line, "%s %d %d", &verb, &i, &version); n != 3 || i < 0 || i >= len(l.of) {
		return fmt.Errorf("a process says %q: %w", line, err)
	}
	if verb == "a" {
		l.of[i].acked.Store(version)
	}
	l.of[i].started.Store(max(version, l.of[i].started.Load()))
	return nil
}

// writerJob writes until the process is killed, each goroutine its own ids, and says what it begins and what was
// acknowledged: at once, or after a Sync if the store promises no more.
func (s *suite) writerJob(j job, say func(string)) error {
	st, err := s.Open(j.Dir)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	w := j.Writer
	e := &env{suite: s, dir: j.Dir, st: st}
	l := e.newLedger(w.IDs)
	for i := range l.of {
		l.of[i].started.Store(w.From[i] - 1)
	}
	write := l.write
	if w.Width > 0 {
		write = batches{l, w.Width}.write
	}
	ended := make(chan error, writerCount+1)
	var written atomic.Int64
	for own := range writerCount {
		go func() {
			ended <- guarded(func() error {
				var acks []string
				for n := 0; ; n++ {
					i := (own + n*writerCount) % w.IDs
					say(fmt.Sprintf("s %d %d", i, l.of[i].started.Load()+1))
					if err := write(st, i); err != nil {
						return err
					}
					written.Add(1)
					acks = append(acks, fmt.Sprintf("a %d %d", i, l.of[i].acked.Load()))
					if w.Synced && len(acks) < 8 {
						continue
					}
					if w.Synced {
						if err := st.Sync(); err != nil {
							return fmt.Errorf("sync: %w", err)
						}
					}
					for _, ack := range acks {
						say(ack)
					}
					acks = acks[:0]
				}
			})
		}()
	}
	if c, ok := st.(Compacter); ok && w.Compacts {
		go func() {
			ended <- guarded(func() error {
				for said := int64(0); ; {
					if err := c.Compact(); err != nil {
						return fmt.Errorf("compact: %w", err)
					}
					if n := written.Load(); n > said {
						said = n
						say(sayCompacted)
					}
				}
			})
		}()
	}
	return <-ended
}

// sayCompacted is what a process says when a compaction has ended and something was written since the one before.
const sayCompacted = "compacted"
