package storetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// inspectDisk fills a small file system that a process of its own mounts, and that goes with it.
func (s *suite) inspectDisk(dir string) (*diskReport, error) {
	c, err := s.start(job{Kind: jobDisk, Dir: dir}, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
		}
	})
	if err != nil {
		return nil, skipError("no file system can be mounted: " + err.Error())
	}
	r := &diskReport{}
	err = c.finish(5*time.Minute, func(line string) {
		if text, ok := strings.CutPrefix(line, "crash "); ok {
			r.crash = text
		}
	})
	if skip := (skipError)(""); errors.As(err, &skip) {
		return nil, err
	}
	r.lost = err
	return r, nil
}

// diskJob has a process fill a small file system until a write is refused. What was acknowledged must be there then,
// and to another process when the file system has become larger.
func (s *suite) diskJob(j job, say func(string)) error {
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
	l := e.diskLedger()
	c, err := s.start(job{Kind: jobFill, Dir: j.Dir})
	if err != nil {
		return err
	}
	err = c.finish(2*time.Minute, func(line string) { _ = l.enter(line) })
	if crash := (*crashError)(nil); errors.As(err, &crash) || errors.Is(err, errHung) {
		say("crash " + err.Error())
	} else if err != nil {
		return err
	}
	if err := mount(syscall.MS_REMOUNT, 8*s.DiskBytes); err != nil {
		return err
	}
	if err := e.open(); err != nil {
		return fmt.Errorf("when the disk that was full had room again: %w", err)
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("when the disk that was full had room again: %w", err)
	}
	for i := range min(500, len(l.ids)) {
		if err := l.write(e.st, i); err != nil {
			return fmt.Errorf("when the disk that was full had room again: %w", err)
		}
	}
	return errors.Join(l.check(e.st), e.close())
}

// diskLedger returns one whose first versions take four times the file system.
func (e *env) diskLedger() *ledger {
	least := min(4096, e.MaxContentLen/2)
	l := e.newLedger(int(4 * e.DiskBytes / int64(least)))
	l.sizes.least = least
	return l
}

// fillJob fills the file system, and says what is begun and acknowledged.
func (s *suite) fillJob(j job, say func(string)) error {
	e := &env{suite: s, dir: filepath.Join(j.Dir, "disk", "store")}
	if err := e.open(); err != nil {
		return fmt.Errorf("on a file system of %d bytes: %w", s.DiskBytes, err)
	}
	l := e.diskLedger()
	refused := e.fillDisk(l, say)
	if refused == nil {
		refused = errors.New("nothing, ever")
	}
	if err := l.check(e.st); err != nil {
		return fmt.Errorf("on a full disk, where a write was refused with %w: %w", refused, err)
	}
	_ = e.close() // what it could not write is no surprise
	return nil
}

// fillDisk writes new ids, and replaces and deletes some old ones, until three writes in a row are refused.
func (e *env) fillDisk(l *ledger, say func(string)) (refused error) {
	for i, inARow := 0, 0; i < len(l.ids) && inARow < 3; i++ {
		which := i
		if i%4 == 3 {
			which = i / 2
		}
		say(fmt.Sprintf("s %d %d", which, l.of[which].started.Load()+1))
		if err := l.write(e.st, which); err != nil {
			inARow++
			refused = err
			continue
		}
		say(fmt.Sprintf("a %d %d", which, l.of[which].acked.Load()))
		inARow = 0
	}
	return refused
}
