package nodeapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/warmtier/warmtier"
)

// Ledger is what a cluster must have: every write that was acknowledged, and of each id the last
// one. One goroutine writes through it at a time.
type Ledger struct {
	Name         string // how its ids begin
	N            int    // how many there are
	Acknowledged int
	Failures     int // of writes, each then tried again until it was acknowledged

	versions []int
	want     []string // "" for an id that must be absent
}

// NewLedger returns one for n ids, all absent.
func NewLedger(name string, n int) *Ledger {
	return &Ledger{Name: name, N: n, versions: make([]int, n), want: make([]string, n)}
}

func (l *Ledger) id(i int) string { return fmt.Sprint(l.Name, " ", i) }

// Write does one write of a random kind on a random id, on one of the nodes after the other until
// it is acknowledged or ctx ends. A write that was not acknowledged may or may not have happened:
// the same one is tried again, so that in the end it has.
func (l *Ledger) Write(ctx context.Context, nodes func() []Client) error {
	i, kind := rand.IntN(l.N), rand.IntN(10)
	l.versions[i]++
	content := fmt.Sprint(l.id(i), " version ", l.versions[i])
	for {
		up := nodes()
		node := up[rand.IntN(len(up))]
		once, cancel := context.WithTimeout(ctx, 20*time.Second)
		var err error
		switch {
		case kind < 6:
			err = node.Put(once, l.id(i), []byte(content), 0)
		case kind < 8:
			err = node.Delete(once, l.id(i))
		default:
			err = node.Put(once, l.id(i), []byte(content), time.Millisecond)
		}
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write of %s: %w: %w", l.id(i), context.Cause(ctx), err)
		}
		l.Failures++
		<-time.After(20 * time.Millisecond)
	}
	l.Acknowledged++
	if l.want[i] = content; kind >= 6 {
		l.want[i] = ""
	}
	return nil
}

// Faults are ids that are not as they must be.
type Faults struct{ Lost, Older, Back int }

// Check reads every id from a node.
func (l *Ledger) Check(ctx context.Context, node Client) (f Faults, err error) {
	for i, want := range l.want {
		got, err := node.Get(ctx, l.id(i))
		switch {
		case err != nil && err != warmtier.ErrNotFound: //nolint:errorlint // bare
			return f, err
		case err != nil && want != "":
			f.Lost++
		case err == nil && want == "":
			f.Back++
		case err == nil && string(got) != want:
			f.Older++
		}
	}
	return f, nil
}
