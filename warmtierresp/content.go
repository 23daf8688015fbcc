package warmtierresp

import (
	"errors"
	"fmt"
	"time"

	"github.com/warmtier/warmtier"
)

/*
Commands that make a content of the one before it (INCR, APPEND, SET with NX) look, compute, and store on the
condition that the version is the one they have seen; when another write has come between they begin again. A version
is that of one write, so the deadline that is asked for behind the content belongs to it too, if the version is still
there when it is stored:

	INCR                            others
	GetVersion: "1", version 5
	                                SET "7" EX 10: version 6
	Expiry: in 10 s
	stores "2" if the version is 5
	refused, begins again

A deadline that is kept is stored as a moment. As a time that is left, computed again by each INCR, it would move.
*/

// held is what the store has for an id: version 0 if there is nothing.
type held struct {
	content []byte // the command's
	version warmtier.Version
	until   time.Time // zero: never
}

func (h held) exists() bool { return h.version != 0 }

// life is how long what is stored lives: for a time, until a moment, or, as its zero value, for ever.
type life struct {
	ttl   time.Duration
	until time.Time
}

// look returns what id has.
func (s *Server) look(id string) (held, error) {
	for {
		content, version, err := s.store.GetVersion(id)
		if errors.Is(err, warmtier.ErrNotFound) {
			return held{}, nil
		}
		if err != nil {
			return held{}, err
		}
		until, err := s.store.Expiry(id)
		if errors.Is(err, warmtier.ErrNotFound) {
			continue // deleted or expired since
		}
		return held{content, version, until}, err
	}
}

// change stores what fn makes of what id has, in one step. fn may be called several times; with errNothing it ends the
// command, and nothing changes.
func (s *Server) change(id string, fn func(h held) (content []byte, l life, err error)) error {
	for {
		h, err := s.look(id)
		if err != nil {
			return err
		}
		content, l, err := fn(h)
		if err != nil {
			return err
		}
		if len(content) > s.opts.MaxRequestBytes {
			return commandError(fmt.Sprintf("ERR string exceeds maximum allowed size (%d bytes, limit %d)",
				len(content), s.opts.MaxRequestBytes))
		}
		if err := s.putIf(id, content, l, h.version); !errors.Is(err, warmtier.ErrChanged) {
			return err
		}
	}
}

// put stores content, whatever is there.
func (s *Server) put(id string, content []byte, l life) error {
	switch {
	case l.ttl > 0:
		return s.store.PutTTL(id, content, l.ttl)
	case l.until.IsZero():
		return s.store.Put(id, content)
	default:
		var b warmtier.Batch
		b.PutUntil(id, content, l.until)
		return s.store.Apply(&b)
	}
}

// putIf stores content if the version of id is v, and is ErrChanged otherwise.
func (s *Server) putIf(id string, content []byte, l life, v warmtier.Version) error {
	if l == (life{}) {
		_, err := s.store.PutIf(id, content, v)
		return err
	}
	var b warmtier.Batch
	b.Check(id, v)
	if l.ttl > 0 {
		b.PutTTL(id, content, l.ttl)
	} else {
		b.PutUntil(id, content, l.until)
	}
	return s.store.Apply(&b)
}

// take deletes id, and returns what it had, in one step.
func (s *Server) take(id string, unless func(h held) bool) (held, error) {
	for {
		h, err := s.look(id)
		if err != nil || !h.exists() || unless(h) {
			return h, err
		}
		var b warmtier.Batch
		b.Check(id, h.version)
		b.Delete(id)
		if err := s.store.Apply(&b); !errors.Is(err, warmtier.ErrChanged) {
			return h, err
		}
	}
}
