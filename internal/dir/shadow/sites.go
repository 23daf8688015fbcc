//go:build unix

package shadow

import (
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// Kind names a method of dir.FS or dir.File.
type Kind string

// The methods.
const (
	CallNames     Kind = "names"
	CallCreate    Kind = "create"
	CallOpen      Kind = "open"
	CallReadFile  Kind = "readFile"
	CallWriteFile Kind = "writeFile"
	CallSyncFile  Kind = "syncFile"
	CallRename    Kind = "rename"
	CallLink      Kind = "link"
	CallRemove    Kind = "remove"
	CallSyncDir   Kind = "syncDir"
	CallSync      Kind = "sync"
	CallClose     Kind = "close"
	CallWrite     Kind = "write"
	CallBeginSync Kind = "beginSync"
)

// opens reports whether a call of this kind needs a descriptor.
func (k Kind) opens() bool {
	switch k {
	case CallNames, CallCreate, CallOpen, CallReadFile, CallWriteFile, CallSyncFile:
		return true
	}
	return false
}

// Site is a place in the code under test that calls the file system: kind, function and line.
type Site struct {
	Kind Kind
	At   string
}

// Syncs reports whether the call makes something durable.
func (c Site) Syncs() bool {
	return c.Kind == CallSync || c.Kind == CallSyncFile || c.Kind == CallSyncDir
}

func (c Site) String() string { return string(c.Kind) + " in " + c.At }

// Sites are the places met by a directory and everything made from it.
type Sites struct {
	Skip Site // its syncs do nothing; set before the first call

	forwarders []string

	mu     sync.Mutex
	seen   map[Site]int
	recent int // calls for which a skipped one counts as recent
}

// NewSites returns an empty set. Forwarders are the ends of names of functions that pass calls on: a call
// through one of them counts for its caller.
func NewSites(forwarders ...string) *Sites {
	return &Sites{forwarders: forwarders, seen: map[Site]int{}}
}

// Seen returns how often each place was met.
func (sites *Sites) Seen() map[Site]int {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	return maps.Clone(sites.seen)
}

func (sites *Sites) note(c Site) (skipped bool) {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	sites.seen[c]++
	sites.recent--
	if c == sites.Skip {
		sites.recent = 8
	}
	return c == sites.Skip
}

// Tempting reports whether a sync was left out a moment ago: a crash would be revealing.
func (sites *Sites) Tempting() bool {
	sites.mu.Lock()
	defer sites.mu.Unlock()
	return sites.recent > 0
}

// caller returns the function and line of the code under test that called the file system.
func (sites *Sites) caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for {
		f, more := frames.Next()
		function := f.Function[strings.LastIndex(f.Function, "/")+1:]
		ours := strings.HasSuffix(f.File, "_test.go") || strings.HasPrefix(function, "shadow.") ||
			slices.ContainsFunc(sites.forwarders, func(name string) bool { return strings.HasSuffix(function, name) })
		if !ours || !more {
			return fmt.Sprintf("%s (%s:%d)", function, filepath.Base(f.File), f.Line)
		}
	}
}
