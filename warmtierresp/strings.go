package warmtierresp

import (
	"errors"
	"fmt"
	"slices"

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
		if len(arg) == 0 || len(arg) > warmtier.MaxIDLen { // nothing is there
			c.null()
		} else {
			c.read(string(arg))
		}
		if !c.relieve() {
			return
		}
	}
}

func (c *conn) strlen(args [][]byte) {
	n, err := c.server.length(string(args[1]))
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
	for {
		done, err := c.storeOnce(id, content, s)
		switch {
		case errors.Is(err, warmtier.ErrChanged):
			c.endWork()
		case err != nil:
			c.fail(err)
			return
		default:
			done()
			return
		}
	}
}

// storeOnce does what SET with options does, unless another write comes between: ErrChanged. It returns what is to be
// replied. Only where the content that is there is replied it is read, after the room for the reply was taken.
func (c *conn) storeOnce(id string, content []byte, s setting) (reply func(), err error) {
	var before held
	if s.answer {
		before, err = c.look(id, func(_ string, length int) error { return c.replyRoom(length) })
	} else if s.condition != ifAbsent {
		before.version, err = c.server.version(id)
	}
	if err != nil {
		return nil, err
	}
	reply = c.ok
	if s.answer {
		reply = func() { c.bulkOrNull(before) }
	}
	if s.condition == ifThere && !before.exists() || s.condition == ifAbsent && before.exists() {
		if !s.answer {
			reply = c.null
		}
		return reply, nil
	}
	l := s.life
	if s.keep && before.exists() {
		if l.until, err = c.server.store.Expiry(id); errors.Is(err, warmtier.ErrNotFound) {
			err = warmtier.ErrChanged
		}
		if err != nil {
			return nil, err
		}
	}
	err = c.server.putIf(id, content, l, before.version)
	if s.condition == ifAbsent && !s.answer && errors.Is(err, warmtier.ErrChanged) {
		return c.null, nil
	}
	return reply, err
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
	h, err := c.take(string(args[1]), func(held) {})
	c.replyWith(h, err)
}

// replyWith replies with the content of h.
func (c *conn) replyWith(h held, err error) {
	if err != nil {
		c.fail(err)
		return
	}
	c.bulkOrNull(h)
}

func (c *conn) bulkOrNull(h held) {
	if h.exists() {
		c.bulk(h.content)
	} else {
		c.null()
	}
}

// getex changes how long a memory lives, and replies with its content.
func (c *conn) getex(args [][]byte) {
	var l life
	var wrong error // matters only where there is something
	id, options := string(args[1]), args[2:]
	if len(options) == 0 {
		c.read(id)
		return
	}
	for first := string(c.lower(options[0])); len(options) > 0; { // the last one counts, of several of one kind
		unit, timed := timeUnits[first]
		if string(c.lower(options[0])) != first || !timed && first != "persist" || timed && len(options) == 1 {
			c.fail(errSyntax)
			return
		}
		options = options[1:]
		if timed {
			l, wrong = parseLife(unit, options[0], "getex")
			options = options[1:]
		}
	}
	var before held
	room := func(_ string, length int) error { return c.replyRoom(length) }
	err := c.change(id, room, func(h held) ([]byte, life, error) {
		before = h
		switch {
		case h.exists() && wrong != nil:
			return nil, life{}, wrong
		case !h.exists(), l == (life{}) && h.until.IsZero():
			return nil, life{}, errNothing
		}
		return h.content, l, nil
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
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
	room := func(_ string, length int) error {
		if limit := c.server.opts.MaxRequestBytes; length+len(args[2]) > limit {
			return tooLong(length+len(args[2]), limit)
		}
		return c.workRoom(length + len(args[2])) // for what is made
	}
	err := c.change(string(args[1]), room, func(h held) ([]byte, life, error) {
		content := slices.Concat(h.content, args[2])
		length = len(content)
		return content, life{until: h.until}, nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.integer(int64(length))
}
