package main

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows how far a run is: a bar on a terminal, a line for each suite and step elsewhere.
type progress interface {
	begin(name string, steps int)
	note(text string) // outside of the steps
	step(text string) // one of the steps begins
	end()
}

func newProgress(out *os.File) progress {
	if info, err := out.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		return &barProgress{bars: mpb.New(mpb.WithOutput(out))}
	}
	return &lineProgress{out: out}
}

type lineProgress struct {
	out   io.Writer
	name  string
	start time.Time
	shown time.Time
	done  int
	steps int
}

func (p *lineProgress) begin(name string, steps int) {
	*p = lineProgress{out: p.out, name: name, start: time.Now(), steps: steps}
	fmt.Fprintf(p.out, "%s: %d turns\n", name, steps)
}

func (p *lineProgress) note(text string) { p.print(text) }

func (p *lineProgress) step(text string) {
	p.done++
	p.print(text)
}

// print leaves out lines that follow within seconds: a log is read by people.
func (p *lineProgress) print(text string) {
	if time.Since(p.shown) < 5*time.Second {
		return
	}
	p.shown = time.Now()
	fmt.Fprintf(p.out, "%s: %d/%d, %s\n", p.name, p.done, p.steps, text)
}

func (p *lineProgress) end() {
	fmt.Fprintf(p.out, "%s: done in %.0f s\n", p.name, time.Since(p.start).Seconds())
}

type barProgress struct {
	bars *mpb.Progress
	bar  *mpb.Bar
	text atomic.Pointer[string] // the bar is drawn by a goroutine of its own
}

func (p *barProgress) begin(name string, steps int) {
	p.bar = p.bars.AddBar(int64(steps),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.CountersNoUnit("%d/%d")),
		mpb.AppendDecorators(decor.Elapsed(decor.ET_STYLE_GO), decor.Any(func(decor.Statistics) string {
			if text := p.text.Load(); text != nil {
				return " " + *text
			}
			return ""
		})))
}

func (p *barProgress) note(text string) { p.text.Store(&text) }

func (p *barProgress) step(text string) {
	p.text.Store(&text)
	p.bar.Increment()
}

func (p *barProgress) end() {
	p.note("")
	p.bar.SetTotal(-1, true)
	p.bar.Wait()
}
