package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// fileSystems by their magic numbers; on the last ones neither locks nor mappings are what they are
// elsewhere.
var fileSystems = map[int64]struct {
	name    string
	network bool
}{
	0xef53: {"ext4", false}, 0x58465342: {"xfs", false}, 0x9123683e: {"btrfs", false}, 0x2fc12fc1: {"zfs", false},
	0xf2f52010: {"f2fs", false}, 0x01021994: {"tmpfs", false}, 0x794c7630: {"overlayfs", false},
	0x6969: {"nfs", true}, 0xff534d42: {"cifs", true}, 0xfe534d42: {"smb2", true}, 0x01021997: {"9p", true},
	0x65735546: {"fuse", true}, 0x00c36400: {"ceph", true},
}

// systemChecks checks what the kernel says about dir, and about the limits of this process.
func systemChecks(dir string) (checks []check) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		checks = append(checks, failedCheck("file system", err))
	} else {
		kind, known := fileSystems[int64(uint32(fs.Type))]
		if !known {
			kind.name = fmt.Sprintf("of type %#x", uint32(fs.Type))
		}
		if kind.network {
			kind.name += ", which is not supported"
		}
		free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // of another type on 32-bit systems
		checks = append(checks, check{"file system", !kind.network, kind.name + ", " + showBytes(free) + " free"})
	}
	checks = append(checks, tryFallocate(dir), limit("open files", syscall.RLIMIT_NOFILE, 64),
		limit("address space", syscall.RLIMIT_AS, 1<<30), limit("size of a file", syscall.RLIMIT_FSIZE, 1<<30))
	for _, setting := range [][2]string{
		{"mappings of a process", "/proc/sys/vm/max_map_count"},
		{"transparent huge pages", "/sys/kernel/mm/transparent_hugepage/enabled"},
	} {
		if b, err := os.ReadFile(setting[1]); err == nil {
			checks = append(checks, check{setting[0], true, strings.TrimSpace(string(b))})
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
				checks = append(checks, check{"memory available", true, strings.TrimSpace(value)})
			}
		}
	}
	return checks
}

// tryFallocate asks for space as a segment does. Without it a full disk would be a fault, not an error.
func tryFallocate(dir string) check {
	const name = "fallocate"
	f, err := os.CreateTemp(dir, ".warmtier-doctor-*")
	if err != nil {
		return failedCheck(name, err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is empty or nearly so
	defer f.Close()           //nolint:errcheck // nothing was written
	err = syscall.EINTR       // by the signals the runtime preempts goroutines with
	for errors.Is(err, syscall.EINTR) {
		err = syscall.Fallocate(int(f.Fd()), 0, 0, 64<<10)
	}
	if err != nil {
		return check{name, true, "not here (" + err.Error() + "): space is reserved by writing zeros"}
	}
	return check{name, true, "space is reserved before it is used"}
}

// limit checks that a limit of the process (setrlimit) is enough.
func limit(name string, resource int, enough uint64) check {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(resource, &l); err != nil {
		return failedCheck(name, err)
	}
	if l.Cur == ^uint64(0) {
		return check{name, true, "no limit"}
	}
	return check{name, l.Cur >= enough, strconv.FormatUint(l.Cur, 10)}
}
