package olricengine

import (
	"cmp"
	"errors"
	"time"

	"github.com/warmtier/warmtier"
)

// sooner returns the earlier of two times, of which 0 is never.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Expire removes what has expired by now from all forks of the node. With Options.Remember the
// timestamps are kept as long, in tombstones, and removed then. Forks in which nothing can have
// expired are not looked at; of the others all entries are read. It returns how many entries and
// tombstones were removed. One that cannot be read or removed stays, and keeps no other from being
// removed. What is left of destroyed forks is removed too, and does not count. Errors: the first of
// those, of the store or [ErrFormat].
func (e *Engine) Expire(now time.Time) (int, error) {
	var (
		removed int
		failure error
	)
	e.node.finishDestroyed()
	for _, fork := range e.node.liveForks() {
		n, err := fork.expire(now)
		removed += n
		failure = cmp.Or(failure, err)
	}
	return removed, failure
}

func (e *Engine) expire(now time.Time) (removed int, failure error) {
	e.mu.Lock()
	due := e.soonest != 0 && e.soonest <= now.UnixMilli()
	if due {
		e.soonest = 0 // what is written from here on counts by itself, and the rest is met below
	}
	e.mu.Unlock()
	if !due {
		return 0, nil
	}
	e.walk(0, func(hkey uint64) bool {
		gone, err := e.expireOne(hkey, now)
		if gone {
			removed++
		}
		failure = cmp.Or(failure, err)
		return true
	})
	if failure != nil {
		e.mu.Lock()
		e.soonest = sooner(e.soonest, now.UnixMilli()) // to be tried again
		e.mu.Unlock()
	}
	return removed, failure
}

// expireOne removes the entry if its time is over.
func (e *Engine) expireOne(hkey uint64, now time.Time) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.entries.Get(hkey); !ok {
		return false, nil
	}
	en, err := e.load(hkey)
	if err != nil {
		return false, e.fail(err)
	}
	if !en.expired(now) {
		e.soonest = sooner(e.soonest, en.ttl)
		return false, nil
	}
	if e.node.opts.Remember > 0 && !en.tombstone && !e.node.deleted(en) {
		stone := &Entry{
			key: en.key, timestamp: en.timestamp, tombstone: true,
			ttl: now.Add(e.node.opts.Remember).UnixMilli(),
		}
		// A store that is full has no room for it, and would stay full: the entry must go without.
		if err = e.writeLocked(hkey, stone, stone.Encode()); !errors.Is(err, warmtier.ErrNoSpace) {
			return err == nil, err
		}
	}
	return true, e.removeLocked(hkey)
}

// deleted reports whether the entry is a marker of the program.
func (n *node) deleted(en *Entry) bool {
	return n.opts.Deleted != nil && !en.tombstone && n.opts.Deleted(en.value)
}
