package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"hash/crc32"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/lockrank"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

// TestMain makes stores of tests what they are on a machine with two processors. With more there are more lanes, and
// other memories share a segment. Benchmarks have the machine as it is.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		runtime.GOMAXPROCS(2)
	}
	m.Run()
}

// quiet returns options without a background cycle and with small segments, so that a few hundred
// memories fill several.
func quiet() *Options {
	return &Options{SegmentSize: minSegmentSize, Maintenance: MaintenanceOptions{Disabled: true}}
}

// Shares of a store that a segment is, for hooks: with the first, segments have SegmentSize from the beginning;
// with the others, they grow in stores of a few hundred memories, and with every segment.
func fullSegments(int64) int64           { return math.MaxInt64 }
func growingSegments(store int64) int64  { return store / 4 }
func doublingSegments(store int64) int64 { return store }

// compacting returns quiet options for compactions by so many workers, with rounds of at most
// maxOverhead.
func compacting(workers int, maxOverhead int64) *Options {
	opts := quiet()
	opts.Compaction.Workers = workers
	opts.Compaction.MaxOverhead = maxOverhead
	return opts
}

// besideOthers has the names of tests that run beside others, where nobody knows whose goroutines there are. Tests
// say so one after the other, before any of them goes on.
var besideOthers = map[string]bool{}

// parallel is t.Parallel for a test that opens memory stores: goroutines that they leave behind are not noticed.
func parallel(t *testing.T) {
	t.Helper()
	besideOthers[t.Name()] = true
	t.Parallel()
}

// openTest opens a memory store, which at the end of the test must verify, and leave neither
// mapping nor goroutine behind.
func openTest(t testing.TB, opts *Options, h hooks) *Store {
	t.Helper()
	goroutines := math.MaxInt
	if name, _, _ := strings.Cut(t.Name(), "/"); !besideOthers[name] {
		goroutines = runtime.NumGoroutine()
	}
	if h.available == nil { // asking the system before every round takes longer than a small round
		h.available = func() (bytes int64, ok bool) { return 1 << 40, true }
	}
	s, err := open("", opts, h)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.hooks.at = nil
		if !s.isClosed() {
			requireIntact(t, s)
		}
		require.NoError(t, s.Close())
		requireReleased(t, s, goroutines)
	})
	return s
}

func (s *Store) isClosed() bool {
	defer s.contentMu.RUnlock(s.contentMu.RLock())
	return s.closed
}

// scaled returns n, and less under the race detector, where everything takes about ten times as
// long.
func scaled(n int) int {
	if raceEnabled {
		return max(1, n/20)
	}
	return n
}

// sized returns n, and less under the race detector and where every lock is checked against the
// lock order.
func sized(t testing.TB, n int) int {
	t.Helper()
	if lockOrderChecked() {
		return max(1, n/20)
	}
	return scaled(n)
}

// lockOrderChecked reports whether the build checks the order of locks.
func lockOrderChecked() (checked bool) {
	var mu lockrank.Mutex[laneRank]
	mu.Lock()
	defer mu.Unlock()
	defer func() { checked = recover() != nil }()
	lockrank.AssertUnlocked()
	return false
}

// askedDuration returns the value of WARMTIER_TEST_DURATION, which asks for long tests, and whether
// it is set.
func askedDuration(t testing.TB) (d time.Duration, ok bool) {
	t.Helper()
	v := os.Getenv("WARMTIER_TEST_DURATION")
	if v == "" {
		return 0, false
	}
	d, err := time.ParseDuration(v)
	require.NoError(t, err)
	return d, true
}

// budget returns how much a test does that could go on for ever (lives, calls, seeds): long when
// WARMTIER_TEST_DURATION is set, otherwise usual, and a quarter of that with -short. The usual
// budgets let all tests of the package end within a minute.
func budget(t testing.TB, usual, long int) int {
	t.Helper()
	if _, ok := askedDuration(t); !ok && testing.Short() {
		return max(1, usual/4)
	}
	return stride(t, usual, long)
}

// stride returns long when WARMTIER_TEST_DURATION is set, otherwise usual: how far a test steps that
// could look at each of many things (calls, pages, sequences), or a budget of which a quarter would
// prove nothing.
func stride(t testing.TB, usual, long int) int {
	t.Helper()
	if _, ok := askedDuration(t); ok {
		return long
	}
	return usual
}

// testDuration returns how long a test runs whose interleavings are left to the scheduler: what
// WARMTIER_TEST_DURATION says, otherwise less than half a second.
func testDuration(t testing.TB) time.Duration {
	t.Helper()
	if d, ok := askedDuration(t); ok {
		return d
	}
	if testing.Short() {
		return 200 * time.Millisecond
	}
	return 300 * time.Millisecond
}

// seeded returns a source of random numbers, and logs its seed: WARMTIER_TEST_SEED replays a run.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("WARMTIER_TEST_SEED"); v != "" {
		var err error
		seed, err = strconv.ParseUint(v, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("WARMTIER_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// idOf returns the id of memory i: "memory-" and i in eight digits or more.
func idOf(i int) string {
	b := append(make([]byte, 0, 32), "memory-"...)
	for bound := 10_000_000; bound > max(i, 1); bound /= 10 {
		b = append(b, '0')
	}
	return string(strconv.AppendInt(b, int64(i), 10))
}

// numberOf returns i for idOf(i), and -1 for other ids.
func numberOf(id string) int {
	i, err := strconv.Atoi(strings.TrimPrefix(id, "memory-"))
	if err != nil {
		return -1
	}
	return i
}

// contentOf returns a content of size bytes (at least 16) that says whose it is and which version,
// so that wrong bytes never equal it.
func contentOf(i int, version, size int) []byte {
	b := make([]byte, max(16, size))
	binary.LittleEndian.PutUint64(b, uint64(i))
	binary.LittleEndian.PutUint64(b[8:], uint64(version))
	for j := 16; j < len(b); {
		j += copy(b[j:], ramp[byte(i*7+version*13+j):])
	}
	return b
}

// ramp counts from 0 to 255 over and over. Contents are copied from it.
var ramp = func() (b [4096]byte) {
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

// oneLane is a hash that puts all ids into one shard, and so into one lane, with tags that differ.
func oneLane(id string) uint64 { return uint64(crc32.ChecksumIEEE([]byte(id))) << 24 }

// placedBy is a hash that puts memory i into the shard that place names, and spreads the tags.
func placedBy(place func(i int) int) func(id string) uint64 {
	return func(id string) uint64 {
		i := numberOf(id)
		tag := uint64(uint32(i)*2654435761) >> (32 - tagBits)
		return uint64(place(i))<<(64-shardBits) | tag<<(64-shardBits-tagBits)
	}
}

func mustCompact(t testing.TB, s *Store) CompactionStats {
	t.Helper()
	stats, err := s.Compact(context.Background())
	require.NoError(t, err)
	return stats
}

// settled returns Stats after replaced index tables were given back, as every compaction does, even
// one that fails: without that, Stats before and after it would differ.
func settled(s *Store) Stats {
	s.releaseReplaced()
	return s.Stats()
}

// locationOf returns where the record of id is.
func locationOf(t *testing.T, s *Store, id string) (seg *segment, offset int) {
	t.Helper()
	var m match
	var h readHold
	require.NoError(t, s.lookup(&h, &m, id, false))
	h.release()
	return m.seg, m.offset
}

// recordOf returns the bytes of the record of id, for a test to damage.
func recordOf(t *testing.T, s *Store, id string) []byte {
	t.Helper()
	seg, offset := locationOf(t, s, id)
	h, ok := record.Decode(seg.mem[offset:])
	require.True(t, ok)
	return seg.mem[offset : offset+h.Size()]
}

// segmentOf returns the segment that holds the memory at this moment.
func segmentOf(t *testing.T, s *Store, id string) *segment {
	t.Helper()
	seg, _ := locationOf(t, s, id)
	return seg
}

// flipByte damages a byte of b, and returns a function that mends it.
func flipByte(b []byte, i int) (mend func()) {
	b[i] ^= 0xff
	return func() { b[i] ^= 0xff }
}

// logTo returns a logger, and the text that it writes.
func logTo() (*slog.Logger, *logText) {
	var log logText
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), &log
}

// logText is a buffer that can be read while others write to it.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// residentBytes returns the resident set of the process, from /proc/self/statm; ok is false where
// there is no such file.
func residentBytes() (n int64, ok bool) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(vm.PageSize), err == nil
}
