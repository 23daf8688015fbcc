//go:build unix

package warmtier

import (
	"bytes"
	"context"
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
	"strconv"
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

Method: the test binary runs itself as a child (TestCrashChild), which works on a directory store and
writes the number of each finished operation to a pipe. Operation n of writer w is a function of
(seed, w, n), so the parent knows what was done without being told. The child dies by SIGKILL: at a
random instant, sent by the parent; or at the n-th passing of a named point, sent by itself. Then the
parent opens the directory and compares: every acknowledged operation is there, of each writer at most
one more, and that as a whole or not at all. Verify must be clean, no file may be left over, and a
second Open must find the same. In between, further children may be killed while they recover.

WARMTIER_TEST_KILLS sets the number of random kills, and over 60 kills at more passings of each point;
WARMTIER_TEST_SEED replays the operations.
*/

// allPoints are the points where a child is killed. The test fails when one of them is never passed,
// and when a point is passed that is not here.
var allPoints = []point{
	pointPutFound, pointPutBody, pointPutAppended, pointDeleteAppended, pointSegmentCreated, pointSegmentMade,
	pointLaneRolled, pointViewPinned,
	pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord, pointCompactDead, pointCompactBuilt,
	pointCompactFlip, pointCompactCommitted, pointCompactSwapped, pointUnlink,
	pointFlushed, pointStateWritten, pointTargetsFlushed,
	pointManifestTemp, pointManifestWritten, pointManifestRenamed, pointManifestSynced,
	pointCloseSealed, pointCloseFlushed, pointCloseHinted,
	pointRecoverScanned, pointRecoverSealed, pointRecoverListed,
}

// recoveryPoints are those of allPoints that a plain Open passes.
var recoveryPoints = []point{
	pointRecoverScanned, pointManifestTemp, pointManifestWritten, pointRecoverSealed, pointManifestRenamed,
	pointManifestSynced, pointRecoverListed,
}

// repairPoints are passed by a repair alone.
var repairPoints = []point{pointRepairBuried, pointRepairRescued, pointRepairCommitted}

// filePoints are made by the test: before and after each kind of call on the directory, by whoever
// makes it once the store is open.
var filePoints = func() (points []point) {
	for _, call := range []string{
		"create", "write file", "sync file", "rename", "remove", "sync directory", "sync segment",
	} {
		points = append(points, point("before "+call), point("after "+call))
	}
	return points
}()

// crashOp is one operation of a child.
type crashOp struct {
	kind    string // put, delete, view, sync, compact, reopen
	id      string
	content []byte
}

const (
	crashIDs     = 50 // of each writer
	defaultKills = 60 // at random instants; more than that makes the other tests here try more too
)

// randomOp returns operation n of a writer.
func randomOp(seed uint64, writer, n int) crashOp {
	rng := rand.New(rand.NewPCG(seed+uint64(writer)<<32, uint64(n)))
	op := crashOp{id: fmt.Sprintf("writer-%d-memory-%03d", writer, rng.IntN(crashIDs))}
	switch p := rng.IntN(1000); {
	case p < 660:
		op.kind = "put"
	case p < 930:
		op.kind = "delete"
	case p < 950:
		op.kind = "view"
	case writer == 0 && p < 970:
		op.kind = "compact"
	case p < 990:
		op.kind = "sync"
	default:
		op.kind = "put"
	}
	size := 16 + rng.IntN(500)
	switch rng.IntN(100) {
	case 0:
		size = 66_000 + rng.IntN(40_000) // a segment of its own
	case 1, 2, 3, 4:
		size = 5_000 + rng.IntN(15_000)
	}
	if op.kind == "put" {
		op.content = contentOf(writer<<20|n, n, size)
	}
	return op
}

// scriptOp returns operation n of the child that passes every point: what randomOp says, with a
// compaction, a large content and a reopening at fixed places.
func scriptOp(seed uint64, n int) crashOp {
	switch n {
	case 60, 190, 191, 410:
		return crashOp{kind: "sync"}
	case 100, 260, 380:
		return crashOp{kind: "compact"}
	case 110, 300:
		return crashOp{kind: "put", id: "large", content: contentOf(n, n, 70_000+n)}
	case 111:
		return crashOp{kind: "view", id: "large"}
	case 200, 301:
		return crashOp{kind: "delete", id: "large"}
	case 210, 390:
		return crashOp{kind: "reopen"}
	}
	return randomOp(seed, 1, n)
}

const scriptLength = 420

// crashConfig tells a child what to do.
type crashConfig struct {
	Dir     string
	Seed    uint64
	Script  bool  // scriptOp by one writer and Close, else randomOp by all until killed
	Open    bool  // only Open and Close
	Next    []int // number of the next operation, by writer
	KillAt  point // "" counts the points instead, in file Dir + ".points"
	Passing int   // from 1
	Repair  bool
}

func (c crashConfig) op(writer, n int) crashOp {
	if c.Script {
		return scriptOp(c.Seed, n)
	}
	return randomOp(c.Seed, writer, n)
}

const (
	crashVariable = "WARMTIER_TEST_CRASH_CHILD"
	crashAckSize  = 8 // bytes: writer, number
	crashOpened   = 1<<32 - 1
)

func crashOptions(script bool) *Options {
	o := quiet()
	o.Compaction.MaxOverhead = 2 * minSegmentSize
	o.Compaction.Workers = 2
	o.SyncInterval = 2 * time.Millisecond
	if script {
		o.SyncInterval, o.Compaction.Workers = -1, 1
	}
	return o
}

// TestCrashChild is the child.
func TestCrashChild(t *testing.T) {
	text := os.Getenv(crashVariable)
	if text == "" {
		t.Skip("is the child process of the crash tests")
	}
	var c crashConfig
	require.NoError(t, json.Unmarshal([]byte(text), &c))
	child := &crashChild{c: c, acks: os.NewFile(3, "acks"), passed: map[point]int{}}
	child.open(t)
	child.ack(crashOpened, 0)
	if c.Open {
		require.NoError(t, child.s.Close())
	} else {
		var writers sync.WaitGroup
		for w, next := range c.Next {
			writers.Go(func() { child.write(t, w, next) })
		}
		writers.Wait()
		require.NoError(t, child.s.Close())
	}
	b, err := json.Marshal(child.passed)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c.Dir+".points", b, 0o600))
}

type crashChild struct {
	c    crashConfig
	s    *Store
	acks *os.File

	mu     sync.Mutex
	passed map[point]int
}

func (child *crashChild) open(t *testing.T) {
	opts := crashOptions(child.c.Script || child.c.Open)
	opts.Repair = child.c.Repair
	s, err := open(child.c.Dir, opts, hooks{at: child.reach})
	require.NoError(t, err)
	child.s = s
	if child.c.Script {
		s.disk.fs = &reachingFiles{fileSystem: s.disk.fs, reach: child.reach}
	}
}

// reach counts the passings of a point, and ends the process at the one it was told.
func (child *crashChild) reach(p point) error {
	child.mu.Lock()
	defer child.mu.Unlock()
	child.passed[p]++
	if p == child.c.KillAt && child.passed[p] == child.c.Passing {
		killSelf()
	}
	return nil
}

func killSelf() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot fail, and there is no going on
	select {}
}

func (child *crashChild) ack(writer uint32, n int) {
	b := binary.LittleEndian.AppendUint32(nil, writer)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	if _, err := child.acks.Write(b); err != nil {
		os.Exit(4) //nolint:forbidigo // the parent is gone, and this is a child process
	}
}

func (child *crashChild) write(t *testing.T, writer, n int) {
	for ; !child.c.Script || n < scriptLength; n++ {
		if err := child.do(t, child.c.op(writer, n)); err != nil {
			fmt.Fprintf(os.Stderr, "operation %d of writer %d: %v\n", n, writer, err)
			os.Exit(3) //nolint:forbidigo // the child is to end here, with no deferred Close
		}
		child.ack(uint32(writer), n)
	}
}

func (child *crashChild) do(t *testing.T, op crashOp) error {
	switch op.kind {
	case "put":
		return child.s.Put(op.id, op.content)
	case "delete":
		_, err := child.s.Delete(op.id)
		return err
	case "view":
		err := child.s.View(op.id, func([]byte) error { return nil })
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	case "sync":
		return child.s.Sync()
	case "compact":
		_, err := child.s.Compact(context.Background())
		return err
	case "reopen":
		if err := child.s.Close(); err != nil {
			return err
		}
		child.open(t)
		return nil
	}
	return fmt.Errorf("unknown operation %q", op.kind)
}

// reachingFiles is a fileSystem that passes a point before and after each call that changes anything.
type reachingFiles struct {
	fileSystem
	reach func(point) error
}

func (f *reachingFiles) around(call string, fn func() error) error {
	_ = f.reach(point("before " + call))
	err := fn()
	_ = f.reach(point("after " + call))
	return err
}

func (f *reachingFiles) create(name string, size int) (file mappedFile, err error) {
	err = f.around("create", func() (err error) {
		file, err = f.fileSystem.create(name, size)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &reachingFile{mappedFile: file, files: f}, nil
}

func (f *reachingFiles) writeFile(name string, data []byte) error {
	return f.around("write file", func() error { return f.fileSystem.writeFile(name, data) })
}

func (f *reachingFiles) syncFile(name string) error {
	return f.around("sync file", func() error { return f.fileSystem.syncFile(name) })
}

func (f *reachingFiles) rename(from, to string) error {
	return f.around("rename", func() error { return f.fileSystem.rename(from, to) })
}

func (f *reachingFiles) remove(name string) error {
	return f.around("remove", func() error { return f.fileSystem.remove(name) })
}

func (f *reachingFiles) syncDir() error { return f.around("sync directory", f.fileSystem.syncDir) }

type reachingFile struct {
	mappedFile
	files *reachingFiles
}

func (f *reachingFile) rename(to string) error {
	return f.files.around("rename", func() error { return f.mappedFile.rename(to) })
}

func (f *reachingFile) sync(from, to int) error {
	return f.files.around("sync segment", func() error { return f.mappedFile.sync(from, to) })
}

// crashRun is a directory and what must be in it.
type crashRun struct {
	c    crashConfig
	must map[string][]byte // acknowledged
	ops  int               // acknowledged, all children together
}

func newCrashRun(t *testing.T, dir string, seed uint64, writers int) *crashRun {
	return &crashRun{
		c:    crashConfig{Dir: filepath.Join(dir, "store"), Seed: seed, Next: make([]int, writers)},
		must: map[string][]byte{},
	}
}

// childResult is how a child ended.
type childResult struct {
	killed bool
	opened bool
	acked  []int // operations acknowledged, by writer
	output string
}

// run starts a child; kill is called with a channel that is closed when the store is open, and a
// function that kills.
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
		killers.Go(func() { kill(opened, func() { _ = cmd.Process.Kill() }) }) // it may have ended
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

// apply makes the acknowledged operations of a child part of what must be there, and returns what may
// be there instead: the operation each writer had under way.
func (r *crashRun) apply(c crashConfig, result childResult) (may map[string]crashOp) {
	may = map[string]crashOp{}
	for w, acked := range result.acked {
		r.ops += acked
		for n := c.Next[w]; n <= c.Next[w]+acked; n++ {
			op := c.op(w, n)
			switch {
			case op.kind != "put" && op.kind != "delete":
			case n == c.Next[w]+acked:
				if result.killed {
					may[op.id] = op
				}
			case op.kind == "put":
				r.must[op.id] = op.content
			default:
				delete(r.must, op.id)
			}
		}
		r.c.Next[w] = c.Next[w] + acked + 1 // what was under way is not done again
	}
	return may
}

// check opens the directory twice and compares. What is found is what must be there from now on.
func (r *crashRun) check(t *testing.T, may map[string]crashOp) {
	t.Helper()
	s, err := Open(r.c.Dir, crashOptions(true))
	require.NoError(t, err)
	found := contentsOf(t, s)
	for id := range r.ids() {
		want, exists := r.must[id]
		got, there := found[id]
		if there == exists && bytes.Equal(got, want) {
			continue
		}
		op, allowed := may[id]
		switch {
		case allowed && op.kind == "delete" && !there:
		case allowed && op.kind == "put" && there && bytes.Equal(got, op.content):
		default:
			require.Failf(t, "wrong memory after a kill", "%s: %s, want %s, or after %q %s",
				id, describe(got, there), describe(want, exists), op.kind, describe(op.content, allowed))
		}
	}
	for id := range found {
		require.Contains(t, r.ids(), id, "a memory nobody stored")
	}
	requireIntact(t, s)
	require.NoError(t, s.Close())
	requireNoStrays(t, r.c.Dir)

	s, err = Open(r.c.Dir, crashOptions(true))
	require.NoError(t, err)
	again := contentsOf(t, s)
	require.True(t, maps.EqualFunc(found, again, bytes.Equal), "the second open found something else")
	requireIntact(t, s)
	require.NoError(t, s.Close())
	r.must = found
}

// ids are all that the writers use.
func (r *crashRun) ids() map[string]bool {
	ids := map[string]bool{"large": true}
	for w := range max(2, len(r.c.Next)) {
		for i := range crashIDs {
			ids[fmt.Sprintf("writer-%d-memory-%03d", w, i)] = true
		}
	}
	return ids
}

func describe(content []byte, exists bool) string {
	if !exists {
		return "absent"
	}
	if len(content) < 16 {
		return fmt.Sprintf("%d bytes", len(content))
	}
	return fmt.Sprintf("version %d in %d bytes", binary.LittleEndian.Uint64(content[8:]), len(content))
}

// contentsOf reads a whole store by All, and each memory by Get.
func contentsOf(t testing.TB, s *Store) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	for id, content := range s.All() {
		require.NotContains(t, m, id, "All yielded it twice")
		m[id] = bytes.Clone(content)
	}
	require.Len(t, m, s.Len(), "memories that All yields")
	for id, content := range m {
		got, err := s.Get(id)
		require.NoError(t, err)
		if !bytes.Equal(content, got) {
			require.Failf(t, "Get and All differ", "%q", id)
		}
	}
	return m
}

// requireNoStrays checks the names in the directory of a closed store.
func requireNoStrays(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	require.NoError(t, err)
	m, _, err := decodeManifest(b)
	require.NoError(t, err)
	for _, e := range entries {
		id, isSegment := parseSegmentFileName(e.Name())
		switch {
		case e.Name() == lockName, e.Name() == manifestName, strings.HasPrefix(e.Name(), spareName), e.Name() == hintName:
		case isSegment && slices.Contains(m.listed, id):
		default:
			require.Failf(t, "stray file", "%s; listed %v, pending %v", e.Name(), m.listed, m.pending)
		}
	}
	require.GreaterOrEqual(t, len(entries), len(m.listed)+2)
}

// fastDir is a directory in memory where there is one: what matters here is the page cache.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "warmtier-test-*") //nolint:usetesting // not where TempDir is
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// envInt is a number from the environment, or fallback.
func envInt(t testing.TB, name string, fallback int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return fallback
	}
	n, err := strconv.Atoi(v)
	require.NoError(t, err, name)
	return n
}

func skipKillsUnderRace(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector segments are on the heap, and die with the process")
	}
}

// Kills at random instants, several in a row on the same directory, a few of them during Open.
func TestCrash_RandomKills(t *testing.T) {
	skipKillsUnderRace(t)
	rng := seeded(t)
	kills := envInt(t, "WARMTIER_TEST_KILLS", defaultKills)
	const chain = 15 // kills in one directory
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
	r.check(t, r.apply(c, result))
	return result
}

// A kill at every named point, at its first and at a later passing; then one during the recovery from
// it.
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
					may := r.apply(c, result)
					kills.Add(r.killRecovery(t, recoveryPoints[(i+j)%len(recoveryPoints)]))
					if thorough {
						kills.Add(r.killRecovery(t, recoveryPoints[(i+2*j+1)%len(recoveryPoints)]))
					}
					r.check(t, may)
					kills.Add(1)
				})
			}
		}
	})
	t.Logf("%d points, %d kills, %d late passings not reached", len(points), kills.Load(), unreached.Load())
}

// killRecovery kills an Open at p, and says how many kills that was: 1.
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
	r.check(t, r.apply(c, result))
	b, err := os.ReadFile(c.Dir + ".points")
	require.NoError(t, err)
	var passed map[point]int
	require.NoError(t, json.Unmarshal(b, &passed))
	return passed
}

// A kill at every point that a recovery passes, and at every passing, from several crashes.
func TestCrash_DuringRecovery(t *testing.T) {
	skipKillsUnderRace(t)
	seed := seeded(t).Uint64()
	var kills atomic.Int64
	t.Run("points", func(t *testing.T) {
		for _, first := range []point{pointPutBody, pointLaneRolled, pointCompactCommitted, pointManifestRenamed,
			pointCompactSwapped, pointUnlink, pointCloseFlushed} {
			for _, p := range recoveryPoints {
				t.Run(strings.ReplaceAll(string(first+"/"+p), " ", "_"), func(t *testing.T) {
					t.Parallel()
					r := newCrashRun(t, fastDir(t), seed, 1)
					c := r.c
					c.Script, c.KillAt, c.Passing, c.Next = true, first, 2, []int{0}
					result := r.run(t, c, nil)
					require.True(t, result.killed, "never reached")
					may := r.apply(c, result)
					kills.Add(1)
					for range 2 { // always at the same point: no progress, and no harm
						kills.Add(r.killRecovery(t, p))
					}
					r.check(t, may)
				})
			}
		}
	})
	t.Logf("%d kills", kills.Load())
}

// repairWrites are points that a repair passes where it writes like anybody else.
var repairWrites = []point{pointPutBody, pointPutAppended, pointSegmentCreated, pointFlushed, pointStateWritten}

// A repair that is killed at any point, at each passing, and then run again, ends as one that was not.
func TestCrash_DuringRepair(t *testing.T) {
	skipKillsUnderRace(t)
	for _, d := range damageStores(t)[:2] { // with a hint, and without
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
					for passing := 1; ; passing++ {
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
