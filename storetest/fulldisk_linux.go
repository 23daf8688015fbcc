package storetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// fullDiskLosesNothing fills a small file system that a process of its own mounts, and that goes with it.
func fullDiskLosesNothing(e *env) error {
	c, err := e.start(job{Kind: jobDisk, Dir: e.dir}, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	})
	if err != nil {
		return skipError("no file system can be mounted: " + err.Error())
	}
	return c.finish(2*time.Minute, func(string) {})
}

// diskJob fills a file system until a write is refused. What was acknowledged must be there then, and in the store
// opened again when the file system has become larger.
func (s *suite) diskJob(j job) error {
	at := filepath.Join(j.Dir, "disk")
	mount := func(flags uintptr, size int64) error {
		return syscall.Mount("tmpfs", at, "tmpfs", flags, fmt.Sprintf("size=%d", size))
	}
	err := os.Mkdir(at, 0o700)
	if err == nil {
		err = syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	if err == nil {
		err = mount(0, s.DiskBytes)
	}
	if err != nil {
		return skipError("no file system can be mounted: " + err.Error())
	}
	e := &env{suite: s, dir: filepath.Join(at, "store")}
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return err
	}
	if err := e.open(); err != nil {
		return fmt.Errorf("on a file system of %d bytes: %w", s.DiskBytes, err)
	}
	least := min(4096, s.MaxContentLen/2)
	l := e.newLedger(int(4 * s.DiskBytes / int64(least)))
	l.sizes.least = least
	refused := e.fillDisk(l)
	if refused == nil {
		refused = errors.New("nothing, ever")
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("on a full disk, where a write was refused with %w: %w", refused, err)
	}
	_ = e.close() // what it could not write is no surprise
	if err := mount(syscall.MS_REMOUNT, 8*s.DiskBytes); err != nil {
		return err
	}
	if err := e.open(); err != nil {
		return fmt.Errorf("when the disk had room again after a write was refused with %w: %w", refused, err)
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("opened when the disk had room again after a write was refused with %w: %w", refused, err)
	}
	if err := l.fill(e.st, 1); err != nil {
		return fmt.Errorf("when the disk had room again: %w", err)
	}
	return errors.Join(l.check(e.st), e.close())
}

// fillDisk writes new ids, and replaces and deletes some old ones, until three writes in a row are refused.
func (e *env) fillDisk(l *ledger) error {
	var refused error
	for i, inARow := 0, 0; i < len(l.ids) && inARow < 3; i++ {
		which := i
		if i%4 == 3 {
			which = i / 2
		}
		err := guarded(func() error { return l.write(e.st, which) })
		if err == nil {
			inARow = 0
			continue
		}
		inARow++
		refused = err
	}
	return refused
}
