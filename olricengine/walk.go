package olricengine

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/olric-data/olric/pkg/storage"
)

// step is how many hash keys a walk takes at once. No lock is held while it passes them on.
const step = 256

// maxLook bounds the entries that one call of ScanRegexMatch looks at, however few match.
const maxLook = 1 << 16

// from returns up to n hash keys from first on, in their order.
func (e *Engine) from(first uint64, n int) []uint64 {
	hkeys := make([]uint64, 0, n)
	e.mu.RLock()
	defer e.mu.RUnlock()
	e.entries.Ascend(first, func(hkey uint64, _ stamp) bool {
		hkeys = append(hkeys, hkey)
		return len(hkeys) < n
	})
	return hkeys
}

// walk calls fn for every hash key from first on, until it returns false, and reports whether it
// never did.
func (e *Engine) walk(first uint64, fn func(hkey uint64) bool) bool {
	for {
		hkeys := e.from(first, step)
		for _, hkey := range hkeys {
			if !fn(hkey) {
				return false
			}
		}
		if len(hkeys) < step {
			return true
		}
		first = hkeys[len(hkeys)-1] + 1
		if first == 0 {
			return true
		}
	}
}

// RangeHKey calls f for the hash keys until it returns false. It begins anywhere, each time: Olric
// stops after twenty to find some that have expired, and would otherwise never see the others. With
// Options.Remember there are none for it: see there.
func (e *Engine) RangeHKey(f func(hkey uint64) bool) {
	if e.node.opts.Remember <= 0 {
		e.anywhere(f)
	}
}

// anywhere is walk over all hash keys, from a random one on.
func (e *Engine) anywhere(fn func(hkey uint64) bool) {
	first := rand.Uint64()
	if e.walk(first, fn) {
		e.walk(0, func(hkey uint64) bool { return hkey < first && fn(hkey) })
	}
}

// Range calls f for the entries, copies, until it returns false. It begins anywhere, as RangeHKey
// does. Entries that cannot be read are left out.
func (e *Engine) Range(f func(hkey uint64, entry storage.Entry) bool) {
	e.anywhere(func(hkey uint64) bool {
		en, _, err := e.read(hkey)
		return err != nil || en.tombstone || f(hkey, en)
	})
}

// Scan calls f for up to count entries, from the cursor on, until it returns false, and returns the
// cursor for the next call; 0 begins, and 0 ends. Entries come in the order of their hash keys, so
// each one that is there throughout is seen exactly once, whatever is written and compacted in
// between. With Options.Remember what has expired, and what Options.Deleted knows, is left out.
// Errors: those of the store.
func (e *Engine) Scan(cursor uint64, count int, f func(storage.Entry) bool) (uint64, error) {
	return e.scan(cursor, nil, count, f)
}

// ScanRegexMatch is Scan of the entries whose keys match. It may return fewer than count, with a
// cursor that is not 0. Errors: also those of regexp.Compile.
func (e *Engine) ScanRegexMatch(cursor uint64, match string, count int, f func(storage.Entry) bool) (uint64, error) {
	re, err := regexp.Compile(match)
	if err != nil {
		return 0, err
	}
	return e.scan(cursor, re, count, f)
}

func (e *Engine) scan(cursor uint64, match *regexp.Regexp, count int, f func(storage.Entry) bool) (uint64, error) {
	var (
		next    uint64 // 0 when the end was reached
		found   int
		looked  int
		failure error
	)
	count, now := max(count, 1), time.Now()
	e.walk(cursor, func(hkey uint64) bool {
		next = hkey // what was not passed on is seen again
		if found >= count || looked >= maxLook {
			return false
		}
		looked++
		en, _, err := e.read(hkey)
		switch {
		case errors.Is(err, storage.ErrKeyNotFound):
		case err != nil:
			failure = err
			return false
		case e.hidden(en, now) || match != nil && !match.MatchString(en.key):
		default:
			found++
			if !f(en) {
				next = hkey + 1
				return false
			}
		}
		next = 0
		return true
	})
	if failure != nil {
		return 0, failure
	}
	return next, nil
}

// hidden reports whether Scan leaves the entry out.
func (e *Engine) hidden(en *Entry, now time.Time) bool {
	return en.tombstone || e.node.deleted(en) || e.node.opts.Remember > 0 && en.expired(now)
}
