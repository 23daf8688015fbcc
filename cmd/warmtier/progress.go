package main

import (
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/cwriter"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	progressDelay = time.Second            // a task that ends sooner shows nothing
	progressTick  = 100 * time.Millisecond // between two looks
)

// unit says what a progress bar counts.
type unit int

const (
	unitMemories unit = iota
	unitBytes
	unitTime    // milliseconds, which pass by themselves
	unitNothing // nobody knows how far the task is
)

// progress shows how far one task is. All methods may be called from any goroutine.
type progress struct {
	total atomic.Int64
	done  atomic.Int64
	start time.Time
	drawn bool // on a terminal
	stop  chan struct{}
	ended chan struct{}
}

func (p *progress) add(n int64)                  { p.done.Add(n) }
func (p *progress) set(n, of int64)              { p.done.Store(n); p.total.Store(of) }
func (p *progress) reader(r io.Reader) io.Reader { return countingReader{r, p} }
func (p *progress) writer(w io.Writer) io.Writer { return countingWriter{w, p} }

// end takes the bar from the screen. It is called once.
func (p *progress) end() {
	close(p.stop)
	<-p.ended
}

type countingReader struct {
	io.Reader
	p *progress
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.add(int64(n))
	return n, err
}

type countingWriter struct {
	io.Writer
	p *progress
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.p.add(int64(n))
	return n, err
}

// countedInput shows how far an input is read, which may begin again.
type countedInput struct {
	*input
	bar *progress
}

func (c *countedInput) Read(b []byte) (int, error) {
	n, err := c.input.Read(b)
	c.bar.add(int64(n))
	return n, err
}

func (c *countedInput) Seek(offset int64, whence int) (int64, error) {
	at, err := c.input.Seek(offset, whence)
	c.bar.set(at, c.size)
	return at, err
}

// noProgress is for an output that is no terminal.
func noProgress(string, int64, unit) *progress {
	p := &progress{stop: make(chan struct{}), ended: make(chan struct{})}
	close(p.ended)
	return p
}

// terminalProgress returns a progress bar on w, a terminal; options are for tests.
func terminalProgress(w io.Writer, options ...mpb.ContainerOption) func(string, int64, unit) *progress {
	return func(title string, total int64, u unit) *progress {
		p := &progress{start: time.Now(), drawn: true, stop: make(chan struct{}), ended: make(chan struct{})}
		p.total.Store(total)
		go func() {
			defer close(p.ended)
			select {
			case <-p.stop:
			case <-time.After(progressDelay):
				p.draw(append(options, mpb.WithOutput(w), mpb.WithWidth(40)), title, u)
			}
		}()
		return p
	}
}

// draw draws until the task has ended, and then removes the bar.
func (p *progress) draw(options []mpb.ContainerOption, title string, u unit) {
	container := mpb.New(options...)
	style, counters := mpb.BarFillerBuilder(mpb.BarStyle()), map[unit]decor.Decorator{
		unitMemories: decor.CountersNoUnit("%d / %d", decor.WCSyncSpace),
		unitBytes:    decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace),
	}
	if p.total.Load() == 0 { // unknown
		style, counters = mpb.SpinnerStyle().PositionLeft(), map[unit]decor.Decorator{
			unitMemories: decor.CurrentNoUnit("%d", decor.WCSyncSpace),
			unitBytes:    decor.CurrentKibiByte("% .1f", decor.WCSyncSpace),
		}
	}
	bar := container.New(p.total.Load(), style,
		mpb.PrependDecorators(decor.Name(title, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(counters[u], decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)))
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	for running := true; running; {
		done := p.done.Load()
		if u == unitTime {
			done = time.Since(p.start).Milliseconds()
		}
		// An unknown total is set beyond what is done so far: a bar that is full would end.
		bar.SetTotal(max(p.total.Load(), done+1), false)
		bar.SetCurrent(done)
		select {
		case <-p.stop:
			running = false
		case <-tick.C:
		}
	}
	bar.Abort(true)
	container.Wait()
}

// isTerminal reports whether f is one.
func isTerminal(f *os.File) bool { return cwriter.IsTerminal(int(f.Fd())) }
