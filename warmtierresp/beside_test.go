package warmtierresp

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// beside skips a test that measures, beside Redis, unless WARMTIER_TEST_REDIS asks for it. What it measures is in the
// README.
func beside(t *testing.T) {
	t.Helper()
	if os.Getenv("WARMTIER_TEST_REDIS") == "" {
		t.Skip("WARMTIER_TEST_REDIS asks for it")
	}
}

// process is a server of its own.
type process struct {
	name    string
	pid     int
	address string
}

// processes starts a server of Redis and one of a store, each on the first processor alone.
func processes(t *testing.T) []process {
	t.Helper()
	onFirst := func(cmd *exec.Cmd) *exec.Cmd {
		pinned := exec.Command("taskset", append([]string{"-c", "0", "bash", "-c", `exec -a "$0" "$@"`, cmd.Args[0]},
			append([]string{cmd.Path}, cmd.Args[1:]...)...)...)
		pinned.Env = cmd.Env
		return pinned
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	redis := onFirst(redisCommand(redisProgram(t), "--port", port, "--save", "", "--appendonly", "no",
		"--bind", "127.0.0.1"))
	start(t, redis, "Ready to accept connections")

	self := exec.Command(os.Args[0])
	self.Env = append(os.Environ(), childVariable+"=1")
	self = onFirst(self)
	ours := start(t, self, "127.0.0.1:")
	return []process{{"redis-server", redis.Process.Pid, address}, {"warmtier", self.Process.Pid, ours}}
}

// start starts cmd, and returns the line that says it is ready.
func start(t *testing.T, cmd *exec.Cmd, ready string) string {
	t.Helper()
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), ready) {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return lines.Text()
		}
	}
	require.FailNow(t, "it did not start")
	return ""
}

// TestBeside_Throughput reports what redis-benchmark measures, medians of rounds in turns.
func TestBeside_Throughput(t *testing.T) {
	beside(t)
	both := processes(t)
	for _, pipeline := range []int{1, 16} {
		t.Run(fmt.Sprint("pipeline ", pipeline), func(t *testing.T) { throughput(t, both, pipeline) })
	}
}

func throughput(t *testing.T, both []process, pipeline int) {
	const rounds = 5
	got := map[string][]float64{} // by process and command
	for range rounds {
		for _, p := range both {
			_, port, _ := net.SplitHostPort(p.address)
			out, err := exec.Command("taskset", "-c", "1", "redis-benchmark", "-p", port, "-t", "set,get,incr", "-n",
				strconv.Itoa(60_000*pipeline), "-P", strconv.Itoa(pipeline), "-d", "100", "-r", "1000000", "--csv").Output()
			require.NoError(t, err)
			for line := range bytes.Lines(out) {
				fields := strings.Split(strings.ReplaceAll(string(line), `"`, ""), ",")
				if rate, err := strconv.ParseFloat(fields[1], 64); err == nil {
					got[p.name+" "+fields[0]] = append(got[p.name+" "+fields[0]], rate)
				}
			}
		}
	}
	for _, command := range []string{"SET", "GET", "INCR"} {
		redis, ours := got["redis-server "+command], got["warmtier "+command]
		slices.Sort(redis)
		slices.Sort(ours)
		t.Logf("pipeline %2d, %s: redis-server %.0f (%.0f to %.0f), warmtier %.0f (%.0f to %.0f), ratio %.2f", pipeline,
			command, redis[rounds/2], redis[0], redis[rounds-1], ours[rounds/2], ours[0], ours[rounds-1],
			ours[rounds/2]/redis[rounds/2])
	}
}

// TestBeside_Memory compares resident memory with 1,000,000 keys of 16 bytes with values of 100, and when nine of ten
// are deleted.
func TestBeside_Memory(t *testing.T) {
	beside(t)
	const keys = 1_000_000
	var full, left []float64
	for _, p := range processes(t) {
		empty := resident(t, p.pid)
		pipe(t, p.address, keys, func(i int) string {
			return encode("SET", fmt.Sprintf("key:%012d", i), strings.Repeat("x", 88)+fmt.Sprintf("%012d", i))
		})
		full = append(full, resident(t, p.pid))
		pipe(t, p.address, keys, func(i int) string {
			if i%10 == 0 {
				return encode("PING")
			}
			return encode("DEL", fmt.Sprintf("key:%012d", i))
		})
		least := resident(t, p.pid)
		for unchanged := 0; unchanged < 20; { // 10 s
			<-time.After(500 * time.Millisecond)
			now := resident(t, p.pid)
			if unchanged++; now < least {
				least, unchanged = now, 0
			}
		}
		left = append(left, least)
		t.Logf("%-12s %.1f MB empty, %.1f MB with %d keys, %.1f MB when nine of ten were deleted", p.name, empty,
			full[len(full)-1], keys, least)
	}
	t.Logf("ratios %.2f, %.2f", full[1]/full[0], left[1]/left[0])
	require.LessOrEqual(t, full[1]/full[0], 0.85)
	require.LessOrEqual(t, left[1]/left[0], 0.5)
}

// pipe sends n commands, and reads as many replies.
func pipe(t *testing.T, address string, n int, command func(i int) string) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer func() { _ = nc.Close() }()
	go func() {
		w := bufio.NewWriterSize(nc, 64<<10)
		for i := range n {
			_, _ = w.WriteString(command(i)) // the replies that lack are seen
		}
		_ = w.Flush()
	}()
	replies := bufio.NewScanner(nc)
	for range n {
		require.True(t, replies.Scan())
		require.NotEqual(t, byte('-'), replies.Bytes()[0], replies.Text())
	}
}

// resident returns the resident memory of a process, MB.
func resident(t *testing.T, pid int) float64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return float64(kb) * 1024 / 1e6
		}
	}
	require.FailNow(t, "no VmRSS")
	return 0
}
