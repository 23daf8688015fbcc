//go:build unix

package warmtier

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir"
)

// allPoints are the points where a child is killed. The test fails when one of these is never
// passed, and when a point is passed that is not listed.
var allPoints = []point{
	pointApplyLocked, pointApplyDigests, pointApplyHeaders, pointApplyIndexed,
	pointPutFound, pointPutBody, pointPutDrawn, pointPutAppended, pointDeleteAppended, pointSegmentCreated,
	pointSegmentMade, pointTableMoved, pointLaneRolled, pointViewPinned,
	pointSweepClaimed, pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
	pointCompactDead, pointCompactBuilt, pointTargetsPublished,
	pointCompactFlip, pointCompactCommitted, pointCompactDrop, pointCompactSwapped, pointSegmentsRemoved, pointUnlink,
	pointFlushed, pointStateWritten, pointTargetsFlushed,
	pointManifestNumbered, pointManifestTemp, pointManifestWritten, pointManifestRenamed, pointManifestSynced,
	pointClearPrepared, pointClearBarred, pointCleared,
	pointCloseSealed, pointCloseFlushed, pointCloseHinted, pointFlushActive,
	pointRecoverScanned, pointRecoverSealed, pointRecoverListed,
}

// recoveryPoints are the points that a plain Open passes.
var recoveryPoints = []point{
	pointRecoverScanned, pointManifestTemp, pointManifestWritten, pointRecoverSealed, pointManifestRenamed,
	pointManifestSynced, pointRecoverListed,
}

// repairPoints are the points that only a repair passes.
var repairPoints = []point{pointRepairBuried, pointRepairRescued, pointRepairCommitted}

// filePoints are points that the test adds: before and after each kind of call on the directory, as
// soon as the store is open.
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
	kind    string // put, delete, batch, view, sync, compact, clear, reopen
	id      string
	content []byte
	ttl     time.Duration // of a put; 0: none
	batch   []crashOp     // puts and deletes, each of another id
}

// crashTTL is the longest time to live that ends during a run.
const crashTTL = 40 * time.Millisecond

const (
	crashIDs     = 50 // of each writer
	defaultKills = 60 // in long tests, at random instants; when more are asked for, other tests kill more too
)

// randomOp returns operation n of a writer.
func randomOp(seed uint64, writer, n int) crashOp {
	rng := rand.New(rand.NewPCG(seed+uint64(writer)<<32, uint64(n)))
	op := crashOp{id: fmt.Sprintf("writer-%d-memory-%03d", writer, rng.IntN(crashIDs))}
	switch p := rng.IntN(1000); {
	case p < 60:
		op.kind = "batch"
		for k, m := range rng.Perm(crashIDs)[:2+rng.IntN(6)] {
			part := crashOp{kind: "put", id: fmt.Sprintf("writer-%d-memory-%03d", writer, m)}
			if k%4 == 3 {
				part.kind = "delete"
			} else {
				part.content = contentOf(writer<<20|n, n, 16+rng.IntN(3000))
			}
			op.batch = append(op.batch, part)
		}
	case p < 660:
		op.kind = "put"
	case p < 930:
		op.kind = "delete"
	case p < 950:
		op.kind = "view"
	case writer == 0 && p < 955:
		op.kind = "clear"
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
		switch rng.IntN(8) {
		case 0:
			op.ttl = time.Hour
		case 1, 2:
			op.ttl = 1 + time.Duration(rng.Int64N(int64(crashTTL)))
		}
	}
	return op
}

// scriptOp returns operation n of the child that passes every point: that of randomOp, with
// compactions, large contents and reopenings at fixed places.
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
	case 130, 350:
		return crashOp{kind: "clear"}
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
	Script  bool  // one writer follows scriptOp and closes; otherwise all follow randomOp until killed
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
	crashClearing = 1<<32 - 2 // a Clear begins
)

func crashOptions(script bool) *Options {
	o := quiet()
	o.SegmentSize = 8 * minSegmentSize // which children use that let segments grow
	o.Compaction.MaxOverhead = 2 * minSegmentSize
	o.Compaction.Workers = 2
	o.SyncInterval = 2 * time.Millisecond
	if script {
		o.SyncInterval, o.Compaction.Workers = -1, 1
	}
	return o
}

// TestCrashChild is the child process.
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
	h := hooks{at: child.reach}
	if child.c.Seed%2 == 1 {
		h.share = doublingSegments
	}
	if child.c.Seed%4 >= 2 {
		h.written = 1 // all contents
	}
	s, err := open(child.c.Dir, opts, h)
	require.NoError(t, err)
	child.s = s
	if child.c.Script {
		s.disk.fs = &reachingFiles{FS: s.disk.fs, reach: child.reach}
	}
}

// reach counts the passings of a point, and kills the process at the one it was told.
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
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot fail, and the process goes no further
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
	case "batch":
		var b Batch
		for _, part := range op.batch {
			if part.kind == "put" {
				b.Put(part.id, part.content)
			} else {
				b.Delete(part.id)
			}
		}
		return child.s.Apply(&b)
	case "put":
		if op.ttl > 0 {
			return child.s.PutTTL(op.id, op.content, op.ttl)
		}
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
	case "clear":
		child.ack(crashClearing, 0)
		return child.s.Clear()
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

// reachingFiles is a directory that passes a point before and after each call that changes
// anything.
type reachingFiles struct {
	dir.FS
	reach func(point) error
}

func (f *reachingFiles) around(call string, fn func() error) error {
	_ = f.reach(point("before " + call))
	err := fn()
	_ = f.reach(point("after " + call))
	return err
}

func (f *reachingFiles) Create(name string, size int) (file dir.File, err error) {
	err = f.around("create", func() (err error) {
		file, err = f.FS.Create(name, size)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &reachingFile{File: file, files: f}, nil
}

func (f *reachingFiles) WriteFile(name string, data []byte) error {
	return f.around("write file", func() error { return f.FS.WriteFile(name, data) })
}

func (f *reachingFiles) SyncFile(name string) error {
	return f.around("sync file", func() error { return f.FS.SyncFile(name) })
}

func (f *reachingFiles) Rename(from, to string) error {
	return f.around("rename", func() error { return f.FS.Rename(from, to) })
}

func (f *reachingFiles) Remove(name string) error {
	return f.around("remove", func() error { return f.FS.Remove(name) })
}

func (f *reachingFiles) Sync() error { return f.around("sync directory", f.FS.Sync) }

type reachingFile struct {
	dir.File
	files *reachingFiles
}

func (f *reachingFile) Rename(to string) error {
	return f.files.around("rename", func() error { return f.File.Rename(to) })
}

func (f *reachingFile) Sync(head, tail int) error {
	return f.files.around("sync segment", func() error { return f.File.Sync(head, tail) })
}
