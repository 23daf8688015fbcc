package warmtierresp

import (
	"errors"
	"fmt"

	"github.com/warmtier/warmtier"
)

func (c *conn) get(args [][]byte) { c.read(string(args[1])) }

// read replies with the content of id, or null.
func (c *conn) read(id string) {
	err := c.server.store.View(id, c.withContent)
	switch {
	case err == nil:
	case errors.Is(err, warmtier.ErrNotFound):
		c.null()
	default:
		c.fail(err)
	}
}

// mget reads each of its keys at a moment of its own.
func (c *conn) mget(args [][]byte) {
	c.array(len(args) - 1)
	for _, arg := range args[1:] {
		c.read(string(arg))
		c.relieve()
	}
}

func (c *conn) strlen(args [][]byte) {
	n := 0
	err := c.server.store.View(string(args[1]), func(content []byte) error {
		n = len(content)
		return nil
	})
	if err != nil && !errors.Is(err, warmtier.ErrNotFound) {
		c.fail(err)
		return
	}
	c.integer(int64(n))
}

// condition is what SET asks of what is there.
type condition int

const (
	always   condition = iota
	ifAbsent           // NX
	ifThere            // XX
)

// setting is what SET was told.
type setting struct {
	condition condition
	life      life
	keep      bool // the deadline
	answer    bool // with what was there
}

func (c *conn) set(args [][]byte) {
	var s setting
	if err := s.parse(c, args[3:]); err != nil {
		c.fail(err)
		return
	}
	c.store(string(args[1]), args[2], s)
}

// parse reads the options of SET.
func (s *setting) parse(c *conn, options [][]byte) (err error) {
	var unit timeUnit // zero: none was given
	var length []byte
	for i := 0; i < len(options); i++ {
		name := string(c.lower(options[i]))
		switch {
		case name == "nx" && s.condition != ifThere:
			s.condition = ifAbsent
		case name == "xx" && s.condition != ifAbsent:
			s.condition = ifThere
		case name == "get":
			s.answer = true
		case name == "keepttl" && unit.ms == 0:
			s.keep = true
		case timeUnits[name].ms != 0 && unit.ms == 0 && !s.keep && i+1 < len(options):
			i++
			unit, length = timeUnits[name], options[i]
		default:
			return errSyntax
		}
	}
	if unit.ms != 0 {
		s.life, err = parseLife(unit, length, "set")
	}
	return err
}

// store does what SET and its kin do.
func (c *conn) store(id string, content []byte, s setting) {
	if s.condition == always && !s.keep && !s.answer {
		if err := c.server.put(id, content, s.life); err != nil {
			c.fail(err)
			return
		}
		c.ok()
		return
	}
	var before held
	err := c.server.change(id, func(h held) ([]byte, life, error) {
		before = h
		if s.condition == ifAbsent && h.exists() || s.condition == ifThere && !h.exists() {
			return nil, life{}, errNothing
		}
		l := s.life
		if s.keep {
			l.until = h.until
		}
		return content, l, nil
	})
	switch {
	case err != nil && !errors.Is(err, errNothing):
		c.fail(err)
	case s.answer && before.exists():
		c.bulk(before.content)
	case s.answer || err != nil:
		c.null()
	default:
		c.ok()
	}
}

func (c *conn) setnx(args [][]byte) {
	err := c.server.putIf(string(args[1]), args[2], life{}, 0)
	if err != nil && !errors.Is(err, warmtier.ErrChanged) {
		c.fail(err)
		return
	}
	c.flag(err == nil)
}

// setex is SETEX and PSETEX.
func (c *conn) setex(args [][]byte) {
	name := string(c.lower(args[0]))
	unit := timeUnits["ex"]
	if name == "psetex" {
		unit = timeUnits["px"]
	}
	l, err := parseLife(unit, args[2], name)
	if err != nil {
		c.fail(err)
		return
	}
	c.store(string(args[1]), args[3], setting{life: l})
}

func (c *conn) getset(args [][]byte) {
	c.store(string(args[1]), args[2], setting{answer: true})
}

func (c *conn) getdel(args [][]byte) {
	h, err := c.server.take(string(args[1]), func(held) bool { return false })
	c.replyWith(h, err)
}

// replyWith replies with the content of h.
func (c *conn) replyWith(h held, err error) {
	switch {
	case err != nil && !errors.Is(err, errNothing):
		c.fail(err)
	case h.exists():
		c.bulk(h.content)
	default:
		c.null()
	}
}

// getex changes how long a memory lives, and replies with its content.
func (c *conn) getex(args [][]byte) {
	var l life
	var wrong error // matters only where there is something
	id, options := string(args[1]), args[2:]
	switch {
	case len(options) == 0:
		c.read(id)
		return
	case len(options) == 1 && string(c.lower(options[0])) == "persist":
	case len(options) == 2 && timeUnits[string(c.lower(options[0]))].ms != 0:
		l, wrong = parseLife(timeUnits[string(c.lower(options[0]))], options[1], "getex")
	default:
		c.fail(errSyntax)
		return
	}
	var before held
	err := c.server.change(id, func(h held) ([]byte, life, error) {
		before = h
		switch {
		case h.exists() && wrong != nil:
			return nil, life{}, wrong
		case !h.exists(), l == (life{}) && h.until.IsZero():
			return nil, life{}, errNothing
		}
		return h.content, l, nil
	})
	c.replyWith(before, err)
}

// mset is MSET and MSETNX: all of its pairs or none.
func (c *conn) mset(args [][]byte) {
	name := string(c.lower(args[0]))
	pairs := args[1:]
	switch {
	case len(pairs)%2 != 0:
		c.error("ERR wrong number of arguments for '" + name + "' command")
		return
	case len(pairs)/2 > warmtier.MaxBatchLen:
		c.error(fmt.Sprintf("ERR %d keys at once: %s stores at most %d, all or none", len(pairs)/2, name,
			warmtier.MaxBatchLen))
		return
	}
	var b warmtier.Batch
	for i := 0; i < len(pairs); i += 2 {
		id := string(pairs[i])
		if name == "msetnx" {
			b.Check(id, 0)
		}
		b.Put(id, pairs[i+1])
	}
	switch err := c.server.store.Apply(&b); {
	case err != nil && !errors.Is(err, warmtier.ErrChanged):
		c.fail(err)
	case name == "msetnx":
		c.flag(err == nil)
	default:
		c.ok()
	}
}

// append replies with the new length.
func (c *conn) append(args [][]byte) {
	length := 0
	err := c.server.change(string(args[1]), func(h held) ([]byte, life, error) {
		content := append(h.content, args[2]...)
		length = len(content)
		return content, life{until: h.until}, nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.integer(int64(length))
}
