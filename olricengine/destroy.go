package olricengine

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// A fork is destroyed entry by entry, and that can fail or be killed halfway. What is left must not be taken for
// entries by the next life of the node, which would offer them. So a note is stored first, and removed last: its id is
// the number of the fork alone. A store in memory has no next life, and needs none.

const noteSize = 8

// note returns the id of the note that the fork is destroyed.
func (e *Engine) note() string {
	var id [noteSize]byte
	binary.BigEndian.PutUint64(id[:], e.number)
	return string(id[:])
}

// parseNote is the reverse of note. It reports false for an id that is not a note's.
func parseNote(id string) (number uint64, ok bool) {
	if len(id) != noteSize {
		return 0, false
	}
	return binary.BigEndian.Uint64([]byte(id)), true
}

// Destroy removes all entries of the fork, which has none and takes no writes from then on, also after an error: what
// could not be removed then is removed when Destroy is called again, as Olric does for a fragment that is empty, or
// by the next [New] over the store. Errors: [ErrRefused], and that of the store when it has no room for a note of the
// destruction: the fork is as before then; those of the store.
func (e *Engine) Destroy() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.destroyed {
		if err := e.noteLocked(); err != nil {
			return err
		}
		e.hideLocked()
	}
	if err := e.wipeLocked(); err != nil {
		return err
	}
	e.node.mu.Lock()
	delete(e.node.forks, e.number)
	e.node.mu.Unlock()
	return nil
}

// noteLocked writes down that the fork is destroyed. REQUIRES: e.mu held.
func (e *Engine) noteLocked() error {
	if e.entries.Len() == 0 {
		return nil
	}
	if e.node.opts.Remember > 0 {
		return fmt.Errorf("%w: a node that was away would bring back what is destroyed", ErrRefused)
	}
	if !e.node.files {
		return nil
	}
	if err := e.node.store.Put(e.note(), nil); err != nil {
		return e.fail(err)
	}
	e.noted = true
	return nil
}

// hideLocked makes the fork a destroyed one. REQUIRES: e.mu held.
func (e *Engine) hideLocked() {
	e.destroyed = true
	e.left = e.entries.Keys()
	e.entries = newEntrySet()
	e.bytes, e.soonest = 0, 0
}

// wipeLocked removes what is left of a destroyed fork. REQUIRES: e.mu held.
func (e *Engine) wipeLocked() (failure error) {
	var left []uint64
	for _, hkey := range e.left {
		if err := e.node.remove(e.id(hkey)); err != nil {
			left = append(left, hkey)
			failure = cmp.Or(failure, err)
		}
	}
	e.left = left
	if failure == nil && e.noted {
		if failure = e.node.remove(e.note()); failure == nil {
			e.noted = false
		}
	}
	if failure != nil {
		return e.fail(failure)
	}
	return nil
}

// finishDestroyed removes what earlier lives of the node have destroyed. What cannot be removed is tried again by the
// next call.
func (n *node) finishDestroyed() {
	n.mu.Lock()
	destroyed := n.destroyed
	n.destroyed = nil
	n.mu.Unlock()
	for _, fork := range destroyed {
		fork.mu.Lock()
		err := fork.wipeLocked()
		fork.mu.Unlock()
		if err != nil {
			n.mu.Lock()
			n.destroyed = append(n.destroyed, fork)
			n.mu.Unlock()
		}
	}
}
