package warmtier

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// busyMachine is a clock and a scheduler for a pace: time passes when a worker works, and each
// offer costs as much as is set.
type busyMachine struct {
	at     time.Time
	cost   time.Duration // of an offer
	step   time.Duration // of work before each look at the clock; 0: the test moves the clock
	offers int
	looks  int // at the clock
}

// on makes the machine p's. One worker at a time may use it.
func (m *busyMachine) on(p *pace) *pace {
	m.at = time.Now()
	for w := range p.workers {
		p.workers[w].last = m.at
	}
	p.now = func() time.Time {
		m.looks++
		m.at = m.at.Add(m.step)
		return m.at
	}
	p.offer = func() {
		m.offers++
		m.at = m.at.Add(m.cost)
	}
	return p
}

// workUntilOffer has the worker work in steps until it offers, and returns how long that was.
func (m *busyMachine) workUntilOffer(t *testing.T, p *pace, worker int, step time.Duration) time.Duration {
	t.Helper()
	for worked := step; worked < time.Minute; worked += step {
		m.at = m.at.Add(step)
		if p.yield(worker) {
			return worked
		}
	}
	require.Fail(t, "no offer in a minute of work")
	return 0
}

const chunkTime = 20 * time.Microsecond

// Goal: on an idle machine a worker offers once a turn, not more often and not more seldom.
func TestPace_OffersOnceATurn(t *testing.T) {
	var m busyMachine
	p := m.on(newPace(1, 1))
	for range 5 {
		require.Equal(t, turn, m.workUntilOffer(t, p, 0, chunkTime))
	}
}

// Goal: a worker that its offer has kept away for 30 ms does not offer again before it has worked
// for 30 ms, and from then on as before.
func TestPace_EarnsWhatAnOfferCost(t *testing.T) {
	m := busyMachine{cost: 30 * time.Millisecond}
	p := m.on(newPace(1, 1))
	m.workUntilOffer(t, p, 0, chunkTime)
	m.cost = 0
	require.Equal(t, 30*time.Millisecond, m.workUntilOffer(t, p, 0, chunkTime))
	require.Equal(t, turn, m.workUntilOffer(t, p, 0, chunkTime))
}

// Goal: time in which a worker was preempted is not work. Method: it runs for 10 ms, and then others
// do for 40, over and over: of a debt of 30 ms each of these rounds earns 10, and 1 for the step
// in which it was preempted.
func TestPace_PreemptionEarnsNothing(t *testing.T) {
	m := busyMachine{cost: 30 * time.Millisecond}
	p := m.on(newPace(1, 1))
	m.workUntilOffer(t, p, 0, chunkTime)
	slices := 0
	for start := m.offers; m.offers == start; slices++ {
		for range 10 * time.Millisecond / chunkTime {
			m.at = m.at.Add(chunkTime)
			if p.yield(0) {
				break
			}
		}
		m.at = m.at.Add(40 * time.Millisecond)
	}
	require.Equal(t, 3, slices)
}

// Goal: a debt is bounded: after an hour in which the machine was suspended others get an offer
// after mostOwed of work.
func TestPace_DebtIsBounded(t *testing.T) {
	m := busyMachine{cost: time.Hour}
	p := m.on(newPace(1, 1))
	m.workUntilOffer(t, p, 0, chunkTime)
	require.Equal(t, mostOwed, m.workUntilOffer(t, p, 0, chunkTime))
}

// Goal: each worker has a debt of its own.
func TestPace_DebtIsOfOneWorker(t *testing.T) {
	m := busyMachine{cost: 30 * time.Millisecond}
	p := m.on(newPace(2, 2))
	m.workUntilOffer(t, p, 0, chunkTime)
	m.cost = 0
	p.workers[1].last = m.at
	require.Equal(t, turn, m.workUntilOffer(t, p, 1, chunkTime))
}

// Goal: the floor: beside any number of busy goroutines a worker has nine tenths of the share of one
// of them. Method: each time it offers, and each time it has run for a time slice, all others run
// for one.
func TestPace_Floor(t *testing.T) {
	const slice = 10 * time.Millisecond
	for _, busy := range []time.Duration{1, 4, 16, 1000} {
		m := busyMachine{cost: busy * slice}
		p := m.on(newPace(1, 1))
		var worked, ran time.Duration
		start := m.at
		for worked < 10*time.Second {
			m.at = m.at.Add(chunkTime)
			worked += chunkTime
			ran += chunkTime
			if p.yield(0) {
				ran = 0
			} else if ran >= slice {
				ran = 0
				m.at = m.at.Add(m.cost)
			}
		}
		share := float64(worked) / float64(m.at.Sub(start))
		require.Greater(t, share*float64(busy+1), 0.9, "beside %d busy goroutines", busy)
	}
}

// Goal: a compaction that is urgent offers once in a time slice, with as many workers as are
// allowed; when it no longer is, it does as before.
func TestPace_Urgent(t *testing.T) {
	var m busyMachine
	p := m.on(newPace(2, 8))
	require.Equal(t, 2, p.count())
	p.urgent(1)
	require.Equal(t, 8, p.count())
	require.Equal(t, urgentTurn, m.workUntilOffer(t, p, 7, chunkTime))
	p.urgent(0)
	require.Equal(t, 2, p.count())
	require.Equal(t, turn, m.workUntilOffer(t, p, 7, chunkTime))
}

// Goal: an urgent compaction takes all processors where the user has left the number of workers to
// the store, and as many workers as were set where not.
func TestPace_UrgentWorkers(t *testing.T) {
	for set, want := range map[int]int{0: 2, 1: 1, 3: 3} {
		c := openTest(t, compacting(set, 1), hooks{}).newCompaction(triggerManual)
		c.pace.urgent(1)
		require.Equal(t, want, c.pace.count(), "Workers: %d", set)
	}
}

// Goal: workers may become more and fewer from round to round, and nothing is lost.
func TestPace_UrgentInTheMiddle(t *testing.T) {
	s := faultStore(t, bounded(0))
	c := s.newCompaction(triggerManual)
	c.recordSize = 400
	c.pace = newPace(1, 4)
	rounds := 0
	s.hooks.at = func(p point) error {
		if p == pointCompactBuilt {
			rounds++
			c.pace.urgent(int32(rounds % 2))
		}
		return nil
	}
	require.NoError(t, c.run(context.Background()))
	require.Greater(t, rounds, 2)
	require.EqualValues(t, faultMemories/2, c.stats.MemoriesMoved)
	require.Zero(t, s.Stats().DeadBytes)
}

// Goal: a debt survives from one shard, one phase and one round to the next: a compaction offers when
// it has earned what the last offer cost, and at no other time. Method: each step takes 100 us, each
// offer costs 30 ms.
func TestPace_DebtSurvivesShardsAndRounds(t *testing.T) {
	s := faultStore(t, bounded(1))
	c := s.newCompaction(triggerManual)
	c.recordSize = 400
	m := busyMachine{step: turn, cost: 30 * time.Millisecond}
	m.on(c.pace)
	require.NoError(t, c.run(context.Background()))
	require.Greater(t, c.stats.Rounds, 1)
	steps := m.looks - m.offers // of work: the clock is looked at once more after each offer
	require.Greater(t, steps, 2*shardCount)
	// The last may be due after the last step.
	require.InDelta(t, 1+(steps-1)/int(m.cost/m.step), m.offers, 1, "one at once, and then each when the last was earned")
}

// Goal: the goroutine that runs a phase waits for workers that have begun, and for no others: those
// find it ended and do nothing.
func TestPhase_EndWaitsForThoseWhoJoined(t *testing.T) {
	var p phase
	require.True(t, p.join())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.end()
	}()
	require.True(t, waitFor(func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.ended
	}))
	require.False(t, p.join())
	require.True(t, stays(func() bool {
		select {
		case <-ended:
			return false
		default:
			return true
		}
	}))
	p.working.Done()
	<-ended
}

// Goal: the first error of a worker is that of the phase, and the others are told to stop.
func TestTogether_FirstErrorStopsAll(t *testing.T) {
	c := openTest(t, quiet(), hooks{}).newCompaction(triggerManual)
	for failing := range 2 {
		began := make(chan struct{})
		err := c.together(context.Background(), 2, func(ctx context.Context, worker int) error {
			if worker == 1 {
				close(began)
			}
			<-began
			if worker == failing {
				return errInjected
			}
			<-ctx.Done()
			return errors.Join(errors.New("stopped"), context.Cause(ctx))
		})
		require.Equal(t, errInjected, err)
	}
}

// Goal: when a phase ends with a panic of OnProgress, which worker 0 calls, no other worker runs any
// more: the round is undone next.
func TestTogether_PanicStopsAll(t *testing.T) {
	c := openTest(t, quiet(), hooks{}).newCompaction(triggerManual)
	began, running := make(chan struct{}), true
	require.PanicsWithValue(t, "from OnProgress", func() {
		_ = c.together(context.Background(), 2, func(ctx context.Context, worker int) error {
			if worker == 0 {
				<-began
				panic("from OnProgress")
			}
			close(began)
			<-ctx.Done()
			for range 2000 { // time enough to be left behind
				runtime.Gosched()
			}
			running = false
			return nil
		})
	})
	require.False(t, running)
}
