package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/vm"
)

/*
In the soak test ten goroutines store, read, delete, iterate, view, verify and compact for as long
as asked, and every answer is held against a ledger of what may be answered. It prints a line now
and then, and ends at once when an answer is wrong.

	go test -run '^TestSoak$' -timeout 0 -v -soak 1h .                     memory
	go test -run '^TestSoak$' -timeout 0 -v -soak 1h -soak.dir .           a directory, reopened on the way
	go test -run '^TestSoak$' -timeout 0 -v -soak 1h -soak.dir -soak.kills .   and killed with SIGKILL
	... -soak.faults                                                       and compactions fail

With kills, the work is done by a child process. The ledger lies in a file that both map, so that it
survives the child as the page cache does.
*/

var (
	soakFor    = flag.Duration("soak", 0, "how long TestSoak runs; 0: a second or two")
	soakDir    = flag.Bool("soak.dir", false, "TestSoak: a store in a directory, reopened now and then")
	soakKills  = flag.Bool("soak.kills", false, "TestSoak: kill the process with the store now and then")
	soakFaults = flag.Bool("soak.faults", false, "TestSoak: make compactions fail now and then")
)

// soakVariable tells a child where the ledger and the directory are.
const soakVariable = "WARMTIER_SOAK_CHILD"

const (
	soakMemories  = 6000
	soakUntouched = 200 // memories that are put once and never again
	soakWriters   = 4
)

// soak is one run of the test.
type soak struct {
	t      *testing.T
	dir    string // "" for memory
	faults bool
	ledger *ledger
	rng    *rand.Rand

	open   sync.RWMutex // held for writing while the store is closed and opened again
	s      *Store
	fault  atomic.Pointer[func(point) error]
	failed atomic.Int64 // compactions that a hook made fail
	opens  int
	done   [3]int64 // gets, puts, deletes of stores closed on the way
}

func soakSize(i int, version int64) int {
	if i%500 == 7 && version%8 == 3 {
		return minSegmentSize*4 + 1000 // larger than a segment
	}
	return 16 + int(version*31+int64(i)*17)%2000
}

func TestSoak(t *testing.T) {
	d := *soakFor
	if d == 0 {
		d = testDuration(t)
	}
	switch {
	case *soakKills:
		soakThroughKills(t, d)
	case *soakFor > 0:
		dir := ""
		if *soakDir {
			dir = filepath.Join(t.TempDir(), "store")
		}
		newSoak(t, dir, *soakFaults, newLedger(soakMemories, soakSize)).run(d)
	default:
		t.Run("memory", func(t *testing.T) { newSoak(t, "", true, newLedger(soakMemories, soakSize)).run(d) })
		t.Run("directory", func(t *testing.T) {
			newSoak(t, filepath.Join(t.TempDir(), "store"), true, newLedger(soakMemories, soakSize)).run(d)
		})
	}
}

func newSoak(t *testing.T, dir string, faults bool, l *ledger) *soak {
	return &soak{t: t, dir: dir, faults: faults, ledger: l, rng: seeded(t)}
}

func (k *soak) start() {
	opts := &Options{
		SegmentSize: 4 * minSegmentSize,
		Compaction:  CompactionOptions{Workers: 2},
		Maintenance: MaintenanceOptions{
			Interval: 50 * time.Millisecond, FragmentationThreshold: 0.3, MinBytes: 1, MinPeriod: 1,
		},
	}
	s, err := open(k.dir, opts, hooks{at: func(p point) error {
		if fail := k.fault.Load(); fail != nil {
			return (*fail)(p)
		}
		return nil
	}})
	require.NoError(k.t, err)
	k.s = s
	k.opens++
}

// close closes the store, and checks that nothing of it is left.
func (k *soak) close() {
	k.alone(func() { requireIntact(k.t, k.s) })
	st := k.s.Stats()
	k.done[0] += st.Gets
	k.done[1] += st.Puts
	k.done[2] += st.Deletes
	require.NoError(k.t, k.s.Close())
	require.Zero(k.t, k.s.mapper.bytes.Load(), "bytes mapped after Close")
}

// alone runs fn while no automatic compaction does.
func (k *soak) alone(fn func()) {
	k.s.maintenance.mu.Lock()
	defer k.s.maintenance.mu.Unlock()
	fn()
}

// using returns a call of fn with a store that is not closed before fn returns.
func (k *soak) using(fn func(*Store) error) func() error {
	return func() error {
		k.open.RLock()
		defer k.open.RUnlock()
		return fn(k.s)
	}
}

func (k *soak) source() *rand.Rand { return rand.New(rand.NewPCG(k.rng.Uint64(), 0)) }

func (k *soak) run(d time.Duration) {
	goroutines := runtime.NumGoroutine()
	k.start()
	for i := range soakUntouched {
		if n := soakMemories - 1 - i; k.ledger.acknowledged[n].Load() == 0 {
			require.NoError(k.t, k.ledger.write(k.s, n))
		}
	}
	c := newCrew(k.t)
	k.begin(c)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		k.watch(c, d)
	}()
	c.wait(d)
	<-watched
	k.alone(func() {
		k.ledger.requireFinal(k.t, k.s)
		mustCompact(k.t, k.s)
		require.Zero(k.t, k.s.Stats().DeadBytes-buriedBytes(k.s))
		k.ledger.requireFinal(k.t, k.s)
	})
	k.close()
	requireReleased(k.t, k.s, goroutines)
	fmt.Printf("soak: %v, %d gets, %d puts, %d deletes, %d compactions made to fail, store opened %d times\n",
		verdict(k.t), k.done[0], k.done[1], k.done[2], k.failed.Load(), k.opens)
}

func verdict(t *testing.T) string {
	if t.Failed() {
		return "FAILED"
	}
	return "no finding"
}

// buriedBytes returns the bytes of tombstones, which are dead and may have to stay.
func buriedBytes(s *Store) (n int64) {
	for _, seg := range s.segments.all() {
		n += seg.tombstoneBytes.Load()
	}
	return n
}

// begin starts the ten goroutines.
func (k *soak) begin(c *crew) {
	l := k.ledger
	for w := range soakWriters {
		r := k.source()
		c.loop(k.using(func(s *Store) error {
			return l.write(s, r.IntN((soakMemories-soakUntouched)/soakWriters)*soakWriters+w)
		}))
	}
	for _, read := range []func(*Store, int) error{l.get, l.get, l.view, l.has} {
		r := k.source()
		c.loop(k.using(func(s *Store) error { return read(s, r.IntN(soakMemories)) }))
	}
	r := k.source()
	c.loop(func() error {
		switch r.IntN(200) { // long calls are rare, or little else would happen
		case 0:
			return k.using(l.sweep)()
		case 1:
			return k.using(func(s *Store) error {
				_, err := s.Verify(context.Background())
				return err
			})()
		case 2:
			if k.dir != "" && r.IntN(10) == 0 {
				return k.reopen()
			}
		}
		return nil
	})
	compacting := k.source()
	c.loop(k.using(func(s *Store) error { return k.compact(s, compacting) }))
}

// sweep does what iterate does, for many memories: it judges every step by what could be answered
// when the iteration began.
func (l *ledger) sweep(s *Store) error {
	least, untouched := make([]int64, len(l.started)), make([]int64, len(l.started))
	for i := range least {
		least[i], untouched[i] = l.least(i), l.acknowledged[i].Load()
	}
	came := make([]bool, len(l.started))
	for id, content := range s.All() {
		i := numberOf(id)
		if came[i] {
			return fmt.Errorf("All yielded memory %d twice", i)
		}
		came[i] = true
		if err := l.check("All", i, least[i], content, nil); err != nil {
			return err
		}
	}
	for i, v := range untouched {
		if !came[i] && !isDelete(v) && l.started[i].Load() == v {
			return fmt.Errorf("All left out memory %d, which nobody touched", i)
		}
	}
	return nil
}

// compact runs one compaction, which is cancelled or made to fail now and then.
func (k *soak) compact(s *Store, r *rand.Rand) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	how := r.IntN(8)
	if how == 0 {
		timer := time.AfterFunc(time.Duration(r.IntN(5000))*time.Microsecond, cancel)
		defer timer.Stop()
	}
	if how == 1 && k.faults {
		points := []point{pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
			pointCompactBuilt, pointCompactFlip, pointCompactCommitted}
		fail := failAt(points[r.IntN(len(points))], 1+r.Int64N(200), &injectedFault{"soak"})
		k.fault.Store(&fail)
		defer k.fault.Store(nil)
	}
	_, err := s.Compact(ctx)
	var injected *injectedFault
	switch {
	case errors.As(err, &injected):
		k.failed.Add(1)
		return nil
	case errors.Is(err, ErrCompactionInProgress), errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// reopen closes the store, and opens its directory again.
func (k *soak) reopen() error {
	k.open.Lock()
	defer k.open.Unlock()
	k.close()
	k.start()
	return nil
}

// watch prints how the run goes, and fails it when resident memory or mappings grow.
func (k *soak) watch(c *crew, d time.Duration) {
	period := min(max(d/60, time.Second), d)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	begin, before := time.Now(), int64(0)
	var resident, mappings []int64
	for {
		select {
		case <-ticker.C:
		case <-c.ended:
			return
		}
		if c.stopped.Load() || time.Since(begin) > d-period/2 {
			break
		}
		k.open.RLock()
		st := k.s.Stats()
		k.open.RUnlock()
		calls := k.done[0] + k.done[1] + k.done[2] + st.Gets + st.Puts + st.Deletes
		rss, _ := residentBytes()
		maps := countLines("/proc/self/maps")
		resident, mappings = append(resident, rss), append(mappings, maps)
		fmt.Printf("soak: %8v  %7.0f calls/s  get p50 %v p99 %v p99.9 %v  put p99.9 %v  fragmentation %.2f  "+
			"compactions %d  resident %d MiB  goroutines %d  mappings %d\n",
			time.Since(begin).Round(time.Second), float64(calls-before)/period.Seconds(),
			st.Reads.Duration.Quantile(0.5), st.Reads.Duration.Quantile(0.99), st.Reads.Duration.Quantile(0.999),
			st.Writes.PutDuration.Quantile(0.999), st.FragmentationRatio, st.Compactions, rss>>20,
			runtime.NumGoroutine(), maps)
		before = calls
	}
	if len(resident) < 40 {
		return // too short to tell a slope from noise
	}
	requireLevel(k.t, "resident bytes", resident, 32<<20)
	requireLevel(k.t, "mappings", mappings, 100)
}

// requireLevel compares the median of the last quarter with that of the second.
func requireLevel(t *testing.T, what string, samples []int64, slack int64) {
	q := len(samples) / 4
	early, late := medianOf(samples[q:2*q]), medianOf(samples[3*q:])
	if late > early+early/10+slack {
		t.Errorf("%s grow: %d in the second quarter, %d in the last", what, early, late)
	}
}

func medianOf(samples []int64) int64 {
	sorted := append([]int64(nil), samples...)
	for i := range sorted {
		for j := i; j > 0 && sorted[j] < sorted[j-1]; j-- {
			sorted[j], sorted[j-1] = sorted[j-1], sorted[j]
		}
	}
	return sorted[len(sorted)/2]
}

func countLines(path string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return int64(strings.Count(string(b), "\n"))
}

// sharedLedger returns a ledger in a file, which outlives the processes that map it.
func sharedLedger(t *testing.T, path string) *ledger {
	const words = 3 * soakMemories
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	size := vm.RoundUp(8*words, vm.PageSize)
	require.NoError(t, f.Truncate(int64(size)))
	file, err := vm.MapFile(f, size, true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	// The words of a mapped file serve as atomics: pages are aligned, and both processes have the
	// same layout.
	all := unsafe.Slice((*atomic.Int64)(unsafe.Pointer(unsafe.SliceData(file.Bytes()))), words)
	return &ledger{
		started: all[:soakMemories], acknowledged: all[soakMemories : 2*soakMemories],
		seen: all[2*soakMemories:], sizeOf: soakSize,
	}
}

// afterKill holds every memory against the ledger, and enters the outcome of the writes under way.
func (l *ledger) afterKill(s *Store) error {
	for i := range l.started {
		least := l.least(i)
		content, err := s.Get(idOf(i))
		if err := l.check("after a kill: Get", i, least, content, err); err != nil {
			return err
		}
		version := l.started[i].Load()
		switch {
		case err == nil:
			version = int64(binary.LittleEndian.Uint64(content[8:]))
		case !isDelete(version):
			version = least
		}
		l.started[i].Store(version)
		l.acknowledged[i].Store(version)
	}
	return nil
}

// soakThroughKills starts children, one after the other on the same directory, and kills all but
// the last.
func soakThroughKills(t *testing.T, d time.Duration) {
	if raceEnabled {
		t.Skip("segments are on the Go heap here: they die with the process")
	}
	dir := t.TempDir()
	rng := seeded(t)
	kills := 0
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		last := left < 5*time.Second
		if last {
			left = max(left, 2*time.Second)
		} else {
			left = 20 * left // the kill comes first
		}
		cmd := exec.Command(os.Args[0], "-test.run", "^TestSoakChild$", "-test.timeout", "0",
			fmt.Sprintf("-soak.faults=%v", *soakFaults))
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%d", soakVariable, dir, left))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		require.NoError(t, cmd.Start())
		if last {
			require.NoError(t, cmd.Wait(), "the last child")
			break
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		timer := time.NewTimer(time.Duration(rng.Int64N(int64(3 * time.Second))))
		select {
		case err := <-ended:
			t.Fatalf("a child ended before it was killed: %v", err)
		case <-timer.C:
			require.NoError(t, cmd.Process.Kill())
			require.Error(t, <-ended, "it was killed")
			kills++
		}
	}
	fmt.Printf("soak: %v after %d kills\n", verdict(t), kills)
}

// TestSoakChild is the child process.
func TestSoakChild(t *testing.T) {
	text := os.Getenv(soakVariable)
	if text == "" {
		t.Skip("is the child process of TestSoak")
	}
	dir, left, _ := strings.Cut(text, ",")
	var d time.Duration
	_, err := fmt.Sscanf(left, "%d", (*int64)(&d))
	require.NoError(t, err)
	k := newSoak(t, filepath.Join(dir, "store"), *soakFaults, sharedLedger(t, filepath.Join(dir, "ledger")))
	k.start()
	require.NoError(t, k.ledger.afterKill(k.s))
	k.close()
	k.run(d)
}
