package memlimit

import (
	"io/fs"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	testMeminfo = "MemTotal:       24565760 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n" +
		"Buffers:          100000 kB\n"
	machineAvailable = int64(8_000_000 * 1024)

	mountsV2 = "24 30 0:22 / /proc rw,nosuid - proc proc rw\n" +
		"35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	mountsV1 = "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:4 - tmpfs tmpfs ro,mode=755\n" +
		"31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid shared:6 - cgroup cgroup rw,memory\n"
)

// Goal: the memory a process may take is read right from the files of Linux, whatever they hold.
// Method: file systems as maps, with figures worked out by hand.
func TestAvailable_Golden(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64 // negative: no answer
	}{
		{"no files at all", nil, -1},
		{"machine alone", map[string]string{"/proc/meminfo": testMeminfo}, machineAvailable},
		{"machine without MemAvailable", map[string]string{"/proc/meminfo": "MemTotal: 100 kB\n"}, -1},
		{"garbage in meminfo", map[string]string{"/proc/meminfo": "MemAvailable: lots kB\n"}, -1},
		{"negative figure in meminfo", map[string]string{"/proc/meminfo": "MemAvailable: -5 kB\n"}, -1},
		{"figure that overflows", map[string]string{"/proc/meminfo": "MemAvailable: 9223372036854775807 kB\n"}, -1},
		{"empty meminfo", map[string]string{"/proc/meminfo": ""}, -1},
		{"groups without mounts", map[string]string{
			"/proc/meminfo": testMeminfo, "/proc/self/cgroup": "0::/\n"}, machineAvailable},
		{"version 2, limit and usage", map[string]string{
			"/proc/meminfo":                     testMeminfo,
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "1000000\n",
			"/sys/fs/cgroup/app/memory.current": "300000\n",
		}, 700_000},
		{"version 2, clean page cache counts as available", map[string]string{
			"/proc/meminfo":                     testMeminfo,
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "1000000\n",
			"/sys/fs/cgroup/app/memory.current": "900000\n",
			"/sys/fs/cgroup/app/memory.stat": "anon 500000\nfile 400000\nfile_dirty 50000\nfile_writeback 10000\n" +
				"inactive_file 300000\nactive_file 100000\n",
		}, 100_000 + 400_000 - 60_000},
		{"version 2, dirty cache alone adds nothing", map[string]string{
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "1000000\n",
			"/sys/fs/cgroup/app/memory.current": "900000\n",
			"/sys/fs/cgroup/app/memory.stat":    "inactive_file 1000\nactive_file 1000\nfile_dirty 50000\nfile_writeback 0\n",
		}, 100_000},
		{"version 2, high under max", map[string]string{
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "1000000\n",
			"/sys/fs/cgroup/app/memory.high":    "800000\n",
			"/sys/fs/cgroup/app/memory.current": "300000\n",
		}, 500_000},
		{"version 2, no limit", map[string]string{
			"/proc/meminfo":                     testMeminfo,
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "max\n",
			"/sys/fs/cgroup/app/memory.high":    "max\n",
			"/sys/fs/cgroup/app/memory.current": "300000\n",
		}, machineAvailable},
		{"version 2, a limit without any machine figure", map[string]string{
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "5000\n",
			"/sys/fs/cgroup/app/memory.current": "1000\n",
		}, 4000},
		{"version 2, parent tighter than child", map[string]string{
			"/proc/meminfo":                          testMeminfo,
			"/proc/self/cgroup":                      "0::/top/mid/leaf\n",
			"/proc/self/mountinfo":                   mountsV2,
			"/sys/fs/cgroup/top/memory.max":          "900000\n",
			"/sys/fs/cgroup/top/memory.current":      "850000\n",
			"/sys/fs/cgroup/top/mid/memory.max":      "max\n",
			"/sys/fs/cgroup/top/mid/leaf/memory.max": "800000\n",
		}, 50_000},
		{"version 2, child tighter than parent", map[string]string{
			"/proc/self/cgroup":                      "0::/top/leaf\n",
			"/proc/self/mountinfo":                   mountsV2,
			"/sys/fs/cgroup/top/memory.max":          "900000\n",
			"/sys/fs/cgroup/top/memory.current":      "100000\n",
			"/sys/fs/cgroup/top/leaf/memory.max":     "50000\n",
			"/sys/fs/cgroup/top/leaf/memory.current": "20000\n",
		}, 30_000},
		{"version 2, inside a container's namespace", map[string]string{
			"/proc/self/cgroup":             "0::/\n",
			"/proc/self/mountinfo":          strings.Replace(mountsV2, "0:30 / ", "0:30 /docker/abc ", 1),
			"/sys/fs/cgroup/memory.max":     "70000\n",
			"/sys/fs/cgroup/memory.current": "10000\n",
		}, 60_000},
		{"version 2, mount of a group below the root", map[string]string{
			"/proc/self/cgroup":               "0::/docker/abc/inner\n",
			"/proc/self/mountinfo":            strings.Replace(mountsV2, "0:30 / ", "0:30 /docker/abc ", 1),
			"/sys/fs/cgroup/memory.max":       "70000\n",
			"/sys/fs/cgroup/memory.current":   "10000\n",
			"/sys/fs/cgroup/inner/memory.max": "40000\n",
		}, 40_000},
		{"version 2, usage over the limit", map[string]string{
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "1000\n",
			"/sys/fs/cgroup/app/memory.current": "5000\n",
		}, 0},
		{"version 2, garbage in every file", map[string]string{
			"/proc/meminfo":                     testMeminfo,
			"/proc/self/cgroup":                 "0::/app\n",
			"/proc/self/mountinfo":              mountsV2,
			"/sys/fs/cgroup/app/memory.max":     "\x00\xff nonsense",
			"/sys/fs/cgroup/app/memory.current": "-1",
			"/sys/fs/cgroup/app/memory.stat":    "inactive_file\n\n\xff 7 7\n",
		}, machineAvailable},
		{"garbage in groups and mounts", map[string]string{
			"/proc/meminfo":        testMeminfo,
			"/proc/self/cgroup":    "0:/\n::\nmemory\n\xff\n0::/app",
			"/proc/self/mountinfo": "1 2 3\n- - -\n35 24 0:30 / - cgroup2\n\n",
		}, machineAvailable},
		{"version 1, limit and usage", map[string]string{
			"/proc/meminfo":        testMeminfo,
			"/proc/self/cgroup":    "5:cpu,cpuacct:/elsewhere\n4:memory:/app\n",
			"/proc/self/mountinfo": mountsV1,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "1000000\n",
			"/sys/fs/cgroup/memory/app/memory.usage_in_bytes": "400000\n",
			"/sys/fs/cgroup/memory/app/memory.stat": "cache 1\ninactive_file 9\ntotal_inactive_file 50000\n" +
				"total_active_file 20000\ntotal_dirty 5000\ntotal_writeback 0\n",
		}, 600_000 + 65_000},
		{"version 1, no limit is a huge number", map[string]string{
			"/proc/meminfo":        testMeminfo,
			"/proc/self/cgroup":    "4:memory:/app\n",
			"/proc/self/mountinfo": mountsV1,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712\n",
			"/sys/fs/cgroup/memory/app/memory.usage_in_bytes": "400000\n",
		}, machineAvailable},
		{"version 1, no limit and no machine figure", map[string]string{
			"/proc/self/cgroup":                               "4:memory:/app\n",
			"/proc/self/mountinfo":                            mountsV1,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "9223372036854771712\n",
		}, -1},
		{"version 1, memory bound at the root of the mount", map[string]string{
			"/proc/self/cgroup":                           "4:memory:/app/sub\n",
			"/proc/self/mountinfo":                        mountsV1,
			"/sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n",
		}, 4096},
		{"both versions, version 1 holds the memory controller", map[string]string{
			"/proc/self/cgroup":                               "4:memory:/app\n0::/unified\n",
			"/proc/self/mountinfo":                            mountsV1 + mountsV2,
			"/sys/fs/cgroup/memory/app/memory.limit_in_bytes": "123456\n",
			"/sys/fs/cgroup/memory/app/memory.usage_in_bytes": "456\n",
		}, 123_000},
		{"machine has less than the group allows", map[string]string{
			"/proc/meminfo":                 "MemAvailable: 10 kB\n",
			"/proc/self/cgroup":             "0::/app\n",
			"/proc/self/mountinfo":          mountsV2,
			"/sys/fs/cgroup/app/memory.max": "1000000\n",
		}, 10_240},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := availableFrom(func(name string) ([]byte, error) {
				if content, found := c.files[name]; found {
					return []byte(content), nil
				}
				return nil, fs.ErrNotExist
			})
			if c.want < 0 {
				require.False(t, ok)
				return
			}
			require.True(t, ok)
			require.Equal(t, c.want, got)
		})
	}
}

// Goal: on the machine the test runs on, the answer is plausible: positive and finite, or none.
func TestAvailable_ThisMachine(t *testing.T) {
	got, ok := Available()
	if ok {
		require.Positive(t, got)
		require.Less(t, got, int64(math.MaxInt64))
	}
}
