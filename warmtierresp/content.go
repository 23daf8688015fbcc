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

// noVersion is that of no memory.
const noVersion = ^warmtier.Version(0)

// life is how long what is stored lives: for a time, until a moment, or, as its zero value, for ever.
type life struct {
	ttl   time.Duration
	until time.Time
}

// check looks at what id has before its content is copied, length bytes, and may end the command.
type check func(id string, length int) error

// atMost ends a command with err for a content of more than n bytes.
func atMost(n int, err error) check {
	return func(_ string, length int) error {
		if length > n {
			return err
		}
		return nil
	}
}

// expiring checks the deadline of what is there.
func (c *conn) expiring(allows func(until time.Time) bool) check {
	return func(id string, _ int) error {
		until, err := c.server.store.Expiry(id)
		if err == nil && !allows(until) || errors.Is(err, warmtier.ErrNotFound) {
			return errNothing
		}
		return err
	}
}

// look returns what id has, after first has let it. The room for the content is taken before it is copied.
func (c *conn) look(id string, first check) (held, error) {
	store, taken := c.server.store, 0
	for {
		length, err := c.server.length(id)
		if errors.Is(err, warmtier.ErrNotFound) {
			return held{}, nil
		}
		if err == nil {
			err = first(id, length)
		}
		if err == nil && length > taken {
			err, taken = c.workRoom(length-taken), length
		}
		if err != nil {
			return held{}, err
		}
		content, version, err := store.GetVersion(id)
		if errors.Is(err, warmtier.ErrNotFound) || err == nil && len(content) > taken {
			continue // deleted, expired or longer since
		}
		if err != nil {
			return held{}, err
		}
		until, err := store.Expiry(id)
		if errors.Is(err, warmtier.ErrNotFound) {
			continue // deleted or expired since
		}
		return held{content, version, until}, err
	}
}

// length returns the length of the content of id.
func (s *Server) length(id string) (n int, err error) {
	err = s.store.View(id, func(content []byte) error {
		n = len(content)
		return nil
	})
	return n, err
}

// version returns the version of id, 0 if there is nothing, without a copy of its content: by a PutIf that is refused,
// for which no room is made.
func (s *Server) version(id string) (warmtier.Version, error) {
	v, err := s.store.PutIf(id, nil, noVersion)
	if errors.Is(err, warmtier.ErrChanged) {
		return v, nil
	}
	return 0, err
}

// change stores what fn makes of what id has, in one step. fn may be called several times; with errNothing it ends the
// command, and nothing changes. So does first.
func (c *conn) change(id string, first check, fn func(h held) (content []byte, l life, err error)) error {
	s := c.server
	for {
		h, err := c.look(id, first)
		if err != nil {
			return err
		}
		content, l, err := fn(h)
		if err != nil {
			return err
		}
		if len(content) > s.opts.MaxRequestBytes {
			return tooLong(len(content), s.opts.MaxRequestBytes)
		}
		if err := s.putIf(id, content, l, h.version); !errors.Is(err, warmtier.ErrChanged) {
			return err
		}
		c.endWork()
	}
}

func tooLong(n, limit int) error {
	return commandError(fmt.Sprintf("ERR string exceeds maximum allowed size (%d bytes, limit %d)", n, limit))
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

// take deletes id, and returns what it had, in one step. It takes the room for a reply with
// it. between is called before it deletes.
func (c *conn) take(id string, between func(h held)) (held, error) {
	for {
		h, err := c.look(id, func(_ string, length int) error { return c.replyRoom(length) })
		if err != nil || !h.exists() {
			return h, err
		}
		between(h)
		err = c.server.deleteIf(id, h.version)
		if !errors.Is(err, warmtier.ErrChanged) {
			return h, err
		}
		c.endWork()
	}
}

// deleteIf deletes id if its version is v, and is ErrChanged otherwise.
func (s *Server) deleteIf(id string, v warmtier.Version) error {
	var b warmtier.Batch
	b.Check(id, v)
	b.Delete(id)
	return s.store.Apply(&b)
}
