package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/warmtier/warmtier"
)

// formatVersion is the version of the directories that this build reads and writes.
const formatVersion = 2

// exportVersion is that of the streams (docs/format.md).
const exportVersion = 2

// buildVersion returns the version that this program was built from.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	version := buildVersion()
	return a.answer(map[string]any{"version": version, "go": runtime.Version(),
		"system": runtime.GOOS + "/" + runtime.GOARCH, "format": formatVersion, "export_format": exportVersion},
		[][]string{{"warmtier", version}, {"go", runtime.Version()},
			{"system", runtime.GOOS + "/" + runtime.GOARCH},
			{"directory format", strconv.Itoa(formatVersion)}, {"export format", strconv.Itoa(exportVersion)}})
}

type doctorCmd struct {
	Dir string `short:"d" env:"WARMTIER_DIR" placeholder:"DIR" default:"." help:"Directory of a store, or for one (${default})."`
}

func (doctorCmd) Help() string {
	return `Example:
  warmtier doctor -d data
Tries what a store needs with a small one below the directory, and removes it again. The store in the
directory itself is only looked at. Exit code 1 when something is missing.`
}

// check is one line of the doctor's report.
type check struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Value string `json:"value"`
}

func (c *doctorCmd) Run(a *app) error {
	c.Dir = cmp.Or(c.Dir, ".") // WARMTIER_DIR may be set to nothing
	if info, err := os.Stat(c.Dir); err != nil {
		return err
	} else if !info.IsDir() {
		return usage("%s is no directory", c.Dir)
	}
	checks := []check{
		{"system", true, runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version()},
		{"page size", true, showBytes(int64(os.Getpagesize()))},
	}
	checks = append(checks, systemChecks(c.Dir)...)
	checks = append(checks, tryStore(c.Dir), storeFormat(c.Dir))
	failed := 0
	table, faults := [][]string{}, [][]string{}
	for _, check := range checks {
		row := []string{"ok", check.Name, check.Value}
		if !check.OK {
			row[0] = "FAILED"
			faults = append(faults, row)
			failed++
		}
		table = append(table, row)
	}
	if err := a.report(map[string]any{"checks": checks}, table, faults); err != nil {
		return err
	}
	if failed > 0 {
		return finding("%s failed", counted(failed, "check"))
	}
	return nil
}

func failedCheck(name string, err error) check {
	return check{Name: name, Value: errorText(err)}
}

// tryStore tries a real store: it needs shared mappings, reserved space, locks and flushes.
func tryStore(dir string) check {
	const name = "mapping, locking, flushing"
	temp, err := os.MkdirTemp(dir, ".warmtier-doctor-*")
	if err != nil {
		return failedCheck(name, err)
	}
	err = useStore(temp)
	if err = errors.Join(err, os.RemoveAll(temp)); err != nil {
		return failedCheck(name, err)
	}
	return check{name, true, "a store was written, locked, flushed, closed and read again"}
}

func useStore(dir string) error {
	opts := unattended(warmtier.Options{SegmentSize: 64 << 10})
	for round := range 2 { // written, then read again
		s, err := warmtier.Open(dir, &opts)
		if err != nil {
			return err
		}
		if round == 0 {
			err = errors.Join(s.Put("id", []byte("content")), s.Sync())
			if second, err := warmtier.Open(dir, &opts); !errors.Is(err, warmtier.ErrLocked) {
				if err == nil {
					err = second.Close()
				}
				return errors.Join(about("a second process could open the directory", errors.ErrUnsupported),
					err, s.Close())
			}
		}
		content, getErr := s.Get("id")
		if getErr == nil && string(content) != "content" {
			getErr = fmt.Errorf("%w: read back as %q", warmtier.ErrCorrupt, content)
		}
		if err := errors.Join(err, getErr, s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// storeFormat reads the version in the manifest, which is there whether or not a store is open.
func storeFormat(dir string) check {
	const name = "format version"
	f, err := os.Open(filepath.Join(dir, "MANIFEST"))
	if errors.Is(err, os.ErrNotExist) {
		return check{name, true, fmt.Sprintf("no store here; this program writes version %d", formatVersion)}
	}
	if err != nil {
		return failedCheck(name, err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	var head [12]byte
	if _, err := io.ReadFull(f, head[:]); err != nil || string(head[:8]) != "WARMMAN\x00" {
		return check{Name: name, Value: "MANIFEST is damaged: see warmtier verify"}
	}
	version := uint32(head[8]) | uint32(head[9])<<8 | uint32(head[10])<<16 | uint32(head[11])<<24
	return check{name, version == formatVersion,
		fmt.Sprintf("%d; this program reads and writes %d", version, formatVersion)}
}
