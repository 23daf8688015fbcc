// Package memlimit says how much memory the process may still take. It knows nothing of stores.
package memlimit

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

/*
The answer is MemAvailable of the machine or what the control groups of the process leave, whichever
is less; MemAvailable knows nothing of control groups.

What a control group and each of its ancestors leave is limit - usage + reclaimable. Usage includes
the page cache; reclaimable is its clean part, which the kernel gives up without I/O (kernel
documentation, admin-guide/cgroup-v2, memory interface files; version 1 likewise). Where the files do
not exist, as on other systems, there is no answer and no bound.
*/

// unlimited is what a limit over 1 EiB counts as: version 1 writes "no limit" as a huge number.
const unlimited = int64(1) << 60

// Available returns the bytes the process may still take, from the files of the running system. ok is
// false when they say nothing. It costs tens to hundreds of microseconds, most of them the kernel's for
// the statistics of a control group.
func Available() (available int64, ok bool) {
	return availableFrom(os.ReadFile)
}

// availableFrom is Available over any set of files, read by absolute path.
func availableFrom(read func(name string) ([]byte, error)) (available int64, ok bool) {
	available = math.MaxInt64
	consider := func(v int64, found bool) {
		if found {
			available, ok = min(available, max(0, v)), true
		}
	}
	if b, err := read("/proc/meminfo"); err == nil {
		consider(meminfoAvailable(b))
	}
	groups, err := read("/proc/self/cgroup")
	if err != nil {
		return available, ok
	}
	mounts, err := read("/proc/self/mountinfo")
	if err != nil {
		return available, ok
	}
	for _, g := range memoryGroups(groups) {
		root, mountPoint, found := groupMount(mounts, g.v2)
		if !found {
			continue
		}
		// Inside a namespace the path may be relative to the mount's root.
		dir := path.Clean("/" + strings.TrimPrefix(g.path, strings.TrimSuffix(root, "/")))
		for {
			consider(groupAvailable(read, path.Join(mountPoint, dir), g.v2))
			if dir == "/" {
				break
			}
			dir = path.Dir(dir)
		}
	}
	return available, ok
}

// meminfoAvailable finds MemAvailable, given in kB, in /proc/meminfo.
func meminfoAvailable(meminfo []byte) (int64, bool) {
	kb, ok := field(meminfo, "MemAvailable:")
	if !ok || kb > math.MaxInt64/1024 {
		return 0, false
	}
	return kb * 1024, true
}

// memoryGroup is one line of /proc/self/cgroup that can bound memory.
type memoryGroup struct {
	path string
	v2   bool
}

// memoryGroups reads /proc/self/cgroup: lines "number:controllers:path", with no controllers for
// version 2.
func memoryGroups(b []byte) (groups []memoryGroup) {
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		v2 := parts[0] == "0" && parts[1] == ""
		if v2 || hasWord(parts[1], "memory") {
			groups = append(groups, memoryGroup{path: parts[2], v2: v2})
		}
	}
	return groups
}

// groupMount finds where the memory controller is mounted in /proc/self/mountinfo: "id parent
// device root mountpoint options [tags] - type source superoptions".
func groupMount(mounts []byte, v2 bool) (root, mountPoint string, ok bool) {
	for line := range strings.Lines(string(mounts)) {
		before, after, found := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !found || len(head) < 5 || len(tail) < 3 {
			continue
		}
		if v2 && tail[0] == "cgroup2" || !v2 && tail[0] == "cgroup" && hasWord(tail[2], "memory") {
			return head[3], head[4], true
		}
	}
	return "", "", false
}

// groupAvailable reads the limit and the usage of the group at dir; found is false without a limit.
func groupAvailable(read func(string) ([]byte, error), dir string, v2 bool) (available int64, found bool) {
	value := func(name string) (int64, bool) {
		b, err := read(path.Join(dir, name))
		if err != nil {
			return 0, false
		}
		v, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
		return v, err == nil && v >= 0 && v < unlimited // "max" is no number: no limit
	}
	stat, _ := read(path.Join(dir, "memory.stat"))
	sum := func(names ...string) (total int64) {
		for _, name := range names {
			v, _ := field(stat, name)
			total += v
		}
		return total
	}
	limit := int64(math.MaxInt64)
	consider := func(v int64, ok bool) {
		if ok {
			limit, found = min(limit, v), true
		}
	}
	var usage, reclaimable int64
	if v2 {
		consider(value("memory.max"))
		consider(value("memory.high"))
		usage, _ = value("memory.current")
		reclaimable = sum("inactive_file", "active_file") - sum("file_dirty", "file_writeback")
	} else {
		consider(value("memory.limit_in_bytes"))
		usage, _ = value("memory.usage_in_bytes")
		reclaimable = sum("total_inactive_file", "total_active_file") -
			sum("total_dirty", "total_writeback")
	}
	return limit - usage + max(0, reclaimable), found
}

// field returns the number behind name, the first word of a line.
func field(b []byte, name string) (int64, bool) {
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) >= 2 && words[0] == name {
			v, err := strconv.ParseInt(words[1], 10, 64)
			return v, err == nil && v >= 0
		}
	}
	return 0, false
}

// hasWord reports whether list, words parted by commas, has word.
func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}
