//go:build unix

package warmtier

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

/*
Goal: kill -9 at any instant loses nothing that was acknowledged and brings nothing deleted back.

Method: the test binary runs itself as a child (TestCrashChild), which works on a directory store
and writes the number of each finished operation to a pipe. Operation n of writer w is a function of
(seed, w, n), so the parent knows what was done without being told. The child dies by SIGKILL: at a
random instant, sent by the parent, or at the n-th passing of a named point, sent by itself. Then
the parent opens the directory and compares: every acknowledged operation is there, and at most one
more of each writer, as a whole or not at all. Verify must be clean, no file may be left over, and a
second Open must find the same. Before the parent looks, further children may be killed while they
recover.

WARMTIER_TEST_KILLS sets the number of random kills; more than 60, the number in long tests,
also kills at more passings of each point. WARMTIER_TEST_SEED replays the operations.
*/

// crashRun is a directory and what must be in it.
type crashRun struct {
	c    crashConfig
	must map[string][]crashValue // what each memory may be by what was acknowledged; none: absent
	ops  int                     // acknowledged, all children together
	// A Clear that was cut off takes all of these or none.
	together map[string]bool
	// A batch that was cut off, and what its memories could be before it; one of each writer.
	batches []cutBatch
}

func newCrashRun(t *testing.T, dir string, seed uint64, writers int) *crashRun {
	return &crashRun{
		c:    crashConfig{Dir: filepath.Join(dir, "store"), Seed: seed, Next: make([]int, writers)},
		must: map[string][]crashValue{},
	}
}

// childResult says how a child ended.
type childResult struct {
	killed bool
	opened bool
	acked  []int        // operations acknowledged, by writer
	events []crashEvent // in the order in which they were written
	output string
}

// crashEvent says that a writer has finished its operation n, or that a Clear begins.
type crashEvent struct {
	writer uint32
	n      int
}

// run runs a child to its end, and calls kill with a channel that is closed when the store is open
// and a function that kills the child.
func (r *crashRun) run(t *testing.T, c crashConfig, kill func(opened <-chan struct{}, kill func())) childResult {
	t.Helper()
	text, err := json.Marshal(c)
	require.NoError(t, err)
	acks, childEnd, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = acks.Close() }()
	var output bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), crashVariable+"="+string(text))
	cmd.ExtraFiles = []*os.File{childEnd}
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	require.NoError(t, childEnd.Close())
	result := childResult{acked: make([]int, len(c.Next))}
	opened := make(chan struct{})
	var killers sync.WaitGroup
	if kill != nil {
		killers.Go(func() { kill(opened, func() { _ = cmd.Process.Kill() }) }) // the child may have ended
	}
	var ack [crashAckSize]byte
	for {
		if _, err := io.ReadFull(acks, ack[:]); err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		writer := binary.LittleEndian.Uint32(ack[:])
		if writer == crashOpened {
			result.opened = true
			close(opened)
			continue
		}
		n := int(binary.LittleEndian.Uint32(ack[4:]))
		result.events = append(result.events, crashEvent{writer: writer, n: n})
		if writer == crashClearing {
			continue
		}
		require.Equal(t, c.Next[writer]+result.acked[writer], n, "acknowledgements out of order")
		result.acked[writer]++
	}
	err = cmd.Wait()
	if !result.opened {
		close(opened)
	}
	killers.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		result.killed = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	result.output = output.String()
	if err != nil && !result.killed {
		require.Failf(t, "child failed", "%v\n%s\nconfig %s", err, result.output, text)
	}
	return result
}

// Goal: no kill at a random instant loses anything. Method: several in a row on the same directory,
// a few of them during Open.
func TestCrash_RandomKills(t *testing.T) {
	skipKillsUnderRace(t)
	rng := seeded(t)
	kills := envInt(t, "WARMTIER_TEST_KILLS", stride(t, defaultKills/3, defaultKills))
	const chain = 10 // kills in one directory
	var total, duringOpen, ops atomic.Int64
	t.Run("chains", func(t *testing.T) {
		for n := 0; n < kills; n += chain {
			seed := rng.Uint64()
			t.Run(fmt.Sprintf("from=%d", n), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				if n/chain%2 == 0 {
					dir = fastDir(t)
				}
				r := newCrashRun(t, dir, seed, 3)
				rng := rand.New(rand.NewPCG(seed, 1))
				for range min(chain, kills-n) {
					result := r.killRandomly(t, rng)
					total.Add(1)
					if !result.opened {
						duringOpen.Add(1)
					}
				}
				ops.Add(int64(r.ops))
			})
		}
	})
	t.Logf("%d kills, %d of them before the store was open, %d acknowledged operations",
		total.Load(), duringOpen.Load(), ops.Load())
	require.EqualValues(t, kills, total.Load())
	require.Positive(t, ops.Load())
}

func (r *crashRun) killRandomly(t *testing.T, rng *rand.Rand) childResult {
	t.Helper()
	early := rng.IntN(5) == 0
	wait := time.Duration(rng.Int64N(int64(60 * time.Millisecond)))
	c := r.c
	c.Next = slices.Clone(r.c.Next)
	result := r.run(t, c, func(opened <-chan struct{}, kill func()) {
		if !early {
			<-opened
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		<-timer.C
		kill()
	})
	require.True(t, result.killed, result.output)
	r.apply(c, result)
	r.check(t)
	return result
}

// Goal: no kill at a named point loses anything. Method: every point, at its first and at a later
// passing, and then a kill during the recovery.
func TestCrash_EveryPoint(t *testing.T) {
	skipKillsUnderRace(t)
	seed := seeded(t).Uint64()
	passed := countPoints(t, seed)
	points := slices.Concat(allPoints, filePoints)
	for p := range passed {
		require.Contains(t, points, p, "a point that is not in the list")
	}
	thorough := envInt(t, "WARMTIER_TEST_KILLS", defaultKills) > defaultKills
	var kills, unreached atomic.Int64
	t.Run("points", func(t *testing.T) {
		for i, p := range points {
			require.Positive(t, passed[p], "point %q is never passed", p)
			passings := []int{1, max(1, passed[p]/2)}
			if thorough {
				passings = append(passings, min(2, passed[p]), max(1, passed[p]/3), passed[p])
			}
			slices.Sort(passings)
			for j, passing := range slices.Compact(passings) {
				t.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(string(p), " ", "_"), passing), func(t *testing.T) {
					t.Parallel()
					r := newCrashRun(t, fastDir(t), seed, 1)
					c := r.c
					c.Script, c.KillAt, c.Passing, c.Next = true, p, passing, []int{0}
					result := r.run(t, c, nil)
					if passing == 1 {
						require.True(t, result.killed, "never reached")
					}
					if !result.killed { // which lane an id has is random
						unreached.Add(1)
					}
					r.apply(c, result)
					kills.Add(r.killRecovery(t, recoveryPoints[(i+j)%len(recoveryPoints)]))
					if thorough {
						kills.Add(r.killRecovery(t, recoveryPoints[(i+2*j+1)%len(recoveryPoints)]))
					}
					r.check(t)
					kills.Add(1)
				})
			}
		}
	})
	t.Logf("%d points, %d kills, %d late passings not reached", len(points), kills.Load(), unreached.Load())
}

// killRecovery kills an Open at p, and returns the number of kills: 1.
func (r *crashRun) killRecovery(t *testing.T, p point) int64 {
	t.Helper()
	c := r.c
	c.Open, c.KillAt, c.Passing, c.Next = true, p, 1, nil
	require.True(t, r.run(t, c, nil).killed, "Open does not pass %q", p)
	return 1
}

// countPoints runs the script to its end.
func countPoints(t *testing.T, seed uint64) map[point]int {
	t.Helper()
	r := newCrashRun(t, fastDir(t), seed, 1)
	c := r.c
	c.Script, c.Next = true, []int{0}
	result := r.run(t, c, nil)
	require.False(t, result.killed)
	require.Equal(t, []int{scriptLength}, result.acked)
	r.apply(c, result)
	r.check(t)
	b, err := os.ReadFile(c.Dir + ".points")
	require.NoError(t, err)
	var passed map[point]int
	require.NoError(t, json.Unmarshal(b, &passed))
	return passed
}

// Goal: no kill during a recovery loses anything. Method: at every point that a recovery passes,
// twice in a row, after several crashes.
func TestCrash_DuringRecovery(t *testing.T) {
	skipKillsUnderRace(t)
	seed := seeded(t).Uint64()
	var kills atomic.Int64
	t.Run("points", func(t *testing.T) {
		for _, first := range []point{pointPutBody, pointPutDrawn, pointLaneRolled, pointCompactCommitted,
			pointManifestRenamed, pointCompactSwapped, pointUnlink, pointCloseFlushed} {
			for _, p := range recoveryPoints {
				t.Run(strings.ReplaceAll(string(first+"/"+p), " ", "_"), func(t *testing.T) {
					t.Parallel()
					r := newCrashRun(t, fastDir(t), seed, 1)
					c := r.c
					c.Script, c.KillAt, c.Passing, c.Next = true, first, 2, []int{0}
					result := r.run(t, c, nil)
					require.True(t, result.killed, "never reached")
					r.apply(c, result)
					kills.Add(1)
					for range 2 { // always at the same point: no progress, and no harm
						kills.Add(r.killRecovery(t, p))
					}
					r.check(t)
				})
			}
		}
	})
	t.Logf("%d kills", kills.Load())
}

// repairWrites are points that a repair passes where it writes as a Put does.
var repairWrites = []point{pointPutBody, pointPutAppended, pointSegmentCreated, pointFlushed, pointStateWritten}

// Goal: a repair that is killed at any point, at each passing, and then run again, ends as one that
// was not. By default the passings are the first, the second, the fourth and so on.
func TestCrash_DuringRepair(t *testing.T) {
	t.Parallel()
	skipKillsUnderRace(t)
	for _, d := range damageStores(t)[:stride(t, 1, 2)] { // with a hint, and without
		crashDuringRepair(t, d)
	}
}

func crashDuringRepair(t *testing.T, d damageStore) {
	hit := map[bool]placedRecord{} // by newest: one record that decides what a memory is, one that does not
	for _, r := range d.records {
		if _, present := d.want[r.id]; present && !r.last {
			hit[r.newest] = r
		}
	}
	var kills atomic.Int64
	t.Run(strings.ReplaceAll(d.name, " ", "_"), func(t *testing.T) {
		for newest, r := range hit {
			damaged := maps.Clone(d.img)
			damaged[r.file] = bytes.Clone(damaged[r.file])
			damaged[r.file][r.to-40] ^= 4
			opts := crashOptions(true)
			opts.Repair = true
			repaired := func(t *testing.T, dir string) map[string][]byte {
				s := openDir(t, dir, opts)
				found := contentsOf(t, s)
				closeIntact(t, s)
				s = openDir(t, dir, crashOptions(true))
				require.True(t, maps.EqualFunc(found, contentsOf(t, s), bytes.Equal))
				closeIntact(t, s)
				return found
			}
			dir := fastDir(t)
			damaged.write(t, dir)
			want := repaired(t, dir)
			for _, p := range slices.Concat(recoveryPoints, repairPoints, repairWrites) {
				t.Run(fmt.Sprintf("newest=%v/%s", newest, strings.ReplaceAll(string(p), " ", "_")), func(t *testing.T) {
					t.Parallel()
					for passing := 1; ; passing += stride(t, passing, 1) {
						r := newCrashRun(t, fastDir(t), 0, 0)
						require.NoError(t, os.Mkdir(r.c.Dir, 0o700))
						damaged.write(t, r.c.Dir)
						c := r.c
						c.Open, c.Repair, c.KillAt, c.Passing, c.Next = true, true, p, passing, nil
						result := r.run(t, c, nil)
						got := repaired(t, r.c.Dir)
						require.True(t, maps.EqualFunc(want, got, bytes.Equal), "after a kill at passing %d", passing)
						if !result.killed {
							return
						}
						kills.Add(1)
					}
				})
			}
		}
	})
	t.Logf("%d kills", kills.Load())
}
